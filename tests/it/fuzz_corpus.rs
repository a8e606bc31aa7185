//! Feeds the corpus of `fuzz/` to the fuzzing entry points, so that faults that were found stay fixed. Then
//! feeds the same files with a fixed sequence of changes, as a short smoke test.
#![cfg(fuzzing)]

use std::{fs, path::Path};

use siglip_server::fuzz;

/// Maximum length of a changed input.
const MAX_BYTES: usize = 64 << 10;
/// Numbers that often cause errors as lengths and counts.
const EDGES: [u64; 8] = [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff];

/// Random numbers with a fixed seed, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }

    /// Two positions in an input, in order.
    fn range(&mut self, bytes: &[u8]) -> (usize, usize) {
        let (a, b) = (self.below(bytes.len() + 1), self.below(bytes.len() + 1));
        (a.min(b), a.max(b).min(a.min(b) + 256))
    }

    /// Changes an input as a fuzzer does, with parts of another one.
    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len());
        let (from, to) = self.range(bytes);
        match self.below(8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
            1 if !bytes.is_empty() => bytes[at] = self.below(256) as u8,
            2 => drop(bytes.drain(from..to)),
            3 => {
                let copy = bytes[from..to].to_vec();
                bytes.splice(at..at, copy);
            }
            4 => {
                let width = 1 << self.below(4);
                let edge = EDGES[self.below(EDGES.len())].to_le_bytes();
                let end = (at + width).min(bytes.len());
                bytes.splice(at..end, edge[..width].iter().copied());
            }
            5 => {
                let (from, to) = self.range(other);
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            6 => {
                bytes.truncate(at);
                bytes.extend(&other[self.below(other.len())..]);
            }
            _ => bytes.truncate(bytes.len() - self.below(bytes.len() / 4 + 1)),
        }
        bytes.truncate(MAX_BYTES);
    }
}

/// Feeds every file of a target's corpus, then `changed` modified inputs.
fn replay(target: &str, function: fn(&[u8]), changed: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<_> = fs::read_dir(folder)
        .expect("a corpus")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    // Independent of the order on disk.
    paths.sort();
    assert!(paths.len() > 3, "{target} has {} files", paths.len());
    let mut files = Vec::new();
    for path in paths {
        // Shown where a test fails.
        println!("{}", path.display());
        files.push(fs::read(path).expect("a file"));
        function(&files[files.len() - 1]);
    }
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    for round in 0..changed {
        let mut bytes = files[dice.below(files.len())].clone();
        bytes.truncate(MAX_BYTES);
        for _ in 0..=dice.below(4) {
            let other = dice.below(files.len());
            dice.change(&mut bytes, &files[other]);
        }
        println!("round {round}: {} bytes", bytes.len());
        function(&bytes);
    }
}

#[test]
fn image() {
    replay("image", fuzz::image, 3000);
}

#[test]
fn avif() {
    // Unchanged: a modified file could end the test process.
    replay("avif", fuzz::avif, 0);
}

#[test]
fn json() {
    replay("json", fuzz::json, 5000);
}

#[test]
fn inference() {
    replay("inference", fuzz::inference, 5000);
}

#[test]
fn multipart() {
    replay("multipart", fuzz::multipart, 5000);
}

#[test]
fn bulk() {
    replay("bulk", fuzz::bulk, 5000);
}

#[test]
fn text() {
    replay("text", fuzz::text, 1000);
}

#[test]
fn url() {
    replay("url", fuzz::url, 5000);
}

#[test]
fn checkpoint() {
    replay("checkpoint", fuzz::checkpoint, 200);
    let folder = std::env::temp_dir().join(format!("siglip-fuzz-{}", std::process::id()));
    fs::remove_dir_all(folder).expect("its folder");
}

#[test]
fn every_target_is_replayed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let here = fs::read_to_string(root.join("tests/it/fuzz_corpus.rs")).expect("this file");
    for entry in fs::read_dir(root.join("fuzz/fuzz_targets")).expect("targets") {
        let name = entry.expect("an entry").path();
        let name = name.file_stem().and_then(|stem| stem.to_str()).expect("utf-8").to_owned();
        assert!(here.contains(&format!("replay(\"{name}\", fuzz::{name}, ")), "{name}");
        assert!(root.join("fuzz/corpus").join(&name).is_dir(), "{name} has no corpus");
    }
}
