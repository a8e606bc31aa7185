//! The Open Inference Protocol without its transports: it converts named tensors to requests of the engine, and
//! results back. REST and gRPC are thin layers above it.

mod describe;
mod read;
mod scores;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use bytestring::ByteString;

pub use self::describe::{
    CAPTION, Datatype, EMBEDDING, EXTENSIONS, IMAGE, INPUT_IDS, LOGIT, PIXEL_VALUES, PLATFORM,
    PROBABILITY, TEXT, TensorSpec, VERSION, check_version, inputs, outputs,
};
#[cfg(fuzzing)]
use crate::preprocess::ImageSpec;
use crate::{
    config::MatchingToken,
    engine::{Context, EmbedRequest, Engine, Input, Matrix, ScoreKind},
    error::Error,
    model::Scorer,
    registry::Model,
};

/// Maximum number of dimensions of a tensor, which is more than any known tensor has.
pub const MAX_RANK: usize = 8;

/// A tensor of a request.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// The tensor's name.
    pub name: String,
    /// The type of its elements.
    pub datatype: String,
    /// The shape, of at most [`MAX_RANK`] dimensions.
    pub shape: Vec<i64>,
    /// The elements, row-major.
    pub elements: Elements,
}

/// A tensor's elements as they were sent.
#[derive(Debug, Clone)]
pub enum Elements {
    /// Little-endian values. Each element of BYTES follows its length in four bytes.
    Raw(Bytes),
    /// Elements of BYTES.
    Bytes(Vec<Bytes>),
    /// Elements of BYTES in JSON: texts, or images as data URIs or base64.
    Strings(Vec<ByteString>),
    /// Numbers.
    Floats(Vec<f32>),
    /// Integers.
    Integers(Vec<i64>),
}

/// A request with its tensors.
#[derive(Debug, Clone)]
pub struct InferRequest {
    /// The model's name; none means the default model.
    pub model: Option<String>,
    /// The input tensors.
    pub inputs: Vec<Tensor>,
    /// The requested tensors; empty means all.
    pub outputs: Vec<String>,
    /// Whether embeddings are scaled to length 1.
    pub normalize: bool,
    /// The token before a text that a matching head reads; the model's own where it is not set.
    pub matching_token: Option<MatchingToken>,
}

/// A tensor of a response.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// The tensor's name.
    pub name: &'static str,
    /// Its values and their shape.
    pub values: Values,
}

/// The values of a tensor of a response.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// FP32.
    Floats(Matrix),
    /// BYTES, `[n]`.
    Texts(Vec<String>),
}

/// A response with its tensors.
#[derive(Debug, Clone)]
pub struct InferAnswer {
    /// The name of the model.
    pub model: Arc<str>,
    /// The requested tensors, in the order of the request.
    pub outputs: Vec<Output>,
}

impl Output {
    /// The type of its elements.
    #[must_use]
    pub fn datatype(&self) -> Datatype {
        match self.values {
            Values::Floats(_) => Datatype::Fp32,
            Values::Texts(_) => Datatype::Bytes,
        }
    }

    /// Its shape.
    #[must_use]
    pub fn shape(&self) -> Vec<usize> {
        match &self.values {
            Values::Floats(matrix) => vec![matrix.rows, matrix.dim],
            Values::Texts(texts) => vec![texts.len()],
        }
    }

    /// The number of elements, for the size of the response.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape().iter().product()
    }

    /// The elements, little-endian. Each element of BYTES follows its length in four bytes.
    #[must_use]
    pub fn to_raw(&self) -> Bytes {
        match &self.values {
            Values::Floats(matrix) => {
                matrix.data.iter().flat_map(|value| value.to_le_bytes()).collect()
            }
            Values::Texts(texts) => {
                let element = |text: &String| {
                    // A caption is far shorter than 4 GiB.
                    let length = (text.len() as u32).to_le_bytes();
                    length.into_iter().chain(text.bytes()).collect::<Vec<_>>()
                };
                texts.iter().flat_map(element).collect()
            }
        }
    }
}

/// The items of a request's tensors, images first, for fuzzing.
///
/// # Errors
/// Names the tensor at fault.
#[cfg(fuzzing)]
pub(crate) fn items(tensors: Vec<Tensor>, image: &ImageSpec) -> Result<Vec<Input>, Error> {
    let sides = read::sides(tensors, image, usize::MAX)?;
    Ok(sides.pictures.into_iter().chain(sides.texts).collect())
}

