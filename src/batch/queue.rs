//! One tower's queue: bounded, requests take turns within a priority, batches of one size.

mod line;

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use self::line::Line;
use super::{Answer, BatchError, Priority, RequestId, Share, Submit, policy};
use crate::{
    model::{ReaderRow, Tap},
    preprocess::Pixels,
    telemetry::Trace,
    tokenize::Tokens,
};

/// What a queue must know of a row: rows of one size run together, because a pass computes a rectangle.
/// Where every row of a tower has the same size, this distinguishes nothing.
pub(super) trait Row {
    /// A measure of the work, the same for rows that may share a pass.
    fn size(&self) -> usize;

    /// As how many rows it counts in a batch.
    fn weight(&self) -> usize {
        1
    }

    /// The row as it is kept to try a tower with later.
    fn kept(&self) -> Self;
}

impl Row for Pixels {
    /// Pixels, and with them patches: images of equally many patches share a pass in whatever shape.
    fn size(&self) -> usize {
        self.height as usize * self.width as usize
    }

    fn kept(&self) -> Self {
        self.clone()
    }
}

impl Row for Tokens {
    fn size(&self) -> usize {
        self.ids.len()
    }

    fn kept(&self) -> Self {
        self.clone()
    }
}

impl Row for ReaderRow {
    fn size(&self) -> usize {
        self.group()
    }

    fn weight(&self) -> usize {
        ReaderRow::weight(self)
    }

    fn kept(&self) -> Self {
        self.apart()
    }
}

/// What waits for the device's time of texts.
#[derive(Debug, Clone)]
pub(super) enum TextRow {
    /// A text to embed.
    Embed(Tokens),
    /// A piece of the reader's work.
    Read(ReaderRow),
}

impl Row for TextRow {
    /// No text has as many ids as a reader's group is given here.
    fn size(&self) -> usize {
        match self {
            Self::Embed(row) => row.size(),
            Self::Read(row) => row.size() | 1 << (usize::BITS - 1),
        }
    }

    fn weight(&self) -> usize {
        match self {
            Self::Embed(row) => row.weight(),
            Self::Read(row) => Row::weight(row),
        }
    }

    fn kept(&self) -> Self {
        match self {
            Self::Embed(row) => Self::Embed(row.kept()),
            Self::Read(row) => Self::Read(row.kept()),
        }
    }
}

/// A row that waits.
#[derive(Debug)]
pub(super) struct Entry<I> {
    pub(super) input: I,
    /// The output of the tower that the row asks for.
    pub(super) tap: Tap,
    pub(super) caller: Caller,
}

/// Who waits for a row.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) request: Option<RequestId>,
    pub(super) trace: Option<Trace>,
    pub(super) reply: oneshot::Sender<Result<Answer, BatchError>>,
    pub(super) submitted: Instant,
    pub(super) deadline: Option<Instant>,
    /// The request's span in the log, for what the worker logs about the row.
    pub(super) span: tracing::Span,
    /// Held until the pass has ended, because the input is in memory until then.
    _share: Share,
}

impl Caller {
    /// A caller that waits from now on.
    pub(super) fn new(
        how: &Submit,
        reply: oneshot::Sender<Result<Answer, BatchError>>,
        share: Share,
    ) -> Self {
        Self {
            request: how.request,
            trace: how.trace.clone(),
            reply,
            submitted: Instant::now(),
            deadline: how.deadline,
            span: tracing::Span::current(),
            _share: share,
        }
    }
}

impl<I> Entry<I> {
    /// Why the row needs no forward pass any more, if so.
    fn obsolete(&self, now: Instant) -> Option<Obsolete> {
        if self.caller.reply.is_closed() {
            Some(Obsolete::Cancelled)
        } else if self.caller.deadline.is_some_and(|deadline| deadline <= now) {
            Some(Obsolete::Expired)
        } else {
            None
        }
    }
}

/// Why a row was dropped before its forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obsolete {
    Cancelled,
    Expired,
}

