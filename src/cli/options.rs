//! The options of the configuration as flags: made from its table, so that none is written twice.

use std::{path::PathBuf, sync::LazyLock};

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};

use crate::config::{
    Config, Effective, Sources,
    load::{CONFIG_ENV, Problems},
    options::{OPTIONS, Spec},
};

/// The flags given, as text: the configuration reads them like any other source, so that a bad value is
/// named the same way wherever it stands.
#[derive(Debug, Default)]
pub(super) struct Options {
    file: Option<PathBuf>,
    flags: Vec<(String, String)>,
}

impl Options {
    /// Puts a source in the place of every `--model`, where one is given.
    pub(super) fn set_model(&mut self, source: Option<&str>) {
        if let Some(source) = source {
            self.flags.retain(|(flag, _)| flag != "model");
            self.flags.push(("model".to_owned(), source.to_owned()));
        }
    }

    /// The configuration in force for this process.
    pub(super) fn load(self) -> Result<Effective, Problems> {
        let env = std::env::vars_os().collect();
        Effective::load(&Sources { file: self.file, env, flags: self.flags })
    }
}

/// An option as a flag, with its default and its variable in the help.
pub(super) fn flag(option: &'static Spec) -> Arg {
    let default = DEFAULTS.text(option).map(|text| format!(" [default: {text}]"));
    let default = default.unwrap_or_default();
    // A list's flag may be repeated; of any other, the second is a mistake.
    let action = if option.list { ArgAction::Append } else { ArgAction::Set };
    let arg = Arg::new(&*option.flag)
        .action(action)
        .long(&*option.flag)
        .value_name(option.placeholder)
        .help(format!("{}{default} [env: {}]", option.doc, option.env))
        .help_heading(option.section)
        // The short help shows what one sets most; `--help` shows all.
        .hide_short_help(!option.main)
        .global(true);
    // With `=`, so that the word behind a switch that stands alone is never taken for its value.
    let alone = |arg: Arg| arg.num_args(0..=1).require_equals(true).default_missing_value("true");
    if option.switch { alone(arg) } else { arg }
}

static DEFAULTS: LazyLock<Config> = LazyLock::new(Config::default);

impl Args for Options {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .global(true)
            .help(format!("Read this config file (TOML) [env: {CONFIG_ENV}]"));
        OPTIONS.iter().fold(command.arg(file), |command, option| command.arg(flag(option)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Options {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut options = Self::default();
        options.update_from_arg_matches(matches)?;
        Ok(options)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.file = matches.get_one("config").cloned();
        self.flags = OPTIONS
            .iter()
            .flat_map(|option| {
                let texts = matches.get_many::<String>(&option.flag).unwrap_or_default();
                texts.map(|text| (option.flag.clone(), text.clone()))
            })
            .collect();
        Ok(())
    }
}
