//! What an evaluation reads: images with the classes or the captions that belong to them.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};

use crate::{
    cli::offline::{
        inputs::is_image,
        parquet_file::{Records, Stored},
    },
    small_file,
};

/// Maximum number of bytes of a file that lists captions.
const MAX_LIST_BYTES: u64 = 1 << 30;

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    File(PathBuf),
    /// The row of the Parquet file, from 0.
    Row(usize),
}

/// Images and texts, each once, and which belong together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Data {
    /// Images, each once; rows of a Parquet file in ascending order.
    pub(super) images: Vec<Place>,
    /// The Parquet file that the images are in.
    pub(super) table: Option<PathBuf>,
    /// Class names, or captions, each once.
    pub(super) texts: Vec<String>,
    /// The rows of the data, in order: an image and the text that belongs to it.
    pub(super) pairs: Vec<[usize; 2]>,
    /// Whether the texts are names of classes, which prompts are made of.
    pub(super) classes: bool,
}

impl Data {
    /// Reads a folder of class folders, a CSV file with the columns `image` and `caption`, or a Parquet file with
    /// `image` and either `caption` or `label`.
    ///
    /// # Errors
    /// Fails if it is none of them, or if there is nothing to evaluate in it.
    pub(super) fn read(path: &Path, max_image_bytes: usize) -> anyhow::Result<Self> {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let data = match ending.to_ascii_lowercase().as_str() {
            _ if path.is_dir() => Self::of_classes(path)?,
            "csv" => Self::of_captions(path)?,
            "parquet" => Self::of_table(path, max_image_bytes)?,
            _ => bail!(
                "{}: a folder of class folders, a .csv file or a .parquet file is read",
                path.display()
            ),
        };
        ensure!(!data.pairs.is_empty(), "{}: there is no image in it", path.display());
        Ok(data)
    }

    fn of_classes(folder: &Path) -> anyhow::Result<Self> {
        let mut data = Self::new(true);
        for class in entries(folder)?.into_iter().filter(|path| path.is_dir()) {
            let Some(name) = class.file_name().and_then(|name| name.to_str()) else {
                bail!("{}: the name of a class is not UTF-8", class.display());
            };
            let images: Vec<_> = entries(&class)?.into_iter().filter(|it| is_image(it)).collect();
            if images.is_empty() {
                continue;
            }
            let text = data.texts.len();
            data.texts.push(name.replace('_', " "));
            for image in images {
                data.pairs.push([data.images.len(), text]);
                data.images.push(Place::File(image));
            }
        }
        ensure!(
            !data.texts.is_empty(),
            "{}: a folder is read as one folder of images for each class, and there is none; captions are read from a \
             CSV file with the columns `image` and `caption`",
            folder.display()
        );
        Ok(data)
    }

    fn of_captions(path: &Path) -> anyhow::Result<Self> {
        let bytes = small_file::read(path, MAX_LIST_BYTES);
        let bytes = bytes.with_context(|| path.display().to_string())?;
        let mut rows = records(&bytes).into_iter();
        let head = rows.next().unwrap_or_default();
        let column = |name: &str| {
            let found = head.iter().position(|field| field.trim_start_matches('\u{feff}') == name);
            found.with_context(|| {
                format!("{}: its first line has no column `{name}`", path.display())
            })
        };
        let (image_column, caption_column) = (column("image")?, column("caption")?);
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut data = Self::new(false);
        let (mut images, mut texts) = (HashMap::new(), HashMap::new());
        for (number, row) in rows.enumerate() {
            let field = |column: usize| row.get(column).filter(|field| !field.is_empty());
            let (Some(image), Some(text)) = (field(image_column), field(caption_column)) else {
                bail!("{}: row {} lacks an image or a caption", path.display(), number + 2);
            };
            let image = *images.entry(image.clone()).or_insert_with(|| {
                data.images.push(Place::File(folder.join(image)));
                data.images.len() - 1
            });
            let text = *texts.entry(text.clone()).or_insert_with(|| {
                data.texts.push(text.clone());
                data.texts.len() - 1
            });
            data.pairs.push([image, text]);
        }
        Ok(data)
    }

    /// Equal images and equal texts are one, as in a CSV file. Images are not kept: they are read once more.
    fn of_table(path: &Path, max_image_bytes: usize) -> anyhow::Result<Self> {
        let (mut records, classes) = Records::of_pairs(path, max_image_bytes)?;
        let mut data = Self { table: Some(path.to_owned()), ..Self::new(classes) };
        let (mut images, mut texts) = (HashMap::new(), HashMap::new());
        let mut number = 0;
        while let Some(record) = records.next()? {
            let (None, Some(image), Some(text)) = (&record.fault, record.image, record.text) else {
                let reason = record.fault.unwrap_or_default();
                bail!("{}: row {}: {reason}", path.display(), number + 1);
            };
            let hash = match &image {
                Stored::Bytes(bytes) => blake3::hash(bytes),
                Stored::File(path) => {
                    blake3::keyed_hash(&[1; 32], path.as_os_str().as_encoded_bytes())
                }
            };
            let image = *images.entry(hash).or_insert_with(|| {
                data.images.push(Place::Row(number));
                data.images.len() - 1
            });
            let text = if classes { text.replace('_', " ") } else { text };
            let text = *texts.entry(text.clone()).or_insert_with(|| {
                data.texts.push(text);
                data.texts.len() - 1
            });
            data.pairs.push([image, text]);
            number += 1;
        }
        Ok(data)
    }

