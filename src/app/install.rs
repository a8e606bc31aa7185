//! A checkpoint on disk to a model that answers.

use std::{path::Path, sync::Arc, time::Instant};

use tracing::info;

use super::AppError;
use crate::{
    batch::{self, Towers},
    config::{self, Config},
    engine::Engine,
    model::{self, Loaded, ModelCard},
    registry::Model,
    telemetry::Metrics,
};

/// The name that requests use: the configured one, else the source's last path component.
pub(super) fn model_name(config: &config::Model) -> String {
    let last = || Path::new(&config.source).file_name().and_then(|name| name.to_str());
    config.name.as_deref().or_else(last).unwrap_or(&config.source).to_owned()
}

/// Loads the configured checkpoint, hands its towers to a worker and runs both once.
pub(super) async fn load_and_warm(
    config: &Config,
    engine: &Arc<Engine>,
) -> Result<Arc<Model>, AppError> {
    let begun = Instant::now();
    let source = config.model.clone();
    // Reads files and converts weights: seconds for a large checkpoint, so not on an async thread.
    let loaded = tokio::task::spawn_blocking(move || model::load(&source))
        .await?
        .map_err(|source| AppError::Load { model: config.model.source.clone(), source })?;

    let name = model_name(&config.model);
    let Loaded { vision, text, tokenizer, image, card } = loaded;
    let towers = Towers { vision, text };
    let handle = batch::spawn(&name, towers, &config.batch, Arc::clone(engine.metrics()))
        .map_err(AppError::Worker)?;
    describe(engine.metrics(), &name, &card);
    let model = Arc::new(Model { name, card, image, tokenizer, handle });
    engine.registry().install(Arc::clone(&model));

    let failed = |error| AppError::WarmUp { model: model.name.clone(), source: Box::new(error) };
    engine.warm_up(&model.name).await.map_err(failed)?;
    info!(
        model = model.name,
        revision = model.card.revision,
        device = %model.card.device,
        dtype = %model.card.dtype,
        seconds = begun.elapsed().as_secs_f64(),
        "ready"
    );
    Ok(model)
}

fn describe(metrics: &Metrics, name: &str, card: &ModelCard) {
    let (dtype, device) = (card.dtype.to_string(), card.device.to_string());
    metrics.model_info.with_label_values(&[name, &card.revision, &dtype, &device]).set(1);
    let bytes = i64::try_from(card.weight_bytes).unwrap_or(i64::MAX);
    metrics.device_memory.with_label_values(&[name]).set(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_called_by_its_last_path_component() {
        let name = |source: &str, name: Option<&str>| {
            let name = name.map(str::to_owned);
            model_name(&config::Model { source: source.to_owned(), name, ..Default::default() })
        };
        assert_eq!(name("demo", None), "demo");
        assert_eq!(name("google/siglip-base-patch16-224", None), "siglip-base-patch16-224");
        assert_eq!(name("/models/mine/", None), "mine");
        assert_eq!(name("/models/mine", Some("yours")), "yours");
        assert_eq!(name("..", None), "..");
    }
}
