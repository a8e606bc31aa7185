//! `siglip-server serve`.

use std::fmt::Write as _;

use tracing::error;

use crate::{
    app::{App, AppHandle},
    config::{Config, LogFormat},
    registry::Model,
    shutdown::{Signals, drain_on_signal},
    telemetry::logs,
};

pub(super) fn run(config: Config) -> anyhow::Result<()> {
    let _log = logs::init(&config.log)?;
    let is_json = config.log.format == LogFormat::Json;
    // The default is a thread a core, for a runtime that only moves bytes: decoding, tokenizing and the
    // towers have threads of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(serve(config));
    // A load or a forward pass that was cut off cannot be cancelled; the process does not wait for it.
    runtime.shutdown_background();
    match served {
        // Where programs read the log, its last line is one of theirs as well.
        Err(error) if is_json => {
            error!(cause = format!("{error:#}"), "the server failed");
            Err(Logged.into())
        }
        served => served,
    }
}

/// The server failed, and the log says why.
#[derive(Debug, thiserror::Error)]
#[error("the server failed; the log says why")]
pub(super) struct Logged;

async fn serve(config: Config) -> anyhow::Result<()> {
    // Before the model loads: a signal while it does must end the process as well.
    let signals = Signals::install()?;
    let asks_for_keys = config.auth.keys_file.is_some();
    let app = App::bind(config).await?;
    let handle = app.handle();
    tokio::spawn({
        let handle = handle.clone();
        async move {
            let second = drain_on_signal(signals, handle).await;
            #[expect(clippy::disallowed_methods, reason = "a second signal asks for just that")]
            std::process::exit(second.exit_code());
        }
    });
    let mut serving = std::pin::pin!(app.serve());
    tokio::select! {
        ended = &mut serving => return Ok(ended?),
        () = handle.ready() => super::print(&announcement(&handle, asks_for_keys))?,
    }
    Ok(serving.await?)
}

/// What is served where, and a command to try it.
fn announcement(handle: &AppHandle, asks_for_keys: bool) -> String {
    let mut text = String::new();
    for model in handle.engine().registry().loaded() {
        let Model { name, card, .. } = &**model;
        let (revision, dimension) = (&card.revision, card.embedding_dim);
        let (device, dtype) = (card.device, card.dtype);
        put(&mut text, "model", &format!("{name} ({}, revision {revision})", card.family));
        put(&mut text, "runs on", &format!("{device}, {dtype}, {dimension} dimensions"));
    }
    let http = handle.http_addr();
    let scheme = if handle.is_encrypted() { "https" } else { "http" };
    put(&mut text, "HTTP", &format!("{scheme}://{http}  (try it at /, the API at /docs)"));
    if let Some(grpc) = handle.grpc_addr() {
        put(&mut text, "gRPC", &format!("{scheme}://{grpc}"));
    }
    if let Some(admin) = handle.admin_addr() {
        put(&mut text, "admin", &format!("http://{admin}/metrics"));
    }
    let request = r#"{"input": "a cat"}"#;
    let key = if asks_for_keys { " -H 'authorization: Bearer KEY'" } else { "" };
    put(
        &mut text,
        "try",
        &format!(
            "curl -s {scheme}://{}/v1/embeddings{key} -H 'content-type: application/json' -d '{request}'",
            super::healthcheck::reachable(http)
        ),
    );
    text
}

fn put(text: &mut String, name: &str, value: &str) {
    // Writing to a string cannot fail.
    writeln!(text, "{name:<8} {value}").unwrap_or_default();
}
