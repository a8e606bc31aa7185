//! `siglip-server embed`.

use std::{io::IsTerminal as _, path::PathBuf, sync::Arc, time::Duration};

use anyhow::ensure;
use clap::Args;
use futures::{StreamExt as _, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::{
    SomeFailed, Tally,
    formats::{self, Format},
    inputs::{Inputs, Item},
    journal::{Done, Failure, Journal, Stamp, fingerprint},
    rows::{Answer, Row, Rows},
    selection::Selection,
    with_engine,
};
use crate::{config::Config, engine::Engine, error::Error};

/// Rows that go through the engine together.
const BLOCK: usize = 64;
/// Blocks on their way at once: while one is in the towers, the next is read and decoded.
const BLOCKS_AT_ONCE: usize = 3;
/// How often a line tells of the progress where no bar can be drawn.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// What to embed. Images come first in the output, then texts, each in the order given. A row that cannot be
/// embedded has an `error` in place of its `embedding`, and makes the exit code 3.
#[derive(Debug, Args)]
pub(in crate::cli) struct Embed {
    /// Image files, folders of them, patterns, `.tar` archives, `.parquet` files, videos, `.pdf` files, `.txt` files with
    /// a text a line, and `.ndjson` files with `id` and `text` or `image` a line
    #[arg(value_name = "PATH", required_unless_present = "texts")]
    paths: Vec<PathBuf>,
    /// A text; may be given several times
    #[arg(long = "text", value_name = "TEXT")]
    texts: Vec<String>,
    /// Keep only the first values of each embedding
    #[arg(long, value_name = "N")]
    dimensions: Option<usize>,
    /// Write vectors to this file, and go on where an earlier run was interrupted: .npy, .safetensors, .ndjson or
    /// .parquet
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    selection: Selection,
}

impl Embed {
    pub(in crate::cli) fn run(self, config: &Config) -> anyhow::Result<()> {
        if let Some(path) = &self.out {
            Format::of(path)?;
            ensure!(!path.exists(), "{}: it exists already", path.display());
        }
        let limit = config.limits.max_image_bytes;
        let inputs = Inputs::find(&self.paths, self.texts, self.selection, limit)?;
        let (out, dimensions) = (self.out, self.dimensions);
        with_engine(config, async |engine| match out {
            Some(path) => Output::new(engine, path, dimensions)?.run(engine, inputs).await,
            None => to_standard_output(engine, inputs, dimensions).await,
        })
    }
}

/// A line of JSON for each row.
async fn to_standard_output(
    engine: &Arc<Engine>,
    mut inputs: Inputs,
    dimensions: Option<usize>,
) -> anyhow::Result<()> {
    let mut tally = Tally::default();
    loop {
        let block = inputs.next(BLOCK).await?;
        if block.is_empty() {
            return tally.finish();
        }
        for (item, answer) in embedded(engine, block, dimensions).await? {
            let values = answer.as_ref().map(|it| {
                let mut values = json!({"embedding": it.embedding.as_slice()});
                if it.truncated {
                    values["truncated"] = json!(true);
                }
                values
            });
            tally.put(&item.row, values)?;
        }
    }
}

/// A block's rows with the outcome of each, in order.
async fn embedded(
    engine: &Engine,
    block: Vec<Item>,
    dimensions: Option<usize>,
) -> anyhow::Result<Vec<(Item, Result<Answer, Error>)>> {
    let (ids, rows): (Vec<String>, Vec<Row>) =
        block.into_iter().map(|item| (item.id, item.row)).unzip();
    let mut answers = Vec::with_capacity(rows.len());
    let mut left = Rows::new(engine, &rows);
    while let Some(some) = left.next(dimensions, true).await? {
        answers.extend(some.into_iter().map(|(_, answer)| answer));
    }
    let items = ids.into_iter().zip(rows).map(|(id, row)| Item { id, row });
    Ok(items.zip(answers).collect())
}

/// A file that is being made.
struct Output {
    path: PathBuf,
    stamp: Stamp,
    dimensions: Option<usize>,
    journal: Journal,
}

impl Output {
    fn new(engine: &Engine, path: PathBuf, dimensions: Option<usize>) -> anyhow::Result<Self> {
        let model = engine.registry().get(None)?;
        let stamp = Stamp {
            model: model.name.clone(),
            revision: model.card.revision.clone(),
            dtype: model.card.dtype.to_string(),
            preprocessing_version: engine.decoding().version().to_owned(),
            dimensions: dimensions.unwrap_or(model.card.embedding_dim),
        };
        let journal = Journal::open(&path, &stamp)?;
        Ok(Self { path, stamp, dimensions, journal })
    }

    async fn run(mut self, engine: &Arc<Engine>, mut inputs: Inputs) -> anyhow::Result<()> {
        let bar = bar(inputs.count);
        let before = self.skip(&mut inputs).await?;
        bar.set_position(before as u64);
        // The rate is that of this run.
        bar.reset_eta();
        if before > 0 {
            bar.suspend(|| eprintln!("siglip-server: {before} rows are done already"));
        }
        let dimensions = self.dimensions;
        let blocks = stream::unfold(inputs, |mut inputs| async move {
            match inputs.next(BLOCK).await {
                Ok(block) if block.is_empty() => None,
                read => Some((read, inputs)),
            }
        });
        let answers = blocks
            .map(|block| async move { embedded(engine, block?, dimensions).await })
            .buffered(BLOCKS_AT_ONCE);
        let mut answers = std::pin::pin!(answers);
        let mut told = std::time::Instant::now();
        while let Some(block) = answers.next().await {
            let rows: Vec<_> = block?.into_iter().map(done).collect();
            for row in &rows {
                if let Err(failure) = &row.outcome {
                    bar.suspend(|| eprintln!("siglip-server: {}: {}", row.id, failure.detail));
                }
            }
            // The disk is waited for while the towers have the next blocks.
            tokio::task::block_in_place(|| self.journal.add(&rows))?;
            bar.inc(rows.len() as u64);
            if bar.is_hidden() && told.elapsed() >= TOLD_EVERY {
                told = std::time::Instant::now();
                eprintln!("siglip-server: {} rows, {:.1} a second", bar.position(), bar.per_sec());
            }
        }
        bar.finish_and_clear();
        let counts = tokio::task::block_in_place(|| {
            let counts = formats::write(&self.path, &self.journal, &self.stamp)?;
            self.journal.remove()?;
            anyhow::Ok(counts)
        })?;
        eprintln!("siglip-server: {} vectors in {}", counts.embedded, self.path.display());
        match counts.failed {
            0 => Ok(()),
            failed => Err(SomeFailed { failed, all: counts.embedded + failed }.into()),
        }
    }

    /// Passes over the rows that an earlier run has done, which must be the same.
    async fn skip(&self, inputs: &mut Inputs) -> anyhow::Result<usize> {
        let mut done = &*self.journal.done;
        while !done.is_empty() {
            let items = inputs.next(done.len().min(BLOCK)).await?;
            let (these, rest) = done.split_at(items.len());
            let same = items.iter().zip(these).all(|(item, &id)| fingerprint(&item.id) == id);
            ensure!(
                same && !items.is_empty(),
                "the rows are not those of the interrupted run: delete {}.part to begin anew",
                self.path.display()
            );
            done = rest;
        }
        Ok(self.journal.done.len())
    }
}

fn done((item, answer): (Item, Result<Answer, Error>)) -> Done {
    let truncated = answer.as_ref().is_ok_and(|answer| answer.truncated);
    let outcome = answer.map(|answer| answer.embedding.as_slice().to_vec()).map_err(|error| {
        Failure { code: error.code().slug().to_owned(), detail: error.message().to_owned() }
    });
    Done { id: item.id, truncated, outcome }
}

/// A bar on standard error, where that is a terminal.
fn bar(count: Option<u64>) -> ProgressBar {
    let template = match count {
        Some(_) => "{bar:40} {human_pos}/{human_len} rows  {per_sec}  {eta} left",
        None => "{spinner} {human_pos} rows  {per_sec}  {elapsed}",
    };
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(count, target).with_style(style)
}
