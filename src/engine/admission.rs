//! Admission: how many items and bytes may be in the server at once.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Counts items and bytes in flight. One rule for one item and for many: a request is admitted whole or
/// refused whole, at once.
#[derive(Debug)]
pub(super) struct Admission {
    items: Arc<Gate>,
    bytes: Arc<Gate>,
}

/// A counter with a ceiling.
#[derive(Debug)]
struct Gate {
    taken: AtomicUsize,
    limit: usize,
}

/// Gives back what was taken from a gate.
#[derive(Debug)]
struct Taken {
    gate: Arc<Gate>,
    amount: usize,
}

/// Keeps a request's share for as long as it lives.
#[derive(Debug)]
pub(super) struct Permit {
    _items: Taken,
    _bytes: Taken,
}

/// There is no room now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

impl Gate {
    fn take(self: &Arc<Self>, amount: usize) -> Result<Taken, NoRoom> {
        let fits = |taken: usize| taken.checked_add(amount).filter(|&sum| sum <= self.limit);
        // Relaxed: the count guards no other memory.
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .map(|_| Taken { gate: Arc::clone(self), amount })
            .map_err(|_| NoRoom)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.gate.taken.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

impl Admission {
    pub(super) fn new(max_items: usize, max_bytes: usize) -> Self {
        let gate = |limit| Arc::new(Gate { taken: AtomicUsize::new(0), limit });
        Self { items: gate(max_items), bytes: gate(max_bytes) }
    }

    /// Takes room for a request until the permit is dropped.
    pub(super) fn admit(&self, items: usize, bytes: usize) -> Result<Permit, NoRoom> {
        Ok(Permit { _items: self.items.take(items)?, _bytes: self.bytes.take(bytes)? })
    }

    /// Whether a request of this size could ever be admitted.
    pub(super) fn could_admit(&self, items: usize, bytes: usize) -> bool {
        items <= self.items.limit && bytes <= self.bytes.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_back() {
        let admission = Admission::new(3, 100);
        let two = admission.admit(2, 10).expect("there is room");
        assert_eq!(admission.admit(2, 10).err(), Some(NoRoom));
        drop(two);
        let _all = admission.admit(3, 10).expect("there is room again");
    }

    #[test]
    fn a_refusal_for_bytes_takes_no_items() {
        let admission = Admission::new(3, 100);
        assert_eq!(admission.admit(3, 101).err(), Some(NoRoom));
        let _all = admission.admit(3, 100).expect("nothing was kept");
    }
}
