//! `/v1/features` over HTTP, and the method `Features` over gRPC, against the stored stages.

use std::io::Cursor;

use half::f16;
use image::{ImageFormat, RgbImage};
use reqwest::{
    RequestBuilder, Response,
    multipart::{Form, Part},
};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use siglip_server::{
    app::{App, AppHandle},
    config::Config,
    grpc::proto,
};
use tokio::task::JoinHandle;

use super::{
    reference::{Judge, Reference, difference, folder},
    stages,
};

/// The whole server over one stored checkpoint.
pub(super) struct Server {
    pub(super) handle: AppHandle,
    task: JoinHandle<()>,
    pub(super) expected: Reference,
    pub(super) pictures: Vec<Vec<u8>>,
}

/// The stored pixels as a lossless file of exactly the size that the model reads.
fn pngs(expected: &Reference) -> Vec<Vec<u8>> {
    let png = |pixels: siglip_server::preprocess::Pixels| {
        let picture = RgbImage::from_raw(pixels.width, pixels.height, pixels.data.to_vec());
        let mut bytes = Cursor::new(Vec::new());
        let picture = picture.expect("three bytes a pixel");
        picture.write_to(&mut bytes, ImageFormat::Png).expect("PNG is written to memory");
        bytes.into_inner()
    };
    expected.pixels().into_iter().map(png).collect()
}

impl Server {
    pub(super) async fn start(name: &str, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.listen.http.set_port(0);
        config.listen.grpc = Some("127.0.0.1:0".parse().expect("an address"));
        config.model.source = folder().join(name).to_string_lossy().into_owned();
        config.model.threads = 1;
        change(&mut config);
        let app = App::bind(config).await.expect("free ports");
        let handle = app.handle();
        let task = tokio::spawn(async move { app.serve().await.expect("serves and drains") });
        handle.ready().await;
        let expected = Reference::open(&format!("{name}/expected.safetensors"));
        let pictures = pngs(&expected);
        Self { handle, task, expected, pictures }
    }

    pub(super) fn post(&self) -> RequestBuilder {
        self.post_to("")
    }

    pub(super) fn post_to(&self, query: &str) -> RequestBuilder {
        let address = self.handle.http_addr();
        crate::app::client().post(format!("http://{address}/v1/features{query}"))
    }

    /// All images with these options.
    fn all(&self, mut options: Value) -> RequestBuilder {
        let pictures = self.pictures.iter();
        let pictures = pictures.map(|png| base64_simd::STANDARD.encode_to_string(png));
        options["input"] = pictures.collect();
        self.post().json(&options)
    }

    pub(super) async fn stop(self) {
        self.handle.stop();
        self.task.await.expect("drains");
    }
}

pub(super) async fn bytes(request: RequestBuilder) -> (Response, Vec<u8>) {
    let mut response = request.send().await.expect("answers");
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.expect("the body arrives") {
        bytes.extend_from_slice(&chunk);
    }
    assert!(response.status().is_success(), "{}", String::from_utf8_lossy(&bytes));
    (response, bytes)
}

pub(super) async fn json(request: RequestBuilder) -> Value {
    serde_json::from_slice(&bytes(request).await.1).expect("JSON")
}

pub(super) fn header<'r>(response: &'r Response, name: &str) -> &'r str {
    response.headers().get(name).map_or("", |value| value.to_str().expect("printable"))
}

/// An array of 32-bit floats in numpy's format.
pub(super) fn npy(bytes: &[u8]) -> (Vec<usize>, Vec<f32>) {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let head = std::str::from_utf8(&bytes[10..end]).expect("ASCII");
    assert!(head.contains("'descr': '<f4'") && head.contains("'fortran_order': False"), "{head}");
    let shape = head.split(['(', ')']).nth(1).expect("a shape").split(',');
    let shape: Vec<usize> = shape.filter_map(|side| side.trim().parse().ok()).collect();
    (shape, floats(&bytes[end..]))
}

pub(super) fn floats(bytes: &[u8]) -> Vec<f32> {
    let (values, rest) = bytes.as_chunks();
    assert!(rest.is_empty());
    values.iter().map(|&value| f32::from_le_bytes(value)).collect()
}

fn halves(bytes: &[u8]) -> Vec<f32> {
    let (values, rest) = bytes.as_chunks();
    assert!(rest.is_empty());
    values.iter().map(|&value| f16::from_le_bytes(value).to_f32()).collect()
}

