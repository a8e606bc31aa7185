//! What layers are made of, and layers.

use std::sync::Arc;

use candle_core::{Result, bail};

use super::{Bench, Compared, Input, copy, each};
use crate::model::{
    device::{
        arguments::Attend,
        layers::StackShape,
        memory::{reading, written},
        operations::int,
        products::{End, Operands, Spec, alignment},
        stack::Stack,
        twins::{self, Heads},
    },
    kernels::{Activation, Mask},
};

impl<E: FnMut(Compared)> Bench<E> {
    pub(super) fn attention(&mut self) -> Result<()> {
        let cuda = Arc::clone(&self.cuda);
        // Batch, tokens, heads, their width, and whether it is causal.
        for (batch, keys, heads, dim, is_causal) in [
            (2, 196, 12, 64, false),
            (1, 729, 2, 72, false),
            (2, 64, 12, 64, false),
            (3, 77, 8, 64, true),
            (1, 17, 2, 80, false),
            (1, 257, 2, 88, true),
            (1, 1024, 1, 96, false),
            (2, 16, 3, 32, false),
        ] {
            let width = heads * dim;
            let mask = if is_causal { Mask::Causal } else { Mask::None };
            let fused = self.input(&[batch, keys, 3 * width], 1.0)?;
            let parts = [0, 1, 2].map(|index| twins::third(&fused.values, width, index));
            let shape = Heads { batch, queries: keys, keys, heads, dim, mask };
            let expected = twins::attention(shape, [&parts[0], &parts[1], &parts[2]]);
            let name = format!("{batch} x {keys}, {heads} of {dim}, {mask:?}");
            self.compare(("attention", name), &expected, 3.0, || {
                reading(&fused.tensor, &cuda.stream, |q| {
                    written(&cuda.device, cuda.dtype, (batch, keys, width), |out| {
                        let step = (width * cuda.dtype.size_in_bytes()) as u64;
                        let (token, width) = (3 * width as i64, width as i64);
                        let arguments = Attend {
                            q,
                            k: q + step,
                            v: q + 2 * step,
                            out,
                            q_batch: keys as i64 * token,
                            q_token: token,
                            kv_batch: keys as i64 * token,
                            kv_token: token,
                            out_batch: keys as i64 * width,
                            out_token: width,
                            queries: int(keys)?,
                            keys: int(keys)?,
                            heads: int(heads)?,
                            head_dim: int(dim)?,
                            scale: (dim as f32).powf(-0.5),
                            causal: i32::from(is_causal),
                            ..Attend::default()
                        };
                        cuda.attend(&arguments, batch)
                    })
                })
            })?;
        }
        Ok(())
    }

    pub(super) fn products(&mut self) -> Result<()> {
        let cuda = Arc::clone(&self.cuda);
        for (rows, inputs, outputs, end) in [
            (64, 768, 2304, End::Nothing),
            (64, 768, 3072, End::GeluTanh),
            (64, 3072, 768, End::Residual),
            (1, 1152, 4304, End::GeluTanh),
            (3, 64, 64, End::Residual),
        ] {
            let x = self.input(&[rows, inputs], 1.0)?;
            let weight = self.input(&[outputs, inputs], (inputs as f32).powf(-0.5))?;
            let [bias, residual] =
                [self.input(&[outputs], 1.0)?, self.input(&[rows, outputs], 1.0)?];
            let mut expected = twins::product(&x.values, &weight.values, &bias.values);
            match end {
                End::Nothing => {}
                End::Residual => expected = twins::add(&expected, &residual.values),
                End::GeluTanh => {
                    let gelu = |x: &mut f64| *x = twins::activate(*x, Activation::GeluTanh);
                    expected.iter_mut().for_each(gelu);
                }
            }
            let name = format!("{rows} x {inputs} x {outputs}, {end:?}");
            let operands = [&x.tensor, &weight.tensor, &bias.tensor, &residual.tensor];
            self.compare(("product", name), &expected, 4.0, || {
                each(operands, &cuda, |[x, weight, bias, residual]| {
                    written(&cuda.device, cuda.dtype, (rows, outputs), |y| {
                        let aligned = alignment([x, weight, bias, residual, y]);
                        let spec = Spec {
                            rows,
                            inputs,
                            outputs,
                            x_stride: inputs,
                            residual_stride: outputs,
                            y_stride: outputs,
                            end,
                            aligned,
                        };
                        let mut product = cuda.products.prepare(spec, bias)?;
                        // In place, as the layers do it.
                        copy(&cuda, y, residual, rows * outputs)?;
                        let operands = Operands { x, weight, bias, residual: y, y };
                        cuda.products.run(&mut product, operands)
                    })
                })
            })?;
        }
        Ok(())
    }

