//! What tells a broken tower from a bad input.

use super::{
    isolate::{self, RowResult, Rows},
    queue::Row,
};
use crate::{
    model::{ReaderRow, Tap, Tower},
    preprocess::Pixels,
    tokenize::Tokens,
};

/// Batches that may fail on every row before any row has succeeded. Until one has, there is nothing to tell
/// a broken tower from a bad input by.
const UNPROVEN_FAILURES: u32 = 3;

/// What a worker knows of its towers' health; the next worker takes it over.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) images: Health<Pixels>,
    pub(super) texts: Health<Tokens>,
    pub(super) reads: Health<ReaderRow>,
}

/// What tells a broken tower from a bad input: the last row that succeeded must succeed again.
pub(super) struct Health<I> {
    good_row: Option<(I, Tap)>,
    unproven_failures: u32,
}

impl<I> Default for Health<I> {
    fn default() -> Self {
        Self { good_row: None, unproven_failures: 0 }
    }
}

/// The tower fails on everything.
pub(super) struct Broken;

impl<I: Row + Clone + Send + 'static> Health<I> {
    /// Remembers a good row; where every row failed, tries the tower on one that is known to be good.
    pub(super) fn judge(
        &mut self,
        tower: &mut dyn Tower<Input = I>,
        rows: Rows<'_, I>,
        results: &[RowResult],
    ) -> Result<(), Broken> {
        if let Some(good) = results.iter().position(Result::is_ok) {
            if self.good_row.is_none() {
                self.good_row = Some((rows.inputs[good].kept(), rows.taps[good]));
            }
            return Ok(());
        }
        if self.good_row.is_none() {
            self.unproven_failures += 1;
        }
        if self.is_well(tower) { Ok(()) } else { Err(Broken) }
    }

    /// Whether a tower embeds the row that is known to be good; without one, whether it has not failed too
    /// often yet.
    pub(super) fn is_well(&self, tower: &mut dyn Tower<Input = I>) -> bool {
        match &self.good_row {
            Some((input, tap)) => {
                // A row may hold on to what a tower gives it.
                let input = input.kept();
                let row = Rows { inputs: std::slice::from_ref(&input), taps: &[*tap] };
                isolate::forward(tower, row)[0].is_ok()
            }
            None => self.unproven_failures < UNPROVEN_FAILURES,
        }
    }
}
