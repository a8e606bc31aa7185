//! The bytes of a safetensors file: embedded in the program, or read piece by piece.
//!
//! A file is not mapped: towers are loaded while the server serves, and a process ends if a file that it has mapped
//! becomes shorter.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    ops::Range,
    path::Path,
    time::SystemTime,
};

use crate::small_file;

/// Bytes that are read at once. They are still in the processor's cache when they are converted.
const PIECE_BYTES: usize = 256 << 10;

/// A file of weights.
pub(in crate::model) enum WeightFile {
    Embedded(&'static [u8]),
    OnDisk {
        file: File,
        /// The length and the time of the last change when the file was opened.
        state: (usize, SystemTime),
    },
}

impl WeightFile {
    /// # Errors
    /// The system's error, and [`io::ErrorKind::InvalidInput`] if the path is not a regular file.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let file = small_file::open_regular(path)?;
        let state = state(&file)?;
        Ok(Self::OnDisk { file, state })
    }

    /// The length in bytes.
    pub(in crate::model) fn len(&self) -> usize {
        match self {
            Self::Embedded(bytes) => bytes.len(),
            Self::OnDisk { state: (length, _), .. } => *length,
        }
    }

    /// Reads a range into memory.
    ///
    /// # Errors
    /// The system's error, and [`io::ErrorKind::UnexpectedEof`] if the file ends before the range.
    pub(in crate::model) fn read(&self, range: Range<usize>) -> io::Result<Cow<'static, [u8]>> {
        match self {
            Self::Embedded(bytes) => bytes
                .get(range)
                .map(Cow::Borrowed)
                .ok_or_else(|| io::ErrorKind::UnexpectedEof.into()),
            Self::OnDisk { file, .. } => {
                let mut bytes = vec![0; range.len()];
                seek(file, range.start)?;
                let mut file = file;
                file.read_exact(&mut bytes)?;
                Ok(Cow::Owned(bytes))
            }
        }
    }

    /// Hands a range over piece by piece. All pieces but the last have a length that every element type divides.
    ///
    /// # Errors
    /// As [`WeightFile::read`], and the first error of `take`.
    pub(in crate::model) fn pieces<E: From<io::Error>>(
        &self,
        range: Range<usize>,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut file, length) = match self {
            Self::Embedded(_) => return take(&self.read(range)?),
            Self::OnDisk { file, .. } => (file, range.len()),
        };
        seek(file, range.start)?;
        let mut piece = vec![0; length.min(PIECE_BYTES)];
        let mut left = length;
        while left > 0 {
            let piece = &mut piece[..left.min(PIECE_BYTES)];
            file.read_exact(piece)?;
            take(piece)?;
            left -= piece.len();
        }
        Ok(())
    }

    /// Whether the file has the length and the time of change that it had when it was opened. Values from before and
    /// after a change must not form one tower.
    ///
    /// # Errors
    /// The system's error.
    pub(in crate::model) fn is_unchanged(&self) -> io::Result<bool> {
        match self {
            Self::Embedded(_) => Ok(true),
            Self::OnDisk { file, state: before } => Ok(state(file)? == *before),
        }
    }
}

fn state(file: &File) -> io::Result<(usize, SystemTime)> {
    let metadata = file.metadata()?;
    let too_large = |_| io::Error::new(io::ErrorKind::InvalidInput, "it is too large");
    Ok((usize::try_from(metadata.len()).map_err(too_large)?, metadata.modified()?))
}

fn seek(mut file: &File, to: usize) -> io::Result<()> {
    file.seek(SeekFrom::Start(to as u64)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> (tempfile::NamedTempFile, WeightFile) {
        let path = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(path.path(), bytes).expect("writes");
        let opened = WeightFile::at(path.path()).expect("opens");
        (path, opened)
    }

    #[test]
    fn pieces_are_the_range() {
        let bytes: Vec<u8> = (0..PIECE_BYTES * 2 + 77).map(|at| (at % 251) as u8).collect();
        let (_path, file) = file(&bytes);
        for range in [0..0, 5..9, 3..PIECE_BYTES + 3, 8..bytes.len()] {
            let mut found = Vec::new();
            let taken = file.pieces::<io::Error>(range.clone(), |piece| {
                found.extend_from_slice(piece);
                Ok(())
            });
            taken.expect("reads");
            assert!(found == bytes[range.clone()], "{range:?}");
            assert!(*file.read(range.clone()).expect("reads") == bytes[range]);
        }
    }

    #[test]
    fn a_file_that_became_shorter_is_an_error() {
        let (path, opened) = file(&[1; 100]);
        assert!(opened.is_unchanged().expect("is there"));
        path.as_file().set_len(50).expect("shortens");
        let error = opened.read(40..60).expect_err("it has 50 bytes");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(opened.pieces::<io::Error>(40..60, |_| Ok(())).is_err());
        assert!(!opened.is_unchanged().expect("is there"));
    }
}
