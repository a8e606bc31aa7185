//! Converts the bytes of a row to samples, and samples to grey or colour with eight bits.

use super::{
    directory::ByteOrder,
    layout::{Layout, Predictor},
    samples::{Alpha, Colour},
};

/// Unpacks the samples of a row from its bytes.
///
/// * `stride`: the distance in samples between the same sample of two neighbouring pixels
/// * `samples`: `row.len()` values; floats are scaled to 0 to 255
pub(super) fn spread(layout: &Layout<'_>, row: &mut [u8], stride: usize, samples: &mut [u16]) {
    match layout.bits {
        32 => spread_floats(layout, row, stride, samples),
        16 => {
            for (sample, bytes) in samples.iter_mut().zip(row.as_chunks::<2>().0) {
                *sample = layout.order.u16(*bytes);
            }
        }
        8 => {
            for (sample, byte) in samples.iter_mut().zip(&*row) {
                *sample = u16::from(*byte);
            }
        }
        bits => {
            for (index, sample) in samples.iter_mut().enumerate() {
                let at = index * bits;
                let shift = 8 - bits - at % 8;
                *sample = u16::from(row[at / 8] >> shift & ((1 << bits) - 1));
            }
        }
    }
    if layout.predictor == Predictor::Horizontal && layout.bits <= 16 {
        let mask = if layout.bits == 8 { 0xFF } else { 0xFFFF };
        for index in stride..samples.len() {
            samples[index] = samples[index].wrapping_add(samples[index - stride]) & mask;
        }
    }
}

/// Unpacks floats, whose range is 0 to 1.
fn spread_floats(layout: &Layout<'_>, row: &mut [u8], stride: usize, samples: &mut [u16]) {
    let whole = |value: f32| (value.clamp(0.0, 1.0) * 255.0).round() as u16;
    if layout.predictor != Predictor::Float {
        for (sample, bytes) in samples.iter_mut().zip(row.as_chunks::<4>().0) {
            *sample = whole(match layout.order {
                ByteOrder::Little => f32::from_le_bytes(*bytes),
                ByteOrder::Big => f32::from_be_bytes(*bytes),
            });
        }
        return;
    }
    for index in stride..row.len() {
        row[index] = row[index].wrapping_add(row[index - stride]);
    }
    // The highest bytes of all samples come first, then the next ones.
    let count = row.len() / 4;
    for (index, sample) in samples.iter_mut().enumerate() {
        let bytes = [0, 1, 2, 3].map(|place| row[place * count + index]);
        *sample = whole(f32::from_be_bytes(bytes));
    }
}

/// Writes pixels from their samples.
///
/// * `samples`: all samples of a pixel, pixel by pixel
/// * `out`: a byte for grey, three for colours, and one more for alpha
pub(super) fn write(layout: &Layout<'_>, samples: &[u16], out: &mut [u8]) {
    let channels = layout.channels();
    let pixels = samples.chunks_exact(layout.samples).zip(out.chunks_exact_mut(channels));
    // 16-bit samples keep their upper byte, as in Pillow.
    let byte = |sample: u16| if layout.bits == 16 { (sample >> 8) as u8 } else { sample as u8 };
    match &layout.colour {
        Colour::Grey { inverted } => {
            let most = if layout.bits == 16 { 0xFFFF } else { (1 << layout.bits) - 1 };
            for (samples, out) in pixels {
                let sample = if *inverted { most - samples[0] } else { samples[0] };
                out[0] = if layout.bits < 8 { (sample * (255 / most)) as u8 } else { byte(sample) };
                with_alpha(layout.alpha, samples.get(1).map_or(255, |&sample| byte(sample)), out);
            }
        }
        Colour::Rgb => {
            for (samples, out) in pixels {
                for (out, &sample) in out.iter_mut().zip(&samples[..3]) {
                    *out = byte(sample);
                }
                with_alpha(layout.alpha, samples.get(3).map_or(255, |&sample| byte(sample)), out);
            }
        }
        Colour::Palette(colours) => {
            for (samples, out) in pixels {
                out[..3].copy_from_slice(&colours[usize::from(samples[0])]);
                with_alpha(layout.alpha, samples.get(1).map_or(255, |&sample| byte(sample)), out);
            }
        }
        Colour::Cmyk => {
            let most = if layout.bits == 16 { 65535.0 } else { 255.0 };
            for (samples, out) in pixels {
                let light = 1.0 - f32::from(samples[3]) / most;
                for (out, &ink) in out.iter_mut().zip(&samples[..3]) {
                    *out = byte(((most - f32::from(ink)) * light) as u16);
                }
            }
        }
        Colour::YCbCr { .. } => {
            for (samples, out) in pixels {
                let [luma, blue, red] = [samples[0], samples[1], samples[2]];
                out.copy_from_slice(&rgb(luma as u8, blue as u8, red as u8));
            }
        }
    }
}

/// Writes alpha, if the image has it. Colours that were multiplied by alpha are divided by it, as in Pillow.
fn with_alpha(kind: Alpha, alpha: u8, out: &mut [u8]) {
    let Some((last, colours)) = out.split_last_mut().filter(|_| kind != Alpha::None) else {
        return;
    };
    *last = alpha;
    if kind == Alpha::Associated {
        for colour in colours {
            let whole = (u32::from(*colour) * 255).checked_div(alpha.into()).unwrap_or(0);
            *colour = whole.min(255) as u8;
        }
    }
}

/// Converts to RGB as in JPEG: ITU-R BT.601 with the full range.
pub(super) fn rgb(luma: u8, blue: u8, red: u8) -> [u8; 3] {
    let [luma, blue, red] = [f32::from(luma), f32::from(blue) - 128.0, f32::from(red) - 128.0];
    [luma + 1.402 * red, luma - 0.344_136 * blue - 0.714_136 * red, luma + 1.772 * blue]
        .map(|value| value.round().clamp(0.0, 255.0) as u8)
}
