//! The Open Inference Protocol over REST.

use super::*;

const INFER: &str = "/v2/models/colours/infer";

fn input(name: &str, datatype: &str, shape: Value, data: Value) -> Value {
    json!({"name": name, "datatype": datatype, "shape": shape, "data": data})
}

fn output(answer: &Value, name: &str) -> (Value, Vec<f32>) {
    let outputs = answer["outputs"].as_array().expect("outputs");
    let found = outputs.iter().find(|output| output["name"] == name).expect(name);
    assert_eq!(found["datatype"], "FP32");
    (found["shape"].clone(), floats(&found["data"]))
}

#[tokio::test]
async fn pictures_and_texts_have_embeddings_and_scores() {
    let app = TestApp::start().await;
    let inputs = json!([
        input("TEXT", "BYTES", json!([2, 1]), json!([["red"], ["green"]])),
        input("IMAGE", "BYTES", json!([1]), json!([data_uri(RED)])),
    ]);
    let answer = app.post(INFER, json!({"id": "7", "inputs": inputs})).await.ok();
    assert_eq!((&answer["id"], &answer["model_version"]), (&json!("7"), &json!("1")));
    let (shape, rows) = output(&answer, "EMBEDDING");
    assert_eq!(shape, json!([3, 8]));
    let expected = native(&app, json!([{"image": data_uri(RED)}, "red", "green"])).await;
    assert_close(&rows, &expected.concat());
    let (shape, scores) = output(&answer, "PROBABILITY");
    assert_eq!(shape, json!([1, 2]));
    let expected = [probability(&app, RED, "red").await, probability(&app, RED, "green").await];
    assert_close(&scores, &expected);

    let body = json!({"inputs": inputs, "outputs": [{"name": "LOGIT"}, {"name": "LOGIT"}]});
    let answer = app.post(INFER, body).await.ok();
    assert_eq!(answer["outputs"].as_array().expect("outputs").len(), 1);
}

#[tokio::test]
async fn prepared_pixels_and_ids_are_what_the_server_makes_itself() {
    let app = TestApp::start().await;
    // 4 x 4 blue pixels, normalised by 0.5 and 0.5.
    let blue: Vec<f32> = [-1.0, -1.0, 1.0].iter().flat_map(|&value| [value; 16]).collect();
    let inputs = json!([input("PIXEL_VALUES", "FP32", json!([1, 3, 4, 4]), json!(blue))]);
    let answer = app.post(INFER, json!({"inputs": inputs})).await.ok();
    let expected = native(&app, json!([{"image": data_uri(BLUE)}])).await;
    assert_close(&output(&answer, "EMBEDDING").1, &expected[0]);
    // `blue </s>`, padded by the server.
    let inputs = json!([input("INPUT_IDS", "INT64", json!([1, 2]), json!([[5, 1]]))]);
    let answer = app.post(INFER, json!({"inputs": inputs})).await.ok();
    assert_close(&output(&answer, "EMBEDDING").1, &native(&app, json!(["blue"])).await[0]);
}