    fn new(classes: bool) -> Self {
        let (images, texts, pairs) = (Vec::new(), Vec::new(), Vec::new());
        Self { images, table: None, texts, pairs, classes }
    }

    /// Leaves out the images that could not be embedded, with their rows, and texts that no row has any more.
    pub(super) fn without(mut self, failed: &[bool]) -> Self {
        self.pairs.retain(|[image, _]| !failed[*image]);
        let renumbered = |kept: &[bool]| {
            let mut next = 0;
            let number = |&keep: &bool| {
                next += usize::from(keep);
                next - usize::from(keep)
            };
            kept.iter().map(number).collect::<Vec<_>>()
        };
        let kept: Vec<_> = failed.iter().map(|failed| !failed).collect();
        let numbers = renumbered(&kept);
        // Classes stay, so that the question is as hard as it was.
        let mut used = vec![self.classes; self.texts.len()];
        self.pairs.iter().for_each(|&[_, text]| used[text] = true);
        let text_numbers = renumbered(&used);
        for [image, text] in &mut self.pairs {
            (*image, *text) = (numbers[*image], text_numbers[*text]);
        }
        let mut keep = kept.iter();
        self.images.retain(|_| *keep.next().unwrap_or(&true));
        let mut keep = used.iter();
        self.texts.retain(|_| *keep.next().unwrap_or(&true));
        self
    }

    /// For each image the texts that belong to it, in order and each once.
    pub(super) fn positives(&self) -> Vec<Vec<usize>> {
        let mut positives = vec![Vec::new(); self.images.len()];
        self.pairs.iter().for_each(|&[image, text]| positives[image].push(text));
        for texts in &mut positives {
            texts.sort_unstable();
            texts.dedup();
        }
        positives
    }
}

/// What a folder holds, by name.
fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let read = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect();
    let read: std::io::Result<Vec<PathBuf>> = read();
    let mut paths = read.with_context(|| folder.display().to_string())?;
    paths.sort();
    Ok(paths)
}

/// The records of a CSV text. Bytes that are no UTF-8 become replacement characters.
fn records(bytes: &[u8]) -> Vec<Vec<String>> {
    use csv_core::{ReadRecordResult, Reader};
    let mut reader = Reader::new();
    let (mut rest, mut records) = (bytes, Vec::new());
    let (mut output, mut ends) = (vec![0; 1 << 16], vec![0; 64]);
    let (mut written, mut fields) = (0, 0);
    loop {
        let (result, read, more, more_fields) =
            reader.read_record(rest, &mut output[written..], &mut ends[fields..]);
        rest = &rest[read..];
        written += more;
        fields += more_fields;
        match result {
            ReadRecordResult::InputEmpty => {}
            ReadRecordResult::OutputFull => output.resize(output.len() * 2, 0),
            ReadRecordResult::OutputEndsFull => ends.resize(ends.len() * 2, 0),
            ReadRecordResult::Record => {
                let mut begin = 0;
                let field = |&end: &usize| {
                    let field = String::from_utf8_lossy(&output[begin..end]).into_owned();
                    begin = end;
                    field
                };
                records.push(ends[..fields].iter().map(field).collect());
                (written, fields) = (0, 0);
            }
            ReadRecordResult::End => return records,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_is_read_with_quotes_and_line_breaks() {
        let text = b"image,caption\r\na.png,\"a cat, \"\"the\ncat\"\"\"\nb.png,dog";
        assert_eq!(
            records(text),
            [vec!["image", "caption"], vec!["a.png", "a cat, \"the\ncat\""], vec!["b.png", "dog"]]
        );
        let long = "x".repeat(200_000);
        assert_eq!(records(format!("{long},2").as_bytes()), [vec![long, "2".to_owned()]]);
    }

    #[test]
    fn captions_and_images_are_counted_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let list = folder.path().join("list.csv");
        fs::write(&list, "\u{feff}caption,id,image\na cat,1,a.png\na pet,2,a.png\na cat,3,b.png\n")
            .expect("written");
        let data = Data::read(&list, 9).expect("reads");
        assert_eq!(data.images, ["a.png", "b.png"].map(|it| Place::File(folder.path().join(it))));
        assert_eq!(data.texts, ["a cat", "a pet"]);
        assert_eq!(data.pairs, [[0, 0], [0, 1], [1, 0]]);
        assert_eq!(data.positives(), [vec![0, 1], vec![0]]);
        let left = data.without(&[true, false]);
        assert_eq!(
            (left.images.len(), left.texts, left.pairs),
            (1, vec!["a cat".into()], vec![[0, 0]])
        );
    }

    #[test]
    fn a_folder_has_a_folder_for_each_class() {
        let folder = tempfile::tempdir().expect("a folder");
        for (class, file) in
            [("hot_dog", "1.PNG"), ("cat", "b.jpg"), ("cat", "a.jpg"), ("empty", "x.txt")]
        {
            fs::create_dir_all(folder.path().join(class)).expect("made");
            fs::write(folder.path().join(class).join(file), "").expect("written");
        }
        let data = Data::read(folder.path(), 9).expect("reads");
        assert_eq!(data.texts, ["cat", "hot dog"]);
        assert_eq!(data.pairs, [[0, 0], [1, 0], [2, 1]]);
        assert!(data.classes);
        let error = Data::read(&folder.path().join("cat"), 9).expect_err("no classes").to_string();
        assert!(error.contains("one folder of images for each class"), "{error}");
    }
}
