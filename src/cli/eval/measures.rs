//! The numbers of an evaluation, computed a chunk of images at a time: the matrix of all images and all texts is never
//! held. Sums are in f64, so that they equal a plain computation to nine digits.

use rayon::prelude::*;

use super::data::Data;
use crate::model::Scorer;

/// Maximum number of scores of one chunk: 32 MiB.
const CHUNK_SCORES: usize = 1 << 22;
/// Bins of the reliability diagram.
pub(super) const BINS: usize = 10;
/// The probabilities of the threshold table.
pub(super) const THRESHOLDS: [f64; 19] = [
    0.0001, 0.001, 0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9,
    0.95, 0.99,
];

/// Normalised embeddings, a row each.
#[derive(Debug, Clone, Default)]
pub(super) struct Vectors {
    pub(super) dim: usize,
    pub(super) data: Vec<f32>,
}

impl Vectors {
    fn rows(&self) -> usize {
        self.data.len() / self.dim.max(1)
    }

    pub(super) fn row(&self, index: usize) -> &[f32] {
        &self.data[index * self.dim..(index + 1) * self.dim]
    }
}

/// What is evaluated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scores<'v> {
    pub(super) images: &'v Vectors,
    pub(super) texts: &'v Vectors,
    pub(super) scorer: Scorer,
}

/// Images whose scores with so many texts are held at once.
pub(super) fn chunk_rows(texts: usize) -> usize {
    (CHUNK_SCORES / texts.max(1)).max(1)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0_f64; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest = a_chunks.remainder().iter().zip(b_chunks.remainder());
    let rest: f64 = rest.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for (sum, (&a, &b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += f64::from(a) * f64::from(b);
        }
    }
    sums.iter().sum::<f64>() + rest
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

impl Scores<'_> {
    /// Visits the cosines of each image with all texts, in order.
    fn for_each_image(self, mut visit: impl FnMut(usize, &[f64])) {
        let columns = self.texts.rows().max(1);
        let step = chunk_rows(columns);
        for begin in (0..self.images.rows()).step_by(step) {
            let rows = step.min(self.images.rows() - begin);
            let mut chunk = vec![0.0; rows * columns];
            chunk.par_chunks_exact_mut(columns).enumerate().for_each(|(row, cosines)| {
                let image = self.images.row(begin + row);
                for (text, value) in cosines.iter_mut().enumerate() {
                    *value = cosine(image, self.texts.row(text));
                }
            });
            for (row, cosines) in chunk.chunks_exact(columns).enumerate() {
                visit(begin + row, cosines);
            }
        }
    }

    /// `exp(logit_scale)` and the bias, 0 where the family has none; none where no logit follows from a cosine.
    fn scale_and_bias(self) -> Option<(f64, f64)> {
        let scale = f64::from(self.scorer.logit_scale()?).exp();
        Some((scale, self.scorer.logit_bias().map_or(0.0, f64::from)))
    }
}

/// The share of images, or of texts, with something that belongs to them among the first places.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Recalls {
    pub(super) r1: f64,
    pub(super) r5: f64,
    pub(super) r10: f64,
}

/// Recalls of both directions: of images by texts, of texts by images.
pub(super) fn retrieval(scores: Scores<'_>, data: &Data) -> [Recalls; 2] {
    let positives = data.positives();
    let mut best_of_image = vec![f64::NEG_INFINITY; scores.images.rows()];
    let mut best_of_text = vec![f64::NEG_INFINITY; scores.texts.rows()];
    for (image, texts) in positives.iter().enumerate() {
        for &text in texts {
            let score = cosine(scores.images.row(image), scores.texts.row(text));
            best_of_image[image] = best_of_image[image].max(score);
            best_of_text[text] = best_of_text[text].max(score);
        }
    }
    // How many stand before the best one that belongs.
    let mut before_image = vec![0_usize; best_of_image.len()];
    let mut before_text = vec![0_usize; best_of_text.len()];
    scores.for_each_image(|image, cosines| {
        for (text, &score) in cosines.iter().enumerate() {
            before_image[image] += usize::from(score > best_of_image[image]);
            before_text[text] += usize::from(score > best_of_text[text]);
        }
    });
    let recalls = |before: &[usize], best: &[f64]| {
        let asked: Vec<_> = (0..before.len()).filter(|&at| best[at].is_finite()).collect();
        let within = |k: usize| {
            asked.iter().filter(|&&at| before[at] < k).count() as f64 / asked.len().max(1) as f64
        };
        Recalls { r1: within(1), r5: within(5), r10: within(10) }
    };
    [recalls(&before_image, &best_of_image), recalls(&before_text, &best_of_text)]
}

