//! Reads a file of reference outputs and compares with it.

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

/// Maximum difference of a value of a stage, relative to the stage's largest value.
pub(super) const TOLERANCE: f64 = 1e-5;

/// Maximum difference of a row from the same row in another batch, also relative.
const MATES_TOLERANCE: f64 = 1e-6;

/// The folder with the outputs: in the repository, or `GOLDEN_FOLDER`.
pub(super) fn folder() -> PathBuf {
    match env::var_os("GOLDEN_FOLDER") {
        Some(folder) => folder.into(),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
    }
}

/// Loads a checkpoint with concrete types: `demo`, or a folder. A relative path is relative to [`folder`].
pub(super) fn load(source: &str) -> ResidentModel {
    Judge::strict().load(source)
}

/// How the outputs are compared, and what happens with a difference.
pub(super) struct Judge {
    /// The device and type of the towers. The source is set for each checkpoint.
    pub(super) model: config::Model,
    /// Maximum difference of a value of a stage, relative to the stage's largest value.
    pub(super) tolerance: f64,
    /// Maximum difference of a row from the same row in another batch.
    pub(super) mates_tolerance: f64,
    noted: Option<Mutex<Vec<Comparison>>>,
}

/// The result of one comparison.
#[derive(Debug, Clone)]
pub(super) struct Comparison {
    pub(super) stage: String,
    pub(super) difference: f64,
    pub(super) tolerance: f64,
}

impl Judge {
    /// In f32 on the processor. Panics at the first difference.
    pub(super) fn strict() -> Self {
        Self {
            model: config::Model::default(),
            tolerance: TOLERANCE,
            mates_tolerance: MATES_TOLERANCE,
            noted: None,
        }
    }

    /// Records every comparison and continues.
    ///
    /// * `tolerances`: of a stage, and of a row in another batch
    pub(super) fn noting(model: config::Model, tolerances: [f64; 2]) -> Self {
        let [tolerance, mates_tolerance] = tolerances;
        Self { model, tolerance, mates_tolerance, noted: Some(Mutex::default()) }
    }

    /// The comparisons since the last call.
    pub(super) fn take(&self) -> Vec<Comparison> {
        self.noted.as_ref().map(|noted| std::mem::take(&mut *noted.lock())).unwrap_or_default()
    }

    /// See [`load`].
    pub(super) fn load(&self, source: &str) -> ResidentModel {
        let path = folder().join(source);
        let source =
            if source == "demo" { source.to_owned() } else { path.to_string_lossy().into() };
        let config = config::Model { source, ..self.model.clone() };
        let model = model::load_resident(&config).unwrap_or_else(|error| panic!("{error}"));
        // Kernels that were found wrong at load are not used, which must not pass for their being right.
        if let (Some(noted), Some(used)) = (&self.noted, &model.card.cuda_kernels)
            && used.value != config.cuda_kernels
        {
            let stage = format!("kernels: {}", used.why);
            noted.lock().push(Comparison { stage, difference: 1.0, tolerance: 0.0 });
        }
        model
    }

    /// A checkpoint and its outputs.
    pub(super) fn open(&self, name: &str) -> (ResidentModel, Reference) {
        (self.load(name), Reference::open(&format!("{name}/expected.safetensors")))
    }

    /// Compares every stored stage with the same one in `stages`, which may have more rows.
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

    /// Compares the shape and values of a stage with the stored one, which may have fewer rows.
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

    /// Compares a row with the same row in another batch.
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

    /// The stored images as input for a tower.
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

    /// The stored ids as input for a tower, without padding if the file has the length of each text.
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

/// Writes a row of the table that `tests/golden/table` shows: what the running test compared, and the result.
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
