//! Rules for every route and every field in the OpenAPI document: null counts as absent, an error names the
//! field with the wrong value, and nothing is ignored without an error.

use std::collections::BTreeSet;

use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use super::{RED, data_uri, png};
use crate::app::{Answer, TestApp};

/// Good bodies for every route that takes JSON, with as many nested objects as it has.
fn bodies() -> Vec<(&'static str, Value)> {
    let image = data_uri(RED);
    let items = json!([
        {"type": "image_url", "image_url": {"url": image}},
        {"content": [{"type": "text", "text": "red"}]},
    ]);
    let images = json!([{"image": image}, {"content": [{"image": image}]}]);
    let embed = json!({"inputs": ["red", {"text": "green"}], "normalize": true, "parameters": {"truncate": true}});
    let similarity = json!({
        "inputs": {"source_sentence": {"text": "red"}, "sentences": ["green"]}, "parameters": {"normalize": true},
    });
    let zero_shot = json!({
        "inputs": image, "parameters": {"candidate_labels": ["red"], "hypothesis_template": "a {}"},
    });
    let rerank = json!({"query": {"text": "red"}, "documents": images, "top_n": 1});
    let score = json!({"queries": {"text": "red"}, "documents": items});
    let infer = json!({
        "id": "1", "parameters": {"normalized": true, "binary_data_output": false},
        "inputs": [{"name": "TEXT", "shape": [1], "datatype": "BYTES", "data": ["red"], "parameters": {"content_type": "str"}}],
        "outputs": [{"name": "EMBEDDING", "parameters": {"binary_data": false}}],
    });
    vec![
        (
            "/v1/embeddings",
            json!({"input": ["red", {"image": image}], "dimensions": 4, "user": "u"}),
        ),
        (
            "/v1/embeddings",
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "red"}]}]}),
        ),
        ("/v1/features", json!({"input": [{"image": image}], "output": "pooled"})),
        ("/v1/similarity", json!({"images": [image], "texts": ["red"], "scores": ["cosine"]})),
        (
            "/v1/similarity",
            json!({"image_embeddings": [[1, 0, 0, 0, 0, 0, 0, 0]], "texts": ["red"]}),
        ),
        (
            "/v1/classify",
            json!({"images": [image], "labels": ["red"], "templates": "a {label}", "top_k": 1}),
        ),
        (
            "/v1/captions",
            json!({"images": [image], "prompt": "a", "max_new_tokens": 2, "stream": false}),
        ),
        (
            "/v2/embed",
            json!({"texts": ["red"], "embedding_types": ["float"], "input_type": "search_query"}),
        ),
        ("/v2/embed", json!({"inputs": items, "output_dimension": 4})),
        ("/v2/rerank", rerank.clone()),
        ("/v1/embed", json!({"texts": ["red"], "input_type": "search_query", "truncate": "END"})),
        ("/api/embed", json!({"model": "colours", "input": ["red"], "truncate": true})),
        ("/api/embeddings", json!({"model": "colours", "prompt": "red"})),
        (
            "/v1/multimodalembeddings",
            json!({"inputs": items, "output_dtype": "float", "truncation": true}),
        ),
        ("/embed", embed.clone()),
        ("/similarity", similarity.clone()),
        ("/", embed),
        ("/", similarity),
        ("/", zero_shot),
        ("/rerank", rerank.clone()),
        ("/rerank", json!({"query": "red", "texts": ["green"], "raw_scores": true})),
        ("/v1/rerank", rerank),
        ("/score", score.clone()),
        ("/v1/score", score),
        ("/v2/models/{model}/infer", infer.clone()),
        ("/v2/models/{model}/versions/{version}/infer", infer),
        ("/vectorize", json!({"texts": ["red"], "images": [image]})),
    ]
}

fn address(path: &str) -> String {
    path.replace("{model}", "colours").replace("{version}", "1")
}

struct Document(Value);

/// A member of a body: its position as a JSON pointer, and its schema.
struct Member {
    pointer: String,
    name: String,
    schema: Value,
}

