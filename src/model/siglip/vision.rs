//! The vision tower.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor};

use super::super::{
    LoadError, Pass, Tap, Tower, TowerError, kernels::LayerNorm, runtime::Runtime, weights::Scope,
};
use super::{
    config::VisionConfig,
    embeddings::PatchEmbeddings,
    encoder::{Encoder, layer_norm},
    pooling::PoolingHead,
    taps::{self, Stages},
};
use crate::{
    embedding::Embedding,
    preprocess::{ImageSpec, Pixels, TargetSize},
};

/// Mirrors transformers' [`SiglipVisionModel`] and [`Siglip2VisionModel`].
///
/// The latter pads pictures to one number of patches and masks the padding, in the encoder and in the pooling
/// head. Here each picture has its own number and nothing is masked, which gives every patch the same sums.
///
/// A checkpoint without a pooling head gives the mean of its last hidden state over the patches, as
/// transformers' image classifier does.
///
/// [`SiglipVisionModel`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/siglip/modeling_siglip.py
/// [`Siglip2VisionModel`]: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/siglip2/modeling_siglip2.py
#[derive(Debug, Clone)]
pub struct Vision {
    embeddings: PatchEmbeddings,
    encoder: Encoder,
    post_layernorm: LayerNorm,
    head: Option<PoolingHead>,
    hidden: usize,
    size: TargetSize,
    runtime: Runtime,
}

impl Vision {
    pub(in crate::model) fn load(
        config: &VisionConfig,
        image: &ImageSpec,
        scope: &Scope<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let head = config.use_head.then(|| PoolingHead::load(&config.encoder, &scope.at("head")));
        Ok(Self {
            embeddings: PatchEmbeddings::load(config, image, &scope.at("embeddings"))?,
            encoder: Encoder::load(&config.encoder, &scope.at("encoder"))?,
            post_layernorm: layer_norm(&config.encoder, &scope.at("post_layernorm"))?,
            head: head.transpose()?,
            hidden: config.encoder.hidden_size,
            size: image.size,
            runtime: scope.runtime().clone(),
        })
    }

    /// What [`Vision::load`] and a pass for each row give, with one layer in memory at a time.
    pub(in crate::model) fn once(
        config: &VisionConfig,
        image: &ImageSpec,
        scope: &Scope<'_>,
        rows: &[Pixels],
    ) -> std::result::Result<Vec<Embedding>, LoadError> {
        let runtime = scope.runtime();
        let embeddings = PatchEmbeddings::load(config, image, &scope.at("embeddings"))?;
        embeddings.check(rows)?;
        let embed = |row: &Pixels| embeddings.forward(std::slice::from_ref(row));
        let states = runtime.row_by_row(rows, embed)?;
        drop(embeddings);
        let states = Encoder::once(&config.encoder, &scope.at("encoder"), states)?;
        let norm = layer_norm(&config.encoder, &scope.at("post_layernorm"))?;
        let head = config.use_head.then(|| PoolingHead::load(&config.encoder, &scope.at("head")));
        let head = head.transpose()?;
        let pool = |state: &Tensor| taps::row(&pool(head.as_ref(), &norm.forward(state)?)?, 0);
        Ok(runtime.row_by_row(&states, pool)?)
    }

    /// The same weights, which both share, computed with on other threads of the same device.
    pub(in crate::model) fn on(&self, runtime: &Runtime) -> Self {
        let embeddings = self.embeddings.on(runtime);
        Self { embeddings, runtime: runtime.clone(), ..self.clone() }
    }

    /// Every stage on the way, for tests and for feature extraction.
    ///
    /// # Errors
    /// Fails like [`Tower::forward`], and for rows of different numbers of patches, whose hidden states do
    /// not fit into one tensor.
    pub fn stages(&self, rows: &[Pixels]) -> std::result::Result<Stages, TowerError> {
        self.embeddings.check(rows)?;
        self.runtime.run(|| {
            let hidden_states = self.encoder.hidden_states(self.embeddings.forward(rows)?)?;
            let last = taps::last(&hidden_states)?;
            let last_hidden_state = self.post_layernorm.forward(last)?;
            let pooled = self.pool(&last_hidden_state)?;
            Stages::new(&hidden_states, &last_hidden_state, &pooled)
        })
    }

