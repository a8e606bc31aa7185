//! The meaning of a pixel's samples, from the tags.

use super::{
    Result,
    directory::{Directory, tag},
};
use crate::preprocess::reason::Reason;

/// The meaning of a pixel's colour samples.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Colour {
    /// One sample; `inverted` where 0 is white.
    Grey {
        inverted: bool,
    },
    Rgb,
    /// One sample, which is an index.
    Palette(Vec<[u8; 3]>),
    Cmyk,
    /// Luma for each pixel, and chroma for blocks of this many columns and rows.
    YCbCr {
        columns: usize,
        rows: usize,
    },
}

impl Colour {
    pub(super) fn samples(&self) -> usize {
        match self {
            Self::Grey { .. } | Self::Palette(_) => 1,
            Self::Rgb | Self::YCbCr { .. } => 3,
            Self::Cmyk => 4,
        }
    }
}

/// The meaning of the sample after the colour samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alpha {
    /// The sample is not shown.
    None,
    /// Opacity.
    Separate,
    /// Opacity; the colours were multiplied by it.
    Associated,
}

/// Bits of a sample, which are the same for all.
pub(super) fn bits(directory: &Directory<'_>, samples: usize) -> Result<usize> {
    let Some(bits) = directory.values(tag::BITS_PER_SAMPLE) else { return Ok(1) };
    let first = bits.get(0).unwrap_or(0);
    // One value may stand for all samples.
    if bits.iter().any(|other| other != first) || (bits.len() < samples && bits.len() != 1) {
        return Err(Reason::new("the TIFF has samples of different numbers of bits"));
    }
    match first {
        1 | 2 | 4 | 8 | 16 | 32 => Ok(first as usize),
        _ => Err(Reason::new(format!("the TIFF has samples of {first} bits"))),
    }
}

pub(super) fn colour(directory: &Directory<'_>, bits: usize) -> Result<Colour> {
    let name = match directory.number(tag::PHOTOMETRIC) {
        Some(0) | None => return Ok(Colour::Grey { inverted: true }),
        Some(1) => return Ok(Colour::Grey { inverted: false }),
        Some(2) => return Ok(Colour::Rgb),
        Some(3) => return palette(directory, bits),
        Some(5) if directory.number(tag::INK_SET).is_none_or(|set| set == 1) => {
            return Ok(Colour::Cmyk);
        }
        Some(5) => "inks of its own".to_owned(),
        Some(6) => {
            let factors = directory.values(tag::YCBCR_SUBSAMPLING);
            let factor = |index| factors.map_or(Some(2), |factors| factors.get(index));
            let (Some(columns @ (1 | 2 | 4)), Some(rows @ (1 | 2 | 4))) = (factor(0), factor(1))
            else {
                return Err(Reason::new("the TIFF has an unknown chroma subsampling"));
            };
            return Ok(Colour::YCbCr { columns: columns as usize, rows: rows as usize });
        }
        Some(4) => "a transparency mask".to_owned(),
        Some(8..=10) => "CIE L*a*b*".to_owned(),
        Some(32803) => "the raw data of a camera's sensor".to_owned(),
        Some(32844 | 32845) => "CIE Log L".to_owned(),
        Some(34892) => "the linear raw data of a camera".to_owned(),
        Some(other) => format!("photometric interpretation {other}"),
    };
    Err(Reason::new(format!("the TIFF has colours that are not read here: {name}")))
}

/// The upper byte of each colour, as in Pillow.
fn palette(directory: &Directory<'_>, bits: usize) -> Result<Colour> {
    let colours = 1 << bits.min(8);
    let map = directory.values(tag::COLOR_MAP).filter(|map| map.len() == 3 * colours);
    let map = map.ok_or_else(|| Reason::new("the TIFF has no colour map of the right length"))?;
    // All reds come first, then all greens, then all blues.
    let channel = |index| map.get(index).map_or(0, |value| (value >> 8) as u8);
    let colour = |index| [index, colours + index, 2 * colours + index].map(channel);
    Ok(Colour::Palette((0..colours).map(colour).collect()))
}

