//! Rows of one priority, and in which order they go: requests take turns.
//!
//! A row belongs to a turn. The rows of a request that wait fill one turn after the other, a batch's worth in each, and
//! its first ones belong to the turn that is being served when they come. So a request of one row goes behind one batch
//! of a request of a thousand, and not behind all of it. A turn is served for [`PATIENCE`] batches at most before
//! what comes belongs to the next one, so that new requests never keep the later rows of an old one waiting for ever.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Instant,
};

use super::{Entry, Obsolete, Row};
use crate::batch::{RequestId, policy::PATIENCE};

/// Where a row stands: its turn, then its number in the order of arrival.
type Place = (u64, u64);

#[derive(Debug)]
pub(super) struct Line<I> {
    /// By arrival, each with its turn.
    rows: BTreeMap<u64, (u64, Entry<I>)>,
    /// In the order in which they go.
    order: BTreeSet<Place>,
    /// The requests that have rows here.
    requests: HashMap<RequestId, Turns>,
    arrivals: u64,
    /// The turn that is being served.
    turn: u64,
    /// Batches of it so far.
    batches: u32,
    /// Most rows of one request in a turn.
    rows_a_turn: usize,
}

/// The turns of one request.
#[derive(Debug)]
struct Turns {
    /// The turn of its next row.
    next: u64,
    /// Its rows in that turn.
    taken: usize,
    waiting: usize,
}

impl<I> Line<I> {
    pub(super) fn new(rows_a_turn: usize) -> Self {
        Self {
            rows: BTreeMap::new(),
            order: BTreeSet::new(),
            requests: HashMap::new(),
            arrivals: 0,
            turn: 0,
            batches: 0,
            rows_a_turn,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn push(&mut self, entry: Entry<I>) {
        let turn = entry.caller.request.map_or(self.turn, |request| self.turn_of(request));
        self.order.insert((turn, self.arrivals));
        self.rows.insert(self.arrivals, (turn, entry));
        self.arrivals += 1;
    }

    /// The turn of a request's next row.
    fn turn_of(&mut self, request: RequestId) -> u64 {
        let first = Turns { next: self.turn, taken: 0, waiting: 0 };
        let turns = self.requests.entry(request).or_insert(first);
        if turns.next < self.turn {
            (turns.next, turns.taken) = (self.turn, 0);
        } else if turns.taken == self.rows_a_turn {
            (turns.next, turns.taken) = (turns.next + 1, 0);
        }
        turns.taken += 1;
        turns.waiting += 1;
        turns.next
    }

    /// The row that goes first.
    pub(super) fn first(&self) -> Option<&Entry<I>> {
        let (_, arrival) = self.order.first()?;
        self.rows.get(arrival).map(|(_, entry)| entry)
    }

    /// When the row that waits longest came in.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.rows.first_key_value().map(|(_, (_, entry))| entry.caller.submitted)
    }

    /// Takes out the rows that need no forward pass any more.
    pub(super) fn remove_obsolete(
        &mut self,
        now: Instant,
        dropped: &mut Vec<(Entry<I>, Obsolete)>,
    ) {
        let obsolete = self
            .rows
            .iter()
            .filter_map(|(&arrival, (_, entry))| entry.obsolete(now).map(|why| (arrival, why)));
        for (arrival, why) in obsolete.collect::<Vec<_>>() {
            dropped.extend(self.remove(arrival).map(|entry| (entry, why)));
        }
    }

    fn remove(&mut self, arrival: u64) -> Option<Entry<I>> {
        let (turn, entry) = self.rows.remove(&arrival)?;
        self.order.remove(&(turn, arrival));
        if let Some(request) = entry.caller.request
            && let Some(turns) = self.requests.get_mut(&request)
        {
            turns.waiting -= 1;
            if turns.waiting == 0 {
                self.requests.remove(&request);
            }
        }
        Some(entry)
    }

    /// Takes every row.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Entry<I>> + use<I> {
        self.order.clear();
        self.requests.clear();
        std::mem::take(&mut self.rows).into_values().map(|(_, entry)| entry)
    }
}

impl<I: Row> Line<I> {
    /// How many rows have this size.
    pub(super) fn count(&self, size: usize) -> usize {
        self.rows.values().filter(|(_, entry)| entry.input.size() == size).count()
    }

    /// Moves the first `count` rows of `size` into a batch.
    pub(super) fn take(&mut self, size: usize, count: usize, batch: &mut Vec<Entry<I>>) {
        if count == 0 {
            return;
        }
        self.note_batch();
        let fits = |arrival: &u64| {
            self.rows.get(arrival).is_some_and(|(_, entry)| entry.input.size() == size)
        };
        let arrivals = self.order.iter().map(|&(_, arrival)| arrival).filter(fits).take(count);
        for arrival in arrivals.collect::<Vec<_>>() {
            batch.extend(self.remove(arrival));
        }
    }

    /// Notes that a batch is taken, which may end the turn.
    fn note_batch(&mut self) {
        let leading = self.order.first().map_or(self.turn, |&(turn, _)| turn);
        self.batches += 1;
        if leading > self.turn {
            (self.turn, self.batches) = (leading, 1);
        } else if self.batches >= PATIENCE {
            (self.turn, self.batches) = (self.turn + 1, 0);
        }
    }
}
