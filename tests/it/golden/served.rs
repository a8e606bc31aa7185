//! A checkpoint of variable resolution over HTTP, against the same reference outputs.

use reqwest::{
    StatusCode,
    multipart::{Form, Part},
};
use serde_json::{Value, json};

use super::{
    grids::sources,
    reference::{Reference, assert_close, folder},
};
use crate::app::{Answer, TestApp};

const PATH: &str = "/v1/embeddings";
const NAME: &str = "naflex-down";

async fn serve(change: impl FnOnce(&mut siglip_server::config::Config)) -> (TestApp, Reference) {
    let app = TestApp::loading(change).await;
    app.load_checkpoint(&folder().join(NAME)).await;
    (app, Reference::open(&format!("{NAME}/expected.safetensors")))
}

fn data_uri(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", base64_simd::STANDARD.encode_to_string(png))
}

/// The concatenated rows of a response.
fn flat(answer: &Value) -> Vec<f32> {
    let data = answer["data"].as_array().expect("data");
    let rows = data.iter().map(|row| row["embedding"].clone());
    let rows = rows.map(|row| serde_json::from_value::<Vec<f32>>(row).expect("numbers"));
    rows.collect::<Vec<_>>().concat()
}

#[tokio::test]
async fn a_request_chooses_the_resolution() {
    let (app, expected) = serve(|_| ()).await;
    let pictures = sources(&expected);
    let input: Vec<_> = pictures.iter().map(|png| json!({"image": data_uri(png)})).collect();
    for (count, name) in [
        (Value::Null, "vision.pooled"),
        (json!(1), "pooled_at.1"),
        (json!(6), "pooled_at.6"),
        (json!(12), "vision.pooled"),
        (json!(36), "pooled_at.36"),
    ] {
        // Images of many shapes in one request, in the order of the request.
        let body = json!({"input": input, "normalized": false, "max_num_patches": count});
        let answer = app.post(PATH, body).await.ok();
        assert_close(name, &flat(&answer), &expected.floats(name).1);
    }
}

#[tokio::test]
async fn every_way_to_send_a_picture_carries_the_option() {
    let (app, expected) = serve(|_| ()).await;
    let pictures = sources(&expected);
    let (shape, reference) = expected.floats("pooled_at.6");
    let query = format!("{PATH}?max_num_patches=6&normalized=false");
    let raw = app.request("POST", &query).header("content-type", "image/png");
    let raw = Answer::of(raw.body(pictures[0].clone())).await.ok();
    let file = Part::bytes(pictures[0].clone()).file_name("a.png");
    let form = Form::new().text("max_num_patches", "6").text("normalized", "false");
    let form = app.request("POST", PATH).multipart(form.part("image", file));
    for answer in [raw, Answer::of(form).await.ok()] {
        assert_close("one picture", &flat(&answer), &reference[..shape[1]]);
    }
}

#[tokio::test]
async fn a_stream_of_rows_has_one_resolution() {
    let (app, expected) = serve(|_| ()).await;
    let row = |(id, png): (usize, &Vec<u8>)| json!({"id": id, "image": data_uri(png)}).to_string();
    let lines: Vec<_> = sources(&expected).iter().enumerate().map(row).collect();
    let send = async |query: &str| {
        let path = format!("/v1/bulk/embeddings?{query}");
        let request = app.request("POST", &path).header("content-type", "application/x-ndjson");
        Answer::of(request.body(lines.join("\n"))).await
    };
    let answer = send("normalized=false&max_num_patches=6").await;
    let rows = answer.text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let rows = rows.filter(|row| row["embedding"].is_array());
    let rows = rows.map(|row| serde_json::from_value::<Vec<f32>>(row["embedding"].clone()));
    let rows: Vec<_> = rows.map(|row| row.expect("numbers")).collect();
    assert_close("pooled_at.6", &rows.concat(), &expected.floats("pooled_at.6").1);
    let refused = send("max_num_patches=0").await;
    assert_eq!(refused.json()["field"], "max_num_patches");
}

#[tokio::test]
async fn pairs_are_scored_at_the_chosen_resolution() {
    let (app, expected) = serve(|_| ()).await;
    let pictures = sources(&expected);
    let images: Vec<_> = pictures.iter().map(|png| data_uri(png)).collect();
    let texts = expected.list("texts");
    let body = json!({"images": images, "texts": texts, "scores": ["logit"]});
    let answer = app.post("/v1/similarity", body).await.ok();
    let logits: Vec<Vec<f32>> = serde_json::from_value(answer["logit"].clone()).expect("rows");
    assert_close("logits", &logits.concat(), &expected.floats("logits").1);

    let scored = async |count: u32| {
        let body = json!({"images": images, "texts": ["a cat"], "max_num_patches": count});
        let answer = app.post("/v1/similarity", body).await.ok();
        serde_json::from_value::<Vec<Vec<f32>>>(answer["probability"].clone()).expect("rows")
    };
    let judged = async |count: u32| {
        let labels = json!({"labels": ["a cat"], "templates": "{label}", "max_num_patches": count});
        let mut body = labels;
        body["images"] = json!(images);
        app.post("/v1/classify", body).await.ok()
    };
    let (few, many) = (scored(2).await, scored(12).await);
    assert_ne!(few, many);
    for (rows, judged) in [(few, judged(2).await), (many, judged(12).await)] {
        for (row, result) in rows.iter().zip(judged["results"].as_array().expect("results")) {
            let probability = result[0]["probability"].as_f64().expect("a number");
            assert!((f64::from(row[0]) - probability).abs() < 1e-6);
        }
    }
    for (path, key) in [("/v1/similarity", "text"), ("/v1/classify", "label")] {
        let file = Part::bytes(pictures[0].clone()).file_name("a.png");
        let form = Form::new().part("image", file).text(key, "a cat").text("max_num_patches", "0");
        let refused = Answer::of(app.request("POST", path).multipart(form)).await;
        assert_eq!(refused.json()["field"], "max_num_patches", "{path}");
    }
}

