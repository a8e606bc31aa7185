//! Entry points for fuzzing, one function for each way in which untrusted bytes come in. They are not part of
//! the library's interface: builds without debug assertions do not have them.
//!
//! Each function takes any bytes, and panics if a rule is broken that must hold for all inputs.

mod checkpoint;

use std::{net::IpAddr, sync::LazyLock};

use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};

pub use self::checkpoint::checkpoint;
use crate::{
    config,
    fetch::Guard,
    oip,
    preprocess::{self, Decoding, ImageLimits, ImageSpec, Resample, TargetSize},
    rest,
    tokenize::{Cleaning, Scheme, TextLayout, TextTokenizer, TokenizerFiles, TokenizerOptions},
};

const PATCHES: TargetSize = TargetSize::Patches { patch_size: 4, max_num_patches: 16 };

fn spec(size: TargetSize) -> ImageSpec {
    ImageSpec {
        size,
        resample: Resample::Bicubic,
        rescale: 1.0 / 255.0,
        mean: [0.5; 3],
        std: [0.5; 3],
    }
}

/// Decodes image bytes to a fixed size and to patches, except formats whose decoder may end this process.
pub fn image(bytes: &[u8]) {
    if preprocess::may_abort(bytes).is_none() {
        prepare(bytes);
    }
}

/// Decodes AVIF. In the server, a decoder that ends its process costs one image, because AVIF is decoded only
/// in decode processes.
pub fn avif(bytes: &[u8]) {
    if preprocess::may_abort(bytes).is_some() {
        prepare(bytes);
    }
}

fn prepare(bytes: &[u8]) {
    // The limits are small, so that every limit is reached often and fast.
    let limits = ImageLimits { max_bytes: 1 << 20, max_pixels: 1 << 16, max_decode_bytes: 1 << 20 };
    let header = preprocess::inspect(bytes, &limits);
    assert!(header.is_err() || preprocess::looks_like_an_image(&bytes[..bytes.len().min(32)]));
    let fixed = TargetSize::Fixed { height: 8, width: 8 };
    for (size, decoding) in [(fixed, Decoding::Fast), (PATCHES, Decoding::Full)] {
        let prepared = preprocess::prepare(bytes, &spec(size), &limits, decoding);
        let Ok(prepared) = prepared else { continue };
        let pixels = prepared.pixels;
        let area = pixels.height as usize * pixels.width as usize;
        assert!(pixels.data.len() == area * 3 && (1..=256).contains(&area), "{area}");
        assert_eq!(header.as_ref().ok().map(|header| header.pixels), Some(prepared.source_pixels));
        assert!(prepared.source_pixels <= limits.max_pixels);
    }
}

/// Reads JSON as the request of every route, and as the query of a raw image.
pub fn json(bytes: &[u8]) {
    RUNTIME.block_on(rest::fuzz::json(Bytes::copy_from_slice(bytes)));
    if let Ok(text) = std::str::from_utf8(bytes) {
        rest::fuzz::query(text);
    }
}

/// Reads a body of the Open Inference Protocol as tensors, and the tensors as items. The first two bytes are
/// the length of its JSON; the largest number means that all of it is JSON.
pub fn inference(bytes: &[u8]) {
    let Some((length, body)) = bytes.split_first_chunk::<2>() else { return };
    let length = Some(u16::from_le_bytes(*length)).filter(|&length| length != u16::MAX);
    let body = Bytes::copy_from_slice(body);
    let request = RUNTIME.block_on(rest::fuzz::inference(body, length.map(usize::from)));
    let Some(request) = request else { return };
    for size in [TargetSize::Fixed { height: 2, width: 3 }, PATCHES] {
        let rows = request.inputs.iter().map(|tensor| tensor.shape.first().copied());
        let rows: i64 = rows.map(Option::unwrap_or_default).fold(0, i64::saturating_add);
        match oip::items(request.inputs.clone(), &spec(size)) {
            Ok(items) => assert_eq!(i64::try_from(items.len()), Ok(rows)),
            Err(error) => rest::fuzz::check(&error),
        }
    }
}

/// Reads a form as the request of every route. The first byte is the size of the pieces in which it arrives;
/// the boundary is `X`.
pub fn multipart(bytes: &[u8]) {
    let Some((&piece, body)) = bytes.split_first() else { return };
    let body = Bytes::copy_from_slice(body);
    RUNTIME.block_on(rest::fuzz::form(&body, usize::from(piece) + 1));
}

