//! How long the stages of one request took, for `Server-Timing` and the stage histogram.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::traces::{BatchSpan, Trace};

/// A stage of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// From an image's URL to its bytes, the wait for a turn included.
    Fetch,
    /// Base64, image decoding and resizing.
    Decode,
    /// Text to token ids.
    Tokenize,
    /// From submission to the start of the batch that carried the row.
    Queue,
    /// The forward pass of that batch.
    Forward,
    /// Writing the answer.
    Encode,
}

impl Stage {
    /// Every stage, in the order in which a request meets them.
    pub const ALL: [Self; 6] =
        [Self::Fetch, Self::Decode, Self::Tokenize, Self::Queue, Self::Forward, Self::Encode];

    /// The name in `Server-Timing` and in the metric's label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Decode => "decode",
            Self::Tokenize => "tokenize",
            Self::Queue => "queue",
            Self::Forward => "forward",
            Self::Encode => "encode",
        }
    }
}

/// The stages of one request. Items run side by side, so each stage keeps its **longest** item: the
/// figures say what the answer waited for, not what was spent.
#[derive(Debug, Default)]
pub struct Timings {
    nanos: [AtomicU64; 6],
    trace: OnceLock<Trace>,
}

impl Timings {
    /// Makes each stage a span of this trace too, from here on.
    pub fn follow(&self, trace: Trace) {
        // A request has one trace; a second one would be a defect of the edge, and the first one stays.
        drop(self.trace.set(trace));
    }

    /// Notes that an item spent `time` in `stage`, which has just ended.
    pub fn record(&self, stage: Stage, time: Duration) {
        self.note(stage, time);
        if let Some(trace) = self.trace.get() {
            trace.stage(stage, time, Duration::ZERO, None);
        }
    }

    /// Notes how long a row waited for its batch, and the batch's forward pass, which has just ended.
    pub fn record_pass(&self, queued: Duration, forward: Duration, batch: Option<&BatchSpan>) {
        self.note(Stage::Queue, queued);
        self.note(Stage::Forward, forward);
        if let Some(trace) = self.trace.get() {
            trace.stage(Stage::Queue, queued, forward, None);
            trace.stage(Stage::Forward, forward, Duration::ZERO, batch);
        }
    }

    /// The trace that the stages are spans of, for rows that leave for a batch.
    #[must_use]
    pub fn trace(&self) -> Option<&Trace> {
        self.trace.get()
    }

    fn note(&self, stage: Stage, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanos[stage as usize].fetch_max(nanos, Ordering::Relaxed);
    }

    /// The longest time noted for `stage`; zero where no item passed through it.
    #[must_use]
    pub fn get(&self, stage: Stage) -> Duration {
        Duration::from_nanos(self.nanos[stage as usize].load(Ordering::Relaxed))
    }

    /// The value of a `Server-Timing` header: every stage, milliseconds with two decimals.
    #[must_use]
    pub fn header(&self) -> String {
        Stage::ALL
            .map(|stage| format!("{};dur={:.2}", stage.name(), self.get(stage).as_secs_f64() * 1e3))
            .join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_item_counts() {
        let timings = Timings::default();
        timings.record(Stage::Queue, Duration::from_micros(1500));
        timings.record(Stage::Queue, Duration::from_micros(300));
        assert_eq!(
            timings.header(),
            "fetch;dur=0.00, decode;dur=0.00, tokenize;dur=0.00, queue;dur=1.50, forward;dur=0.00, encode;dur=0.00"
        );
    }
}
