//! `siglip-server check`: a dry run of a deployment. The model is loaded in each type, run, and measured on this machine.

use std::{
    fmt::Write as _,
    io::Cursor,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::Args;
use futures::{StreamExt as _, stream};
use image::{ImageFormat, RgbImage};
use serde_json::{Value, json};

use crate::{
    app,
    config::{Config, DType, Device},
    engine::{Context, EmbedRequest, Engine, ImageInput, Input},
    preprocess::TargetSize,
    small_file,
    telemetry::logs,
};

/// Rows of one request.
const BLOCK: usize = 16;
/// Requests that are under way at once.
const BLOCKS: usize = 2;
/// Pixels of a side, for a model that reads images of any size.
const ANY_SIZE: u32 = 224;

/// What to check.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// The model, as --model takes it; by default the first of --model, SIGLIP_MODEL or the config file
    #[arg(value_name = "MODEL")]
    source: Option<String>,
    /// The types to load it in, with commas; by default f32, bf16 and on the processor int8
    #[arg(long = "dtypes", value_name = "TYPES", value_delimiter = ',')]
    dtypes: Vec<DType>,
    /// Seconds to measure images, and texts, in each type
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    seconds: f64,
    /// Print a JSON object for each type in place of a table
    #[arg(long)]
    json: bool,
}

/// What was seen in one type.
struct Seen {
    load_seconds: f64,
    /// The least cosine with embeddings in f32; none in f32 itself.
    agreement: Option<f32>,
    weight_bytes: u64,
    resident_bytes: Option<u64>,
    images_per_second: f64,
    /// None without a text tower.
    texts_per_second: Option<f64>,
}

impl Check {
    /// What takes the place of `--model`.
    pub(super) fn source(&self) -> Option<&str> {
        self.source.as_deref()
    }

    pub(super) fn run(self, config: &Config) -> anyhow::Result<()> {
        let _log = logs::init(&config.log)?;
        let dtypes = match (&*self.dtypes, &config.model.device) {
            ([], Device::Cpu) => vec![DType::F32, DType::Bf16, DType::Int8],
            ([], _) => vec![DType::F32, DType::Bf16],
            (given, _) => given.to_vec(),
        };
        if !self.json {
            super::print(&format!(
                "{:>6} {:>8} {:>10} {:>12} {:>13} {:>9} {:>9}\n",
                "type",
                "ready s",
                "agreement",
                "weights MiB",
                "resident MiB",
                "images/s",
                "texts/s"
            ))?;
        }
        let mut failed = Vec::new();
        for dtype in dtypes {
            let mut config = config.clone();
            config.model.dtype = dtype;
            // A runtime for each: with it ends all that the model had.
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let seen = runtime.block_on(measured(&config, self.seconds));
            runtime.shutdown_timeout(Duration::from_secs(5));
            super::print(&match (&seen, self.json) {
                (Ok(seen), true) => format!("{}\n", seen.json(dtype)),
                (Ok(seen), false) => seen.line(dtype),
                (Err(error), true) => {
                    format!(
                        "{}\n",
                        json!({"dtype": dtype.to_string(), "error": format!("{error:#}")})
                    )
                }
                (Err(error), false) => format!("{:>6} {error:#}\n", dtype.to_string()),
            })?;
            if seen.is_err() {
                failed.push(dtype.to_string());
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        bail!("it cannot be served in {}", failed.join(", "))
    }
}

async fn measured(config: &Config, seconds: f64) -> anyhow::Result<Seen> {
    let begun = Instant::now();
    let engine = app::engine_alone(config).await?;
    let load_seconds = begun.elapsed().as_secs_f64();
    let model = engine.registry().get(None)?;
    let (width, height) = match model.image.size {
        TargetSize::Fixed { height, width } | TargetSize::Crop { height, width, .. } => {
            (width, height)
        }
        TargetSize::Patches { .. } => (ANY_SIZE, ANY_SIZE),
    };
    // All that are under way at once differ: equal ones would be computed once.
    let images = (0..(BLOCK * BLOCKS) as u64).map(|seed| png(width, height, seed));
    let images = images.collect::<Result<Vec<_>, _>>()?;
    let image =
        |number: usize| Input::Image(ImageInput::Encoded(images[number % images.len()].clone()));
    let text =
        |number: usize| Input::Text(format!("a photo of the thing with the number {number}"));
    let images_per_second = rate(&engine, seconds, image).await?;
    let texts_per_second = match model.card.text_length {
        Some(_) => Some(rate(&engine, seconds, text).await?),
        None => None,
    };
    Ok(Seen {
        load_seconds,
        agreement: model.card.agreement,
        weight_bytes: model.card.weight_bytes,
        resident_bytes: resident_bytes(),
        images_per_second,
        texts_per_second,
    })
}

/// Rows per second, with as many requests under way as keep the towers busy.
async fn rate(
    engine: &Engine,
    seconds: f64,
    input: impl Fn(usize) -> Input,
) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let blocks = (0..).map(|block| {
        let inputs = (block * BLOCK..(block + 1) * BLOCK).map(&input).collect();
        EmbedRequest { inputs, ..EmbedRequest::default() }
    });
    let work = |request| async { engine.embed_items(request, &Context::patient()).await };
    let mut answers = stream::iter(blocks)
        .take_while(|_| std::future::ready(begun.elapsed().as_secs_f64() < seconds))
        .map(work)
        .buffered(BLOCKS);
    let mut rows = 0;
    while let Some(answer) = answers.next().await {
        for item in answer?.items {
            item.context("a row of the measurement failed")?;
            rows += 1;
        }
    }
    Ok(f64::from(rows) / begun.elapsed().as_secs_f64())
}

/// An image of noise, encoded.
fn png(width: u32, height: u32, seed: u64) -> anyhow::Result<bytes::Bytes> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let image = RgbImage::from_fn(width, height, |_, _| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let [red, green, blue, ..] = state.to_le_bytes();
        image::Rgb([red, green, blue])
    });
    let mut encoded = Cursor::new(Vec::new());
    image.write_to(&mut encoded, ImageFormat::Png)?;
    Ok(encoded.into_inner().into())
}

/// Resident memory of this process; none where the system does not tell.
fn resident_bytes() -> Option<u64> {
    let status = small_file::read_to_string("/proc/self/status".as_ref(), 1 << 16).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib << 10)
}

impl Seen {
    fn json(&self, dtype: DType) -> Value {
        json!({
            "dtype": dtype.to_string(),
            "ready_seconds": self.load_seconds,
            "agreement": self.agreement,
            "weight_bytes": self.weight_bytes,
            "resident_bytes": self.resident_bytes,
            "images_per_second": self.images_per_second,
            "texts_per_second": self.texts_per_second,
        })
    }

    fn line(&self, dtype: DType) -> String {
        let mebibytes = |bytes: u64| format!("{:.0}", bytes as f64 / f64::from(1 << 20));
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let mut line = String::new();
        writeln!(
            line,
            "{:>6} {:>8.2} {:>10} {:>12} {:>13} {:>9.1} {:>9}",
            dtype.to_string(),
            self.load_seconds,
            or_dash(self.agreement.map(|it| format!("{it:.6}"))),
            mebibytes(self.weight_bytes),
            or_dash(self.resident_bytes.map(mebibytes)),
            self.images_per_second,
            or_dash(self.texts_per_second.map(|it| format!("{it:.1}")))
        )
        .unwrap_or_default();
        line
    }
}