#[tokio::test]
async fn raw_tensors_stand_behind_the_json() {
    let app = TestApp::start().await;
    let picture = png(GREEN);
    let mut raw = (picture.len() as u32).to_le_bytes().to_vec();
    raw.extend(&picture);
    let head = json!({
        "inputs": [{
            "name": "IMAGE", "shape": [1], "datatype": "BYTES",
            "parameters": {"binary_data_size": raw.len()},
        }],
        "outputs": [{"name": "EMBEDDING", "parameters": {"binary_data": true}}],
    })
    .to_string();
    let request = |length: usize| {
        let body = [head.as_bytes(), &raw].concat();
        let request = app.request("POST", INFER).body(body);
        request.header("Inference-Header-Content-Length", length)
    };
    let answer = request(head.len()).send().await.expect("answers");
    assert_eq!(answer.status(), 200);
    let length = answer.headers()["inference-header-content-length"].to_str().expect("digits");
    let length: usize = length.parse().expect("a number");
    let body = answer.bytes().await.expect("a body");
    let head_of_answer: Value = serde_json::from_slice(&body[..length]).expect("JSON");
    assert_eq!(head_of_answer["outputs"][0]["parameters"]["binary_data_size"], 32);
    let (values, rest) = body[length..].as_chunks::<4>();
    assert!(rest.is_empty());
    let row: Vec<f32> = values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    assert_close(&row, &native(&app, json!([{"image": data_uri(GREEN)}])).await[0]);
    for wrong in [head.len() - 1, head.len() + 1, 1 << 40] {
        assert_eq!(Answer::of(request(wrong)).await.status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn tensors_that_do_not_fit_are_named() {
    let app = TestApp::start().await;
    for (tensor, name) in [
        (input("TEXT", "BYTES", json!([2]), json!(["red"])), "TEXT: "),
        (input("TEXT", "FP32", json!([1]), json!(["red"])), "TEXT: "),
        (input("IMAGE", "BYTES", json!([1]), json!(["https://example.com/a.png"])), "IMAGE[0]: "),
        (input("IMAGE", "BYTES", json!([1]), json!(["aGVsbG8="])), "IMAGE[0]: "),
        (input("PIXEL_VALUES", "FP32", json!([1, 3, 2, 4]), json!([0.0])), "PIXEL_VALUES: "),
        (
            input("PIXEL_VALUES", "FP32", json!([1, 3, 4, 4]), json!(vec![9.0; 48])),
            "PIXEL_VALUES[0]: ",
        ),
        (input("INPUT_IDS", "INT64", json!([1, 1]), json!([1_u64 << 40])), "INPUT_IDS[0]: "),
        (input("INPUT_IDS", "INT64", json!([1, 13]), json!(vec![3; 13])), "INPUT_IDS[0]: "),
        (input("AUDIO", "BYTES", json!([1]), json!(["a"])), "inputs: "),
        (json!({"name": "TEXT", "datatype": "BYTES", "shape": [1]}), "TEXT: "),
    ] {
        let answer = app.post(INFER, json!({"inputs": [tensor]})).await;
        assert!((400..500).contains(&answer.status.as_u16()), "{}", answer.text);
        let error = answer.json()["error"].as_str().expect("a text").to_owned();
        assert!(error.starts_with(name), "{name}{error}");
    }
    let one_side = json!([input("TEXT", "BYTES", json!([1]), json!(["red"]))]);
    let body = json!({"inputs": one_side, "outputs": [{"name": "PROBABILITY"}]});
    assert_eq!(app.post(INFER, body).await.status, 400);
}

#[tokio::test]
async fn servers_and_models_describe_themselves() {
    let app = TestApp::loading(|_| {}).await;
    assert_eq!(app.get("/v2/health/live").await.status, 200);
    assert_eq!(app.get("/v2/health/ready").await.status, 503);
    assert_eq!(app.get("/v2/models/colours/ready").await.status, 503);
    app.load().await;
    assert_eq!(app.get("/v2/health/ready").await.status, 200);
    assert_eq!(app.get("/v2/models/colours/ready").await.status, 200);
    let extensions = json!(["binary_tensor_data", "model_configuration"]);
    assert_eq!(app.get("/v2").await.ok()["extensions"], extensions);
    let metadata = app.get("/v2/models/colours").await.ok();
    insta::assert_json_snapshot!(metadata);
    let config = app.get("/v2/models/colours/config").await.ok();
    insta::assert_json_snapshot!("models_have_a_configuration_in_tritons_words", config);
    for path in ["", "/config", "/ready"] {
        let versioned = |version: &str| format!("/v2/models/colours/versions/{version}{path}");
        assert_eq!(app.get(&versioned("1")).await.status, 200, "{path}");
        assert_eq!(app.get(&versioned("2")).await.status, 404, "{path}");
        let unknown = app.get(&format!("/v2/models/clip{path}")).await;
        assert_eq!(unknown.status, 404, "{path}");
        assert!(unknown.json()["error"].is_string(), "{path}");
    }
    let inputs = json!([input("TEXT", "BYTES", json!([1]), json!(["red"]))]);
    for (version, status) in [("1", 200), ("7", 404)] {
        let path = format!("/v2/models/colours/versions/{version}/infer");
        assert_eq!(app.post(&path, json!({"inputs": inputs})).await.status, status);
    }
}
