//! Named tensors of a checkpoint, read from safetensors files.

mod element;
mod layers;
mod names;
mod read;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeSet, HashMap},
    ops::{Add, Sub},
};

use candle_core::{DType, Tensor};
use half::{bf16, f16};
use safetensors::{Dtype, tensor::TensorInfo};

pub(super) use self::names::Names;
use self::{element::Element, names::Source};
use super::{LoadError, checkpoint::WeightFile, runtime::Runtime};

/// One safetensors file: its name, for errors, its bytes and the place of each tensor in them.
struct Shard {
    file: String,
    bytes: WeightFile,
    /// Where tensor data begins, behind the length and the JSON header.
    data_start: usize,
    tensors: HashMap<String, TensorInfo>,
}

/// Every tensor of a checkpoint, and which of them a tower has taken.
pub(super) struct Weights {
    shards: Vec<Shard>,
    names: Names,
    taken: RefCell<BTreeSet<String>>,
    parameters: Cell<u64>,
    resident_bytes: Cell<u64>,
    /// Room for one matrix on its way.
    scratch: RefCell<Vec<f32>>,
}

/// Buffers that old exports carry along; transformers ignores them too.
const IGNORED_SUFFIX: &str = "position_ids";

impl Weights {
    /// # Errors
    /// Names the file that is not valid safetensors, or the tensor that two files hold.
    pub(super) fn new(files: Vec<(String, WeightFile)>) -> Result<Self, LoadError> {
        let mut shards: Vec<Shard> = Vec::with_capacity(files.len());
        for (file, bytes) in files {
            let (data_start, metadata) =
                read::header(&bytes).map_err(|fault| LoadError::new(format!("{file}: {fault}")))?;
            let tensors: HashMap<_, _> =
                metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
            for name in tensors.keys() {
                if let Some(other) = shards.iter().find(|shard| shard.tensors.contains_key(name)) {
                    return Err(LoadError::new(format!(
                        "{file}: tensor `{name}` is in {} too",
                        other.file
                    )));
                }
            }
            shards.push(Shard { file, bytes, data_start, tensors });
        }
        Ok(Self {
            shards,
            names: Names::Transformers,
            taken: RefCell::default(),
            parameters: Cell::new(0),
            resident_bytes: Cell::new(0),
            scratch: RefCell::default(),
        })
    }

    /// The same, with tensors named by open_clip.
    pub(super) fn with_names_of_open_clip(mut self) -> Self {
        self.names = Names::open_clip(|name| self.find(name).is_some());
        self
    }

    /// Whether the checkpoint has what the towers call `name`.
    pub(super) fn contains(&self, name: &str) -> bool {
        let source = self.source(name);
        source.stored().next().is_some() && source.stored().all(|name| self.find(name).is_some())
    }

    /// The stored shape of what the towers call `name`, where it is stored by itself.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        let source = self.source(name);
        let (_, info) = self.find(source.stored().next()?)?;
        Some(&info.shape)
    }

    fn source(&self, name: &str) -> Source {
        self.names.source(name, |stored| self.find(stored).is_some())
    }

    fn find(&self, stored: &str) -> Option<(&Shard, &TensorInfo)> {
        self.shards.iter().find_map(|shard| Some((shard, shard.tensors.get(stored)?)))
    }

    /// Parameters taken so far.
    pub(super) fn parameters(&self) -> u64 {
        self.parameters.get()
    }

    /// Starts to count again, for towers that are loaded once more.
    pub(super) fn forget(&self) {
        self.taken.borrow_mut().clear();
        self.parameters.set(0);
        self.resident_bytes.set(0);
    }

    /// Bytes of the tensors and layers made so far.
    pub(super) fn resident_bytes(&self) -> u64 {
        self.resident_bytes.get()
    }

    /// # Errors
    /// Names a tensor that no tower took, and its file: the checkpoint is of another architecture,
    /// or its config.json does not describe it.
    pub(super) fn finish(&self) -> Result<(), LoadError> {
        let taken = self.taken.borrow();
        let extra = self
            .shards
            .iter()
            .flat_map(|shard| shard.tensors.keys().map(move |name| (name, &shard.file)))
            .filter(|(name, _)| !taken.contains(*name) && !name.ends_with(IGNORED_SUFFIX));
        match extra.min() {
            None => Ok(()),
            Some((name, file)) => Err(LoadError::new(format!(
                "{file}: tensor `{name}` has no place in the model that the configuration describes"
            ))),
        }
    }

    /// The element type that a tensor is stored in, where it exists and is a float.
    fn stored_dtype(&self, name: &str) -> Option<DType> {
        let source = self.source(name);
        let (_, info) = self.find(source.stored().next()?)?;
        match info.dtype {
            Dtype::F16 => Some(DType::F16),
            Dtype::BF16 => Some(DType::BF16),
            Dtype::F32 => Some(DType::F32),
            _ => None,
        }
    }
}

