//! BLIP checkpoints over HTTP, against the same reference outputs.

use std::io::Cursor;

use image::{ImageFormat, RgbImage};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::reference::{Reference, assert_close, cosines, folder};
use crate::app::{Answer, TestApp};

async fn serve(name: &str) -> (TestApp, Reference) {
    let app = TestApp::loading(|_| ()).await;
    app.load_checkpoint(&folder().join(name)).await;
    (app, Reference::open(&format!("{name}/expected.safetensors")))
}

/// The stored images as files of the size that the model reads.
fn images(expected: &Reference) -> Vec<String> {
    let uri = |pixels: siglip_server::preprocess::Pixels| {
        let image = RgbImage::from_raw(pixels.width, pixels.height, pixels.data.to_vec());
        let mut png = Cursor::new(Vec::new());
        image.expect("its size").write_to(&mut png, ImageFormat::Png).expect("an image");
        format!("data:image/png;base64,{}", base64_simd::STANDARD.encode_to_string(png.get_ref()))
    };
    expected.pixels().into_iter().map(uri).collect()
}

trait RefusedAt {
    /// Expects a problem document that names a field.
    fn refused_at(&self, field: &str);
}

impl RefusedAt for Answer {
    fn refused_at(&self, field: &str) {
        assert_eq!(self.status, StatusCode::BAD_REQUEST, "{}", self.text);
        assert_eq!(self.json()["field"], field, "{}", self.text);
    }
}

fn numbers(matrix: &Value) -> Vec<f32> {
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

    // Of stored embeddings there are cosines, and nothing else.
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
    // Drawn tokens follow from the seed.
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
