//! The layers of an encoder, in memory that passes share and as graphs.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use candle_core::{
    Result, Tensor, bail,
    cuda_backend::{
        WrapErr as _,
        cudarc::driver::{
            CudaSlice, DevicePtr as _, result,
            sys::{CUgraphInstantiate_flags, CUstreamCaptureMode},
        },
    },
};
use parking_lot::Mutex;

use super::{
    arguments::{Activate, Address, Attend, LayerNorm},
    cuda::{Cuda, WIDEST_HEAD},
    layers::{LayerWeights, StackShape},
    memory::{address_of, reading, written},
    operations::int,
    plan::{Common, Graph, Key, Places, Plan, Sizes},
    products::{Operands, Product, alignment},
};
use crate::model::kernels::{Activation, Mask};

/// The same on the device.
type LayerAddresses = [(Address, Address); 6];

/// The layers of an encoder with its weights, which candle's operations use as well.
pub(super) struct Stack {
    cuda: Arc<Cuda>,
    shape: StackShape,
    layers: Vec<LayerAddresses>,
    /// What the addresses are of.
    _weights: Vec<LayerWeights>,
    /// Whether passes can be captured.
    captures: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What all passes are computed in. It grows with the largest batch.
    memory: Option<CudaSlice<u8>>,
    /// Those that were used last come last.
    plans: Vec<Plan>,
}

/// Images of any size come in any number of tokens: so many shapes are remembered.
const MOST_PLANS: usize = 64;

/// What is run of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    All,
    /// All, and of the last layer the last token.
    Last,
    Layer(usize),
}

impl Stack {
    /// None where the kernels are not for the shape: for widths that are no multiples of 8, and wide heads.
    ///
    /// # Errors
    /// Fails for weights that are not on the device.
    pub(super) fn new(
        cuda: &Arc<Cuda>,
        shape: StackShape,
        weights: Vec<LayerWeights>,
    ) -> Result<Option<Self>> {
        let StackShape { hidden, inner, heads, .. } = shape;
        let fits = hidden % 8 == 0 && inner % 8 == 0 && hidden % heads == 0;
        if !fits || hidden / heads > WIDEST_HEAD || weights.is_empty() {
            return Ok(None);
        }
        let address = |tensor: &Tensor| match tensor.dtype() == cuda.dtype {
            true => address_of(tensor, &cuda.stream),
            false => bail!("weights of {:?} where {:?} is computed", tensor.dtype(), cuda.dtype),
        };
        let mut layers = Vec::with_capacity(weights.len());
        for layer in &weights {
            let mut addresses = [(0, 0); 6];
            for (to, (weight, bias)) in addresses.iter_mut().zip(layer) {
                *to = (address(weight)?, address(bias)?);
            }
            layers.push(addresses);
        }
        Ok(Some(Self {
            cuda: Arc::clone(cuda),
            shape,
            layers,
            _weights: weights,
            captures: AtomicBool::new(true),
            state: Mutex::default(),
        }))
    }

