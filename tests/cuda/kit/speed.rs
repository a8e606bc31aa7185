//! Towers alone.

use std::{
    io::BufRead as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::json;
use siglip_server::model::{self, Pass, Tap, Tower};

use crate::{Placed, rows};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    placed: Placed,
    /// A folder in Hugging Face layout, or `demo`.
    #[arg(long)]
    model: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PassArguments {
    #[command(flatten)]
    placed: Placed,
    /// A folder in Hugging Face layout, or `demo`.
    #[arg(long)]
    model: String,
    /// `vision` or `text`.
    #[arg(long)]
    tower: String,
    /// Rows of a pass.
    #[arg(long)]
    batch: usize,
    /// How many passes.
    #[arg(long, default_value_t = 10)]
    passes: usize,
}

/// What is to be measured.
#[derive(Debug, Deserialize)]
struct Job {
    tower: String,
    batch: usize,
    seconds: f64,
    /// The file for the rows of a pass, in NumPy's format.
    out: Option<PathBuf>,
}

/// A tower with rows of its kind.
struct Timed<'t, I> {
    tower: &'t mut dyn Tower<Input = I>,
    rows: Vec<I>,
}

/// Minimum number of measured passes.
const LEAST_PASSES: usize = 3;
/// Number of passes before the measured ones. The first one creates the device's buffers and plans.
const WARM_UP: usize = 3;

impl<I: Send + 'static> Timed<'_, I> {
    fn write(&mut self, path: Option<&PathBuf>) -> anyhow::Result<()> {
        let Some(path) = path else { return Ok(()) };
        rows::write_npy(path, &self.tower.forward(&self.rows)?)
    }

    /// Seconds of each pass, from pixels or ids on the host to embeddings on the host, one after the other.
    fn alone(&mut self, seconds: f64) -> anyhow::Result<Vec<f64>> {
        let (mut passes, start) = (Vec::new(), Instant::now());
        while passes.len() < LEAST_PASSES || start.elapsed().as_secs_f64() < seconds {
            let pass = Instant::now();
            self.tower.forward(&self.rows)?;
            passes.push(pass.elapsed().as_secs_f64());
        }
        Ok(passes)
    }

    /// Seconds per pass when each is started while the one before is running, as the batcher does with full
    /// batches.
    fn behind_each_other(&mut self, seconds: f64) -> anyhow::Result<f64> {
        let taps = vec![Tap::Pooled; self.rows.len()];
        let mut under_way: Option<Pass> = Some(self.tower.begin(&self.rows, &taps)?);
        let (mut passes, start) = (0, Instant::now());
        while passes < LEAST_PASSES || start.elapsed().as_secs_f64() < seconds {
            let next = self.tower.begin(&self.rows, &taps)?;
            under_way.replace(next).context("one is under way")?.finish()?;
            passes += 1;
        }
        let took = start.elapsed().as_secs_f64();
        under_way.context("one is under way")?.finish()?;
        Ok(took / passes as f64)
    }

    fn measure(&mut self, seconds: f64) -> anyhow::Result<serde_json::Value> {
        for _ in 0..WARM_UP {
            self.tower.forward(&self.rows)?;
        }
        let mut passes = self.alone(seconds / 2.0)?;
        let behind = self.behind_each_other(seconds / 2.0)?;
        passes.sort_by(f64::total_cmp);
        Ok(json!({
            "items_per_second": self.rows.len() as f64 / behind,
            "median_pass_ms": passes[passes.len() / 2] * 1e3,
            "passes": passes.len(),
        }))
    }

    fn repeat(&mut self, passes: usize) -> anyhow::Result<()> {
        for _ in 0..passes {
            self.tower.forward(&self.rows)?;
        }
        Ok(())
    }
}

/// Gives `work` a tower of a loaded model with rows of its kind.
macro_rules! with_tower {
    ($model:ident, $tower:expr, $batch:expr, |$timed:ident| $work:expr) => {
        match &*$tower {
            "vision" => {
                let rows = rows::pixels(&$model.image, $batch);
                let mut $timed = Timed { tower: &mut *$model.vision, rows };
                $work
            }
            "text" => {
                let length = $model.card.text_length.context("no text tower")?;
                let tower = $model.text.as_deref_mut().context("no text tower")?;
                let mut $timed = Timed { tower, rows: rows::tokens(length, $batch) };
                $work
            }
            other => anyhow::bail!("`{other}` is no tower: vision or text"),
        }
    };
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut config = arguments.placed.model(&arguments.model)?;
    // The agreement is reported, so any value is accepted here.
    config.min_agreement = Some("0.5".parse().map_err(anyhow::Error::msg)?);
    let mut model = model::load(&config)?;
    let loaded = json!({
        "load_s": start.elapsed().as_secs_f64(),
        "agreement": model.card.agreement,
        "weight_bytes": model.card.weight_bytes,
        "kernels": model.card.cuda_kernels.as_ref().map(|used| used.value.to_string()),
        "kernels_reason": model.card.cuda_kernels.as_ref().map(|used| used.why.clone()),
    });
    println!("{loaded}");
    for line in std::io::stdin().lock().lines() {
        let Job { tower, batch, seconds, out } = serde_json::from_str(&line?)?;
        // If one size fails, for example because of too little memory, the others are still measured.
        let mut measure = || -> anyhow::Result<_> {
            with_tower!(model, tower, batch, |timed| {
                timed.write(out.as_ref())?;
                timed.measure(seconds)
            })
        };
        let answer = measure().unwrap_or_else(|error| json!({"error": format!("{error:#}")}));
        println!("{answer}");
    }
    Ok(())
}

/// The pause before the measured passes. It makes them easy to find in a profile.
const PAUSE: Duration = Duration::from_millis(500);

pub(crate) fn passes(arguments: &PassArguments) -> anyhow::Result<()> {
    let mut model = model::load(&arguments.placed.model(&arguments.model)?)?;
    with_tower!(model, arguments.tower, arguments.batch, |timed| {
        timed.repeat(WARM_UP)?;
        #[expect(clippy::disallowed_methods, reason = "there is no other work on this thread")]
        std::thread::sleep(PAUSE);
        let start = Instant::now();
        timed.repeat(arguments.passes)?;
        let pass_ms = start.elapsed().as_secs_f64() * 1e3 / arguments.passes as f64;
        println!("{}", json!({"pass_ms": pass_ms, "passes": arguments.passes}));
        Ok(())
    })
}
