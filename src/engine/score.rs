//! Pair scores from two sets of normalised embeddings, a bounded chunk at a time.

use std::{
    ops::Range,
    sync::{Arc, LazyLock},
};

use parking_lot::Mutex;
use rayon::prelude::*;
use siglip_kernels::{Element, Epilogue, Level, Packed, Packer, product};

use super::{Matrix, Pairing, Usage, admission::Permit};
use crate::{
    cpu_pool::CpuPool,
    embedding::normalize,
    error::{Code, Error},
    model::Scorer,
};

/// Maximum number of scores of one chunk: 4 MB of f32, large enough that the product runs at full speed.
const CHUNK_SCORES: usize = 1 << 20;

/// Cosines are products in f32, which the widest vectors compute fastest.
static LEVEL: LazyLock<Level> = LazyLock::new(Level::vectors);

/// One of the three matrices of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScoreKind {
    /// Cosine of the angle between the embeddings, in `[-1, 1]`.
    Cosine,
    /// `exp(logit_scale) * cosine`, with SigLIP `+ logit_bias`.
    Logit,
    /// By the model's rule, in `[0, 1]`: the sigmoid of each logit, or the softmax of an image's logits.
    Probability,
}

/// Both sides embedded and normalised. Scores are computed chunk by chunk, on demand, so that a large
/// response is never in memory as a whole.
#[derive(Debug, Clone)]
pub struct Scored {
    /// The name of the model that computed the embeddings.
    pub model: Arc<str>,
    /// The tokens and pixels of the request's items.
    pub usage: Usage,
    scorer: Scorer,
    /// The vectors whose cosines are scores. `None` if only the logits of a matching head were requested.
    vectors: Option<Arc<Vectors>>,
    /// The logits of a matching head: `[rows, columns]`.
    logits: Option<Arc<Matrix>>,
    rows: usize,
    columns: usize,
    /// The threads that compute the scores.
    pool: Arc<CpuPool>,
    /// The chunk whose cosines were computed last. The logits and probabilities of this chunk follow from them
    /// without a second product.
    last: Arc<Mutex<Option<Chunk>>>,
    /// The request's admission, which lasts until the response is written.
    permit: Option<Arc<Permit>>,
}

/// The cosines of some rows.
#[derive(Debug, Clone)]
struct Chunk {
    rows: Range<usize>,
    cosines: Arc<[f32]>,
}

/// Normalised rows of both sides.
#[derive(Debug)]
pub(super) enum Vectors {
    /// Every image with every text.
    All {
        /// `[rows * vectors, dim]`
        images: Matrix,
        /// Vectors of one image: the cosine of a pair is the largest over them.
        vectors: usize,
        /// `[columns, dim]`, as the right side of a product.
        texts: Packed,
    },
    /// Each image with the text at the same index.
    Zip {
        /// `[rows * vectors, dim]`
        images: Matrix,
        /// Vectors of one image.
        vectors: usize,
        /// `[rows, dim]`
        texts: Matrix,
    },
}

impl Vectors {
    /// Normalises both sides. This takes milliseconds for large sides, so it belongs on a thread of the pool.
    ///
    /// * `vectors`: rows of the first matrix that belong to one image
    pub(super) fn new(
        (pairing, vectors): (Pairing, usize),
        (mut images, mut texts): (Matrix, Matrix),
    ) -> Self {
        normalize_rows(&mut images);
        normalize_rows(&mut texts);
        match pairing {
            Pairing::All => {
                let mut packer = Packer::new(texts.rows, texts.dim, Element::F32);
                packer.push(&texts.data);
                Self::All { images, vectors, texts: packer.finish() }
            }
            Pairing::Zip => Self::Zip { images, vectors, texts },
        }
    }

    /// The cosines of a range of rows: `[rows, columns]`. A pair's cosine does not depend on the other pairs.
    fn cosines(&self, rows: Range<usize>) -> Vec<f32> {
        let mut cosines = match self {
            Self::All { images, vectors, texts } => {
                let values = rows.start * vectors * images.dim..rows.end * vectors * images.dim;
                let texts = texts.part(0..texts.columns());
                let cosines = product(*LEVEL, &images.data[values], &texts, Epilogue::default());
                match vectors {
                    1 => cosines,
                    _ => largest(&cosines, *vectors, rows.len()),
                }
            }
            Self::Zip { images, vectors, texts } => {
                let cosine = |row: usize| {
                    let each = (row * vectors..(row + 1) * vectors).map(|image| {
                        let pairs = images.row(image).iter().zip(texts.row(row));
                        pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() as f32
                    });
                    each.fold(f32::NEG_INFINITY, f32::max)
                };
                rows.into_par_iter().map(cosine).collect()
            }
        };
        // Rounding may push the cosine of equal directions past 1.
        cosines.iter_mut().for_each(|cosine| *cosine = cosine.clamp(-1.0, 1.0));
        cosines
    }
}

