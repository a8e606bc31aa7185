//! Files that people write by hand: keys, settings, descriptions of a model.
//!
//! Such a path may lead to something else than a file: opening a pipe blocks the process, and reading a device never
//! ends. So the file is opened without waiting, must be a regular one, and is read up to a limit.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    path::Path,
};

/// Reads a regular file of at most `max_bytes`.
///
/// # Errors
/// The system's own, and [`io::ErrorKind::InvalidInput`] for what is not a regular file or has more bytes.
pub fn read(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let refused = |reason: String| io::Error::new(io::ErrorKind::InvalidInput, reason);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(refused("it is not a regular file".to_owned()));
    }
    let too_large = || refused(format!("it has more than {max_bytes} bytes"));
    if metadata.len() > max_bytes {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
    // It may grow while it is read.
    file.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes { Err(too_large()) } else { Ok(bytes) }
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
    // Without a way to open it that never waits, the path is looked at first.
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
        }
    }
}
