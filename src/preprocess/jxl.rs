//! Decodes JPEG XL with `jxl-oxide`: the first frame, eight bits per sample, in the colour space that the file
//! names.

mod colour;

use std::io;

use image::{
    ColorType, ImageDecoder, ImageError, ImageResult, Limits,
    error::{DecodingError, ImageFormatHint, LimitError, LimitErrorKind},
};
use jxl_oxide::{
    AllocTracker, ColorEncodingWithProfile, EnumColourEncoding, ExtraChannelType, ImageStream,
    InitializeResult, JxlImage, JxlThreadPool, PixelFormat, RenderingIntent, color::ColourEncoding,
    image::ExtraChannelInfo,
};
use tracing::debug;

use self::colour::Conversion;
use super::reason::Reason;

/// The bytes of a file that are parsed at a time until the header is complete.
const PIECE_BYTES: usize = 4096;

/// Bytes that decoding holds for a sample of a pixel: 32-bit numbers during decoding, filtering and drawing. An
/// image of one frame holds two of the three at once.
const BYTES_PER_SAMPLE: u64 = 12;

/// Maximum number of frames up to the first that is shown. Most files have one; layers and reused parts are
/// further frames.
const MAX_FRAMES: usize = 64;

/// A file whose header was read.
pub(super) struct JxlDecoder<'b> {
    image: JxlImage,
    /// The bytes that the decoder has not read yet.
    rest: &'b [u8],
    format: PixelFormat,
    /// The conversion for colours that the decoder would clip.
    conversion: Option<Conversion>,
}

impl<'b> JxlDecoder<'b> {
    /// Reads the header.
    ///
    /// * `max_bytes`: maximum number of bytes that are allocated, from the header on
    ///
    /// # Errors
    /// Fails if the header is damaged, or if the image has inks (CMYK) instead of colours.
    pub(super) fn new(bytes: &'b [u8], max_bytes: u64) -> ImageResult<Self> {
        let most = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        let mut started = JxlImage::builder()
            // The caller's thread belongs to a pool of the right size, so no further threads are used.
            .pool(JxlThreadPool::none())
            .alloc_tracker(AllocTracker::with_limit(most))
            .build_uninit();
        let mut rest = bytes;
        let mut pending = 0;
        let mut image = loop {
            // Bytes that the decoder did not use are passed again, together with further ones.
            let piece = rest.len().min(pending + PIECE_BYTES);
            if piece == pending {
                return Err(ends_early());
            }
            let used = started.feed_bytes(&rest[..piece]).map_err(failure)?;
            (rest, pending) = (&rest[used..], piece - used);
            match started.try_init().map_err(failure)? {
                InitializeResult::NeedMoreData(more) => started = more,
                InitializeResult::Initialized(image) => break image,
            }
        };
        let metadata = &image.image_header().metadata;
        let associated = metadata.ec_info.iter().any(|channel| {
            matches!(channel.ty, ExtraChannelType::Alpha { alpha_associated: true })
        });
        if associated {
            let reason = "JPEG XL with premultiplied alpha is not supported; save it as PNG";
            return Err(refused(reason));
        }
        let format = image.pixel_format();
        if matches!(format, PixelFormat::Cmyk | PixelFormat::Cmyka) {
            let reason = "JPEG XL in CMYK is not supported; save it in RGB";
            return Err(refused(reason));
        }
        let conversion = if metadata.xyb_encoded { conversion(&image)? } else { None };
        if conversion.is_some() {
            image
                .request_color_encoding(EnumColourEncoding::srgb_linear(RenderingIntent::Relative));
        }
        Ok(Self { image, rest, format, conversion })
    }

    /// Bytes that decoding takes in addition to the image.
    pub(super) fn extra_bytes(&self) -> u64 {
        let pixels = u64::from(self.image.width()) * u64::from(self.image.height());
        // Grey is decoded with three channels, like colours.
        let samples = 3 + self.image.image_header().metadata.ec_info.len() as u64;
        pixels.saturating_mul(samples * BYTES_PER_SAMPLE)
    }
}

