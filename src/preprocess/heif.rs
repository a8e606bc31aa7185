//! HEIF is the container of HEIC and AVIF. It says which coded images make up the image, and how it is turned.
//!
//! `heifer-isobmff` reads the boxes. Only structures that cameras and encoders write are accepted: one coded
//! image or a grid of them, optionally with alpha, cropped and turned. Everything else that the format allows
//! is refused, and no pixel is decoded before all sizes are known.

#[cfg(feature = "avif")]
mod av1;
mod colour;
#[cfg(feature = "heic")]
mod hevc;
mod layout;

use std::io;

use heifer_isobmff::{HeifFile, ItemId};
use image::{
    ColorType, ImageDecoder, ImageError, ImageResult, Limits,
    error::{DecodingError, ImageFormatHint},
    metadata::Orientation,
};
use tracing::debug;

pub(super) use self::layout::Coding;
use self::{
    colour::{Meaning, Painter, Samples},
    layout::{Layout, Plan, Size},
};
use super::reason::Reason;

/// Bytes that decoding holds for a pixel of a coded image: three planes of two bytes, twice, and data about its
/// blocks.
const BYTES_PER_PIXEL: u64 = 16;

/// Why a file is refused.
#[derive(Debug)]
pub(super) enum Fault {
    /// A part of the data would be after the end of the file.
    EndsEarly,
    /// The file contradicts itself.
    Damaged,
    /// The file has a structure that is not read; the text says why.
    Refused(&'static str),
}

impl From<heifer_isobmff::Error> for Fault {
    fn from(error: heifer_isobmff::Error) -> Self {
        debug!(%error, "the reader refuses a HEIF container");
        match error {
            heifer_isobmff::Error::UnexpectedEof => Self::EndsEarly,
            _ => Self::Damaged,
        }
    }
}

impl Fault {
    fn of(self, name: &str) -> ImageError {
        let reason = match self {
            Self::EndsEarly => return io::Error::from(io::ErrorKind::UnexpectedEof).into(),
            Self::Damaged => format!("the {name} data is damaged"),
            Self::Refused(why) => {
                format!("this {name} file is not supported ({why}); convert it to JPEG or PNG")
            }
        };
        let hint = ImageFormatHint::Name(name.to_owned());
        ImageError::Decoding(DecodingError::new(hint, Reason::new(reason)))
    }
}

/// A file whose boxes were read.
pub(super) struct HeifDecoder<'b> {
    coding: Coding,
    file: HeifFile<'b>,
    layout: Layout,
}

impl<'b> HeifDecoder<'b> {
    /// Reads the boxes of a file.
    ///
    /// * `coding`: the coding that the first box names
    ///
    /// # Errors
    /// Fails if a box is damaged or missing, or if the file has a structure that is not supported.
    pub(super) fn new(bytes: &'b [u8], coding: Coding) -> ImageResult<Self> {
        let read = || {
            layout::check_boxes(bytes)?;
            let file = HeifFile::parse(bytes)?;
            let layout = Layout::of(&file)?;
            // The first box decides which decoder runs, so no coded image may have another coding.
            if layout.plans().any(|plan| plan.coding != coding) {
                return Err(Fault::Refused("it is coded in another way than it says"));
            }
            Ok((file, layout))
        };
        let (file, layout) = read().map_err(|fault: Fault| fault.of(coding.name()))?;
        Ok(Self { coding, file, layout })
    }

    /// Bytes that decoding takes in addition to the image: one coded image is decoded at a time.
    pub(super) fn extra_bytes(&self) -> u64 {
        let pixels = self.layout.plans().map(|plan| plan.tile.coded_pixels()).max();
        pixels.unwrap_or_default().saturating_mul(BYTES_PER_PIXEL)
    }

