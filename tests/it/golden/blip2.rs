//! BLIP-2's towers, Q-Former and matching head against transformers: `tests/golden/generate_blip2.py`.

use siglip_server::{
    config,
    model::{self, MatchRow, Queries, ReaderInfo, ReaderRow, ResidentModel, Scorer, Tap, Tower},
};

use super::{
    reference::{Judge, Reference, cosines, difference, folder, row},
    stages::flat,
};

fn open(name: &str) -> (ResidentModel, Reference) {
    Judge::strict().open(name)
}

fn check_vision(
    judge: &Judge,
    (model, expected): (&mut ResidentModel, &Reference),
    queries: Queries,
) {
    assert_eq!((&*model.card.family, model.card.leading_tokens), ("blip-2", 1));
    assert_eq!(model.card.queries, Some(queries));
    let pixels = expected.pixels();
    judge.stages(expected, "vision", &model.vision.stages(&pixels).expect("valid images"));
    let images = model.vision.forward(&pixels).expect("valid images");
    judge.close("image vectors", &flat(&images), &expected.floats("vision.pooled").1);
    assert_eq!(images[0].dim(), queries.count * model.card.embedding_dim);
    let taps = vec![Tap::Queries; pixels.len()];
    let states = model.vision.tapped(&pixels, &taps).expect("states");
    judge.close("queries", &flat(&states), &expected.floats("queries").1);
    // Rows of one batch that ask for different outputs.
    let taps = [Tap::Pooled, Tap::Queries, Tap::LastHiddenState];
    let mixed = model.vision.tapped(&pixels, &taps).expect("three outputs");
    assert!(difference(mixed[0].as_slice(), images[0].as_slice()) <= 1e-5);
    assert!(difference(mixed[1].as_slice(), states[1].as_slice()) <= 1e-5);
}

fn retrieval(name: &str, queries: Queries) {
    let judge = Judge::strict();
    let (mut model, expected) = open(name);
    check_vision(&judge, (&mut model, &expected), queries);
    let tokenizer = model.tokenizer.clone().expect("goes with the tower");
    let encode = |text: &String| tokenizer.encode(&tokenizer.canonical(text)).expect("any text");
    let rows: Vec<_> = expected.list("texts").iter().map(encode).collect();
    for (row, stored) in rows.iter().zip(expected.tokens()) {
        assert_eq!(row.ids, stored.ids);
    }
    let mut text = model.text.take().expect("both towers");
    let texts = text.forward(&rows).expect("valid texts");
    judge.close("text embeddings", &flat(&texts), &expected.floats("text.pooled").1);

    assert_eq!(model.card.reader, Some(ReaderInfo::Matching { start: None }));
    assert_eq!(model.card.scorer, Some(Scorer::Matching));
    let pixels = expected.pixels();
    let taps = vec![Tap::LastHiddenState; pixels.len()];
    let images = model.vision.tapped(&pixels, &taps).expect("states");
    let mut reader = model.reader.expect("a matching head");
    let matches = images.iter().map(|image| {
        ReaderRow::Match(MatchRow { image: image.clone(), texts: rows.clone().into() })
    });
    let logits = reader.forward(&matches.collect::<Vec<_>>()).expect("valid pairs");
    judge.close("matching", &flat(&logits), &expected.floats("logits").1);
    let mut probabilities = flat(&logits);
    Scorer::Matching.probabilities(&mut probabilities);
    judge.close("probabilities", &probabilities, &expected.floats("probabilities").1);
    // A pair alone has the same result as among others.
    let alone = MatchRow { image: images[1].clone(), texts: rows[2..3].into() };
    let alone = reader.forward(&[ReaderRow::Match(alone)]).expect("a valid pair");
    assert!(difference(alone[0].as_slice(), &logits[1].as_slice()[2..3]) <= 1e-5);

    // The largest over the queries, which is not their mean.
    let vectors = model.vision.forward(&pixels).expect("valid images");
    let dim = model.card.embedding_dim;
    let (mut largest, mut means) = (Vec::new(), Vec::new());
    for image in &vectors {
        let each: Vec<_> = (image.as_slice().chunks_exact(dim))
            .map(siglip_server::embedding::Embedding::new)
            .collect();
        let all = cosines(&each, &texts);
        for text in 0..texts.len() {
            let of_text = (0..queries.count).map(|query| all[query * texts.len() + text]);
            largest.push(of_text.clone().fold(f32::NEG_INFINITY, f32::max));
            means.push(of_text.sum::<f32>() / queries.count as f32);
        }
    }
    let stored = expected.floats("cosines").1;
    judge.close("cosines", &largest, &stored);
    assert!(difference(&means, &stored) > 1e-3);
}

