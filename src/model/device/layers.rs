//! The layers of an encoder with our kernels, where there are any.

#[cfg(feature = "cuda")]
use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::Own;
#[cfg(feature = "cuda")]
use super::stack::Stack;
use crate::model::kernels::{Activation, Mask};

/// What all layers of an encoder have in common.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "a stack reads it"))]
pub(in crate::model) struct StackShape {
    pub(in crate::model) hidden: usize,
    pub(in crate::model) inner: usize,
    pub(in crate::model) heads: usize,
    pub(in crate::model) activation: Activation,
    pub(in crate::model) mask: Mask,
    pub(in crate::model) eps: f32,
}

/// Weight and bias of the first norm, of Q, K and V, of what follows attention, of the second norm and of the two layers
/// of the MLP.
pub(in crate::model) type LayerWeights = [(Tensor, Tensor); 6];

/// What runs the layers of an encoder with our kernels, over the weights that candle's operations use as well.
#[derive(Debug, Clone)]
pub(in crate::model) struct OwnLayers {
    own: Own,
    #[cfg(feature = "cuda")]
    stack: Option<Arc<Stack>>,
}

impl OwnLayers {
    /// * `weights`: none where a layer has no bias, or is no tensor
    ///
    /// # Errors
    /// Fails for weights that are not on the device.
    pub(in crate::model) fn new(
        own: &Own,
        shape: StackShape,
        weights: impl Fn() -> Option<Vec<LayerWeights>>,
    ) -> Result<Self> {
        #[cfg(feature = "cuda")]
        {
            let stack = match own.available().zip(own.available().and_then(|_| weights())) {
                Some((cuda, weights)) => Stack::new(cuda, shape, weights)?.map(Arc::new),
                None => None,
            };
            Ok(Self { own: own.clone(), stack })
        }
        #[cfg(not(feature = "cuda"))]
        {
            let _ = (shape, weights);
            Ok(Self { own: own.clone() })
        }
    }

    /// The output of all layers.
    ///
    /// * `x`, and what is returned: `[batch, tokens, hidden]`; none where candle's operations are used
    pub(in crate::model) fn forward(&self, x: &Tensor) -> Result<Option<Tensor>> {
        self.run(x, |layers, x| layers.forward(x))
    }

    /// The last token of it: `[batch, 1, hidden]`.
    pub(in crate::model) fn forward_last(&self, x: &Tensor) -> Result<Option<Tensor>> {
        self.run(x, |layers, x| layers.forward_last(x))
    }

    /// The output of one layer.
    pub(in crate::model) fn layer(&self, index: usize, x: &Tensor) -> Result<Option<Tensor>> {
        self.run(x, |layers, x| layers.layer(index, x))
    }

    #[cfg(feature = "cuda")]
    fn run(
        &self,
        x: &Tensor,
        run: impl FnOnce(&Stack, &Tensor) -> Result<Tensor>,
    ) -> Result<Option<Tensor>> {
        let stack = self.stack.as_ref().filter(|_| self.own.is_in_use());
        stack.map(|stack| run(stack, x)).transpose()
    }

    #[cfg(not(feature = "cuda"))]
    fn run(
        &self,
        _: &Tensor,
        _: impl FnOnce(&NoStack, &Tensor) -> Result<Tensor>,
    ) -> Result<Option<Tensor>> {
        let _ = &self.own;
        Ok(None)
    }
}

/// There is none without CUDA.
#[cfg(not(feature = "cuda"))]
enum NoStack {}

#[cfg(not(feature = "cuda"))]
impl NoStack {
    fn forward(&self, _: &Tensor) -> Result<Tensor> {
        match *self {}
    }

    fn forward_last(&self, _: &Tensor) -> Result<Tensor> {
        match *self {}
    }

    fn layer(&self, _: usize, _: &Tensor) -> Result<Tensor> {
        match *self {}
    }
}