impl Obsolete {
    /// The metrics' label.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

/// Rows of one tower that wait.
#[derive(Debug)]
pub(super) struct Queue<I> {
    interactive: Line<I>,
    bulk: Line<I>,
    /// Most rows that wait, both priorities together.
    max_queue_rows: usize,
    /// Most rows of a batch; see [`Queue::capacity`].
    pub(super) max_rows: usize,
    /// The size of row that `max_rows` is meant for, where rows differ in size.
    pub(super) full_size: Option<usize>,
    /// Device time had, for the policy.
    pub(super) served: Duration,
    /// See [`policy::Lane::passed_over`].
    passed_over: u32,
    /// Smoothed device time of one row, for `Retry-After`.
    row_time: Duration,
}

impl<I> Queue<I> {
    pub(super) fn new(max_rows: usize, max_queue_rows: usize) -> Self {
        Self {
            interactive: Line::new(max_rows),
            bulk: Line::new(max_rows),
            max_queue_rows,
            max_rows,
            full_size: None,
            served: Duration::ZERO,
            passed_over: 0,
            row_time: Duration::ZERO,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.interactive.len() + self.bulk.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.max_queue_rows
    }

    pub(super) fn push(&mut self, entry: Entry<I>, priority: Priority) {
        match priority {
            Priority::Interactive => self.interactive.push(entry),
            Priority::Bulk => self.bulk.push(entry),
        }
    }

    /// When the row that waits longest came in.
    pub(super) fn oldest(&self) -> Option<Instant> {
        [self.interactive.oldest(), self.bulk.oldest()].into_iter().flatten().min()
    }

    pub(super) fn lane(&self) -> policy::Lane {
        let passed_over = match (self.bulk.oldest(), self.interactive.oldest()) {
            // Patience is for rows that came later: a bulk row passes none that was there before it.
            (Some(bulk), Some(interactive)) if interactive < bulk => {
                self.passed_over.min(policy::PATIENCE - 1)
            }
            _ => self.passed_over,
        };
        policy::Lane {
            interactive: self.interactive.len(),
            bulk: self.bulk.len(),
            served: self.served,
            passed_over,
        }
    }

    /// Takes out the rows that need no forward pass any more, wherever they stand.
    pub(super) fn remove_obsolete(
        &mut self,
        now: Instant,
        dropped: &mut Vec<(Entry<I>, Obsolete)>,
    ) {
        self.interactive.remove_obsolete(now, dropped);
        self.bulk.remove_obsolete(now, dropped);
    }

    /// Most rows like one of this size and weight in one batch: fewer where they are larger than usual, so that a
    /// batch of them takes neither more memory nor more time than a usual one.
    pub(super) fn capacity(&self, (size, weight): (usize, usize)) -> usize {
        match self.full_size {
            Some(full) if size > full => (self.max_rows * full / size).max(1),
            _ => (self.max_rows / weight.max(1)).max(1),
        }
    }

    /// Notes that a batch ran without the bulk row that has waited here longest, if one waits.
    pub(super) fn pass_over(&mut self) {
        self.passed_over = if self.bulk.is_empty() { 0 } else { self.passed_over + 1 };
    }

    /// Takes every row, for a worker that is gone.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Entry<I>> + use<I> {
        self.interactive.take_all().chain(self.bulk.take_all())
    }

    /// Accounts for a batch of `rows` that had the device for `time`.
    pub(super) fn account(&mut self, rows: usize, time: Duration) {
        self.served += time;
        let row_time = time / u32::try_from(rows.max(1)).unwrap_or(u32::MAX);
        // A fifth of the newest: a few batches forget an outlier, and follow a real change.
        self.row_time = if self.row_time.is_zero() {
            row_time
        } else {
            self.row_time.mul_f64(0.8) + row_time.mul_f64(0.2)
        };
    }

    /// How long the waiting rows need, at the rate of late.
    pub(super) fn drain_time(&self) -> Duration {
        self.row_time.mul_f64(self.len() as f64)
    }
}

/// Rows of one size that leave a queue together.
struct NextBatch {
    size: usize,
    weight: usize,
    share: policy::Share,
}

impl<I: Row> Queue<I> {
    /// The next batch: the row that the policy lets lead, and those of its size that wait behind it. None if nothing
    /// waits.
    fn next_batch(&self) -> Option<NextBatch> {
        let leader = self.lane().leader();
        let first = match leader {
            Priority::Interactive => self.interactive.first(),
            Priority::Bulk => self.bulk.first(),
        };
        let first = &first?.input;
        let (size, weight) = (first.size(), first.weight());
        let fitting = policy::Share {
            interactive: self.interactive.count(size),
            bulk: self.bulk.count(size),
        };
        let share = fitting.within(self.capacity((size, weight)), leader);
        Some(NextBatch { size, weight, share })
    }

    /// Whether the next batch has as many rows as one may have.
    pub(super) fn has_full_batch(&self) -> bool {
        self.next_batch().is_some_and(|NextBatch { size, weight, share }| {
            share.interactive + share.bulk >= self.capacity((size, weight))
        })
    }

    /// Takes the next batch, its rows in order. Empty only if nothing waits.
    pub(super) fn take_batch(&mut self) -> Vec<Entry<I>> {
        let Some(NextBatch { size, share, .. }) = self.next_batch() else { return Vec::new() };
        // Its mates further back do not make up for a bulk row that waits at the head.
        if share.bulk > 0 && self.bulk.first().is_some_and(|entry| entry.input.size() == size) {
            self.passed_over = 0;
        } else {
            self.pass_over();
        }
        let mut batch = Vec::with_capacity(share.interactive + share.bulk);
        self.interactive.take(size, share.interactive, &mut batch);
        self.bulk.take(size, share.bulk, &mut batch);
        batch
    }
}

#[cfg(test)]
mod tests;
