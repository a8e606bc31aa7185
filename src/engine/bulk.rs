//! Streams of items of any length: a bounded window of them is in the server, answers come in order.
//!
//! A row waits for room before the next one is read, and an answer waits for its reader before more rows
//! are taken up, so that memory does not grow with the length of a stream. Bulk rows have room of their
//! own, so they never make the server refuse an interactive request.

mod room;

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

pub(super) use self::room::BulkRoom;
use self::room::Share;
pub use self::room::{RowBytes, RowRoom};

use async_stream::stream;
use futures::{Stream, StreamExt, stream::FuturesOrdered};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tracing::Instrument;

use super::{
    Context, Engine, Input, Usage,
    embed::{checked_dimensions, shaped},
    item::ItemOptions,
};
use crate::{
    batch::Priority,
    embedding::Embedding,
    error::{Code, Error},
    fetch::Client,
    registry::Model,
};

/// Rows of one stream in the server at once: several full batches, so that decoding, queueing and the tower
/// all have work, and few enough that a row's answer follows soon.
const WINDOW: usize = 256;
/// Answers handed over at once, where that many are ready.
const CHUNK: usize = 16;
/// Chunks that wait for the reader: one that it takes while the next one is made.
const CHUNKS_AHEAD: usize = 2;
/// The longest that a row may wait for its turn behind interactive rows.
const ROW_PATIENCE: Duration = Duration::from_secs(3600);
/// The longest pause before a refused row is tried again. A client's `Retry-After` may be a minute; but while this row
/// pauses, its stream stands still, and a drain waits for it, even if the server has long had room again.
const ROW_RETRY: Duration = Duration::from_millis(500);
/// Until a stream that finds no room should ask again: streams end in minutes, not in milliseconds.
const RETRY_STREAM: Duration = Duration::from_secs(5);

/// What holds for every row of a stream.
#[derive(Debug, Clone)]
pub struct BulkOptions {
    /// The model's name; the default model where none is given.
    pub model: Option<String>,
    /// Keep only the first values of each embedding (then normalise).
    pub dimensions: Option<usize>,
    /// Whether rows are scaled to length 1.
    pub normalize: bool,
    /// Whether a text that is too long is cut; otherwise its row fails.
    pub truncate: bool,
    /// As in [`super::EmbedRequest`].
    pub max_num_patches: Option<u32>,
}

/// One row of a stream, with the id that its answer carries.
#[derive(Debug)]
pub struct BulkRow<Id> {
    /// The client's own name for the row.
    pub id: Id,
    /// What to embed.
    pub input: Input,
    /// The bytes that were taken for it while it was received; none where it is short.
    pub bytes: Option<RowBytes>,
}

/// What a stream gives back.
#[derive(Debug)]
pub enum BulkEvent<Id> {
    /// A row's outcome, in the order of the rows.
    Row {
        /// The row's id.
        id: Id,
        /// Its place in the stream, from 0.
        index: u64,
        /// Its embedding, or why it has none.
        outcome: Result<Embedding, Error>,
        /// Whether it is a text that was cut.
        truncated: bool,
    },
    /// Always the last event.
    End(BulkEnd),
}

/// How a stream ended.
#[derive(Debug, Default)]
pub struct BulkEnd {
    /// Rows answered.
    pub rows: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// What the others consumed.
    pub usage: Usage,
    /// Why rows were left unread; none where the stream was read to its end.
    pub cut: Option<Error>,
}

/// A stream that has its place, before its first row.
pub struct Bulk {
    engine: Arc<Engine>,
    model: Arc<Model>,
    dimensions: usize,
    normalize: bool,
    items: ItemOptions,
    room: RowRoom,
    /// For whom the images of all its rows are fetched.
    client: Client,
    _place: BulkPlace,
}

