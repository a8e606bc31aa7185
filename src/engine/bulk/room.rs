//! Room for the rows of bulk streams, from the time at which they are received.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config;

/// Room for all bulk streams.
#[derive(Debug)]
pub(in crate::engine) struct BulkRoom {
    streams: Arc<Semaphore>,
    rows: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    max_bytes: u32,
}

/// What a row holds of the room.
pub(super) type Share = (Option<OwnedSemaphorePermit>, Option<RowBytes>);

impl BulkRoom {
    pub(in crate::engine) fn new(limits: &config::Limits) -> Self {
        let room = |size: usize| Arc::new(Semaphore::new(size.min(Semaphore::MAX_PERMITS)));
        Self {
            streams: room(limits.max_bulk_streams),
            rows: room(limits.max_bulk_rows),
            bytes: room(limits.max_bulk_bytes),
            max_bytes: u32::try_from(limits.max_bulk_bytes).unwrap_or(u32::MAX),
        }
    }

    /// A place for one more stream, if there is one.
    pub(super) fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.streams).try_acquire_owned().ok()
    }

    pub(super) fn for_stream(&self) -> RowRoom {
        let (bytes, max_bytes) = (Arc::clone(&self.bytes), self.max_bytes);
        RowRoom { bytes, max_bytes, waits: Arc::default() }
    }

    /// Waits for the share of a row that was received.
    ///
    /// * `taken`: what was taken for it meanwhile
    /// * `held`: the bytes that it holds now
    pub(super) async fn admit(
        &self,
        taken: Option<RowBytes>,
        held: usize,
        room: &RowRoom,
    ) -> Share {
        let bytes = match taken {
            Some(taken) => Some(taken.shrink(held)),
            None => room.take(held).await,
        };
        // The semaphore is never closed.
        (room.wait(Arc::clone(&self.rows).acquire_owned()).await.ok(), bytes)
    }
}

/// Bytes of the room that a row holds.
#[derive(Debug)]
pub struct RowBytes(OwnedSemaphorePermit);

impl RowBytes {
    /// Gives back what is more than `bytes`.
    fn shrink(mut self, bytes: usize) -> Self {
        let surplus = self.0.num_permits().saturating_sub(bytes);
        drop(self.0.split(surplus));
        self
    }
}

/// Room for the rows of one stream while they are received.
#[derive(Debug, Clone)]
pub struct RowRoom {
    bytes: Arc<Semaphore>,
    max_bytes: u32,
    /// A row waits for room: it is not the client that is idle.
    waits: Arc<AtomicBool>,
}

impl RowRoom {
    /// Bytes of a row that are received without room. Rows of that length never wait for each other.
    pub const FREE_BYTES: usize = 1 << 20;

    /// That of a server with one stream.
    #[cfg(test)]
    pub(crate) fn of(limits: &config::Limits) -> Self {
        BulkRoom::new(limits).for_stream()
    }

    /// The same room, for another stream.
    #[must_use]
    pub fn for_another(&self) -> Self {
        Self { waits: Arc::default(), ..self.clone() }
    }

    /// Waits for room for a row that is being received. All that it may come to is taken at once, so that no two rows
    /// can wait for each other. One that is larger than all of the room waits for all of it.
    pub async fn take(&self, bytes: usize) -> Option<RowBytes> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.max_bytes);
        // The semaphore is never closed.
        let taken = self.wait(Arc::clone(&self.bytes).acquire_many_owned(bytes)).await;
        taken.ok().map(RowBytes)
    }

    async fn wait<T>(&self, room: impl Future<Output = T>) -> T {
        self.waits.store(true, Ordering::Relaxed);
        let taken = room.await;
        self.waits.store(false, Ordering::Relaxed);
        taken
    }

    /// Whether a row of the stream waits.
    pub(super) fn is_awaited(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_row_takes_all_that_it_may_come_to_and_keeps_what_it_is() {
        let limits = config::Limits { max_bulk_bytes: 100, ..config::Limits::default() };
        let all = BulkRoom::new(&limits);
        let room = all.for_stream();
        let first = room.take(70).await;
        assert!(first.is_some());
        let mut second = Box::pin(room.take(70));
        assert!(futures::poll!(&mut second).is_pending() && room.is_awaited());
        let share = all.admit(first, 20, &all.for_stream()).await;
        assert!(second.await.is_some() && !room.is_awaited());
        drop(share);
        assert!(room.take(usize::MAX).await.is_some(), "never more than there is");
        assert_eq!(all.bytes.available_permits(), 100);
    }
}
