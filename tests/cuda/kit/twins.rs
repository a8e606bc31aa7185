//! Every kernel of our own against its twin on the host.

use crate::Placed;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    placed: Placed,
    /// Launches that the time of a kernel is the mean of; 0 takes none.
    #[arg(long, default_value_t = 10)]
    launches: u32,
}

/// A build without CUDA has none of them.
#[cfg(not(feature = "cuda"))]
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let _ = (arguments.placed.model("")?, arguments.launches);
    Ok(())
}

#[cfg(feature = "cuda")]
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let model = arguments.placed.model("")?;
    let print = |compared: siglip_server::model::Compared| {
        let line = serde_json::json!({
            "kernel": compared.kernel,
            "shape": compared.shape,
            // Not so for what is no number.
            "passed": compared.worst <= compared.tolerance,
            "worst": compared.worst,
            "tolerance": compared.tolerance,
            "us": compared.microseconds,
        });
        println!("{line}");
    };
    let launches = arguments.launches;
    Ok(siglip_server::model::compare_kernels(model.device, model.dtype, launches, print)?)
}
