use candle_core::{DType, Device, Result, Tensor};

use siglip_kernels::{Element, Level, Packer};

use super::{Activation, Attention, LayerNorm, Linear, Mask};

/// Values without structure, the same on every run.
fn values(shape: &[usize], seed: f64) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    let values =
        (0..count).map(|at| ((at as f64 * 12.9898 + seed).sin() * 43758.5453).fract() as f32);
    Tensor::from_vec(values.collect::<Vec<_>>(), shape, &Device::Cpu)
}

fn max_abs_difference(a: &Tensor, b: &Tensor) -> Result<f64> {
    assert_eq!(a.dims(), b.dims());
    let difference = (a.to_dtype(DType::F64)? - b.to_dtype(DType::F64)?)?;
    difference.abs()?.flatten_all()?.max(0)?.to_scalar()
}

/// The same layer for the processor's own kernels and for candle's.
fn both(weight: &Tensor, bias: &Tensor) -> Result<[Linear; 2]> {
    let (out, width) = weight.dims2()?;
    let mut packer = Packer::new(out, width, Element::F32);
    packer.push(&weight.flatten_all()?.to_vec1::<f32>()?);
    packer.set_bias(&bias.to_vec1::<f32>()?);
    let packed = Linear::packed(packer.finish(), Level::detect());
    Ok([packed, Linear::tensors(weight.clone(), Some(bias.clone()))])
}

#[test]
fn linear_equals_the_product_in_f64() -> Result<()> {
    let (weight, bias) = (values(&[19, 23], 1.0)?, values(&[19], 2.0)?);
    let (x, residual) = (values(&[2, 5, 23], 3.0)?, values(&[2, 5, 19], 4.0)?);
    let wide = |t: &Tensor| t.to_dtype(DType::F64);
    let product = wide(&x.reshape((10, 23))?)?
        .matmul(&wide(&weight)?.t()?)?
        .broadcast_add(&wide(&bias)?)?
        .reshape((2, 5, 19))?;
    for linear in both(&weight, &bias)? {
        assert!(max_abs_difference(&linear.forward(&x)?, &product)? < 1e-5, "{linear:?}");
        let expected = (&product + wide(&residual)?)?;
        let y = linear.forward_residual(&x, &residual)?;
        assert!(max_abs_difference(&y, &expected)? < 1e-5, "{linear:?}");
        let quick = (&product * candle_nn::ops::sigmoid(&(&product * 1.702)?)?)?;
        for (activation, expected) in [
            (Activation::GeluTanh, product.gelu()?),
            (Activation::GeluErf, product.gelu_erf()?),
            (Activation::QuickGelu, quick),
        ] {
            let y = linear.forward_activated(&x, activation)?;
            assert!(max_abs_difference(&y, &expected)? < 1e-5, "{linear:?} {activation:?}");
        }
        // Some outputs of a view of the input.
        let rows = linear.rows(4, 7)?.rows(1, 5)?.forward(&x.narrow(1, 4, 1)?)?;
        let expected = product.narrow(1, 4, 1)?.narrow(2, 5, 5)?;
        assert!(max_abs_difference(&rows, &expected)? < 1e-5, "{linear:?}");
    }
    Ok(())
}

#[test]
fn attention_equals_the_textbook_in_f64() -> Result<()> {
    let (batch, queries, keys, heads, dim) = (3, 5, 21, 2, 9);
    let width = heads * dim;
    // Views of one fused product, as a layer hands them over.
    let fused = values(&[batch, keys, 3 * width], 5.0)?;
    let part = |index| fused.narrow(2, index * width, width);
    let (q, k, v) = (part(0)?.narrow(1, 0, queries)?, part(1)?, part(2)?);
    let split = |x: &Tensor| {
        x.to_dtype(DType::F64)?.reshape((batch, (), heads, dim))?.transpose(1, 2)?.contiguous()
    };
    let scores = (split(&q)?.matmul(&split(&k)?.t()?.contiguous()?)? * (dim as f64).powf(-0.5))?;
    // The first of the queries sees 17 of the 21 keys, the last one all.
    let seen = |at: usize| at % keys <= at / keys + keys - queries;
    let hidden = (0..queries * keys).map(|at| if seen(at) { 0.0 } else { f64::NEG_INFINITY });
    let hidden = Tensor::from_iter(hidden, &Device::Cpu)?.reshape((queries, keys))?;
    for (mask, scores) in
        [(Mask::None, scores.clone()), (Mask::Causal, scores.broadcast_add(&hidden)?)]
    {
        let textbook = candle_nn::ops::softmax(&scores, 3)?
            .matmul(&split(&v)?)?
            .transpose(1, 2)?
            .reshape((batch, queries, width))?;
        let attention = Attention::new(heads, mask, Level::detect(), Element::F32);
        let on_host = attention.forward(&q, &k, &v)?;
        assert!(max_abs_difference(&on_host, &textbook)? < 1e-5, "{mask:?}");
        // Other types take the way of a device.
        let half = |x: &Tensor| x.to_dtype(DType::BF16);
        let as_a_device = attention.forward(&half(&q)?, &half(&k)?, &half(&v)?)?;
        assert!(max_abs_difference(&as_a_device, &textbook)? < 2e-2, "{mask:?}");
    }
    Ok(())
}

#[test]
fn layer_norm_survives_a_large_mean() -> Result<()> {
    let (weight, bias) = (values(&[37], 6.0)?, values(&[37], 7.0)?);
    let x = (values(&[4, 37], 8.0)? + 1000.0)?;
    let wide = x.to_dtype(DType::F64)?;
    let centred = wide.broadcast_sub(&wide.mean_keepdim(1)?)?;
    let variance = centred.sqr()?.mean_keepdim(1)?;
    let expected = centred
        .broadcast_div(&(variance + 1e-6)?.sqrt()?)?
        .broadcast_mul(&weight.to_dtype(DType::F64)?)?
        .broadcast_add(&bias.to_dtype(DType::F64)?)?;
    let y = LayerNorm::new(weight, bias, 1e-6, Level::detect()).forward(&x)?;
    // The inputs themselves are exact to 6e-5 at this magnitude; the one-pass formula is off by 0.1.
    assert!(max_abs_difference(&y, &expected)? < 1e-3);
    Ok(())
}
