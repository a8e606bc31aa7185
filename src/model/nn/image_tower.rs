//! A vision tower: embeddings of patches, an encoder, and a head. A family brings the first and the last.

use candle_core::{Result, Tensor};

use super::{Blocks, Encoder, EncoderConfig, outputs};
use crate::{
    embedding::Embedding,
    model::{LoadError, TowerError, runtime::Runtime, weights::Scope},
    preprocess::Pixels,
};

/// What makes the first states of images.
pub(in crate::model) trait ImageEmbeddings: Clone + Send + Sync + 'static {
    /// # Errors
    /// Fails if an image is of a size that the tower does not read.
    fn check(&self, rows: &[Pixels]) -> std::result::Result<(), TowerError>;

    /// The number of tokens of an image.
    fn tokens(&self, row: &Pixels) -> usize;

    /// * `rows`: with equally many tokens
    /// * returns `[batch, tokens, hidden_size]`
    fn forward(&self, rows: &[Pixels]) -> Result<Tensor>;

    /// The same weights, computed with on other threads of the same device.
    fn on(&self, runtime: &Runtime) -> Self;

    /// See [`crate::model::Tower::usual_row`].
    fn usual_row(&self) -> Option<Pixels> {
        None
    }
}

/// What makes outputs of the last layer's states.
pub(in crate::model) trait ImageHead: Clone + Send + Sync + 'static {
    /// What transformers calls `last_hidden_state`.
    ///
    /// * `state`, and what is returned: `[batch, tokens, hidden_size]`
    fn last_hidden_state(&self, state: &Tensor) -> Result<Tensor>;

    /// * `last_hidden_state`: `[batch, tokens, hidden_size]`
    /// * returns `[batch, embedding_dim]`, not normalised
    fn pool(&self, last_hidden_state: &Tensor) -> Result<Tensor>;

    /// See [`Blocks::queries`].
    fn queries(&self, last_hidden_state: &Tensor) -> Result<Option<Tensor>> {
        let _ = last_hidden_state;
        Ok(None)
    }
}

/// The three parts of a vision tower.
#[derive(Debug, Clone)]
pub(in crate::model) struct ImageTower<E, H> {
    embeddings: E,
    encoder: Encoder,
    head: H,
    runtime: Runtime,
}

impl<E: ImageEmbeddings, H: ImageHead> ImageTower<E, H> {
    /// * `encoder`: its configuration, and where its weights are
    ///
    /// # Errors
    /// Names the tensor at fault.
    pub(in crate::model) fn load(
        embeddings: E,
        encoder: (&EncoderConfig, &Scope<'_>),
        head: H,
    ) -> std::result::Result<Self, LoadError> {
        let (config, scope) = encoder;
        let (encoder, runtime) = (Encoder::load(config, scope)?, scope.runtime().clone());
        Ok(Self { embeddings, encoder, head, runtime })
    }

    /// What [`ImageTower::load`] and a pass for each row give, with one layer in memory at a time.
    ///
    /// * `head`: loads it, once the layers are gone
    ///
    /// # Errors
    /// As [`ImageTower::load`], and if the tower does not read one of the rows.
    pub(in crate::model) fn once(
        embeddings: E,
        encoder: (&EncoderConfig, &Scope<'_>),
        head: impl FnOnce() -> std::result::Result<H, LoadError>,
        rows: &[Pixels],
    ) -> std::result::Result<Vec<Embedding>, LoadError> {
        let (config, scope) = encoder;
        let runtime = scope.runtime();
        embeddings.check(rows)?;
        let embed = |row: &Pixels| embeddings.forward(std::slice::from_ref(row));
        let states = runtime.row_by_row(rows, embed)?;
        drop(embeddings);
        let states = Encoder::once(config, scope, states)?;
        let head = head()?;
        let pool = |state: &Tensor| outputs::row(&head.pool(&head.last_hidden_state(state)?)?, 0);
        Ok(runtime.row_by_row(&states, pool)?)
    }
}

impl<E: ImageEmbeddings, H: ImageHead> Blocks for ImageTower<E, H> {
    type Row = Pixels;

    const HAS_TOKENS: bool = true;

    fn check(&self, rows: &[Pixels]) -> std::result::Result<(), TowerError> {
        self.embeddings.check(rows)
    }

    fn tokens(&self, row: &Pixels) -> usize {
        self.embeddings.tokens(row)
    }

    fn embed(&self, rows: &[Pixels]) -> Result<Tensor> {
        self.embeddings.forward(rows)
    }

    fn depth(&self) -> usize {
        self.encoder.depth()
    }

    fn layer(&self, index: usize, state: &Tensor) -> Result<Tensor> {
        self.encoder.layer(index, state)
    }

    fn layers(&self, state: Tensor) -> Result<Tensor> {
        self.encoder.forward(state)
    }

    fn last_hidden_state(&self, state: &Tensor) -> Result<Tensor> {
        self.head.last_hidden_state(state)
    }

    fn pool(&self, last_hidden_state: &Tensor) -> Result<Tensor> {
        self.head.pool(last_hidden_state)
    }

    fn queries(&self, last_hidden_state: &Tensor) -> Result<Option<Tensor>> {
        self.head.queries(last_hidden_state)
    }

    fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    fn on(&self, runtime: &Runtime) -> Self {
        let embeddings = self.embeddings.on(runtime);
        Self { embeddings, runtime: runtime.clone(), ..self.clone() }
    }

    fn usual_row(&self) -> Option<Pixels> {
        self.embeddings.usual_row()
    }
}

/// Whether all images are squares of this many pixels a side, for a tower that reads no other.
///
/// # Errors
/// Names the first that is not.
pub(in crate::model) fn check_squares(
    rows: &[Pixels],
    side: usize,
) -> std::result::Result<(), TowerError> {
    for row in rows {
        let (height, width) = (row.height as usize, row.width as usize);
        if (height, width) != (side, side) || row.data.len() != height * width * 3 {
            return Err(TowerError::Shape(format!(
                "{height} x {width} pixels in {} bytes, where the model reads {side} x {side}",
                row.data.len()
            )));
        }
    }
    Ok(())
}
