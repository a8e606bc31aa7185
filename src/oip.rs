//! The Open Inference Protocol without its transports: named tensors to requests of the engine, and answers
//! back. REST and gRPC are thin above it.

mod describe;
mod read;

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;

pub use self::describe::{
    Datatype, EMBEDDING, EXTENSIONS, IMAGE, INPUT_IDS, LOGIT, PIXEL_VALUES, PLATFORM, PROBABILITY,
    TEXT, TensorSpec, VERSION, check_version, inputs, outputs,
};
#[cfg(debug_assertions)]
use crate::preprocess::ImageSpec;
use crate::{
    engine::{
        Context, EmbedRequest, Engine, ImageSide, Input, Matrix, Pairing, ScoreKind, Scored,
        SimilarityRequest, TextSide,
    },
    error::Error,
    registry::Model,
};

/// Most dimensions of a tensor: more than any that is read here has.
pub const MAX_RANK: usize = 8;

/// A tensor of a request.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub datatype: String,
    /// Its shape, of at most [`MAX_RANK`] dimensions.
    pub shape: Vec<i64>,
    /// Its elements, row-major.
    pub elements: Elements,
}

/// A tensor's elements as they came.
#[derive(Debug, Clone)]
pub enum Elements {
    /// Little-endian; elements of BYTES each behind its length as four bytes.
    Raw(Bytes),
    /// Elements of BYTES.
    Bytes(Vec<Bytes>),
    /// Elements of BYTES in JSON: texts, or pictures as data URIs or base64.
    Strings(Vec<ByteString>),
    /// Numbers.
    Floats(Vec<f32>),
    /// Whole numbers.
    Integers(Vec<i64>),
}

/// Tensors in.
#[derive(Debug, Clone)]
pub struct InferRequest {
    /// The model's name; the default model where none is given.
    pub model: Option<String>,
    /// What is embedded.
    pub inputs: Vec<Tensor>,
    /// Which tensors to answer; all of them where empty.
    pub outputs: Vec<String>,
    /// Whether embeddings are scaled to length 1.
    pub normalize: bool,
}

/// A tensor of an answer, FP32.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Its name.
    pub name: &'static str,
    /// Its values and their shape.
    pub matrix: Matrix,
}

/// Tensors out.
#[derive(Debug, Clone)]
pub struct InferAnswer {
    /// The name of the model that answered.
    pub model: Arc<str>,
    /// The tensors that were asked for, in that order.
    pub outputs: Vec<Output>,
}

impl Output {
    /// The values, little-endian.
    #[must_use]
    pub fn to_raw(&self) -> Bytes {
        self.matrix.data.iter().flat_map(|value| value.to_le_bytes()).collect()
    }
}

/// For fuzzing: the items of a request's tensors, pictures first.
///
/// # Errors
/// Names the tensor at fault.
#[cfg(debug_assertions)]
pub(crate) fn items(tensors: Vec<Tensor>, image: &ImageSpec) -> Result<Vec<Input>, Error> {
    let sides = read::sides(tensors, image, usize::MAX)?;
    Ok(sides.pictures.into_iter().chain(sides.texts).collect())
}

/// Embeds the tensors of a request, and scores pictures against texts where both are there.
///
/// # Errors
/// Names the tensor at fault, as `IMAGE[2]` where one element is; or a limit's error before any work.
pub async fn infer(
    engine: &Engine,
    request: InferRequest,
    context: &Context,
) -> Result<InferAnswer, Error> {
    let model = engine.registry().get(request.model.as_deref())?;
    let sides = read::sides(request.inputs, &model.image, engine.limits().max_items)?;
    let wanted = wanted(request.outputs, sides.is_both())?;
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
    let embedded = embedded.map_err(|error| error.map_field(|f| element(f, pictures, names)))?;
    let rows = stacked(&embedded.embeddings);
    let mut outputs = Vec::with_capacity(wanted.len());
    let mut scored = None;
    for name in wanted {
        let matrix = match name {
            EMBEDDING => rows.clone(),
            _ => {
                if scored.is_none() {
                    scored = Some(score(engine, model, (&rows, pictures), context).await?);
                }
                let kind = if name == LOGIT { ScoreKind::Logit } else { ScoreKind::Probability };
                whole(scored.as_ref(), kind).await?
            }
        };
        outputs.push(Output { name, matrix });
    }
    Ok(InferAnswer { model: embedded.model, outputs })
}

/// The outputs to answer, by name.
fn wanted(asked: Vec<String>, is_both: bool) -> Result<Vec<&'static str>, Error> {
    let all: &[&'static str] =
        if is_both { &[EMBEDDING, LOGIT, PROBABILITY] } else { &[EMBEDDING] };
    if asked.is_empty() {
        return Ok(all.to_vec());
    }
    let find = |name: String| {
        all.iter().copied().find(|known| *known == name).ok_or_else(|| {
            let message = match &*name {
                LOGIT | PROBABILITY => format!("`{name}` needs pictures and texts"),
                _ => format!("there is no output `{name}`; there are: {}", all.join(", ")),
            };
            Error::invalid("outputs", message)
        })
    };
    let mut found = asked.into_iter().map(find).collect::<Result<Vec<_>, _>>()?;
    // Each is written once, so that an answer's size does not grow with how often one is named.
    let mut seen = Vec::new();
    found.retain(|name| {
        !seen.contains(name) && {
            seen.push(*name);
            true
        }
    });
    Ok(found)
}

/// The engine counts over both sides, pictures first.
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

/// The pair scores of embeddings that are there already, pictures first.
async fn score(
    engine: &Engine,
    model: &Model,
    (rows, pictures): (&Matrix, usize),
    context: &Context,
) -> Result<Scored, Error> {
    let (images, texts) = rows.data.split_at(pictures * rows.dim);
    let side = |data: &[f32]| Matrix {
        rows: data.len() / rows.dim.max(1),
        dim: rows.dim,
        data: data.to_vec(),
    };
    let request = SimilarityRequest {
        model: Some(model.name.clone()),
        images: ImageSide::Embeddings(side(images)),
        texts: TextSide::Embeddings(side(texts)),
        truncate: true,
        max_num_patches: None,
        pairing: Pairing::All,
        kinds: vec![ScoreKind::Logit, ScoreKind::Probability],
    };
    engine.similarity(request, context).await
}

/// Every chunk of one kind of score. Both sides are bounded by the limit on items.
async fn whole(scored: Option<&Scored>, kind: ScoreKind) -> Result<Matrix, Error> {
    let Some(scored) = scored else { return Ok(Matrix::default()) };
    let (rows, dim) = (scored.rows(), scored.columns());
    let mut data = Vec::with_capacity(rows * dim);
    for range in scored.chunks() {
        data.extend_from_slice(&scored.chunk(kind, range).await?.data);
    }
    Ok(Matrix { rows, dim, data })
}

/// What a request's tensors hold.
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
