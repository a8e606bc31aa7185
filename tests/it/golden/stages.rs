//! Compares every stage of a checkpoint with its stored outputs, on any device.

use siglip_server::{
    embedding::Embedding,
    model::{ResidentModel, Scorer, Tap, Tower},
    preprocess::Pixels,
};

use super::reference::{Judge, Reference, cosines};

/// Compares every stage of one checkpoint that reads images of one size.
pub(super) fn check(judge: &Judge, name: &str) {
    let (mut model, expected) = judge.open(name);
    let pixels = expected.pixels();
    judge.stages(&expected, "vision", &model.vision.stages(&pixels).expect("valid images"));
    let images = model.vision.forward(&pixels).expect("valid images");
    judge.close("image embeddings", &flat(&images), &expected.floats("vision.pooled").1);
    assert_eq!(images[0].dim(), model.card.embedding_dim);
    check_texts(judge, model, (&expected, &images));
}

/// Compares the text tower, if there is one, and the scores of `images`.
pub(super) fn check_texts(
    judge: &Judge,
    model: ResidentModel,
    (expected, images): (&Reference, &[Embedding]),
) {
    let Some(mut text) = model.text else {
        assert!(!expected.has("text.pooled") && model.tokenizer.is_none());
        assert!(model.card.scorer.is_none() && model.card.text_length.is_none());
        return;
    };
    let tokenizer = model.tokenizer.expect("goes with the tower");
    let rows: Vec<_> = expected
        .list("texts")
        .iter()
        .map(|text| tokenizer.encode(&tokenizer.canonical(text)).expect("any text"))
        .collect();
    let ids: Vec<_> = rows.iter().map(|row| row.ids.to_vec()).collect();
    assert_eq!(ids, expected.ids());
    judge.stages(expected, "text", &text.stages(&rows).expect("valid texts"));
    let texts = text.forward(&rows).expect("valid texts");
    judge.close("text embeddings", &flat(&texts), &expected.floats("text.pooled").1);
    let head = model.card.scorer.expect("goes with the tower");
    check_scores(judge, (expected, head), (images, &texts));
}

pub(super) fn check_scores(
    judge: &Judge,
    (expected, head): (&Reference, Scorer),
    (images, texts): (&[Embedding], &[Embedding]),
) {
    let cosines = cosines(images, texts);
    let logits: Vec<f32> = cosines.iter().filter_map(|&cosine| head.logit(cosine)).collect();
    judge.close("logits", &logits, &expected.floats("logits").1);
    let mut probabilities = logits.clone();
    probabilities.chunks_exact_mut(texts.len()).for_each(|row| head.probabilities(row));
    judge.close("probabilities", &probabilities, &expected.floats("probabilities").1);
    if head.pair_probability(0.0).is_none() {
        return;
    }
    // The loss of the paper over the square of the first pairs, as `SiglipModel.forward` gives it.
    let count = images.len().min(texts.len());
    let mut sum = 0.0;
    for row in 0..count {
        for column in 0..count {
            let sign = if row == column { 1.0 } else { -1.0 };
            sum += (-sign * f64::from(logits[row * texts.len() + column])).exp().ln_1p();
        }
    }
    judge.close("loss", &[(sum / count as f64) as f32], &expected.floats("loss").1);
}

/// Compares rows of both towers with the same rows alone.
pub(super) fn check_mates(judge: &Judge, name: &str) {
    let (mut model, expected) = judge.open(name);
    check_alone(judge, &mut model.vision, &expected.pixels());
    if let Some(text) = &mut model.text {
        check_alone(judge, text, &expected.tokens());
    }
}

fn check_alone<T: Tower>(judge: &Judge, tower: &mut T, rows: &[T::Input]) {
    let together = tower.forward(rows).expect("valid rows");
    for (row, together) in rows.iter().zip(&together) {
        let alone = tower.forward(std::slice::from_ref(row)).expect("a valid row");
        judge.same_row("alone and together", alone[0].as_slice(), together.as_slice());
    }
}

/// Rows that ask for different outputs share one pass.
pub(super) fn check_taps(judge: &Judge, name: &str) {
    let (mut model, expected) = judge.open(name);
    let pixels = expected.pixels();
    let layers = model.card.vision_layers;
    let taps = [
        (Tap::HiddenState(layers - 1), format!("vision.hidden_state.{}", layers - 1)),
        (Tap::Pooled, "vision.pooled".to_owned()),
        (Tap::LastHiddenState, "vision.last_hidden_state".to_owned()),
    ];
    let asked = taps.each_ref().map(|(tap, _)| *tap);
    let rows = model.vision.tapped(&pixels, &asked).expect("valid images");
    for (index, (_, stage)) in taps.iter().enumerate() {
        let (shape, values) = expected.floats(stage);
        let row: usize = shape[1..].iter().product();
        judge.close(stage, rows[index].as_slice(), &values[index * row..][..row]);
    }
    let beyond = [Tap::HiddenState(layers + 1), Tap::Pooled, Tap::Pooled];
    assert!(model.vision.tapped(&pixels, &beyond).is_err());
}

/// Compares overlapping passes, two at a time and with other images each time, with passes that ran alone. If a
/// copy does not wait for the memory that it reads or writes, a row of another pass appears.
pub(super) fn check_begun(judge: &Judge, name: &str, passes: usize) {
    let (mut model, expected) = judge.open(name);
    let stored = expected.pixels();
    let batch = |pass: usize| -> Vec<Pixels> {
        // Sizes vary too, so the used part of a buffer varies.
        let shifted = |row: usize| {
            let pixels = &stored[row % stored.len()];
            let mut data = pixels.data.to_vec();
            data.rotate_right((pass * 7 + row * 3) % pixels.data.len());
            Pixels { data: data.into(), ..pixels.clone() }
        };
        (0..1 + pass % 8).map(shifted).collect()
    };
    let pooled = |rows: &[Pixels]| vec![Tap::Pooled; rows.len()];
    let mut before = None;
    for pass in 0..passes {
        let rows = batch(pass);
        let begun = model.vision.begin(&rows, &pooled(&rows)).expect("begins");
        if let Some((rows, begun)) = before.replace((rows, begun)) {
            check_pass(judge, &mut model.vision, (rows, begun));
        }
    }
    if let Some(last) = before {
        check_pass(judge, &mut model.vision, last);
    }
}

fn check_pass(
    judge: &Judge,
    vision: &mut impl Tower<Input = Pixels>,
    (rows, begun): (Vec<Pixels>, siglip_server::model::Pass),
) {
    let begun = begun.finish().expect("ends");
    let run = vision.forward(&rows).expect("valid images");
    judge.same_row("begun and run", &flat(&begun), &flat(&run));
}

pub(super) fn flat(rows: &[Embedding]) -> Vec<f32> {
    rows.iter().flat_map(|row| row.as_slice().iter().copied()).collect()
}
