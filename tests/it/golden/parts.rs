//! A model that is described without its towers, and towers that are loaded one at a time, give the same
//! results bit for bit as the whole model.

use std::{fs, path::PathBuf, sync::Arc};

use siglip_server::{
    config,
    embedding::Embedding,
    model::{
        self, BeginRow, Loaded, MatchRow, MemorySlot, ModelCard, Part, PartLoaded, Reader,
        ReaderInfo, ReaderRow, Tap, Tower as _, VisionTower,
    },
    preprocess::Pixels,
    tokenize::{TextTokenizer, Tokens},
};

use super::reference::folder;

/// Every small checkpoint.
fn checkpoints() -> Vec<PathBuf> {
    let folders =
        fs::read_dir(folder()).expect("the folder").map(|entry| entry.expect("one").path());
    let is_checkpoint = |path: &PathBuf| {
        ["config.json", "open_clip_config.json"].iter().any(|file| path.join(file).is_file())
    };
    let mut found: Vec<_> = folders.filter(is_checkpoint).collect();
    found.sort();
    found
}

/// Two images of the size that the model reads.
fn images(whole: &Loaded) -> Vec<Pixels> {
    let [height, width] = whole.image.size.of(640, 480);
    let image = |seed: usize| {
        let values = (0..height as usize * width as usize * 3).map(|at| (at * seed / 7) as u8);
        Pixels { height, width, data: values.collect() }
    };
    vec![image(3), image(11)]
}

fn texts(tokenizer: Option<&Arc<TextTokenizer>>) -> Vec<Tokens> {
    let encode = |text| tokenizer.map(|tokenizer| tokenizer.encode(text).expect("a text"));
    ["a cat", "b"].into_iter().filter_map(encode).collect()
}

fn states(vision: &mut VisionTower, images: &[Pixels]) -> Embedding {
    let taps = vec![Tap::LastHiddenState; images.len()];
    vision.tapped(images, &taps).expect("states").remove(0)
}

/// The output of a reader for an image's states.
fn read(reader: &mut Reader, card: &ModelCard, image: Embedding, texts: Vec<Tokens>) -> Embedding {
    let row = match card.reader.expect("a reader") {
        ReaderInfo::Matching { .. } => ReaderRow::Match(MatchRow { image, texts: texts.into() }),
        ReaderInfo::Captions { start, .. } => {
            let (ids, memory) = (Arc::from([start]), MemorySlot::default());
            ReaderRow::Begin(BeginRow { image, ids, memory })
        }
    };
    reader.forward(&[row]).expect("one row").remove(0)
}

/// The description of a model without loading a tower.
fn described(card: &ModelCard) -> ModelCard {
    ModelCard {
        parameters: 0,
        weight_bytes: 0,
        agreement: None,
        matmul_precision: None,
        ..card.clone()
    }
}

fn bits(rows: &[Embedding]) -> Vec<Vec<u32>> {
    rows.iter().map(|row| row.as_slice().iter().map(|value| value.to_bits()).collect()).collect()
}

fn check(source: String, dtype: config::DType) {
    let what = format!("{source} {dtype}");
    let config = config::Model {
        source,
        dtype,
        min_agreement: Some(config::Agreement::UNCHECKED),
        ..config::Model::default()
    };
    let mut whole = model::load(&config).unwrap_or_else(|error| panic!("{what}: {error}"));
    let told = model::describe(&config).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(
        format!("{:?}", described(&told.card)),
        format!("{:?}", described(&whole.card)),
        "{what}"
    );
    assert_eq!(told.reads_texts, whole.text.is_some() || whole.reader.is_some(), "{what}");
    assert_eq!(told.tokenizer.is_some(), whole.tokenizer.is_some(), "{what}");
    assert_eq!(told.writer.is_some(), whole.writer.is_some(), "{what}");
    assert_eq!(told.image, whole.image, "{what}");
    assert_eq!(whole.tower_bytes.iter().sum::<u64>(), whole.card.weight_bytes, "{what}");
    let (estimate, bytes) = (told.card.weight_bytes, whole.card.weight_bytes);
    assert!(estimate >= bytes, "{what}: {estimate} is not enough for {bytes}");

    let load =
        |part| model::load_part(&config, part).unwrap_or_else(|error| panic!("{what}: {error}"));
    let PartLoaded { vision, text, reader, revision, tower_bytes } = load(Part::Vision);
    assert!(text.is_none() && reader.is_none(), "{what}");
    assert_eq!((&revision, tower_bytes[1]), (&whole.card.revision, 0), "{what}");
    assert_eq!(tower_bytes[0], whole.tower_bytes[0], "{what}");
    let (mut vision, images) = (vision.expect("asked for"), images(&whole));
    let expected = whole.vision.forward(&images).expect("images");
    assert_eq!(bits(&vision.forward(&images).expect("images")), bits(&expected), "{what}");
    if !told.reads_texts {
        return;
    }
    let PartLoaded { vision: none, text, reader, tower_bytes, .. } = load(Part::Text);
    assert!(none.is_none() && tower_bytes[0] == 0, "{what}");
    assert!(tower_bytes[1] >= whole.tower_bytes[1], "{what}: what is shared is there twice");
    let texts = texts(whole.tokenizer.as_ref());
    assert_eq!(text.is_some(), whole.text.is_some(), "{what}");
    if let (Some(mut text), Some(own)) = (text, &mut whole.text) {
        let expected = own.forward(&texts).expect("texts");
        assert_eq!(bits(&text.forward(&texts).expect("texts")), bits(&expected), "{what}");
    }
    assert_eq!(reader.is_some(), whole.reader.is_some(), "{what}");
    if let (Some(mut reader), Some(own)) = (reader, &mut whole.reader) {
        let image = states(&mut whole.vision, &images);
        let expected = read(own, &whole.card, image.clone(), texts.clone());
        let found = read(&mut reader, &whole.card, image, texts);
        assert_eq!(bits(&[found]), bits(&[expected]), "{what}");
    }
}

#[test]
fn towers_that_are_loaded_alone_are_those_of_the_whole() {
    let found = checkpoints();
    assert!(found.len() > 25, "{found:?}");
    for path in found {
        check(path.display().to_string(), config::DType::F32);
    }
    for dtype in [config::DType::F32, config::DType::Bf16, config::DType::Int8] {
        check("demo".to_owned(), dtype);
    }
}

#[test]
fn the_size_of_a_model_is_known_before_it_is_loaded() {
    for dtype in [config::DType::F32, config::DType::Bf16] {
        let config = config::Model { dtype, ..config::Model::default() };
        let (told, whole) =
            (model::describe(&config).expect("the demo"), model::load(&config).expect("the demo"));
        let (estimate, bytes) = (told.card.weight_bytes, whole.card.weight_bytes);
        assert!(estimate >= bytes && estimate < bytes * 2, "{dtype}: {estimate} {bytes}");
        assert_eq!(told.card.parameters, whole.card.parameters);
    }
}
