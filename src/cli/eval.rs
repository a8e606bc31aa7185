//! `siglip-server eval`: how well a model does on somebody's own images.

mod data;
mod measures;
mod report;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, ensure};
use clap::Args;
use serde_json::{Value, json};

use self::{
    data::{Data, Place},
    measures::{Losses, Probabilities, Recalls, Scores, Vectors, Wanted},
};
use super::offline::{
    SomeFailed,
    inputs::Inputs,
    rows::{Row, Rows},
    selection::Selection,
    with_engine,
};
use crate::{
    config::Config,
    embedding::normalize,
    engine::{DEFAULT_TEMPLATE, Engine},
    model::Scorer,
};

/// Rows of a Parquet file that are embedded together.
const BLOCK: usize = 64;

/// What to evaluate on.
///
/// A folder with a folder of images for each class gives zero-shot accuracy; a CSV file with the columns `image` (a
/// path, relative to the file) and `caption` gives retrieval; a Parquet file has the columns `image` and either `caption`
/// or `label`. All give the losses, and for models that judge each pair on its own the calibration of their
/// probabilities and a table of thresholds.
#[derive(Debug, Args)]
pub(super) struct Eval {
    /// A folder of class folders, a CSV file with the columns `image` and `caption`, or a Parquet file with `image` and
    /// `caption` or `label`
    #[arg(value_name = "DATA")]
    data: PathBuf,
    /// A prompt for class names, with `{label}` where the name goes; several are averaged as normalised embeddings
    #[arg(long = "prompt", value_name = "TEMPLATE")]
    prompts: Vec<String>,
    /// Print one JSON object in place of tables
    #[arg(long)]
    json: bool,
    /// Write a page with plots
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// The precision that a threshold is wanted for, from 0 to 1
    #[arg(long, value_name = "SHARE")]
    precision: Option<f64>,
}

/// Everything that an evaluation found.
struct Found {
    data: Data,
    model: String,
    revision: String,
    scorer: Scorer,
    skipped: usize,
    prompts: Vec<String>,
    retrieval: [Recalls; 2],
    losses: Option<Losses>,
    probabilities: Option<Probabilities>,
    costs: Vec<Cost>,
    precision: Option<f64>,
}

/// What the losses cost over so many rows.
struct Cost {
    n: usize,
    sigmoid_seconds: f64,
    softmax_seconds: f64,
}

