//! How near embeddings in a narrow type are to those in f32, on rows that never change.

use super::{LoadError, Tower, TowerError};
use crate::{
    embedding::Embedding,
    preprocess::{ImageSpec, Pixels, TargetSize},
    tokenize::{TextTokenizer, Tokens},
};

/// From one word to more than any model reads.
const TEXTS: [&str; 4] = [
    "cat",
    "a photo of two dogs on a beach at sunset",
    "Screenshot of a web page: three columns, 24 red buttons & a map of Zürich",
    "an old stone bridge over a river in autumn, seen from the left bank on a clear morning, with a man in a \
     yellow coat and his bicycle, a row of plane trees behind them and, further off, the towers of a cathedral \
     that is being repaired, half of it hidden by scaffolding and white sheets that move a little in the wind",
];

/// Images: a smooth one, one of hard edges, one of noise.
const PICTURES: usize = 3;

/// Rows for both towers.
pub(super) struct Probe {
    pub(super) pixels: Vec<Pixels>,
    pub(super) tokens: Vec<Tokens>,
}

/// What a type gives for them.
#[derive(Default)]
pub(super) struct Answers {
    images: Vec<Embedding>,
    texts: Vec<Embedding>,
}

impl Probe {
    /// # Errors
    /// Fails if the tokenizer does.
    pub(super) fn new(
        image: &ImageSpec,
        tokenizer: Option<&TextTokenizer>,
    ) -> Result<Self, LoadError> {
        let (height, width) = match image.size {
            TargetSize::Fixed { height, width } | TargetSize::Crop { height, width, .. } => {
                (height, width)
            }
            TargetSize::Patches { patch_size, max_num_patches } => {
                let side = max_num_patches.isqrt().max(1) * patch_size;
                (side, side)
            }
        };
        let pixels = (0..PICTURES).map(|kind| picture(kind, height, width)).collect();
        let encode = |tokenizer: &TextTokenizer| {
            let texts = TEXTS.iter().map(|text| tokenizer.encode(&tokenizer.canonical(text)));
            texts.collect::<Result<_, _>>().map_err(|error| LoadError::new(error.to_string()))
        };
        let tokens = tokenizer.map(encode).transpose()?.unwrap_or_default();
        Ok(Self { pixels, tokens })
    }

    /// Row by row: a probe must not need more memory than a request.
    pub(super) fn images(
        &self,
        vision: &mut impl Tower<Input = Pixels>,
    ) -> Result<Vec<Embedding>, LoadError> {
        rows(vision, &self.pixels)
    }

    pub(super) fn texts(
        &self,
        text: &mut impl Tower<Input = Tokens>,
    ) -> Result<Vec<Embedding>, LoadError> {
        rows(text, &self.tokens)
    }
}

impl Answers {
    pub(super) fn new(images: Vec<Embedding>, texts: Vec<Embedding>) -> Self {
        Self { images, texts }
    }

    /// The least cosine between rows of one and the other; not a number if one row has none.
    pub(super) fn agreement(&self, others: &Self) -> f32 {
        self.least_cosine(others) as f32
    }

    /// How far the least cosine is from 1, with digits that an f32 next to 1 does not have.
    pub(super) fn distance(&self, others: &Self) -> f64 {
        1.0 - self.least_cosine(others)
    }

    fn least_cosine(&self, others: &Self) -> f64 {
        let pairs = self.images.iter().zip(&others.images);
        let pairs = pairs.chain(self.texts.iter().zip(&others.texts));
        let cosines = pairs.map(|(own, other)| cosine(own.as_slice(), other.as_slice()));
        cosines.fold(1.0_f64, |least, cosine| match least.is_nan() || cosine >= least {
            true => least,
            false => cosine,
        })
    }
}

fn rows<T: Tower>(tower: &mut T, rows: &[T::Input]) -> Result<Vec<Embedding>, LoadError> {
    let failed = |error: TowerError| LoadError::new(format!("the self-check at load: {error}"));
    let each = rows.chunks(1).map(|row| tower.forward(row));
    let embeddings: Vec<_> = each.collect::<Result<_, _>>().map_err(failed)?;
    Ok(embeddings.into_iter().flatten().collect())
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn picture(kind: usize, height: u32, width: u32) -> Pixels {
    // There and back between 0 and 255.
    let wave = |at: u32| (at % 510).abs_diff(255);
    let value = |y: u32, x: u32, channel: u32| match kind {
        0 => wave(y * 400 / height + channel * 90) / 2 + wave(x * 700 / width) / 2,
        1 if (y * 5 / height + x * 7 / width).is_multiple_of(2) => 40 + 80 * channel,
        1 => 250 - 100 * channel,
        _ => ((y * width + x) * 3 + channel).wrapping_mul(2_654_435_761) >> 24,
    };
    let positions = (0..height).flat_map(|y| (0..width).map(move |x| (y, x)));
    let values = positions.flat_map(|(y, x)| (0..3).map(move |channel| value(y, x, channel) as u8));
    Pixels { height, width, data: values.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(rows: &[&[f32]]) -> Answers {
        Answers::new(rows.iter().copied().map(Embedding::new).collect(), Vec::new())
    }

    #[test]
    fn the_worst_row_counts() {
        let own = answers(&[&[1.0, 0.0], &[1.0, 1.0]]);
        assert!(
            (own.agreement(&answers(&[&[2.0, 0.0], &[0.0, 3.0]])) - 0.5f32.sqrt()).abs() < 1e-6
        );
        assert!((own.agreement(&own) - 1.0).abs() < 1e-6);
        // A turn by 1e-5 is half of its square away.
        let near = answers(&[&[1.0, 1e-5], &[1.0, 1.0]]);
        assert!((own.distance(&near) - 5e-11).abs() < 1e-13, "{}", own.distance(&near));
    }

    #[test]
    fn what_is_no_number_agrees_with_nothing() {
        let own = answers(&[&[f32::NAN, 0.0], &[1.0, 1.0]]);
        assert!(own.agreement(&answers(&[&[2.0, 0.0], &[1.0, 1.0]])).is_nan());
        assert!(answers(&[&[0.0, 0.0]]).agreement(&answers(&[&[0.0, 0.0]])).is_nan());
    }

    #[test]
    fn pictures_differ_within_and_from_each_other() {
        let pictures: Vec<_> = (0..PICTURES).map(|kind| picture(kind, 24, 30)).collect();
        for (index, picture) in pictures.iter().enumerate() {
            assert_eq!(picture.data.len(), 24 * 30 * 3);
            let (least, most) = (picture.data.iter().min(), picture.data.iter().max());
            assert!(most.zip(least).is_some_and(|(most, least)| most - least > 100));
            assert!(pictures[..index].iter().all(|other| other.data != picture.data));
        }
    }
}
