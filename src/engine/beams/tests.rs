use super::*;
use crate::error::Code;

const END: u32 = 3;

/// Logits of four words that follow from the ids so far and a seed.
fn logits(seed: u64, ids: &[u32]) -> Vec<f32> {
    let mix = |state: u64, value: u64| {
        (state ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
    };
    let state = ids.iter().fold(seed, |state, &id| mix(state, u64::from(id) + 1));
    (0..4).map(|word| (mix(state, word) >> 40) as f32 / (1 << 22) as f32).collect()
}

fn run(mut search: Search, logits: impl Fn(&[u32]) -> Vec<f32>) -> (Vec<u32>, usize) {
    let mut steps = 0;
    loop {
        steps += 1;
        let rows: Vec<_> =
            search.running.iter().map(|beam| Embedding::new(logits(&beam.ids))).collect();
        if search.advance(&rows).is_empty() {
            return (search.best().expect("a caption"), steps);
        }
        assert!(search.running.len() <= search.width && search.ended.len() <= search.width);
    }
}

/// Every caption of at most `count` new words, with its log-probability.
fn all(seed: u64, begun: &[u32], count: usize) -> Vec<(Vec<u32>, f32)> {
    let mut open = vec![(begun.to_vec(), 0.0)];
    let mut ended = Vec::new();
    for step in 1..=count {
        let grown: Vec<_> = open
            .iter()
            .flat_map(|(ids, score)| {
                let words = log_probabilities(&logits(seed, ids)).into_iter().zip(0_u32..);
                words.map(move |(log, word)| ([&ids[..], &[word]].concat(), score + log))
            })
            .collect();
        open.clear();
        for caption in grown {
            let is_ended = step == count || caption.0.last() == Some(&END);
            if is_ended { ended.push(caption) } else { open.push(caption) }
        }
    }
    ended
}

#[test]
fn a_search_that_is_wide_enough_finds_the_best_of_all_captions() {
    for seed in 0..200 {
        for length_penalty in [0.0, 1.0, 2.0] {
            let options = BeamOptions {
                num_beams: Some(MAX_BEAMS),
                length_penalty: Some(length_penalty),
                early_stopping: Some(EarlyStopping::Never),
            };
            // Three beams go on after the first word, and twelve captions are left after the second.
            let (found, _) =
                run(Search::new(options, None, (&[0], 2, END)), |ids| logits(seed, ids));
            let score = |(ids, score): &(Vec<u32>, f32)| {
                score / ((ids.len() - 1) as f32).powf(length_penalty)
            };
            let captions = all(seed, &[0], 2);
            let best = captions.iter().max_by(|a, b| score(a).total_cmp(&score(b)));
            assert_eq!(found, best.expect("a caption").0, "seed {seed}, penalty {length_penalty}");
        }
    }
}

#[test]
fn a_search_ends_as_its_option_says() {
    let steps = |early_stopping, length_penalty| {
        let length_penalty = Some(length_penalty);
        let options = BeamOptions {
            num_beams: Some(2),
            length_penalty,
            early_stopping: Some(early_stopping),
        };
        let search = Search::new(options, None, (&[0], 30, END));
        // The end is likely from the second word on.
        run(search, |ids| {
            if ids.len() < 2 { vec![1.0, 0.9, 0.0, -5.0] } else { vec![0.0, -1.0, -2.0, 1.0] }
        })
        .1
    };
    let full = steps(EarlyStopping::Full, 1.0);
    let likely = steps(EarlyStopping::Likely, 1.0);
    let never = steps(EarlyStopping::Never, 1.0);
    assert_eq!(full, 2);
    assert!(full <= likely && likely < never, "{full} {likely} {never}");
    // Without a reward for length no caption becomes better by growing.
    assert_eq!(steps(EarlyStopping::Never, 0.0), steps(EarlyStopping::Likely, 0.0));
}

#[test]
fn a_caption_without_an_end_has_the_most_tokens() {
    let options = BeamOptions { num_beams: Some(3), ..BeamOptions::default() };
    let (ids, steps) = run(Search::new(options, None, (&[0, 1], 5, 9)), |ids| logits(1, ids));
    assert_eq!((ids.len(), steps, &ids[..2]), (7, 5, &[0, 1][..]));
    // A penalty for repetitions makes a word that was there less likely.
    let repeated = |penalty| {
        let search = Search::new(options, penalty, (&[0], 4, 9));
        let (ids, _) = run(search, |_| vec![0.0, 3.0, 2.9, 2.8]);
        ids.iter().filter(|&&id| id == 1).count()
    };
    assert_eq!(repeated(None), 4);
    assert!(repeated(Some(50.0)) <= 2);
}

#[test]
fn options_without_an_effect_or_out_of_range_are_named() {
    let none = BeamOptions::default();
    let wide = BeamOptions { num_beams: Some(4), ..none };
    for (options, is_greedy, field) in [
        (BeamOptions { num_beams: Some(0), ..none }, true, "num_beams"),
        (BeamOptions { num_beams: Some(MAX_BEAMS + 1), ..none }, true, "num_beams"),
        (wide, false, "num_beams"),
        (BeamOptions { length_penalty: Some(1.0), ..none }, true, "length_penalty"),
        (BeamOptions { length_penalty: Some(f32::NAN), ..wide }, true, "length_penalty"),
        (BeamOptions { length_penalty: Some(-3.0), ..wide }, true, "length_penalty"),
        (BeamOptions { early_stopping: Some(EarlyStopping::Full), ..none }, true, "early_stopping"),
    ] {
        let error = options.check(is_greedy).expect_err(field);
        assert_eq!((error.code(), error.field()), (Code::InvalidRequest, Some(field)));
    }
    assert!(none.check(false).is_ok() && wide.check(true).is_ok());
    assert!(none.check_streamed().is_ok() && wide.check_streamed().is_err());
}