/// How large tensors are.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extent {
    /// How many values they have.
    pub(super) values: u64,
    /// Bytes that they take in memory at most.
    pub(super) bytes: u64,
}

impl Add for Extent {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { values: self.values + other.values, bytes: self.bytes + other.bytes }
    }
}

impl Sub for Extent {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { values: self.values - other.values, bytes: self.bytes - other.bytes }
    }
}

/// A place in the name tree (`vision_model.encoder.layers.3`), with the runtime that tensors are made for.
#[derive(Clone)]
pub(super) struct Scope<'w> {
    weights: &'w Weights,
    runtime: &'w Runtime,
    prefix: String,
    /// Whether layers may be made of bytes.
    in_bytes: bool,
}

impl<'w> Scope<'w> {
    pub(super) fn root(weights: &'w Weights, runtime: &'w Runtime) -> Self {
        Self { weights, runtime, prefix: String::new(), in_bytes: false }
    }

    /// A child: `self.name`.
    pub(super) fn at(&self, name: impl std::fmt::Display) -> Self {
        Self { prefix: self.path(name), ..self.clone() }
    }

    /// The same place, for layers that are made of bytes where the runtime says so: those that do most of the
    /// work, and not those that read or give the one vector of an image or a text, on which all errors tell.
    pub(super) fn in_bytes(&self) -> Self {
        Self { in_bytes: self.runtime.bytes, ..self.clone() }
    }

