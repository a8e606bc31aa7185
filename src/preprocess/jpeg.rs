//! JPEG files. The markers of a file decide which library decodes it.

mod layout;
#[expect(unsafe_code, reason = "calls libjpeg-turbo, which is C")]
mod library;
#[cfg(not(feature = "turbojpeg"))]
mod ordinary;

use std::{fmt, io};

use image::{
    ColorType, ImageDecoder, ImageError, ImageFormat, ImageResult,
    error::{
        DecodingError, ImageFormatHint, LimitError, LimitErrorKind, UnsupportedError,
        UnsupportedErrorKind,
    },
};

use layout::Layout;
pub(super) use layout::Refusal;
use library::{Colours, Request};

/// Bytes that the library may take in addition to the estimate.
const MARGIN_BYTES: u64 = 1 << 20;

/// A JPEG file whose markers were read.
pub(super) struct JpegDecoder<'b> {
    bytes: &'b [u8],
    layout: Layout,
    halve: bool,
    max_bytes: u64,
}

impl<'b> JpegDecoder<'b> {
    /// Reads the markers, from which all sizes and limits follow.
    ///
    /// * `max_bytes`: most bytes that decoding may allocate
    pub(super) fn new(bytes: &'b [u8], max_bytes: u64) -> ImageResult<Self> {
        let layout = Layout::read(bytes).map_err(failure)?;
        Ok(Self { bytes, layout, halve: false, max_bytes })
    }

    /// Decodes at half the size, with sides rounded up.
    #[cfg(feature = "turbojpeg")]
    pub(super) fn halved(self) -> Self {
        Self { halve: true, ..self }
    }

    /// An upper estimate of the bytes that decoding takes in addition to the image.
    pub(super) fn extra_bytes(&self) -> u64 {
        self.layout.decode_bytes()
    }
}

impl ImageDecoder for JpegDecoder<'_> {
    fn dimensions(&self) -> (u32, u32) {
        let side = |side: u16| u32::from(side).div_ceil(if self.halve { 2 } else { 1 });
        (side(self.layout.width), side(self.layout.height))
    }

    fn color_type(&self) -> ColorType {
        ColorType::Rgb8
    }

    fn exif_metadata(&mut self) -> ImageResult<Option<Vec<u8>>> {
        Ok(self.layout.exif.clone().map(|range| self.bytes[range].to_vec()))
    }

    fn read_image(self, pixels: &mut [u8]) -> ImageResult<()> {
        #[cfg(not(feature = "turbojpeg"))]
        if ordinary::is_ordinary(&self.layout)
            && ordinary::decode(self.bytes, &self.layout, pixels).is_some()
        {
            return Ok(());
        }
        let Self { bytes, ref layout, halve, max_bytes } = self;
        let colours = Colours::Own;
        library::decode(&Request { bytes, layout, colours, halve, max_bytes }, pixels)
            .map_err(failure)
    }

    fn read_image_boxed(self: Box<Self>, pixels: &mut [u8]) -> ImageResult<()> {
        (*self).read_image(pixels)
    }
}

/// A JPEG stream inside another file, which says what its components are.
pub(super) struct Stream<'b> {
    bytes: &'b [u8],
    layout: Layout,
}

impl<'b> Stream<'b> {
    /// Reads the markers.
    pub(super) fn read(bytes: &'b [u8]) -> Result<Self, Refusal> {
        Ok(Self { bytes, layout: Layout::read(bytes)? })
    }

    /// Columns and rows.
    pub(super) fn size(&self) -> [usize; 2] {
        [self.layout.width, self.layout.height].map(usize::from)
    }

    /// Components of a pixel.
    pub(super) fn components(&self) -> usize {
        self.layout.components.len()
    }

    /// Decodes to rows with one byte for each component of each pixel.
    ///
    /// * `luma`: whether three components are luma and chroma, which become RGB; others are not converted
    pub(super) fn decode(&self, luma: bool) -> Result<Vec<u8>, Refusal> {
        let [columns, rows] = self.size();
        let mut pixels = vec![0; columns * rows * self.components()];
        let colours = if luma { Colours::Luma } else { Colours::Stored };
        let request = Request {
            bytes: self.bytes,
            layout: &self.layout,
            colours,
            halve: false,
            // Its size equals that of a strip or tile, which was checked.
            max_bytes: self.layout.decode_bytes().saturating_add(MARGIN_BYTES),
        };
        library::decode(&request, &mut pixels)?;
        Ok(pixels)
    }
}

/// Converts a refusal to the error type of the other decoders.
fn failure(refusal: Refusal) -> ImageError {
    let hint = ImageFormatHint::Exact(ImageFormat::Jpeg);
    match refusal {
        Refusal::EndsEarly => ImageError::IoError(io::ErrorKind::UnexpectedEof.into()),
        Refusal::Unsupported => ImageError::Unsupported(UnsupportedError::from_format_and_kind(
            hint,
            UnsupportedErrorKind::GenericFeature("this coding process".to_owned()),
        )),
        Refusal::TooMuchMemory => {
            ImageError::Limits(LimitError::from_kind(LimitErrorKind::InsufficientMemory))
        }
        Refusal::Damaged | Refusal::TooManyScans => {
            ImageError::Decoding(DecodingError::new(hint, refusal.to_string()))
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Damaged => "the data is damaged",
            Self::EndsEarly => "the data ends early",
            Self::Unsupported => "this coding process is not supported",
            Self::TooManyScans => "the image has too many scans",
            Self::TooMuchMemory => "the coefficients take too much memory",
        })
    }
}

#[cfg(test)]
mod tests;
