//! Files and texts on their way through the engine, some at a time.

use std::{fmt, io, path::PathBuf};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use super::parts::Part;
use crate::{
    config::Limit,
    embedding::Embedding,
    engine::{Context, EmbedRequest, Engine, ImageInput, Input},
    error::{Code, Error},
};

/// Rows of one engine request: enough to fill batches, few enough that output begins at once.
const ROWS_AT_ONCE: usize = 64;
/// Characters of a text that messages quote.
const MAX_QUOTED: usize = 60;

/// A row to embed, read only when its turn comes: a thousand images are never held at once.
#[derive(Debug)]
pub(in crate::cli) enum Row {
    Image(PathBuf),
    Text(String),
    /// An image that is read already, out of an archive.
    Member {
        name: String,
        bytes: Bytes,
    },
    /// A frame of a video, or a page of a PDF file.
    Part(Part),
    /// What a list has in the place of a row.
    Bad {
        name: String,
        reason: String,
    },
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(path) => path.display().fmt(f),
            Self::Part(part) => part.fmt(f),
            Self::Member { name, .. } | Self::Bad { name, .. } => f.write_str(name),
            Self::Text(text) if text.chars().count() <= MAX_QUOTED => {
                write!(f, "the text {text:?}")
            }
            Self::Text(text) => {
                let head: String = text.chars().take(MAX_QUOTED).collect();
                write!(f, "the text {:?}", format!("{head}..."))
            }
        }
    }
}

impl Row {
    /// What a line of output begins with.
    pub(super) fn name(&self) -> Value {
        match self {
            Self::Image(path) => json!({"image": path.display().to_string()}),
            Self::Member { name, .. } => json!({"image": name}),
            Self::Part(part) => json!({"image": part.to_string()}),
            Self::Text(text) => json!({"text": text}),
            Self::Bad { name, .. } => json!({"row": name}),
        }
    }

    /// A file that cannot be read fails as an item does.
    pub(super) async fn read(&self, limit: usize) -> Input {
        let image = |bytes: Bytes| {
            if bytes.len() <= limit {
                return Input::Image(ImageInput::Encoded(bytes));
            }
            let limit = Limit::bytes(limit, "limits.max_image_bytes");
            let message = format!("the file has more bytes than the limit of {limit}");
            Input::Unreadable(Error::new(Code::ImageTooLarge, message))
        };
        match self {
            Self::Text(text) => Input::Text(text.clone()),
            Self::Member { bytes, .. } => image(bytes.clone()),
            Self::Bad { reason, .. } => {
                Input::Unreadable(Error::new(Code::InvalidRequest, reason.clone()))
            }
            Self::Part(part) => {
                let part = part.clone();
                match tokio::task::spawn_blocking(move || part.image(limit)).await {
                    Ok(Ok(bytes)) => image(bytes.into()),
                    Ok(Err(reason)) => Input::Unreadable(Error::new(Code::InvalidRequest, reason)),
                    Err(_) => Input::Unreadable(Error::internal("a part could not be made")),
                }
            }
            Self::Image(path) => match read(path, limit).await {
                Ok(bytes) => image(bytes.into()),
                Err(error) => {
                    let message = format!("the file cannot be read: {error}");
                    Input::Unreadable(Error::new(Code::InvalidRequest, message))
                }
            },
        }
    }
}

/// The bytes of a file, and no more than one past the limit.
async fn read(path: &PathBuf, limit: usize) -> io::Result<Vec<u8>> {
    let file = tokio::fs::File::open(path).await?;
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// Rows with the outcome of each.
type Answers<'r> = Vec<(&'r Row, Result<Answer, Error>)>;

/// A row's embedding, and whether it is a text that was cut.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Answer {
    pub(in crate::cli) embedding: Embedding,
    pub(in crate::cli) truncated: bool,
}

/// Embeds rows, in order.
pub(in crate::cli) struct Rows<'r> {
    engine: &'r Engine,
    left: &'r [Row],
}

impl<'r> Rows<'r> {
    pub(in crate::cli) fn new(engine: &'r Engine, rows: &'r [Row]) -> Self {
        Self { engine, left: rows }
    }

    /// The next rows with the outcome of each; none at the end.
    ///
    /// # Errors
    /// What would fail every row: a wrong option, or a model that cannot answer.
    pub(in crate::cli) async fn next(
        &mut self,
        dimensions: Option<usize>,
        normalize: bool,
    ) -> anyhow::Result<Option<Answers<'r>>> {
        let limits = self.engine.limits();
        let (mut inputs, mut held) = (Vec::new(), 0);
        // What is in the engine at once must find room there: the last one read may be as large as any.
        let room = limits.max_bytes_in_flight.saturating_sub(limits.max_image_bytes);
        for row in self.left.iter().take(ROWS_AT_ONCE.min(limits.max_items)) {
            let input = row.read(limits.max_image_bytes).await;
            held += input.held_bytes();
            inputs.push(input);
            if held > room {
                break;
            }
        }
        if inputs.is_empty() {
            return Ok(None);
        }
        let (rows, left) = self.left.split_at(inputs.len());
        self.left = left;
        let request =
            |inputs| EmbedRequest { inputs, dimensions, normalize, ..EmbedRequest::default() };
        let mut outcomes = self.outcomes(request(inputs.clone())).await?;
        // With others an image may find no room to be decoded; alone it finds all there is.
        for (outcome, input) in outcomes.iter_mut().zip(inputs) {
            if outcome.as_ref().is_err_and(|error| error.code().spec().retryable) {
                let again = self.outcomes(request(vec![input])).await?;
                for one in again {
                    *outcome = one;
                }
                match outcome {
                    // The device, not the row.
                    Err(error)
                        if error.code().spec().retryable && error.code() != Code::Overloaded =>
                    {
                        return Err(error.clone().into());
                    }
                    _ => {}
                }
            }
        }
        Ok(Some(rows.iter().zip(outcomes).collect()))
    }

    async fn outcomes(&self, request: EmbedRequest) -> anyhow::Result<Vec<Result<Answer, Error>>> {
        let count = request.inputs.len();
        match self.engine.embed_items(request, &Context::patient()).await {
            Ok(embedded) => {
                let answers = embedded.items.into_iter().enumerate().map(|(at, item)| {
                    let truncated = embedded.truncated.contains(&at);
                    item.map(|embedding| Answer { embedding, truncated })
                });
                Ok(answers.collect())
            }
            Err(error) if error.code().spec().retryable => {
                Ok(std::iter::repeat_n(Err(error), count).collect())
            }
            Err(error) => Err(error.into()),
        }
    }
}
