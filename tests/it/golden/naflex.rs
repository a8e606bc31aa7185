//! Images in variable resolution, against transformers' padded and masked batches.

use siglip_server::{
    model::{ResidentModel, Tower, TowerError},
    preprocess::Pixels,
};

use super::{
    grids::{self, pictures},
    reference::{Judge, Reference},
};

fn open(name: &str) -> (ResidentModel, Reference) {
    Judge::strict().open(name)
}

fn check(name: &str) {
    grids::check(&Judge::strict(), name);
}

#[test]
fn grids_smaller_than_the_stored_one() {
    check("naflex-down");
}

#[test]
fn grids_larger_than_the_stored_one_and_a_projection_bf16() {
    check("naflex-up");
}

#[test]
fn a_vision_tower_alone_f16() {
    check("naflex-vision-only");
}

#[test]
fn pictures_of_broken_patches_are_refused() {
    let (mut model, expected) = open("naflex-down");
    let row = pictures(&expected, &model.image).swap_remove(0);
    let refused = |row: Pixels, model: &mut ResidentModel| match model.vision.forward(&[row]) {
        Err(TowerError::Shape(message)) => message,
        other => panic!("{other:?}"),
    };
    let odd = Pixels { height: row.height + 1, ..row.clone() };
    assert!(refused(odd, &mut model).contains("multiples of 4"));
    let short = Pixels { data: row.data[1..].into(), ..row.clone() };
    refused(short, &mut model);
    let none = Pixels { height: 0, data: [].into(), ..row };
    refused(none, &mut model);
}

#[test]
fn pictures_of_unequal_size_have_no_common_stages() {
    let (model, expected) = open("naflex-down");
    let rows = pictures(&expected, &model.image);
    // 3 x 4 and 4 x 3 patches fit into one tensor, 3 x 3 patches do not.
    let alike = model.vision.stages(&rows[..2]).expect("equally many patches");
    assert_eq!(alike.last_hidden_state.shape[..2], [2, 12]);
    assert!(model.vision.stages(&rows[1..3]).is_err());
}

#[test]
fn the_tokenizer_of_the_second_siglip_knows_no_case() {
    let (model, _) = open("naflex-down");
    let tokenizer = model.tokenizer.expect("goes with the text tower");
    let ids =
        |text: &str| tokenizer.encode(&tokenizer.canonical(text)).expect("any text").ids.to_vec();
    assert_eq!(ids("A CAT"), ids("a cat"));
    assert_eq!(ids("a cat<eos>").iter().filter(|&&id| id == 1).count(), 1);
    assert_eq!(model.card.family, "siglip2");
}