/// Embeds the tensors of a request, scores images against texts if it has both, and writes captions if the
/// model can.
///
/// # Errors
/// Names the tensor at fault, as `IMAGE[2]` for a single element; or a limit's error before any work.
pub async fn infer(
    engine: &Engine,
    request: InferRequest,
    context: &Context,
) -> Result<InferAnswer, Error> {
    let model = engine.registry().get(request.model.as_deref())?;
    let sides = read::sides(request.inputs, &model.image, engine.limits().max_items)?;
    let wanted = wanted(request.outputs, all(model, sides.is_both()))?;
    let is_wanted = |names: &[&str]| wanted.iter().any(|name| names.contains(name));
    let (mut captions, mut scored) = (None, None);
    if is_wanted(&[CAPTION]) {
        captions = Some(scores::captions(engine, model, &sides, context).await?);
    }
    let by_head = model.card.scorer == Some(Scorer::Matching);
    let asks_scores = is_wanted(&[LOGIT, PROBABILITY]);
    let token = request.matching_token;
    if token.is_some() && !asks_scores {
        let message = "it has an effect on `LOGIT` and `PROBABILITY` only";
        return Err(Error::invalid("parameters.matching_token", message));
    }
    if by_head && asks_scores {
        scored = Some(scores::by_head(engine, (model, token), &sides, context).await?);
    }
    let mut rows = Matrix::default();
    if is_wanted(&[EMBEDDING]) || (asks_scores && !by_head) {
        let (pictures, names) = (sides.pictures.len(), [sides.picture_name, sides.text_name]);
        let mut inputs = sides.pictures;
        inputs.extend(sides.texts);
        let embed = EmbedRequest {
            model: Some(model.name.clone()),
            inputs,
            normalize: request.normalize,
            ..EmbedRequest::default()
        };
        let embedded = engine.embed(embed, context).await;
        let embedded =
            embedded.map_err(|error| error.map_field(|f| element(f, pictures, names)))?;
        rows = stacked(&embedded.embeddings);
        if asks_scores && !by_head {
            scored =
                Some(scores::by_vectors(engine, (model, token), (&rows, pictures), context).await?);
        }
    }
    let mut scores = BTreeMap::new();
    if let Some(scored) = scored {
        let kinds = [(LOGIT, ScoreKind::Logit), (PROBABILITY, ScoreKind::Probability)];
        let kinds: Vec<_> = kinds.into_iter().filter(|(name, _)| wanted.contains(name)).collect();
        let matrices =
            scored.whole(&kinds.iter().map(|(_, kind)| *kind).collect::<Vec<_>>()).await?;
        scores.extend(kinds.into_iter().map(|(name, _)| name).zip(matrices));
    }
    let mut outputs = Vec::with_capacity(wanted.len());
    for name in wanted {
        let values = match name {
            EMBEDDING => Values::Floats(rows.clone()),
            CAPTION => Values::Texts(captions.take().unwrap_or_default()),
            name => Values::Floats(scores.remove(name).unwrap_or_default()),
        };
        outputs.push(Output { name, values });
    }
    Ok(InferAnswer { model: model.name.as_str().into(), outputs })
}

/// The outputs that a request can have.
fn all(model: &Model, is_both: bool) -> &'static [&'static str] {
    let has_vectors = model.card.queries.is_some();
    match (is_both, model.writer.is_some()) {
        (_, true) => &[EMBEDDING, CAPTION],
        // An image with several vectors does not fit into this output.
        (true, false) if has_vectors => &[LOGIT, PROBABILITY],
        (true, false) => &[EMBEDDING, LOGIT, PROBABILITY],
        (false, false) => &[EMBEDDING],
    }
}

/// The outputs of the response, by name.
fn wanted(asked: Vec<String>, all: &[&'static str]) -> Result<Vec<&'static str>, Error> {
    if asked.is_empty() {
        return Ok(all.to_vec());
    }
    let find = |name: String| {
        all.iter().copied().find(|known| *known == name).ok_or_else(|| {
            let message = match &*name {
                LOGIT | PROBABILITY => format!("`{name}` needs images and texts"),
                _ => format!("there is no output `{name}`; there are: {}", all.join(", ")),
            };
            Error::invalid("outputs", message)
        })
    };
    let mut found = asked.into_iter().map(find).collect::<Result<Vec<_>, _>>()?;
    // Each output is written once, so that repeating a name does not make the response larger.
    let mut seen = Vec::new();
    found.retain(|name| {
        !seen.contains(name) && {
            seen.push(*name);
            true
        }
    });
    Ok(found)
}

/// The engine counts items over both sides, images first.
fn element(field: &str, pictures: usize, [picture, text]: [&str; 2]) -> String {
    let index = field.strip_prefix("input[").and_then(|rest| rest.strip_suffix(']'));
    match index.and_then(|index| index.parse::<usize>().ok()) {
        Some(index) if index < pictures => format!("{picture}[{index}]"),
        Some(index) => format!("{text}[{}]", index - pictures),
        None if field == "input" => "inputs".to_owned(),
        None => field.to_owned(),
    }
}

fn stacked(rows: &[crate::embedding::Embedding]) -> Matrix {
    let dim = rows.first().map_or(0, crate::embedding::Embedding::dim);
    let data = rows.iter().flat_map(|row| row.as_slice().iter().copied()).collect();
    Matrix { rows: rows.len(), dim, data }
}

/// The items of a request's tensors.
struct Sides {
    pictures: Vec<Input>,
    texts: Vec<Input>,
    picture_name: &'static str,
    text_name: &'static str,
}

impl Sides {
    fn is_both(&self) -> bool {
        !self.pictures.is_empty() && !self.texts.is_empty()
    }
}
