//! BLIP checkpoints over HTTP, against the same reference outputs.

use std::io::Cursor;

use image::{ImageFormat, RgbImage};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::reference::{Reference, assert_close, cosines, folder};
use crate::app::{Answer, TestApp};

pub(super) async fn serve(name: &str) -> (TestApp, Reference) {
    let app = TestApp::loading(|_| ()).await;
    app.load_checkpoint(&folder().join(name)).await;
    (app, Reference::open(&format!("{name}/expected.safetensors")))
}

/// The stored images as files of the size that the model reads.
pub(super) fn images(expected: &Reference) -> Vec<String> {
    let uri = |pixels: siglip_server::preprocess::Pixels| {
        let image = RgbImage::from_raw(pixels.width, pixels.height, pixels.data.to_vec());
        let mut png = Cursor::new(Vec::new());
        image.expect("its size").write_to(&mut png, ImageFormat::Png).expect("an image");
        format!("data:image/png;base64,{}", base64_simd::STANDARD.encode_to_string(png.get_ref()))
    };
    expected.pixels().into_iter().map(uri).collect()
}

pub(super) trait RefusedAt {
    /// Expects a problem document that names a field.
    fn refused_at(&self, field: &str);
}

impl RefusedAt for Answer {
    fn refused_at(&self, field: &str) {
        assert_eq!(self.status, StatusCode::BAD_REQUEST, "{}", self.text);
        assert_eq!(self.json()["field"], field, "{}", self.text);
    }
}

pub(super) fn numbers(matrix: &Value) -> Vec<f32> {
    serde_json::from_value::<Vec<Vec<f32>>>(matrix.clone()).expect("a matrix").concat()
}

#[tokio::test]
async fn pairs_are_judged_by_the_matching_head() {
    let (app, expected) = serve("blip-retrieval").await;
    let (images, texts) = (images(&expected), expected.list("texts"));
    let body = json!({"images": images, "texts": texts});
    let answer = app.post("/v1/similarity", body).await.ok();
    assert_eq!(answer["scoring"], "matching");
    assert_eq!(answer["shape"], json!([images.len(), texts.len()]));
    assert_close("logits", &numbers(&answer["logit"]), &expected.floats("cls.logits").1);
    let probabilities = expected.floats("cls.probabilities").1;
    assert_close("probabilities", &numbers(&answer["probability"]), &probabilities);
    let rows = |name: &str| {
        let (shape, values) = expected.floats(name);
        let rows = values.chunks_exact(shape[1]);
        rows.map(siglip_server::embedding::Embedding::new).collect::<Vec<_>>()
    };
    let own = cosines(&rows("vision.pooled"), &rows("text.pooled"));
    assert_close("cosines", &numbers(&answer["cosine"]), &own);

    let zipped = json!({"images": images, "texts": texts[..images.len()], "pairs": "zip"});
    let zipped = app.post("/v1/similarity", zipped).await.ok();
    assert_eq!(zipped["shape"], json!([images.len(), 1]));
    let diagonal = |values: &[f32]| -> Vec<f32> {
        (0..images.len()).map(|at| values[at * texts.len() + at]).collect()
    };
    assert_close("zipped", &numbers(&zipped["probability"]), &diagonal(&probabilities));
    assert_close("zipped cosines", &numbers(&zipped["cosine"]), &diagonal(&own));
    let uneven = json!({"images": images, "texts": texts, "pairs": "zip"});
    app.post("/v1/similarity", uneven).await.refused_at("pairs");

    // Stored embeddings only give cosines.
    let stored = rows("vision.pooled")[0].as_slice().to_vec();
    let body = json!({"image_embeddings": [stored], "texts": ["a cat"]});
    app.post("/v1/similarity", body.clone()).await.refused_at("scores");
    let mut cosine = body;
    cosine["scores"] = json!(["cosine"]);
    let answer = app.post("/v1/similarity", cosine).await.ok();
    assert_close("a stored cosine", &numbers(&answer["cosine"]), &own[..1]);
}

