//! Who goes next: pure, so that its promises can be tested on any sequence.
//!
//! - Towers share the device's **time**: of those that have rows of the leading priority, the one that has
//!   had less goes next, so a short text batch waits for at most one image batch; for two where the second
//!   had been begun ahead.
//! - Interactive rows lead; bulk rows fill what room is left. A bulk row that was passed over
//!   [`PATIENCE`] times leads one batch once no interactive row waits that came before it, so it is never starved and
//!   delays interactive rows that came later by that one.
//! - Requests take turns ([`super::queue`]): the rows of a long request go a batch's worth at a time, and a short one
//!   goes between them.
//! - A batch holds rows of one size. The first row of the leading priority chooses it, so no size is starved.

use std::time::Duration;

use super::Priority;

/// Batches that may pass over waiting bulk rows before bulk leads one.
pub(super) const PATIENCE: u32 = 8;

/// One tower's queue, as the policy sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lane {
    /// Waiting rows of requests that somebody waits for.
    pub(super) interactive: usize,
    /// Waiting rows of bulk jobs.
    pub(super) bulk: usize,
    /// Device time had; only differences between lanes matter.
    pub(super) served: Duration,
    /// Batches in a row that ran without the bulk row that has waited here longest.
    pub(super) passed_over: u32,
}

/// How many rows of each priority a batch takes, or could.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) interactive: usize,
    pub(super) bulk: usize,
}

impl Lane {
    fn is_empty(self) -> bool {
        self.interactive + self.bulk == 0
    }

    /// Whose longest waiting row this lane's next batch begins with.
    pub(super) fn leader(self) -> Priority {
        let bulk = self.bulk > 0 && (self.interactive == 0 || self.passed_over >= PATIENCE);
        if bulk { Priority::Bulk } else { Priority::Interactive }
    }
}

impl Share {
    /// Of these rows, all of the leading row's size, those that a batch of at most `max_rows` takes.
    pub(super) fn within(self, max_rows: usize, leader: Priority) -> Self {
        match leader {
            Priority::Bulk => {
                let bulk = self.bulk.min(max_rows);
                Self { bulk, interactive: self.interactive.min(max_rows - bulk) }
            }
            Priority::Interactive => {
                let interactive = self.interactive.min(max_rows);
                Self { interactive, bulk: self.bulk.min(max_rows - interactive) }
            }
        }
    }
}

/// The index of the lane that goes next; none if nothing waits.
pub(super) fn next_lane(lanes: &[Lane]) -> Option<usize> {
    let least_served = |candidate: fn(&Lane) -> bool| {
        let candidates = lanes.iter().enumerate().filter(|(_, lane)| candidate(lane));
        candidates.min_by_key(|(_, lane)| lane.served).map(|(index, _)| index)
    };
    least_served(|lane| lane.bulk > 0 && lane.passed_over >= PATIENCE)
        .or_else(|| least_served(|lane| lane.interactive > 0))
        .or_else(|| least_served(|lane| !lane.is_empty()))
}

/// A lane that was idle starts level with the other: time not used is not saved up.
pub(super) fn level(idle: &mut Duration, other: Duration) {
    *idle = (*idle).max(other);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lane(interactive: usize, bulk: usize, served_ms: u64, passed_over: u32) -> Lane {
        Lane { interactive, bulk, served: Duration::from_millis(served_ms), passed_over }
    }

    #[test]
    fn a_text_waits_for_one_image_batch_at_most() {
        // Images have had the device; the text that arrives starts level and goes first.
        assert_eq!(next_lane(&[lane(500, 0, 900, 0), lane(1, 0, 800, 0)]), Some(1));
        // Once it has had its turn, images go on.
        assert_eq!(next_lane(&[lane(500, 0, 900, 0), lane(1, 0, 901, 0)]), Some(0));
    }

    #[test]
    fn interactive_leads_in_whichever_lane_it_waits() {
        assert_eq!(next_lane(&[lane(0, 500, 0, 0), lane(1, 0, 999, 0)]), Some(1));
    }

    #[test]
    fn bulk_that_was_passed_over_leads_one_batch() {
        let waiting = lane(100, 5, 0, PATIENCE);
        assert_eq!(next_lane(&[waiting, lane(100, 0, 0, 0)]), Some(0));
        assert_eq!(waiting.leader(), Priority::Bulk);
        assert_eq!(lane(100, 5, 0, PATIENCE - 1).leader(), Priority::Interactive);
        let share = Share { interactive: 100, bulk: 5 }.within(16, Priority::Bulk);
        assert_eq!(share, Share { interactive: 11, bulk: 5 });
    }

    proptest! {
        #[test]
        fn a_batch_is_full_or_takes_all(
            interactive in 0..50_usize, bulk in 0..50_usize, passed in 0..20_u32, max in 1..40_usize,
        ) {
            let leader = lane(interactive, bulk, 0, passed).leader();
            let share = Share { interactive, bulk }.within(max, leader);
            prop_assert!(share.interactive <= interactive && share.bulk <= bulk);
            prop_assert_eq!(share.interactive + share.bulk, max.min(interactive + bulk));
        }

        #[test]
        fn nobody_starves(
            arrivals in prop::collection::vec((0..3_usize, 0..2_usize, 0..3_usize, 0..2_usize), 1..80),
        ) {
            // Whatever arrives, a waiting bulk row is led within a bounded number of batches.
            let mut lanes = [lane(0, 0, 0, 0), lane(0, 1, 0, 0)];
            let mut batches_without_bulk = 0;
            for (a, b, c, d) in arrivals {
                lanes[0].interactive += a;
                lanes[0].bulk += b;
                lanes[1].interactive += c + 1;
                lanes[1].bulk += d;
                let Some(next) = next_lane(&lanes) else { continue };
                let Lane { interactive, bulk, .. } = lanes[next];
                let share = Share { interactive, bulk }.within(1, lanes[next].leader());
                lanes[next].interactive -= share.interactive;
                lanes[next].bulk -= share.bulk;
                lanes[next].served += Duration::from_millis(1);
                for (index, lane) in lanes.iter_mut().enumerate() {
                    let took = index == next && share.bulk > 0;
                    lane.passed_over = if took || lane.bulk == 0 { 0 } else { lane.passed_over + 1 };
                }
                let waits = lanes[1].bulk > 0;
                let took = next == 1 && share.bulk > 0;
                batches_without_bulk = if took || !waits { 0 } else { batches_without_bulk + 1 };
                // The other lane's bulk may go first once.
                prop_assert!(batches_without_bulk <= PATIENCE + 2);
            }
        }
    }
}
