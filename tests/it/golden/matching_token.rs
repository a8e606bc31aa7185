//! The option `matching_token`, over every route that scores pairs, against transformers with each of the two tokens.

use serde_json::{Value, json};
use siglip_server::{config::MatchingToken, grpc::proto};

use super::{
    blip_served::{RefusedAt, images, numbers, serve},
    features::Server,
    reference::assert_close,
};
use crate::app::Answer;

/// The server with `[ENC]` as its default, so that both values of the option differ from what the other would give.
async fn start() -> Server {
    Server::start("blip-retrieval", |config| config.model.matching_token = MatchingToken::Enc).await
}

async fn post(server: &Server, path: &str, body: &Value) -> Answer {
    let url = format!("http://{}{path}", server.handle.http_addr());
    Answer::of(crate::app::client().post(url).json(body)).await
}

/// The body with the option, and without it for `None`.
fn with(body: &Value, token: Option<&str>) -> Value {
    let mut body = body.clone();
    if let Some(token) = token {
        body["matching_token"] = json!(token);
    }
    body
}

/// What each value of the option gives with a server whose default is `[ENC]`.
const TOKENS: [(Option<&str>, &str); 3] =
    [(None, "enc"), (Some("cls"), "cls"), (Some("enc"), "enc")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_chooses_the_token_over_http() {
    let server = start().await;
    let expected = &server.expected;
    let (images, texts) = (images(expected), expected.list("texts"));
    let columns = texts.len();
    for (token, stored) in TOKENS {
        let logits = expected.floats(&format!("{stored}.logits")).1;
        let probabilities = expected.floats(&format!("{stored}.probabilities")).1;
        let body = json!({"images": images, "texts": texts});
        let answer = post(&server, "/v1/similarity", &with(&body, token)).await.ok();
        assert_close("logits", &numbers(&answer["logit"]), &logits);
        assert_close("probabilities", &numbers(&answer["probability"]), &probabilities);

        let body = json!({"images": images[..1], "labels": [texts[0]], "templates": "{label}"});
        let answer = post(&server, "/v1/classify", &with(&body, token)).await.ok();
        let found = answer["results"][0][0]["logit"].as_f64().expect("a number") as f32;
        assert_close("a label", &[found], &logits[..1]);

        let documents: Vec<_> = images.iter().map(|image| json!({"image": image})).collect();
        let body = json!({"query": texts[0], "documents": documents});
        for path in ["/rerank", "/v1/rerank", "/v2/rerank"] {
            let answer = post(&server, path, &with(&body, token)).await.ok();
            for result in answer["results"].as_array().expect("results") {
                let at = result["index"].as_u64().expect("an index") as usize;
                let score = result["relevance_score"].as_f64().expect("a number") as f32;
                assert_close(path, &[score], &probabilities[at * columns..=at * columns]);
            }
        }
        let body = json!({"queries": texts[0], "documents": documents[..1]});
        let answer = post(&server, "/score", &with(&body, token)).await.ok();
        let score = answer["data"][0]["score"].as_f64().expect("a number") as f32;
        assert_close("score", &[score], &probabilities[..1]);

        let tensor = |name: &str, data: &[String]| json!({"name": name, "datatype": "BYTES", "shape": [data.len()], "data": data});
        let body = json!({"inputs": [tensor("IMAGE", &images), tensor("TEXT", &texts)], "outputs": [{"name": "LOGIT"}]});
        let parameters = json!({"parameters": with(&json!({}), token)});
        let mut body = body;
        body["parameters"] = parameters["parameters"].clone();
        let answer = post(&server, "/v2/models/blip-retrieval/infer", &body).await.ok();
        let found: Vec<f32> =
            serde_json::from_value(answer["outputs"][0]["data"].clone()).expect("numbers");
        assert_close("tensors", &found, &logits);
        body["outputs"] = json!([{"name": "EMBEDDING"}]);
        let answer = post(&server, "/v2/models/blip-retrieval/infer", &body).await;
        assert_eq!(answer.status.is_success(), token.is_none(), "{}", answer.text);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_chooses_the_token_over_grpc() {
    let server = start().await;
    let expected = &server.expected;
    let texts = expected.list("texts");
    let address = server.handle.grpc_addr().expect("gRPC is served");
    let address = format!("http://{address}");
    let client = proto::embedding_service_client::EmbeddingServiceClient::connect(address);
    let mut client = client.await.expect("connects");
    let source = |png: &Vec<u8>| proto::Image {
        source: Some(proto::image::Source::Encoded(png.clone().into())),
    };
    let images: Vec<_> = server.pictures.iter().map(source).collect();
    for (token, stored) in TOKENS {
        let logits = expected.floats(&format!("{stored}.logits")).1;
        let token = match token {
            None => proto::MatchingToken::Unspecified,
            Some("cls") => proto::MatchingToken::Cls,
            Some(_) => proto::MatchingToken::Enc,
        };
        let request = proto::SimilarityRequest {
            images: images.clone(),
            texts: texts.clone(),
            matching_token: token.into(),
            ..Default::default()
        };
        let answer = client.similarity(request).await.expect("scores").into_inner();
        assert_close("logits", &answer.logit.expect("logits").values, &logits);
        let request = proto::ClassifyRequest {
            images: images[..1].to_vec(),
            labels: vec![texts[0].clone()],
            templates: vec!["{label}".to_owned()],
            matching_token: token.into(),
            ..Default::default()
        };
        let answer = client.classify(request).await.expect("labels").into_inner();
        assert_close("a label", &[answer.images[0].scores[0].logit], &logits[..1]);
    }
    let request = proto::SimilarityRequest {
        images: images[..1].to_vec(),
        texts: texts[..1].to_vec(),
        matching_token: 9,
        ..Default::default()
    };
    let status = client.similarity(request).await.expect_err("no such token");
    assert_eq!(status.metadata().get("siglip-field").expect("a field"), "matching_token");
    server.stop().await;
}

#[tokio::test]
async fn a_model_without_this_choice_refuses_the_option() {
    for name in ["blip2-retrieval", "clip-tiny", "tiny"] {
        let (app, expected) = serve(name).await;
        let image = &images(&expected)[0];
        let body = json!({"images": [image], "texts": ["a cat"], "matching_token": "cls"});
        app.post("/v1/similarity", body).await.refused_at("matching_token");
        let body = json!({"images": [image], "labels": ["cat"], "matching_token": "enc"});
        app.post("/v1/classify", body).await.refused_at("matching_token");
        let tensor = |name: &str, data: &str| json!({"name": name, "datatype": "BYTES", "shape": [1], "data": [data]});
        let body = json!({
            "inputs": [tensor("IMAGE", image), tensor("TEXT", "a cat")],
            "outputs": [{"name": "LOGIT"}], "parameters": {"matching_token": "cls"},
        });
        let refused = app.post("/v2/models/colours/infer", body).await;
        assert_eq!(refused.status, 400, "{}", refused.text);
        assert!(refused.text.contains("matching_token"), "{}", refused.text);
    }
}
