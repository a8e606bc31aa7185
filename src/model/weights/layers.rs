//! Fully connected layers, their weights straight from the mapped bytes to where the product reads them.

use candle_core::Device;
use siglip_kernels::{Packer, Quantized, Quantizer};

use super::{super::kernels::Linear, LoadError, Scope};

impl Scope<'_> {
    /// Layers with the same input, their outputs one after the other.
    ///
    /// * `weights`: names of matrices of `shape`, `[out, in]`
    /// * `biases`: names of vectors, one for each matrix, or none at all
    pub(in crate::model) fn linear(
        &self,
        weights: &[&str],
        biases: &[&str],
        shape: [usize; 2],
    ) -> Result<Linear, LoadError> {
        let [out, width] = shape;
        if !matches!(self.runtime.device, Device::Cpu) {
            let compute = self.runtime.compute;
            let weight = self.stack(weights, &shape, compute)?;
            let bias = (!biases.is_empty()).then(|| self.stack(biases, &[out], compute));
            return Ok(Linear::tensors(weight, bias.transpose()?));
        }
        let mut packer = self.packing(weights.len() * out, width);
        // One matrix at a time, in memory that is kept for the next: there is no second copy of them all.
        let mut values = self.weights.scratch.take();
        for name in weights {
            values.clear();
            self.weights.read(&self.path(name), &shape, &mut values)?;
            self.runtime.install(|| packer.push(&values));
        }
        self.weights.scratch.replace(values);
        let mut bias = Vec::with_capacity(biases.len() * out);
        for name in biases {
            self.weights.read(&self.path(name), &[out], &mut bias)?;
        }
        if !bias.is_empty() {
            packer.set_bias(&bias);
        }
        Ok(self.packed(packer))
    }

    /// A layer whose matrix is also another part of the model: it is not counted as parameters of its own.
    ///
    /// * `weight`, `bias`: the places of a matrix of `shape`, `[out, in]`, and of a vector
    pub(in crate::model) fn tied_linear(
        &self,
        weight: &Self,
        bias: &Self,
        shape: [usize; 2],
    ) -> Result<Linear, LoadError> {
        let root = Self { prefix: String::new(), ..self.clone() };
        let before = self.weights.parameters.get();
        let layer = root.linear(&[&weight.prefix], &[&bias.prefix], shape)?;
        self.weights.parameters.set(before + shape[0] as u64);
        Ok(layer)
    }

    /// A layer of values that are on the host.
    ///
    /// * `weight`: of `shape`, `[out, in]`
    /// * `bias`: `[out]`
    pub(in crate::model) fn linear_of(
        &self,
        weight: Vec<f32>,
        bias: Option<Vec<f32>>,
        shape: [usize; 2],
    ) -> Result<Linear, LoadError> {
        if !matches!(self.runtime.device, Device::Cpu) {
            let compute = self.runtime.compute;
            let weight = self.tensor(weight, &shape, compute)?;
            let bias = bias.map(|bias| self.tensor(bias, &shape[..1], compute));
            return Ok(Linear::tensors(weight, bias.transpose()?));
        }
        let mut packer = self.packing(shape[0], shape[1]);
        self.runtime.install(|| packer.push(&weight));
        if let Some(bias) = bias {
            packer.set_bias(&bias);
        }
        Ok(self.packed(packer))
    }

    fn packing(&self, columns: usize, depth: usize) -> Packing {
        let runtime = self.runtime;
        match self.in_bytes && depth <= Quantized::MOST_INPUTS {
            true => Packing::Bytes(Quantizer::new(columns, depth, runtime.level)),
            false => Packing::Floats(Packer::new(columns, depth, runtime.element)),
        }
    }

    fn packed(&self, packing: Packing) -> Linear {
        let level = self.runtime.level;
        match packing {
            Packing::Floats(packer) => {
                let packed = packer.finish();
                self.count(packed.bytes());
                Linear::packed(packed, level)
            }
            Packing::Bytes(quantizer) => {
                let layer = quantizer.finish();
                self.count(layer.bytes());
                Linear::quantized(layer, level)
            }
        }
    }
}

/// A layer on its way to where the product reads it.
enum Packing {
    Floats(Packer),
    Bytes(Quantizer),
}

impl Packing {
    fn push(&mut self, weights: &[f32]) {
        match self {
            Self::Floats(packer) => packer.push(weights),
            Self::Bytes(quantizer) => quantizer.push(weights),
        }
    }

    fn set_bias(&mut self, bias: &[f32]) {
        match self {
            Self::Floats(packer) => packer.set_bias(bias),
            Self::Bytes(quantizer) => quantizer.set_bias(bias),
        }
    }
}
