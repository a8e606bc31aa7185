//! BLIP-2 checkpoints over HTTP, against the same reference outputs.

use serde_json::{Value, json};
use siglip_server::embedding::Embedding;

use super::{
    blip_served::{RefusedAt, images, numbers, serve},
    reference::assert_close,
};

fn vectors(embedding: &Value) -> Vec<f32> {
    serde_json::from_value::<Vec<Vec<f32>>>(embedding.clone()).expect("vectors").concat()
}

fn normalized(values: &[f32], dim: usize) -> Vec<f32> {
    let vectors = values.chunks_exact(dim).map(|row| Embedding::new(row).normalized());
    vectors.flat_map(|row| row.as_slice().to_vec()).collect()
}

#[tokio::test]
async fn an_image_has_a_vector_for_each_query() {
    let (app, expected) = serve("blip2-retrieval").await;
    let (images, texts) = (images(&expected), expected.list("texts"));
    let input = json!([{"image": images[0]}, {"text": texts[0]}, {"image": images[2]}]);
    let body = json!({"input": input, "multi_vector": true});
    let answer = app.post("/v1/embeddings", body.clone()).await.ok();
    let pooled = normalized(&expected.floats("vision.pooled").1, 16);
    let image = |index: usize| &pooled[index * 80..(index + 1) * 80];
    assert_eq!(answer["data"][0]["embedding"].as_array().map(Vec::len), Some(5));
    assert_close("vectors", &vectors(&answer["data"][0]["embedding"]), image(0));
    assert_close("vectors", &vectors(&answer["data"][2]["embedding"]), image(2));
    let text: Vec<f32> =
        serde_json::from_value(answer["data"][1]["embedding"].clone()).expect("one vector");
    let own = normalized(&expected.floats("text.pooled").1[..16], 16);
    assert_close("a text", &text, &own);

    // In base64 the vectors are concatenated.
    let mut base64 = body.clone();
    base64["encoding_format"] = json!("base64");
    let answer = app.post("/v1/embeddings", base64).await.ok();
    assert_eq!(answer["data"][0]["shape"], json!([5, 16]));
    assert!(answer["data"][1].get("shape").is_none());
    let bytes = answer["data"][2]["embedding"].as_str().expect("a text");
    let bytes = base64_simd::STANDARD.decode_to_vec(bytes).expect("base64");
    let (values, _) = bytes.as_chunks();
    let values: Vec<_> = values.iter().map(|&value| f32::from_le_bytes(value)).collect();
    assert_close("base64", &values, image(2));

    // Each vector is truncated and scaled by itself.
    let cut = json!({"input": [{"image": images[0]}], "multi_vector": true, "dimensions": 6});
    let answer = app.post("/v1/embeddings", cut).await.ok();
    let whole = expected.floats("vision.pooled").1;
    let heads: Vec<f32> = whole[..80].chunks_exact(16).flat_map(|row| row[..6].to_vec()).collect();
    assert_close("cut", &vectors(&answer["data"][0]["embedding"]), &normalized(&heads, 6));

    // Without it an image is refused, and a text is not.
    let answer = app.post("/v1/embeddings", json!({"input": input})).await;
    assert_eq!(answer.status, 400, "{}", answer.text);
    assert!(answer.text.contains("multi_vector") && answer.text.contains("input[0]"));
    app.post("/v1/embeddings", json!({"input": texts[0]})).await.ok();
    for path in ["/v1/similarity", "/v1/classify"] {
        let body = json!({"images": images, "texts": ["a cat"], "labels": ["cat"]});
        let mut body = body;
        let other = if path.ends_with("classify") { "texts" } else { "labels" };
        body.as_object_mut().expect("an object").remove(other);
        app.post(path, body).await.ok();
    }
    let (app, _) = serve("blip-retrieval").await;
    let body = json!({"input": "a cat", "multi_vector": true});
    let refused = app.post("/v1/embeddings", body).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["error"]["param"]),
        (400, &json!("multi_vector"))
    );
}

