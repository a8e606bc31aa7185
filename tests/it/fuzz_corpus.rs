//! The corpus of `fuzz/`, read by the functions that fuzzing calls: what it found once stays fixed.
#![cfg(debug_assertions)]

use std::{fs, path::Path};

use siglip_server::fuzz;

/// Feeds every file of a target's corpus.
fn replay(target: &str, function: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files = 0;
    for entry in fs::read_dir(folder).expect("a corpus") {
        let path = entry.expect("an entry").path();
        // Shown where a test fails.
        println!("{}", path.display());
        function(&fs::read(path).expect("a file"));
        files += 1;
    }
    assert!(files > 3, "{target} has {files} files");
}

#[test]
fn image() {
    replay("image", fuzz::image);
}

#[test]
fn json() {
    replay("json", fuzz::json);
}

#[test]
fn inference() {
    replay("inference", fuzz::inference);
}

#[test]
fn multipart() {
    replay("multipart", fuzz::multipart);
}

#[test]
fn bulk() {
    replay("bulk", fuzz::bulk);
}

#[test]
fn text() {
    replay("text", fuzz::text);
}

#[test]
fn url() {
    replay("url", fuzz::url);
}

#[test]
fn checkpoint() {
    replay("checkpoint", fuzz::checkpoint);
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
        assert!(here.contains(&format!("replay(\"{name}\", fuzz::{name})")), "{name}");
        assert!(root.join("fuzz/corpus").join(&name).is_dir(), "{name} has no corpus");
    }
}
