//! What is before and behind the layers, on tensors of candle's.

use candle_core::{DType, Result, Tensor, bail};

use super::{
    Unfold,
    arguments::{Embed, OwnHeads, Pool, UnfoldPixels},
    cuda::{Cuda, MOST_POOLED},
    memory::{reading, written},
};

impl Cuda {
    /// See [`Own::unfold`](super::Own::unfold).
    pub(super) fn unfold(&self, pixels: &Tensor, unfold: Unfold) -> Result<Tensor> {
        let Unfold { patch, grid: [down, across], scale, offset } = unfold;
        let (images, height, width, channels) = pixels.dims4()?;
        if channels != 3
            || pixels.dtype() != DType::U8
            || down * patch > height
            || across * patch > width
        {
            bail!("{down} x {across} patches of {:?}", pixels.shape());
        }
        let shape = (images, down * across, patch * patch * 3);
        reading(pixels, &self.stream, |pixels| {
            written(&self.device, self.dtype, shape, |patches| {
                let arguments = UnfoldPixels {
                    pixels,
                    patches,
                    height: int(height)?,
                    width: int(width)?,
                    patch: int(patch)?,
                    down: int(down)?,
                    across: int(across)?,
                    scale,
                    offset,
                };
                self.unfold_pixels(&arguments, images)
            })
        })
    }

    /// See [`Own::embed`](super::Own::embed). None also for a table of a type that no kernel reads.
    pub(super) fn embed(
        &self,
        ids: &Tensor,
        table: &Tensor,
        positions: &Tensor,
    ) -> Result<Option<Tensor>> {
        let ((vocabulary, width), (tokens, other)) = (table.dims2()?, positions.dims2()?);
        let count = ids.dims1()?;
        if width != other
            || tokens == 0
            || count % tokens != 0
            || ids.dtype() != DType::U32
            || positions.dtype() != self.dtype
        {
            bail!("{:?} and {:?} for {count} ids", table.shape(), positions.shape());
        }
        let mut is_known = true;
        let embedded = reading(ids, &self.stream, |ids| {
            reading(table, &self.stream, |address| {
                reading(positions, &self.stream, |positions| {
                    let shape = (count / tokens, tokens, width);
                    written(&self.device, self.dtype, shape, |out| {
                        let arguments = Embed {
                            ids,
                            table: address,
                            positions,
                            out,
                            tokens: int(tokens)?,
                            width: int(width)?,
                            vocabulary: int(vocabulary)? as u32,
                        };
                        is_known = self.embed_tokens(&arguments, count / tokens, table.dtype())?;
                        Ok(())
                    })
                })
            })
        })?;
        Ok(is_known.then_some(embedded))
    }

    /// See [`Own::pool`](super::Own::pool). None also for more tokens than the kernel has room for.
    pub(super) fn pool(&self, queries: &Tensor, x: &Tensor) -> Result<Option<Tensor>> {
        let ((_, heads, width), (batch, tokens, other)) = (queries.dims3()?, x.dims3()?);
        if width != other || queries.dtype() != self.dtype || x.dtype() != self.dtype {
            bail!("{:?} for the queries {:?}", x.shape(), queries.shape());
        }
        if tokens > MOST_POOLED {
            return Ok(None);
        }
        let x = x.contiguous()?;
        let pooled = reading(queries, &self.stream, |queries| {
            reading(&x, &self.stream, |x| {
                written(&self.device, self.dtype, (batch, heads, width), |out| {
                    let arguments = Pool {
                        queries,
                        x,
                        out,
                        tokens: int(tokens)?,
                        width: int(width)?,
                        heads: int(heads)?,
                        scale: (width as f32).powf(-0.5),
                    };
                    self.pool_tokens(&arguments, batch)
                })
            })
        })?;
        Ok(Some(pooled))
    }

    /// See [`Own::own_heads`](super::Own::own_heads).
    pub(super) fn own_heads(&self, values: &Tensor) -> Result<Tensor> {
        let (batch, heads, width) = values.dims3()?;
        if width % heads != 0 || values.dtype() != self.dtype {
            bail!("heads of {:?}", values.shape());
        }
        reading(values, &self.stream, |values| {
            written(&self.device, self.dtype, (batch, 1, width), |out| {
                let (batch, heads, width) = (int(batch)?, int(heads)?, int(width)?);
                self.gather_heads(&OwnHeads { values, out, batch, heads, width })
            })
        })
    }
}

/// A size as kernels take it.
pub(super) fn int(size: usize) -> Result<i32> {
    i32::try_from(size).map_err(|_| candle_core::Error::Msg(format!("{size} is too many")))
}
