//! A small fake model: it recognises three colours in images and texts.
//!
//! An image and a word of the same colour have the same embedding, so every score is known in advance.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use siglip_server::{
    batch::{Loader, Parts},
    config::{self, DType, Device},
    embedding::Embedding,
    model::{Described, ModelCard, Pass, Scorer, Tap, Tower, TowerError},
    preprocess::{ImageSpec, Pixels, Resample, TargetSize},
    tokenize::{Scheme, TextLayout, TextTokenizer, TokenizerFiles, TokenizerOptions, Tokens},
};

/// Values of an embedding.
pub(crate) const DIM: usize = 8;
/// Ids of a text.
pub(crate) const TEXT_LENGTH: usize = 12;
/// Pixels of an image's side.
pub(crate) const SIDE: u32 = 4;

/// `exp(3) * cosine - 15`: about +5 for a match (probability 0.99), -8 for another colour (0.0002).
pub(crate) const HEAD: Scorer = Scorer::Sigmoid { logit_scale: 3.0, logit_bias: -15.0 };

const TOKENIZER: &[u8] = br#"{
    "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
    "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
    "decoder": null,
    "model": {
        "type": "WordLevel",
        "vocab": {"<pad>": 0, "</s>": 1, "<unk>": 2, "red": 3, "green": 4, "blue": 5},
        "unk_token": "<unk>"
    }
}"#;

const TOKENIZER_CONFIG: &[u8] = br#"{
    "tokenizer_class": "SiglipTokenizer",
    "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"
}"#;

/// Blocks the towers' forward passes while it is closed.
#[derive(Clone)]
pub(crate) struct Gate(Arc<(Mutex<GateState>, Condvar)>);

struct GateState {
    open: bool,
    /// Number of blocked forward passes.
    held: usize,
}

impl Gate {
    /// An open gate.
    pub(crate) fn open_one() -> Self {
        Self(Arc::new((Mutex::new(GateState { open: true, held: 0 }), Condvar::new())))
    }

    /// Opens or closes the gate.
    pub(crate) fn set_open(&self, open: bool) {
        self.lock().open = open;
        self.0.1.notify_all();
    }

    /// Whether a forward pass is blocked.
    pub(crate) fn holds(&self) -> bool {
        self.lock().held > 0
    }

    fn pass(&self) {
        let mut state = self.lock();
        state.held += 1;
        let passed = self.0.1.wait_while(state, |state| !state.open);
        passed.expect("no test panics while it holds the gate").held -= 1;
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.0.0.lock().expect("no test panics while it holds the gate")
    }
}

struct Vision(Gate);

struct Text(Gate);

/// A colour and its complement, so that two colours differ and the values are never all zero.
fn embed([red, green, blue]: [f32; 3]) -> Embedding {
    Embedding::new(vec![red, green, blue, 1.0 - red, 1.0 - green, 1.0 - blue, 0.05, 0.1])
}

impl Tower for Vision {
    type Input = Pixels;

    fn begin(&mut self, rows: &[Pixels], taps: &[Tap]) -> Result<Pass, TowerError> {
        self.0.pass();
        let mean = |row: &Pixels, channel: usize| {
            let values = row.data.iter().skip(channel).step_by(3);
            values.map(|&value| f32::from(value)).sum::<f32>()
                / (row.data.len() as f32 / 3.0 * 255.0)
        };
        let colour = |row: &Pixels| embed([mean(row, 0), mean(row, 1), mean(row, 2)]);
        Pass::pooled(taps, || Ok(rows.iter().map(colour).collect()))
    }
}

impl Tower for Text {
    type Input = Tokens;

    fn begin(&mut self, rows: &[Tokens], taps: &[Tap]) -> Result<Pass, TowerError> {
        self.0.pass();
        let has = |row: &Tokens, id: u32| f32::from(u8::from(row.ids.contains(&id)));
        let colour = |row: &Tokens| embed([has(row, 3), has(row, 4), has(row, 5)]);
        Pass::pooled(taps, || Ok(rows.iter().map(colour).collect()))
    }
}

/// Makes both towers with one gate.
pub(crate) fn loader(gate: &Gate) -> Loader {
    let gate = gate.clone();
    Arc::new(move |_| {
        Ok(Parts {
            vision: Some(Box::new(Vision(gate.clone()))),
            text: Some(Box::new(Text(gate.clone()))),
            ..Parts::default()
        })
    })
}

/// The model without its towers.
pub(crate) fn described() -> Described {
    Described {
        tokenizer: Some(Arc::new(tokenizer())),
        writer: None,
        image: image_spec(),
        card: card(),
        reads_texts: true,
    }
}

/// The tokenizer for them.
pub(crate) fn tokenizer() -> TextTokenizer {
    let files = TokenizerFiles {
        tokenizer: Some(TOKENIZER),
        config: Some(TOKENIZER_CONFIG),
        ..TokenizerFiles::default()
    };
    let options = TokenizerOptions {
        layout: TextLayout {
            text_length: TEXT_LENGTH,
            vocab_size: usize::MAX,
            scheme: Scheme::Padded,
        },
        normalization: config::TextNormalization::Auto,
        cleaning: None,
    };
    TextTokenizer::from_files(&files, options).expect("the tokenizer above is valid")
}

/// How images are prepared for them.
pub(crate) fn image_spec() -> ImageSpec {
    ImageSpec {
        size: TargetSize::Fixed { height: SIDE, width: SIDE },
        resample: Resample::Bicubic,
        rescale: 1.0 / 255.0,
        mean: [0.5; 3],
        std: [0.5; 3],
    }
}

/// Their model card.
pub(crate) fn card() -> ModelCard {
    ModelCard {
        family: "siglip".to_owned(),
        revision: "test-revision".to_owned(),
        embedding_dim: DIM,
        text_length: Some(TEXT_LENGTH),
        patch_size: 2,
        leading_tokens: 0,
        last_state_is_normed: true,
        vision_layers: 2,
        vision_width: DIM,
        scorer: Some(HEAD),
        reader: None,
        language: None,
        queries: None,
        matching_start: None,
        parameters: 0,
        weight_bytes: 0,
        dtype: DType::F32,
        agreement: None,
        device: Device::Cpu,
        cpu_features: None,
        matmul_precision: None,
        cuda_kernels: None,
    }
}