impl Eval {
    pub(super) fn run(self, config: &Config) -> anyhow::Result<()> {
        let precision = self.precision;
        ensure!(
            precision.is_none_or(|it| it > 0.0 && it <= 1.0),
            "--precision is a share above 0 and at most 1"
        );
        let limit = config.limits.max_image_bytes;
        let data = Data::read(&self.data, limit)?;
        ensure!(
            data.classes || self.prompts.is_empty(),
            "--prompt is for class names; captions are taken as they are"
        );
        let prompts = match (&*self.prompts, data.classes) {
            ([], true) => vec![DEFAULT_TEMPLATE.to_owned()],
            (prompts, _) => prompts.to_vec(),
        };
        for prompt in &prompts {
            ensure!(
                prompt.contains("{label}"),
                "--prompt {prompt:?}: it needs `{{label}}` where the name goes"
            );
        }
        with_engine(config, async |engine| {
            let found = evaluate(engine, data, prompts, precision).await?;
            if let Some(path) = &self.report {
                write(path, &report::html(&found))?;
            }
            let text =
                if self.json { format!("{:#}\n", found.json()) } else { report::text(&found) };
            super::print(&text)?;
            let (failed, all) = (found.skipped, found.skipped + found.data.images.len());
            if failed == 0 { Ok(()) } else { Err(SomeFailed { failed, all }.into()) }
        })
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

async fn evaluate(
    engine: &Engine,
    data: Data,
    prompts: Vec<String>,
    precision: Option<f64>,
) -> anyhow::Result<Found> {
    let model = engine.registry().get(None)?;
    let scorer =
        model.card.scorer.context("the model has no text tower, so there is nothing to compare")?;
    let (name, revision) = (model.name.clone(), model.card.revision.to_string());
    let mut images = Embedded::default();
    match &data.table {
        None => {
            let file = |place: &Place| match place {
                Place::File(path) => Some(Row::Image(path.clone())),
                Place::Row(_) => None,
            };
            images.add(engine, &data.images.iter().filter_map(file).collect::<Vec<_>>()).await?;
        }
        Some(path) => images.add_rows(engine, path, &data.images).await?,
    }
    let Embedded { vectors: images, failed } = images;
    ensure!(failed.len() == data.images.len(), "the file has changed while it was read");
    let skipped = failed.iter().filter(|failed| **failed).count();
    let data = data.without(&failed);
    ensure!(!data.pairs.is_empty(), "no image could be embedded");
    let written = data.texts.iter().flat_map(|text| filled(text, &prompts));
    let written: Vec<_> = written.map(Row::Text).collect();
    let mut texts = Embedded::default();
    texts.add(engine, &written).await?;
    let Embedded { vectors: texts, failed } = texts;
    ensure!(!failed.contains(&true), "without one of its texts nothing can be compared");
    let texts = averaged(texts, prompts.len().max(1));
    // Sums over all pairs take seconds; nothing else runs in this process.
    let found = tokio::task::block_in_place(|| {
        let scores = Scores { images: &images, texts: &texts, scorer };
        let both = Wanted { sigmoid: matches!(scorer, Scorer::Sigmoid { .. }), softmax: true };
        Found {
            retrieval: measures::retrieval(scores, &data),
            losses: measures::losses(scores, &data.pairs, both),
            probabilities: measures::probabilities(scores, &data, precision),
            costs: costs(scores, &data),
            model: name,
            revision,
            scorer,
            skipped,
            prompts,
            precision,
            data,
        }
    });
    Ok(found)
}

/// A class name in each prompt, or a caption as it is.
fn filled<'t>(text: &'t str, prompts: &'t [String]) -> Vec<String> {
    if prompts.is_empty() {
        return vec![text.to_owned()];
    }
    prompts.iter().map(|prompt| prompt.replace("{label}", text)).collect()
}

/// Normalised embeddings of the rows that could be embedded, and which could not, told on standard error.
#[derive(Default)]
struct Embedded {
    vectors: Vectors,
    failed: Vec<bool>,
}

impl Embedded {
    async fn add(&mut self, engine: &Engine, rows: &[Row]) -> anyhow::Result<()> {
        let mut left = Rows::new(engine, rows);
        while let Some(answers) = left.next(None, true).await? {
            for (row, answer) in answers {
                match &answer {
                    Ok(answer) => {
                        self.vectors.dim = answer.embedding.dim();
                        self.vectors.data.extend_from_slice(answer.embedding.as_slice());
                    }
                    Err(error) => {
                        super::complain(format!("siglip-server: {row}: {}\n", error.message()))
                    }
                }
                self.failed.push(answer.is_err());
            }
        }
        Ok(())
    }

