//! What the help of each command shows: its own options, and examples.

use clap::{Command, CommandFactory as _};

use super::{Cli, options::flag};
use crate::config::options::{OPTIONS, Spec};

/// The command line with the help of every command.
pub(super) fn command() -> Command {
    let mut command = Cli::command().after_help(EXAMPLES);
    let names: Vec<_> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for name in names.iter().filter(|name| *name != "serve") {
        command = command.mut_subcommand(name, |sub| {
            let own = OPTIONS.iter().map(|option| flag(option).hide(!is_of(name, option)));
            own.fold(sub, Command::arg).after_help(examples(name))
        });
    }
    command
}

/// Whether an option changes what a command does. All are taken everywhere, so that one set of variables or one file
/// does for all commands.
fn is_of(command: &str, option: &Spec) -> bool {
    let path = option.path();
    let is_one_of = |paths: &[&str]| paths.contains(&path.as_str());
    match command {
        "download" => option.section == "log" || is_one_of(&["model.source", "model.revision"]),
        "healthcheck" => is_one_of(&["listen.http", "listen.admin", "tls.cert_file"]),
        "embed" | "search" | "classify" | "score" | "eval" | "check" => {
            ["model", "log"].contains(&option.section)
                || is_one_of(&[
                    "batch.max_image_rows",
                    "batch.max_text_rows",
                    "limits.max_text_bytes",
                    "limits.max_image_bytes",
                    "limits.max_image_pixels",
                    "limits.max_decode_bytes",
                ])
        }
        _ => false,
    }
}

const EXAMPLES: &str = "\
Examples:
  siglip-server                                          the embedded demo on 127.0.0.1:8080
  siglip-server --model google/siglip2-base-patch16-224  a model of the hub, downloaded once
  siglip-server --listen 0.0.0.0:8080 --api-keys keys.toml
  SIGLIP_DTYPE=bf16 SIGLIP_THREADS=8 siglip-server --model ./my-checkpoint
  siglip-server config --defaults > siglip.toml          a config file to start from";

fn examples(command: &str) -> &'static str {
    match command {
        "download" => {
            "\
Examples:
  siglip-server download google/siglip2-base-patch16-224
  siglip-server download google/siglip-base-patch16-224 --revision main
  siglip-server download                    the models of --model, SIGLIP_MODEL or the config file

HF_HOME, HF_TOKEN, HF_HUB_OFFLINE and others are read as well: docs/operations.md lists them."
        }
        "models" => {
            "\
It needs no network: HF_HOME and HF_HUB_CACHE name the cache.

Examples:
  siglip-server models
  siglip-server models --json"
        }
        "config" => {
            "\
Every option of `siglip-server serve --help` is taken, and shown with its origin.

Examples:
  siglip-server config                                   what is in force, as a file that can be used again
  SIGLIP_LISTEN=0.0.0.0:80 siglip-server config --format json
  siglip-server config --defaults > siglip.toml          a file to start from"
        }
        "openapi" => "Example:\n  siglip-server openapi > openapi.yaml",
        "healthcheck" => {
            "\
It asks where a server of the same configuration listens: at the admin listener if there is one.

Examples:
  siglip-server healthcheck
  siglip-server healthcheck --listen 127.0.0.1:9000"
        }
        "embed" => {
            "\
Examples:
  siglip-server embed photos/*.jpg > vectors.jsonl
  siglip-server embed photos/ shard-*.tar --out vectors.npy
  siglip-server embed train-*.parquet --image-column image --id-column key --out vectors.parquet
  siglip-server embed films/*.mp4 paper.pdf --video-every 5s --out vectors.npy
  siglip-server embed --model google/siglip2-base-patch16-224 --text 'a cat' --text 'a dog'"
        }
        "score" => "Example:\n  siglip-server score cat.png dog.png --text 'a cat' --text 'a dog'",
        "search" => {
            "\
Examples:
  siglip-server embed photos/ --out photos.npy
  siglip-server search photos.npy 'a cat on a sofa'
  siglip-server search photos.npy query.jpg --top-k 50 --html found.html"
        }
        "classify" => "Example:\n  siglip-server classify photos/*.jpg --label cat --label dog --min-probability 0.2",
        "check" => {
            "\
Examples:
  siglip-server check google/siglip2-base-patch16-224
  siglip-server check ./my-checkpoint --dtypes bf16 --threads 8 --seconds 10"
        }
        "bench" => {
            "\
Examples:
  siglip-server bench --rate 50 --seconds 30 --image photo.jpg
  siglip-server bench http://10.0.0.7:8080 --rate 10,20,40,80 --text 'a cat' --distinct --svg times.svg"
        }
        "eval" => {
            "\
Examples:
  siglip-server eval photos/                 photos/cat/1.jpg, photos/dog/2.jpg, ...
  siglip-server eval photos/ --prompt 'a photo of a {label}' --prompt 'a drawing of a {label}' --json
  siglip-server eval captions.parquet        the columns `image` and `caption`, or `image` and `label`
  siglip-server eval captions.csv --precision 0.9 --report report.html"
        }
        "completions" => {
            "\
Examples:
  siglip-server completions bash > ~/.local/share/bash-completion/completions/siglip-server
  siglip-server completions zsh > ~/.zfunc/_siglip-server
  siglip-server completions fish > ~/.config/fish/completions/siglip-server.fish"
        }
        "man" => {
            "\
Examples:
  siglip-server man | man -l -
  siglip-server man --dir ~/.local/share/man/man1        a page for each command"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_shows_its_own_options() {
        let command = command();
        command.clone().debug_assert();
        for (name, shown) in [
            ("healthcheck", vec!["admin-listen", "listen", "tls-cert"]),
            ("download", vec!["log-filter", "log-format", "model", "revision"]),
            ("openapi", vec![]),
            ("config", vec!["defaults", "format", "markdown"]),
        ] {
            let sub = command.find_subcommand(name).expect(name);
            let mut flags: Vec<_> = sub
                .get_arguments()
                .filter(|arg| !arg.is_hide_set())
                .filter_map(clap::Arg::get_long)
                .collect();
            flags.sort_unstable();
            assert_eq!(flags, shown, "{name}");
        }
        // Whatever a new command is called, its help has an example.
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "serve") {
            let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("siglip-server "), "{}", sub.get_name());
        }
    }
}
