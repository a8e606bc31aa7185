use super::*;
use crate::tokenize::{Scheme, TextLayout};

const V1: TextNormalization = TextNormalization::Canonical { lower_case: true };

fn choose(
    normalization: config::TextNormalization,
    class: Class,
    cleaning: Option<Cleaning>,
) -> TextNormalization {
    let layout = TextLayout { text_length: 64, vocab_size: 32000, scheme: Scheme::Padded };
    let options = TokenizerOptions { layout, normalization, cleaning };
    TextNormalization::choose(options, class, None)
}

#[test]
fn the_checkpoint_decides_unless_told_otherwise() {
    use config::TextNormalization as Asked;
    let theirs = TextNormalization::OpenClip(Cleaning::Canonicalize);
    for (class, auto, hf) in [
        (Class::Siglip, V1, V1),
        (Class::Gemma, TextNormalization::LowerCase, TextNormalization::None),
        (Class::Siglip2, TextNormalization::LowerCase, TextNormalization::LowerCase),
        (Class::Other, TextNormalization::None, TextNormalization::None),
    ] {
        assert_eq!(choose(Asked::Auto, class, None), auto);
        assert_eq!(choose(Asked::Hf, class, None), hf);
        assert_eq!(choose(Asked::Hf, class, Some(Cleaning::Lower)), hf);
        assert_eq!(choose(Asked::BigVision, class, None), TextNormalization::LowerCase);
        assert_eq!(choose(Asked::OpenClip, class, None), theirs);
        assert_eq!(choose(Asked::None, class, Some(Cleaning::Lower)), TextNormalization::None);
        let cleaning = Some(Cleaning::Whitespace);
        let auto = choose(Asked::Auto, class, cleaning);
        assert_eq!(auto, TextNormalization::OpenClip(Cleaning::Whitespace));
    }
}

#[test]
fn open_clip_repairs_and_cleans() {
    for (text, canonical, lower, whitespace) in [
        (" A  Photo_of a CAT. ", "a photo of a cat", "a photo_of a cat.", "A Photo_of a CAT."),
        ("rock &amp; roll", "rock roll", "rock & roll", "rock & roll"),
        ("a &amp;lt;b&amp;gt;", "a b", "a <b>", "a <b>"),
        ("don\u{2019}t \u{201c}go\u{201d}", "dont go", "don't \"go\"", "don't \"go\""),
        ("\u{fb01}ne \u{ff23}\u{ff21}\u{ff34}", "fine cat", "fine cat", "fine CAT"),
        (
            "cafe\u{301}\u{feff}\tau\u{0} lait",
            "caf\u{e9} au lait",
            "caf\u{e9} au lait",
            "caf\u{e9} au lait",
        ),
        ("\u{3000}", "", "", ""),
    ] {
        assert_eq!(Cleaning::Canonicalize.apply(text), canonical);
        assert_eq!(Cleaning::Lower.apply(text), lower);
        assert_eq!(Cleaning::Whitespace.apply(text), whitespace);
    }
}

#[test]
fn the_first_siglip_drops_case_punctuation_and_spare_space() {
    for (text, canonical) in [
        ("  A Photo\tof\u{a0}a CAT. ", "a photo of a cat"),
        ("well-known, isn't_it?", "wellknown isntit"),
        ("cats - dogs", "cats dogs"),
        ("\u{1f}ÜBER\u{1c}\u{2581}über", "über über"),
        ("고양이 사진!", "고양이 사진"),
        ("!?.", ""),
        ("ΣΑΣ", "σας"),
    ] {
        assert_eq!(V1.apply(text), canonical);
    }
}

#[test]
fn the_second_siglip_lowers_only() {
    assert_eq!(TextNormalization::LowerCase.apply("A  Cat."), "a  cat.");
    assert!(matches!(TextNormalization::LowerCase.apply("a cat."), Cow::Borrowed(_)));
    assert!(matches!(TextNormalization::None.apply("A CAT."), Cow::Borrowed("A CAT.")));
}
