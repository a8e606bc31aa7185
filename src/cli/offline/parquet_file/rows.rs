//! Images and texts out of a Parquet file.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use arrow_array::{Array, ArrayRef, cast::AsArray as _, types};
use arrow_schema::DataType;
use bytes::Bytes;
use serde_json::Value;

use super::{super::selection::Selection, Batches, Opened, bytes, kind};

/// Maximum number of bytes of a page, uncompressed. Pages of images are as large as some hundred of them.
const MAX_PAGE: u64 = 512 << 20;
/// Rows are read one at a time: each may hold a large image, and a dictionary may repeat one image in many rows.
const ROWS_AT_ONCE: usize = 1;
/// Names of columns, if none is given: the first one that the file has is read.
const IMAGE_NAMES: &[&str] = &["image", "img", "jpg", "jpeg", "png", "webp", "image_path"];
const TEXT_NAMES: &[&str] = &["text", "caption"];
const ID_NAMES: &[&str] = &["id", "key", "__key__"];

/// An image of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum Stored {
    Bytes(Bytes),
    File(PathBuf),
}

/// A row of the file. `image` and `text` are missing if the value is null or cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli) struct Record {
    /// The value of the id column, or the file and the number of the row, from 1.
    pub(in crate::cli) id: String,
    pub(in crate::cli) image: Option<Stored>,
    pub(in crate::cli) text: Option<String>,
    /// The reason why the row cannot be embedded.
    pub(in crate::cli) fault: Option<String>,
}

/// What a column of images has in each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Images {
    Bytes,
    /// Relative to the file.
    Paths,
    /// A structure of `bytes` and `path`, as in Hugging Face's data sets. The path counts if the bytes are null.
    Both,
}

/// The rows of a file, one after the other.
pub(in crate::cli) struct Records {
    batches: Batches,
    image: Option<(usize, Images)>,
    text: Option<usize>,
    id: Option<usize>,
    /// Names for the integers in the column of texts.
    names: Option<Vec<String>>,
    /// No more of an image is read, and one byte beyond.
    max_image_bytes: usize,
    number: u64,
}

impl Records {
    /// The images of a file, for `embed`. Texts are read if the file has no images, or if their column is given.
    ///
    /// # Errors
    /// Fails if the file cannot be read, and if it has no such column.
    pub(in crate::cli) fn of_items(
        path: &Path,
        columns: &Selection,
        max_image_bytes: usize,
    ) -> anyhow::Result<Self> {
        let opened = Opened::open(path)?;
        let choose = || {
            let image = match &columns.text_column {
                Some(_) => None,
                None => image_column(&opened, columns.image_column.as_deref())?,
            };
            let text = match (&columns.text_column, image) {
                (Some(name), _) => Some(text_column(&opened, name)?),
                (None, Some(_)) => None,
                (None, None) => first(&opened, TEXT_NAMES, is_text),
            };
            ensure!(
                image.is_some() || text.is_some(),
                "no column of images or texts was found, so name it with --image-column or --text-column: {}",
                opened.described()
            );
            anyhow::Ok((image, text, id_column(&opened, columns.id_column.as_deref())?))
        };
        let (image, text, id) = choose().with_context(|| path.display().to_string())?;
        Ok(Self::new(opened, (image, text, id), max_image_bytes))
    }

    /// Images with their captions or classes, for `eval`; also whether the texts are classes.
    ///
    /// # Errors
    /// Fails if the file cannot be read, and if it lacks one of the columns.
    pub(in crate::cli) fn of_pairs(
        path: &Path,
        max_image_bytes: usize,
    ) -> anyhow::Result<(Self, bool)> {
        let opened = Opened::open(path)?;
        let choose = || {
            let image = image_column(&opened, None)?;
            let image = image
                .with_context(|| format!("there is no column `image`: {}", opened.described()))?;
            let (caption, label) = (opened.position("caption"), opened.position("label"));
            let (text, classes) = match (caption, label) {
                (Some(_), None) => (text_column(&opened, "caption")?, false),
                (None, Some(label)) => (label, true),
                (Some(_), Some(_)) => bail!("it has both columns, `caption` and `label`"),
                (None, None) => {
                    bail!("there is no column `caption` and none `label`: {}", opened.described())
                }
            };
            let integers = opened.fields().nth(text).is_some_and(|it| it.data_type().is_integer());
            let names = if integers { Some(class_names(&opened)?) } else { None };
            ensure!(
                integers || opened.fields().nth(text).is_some_and(|it| is_text(it.data_type())),
                "the column `label` has neither texts nor integers: {}",
                opened.described()
            );
            anyhow::Ok((image, text, classes, names))
        };
        let (image, text, classes, names) = choose().with_context(|| path.display().to_string())?;
        let records = Self::new(opened, (Some(image), Some(text), None), max_image_bytes);
        Ok((Self { names, ..records }, classes))
    }

