//! Models that are loaded when they are needed and unloaded when they are idle, in a server process.

use std::{fs, time::Duration};

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    app::client,
    process::{Server, run, stderr},
};

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tiny");
const CAT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images/cat.png");

/// Maximum time that a test waits for an event.
const LONG: Duration = Duration::from_secs(120);

/// A server with an admin listener.
struct Running {
    server: Server,
    admin: String,
    client: Client,
}

/// A response: its status, its `Retry-After` and its body.
type Answer = (StatusCode, Option<String>, Value);

impl Running {
    fn start(args: &[&str]) -> Self {
        Self::start_with(args, &[])
    }

    fn start_with(args: &[&str], env: &[(&str, &str)]) -> Self {
        let server = Server::start_with(&[&["--admin-listen", "127.0.0.1:0"], args].concat(), env);
        let admin = server.announced("admin").trim_end_matches("/metrics").to_owned();
        Self { server, admin, client: client() }
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> Answer {
        let answer = request.send().await.expect("answers");
        let (status, headers) = (answer.status(), answer.headers().clone());
        let after = headers.get("retry-after").and_then(|value| value.to_str().ok());
        (status, after.map(str::to_owned), answer.json().await.expect("JSON"))
    }

    async fn embed(&self, model: &str, input: &Value) -> Answer {
        let body = json!({"model": model, "input": input});
        let url = format!("{}/v1/embeddings", self.server.url);
        self.ask(self.client.post(url).json(&body)).await
    }

    /// The embedding of a response that must be a success.
    async fn vector(&self, model: &str, input: &Value) -> Value {
        let (status, _, answer) = self.embed(model, input).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["data"][0]["embedding"].clone()
    }

    async fn order(&self, path: &str) -> Answer {
        self.ask(self.client.post(format!("{}/admin/models/{path}", self.admin))).await
    }

    async fn list(&self) -> Value {
        let (status, _, list) =
            self.ask(self.client.get(format!("{}/admin/models", self.admin))).await;
        assert_eq!(status, StatusCode::OK, "{list}");
        list
    }

    /// The states of a model's towers.
    async fn states(&self, model: &str) -> Vec<String> {
        let list = self.list().await;
        let models = list["models"].as_array().expect("models");
        let model = models.iter().find(|one| one["name"] == model).expect("the model");
        let towers = model["towers"].as_array().expect("towers");
        towers.iter().map(|tower| tower["state"].as_str().expect("text").to_owned()).collect()
    }

    async fn metric(&self, series: &str) -> f64 {
        let answer = self.client.get(format!("{}/metrics", self.admin)).send().await;
        let text = answer.expect("answers").text().await.expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{series} in {text}")).parse().expect("a number")
    }

    async fn is_ready(&self) -> bool {
        let asked = self.client.get(format!("{}/health/ready", self.server.url)).send().await;
        asked.expect("answers").status() == StatusCode::OK
    }
}

fn image() -> Value {
    use base64::Engine as _;
    let bytes = fs::read(CAT).expect("the image");
    json!({"image": base64::engine::general_purpose::STANDARD.encode(bytes)})
}

fn text() -> Value {
    json!("a cat")
}

/// A copy of a checkpoint that a test may change.
fn copy() -> (TempDir, String) {
    let folder = TempDir::new().expect("a folder");
    for entry in fs::read_dir(TINY).expect("the checkpoint") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name");
        fs::copy(&path, folder.path().join(name)).expect("copied");
    }
    let path = folder.path().display().to_string();
    (folder, path)
}

