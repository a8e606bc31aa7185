//! `siglip-server embed` and `score`: the same engine without a listener, for files and scripts.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

use crate::{
    app,
    config::Config,
    engine::{
        Context, EmbedRequest, Engine, ImageInput, ImageSide, Input, ScoreKind, SimilarityRequest,
        TextSide,
    },
    telemetry::logs,
};

/// Items of one engine request: enough to fill batches, few enough that output begins at once.
const ITEMS_AT_ONCE: usize = 64;

/// What to embed. Images come first in the output, then texts, each in the order given.
#[derive(Debug, Args)]
pub(super) struct Embed {
    /// Image files
    #[arg(value_name = "IMAGE", required_unless_present = "texts")]
    images: Vec<PathBuf>,
    /// A text; may be given several times
    #[arg(long = "text", value_name = "TEXT")]
    texts: Vec<String>,
    /// Keep only the first values of each embedding
    #[arg(long, value_name = "N")]
    dimensions: Option<usize>,
}

/// What to score.
#[derive(Debug, Args)]
pub(super) struct Score {
    /// Image files
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,
    /// A text; may be given several times
    #[arg(long = "text", value_name = "TEXT", required = true)]
    texts: Vec<String>,
}

/// An item of `embed`, read only when its turn comes: a thousand pictures are never held at once.
enum Item {
    Image(PathBuf),
    Text(String),
}

impl Item {
    fn name(&self) -> Value {
        match self {
            Self::Image(path) => json!({"image": path.display().to_string()}),
            Self::Text(text) => json!({"text": text}),
        }
    }

    async fn read(&self) -> anyhow::Result<Input> {
        Ok(match self {
            Self::Image(path) => Input::Image(read_image(path).await?),
            Self::Text(text) => Input::Text(text.clone()),
        })
    }
}

impl Embed {
    pub(super) fn run(self, config: &Config) -> anyhow::Result<()> {
        let images = self.images.into_iter().map(Item::Image);
        let items: Vec<_> = images.chain(self.texts.into_iter().map(Item::Text)).collect();
        with_engine(config, async |engine| {
            for items in items.chunks(ITEMS_AT_ONCE.min(config.limits.max_items)) {
                embed(engine, items, self.dimensions).await?;
            }
            Ok(())
        })
    }
}

/// Embeds and prints some items.
async fn embed(engine: &Engine, items: &[Item], dimensions: Option<usize>) -> anyhow::Result<()> {
    let mut inputs = Vec::with_capacity(items.len());
    for item in items {
        inputs.push(item.read().await?);
    }
    let request = EmbedRequest { inputs, dimensions, ..EmbedRequest::default() };
    let context = Context::with_timeout(engine.limits().request_timeout);
    let embedded = engine.embed(request, &context).await?;
    for (item, embedding) in items.iter().zip(&embedded.embeddings) {
        let mut line = item.name();
        line["embedding"] = json!(embedding.as_slice());
        super::print(&format!("{line}\n"))?;
    }
    Ok(())
}

impl Score {
    pub(super) fn run(self, config: &Config) -> anyhow::Result<()> {
        with_engine(config, async |engine| {
            for images in self.images.chunks(ITEMS_AT_ONCE.min(config.limits.max_items)) {
                score(engine, images, &self.texts).await?;
            }
            Ok(())
        })
    }
}

/// Scores and prints some images; the texts come from the cache from the second round on.
async fn score(engine: &Engine, paths: &[PathBuf], texts: &[String]) -> anyhow::Result<()> {
    let mut images = Vec::with_capacity(paths.len());
    for path in paths {
        images.push(read_image(path).await?);
    }
    let request = SimilarityRequest {
        model: None,
        images: ImageSide::Images(images),
        texts: TextSide::Texts(texts.to_vec()),
        truncate: true,
        max_num_patches: None,
    };
    let context = Context::with_timeout(engine.limits().request_timeout);
    let scored = engine.similarity(request, &context).await?;
    for rows in scored.chunks() {
        let cosines = scored.chunk(ScoreKind::Cosine, rows.clone()).await?;
        let logits = scored.chunk(ScoreKind::Logit, rows.clone()).await?;
        let probabilities = scored.chunk(ScoreKind::Probability, rows.clone()).await?;
        for (index, path) in paths[rows].iter().enumerate() {
            let columns = cosines.row(index).iter().zip(logits.row(index));
            let columns = columns.zip(probabilities.row(index));
            let scores: Vec<_> = texts
                .iter()
                .zip(columns)
                .map(|(text, ((cosine, logit), probability))| {
                    json!({"text": text, "cosine": cosine, "logit": logit, "probability": probability})
                })
                .collect();
            let line = json!({"image": path.display().to_string(), "scores": scores});
            super::print(&format!("{line}\n"))?;
        }
    }
    Ok(())
}

async fn read_image(path: &PathBuf) -> anyhow::Result<ImageInput> {
    let bytes = tokio::fs::read(path).await;
    let bytes = bytes.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(ImageInput::Encoded(bytes.into()))
}

/// Loads the model and runs a job on it.
fn with_engine(
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
