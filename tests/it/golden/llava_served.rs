//! LLaVA's towers and images in tiles over HTTP and gRPC, against the same reference outputs.

use image::ImageFormat;
use reqwest::multipart::{Form, Part};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use siglip_server::{grpc::proto, preprocess::Pinpoints};

use super::{
    blip_served::RefusedAt,
    features::{Server, bytes, floats, header, json, npy},
    llava::{TILED, encoded},
    reference::{Reference, assert_close, difference},
};

/// The images of a checkpoint's reference, with their numbers of rows and columns.
fn images(expected: &Reference) -> Vec<([u32; 2], Vec<u8>)> {
    let names = (0..).map(|index| format!("image.{index}"));
    let names = names.take_while(|name| expected.has(name));
    let image = |name: String| {
        let (shape, pixels) = expected.bytes(&name);
        let size = [shape[0] as u32, shape[1] as u32];
        (size, encoded(pixels, size, ImageFormat::Png))
    };
    names.map(image).collect()
}

fn base64(png: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string(png)
}

/// Sizes of 1 to 6 tiles, row by row.
fn six(side: u32) -> Vec<[u32; 2]> {
    (1..=6).flat_map(|rows| (1..=6).map(move |columns| [rows * side, columns * side])).collect()
}

fn tokens(features: &Value) -> Vec<f32> {
    serde_json::from_value::<Vec<Vec<f32>>>(features.clone()).expect("numbers").concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_in_tiles_are_those_of_the_processor_and_the_tower() {
    for name in TILED {
        let server = Server::start(name, |_| ()).await;
        let images = images(&server.expected);
        let input: Vec<_> = images.iter().map(|(_, png)| base64(png)).collect();
        let answer = json(server.post().json(&json!({"input": input, "tiles": "anyres"}))).await;
        let is_siglip = name.starts_with("llava-onevision");
        assert_eq!(answer["output"], "hidden_state");
        assert_eq!(answer["leading_tokens"], u32::from(!is_siglip));
        assert_eq!(answer["usage"]["images"], images.len());
        let side = if name.ends_with("bare") { 30 } else { 16 };
        let pinpoints = Pinpoints::new(&six(side), side).expect("whole tiles");
        for (index, (size, _)) in images.iter().enumerate() {
            let data = &answer["data"][index];
            let tiling = pinpoints.tiling(*size);
            assert_eq!((&data["index"], &data["image_size"]), (&json!(index), &json!(size)));
            assert_eq!(data["tile_grid"], json!(tiling.grid), "{size:?}");
            assert_eq!(data["inner_size"], json!(tiling.inner_size), "{size:?}");
            assert_eq!(data["padding"], json!(tiling.padding()), "{size:?}");
            let views = data["views"].as_array().expect("views");
            let (shape, expected) = server.expected.floats(&format!("features.{index}"));
            assert_eq!(views.len(), shape[0], "{size:?}");
            for view in views {
                assert_eq!(view["grid"], json!([2, 2]));
                assert_eq!(view["shape"], json!(shape[1..]));
            }
            let values: Vec<_> = views.iter().map(|view| tokens(&view["features"])).collect();
            assert_close(&format!("{name} {size:?}"), &values.concat(), &expected);
        }
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_ask_for_tiles_gives_the_same_views() {
    let server = Server::start("llava-onevision", |_| ()).await;
    let images = images(&server.expected);
    // 20 x 27 pixels: 2 x 2 tiles with black above and below.
    let (size, png) = &images[4];
    let (shape, expected) = server.expected.floats("features.4");
    let check = |what: &str, shape_here: &[usize], values: &[f32]| {
        assert_eq!(shape_here, shape, "{what}");
        assert_close(what, values, &expected);
    };
    let raw = |query: &str| {
        let request = server.post_to(query).header("content-type", "image/png");
        request.header("accept", "application/x-npy").body(png.clone())
    };
    let (response, body) = bytes(raw("?tiles=anyres")).await;
    let (found, values) = npy(&body);
    check("npy", &found, &values);
    for (name, value) in [
        ("x-siglip-grid", "2x2"),
        ("x-siglip-tile-grid", "2x2"),
        ("x-siglip-inner-size", "24x32"),
        ("x-siglip-padding", "4,0,4,0"),
        ("x-siglip-image-size", "20x27"),
        ("x-siglip-layer", "3"),
    ] {
        assert_eq!(header(&response, name), value, "{name}");
    }
    // The same sizes, written out.
    let sizes = serde_json::to_string(&six(16)).expect("JSON");
    let query = format!("?tiles=anyres&grid_pinpoints={sizes}");
    check("query", &found, &npy(&bytes(raw(&query)).await.1).1);
    let part = || Part::bytes(png.clone()).file_name("a.png");
    let form = Form::new().part("image", part()).text("tiles", "anyres");
    let form = form.text("grid_pinpoints", sizes).text("encoding_format", "npy");
    check("form", &found, &npy(&bytes(server.post().multipart(form)).await.1).1);
    // Other sizes, other tiles.
    let one = npy(&bytes(raw("?tiles=anyres&grid_pinpoints=[[16,16]]")).await.1);
    assert_eq!(one.0[0], 2);
    assert!(difference(&one.1[..one.1.len() / 2], &expected[..one.1.len() / 2]) <= 1e-5);

    let body = json!({
        "input": [base64(png), base64(&images[0].1)],
        "tiles": "anyres",
        "layer": -1,
        "encoding_format": "safetensors",
    });
    let (_, body) = bytes(server.post().json(&body)).await;
    let file = SafeTensors::deserialize(&body).expect("a valid file");
    let tensor = file.tensor("features.0").expect("the first image");
    check("safetensors", tensor.shape(), &floats(tensor.data()));
    assert_eq!(file.tensor("features.1").expect("the second image").shape()[0], 2);
    let (_, metadata) = SafeTensors::read_metadata(&body).expect("a valid file");
    let metadata = metadata.metadata().clone().expect("metadata");
    for (key, value) in [
        ("tile_grids", "[[2,2],[1,1]]"),
        ("inner_sizes", "[[24,32],[16,16]]"),
        ("paddings", "[[4,0,4,0],[0,0,0,0]]"),
        ("image_sizes", "[[20,27],[16,16]]"),
    ] {
        assert_eq!(metadata[key], value);
    }
    let body = json!({"input": base64(png), "tiles": "anyres", "encoding_format": "base64"});
    let answer = json(server.post().json(&body)).await;
    let views = answer["data"][0]["views"].as_array().expect("views");
    let decoded = views.iter().map(|view| {
        let text = view["features"].as_str().expect("base64");
        floats(&base64_simd::STANDARD.decode_to_vec(text).expect("base64"))
    });
    check("base64", &found, &decoded.collect::<Vec<_>>().concat());
    // Views as pooled embeddings: one vector each.
    let body = json!({"input": base64(png), "tiles": "anyres", "output": "pooled"});
    let answer = json(server.post().json(&body)).await;
    assert_eq!(answer["data"][0]["views"][4]["shape"], json!([24]));

    let address = server.handle.grpc_addr().expect("gRPC is served");
    let client = proto::embedding_service_client::EmbeddingServiceClient::connect(format!(
        "http://{address}"
    ));
    let mut client = client.await.expect("connects");
    let source = Some(proto::image::Source::Encoded(png.clone().into()));
    let request = proto::FeaturesRequest {
        images: vec![proto::Image { source }],
        tiles: proto::Tiles::Anyres.into(),
        ..Default::default()
    };
    let answer = client.features(request.clone()).await.expect("features").into_inner();
    let map = &answer.features[0];
    let shape_here = [map.views as usize, map.tokens as usize, map.width as usize];
    check("gRPC", &shape_here, &floats(&map.values));
    let tiling = map.tiling.expect("of an image in tiles");
    assert_eq!([tiling.tile_rows, tiling.tile_columns], [2, 2]);
    let sizes = [tiling.image_size, tiling.inner_size];
    let sizes = sizes.map(|size| size.map(|size| [size.height, size.width]));
    assert_eq!(sizes, [Some(*size), Some([24, 32])]);
    assert_eq!([tiling.padding_top, tiling.padding_left], [4, 0]);
    assert_eq!([tiling.padding_bottom, tiling.padding_right], [4, 0]);
    let wrong = proto::FeaturesRequest {
        tiles: 0,
        grid_pinpoints: vec![proto::ImageSize { height: 16, width: 16 }],
        ..request
    };
    let status = client.features(wrong).await.expect_err("without tiles");
    assert_eq!(status.metadata().get("siglip-field").expect("a field"), "grid_pinpoints");
    drop(client);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tower_alone_reads_no_texts_and_says_what_is_read_of_it() {
    let server = Server::start("llava-next", |_| ()).await;
    let url = |path: &str| format!("http://{}{path}", server.handle.http_addr());
    let client = crate::app::client();
    let png = base64(&server.pictures[0]);
    for (path, body) in [
        ("/v1/embeddings", json!({"input": "a cat"})),
        ("/v1/similarity", json!({"images": [png], "texts": ["a cat"]})),
        ("/v1/classify", json!({"images": [png], "labels": ["cat"]})),
        ("/v1/captions", json!({"images": [png]})),
    ] {
        let response = client.post(url(path)).json(&body).send().await.expect("answers");
        assert_eq!(response.status(), 400, "{path}");
        let detail = response.text().await.expect("a body");
        assert!(
            detail.contains("embeds images only") || detail.contains("writes no captions"),
            "{path}: {detail}"
        );
    }
    let info: Value =
        client.get(url("/info")).send().await.expect("answers").json().await.expect("JSON");
    let model = &info["models"][0];
    assert_eq!((&model["family"], &model["scoring"]), (&json!("llava_next"), &Value::Null));
    let features = json!({
        "layers": 2,
        "width": 24,
        "last_hidden_state_is_normed": false,
        "queries": null,
        "language_model": {
            "layers": [-2],
            "select_strategy": "default",
            "grid_pinpoints": six(16),
        },
    });
    assert_eq!(model["features"], features);
    // The default is what the language model reads; every output can be named.
    let default = json(server.post().json(&json!({"input": png}))).await;
    let named = json(server.post().json(&json!({"input": png, "layer": 1}))).await;
    assert_eq!(default, named);
    let last = json!({"input": png, "output": "last_hidden_state"});
    assert_ne!(json(server.post().json(&last)).await["data"], named["data"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_tower_of_squares_reads_tiles() {
    // Stored images are squares of the model's size, so the view of the whole image is the same as the image
    // without tiles.
    for name in ["tiny", "clip-tiny", "blip-retrieval"] {
        let server = Server::start(name, |_| ()).await;
        let png = base64(&server.pictures[0]);
        let side = server.expected.pixels()[0].height;
        let whole = json(server.post().json(&json!({"input": png}))).await;
        let sizes = json!([[side, 2 * side], [2 * side, side]]);
        let body = json!({"input": png, "tiles": "anyres", "grid_pinpoints": sizes});
        let answer = json(server.post().json(&body)).await;
        let data = &answer["data"][0];
        assert_eq!(data["tile_grid"], json!([1, 2]));
        assert_eq!(data["inner_size"], json!([side, side]));
        assert_eq!(data["padding"], json!([0, side / 2, 0, side - side / 2]));
        let views = data["views"].as_array().expect("views");
        assert_eq!(views.len(), 3);
        let [view, alone] = [&views[0], &whole["data"][0]].map(|view| tokens(&view["features"]));
        assert_close(name, &view, &alone);
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tiles_that_cannot_be_answered_are_refused_by_field() {
    // 37 views of 4 tokens of 24 values.
    let views = 37 * 4 * 24 * 4;
    let server = Server::start("llava-onevision", |config| {
        config.limits.max_feature_bytes = views;
        config.limits.max_items = 8;
        config.limits.max_items_in_flight = 37;
    });
    let server = server.await;
    let [small, large] = [0, 9].map(|index| {
        let (_, png) = &images(&server.expected)[index];
        base64(png)
    });
    for (body, code, field) in [
        (json!({"input": small, "tiles": "squares"}), "invalid_request", "tiles"),
        (
            json!({"input": small, "grid_pinpoints": [[16, 16]]}),
            "invalid_request",
            "grid_pinpoints",
        ),
        (
            json!({"input": small, "tiles": "anyres", "grid_pinpoints": [[16, 15]]}),
            "invalid_request",
            "grid_pinpoints",
        ),
        (
            json!({"input": small, "tiles": "anyres", "grid_pinpoints": []}),
            "invalid_request",
            "grid_pinpoints",
        ),
        (
            json!({"input": small, "tiles": "anyres", "grid_pinpoints": "16x16"}),
            "invalid_request",
            "grid_pinpoints",
        ),
        (json!({"input": ["AAAA", small], "tiles": "anyres"}), "undecodable_image", "input[0]"),
        (json!({"input": [large, small], "tiles": "anyres"}), "payload_too_large", "input"),
        (
            json!({"input": [large, small], "tiles": "anyres", "encoding_format": "npy", "output": "pooled"}),
            "payload_too_large",
            "",
        ),
        (
            json!({"input": [small, small], "tiles": "anyres", "encoding_format": "npy"}),
            "invalid_request",
            "encoding_format",
        ),
    ] {
        let response = server.post().json(&body).send().await.expect("answers");
        assert!(response.status().is_client_error(), "{body}");
        let problem: Value = response.json().await.expect("a problem");
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["field"].as_str().unwrap_or_default(), field, "{problem}");
    }
    // Within the limits, of one image.
    json(server.post().json(&json!({"input": large, "tiles": "anyres"}))).await;
    server.stop().await;
    let (app, _) = super::blip_served::serve("naflex-down").await;
    let answer = app.post("/v1/features", json!({"input": small, "tiles": "anyres"})).await;
    answer.refused_at("tiles");
}