/// The two losses that image-text models are trained with, over all rows of the data as one batch. A text or an image
/// that several rows have counts as often, and only its own row's partner counts as right, as in training.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Losses {
    /// `-1/n * sum of ln(sigmoid(z * logit))` over all n x n pairs, z = 1 on the diagonal and -1 elsewhere.
    pub(super) sigmoid: f64,
    /// The mean of the cross-entropies of the rows and of the columns.
    pub(super) softmax: f64,
}

/// Which losses to compute.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) sigmoid: bool,
    pub(super) softmax: bool,
}

/// The losses over these rows of the data; none where no logit follows from a cosine.
pub(super) fn losses(scores: Scores<'_>, pairs: &[[usize; 2]], wanted: Wanted) -> Option<Losses> {
    let (scale, bias) = scores.scale_and_bias()?;
    let mut count_of_image = vec![0.0_f64; scores.images.rows()];
    let mut count_of_text = vec![0.0_f64; scores.texts.rows()];
    let mut right = 0.0;
    for &[image, text] in pairs {
        count_of_image[image] += 1.0;
        count_of_text[text] += 1.0;
        right += scale * cosine(scores.images.row(image), scores.texts.row(text));
    }
    let n = pairs.len() as f64;
    let (mut negatives, mut rows) = (0.0, 0.0);
    // The logarithm of a column's sum of exponentials, as the largest logit and a sum relative to it.
    let mut columns =
        vec![(f64::NEG_INFINITY, 0.0_f64); if wanted.softmax { count_of_text.len() } else { 0 }];
    scores.for_each_image(|image, cosines| {
        let times = count_of_image[image];
        if times == 0.0 {
            return;
        }
        if wanted.sigmoid {
            let sum = cosines.iter().zip(&count_of_text);
            let sum: f64 = sum.map(|(cosine, count)| count * softplus(scale * cosine + bias)).sum();
            negatives += times * sum;
        }
        if wanted.softmax {
            let highest = cosines.iter().copied().fold(f64::NEG_INFINITY, f64::max) * scale;
            let sum = cosines.iter().zip(&count_of_text);
            let sum: f64 =
                sum.map(|(cosine, count)| count * (scale * cosine - highest).exp()).sum();
            rows += times * (highest + sum.ln());
            for (column, cosine) in columns.iter_mut().zip(cosines) {
                let logit = scale * cosine;
                if logit > column.0 {
                    *column = (logit, column.1 * (column.0 - logit).exp());
                }
                column.1 += times * (logit - column.0).exp();
            }
        }
    });
    let column_sums = columns.iter().zip(&count_of_text).filter(|(_, count)| **count > 0.0);
    let column_sums: f64 =
        column_sums.map(|((highest, sum), count)| count * (highest + sum.ln())).sum();
    Some(Losses {
        sigmoid: (negatives - right - n * bias) / n,
        softmax: (rows + column_sums - 2.0 * right) / (2.0 * n),
    })
}

/// A bin of the reliability diagram.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Bin {
    pub(super) count: usize,
    /// The mean of the probabilities in it.
    pub(super) probability: f64,
    /// The share of pairs in it that belong together.
    pub(super) positives: f64,
}

