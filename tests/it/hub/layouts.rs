//! Repositories with transformers' files and open_clip's: the vectors from the hub and from a folder are the
//! same.

use std::{
    fs,
    path::{Path, PathBuf},
};

use siglip_server::{
    config,
    hub::HubError,
    model::{self, LoadError},
    preprocess::Pixels,
};

use super::{
    Setup, get,
    stand_in::{COMMITS, File},
};

/// Files of a repository: their names and contents.
type Files = Vec<(String, Vec<u8>)>;

/// Transformers' own checkpoint, and the same in two files of weights.
const OWN: &str = "tiny";
const SHARDED: &str = "giant-like";
/// open_clip's, in transformers' wrapper.
const OPEN_CLIP: &str = "open-clip-erf";

fn golden(variant: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(variant)
}

/// A variant's files without the reference outputs.
fn files(variant: &str) -> Files {
    let entries = fs::read_dir(golden(variant)).expect("the variant");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let named = paths.map(|path| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, fs::read(path).expect("readable"))
    });
    named
        .filter(|(name, _)| !["expected", "mistakes"].iter().any(|it| name.starts_with(it)))
        .collect()
}

/// A variant with open_clip's configuration and weights in addition to its own.
fn both(variant: &str) -> Files {
    let mut all = files(variant);
    for (name, bytes) in files(OPEN_CLIP) {
        match name.as_str() {
            "open_clip_config.json" => all.push((name, bytes)),
            "model.safetensors" => all.push(("open_clip_model.safetensors".to_owned(), bytes)),
            _ => {}
        }
    }
    all
}

fn without(files: &Files, names: &[&str]) -> Files {
    files.iter().filter(|(name, _)| !names.contains(&name.as_str())).cloned().collect()
}

/// The same with a configuration that refers to remote code.
fn wrapped(files: &Files) -> Files {
    let wrapper = fs::read(golden(OPEN_CLIP).join("config.json")).expect("readable");
    let mut files = without(files, &["config.json"]);
    files.push(("config.json".to_owned(), wrapper));
    files
}

fn write(folder: &Path, files: &Files) {
    fs::create_dir_all(folder).expect("a folder");
    for (name, bytes) in files {
        fs::write(folder.join(name), bytes).expect("writes");
    }
}

/// An image's vector and a text's.
fn vectors(folder: &Path) -> Result<[Vec<f32>; 2], LoadError> {
    let source = folder.to_string_lossy().into_owned();
    let model::Loaded { mut vision, text, tokenizer, image, .. } =
        model::load(&config::Model { source, ..config::Model::default() })?;
    let [height, width] = image.size.of(1000, 1000);
    let data: Vec<u8> = (0..height * width * 3).map(|at| (at * 37 % 251) as u8).collect();
    let pixels = Pixels { height, width, data: data.into() };
    let tokenizer = tokenizer.expect("goes with the text tower");
    // A text that the two layouts clean differently.
    let tokens = tokenizer.encode(&tokenizer.canonical("A_cat, 2 dogs!")).expect("any text");
    let images = vision.forward(&[pixels]).expect("a valid image");
    let texts = text.expect("both towers").forward(&[tokens]).expect("a valid text");
    Ok([images[0].as_slice().to_vec(), texts[0].as_slice().to_vec()])
}

/// Serves files from a fake hub, and returns the result of the download.
async fn from_hub(files: &Files) -> (Setup, Result<PathBuf, HubError>) {
    let setup = Setup::new().await;
    setup.hub.files(|served| {
        served.clear();
        for (name, bytes) in files.clone() {
            let large = name.ends_with("safetensors");
            served.push(if large { File::large(&name, bytes) } else { File::small(&name, bytes) });
        }
    });
    let got = setup.get().await.map(|snapshot| snapshot.folder);
    (setup, got)
}

fn from_folder(files: &Files) -> Result<[Vec<f32>; 2], LoadError> {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), files);
    vectors(folder.path())
}