#[tokio::test]
async fn first_requests_bring_one_load_and_the_vectors_of_a_model_that_was_there() {
    let (lazy, eager) = (format!("lazy={TINY},load=lazy"), format!("eager={TINY}"));
    let running = Running::start(&["--model", &lazy, "--model", &eager]);
    // The model is known and ready, but uses no memory.
    assert!(running.is_ready().await);
    assert_eq!(running.states("lazy").await, ["unloaded", "unloaded"]);
    let info = running.client.get(format!("{}/info", running.server.url));
    let (_, _, info) = running.ask(info).await;
    let names: Vec<_> = info["models"].as_array().expect("models").iter().collect();
    assert_eq!((&names[0]["name"], &names[1]["name"]), (&json!("lazy"), &json!("eager")));
    // All fields except those that are measured at load.
    for field in ["revision", "dimension", "scoring", "image_size", "text_length"] {
        assert_eq!(names[0][field], names[1][field], "{field}");
    }
    let (image, text) = (image(), text());
    let first = futures::future::join_all((0..6).map(|number| {
        let input = if number % 2 == 0 { &image } else { &text };
        running.vector("lazy", input)
    }));
    let first = first.await;
    let expected = [running.vector("eager", &image).await, running.vector("eager", &text).await];
    for (number, vector) in first.iter().enumerate() {
        assert_eq!(*vector, expected[number % 2]);
    }
    assert_eq!(running.metric(r#"siglip_model_loads_total{model="lazy",result="ok"}"#).await, 1.0);
    let timed = running.metric(r#"siglip_model_load_duration_seconds_count{model="lazy"}"#).await;
    assert_eq!(timed, 1.0);
    // The fields that are measured at load are known now.
    let (_, _, info) =
        running.ask(running.client.get(format!("{}/info", running.server.url))).await;
    let [lazy, eager] = [&info["models"][0], &info["models"][1]];
    for field in ["matmul_precision", "parameters", "weight_bytes"] {
        assert_eq!(eager[field], lazy[field], "{field}");
    }
}

#[tokio::test]
async fn an_operator_unloads_one_tower_and_the_other_goes_on() {
    let model = format!("tiny={TINY}");
    // No cache, so that every vector is computed.
    let running = Running::start(&["--model", &model, "--cache-text-bytes", "0"]);
    let (image, text) = (image(), text());
    let before = [running.vector("tiny", &image).await, running.vector("tiny", &text).await];
    let (status, _, state) = running.order("tiny/unload?tower=vision").await;
    assert_eq!(status, StatusCode::OK, "{state}");
    assert_eq!(state["towers"][0]["state"], "unloaded");
    assert_eq!(state["towers"][0]["resident_bytes"], 0);
    assert_eq!(state["towers"][1]["state"], "loaded");
    assert_eq!(running.vector("tiny", &text).await, before[1]);
    assert_eq!(running.states("tiny").await, ["unloaded", "loaded"]);
    assert_eq!(running.metric(r#"siglip_towers_loaded{model="tiny",tower="image"}"#).await, 0.0);
    // The same bit for bit after one tower was loaded again, and after both were.
    assert_eq!(running.vector("tiny", &image).await, before[0]);
    assert_eq!(running.order("tiny/unload").await.0, StatusCode::OK);
    assert_eq!(running.list().await["resident_bytes"], 0);
    assert_eq!(running.order("tiny/load?tower=text").await.0, StatusCode::OK);
    assert_eq!(running.states("tiny").await, ["unloaded", "loaded"]);
    assert_eq!([running.vector("tiny", &image).await, running.vector("tiny", &text).await], before);
    let series = r#"siglip_tower_unloads_total{model="tiny",reason="admin"}"#;
    assert_eq!(running.metric(series).await, 3.0);

    for (path, expected) in [
        ("other/load", StatusCode::NOT_FOUND),
        ("tiny/load?tower=audio", StatusCode::BAD_REQUEST),
        ("tiny/load?towers=text", StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(running.order(path).await.0, expected, "{path}");
    }
    let page = running.client.post(format!("{}/admin/models/tiny/unload", running.admin));
    let (status, ..) = running.ask(page.header("origin", "https://a.example")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    // Clients cannot reach these routes.
    let url = format!("{}/admin/models", running.server.url);
    assert_eq!(running.ask(running.client.get(url)).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_tower_that_is_idle_goes_by_itself() {
    let model = format!("tiny={TINY},load=lazy,idle=300ms");
    let running = Running::start(&["--model", &model, "--cache-text-bytes", "0"]);
    let (image, text) = (image(), text());
    let first = running.vector("tiny", &image).await;
    // The text tower is in use and stays, while the idle tower is unloaded.
    let alone = async {
        loop {
            running.vector("tiny", &text).await;
            if running.states("tiny").await == ["unloaded", "loaded"] {
                return;
            }
        }
    };
    tokio::time::timeout(LONG, alone).await.expect("the vision tower goes alone");
    assert_eq!(running.vector("tiny", &image).await, first);
    let both = async { while running.list().await["resident_bytes"] != 0 {} };
    tokio::time::timeout(LONG, both).await.expect("both go");
    assert!(running.is_ready().await);
}

#[tokio::test]
async fn a_load_that_fails_is_said_and_mended() {
    let (folder, path) = copy();
    let weights = folder.path().join("model.safetensors");
    let model = format!("copied={path},load=lazy");
    let running = Running::start(&["--model", "demo", "--model", &model]);
    let bytes = fs::read(&weights).expect("the weights");
    fs::remove_file(&weights).expect("removed");

    let (status, after, problem) = running.embed("copied", &text()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
    assert!(after.is_some());
    let said = problem.to_string();
    assert!(said.contains("not_ready") && said.contains("text tower cannot be loaded"), "{said}");
    assert!(!said.contains(&path), "a path of the server's: {said}");
    // Other models and the readiness probe are not affected.
    running.vector("demo", &text()).await;
    assert!(running.is_ready().await);
    assert_eq!(running.states("copied").await, ["failed", "failed"]);
    let series = r#"siglip_model_loads_total{model="copied",result="failed"}"#;
    assert_eq!(running.metric(series).await, 1.0);

    // Another checkpoint in its place is refused. An operator must fix this.
    let mut changed = bytes.clone();
    *changed.last_mut().expect("bytes") ^= 1;
    fs::write(&weights, changed).expect("written");
    let (status, _, problem) = running.order("copied/load").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
    assert!(problem.to_string().contains("has changed since the server started"), "{problem}");
    assert!(!running.is_ready().await);

    fs::write(&weights, bytes).expect("written");
    assert_eq!(running.order("copied/load").await.0, StatusCode::OK);
    running.vector("copied", &text()).await;
    assert!(running.is_ready().await);
}

#[tokio::test]
async fn a_request_tries_again_once_the_pause_is_over() {
    let (folder, path) = copy();
    let config = folder.path().join("config.json");
    let running = Running::start(&["--model", &format!("copied={path},load=lazy")]);
    let bytes = fs::read(&config).expect("the configuration");
    fs::remove_file(&config).expect("removed");
    assert_eq!(running.embed("copied", &text()).await.0, StatusCode::SERVICE_UNAVAILABLE);
    fs::write(&config, bytes).expect("written");
    let mended = async { while running.embed("copied", &text()).await.0 != StatusCode::OK {} };
    tokio::time::timeout(LONG, mended).await.expect("a later request loads it");
}

#[tokio::test]
async fn the_bound_on_memory_holds_and_the_least_recently_used_goes() {
    let models: Vec<_> = ["a", "b", "c"].map(|name| format!("{name}={TINY},load=lazy")).into();
    let one = Running::start(&["--model", &models[0]]);
    let weight_bytes = async || {
        let (_, _, info) = one.ask(one.client.get(format!("{}/info", one.server.url))).await;
        info["models"][0]["weight_bytes"].as_u64().expect("a number")
    };
    let (image, text) = (image(), text());
    let estimate = weight_bytes().await;
    one.vector("a", &text).await;
    // Two models fit, three do not.
    let bytes = weight_bytes().await + estimate;
    let bound = bytes.to_string();
    let mut args = vec!["--max-resident-bytes", &bound];
    models.iter().for_each(|model| args.extend(["--model", model]));
    let running = Running::start(&args);
    let first = running.vector("a", &image).await;
    running.vector("b", &image).await;
    running.vector("a", &text).await;
    running.vector("a", &image).await;
    running.vector("c", &image).await;
    assert_eq!(running.states("a").await, ["loaded", "loaded"]);
    let gone = running.metric(r#"siglip_tower_unloads_total{model="b",reason="memory"}"#).await;
    assert!(gone >= 1.0);
    let resident = running.list().await["resident_bytes"].as_u64().expect("a number");
    assert!(resident <= bytes, "{resident} of {bound}");
    assert_eq!(running.vector("b", &image).await, first);

    // The bound holds at the start, too: what may go makes room for what comes later in the list.
    let eager = models.iter().map(|model| model.replace("load=lazy", "idle=1h"));
    let eager: Vec<_> = eager.collect();
    let mut args = vec!["--max-resident-bytes", &bound];
    eager.iter().for_each(|model| args.extend(["--model", model]));
    let running = Running::start(&args);
    let resident = running.list().await["resident_bytes"].as_u64().expect("a number");
    assert!(resident <= bytes, "{resident} of {bound}");
    assert_eq!(running.states("c").await, ["loaded", "loaded"]);
    assert_eq!(running.vector("a", &image).await, first);

    let small = (estimate - 1).to_string();
    let args = ["--listen", "127.0.0.1:0", "--max-resident-bytes", &small, "--model", &models[0]];
    let refused = run(&args);
    assert_eq!(refused.status.code(), Some(1));
    let said = stderr(&refused);
    assert!(said.contains("the model `a` does not fit within --max-resident-bytes"), "{said}");
}

#[tokio::test]
async fn a_lazy_model_without_its_files_fails_the_start() {
    let args = ["--listen", "127.0.0.1:0", "--model", "demo", "--model", "b=/nowhere,load=lazy"];
    let output = tokio::task::spawn_blocking(move || run(&args)).await.expect("runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot load the model `/nowhere`"), "{}", stderr(&output));
}

#[tokio::test]
async fn replicas_come_and_go_together() {
    let (one, lazy) = (format!("one={TINY}"), format!("many={TINY},load=lazy"));
    let running = Running::start(&["--model", &lazy, "--replicas", "2", "--threads", "2"]);
    let alone = Running::start(&["--model", &one]);
    let (image, text) = (image(), text());
    let expected = [alone.vector("one", &image).await, alone.vector("one", &text).await];
    for _ in 0..2 {
        assert_eq!(
            [running.vector("many", &image).await, running.vector("many", &text).await],
            expected
        );
        assert_eq!(running.order("many/unload").await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn captions_are_the_same_after_their_towers_were_away() {
    const WRITER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/blip-captions");
    let running = Running::start(&["--model", &format!("writer={WRITER},load=lazy")]);
    let (image, url) = (image(), format!("{}/v1/captions", running.server.url));
    let body = json!({"images": [image["image"]], "max_new_tokens": 6});
    let caption = async || {
        let (status, _, answer) = running.ask(running.client.post(&url).json(&body)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["captions"][0]["token_ids"].clone()
    };
    let first = caption().await;
    // The caption writer belongs to the text tower, and each tower is loaded again separately.
    for order in ["writer/unload?tower=text", "writer/unload?tower=vision", "writer/unload"] {
        assert_eq!(running.order(order).await.0, StatusCode::OK);
        assert_eq!(caption().await, first, "{order}");
    }
    assert_eq!(running.states("writer").await, ["loaded", "loaded"]);
    let loads = running.metric(r#"siglip_model_loads_total{model="writer",result="ok"}"#).await;
    assert_eq!(loads, 5.0);
}

#[cfg(failpoints)]
#[tokio::test]
async fn a_lazy_model_whose_tower_breaks_is_replaced() {
    let model = format!("tiny={TINY},load=lazy");
    let broken = [("SIGLIP_FAILPOINT", "broken:4:1")];
    let running = Running::start_with(&["--model", &model], &broken);
    let mut failed = 0;
    for number in 0..8 {
        let (status, _, answer) = running.embed("tiny", &json!(format!("{number}"))).await;
        if status != StatusCode::OK {
            assert_eq!(answer["error"]["code"], "device_failed", "{answer}");
            failed += 1;
        }
    }
    assert_eq!(failed, 1);
    assert_eq!(running.metric(r#"siglip_worker_restarts_total{model="tiny"}"#).await, 1.0);
    assert_eq!(running.states("tiny").await, ["loaded", "loaded"]);
}
