//! The command line on a model from the hub.

use std::{fs, process::Output};

use reqwest::StatusCode;
use serde_json::Value;

use super::{
    Setup,
    stand_in::{COMMITS, File},
};
use crate::{
    app::client,
    process::{Server, command, stderr, stdout},
};

const SECRET: &str = "hf_ThisMustNotBeShown";

/// The fake hub with the demo checkpoint.
async fn with_demo() -> Setup {
    let setup = Setup::new().await;
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo");
    setup.hub.files(|files| {
        files.clear();
        for entry in fs::read_dir(demo).expect("the demo") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let bytes = fs::read(&path).expect("readable");
            files.push(if name.ends_with("safetensors") {
                File::large(&name, bytes)
            } else {
                File::small(&name, bytes)
            });
        }
    });
    setup
}

/// Runs the binary with environment variables.
async fn run(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = command(args);
    command.envs(env.iter().copied());
    let ran = tokio::task::spawn_blocking(move || command.output()).await;
    ran.expect("runs").expect("runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_is_served_without_the_hub() {
    let setup = with_demo().await;
    let cache = setup.cache.path().to_str().expect("utf-8");
    setup.hub.rules(|rules| rules.token = Some(SECRET));
    let env = [("HF_ENDPOINT", &*setup.hub.url), ("HF_HUB_CACHE", cache), ("HF_TOKEN", SECRET)];
    let loud = ["--log-filter", "trace"];
    let output = run(&[&["download", "org/name"][..], &loud].concat(), &env).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let folder = stdout(&output);
    assert!(folder.trim_end().ends_with(&format!("snapshots/{}", COMMITS[0])), "{folder}");
    let log = stderr(&output);
    assert!(!log.contains(SECRET) && !log.contains("signature=secret"), "{log}");

    setup.hub.stop();
    // A pinned commit never needs the network if it is cached. A branch uses the cache if the hub cannot be
    // reached.
    for model in [format!("org/name@{}", COMMITS[0]), "mine=org/name".to_owned()] {
        let model_args = ["--model", &model];
        let server = tokio::task::block_in_place(|| Server::start_with(&model_args, &env[..2]));
        let name = if model.starts_with("mine") { "mine" } else { "name" };
        let announced = format!("{name} (siglip, revision {})", COMMITS[0]);
        assert!(server.announcement.contains(&announced), "{}", server.announcement);
        let body = serde_json::json!({"model": "org/name", "input": "a cat"});
        let request = client().post(format!("{}/v1/embeddings", server.url)).json(&body);
        let answer = request.send().await.expect("answers");
        assert_eq!(answer.status(), StatusCode::OK);
        let answer: Value = answer.json().await.expect("JSON");
        assert_eq!(answer["model"], name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_names_the_model_and_the_reason() {
    let setup = with_demo().await;
    let cache = setup.cache.path().to_str().expect("utf-8");
    let env = [("HF_ENDPOINT", &*setup.hub.url), ("HF_HUB_CACHE", cache)];
    let output = run(&["--model", "org/other", "--listen", "127.0.0.1:0"], &env).await;
    assert_eq!(output.status.code(), Some(1));
    let log = stderr(&output);
    assert!(log.contains("cannot get the model `org/other`: the hub has no model"), "{log}");

    let offline = [("HF_HUB_CACHE", cache), ("HF_HUB_OFFLINE", "1")];
    let output = run(&["download", "org/name", "--revision", "v1"], &offline).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("`org/name` at `v1` is not in the cache"));

    let output = run(&["download", "demo"], &env).await;
    assert!(stderr(&output).contains("`demo` is no model on the hub"), "{}", stderr(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_are_used_and_passed_by_as_the_environment_says() {
    let setup = with_demo().await;
    let cache = setup.cache.path().to_str().expect("utf-8");
    let proxied = "http://hub.invalid";
    // The fake hub also accepts requests for a proxy, and the hub's name in this test can only be reached
    // through it. Its storage is on a loopback address, which uses no proxy.
    let env = [
        ("HF_ENDPOINT", proxied),
        ("HF_HUB_CACHE", cache),
        ("HTTP_PROXY", &*setup.hub.url),
        ("NO_PROXY", "127.0.0.1"),
    ];
    let output = run(&["download", "org/name"], &env).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let names: Vec<_> = setup.hub.take_seen().into_iter().map(|seen| seen.path).collect();
    assert!(names.contains(&"listing main".to_owned()), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_directory_is_put_in_the_place_of_its_signs() {
    let setup = with_demo().await;
    let (home, work) =
        (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let home_path = home.path().to_str().expect("utf-8");
    for (variable, value, below) in [
        ("HF_HUB_CACHE", "~/hub", "hub"),
        ("HUGGINGFACE_HUB_CACHE", "${HOME}/older", "older"),
        ("HF_HOME", "$HOME/home", "home/hub"),
        ("XDG_CACHE_HOME", "~/xdg", "xdg/huggingface/hub"),
        ("HOME", home_path, ".cache/huggingface/hub"),
    ] {
        let mut command = command(&["download", "org/name"]);
        command.env("HF_ENDPOINT", &setup.hub.url).env("HOME", home_path).env(variable, value);
        command.current_dir(work.path());
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("runs");
        let output = output.expect("runs");
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let folder = home.path().join(below).join("models--org--name/snapshots").join(COMMITS[0]);
        assert_eq!(stdout(&output).trim_end(), folder.to_string_lossy(), "{variable}={value}");
        assert!(folder.join("model.safetensors").is_file(), "{variable}={value}");
        assert_eq!(super::names(work.path()), [""; 0], "{variable}={value}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_python_would_do_and_the_server_does_not_is_said() {
    let setup = with_demo().await;
    let cache = setup.cache.path().to_str().expect("utf-8");
    let env = [
        ("HF_ENDPOINT", &*setup.hub.url),
        ("HF_HUB_CACHE", cache),
        ("HF_HUB_ENABLE_HF_TRANSFER", "1"),
        ("DO_NOT_TRACK", "1"),
        ("HF_HUB_DISABLE_SYMLINKS", "1"),
    ];
    let output = run(&["download", "org/name"], &env).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let log = stderr(&output);
    assert!(
        log.contains("set, but not used here") && log.contains("HF_HUB_ENABLE_HF_TRANSFER"),
        "{log}"
    );
    assert!(!log.contains("DO_NOT_TRACK"), "{log}");
    let folder = stdout(&output);
    let weights = std::path::Path::new(folder.trim_end()).join("model.safetensors");
    assert!(fs::symlink_metadata(weights).expect("is there").is_file());
    // The cache is used with either of the variables.
    for offline in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
        setup.hub.take_seen();
        let output = run(&["download", "org/name"], &[env[0], env[1], (offline, "1")]).await;
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(setup.hub.take_seen().is_empty());
    }
}

/// A proxy's sign-in page instead of the hub.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_place_of_the_hub_is_named() {
    let page = axum::Router::new().fallback(|| async { "<!DOCTYPE html><title>Sign in</title>" });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let server = tokio::spawn(async move { axum::serve(listener, page).await.expect("serves") });
    let output =
        run(&["download", "org/name"], &[("HF_ENDPOINT", &*url), ("HF_HOME", "/nowhere")]).await;
    assert_eq!(output.status.code(), Some(1));
    let log = stderr(&output);
    assert!(log.contains("cannot be read: this is an HTML page"), "{log}");
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lazy_model_is_fetched_when_it_is_asked_for() {
    let setup = with_demo().await;
    let cache = setup.cache.path().to_str().expect("utf-8");
    let env = [("HF_ENDPOINT", &*setup.hub.url), ("HF_HUB_CACHE", cache)];
    let args = ["--model", "demo", "--model", "mine=org/name,load=lazy"];
    let server = tokio::task::block_in_place(|| Server::start_with(&args, &env));
    let client = client();
    let ready = client.get(format!("{}/health/ready", server.url)).send().await.expect("answers");
    assert_eq!(ready.status(), StatusCode::OK, "it counts as ready");
    let is_empty = || fs::read_dir(cache).expect("a folder").next().is_none();
    assert!(is_empty(), "nobody asked for it");
    let embed = async || {
        let body = serde_json::json!({"model": "mine", "input": "a cat"});
        let answer = client.post(format!("{}/v1/embeddings", server.url)).json(&body).send().await;
        answer.expect("answers")
    };
    let first = embed().await;
    assert_eq!(first.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(first.headers().contains_key("retry-after"));
    let fetched = async { while embed().await.status() != StatusCode::OK {} };
    tokio::time::timeout(std::time::Duration::from_secs(120), fetched).await.expect("fetched");

    // What the cache has is described at the start, and the hub is not asked.
    setup.hub.stop();
    let server = tokio::task::block_in_place(|| Server::start_with(&args, &env));
    let body = serde_json::json!({"model": "mine", "input": "a cat"});
    let request = client.post(format!("{}/v1/embeddings", server.url)).json(&body);
    assert_eq!(request.send().await.expect("answers").status(), StatusCode::OK);
}