#[tokio::test]
async fn labels_and_documents_are_judged_by_the_matching_head() {
    let (app, expected) = serve("blip-retrieval").await;
    let (images, texts) = (images(&expected), expected.list("texts"));
    let probabilities = expected.floats("cls.probabilities").1;
    let labels: Vec<_> = texts.iter().filter(|text| !text.is_empty()).collect();
    let body = json!({"images": images[..1], "labels": labels, "templates": "{label}"});
    let answer = app.post("/v1/classify", body).await.ok();
    assert_eq!(answer["scoring"], "matching");
    for label in answer["results"][0].as_array().expect("labels") {
        let at = texts.iter().position(|text| label["label"] == **text).expect("a label");
        let probability = label["probability"].as_f64().expect("a number") as f32;
        assert!((probability - probabilities[at]).abs() < 1e-5, "{label}");
    }
    // Several templates: the mean of their probabilities.
    let body = json!({"images": images[..1], "labels": ["cat"], "templates": ["a {label}", "A  {label}!"]});
    let answer = app.post("/v1/classify", body).await.ok();
    let mean = f32::midpoint(probabilities[0], probabilities[1]);
    let found = answer["results"][0][0]["probability"].as_f64().expect("a number") as f32;
    assert!((found - mean).abs() < 1e-5, "{found} {mean}");

    let documents: Vec<_> = images.iter().map(|image| json!({"image": image})).collect();
    let body = json!({"query": texts[0], "documents": documents, "model": "test"});
    let ranked = app.post("/v1/rerank", body).await;
    if ranked.status == StatusCode::OK {
        for result in ranked.ok()["results"].as_array().expect("results") {
            let at = result["index"].as_u64().expect("an index") as usize;
            let score = result["relevance_score"].as_f64().expect("a number") as f32;
            assert!((score - probabilities[at * texts.len()]).abs() < 1e-5, "{result}");
        }
    }
    app.post("/v1/captions", json!({"images": images})).await.refused_at("model");
}

