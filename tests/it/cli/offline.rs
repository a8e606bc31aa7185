//! `embed` and `score` on files, of which some cannot be read.

use std::{fs, path::PathBuf, process::Output};

use serde_json::Value;

use crate::process::{run, stderr, stdout};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images").join(name)
}

fn text(path: &std::path::Path) -> String {
    path.to_str().expect("utf-8").to_owned()
}

/// The lines of the output, as JSON.
fn lines(output: &Output) -> Vec<Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// A folder with 70 files, copies of an image except for three, and a missing file.
struct Files {
    _folder: tempfile::TempDir,
    paths: Vec<String>,
    bad: [(usize, &'static str); 4],
}

fn files() -> Files {
    let folder = tempfile::tempdir().expect("a folder");
    let bad = [
        (3, "undecodable_image"),
        (20, "invalid_request"),
        (65, "undecodable_image"),
        (69, "image_too_large"),
    ];
    let paths = (0..70).map(|index| {
        let path = folder.path().join(format!("{index:02}.png"));
        match index {
            3 => fs::write(&path, "hello").expect("writes"),
            20 => {}
            65 => fs::write(&path, "").expect("writes"),
            69 => fs::write(&path, vec![0; 3_000_000]).expect("writes"),
            _ => drop(fs::copy(fixture("car.png"), &path).expect("copies")),
        }
        text(&path)
    });
    Files { paths: paths.collect(), _folder: folder, bad }
}

const LIMITS: [&str; 2] = ["--limits-max-image-bytes", "1MiB"];

#[test]
fn a_bad_file_keeps_no_other_from_its_row() {
    let Files { _folder, paths, bad } = files();
    let names: Vec<_> = paths.iter().map(String::as_str).collect();
    let output = run(&[&["embed"], &names[..], &["--text", "a cat"], &LIMITS].concat());
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let (lines, log) = (lines(&output), stderr(&output));
    assert_eq!(lines.len(), 71);
    for (index, (line, path)) in lines.iter().zip(&paths).enumerate() {
        assert_eq!(line["image"], **path);
        match bad.iter().find(|(bad, _)| *bad == index) {
            Some((_, code)) => {
                assert!(line.get("embedding").is_none(), "{line}");
                assert_eq!(line["error"]["code"], *code, "{line}");
                let detail = line["error"]["detail"].as_str().expect("a text");
                assert!(log.contains(&format!("siglip-server: {path}: {detail}\n")), "{log}");
                assert!(!detail.contains("input["), "{detail}");
            }
            None => assert_eq!(line["embedding"], lines[0]["embedding"], "{path}"),
        }
    }
    assert_eq!(lines[70]["text"], "a cat");
    assert!(log.ends_with("siglip-server: 4 of 71 rows failed\n"), "{log}");
    // The vector is the same as for the image alone.
    let alone = run(&["embed", &text(&fixture("car.png"))]);
    assert_eq!(alone.status.code(), Some(0), "{}", stderr(&alone));
    let alone: Value = serde_json::from_str(&stdout(&alone)).expect("one line");
    assert_eq!(alone["embedding"], lines[0]["embedding"]);
}

#[test]
fn images_are_scored_beside_one_that_cannot_be() {
    let (car, pizza) = (text(&fixture("car.png")), text(&fixture("pizza.webp")));
    let texts = ["--text", "a pizza", "--text", "a car"];
    let output = run(&[&["score", &car, "/nowhere/at/all.png", &pizza], &texts[..]].concat());
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let log = stderr(&output);
    assert!(
        log.contains("siglip-server: /nowhere/at/all.png: the file cannot be read: No such"),
        "{log}"
    );
    assert!(log.ends_with("siglip-server: 1 of 3 rows failed\n"), "{log}");
    let lines = lines(&output);
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[1]["error"]["code"], "invalid_request");
    let score =
        |line: &Value, text: usize| line["scores"][text]["probability"].as_f64().expect("a number");
    assert_eq!(lines[0]["scores"][1]["text"], "a car");
    assert!(score(&lines[0], 1) > 0.9 && score(&lines[0], 0) < 0.1, "{}", lines[0]);
    assert!(score(&lines[2], 0) > 0.9 && score(&lines[2], 1) < 0.1, "{}", lines[2]);

    // A missing column would be missing in every line.
    let long = "x".repeat(100);
    let limit = ["--text", &long, "--limits-max-text-bytes", "50"];
    let output = run(&[&["score", &car, "--text", "a car"], &limit[..]].concat());
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), ""));
    let expected = format!("the text \"{}...\": the text has 100 bytes", "x".repeat(60));
    assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
}

#[test]
fn nobody_waits_so_there_is_no_deadline() {
    let car = text(&fixture("car.png"));
    for command in [&["embed", &*car, "--text", "a car"][..], &["score", &*car, "--text", "a car"]]
    {
        let output = run(&[command, &["--limits-request-timeout", "1ms"]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
}

#[test]
fn images_that_find_no_room_together_are_embedded_one_by_one() {
    let car = text(&fixture("car.png"));
    let pixels = image::image_dimensions(&car).map(|(width, height)| (width * height).to_string());
    let pixels = pixels.expect("an image");
    let limits = ["--limits-max-image-pixels", &pixels, "--limits-max-pixels-in-flight", &pixels];
    let others = ["cat.png", "pizza.webp"].map(|name| text(&fixture(name)));
    let output = run(&[&["embed", &car, &others[0], &others[1]], &limits[..]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(lines(&output).len(), 3);
}

#[test]
fn what_would_fail_every_row_fails_at_once() {
    let car = text(&fixture("car.png"));
    let output = run(&["embed", &car, "--dimensions", "0"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), ""));
    assert!(stderr(&output).contains("dimensions: 0 is out of range"), "{}", stderr(&output));
}