#[tokio::test]
async fn features_have_each_pictures_own_grid() {
    let (app, expected) = serve(|_| ()).await;
    let images: Vec<_> = sources(&expected).iter().map(|png| data_uri(png)).collect();
    let answer = app.post("/v1/features", json!({"images": images})).await.ok();
    let grids = expected.integers("spatial_shapes");
    let (shape, reference) = expected.floats("vision.last_hidden_state");
    let maps = answer["data"].as_array().expect("data");
    assert_eq!(maps.len(), grids.len());
    for (index, (map, grid)) in maps.iter().zip(grids).enumerate() {
        assert_eq!(map["grid"], json!(grid));
        let tokens = serde_json::from_value::<Vec<Vec<f32>>>(map["features"].clone());
        let values = tokens.expect("tokens").concat();
        let row = &reference[index * shape[1] * shape[2]..][..values.len()];
        assert_close("last_hidden_state", &values, row);
    }
    let few = json!({"images": images, "output": "pooled", "max_num_patches": 6});
    let few = app.post("/v1/features", few).await.ok();
    let rows = few["data"].as_array().expect("data").iter().map(|map| map["features"].clone());
    let rows = rows.map(|row| serde_json::from_value::<Vec<f32>>(row).expect("numbers"));
    let pooled = expected.floats("pooled_at.6").1;
    assert_close("pooled_at.6", &rows.collect::<Vec<_>>().concat(), &pooled);
}

#[tokio::test]
async fn the_limit_holds_and_the_models_own_number_is_always_allowed() {
    let (app, expected) = serve(|config| config.limits.max_num_patches = 5).await;
    let image = data_uri(&sources(&expected)[0]);
    let ask = async |count: Value| {
        let body = json!({"images": [image], "texts": ["a cat"], "max_num_patches": count});
        app.post("/v1/similarity", body).await
    };
    for good in [1, 5, 12] {
        ask(json!(good)).await.ok();
    }
    for bad in [json!(0), json!(13), json!(-1), json!(1.5), json!("12"), json!(u64::MAX)] {
        let refused = ask(bad.clone()).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{bad}: {}", refused.text);
        assert_eq!(refused.json()["code"], "invalid_request");
        assert_eq!(refused.json()["field"], "max_num_patches", "{bad}");
    }
    let info = app.get("/info").await.ok();
    assert_eq!(info["limits"]["max_num_patches"], 5);
    let model = &info["models"][0];
    assert_eq!((&model["max_num_patches"], &model["patch_size"]), (&json!(12), &json!(4)));
    assert_eq!((&model["image_size"], &model["family"]), (&Value::Null, &json!("siglip2")));
}

#[tokio::test]
async fn a_model_of_one_size_refuses_the_option() {
    let app = TestApp::start().await;
    let rows = json!([[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]);
    for (path, mut body) in [
        (PATH, json!({"input": {"image": "aGk="}})),
        ("/v1/similarity", json!({"image_embeddings": rows, "texts": ["red"]})),
        ("/v1/classify", json!({"image_embeddings": rows, "labels": ["red"]})),
        ("/v1/features", json!({"input": "aGk="})),
    ] {
        body["max_num_patches"] = json!(256);
        let answer = app.post(path, body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
        assert!(answer.text.contains("reads images of one size only"), "{}", answer.text);
        assert!(answer.text.contains("\"max_num_patches\""), "{}", answer.text);
    }
    let null = json!({"input": "red", "max_num_patches": null});
    app.post(PATH, null).await.ok();
}

#[tokio::test]
async fn resolutions_are_cached_apart() {
    let (app, expected) = serve(|config| config.cache.image_bytes = 1 << 20).await;
    let image = json!({"image": data_uri(&sources(&expected)[0])});
    let mut rows = Vec::new();
    // The model's own number has the same result as no number.
    for count in [Value::Null, json!(6), json!(12), json!(6)] {
        let body = json!({"input": [image], "max_num_patches": count});
        rows.push(flat(&app.post(PATH, body).await.ok()));
    }
    assert_eq!((&rows[0], &rows[1]), (&rows[2], &rows[3]));
    assert_ne!(rows[0], rows[1]);
    assert_eq!(app.metric("siglip_cache_misses_total{cache=\"image\"}").await, 2.0);
}
