//! `siglip-server embed`, `score` and `search`: the same engine without a listener, for files and scripts.
//!
//! Every row has a line of output, in the order given: what was asked for, or the error in its place. A row that
//! fails keeps no other from its answer.

mod classify;
mod embed;
mod formats;
mod index;
pub(super) mod inputs;
mod journal;
#[cfg_attr(not(feature = "parquet"), path = "offline/no_parquet.rs")]
pub(super) mod parquet_file;
mod parts;
pub(super) mod rows;
mod search;
pub(super) mod selection;

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use serde_json::{Value, json};

use self::rows::{Row, Rows};
pub(super) use self::{classify::Classify, embed::Embed, search::Search};
use crate::{
    app,
    config::Config,
    embedding::Embedding,
    engine::{
        Context, Engine, ImageSide, Input, Matrix, Pairing, ScoreKind, Scored, SimilarityRequest,
        TextSide,
    },
    error::Error,
    model::Scorer,
    telemetry::logs,
};

/// What to score. An image that cannot be scored has an `error` in place of its `scores`, and makes the exit
/// code 3.
#[derive(Debug, Args)]
pub(super) struct Score {
    /// Image files
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,
    /// A text; may be given several times
    #[arg(long = "text", value_name = "TEXT", required = true)]
    texts: Vec<String>,
}

/// Some rows failed; what was wrong with each is said already.
#[derive(Debug, thiserror::Error)]
#[error("{failed} of {all} rows failed")]
pub(super) struct SomeFailed {
    pub(super) failed: usize,
    pub(super) all: usize,
}

/// Counts rows, and tells of those that fail.
#[derive(Default)]
struct Tally {
    failed: usize,
    all: usize,
}

impl Tally {
    /// Prints a row's line, or its error's.
    fn put(&mut self, row: &Row, outcome: Result<Value, &Error>) -> anyhow::Result<()> {
        self.all += 1;
        let mut line = row.name();
        match outcome {
            Ok(Value::Object(values)) => {
                values.into_iter().for_each(|(key, value)| line[key] = value);
            }
            Ok(_) => {}
            Err(error) => {
                self.failed += 1;
                line["error"] = json!({"code": error.code().slug(), "detail": error.message()});
                super::complain(format!("siglip-server: {row}: {}\n", error.message()));
            }
        }
        super::print(&format!("{line}\n"))
    }

    /// Counts a row that is printed otherwise.
    fn count(&mut self) {
        self.all += 1;
    }

    fn finish(self) -> anyhow::Result<()> {
        let Self { failed, all } = self;
        if failed == 0 { Ok(()) } else { Err(SomeFailed { failed, all }.into()) }
    }
}

impl Score {
    pub(super) fn run(self, config: &Config) -> anyhow::Result<()> {
        let texts: Vec<_> = self.texts.into_iter().map(Row::Text).collect();
        let images: Vec<_> = self.images.into_iter().map(Row::Image).collect();
        with_engine(config, async |engine| {
            let model = engine.registry().get(None)?;
            if model.card.scorer == Some(Scorer::Matching) {
                return score_by_head(engine, &images, &texts).await;
            }
            // The columns of every row: without one of them there is nothing to print.
            let mut columns = Vec::with_capacity(texts.len());
            let mut rows = Rows::new(engine, &texts);
            while let Some(answers) = rows.next(None, false).await? {
                for (text, answer) in answers {
                    let named = |error: Error| anyhow::anyhow!("{text}: {}", error.message());
                    let answer = answer.map_err(named)?;
                    if answer.truncated {
                        super::complain(format!(
                            "siglip-server: {text}: it is longer than the model reads, and was cut\n"
                        ));
                    }
                    columns.push(answer.embedding);
                }
            }
            let columns = matrix(&columns);
            let (mut tally, mut rows) = (Tally::default(), Rows::new(engine, &images));
            while let Some(answers) = rows.next(None, false).await? {
                let embedded: Vec<_> = answers
                    .iter()
                    .filter_map(|(_, answer)| Some(answer.as_ref().ok()?.embedding.clone()))
                    .collect();
                let mut scores = score(engine, &embedded, &columns, &texts).await?.into_iter();
                for (row, answer) in &answers {
                    let values = answer.as_ref().map(|_| json!({"scores": scores.next()}));
                    tally.put(row, values)?;
                }
            }
            tally.finish()
        })
    }
}

