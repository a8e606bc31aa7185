//! Draws the first frame of a GIF on the same screen as Pillow does.

use gif::{ColorOutput, DecodeOptions, Decoder};
use image::{ColorType, ImageDecoder, ImageError, ImageFormat, ImageResult, error::DecodingError};

use super::reason::Reason;

/// A GIF whose first frame is about to be decoded.
///
/// The logical screen grows to hold the first frame. The area outside the frame has the transparent colour or,
/// if there is none, the first colour of the table. The `image` crate crops the frame instead, and leaves the
/// rest transparent.
pub(super) struct GifDecoder<'b> {
    decoder: Decoder<&'b [u8]>,
    frame: Frame,
    width: u32,
    height: u32,
}

/// The first frame without its pixels.
struct Frame {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
    transparent: Option<u8>,
    interlaced: bool,
}

impl<'b> GifDecoder<'b> {
    /// Reads the file up to the pixels of the first frame.
    ///
    /// # Errors
    /// Fails for a header that is damaged, and for a file without a frame.
    pub(super) fn new(bytes: &'b [u8]) -> ImageResult<Self> {
        let mut options = DecodeOptions::new();
        options.set_color_output(ColorOutput::Indexed);
        let mut decoder = options.read_info(bytes).map_err(failure)?;
        let screen = (decoder.width(), decoder.height());
        let Some(frame) = decoder.next_frame_info().map_err(failure)? else {
            return Err(Reason::new("the GIF has no frame").of(ImageFormat::Gif));
        };
        let width = u32::from(screen.0).max(u32::from(frame.left) + u32::from(frame.width));
        let height = u32::from(screen.1).max(u32::from(frame.top) + u32::from(frame.height));
        let frame = Frame {
            left: frame.left.into(),
            top: frame.top.into(),
            width: frame.width.into(),
            height: frame.height.into(),
            transparent: frame.transparent,
            interlaced: frame.interlaced,
        };
        Ok(Self { decoder, frame, width, height })
    }

    /// The RGBA colour of each index. Pillow reads a table that only counts up as 256 grey values. An index
    /// after the end of another table is black.
    fn colours(&self) -> ImageResult<[[u8; 4]; 256]> {
        let table = self.decoder.palette().map_err(failure)?.as_chunks::<3>().0;
        let counts_up = table.iter().zip(0..=255).all(|(colour, index)| *colour == [index; 3]);
        let mut colours = [[0, 0, 0, 255]; 256];
        for (index, colour) in (0..=255).zip(&mut colours) {
            let [red, green, blue] = match table.get(usize::from(index)) {
                _ if counts_up => [index; 3],
                Some(&colour) => colour,
                None => [0; 3],
            };
            let alpha = if self.frame.transparent == Some(index) { 0 } else { 255 };
            *colour = [red, green, blue, alpha];
        }
        Ok(colours)
    }
}

impl ImageDecoder for GifDecoder<'_> {
    fn dimensions(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    fn color_type(&self) -> ColorType {
        ColorType::Rgba8
    }

    fn read_image(mut self, buf: &mut [u8]) -> ImageResult<()> {
        let colours = self.colours()?;
        let Frame { left, top, width, height, transparent, interlaced } = self.frame;
        let free = colours[usize::from(transparent.unwrap_or(0))];
        let pixels = buf.as_chunks_mut::<4>().0;
        pixels.fill(free);
        if width == 0 || height == 0 {
            return Ok(());
        }
        let mut indices = vec![0; width * height];
        // All rows are read at once: with a buffer for a single row, the library loses the end of some rows.
        if !self.decoder.fill_buffer(&mut indices).map_err(failure)? {
            return Err(Reason::new("the GIF data ends early").of(ImageFormat::Gif));
        }
        for (row, indices) in rows(height, interlaced).zip(indices.chunks_exact(width)) {
            let start = (top + row) * self.width as usize + left;
            for (pixel, &index) in pixels[start..].iter_mut().zip(indices) {
                *pixel = colours[usize::from(index)];
            }
        }
        Ok(())
    }

    fn read_image_boxed(self: Box<Self>, buf: &mut [u8]) -> ImageResult<()> {
        (*self).read_image(buf)
    }
}

/// The rows of a frame in the order in the file.
fn rows(height: usize, interlaced: bool) -> impl Iterator<Item = usize> {
    // First row of each pass, and the step to the next one.
    let passes: &[(usize, usize)] =
        if interlaced { &[(0, 8), (4, 8), (2, 4), (1, 2)] } else { &[(0, 1)] };
    passes.iter().flat_map(move |&(first, step)| (first..height).step_by(step))
}

/// The decoder's own message goes only to the log.
fn failure(error: gif::DecodingError) -> ImageError {
    let reason = match &error {
        gif::DecodingError::UnexpectedEof => "the GIF data ends early",
        gif::DecodingError::Format(_) if error.to_string().contains("color table") => {
            "the GIF has no colour table"
        }
        _ => return ImageError::Decoding(DecodingError::new(ImageFormat::Gif.into(), error)),
    };
    Reason::new(reason).of(ImageFormat::Gif)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of 2 x 2 pixels of the indices 0, 1, 1, 2 on a screen.
    fn file(screen: [u8; 2], place: [u8; 2], transparent: Option<u8>) -> Vec<u8> {
        let mut bytes = b"GIF89a".to_vec();
        bytes.extend([screen[0], 0, screen[1], 0, 0x81, 0, 0]);
        bytes.extend([10, 0, 0, 0, 20, 0, 0, 0, 30, 40, 40, 40]);
        if let Some(index) = transparent {
            bytes.extend([0x21, 0xF9, 4, 1, 0, 0, index, 0]);
        }
        bytes.extend([0x2C, place[0], 0, place[1], 0, 2, 0, 2, 0, 0]);
        // Codes of three bits, clear (4), 0, 1 and 1, and of four bits by then, 2 and the end (5).
        bytes.extend([2, 3, 0x44, 0x22, 0x05, 0, 0x3B]);
        bytes
    }

    fn decoded(bytes: &[u8]) -> (u32, u32, Vec<[u8; 4]>) {
        let decoder = GifDecoder::new(bytes).expect("reads the header");
        let (width, height) = decoder.dimensions();
        let mut pixels = vec![0; decoder.total_bytes() as usize];
        decoder.read_image(&mut pixels).expect("reads the image");
        (width, height, pixels.as_chunks::<4>().0.to_vec())
    }

    const RED: [u8; 4] = [10, 0, 0, 255];
    const GREEN: [u8; 4] = [0, 20, 0, 255];
    const BLUE: [u8; 4] = [0, 0, 30, 255];

    #[test]
    fn the_screen_grows_to_the_first_frame() {
        for screen in [[2, 2], [1, 1], [0, 0], [2, 0]] {
            let expected = vec![RED, GREEN, GREEN, BLUE];
            assert_eq!(decoded(&file(screen, [0, 0], None)), (2, 2, expected), "{screen:?}");
        }
    }

    #[test]
    fn what_a_frame_leaves_free_has_the_first_or_the_transparent_colour() {
        let expected = vec![RED, RED, RED, RED, RED, GREEN, RED, GREEN, BLUE];
        assert_eq!(decoded(&file([1, 1], [1, 1], None)), (3, 3, expected));
        let clear = [0, 20, 0, 0];
        let expected = vec![clear, clear, clear, clear, RED, clear, clear, clear, BLUE];
        assert_eq!(decoded(&file([1, 1], [1, 1], Some(1))), (3, 3, expected));
    }
}
