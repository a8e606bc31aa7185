//! Pair scores from two sets of normalised embeddings, a bounded chunk at a time.

use std::{ops::Range, sync::Arc};

use candle_core::{Device, Tensor};

use super::{Matrix, Pairing, Usage, admission::Permit};
use crate::{
    embedding::normalize,
    error::{Code, Error},
    model::Scorer,
};

/// Most scores of one chunk: 4 MB of f32, large enough that the product runs at full speed.
const CHUNK_SCORES: usize = 1 << 20;

/// One of the three matrices of an answer.
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
/// answer never stands in memory.
#[derive(Debug, Clone)]
pub struct Scored {
    /// The name of the model that answered.
    pub model: Arc<str>,
    /// What it consumed.
    pub usage: Usage,
    scorer: Scorer,
    /// Where cosines come from; none where only a matching head's logits were asked for.
    vectors: Option<Vectors>,
    /// A matching head's logits: `[rows, columns]`.
    logits: Option<Arc<Matrix>>,
    rows: usize,
    columns: usize,
    /// The request's share of the server stays taken while its answer is being streamed.
    permit: Option<Arc<Permit>>,
}

/// Normalised rows of both sides.
#[derive(Debug, Clone)]
pub(super) enum Vectors {
    /// Every image with every text.
    All {
        /// `[rows * vectors, dim]`
        images: Tensor,
        /// Vectors of one image: the cosine of a pair is the largest over them.
        vectors: usize,
        /// `[dim, columns]`, a transposed view.
        texts: Tensor,
    },
    /// The image and the text of the same place.
    Zip {
        /// `[rows * vectors, dim]`
        images: Arc<Matrix>,
        /// Vectors of one image.
        vectors: usize,
        /// `[rows, dim]`
        texts: Arc<Matrix>,
    },
}

impl Vectors {
    /// Normalises both sides.
    ///
    /// * `vectors`: how many of the first matrix's rows are of one image
    pub(super) fn new(
        (pairing, vectors): (Pairing, usize),
        (mut images, mut texts): (Matrix, Matrix),
    ) -> Result<Self, Error> {
        match pairing {
            Pairing::All => Ok(Self::All {
                images: normalized_tensor(images).map_err(Error::internal)?,
                vectors,
                texts: normalized_tensor(texts).and_then(|t| t.t()).map_err(Error::internal)?,
            }),
            Pairing::Zip => {
                normalize_rows(&mut images);
                normalize_rows(&mut texts);
                Ok(Self::Zip { images: images.into(), vectors, texts: texts.into() })
            }
        }
    }

    fn cosines(&self, rows: Range<usize>) -> Result<Vec<f32>, Error> {
        match self {
            Self::All { images, vectors, texts } => {
                let product = || {
                    let images = images.narrow(0, rows.start * vectors, rows.len() * vectors)?;
                    let cosines = images.matmul(texts)?;
                    let cosines = match vectors {
                        1 => cosines,
                        _ => cosines.reshape((rows.len(), *vectors, texts.dim(1)?))?.max(1)?,
                    };
                    cosines.flatten_all()?.to_vec1::<f32>()
                };
                product().map_err(Error::internal)
            }
            Self::Zip { images, vectors, texts } => {
                let cosine = |row: usize| {
                    let each = (row * vectors..(row + 1) * vectors).map(|image| {
                        let pairs = images.row(image).iter().zip(texts.row(row));
                        pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() as f32
                    });
                    each.fold(f32::NEG_INFINITY, f32::max)
                };
                Ok(rows.map(cosine).collect())
            }
        }
    }
}

impl Scored {
    /// Scores that follow from cosines.
    pub(super) fn new(
        model: Arc<str>,
        usage: Usage,
        scorer: Scorer,
        (images, texts): (Matrix, Matrix),
    ) -> Result<Self, Error> {
        let (rows, columns) = (images.rows, texts.rows);
        let vectors = Some(Vectors::new((Pairing::All, 1), (images, texts))?);
        Ok(Self { model, usage, scorer, vectors, logits: None, rows, columns, permit: None })
    }

