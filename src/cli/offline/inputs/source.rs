//! One of the inputs of `embed`, and the rows in it.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::{
    super::{
        parquet_file::{Record, Records, Stored},
        parts::{Part, frames, pages},
        rows::Row,
        selection::Selection,
    },
    Item, is_image,
};
use crate::small_file;

/// Maximum number of bytes of a line of a list, and of a text in an archive.
const MAX_LINE: u64 = 1 << 20;

/// Where rows come from, in the order given.
#[derive(Debug)]
pub(super) enum Source {
    Image(PathBuf),
    Text(String),
    /// A text on each line.
    Lines(PathBuf),
    /// A JSON object on each line: `id`, and `text` or `image` (a path).
    Objects(PathBuf),
    /// An archive of images, such as a shard of a WebDataset.
    Archive(PathBuf),
    /// A Parquet file.
    Table(PathBuf),
    Video(PathBuf),
    /// A PDF file.
    Pages(PathBuf),
}

/// A line of a list of objects.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    id: Id,
    text: Option<String>,
    image: Option<PathBuf>,
}

/// Lists have numbers or texts for ids.
#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Text(String),
    Number(i64),
}

type Sender = mpsc::Sender<anyhow::Result<Item>>;

impl Source {
    /// Sends its rows; none when nobody takes them any more.
    pub(super) fn send(
        self,
        sender: &Sender,
        selection: &Selection,
        max_image_bytes: usize,
    ) -> Option<()> {
        let put = |item: anyhow::Result<Item>| sender.blocking_send(item).ok();
        match self {
            Self::Image(path) => {
                let id = path.display().to_string();
                put(Ok(Item { id, row: Row::Image(path) }))
            }
            Self::Text(text) => put(Ok(Item { id: text.clone(), row: Row::Text(text) })),
            Self::Lines(path) => each_line(&path, put, |number, line| {
                let id = format!("{}:{number}", path.display());
                let row = match line {
                    Ok(text) => Row::Text(text),
                    Err(reason) => Row::Bad { name: id.clone(), reason },
                };
                Item { id, row }
            }),
            Self::Objects(path) => each_line(&path, put, |number, line| {
                let name = format!("{}:{number}", path.display());
                match line.and_then(|line| object(&line, path.parent())) {
                    Ok(item) => item,
                    Err(reason) => Item { id: name.clone(), row: Row::Bad { name, reason } },
                }
            }),
            Self::Archive(path) => {
                let mut ended = Some(());
                let read = members(&path, selection, max_image_bytes, |item| {
                    ended = put(Ok(item));
                    ended.is_some()
                });
                match read {
                    Ok(()) => ended,
                    Err(error) => put(Err(error.context(path.display().to_string()))),
                }
            }
            Self::Table(path) => {
                let mut records = match Records::of_items(&path, selection, max_image_bytes) {
                    Ok(records) => records,
                    Err(error) => return put(Err(error)),
                };
                loop {
                    match records.next() {
                        Ok(None) => return Some(()),
                        Ok(Some(record)) => put(Ok(row_of(record)))?,
                        Err(error) => return put(Err(error)),
                    }
                }
            }
            Self::Video(path) => send_parts(&path, frames(&path, selection.video_every), put),
            Self::Pages(path) => send_parts(&path, pages(&path), put),
        }
    }
}

/// Sends the parts of a file. A file that cannot be read becomes one row, which fails.
fn send_parts(
    path: &Path,
    parts: Result<impl Iterator<Item = Part>, String>,
    mut put: impl FnMut(anyhow::Result<Item>) -> Option<()>,
) -> Option<()> {
    match parts {
        Ok(mut parts) => {
            parts.try_for_each(|part| put(Ok(Item { id: part.to_string(), row: Row::Part(part) })))
        }
        Err(reason) => {
            let name = path.display().to_string();
            put(Ok(Item { id: name.clone(), row: Row::Bad { name, reason } }))
        }
    }
}