/// The meaning of the first sample after the colours.
///
/// * the first arguments are the samples of a pixel and the number of planes
pub(super) fn alpha(
    directory: &Directory<'_>,
    colour: &Colour,
    [samples, planes]: [usize; 2],
) -> Result<Alpha> {
    let Some(more) = samples.checked_sub(colour.samples()) else {
        return Err(Reason::new("the TIFF has fewer samples than its colours need"));
    };
    let Some(kinds) = directory.values(tag::EXTRA_SAMPLES) else {
        return match (more, colour) {
            (0, _) => Ok(Alpha::None),
            // Some writers do not declare the fourth sample.
            (1, Colour::Rgb) if planes == 1 => Ok(Alpha::Separate),
            _ => Err(Reason::new("the TIFF does not say what its further samples are")),
        };
    };
    if kinds.len() != more || kinds.iter().skip(1).any(|kind| kind != 0) {
        return Err(Reason::new("the TIFF has an alpha channel in an unknown place"));
    }
    match (kinds.get(0), colour) {
        (Some(0), _) => Ok(Alpha::None),
        (Some(2), Colour::Grey { .. } | Colour::Rgb | Colour::Palette(_)) => Ok(Alpha::Separate),
        (Some(1), Colour::Grey { inverted: false } | Colour::Rgb) => Ok(Alpha::Associated),
        // Corel Draw 10 wrote this value.
        (Some(999), Colour::Rgb) => Ok(Alpha::Separate),
        _ => Err(Reason::new("the TIFF has an alpha channel that its colours do not go with")),
    }
}

/// Refuses samples of types without an agreed range of values.
pub(super) fn check(
    directory: &Directory<'_>,
    bits: usize,
    colour: &Colour,
    alpha: Alpha,
) -> Result<()> {
    let formats = directory.values(tag::SAMPLE_FORMAT);
    let format = formats.and_then(|formats| formats.get(0)).unwrap_or(1);
    if formats.is_some_and(|formats| formats.iter().any(|other| other != format)) {
        return Err(Reason::new("the TIFF has samples of different types"));
    }
    let name = match format {
        1 => "unsigned",
        2 => "signed",
        3 => "floating-point",
        _ => "unknown",
    };
    let fits = match (colour, bits) {
        (Colour::Grey { .. } | Colour::Palette(_), 1 | 2 | 4) => alpha == Alpha::None,
        (Colour::Palette(_) | Colour::YCbCr { .. }, 8) => true,
        (Colour::Grey { .. } | Colour::Rgb | Colour::Cmyk, 8 | 16) => true,
        // The range is 0 to 1 by convention.
        (Colour::Rgb, 32) => return if format == 3 { Ok(()) } else { refuse(name, bits) },
        _ => false,
    };
    if fits && format == 1 { Ok(()) } else { refuse(name, bits) }
}

fn refuse(name: &str, bits: usize) -> Result<()> {
    let reason = format!("the TIFF has {name} samples of {bits} bits, which are not read here");
    Err(Reason::new(reason))
}

/// Refuses luma and chroma with another definition than JPEG's.
pub(super) fn check_ycbcr(directory: &Directory<'_>) -> Result<()> {
    let is = |tag, expected: &[f64]| {
        let Some(values) = directory.values(tag) else { return true };
        let close = |(value, expected): (f64, &f64)| (value - expected).abs() < 1e-3;
        values.len() == expected.len() && values.fractions().zip(expected).all(close)
    };
    if is(tag::YCBCR_COEFFICIENTS, &[0.299, 0.587, 0.114])
        && is(tag::REFERENCE_BLACK_WHITE, &[0.0, 255.0, 128.0, 255.0, 128.0, 255.0])
    {
        return Ok(());
    }
    Err(Reason::new("the TIFF has luma and chroma of an unusual range"))
}
