//! A file of reference outputs, and how they are compared.

use std::{collections::HashMap, env, fs, path::PathBuf, sync::Arc};

use parking_lot::Mutex;
use safetensors::{Dtype, SafeTensors};
use siglip_server::{
    config,
    embedding::Embedding,
    model::{self, ResidentModel, Stages},
    preprocess::Pixels,
    tokenize::Tokens,
};

/// Most that a value of a stage may differ, relative to the stage's largest.
pub(super) const TOLERANCE: f64 = 1e-5;

/// Most that a row may differ from the same row in other company, likewise.
const MATES_TOLERANCE: f64 = 1e-6;

/// Where the outputs lie: in the repository, or where `GOLDEN_FOLDER` says.
pub(super) fn folder() -> PathBuf {
    match env::var_os("GOLDEN_FOLDER") {
        Some(folder) => folder.into(),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
    }
}

/// Loads a checkpoint in concrete types: `demo`, or a folder, of which a relative one lies here.
pub(super) fn load(source: &str) -> ResidentModel {
    Judge::strict().load(source)
}

/// What is compared with the outputs, and what becomes of a difference.
pub(super) struct Judge {
    /// Where towers run and in which type; the source is another for each checkpoint.
    pub(super) model: config::Model,
    /// Most that a value of a stage may differ, relative to the stage's largest.
    pub(super) tolerance: f64,
    /// Most that a row may differ from the same row in other company.
    pub(super) mates_tolerance: f64,
    noted: Option<Mutex<Vec<Comparison>>>,
}

/// How one comparison went.
#[derive(Debug, Clone)]
pub(super) struct Comparison {
    pub(super) stage: String,
    pub(super) difference: f64,
    pub(super) tolerance: f64,
}

impl Judge {
    /// In f32 on the processor; panics at the first difference.
    pub(super) fn strict() -> Self {
        Self {
            model: config::Model::default(),
            tolerance: TOLERANCE,
            mates_tolerance: MATES_TOLERANCE,
            noted: None,
        }
    }

    /// Notes every comparison and goes on.
    ///
    /// * `tolerances`: of a stage, and of a row in other company
    pub(super) fn noting(model: config::Model, tolerances: [f64; 2]) -> Self {
        let [tolerance, mates_tolerance] = tolerances;
        Self { model, tolerance, mates_tolerance, noted: Some(Mutex::default()) }
    }

    /// What was noted since the last time.
    pub(super) fn take(&self) -> Vec<Comparison> {
        self.noted.as_ref().map(|noted| std::mem::take(&mut *noted.lock())).unwrap_or_default()
    }

    /// See [`load`].
    pub(super) fn load(&self, source: &str) -> ResidentModel {
        let path = folder().join(source);
        let source =
            if source == "demo" { source.to_owned() } else { path.to_string_lossy().into() };
        let config = config::Model { source, ..self.model.clone() };
        model::load_resident(&config).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A checkpoint and its outputs.
    pub(super) fn open(&self, name: &str) -> (ResidentModel, Reference) {
        (self.load(name), Reference::open(&format!("{name}/expected.safetensors")))
    }

    /// Compares every stage that is stored with the same of `stages`, whose rows may be more.
    pub(super) fn stages(&self, expected: &Reference, tower: &str, stages: &Stages) {
        for (index, stage) in stages.hidden_states.iter().enumerate() {
            let name = format!("{tower}.hidden_state.{index}");
            self.stage(expected, &name, (&stage.shape, &stage.values));
        }
        let behind = format!("{tower}.hidden_state.{}", stages.hidden_states.len());
        assert!(!expected.has(&behind));
        let (last, pooled) = (&stages.last_hidden_state, &stages.pooled);
        let name = format!("{tower}.last_hidden_state");
        self.stage(expected, &name, (&last.shape, &last.values));
        self.stage(expected, &format!("{tower}.pooled"), (&pooled.shape, &pooled.values));
    }

    /// Compares a stage, its shape and values, with the stored one, whose rows may be fewer.
    pub(super) fn stage(
        &self,
        expected: &Reference,
        name: &str,
        (shape, values): (&[usize], &[f32]),
    ) {
        let (expected_shape, expected) = expected.floats(name);
        assert_eq!(shape[1..], expected_shape[1..], "{name}");
        self.close(name, &values[..expected.len()], &expected);
    }

    pub(super) fn close(&self, name: &str, values: &[f32], expected: &[f32]) {
        self.within(name, difference(values, expected), self.tolerance);
    }

    /// Compares a row with the same row in other company.
    pub(super) fn same_row(&self, name: &str, values: &[f32], expected: &[f32]) {
        self.within(name, difference(values, expected), self.mates_tolerance);
    }

    fn within(&self, name: &str, difference: f64, tolerance: f64) {
        match &self.noted {
            Some(noted) => {
                noted.lock().push(Comparison { stage: name.to_owned(), difference, tolerance });
            }
            None => {
                row(name, &format!("{difference:.1e}"), &format!("{tolerance:.0e}"));
                assert!(
                    difference <= tolerance,
                    "{name}: off by {difference:e} of its largest value"
                );
            }
        }
    }
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

    /// The stored ids, ready for a tower: without the padding where the file says how long each text is.
    pub(super) fn tokens(&self) -> Vec<Tokens> {
        let mut ids = self.ids();
        if self.has("lengths") {
            let lengths = self.integers("lengths");
            ids.iter_mut().zip(lengths).for_each(|(ids, length)| ids.truncate(length[0] as usize));
        }
        ids.iter().map(|ids| tokens(ids)).collect()
    }

    /// Compares every stage; see [`Judge::stages`].
    pub(super) fn check_stages(&self, tower: &str, stages: &Stages) {
        Judge::strict().stages(self, tower, stages);
    }

    /// Compares a stage; see [`Judge::stage`].
    pub(super) fn check(&self, name: &str, shape: &[usize], values: &[f32]) {
        Judge::strict().stage(self, name, (shape, values));
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
    Judge::strict().close(name, values, expected);
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
