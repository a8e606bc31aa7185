//! The inputs of `embed`: files, folders, patterns, lists and archives. A thread of its own finds rows, at most sixteen
//! ahead of those that are embedded, so that memory does not grow with the number of rows in a list or an archive.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::rows::Row;
use crate::small_file;

/// Rows that are found ahead. Members of an archive are held meanwhile.
const AHEAD: usize = 16;
/// Maximum number of bytes of a line of a list.
const MAX_LINE: u64 = 1 << 20;
/// Endings of files that are taken for images in a folder and in an archive.
const IMAGE_ENDINGS: &[&str] =
    &["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif", "jxl"];

/// A row to embed, and what it goes by in the output.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) row: Row,
}

/// Where rows come from, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Image(PathBuf),
    Text(String),
    /// A text on each line.
    Lines(PathBuf),
    /// A JSON object on each line: `id`, and `text` or `image` (a path).
    Objects(PathBuf),
    /// An archive of images, such as a shard of a WebDataset.
    Archive(PathBuf),
}

/// All rows, one after the other.
#[derive(Debug)]
pub(super) struct Inputs {
    items: mpsc::Receiver<anyhow::Result<Item>>,
    /// How many there are, where that is known before they are read.
    pub(super) count: Option<u64>,
}

impl Inputs {
    /// Finds what the paths and the texts name.
    ///
    /// * `max_image_bytes`: no more of an archive's member is read, and one byte beyond
    ///
    /// # Errors
    /// Fails if a folder cannot be read, or if a pattern matches nothing.
    pub(super) fn find(
        paths: &[PathBuf],
        texts: Vec<String>,
        max_image_bytes: usize,
    ) -> anyhow::Result<Self> {
        let mut sources = Vec::new();
        for path in paths {
            expand(path, &mut sources)?;
        }
        sources.extend(texts.into_iter().map(Source::Text));
        let single = |source: &Source| matches!(source, Source::Image(_) | Source::Text(_));
        let count = sources.iter().all(single).then_some(sources.len() as u64);
        let (sender, items) = mpsc::channel(AHEAD);
        // A thread of its own: reading a list waits for the disk, and blocks nobody here.
        std::thread::Builder::new().name("inputs".to_owned()).spawn(move || {
            for source in sources {
                // Nobody listens any more.
                if source.send(&sender, max_image_bytes).is_none() {
                    break;
                }
            }
        })?;
        Ok(Self { items, count })
    }

    /// At most so many rows; none at the end.
    pub(super) async fn next(&mut self, most: usize) -> anyhow::Result<Vec<Item>> {
        let mut found = Vec::new();
        while found.len() < most {
            match self.items.recv().await {
                Some(item) => found.push(item?),
                None => break,
            }
        }
        Ok(found)
    }
}

/// The sources that a path names.
fn expand(path: &Path, sources: &mut Vec<Source>) -> anyhow::Result<()> {
    if path.is_dir() {
        return walk(path, sources);
    }
    let pattern = path.to_str().filter(|text| text.contains(['*', '?', '[']) && !path.exists());
    if let Some(pattern) = pattern {
        let paths = glob::glob(pattern).with_context(|| format!("the pattern {pattern}"))?;
        let mut paths = paths.collect::<Result<Vec<_>, _>>()?;
        paths.sort();
        anyhow::ensure!(!paths.is_empty(), "{pattern}: there is no such file");
        return paths.iter().try_for_each(|path| expand(path, sources));
    }
    let path = path.to_owned();
    sources.push(match ending(&path).as_str() {
        "txt" => Source::Lines(path),
        "ndjson" | "jsonl" => Source::Objects(path),
        "tar" => Source::Archive(path),
        _ => Source::Image(path),
    });
    Ok(())
}

/// The images below a folder, by name; links to folders are not followed, or a circle of them would have no end.
fn walk(folder: &Path, sources: &mut Vec<Source>) -> anyhow::Result<()> {
    let entries = || fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>();
    let mut entries = entries().with_context(|| folder.display().to_string())?;
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, sources)?;
        } else if is_image(&path) {
            sources.push(Source::Image(path));
        }
    }
    Ok(())
}

fn ending(path: &Path) -> String {
    path.extension().and_then(|it| it.to_str()).unwrap_or_default().to_ascii_lowercase()
}

