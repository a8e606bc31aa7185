//! Reads files that the configuration or a checkpoint names: keys, certificates, settings, descriptions of a
//! model.
//!
//! Such a path may be something other than a file: opening a pipe blocks the process, and reading a device
//! never ends. So the file is opened without waiting, must be a regular file, and is read up to a limit.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    path::Path,
};

/// Reads a regular file of at most `max_bytes`.
///
/// # Errors
/// The system's error, and [`io::ErrorKind::InvalidInput`] if it is not a regular file or has more bytes.
pub fn read(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let file = open_regular(path)?;
    let length = file.metadata()?.len();
    let too_large = || {
        let reason = format!("it has more than {max_bytes} bytes");
        io::Error::new(io::ErrorKind::InvalidInput, reason)
    };
    if length > max_bytes {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    // The file may grow while it is read.
    file.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes { Err(too_large()) } else { Ok(bytes) }
}

/// Reads a regular file of at most `max_bytes` that holds a text.
///
/// # Errors
/// Those of [`read`], and [`io::ErrorKind::InvalidData`] if the content is not UTF-8.
pub fn read_to_string(path: &Path, max_bytes: u64) -> io::Result<String> {
    let not_utf8 = |_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8");
    read(path, max_bytes).and_then(|bytes| String::from_utf8(bytes).map_err(not_utf8))
}

/// Opens a regular file, of any size.
///
/// # Errors
/// The system's error, and [`io::ErrorKind::InvalidInput`] if it is not a regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let file = open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
    }
}

#[cfg(target_os = "linux")]
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = rustix::fs::OFlags::NONBLOCK.bits();
    // The kernel's flags are a C int.
    OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)
}

#[cfg(not(target_os = "linux"))]
fn open(path: &Path) -> io::Result<File> {
    // This system cannot open a file without waiting, so the path is checked first.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    OpenOptions::new().read(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_within_the_limit_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys.toml");
        std::fs::write(&path, "12345").expect("written");
        assert_eq!(read(&path, 5).expect("small enough"), b"12345");
        assert!(read(&path, 4).expect_err("too large").to_string().contains("more than 4 bytes"));
        assert!(read(folder.path(), 4).is_err());
        assert_eq!(read_to_string(&path, 5).expect("a text"), "12345");
        std::fs::write(&path, b"\xff").expect("written");
        assert!(read_to_string(&path, 5).expect_err("no text").to_string().contains("UTF-8"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn pipes_and_devices_are_refused_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("runs");
        assert!(made.success());
        for path in [&pipe, Path::new("/dev/zero")] {
            let refused = read(path, 1 << 20).expect_err("not a file");
            assert_eq!(refused.to_string(), "it is not a regular file", "{}", path.display());
            assert!(open_regular(path).is_err(), "{}", path.display());
        }
    }
}
