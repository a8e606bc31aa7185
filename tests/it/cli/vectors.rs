//! `embed --out` and `search`: files of vectors.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::process::{command, run, stderr, stdout};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images").join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}

/// A folder with a few images in subfolders, and a file that is not an image.
fn photos() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(folder.path().join("photos/animals")).expect("made");
    for (from, to) in
        [("car.png", "car.png"), ("pizza.webp", "pizza.webp"), ("cat.png", "animals/cat.png")]
    {
        fs::copy(fixture(from), folder.path().join("photos").join(to)).expect("copied");
    }
    fs::write(folder.path().join("photos/broken.jpg"), "no image").expect("written");
    folder
}

fn vectors(npy: &[u8]) -> Vec<f32> {
    let head = usize::from(u16::from_le_bytes([npy[8], npy[9]])) + 10;
    npy[head..].as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

#[test]
fn a_file_of_vectors_has_ids_a_stamp_and_a_list_of_what_failed() {
    let folder = photos();
    let (photos, out) = (folder.path().join("photos"), folder.path().join("v.npy"));
    let output = run(&["embed", text(&photos), "--text", "a cat", "--out", text(&out)]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert_eq!(stdout(&output), "");
    let ids = fs::read_to_string(folder.path().join("v.ids.txt")).expect("there");
    let expected = ["animals/cat.png", "car.png", "pizza.webp"].map(|it| photos.join(it));
    let expected: Vec<_> = expected.iter().map(|it| text(it)).chain(["a cat"]).collect();
    assert_eq!(ids.lines().collect::<Vec<_>>(), expected);
    let errors = fs::read_to_string(folder.path().join("v.npy.errors.ndjson")).expect("there");
    let error: Value = serde_json::from_str(&errors).expect("one line");
    assert_eq!(
        (&error["id"], &error["error"]["code"]),
        (&text(&photos.join("broken.jpg")).into(), &"undecodable_image".into())
    );
    let stamp = fs::read_to_string(folder.path().join("v.npy.json")).expect("there");
    let stamp: Value = serde_json::from_str(&stamp).expect("JSON");
    assert_eq!((&stamp["model"], &stamp["dimensions"]), (&"demo".into(), &192.into()));
    assert!(stamp["revision"].is_string() && stamp["preprocessing_version"].is_string());
    assert!(!folder.path().join("v.npy.part").exists());

    let npy = fs::read(&out).expect("there");
    let head = String::from_utf8_lossy(&npy[..128]).into_owned();
    assert!(head.contains("'shape': (4, 192)"), "{head}");
    let alone = run(&["embed", text(&fixture("car.png"))]);
    let alone: Value = serde_json::from_str(&stdout(&alone)).expect("one line");
    let car = &vectors(&npy)[192..384];
    for (ours, theirs) in car.iter().zip(alone["embedding"].as_array().expect("a row")) {
        assert!((f64::from(*ours) - theirs.as_f64().expect("a number")).abs() < 1e-6);
    }
    // A finished file is not overwritten.
    let again = run(&["embed", text(&photos), "--out", text(&out)]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("exists already"), "{}", stderr(&again));

    let found = run(&["search", text(&out), "a pizza", "--json", "--top-k", "2"]);
    assert_eq!(found.status.code(), Some(0), "{}", stderr(&found));
    let first: Value =
        serde_json::from_str(stdout(&found).lines().next().expect("a line")).expect("JSON");
    assert_eq!(first["id"], text(&photos.join("pizza.webp")));
    assert!(first["probability"].as_f64().expect("a number") > 0.5, "{first}");
    let page = folder.path().join("found.html");
    let by_image = run(&["search", text(&out), text(&fixture("car.png")), "--html", text(&page)]);
    assert_eq!(by_image.status.code(), Some(0), "{}", stderr(&by_image));
    let table = stdout(&by_image);
    assert!(
        table.lines().nth(1).is_some_and(|row| row.contains("1.0000") && row.ends_with("car.png")),
        "{table}"
    );
    assert!(fs::read_to_string(page).expect("there").contains("car.png\" alt="));
}

#[test]
fn an_interrupted_run_is_resumed_with_every_row_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let list = folder.path().join("words.txt");
    let lines: String =
        (0..2000).map(|number| format!("a text with the number {number}\n")).collect();
    fs::write(&list, lines).expect("written");
    let out = folder.path().join("v.safetensors");
    let part = folder.path().join("v.safetensors.part");
    let arguments = ["embed", text(&list), "--out", text(&out)];
    let mut child = command(&arguments).spawn().expect("starts");
    // It is killed once some rows are on disk.
    let begun = Instant::now();
    let rows =
        || fs::read(&part).map_or(0, |bytes| bytes.iter().filter(|&&it| it == b'\n').count());
    while rows() < 200 && begun.elapsed() < Duration::from_secs(100) {
        assert!(child.try_wait().expect("asked").is_none(), "it ended before it could be killed");
        std::thread::yield_now();
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
    let before = rows();
    assert!(before >= 200 && !out.exists(), "{before}");

    let output = run(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("rows are done already") && said.contains("2000 vectors in"), "{said}");
    let ids = fs::read_to_string(folder.path().join("v.ids.txt")).expect("there");
    let expected: Vec<_> = (1..=2000).map(|line| format!("{}:{line}", text(&list))).collect();
    assert_eq!(ids.lines().collect::<Vec<_>>(), expected);
    let bytes = fs::read(&out).expect("there");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensor = tensors.tensor("embeddings").expect("there");
    assert_eq!(tensor.shape(), [2000, 192]);
    // The last row is that of its text.
    let alone = run(&["embed", "--text", "a text with the number 1999"]);
    let alone: Value = serde_json::from_str(&stdout(&alone)).expect("one line");
    let last = tensor.data()[1999 * 192 * 4..].as_chunks::<4>().0;
    for (&ours, theirs) in last.iter().zip(alone["embedding"].as_array().expect("a row")) {
        let ours = f64::from(f32::from_le_bytes(ours));
        assert!((ours - theirs.as_f64().expect("a number")).abs() < 1e-5);
    }
}

#[cfg(feature = "parquet")]
#[test]
fn a_parquet_file_is_written_and_searched() {
    let folder = photos();
    let (photos, out) = (folder.path().join("photos"), folder.path().join("v.parquet"));
    let output = run(&["embed", text(&photos), "--out", text(&out), "--dimensions", "64"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(!folder.path().join("v.ids.txt").exists() && !beside(&out, ".part").exists());
    let found = run(&["search", text(&out), "a pizza", "--json", "--top-k", "1"]);
    assert_eq!(found.status.code(), Some(0), "{}", stderr(&found));
    let first: Value = serde_json::from_str(&stdout(&found)).expect("JSON");
    assert_eq!(first["id"], text(&photos.join("pizza.webp")));

    // Its columns are no images and no texts that could be embedded.
    let again = run(&["embed", text(&out)]);
    assert_eq!(again.status.code(), Some(1));
    let said = stderr(&again);
    assert!(said.contains("its columns are `id` (text), `embedding` (lists of floats)"), "{said}");
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    PathBuf::from(format!("{}{ending}", text(path)))
}
