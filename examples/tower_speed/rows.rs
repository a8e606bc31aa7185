//! Inputs of a tower that are made up by a rule, and its rows as NumPy has them.
//!
//! Any other program can follow the rule, so that its embeddings can be compared: value `i` of all that is fed in,
//! counted over the rows, comes from `h = i * 2654435761 mod 2^32`. An image's byte is `h >> 24`; a text's id is
//! `1 + (h >> 8) % 1000`, which every vocabulary has.

use std::{fs, io::Write as _, path::Path};

use siglip_server::{
    embedding::Embedding,
    preprocess::{ImageSpec, Pixels, TargetSize},
    tokenize::Tokens,
};

/// Images of the size that the model reads.
pub(crate) fn pixels(spec: &ImageSpec, count: usize) -> Vec<Pixels> {
    let (height, width) = size(spec);
    let bytes = height as usize * width as usize * 3;
    let row = |row: usize| {
        let data = (row * bytes..(row + 1) * bytes).map(|at| (hash(at) >> 24) as u8).collect();
        Pixels { height, width, data }
    };
    (0..count).map(row).collect()
}

/// Height and width of the images that the model reads; of one of variable resolution, of a square as large as come.
fn size(spec: &ImageSpec) -> (u32, u32) {
    match spec.size {
        TargetSize::Fixed { height, width } | TargetSize::Crop { height, width, .. } => {
            (height, width)
        }
        TargetSize::Patches { patch_size, max_num_patches } => {
            let side = max_num_patches.isqrt() * patch_size;
            (side, side)
        }
    }
}

/// Texts of as many ids as the model reads.
pub(crate) fn tokens(length: usize, count: usize) -> Vec<Tokens> {
    let row = |row: usize| {
        let ids = (row * length..(row + 1) * length).map(|at| 1 + (hash(at) >> 8) % 1000).collect();
        Tokens { ids, used: length, truncated: false }
    };
    (0..count).map(row).collect()
}

fn hash(index: usize) -> u32 {
    (index as u32).wrapping_mul(2_654_435_761)
}

/// Writes rows as an array `[rows, embedding_dim]` of f32, unnormalised.
pub(crate) fn write_npy(path: &Path, rows: &[Embedding]) -> anyhow::Result<()> {
    let dim = rows.first().map_or(0, |row| row.as_slice().len());
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {dim}), }}", rows.len());
    // The values begin at a multiple of 64 bytes, behind a magic of 10 and a line break.
    while !(10 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut file = std::io::BufWriter::new(fs::File::create(path)?);
    file.write_all(b"\x93NUMPY\x01\x00")?;
    file.write_all(&(header.len() as u16).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for value in rows.iter().flat_map(|row| row.as_slice()) {
        file.write_all(&value.to_le_bytes())?;
    }
    Ok(file.flush()?)
}
