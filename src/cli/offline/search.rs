//! `siglip-server search`: a text or an image against a file of vectors.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use htmlize::escape_all_quotes;
use serde_json::json;

use super::{
    index::Index,
    rows::{Row, Rows},
    with_engine,
};
use crate::{config::Config, embedding::normalize, engine::Engine, model::Scorer};

/// What to look for. The index is a file of `embed --out`; its vectors are of the same model.
#[derive(Debug, Args)]
pub(in crate::cli) struct Search {
    /// A file that `embed --out` wrote: .npy, .safetensors, .ndjson or .parquet
    #[arg(value_name = "INDEX")]
    index: PathBuf,
    /// A text, or the path of an image
    #[arg(value_name = "QUERY")]
    query: String,
    /// Maximum number of results
    #[arg(long, value_name = "N", default_value_t = 10)]
    top_k: usize,
    /// Leave out what is less probable than this, for an image and a text
    #[arg(long, value_name = "P")]
    min_probability: Option<f32>,
    /// Print a JSON object a line in place of a table
    #[arg(long)]
    json: bool,
    /// Write a page that shows the images found
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
}

/// A row of the index.
#[derive(Debug)]
struct Hit<'i> {
    id: &'i str,
    cosine: f32,
    /// Of an image and a text, where the model judges each pair on its own.
    probability: Option<f32>,
}

impl Search {
    pub(in crate::cli) fn run(self, config: &Config) -> anyhow::Result<()> {
        let index = Index::read(&self.index)?;
        with_engine(config, async |engine| {
            check(engine, &index)?;
            let image = Path::new(&self.query).is_file();
            let row = if image {
                Row::Image(PathBuf::from(&self.query))
            } else {
                Row::Text(self.query.clone())
            };
            let dimensions = Some(index.dim);
            let query = [row];
            let mut rows = Rows::new(engine, &query);
            let answers = rows.next(dimensions, true).await?.unwrap_or_default();
            let (row, answer) = answers.into_iter().next().context("there is no query")?;
            let answer = answer.map_err(|error| anyhow::anyhow!("{row}: {}", error.message()))?;
            let card = &engine.registry().get(None)?.card;
            // Shortened vectors have other cosines than those that the model has a scale for.
            let whole = index.dim == card.embedding_dim;
            let scorer = card.scorer.filter(|_| whole && !image);
            let hits = self.hits(&index, answer.embedding.as_slice(), scorer);
            if let Some(path) = &self.html {
                std::fs::write(path, page(&self.query, &hits))
                    .with_context(|| path.display().to_string())?;
            }
            super::super::print(&if self.json { lines(&hits) } else { table(&hits) })
        })
    }

    fn hits<'i>(&self, index: &'i Index, query: &[f32], scorer: Option<Scorer>) -> Vec<Hit<'i>> {
        let hit = |(number, id): (usize, &'i String)| {
            let mut row = index.row(number).to_vec();
            normalize(&mut row);
            let cosine =
                row.iter().zip(query).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
            let cosine = cosine.clamp(-1.0, 1.0) as f32;
            let probability = scorer.and_then(|it| it.pair_probability(it.logit(cosine)?));
            Hit { id, cosine, probability }
        };
        let mut hits: Vec<_> = index.ids.iter().enumerate().map(hit).collect();
        hits.sort_by(|a, b| b.cosine.total_cmp(&a.cosine));
        if let Some(least) = self.min_probability {
            hits.retain(|hit| hit.probability.is_none_or(|it| it >= least));
        }
        hits.truncate(self.top_k);
        hits
    }
}

/// Vectors of another model are not comparable, and no number would tell.
fn check(engine: &Engine, index: &Index) -> anyhow::Result<()> {
    let card = &engine.registry().get(None)?.card;
    let version = engine.decoding().version();
    ensure!(
        index.dim <= card.embedding_dim,
        "the index has vectors of {} values, and the model gives {}: it is another model's",
        index.dim,
        card.embedding_dim
    );
    if let Some(revision) = &index.revision {
        ensure!(
            *revision == card.revision,
            "the index is of the revision {revision}, and the model is {}: choose its model with --model, or embed again",
            card.revision
        );
    }
    if index.preprocessing_version.as_deref().is_some_and(|found| found != version) {
        super::super::complain(format!(
            "siglip-server: the index has another preprocessing version than {version}: images may differ a little\n"
        ));
    }
    Ok(())
}

fn lines(hits: &[Hit<'_>]) -> String {
    let line = |(rank, hit): (usize, &Hit<'_>)| {
        let mut line = json!({"rank": rank + 1, "id": hit.id, "cosine": hit.cosine});
        if let Some(probability) = hit.probability {
            line["probability"] = json!(probability);
        }
        format!("{line}\n")
    };
    hits.iter().enumerate().map(line).collect()
}

fn table(hits: &[Hit<'_>]) -> String {
    let mut text = format!("{:>4}  {:>7}  {:>11}  id\n", "rank", "cosine", "probability");
    for (rank, hit) in hits.iter().enumerate() {
        let probability = hit.probability.map_or("-".to_owned(), |it| format!("{it:.4}"));
        writeln!(text, "{:>4}  {:>7.4}  {probability:>11}  {}", rank + 1, hit.cosine, hit.id)
            .unwrap_or_default();
    }
    text
}

/// A page of images, by the paths that they have as ids.
fn page(query: &str, hits: &[Hit<'_>]) -> String {
    let figure = |hit: &Hit<'_>| {
        let id = escape_all_quotes(hit.id);
        let probability =
            hit.probability.map_or(String::new(), |it| format!(", {:.1} %", it * 100.0));
        format!(
            "<figure><img src=\"{id}\" alt=\"{id}\" loading=lazy><figcaption>{id}<br>{:.4}{probability}</figcaption></figure>\n",
            hit.cosine
        )
    };
    format!(
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n<meta name=viewport content=\"width=device-width\">\n\
         <title>{0}</title>\n<style>\n:root {{ color-scheme: light dark; font: 14px/1.4 system-ui, sans-serif; }}\n\
         main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: 1rem; }}\n\
         figure {{ margin: 0; }} img {{ width: 100%; height: 160px; object-fit: contain; background: #8882; }}\n\
         figcaption {{ overflow-wrap: anywhere; }}\n</style>\n<h1>{0}</h1>\n<main>\n{1}</main>\n</html>\n",
        escape_all_quotes(query),
        hits.iter().map(figure).collect::<String>()
    )
}
