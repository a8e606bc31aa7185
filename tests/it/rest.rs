//! The REST API over real HTTP.

mod access;
mod as_sent;
mod bad_input;
mod bulk;
mod classify;
mod compat;
mod contract;
mod embeddings;
mod errors;
mod fetch;
mod operations;
mod outputs;
mod overload;
mod similarity;
mod unreadable;

use std::io::Cursor;

use image::{ImageFormat, Rgb, RgbImage};
use serde_json::Value;

/// An image of one colour as PNG.
fn png(colour: [u8; 3]) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(9, 7, Rgb(colour))
        .write_to(&mut bytes, ImageFormat::Png)
        .expect("PNG is written to memory");
    bytes.into_inner()
}

const RED: [u8; 3] = [255, 0, 0];
const GREEN: [u8; 3] = [0, 255, 0];
const BLUE: [u8; 3] = [0, 0, 255];

fn base64(bytes: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string(bytes)
}

/// An image of one colour as a data URI.
pub(crate) fn data_uri(colour: [u8; 3]) -> String {
    format!("data:image/png;base64,{}", base64(&png(colour)))
}

/// A row of numbers.
fn floats(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).expect("an array of numbers")
}

/// Rows of numbers.
fn rows(value: &Value) -> Vec<Vec<f32>> {
    serde_json::from_value(value.clone()).expect("an array of arrays of numbers")
}

/// Little-endian f32 in base64.
fn encoded(row: &[f32]) -> String {
    base64(&row.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Checks that two rows are equal except for rounding.
fn assert_close(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() < 1e-5, "{a} is not {b}");
    }
}