    /// The output of all layers.
    ///
    /// * `x`, and what is returned: `[batch, tokens, hidden]`
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, Part::All)
    }

    /// The last token of it: `[batch, 1, hidden]`.
    pub(super) fn forward_last(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, Part::Last)
    }

    /// The output of one layer.
    pub(super) fn layer(&self, index: usize, x: &Tensor) -> Result<Tensor> {
        self.run(x, Part::Layer(index))
    }

    fn run(&self, x: &Tensor, part: Part) -> Result<Tensor> {
        let (batch, tokens, hidden) = x.dims3()?;
        if hidden != self.shape.hidden || x.dtype() != self.cuda.dtype || batch * tokens == 0 {
            bail!(
                "{:?} of {:?} in an encoder of width {}",
                x.shape(),
                x.dtype(),
                self.shape.hidden
            );
        }
        let x = x.contiguous()?;
        let key = Key { batch, tokens, last: part == Part::Last };
        let mut state = self.state.lock();
        let places = Places::new(self.memory(&mut state, key)?, key, self.sizes());
        let mut plan = self.plan(&mut state, key, places)?;
        reading(&x, &self.cuda.stream, |from| self.copy(places.x, from, key.rows()))?;
        let ran = match part {
            Part::Layer(index) => self.layer_steps(index, &mut plan, places),
            Part::All | Part::Last => self.play(&mut plan, places),
        };
        if ran.is_ok() {
            state.plans.push(plan);
        }
        ran?;
        let (from, tokens) = if key.last { (places.y, 1) } else { (places.x, tokens) };
        written(&self.cuda.device, self.cuda.dtype, (batch, tokens, hidden), |to| {
            self.copy(to, from, batch * tokens)
        })
    }

    fn sizes(&self) -> Sizes {
        let value = self.cuda.dtype.size_in_bytes();
        Sizes { hidden: self.shape.hidden, inner: self.shape.inner, value }
    }

    /// Memory with room for the batch.
    fn memory(&self, state: &mut State, key: Key) -> Result<Address> {
        let bytes = Places::bytes(key, self.sizes());
        if state.memory.as_ref().is_none_or(|memory| memory.len() < bytes) {
            // What graphs point to goes, once none of them runs: there is not always room for both.
            self.cuda.stream.synchronize().w()?;
            for plan in &mut state.plans {
                plan.graph = None;
            }
            state.memory = None;
            // SAFETY: each part of it is written by a kernel before another one reads it.
            state.memory = Some(unsafe { self.cuda.device.alloc::<u8>(bytes) }?);
        }
        match &state.memory {
            Some(memory) => Ok(memory.device_ptr(&self.cuda.stream).0),
            None => bail!("no memory for a pass"),
        }
    }

    /// Takes the plan for the batch, or makes one.
    fn plan(&self, state: &mut State, key: Key, places: Places) -> Result<Plan> {
        if let Some(index) = state.plans.iter().position(|plan| plan.key == key) {
            return Ok(state.plans.remove(index));
        }
        if state.plans.len() >= MOST_PLANS {
            // A graph that runs may not be let go of by the host.
            self.cuda.stream.synchronize().w()?;
            state.plans.remove(0);
        }
        let of_layers = self.layers.iter().flatten().flat_map(|&(weight, bias)| [weight, bias]);
        let step = (self.shape.hidden * self.cuda.dtype.size_in_bytes()) as u64;
        let of_places = [places.x, places.normed, places.wide, places.q, places.y];
        // The queries of the last layer begin at a token, and its keys at a third of a matrix and of a bias.
        let aligned = alignment(of_layers.chain(of_places).chain([step]));
        let bias = self.layers.first().map_or(0, |layer| layer[1].1);
        let common =
            Common { sizes: self.sizes(), activation: self.shape.activation, aligned, bias };
        Plan::new(&self.cuda.products, key, common)
    }

    fn copy(&self, to: Address, from: Address, rows: usize) -> Result<()> {
        let bytes = rows * self.shape.hidden * self.cuda.dtype.size_in_bytes();
        self.cuda.stream.context().bind_to_thread().w()?;
        // SAFETY: both are of as many rows, and in use on this stream alone.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.cuda.stream.cu_stream()) }.w()
    }

    /// Runs a plan: as it is at first, which loads what it launches, and as a graph from then on.
    fn play(&self, plan: &mut Plan, places: Places) -> Result<()> {
        if let Some(graph) = &plan.graph {
            return graph.0.launch().w();
        }
        plan.uses += 1;
        if plan.uses < 2 || !self.captures.load(Ordering::Relaxed) {
            return self.steps(plan, places);
        }
        match self.capture(plan, places) {
            Ok(graph) => {
                graph.0.launch().w()?;
                plan.graph = Some(graph);
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, "a pass cannot be captured; its kernels are launched one by one");
                self.captures.store(false, Ordering::Relaxed);
                self.steps(plan, places)
            }
        }
    }

    fn capture(&self, plan: &mut Plan, places: Places) -> Result<Graph> {
        let stream = &self.cuda.stream;
        // What other threads do meanwhile is no part of it.
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).w()?;
        let steps = self.steps(plan, places);
        // Whatever became of the steps, the stream must leave this state.
        let graph = stream.end_capture(CUgraphInstantiate_flags(0)).w();
        steps?;
        match graph? {
            Some(graph) => Ok(Graph(graph)),
            None => bail!("nothing was captured"),
        }
    }

    fn steps(&self, plan: &mut Plan, places: Places) -> Result<()> {
        let whole = self.layers.len() - usize::from(plan.key.last);
        for index in 0..whole {
            self.layer_steps(index, plan, places)?;
        }
        if plan.key.last { self.last_steps(plan, places) } else { Ok(()) }
    }

    fn layer_steps(&self, index: usize, plan: &mut Plan, places: Places) -> Result<()> {
        let Some([norm1, qkv, out, norm2, fc1, fc2]) = self.layers.get(index).copied() else {
            bail!("layer {index} of {}", self.layers.len());
        };
        let Places { x, normed, wide, .. } = places;
        let (key, products) = (plan.key, &mut plan.products);
        let rows = key.rows();
        self.norm(rows, norm1, (x, normed))?;
        self.product(&mut products.qkv, qkv, (normed, wide), 0)?;
        let step = (self.shape.hidden * self.cuda.dtype.size_in_bytes()) as u64;
        self.attend(key, [wide, wide + step, wide + 2 * step], (3, key.tokens), normed)?;
        self.product(&mut products.out, out, (normed, x), x)?;
        self.norm(rows, norm2, (x, normed))?;
        self.product(&mut products.fc1, fc1, (normed, wide), 0)?;
        self.activate(rows, wide)?;
        self.product(&mut products.fc2, fc2, (wide, x), x)
    }

    /// The last layer, of whose output the last token is read.
    fn last_steps(&self, plan: &mut Plan, places: Places) -> Result<()> {
        let key = plan.key;
        let (Some(products), Some(&[norm1, qkv, out, norm2, fc1, fc2])) =
            (&mut plan.last, self.layers.last())
        else {
            bail!("no plan for the last token");
        };
        let Places { x, normed, wide, q, y } = places;
        let value = self.cuda.dtype.size_in_bytes();
        let hidden = self.shape.hidden;
        let step = (hidden * value) as u64;
        // Where the last token of the first row is; the others are as far from each other as rows are.
        let last = (key.tokens as u64 - 1) * step;
        let below = (qkv.0 + hidden as u64 * step, qkv.1 + step);
        self.norm(key.rows(), norm1, (x, normed))?;
        self.product(&mut products.q, qkv, (normed + last, q), 0)?;
        self.product(&mut products.kv, below, (normed, wide), 0)?;
        self.attend(key, [q, wide, wide + step], (2, 1), normed)?;
        self.product(&mut products.out, out, (normed, y), x + last)?;
        self.norm(key.batch, norm2, (y, q))?;
        self.product(&mut products.fc1, fc1, (q, wide), 0)?;
        self.activate(key.batch, wide)?;
        self.product(&mut products.fc2, fc2, (wide, y), y)
    }

    fn norm(
        &self,
        rows: usize,
        (weight, bias): (Address, Address),
        (x, y): (Address, Address),
    ) -> Result<()> {
        let width = self.shape.hidden;
        self.cuda.layer_norm(&LayerNorm {
            x,
            y,
            weight,
            bias,
            x_stride: i64::from(int(width)?),
            rows: int(rows)?,
            width: int(width)?,
            eps: self.shape.eps,
            ..LayerNorm::default()
        })
    }

    fn product(
        &self,
        product: &mut Product,
        (weight, bias): (Address, Address),
        (x, y): (Address, Address),
        residual: Address,
    ) -> Result<()> {
        self.cuda.products.run(product, Operands { x, weight, bias, residual, y })
    }

    /// * `parts`: of a fused product, as many as one of its rows has; `queries`: of each row of the batch
    fn attend(
        &self,
        key: Key,
        [q, k, v]: [Address; 3],
        (parts, queries): (usize, usize),
        out: Address,
    ) -> Result<()> {
        let StackShape { hidden, heads, mask, .. } = self.shape;
        let width = |parts: usize, tokens: usize| {
            Ok::<_, candle_core::Error>(i64::from(int(parts * hidden)?) * i64::from(int(tokens)?))
        };
        // Queries by themselves are behind each other; those of a fused product have its rows.
        let q_parts = if queries == key.tokens && parts == 3 { 3 } else { 1 };
        let arguments = Attend {
            q,
            k,
            v,
            out,
            key_counts: 0,
            q_batch: width(q_parts, queries)?,
            q_token: width(q_parts, 1)?,
            kv_batch: width(parts, key.tokens)?,
            kv_token: width(parts, 1)?,
            out_batch: width(1, queries)?,
            out_token: width(1, 1)?,
            queries: int(queries)?,
            keys: int(key.tokens)?,
            heads: int(heads)?,
            head_dim: int(hidden / heads)?,
            scale: ((hidden / heads) as f32).powf(-0.5),
            causal: i32::from(mask == Mask::Causal),
        };
        self.cuda.attend(&arguments, key.batch)
    }

    /// What the product could not do itself.
    fn activate(&self, rows: usize, x: Address) -> Result<()> {
        let kind = match self.shape.activation {
            Activation::GeluTanh => return Ok(()),
            Activation::GeluErf => 1,
            Activation::QuickGelu => 2,
        };
        let width = int(self.shape.inner)?;
        let count = i64::from(int(rows)?) * i64::from(width);
        self.cuda.activate(&Activate { x, bias: 0, count, width, kind })
    }
}

/// A graph that runs may not be let go of by the host.
impl Drop for Stack {
    fn drop(&mut self) {
        if let Err(error) = self.cuda.stream.synchronize() {
            tracing::debug!(%error, "a device was left that is broken");
        }
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack").field("shape", &self.shape).finish_non_exhaustive()
    }
}