#[test]
fn blip2_retrieval() {
    retrieval("blip2-retrieval", Queries { count: 5, width: 20, are_for_language: false });
}

#[test]
fn blip2_retrieval_with_image_tokens_old_spelling_and_every_third_layer_f16() {
    retrieval("blip2-retrieval-odd", Queries { count: 7, width: 48, are_for_language: false });
}

#[test]
fn blip2_beside_a_language_model() {
    for (name, queries) in [
        ("blip2-opt", Queries { count: 5, width: 20, are_for_language: true }),
        ("blip2-t5", Queries { count: 3, width: 24, are_for_language: true }),
    ] {
        let judge = Judge::strict();
        let (mut model, expected) = open(name);
        check_vision(&judge, (&mut model, &expected), queries);
        assert!(model.text.is_none() && model.reader.is_none() && model.tokenizer.is_none());
        assert!(model.card.scorer.is_none());
    }
}

#[test]
fn narrow_weights_of_blip2_stay_close() {
    for (dtype, least) in
        [(config::DType::F16, 0.9999), (config::DType::Bf16, 0.999), (config::DType::Int8, 0.99)]
    {
        for name in ["blip2-retrieval", "blip2-t5"] {
            let expected = Reference::open(&format!("{name}/expected.safetensors"));
            let source = folder().join(name).to_string_lossy().into_owned();
            let config = config::Model { source, dtype, ..config::Model::default() };
            let mut model = model::load_resident(&config).expect("any type");
            let images = model.vision.forward(&expected.pixels()).expect("valid images");
            let values = expected.floats("vision.pooled").1;
            let dim = model.card.embedding_dim;
            let cosine = |a: &[f32], b: &[f32]| {
                let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
                dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
            };
            let flat = flat(&images);
            let pairs = flat.chunks_exact(dim).zip(values.chunks_exact(dim));
            let worst = pairs.map(|(row, own)| cosine(row, own)).fold(1.0, f32::min);
            row(&format!("{name} {dtype}"), &format!("cosine {worst:.6}"), &least.to_string());
            assert!(worst >= least && model.card.agreement.is_some(), "{name} {dtype}: {worst}");
        }
    }
}

#[test]
fn each_part_counts() {
    let expected = Reference::open("blip2-retrieval/expected.safetensors");
    let pooled = expected.floats("vision.pooled").1;
    let changed = |from: &str, to: &str| -> Result<ResidentModel, String> {
        let copy = tempfile::tempdir().expect("a folder");
        for entry in std::fs::read_dir(folder().join("blip2-retrieval")).expect("there") {
            let path = entry.expect("an entry").path();
            std::fs::copy(&path, copy.path().join(path.file_name().expect("a file")))
                .expect("copied");
        }
        let path = copy.path().join("config.json");
        let text = std::fs::read_to_string(&path).expect("there");
        assert!(text.contains(from), "{from}");
        std::fs::write(&path, text.replacen(from, to, 1)).expect("room");
        let source = copy.path().to_string_lossy().into_owned();
        let config = config::Model { source, ..config::Model::default() };
        model::load_resident(&config).map_err(|error| error.to_string())
    };
    let differs = |from: &str, to: &str| {
        let mut vision = changed(from, to).unwrap_or_else(|error| panic!("{to}: {error}")).vision;
        difference(&flat(&vision.forward(&expected.pixels()).expect("images")), &pooled) > 1e-3
    };
    // The first activation is that of the vision tower. Both defaults are erf.
    let qformer = "\"qformer_config\": {";
    assert!(differs(qformer, "\"qformer_config\": {\"hidden_act\": \"quick_gelu\","));
    assert!(differs(qformer, "\"qformer_config\": {\"layer_norm_eps\": 0.1,"));
    assert!(differs("\"num_attention_heads\": 2", "\"num_attention_heads\": 4"));
    for (from, to, expected) in [
        (qformer, "\"qformer_config\": {\"cross_attention_frequency\": 3,", "has no place"),
        ("\"num_query_tokens\": 5", "\"num_query_tokens\": 6", "query_tokens"),
        ("\"num_query_tokens\": 5", "\"num_query_tokens\": 2000", "from 1 to 1024"),
        ("Blip2ForImageTextRetrieval", "Blip2TextModelWithProjection", "`architectures`"),
        ("\"image_size\": 16", "\"image_size\": 24", "size is 16 x 16"),
        ("Blip2ForImageTextRetrieval", "Blip2Model", "language_projection.weight"),
    ] {
        let error = changed(from, to).err().expect(to);
        assert!(error.contains(expected), "{to}: {error}");
    }
}