/// Half floats keep 11 bits.
fn assert_halves(name: &str, values: &[f32], expected: &[f32]) {
    assert_eq!(values.len(), expected.len(), "{name}");
    let scale = expected.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
    for (value, expected) in values.iter().zip(expected) {
        let rounding = expected.abs() / 2048.0 + scale * 1e-5;
        assert!((value - expected).abs() <= rounding, "{name}: {value} is not {expected}");
    }
}

/// Every output of a checkpoint: the options that ask for it, and its name among the stored stages.
fn outputs(layers: usize) -> Vec<(Value, String)> {
    let named = |name: &str| (json!({"output": name}), format!("vision.{name}"));
    let mut outputs = vec![(json!({"output": "pooled"}), "vision.pooled".to_owned())];
    outputs.push(named("last_hidden_state"));
    let states = i64::try_from(layers + 1).expect("few");
    for layer in 0..states {
        let name = format!("vision.hidden_state.{layer}");
        outputs.push((json!({"layer": layer}), name.clone()));
        outputs.push((json!({"output": "hidden_state", "layer": layer - states}), name));
    }
    outputs
}

async fn check(name: &str, layers: usize, grid: [usize; 2]) {
    let server = Server::start(name, |_| ()).await;
    for (options, stage) in outputs(layers) {
        let with = |key: &str, value: &str| {
            let mut options = options.clone();
            options[key] = json!(value);
            options
        };
        let request = server.all(options.clone()).header("accept", "application/x-npy");
        let (response, body) = bytes(request).await;
        assert_eq!(header(&response, "content-type"), "application/x-npy");
        assert_eq!(header(&response, "x-siglip-grid"), format!("{}x{}", grid[0], grid[1]));
        let (shape, values) = npy(&body);
        server.expected.check(&stage, &shape, &values);

        let (_, body) = bytes(server.all({
            let mut options = with("dtype", "f16");
            options["encoding_format"] = json!("safetensors");
            options
        }))
        .await;
        let file = SafeTensors::deserialize(&body).expect("a valid file");
        let (_, metadata) = SafeTensors::read_metadata(&body).expect("a valid file");
        let metadata = metadata.metadata().clone().expect("metadata");
        assert_eq!(metadata["grids"], json!(vec![grid; 3]).to_string());
        let mut whole = Vec::new();
        for index in 0..3 {
            let tensor = file.tensor(&format!("features.{index}")).expect("one a picture");
            assert_eq!(tensor.dtype(), Dtype::F16);
            assert_eq!(tensor.shape(), &shape[1..]);
            whole.extend(halves(tensor.data()));
        }
        assert_halves(&stage, &whole, &server.expected.floats(&stage).1);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stage_of_a_full_checkpoint() {
    check("tiny", 2, [2, 2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stage_of_a_headless_tower_of_27_layers() {
    check("headless-27", 27, [2, 2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_ask_gives_the_same_numbers() {
    let server = Server::start("tiny", |_| ()).await;
    let (_, body) = bytes(server.all(json!({"layer": -2, "encoding_format": "npy"}))).await;
    let (shape, values) = npy(&body);
    let answer = json(server.all(json!({"layer": -2}))).await;
    assert_eq!((&answer["layer"], &answer["output"]), (&json!(1), &json!("hidden_state")));
    assert_eq!((&answer["dtype"], &answer["width"]), (&json!("f32"), &json!(shape[2])));
    assert_eq!(answer["usage"]["images"], 3);
    let encoded = json(server.all(json!({"layer": -2, "encoding_format": "base64"}))).await;
    for (index, row) in values.chunks_exact(shape[1] * shape[2]).enumerate() {
        let object = &answer["data"][index];
        assert_eq!(object["index"], index);
        assert_eq!(object["grid"], json!([2, 2]));
        assert_eq!(object["shape"], json!(shape[1..]));
        let tokens: Vec<Vec<f32>> =
            serde_json::from_value(object["features"].clone()).expect("numbers");
        assert!(difference(&tokens.concat(), row) <= 1e-6);
        let text = encoded["data"][index]["features"].as_str().expect("base64");
        let decoded = base64_simd::STANDARD.decode_to_vec(text).expect("base64");
        assert!(difference(&floats(&decoded), row) <= 1e-6);
    }

    // One image: JSON under either name, raw, and as a form.
    let uri = format!(
        "data:image/png;base64,{}",
        base64_simd::STANDARD.encode_to_string(&server.pictures[0])
    );
    let named = json(server.post().json(&json!({"images": [uri], "layer": 0}))).await;
    let tagged = json(server.post().json(&json!({"input": {"image": uri}, "layer": 0}))).await;
    let raw = server.post_to("?layer=0").header("content-type", "image/png");
    let raw = json(raw.body(server.pictures[0].clone())).await;
    let file = Part::bytes(server.pictures[0].clone()).file_name("a.png");
    let form =
        json(server.post().multipart(Form::new().part("image", file).text("layer", "0"))).await;
    for answer in [tagged, raw, form] {
        assert_eq!(answer, named);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_answer_is_streamed_whole() {
    // 300 images of 4 tokens of 24 values are more than is written at once.
    let server = Server::start("tiny", |_| ()).await;
    let picture = base64_simd::STANDARD.encode_to_string(&server.pictures[1]);
    let request = |format: &str| {
        let body = json!({"input": vec![&picture; 300], "layer": 2, "encoding_format": format});
        server.post().json(&body)
    };
    let (shape, values) = npy(&bytes(request("npy")).await.1);
    assert_eq!(shape, [300, 4, 24]);
    let one = values[..96].to_vec();
    assert!(values.chunks_exact(96).all(|row| difference(row, &one) <= 1e-6));
    let answer = json(request("float")).await;
    assert_eq!(answer["data"].as_array().map(Vec::len), Some(300));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_cannot_be_answered_are_refused_by_field() {
    let server = Server::start("tiny", |config| config.limits.max_feature_bytes = 384).await;
    let picture = base64_simd::STANDARD.encode_to_string(&server.pictures[0]);
    for (body, code, field) in [
        (json!({"input": picture, "layer": 3}), "invalid_request", "layer"),
        (json!({"input": picture, "layer": -4}), "invalid_request", "layer"),
        (json!({"input": picture, "output": "hidden_state"}), "invalid_request", "layer"),
        (json!({"input": picture, "output": "pooled", "layer": 1}), "invalid_request", "layer"),
        (json!({"input": picture, "output": "logits"}), "invalid_request", "output"),
        (json!({"input": picture, "dtype": "f64"}), "invalid_request", "dtype"),
        (json!({"input": [picture, {"text": "a cat"}]}), "invalid_request", "input[1]"),
        (json!({"input": []}), "invalid_request", "input"),
        (json!({"input": [picture, picture]}), "payload_too_large", "input"),
        (json!({"input": "AAAA"}), "undecodable_image", "input[0]"),
        (json!({"input": picture, "model": "clip"}), "model_not_found", "model"),
    ] {
        let response = server.post().json(&body).send().await.expect("answers");
        assert!(response.status().is_client_error(), "{field}");
        assert_eq!(header(&response, "content-type"), "application/problem+json");
        let problem: Value = response.json().await.expect("a problem");
        assert_eq!((&problem["code"], &problem["field"]), (&json!(code), &json!(field)));
    }
    // Within the limit, of one image.
    json(server.post().json(&json!({"input": picture}))).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_gives_the_same_maps() {
    let server = Server::start("tiny", |_| ()).await;
    let address = server.handle.grpc_addr().expect("gRPC is served");
    let mut client = proto::embedding_service_client::EmbeddingServiceClient::connect(format!(
        "http://{address}"
    ))
    .await
    .expect("connects");
    let image = |png: &Vec<u8>| proto::Image {
        source: Some(proto::image::Source::Encoded(png.clone().into())),
    };
    let request = proto::FeaturesRequest {
        images: server.pictures.iter().map(image).collect(),
        layer: Some(-2),
        ..Default::default()
    };
    let answer = client.features(request.clone()).await.expect("features").into_inner();
    assert_eq!(answer.layer, Some(1));
    let mut values = Vec::new();
    for map in &answer.features {
        assert_eq!((map.grid_height, map.grid_width, map.tokens), (2, 2, 4));
        values.extend(floats(&map.values));
    }
    let shape = [3, 4, answer.features[0].width as usize];
    server.expected.check("vision.hidden_state.1", &shape, &values);

    let half =
        proto::FeaturesRequest { element_type: proto::ElementType::F16.into(), ..request.clone() };
    let answer = client.features(half).await.expect("features").into_inner();
    let values: Vec<_> = answer.features.iter().flat_map(|map| halves(&map.values)).collect();
    assert_halves("halves", &values, &server.expected.floats("vision.hidden_state.1").1);

    let beyond = proto::FeaturesRequest { layer: Some(3), ..request };
    let status = client.features(beyond).await.expect_err("out of range");
    assert_eq!(status.metadata().get("siglip-field").expect("a field"), "layer");
    drop(client);
    server.stop().await;
}

#[test]
fn one_batch_gives_each_row_its_own_output() {
    for name in ["tiny", "headless-27"] {
        stages::check_taps(&Judge::strict(), name);
    }
}
