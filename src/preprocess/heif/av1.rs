//! Decodes AV1 images with `re_rav1d`: dav1d in Rust, without its assembly.

use heifer_isobmff::{HeifFile, ItemId};
use re_rav1d::dav1d::{
    Decoder, Picture, PixelLayout, PlanarImageComponent, Settings,
    pixel::{MatrixCoefficients, YUVRange},
};
use tracing::debug;

use super::{
    Fault, Size,
    colour::{Meaning, Samples, Widening},
};

/// A decoded image.
pub(super) struct Frame(Picture);

/// Decodes an item that is an image of this size.
pub(super) fn decode(file: &HeifFile<'_>, item: ItemId, size: Size) -> Result<Frame, Fault> {
    let data = file.item_data(item)?;
    if data.is_empty() {
        return Err(Fault::EndsEarly);
    }
    let mut settings = Settings::new();
    // No further threads: the caller's thread belongs to a pool of the right size.
    settings.set_n_threads(1);
    settings.set_max_frame_delay(1);
    // If there are several layers, only the best one is decoded.
    settings.set_all_layers(false);
    // The limit in pixels is the size that the container declares.
    let most = u32::try_from(size.pixels()).unwrap_or(u32::MAX);
    settings.set_frame_size_limit(most);
    let mut decoder = Decoder::with_settings(&settings).map_err(failure)?;
    let mut sent = decoder.send_data(data.into_owned(), None, None, None);
    loop {
        match decoder.get_picture() {
            Ok(picture) => return Frame::new(picture, size),
            Err(error) if error.is_again() => {}
            Err(error) => return Err(failure(error)),
        }
        match sent {
            Ok(()) => return Err(Fault::EndsEarly),
            Err(error) if error.is_again() => sent = decoder.send_pending_data(),
            Err(error) => return Err(failure(error)),
        }
    }
}

impl Frame {
    fn new(picture: Picture, size: Size) -> Result<Self, Fault> {
        if (picture.width(), picture.height()) != (size.width, size.height) {
            return Err(Fault::Refused("its image has another size than the file says"));
        }
        Ok(Self(picture))
    }
}

impl Samples for Frame {
    fn meaning(&self) -> Meaning {
        let matrix = match self.0.matrix_coefficients() {
            MatrixCoefficients::Identity => 0,
            MatrixCoefficients::BT709 => 1,
            MatrixCoefficients::Unspecified => 2,
            MatrixCoefficients::BT470M => 4,
            MatrixCoefficients::BT470BG => 5,
            MatrixCoefficients::ST170M => 6,
            MatrixCoefficients::ST240M => 7,
            MatrixCoefficients::YCgCo => 8,
            MatrixCoefficients::BT2020NonConstantLuminance => 9,
            _ => u16::MAX,
        };
        Meaning { matrix, full_range: self.0.color_range() == YUVRange::Full }
    }

    fn widening(&self) -> Widening {
        Widening::Linear
    }

    fn size(&self) -> (usize, usize) {
        (self.0.width() as usize, self.0.height() as usize)
    }

    fn bits(&self) -> u32 {
        self.0.bits_per_component().map_or(8, |bits| bits.0 as u32)
    }

    fn chroma(&self) -> Option<(usize, usize)> {
        match self.0.pixel_layout() {
            PixelLayout::I400 => None,
            PixelLayout::I420 => Some((2, 2)),
            PixelLayout::I422 => Some((2, 1)),
            PixelLayout::I444 => Some((1, 1)),
        }
    }

    fn row(&self, plane: usize, y: usize, into: &mut [f32]) {
        let component = PlanarImageComponent::from(plane);
        let stride = self.0.stride(component) as usize;
        let plane = self.0.plane(component);
        let row = &plane[y * stride..];
        if self.bits() == 8 {
            for (sample, &byte) in into.iter_mut().zip(row) {
                *sample = f32::from(byte);
            }
        } else {
            for (sample, &bytes) in into.iter_mut().zip(row.as_chunks::<2>().0) {
                *sample = f32::from(u16::from_ne_bytes(bytes));
            }
        }
    }
}

fn failure(error: re_rav1d::dav1d::Error) -> Fault {
    debug!(%error, "the decoder refuses an AV1 image");
    Fault::Damaged
}