    /// One pass for rows that ask for different outputs.
    fn outputs(&self, rows: &[Pixels], taps: &[Tap]) -> Result<Vec<Embedding>> {
        let layers = self.encoder.depth();
        let depth = taps.iter().map(|tap| tap.depth(layers)).max().unwrap_or_default();
        let mut outputs = vec![None; rows.len()];
        let mut fill = |tap: Tap, states: &Tensor| -> Result<()> {
            // Taken to the host at once, so that no state outlives its layer on the device.
            for (index, output) in outputs.iter_mut().enumerate() {
                if taps[index] == tap {
                    *output = Some(taps::row(states, index)?);
                }
            }
            Ok(())
        };
        let see = |layer: usize, states: &Tensor| fill(Tap::HiddenState(layer), states);
        let last = self.encoder.visit(self.embeddings.forward(rows)?, depth, see)?;
        if taps.iter().any(|tap| !matches!(tap, Tap::HiddenState(_))) {
            let last_hidden_state = self.post_layernorm.forward(&last)?;
            fill(Tap::LastHiddenState, &last_hidden_state)?;
            if taps.contains(&Tap::Pooled) {
                fill(Tap::Pooled, &self.pool(&last_hidden_state)?)?;
            }
        }
        taps::every(outputs)
    }

    /// Runs rows group by group, each of equally many patches, and gives the results in the rows' order. The
    /// batcher sends rows that are alike, which are one group.
    ///
    /// * `pass`: of a group its rows, and their indices among all
    fn grouped(
        &self,
        rows: &[Pixels],
        pass: impl Fn(&[Pixels], &[usize]) -> Result<Vec<Embedding>> + Send + Sync,
    ) -> std::result::Result<Vec<Embedding>, TowerError> {
        self.embeddings.check(rows)?;
        let mut groups = BTreeMap::<usize, Vec<usize>>::new();
        for (index, row) in rows.iter().enumerate() {
            groups.entry(self.embeddings.grid(row).iter().product()).or_default().push(index);
        }
        self.runtime.run(|| {
            let mut results = vec![None; rows.len()];
            for indices in groups.values() {
                let group: Vec<_> = indices.iter().map(|&index| rows[index].clone()).collect();
                for (&index, result) in indices.iter().zip(pass(&group, indices)?) {
                    results[index] = Some(result);
                }
            }
            taps::every(results)
        })
    }

    /// * `rows`: of equally many patches
    /// * returns `[batch, hidden_size]`
    fn pooled(&self, rows: &[Pixels]) -> Result<Tensor> {
        let x = self.encoder.forward(self.embeddings.forward(rows)?)?;
        self.pool(&self.post_layernorm.forward(&x)?)
    }

    fn pool(&self, last_hidden_state: &Tensor) -> Result<Tensor> {
        pool(self.head.as_ref(), last_hidden_state)
    }
}

fn pool(head: Option<&PoolingHead>, last_hidden_state: &Tensor) -> Result<Tensor> {
    match head {
        Some(head) => head.forward(last_hidden_state),
        None => {
            let dtype = last_hidden_state.dtype();
            last_hidden_state.to_dtype(candle_core::DType::F32)?.mean(1)?.to_dtype(dtype)
        }
    }
}

impl Tower for Vision {
    type Input = Pixels;

    fn embedding_dim(&self) -> usize {
        self.hidden
    }

    fn usual_row(&self) -> Option<Pixels> {
        let TargetSize::Patches { patch_size, max_num_patches } = self.size else { return None };
        let width = patch_size.saturating_mul(max_num_patches);
        Some(Pixels { height: patch_size, width, data: [].into() })
    }

    fn forward(&mut self, rows: &[Pixels]) -> std::result::Result<Vec<Embedding>, TowerError> {
        self.grouped(rows, |rows, _| {
            let tokens = self.embeddings.grid(&rows[0]).iter().product();
            taps::in_passes(&self.runtime, rows, tokens, |rows| self.pooled(rows))
        })
    }

    fn tapped(
        &mut self,
        rows: &[Pixels],
        taps: &[Tap],
    ) -> std::result::Result<Vec<Embedding>, TowerError> {
        if taps.iter().all(|&tap| tap == Tap::Pooled) {
            return self.forward(rows);
        }
        let layers = self.encoder.depth();
        if taps.len() != rows.len() || taps.iter().any(|tap| tap.depth(layers) > layers) {
            return Err(TowerError::Shape(format!("{taps:?} of a tower of {layers} layers")));
        }
        self.grouped(rows, |rows, indices| {
            let taps: Vec<_> = indices.iter().map(|&index| taps[index]).collect();
            self.outputs(rows, &taps)
        })
    }

    fn begin(&mut self, rows: &[Pixels], taps: &[Tap]) -> std::result::Result<Pass, TowerError> {
        let patches = |row| self.embeddings.grid(row).iter().product::<usize>();
        let is_one_pass = taps.iter().all(|&tap| tap == Tap::Pooled)
            && rows.windows(2).all(|pair| patches(&pair[0]) == patches(&pair[1]));
        if !self.runtime.copies.overlap() || !is_one_pass {
            return self.tapped(rows, taps).map(Pass::done);
        }
        self.embeddings.check(rows)?;
        let tokens = rows.first().map_or(0, patches);
        taps::begin(&self.runtime, rows, tokens, |rows| self.pooled(rows))
    }
}