/// A row of a Parquet file as an item. A row with a null fails.
fn row_of(record: Record) -> Item {
    let Record { id, image, text, fault } = record;
    let name = id.clone();
    let row = match (fault, image, text) {
        (None, Some(Stored::Bytes(bytes)), _) => Row::Member { name, bytes },
        (None, Some(Stored::File(path)), _) => Row::Image(path),
        (None, None, Some(text)) => Row::Text(text),
        (fault, ..) => Row::Bad { name, reason: fault.unwrap_or_default() },
    };
    Item { id, row }
}

/// Calls for each line that is not empty, numbered from 1.
fn each_line(
    path: &Path,
    put: impl Fn(anyhow::Result<Item>) -> Option<()>,
    item: impl Fn(usize, Result<String, String>) -> Item,
) -> Option<()> {
    let file = match open(path) {
        Ok(file) => file,
        Err(error) => return put(Err(error)),
    };
    let mut reader = BufReader::new(file);
    for number in 1.. {
        let mut line = Vec::new();
        let read = (&mut reader).take(MAX_LINE + 1).read_until(b'\n', &mut line);
        match read {
            Ok(0) => break,
            Ok(_) if line.len() as u64 > MAX_LINE => {
                let error =
                    anyhow::anyhow!("{}:{number}: the line has more than 1 MiB", path.display());
                return put(Err(error));
            }
            Ok(_) => {}
            Err(error) => {
                return put(Err(anyhow::Error::from(error).context(path.display().to_string())));
            }
        }
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let text =
            String::from_utf8(line.to_owned()).map_err(|_| "the line is not UTF-8".to_owned());
        put(Ok(item(number, text)))?;
    }
    Some(())
}

fn object(line: &str, folder: Option<&Path>) -> Result<Item, String> {
    let object: Object = serde_json::from_str(line).map_err(|error| {
        format!("a line is an object with `id`, and `text` or `image`: {error}")
    })?;
    let id = match object.id {
        Id::Text(id) => id,
        Id::Number(id) => id.to_string(),
    };
    let row = match (object.text, object.image) {
        (Some(text), None) => Row::Text(text),
        (None, Some(image)) => Row::Image(folder.map_or(image.clone(), |it| it.join(image))),
        _ => return Err("a line has either `text` or `image`".to_owned()),
    };
    Ok(Item { id, row })
}

/// Calls for each member of an archive that is asked for, until it says no.
fn members(
    path: &Path,
    selection: &Selection,
    max_image_bytes: usize,
    mut put: impl FnMut(Item) -> bool,
) -> anyhow::Result<()> {
    let mut archive = tar::Archive::new(BufReader::new(open(path)?));
    let is_text = selection.text_column.is_some();
    let ending = selection.text_column.as_ref().or(selection.image_column.as_ref());
    let ending = ending.map(|ending| format!(".{}", ending.trim_start_matches('.')));
    let wanted = |name: &Path| match &ending {
        Some(ending) => name.to_str().is_some_and(|name| name.ends_with(ending)),
        None => is_image(name),
    };
    let most = if is_text { MAX_LINE } else { max_image_bytes as u64 };
    let mut found = false;
    for member in archive.entries()? {
        let member = member?;
        let name = member.path()?.into_owned();
        if !member.header().entry_type().is_file() || !wanted(&name) {
            continue;
        }
        found = true;
        let id = path.join(name).display().to_string();
        let mut bytes = Vec::new();
        // No more than tells that it is too large, whatever its header says.
        member.take(most + 1).read_to_end(&mut bytes)?;
        let name = id.clone();
        let row = if is_text {
            match text_of(&bytes) {
                Ok(text) => Row::Text(text),
                Err(reason) => Row::Bad { name, reason },
            }
        } else {
            Row::Member { name, bytes: bytes.into() }
        };
        if !put(Item { id, row }) {
            return Ok(());
        }
    }
    match ending {
        _ if found => Ok(()),
        Some(ending) => bail!("no member of the archive ends in {ending}"),
        None => bail!("no member of the archive is an image by its ending"),
    }
}

fn text_of(bytes: &[u8]) -> Result<String, String> {
    if bytes.len() as u64 > MAX_LINE {
        return Err("the text has more than 1 MiB".to_owned());
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "the text is not UTF-8".to_owned())?;
    Ok(text.trim().to_owned())
}

fn open(path: &Path) -> anyhow::Result<File> {
    small_file::open_regular(path).with_context(|| path.display().to_string())
}