#[tokio::test]
async fn captions_are_written_and_streamed() {
    let (app, expected) = serve("blip-captions").await;
    let images = images(&expected);
    for stored in expected.list("texts") {
        let stored: Value = serde_json::from_str(&stored).expect("JSON");
        let image = &images[stored["image"].as_u64().expect("an index") as usize];
        if stored.get("num_beams").is_some() {
            continue;
        }
        let body = json!({
            "images": [image], "prompt": stored["prompt"], "max_new_tokens": stored["max_new_tokens"],
        });
        let caption = app.post("/v1/captions", body).await.ok()["captions"][0].clone();
        assert_eq!((&caption["token_ids"], &caption["text"]), (&stored["ids"], &stored["text"]));
        let ended = stored["ids"].as_array().expect("ids").last() == Some(&json!(21));
        assert_eq!(caption["finish_reason"], if ended { "stop" } else { "length" }, "{stored}");
    }
    // Several at once, with one that is no image, and the same again as events.
    let body = json!({"images": [images[1], "data:image/png;base64,AAAA", images[2]], "on_error": "item", "max_new_tokens": 3});
    let together = app.post("/v1/captions", body).await.ok();
    assert_eq!(together["captions"][1]["error"]["code"], "undecodable_image");
    assert_eq!(together["captions"][0]["token_ids"].as_array().map(Vec::len), Some(4));
    let body = json!({"images": [images[1]], "stream": true, "max_new_tokens": 3});
    let streamed = Answer::of(app.request("POST", "/v1/captions").json(&body)).await;
    assert_eq!(streamed.status, StatusCode::OK);
    assert_eq!(streamed.text.matches("event: token").count(), 3, "{}", streamed.text);
    let done = streamed.text.split("event: done\ndata: ").nth(1).expect("an end");
    let done: Value = serde_json::from_str(done.trim()).expect("JSON");
    assert_eq!(done["captions"][0], together["captions"][0]);
    // Sampled tokens depend only on the seed.
    let drawn = async |seed: u64| {
        let body = json!({"images": [images[0]], "seed": seed, "temperature": 3.0});
        app.post("/v1/captions", body).await.ok()["captions"][0]["token_ids"].clone()
    };
    assert_eq!(drawn(1).await, drawn(1).await);
    assert_ne!(drawn(1).await, drawn(2).await);
    for (field, value) in
        [("max_new_tokens", json!(0)), ("max_new_tokens", json!(1000)), ("top_p", json!(2))]
    {
        let mut body = json!({"images": [images[0]]});
        body[field] = value;
        app.post("/v1/captions", body).await.refused_at(field);
    }
    // The model has no embeddings of texts.
    let refused = app.post("/v1/embeddings", json!({"input": ["a cat"]})).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_rerank_judges_the_best_by_cosine_and_puts_the_others_behind() {
    let (app, expected) = serve("blip-retrieval").await;
    let (images, texts) = (images(&expected), expected.list("texts"));
    let columns = texts.len();
    let cosines = {
        let body = json!({"images": images[..1], "texts": texts, "scores": ["cosine"]});
        numbers(&app.post("/v1/similarity", body).await.ok()["cosine"])
    };
    let probabilities = &expected.floats("cls.probabilities").1[..columns];
    let mut by_cosine: Vec<usize> = (0..columns).collect();
    by_cosine.sort_by(|&a, &b| cosines[b].total_cmp(&cosines[a]));
    for (path, top) in [("/v1/rerank", Some(2)), ("/v2/rerank", Some(2)), ("/v1/rerank", None)] {
        let documents: Vec<_> = texts.iter().map(|text| json!({"text": text})).collect();
        let mut body = json!({"query": {"image": images[0]}, "documents": documents});
        if let Some(top) = top {
            body["rerank_top_k"] = json!(top);
        }
        let answer = app.post(path, body).await.ok();
        let judged = top.unwrap_or(columns);
        let results = answer["results"].as_array().expect("results");
        let places: Vec<usize> = results
            .iter()
            .map(|result| result["index"].as_u64().expect("a place") as usize)
            .collect();
        let scores: Vec<f32> = results
            .iter()
            .map(|result| result["relevance_score"].as_f64().expect("a number") as f32)
            .collect();
        assert!(scores.windows(2).all(|pair| pair[0] >= pair[1]), "{scores:?}");
        let mut best = by_cosine[..judged].to_vec();
        best.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
        assert_eq!(places[..judged], best, "{path}");
        assert_eq!(places[judged..], by_cosine[judged..], "{path}");
        for (place, score) in best.iter().zip(&scores) {
            assert!((score - probabilities[*place]).abs() < 1e-5);
        }
        assert!(scores[judged..].iter().all(|&score| score >= 0.0));
    }
    // Images for a text: the matching head scores the nearest images.
    let documents: Vec<_> = images.iter().map(|image| json!({"image": image})).collect();
    let body = json!({"query": texts[0], "documents": documents, "rerank_top_k": 0});
    let answer = app.post("/v1/rerank", body).await.ok();
    let first = answer["results"][0]["relevance_score"].as_f64().expect("a number");
    assert!(first > 0.0 && first <= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn captions_over_grpc_are_those_over_http() {
    use siglip_server::grpc::proto::{self, caption_stream_response::Message};

    let server = super::features::Server::start("blip-captions", |_| ()).await;
    let source = |png: &Vec<u8>| proto::Image {
        source: Some(proto::image::Source::Encoded(png.clone().into())),
    };
    let body = json!({"images": images(&server.expected), "prompt": "a cat", "max_new_tokens": 6});
    let url = format!("http://{}/v1/captions", server.handle.http_addr());
    let response = crate::app::client().post(url).json(&body).send().await.expect("answers");
    let over_http: Value = response.json().await.expect("JSON");
    let address = server.handle.grpc_addr().expect("gRPC is served");
    let client = proto::embedding_service_client::EmbeddingServiceClient::connect(format!(
        "http://{address}"
    ));
    let mut client = client.await.expect("connects");
    let request = proto::CaptionRequest {
        images: server.pictures.iter().map(source).collect(),
        prompt: Some("a cat".to_owned()),
        max_new_tokens: Some(6),
        ..Default::default()
    };
    let mut whole = client.caption(request.clone()).await.expect("captions").into_inner();
    assert_eq!(whole.captions.len(), 3);
    for (caption, own) in whole.captions.iter().zip(over_http["captions"].as_array().expect("3")) {
        assert_eq!(
            (&json!(caption.text), &json!(caption.token_ids)),
            (&own["text"], &own["token_ids"])
        );
        let reason = match caption.finish_reason() {
            proto::FinishReason::Stop => "stop",
            proto::FinishReason::Length => "length",
            proto::FinishReason::Unspecified => "",
        };
        assert_eq!(own["finish_reason"], reason);
    }
    let mut stream = client.caption_stream(request.clone()).await.expect("a stream").into_inner();
    let mut written = vec![Vec::new(); 3];
    let mut done = None;
    while let Some(message) = stream.message().await.expect("no error") {
        assert!(done.is_none(), "the answer is the last message");
        match message.message.expect("a message") {
            Message::Token(token) => written[token.index as usize].push(token.token_id),
            Message::Done(answer) => done = Some(answer),
        }
    }
    let mut done = done.expect("an answer");
    (whole.timings, done.timings) = (None, None);
    assert_eq!(done, whole);
    for (caption, written) in whole.captions.iter().zip(written) {
        assert!(caption.token_ids.ends_with(&written) && !written.is_empty());
    }
    // An image that fails has its own error, or fails the call.
    let broken = proto::Image { source: Some(proto::image::Source::Encoded(vec![0; 9].into())) };
    let mut request = request;
    request.images.push(broken);
    let status = client.caption(request.clone()).await.expect_err("a broken image");
    assert_eq!(status.metadata().get("siglip-field").expect("a field"), "images[3]");
    let mut stream = client.caption_stream(request.clone()).await.expect("a stream").into_inner();
    let ended = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => break None,
            Err(status) => break Some(status),
        }
    };
    assert_eq!(
        ended.expect("an error").metadata().get("siglip-field").expect("a field"),
        "images[3]"
    );
    request.on_error = proto::OnError::Item.into();
    let answer = client.caption(request).await.expect("captions").into_inner();
    assert_eq!((answer.captions.len(), answer.errors.len(), answer.errors[0].index), (4, 1, 3));
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn an_image_by_url_is_fetched_once_for_head_and_vectors() {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use axum::{Router, http::header, routing::get};

    let app = TestApp::loading(|config| {
        config.fetch.enabled = true;
        config.fetch.allow_http = true;
        config.fetch.allow_networks = "127.0.0.1".parse().expect("a network");
    })
    .await;
    app.load_checkpoint(&folder().join("blip-retrieval")).await;
    let expected = Reference::open("blip-retrieval/expected.safetensors");
    let (images, texts) = (images(&expected), expected.list("texts"));
    let png = images[0].split_once(',').expect("a data URI").1.to_owned();
    let png = base64_simd::STANDARD.decode_to_vec(png).expect("base64");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let answer = move || {
        count.fetch_add(1, Ordering::Relaxed);
        let png = png.clone();
        async move { ([(header::CONTENT_TYPE, "image/png")], png) }
    };
    let router = Router::new().route("/a.png", get(answer));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let url = format!("http://{}/a.png", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
    let body = |image: &str| json!({"images": [image], "texts": texts});
    let fetched = app.post("/v1/similarity", body(&url)).await.ok();
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    let mut sent = app.post("/v1/similarity", body(&images[0])).await.ok();
    sent["usage"] = fetched["usage"].clone();
    assert_eq!(fetched, sent);
    let body = json!({"query": "a cat", "documents": [{"image": url}]});
    app.post("/v1/rerank", body).await.ok();
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    let missing = url.replace("a.png", "b.png");
    let body = json!({"images": [url, missing], "texts": ["a cat"]});
    let refused = app.post("/v1/similarity", body).await;
    assert_eq!(refused.json()["field"], "images[1]", "{}", refused.text);
}

#[tokio::test]
async fn tensors_have_captions_and_the_heads_scores() {
    let (app, expected) = serve("blip-captions").await;
    let images = images(&expected);
    let image = json!({"name": "IMAGE", "datatype": "BYTES", "shape": [3], "data": images});
    let path = "/v2/models/colours/infer";
    let written = app.post("/v1/captions", json!({"images": images})).await.ok();
    let texts: Vec<_> =
        written["captions"].as_array().expect("3").iter().map(|one| one["text"].clone()).collect();
    let answer = app.post(path, json!({"inputs": [image]})).await.ok();
    assert_eq!(answer["outputs"][0]["name"], "EMBEDDING");
    let caption = json!({"name": "CAPTION", "shape": [3], "datatype": "BYTES", "data": texts});
    assert_eq!(answer["outputs"][1], caption);
    let outputs = json!([{"name": "CAPTION", "parameters": {"binary_data": true}}]);
    let raw = app.post(path, json!({"inputs": [image], "outputs": outputs})).await;
    assert_eq!(raw.status, StatusCode::OK);
    assert!(raw.text.contains(texts[0].as_str().expect("a text")), "{}", raw.text);
    let described = app.get("/v2/models/colours").await.ok();
    let names = |model: &Value| -> Vec<Value> {
        let outputs = model["outputs"].as_array().expect("outputs");
        outputs.iter().map(|output| output["name"].clone()).collect()
    };
    assert_eq!(names(&described), ["EMBEDDING", "CAPTION"]);
    let broken =
        json!({"name": "IMAGE", "datatype": "BYTES", "shape": [2], "data": [images[0], "AAAA"]});
    let refused =
        app.post(path, json!({"inputs": [broken], "outputs": [{"name": "CAPTION"}]})).await;
    assert!(!refused.status.is_success() && refused.text.contains("IMAGE[1]"), "{}", refused.text);

    let (app, expected) = serve("blip-retrieval").await;
    let (images, texts) = (self::images(&expected), expected.list("texts"));
    let image = json!({"name": "IMAGE", "datatype": "BYTES", "shape": [3], "data": images});
    let text = json!({"name": "TEXT", "datatype": "BYTES", "shape": [texts.len()], "data": texts});
    let answer = app.post(path, json!({"inputs": [image, text]})).await.ok();
    for (index, stage) in [(1, "cls.logits"), (2, "cls.probabilities")] {
        let output = &answer["outputs"][index];
        assert_eq!(output["shape"], json!([3, texts.len()]));
        let values: Vec<f32> = serde_json::from_value(output["data"].clone()).expect("numbers");
        assert_close(stage, &values, &expected.floats(stage).1);
    }
    let (app, expected) = serve("blip2-retrieval").await;
    let image = json!({"name": "IMAGE", "datatype": "BYTES", "shape": [1], "data": [images[0]]});
    let text = json!({"name": "TEXT", "datatype": "BYTES", "shape": [1], "data": [texts[0]]});
    let answer = app.post(path, json!({"inputs": [image, text]})).await.ok();
    assert_eq!(answer["outputs"][0]["name"], "LOGIT");
    let logit = answer["outputs"][0]["data"][0].as_f64().expect("a number") as f32;
    assert!((logit - expected.floats("logits").1[0]).abs() < 1e-4);
    let refused = app.post(path, json!({"inputs": [image]})).await;
    assert!(refused.text.contains("multi_vector"), "{}", refused.text);
}