/// The scores of each image against every text, by a model whose head reads both.
async fn score_by_head(engine: &Engine, images: &[Row], texts: &[Row]) -> anyhow::Result<()> {
    let written = |row: &Row| match row {
        Row::Text(text) => Some(text.clone()),
        Row::Image(_) | Row::Member { .. } | Row::Part(_) | Row::Bad { .. } => None,
    };
    let words: Vec<String> = texts.iter().filter_map(written).collect();
    let mut tally = Tally::default();
    for row in images {
        let scores = match row.read(engine.limits().max_image_bytes).await {
            Input::Image(image) => {
                let sides = (ImageSide::Images(vec![image]), TextSide::Texts(words.clone()));
                match engine.similarity(every_score(sides), &Context::patient()).await {
                    Ok(scored) => Ok(written_scores(&scored, texts).await?),
                    // A text's fault is every image's.
                    Err(error) if error.field().is_some_and(|field| field.starts_with("text")) => {
                        return Err(error.into());
                    }
                    Err(error) => Err(error),
                }
            }
            Input::Unreadable(error) => Err(error),
            Input::Text(_) | Input::TokenIds(_) => Err(Error::internal("an image was expected")),
        };
        let values = scores.as_ref().map(|scores| json!({"scores": scores.first()}));
        tally.put(row, values)?;
    }
    tally.finish()
}

/// A request for every score of every pair.
fn every_score((images, texts): (ImageSide, TextSide)) -> SimilarityRequest {
    SimilarityRequest {
        model: None,
        images,
        texts,
        truncate: true,
        max_num_patches: None,
        pairing: Pairing::All,
        kinds: vec![ScoreKind::Cosine, ScoreKind::Logit, ScoreKind::Probability],
        matching_token: None,
    }
}

/// The scores of each image against every text.
async fn score(
    engine: &Engine,
    images: &[Embedding],
    columns: &Matrix,
    texts: &[Row],
) -> anyhow::Result<Vec<Value>> {
    if images.is_empty() {
        return Ok(Vec::new());
    }
    let sides = (ImageSide::Embeddings(matrix(images)), TextSide::Embeddings(columns.clone()));
    let scored = engine.similarity(every_score(sides), &Context::patient()).await?;
    written_scores(&scored, texts).await
}

/// An object for each text, of each image.
async fn written_scores(scored: &Scored, texts: &[Row]) -> anyhow::Result<Vec<Value>> {
    let mut rows = Vec::with_capacity(scored.rows());
    for range in scored.chunks() {
        let cosines = scored.chunk(ScoreKind::Cosine, range.clone()).await?;
        let logits = scored.chunk(ScoreKind::Logit, range.clone()).await?;
        let probabilities = scored.chunk(ScoreKind::Probability, range.clone()).await?;
        for index in 0..range.len() {
            let columns = cosines.row(index).iter().zip(logits.row(index));
            let columns = columns.zip(probabilities.row(index));
            let scores = texts.iter().zip(columns).map(|(text, ((cosine, logit), probability))| {
                let mut score = text.name();
                score["cosine"] = json!(cosine);
                score["logit"] = json!(logit);
                score["probability"] = json!(probability);
                score
            });
            rows.push(scores.collect());
        }
    }
    Ok(rows)
}

fn matrix(rows: &[Embedding]) -> Matrix {
    let data = rows.iter().flat_map(|row| row.as_slice().iter().copied()).collect();
    Matrix { rows: rows.len(), dim: rows.first().map_or(0, Embedding::dim), data }
}

/// Loads the model and runs a job on it.
pub(super) fn with_engine(
    config: &Config,
    job: impl AsyncFnOnce(&Arc<Engine>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let _log = logs::init(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let engine = app::engine_alone(config).await?;
        job(&engine).await
    });
    runtime.shutdown_background();
    done
}
