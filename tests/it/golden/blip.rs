//! BLIP's towers, matching head and captions against transformers: `tests/golden/generate_blip.py`.

use siglip_server::{
    config,
    embedding::Embedding,
    model::{
        self, BeginRow, MatchRow, MemorySlot, ReaderInfo, ReaderRow, Resident, ResidentModel,
        Scorer, StepRow, Tap, Tower, TowerError,
    },
    tokenize::Tokens,
};

use super::{
    reference::{Judge, Reference, cosines, difference, folder, row},
    stages::flat,
};

type Reader = dyn Resident<Input = ReaderRow>;

fn open(name: &str) -> (ResidentModel, Reference) {
    Judge::strict().open(name)
}

fn check_vision(judge: &Judge, model: &mut ResidentModel, expected: &Reference) -> Vec<Embedding> {
    assert_eq!((&*model.card.family, model.card.leading_tokens), ("blip", 1));
    let pixels = expected.pixels();
    judge.stages(expected, "vision", &model.vision.stages(&pixels).expect("valid images"));
    let images = model.vision.forward(&pixels).expect("valid images");
    judge.close("image embeddings", &flat(&images), &expected.floats("vision.pooled").1);
    assert_eq!(images[0].dim(), model.card.embedding_dim);
    images
}

/// The states of each stored image.
fn states(model: &mut ResidentModel, expected: &Reference) -> Vec<Embedding> {
    let pixels = expected.pixels();
    let taps = vec![Tap::LastHiddenState; pixels.len()];
    model.vision.tapped(&pixels, &taps).expect("states")
}

fn retrieval(name: &str) {
    let judge = Judge::strict();
    let (mut model, expected) = open(name);
    let images = check_vision(&judge, &mut model, &expected);
    let tokenizer = model.tokenizer.clone().expect("goes with the tower");
    let encode = |text: &String| tokenizer.encode(&tokenizer.canonical(text)).expect("any text");
    let rows: Vec<_> = expected.list("texts").iter().map(encode).collect();
    for ((row, stored), padded) in rows.iter().zip(expected.tokens()).zip(expected.ids()) {
        assert_eq!(row.ids, stored.ids);
        assert_eq!(tokenizer.accept(&padded).expect("ids of a text").ids, row.ids);
    }
    let mut text = model.text.take().expect("both towers");
    let texts = text.forward(&rows).expect("valid texts");
    judge.close("text embeddings", &flat(&texts), &expected.floats("text.pooled").1);
    assert!(cosines(&images, &texts).iter().all(|cosine| cosine.is_finite()));

    let Some(ReaderInfo::Matching { start: Some(start) }) = model.card.reader else {
        panic!("no head")
    };
    assert_eq!(model.card.scorer, Some(Scorer::Matching));
    let images = states(&mut model, &expected);
    let mut reader = model.reader.expect("a matching head");
    for (prefix, first) in [("cls", None), ("enc", Some(start))] {
        let begun = |row: &Tokens| {
            let mut ids = row.ids.to_vec();
            ids[0] = first.unwrap_or(ids[0]);
            Tokens { ids: ids.into(), ..row.clone() }
        };
        let texts: Vec<_> = rows.iter().map(begun).collect();
        let matches = images.iter().map(|image| {
            ReaderRow::Match(MatchRow { image: image.clone(), texts: texts.clone().into() })
        });
        let matches: Vec<_> = matches.collect();
        let logits = reader.forward(&matches).expect("valid pairs");
        judge.close("matching", &flat(&logits), &expected.floats(&format!("{prefix}.logits")).1);
        let mut probabilities = flat(&logits);
        Scorer::Matching.probabilities(&mut probabilities);
        let stored = expected.floats(&format!("{prefix}.probabilities")).1;
        judge.close("probabilities", &probabilities, &stored);
        // A pair alone has the same result as among others.
        let alone = MatchRow { image: images[1].clone(), texts: texts[2..3].into() };
        let alone = reader.forward(&[ReaderRow::Match(alone)]).expect("a valid pair");
        assert!(difference(alone[0].as_slice(), &logits[1].as_slice()[2..3]) <= 1e-5);
    }
    // The first token must change the result, otherwise a test of it would prove nothing.
    let (cls, enc) = (expected.floats("cls.logits").1, expected.floats("enc.logits").1);
    assert!(difference(&cls, &enc) > 1e-3);
}

#[test]
fn blip_retrieval() {
    retrieval("blip-retrieval");
}

#[test]
fn blip_retrieval_head_dim_12_truncating_patches_f16() {
    retrieval("blip-retrieval-odd");
}

/// The most likely token, of equal ones the first.
fn likeliest(logits: &Embedding) -> u32 {
    let values = logits.as_slice();
    let best = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    values.iter().position(|&value| value == best).expect("finite logits") as u32
}