    fn new(
        opened: Opened,
        (image, text, id): (Option<(usize, Images)>, Option<usize>, Option<usize>),
        max_image_bytes: usize,
    ) -> Self {
        let roots = [image.map(|(root, _)| root), text, id].into_iter().flatten().collect();
        let batches = Batches::new(opened, roots, ROWS_AT_ONCE, MAX_PAGE);
        Self { batches, image, text, id, names: None, max_image_bytes, number: 0 }
    }

    /// How many rows there are, as the file says.
    pub(in crate::cli) fn count(&self) -> u64 {
        self.batches.opened.rows()
    }

    /// The next row; none at the end.
    ///
    /// # Errors
    /// Fails if the file is damaged, or says that it holds more than is read at once.
    pub(in crate::cli) fn next(&mut self) -> anyhow::Result<Option<Record>> {
        let Some(batch) = self.batches.next()? else { return Ok(None) };
        self.number += 1;
        let column = |root: usize| batch.column(self.batches.place(root));
        let name = format!("{}:{}", self.batches.opened.path.display(), self.number);
        let mut fault = None;
        let mut missing = |root: usize| {
            let named = self.batches.opened.fields().nth(root).map_or("", |it| it.name());
            fault.get_or_insert(format!("the column `{named}` is null there, or cannot be read"));
        };
        let id = match self.id {
            None => name,
            Some(root) => key(column(root), 0).unwrap_or_else(|| {
                missing(root);
                name
            }),
        };
        let image = self.image.and_then(|(root, images)| {
            let image = self.image(column(root), images);
            if image.is_none() {
                missing(root);
            }
            image
        });
        let text = self.text.and_then(|root| {
            let text = match &self.names {
                None => text(column(root)),
                Some(names) => key(column(root), 0)
                    .and_then(|number| names.get(number.parse::<usize>().ok()?).cloned()),
            };
            if text.is_none() {
                missing(root);
            }
            text
        });
        Ok(Some(Record { id, image, text, fault }))
    }

    fn image(&self, column: &ArrayRef, images: Images) -> Option<Stored> {
        let folder = self.batches.opened.path.parent().unwrap_or(Path::new("."));
        let file = |path: &[u8]| Some(Stored::File(folder.join(std::str::from_utf8(path).ok()?)));
        let held = |image: &[u8]| {
            let end = image.len().min(self.max_image_bytes.saturating_add(1));
            Some(Stored::Bytes(Bytes::copy_from_slice(&image[..end])))
        };
        match images {
            Images::Bytes => held(bytes(column, 0)?),
            Images::Paths => file(bytes(column, 0)?),
            Images::Both => {
                let parts = column.as_struct_opt().filter(|parts| parts.is_valid(0))?;
                let part = |name| bytes(parts.column_by_name(name)?, 0);
                part("bytes").map_or_else(|| file(part("path")?), held)
            }
        }
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::Binary)
}

/// What a column is as one of images; a text is a path.
fn images(data_type: &DataType) -> Option<Images> {
    match data_type {
        DataType::Binary => Some(Images::Bytes),
        DataType::Utf8 => Some(Images::Paths),
        DataType::Struct(fields) => {
            let known = |name: &str, data_type: &DataType| match name {
                "bytes" => *data_type == DataType::Binary,
                "path" => is_text(data_type),
                _ => false,
            };
            let all = fields.iter().all(|it| known(it.name(), it.data_type()));
            (all && fields.find("bytes").is_some()).then_some(Images::Both)
        }
        _ => None,
    }
}