/// How pairs at or above a probability divide.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Threshold {
    pub(super) probability: f64,
    /// None where no pair is that probable.
    pub(super) precision: Option<f64>,
    pub(super) recall: f64,
    pub(super) f1: f64,
}

/// What the probabilities of all pairs of an image and a text are worth.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Probabilities {
    /// The mean distance of a bin's probability from its share of positives, weighted by the pairs in it.
    pub(super) ece: f64,
    pub(super) bins: [Bin; BINS],
    pub(super) thresholds: Vec<Threshold>,
    /// The lowest threshold with the wanted precision; none where no threshold has it.
    pub(super) wanted: Option<Threshold>,
}

/// Calibration and thresholds; none where the model judges no pair on its own.
pub(super) fn probabilities(
    scores: Scores<'_>,
    data: &Data,
    precision: Option<f64>,
) -> Option<Probabilities> {
    scores.scorer.pair_probability(0.0)?;
    let (scale, bias) = scores.scale_and_bias()?;
    let probability = |cosine: f64| sigmoid(scale * cosine + bias);
    let positives = data.positives();
    let mut right: Vec<f64> = Vec::new();
    for (image, texts) in positives.iter().enumerate() {
        let of =
            |&text: &usize| probability(cosine(scores.images.row(image), scores.texts.row(text)));
        right.extend(texts.iter().map(of));
    }
    right.sort_by(f64::total_cmp);
    let mut bins = [Bin::default(); BINS];
    // Wrong pairs by the number of thresholds, and of right pairs, that they reach.
    let mut reach_threshold = vec![0_usize; THRESHOLDS.len() + 1];
    let mut reach_right = vec![0_usize; right.len() + 1];
    scores.for_each_image(|image, cosines| {
        for (text, &cosine) in cosines.iter().enumerate() {
            let probability = probability(cosine);
            let belongs = positives[image].binary_search(&text).is_ok();
            let bin = &mut bins[((probability * BINS as f64) as usize).min(BINS - 1)];
            bin.count += 1;
            bin.probability += probability;
            bin.positives += f64::from(u8::from(belongs));
            if !belongs {
                reach_threshold[THRESHOLDS.partition_point(|&it| it <= probability)] += 1;
                reach_right[right.partition_point(|&it| it <= probability)] += 1;
            }
        }
    });
    let pairs: usize = bins.iter().map(|bin| bin.count).sum();
    let gap = |bin: &Bin| (bin.probability - bin.positives).abs();
    let ece = bins.iter().map(gap).sum::<f64>() / pairs.max(1) as f64;
    for bin in bins.iter_mut().filter(|bin| bin.count > 0) {
        bin.probability /= bin.count as f64;
        bin.positives /= bin.count as f64;
    }
    let threshold = |probability: f64, wrong: usize| {
        let found = right.len() - right.partition_point(|&it| it < probability);
        let precision = (found + wrong > 0).then(|| found as f64 / (found + wrong) as f64);
        let f1 = 2.0 * found as f64 / (found + wrong + right.len()).max(1) as f64;
        Threshold { probability, precision, recall: found as f64 / right.len().max(1) as f64, f1 }
    };
    // Those that reach a threshold reach all before it.
    let at_least = |reach: &[usize], index: usize| reach[index + 1..].iter().sum::<usize>();
    let thresholds = THRESHOLDS.iter().enumerate();
    let thresholds =
        thresholds.map(|(at, &it)| threshold(it, at_least(&reach_threshold, at))).collect();
    let wanted = precision.and_then(|precision| {
        let mut wrong: usize = reach_right.iter().sum();
        let all = right.iter().enumerate().map(|(at, &it)| {
            wrong -= reach_right[at];
            threshold(it, wrong)
        });
        // Equal probabilities are one threshold, whose last entry has counted all of them.
        let mut fit = all.filter(|it| it.precision.is_some_and(|found| found >= precision));
        fit.next()
    });
    Some(Probabilities { ece, bins, thresholds, wanted })
}

#[cfg(test)]
mod tests;
