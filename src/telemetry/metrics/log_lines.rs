//! What the log counts by itself.

use prometheus::{
    IntCounter,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::telemetry::logs;

/// The log's own count of what it dropped, read at each scrape.
#[derive(Debug)]
pub(super) struct DroppedLines(IntCounter);

impl DroppedLines {
    pub(super) fn new() -> Self {
        Self(lines_counter())
    }
}

#[expect(clippy::expect_used, reason = "the name is a constant")]
fn lines_counter() -> IntCounter {
    let help = "Lines of the log that were dropped because nobody read it.";
    IntCounter::new("siglip_log_lines_dropped_total", help).expect("a valid name")
}

impl Collector for DroppedLines {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let now = lines_counter();
        now.inc_by(logs::dropped_lines());
        now.collect()
    }
}