    /// Two layers: all of their output, and the last token of it; one by one at first, and as a graph from then on.
    pub(super) fn stacks(&mut self) -> Result<()> {
        for (activation, mask) in [
            (Activation::GeluTanh, Mask::None),
            (Activation::GeluErf, Mask::None),
            (Activation::QuickGelu, Mask::Causal),
        ] {
            let shape =
                StackShape { hidden: 64, inner: 136, heads: 2, activation, mask, eps: 1e-6 };
            let layers = [self.layer(shape)?, self.layer(shape)?];
            let weights = layers.iter().map(|layer| {
                let pair = |pair: &[Input; 2]| (pair[0].tensor.clone(), pair[1].tensor.clone());
                [0, 1, 2, 3, 4, 5].map(|index| pair(&layer[index]))
            });
            let Some(stack) = Stack::new(&self.cuda, shape, weights.collect())? else {
                bail!("the kernels are not for {shape:?}");
            };
            for (batch, tokens) in [(3, 20), (5, 20), (2, 1), (3, 20)] {
                let x = self.input(&[batch, tokens, shape.hidden], 1.0)?;
                let run = |x: &[f64], layer: &[[Input; 2]; 6]| {
                    twin_layer(shape, [batch, tokens], x, layer)
                };
                let first = run(&x.values, &layers[0]);
                let whole = run(&first, &layers[1]);
                let rows = whole.chunks_exact(tokens * shape.hidden);
                let last = rows.flat_map(|row| row[(tokens - 1) * shape.hidden..].iter().copied());
                let last: Vec<f64> = last.collect();
                let name = format!("{batch} x {tokens}, {activation:?}, {mask:?}");
                self.compare(("stack", name.clone()), &whole, 24.0, || stack.forward(&x.tensor))?;
                self.compare(("stack, last token", name.clone()), &last, 24.0, || {
                    stack.forward_last(&x.tensor)
                })?;
                // What ran as a graph by now.
                self.compare(("stack, again", name.clone()), &whole, 24.0, || {
                    stack.forward(&x.tensor)
                })?;
                self.compare(("one layer", name), &first, 16.0, || stack.layer(0, &x.tensor))?;
            }
        }
        Ok(())
    }

    fn layer(&mut self, shape: StackShape) -> Result<[[Input; 2]; 6]> {
        let StackShape { hidden, inner, .. } = shape;
        let mut dense = |outputs: usize, inputs: usize| -> Result<[Input; 2]> {
            let weight = self.input(&[outputs, inputs], (inputs as f32).powf(-0.5))?;
            Ok([weight, self.input(&[outputs], 0.3)?])
        };
        let [qkv, out] = [dense(3 * hidden, hidden)?, dense(hidden, hidden)?];
        let [fc1, fc2] = [dense(inner, hidden)?, dense(hidden, inner)?];
        let mut norm = || {
            Ok::<_, candle_core::Error>([self.input(&[hidden], 1.0)?, self.input(&[hidden], 0.3)?])
        };
        let [norm1, norm2] = [norm()?, norm()?];
        Ok([norm1, qkv, out, norm2, fc1, fc2])
    }
}

/// A layer of an encoder, in f64.
fn twin_layer(
    shape: StackShape,
    [batch, tokens]: [usize; 2],
    x: &[f64],
    layer: &[[Input; 2]; 6],
) -> Vec<f64> {
    let StackShape { hidden, heads, mask, .. } = shape;
    let [norm1, qkv, out, norm2, fc1, fc2] = layer;
    let dense = |x: &[f64], of: &[Input; 2]| twins::product(x, &of[0].values, &of[1].values);
    let norm = |x: &[f64], of: &[Input; 2]| {
        twins::layer_norm(x, (&of[0].values, &of[1].values), f64::from(shape.eps))
    };
    let fused = dense(&norm(x, norm1), qkv);
    let parts = [0, 1, 2].map(|index| twins::third(&fused, hidden, index));
    let of = Heads { batch, queries: tokens, keys: tokens, heads, dim: hidden / heads, mask };
    let mixed = twins::attention(of, [&parts[0], &parts[1], &parts[2]]);
    let x = twins::add(x, &dense(&mixed, out));
    let inner = dense(&norm(&x, norm2), fc1);
    let inner: Vec<_> = inner.into_iter().map(|x| twins::activate(x, shape.activation)).collect();
    twins::add(&x, &dense(&inner, fc2))
}
