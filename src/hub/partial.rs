//! Opens the files that a download writes into the cache.
//!
//! Other users may write to a shared cache too. If one of them put a link in the place of a file, the download
//! would overwrite the link's target with this process's rights. So the download only writes to a regular file
//! that has no other name and is not a link.

use std::{
    fs::{File, Metadata, OpenOptions},
    io,
    path::Path,
};

/// Opens a file to append to it. If there is none, or something else, a new file is created.
///
/// # Errors
/// The system's error.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let mut existing = OpenOptions::new();
    existing.append(true);
    match opened(existing, path) {
        Ok(file) if is_own(&file.metadata()?) => return Ok(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if !is_link(path) => return Err(error),
        // Removing a link does not remove its target.
        _ => std::fs::remove_file(path)?,
    }
    let mut new = OpenOptions::new();
    new.append(true).create_new(true);
    opened(new, path)
}

fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|file| file.is_symlink())
}

#[cfg(unix)]
fn opened(mut options: OpenOptions, path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    options.custom_flags(flags).open(path)
}

#[cfg(not(unix))]
fn opened(options: OpenOptions, path: &Path) -> io::Result<File> {
    if is_link(path) {
        return Err(io::Error::other("it is a link"));
    }
    options.open(path)
}

#[cfg(unix)]
fn is_own(file: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    file.is_file() && file.nlink() == 1
}

#[cfg(not(unix))]
fn is_own(file: &Metadata) -> bool {
    file.is_file()
}

#[cfg(all(test, unix))]
mod tests {
    use std::{fs, io::Write as _, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn nothing_is_written_through_a_link() {
        let folder = tempfile::tempdir().expect("a folder");
        let (victim, path) = (folder.path().join("victim"), folder.path().join("partial"));
        for kind in ["none", "file", "symbolic", "dangling", "hard"] {
            fs::write(&victim, "mine").expect("written");
            let _ = fs::remove_file(&path);
            match kind {
                "file" => fs::write(&path, "begun ").expect("written"),
                "symbolic" => symlink(&victim, &path).expect("a link"),
                "dangling" => symlink(folder.path().join("new"), &path).expect("a link"),
                "hard" => fs::hard_link(&victim, &path).expect("a link"),
                _ => {}
            }
            open(&path).expect(kind).write_all(b"bytes").expect("written");
            let expected = if kind == "file" { "begun bytes" } else { "bytes" };
            assert_eq!(fs::read_to_string(&path).expect("there"), expected, "{kind}");
            assert_eq!(fs::read_to_string(&victim).expect("there"), "mine", "{kind}");
            assert!(!is_link(&path) && !folder.path().join("new").exists(), "{kind}");
        }
    }
}