#[tokio::test]
async fn pairs_have_the_largest_cosine_and_the_heads_logit() {
    for name in ["blip2-retrieval", "blip2-retrieval-odd"] {
        let (app, expected) = serve(name).await;
        let (images, texts) = (images(&expected), expected.list("texts"));
        let body = json!({"images": images, "texts": texts});
        let answer = app.post("/v1/similarity", body).await.ok();
        assert_eq!(answer["scoring"], "matching");
        let stored = expected.floats("cosines").1;
        assert_close("cosines", &numbers(&answer["cosine"]), &stored);
        assert_close("logits", &numbers(&answer["logit"]), &expected.floats("logits").1);
        let probabilities = expected.floats("probabilities").1;
        assert_close("probabilities", &numbers(&answer["probability"]), &probabilities);
        let zipped = json!({"images": images, "texts": texts[..3], "pairs": "zip"});
        let zipped = app.post("/v1/similarity", zipped).await.ok();
        let diagonal = |values: &[f32]| -> Vec<f32> {
            (0..3).map(|at| values[at * texts.len() + at]).collect()
        };
        assert_close("zipped", &numbers(&zipped["cosine"]), &diagonal(&stored));

        // The stored vectors of an image are concatenated to one row.
        let (shape, values) = expected.floats("vision.pooled");
        let row = &values[..shape[1]];
        let body = json!({"image_embeddings": [row], "texts": texts, "scores": ["cosine"]});
        let answer = app.post("/v1/similarity", body).await.ok();
        assert_close("stored", &numbers(&answer["cosine"]), &stored[..texts.len()]);
        let short = json!({"image_embeddings": [row[1..]], "texts": texts, "scores": ["cosine"]});
        app.post("/v1/similarity", short).await.refused_at("image_embeddings");

        let labels: Vec<_> = texts.iter().filter(|text| !text.is_empty()).collect();
        let body = json!({"images": images[..1], "labels": labels, "templates": "{label}"});
        let answer = app.post("/v1/classify", body).await.ok();
        for label in answer["results"][0].as_array().expect("labels") {
            let at = texts.iter().position(|text| label["label"] == **text).expect("a label");
            let probability = label["probability"].as_f64().expect("a number") as f32;
            assert!((probability - probabilities[at]).abs() < 1e-5, "{label}");
        }
    }
}

