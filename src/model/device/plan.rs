//! What a batch of one shape runs: products that were prepared for it, places in memory, and a graph of all of it.

use candle_core::Result;

use candle_core::cuda_backend::cudarc::driver::CudaGraph;

use super::{
    arguments::Address,
    products::{End, Product, Products, Spec},
};
use crate::model::kernels::Activation;

/// Places begin at multiples of this, which is what cuBLASLt likes best.
const ALIGNED: usize = 256;

/// The sizes of an encoder that its passes depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) hidden: usize,
    pub(super) inner: usize,
    /// Bytes of a value.
    pub(super) value: usize,
}

/// The shape of a batch, and what is asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) batch: usize,
    pub(super) tokens: usize,
    /// Whether the last token alone is computed in the last layer.
    pub(super) last: bool,
}

impl Key {
    pub(super) fn rows(self) -> usize {
        self.batch * self.tokens
    }
}

/// Where the values of a batch are, in memory that its layers use again and again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    /// `[rows, hidden]`: what a layer reads and writes.
    pub(super) x: Address,
    /// `[rows, hidden]`: normed, and what attention mixed.
    pub(super) normed: Address,
    /// `[rows, 3 * hidden]` or `[rows, inner]`.
    pub(super) wide: Address,
    /// `[batch, hidden]`: queries of the last tokens, and then their states normed.
    pub(super) q: Address,
    /// `[batch, hidden]`: the last tokens.
    pub(super) y: Address,
}

impl Places {
    /// * `base`: of as many bytes as [`Places::bytes`] says, aligned as an allocation is
    pub(super) fn new(base: Address, key: Key, sizes: Sizes) -> Self {
        let [x, normed, wide, q, y, _] =
            Self::offsets(key, sizes).map(|offset| base + offset as u64);
        Self { x, normed, wide, q, y }
    }

    pub(super) fn bytes(key: Key, sizes: Sizes) -> usize {
        Self::offsets(key, sizes)[5]
    }

    /// Where each place begins, and where the last one ends.
    fn offsets(key: Key, Sizes { hidden, inner, value }: Sizes) -> [usize; 6] {
        let (rows, few) = (key.rows() * value, if key.last { key.batch * value } else { 0 });
        let lengths = [
            rows * hidden,
            rows * hidden,
            rows * inner.max(3 * hidden),
            few * hidden,
            few * hidden,
        ];
        let mut offsets = [0; 6];
        for (index, length) in lengths.into_iter().enumerate() {
            offsets[index + 1] = offsets[index] + length.next_multiple_of(ALIGNED);
        }
        offsets
    }
}

/// The products of a layer.
pub(super) struct LayerProducts {
    pub(super) qkv: Product,
    pub(super) out: Product,
    pub(super) fc1: Product,
    pub(super) fc2: Product,
}

/// The products of the last layer where its last token alone is computed.
pub(super) struct LastProducts {
    pub(super) q: Product,
    pub(super) kv: Product,
    pub(super) out: Product,
    pub(super) fc1: Product,
    pub(super) fc2: Product,
}

/// What a batch of one shape runs.
pub(super) struct Plan {
    pub(super) key: Key,
    pub(super) products: LayerProducts,
    pub(super) last: Option<LastProducts>,
    /// How often it ran.
    pub(super) uses: usize,
    pub(super) graph: Option<Graph>,
}

/// What a plan's products have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Common {
    pub(super) sizes: Sizes,
    pub(super) activation: Activation,
    /// What divides every address.
    pub(super) aligned: u64,
    /// Of some layer.
    pub(super) bias: Address,
}

impl Plan {
    pub(super) fn new(products: &Products, key: Key, common: Common) -> Result<Self> {
        let Sizes { hidden, inner, .. } = common.sizes;
        let spec = |rows, [inputs, outputs]: [usize; 2], end| Spec {
            rows,
            inputs,
            outputs,
            x_stride: inputs,
            residual_stride: outputs,
            y_stride: outputs,
            end,
            aligned: common.aligned,
        };
        let prepare = |spec| products.prepare(spec, common.bias);
        let activated = match common.activation {
            Activation::GeluTanh => End::GeluTanh,
            Activation::GeluErf | Activation::QuickGelu => End::Nothing,
        };
        let rows = key.rows();
        let layer = LayerProducts {
            qkv: prepare(spec(rows, [hidden, 3 * hidden], End::Nothing))?,
            out: prepare(spec(rows, [hidden, hidden], End::Residual))?,
            fc1: prepare(spec(rows, [hidden, inner], activated))?,
            fc2: prepare(spec(rows, [inner, hidden], End::Residual))?,
        };
        let last = || -> Result<_> {
            // The last token of each row of the batch, where all of them lie.
            let stride = key.tokens * hidden;
            let few = key.batch;
            Ok(LastProducts {
                q: prepare(Spec { x_stride: stride, ..spec(few, [hidden, hidden], End::Nothing) })?,
                kv: prepare(spec(rows, [hidden, 2 * hidden], End::Nothing))?,
                out: prepare(Spec {
                    residual_stride: stride,
                    ..spec(few, [hidden, hidden], End::Residual)
                })?,
                fc1: prepare(spec(few, [hidden, inner], activated))?,
                fc2: prepare(spec(few, [inner, hidden], End::Residual))?,
            })
        };
        let last = key.last.then(last).transpose()?;
        Ok(Self { key, products: layer, last, uses: 0, graph: None })
    }
}

/// A captured pass.
pub(super) struct Graph(pub(super) CudaGraph);

// SAFETY: a graph is launched and let go of by one thread at a time: its plan is behind a lock.
unsafe impl Send for Graph {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_lie_behind_each_other() {
        let sizes = Sizes { hidden: 24, inner: 40, value: 2 };
        let key = Key { batch: 3, tokens: 5, last: true };
        let places = Places::new(4096, key, sizes);
        // 15 rows of 24 values of 2 bytes are 720 bytes, of 72 are 2160; 3 rows of 24 are 144.
        assert_eq!([places.x, places.normed, places.wide], [4096, 4096 + 768, 4096 + 1536]);
        assert_eq!([places.q, places.y], [4096 + 1536 + 2304, 4096 + 1536 + 2304 + 256]);
        assert_eq!(Places::bytes(key, sizes), 1536 + 2304 + 512);
        assert_eq!(Places::bytes(Key { last: false, ..key }, sizes), 1536 + 2304);
    }
}