/// Whether a file's ending is that of an image.
pub(in crate::cli) fn is_image(path: &Path) -> bool {
    IMAGE_ENDINGS.contains(&ending(path).as_str())
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
    fn send(self, sender: &Sender, max_image_bytes: usize) -> Option<()> {
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
                let read = members(&path, max_image_bytes, |item| {
                    ended = put(Ok(item));
                    ended.is_some()
                });
                match read {
                    Ok(()) => ended,
                    Err(error) => put(Err(error.context(path.display().to_string()))),
                }
            }
        }
    }
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

/// Calls for each image of an archive, until it says no.
fn members(
    path: &Path,
    max_image_bytes: usize,
    mut put: impl FnMut(Item) -> bool,
) -> anyhow::Result<()> {
    let mut archive = tar::Archive::new(BufReader::new(open(path)?));
    for member in archive.entries()? {
        let member = member?;
        let name = member.path()?.into_owned();
        if !member.header().entry_type().is_file() || !is_image(&name) {
            continue;
        }
        let id = path.join(name).display().to_string();
        let mut bytes = Vec::new();
        // No more than tells that it is too large, whatever its header says.
        member.take(max_image_bytes as u64 + 1).read_to_end(&mut bytes)?;
        let row = Row::Member { name: id.clone(), bytes: bytes.into() };
        if !put(Item { id, row }) {
            break;
        }
    }
    Ok(())
}

fn open(path: &Path) -> anyhow::Result<File> {
    small_file::open_regular(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(paths: &[PathBuf]) -> Vec<(String, Row)> {
        let mut inputs = Inputs::find(paths, vec!["a text".to_owned()], 4).expect("found");
        let mut rows = Vec::new();
        loop {
            let items = inputs.next(3).await.expect("read");
            if items.is_empty() {
                return rows;
            }
            rows.extend(items.into_iter().map(|item| (item.id, item.row)));
        }
    }

    #[tokio::test]
    async fn folders_patterns_lists_and_archives_are_read_in_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("photos/b")).expect("made");
        for name in ["photos/z.PNG", "photos/b/1.jpg", "photos/notes.doc", "x1.webp", "x2.webp"] {
            fs::write(at(name), name).expect("written");
        }
        fs::write(at("words.txt"), [&b"a cat\n\n  a dog \n"[..], &[0xff, b'\n']].concat())
            .expect("written");
        fs::write(
            at("list.ndjson"),
            "{\"id\": 7, \"text\": \"seven\"}\n{\"id\": \"k\", \"image\": \"x1.webp\"}\n{\"id\": 9}\n",
        )
        .expect("written");
        let mut archive = tar::Builder::new(File::create(at("shard.tar")).expect("made"));
        for (name, bytes) in [("000.jpg", &b"abc"[..]), ("000.cls", b"1"), ("001.jpg", b"abcdefgh")]
        {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            archive.append_data(&mut header, name, bytes).expect("appended");
        }
        archive.finish().expect("written");

        let paths = ["photos", "x*.webp", "words.txt", "list.ndjson", "shard.tar"].map(at);
        let rows = all(&paths).await;
        let root = format!("{}/", folder.path().display());
        let ids: Vec<_> = rows.iter().map(|(id, _)| id.replace(&root, "")).collect();
        let expected = [
            "photos/b/1.jpg",
            "photos/z.PNG",
            "x1.webp",
            "x2.webp",
            "words.txt:1",
            "words.txt:3",
            "words.txt:4",
            "7",
            "k",
            "list.ndjson:3",
            "shard.tar/000.jpg",
            "shard.tar/001.jpg",
            "a text",
        ];
        assert_eq!(ids, expected);
        assert!(matches!(&rows[5].1, Row::Text(text) if text == "a dog"));
        assert!(matches!(&rows[6].1, Row::Bad { reason, .. } if reason.contains("UTF-8")));
        assert!(matches!(&rows[8].1, Row::Image(path) if *path == at("x1.webp")));
        assert!(matches!(&rows[9].1, Row::Bad { reason, .. } if reason.contains("either")));
        // The limit was four bytes; one more is read of a larger member.
        assert!(matches!(&rows[11].1, Row::Member { bytes, .. } if &bytes[..] == b"abcde"));
    }

    #[tokio::test]
    async fn a_pattern_without_a_file_is_an_error() {
        let error = Inputs::find(&["/nowhere/*.jpg".into()], vec![], 4).expect_err("no file");
        assert!(error.to_string().contains("there is no such file"), "{error}");
        // A plain path that is not there is a row that fails.
        let rows = all(&["/nowhere/at/all.png".into()]).await;
        assert_eq!(rows.len(), 2);
    }
}