/// The largest cosine of each image's vectors with each text: from `[rows * vectors, columns]` to `[rows, columns]`.
fn largest(cosines: &[f32], vectors: usize, rows: usize) -> Vec<f32> {
    let columns = cosines.len() / (rows * vectors).max(1);
    let mut all = Vec::with_capacity(rows * columns);
    for image in cosines.chunks_exact((vectors * columns).max(1)) {
        let column = |column: usize| image.iter().skip(column).step_by(columns).copied();
        all.extend((0..columns).map(|at| column(at).fold(f32::NEG_INFINITY, f32::max)));
    }
    all
}

impl Scored {
    /// Scores of pairs, from cosines, from the logits of a matching head, or from both.
    ///
    /// * `shape`: rows and columns of the scores
    /// * `pool`: computes them
    pub(super) fn new(
        (model, usage, scorer): (Arc<str>, Usage, Scorer),
        shape: [usize; 2],
        vectors: Option<Vectors>,
        logits: Option<Matrix>,
        pool: &Arc<CpuPool>,
    ) -> Self {
        let [rows, columns] = shape;
        let (vectors, logits) = (vectors.map(Arc::new), logits.map(Arc::new));
        let (pool, last) = (Arc::clone(pool), Arc::default());
        Self { model, usage, scorer, vectors, logits, rows, columns, pool, last, permit: None }
    }

    /// How the model scores.
    #[must_use]
    pub fn scorer(&self) -> Scorer {
        self.scorer
    }

    /// Keeps `permit` until the last chunk is written.
    pub(super) fn holding(mut self, permit: Arc<Permit>) -> Self {
        self.permit = Some(permit);
        self
    }

    /// Rows of the scores: images.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the scores: texts.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The row ranges to ask [`Scored::chunk`] for, each of bounded size, in order.
    pub fn chunks(&self) -> impl Iterator<Item = Range<usize>> + Send + use<> {
        let vectors = match self.vectors.as_deref() {
            Some(Vectors::All { vectors, .. }) => *vectors,
            Some(Vectors::Zip { .. }) | None => 1,
        };
        let step = (CHUNK_SCORES / (self.columns * vectors).max(1)).max(1);
        let rows = self.rows;
        (0..rows).step_by(step).map(move |start| start..(start + step).min(rows))
    }

    /// Scores of a range of rows: `[range.len(), columns]`, row-major. They are computed on the pool.
    ///
    /// The kinds of one chunk share its product if they are requested before the next chunk.
    ///
    /// # Errors
    /// Fails if the computation does, which is a defect.
    pub async fn chunk(&self, kind: ScoreKind, rows: Range<usize>) -> Result<Matrix, Error> {
        self.on_pool(move |scored| scored.compute(kind, rows)).await
    }

    /// All chunks of each of these kinds: `[rows, columns]` each. Only for scores of limited size.
    ///
    /// # Errors
    /// As [`Scored::chunk`].
    pub async fn whole(&self, kinds: &[ScoreKind]) -> Result<Vec<Matrix>, Error> {
        let empty = |_| {
            let data = Vec::with_capacity(self.rows * self.columns);
            Matrix { rows: self.rows, dim: self.columns, data }
        };
        let mut all: Vec<_> = kinds.iter().map(empty).collect();
        for range in self.chunks() {
            for (matrix, &kind) in all.iter_mut().zip(kinds) {
                matrix.data.extend(self.chunk(kind, range.clone()).await?.data);
            }
        }
        Ok(all)
    }

    /// Runs work on the threads that compute scores.
    pub(super) async fn on_pool<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let scored = self.clone();
        self.pool.run(move || work(&scored)).await.map_err(Error::internal)?
    }

    /// [`Scored::chunk`] on the calling thread, which is one of the pool.
    pub(super) fn compute(&self, kind: ScoreKind, rows: Range<usize>) -> Result<Matrix, Error> {
        if rows.start > rows.end || rows.end > self.rows {
            return Err(Error::new(Code::Internal, "a chunk that does not exist was requested"));
        }
        let count = rows.len();
        let mut data = match &self.logits {
            Some(logits) if kind != ScoreKind::Cosine => {
                logits.data[rows.start * self.columns..rows.end * self.columns].to_vec()
            }
            _ => {
                let cosines = self.cosines(rows)?;
                match kind {
                    ScoreKind::Cosine => cosines.to_vec(),
                    ScoreKind::Logit | ScoreKind::Probability => self.logits_of(&cosines)?,
                }
            }
        };
        if kind == ScoreKind::Probability {
            // Every row is whole: it has all texts of the request.
            data.par_chunks_exact_mut(self.columns.max(1))
                .for_each(|row| self.scorer.probabilities(row));
        }
        Ok(Matrix { rows: count, dim: self.columns, data })
    }

    /// The cosines of a chunk. They are computed unless they were the last ones that were.
    fn cosines(&self, rows: Range<usize>) -> Result<Arc<[f32]>, Error> {
        if let Some(last) = self.last.lock().as_ref().filter(|last| last.rows == rows) {
            return Ok(Arc::clone(&last.cosines));
        }
        let missing = || Error::internal("cosines were requested that were not computed");
        let vectors = self.vectors.as_ref().ok_or_else(missing)?;
        let cosines: Arc<[f32]> = vectors.cosines(rows.clone()).into();
        *self.last.lock() = Some(Chunk { rows, cosines: Arc::clone(&cosines) });
        Ok(cosines)
    }

    fn logits_of(&self, cosines: &[f32]) -> Result<Vec<f32>, Error> {
        let logit = |&cosine: &f32| self.scorer.logit(cosine);
        cosines.iter().map(logit).collect::<Option<_>>().ok_or_else(|| {
            Error::internal("a logit was requested that does not follow from a cosine")
        })
    }
}

