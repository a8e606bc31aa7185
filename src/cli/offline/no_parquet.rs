//! What stands in the place of Parquet files in a build without the feature `parquet`.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
};

use anyhow::bail;
use bytes::Bytes;

use super::{formats::Whole, index::Index, journal::Stamp, selection::Selection};

const REASON: &str =
    "this build reads and writes no Parquet files: build it with the feature `parquet`";

/// An image of a row.
#[derive(Debug, Clone)]
#[expect(dead_code, reason = "there are no rows in such a build")]
pub(in crate::cli) enum Stored {
    Bytes(Bytes),
    File(PathBuf),
}

/// A row.
pub(in crate::cli) struct Record {
    pub(in crate::cli) id: String,
    pub(in crate::cli) image: Option<Stored>,
    pub(in crate::cli) text: Option<String>,
    pub(in crate::cli) fault: Option<String>,
}

/// Rows that are never there.
pub(in crate::cli) struct Records(Infallible);

impl Records {
    pub(in crate::cli) fn of_items(path: &Path, _: &Selection, _: usize) -> anyhow::Result<Self> {
        bail!("{}: {REASON}", path.display())
    }

    pub(in crate::cli) fn of_pairs(path: &Path, _: usize) -> anyhow::Result<(Self, bool)> {
        bail!("{}: {REASON}", path.display())
    }

    pub(in crate::cli) fn count(&self) -> u64 {
        match self.0 {}
    }

    pub(in crate::cli) fn next(&mut self) -> anyhow::Result<Option<Record>> {
        match self.0 {}
    }
}

/// A file that is never written.
pub(super) struct Writer(Infallible);

impl Writer {
    pub(super) fn new(_: Whole, _: &Stamp) -> anyhow::Result<Self> {
        bail!("{REASON}")
    }

    pub(super) fn put(&mut self, _: String, _: &[f32], _: bool) -> anyhow::Result<()> {
        match self.0 {}
    }

    pub(super) fn finish(self) -> anyhow::Result<()> {
        match self.0 {}
    }
}

pub(super) fn read(_: &Path) -> anyhow::Result<Index> {
    bail!("{REASON}")
}
