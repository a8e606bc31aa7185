//! The chunked sums against plain loops over the whole matrix.

use super::{super::data::Place, *};

const DIM: usize = 11;

/// Unit vectors drawn from a fixed sequence.
fn vectors(rows: usize, mut state: u64) -> Vectors {
    let mut data = Vec::with_capacity(rows * DIM);
    for _ in 0..rows {
        let mut row = [0.0_f32; DIM];
        for value in &mut row {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *value = (state >> 40) as f32 / (1 << 24) as f32 - 0.5;
        }
        let norm = row.iter().map(|value| value * value).sum::<f32>().sqrt();
        data.extend(row.map(|value| value / norm));
    }
    Vectors { dim: DIM, data }
}

/// Five images and four texts; the first image has two captions, and two images share the last one.
fn data() -> Data {
    Data {
        table: None,
        images: (0..5).map(|number| Place::File(format!("{number}.png").into())).collect(),
        texts: (0..4).map(|number| number.to_string()).collect(),
        pairs: vec![[0, 0], [0, 1], [1, 2], [2, 3], [3, 3], [4, 1]],
        classes: false,
    }
}

fn near(a: f64, b: f64) {
    assert!((a - b).abs() < 1e-9, "{a} and {b}");
}

#[test]
fn losses_are_those_of_the_whole_matrix() {
    let (images, texts) = (vectors(5, 1), vectors(4, 2));
    let data = data();
    let scorer = Scorer::Sigmoid { logit_scale: 2.0, logit_bias: -3.0 };
    let scores = Scores { images: &images, texts: &texts, scorer };
    let found =
        losses(scores, &data.pairs, Wanted { sigmoid: true, softmax: true }).expect("logits");
    let n = data.pairs.len();
    let logit = |row: usize, column: usize| {
        let (image, text) = (data.pairs[row][0], data.pairs[column][1]);
        2.0_f64.exp() * cosine(images.row(image), texts.row(text))
    };
    let mut sigmoid_loss = 0.0;
    let mut softmax_loss = 0.0;
    for row in 0..n {
        for column in 0..n {
            let sign = if row == column { 1.0 } else { -1.0 };
            sigmoid_loss -= sigmoid(sign * (logit(row, column) - 3.0)).ln() / n as f64;
        }
        let by_row: f64 = (0..n).map(|column| logit(row, column).exp()).sum();
        let by_column: f64 = (0..n).map(|other| logit(other, row).exp()).sum();
        softmax_loss += (by_row.ln() + by_column.ln() - 2.0 * logit(row, row)) / (2 * n) as f64;
    }
    near(found.sigmoid, sigmoid_loss);
    near(found.softmax, softmax_loss);
    let none = Scores { scorer: Scorer::Matching, ..scores };
    assert_eq!(losses(none, &data.pairs, Wanted { sigmoid: true, softmax: true }), None);
}

#[test]
fn recalls_count_who_stands_before_the_best_that_belongs() {
    // Texts along the axes, images between them: what each prefers is plain.
    let axis = |weights: [f32; 3]| weights.to_vec();
    let texts = Vectors {
        dim: 3,
        data: [axis([1., 0., 0.]), axis([0., 1., 0.]), axis([0., 0., 1.])].concat(),
    };
    let images = Vectors { dim: 3, data: [axis([0.9, 0.1, 0.]), axis([0.8, 0.6, 0.1])].concat() };
    let data = Data {
        table: None,
        images: ["a", "b"].map(|it| Place::File(it.into())).into(),
        texts: vec!["x".into(), "y".into(), "z".into()],
        pairs: vec![[0, 0], [1, 1]],
        classes: false,
    };
    let scores = Scores { images: &images, texts: &texts, scorer: Scorer::Matching };
    let [of_images, of_texts] = retrieval(scores, &data);
    // The second image prefers the first text to its own.
    assert_eq!((of_images.r1, of_images.r5), (0.5, 1.0));
    // The third text belongs to no image and is not asked.
    assert_eq!((of_texts.r1, of_texts.r10), (1.0, 1.0));
}

#[test]
fn probabilities_are_counted_as_in_a_plain_loop() {
    let (images, texts) = (vectors(5, 3), vectors(4, 4));
    let data = data();
    let scorer = Scorer::Sigmoid { logit_scale: 1.5, logit_bias: 0.3 };
    let scores = Scores { images: &images, texts: &texts, scorer };
    let found = probabilities(scores, &data, Some(0.4)).expect("a rule for pairs");
    let positives = data.positives();
    let mut all = Vec::new();
    for (image, texts_of_image) in positives.iter().enumerate() {
        for text in 0..4 {
            let logit =
                1.5_f64.exp() * cosine(images.row(image), texts.row(text)) + f64::from(0.3_f32);
            all.push((sigmoid(logit), texts_of_image.contains(&text)));
        }
    }
    let count = |at_least: f64, belongs: bool| {
        all.iter().filter(|(it, right)| *it >= at_least && *right == belongs).count() as f64
    };
    for threshold in &found.thresholds {
        let (right, wrong) =
            (count(threshold.probability, true), count(threshold.probability, false));
        assert_eq!(threshold.precision, (right + wrong > 0.0).then(|| right / (right + wrong)));
        near(threshold.recall, right / count(0.0, true));
        near(threshold.f1, 2.0 * right / (right + wrong + count(0.0, true)));
    }
    let mut ece = 0.0;
    for (index, bin) in found.bins.iter().enumerate() {
        let within = |it: f64| it >= index as f64 / 10.0 && it < (index + 1) as f64 / 10.0;
        let members: Vec<_> = all.iter().filter(|(it, _)| within(*it)).collect();
        assert_eq!(bin.count, members.len());
        if !members.is_empty() {
            let mean = members.iter().map(|(it, _)| it).sum::<f64>() / members.len() as f64;
            let share =
                members.iter().filter(|(_, right)| *right).count() as f64 / members.len() as f64;
            near(bin.probability, mean);
            near(bin.positives, share);
            ece += (mean - share).abs() * members.len() as f64 / all.len() as f64;
        }
    }
    near(found.ece, ece);
    let wanted = found.wanted.expect("some threshold has it");
    assert!(wanted.precision.is_some_and(|precision| precision >= 0.4));
    // No lower one would do: of those that a right pair stands at, it is the first.
    let lower = all.iter().filter(|(it, right)| *right && *it < wanted.probability);
    for (it, _) in lower {
        assert!(count(*it, true) / (count(*it, true) + count(*it, false)) < 0.4);
    }
    let softmax = Scores { scorer: Scorer::Softmax { logit_scale: 1.0 }, ..scores };
    assert_eq!(probabilities(softmax, &data, None), None);
}
