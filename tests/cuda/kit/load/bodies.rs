//! Request bodies. They are made in advance, except for the part that makes each item unique.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, header};
use serde_json::json;

use super::{Arguments, Kind, photo};

pub(super) struct Bodies {
    kind: Kind,
    items: usize,
    host: String,
    /// The URL for tensors.
    infer: String,
    model: String,
    jpegs: Vec<Vec<u8>>,
    /// Normalised values of images, channel by channel.
    pixels: Vec<Vec<u8>>,
    sides: [u32; 2],
    /// Of the next item.
    number: AtomicU64,
}

const INFERENCE_HEADER: &str = "inference-header-content-length";

impl Bodies {
    pub(super) fn new(arguments: &Arguments) -> Self {
        let &Arguments { kind, items, width, height, .. } = arguments;
        let photos = match kind {
            Kind::Texts => Vec::new(),
            _ => photo::photos(width, height),
        };
        let (jpegs, pixels) = match kind {
            Kind::Pixels => (Vec::new(), photos.iter().map(normalised).collect()),
            _ => (photos.iter().map(photo::jpeg).collect(), Vec::new()),
        };
        Self {
            kind,
            items,
            host: arguments.server.clone(),
            infer: format!("/v2/models/{}/infer", arguments.model),
            model: arguments.model.clone(),
            jpegs,
            pixels,
            sides: [height, width],
            number: AtomicU64::new(0),
        }
    }

    /// A request, and the number of its items.
    ///
    /// * `turn`: selects the kind and the number of items if they vary
    pub(super) fn request(&self, turn: usize) -> (Request<Full<Bytes>>, usize) {
        let (kind, items) = match self.kind {
            Kind::Mixed => {
                // A multiplicative hash, so that sizes vary irregularly.
                let drawn = (turn as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
                let kind = if turn.is_multiple_of(2) { Kind::Jpeg } else { Kind::Texts };
                (kind, 1 + drawn as usize % self.items)
            }
            kind => (kind, self.items),
        };
        let numbers = self.number.fetch_add(items as u64, Ordering::Relaxed)..;
        let numbers = numbers.take(items);
        let request = match kind {
            Kind::Texts => self.texts(numbers),
            Kind::Pixels => self.prepared(numbers, items),
            Kind::Jpeg | Kind::Mixed if items == 1 => self.file(numbers.sum()),
            Kind::Jpeg | Kind::Mixed => self.files(numbers, items),
        };
        (request, items)
    }

    fn post(&self, path: &str, headers: &[(&str, String)], body: Vec<u8>) -> Request<Full<Bytes>> {
        let mut request = Request::post(path).header(header::HOST, &self.host);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        request.body(Full::new(body.into())).expect("a valid request")
    }

    fn texts(&self, numbers: impl Iterator<Item = u64>) -> Request<Full<Bytes>> {
        let texts = numbers.map(|number| format!("a photo of the red house, number {number}"));
        let body = json!({
            "model": self.model,
            "input": texts.collect::<Vec<_>>(),
            "encoding_format": "base64",
        });
        let json = [("content-type", "application/json".to_owned())];
        self.post("/v1/embeddings", &json, body.to_string().into_bytes())
    }

    fn file(&self, number: u64) -> Request<Full<Bytes>> {
        let jpeg = [("content-type", "image/jpeg".to_owned())];
        self.post("/v1/embeddings?encoding_format=base64", &jpeg, self.numbered(number))
    }

    /// A JPEG file with a unique comment after its first marker.
    fn numbered(&self, number: u64) -> Vec<u8> {
        let jpeg = &self.jpegs[number as usize % self.jpegs.len()];
        let text = format!("{number:016x}");
        let mut bytes = Vec::with_capacity(jpeg.len() + 4 + text.len());
        bytes.extend(&jpeg[..2]);
        bytes.extend([0xFF, 0xFE, 0, 2 + text.len() as u8]);
        bytes.extend(text.as_bytes());
        bytes.extend(&jpeg[2..]);
        bytes
    }

    fn files(&self, numbers: impl Iterator<Item = u64>, items: usize) -> Request<Full<Bytes>> {
        let mut raw = Vec::new();
        for number in numbers {
            let file = self.numbered(number);
            raw.extend((file.len() as u32).to_le_bytes());
            raw.extend(file);
        }
        self.tensors(json!({"name": "IMAGE", "shape": [items], "datatype": "BYTES"}), &raw)
    }

    fn prepared(&self, numbers: impl Iterator<Item = u64>, items: usize) -> Request<Full<Bytes>> {
        let mut raw = Vec::new();
        for number in numbers {
            let begin = raw.len();
            raw.extend(&self.pixels[number as usize % self.pixels.len()]);
            // The red values of the first pixels hold the bytes of the number.
            for (index, level) in number.to_le_bytes().into_iter().enumerate() {
                raw[begin + 4 * index..][..4].copy_from_slice(&value(level));
            }
        }
        let [height, width] = self.sides;
        let shape = json!([items, 3, height, width]);
        self.tensors(json!({"name": "PIXEL_VALUES", "shape": shape, "datatype": "FP32"}), &raw)
    }

    /// A request of the Open Inference Protocol with one raw input and one raw output.
    fn tensors(&self, mut input: serde_json::Value, raw: &[u8]) -> Request<Full<Bytes>> {
        input["parameters"] = json!({"binary_data_size": raw.len()});
        let output = json!({"name": "EMBEDDING", "parameters": {"binary_data": true}});
        let head = json!({"inputs": [input], "outputs": [output]}).to_string();
        let body = [head.as_bytes(), raw].concat();
        self.post(&self.infer, &[(INFERENCE_HEADER, head.len().to_string())], body)
    }
}

/// Normalises like SigLIP's image processor: mean and standard deviation are 0.5.
fn value(level: u8) -> [u8; 4] {
    (f32::from(level) / 255.0 * 2.0 - 1.0).to_le_bytes()
}

fn normalised(image: &image::RgbImage) -> Vec<u8> {
    let channel = |channel: usize| image.pixels().flat_map(move |pixel| value(pixel.0[channel]));
    (0..3).flat_map(channel).collect()
}
