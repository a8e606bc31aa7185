//! Measures the memory that a request takes, on the binary.

// Only Linux has a file with the peak memory of a process.
#![cfg(target_os = "linux")]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::Path,
};

use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::{app::client, process::Server};

/// Every place in a body where a value of unknown type is read. The test puts many numbers there.
const PLACES: [(&str, &str, &str); 22] = [
    ("/", r#"{"inputs": "a", "unknown": "#, "}"),
    ("/", r#"{"inputs": "a", "parameters": "#, "}"),
    ("/", r#"{"inputs": "a", "parameters": {"candidate_labels": "#, "}}"),
    ("/embed", r#"{"inputs": "a", "unknown": "#, "}"),
    ("/embed", r#"{"inputs": "#, "}"),
    ("/predict", r#"{"text": "a", "entries": "#, "}"),
    ("/rerank", r#"{"query": "a", "documents": "#, "}"),
    ("/rerank", r#"{"query": "a", "documents": [{"image_url": "#, "}]}"),
    ("/score", r#"{"text_1": "a", "text_2": "#, "}"),
    ("/similarity", r#"{"inputs": {"source_sentence": "a", "sentences": "#, "}}"),
    ("/v1/classify", r#"{"images": [], "labels": ["a"], "templates": "#, "}"),
    ("/v1/classify", r#"{"images": [], "labels": "#, "}"),
    ("/v1/embeddings", r#"{"input": "#, "}"),
    ("/v1/embeddings", r#"{"messages": [{"role": "user", "content": [{"image_url": "#, "}]}]}"),
    ("/v1/features", r#"{"images": "#, "}"),
    ("/v1/multimodalembeddings", r#"{"inputs": [{"content": "#, "}]}"),
    ("/v1/similarity", r#"{"texts": ["a"], "image_embeddings": "#, "}"),
    ("/v2/embed", r#"{"texts": ["a"], "embedding_types": "#, "}"),
    ("/v2/models/demo/infer", r#"{"parameters": "#, "}"),
    ("/v2/models/demo/infer", r#"{"inputs": [{"name": "TEXT", "shape": "#, "}]}"),
    ("/v2/models/demo/infer", r#"{"inputs": [{"name": "TEXT", "parameters": "#, "}]}"),
    ("/vectorize", r#"{"texts": "#, "}"),
];
/// Number of numbers. Each has two bytes with its comma.
const NUMBERS: usize = 1 << 19;
/// A tree of values takes 32 bytes per number. Direct parsing takes at most four.
const MOST_KIB: u64 = 10 << 10;

fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|peak| peak.trim().strip_suffix(" kB"));
    peak.expect("a peak").parse().expect("a number")
}

#[tokio::test]
async fn numbers_where_none_belong_take_no_more_than_they_are() {
    let (client, server) = (client(), Server::start(&["--log-filter", "off"]));
    let numbers = format!("[{}1]", "1,".repeat(NUMBERS));
    let mut peak = 0;
    for (path, before, after) in PLACES {
        let body = format!("{before}{numbers}{after}");
        let request = client.post(format!("{}{path}", server.url)).body(body);
        let answer = request.header(CONTENT_TYPE, "application/json").send().await.expect(path);
        let status = answer.status();
        // If unknown fields are ignored, these are too.
        assert!(
            status.is_client_error() || before.contains("unknown") || before.contains("parameters"),
            "{path} {status}"
        );
        let _: Value = answer.json().await.expect("JSON");
        let now = peak_kib(server.pid());
        // The first request allocates what all of them need.
        assert!(peak == 0 || now <= peak + MOST_KIB, "{path} {before}: {peak}, then {now}");
        peak = peak.max(now);
    }
}

/// Layers of each tower of [`wide_checkpoint`].
const LAYERS: usize = 6;

/// Writes a checkpoint like `tests/golden/tiny`, but as wide as siglip-base and half as deep.
///
/// * returns the number of values of the matrices in the encoder layers, and of everything else
fn wide_checkpoint(folder: &Path) -> (usize, usize) {
    let tiny = Path::new("tests/golden/tiny");
    for name in ["preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(tiny.join(name), folder.join(name)).expect(name);
    }
    let config = fs::read(tiny.join("config.json")).expect("a file");
    let mut config: Value = serde_json::from_slice(&config).expect("JSON");
    for tower in ["text_config", "vision_config"] {
        let tower = config[tower].as_object_mut().expect("a tower");
        for (name, value) in [("hidden_size", 768), ("intermediate_size", 3072)] {
            tower.insert(name.to_owned(), json!(value));
        }
        tower.insert("num_attention_heads".to_owned(), json!(12));
        tower.insert("num_hidden_layers".to_owned(), json!(LAYERS));
    }
    config["text_config"]["projection_size"] = json!(768);
    fs::write(folder.join("config.json"), config.to_string()).expect("written");

    let file = fs::read(tiny.join("model.safetensors")).expect("a file");
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&file).expect("a valid file");
    let mut header = serde_json::Map::new();
    let (mut values, mut of_layers) = (0, 0);
    // Sorted by name, so that every run writes the same file.
    for (name, tensor) in metadata.tensors().into_iter().collect::<BTreeMap<_, _>>() {
        let shape: Vec<_> = tensor.shape.iter().map(|&size| wide(size)).collect();
        let count = shape.iter().product::<usize>();
        let names = match name.contains(".layers.0.") {
            true => (0..LAYERS).map(|layer| name.replace(".0.", &format!(".{layer}."))).collect(),
            false if name.contains(".layers.") => Vec::new(),
            false => vec![name],
        };
        if names.len() > 1 && shape.len() == 2 {
            of_layers += names.len() * count;
        }
        for name in names {
            let offsets = [4 * values, 4 * (values + count)];
            let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": offsets});
            header.insert(name, entry);
            values += count;
        }
    }
    let header = Value::Object(header).to_string();
    let mut file = BufWriter::new(File::create(folder.join("model.safetensors")).expect("a file"));
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("written");
    file.write_all(header.as_bytes()).expect("written");
    // A length that does not divide that of any row, so that no two rows are equal.
    let block: Vec<_> = (0..16381u32)
        .map(|at| ((at.wrapping_mul(2_654_435_761) >> 16) as f32 / 65536.0 - 0.5) * 0.1)
        .flat_map(f32::to_le_bytes)
        .collect();
    let mut left = 4 * values;
    while left > 0 {
        let part = left.min(block.len());
        file.write_all(&block[..part]).expect("written");
        left -= part;
    }
    file.flush().expect("written");
    (of_layers, values - of_layers)
}

/// The size in the wide checkpoint for a size in the tiny one.
fn wide(size: usize) -> usize {
    match size {
        24 => 768,
        28 => 3072,
        72 => 3 * 768,
        other => other,
    }
}

/// A second copy of the weights, or the file's pages beside the packed ones, would be far above.
#[test]
fn a_load_takes_little_more_than_the_packed_weights() {
    let folder = tempfile::tempdir().expect("a folder");
    let (of_layers, others) = wide_checkpoint(folder.path());
    let model = folder.path().to_str().expect("a path");
    let (f32, bf16) = (4 * (of_layers + others), 2 * (of_layers + others));
    for (dtype, packed) in [("f32", f32), ("bf16", bf16), ("int8", of_layers + 2 * others)] {
        let arguments = ["--model", model, "--dtype", dtype, "--log-filter", "off"];
        let server = Server::start(&arguments);
        let (peak, most) = (peak_kib(server.pid()) << 10, packed as u64 * 6 / 5 + 200_000_000);
        println!("{dtype}: {packed} bytes of weights, a peak of {peak}, {most} allowed");
        assert!(peak <= most, "{dtype}: {packed} bytes of weights, a peak of {peak}");
    }
}
