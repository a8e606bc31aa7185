//! How a family turns cosines into scores.

/// How a family turns the cosine of an image and a text into a score. Kept in f32 on the host, so that stored
/// embeddings score exactly like fresh ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scorer {
    /// Each pair is judged on its own: SigLIP.
    Sigmoid {
        /// The checkpoint's `logit_scale`, before `exp`.
        logit_scale: f32,
        /// The checkpoint's `logit_bias`.
        logit_bias: f32,
    },
    /// An image is judged against all texts of a request together: CLIP.
    Softmax {
        /// The checkpoint's `logit_scale`, before `exp`.
        logit_scale: f32,
    },
    /// Each pair is judged by a head that reads the text together with the image: BLIP. No logit follows from a
    /// cosine; a probability follows from the head's logit.
    Matching,
}

impl Scorer {
    /// The name in responses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sigmoid { .. } => "sigmoid",
            Self::Softmax { .. } => "softmax",
            Self::Matching => "matching",
        }
    }

    /// The checkpoint's `logit_scale`, before `exp`; none where no logit follows from a cosine.
    #[must_use]
    pub fn logit_scale(self) -> Option<f32> {
        match self {
            Self::Sigmoid { logit_scale, .. } | Self::Softmax { logit_scale } => Some(logit_scale),
            Self::Matching => None,
        }
    }

    /// What is added to a scaled cosine; none where the family adds nothing.
    #[must_use]
    pub fn logit_bias(self) -> Option<f32> {
        match self {
            Self::Sigmoid { logit_bias, .. } => Some(logit_bias),
            Self::Softmax { .. } | Self::Matching => None,
        }
    }

    /// `exp(logit_scale) * cosine`, and the bias where there is one; none where no logit follows from a cosine.
    #[must_use]
    pub fn logit(self, cosine: f32) -> Option<f32> {
        let scale = self.logit_scale()?.exp();
        Some(scale * cosine + self.logit_bias().unwrap_or_default())
    }

    /// The probability that an image and a text belong together, judged on their own; none where the family does
    /// not judge a pair on its own.
    #[must_use]
    pub fn pair_probability(self, logit: f32) -> Option<f32> {
        match self {
            Self::Sigmoid { .. } | Self::Matching => Some(sigmoid(logit)),
            Self::Softmax { .. } => None,
        }
    }

    /// Turns the logits of one image with every text of a request into probabilities.
    pub fn probabilities(self, logits: &mut [f32]) {
        match self {
            Self::Sigmoid { .. } | Self::Matching => {
                logits.iter_mut().for_each(|logit| *logit = sigmoid(*logit));
            }
            Self::Softmax { .. } => {
                let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                logits.iter_mut().for_each(|logit| *logit = (*logit - highest).exp());
                // In f64: a request may have ten thousand texts.
                let sum: f64 = logits.iter().map(|&value| f64::from(value)).sum();
                logits.iter_mut().for_each(|value| *value = (f64::from(*value) / sum) as f32);
            }
        }
    }
}

fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sigmoid_judges_each_pair_on_its_own() {
        let scorer = Scorer::Sigmoid { logit_scale: 2.0, logit_bias: -3.0 };
        let logit = scorer.logit(0.5).expect("of a cosine");
        assert!((logit - (2f32.exp() * 0.5 - 3.0)).abs() < 1e-6);
        let mut row = [0.0, 3.0, -200.0];
        scorer.probabilities(&mut row);
        assert_eq!(row, [0.5, 1.0 / (1.0 + (-3f32).exp()), 0.0]);
        assert_eq!(scorer.pair_probability(0.0), Some(0.5));
    }

    #[test]
    fn a_softmax_judges_the_texts_of_a_request_together() {
        let scorer = Scorer::Softmax { logit_scale: 100f32.ln() };
        assert_eq!(scorer.pair_probability(1.0), None);
        assert!((scorer.logit(0.25).expect("of a cosine") - 25.0).abs() < 1e-4);
        // The logits of transformers' own test of CLIP, and what its softmax gives.
        let mut row = [24.5701, 19.3049];
        scorer.probabilities(&mut row);
        assert!((row[0] - 0.9949).abs() < 1e-4 && (row[1] - 0.0051).abs() < 1e-4, "{row:?}");
        let mut row = [1000.0, 1000.0, -1000.0];
        scorer.probabilities(&mut row);
        assert_eq!(row, [0.5, 0.5, 0.0]);
        let mut alone = [-7.0];
        scorer.probabilities(&mut alone);
        assert_eq!(alone, [1.0]);
    }
}
