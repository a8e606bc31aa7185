//! `POST /v1/classify`.

use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use super::{GREEN, RED, data_uri, png};
use crate::app::{Answer, TestApp};

const PATH: &str = "/v1/classify";

fn names(labels: &Value) -> Vec<&str> {
    let labels = labels.as_array().expect("labels").iter();
    labels.map(|label| label["label"].as_str().expect("a label")).collect()
}

#[tokio::test]
async fn labels_come_back_best_first() {
    let app = TestApp::start().await;
    let body = json!({
        "images": [data_uri(GREEN), data_uri(RED)], "labels": ["red", "green", "blue"],
    });
    let answer = app.post(PATH, body).await.ok();
    let results = &answer["results"];
    assert_eq!(names(&results[0])[0], "green");
    assert_eq!(names(&results[1])[0], "red");
    assert_eq!((&results[0][0]["index"], &results[1][0]["index"]), (&json!(1), &json!(0)));
    for labels in results.as_array().expect("results") {
        assert!(labels[0]["probability"].as_f64().expect("a number") > 0.9);
        assert!(labels[1]["probability"].as_f64().expect("a number") < 0.01);
        assert!(labels[1]["logit"].as_f64() >= labels[2]["logit"].as_f64());
    }
    let mut keys: Vec<_> = results[0][0].as_object().expect("an object").keys().collect();
    keys.sort();
    assert_eq!(keys, ["index", "label", "logit", "probability"]);
}

#[tokio::test]
async fn a_label_is_judged_on_its_own() {
    let app = TestApp::start().await;
    let ask = async |labels: Value| {
        let body = json!({"images": [data_uri(RED)], "labels": labels});
        app.post(PATH, body).await.ok()["results"][0][0].clone()
    };
    let (alone, among) = (ask(json!(["red"])).await, ask(json!(["blue", "red", "green"])).await);
    assert_eq!(alone["probability"], among["probability"]);
}

#[tokio::test]
async fn templates_and_top_k_are_heeded() {
    let app = TestApp::start().await;
    let body = json!({
        "images": [data_uri(RED)], "labels": ["red", "green", "blue"],
        "templates": ["{label}", "a {} thing"], "top_k": 2,
    });
    let answer = app.post(PATH, body).await.ok();
    assert_eq!(answer["results"][0].as_array().map(Vec::len), Some(2));
    // Two prompts per label: `red </s>` and `a red thing </s>`.
    assert_eq!(answer["usage"]["prompt_tokens"], 3 * (2 + 4));
    let one = json!({"images": [data_uri(RED)], "labels": ["red"], "templates": "{label}"});
    assert_eq!(app.post(PATH, one).await.ok()["usage"]["prompt_tokens"], 2);
}

#[tokio::test]
async fn a_form_or_stored_embeddings_say_the_same() {
    let app = TestApp::start().await;
    let body = json!({"images": [data_uri(RED)], "labels": ["red", "green"], "top_k": 1});
    let json = app.post(PATH, body).await.ok();
    let form = Form::new()
        .part("image", Part::bytes(png(RED)).file_name("red.png"))
        .text("label", "red")
        .text("label", "green")
        .text("top_k", "1");
    let form = Answer::of(app.request("POST", PATH).multipart(form)).await.ok();
    assert_eq!(form, json);
    let embedding = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.05, 0.1];
    let body = json!({"image_embeddings": [embedding], "labels": ["red", "green"], "top_k": 1});
    let stored = app.post(PATH, body).await.ok();
    assert_eq!(stored["results"][0][0]["label"], "red");
    assert_eq!(stored["usage"]["images"], 0);
}

#[tokio::test]
async fn only_labels_that_are_probable_enough_come_back() {
    let app = TestApp::start().await;
    let ask = async |least: Value| {
        let body = json!({
            "images": [data_uri(RED), data_uri(GREEN)], "labels": ["red", "green", "blue"],
            "min_probability": least,
        });
        app.post(PATH, body).await
    };
    let results = ask(json!(0.5)).await.ok()["results"].clone();
    assert_eq!((names(&results[0]), names(&results[1])), (vec!["red"], vec!["green"]));
    assert_eq!(ask(json!(0)).await.ok()["results"][0].as_array().map(Vec::len), Some(3));
    assert_eq!(ask(json!(1)).await.ok()["results"], json!([[], []]));
    assert_eq!(ask(Value::Null).await.ok()["results"][0].as_array().map(Vec::len), Some(3));
    for wrong in [json!(1.5), json!(-0.1), json!("half")] {
        let answer = ask(wrong).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert_eq!(answer.json()["field"], "min_probability");
    }
}
