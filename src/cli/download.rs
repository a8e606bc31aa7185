//! `siglip-server download`.

use std::collections::HashMap;

use anyhow::{Context as _, bail};
use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

use crate::{
    config::Config,
    hub::{Hub, Progress, RepoId, Unreachable},
    telemetry::logs,
};

/// What to download.
#[derive(Debug, Args)]
pub(super) struct Download {
    /// The model on the hub, with `--revision` for a branch, a tag or a commit other than `main`; without
    /// it, those that are configured
    #[arg(value_name = "HUB_ID")]
    id: Option<String>,
}

impl Download {
    pub(super) fn run(&self, config: &Config) -> anyhow::Result<()> {
        let _log = logs::init(&config.log)?;
        let wanted = wanted(config)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let hub = Hub::from_env()?;
            for (id, revision) in wanted {
                let bars = Bars::new(hub.shows_progress());
                let get = hub.snapshot(&id, revision.as_deref(), Unreachable::Fail, &bars);
                let snapshot = get.await.with_context(|| format!("cannot get the model `{id}`"))?;
                super::print(&format!("{}\n", snapshot.folder.display()))?;
            }
            Ok(())
        })
    }

    /// The id as a source: what holds for `--model` holds for it.
    pub(super) fn source(&self) -> Option<&str> {
        self.id.as_deref()
    }
}

/// The configured models that are on the hub, each with its revision.
fn wanted(config: &Config) -> anyhow::Result<Vec<(RepoId, Option<String>)>> {
    let served = config.served().map_err(|(path, message)| anyhow::anyhow!("{path}: {message}"))?;
    let wanted: Vec<_> = served
        .into_iter()
        .filter_map(|served| Some((RepoId::parse(&served.model.source)?, served.model.revision)))
        .collect();
    if wanted.is_empty() {
        bail!(
            "`{}` is no model on the hub; name one: siglip-server download ORG/NAME",
            config.model.source
        );
    }
    Ok(wanted)
}

/// A bar for each file, on a terminal; nothing elsewhere.
#[derive(Default)]
struct Bars {
    all: MultiProgress,
    files: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    fn new(shown: bool) -> Self {
        let bars = Self::default();
        if !shown {
            bars.all.set_draw_target(ProgressDrawTarget::hidden());
        }
        bars
    }
}

impl Progress for Bars {
    fn at(&self, file: &str, done: u64, total: u64) {
        let mut files = self.files.lock();
        let bar = files.entry(file.to_owned()).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new(total).with_message(file.to_owned()));
            // What was there before this run says nothing of the speed.
            bar.set_position(done);
            bar.reset_eta();
            bar.with_style(style())
        });
        bar.set_position(done);
        if done == total && !bar.is_finished() {
            bar.finish();
        }
    }
}

fn style() -> ProgressStyle {
    let template = "{msg:28!} {bar:24} {decimal_bytes:>10} of {decimal_total_bytes:<10} \
                    {decimal_bytes_per_sec:>12} {eta:>5}";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