    /// Draws all coded images of a plan, cropped, into the rows of the image.
    fn draw(
        &self,
        plan: &Plan,
        mut row: impl FnMut(&mut Painter<'_>, usize, &mut [u8]),
        buffer: &mut [u8],
    ) -> Result<(), Fault> {
        let (area, tile) = (self.layout.area, plan.tile);
        let channels = usize::from(self.color_type().channel_count());
        let stride = area.width as usize * channels;
        for (index, &item) in (0_u32..).zip(&plan.tiles) {
            // The coded image's place on the canvas. The shown image is a part of the canvas.
            let (left, top) =
                (index % plan.columns * tile.width, index / plan.columns * tile.height);
            let columns = left.max(area.left)..(left + tile.width).min(area.left + area.width);
            let rows = top.max(area.top)..(top + tile.height).min(area.top + area.height);
            if columns.is_empty() || rows.is_empty() {
                continue;
            }
            let samples = decode(&self.file, plan.coding, item, tile)?;
            let meaning = plan.meaning.unwrap_or_else(|| samples.meaning());
            if !meaning.is_known() {
                return Err(Fault::Refused("its colour matrix is not supported"));
            }
            let mut painter = Painter::new(&*samples, meaning);
            let from = (columns.start - area.left) as usize * channels;
            let skipped = (columns.start - left) as usize;
            let length = columns.len() * channels;
            for y in rows {
                let at = (y - area.top) as usize * stride + from;
                painter.skip(skipped);
                row(&mut painter, (y - top) as usize, &mut buffer[at..at + length]);
            }
        }
        Ok(())
    }
}

impl ImageDecoder for HeifDecoder<'_> {
    fn dimensions(&self) -> (u32, u32) {
        (self.layout.area.width, self.layout.area.height)
    }

    fn color_type(&self) -> ColorType {
        if self.layout.alpha.is_some() { ColorType::Rgba8 } else { ColorType::Rgb8 }
    }

    fn orientation(&mut self) -> ImageResult<Orientation> {
        // The container's orientation counts. EXIF repeats it and must not be applied a second time.
        Ok(self.layout.orientation)
    }

    fn set_limits(&mut self, _: Limits) -> ImageResult<()> {
        // Nothing is left to limit: all sizes are known, and each coded image is checked against its own.
        Ok(())
    }

    fn read_image(self, buffer: &mut [u8]) -> ImageResult<()> {
        let channels = usize::from(self.color_type().channel_count());
        let mut read = || {
            let colours = |painter: &mut Painter<'_>, y, row: &mut [u8]| {
                painter.paint(y, channels, row);
            };
            self.draw(&self.layout.colour, colours, buffer)?;
            let Some(alpha) = &self.layout.alpha else { return Ok(()) };
            let opacity =
                |painter: &mut Painter<'_>, y, row: &mut [u8]| painter.paint_alpha(y, row);
            self.draw(alpha, opacity, buffer)?;
            if self.layout.premultiplied {
                buffer.as_chunks_mut::<4>().0.iter_mut().for_each(divide_by_alpha);
            }
            Ok(())
        };
        read().map_err(|fault: Fault| fault.of(self.coding.name()))
    }

    fn read_image_boxed(self: Box<Self>, buffer: &mut [u8]) -> ImageResult<()> {
        (*self).read_image(buffer)
    }
}

/// Decodes a coded image of a known size.
fn decode(
    file: &HeifFile<'_>,
    coding: Coding,
    item: ItemId,
    size: Size,
) -> Result<Box<dyn Samples>, Fault> {
    match coding {
        #[cfg(feature = "avif")]
        Coding::Av1 => Ok(Box::new(av1::decode(file, item, size)?)),
        #[cfg(feature = "heic")]
        Coding::Hevc => Ok(Box::new(hevc::decode(file, item, size)?)),
    }
}

/// Divides colours by alpha, if they were multiplied by it.
fn divide_by_alpha(pixel: &mut [u8; 4]) {
    let [colours @ .., alpha] = pixel;
    let alpha = u16::from(*alpha);
    for colour in colours {
        let value = (u16::from(*colour) * 255 + alpha / 2).checked_div(alpha).unwrap_or(0);
        *colour = value.min(255) as u8;
    }
}
