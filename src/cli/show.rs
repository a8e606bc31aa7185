//! `siglip-server config`.

use clap::{Args, ValueEnum};

use crate::config::{Effective, document};

/// What to print of the configuration.
#[derive(Debug, Args)]
pub(super) struct Show {
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Print a config file with every default, commented out, instead
    #[arg(long, conflicts_with_all = ["format", "markdown"])]
    defaults: bool,
    /// Print the reference of all options instead
    #[arg(long, conflicts_with = "format")]
    markdown: bool,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Format {
    /// A config file, the origin of each value in a comment
    #[default]
    Toml,
    /// An object a section, each value with its origin
    Json,
}

impl Show {
    pub(super) fn run(&self, effective: &Effective) -> anyhow::Result<()> {
        let text = match self.format {
            _ if self.defaults => document::commented_defaults(),
            _ if self.markdown => document::markdown(),
            Format::Toml => document::effective_toml(effective),
            Format::Json => format!("{:#}\n", document::effective_json(effective)),
        };
        super::print(&text)
    }
}
