//! Admission: how many items, bytes and pixels may be in the server at once.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    batch::{Priority, Share},
    config,
};

/// Counts items and bytes in flight. One rule for one item and for many: a request is admitted whole or
/// refused whole, at once.
#[derive(Debug)]
pub(super) struct Admission {
    items: Arc<Gate>,
    bytes: Arc<Gate>,
    pixels: Arc<Gate>,
}

/// A counter with a ceiling.
#[derive(Debug)]
struct Gate {
    taken: AtomicUsize,
    limit: usize,
}

/// Gives back what was taken from a gate.
#[derive(Debug)]
pub(super) struct Taken {
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
    pub(super) fn new(limits: &config::Limits) -> Self {
        let gate = |limit| Arc::new(Gate { taken: AtomicUsize::new(0), limit });
        Self {
            items: gate(limits.max_items_in_flight),
            bytes: gate(limits.max_bytes_in_flight),
            pixels: gate(clamped(limits.max_pixels_in_flight)),
        }
    }

    /// Takes room for the pixels of one image, until it is decoded. They are known only once its header
    /// is read, which is after its request was admitted.
    pub(super) fn admit_pixels(&self, pixels: u64) -> Result<Taken, NoRoom> {
        self.pixels.take(clamped(pixels))
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

fn clamped(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The unit in which memory is shared out: an image of common size takes a few dozen.
const SHARE_BYTES: u64 = 64 << 10;

/// The memory that decoding may take, over all images. Who finds too little left waits for it, in the
/// order of arrival; how many may wait is bounded by the admission of pixels.
#[derive(Debug)]
pub(super) struct DecodeMemory {
    shares: Arc<Semaphore>,
    all: u32,
}

impl DecodeMemory {
    pub(super) fn new(bytes: u64) -> Self {
        let all = u32::try_from(bytes / SHARE_BYTES).unwrap_or(u32::MAX).max(1);
        Self { shares: Arc::new(Semaphore::new(all as usize)), all }
    }

    /// Waits for the memory of one image, which no image exceeds.
    pub(super) async fn take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let shares = u32::try_from(bytes.div_ceil(SHARE_BYTES)).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        Arc::clone(&self.shares).acquire_many_owned(shares.min(self.all)).await.ok()
    }
}

/// The memory of images that are decoded and wait for a pass. Decoding goes no further ahead of the towers than
/// this: an image of a few bytes becomes hundreds of kilobytes. Rows of bulk jobs have memory of their own, so that
/// interactive ones do not wait for them.
#[derive(Debug)]
pub(super) struct RowMemory {
    interactive: DecodeMemory,
    bulk: DecodeMemory,
}

/// What a row is counted as where a budget is given in rows: the largest input of a common model takes less.
const ROW_BYTES: u64 = 1 << 20;

impl RowMemory {
    /// Room for the batch that runs, the one behind it and as many rows again, and half of that for bulk jobs.
    pub(super) fn new(batch: &config::Batch) -> Self {
        let rows = |batches: u64| {
            DecodeMemory::new((batch.max_image_rows as u64).saturating_mul(batches * ROW_BYTES))
        };
        Self { interactive: rows(4), bulk: rows(2) }
    }

    /// Waits for the memory of one row.
    pub(super) async fn take(&self, priority: Priority, bytes: u64) -> Share {
        match priority {
            Priority::Interactive => self.interactive.take(bytes).await,
            Priority::Bulk => self.bulk.take(bytes).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(max_items_in_flight: usize, max_bytes_in_flight: usize) -> Admission {
        let limits = config::Limits::default();
        Admission::new(&config::Limits { max_items_in_flight, max_bytes_in_flight, ..limits })
    }

    #[tokio::test]
    async fn decoding_waits_for_memory_and_never_for_more_than_there_is() {
        let memory = DecodeMemory::new(10 * SHARE_BYTES);
        let most = memory.take(9 * SHARE_BYTES + 1).await;
        assert!(most.is_some());
        let mut waits = Box::pin(memory.take(1));
        assert!(futures::poll!(&mut waits).is_pending());
        drop(most);
        drop(waits.await);
        assert!(memory.take(u64::MAX).await.is_some());
    }

    #[tokio::test]
    async fn interactive_rows_do_not_wait_for_the_memory_of_bulk_rows() {
        let batch = config::Batch { max_image_rows: 1, ..config::Batch::default() };
        let memory = RowMemory::new(&batch);
        let bulk = memory.take(Priority::Bulk, 2 * ROW_BYTES).await;
        let mut more = Box::pin(memory.take(Priority::Bulk, 1));
        assert!(futures::poll!(&mut more).is_pending());
        let interactive = memory.take(Priority::Interactive, 4 * ROW_BYTES).await;
        assert!(interactive.is_some());
        let mut waits = Box::pin(memory.take(Priority::Interactive, 1));
        assert!(futures::poll!(&mut waits).is_pending());
        drop(bulk);
        assert!(more.await.is_some());
        assert!(futures::poll!(&mut waits).is_pending());
        drop(interactive);
        assert!(waits.await.is_some());
    }

    #[test]
    fn room_is_given_back() {
        let admission = admission(3, 100);
        let two = admission.admit(2, 10).expect("there is room");
        assert_eq!(admission.admit(2, 10).err(), Some(NoRoom));
        drop(two);
        let _all = admission.admit(3, 10).expect("there is room again");
    }

    #[test]
    fn a_refusal_for_bytes_takes_no_items() {
        let admission = admission(3, 100);
        assert_eq!(admission.admit(3, 101).err(), Some(NoRoom));
        let _all = admission.admit(3, 100).expect("nothing was kept");
    }
}