/// The first of the names that is there and has a fitting type.
fn first(opened: &Opened, names: &[&str], fits: impl Fn(&DataType) -> bool) -> Option<usize> {
    let fitting = |name: &&str| {
        let position = opened.position(name)?;
        opened.fields().nth(position).filter(|it| fits(it.data_type())).map(|_| position)
    };
    names.iter().find_map(fitting)
}

fn named(opened: &Opened, name: &str) -> anyhow::Result<(usize, DataType)> {
    let position = opened.position(name);
    let position =
        position.with_context(|| format!("there is no column `{name}`: {}", opened.described()))?;
    let data_type = opened.fields().nth(position).map(|it| it.data_type().clone());
    Ok((position, data_type.unwrap_or(DataType::Null)))
}

/// The column of images: the one that is asked for, one with a usual name, or the only one that can be one.
fn image_column(opened: &Opened, name: Option<&str>) -> anyhow::Result<Option<(usize, Images)>> {
    if let Some(name) = name {
        let (position, data_type) = named(opened, name)?;
        let images = images(&data_type);
        let images = images.with_context(|| {
            format!(
                "the column `{name}` has {}, and images are bytes, paths, or structs of `bytes` and `path`",
                kind(&data_type)
            )
        })?;
        return Ok(Some((position, images)));
    }
    let of =
        |position: usize| Some((position, images(opened.fields().nth(position)?.data_type())?));
    if let Some(position) = first(opened, IMAGE_NAMES, |it| images(it).is_some()) {
        return Ok(of(position));
    }
    let holding: Vec<_> = (0..opened.fields().len())
        .filter_map(of)
        .filter(|(_, images)| *images != Images::Paths)
        .collect();
    ensure!(
        holding.len() <= 1,
        "several columns may be the images, so name one with --image-column: {}",
        opened.described()
    );
    Ok(holding.first().copied())
}

fn text_column(opened: &Opened, name: &str) -> anyhow::Result<usize> {
    let (position, data_type) = named(opened, name)?;
    ensure!(
        is_text(&data_type),
        "the column `{name}` has {}, and no texts: {}",
        kind(&data_type),
        opened.described()
    );
    Ok(position)
}

fn id_column(opened: &Opened, name: Option<&str>) -> anyhow::Result<Option<usize>> {
    let fits = |it: &DataType| it.is_integer() || *it == DataType::Utf8;
    let Some(name) = name else { return Ok(first(opened, ID_NAMES, fits)) };
    let (position, data_type) = named(opened, name)?;
    ensure!(
        fits(&data_type) || data_type == DataType::Binary,
        "the column `{name}` has {}, and ids are texts or integers",
        kind(&data_type)
    );
    Ok(Some(position))
}

/// The names of classes that Hugging Face's data sets keep beside the columns.
fn class_names(opened: &Opened) -> anyhow::Result<Vec<String>> {
    let note = opened.note("huggingface").unwrap_or_default();
    let note: Value = serde_json::from_str(note).unwrap_or_default();
    let names = note["info"]["features"]["label"]["names"].as_array();
    let names = names.context(
        "the column `label` has integers, and the file does not say which classes they are: write their names in it",
    )?;
    Ok(names.iter().map(|name| name.as_str().unwrap_or_default().to_owned()).collect())
}

fn text(column: &ArrayRef) -> Option<String> {
    Some(std::str::from_utf8(bytes(column, 0)?).ok()?.to_owned())
}

/// The value of an id column as a text; none if it is null.
pub(super) fn key(column: &ArrayRef, row: usize) -> Option<String> {
    macro_rules! integer {
        ($($name:ident => $kind:ident,)*) => {
            match column.data_type() {
                $(DataType::$name => {
                    Some(column.as_primitive_opt::<types::$kind>()?.value(row).to_string())
                })*
                _ => Some(std::str::from_utf8(bytes(column, row)?).ok()?.to_owned()),
            }
        };
    }
    if !column.is_valid(row) {
        return None;
    }
    integer! {
        Int8 => Int8Type, Int16 => Int16Type, Int32 => Int32Type, Int64 => Int64Type,
        UInt8 => UInt8Type, UInt16 => UInt16Type, UInt32 => UInt32Type, UInt64 => UInt64Type,
    }
}