/// Reads a bulk body as rows. The first byte is the size of the pieces in which it arrives, the second the
/// maximum length of a row.
pub fn bulk(bytes: &[u8]) {
    let [piece, max, body @ ..] = bytes else { return };
    let (piece, max) = (usize::from(*piece) + 1, usize::from(*max));
    rest::fuzz::lines(body, max, piece);
    rest::fuzz::frames(body, max, piece);
}

/// Tokenises a text with every normalisation.
pub fn text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for tokenizer in TOKENIZERS.iter() {
        let canonical = tokenizer.canonical(&text);
        let Ok(tokens) = tokenizer.encode(&canonical) else {
            panic!("a text that cannot be tokenised");
        };
        assert_eq!(tokens.ids.len(), TEXT_LENGTH);
        assert!(tokens.used <= TEXT_LENGTH && tokens.ids.iter().all(|&id| id < VOCABULARY));
        assert_eq!(tokenizer.encode(&canonical).ok(), Some(tokens), "the same every time");
    }
}

/// Checks a URL, a redirect after the first line break, and the bytes as an address with the guard.
pub fn url(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (first, redirect) = text.split_once('\n').unwrap_or((&text, ""));
    let guard = Guard::new(&config::Fetch::default());
    let base = guard.parse(first);
    let redirect = redirect.parse();
    let joined = base.as_ref().ok().zip(redirect.as_ref().ok());
    let joined = joined.and_then(|(base, target)| guard.join(base, target).ok());
    for url in base.ok().into_iter().chain(joined) {
        assert_eq!(url.scheme(), "https");
        assert!(url.username().is_empty() && url.password().is_none());
        let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
            panic!("{url} has no host");
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = host.parse::<IpAddr>() {
            assert!(guard.allows(address) && is_outside(address), "{url}");
        }
    }
    if let Some(&address) = bytes.first_chunk::<16>() {
        let address = IpAddr::from(address);
        assert!(!guard.allows(address) || is_outside(address), "{address}");
    }
}

/// The standard library's checks of an address, which are fewer than the guard's.
fn is_outside(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(it) => {
            !(it.is_private()
                || it.is_loopback()
                || it.is_link_local()
                || it.is_broadcast()
                || it.is_unspecified()
                || it.is_multicast()
                || it.is_documentation())
        }
        IpAddr::V6(it) => {
            !(it.is_loopback()
                || it.is_unspecified()
                || it.is_multicast()
                || it.is_unique_local()
                || it.is_unicast_link_local())
        }
    }
}

#[expect(clippy::expect_used, reason = "nothing can be fuzzed without it")]
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().build().expect("a runtime"));

const TEXT_LENGTH: usize = 16;
const VOCABULARY: u32 = 4096;

/// The demo's tokenizer with each normalisation.
#[expect(clippy::expect_used, reason = "the files are the repository's own")]
static TOKENIZERS: LazyLock<Vec<TextTokenizer>> = LazyLock::new(|| {
    use config::TextNormalization as Asked;
    let files = TokenizerFiles {
        tokenizer: Some(include_bytes!("../models/demo/tokenizer.json")),
        config: Some(include_bytes!("../models/demo/tokenizer_config.json")),
        ..TokenizerFiles::default()
    };
    let siglip = TokenizerFiles {
        config: Some(br#"{"tokenizer_class": "SiglipTokenizer", "pad_token": "<pad>"}"#),
        ..files
    };
    let plain = [Asked::None, Asked::BigVision, Asked::OpenClip].map(|asked| (files, asked, None));
    let cleaned = [Cleaning::Lower, Cleaning::Whitespace, Cleaning::Canonicalize]
        .map(|cleaning| (files, Asked::Auto, Some(cleaning)));
    let all = plain.into_iter().chain(cleaned).chain([(siglip, Asked::Hf, None)]);
    let options = |normalization, cleaning| TokenizerOptions {
        layout: TextLayout {
            text_length: TEXT_LENGTH,
            vocab_size: VOCABULARY as usize,
            scheme: Scheme::Padded,
        },
        normalization,
        cleaning,
    };
    all.map(|(files, asked, cleaning)| {
        TextTokenizer::from_files(&files, options(asked, cleaning)).expect("a tokenizer")
    })
    .collect()
});
