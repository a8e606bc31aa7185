//! Items a second of one tower of a checkpoint, without a server around it; one JSON line.
//!
//! ```sh
//! cargo run --release --example tower_speed -- --model DIR --tower vision --batch 4
//! ```

mod rows;

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::Parser;
use siglip_server::{
    config,
    model::{self, MatchRow, ReaderRow, Tap, Tower},
    tokenize::Tokens,
};

/// As the server has it: the passes' memory comes back without page faults.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The last id of CLIP's texts.
const CLIP_END: u32 = 1001;

/// Measures one tower.
#[derive(Debug, Parser)]
struct Arguments {
    /// A folder in Hugging Face layout, or `demo`.
    #[arg(long)]
    model: String,
    /// `vision`, `text`, or of a matching head `match` (all texts with one image, whose keys and values are computed once) and
    /// `match-apart` (the same pairs, each by itself).
    #[arg(long)]
    tower: String,
    /// Rows of a pass.
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// As the server's `--dtype`.
    #[arg(long, default_value = "f32")]
    dtype: String,
    /// As the server's `--cpu-features`.
    #[arg(long, default_value = "auto")]
    cpu_features: String,
    /// As the server's `--matmul-precision`.
    #[arg(long)]
    matmul_precision: Option<String>,
    /// Ids of a text; as many as the model reads by default.
    #[arg(long)]
    ids: Option<usize>,
    /// Threads; 0 means one per core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// How long to measure, after one pass that is not counted. At least three passes are.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Where to write the rows of one pass: `[batch, embedding_dim]`, of a matching head one row of logits, f32, unnormalised, as NumPy has it.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let config = config::Model {
        source: arguments.model.clone(),
        dtype: arguments.dtype.parse().map_err(anyhow::Error::msg)?,
        threads: arguments.threads,
        cpu_features: arguments.cpu_features.parse().map_err(anyhow::Error::msg)?,
        matmul_precision: (arguments.matmul_precision.as_deref())
            .map(|text| text.parse().map_err(anyhow::Error::msg))
            .transpose()?,
        ..config::Model::default()
    };
    let start = Instant::now();
    let mut model = model::load(&config)?;
    let load = start.elapsed();
    let count = arguments.batch;
    match arguments.tower.as_str() {
        "vision" => {
            let rows = rows::pixels(&model.image, count);
            measure(model.vision, (&rows, count), load, &arguments)
        }
        "text" => {
            let (text, length) = (model.text.context("no text tower")?, model.card.text_length);
            let length = arguments.ids.or(length).context("no text tower")?;
            let mut rows = rows::tokens(length, count);
            if model.card.family == "clip" {
                // The text is read at its end token, which has the largest id.
                for row in &mut rows {
                    let before = row.ids.iter().copied().take(length.saturating_sub(1));
                    row.ids = before.chain([CLIP_END]).collect();
                }
            }
            measure(text, (&rows, count), load, &arguments)
        }
        which @ ("match" | "match-apart") => {
            let reader = model.reader.context("no matching head")?;
            let images = rows::pixels(&model.image, 1);
            let states = model.vision.tapped(&images, &[Tap::LastHiddenState])?;
            let image = states.into_iter().next().context("no states of the image")?;
            let length = arguments.ids.or(model.card.text_length).context("no text tower")?;
            let texts = rows::tokens(length, count);
            let texts_of_row = if which == "match" { count } else { 1 };
            let row = |texts: &[Tokens]| {
                ReaderRow::Match(MatchRow { image: image.clone(), texts: texts.into() })
            };
            let rows: Vec<_> = texts.chunks(texts_of_row).map(row).collect();
            measure(reader, (&rows, count), load, &arguments)
        }
        other => bail!("`{other}` is no tower: vision, text, match or match-apart"),
    }
}

fn measure<I: Send + 'static>(
    mut tower: Box<dyn Tower<Input = I>>,
    (rows, items): (&[I], usize),
    load: Duration,
    arguments: &Arguments,
) -> anyhow::Result<()> {
    let embeddings = tower.forward(rows)?;
    if let Some(path) = &arguments.out {
        rows::write_npy(path, &embeddings)?;
    }
    let (mut passes, start) = (Vec::new(), Instant::now());
    while passes.len() < 3 || start.elapsed().as_secs_f64() < arguments.seconds {
        let pass = Instant::now();
        tower.forward(rows)?;
        passes.push(pass.elapsed().as_secs_f64());
    }
    passes.sort_by(f64::total_cmp);
    let median = passes[passes.len() / 2];
    let line = serde_json::json!({
        "items_per_second": items as f64 / median,
        "best_items_per_second": items as f64 / passes[0],
        "median_pass_ms": median * 1e3,
        "passes": passes.len(),
        "load_s": load.as_secs_f64(),
        "peak_rss_bytes": peak_rss_bytes(),
        "tower": arguments.tower,
        "batch": items,
        "dtype": arguments.dtype,
    });
    println!("{line}");
    Ok(())
}

/// The most memory that this process ever had, where the system says so.
fn peak_rss_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()? * 1024)
}
