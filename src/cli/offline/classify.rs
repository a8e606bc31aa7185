//! `siglip-server classify`: labels for image files.

use std::{fmt::Write as _, path::PathBuf};

use clap::Args;
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};

use super::{Tally, rows::Row, with_engine};
use crate::{
    config::Config,
    engine::{ClassifyRequest, Context, Engine, ImageSide, Input, LabelScore},
    error::Error,
};

/// Images on their way at once.
const AT_ONCE: usize = 4;

/// What to classify, and by which labels. An image that cannot be classified has an `error` in place of its `labels`,
/// and makes the exit code 3.
#[derive(Debug, Args)]
pub(in crate::cli) struct Classify {
    /// Image files
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,
    /// A label; may be given several times
    #[arg(long = "label", value_name = "LABEL", required = true)]
    labels: Vec<String>,
    /// A prompt with `{label}` where the label goes; may be given several times
    #[arg(long = "prompt", value_name = "TEMPLATE")]
    prompts: Vec<String>,
    /// Keep only the best labels of each image
    #[arg(long, value_name = "N")]
    top_k: Option<usize>,
    /// Leave out labels that are less probable than this
    #[arg(long, value_name = "P")]
    min_probability: Option<f32>,
    /// Print a JSON object for each image in place of a table
    #[arg(long)]
    json: bool,
}

impl Classify {
    pub(in crate::cli) fn run(self, config: &Config) -> anyhow::Result<()> {
        with_engine(config, async |engine| {
            let this = &self;
            let rows: Vec<_> = self.images.iter().cloned().map(Row::Image).collect();
            let mut answers = stream::iter(&rows)
                .map(|row| async move { (row, this.classified(engine, row).await) })
                .buffered(AT_ONCE);
            let mut tally = Tally::default();
            while let Some((row, answer)) = answers.next().await {
                // What would be wrong with every image is no fault of this one.
                if let Err(error) = &answer
                    && error.field().is_some_and(|field| !field.starts_with("images"))
                {
                    return Err(error.clone().into());
                }
                if self.json || answer.is_err() {
                    tally.put(
                        row,
                        answer.as_ref().map(|labels| json!({"labels": self.objects(labels)})),
                    )?;
                } else if let Ok(labels) = &answer {
                    tally.count();
                    super::super::print(&self.table(row, labels))?;
                }
            }
            tally.finish()
        })
    }

    async fn classified(&self, engine: &Engine, row: &Row) -> Result<Vec<LabelScore>, Error> {
        let image = match row.read(engine.limits().max_image_bytes).await {
            Input::Image(image) => image,
            Input::Unreadable(error) => return Err(error),
            _ => return Err(Error::internal("a row of another kind")),
        };
        let request = ClassifyRequest {
            model: None,
            images: ImageSide::Images(vec![image]),
            labels: self.labels.clone(),
            templates: self.prompts.clone(),
            top_k: self.top_k,
            min_probability: self.min_probability,
            max_num_patches: None,
            matching_token: None,
        };
        let classified = engine.classify(request, &Context::patient()).await?;
        Ok(classified.images.into_iter().next().unwrap_or_default())
    }

    fn objects(&self, labels: &[LabelScore]) -> Vec<Value> {
        let object = |it: &LabelScore| json!({"label": self.labels[it.label], "index": it.label, "probability": it.probability, "logit": it.logit});
        labels.iter().map(object).collect()
    }

    fn table(&self, row: &Row, labels: &[LabelScore]) -> String {
        let mut text = format!("{row}\n");
        for it in labels {
            let percent = it.probability * 100.0;
            writeln!(text, "  {percent:>6.2} %  {}", self.labels[it.label]).unwrap_or_default();
        }
        text
    }
}