    /// Adds the images of these rows of a Parquet file, some at a time.
    async fn add_rows(
        &mut self,
        engine: &Engine,
        path: &Path,
        places: &[Place],
    ) -> anyhow::Result<()> {
        let limit = engine.limits().max_image_bytes;
        let mut inputs = Inputs::find(&[path.to_owned()], vec![], Selection::default(), limit)?;
        let (mut places, mut number) = (places.iter().peekable(), 0);
        loop {
            let block = inputs.next(BLOCK).await?;
            if block.is_empty() {
                return Ok(());
            }
            let mut rows = Vec::new();
            for item in block {
                if places.next_if_eq(&&Place::Row(number)).is_some() {
                    rows.push(item.row);
                }
                number += 1;
            }
            self.add(engine, &rows).await?;
        }
    }
}

/// The normalised means of groups of rows.
fn averaged(vectors: Vectors, group: usize) -> Vectors {
    if group == 1 {
        return vectors;
    }
    let dim = vectors.dim;
    let mean = |rows: &[f32]| {
        let mut mean = vec![0.0_f32; dim];
        for row in rows.chunks_exact(dim) {
            mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
        normalize(&mut mean);
        mean
    };
    Vectors { dim, data: vectors.data.chunks_exact(dim * group).flat_map(mean).collect() }
}

/// What each loss takes over more and more of the rows.
fn costs(scores: Scores<'_>, data: &Data) -> Vec<Cost> {
    let all = data.pairs.len();
    let mut sizes: Vec<_> =
        (6..).map(|power| 1_usize << power).take_while(|&size| size < all).collect();
    sizes.push(all);
    let timed = |pairs: &[[usize; 2]], sigmoid: bool| {
        let begin = Instant::now();
        let wanted = Wanted { sigmoid, softmax: !sigmoid };
        // The images and texts of these rows alone, or each size would take as long as all rows do.
        let (images, texts) = (gather(scores.images, pairs, 0), gather(scores.texts, pairs, 1));
        let renumbered: Vec<_> = (0..pairs.len()).map(|at| [at, at]).collect();
        let part = Scores { images: &images, texts: &texts, ..scores };
        measures::losses(part, &renumbered, wanted).map(|_| begin.elapsed().as_secs_f64())
    };
    let cost = |n: usize| {
        let pairs = &data.pairs[..n];
        Some(Cost {
            n,
            sigmoid_seconds: timed(pairs, true)?,
            softmax_seconds: timed(pairs, false)?,
        })
    };
    sizes.into_iter().filter_map(cost).collect()
}

/// The vectors of one side of these rows.
fn gather(vectors: &Vectors, pairs: &[[usize; 2]], side: usize) -> Vectors {
    let row = |pair: &[usize; 2]| vectors.row(pair[side]).iter().copied();
    Vectors { dim: vectors.dim, data: pairs.iter().flat_map(row).collect() }
}

impl Found {
    /// The keys that docs/evaluation.md lists.
    fn json(&self) -> Value {
        let recalls = |it: Recalls| json!({"r1": it.r1, "r5": it.r5, "r10": it.r10});
        let [of_images, of_texts] = self.retrieval;
        let zero_shot =
            self.data.classes.then(|| json!({"top1": of_images.r1, "top5": of_images.r5}));
        let sigmoid = matches!(self.scorer, Scorer::Sigmoid { .. });
        let losses = self
            .losses
            .map(|it| json!({"sigmoid": sigmoid.then_some(it.sigmoid), "softmax": it.softmax}));
        let threshold = |it: &measures::Threshold| json!({"probability": it.probability, "precision": it.precision, "recall": it.recall, "f1": it.f1});
        let probabilities = self.probabilities.as_ref();
        let width = 1.0 / measures::BINS as f64;
        let bins = |it: &Probabilities| {
            let bin = |(index, bin): (usize, &measures::Bin)| {
                let filled = |value: f64| (bin.count > 0).then_some(value);
                json!({
                    "lower": index as f64 * width, "upper": (index + 1) as f64 * width, "count": bin.count,
                    "mean_probability": filled(bin.probability), "share_positive": filled(bin.positives),
                })
            };
            it.bins.iter().enumerate().map(bin).collect::<Vec<_>>()
        };
        let cost = |it: &Cost| {
            json!({
                "n": it.n, "sigmoid_seconds": it.sigmoid_seconds, "softmax_seconds": it.softmax_seconds,
                "chunk_bytes": it.chunk_bytes(), "matrix_bytes": it.matrix_bytes(),
            })
        };
        json!({
            "model": self.model,
            "revision": self.revision,
            "scoring": self.scorer.name(),
            "n": self.data.pairs.len(),
            "images": self.data.images.len(),
            "texts": self.data.texts.len(),
            "skipped": self.skipped,
            "prompts": self.prompts,
            "zero_shot": zero_shot,
            "retrieval": {"image_to_text": recalls(of_images), "text_to_image": recalls(of_texts)},
            "loss": losses,
            "loss_cost": self.costs.iter().map(cost).collect::<Vec<_>>(),
            "calibration": probabilities.map(|it| json!({"ece": it.ece, "bins": bins(it)})),
            "thresholds": probabilities.map(|it| it.thresholds.iter().map(threshold).collect::<Vec<_>>()),
            "wanted": self.precision.map(|precision| {
                let found = probabilities.and_then(|it| it.wanted.as_ref());
                json!({"precision": precision, "threshold": found.map(threshold)})
            }),
        })
    }
}

impl Cost {
    /// Bytes of scores that are held at once.
    fn chunk_bytes(&self) -> usize {
        measures::chunk_rows(self.n).min(self.n) * self.n * size_of::<f64>()
    }

    /// Bytes that all scores at once would take.
    fn matrix_bytes(&self) -> usize {
        self.n * self.n * size_of::<f64>()
    }
}
