//! LZW as in TIFF.

use weezl::{
    BitOrder, LzwStatus,
    decode::{Configuration, Decoder},
};

/// Decoders of both kinds of codes, which are kept from strip to strip: there may be a million.
#[derive(Default)]
pub(super) struct Lzw {
    /// Codes from the highest bit, which grow one code early.
    usual: Option<Decoder>,
    /// Codes from the lowest bit, as a GIF has them and old writers had.
    old: Option<Decoder>,
}

impl Lzw {
    /// Unpacks a strip or tile, to its end or to `most` bytes.
    ///
    /// All at once: given room for a row, the decoder loses the end of some strips.
    pub(super) fn unpack(&mut self, input: &[u8], most: usize) -> Vec<u8> {
        // The first code clears the table; it is 256, which begins with a byte of zeros where it is packed from below.
        let is_old = matches!(*input, [0, second, ..] if second & 1 == 1);
        let decoder = if is_old {
            let new = || Configuration::new(BitOrder::Lsb, 8).build();
            self.old.get_or_insert_with(new)
        } else {
            let new = || Configuration::with_tiff_size_switch(BitOrder::Msb, 8).build();
            self.usual.get_or_insert_with(new)
        };
        decoder.reset();
        let mut out = vec![0; most];
        let (mut read, mut written) = (0, 0);
        while written < most {
            let result = decoder.decode_bytes(&input[read..], &mut out[written..]);
            read += result.consumed_in;
            written += result.consumed_out;
            // Whether enough is there is for the reader of the rows to say.
            if !matches!(result.status, Ok(LzwStatus::Ok)) {
                break;
            }
        }
        out.truncate(written);
        out
    }
}
