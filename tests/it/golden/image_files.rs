//! Image files of every kind that Pillow opens: each gives Pillow's pixels, or is refused with a reason.
//!
//! `tests/golden/image_files/generate.py` generates them. A small set is stored. To use another set:
//!
//! ```sh
//! IMAGE_FILES=/elsewhere/image_files.bin cargo test --test it -- golden::image_files --nocapture
//! ```

use std::{
    collections::BTreeMap,
    env, fs,
    io::{Cursor, Read},
    panic::{self, AssertUnwindSafe},
};

use flate2::read::ZlibDecoder;
use siglip_server::preprocess::{
    self, Decoding, ImageError, ImageLimits, ImageSpec, Pixels, TargetSize,
};

use super::reference::folder;

const LIMITS: ImageLimits =
    ImageLimits { max_bytes: 1 << 20, max_pixels: 1 << 20, max_decode_bytes: 1 << 26 };

/// Maximum difference of pixels in levels, because of rounding.
const LEVELS: u8 = 1;

/// A file, and its pixels in Pillow.
struct Variant {
    name: String,
    bytes: Vec<u8>,
    /// Width and height. 0 if Pillow refuses the file.
    size: [u32; 2],
    pixels: Vec<u8>,
}

/// Reads records until the end.
struct Records(Cursor<Vec<u8>>);

impl Records {
    fn number(&mut self) -> Option<u32> {
        let mut bytes = [0; 4];
        self.0.read_exact(&mut bytes).ok().map(|()| u32::from_le_bytes(bytes))
    }

    fn bytes(&mut self, length: u32) -> Vec<u8> {
        let mut bytes = vec![0; length as usize];
        self.0.read_exact(&mut bytes).expect("a whole record");
        bytes
    }
}

impl Iterator for Records {
    type Item = Variant;

    fn next(&mut self) -> Option<Variant> {
        let length = self.number()?;
        let name = String::from_utf8(self.bytes(length)).expect("a name");
        let length = self.number()?;
        let bytes = self.bytes(length);
        let size = [self.number()?, self.number()?];
        let pixels = self.bytes(size[0] * size[1] * 3);
        Some(Variant { name, bytes, size, pixels })
    }
}

fn records() -> Records {
    let stored = || folder().join("image_files.bin");
    let packed = fs::read(env::var_os("IMAGE_FILES").map_or_else(stored, Into::into));
    let mut unpacked = Vec::new();
    let packed = packed.expect("a set of image files");
    ZlibDecoder::new(packed.as_slice()).read_to_end(&mut unpacked).expect("a zlib stream");
    Records(Cursor::new(unpacked))
}

/// The pixels at the image's own size, so that resizing does not change them.
fn decoded(variant: &Variant) -> Result<Pixels, ImageError> {
    let [width, height] = variant.size.map(|side| side.max(1));
    let size = TargetSize::Fixed { height, width };
    let spec = ImageSpec { size, ..ImageSpec::parse(b"{}", 1).expect("the defaults") };
    let prepare = || preprocess::prepare(&variant.bytes, &spec, &LIMITS, Decoding::Full);
    let prepared = panic::catch_unwind(AssertUnwindSafe(prepare));
    Ok(prepared.unwrap_or_else(|_| panic!("{} makes a decoder panic", variant.name))?.pixels)
}

/// The results for the files of a format.
#[derive(Default)]
struct Count {
    files: usize,
    equal: usize,
    refused_by_pillow: usize,
    /// Number of files that are refused here and not by Pillow, by reason.
    refused: BTreeMap<String, usize>,
}

#[test]
fn each_file_gives_pillows_pixels_or_a_reason() {
    let mut counts = BTreeMap::<String, Count>::new();
    let mut wrong = Vec::new();
    for variant in records() {
        let format = variant.name.rsplit('.').next().unwrap_or_default();
        let count = counts.entry(format.to_owned()).or_default();
        count.files += 1;
        let outcome = decoded(&variant);
        if variant.size[0] == 0 {
            count.refused_by_pillow += 1;
            // A file with half of the rows must be refused.
            if variant.name.contains("-half.") && outcome.is_ok() {
                wrong.push(format!("{}: answered without all of its rows", variant.name));
            }
            continue;
        }
        match outcome {
            Err(error) => *count.refused.entry(error.to_string()).or_default() += 1,
            Ok(pixels) => {
                let pairs = pixels.data.iter().zip(&variant.pixels);
                let most = pairs.map(|(value, expected)| value.abs_diff(*expected)).max();
                if pixels.data.len() == variant.pixels.len() && most <= Some(LEVELS) {
                    count.equal += 1;
                } else {
                    wrong.push(format!("{}: {most:?} levels", variant.name));
                }
            }
        }
    }
    for (format, count) in &counts {
        let refused: usize = count.refused.values().sum();
        println!(
            "{format}: {} files, {} equal, {refused} refused, {} refused by Pillow",
            count.files, count.equal, count.refused_by_pillow
        );
        for (reason, times) in &count.refused {
            println!("    {times}: {reason}");
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(counts.values().all(|count| count.equal * 2 > count.files), "most are answered");
}