    /// Scores of pairs, from cosines, from a matching head's logits, or from both.
    ///
    /// * `shape`: rows and columns of the answer
    pub(super) fn of(
        (model, usage, scorer): (Arc<str>, Usage, Scorer),
        shape: [usize; 2],
        vectors: Option<Vectors>,
        logits: Option<Matrix>,
    ) -> Self {
        let [rows, columns] = shape;
        let logits = logits.map(Arc::new);
        Self { model, usage, scorer, vectors, logits, rows, columns, permit: None }
    }

    /// How the model scores.
    #[must_use]
    pub fn scorer(&self) -> Scorer {
        self.scorer
    }

    /// Keeps `permit` until the last chunk is out.
    pub(super) fn holding(mut self, permit: Arc<Permit>) -> Self {
        self.permit = Some(permit);
        self
    }

    /// Rows of the answer: images.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the answer: texts.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The row ranges to ask [`Scored::chunk`] for, each of bounded size, in order.
    pub fn chunks(&self) -> impl Iterator<Item = Range<usize>> + Send + use<> {
        let vectors = match &self.vectors {
            Some(Vectors::All { vectors, .. }) => *vectors,
            Some(Vectors::Zip { .. }) | None => 1,
        };
        let step = (CHUNK_SCORES / (self.columns * vectors).max(1)).max(1);
        let rows = self.rows;
        (0..rows).step_by(step).map(move |start| start..(start + step).min(rows))
    }

    /// Scores of a range of rows: `[range.len(), columns]`, row-major. Runs on a blocking thread.
    ///
    /// # Errors
    /// Fails if the computation does, which is a defect.
    pub async fn chunk(&self, kind: ScoreKind, rows: Range<usize>) -> Result<Matrix, Error> {
        let scored = self.clone();
        tokio::task::spawn_blocking(move || scored.compute(kind, rows))
            .await
            .map_err(Error::internal)?
    }

    /// [`Scored::chunk`] on the calling thread.
    pub(super) fn compute(&self, kind: ScoreKind, rows: Range<usize>) -> Result<Matrix, Error> {
        if rows.start > rows.end || rows.end > self.rows {
            return Err(Error::new(Code::Internal, "a chunk was asked for that does not exist"));
        }
        let count = rows.len();
        let mut data = match &self.logits {
            Some(logits) if kind != ScoreKind::Cosine => {
                logits.data[rows.start * self.columns..rows.end * self.columns].to_vec()
            }
            _ => {
                let missing = || Error::internal("cosines were asked for that were not computed");
                let mut data = self.vectors.as_ref().ok_or_else(missing)?.cosines(rows)?;
                for score in &mut data {
                    // Rounding may push the cosine of equal directions past 1.
                    *score = score.clamp(-1.0, 1.0);
                    if kind != ScoreKind::Cosine {
                        *score = self.scorer.logit(*score).ok_or_else(|| {
                            Error::internal(
                                "a logit was asked for that does not follow from a cosine",
                            )
                        })?;
                    }
                }
                data
            }
        };
        if kind == ScoreKind::Probability {
            // Every row is whole: all texts of the request stand beside each other.
            data.chunks_exact_mut(self.columns.max(1))
                .for_each(|row| self.scorer.probabilities(row));
        }
        Ok(Matrix { rows: count, dim: self.columns, data })
    }
}

/// Scales every row to length 1.
fn normalize_rows(matrix: &mut Matrix) {
    for row in matrix.data.chunks_exact_mut(matrix.dim.max(1)) {
        normalize(row);
    }
}

/// `[rows, dim]` with every row of length 1. The matrix's memory is taken over, not copied.
fn normalized_tensor(mut matrix: Matrix) -> candle_core::Result<Tensor> {
    normalize_rows(&mut matrix);
    Tensor::from_vec(matrix.data, (matrix.rows, matrix.dim), &Device::Cpu)
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
        let sides = (matrix(rows, 0.7), matrix(columns, 1.3));
        Scored::new("m".into(), Usage::default(), scorer, sides).expect("shapes agree")
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
        assert!((all.data[0] - one.data[0]).abs() < 1e-6);
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