impl Document {
    async fn of(app: &TestApp) -> Self {
        Self(app.get("/openapi.json").await.ok())
    }

    fn posts(&self) -> Vec<(String, &Value)> {
        self.operations("post")
    }

    fn gets(&self) -> Vec<(String, &Value)> {
        self.operations("get")
    }

    fn operations(&self, method: &str) -> Vec<(String, &Value)> {
        let paths = self.0["paths"].as_object().expect("paths").iter();
        paths.filter_map(|(path, methods)| Some((path.clone(), methods.get(method)?))).collect()
    }

    fn resolve<'d>(&'d self, schema: &'d Value) -> &'d Value {
        match schema["$ref"].as_str() {
            Some(name) => {
                self.resolve(self.0.pointer(name.trim_start_matches('#')).expect("a schema"))
            }
            None => schema,
        }
    }

    fn variants<'d>(&'d self, schema: &'d Value) -> Vec<&'d Value> {
        let schema = self.resolve(schema);
        let several =
            ["oneOf", "anyOf", "allOf"].into_iter().filter_map(|key| schema[key].as_array());
        let nested = several.flatten().flat_map(|variant| self.variants(variant));
        std::iter::once(schema).chain(nested).collect()
    }

    fn body_schema(&self, path: &str) -> &Value {
        &self.0["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    }

    /// The types that a value may have.
    fn types(&self, schema: &Value) -> BTreeSet<String> {
        let of = |variant: &Value| match &variant["type"] {
            Value::String(name) => vec![name.clone()],
            Value::Array(names) => {
                names.iter().map(|name| name.as_str().expect("a type").to_owned()).collect()
            }
            _ => Vec::new(),
        };
        self.variants(schema).into_iter().flat_map(of).collect()
    }

    /// Every member that an object in `body` has or may have.
    fn members(&self, schema: &Value, body: &Value, pointer: &str, found: &mut Vec<Member>) {
        let has_all = |variant: &Value| {
            let needed = variant["required"].as_array().into_iter().flatten();
            needed.clone().all(|name| body.get(name.as_str().expect("a name")).is_some())
        };
        for variant in self.variants(schema) {
            if let (Some(items), Some(values)) = (variant.get("items"), body.as_array()) {
                for (index, value) in values.iter().enumerate() {
                    self.members(items, value, &format!("{pointer}/{index}"), found);
                }
            }
            let (Some(members), Some(_)) = (variant["properties"].as_object(), body.as_object())
            else {
                continue;
            };
            if !has_all(variant) {
                continue;
            }
            for (name, schema) in members {
                let pointer = format!("{pointer}/{name}");
                let known = found.iter().any(|member| member.pointer == pointer);
                if let Some(value) = body.get(name) {
                    self.members(schema, value, &pointer, found);
                }
                if !known {
                    found.push(Member { pointer, name: name.clone(), schema: schema.clone() });
                }
            }
        }
    }
}

/// The body with one member set, or without it.
fn changed(body: &Value, pointer: &str, value: Option<Value>) -> Value {
    let mut body = body.clone();
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    let parent = body.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object");
    match value {
        Some(value) => parent.insert(name.to_owned(), value),
        None => parent.remove(name),
    };
    body
}

/// A response without the parts that differ from run to run.
fn comparable(answer: &Answer) -> Value {
    let mut json = answer.json();
    for key in ["id", "request_id", "total_duration"] {
        json.as_object_mut().map(|object| object.remove(key));
    }
    json!([answer.status.as_u16(), json])
}

#[tokio::test]
async fn every_route_that_takes_json_is_in_the_table() {
    let app = TestApp::start().await;
    let document = Document::of(&app).await;
    let known: BTreeSet<_> = bodies().into_iter().map(|(path, _)| path.to_owned()).collect();
    let takes_json = |(path, post): (String, &Value)| {
        post["requestBody"]["content"].get("application/json").map(|_| path)
    };
    let all: BTreeSet<_> = document.posts().into_iter().filter_map(takes_json).collect();
    assert_eq!(known, all);
    for (path, body) in bodies() {
        // The towers of these tests give no features and write no captions.
        if path != "/v1/features" && path != "/v1/captions" {
            app.post(&address(path), body).await.ok();
        }
    }
}

#[tokio::test]
async fn null_is_absent_in_every_field_of_every_route() {
    let app = TestApp::start().await;
    let document = Document::of(&app).await;
    let mut count = 0;
    for (path, body) in bodies() {
        let mut members = Vec::new();
        document.members(document.body_schema(path), &body, "", &mut members);
        assert!(members.len() > 1, "{path}");
        for Member { pointer, .. } in members {
            let absent = app.post(&address(path), changed(&body, &pointer, None)).await;
            let null = app.post(&address(path), changed(&body, &pointer, Some(Value::Null))).await;
            assert_eq!(comparable(&null), comparable(&absent), "{path} {pointer}");
            count += 1;
        }
    }
    assert!(count > 120, "{count}");
}

#[tokio::test]
async fn a_value_of_a_wrong_type_is_the_error_of_its_field() {
    let app = TestApp::start().await;
    let document = Document::of(&app).await;
    for (path, body) in bodies() {
        let mut members = Vec::new();
        document.members(document.body_schema(path), &body, "", &mut members);
        for Member { pointer, name, schema } in members {
            let types = document.types(&schema);
            let wrong = [
                ("string", json!("wrong")),
                ("number", json!(7.5)),
                ("boolean", json!(true)),
                ("object", json!({"a": 1})),
                ("array", json!([[[7]]])),
            ];
            for (kind, value) in wrong {
                // The content of an object or an array is checked with its own members, and enum values are
                // strings.
                if types.is_empty()
                    || types.contains(kind)
                    || kind == "number" && types.contains("integer")
                {
                    continue;
                }
                let answer = app.post(&address(path), changed(&body, &pointer, Some(value))).await;
                let case = format!("{path} {pointer} as {kind}: {} {}", answer.status, answer.text);
                assert!(answer.status.is_client_error(), "{case}");
                assert!(!answer.text.contains("not JSON"), "{case}");
                let json = answer.json();
                let field =
                    json.get("error").and_then(|error| error.get("param")).or(json.get("field"));
                let field = field.and_then(Value::as_str).unwrap_or(&answer.text);
                assert!(field.contains(&name), "{case}");
            }
        }
    }
}

#[tokio::test]
async fn unknown_fields_are_refused_by_name_at_every_depth() {
    let app = TestApp::start().await;
    let document = Document::of(&app).await;
    for (path, body) in bodies() {
        let mut members = Vec::new();
        document.members(document.body_schema(path), &body, "", &mut members);
        let parents: BTreeSet<_> = members
            .iter()
            .map(|member| member.pointer.rsplit_once('/').expect("a pointer").0.to_owned())
            .collect();
        for parent in parents {
            let pointer = format!("{parent}/no_such_option");
            let answer = app.post(&address(path), changed(&body, &pointer, Some(json!(1)))).await;
            let case = format!("{path} {pointer}: {} {}", answer.status, answer.text);
            assert!(
                answer.status.is_client_error() && answer.text.contains("no_such_option"),
                "{case}"
            );
        }
    }
}

#[tokio::test]
async fn the_query_of_a_json_request_is_refused_by_name() {
    let app = TestApp::start().await;
    let document = Document::of(&app).await;
    for (path, body) in bodies() {
        let mut members = Vec::new();
        document.members(document.body_schema(path), &body, "", &mut members);
        let names: BTreeSet<_> = members.into_iter().map(|member| member.name).collect();
        for name in names.iter().map(String::as_str).chain(["dim"]) {
            let answer = app.post(&format!("{}?{name}=2", address(path)), body.clone()).await;
            let case = format!("{path}?{name}: {} {}", answer.status, answer.text);
            assert!(answer.status.is_client_error(), "{case}");
            assert!(answer.text.contains(name) && answer.text.contains("query"), "{case}");
        }
    }
}

#[tokio::test]
async fn an_unknown_parameter_is_refused_by_name_whatever_the_body_is() {
    let app = TestApp::start().await;
    let document = Document::of(&app).await;
    for (path, post) in document.posts() {
        let kinds = post["requestBody"]["content"].as_object().expect("content");
        for kind in kinds.keys() {
            let request = app.request("POST", &format!("{}?dim=2", address(&path)));
            let request = match kind.as_str() {
                "application/json" => request.json(&json!({})),
                "multipart/form-data" => request.multipart(Form::new().text("text", "red")),
                "image/*" => request.header("content-type", "image/png").body(png(RED)),
                other => request.header("content-type", other).body(""),
            };
            let answer = Answer::of(request).await;
            let case = format!("{path} {kind}: {} {}", answer.status, answer.text);
            assert!(answer.status.is_client_error() && answer.text.contains("dim"), "{case}");
        }
    }
}

#[tokio::test]
async fn every_answer_in_json_ends_its_line() {
    let app = TestApp::start().await;
    let mut answers = Vec::new();
    for (path, body) in bodies() {
        answers.push((path, app.post(&address(path), body).await));
        answers.push((path, app.post(&address(path), json!({"no_such_field": 1})).await));
    }
    for (path, _) in Document::of(&app).await.gets() {
        if path != "/metrics" && path != "/ping" {
            answers.push(("GET", app.get(&address(&path)).await));
        }
    }
    answers.push(("no route", app.get("/nothing").await));
    for (path, answer) in answers {
        let text = &answer.text;
        let lines = text.matches('\n').count();
        assert!(text.is_empty() || text.ends_with('\n') && lines == 1, "{path}: {text:?}");
    }
}

#[tokio::test]
async fn a_query_that_is_not_read_is_refused_but_by_probes() {
    let app = TestApp::start().await;
    let document = Document::of(&app).await;
    let mut probes = Vec::new();
    for (path, get) in document.gets() {
        let answer = app.get(&format!("{}?verbos=1", address(&path))).await;
        let case = format!("{path}: {} {}", answer.status, answer.text);
        if get["responses"]["400"].is_null() {
            assert!(answer.status.is_success(), "{case}");
            probes.push(path);
            continue;
        }
        assert_eq!(answer.status.as_u16(), 400, "{case}");
        assert!(answer.text.contains("verbos") && answer.text.contains("query"), "{case}");
        let answer = app.get(&format!("{}?", address(&path))).await;
        assert_ne!(answer.status.as_u16(), 400, "{path}");
    }
    let is_probe =
        |path: &String| ["health", "ready", "live", "ping"].iter().any(|word| path.ends_with(word));
    assert!(probes.iter().all(is_probe), "{probes:?}");
    // A path without a route is not found, even with a query.
    assert_eq!(app.get("/v1/nothing?a=b").await.status.as_u16(), 404);
    assert_eq!(app.get("/v1/embeddings?input=a").await.status.as_u16(), 405);
}

#[tokio::test]
async fn every_option_of_a_form_is_refused_in_its_query() {
    let app = TestApp::start().await;
    let document = Document::of(&app).await;
    for (path, post) in document.posts() {
        let Some(form) = post["requestBody"]["content"].get("multipart/form-data") else {
            continue;
        };
        let members = document.resolve(&form["schema"])["properties"].as_object().expect("fields");
        for name in members.keys() {
            let file = Part::bytes(png(RED)).file_name("red.png");
            let request = app
                .request("POST", &format!("{path}?{name}=2"))
                .multipart(Form::new().part("image", file));
            let answer = Answer::of(request).await;
            let case = format!("{path}?{name}: {} {}", answer.status, answer.text);
            assert!(answer.status.is_client_error() && answer.text.contains(name), "{case}");
        }
    }
}