#[tokio::test]
async fn a_repository_gives_the_same_vectors_from_the_hub_and_from_a_folder() {
    for (what, files, expected) in [
        ("transformers' own", both(OWN), OWN),
        ("transformers' own, in two files", both(SHARDED), SHARDED),
        ("a wrapper of open_clip", wrapped(&both(OWN)), OPEN_CLIP),
        ("open_clip alone", without(&both(OWN), &["config.json"]), OPEN_CLIP),
        ("open_clip with transformers' name", files(OPEN_CLIP), OPEN_CLIP),
    ] {
        let expected = vectors(&golden(expected)).expect("a variant");
        assert!(from_folder(&files).expect(what) == expected, "{what}, from a folder");
        let (setup, folder) = from_hub(&files).await;
        let folder = folder.expect(what);
        assert!(vectors(&folder).expect(what) == expected, "{what}, from the hub");
        // A pinned commit needs no request.
        setup.hub.take_seen();
        let again = get(&setup.with(|_| {}), Some(COMMITS[0])).await.expect("cached whole");
        assert_eq!((again.folder, setup.hub.take_seen().len()), (folder, 0), "{what}");
    }
}

#[tokio::test]
async fn weights_of_the_other_layout_are_refused_both_ways() {
    let files = without(&both(OWN), &["model.safetensors"]);
    let reason = "config.json is transformers', whose weights are model.safetensors or";
    let error = from_folder(&files).expect_err("not its weights").to_string();
    assert!(error.contains(reason), "{error}");
    let (_, got) = from_hub(&files).await;
    let error = got.expect_err("not its weights").to_string();
    assert!(error.contains(reason), "{error}");

    // A wrapper says that there is more.
    let files =
        without(&wrapped(&files), &["open_clip_config.json", "open_clip_model.safetensors"]);
    let config = br#"{"model_type": "siglip", "open_clip_model_name": "hf-hub:org/name"}"#;
    let mut files = without(&files, &["config.json"]);
    files.push(("config.json".to_owned(), config.to_vec()));
    let error = from_folder(&files).expect_err("half of it").to_string();
    assert!(error.contains("there is no open_clip_config.json"), "{error}");
}

#[tokio::test]
async fn a_cache_with_the_other_weights_is_completed_or_refused() {
    let files = both(OWN);
    let expected = vectors(&golden(OWN)).expect("a variant");
    let setup = Setup::new().await;
    // The cache as a program leaves it that reads only open_clip's files.
    let folder = setup.path("snapshots").join(COMMITS[0]);
    write(&folder, &without(&files, &["model.safetensors"]));
    fs::create_dir_all(setup.path("refs")).expect("a folder");
    fs::write(setup.path("refs/main"), COMMITS[0]).expect("writes");
    let absent = setup.path(".no_exist").join(COMMITS[0]);
    write(
        &absent,
        &["processor_config.json", "spiece.model", "special_tokens_map.json"]
            .map(|name| (name.to_owned(), Vec::new()))
            .to_vec(),
    );

    let offline = setup.with(|settings| settings.offline = true);
    let error = get(&offline, None).await.expect_err("not its weights").to_string();
    assert!(error.contains("is not in the cache") && error.contains("as a whole ("), "{error}");
    assert!(error.contains("whose weights are model.safetensors"), "{error}");
    assert!(vectors(&folder).is_err(), "nor as a folder");

    setup.hub.files(|served| {
        served.clear();
        for (name, bytes) in files {
            let large = name.ends_with("safetensors");
            served.push(if large { File::large(&name, bytes) } else { File::small(&name, bytes) });
        }
    });
    let snapshot = get(&setup.with(|_| {}), Some(COMMITS[0])).await.expect("completed");
    assert_eq!(snapshot.folder, folder);
    assert!(vectors(&folder).expect("whole") == expected);
    assert_eq!(get(&offline, None).await.expect("whole"), snapshot);
}
