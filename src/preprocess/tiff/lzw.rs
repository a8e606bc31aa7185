//! Decompresses TIFF's LZW.

use weezl::{
    BitOrder, LzwStatus,
    decode::{Configuration, Decoder},
};

/// Decoders of both kinds of codes. They are reused for all strips, of which there may be a million.
#[derive(Default)]
pub(super) struct Lzw {
    /// The usual kind: codes begin at the highest bit and grow one code early.
    usual: Option<Decoder>,
    /// The old kind, as in GIF: codes begin at the lowest bit.
    old: Option<Decoder>,
}

impl Lzw {
    /// Decompresses a strip or tile, to its end or to `most` bytes.
    ///
    /// Everything is decompressed at once: with a buffer for one row, the decoder loses the end of some strips.
    pub(super) fn unpack(&mut self, input: &[u8], most: usize) -> Vec<u8> {
        // The first code clears the table. It is 256, whose first byte is zero if codes begin at the lowest
        // bit.
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
            // The reader of the rows checks whether there is enough data.
            if !matches!(result.status, Ok(LzwStatus::Ok)) {
                break;
            }
        }
        out.truncate(written);
        out
    }
}
