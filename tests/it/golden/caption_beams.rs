//! Beam search for captions over HTTP and gRPC, against transformers' `generate`.

use serde_json::{Value, json};
use siglip_server::grpc::proto;

use super::{
    blip_served::{RefusedAt, images, serve},
    features::Server,
};

/// The stored searches.
fn searches(texts: Vec<String>) -> Vec<Value> {
    let stored = texts.into_iter().map(|text| serde_json::from_str::<Value>(&text).expect("JSON"));
    stored.filter(|stored| stored.get("num_beams").is_some()).collect()
}

/// The body that asks for a stored search.
fn body(images: &[String], stored: &Value) -> Value {
    let image = &images[stored["image"].as_u64().expect("an index") as usize];
    let mut body = json!({"images": [image]});
    let options = [
        "prompt",
        "max_new_tokens",
        "num_beams",
        "length_penalty",
        "early_stopping",
        "repetition_penalty",
    ];
    for option in options {
        body[option] = stored[option].clone();
    }
    body
}

#[tokio::test]
async fn searches_find_what_generate_finds() {
    for name in ["blip-captions", "blip-captions-untied"] {
        let (app, expected) = serve(name).await;
        let images = images(&expected);
        let searches = searches(expected.list("texts"));
        assert!(searches.len() >= 40);
        let mut others = 0;
        for stored in &searches {
            let body = body(&images, stored);
            let caption = app.post("/v1/captions", body.clone()).await.ok()["captions"][0].clone();
            let found = (&caption["token_ids"], &caption["text"]);
            assert_eq!(found, (&stored["ids"], &stored["text"]), "{name} {stored}");
            let greedy =
                json!({"images": body["images"], "prompt": body["prompt"], "max_new_tokens": 12});
            let greedy = app.post("/v1/captions", greedy).await.ok();
            others += usize::from(greedy["captions"][0]["token_ids"] != stored["ids"]);
        }
        assert!(
            others > 10,
            "only {others} searches find another caption than the likeliest tokens"
        );
        // Several images at once, each with beams of its own.
        let stored = &searches[0];
        let mut together = body(&images, stored);
        together["images"] = json!(images);
        let answer = app.post("/v1/captions", together.clone()).await.ok();
        for (index, image) in images.iter().enumerate() {
            let mut alone = together.clone();
            alone["images"] = json!([image]);
            let alone = app.post("/v1/captions", alone).await.ok();
            assert_eq!(answer["captions"][index], alone["captions"][0]);
        }
    }
}

#[tokio::test]
async fn a_search_that_means_nothing_is_refused() {
    let (app, expected) = serve("blip-captions").await;
    let image = &images(&expected)[0];
    for (options, field) in [
        (json!({"num_beams": 0}), "num_beams"),
        (json!({"num_beams": 9}), "num_beams"),
        (json!({"num_beams": 2, "temperature": 0.7}), "num_beams"),
        (json!({"num_beams": 2, "seed": 1}), "num_beams"),
        (json!({"num_beams": 2, "stream": true}), "num_beams"),
        (json!({"length_penalty": 2.0}), "length_penalty"),
        (json!({"num_beams": 2, "length_penalty": 11}), "length_penalty"),
        (json!({"early_stopping": "never"}), "early_stopping"),
    ] {
        let mut body = options.clone();
        body["images"] = json!([image]);
        let answer = app.post("/v1/captions", body).await;
        assert_eq!(answer.status, 400, "{options}: {}", answer.text);
        answer.refused_at(field);
    }
    let body = json!({"images": [image], "num_beams": 2, "early_stopping": "soon"});
    assert_eq!(app.post("/v1/captions", body).await.status, 400);
    // Without sampling, the options are those of the greedy caption.
    let body = json!({"images": [image], "num_beams": 2, "temperature": 0.0});
    app.post("/v1/captions", body).await.ok();
}

#[tokio::test]
async fn admission_counts_every_beam() {
    let app = crate::app::TestApp::loading(|config| config.limits.max_items_in_flight = 7).await;
    app.load_checkpoint(&super::reference::folder().join("blip-captions")).await;
    let expected = super::reference::Reference::open("blip-captions/expected.safetensors");
    let image = &images(&expected)[0];
    let ask = async |beams: usize| {
        app.post("/v1/captions", json!({"images": [image], "num_beams": beams})).await.status
    };
    assert_eq!(ask(7).await, 200);
    assert!(!ask(8).await.is_success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn searches_over_grpc_are_those_over_http() {
    let server = Server::start("blip-captions", |_| ()).await;
    let address = server.handle.grpc_addr().expect("gRPC is served");
    let address = format!("http://{address}");
    let client = proto::embedding_service_client::EmbeddingServiceClient::connect(address);
    let mut client = client.await.expect("connects");
    for stored in searches(server.expected.list("texts")).iter().take(10) {
        let image = stored["image"].as_u64().expect("an index") as usize;
        let source = proto::image::Source::Encoded(server.pictures[image].clone().into());
        let stopping = match &stored["early_stopping"] {
            Value::Bool(true) => proto::EarlyStopping::True,
            Value::Bool(false) => proto::EarlyStopping::False,
            _ => proto::EarlyStopping::Never,
        };
        let request = proto::CaptionRequest {
            images: vec![proto::Image { source: Some(source) }],
            prompt: stored["prompt"].as_str().map(str::to_owned),
            max_new_tokens: Some(12),
            num_beams: stored["num_beams"].as_u64().map(|beams| beams as u32),
            length_penalty: stored["length_penalty"].as_f64().map(|power| power as f32),
            repetition_penalty: stored["repetition_penalty"].as_f64().map(|power| power as f32),
            early_stopping: stopping.into(),
            ..Default::default()
        };
        let answer = client.caption(request.clone()).await.expect("a caption").into_inner();
        assert_eq!(json!(answer.captions[0].token_ids), stored["ids"], "{stored}");
        let status = client.caption_stream(request).await.expect_err("not token by token");
        assert_eq!(status.metadata().get("siglip-field").expect("a field"), "num_beams");
    }
    server.stop().await;
}