#[tokio::test]
async fn the_eyes_of_a_language_model_give_features() {
    let (app, expected) = serve("blip2-t5").await;
    let images = images(&expected);
    let ask = async |options: Value| {
        let mut body = options;
        body["input"] = json!(images);
        app.post("/v1/features", body).await
    };
    let values = |answer: &Value| -> Vec<f32> {
        let maps = answer["data"].as_array().expect("maps");
        maps.iter().flat_map(|map| vectors(&map["features"])).collect()
    };
    let states = ask(json!({"output": "qformer"})).await.ok();
    assert_eq!(states["data"][0]["shape"], json!([3, 24]));
    assert_eq!((&states["output"], &states["leading_tokens"]), (&json!("qformer"), &json!(0)));
    assert_close("queries", &values(&states), &expected.floats("queries").1);
    let projected = ask(json!({"output": "language_projection"})).await.ok();
    assert_eq!(projected["output"], "language_projection");
    assert_close("projection", &values(&projected), &expected.floats("vision.pooled").1);
    // The default is what the language model reads.
    assert_eq!(ask(json!({})).await.ok(), projected);
    let last = ask(json!({"output": "last_hidden_state"})).await.ok();
    assert_close("last", &values(&last), &expected.floats("vision.last_hidden_state").1);
    for path in ["/v1/embeddings", "/v1/similarity", "/v1/captions"] {
        let body = match path {
            "/v1/embeddings" => json!({"input": [{"image": images[0]}], "multi_vector": true}),
            "/v1/similarity" => json!({"images": images, "texts": ["a cat"]}),
            _ => json!({"images": images}),
        };
        let answer = app.post(path, body).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.text);
    }
    let info = app.get("/info").await.ok();
    assert!(info["model_type"]["embedding"]["pooling"].is_null(), "there is no text tower");
    let queries = &info["models"][0]["features"]["queries"];
    assert_eq!(queries, &json!({"count": 3, "width": 24, "are_for_language": true}));

    let (app, expected) = serve("blip2-retrieval").await;
    let info = app.get("/info").await.ok();
    assert_eq!(info["model_type"]["embedding"]["pooling"], "cls");
    let image = super::blip_served::images(&expected)[0].clone();
    for (output, status) in [("qformer", 200), ("pooled", 200), ("language_projection", 400)] {
        let answer = app.post("/v1/features", json!({"input": image, "output": output})).await;
        assert_eq!(answer.status, status, "{output}: {}", answer.text);
    }
    let (app, _) = serve("blip-retrieval").await;
    let answer = app.post("/v1/features", json!({"input": image, "output": "qformer"})).await;
    answer.refused_at("output");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_vectors_of_an_image_over_grpc_are_those_over_http() {
    use siglip_server::grpc::proto::{self, image::Source, input::Content};

    let server = super::features::Server::start("blip2-retrieval", |_| ()).await;
    let address = server.handle.grpc_addr().expect("gRPC is served");
    let address = format!("http://{address}");
    let client = proto::embedding_service_client::EmbeddingServiceClient::connect(address);
    let mut client = client.await.expect("connects");
    let picture = |bytes: Vec<u8>| proto::Input {
        content: Some(Content::Image(proto::Image { source: Some(Source::Encoded(bytes.into())) })),
    };
    let text = &server.expected.list("texts")[0];
    let input = vec![
        picture(server.pictures[0].clone()),
        proto::Input { content: Some(Content::Text(text.clone())) },
        picture(server.pictures[2].clone()),
    ];
    let request =
        proto::EmbedRequest { input: input.clone(), multi_vector: true, ..Default::default() };
    let answer = client.embed(request.clone()).await.expect("vectors").into_inner();
    assert_eq!(answer.vectors, [5, 1, 5]);
    let matrix = answer.embeddings.expect("a matrix");
    assert_eq!((matrix.rows, matrix.columns), (11, 16));
    let pooled = normalized(&server.expected.floats("vision.pooled").1, 16);
    let own = normalized(&server.expected.floats("text.pooled").1[..16], 16);
    let wanted = [&pooled[..80], &own, &pooled[160..240]].concat();
    assert_close("vectors", &matrix.values, &wanted);

    // Each vector is truncated and scaled by itself, and a failed item has one row of NaN.
    let mut request = request;
    request.input.insert(1, picture(vec![0; 9]));
    request.dimensions = Some(6);
    request.on_error = proto::OnError::Item.into();
    let answer = client.embed(request.clone()).await.expect("vectors").into_inner();
    assert_eq!(answer.vectors, [5, 1, 1, 5]);
    let matrix = answer.embeddings.expect("a matrix");
    assert_eq!((matrix.rows, matrix.columns, matrix.values.len()), (12, 6, 72));
    let whole = server.expected.floats("vision.pooled").1;
    let heads: Vec<f32> = whole[..80].chunks_exact(16).flat_map(|row| row[..6].to_vec()).collect();
    assert_close("cut", &matrix.values[..30], &normalized(&heads, 6));
    assert!(matrix.values[30..36].iter().all(|value| value.is_nan()));
    assert_eq!((answer.errors.len(), answer.errors[0].index), (1, 1));
    request.input.truncate(2);
    request.input.remove(0);
    let answer = client.embed(request).await.expect("an error").into_inner();
    assert_eq!((answer.vectors, answer.errors.len()), (vec![1], 1));

    // Without the option images are refused, and a model with one vector refuses the option.
    let request = proto::EmbedRequest { input: input[..1].to_vec(), ..Default::default() };
    let status = client.embed(request).await.expect_err("several vectors");
    assert!(status.message().contains("multi_vector"), "{status}");
    server.stop().await;
    let server = super::features::Server::start("blip-retrieval", |_| ()).await;
    let address = server.handle.grpc_addr().expect("gRPC is served");
    let address = format!("http://{address}");
    let client = proto::embedding_service_client::EmbeddingServiceClient::connect(address);
    let request = proto::EmbedRequest { input, multi_vector: true, ..Default::default() };
    let status = client.await.expect("connects").embed(request).await.expect_err("one vector");
    assert_eq!(status.metadata().get("siglip-field").expect("a field"), "multi_vector");
    server.stop().await;
}