    /// Whether the checkpoint has the tensor.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.weights.contains(&self.path(name))
    }

    /// Notes that a tensor is known and not read, if the checkpoint has it.
    pub(super) fn skip(&self, name: &str) {
        let source = self.weights.source(&self.path(name));
        self.weights.taken.borrow_mut().extend(source.stored().map(str::to_owned));
    }

    /// How large the tensors at this place are.
    pub(super) fn extent(&self) -> Extent {
        let inside = match self.prefix.as_str() {
            "" => String::new(),
            prefix => format!("{prefix}."),
        };
        let tensors = self.weights.shards.iter().flat_map(|shard| &shard.tensors);
        let inside = tensors.filter(|(name, _)| name.starts_with(&inside));
        inside.fold(Extent::default(), |sum, (_, info)| sum + self.extent_of(&info.shape))
    }

    /// As much as a kernel may add is added: outputs fill panels, inputs fill tiles, and each output of a layer of bytes
    /// has a factor.
    fn extent_of(&self, shape: &[usize]) -> Extent {
        let values = shape.iter().product::<usize>() as u64;
        let bytes = match shape {
            [] | [_] => values.next_multiple_of(16) * 4,
            [outputs, inputs @ ..] => {
                let outputs = (*outputs as u64).next_multiple_of(16);
                let inputs = inputs.iter().product::<usize>() as u64;
                outputs * (inputs.next_multiple_of(32) * self.runtime.bytes_of_value() + 4)
            }
        };
        Extent { values, bytes }
    }

    /// Bytes of the tensors and layers made so far.
    pub(super) fn loaded_bytes(&self) -> u64 {
        self.weights.resident_bytes()
    }

    /// Notes that every tensor outside of this place is known and not read.
    pub(super) fn skip_outside(&self) {
        let inside = format!("{}.", self.prefix);
        let names = self.weights.shards.iter().flat_map(|shard| shard.tensors.keys());
        let outside = names.filter(|name| !name.starts_with(&inside)).cloned();
        self.weights.taken.borrow_mut().extend(outside);
    }

    /// Notes that every tensor at this place is known and not read.
    pub(super) fn skip_inside(&self) {
        let inside = format!("{}.", self.prefix);
        let names = self.weights.shards.iter().flat_map(|shard| shard.tensors.keys());
        let found = names.filter(|name| name.starts_with(&inside)).cloned();
        self.weights.taken.borrow_mut().extend(found);
    }

    /// The shape of a tensor, where the checkpoint has it.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.weights.shape(&self.path(name))
    }

    pub(super) fn runtime(&self) -> &'w Runtime {
        self.runtime
    }

    fn path(&self, name: impl std::fmt::Display) -> String {
        match self.prefix.as_str() {
            "" => name.to_string(),
            prefix => format!("{prefix}.{name}"),
        }
    }

    /// A tensor in the compute type: biases, norms and whatever else is added or scaled.
    pub(super) fn vector(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        self.stack(&[name], shape, self.runtime.compute)
    }

    /// A table of which single rows are read. Kept as the file has it where that is narrower: the
    /// values are the same, and a table of 250,000 tokens is most of a text tower.
    pub(super) fn table(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        let dtype = match self.weights.stored_dtype(&self.path(name)) {
            Some(stored) if self.runtime.resident == DType::F32 => stored,
            _ => self.runtime.resident,
        };
        self.stack(&[name], shape, dtype)
    }

    /// A single value, for the host.
    pub(super) fn scalar(&self, name: &str) -> Result<f32, LoadError> {
        let mut value = Vec::with_capacity(1);
        self.weights.read::<f32>(&self.path(name), &[1], &mut value)?;
        value.first().copied().ok_or_else(|| LoadError::new(format!("tensor `{name}` is empty")))
    }

    /// The values of a tensor on the host, in f32, for folding constants at load.
    pub(super) fn host(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        let mut values = Vec::with_capacity(shape.iter().product());
        self.weights.read(&self.path(name), shape, &mut values)?;
        Ok(values)
    }

    /// A tensor of values computed on the host.
    pub(super) fn tensor(
        &self,
        values: Vec<f32>,
        shape: &[usize],
        dtype: DType,
    ) -> Result<Tensor, LoadError> {
        let make = || Tensor::from_vec(values, shape, &self.runtime.device)?.to_dtype(dtype);
        let tensor = make().map_err(|error| LoadError::new(format!("{}: {error}", self.prefix)))?;
        self.count(tensor.elem_count() * tensor.dtype().size_in_bytes());
        Ok(tensor)
    }

    fn stack(&self, names: &[&str], shape: &[usize], dtype: DType) -> Result<Tensor, LoadError> {
        match dtype {
            DType::F16 => self.stack_of::<f16>(names, shape),
            DType::BF16 => self.stack_of::<bf16>(names, shape),
            _ => self.stack_of::<f32>(names, shape),
        }
    }

    /// Converts once, straight from the mapped bytes to the resident vector: no second copy.
    fn stack_of<T: Element>(&self, names: &[&str], shape: &[usize]) -> Result<Tensor, LoadError> {
        let count = shape.iter().product::<usize>() * names.len();
        let mut values = Vec::<T>::with_capacity(count);
        for name in names {
            self.weights.read(&self.path(name), shape, &mut values)?;
        }
        let mut stacked = shape.to_vec();
        if let Some(first) = stacked.first_mut() {
            *first *= names.len();
        }
        let tensor = Tensor::from_vec(values, stacked, &self.runtime.device)
            .map_err(|error| LoadError::new(format!("{}: {error}", self.path(names.join("+")))))?;
        self.count(tensor.elem_count() * tensor.dtype().size_in_bytes());
        Ok(tensor)
    }

    fn count(&self, bytes: usize) {
        self.weights.resident_bytes.set(self.weights.resident_bytes.get() + bytes as u64);
    }
}
