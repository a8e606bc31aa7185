//! The inputs of `embed`: files, folders, patterns, lists, archives, Parquet files, videos and PDF files. A thread finds
//! rows, at most sixteen ahead of those that are embedded, so that memory does not grow with the number of rows.

mod source;

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tokio::sync::mpsc;

use self::source::Source;
use super::{parquet_file::Records, parts::is_video, rows::Row, selection::Selection};

/// Rows that are found ahead. Images out of an archive or a Parquet file are held meanwhile.
const AHEAD: usize = 16;
/// A block ends when its images out of archives and Parquet files have more bytes than this.
const MAX_HELD: usize = 64 << 20;
/// Endings of files that are taken for images in a folder and in an archive.
const IMAGE_ENDINGS: &[&str] =
    &["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif", "jxl"];

/// A row to embed, and what it goes by in the output.
#[derive(Debug)]
pub(in crate::cli) struct Item {
    pub(in crate::cli) id: String,
    pub(in crate::cli) row: Row,
}

/// All rows, one after the other.
#[derive(Debug)]
pub(in crate::cli) struct Inputs {
    items: mpsc::Receiver<anyhow::Result<Item>>,
    /// How many there are, where that is known before they are read.
    pub(super) count: Option<u64>,
}

impl Inputs {
    /// Finds what the paths and the texts name.
    ///
    /// * `max_image_bytes`: no more of an image in an archive or a Parquet file is read, and one byte beyond
    ///
    /// # Errors
    /// Fails if a folder cannot be read, if a pattern matches nothing, or if a Parquet file has no column to read.
    pub(in crate::cli) fn find(
        paths: &[PathBuf],
        texts: Vec<String>,
        selection: Selection,
        max_image_bytes: usize,
    ) -> anyhow::Result<Self> {
        let mut sources = Vec::new();
        for path in paths {
            expand(path, &selection, &mut sources)?;
        }
        sources.extend(texts.into_iter().map(Source::Text));
        let mut count = Some(0);
        for source in &sources {
            let rows = match source {
                Source::Image(_) | Source::Text(_) => Some(1),
                // Opened here as well, so that a wrong column is told before the model is loaded.
                Source::Table(path) => {
                    Some(Records::of_items(path, &selection, max_image_bytes)?.count())
                }
                Source::Lines(_)
                | Source::Objects(_)
                | Source::Archive(_)
                | Source::Video(_)
                | Source::Pages(_) => None,
            };
            count = count.zip(rows).map(|(all, rows)| all + rows);
        }
        let (sender, items) = mpsc::channel(AHEAD);
        // A thread of its own: reading a list waits for the disk, and blocks nobody here.
        std::thread::Builder::new().name("inputs".to_owned()).spawn(move || {
            for source in sources {
                let send = || source.send(&sender, &selection, max_image_bytes);
                match catch_unwind(AssertUnwindSafe(send)) {
                    Ok(Some(())) => {}
                    // Nobody listens any more.
                    Ok(None) => break,
                    // Without an error, the end of this thread would be taken for the end of the rows.
                    Err(_) => {
                        let error = anyhow::anyhow!("a reader of files failed, see above");
                        sender.blocking_send(Err(error)).unwrap_or_default();
                        break;
                    }
                }
            }
        })?;
        Ok(Self { items, count })
    }

    /// At most so many rows; none at the end.
    pub(in crate::cli) async fn next(&mut self, most: usize) -> anyhow::Result<Vec<Item>> {
        let (mut found, mut held) = (Vec::new(), 0);
        while found.len() < most && held <= MAX_HELD {
            let Some(item) = self.items.recv().await else { break };
            let item = item?;
            if let Row::Member { bytes, .. } = &item.row {
                held += bytes.len();
            }
            found.push(item);
        }
        Ok(found)
    }
}

/// The sources that a path names.
fn expand(path: &Path, selection: &Selection, sources: &mut Vec<Source>) -> anyhow::Result<()> {
    if path.is_dir() {
        return walk(path, selection, sources);
    }
    let pattern = path.to_str().filter(|text| text.contains(['*', '?', '[']) && !path.exists());
    if let Some(pattern) = pattern {
        let paths = glob::glob(pattern).with_context(|| format!("the pattern {pattern}"))?;
        let mut paths = paths.collect::<Result<Vec<_>, _>>()?;
        paths.sort();
        anyhow::ensure!(!paths.is_empty(), "{pattern}: there is no such file");
        return paths.iter().try_for_each(|path| expand(path, selection, sources));
    }
    let path = path.to_owned();
    sources.push(match ending(&path).as_str() {
        "txt" => Source::Lines(path),
        "ndjson" | "jsonl" => Source::Objects(path),
        "tar" => Source::Archive(path),
        "parquet" => Source::Table(path),
        "pdf" => Source::Pages(path),
        ending if is_video(ending) => Source::Video(path),
        _ => Source::Image(path),
    });
    Ok(())
}

/// The images below a folder by name, and its videos if they are asked for. Links to folders are not followed, or a circle
/// of links would have no end.
fn walk(folder: &Path, selection: &Selection, sources: &mut Vec<Source>) -> anyhow::Result<()> {
    let entries = || fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>();
    let mut entries = entries().with_context(|| folder.display().to_string())?;
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, selection, sources)?;
        } else if is_image(&path) {
            sources.push(Source::Image(path));
        } else if selection.video_every.is_some() && is_video(&ending(&path)) {
            sources.push(Source::Video(path));
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

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    async fn all(paths: &[PathBuf], selection: Selection) -> Vec<(String, Row)> {
        let mut inputs =
            Inputs::find(paths, vec!["a text".to_owned()], selection, 4).expect("found");
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
        for (name, bytes) in
            [("000.jpg", &b"abc"[..]), ("000.txt", b" a bird\n"), ("001.jpg", b"abcdefgh")]
        {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            archive.append_data(&mut header, name, bytes).expect("appended");
        }
        archive.finish().expect("written");

        let paths = ["photos", "x*.webp", "words.txt", "list.ndjson", "shard.tar"].map(at);
        let rows = all(&paths, Selection::default()).await;
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

        let texts =
            |ending: &str| Selection { text_column: Some(ending.into()), ..Selection::default() };
        let rows = all(&[at("shard.tar")], texts("txt")).await;
        assert!(rows[0].0.ends_with("shard.tar/000.txt"), "{rows:?}");
        assert!(matches!(&rows[0].1, Row::Text(text) if text == "a bird"));
        assert_eq!(rows.len(), 2);
        let mut inputs = Inputs::find(&[at("shard.tar")], vec![], texts("json"), 4).expect("found");
        let error = inputs.next(1).await.expect_err("no such member");
        assert!(
            format!("{error:#}").contains("no member of the archive ends in .json"),
            "{error:#}"
        );
    }

    #[tokio::test]
    async fn a_pattern_without_a_file_is_an_error() {
        let error = Inputs::find(&["/nowhere/*.jpg".into()], vec![], Selection::default(), 4)
            .expect_err("no file");
        assert!(error.to_string().contains("there is no such file"), "{error}");
        // A plain path that is not there is a row that fails.
        let rows = all(&["/nowhere/at/all.png".into()], Selection::default()).await;
        assert_eq!(rows.len(), 2);
    }
}
