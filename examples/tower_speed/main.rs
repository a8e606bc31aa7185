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
    model::{self, Tower},
};

/// As the server has it: the passes' memory comes back without page faults.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures one tower.
#[derive(Debug, Parser)]
struct Arguments {
    /// A folder in Hugging Face layout, or `demo`.
    #[arg(long)]
    model: String,
    /// `vision` or `text`.
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
    /// Threads; 0 means one per core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// How long to measure, after one pass that is not counted. At least three passes are.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Where to write the rows of one pass: `[batch, embedding_dim]`, f32, unnormalised, as NumPy has it.
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
    let model = model::load(&config)?;
    let load = start.elapsed();
    let count = arguments.batch;
    match arguments.tower.as_str() {
        "vision" => {
            let rows = rows::pixels(&model.image, count);
            measure(model.vision, &rows, load, &arguments)
        }
        "text" => {
            let (text, length) = (model.text.context("no text tower")?, model.card.text_length);
            let length = length.context("no text tower")?;
            let rows = rows::tokens(length, count);
            measure(text, &rows, load, &arguments)
        }
        other => bail!("`{other}` is no tower: vision or text"),
    }
}

fn measure<I: Send + 'static>(
    mut tower: Box<dyn Tower<Input = I>>,
    rows: &[I],
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
        "items_per_second": rows.len() as f64 / median,
        "best_items_per_second": rows.len() as f64 / passes[0],
        "median_pass_ms": median * 1e3,
        "passes": passes.len(),
        "load_s": load.as_secs_f64(),
        "peak_rss_bytes": peak_rss_bytes(),
        "tower": arguments.tower,
        "batch": rows.len(),
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
