//! `/score`, `/rerank` and their `/v1` forms.

use super::*;

fn scores(answer: &Value) -> Vec<f32> {
    let data = answer["data"].as_array().expect("data");
    data.iter().map(|object| object["score"].as_f64().expect("a number") as f32).collect()
}

#[tokio::test]
async fn one_query_or_one_for_each_document() {
    let app = TestApp::start().await;
    let image = |colour| json!({"content": [{"type": "image_url", "image_url": {"url": data_uri(colour)}}]});
    let expected = [probability(&app, RED, "red").await, probability(&app, BLUE, "red").await];
    let body = json!({"model": MODEL, "queries": "red", "documents": [image(RED), image(BLUE)]});
    for path in ["/score", "/v1/score"] {
        assert_close(&scores(&app.post(path, body.clone()).await.ok()), &expected);
    }
    // The same as several parts of one content, and with the image as the query.
    let content = json!({"content": [{"image": data_uri(RED)}, {"image": data_uri(BLUE)}]});
    let answer = app.post("/score", json!({"text_1": "red", "text_2": content})).await.ok();
    assert_close(&scores(&answer), &expected);
    let body = json!({"queries": [image(RED), image(BLUE)], "documents": ["red", "red"]});
    assert_close(&scores(&app.post("/score", body).await.ok()), &expected);
    let answer = app
        .post("/score", json!({"queries": ["red", "red"], "documents": ["red", "red", "red"]}))
        .await;
    assert_eq!(answer.json()["error"]["param"], "queries");
}

#[tokio::test]
async fn two_of_a_kind_have_a_similarity_and_no_probability() {
    let app = TestApp::start().await;
    let cosine = super::super::cosine(
        &native(&app, json!(["red"])).await[0],
        &native(&app, json!(["green"])).await[0],
    ) as f32;
    let answer =
        app.post("/score", json!({"queries": "red", "documents": ["green", "red"]})).await.ok();
    assert_close(&scores(&answer), &[cosine.midpoint(1.0), 1.0]);
    let (red, green) = (json!({"image": data_uri(RED)}), json!({"image": data_uri(GREEN)}));
    let answer = app.post("/score", json!({"queries": red, "documents": green})).await.ok();
    assert_close(&scores(&answer), &[cosine.midpoint(1.0)]);
}

#[tokio::test]
async fn documents_come_back_best_first() {
    let app = TestApp::start().await;
    let body =
        json!({"query": {"image": data_uri(RED)}, "documents": ["green", "red"], "top_n": 1});
    for path in ["/rerank", "/v1/rerank"] {
        let answer = app.post(path, body.clone()).await.ok();
        assert_eq!(answer["results"].as_array().expect("results").len(), 1);
        let best = &answer["results"][0];
        assert_eq!((&best["index"], &best["document"]["text"]), (&json!(1), &json!("red")));
        let score = best["relevance_score"].as_f64().expect("a number") as f32;
        assert!((score - probability(&app, RED, "red").await).abs() < 1e-5, "{score}");
        assert_eq!(answer["usage"]["images"], 1);
    }
    let mixed = json!({"query": "red", "documents": ["red", {"image": data_uri(RED)}]});
    let answer = app.post("/v1/rerank", mixed).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["error"]["param"]),
        (400, &json!("documents"))
    );
}

#[tokio::test]
async fn the_names_of_voyage_give_its_answer() {
    let app = TestApp::start().await;
    let body = json!({"query": "red", "documents": ["blue", "red", "green"]});
    let jina = app.post("/v1/rerank", body.clone()).await.ok();
    let mut voyage = body.clone();
    voyage["top_k"] = json!(2);
    voyage["return_documents"] = json!(true);
    let answer = app.post("/v1/rerank", voyage.clone()).await.ok();
    assert_eq!(
        (&answer["object"], answer["data"].as_array().map(Vec::len)),
        (&json!("list"), Some(2))
    );
    assert_eq!(answer["data"][0]["document"], "red");
    for place in [0, 1] {
        for key in ["index", "relevance_score"] {
            assert_eq!(answer["data"][place][key], jina["results"][place][key]);
        }
    }
    let mut truncated = body.clone();
    truncated["truncation"] = json!(true);
    let answer = app.post("/v1/rerank", truncated).await.ok();
    assert_eq!(answer["data"][2]["index"], jina["results"][2]["index"]);
    assert!(answer["data"][0].get("document").is_none());

    voyage["top_n"] = json!(2);
    let refused = app.post("/v1/rerank", voyage).await;
    assert_eq!(refused.json()["error"]["param"], "top_k");
    let texts = json!({"query": "red", "texts": ["blue"], "top_k": 1});
    assert_eq!(app.post("/rerank", texts).await.json()["code"], "invalid_request");
}

#[tokio::test]
async fn documents_come_back_from_cohere_where_they_are_asked_for() {
    let app = TestApp::start().await;
    let body = json!({"query": "red", "documents": ["blue", "red"], "return_documents": true});
    let answer = app.post("/v2/rerank", body).await.ok();
    assert_eq!(answer["results"][0]["document"], json!({"text": "red"}));
    let body = json!({"query": "red", "documents": ["blue", "red"]});
    let answer = app.post("/v2/rerank", body).await.ok();
    assert!(answer["results"][0].get("document").is_none());
}

#[tokio::test]
async fn documents_below_a_probability_are_left_out() {
    let app = TestApp::start().await;
    let red = json!({"image": data_uri(RED)});
    for path in ["/rerank", "/v1/rerank", "/v2/rerank"] {
        let ask = |least: f64| {
            json!({
                "model": MODEL, "query": red, "documents": ["green", "red", "blue"],
                "min_probability": least,
            })
        };
        let answer = app.post(path, ask(0.5)).await.ok();
        assert_eq!(answer["results"].as_array().map(Vec::len), Some(1), "{path}");
        assert_eq!(answer["results"][0]["index"], 1, "{path}");
        assert_eq!(
            app.post(path, ask(0.0)).await.ok()["results"].as_array().map(Vec::len),
            Some(3)
        );
        assert!(app.post(path, ask(2.0)).await.status.is_client_error(), "{path}");
        // Two texts have a similarity, but no probability.
        let texts = json!({
            "model": MODEL, "query": "red", "documents": ["red"], "min_probability": 0.1,
        });
        let refused = app.post(path, texts).await;
        assert!(refused.status.is_client_error(), "{path}");
        assert!(refused.text.contains("documents[0] has no probability"), "{path}");
    }
    let body = json!({"queries": red, "documents": ["green", "red"], "min_probability": 0.5});
    let answer = app.post("/score", body).await.ok();
    assert_eq!(answer["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(answer["data"][0]["index"], 1);
}