/// A caption by the likeliest token at each step.
fn caption(
    reader: &mut Reader,
    (image, ids): (&Embedding, &[u32]),
    end: u32,
    count: usize,
) -> Vec<u32> {
    let mut ids = ids.to_vec();
    let mut slot = MemorySlot::default();
    let memory = slot.clone();
    let begin = BeginRow { image: image.clone(), ids: ids.as_slice().into(), memory };
    let mut logits = reader.forward(&[ReaderRow::Begin(begin)]).expect("a caption");
    for written in 1..=count {
        let id = likeliest(&logits[0]);
        ids.push(id);
        if id == end || written == count {
            break;
        }
        let before = slot.take().expect("the decoder's memory");
        slot = MemorySlot::default();
        let step = ReaderRow::Step(StepRow { before, id, memory: slot.clone() });
        // Run twice: the state after a row is the same.
        reader.forward(std::slice::from_ref(&step)).expect("a step");
        logits = reader.forward(&[step]).expect("a step");
    }
    ids
}

fn captions(name: &str) {
    let judge = Judge::strict();
    let (mut model, expected) = open(name);
    check_vision(&judge, &mut model, &expected);
    assert!(model.text.is_none() && model.tokenizer.is_none() && model.card.scorer.is_none());
    let images = states(&mut model, &expected);
    let writer = model.writer.expect("a captioning model");
    let mut reader = model.reader.expect("a decoder");
    let mut ended = 0;
    for stored in expected.list("texts") {
        let stored: serde_json::Value = serde_json::from_str(&stored).expect("JSON");
        if stored.get("num_beams").is_some() {
            // Searches are the engine's, which is asked over HTTP.
            continue;
        }
        let number = |key: &str| stored[key].as_u64().expect("a number") as usize;
        let mut ids = match stored["prompt"].as_str() {
            Some(prompt) => {
                let mut ids = writer.tokenizer.encode(prompt).expect("a text").ids.to_vec();
                ids.pop();
                ids
            }
            None => vec![0],
        };
        ids[0] = writer.start;
        let image = &images[number("image")];
        let count = number("max_new_tokens");
        let written = caption(&mut *reader, (image, &ids), writer.end, count);
        let expected: Vec<u32> = serde_json::from_value(stored["ids"].clone()).expect("ids");
        assert_eq!(written, expected, "{stored}");
        ended += usize::from(written.last() == Some(&writer.end));
        assert_eq!(writer.tokenizer.decode(&written).expect("a text"), stored["text"], "{stored}");
    }
    assert!(ended > 0 || name == "blip-captions-untied", "some caption ends by itself");
}

#[test]
fn blip_captions_with_tied_words_stored_once() {
    captions("blip-captions");
}

#[test]
fn blip_captions_with_words_of_their_own() {
    captions("blip-captions-untied");
}

#[test]
fn captions_of_different_lengths_share_a_step() {
    let (mut model, expected) = open("blip-captions");
    let images = states(&mut model, &expected);
    let start = model.writer.as_ref().expect("a captioning model").start;
    let mut reader = model.reader.expect("a decoder");
    let mut begin = |image: &Embedding, ids: &[u32]| {
        let memory = MemorySlot::default();
        let row = BeginRow { image: image.clone(), ids: ids.into(), memory: memory.clone() };
        reader.forward(&[ReaderRow::Begin(row)]).expect("a caption");
        memory.take().expect("the decoder's memory")
    };
    let before = [begin(&images[0], &[start]), begin(&images[1], &[start, 5, 6])];
    let step = |text: usize, id: u32| {
        let (before, memory) = (before[text].clone(), MemorySlot::default());
        ReaderRow::Step(StepRow { before, id, memory })
    };
    let together = reader.forward(&[step(0, 7), step(1, 8)]).expect("steps");
    for (text, id) in [(0, 7), (1, 8)] {
        let alone = reader.forward(&[step(text, id)]).expect("a step");
        assert!(difference(alone[0].as_slice(), together[text].as_slice()) <= 1e-6);
    }
    let foreign = reader
        .forward(&[ReaderRow::Match(MatchRow { image: images[0].clone(), texts: [].into() })]);
    assert!(matches!(foreign, Err(TowerError::Shape(_))));
    let unknown =
        BeginRow { image: images[0].clone(), ids: [999].into(), memory: MemorySlot::default() };
    assert!(reader.forward(&[ReaderRow::Begin(unknown)]).is_err());
}

#[test]
fn narrow_weights_of_blip_stay_close() {
    for (dtype, least) in
        [(config::DType::F16, 0.9999), (config::DType::Bf16, 0.9998), (config::DType::Int8, 0.995)]
    {
        let name = "blip-retrieval";
        let expected = Reference::open(&format!("{name}/expected.safetensors"));
        let source = folder().join(name).to_string_lossy().into_owned();
        let config = config::Model { source, dtype, ..config::Model::default() };
        let mut model = model::load_resident(&config).expect("any type");
        let images = model.vision.forward(&expected.pixels()).expect("valid images");
        let (shape, values) = expected.floats("vision.pooled");
        let pairs = images.iter().zip(values.chunks_exact(shape[1]));
        let cosine = |a: &[f32], b: &[f32]| {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
        };
        let worst = pairs.map(|(row, own)| cosine(row.as_slice(), own)).fold(1.0, f32::min);
        row(&format!("{name} {dtype}"), &format!("cosine {worst:.6}"), &least.to_string());
        assert!(worst >= least && model.card.agreement.is_some(), "{dtype}: {worst}");
    }
}
