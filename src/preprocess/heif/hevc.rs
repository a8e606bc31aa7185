//! Decodes HEVC images with `heifer-hevc-dec`.

use heifer_hevc_dec::{
    decoder::{DecodeOptions, decode_picture},
    recon::Frame as Planes,
};
use heifer_isobmff::{HeifFile, ItemId};
use tracing::debug;

use super::{
    Fault, Size,
    colour::{Meaning, Samples, Widening},
};

/// A decoded image.
pub(super) struct Frame(Planes);

/// Decodes an item that is an image of this size.
pub(super) fn decode(file: &HeifFile<'_>, item: ItemId, size: Size) -> Result<Frame, Fault> {
    let stream = file.hevc_bitstream(item)?;
    let max_pixels = size.coded_pixels();
    let options = DecodeOptions { max_pixels, verify_hash: true, skip_loop_filters: false };
    let planes = decode_picture(&stream, options).map_err(|error| {
        debug!(%error, "the decoder refuses an HEVC image");
        match error {
            heifer_hevc_dec::Error::UnexpectedEof => Fault::EndsEarly,
            heifer_hevc_dec::Error::Unimplemented(_) => {
                Fault::Refused("it uses a part of HEVC that is not supported")
            }
            _ => Fault::Damaged,
        }
    })?;
    if (planes.widths[0], planes.heights[0]) != (size.width, size.height) {
        return Err(Fault::Refused("its image has another size than the file says"));
    }
    if planes.bit_depth[0] != planes.bit_depth[1] && planes.widths[1] != 0 {
        return Err(Fault::Refused("its luma and chroma differ in depth"));
    }
    Ok(Frame(planes))
}

impl Samples for Frame {
    fn meaning(&self) -> Meaning {
        Meaning { matrix: self.0.matrix_coeffs.into(), full_range: self.0.full_range }
    }

    fn widening(&self) -> Widening {
        Widening::Nearest
    }

    fn size(&self) -> (usize, usize) {
        (self.0.widths[0] as usize, self.0.heights[0] as usize)
    }

    fn bits(&self) -> u32 {
        self.0.bit_depth[0].into()
    }

    fn chroma(&self) -> Option<(usize, usize)> {
        match self.0.chroma_format {
            _ if self.0.widths[1] == 0 => None,
            1 => Some((2, 2)),
            2 => Some((2, 1)),
            _ => Some((1, 1)),
        }
    }

    fn row(&self, plane: usize, y: usize, into: &mut [f32]) {
        let width = self.0.widths[plane] as usize;
        let row = self.0.planes[plane].get(y * width..).unwrap_or_default();
        for (sample, &value) in into.iter_mut().zip(row) {
            *sample = value.into();
        }
    }
}