impl ImageDecoder for JxlDecoder<'_> {
    fn dimensions(&self) -> (u32, u32) {
        // The image is already upright: the orientation is part of the format, and EXIF's must not be applied.
        (self.image.width(), self.image.height())
    }

    fn color_type(&self) -> ColorType {
        match self.format {
            PixelFormat::Gray => ColorType::L8,
            PixelFormat::Graya => ColorType::La8,
            PixelFormat::Rgba | PixelFormat::Cmyka => ColorType::Rgba8,
            PixelFormat::Rgb | PixelFormat::Cmyk => ColorType::Rgb8,
        }
    }

    fn set_limits(&mut self, _: Limits) -> ImageResult<()> {
        // The allocation tracker of the image already enforces the limits.
        Ok(())
    }

    fn read_image(mut self, buffer: &mut [u8]) -> ImageResult<()> {
        while self.image.num_loaded_keyframes() == 0 && !self.rest.is_empty() {
            let piece = &self.rest[..self.rest.len().min(PIECE_BYTES << 4)];
            let used = self.image.feed_bytes(piece).map_err(failure)?;
            if used == 0 {
                break;
            }
            self.rest = &self.rest[used..];
            if self.image.num_loaded_frames() > MAX_FRAMES {
                return Err(refused("JPEG XL of so many layers is not supported; save it as PNG"));
            }
        }
        if self.image.num_loaded_keyframes() == 0 {
            return Err(ends_early());
        }
        let render = self.image.render_frame(0).map_err(failure)?;
        let mut stream = render.stream();
        let same = (stream.width(), stream.height()) == self.dimensions()
            && stream.channels() == u32::from(self.color_type().channel_count());
        let written = match &self.conversion {
            Some(conversion) => converted(&mut stream, conversion, buffer),
            None => stream.write_to_buffer(buffer),
        };
        if !same || written != buffer.len() {
            return Err(refused("the JPEG XL data is damaged"));
        }
        Ok(())
    }

    fn read_image_boxed(self: Box<Self>, buffer: &mut [u8]) -> ImageResult<()> {
        (*self).read_image(buffer)
    }
}

/// The conversion of a lossy image's colours to the colour space that its file names, if the decoder's own
/// conversion differs from libjxl's; none if it does not.
///
/// # Errors
/// Fails if no conversion is known.
fn conversion(image: &JxlImage) -> ImageResult<Option<Conversion>> {
    let metadata = &image.image_header().metadata;
    // Lossy files hold linear light, which is converted with the transfer curve that the file names. The
    // decoder's curves for high dynamic range differ from libjxl's.
    if image.hdr_type().is_some() || metadata.tone_mapping.intensity_target != 255.0 {
        let reason = "JPEG XL in high dynamic range is not supported; save it as JPEG or PNG";
        return Err(refused(reason));
    }
    let unknown = || {
        refused("JPEG XL in the colours of a profile of its own is not supported; save it as PNG")
    };
    let from_profile = image.original_icc().map(ColorEncodingWithProfile::with_icc).transpose();
    let from_profile = from_profile.map_err(|_| unknown())?;
    let encoding = match (&from_profile, &metadata.colour_encoding) {
        (Some(profile), _) => profile.encoding(),
        (None, encoding) => encoding,
    };
    let ColourEncoding::Enum(encoding) = encoding else { return Err(unknown()) };
    if metadata.grayscale() || !colour::is_wide(encoding) {
        return Ok(None);
    }
    let is_ink =
        |channel: &ExtraChannelInfo| matches!(channel.ty, ExtraChannelType::SpotColour { .. });
    if metadata.ec_info.iter().any(is_ink) {
        return Err(refused("JPEG XL with spot colours is not supported; save it as PNG"));
    }
    Conversion::to(encoding).map(Some).ok_or_else(unknown)
}

/// Writes an image's pixels in the colours that it names, and returns the number of bytes.
fn converted(stream: &mut ImageStream<'_>, conversion: &Conversion, buffer: &mut [u8]) -> usize {
    let channels = stream.channels() as usize;
    let samples = stream.width() as usize * channels;
    let mut light = vec![0.0_f32; samples];
    let mut written = 0;
    for row in buffer.chunks_exact_mut(samples.max(1)) {
        written += stream.write_to_buffer(&mut light);
        let pixels = row.chunks_exact_mut(channels).zip(light.chunks_exact(channels));
        for (pixel, light) in pixels {
            let (&[red, green, blue], alpha) =
                light.split_first_chunk().unwrap_or((&[0.0; 3], &[]));
            let (colours, opacity) = pixel.split_at_mut(3.min(channels));
            colours.copy_from_slice(&conversion.bytes([red, green, blue])[..colours.len()]);
            for (byte, alpha) in opacity.iter_mut().zip(alpha) {
                *byte = (alpha * 255.0 + 0.5) as u8;
            }
        }
    }
    written
}

fn ends_early() -> ImageError {
    io::Error::from(io::ErrorKind::UnexpectedEof).into()
}

/// Maps a failure of the decoder: out of memory, out of data, or another one.
fn failure(error: Box<dyn std::error::Error + Send + Sync>) -> ImageError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&*error);
    while let Some(error) = cause {
        if error.to_string().contains("out of memory")
            || error.to_string().contains("failed to allocate")
        {
            let kind = LimitErrorKind::InsufficientMemory;
            return ImageError::Limits(LimitError::from_kind(kind));
        }
        cause = error.source();
    }
    debug!(%error, "the decoder refuses a JPEG XL image");
    refused("the JPEG XL data is damaged")
}

fn refused(reason: &str) -> ImageError {
    let format = ImageFormatHint::Name("JPEG XL".to_owned());
    ImageError::Decoding(DecodingError::new(format, Reason::new(reason)))
}
