//! Routes in other servers' formats: the values are those of the native routes.

mod cohere;
mod envelopes;
mod immich;
mod oip;
mod ollama;
mod paths;
mod rerank;
mod tei;
mod voyage;
mod weaviate;

use serde_json::{Value, json};

use super::{BLUE, GREEN, RED, assert_close, data_uri, floats, png, rows};
use crate::app::{Answer, MODEL, TestApp};

/// The vectors of texts and images, from the native route.
async fn native(app: &TestApp, items: Value) -> Vec<Vec<f32>> {
    let answer = app.post("/v1/embeddings", json!({"input": items})).await.ok();
    let data = answer["data"].as_array().expect("data");
    data.iter().map(|object| floats(&object["embedding"])).collect()
}

/// The probability that an image shows a colour, from the native route.
async fn probability(app: &TestApp, picture: [u8; 3], text: &str) -> f32 {
    let body = json!({"images": [data_uri(picture)], "texts": [text]});
    let answer = app.post("/v1/similarity", body).await.ok();
    rows(&answer["probability"])[0][0]
}

fn assert_rows_close(a: &[Vec<f32>], b: &[Vec<f32>]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert_close(a, b);
    }
}