/// Scales every row to length 1.
fn normalize_rows(matrix: &mut Matrix) {
    matrix.data.par_chunks_exact_mut(matrix.dim.max(1)).for_each(normalize);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(rows: usize, columns: usize) -> Scored {
        let matrix = |rows: usize, seed: f32| Matrix {
            rows,
            dim: 3,
            data: (0..rows * 3).map(|i| (i as f32 * seed).sin() + 0.1).collect(),
        };
        let scorer = Scorer::Sigmoid { logit_scale: 2.0, logit_bias: -3.0 };
        let vectors = Vectors::new((Pairing::All, 1), (matrix(rows, 0.7), matrix(columns, 1.3)));
        let about = ("m".into(), Usage::default(), scorer);
        let pool = Arc::new(CpuPool::new("score", 1).expect("a thread starts"));
        Scored::new(about, [rows, columns], Some(vectors), None, &pool)
    }

    #[test]
    fn a_softmax_is_over_the_texts_of_an_image() {
        let scored = Scored { scorer: Scorer::Softmax { logit_scale: 2.0 }, ..scored(3, 4) };
        let get = |kind| scored.compute(kind, 0..3).expect("in range");
        let (logits, probabilities) = (get(ScoreKind::Logit), get(ScoreKind::Probability));
        for row in 0..3 {
            let exps: Vec<f32> = logits.row(row).iter().map(|logit| logit.exp()).collect();
            let sum: f32 = exps.iter().sum();
            for (exp, probability) in exps.iter().zip(probabilities.row(row)) {
                assert!((exp / sum - probability).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn chunks_cover_every_row_once_and_stay_bounded() {
        let scored = scored(2500, 1000);
        let mut next = 0;
        for range in scored.chunks() {
            assert_eq!(range.start, next);
            assert!(range.len() * scored.columns() <= CHUNK_SCORES);
            next = range.end;
        }
        assert_eq!(next, 2500);
    }

    #[test]
    fn a_pair_is_judged_on_its_own() {
        let (all, one) = (scored(5, 4), scored(1, 1));
        let all = all.compute(ScoreKind::Probability, 0..5).expect("in range");
        let one = one.compute(ScoreKind::Probability, 0..1).expect("in range");
        assert_eq!(all.data[0], one.data[0]);
    }

    #[test]
    fn several_vectors_of_an_image_give_the_largest_cosine() {
        let cosines = [0.1, 0.9, 0.3, 0.2, -0.5, -0.1, -0.4, -0.2];
        assert_eq!(largest(&cosines, 2, 2), [0.3, 0.9, -0.4, -0.1]);
        assert_eq!(largest(&[], 2, 0), [0.0; 0]);
    }

    #[tokio::test]
    async fn the_kinds_of_a_chunk_share_one_product() {
        let scored = scored(3, 2);
        let cosines = |scored: &Scored| {
            let last = scored.last.lock();
            last.as_ref().map(|last| (last.rows.clone(), Arc::as_ptr(&last.cosines).addr()))
        };
        scored.chunk(ScoreKind::Cosine, 0..3).await.expect("in range");
        let first = cosines(&scored);
        assert!(first.is_some());
        let kinds = [ScoreKind::Logit, ScoreKind::Probability];
        let both = scored.whole(&kinds).await.expect("in range");
        assert!(both.iter().all(|matrix| (matrix.rows, matrix.data.len()) == (3, 6)));
        assert_eq!(cosines(&scored), first);
    }

    #[test]
    fn the_three_kinds_agree() {
        let scored = scored(3, 2);
        let get = |kind| scored.compute(kind, 0..3).expect("in range").data;
        let (cosines, logits) = (get(ScoreKind::Cosine), get(ScoreKind::Logit));
        for ((cosine, logit), probability) in
            cosines.iter().zip(logits).zip(get(ScoreKind::Probability))
        {
            assert!((2.0_f32.exp() * cosine - 3.0 - logit).abs() < 1e-5);
            assert!((1.0 / (1.0 + (-logit).exp()) - probability).abs() < 1e-6);
        }
    }
}