/// The place of a stream. It is taken before anything of the stream is read.
#[derive(Debug)]
pub struct BulkPlace(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

impl Engine {
    /// Room for the rows of a stream.
    #[must_use]
    pub fn row_room(&self) -> RowRoom {
        self.bulk_room.for_stream()
    }

    /// Takes a place for a stream.
    ///
    /// # Errors
    /// [`Code::Overloaded`] where there are as many streams as may be.
    pub fn bulk_place(&self) -> Result<BulkPlace, Error> {
        let place = self.bulk_room.place().ok_or_else(|| {
            let message = "the server has as many bulk streams as it takes; retry later";
            Error::new(Code::Overloaded, message).with_retry_after(RETRY_STREAM)
        });
        place.map(BulkPlace).inspect_err(|error| self.count_rejected(error, 1))
    }

    /// Begins a stream.
    ///
    /// # Errors
    /// The model's, or [`Code::InvalidRequest`] at an option.
    pub fn bulk(
        self: &Arc<Self>,
        options: BulkOptions,
        place: BulkPlace,
        room: RowRoom,
    ) -> Result<Bulk, Error> {
        let model = Arc::clone(self.registry.get(options.model.as_deref())?);
        let dimensions = checked_dimensions(options.dimensions, model.card.embedding_dim)?;
        let items = self.item_options(&model, options.truncate, options.max_num_patches)?;
        Ok(Bulk {
            engine: Arc::clone(self),
            model,
            dimensions,
            normalize: options.normalize,
            items,
            room,
            client: Client::unique(),
            _place: place,
        })
    }
}

/// A row on its way, and then its outcome.
type InFlight<Id> = Pin<Box<dyn Future<Output = Done<Id>> + Send>>;

struct Done<Id> {
    id: Id,
    outcome: Result<(Embedding, Usage), Error>,
}

/// What happened next in a stream.
enum Step<Id> {
    Done(Done<Id>),
    Read(BulkRow<Id>, Share),
    /// No further row is read.
    Stop(Option<Error>),
    /// Nothing is left to do.
    Over,
}

impl Bulk {
    /// Runs the stream on a task of its own and hands over what `write` makes of its events, chunk by chunk.
    /// A reader that takes nothing for as long as a stream may idle is given up.
    ///
    /// * `rows`: an error ends the stream; rows before it are answered
    pub fn spawn<Id, T>(
        self,
        rows: impl Stream<Item = Result<BulkRow<Id>, Error>> + Send + 'static,
        mut write: impl FnMut(Vec<BulkEvent<Id>>) -> T + Send + 'static,
    ) -> mpsc::Receiver<T>
    where
        Id: Send + 'static,
        T: Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let idle = self.engine.limits.bulk_idle_timeout;
        let task = async move {
            let mut events = pin!(self.run(rows).ready_chunks(CHUNK));
            loop {
                let chunk = tokio::select! {
                    // The reader left: rows in flight are withdrawn with the stream.
                    () = sender.closed() => return,
                    chunk = events.next() => chunk,
                };
                let Some(chunk) = chunk else { return };
                match tokio::time::timeout(idle, sender.send(write(chunk))).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return,
                    Err(_) => {
                        tracing::info!("a bulk stream was given up: its reader takes no answers");
                        return;
                    }
                }
            }
        };
        tokio::spawn(task.in_current_span());
        receiver
    }

    /// The stream's events, in order; the last one is [`BulkEvent::End`].
    pub fn run<Id: Send + 'static>(
        self,
        rows: impl Stream<Item = Result<BulkRow<Id>, Error>> + Send + 'static,
    ) -> impl Stream<Item = BulkEvent<Id>> + Send + 'static {
        let bulk = Arc::new(self);
        stream! {
            let room = Arc::clone(&bulk);
            let mut rows = pin!(rows.then(move |row| Arc::clone(&room).admitted(row)));
            let mut in_flight = FuturesOrdered::<InFlight<Id>>::new();
            let mut end = BulkEnd::default();
            let mut reading = true;
            loop {
                match bulk.step(rows.as_mut(), &mut in_flight, reading).await {
                    Step::Over => break,
                    Step::Read(row, share) => {
                        in_flight.push_back(Box::pin(Arc::clone(&bulk).answered(row, share)));
                    }
                    Step::Stop(cut) => {
                        reading = false;
                        end.cut = cut;
                    }
                    Step::Done(Done { id, outcome }) => {
                        let index = end.rows;
                        end.rows += 1;
                        match &outcome {
                            Ok((_, used)) => end.usage += *used,
                            Err(_) => end.failed += 1,
                        }
                        let truncated = outcome.as_ref().is_ok_and(|(_, used)| used.truncated_texts > 0);
                        let outcome = outcome.map(|(row, _)| row);
                        yield BulkEvent::Row { id, index, outcome, truncated };
                    }
                }
            }
            yield BulkEvent::End(end);
        }
    }

    async fn step<Id: Send + 'static>(
        &self,
        mut rows: Pin<&mut impl Stream<Item = Result<(BulkRow<Id>, Share), Error>>>,
        in_flight: &mut FuturesOrdered<InFlight<Id>>,
        reading: bool,
    ) -> Step<Id> {
        loop {
            let idles = reading && in_flight.is_empty() && !self.room.is_awaited();
            return tokio::select! {
                // Answers first: they make room. The rest stands in the order of its weight.
                biased;
                Some(done) = in_flight.next(), if !in_flight.is_empty() => Step::Done(done),
                () = self.engine.registry.closed(), if reading => Step::Stop(Some(Error::new(
                    Code::ShuttingDown,
                    "the server is shutting down; send the rows that have no answer elsewhere",
                ))),
                row = rows.next(), if reading && in_flight.len() < WINDOW => match row {
                    Some(Ok((row, share))) => Step::Read(row, share),
                    Some(Err(error)) => Step::Stop(Some(error)),
                    None => Step::Stop(None),
                },
                () = tokio::time::sleep(self.engine.limits.bulk_idle_timeout), if idles => {
                    // It may have begun to wait for room meanwhile.
                    if self.room.is_awaited() {
                        continue;
                    }
                    let message = "no row came for as long as a stream may idle";
                    Step::Stop(Some(Error::new(Code::DeadlineExceeded, message)))
                }
                else => Step::Over,
            };
        }
    }

    /// Waits for a row's room, before the next one is read.
    async fn admitted<Id>(
        self: Arc<Self>,
        row: Result<BulkRow<Id>, Error>,
    ) -> Result<(BulkRow<Id>, Share), Error> {
        let mut row = row?;
        let held = row.input.held_bytes();
        let share = self.engine.bulk_room.admit(row.bytes.take(), held, &self.room).await;
        Ok((row, share))
    }

    async fn answered<Id>(self: Arc<Self>, row: BulkRow<Id>, share: Share) -> Done<Id> {
        let BulkRow { id, input, .. } = row;
        let outcome = self.embedded(input, Arc::new(share)).await;
        Done { id, outcome }
    }

    /// Embeds one row. A full queue is no failure of a row that nobody waits for: it comes again.
    async fn embedded(&self, input: Input, share: Arc<Share>) -> Result<(Embedding, Usage), Error> {
        let context = Context::new(Priority::Bulk, Instant::now() + ROW_PATIENCE);
        // The stream may end while a decode of this row goes on.
        context.work.keep(share);
        let _ = context.client.set(self.client.clone());
        loop {
            let input = input.clone();
            match self.engine.embed_item(&self.model, input, self.items, &context).await {
                Err(error) if error.code() == Code::Overloaded => {
                    let after = row_retry(&error);
                    if Instant::now() + after > context.deadline {
                        return Err(error);
                    }
                    tokio::time::sleep(after).await;
                }
                outcome => {
                    let shape = |row: &Embedding| shaped(row, self.dimensions, self.normalize);
                    return outcome.map(|(row, usage)| (shape(&row), usage));
                }
            }
        }
    }
}

/// How long a refused row pauses before it is tried again.
fn row_retry(refusal: &Error) -> Duration {
    refusal.retry_after().map_or(ROW_RETRY, |after| after.min(ROW_RETRY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_row_is_tried_again_soon_however_long_clients_should_wait() {
        let refused = |after| Error::new(Code::Overloaded, "full").with_retry_after(after);
        assert_eq!(row_retry(&refused(Duration::from_secs(60))), ROW_RETRY);
        let soon = Duration::from_millis(100);
        assert_eq!(row_retry(&refused(soon)), soon);
        assert_eq!(row_retry(&Error::new(Code::Overloaded, "full")), ROW_RETRY);
    }
}
