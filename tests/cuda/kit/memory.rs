//! Batches that no longer fit.

use anyhow::Context as _;

use crate::Placed;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    placed: Placed,
    /// A folder in Hugging Face layout, or `demo`.
    #[arg(long)]
    model: String,
    /// Rows of the batch that does not fit.
    #[arg(long, default_value_t = 256)]
    rows: usize,
    /// MiB of device memory that are left free.
    #[arg(long, default_value_t = 512)]
    leave: usize,
}

#[derive(Debug, clap::Args)]
pub(crate) struct HogArguments {
    /// MiB of device memory that are left free.
    #[arg(long)]
    leave: usize,
}

#[cfg(feature = "cuda")]
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    use serde_json::json;
    use siglip_server::model::{self, TowerError};

    use crate::{device::Hog, rows};

    let mut model = model::load(&arguments.placed.model(&arguments.model)?)?;
    let all = rows::pixels(&model.image, arguments.rows);
    let before = model.vision.forward(&all[..1])?;
    let hog = Hog::new(arguments.leave << 20)?;
    let refused = match model.vision.forward(&all) {
        Ok(_) => "it fitted".to_owned(),
        Err(TowerError::OutOfMemory) => "out of memory".to_owned(),
        Err(error) => format!("{:#}", anyhow::Error::new(error)),
    };
    // Do what the batcher does next, and check that it succeeds.
    let (mut fits, mut rows) = (None, arguments.rows);
    while rows > 0 && fits.is_none() {
        fits = model.vision.forward(&all[..rows]).is_ok().then_some(rows);
        rows /= 2;
    }
    let after = model.vision.forward(&all[..1])?;
    drop(hog);
    let whole = model.vision.forward(&all).map(|rows| rows.len());
    let line = json!({
        "refused": refused,
        "fits": fits,
        "same_row_afterwards": before == after,
        "whole_afterwards": whole.ok(),
        "passed": refused == "out of memory" && fits.is_some() && before == after,
    });
    println!("{line}");
    Ok(())
}

#[cfg(not(feature = "cuda"))]
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { placed, model, rows, leave } = arguments;
    placed.model(model)?;
    println!(
        "{}",
        serde_json::json!({"skipped": "no device to fill", "rows": rows, "leave": leave})
    );
    Ok(())
}

/// * prints a line once the memory is allocated
pub(crate) fn hog(arguments: &HogArguments) -> anyhow::Result<()> {
    #[cfg(feature = "cuda")]
    let _hog = crate::device::Hog::new(arguments.leave << 20)?;
    println!("{}", serde_json::json!({"leave": arguments.leave}));
    std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()).context("standard input")?;
    Ok(())
}
