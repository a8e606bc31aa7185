//! Each API has its own error format: for a URL, an unknown model, an empty request and invalid JSON.

use super::*;

#[tokio::test]
async fn each_api_refuses_in_its_own_envelope() {
    let app = TestApp::start().await;
    let url = "https://example.com/cat.png";
    let part = json!({"content": [{"type": "image_url", "image_url": {"url": url}}]});
    let cases = [
        ("/v1/embeddings", json!({"input": url, "modality": "image"}), json!({"input": []})),
        ("/v2/embed", json!({"images": [url]}), json!({"texts": []})),
        (
            "/v2/rerank",
            json!({"query": part, "documents": ["a"]}),
            json!({"query": "a", "documents": []}),
        ),
        ("/v1/multimodalembeddings", json!({"inputs": [part]}), json!({"inputs": []})),
        ("/embed", json!({"inputs": [part]}), json!({"inputs": []})),
        ("/rerank", json!({"query": part, "texts": ["a"]}), json!({"query": "a", "texts": []})),
        (
            "/v1/rerank",
            json!({"query": part, "documents": ["a"]}),
            json!({"query": "a", "documents": []}),
        ),
        (
            "/score",
            json!({"queries": part, "documents": "a"}),
            json!({"queries": [], "documents": []}),
        ),
        (
            "/",
            json!({"inputs": url, "parameters": {"candidate_labels": ["a"]}}),
            json!({"inputs": []}),
        ),
        ("/vectorize", json!({"images": [url]}), json!({})),
    ];
    let mut found = serde_json::Map::new();
    for (path, url, empty) in cases {
        let mut answers = vec![app.post(path, url).await, app.post(path, empty).await];
        let broken = app.request("POST", path).header("content-type", "application/json").body("{");
        answers.push(Answer::of(broken).await);
        let answers = answers.iter().map(|answer| {
            let mut body = answer.json();
            // Cohere's format contains the request id.
            if let Some(id) = body.as_object_mut().expect("an object").remove("id") {
                assert_eq!(id, answer.header("x-request-id"));
            }
            json!([answer.status.as_u16(), body])
        });
        found.insert(path.to_owned(), answers.collect());
    }
    insta::assert_json_snapshot!(found);
}
