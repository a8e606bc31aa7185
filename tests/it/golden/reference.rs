//! A file of reference outputs, and how they are compared.

use std::{collections::HashMap, fs, path::PathBuf, sync::Arc};

use safetensors::{Dtype, SafeTensors};
use siglip_server::{
    config,
    embedding::Embedding,
    model::{self, Siglip, siglip::Stages},
    preprocess::Pixels,
    tokenize::Tokens,
};

/// Most that a value of a stage may differ, relative to the stage's largest.
pub(super) const TOLERANCE: f64 = 1e-5;

/// Where the outputs lie.
pub(super) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Loads a checkpoint in concrete types: `demo`, or a folder, of which a relative one lies here.
pub(super) fn load(source: &str) -> Siglip {
    let path = folder().join(source);
    let source = if source == "demo" { source.to_owned() } else { path.to_string_lossy().into() };
    let config = config::Model { source, ..config::Model::default() };
    model::load_siglip(&config).unwrap_or_else(|error| panic!("{error}"))
}

/// One file of named outputs.
pub(super) struct Reference {
    bytes: Vec<u8>,
    metadata: HashMap<String, String>,
}

impl Reference {
    pub(super) fn open(name: &str) -> Self {
        let path = folder().join(name);
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (_, metadata) = SafeTensors::read_metadata(&bytes).expect("a valid file");
        let metadata = metadata.metadata().clone().unwrap_or_default();
        Self { bytes, metadata }
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("a valid file")
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.tensors().names().into_iter().map(ToOwned::to_owned).collect()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors().tensor(name).is_ok()
    }

    /// A list of strings in the file's metadata.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        serde_json::from_str(&self.metadata[name]).expect("a list of strings")
    }

    pub(super) fn floats(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
        let values = tensor.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
        (tensor.shape().to_vec(), values.collect())
    }

    pub(super) fn bytes(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(tensor.dtype(), Dtype::U8, "{name}");
        (tensor.shape().to_vec(), tensor.data().to_vec())
    }

    /// The stored pictures, ready for a tower.
    pub(super) fn pixels(&self) -> Vec<Pixels> {
        let (shape, values) = self.bytes("pixels");
        let (height, width) = (shape[1], shape[2]);
        values
            .chunks_exact(height * width * 3)
            .map(|data| Pixels { height: height as u32, width: width as u32, data: data.into() })
            .collect()
    }

    /// The stored ids, a row for each text.
    pub(super) fn ids(&self) -> Vec<Vec<u32>> {
        self.integers("ids")
    }

    /// Rows of a tensor of integers.
    pub(super) fn integers(&self, name: &str) -> Vec<Vec<u32>> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(tensor.dtype(), Dtype::I64, "{name}");
        let values: Vec<u32> = tensor
            .data()
            .as_chunks()
            .0
            .iter()
            .map(|&bytes| u32::try_from(i64::from_le_bytes(bytes)).expect("not negative"))
            .collect();
        values.chunks_exact(tensor.shape()[1]).map(<[u32]>::to_vec).collect()
    }

    /// The stored ids, ready for a tower.
    pub(super) fn tokens(&self) -> Vec<Tokens> {
        self.ids().into_iter().map(|ids| tokens(&ids)).collect()
    }

    /// Compares every stage that is stored with the same of `stages`, whose rows may be more.
    pub(super) fn check_stages(&self, tower: &str, stages: &Stages) {
        for (index, stage) in stages.hidden_states.iter().enumerate() {
            self.check(&format!("{tower}.hidden_state.{index}"), &stage.shape, &stage.values);
        }
        assert!(!self.has(&format!("{tower}.hidden_state.{}", stages.hidden_states.len())));
        let last = &stages.last_hidden_state;
        self.check(&format!("{tower}.last_hidden_state"), &last.shape, &last.values);
        self.check(&format!("{tower}.pooled"), &stages.pooled.shape, &stages.pooled.values);
    }

    /// Compares a stage with the stored one, whose rows may be fewer.
    pub(super) fn check(&self, name: &str, shape: &[usize], values: &[f32]) {
        let (expected_shape, expected) = self.floats(name);
        assert_eq!(shape[1..], expected_shape[1..], "{name}");
        assert_close(name, &values[..expected.len()], &expected);
    }
}

pub(super) fn tokens(ids: &[u32]) -> Tokens {
    Tokens { ids: Arc::from(ids), used: ids.len(), truncated: false }
}

/// The largest difference, relative to the largest value.
pub(super) fn difference(values: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(values.len(), expected.len());
    let scale = expected.iter().fold(0.0, |most, value| f64::max(most, f64::from(value.abs())));
    let most = values.iter().zip(expected).fold(0.0, |most, (value, expected)| {
        f64::max(most, (f64::from(*value) - f64::from(*expected)).abs())
    });
    assert!(values.iter().all(|value| value.is_finite()));
    most / scale
}

/// A row of the table that `tests/golden/table` shows: what the running test compared, and how it went.
pub(super) fn row(stage: &str, error: &str, tolerance: &str) {
    let thread = std::thread::current();
    let test = thread.name().and_then(|name| name.rsplit("::").next()).unwrap_or_default();
    println!("| {} | {stage} | {error} | {tolerance} |", test.replace('_', " "));
}

pub(super) fn assert_close(name: &str, values: &[f32], expected: &[f32]) {
    let difference = difference(values, expected);
    row(name, &format!("{difference:.1e}"), &format!("{TOLERANCE:.0e}"));
    assert!(difference <= TOLERANCE, "{name}: off by {difference:e} of its largest value");
}

/// Cosines between normalised rows: `[images, texts]`, row-major.
pub(super) fn cosines(images: &[Embedding], texts: &[Embedding]) -> Vec<f32> {
    let normalised =
        |rows: &[Embedding]| rows.iter().map(Embedding::normalized).collect::<Vec<_>>();
    let (images, texts) = (normalised(images), normalised(texts));
    let dot = |a: &Embedding, b: &Embedding| {
        a.as_slice().iter().zip(b.as_slice()).map(|(a, b)| a * b).sum::<f32>()
    };
    images.iter().flat_map(|image| texts.iter().map(move |text| dot(image, text))).collect()
}
