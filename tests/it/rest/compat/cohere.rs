//! `POST /v2/embed` and `POST /v2/rerank`.

use super::*;

#[tokio::test]
async fn texts_pictures_and_inputs_give_the_native_vectors() {
    let app = TestApp::start().await;
    let body = json!({"model": MODEL, "input_type": "search_query", "texts": ["red", "green"]});
    let answer = app.post("/v2/embed", body).await.ok();
    assert_rows_close(
        &rows(&answer["embeddings"]["float"]),
        &native(&app, json!(["red", "green"])).await,
    );
    assert_eq!(answer["texts"], json!(["red", "green"]));
    assert_eq!(answer["meta"]["api_version"]["version"], "2");

    let body = json!({"images": [data_uri(BLUE)], "output_dimension": 4});
    let answer = app.post("/v2/embed", body).await.ok();
    let cut = app
        .post("/v1/embeddings", json!({"input": {"image": data_uri(BLUE)}, "dimensions": 4}))
        .await
        .ok();
    assert_close(&rows(&answer["embeddings"]["float"])[0], &floats(&cut["data"][0]["embedding"]));
    assert_eq!(answer["meta"]["billed_units"]["images"], 1);

    let inputs = json!([
        {"content": [{"type": "text", "text": "red"}]},
        {"content": [{"type": "image_url", "image_url": {"url": data_uri(RED)}}]},
    ]);
    let answer = app.post("/v2/embed", json!({"inputs": inputs})).await.ok();
    let items = json!([{"text": "red"}, {"image": data_uri(RED)}]);
    assert_rows_close(&rows(&answer["embeddings"]["float"]), &native(&app, items).await);
}

#[tokio::test]
async fn every_type_is_of_the_same_embedding() {
    let app = TestApp::start().await;
    let types = ["float", "int8", "uint8", "binary", "ubinary", "base64"];
    let body = json!({"texts": ["red"], "embedding_types": types});
    let embeddings = app.post("/v2/embed", body).await.ok()["embeddings"].clone();
    let row = native(&app, json!(["red"])).await.remove(0);
    let level: Vec<i64> = row.iter().map(|value| (value * 127.0).round() as i64).collect();
    assert_eq!(embeddings["int8"], json!([level]));
    let shifted: Vec<i64> = level.iter().map(|value| value + 128).collect();
    assert_eq!(embeddings["uint8"], json!([shifted]));
    // 1 0 0 0 1 1 0.05 0.1, scaled to length 1.
    assert_eq!(embeddings["ubinary"], json!([[0b1000_1111]]));
    assert_eq!(embeddings["binary"], json!([[0b1000_1111 - 128]]));
    assert_eq!(embeddings["base64"], json!([super::super::encoded(&row)]));
    assert_close(&rows(&embeddings["float"])[0], &row);
}

#[tokio::test]
async fn documents_are_ordered_by_probability() {
    let app = TestApp::start().await;
    let documents: Vec<_> =
        [GREEN, RED, BLUE].map(|colour| json!({"image": data_uri(colour)})).into();
    let body = json!({"model": MODEL, "query": "red", "documents": documents, "top_n": 2});
    let answer = app.post("/v2/rerank", body).await.ok();
    let results = answer["results"].as_array().expect("results");
    assert_eq!(results.len(), 2);
    assert_eq!(results[0]["index"], 1);
    let score = results[0]["relevance_score"].as_f64().expect("a number") as f32;
    assert!((score - probability(&app, RED, "red").await).abs() < 1e-5, "{score}");
}

#[tokio::test]
async fn the_first_version_answers_numbers_or_types() {
    let app = TestApp::start().await;
    let expected = native(&app, json!(["red", "green"])).await;
    let body = json!({"model": MODEL, "input_type": "search_query", "texts": ["red", "green"]});
    let answer = app.post("/v1/embed", body).await.ok();
    assert_eq!(answer["response_type"], "embeddings_floats");
    assert_rows_close(&rows(&answer["embeddings"]), &expected);
    assert_eq!(answer["texts"], json!(["red", "green"]));
    assert_eq!(answer["meta"]["api_version"]["version"], "1");

    let body = json!({"texts": ["red", "green"], "embedding_types": ["float"]});
    let answer = app.post("/v1/embed", body).await.ok();
    assert_eq!(answer["response_type"], "embeddings_by_type");
    assert_rows_close(&rows(&answer["embeddings"]["float"]), &expected);

    let refused = app.post("/v1/embed", json!({"texts": []})).await;
    assert!(refused.json()["message"].as_str().is_some_and(|said| said.starts_with("texts")));
}
