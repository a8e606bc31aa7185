//! `--model` with folders of any name, and with files whose content does not match their name.

use std::{fs, path::Path};

use serde_json::Value;

use crate::process::{command, run, stderr, stdout};

/// Makes a copy of a small checkpoint.
fn copy(to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tiny");
    for entry in fs::read_dir(tiny).expect("the variant") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copies");
    }
}

#[test]
fn a_folder_that_exists_goes_first_whatever_its_path() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in [
        "org/name",
        "org/name@v1",
        "a=b",
        "a,b",
        "a,dtype=f64",
        "with space",
        " padded ",
        "a;b",
        "$HOME",
        "~",
    ] {
        copy(&folder.path().join(name));
        let embed = |model: &str| {
            let mut command = command(&["embed", "--text", "a cat", "--model", model]);
            command
                .current_dir(folder.path())
                .env("HF_HUB_OFFLINE", "1")
                .env("HF_HOME", "/nowhere");
            let output = command.output().expect("runs");
            assert_eq!(output.status.code(), Some(0), "{model}: {}", stderr(&output));
            stdout(&output)
        };
        let relative = embed(name);
        assert_eq!(embed(&folder.path().join(name).to_string_lossy()), relative, "{name}");
        assert_ne!(embed(&format!("x={name},dtype=bf16")), relative, "{name}");
    }
    // A folder has no revisions, so asking for one is a mistake.
    let mut command = command(&["embed", "--text", "a cat", "--model", "org/name@v2"]);
    let output = command.current_dir(folder.path()).output().expect("runs");
    assert_eq!(output.status.code(), Some(1));
    let expected = "there is a folder `org/name`, which goes first, and has no revision `v2`";
    assert!(stderr(&output).contains(expected), "{}", stderr(&output));
}

#[test]
fn a_file_that_is_something_else_is_named_for_what_it_is() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 178\n";
    let page = "<!DOCTYPE html>\n<html><body>Sign in</body></html>";
    let weights =
        fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tiny/model.safetensors"));
    let weights = weights.expect("the variant");
    let lfs = "this is a Git LFS pointer, not the file of 178 bytes that it stands for: fetch that with `git lfs pull`";
    let html = "this is an HTML page, not the file";
    let cut =
        format!("the file is cut short: it has {} of {} bytes", weights.len() - 5, weights.len());
    let short = format!("the file is cut short: it has 100 of {} bytes", {
        8 + u64::from_le_bytes(*weights.first_chunk().expect("a header"))
    });
    for (name, bytes, expected) in [
        ("model.safetensors", pointer.as_bytes(), lfs),
        ("model.safetensors", page.as_bytes(), html),
        ("model.safetensors", b"", "the file is empty"),
        ("model.safetensors", &weights[..weights.len() - 5], &cut),
        ("model.safetensors", &weights[..100], &short),
        ("model.safetensors", &weights[..4], "the file is cut short: it has 4 of 8 bytes"),
        ("model.safetensors", b"PK\x03\x04 archive/data.pkl", "this is a pickle"),
        ("tokenizer.json", pointer.as_bytes(), lfs),
        ("tokenizer.json", page.as_bytes(), html),
        ("tokenizer.json", b"", "the file is empty"),
        ("tokenizer.json", b"{\"version\": \"1.0\", \"model\": {", "the JSON is cut short"),
        ("config.json", pointer.as_bytes(), lfs),
        ("config.json", page.as_bytes(), html),
        ("config.json", b"{\"model_type\": \"sig", "the JSON is cut short"),
        ("config.json", b"Entry not found", "this is not JSON: it begins with \"Entry not found\""),
        ("preprocessor_config.json", pointer.as_bytes(), lfs),
        ("preprocessor_config.json", b"", "the file is empty"),
        (
            "preprocessor_config.json",
            br#"{"size": {"shortest_edge": 224}}"#,
            "`size` is {\"shortest_edge\":224}; a whole number, or an object with the whole numbers `height`",
        ),
        ("tokenizer_config.json", page.as_bytes(), html),
        ("spiece.model", pointer.as_bytes(), lfs),
        ("model.safetensors.index.json", pointer.as_bytes(), lfs),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        copy(folder.path());
        if name == "spiece.model" {
            // It is read if there is no other.
            fs::remove_file(folder.path().join("tokenizer.json")).expect("removes");
        }
        if name == "model.safetensors.index.json" {
            fs::remove_file(folder.path().join("model.safetensors")).expect("removes");
        }
        fs::write(folder.path().join(name), bytes).expect("writes");
        let source = folder.path().to_string_lossy().into_owned();
        let output = run(&["--listen", "127.0.0.1:0", "--model", &source]);
        assert_eq!(output.status.code(), Some(1), "{name}: {}", stderr(&output));
        let log = stderr(&output);
        assert!(log.contains(&format!("{name}: {expected}")), "{name}, {expected}: {log}");
    }
}

#[cfg(unix)]
#[test]
fn the_models_of_the_cache_are_listed_with_what_they_are_served_as() {
    let folder = tempfile::tempdir().expect("a folder");
    let hub = folder.path().join("hub");
    let models = |arguments: &[&str]| {
        let mut command = command(&[&["models"], arguments].concat());
        let output = command.env("HF_HOME", folder.path()).output().expect("runs");
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output).replace(&*folder.path().to_string_lossy(), "HOME")
    };
    assert_eq!(models(&[]), "no models in HOME/hub\n");

    let (whole, half, other) = ("a".repeat(40), "b".repeat(40), "c".repeat(40));
    let served = hub.join("models--org--name/snapshots");
    copy(&served.join(&whole));
    fs::create_dir_all(served.join(&half)).expect("a folder");
    fs::write(served.join(&half).join("config.json"), "{}").expect("written");
    fs::create_dir_all(hub.join("models--org--name/refs")).expect("a folder");
    fs::write(hub.join("models--org--name/refs/main"), &whole).expect("written");
    let strange = hub.join("models--org--strange/snapshots").join(&other);
    copy(&strange);
    fs::write(strange.join("config.json"), r#"{"model_type": "bert"}"#).expect("written");

    let lines: Vec<Value> =
        models(&["--json"]).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let told: Vec<_> =
        lines.iter().map(|it| (&it["model"], &it["revision"], &it["family"])).collect();
    let (name, family) = (Value::from("org/name"), Value::from("siglip"));
    let (a, b, c) = (Value::from(whole), Value::from(half), Value::from(other));
    let strange = Value::from("org/strange");
    let expected = [(&name, &a, &family), (&name, &b, &Value::Null), (&strange, &c, &Value::Null)];
    assert_eq!(told, expected);
    assert_eq!(lines[0]["names"], Value::from(vec!["main"]));
    assert!(lines[0]["bytes"].as_u64().is_some_and(|bytes| bytes > 1000), "{}", lines[0]);
    let reason = |line: usize| lines[line]["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason(1).contains("none of the files of weights"), "{}", reason(1));
    assert!(reason(2).starts_with("config.json: ") && reason(2).contains("bert"), "{}", reason(2));
    let table = models(&[]);
    let rows: Vec<_> = table.lines().collect();
    assert!(rows[1].contains("aaaaaaaaaaaa (main)") && rows[1].ends_with("  siglip"), "{table}");
    assert!(rows[3].contains("not served: config.json: "), "{table}");
    assert!(rows[4].ends_with(" in HOME/hub"), "{table}");
}
