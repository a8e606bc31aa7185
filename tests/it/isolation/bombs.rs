//! Generated images that need more memory than their headers say.

/// Bits, lowest first, as in VP8L.
#[derive(Default)]
struct Bits(Vec<bool>);

impl Bits {
    fn number(&mut self, value: usize, count: u32) -> &mut Self {
        self.0.extend((0..count).map(|bit| value >> bit & 1 == 1));
        self
    }

    /// A prefix code of one symbol.
    fn single(&mut self, symbol: usize) -> &mut Self {
        let long = symbol > 1;
        self.number(0b01, 2).number(usize::from(long), 1).number(symbol, if long { 8 } else { 1 })
    }

    /// A prefix code of 2328 symbols, one of length 1 and 2048 of length 12: 137 bytes that become tables of 57
    /// KB.
    fn large_code(&mut self) -> &mut Self {
        const ORDER: [usize; 16] = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12];
        self.number(0, 1).number(ORDER.len() - 4, 4);
        for symbol in ORDER {
            let length = match symbol {
                16 => 1,
                1 | 12 => 2,
                _ => 0,
            };
            self.number(length, 3);
        }
        self.number(1, 1).number(4, 3).number(344 - 2, 10);
        self.number(0b01, 2).number(0b11, 2);
        for _ in 0..341 {
            self.number(0, 1).number(3, 2);
        }
        self.number(0b11, 2)
    }

    fn bytes(&self) -> Vec<u8> {
        let byte =
            |bits: &[bool]| bits.iter().rev().fold(0, |byte, &bit| byte << 1 | u8::from(bit));
        self.0.chunks(8).map(byte).collect()
    }
}

/// A lossless WebP of 4 x 4 pixels with this many groups of prefix codes, of which only the last is used.
pub(super) fn webp_of_groups(groups: usize) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.number(0x2f, 8).number(3, 14).number(3, 14).number(0, 4);
    // No transform, a colour cache of 2048, groups for blocks of 4 x 4.
    bits.number(0, 1).number(1, 1).number(11, 4).number(1, 1).number(0, 3);
    // One block, and its group.
    let last = groups - 1;
    bits.number(0, 1).single(last & 255).single(last >> 8).single(0).single(0).single(0);
    for _ in 0..groups {
        bits.large_code().single(0).single(0).single(0).single(0);
    }
    bits.number(0, 64);
    let mut data = bits.bytes();
    let length = u32::try_from(data.len()).expect("short");
    data.resize(data.len().next_multiple_of(2), 0);
    let all = u32::try_from(data.len() + 12).expect("short");
    [b"RIFF", &all.to_le_bytes()[..], b"WEBPVP8L", &length.to_le_bytes(), &data].concat()
}

/// A TIFF whose rows all use the same bytes: LZW data that is reset `kib * 910` times before it has a row.
pub(super) fn tiff_of_shared_rows(rows: u32, kib: usize) -> Vec<u8> {
    let (clear, end, width) = (256_usize, 257, 50);
    let mut bits = Vec::new();
    let codes = std::iter::repeat_n(clear, kib * 1024 * 8 / 9);
    for code in codes.chain([128; 50]).chain([end]) {
        bits.extend((0..9).rev().map(|bit| code >> bit & 1 == 1));
    }
    let byte = |bits: &[bool]| bits.iter().fold(0, |byte, &bit| byte << 1 | u8::from(bit));
    let packed: Vec<u8> = bits.chunks(8).map(byte).collect();
    let length = u32::try_from(packed.len()).expect("short");
    let all = |value: u32| value.to_le_bytes().repeat(rows as usize);
    let (start, tables) = (8 + 2 + 9 * 12 + 4, 8 + 2 + 9 * 12 + 4 + length);
    let tags = [
        (256_u16, 4_u16, 1, width),
        (257, 4, 1, rows),
        (258, 3, 1, 8),
        (259, 3, 1, 5),
        (262, 3, 1, 1),
        (273, 4, rows, tables),
        (277, 3, 1, 1),
        (278, 4, 1, 1),
        (279, 4, rows, tables + 4 * rows),
    ];
    tiff(&tags, &[&packed[..], &all(start), &all(length)].concat())
}

/// A TIFF of 16 x 16 pixels whose strip is a JPEG of `side` x `side`.
pub(super) fn tiff_of_large_jpeg(side: u16) -> Vec<u8> {
    let mut jpeg = Vec::new();
    let pixels = vec![7; usize::from(side).pow(2)];
    jpeg_encoder::Encoder::new(&mut jpeg, 50)
        .encode(&pixels, side, side, jpeg_encoder::ColorType::Luma)
        .expect("written to memory");
    let tags = [
        (256_u16, 4_u16, 1, 16),
        (257, 4, 1, 16),
        (258, 3, 1, 8),
        (259, 3, 1, 7),
        (262, 3, 1, 1),
        (273, 4, 1, 8 + 2 + 9 * 12 + 4),
        (277, 3, 1, 1),
        (278, 4, 1, 16),
        (279, 4, 1, u32::try_from(jpeg.len()).expect("short")),
    ];
    tiff(&tags, &jpeg)
}

pub(super) fn tiff(tags: &[(u16, u16, u32, u32)], rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"II*\0\x08\0\0\0".to_vec();
    bytes.extend(u16::try_from(tags.len()).expect("few").to_le_bytes());
    for (tag, kind, count, value) in tags {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([0; 4]);
    bytes.extend(rest);
    bytes
}
