//! Items a second of one tower of a checkpoint, without a server around it; one JSON line.
//!
//! ```sh
//! cargo run --release --example tower_speed -- --model DIR --tower vision --batch 4
//! ```
//!
//! The inputs are made up by a rule that any other program can follow, so that its embeddings can be compared:
//! value `i` of all that is fed in, counted over the rows, comes from `h = i * 2654435761 mod 2^32`. A picture's
//! byte is `h >> 24`; a text's id is `1 + (h >> 8) % 1000`, which every vocabulary has.

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::Parser;
use siglip_server::{
    config,
    embedding::Embedding,
    model::{self, Tower},
    preprocess::{Pixels, TargetSize},
    tokenize::Tokens,
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
        ..config::Model::default()
    };
    let start = Instant::now();
    let model = model::load(&config)?;
    let load = start.elapsed();
    let count = arguments.batch;
    match arguments.tower.as_str() {
        "vision" => {
            let (height, width) = match model.image.size {
                TargetSize::Fixed { height, width } => (height, width),
                TargetSize::Patches { patch_size, max_num_patches } => {
                    let side = max_num_patches.isqrt() * patch_size;
                    (side, side)
                }
            };
            let bytes = height as usize * width as usize * 3;
            let rows: Vec<_> = (0..count)
                .map(|row| Pixels {
                    height,
                    width,
                    data: (row * bytes..(row + 1) * bytes)
                        .map(|at| (hash(at) >> 24) as u8)
                        .collect(),
                })
                .collect();
            measure(model.vision, &rows, load, &arguments)
        }
        "text" => {
            let (text, length) = (model.text.context("no text tower")?, model.card.text_length);
            let length = length.context("no text tower")?;
            let rows: Vec<_> = (0..count)
                .map(|row| Tokens {
                    ids: (row * length..(row + 1) * length)
                        .map(|at| 1 + (hash(at) >> 8) % 1000)
                        .collect(),
                    used: length,
                    truncated: false,
                })
                .collect();
            measure(text, &rows, load, &arguments)
        }
        other => bail!("`{other}` is no tower: vision or text"),
    }
}

fn hash(index: usize) -> u32 {
    (index as u32).wrapping_mul(2_654_435_761)
}

fn measure<I: Send + 'static>(
    mut tower: Box<dyn Tower<Input = I>>,
    rows: &[I],
    load: Duration,
    arguments: &Arguments,
) -> anyhow::Result<()> {
    let embeddings = tower.forward(rows)?;
    if let Some(path) = &arguments.out {
        write_npy(path, &embeddings)?;
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

fn write_npy(path: &PathBuf, rows: &[Embedding]) -> anyhow::Result<()> {
    let dim = rows.first().map_or(0, |row| row.as_slice().len());
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {dim}), }}", rows.len());
    // The values begin at a multiple of 64 bytes, behind a magic of 10 and a line break.
    while !(10 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut file = std::io::BufWriter::new(fs::File::create(path)?);
    file.write_all(b"\x93NUMPY\x01\x00")?;
    file.write_all(&(header.len() as u16).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for value in rows.iter().flat_map(|row| row.as_slice()) {
        file.write_all(&value.to_le_bytes())?;
    }
    Ok(file.flush()?)
}
