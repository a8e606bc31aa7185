//! `siglip-server models`: lists the models in the hub's cache, without the network.

use std::fmt::Write as _;

use clap::Args;
use serde_json::{Value, json};

use crate::{
    config::{self, Config},
    hub::{CachedCommit, CachedModel, Hub},
    model,
    telemetry::logs,
};

/// Digits of a commit that tables show.
const SHORT_COMMIT: usize = 12;

/// How to list the models of the cache.
#[derive(Debug, Args)]
pub(super) struct Models {
    /// Print a JSON object for each revision in place of a table
    #[arg(long)]
    json: bool,
}

/// A commit, and the family that it is served as, or why it is not.
struct Line<'m> {
    model: &'m CachedModel,
    commit: &'m CachedCommit,
    family: Result<String, String>,
}

impl Models {
    pub(super) fn run(&self, config: &Config) -> anyhow::Result<()> {
        let _log = logs::init(&config.log)?;
        let hub = Hub::from_env()?;
        let models = hub.inventory();
        let lines: Vec<_> = models
            .iter()
            .flat_map(|model| model.commits.iter().map(move |commit| (model, commit)))
            .map(|(model, commit)| Line::new(model, commit, &config.model))
            .collect();
        if self.json {
            return lines.iter().try_for_each(|line| super::print(&format!("{}\n", line.json())));
        }
        if lines.is_empty() {
            return super::print(&format!("no models in {}\n", hub.cache_folder().display()));
        }
        super::print(&table(&lines))?;
        let bytes = models.iter().map(|model| model.bytes).sum();
        super::print(&format!("{} in {}\n", size(bytes), hub.cache_folder().display()))
    }
}

impl<'m> Line<'m> {
    fn new(model: &'m CachedModel, commit: &'m CachedCommit, options: &config::Model) -> Self {
        let family = match &commit.lacks {
            Some(lacks) => Err(lacks.clone()),
            None => {
                let source = commit.folder.display().to_string();
                let revision = Some(commit.commit.clone());
                let described = model::describe(&config::Model {
                    source: source.clone(),
                    revision,
                    ..options.clone()
                });
                // The folder's long name says nothing that the line does not say.
                let short = |error: model::LoadError| {
                    let reason = error.to_string().replace(&format!("{source}/"), "");
                    reason.replace(&format!("{source}: "), "")
                };
                described.map(|described| described.card.family).map_err(short)
            }
        };
        Self { model, commit, family }
    }

    fn json(&self) -> Value {
        json!({
            "model": self.model.id.to_string(),
            "revision": self.commit.commit,
            "names": self.commit.revisions,
            "bytes": self.commit.bytes,
            "folder": self.commit.folder.display().to_string(),
            "family": self.family.as_ref().ok(),
            "reason": self.family.as_ref().err(),
        })
    }

    /// The cells of the table.
    fn cells(&self) -> [String; 4] {
        let short: String = self.commit.commit.chars().take(SHORT_COMMIT).collect();
        let names = self.commit.revisions.join(", ");
        let revision = if names.is_empty() { short } else { format!("{short} ({names})") };
        let family = match &self.family {
            Ok(family) => family.clone(),
            Err(reason) => format!("not served: {reason}"),
        };
        [self.model.id.to_string(), revision, size(self.commit.bytes), family]
    }
}

fn table(lines: &[Line<'_>]) -> String {
    let head = ["model", "revision", "size", "family"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(lines.iter().map(Line::cells)).collect();
    let widths: [usize; 3] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    });
    let mut text = String::new();
    for [model, revision, size, family] in &rows {
        let [first, second, third] = widths;
        writeln!(text, "{model:first$}  {revision:second$}  {size:>third$}  {family}")
            .unwrap_or_default();
    }
    text
}

/// Bytes in the unit that gives three digits.
fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if unit == 0 || value >= 99.95 { 0 } else { 1 };
    format!("{value:.digits$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_at_most() {
        let cases = [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (812_700_000, "813 MB")];
        for (bytes, text) in
            cases.into_iter().chain([(99_960_000_000, "100 GB"), (1_500_000_000_000, "1.5 TB")])
        {
            assert_eq!(size(bytes), text);
        }
    }
}
