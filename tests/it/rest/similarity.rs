//! `POST /v1/similarity`.

use reqwest::multipart::{Form, Part};
use serde_json::json;

use super::{BLUE, GREEN, RED, assert_close, cosine, data_uri, encoded, png, rows};
use crate::{
    app::{Answer, TestApp},
    fake::{DIM, HEAD},
};

const PATH: &str = "/v1/similarity";

#[tokio::test]
async fn matching_pairs_are_near_one_and_others_near_zero() {
    let app = TestApp::start().await;
    let body = json!({
        "images": [data_uri(RED), data_uri(GREEN)], "texts": ["red", "green", "a blue car"],
    });
    let answer = app.post(PATH, body).await.ok();
    assert_eq!(answer["shape"], json!([2, 3]));
    assert_eq!(answer["usage"]["images"], 2);
    let (cosines, logits) = (rows(&answer["cosine"]), rows(&answer["logit"]));
    for (row, probabilities) in rows(&answer["probability"]).iter().enumerate() {
        for (column, &probability) in probabilities.iter().enumerate() {
            assert_eq!(probability > 0.9, row == column, "{row} {column}: {probability}");
            assert_eq!(probability < 0.01, row != column);
            let (cosine, logit) = (cosines[row][column], logits[row][column]);
            assert!((HEAD.logit(cosine).expect("of a cosine") - logit).abs() < 1e-3);
            assert!((1.0 / (1.0 + (-logit).exp()) - probability).abs() < 1e-5);
        }
    }
    let mut keys: Vec<_> = answer.as_object().expect("an object").keys().collect();
    keys.sort();
    assert_eq!(keys, ["cosine", "logit", "model", "probability", "scoring", "shape", "usage"]);
}

#[tokio::test]
async fn only_the_scores_asked_for_come_back() {
    let app = TestApp::start().await;
    let body = json!({"images": [data_uri(RED)], "texts": ["red"], "scores": ["logit", "logit"]});
    let answer = app.post(PATH, body).await;
    assert_eq!(answer.text.matches("\"logit\"").count(), 1);
    let answer = answer.ok();
    assert!(answer["logit"].is_array());
    assert!(answer["cosine"].is_null() && answer["probability"].is_null());
}

#[tokio::test]
async fn stored_embeddings_score_like_fresh_ones() {
    let app = TestApp::start().await;
    let (images, texts) = ([data_uri(RED), data_uri(BLUE)], ["blue", "green"]);
    let fresh = app.post(PATH, json!({"images": images, "texts": texts})).await.ok();

    let embed = async |input: serde_json::Value, normalized: bool| {
        let body = json!({"input": input, "normalized": normalized});
        let answer = app.post("/v1/embeddings", body).await.ok();
        let data = answer["data"].as_array().expect("data").iter();
        data.map(|object| super::floats(&object["embedding"])).collect::<Vec<_>>()
    };
    let tagged: Vec<_> = images.iter().map(|image| json!({"image": image})).collect();
    // Stored rows may be normalised or not. The score is the same.
    let image_rows = embed(json!(tagged), false).await;
    let text_rows = embed(json!(texts), true).await;
    let numbers = json!({"image_embeddings": image_rows, "text_embeddings": text_rows});
    let stored = app.post(PATH, numbers).await.ok();
    let text: Vec<_> = text_rows.iter().map(|row| encoded(row)).collect();
    let half = json!({"images": images, "text_embeddings": text});
    let half = app.post(PATH, half).await.ok();
    for answer in [stored, half] {
        for kind in ["cosine", "logit", "probability"] {
            let pairs = rows(&answer[kind]).into_iter().zip(rows(&fresh[kind]));
            pairs.for_each(|(given, fresh)| {
                for (given, fresh) in given.iter().zip(&fresh) {
                    assert!((given - fresh).abs() < 1e-4, "{kind}: {given} is not {fresh}");
                }
            });
        }
    }
}

/// Reproducible pseudo-random rows, without a structure that could hide a mistake.
fn noise(rows: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut state = seed;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..rows).map(|_| (0..DIM).map(|_| next()).collect()).collect()
}

#[tokio::test]
async fn a_large_answer_is_streamed_and_whole() {
    let app = TestApp::start().await;
    // 3 x 1200 x 1100 scores: more than one chunk of the engine, so chunks are joined.
    let (images, texts) = (noise(1200, 1), noise(1100, 2));
    let body = json!({"image_embeddings": images, "text_embeddings": texts});
    let answer = app.post(PATH, body).await;
    assert_eq!(answer.header("content-length"), "", "a streamed answer has no length");
    assert_eq!(app.metric("siglip_pairs_total").await, 1_320_000.0);
    let answer = answer.ok();
    let cosines = rows(&answer["cosine"]);
    assert_eq!((cosines.len(), rows(&answer["probability"]).len()), (1200, 1200));
    for (row, column) in [(0, 0), (1199, 1099), (953, 7), (954, 1), (600, 600)] {
        let expected = cosine(&images[row], &texts[column]);
        assert!((f64::from(cosines[row][column]) - expected).abs() < 1e-5);
    }
    assert!(cosines.iter().all(|row| row.len() == 1100));
}

#[tokio::test]
async fn a_form_compares_files_with_texts() {
    let app = TestApp::start().await;
    let form = Form::new()
        .part("image", Part::bytes(png(GREEN)).file_name("green.png"))
        .text("text", "green")
        .text("text", "red")
        .text("scores", "cosine");
    let answer = Answer::of(app.request("POST", PATH).multipart(form)).await.ok();
    let json =
        json!({"images": [data_uri(GREEN)], "texts": ["green", "red"], "scores": ["cosine"]});
    let json = app.post(PATH, json).await.ok();
    assert_close(&rows(&answer["cosine"])[0], &rows(&json["cosine"])[0]);
}
