//! The batcher against a gated fake tower: the test opens the gate, so what a batch holds is certain.

mod ahead;
mod towers;

use std::{
    collections::HashSet,
    sync::{Arc, mpsc},
};

use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::task::JoinHandle;

use super::{worker::Worker, *};
use crate::{
    model::{Pass, Tower},
    preprocess::Pixels,
    tokenize::Tokens,
};

/// Ids of the rows of each pass, in order.
type Passes = Arc<Mutex<Vec<Vec<u32>>>>;

/// A tower that notes its rows, waits at its gate if it has one, and fails on chosen ids.
struct Fake {
    passes: Passes,
    gate: Option<mpsc::Receiver<()>>,
    panics_on: HashSet<u32>,
    nan_on: HashSet<u32>,
    broken_after: usize,
}

impl Fake {
    fn new() -> (Self, Passes) {
        let passes = Passes::default();
        let fake = Self {
            passes: Arc::clone(&passes),
            gate: None,
            panics_on: HashSet::new(),
            nan_on: HashSet::new(),
            broken_after: usize::MAX,
        };
        (fake, passes)
    }

    fn gated() -> (Self, Passes, mpsc::Sender<()>) {
        let (mut fake, passes) = Self::new();
        let (open, gate) = mpsc::channel();
        fake.gate = Some(gate);
        (fake, passes, open)
    }

    fn pass(&mut self, ids: Vec<u32>) -> Result<Vec<Embedding>, TowerError> {
        self.passes.lock().push(ids.clone());
        if let Some(gate) = &self.gate {
            gate.recv().map_err(|error| TowerError::Device(error.into()))?;
        }
        if self.passes.lock().len() > self.broken_after {
            return Err(TowerError::OutOfMemory);
        }
        assert!(ids.iter().all(|id| !self.panics_on.contains(id)), "a bad row");
        let value = |id: &u32| if self.nan_on.contains(id) { f32::NAN } else { *id as f32 };
        Ok(ids.iter().map(|id| Embedding::new(vec![value(id), 1.0])).collect())
    }
}

struct FakeVision(Fake);
struct FakeText(Fake);

impl Tower for FakeVision {
    type Input = Pixels;

    fn begin(&mut self, rows: &[Pixels], taps: &[Tap]) -> Result<Pass, TowerError> {
        let id = |row: &Pixels| u32::from_le_bytes(*row.data.first_chunk().expect("four bytes"));
        Pass::pooled(taps, || self.0.pass(rows.iter().map(id).collect()))
    }
}

impl Tower for FakeText {
    type Input = Tokens;

    fn begin(&mut self, rows: &[Tokens], taps: &[Tap]) -> Result<Pass, TowerError> {
        Pass::pooled(taps, || self.0.pass(rows.iter().map(|row| row.ids[0]).collect()))
    }
}

/// Images of one size, so that any of them share a batch.
fn image(id: u32) -> Pixels {
    Pixels { height: 1, width: 1, data: Arc::from(id.to_le_bytes()) }
}

fn text(id: u32) -> Tokens {
    Tokens { ids: Arc::from([id]), used: 1, truncated: false }
}

fn config(max_rows: usize) -> config::Batch {
    config::Batch { max_image_rows: max_rows, max_text_rows: max_rows, ..config::Batch::default() }
}

fn bulk() -> Submit {
    Submit { priority: Priority::Bulk, ..Submit::default() }
}

/// A worker that does nothing until the test drives it, and the handle to it.
fn pair(towers: Parts, config: &config::Batch, metrics: Arc<Metrics>) -> (Handle, Worker) {
    let shared = Arc::new(shared::Shared::new("m", None, config, metrics));
    (Handle::new(Arc::clone(&shared)), Worker::new(shared, towers))
}

/// A worker on its own thread, which is not replaced when it breaks.
fn unsupervised(towers: Parts, config: &config::Batch) -> Handle {
    let (handle, worker) = pair(towers, config, Arc::new(Metrics::new()));
    std::thread::spawn(move || worker.run());
    handle
}

/// A worker that the test drives, with its handle.
fn driven(vision: Fake, max_rows: usize) -> (Handle, Worker, Arc<Metrics>) {
    let (text, _) = Fake::new();
    let towers = Parts {
        vision: Some(Box::new(FakeVision(vision))),
        text: Some(Box::new(FakeText(text))),
        ..Parts::default()
    };
    let metrics = Arc::new(Metrics::new());
    let (handle, worker) = pair(towers, &config(max_rows), Arc::clone(&metrics));
    (handle, worker, metrics)
}

/// Submits in the background and waits until the row is queued.
async fn queued(handle: &Handle, id: u32, how: Submit) -> JoinHandle<Result<Answer, BatchError>> {
    let handle = handle.clone();
    let task = tokio::spawn(async move { handle.embed_image(image(id), how).await });
    tokio::task::yield_now().await;
    task
}

#[tokio::test]
async fn a_batch_takes_what_waits_in_order_and_no_more_than_fits() {
    let (fake, passes) = Fake::new();
    let (handle, mut worker, metrics) = driven(fake, 3);
    let mut tasks = Vec::new();
    for id in 0..5 {
        tasks.push(queued(&handle, id, Submit::default()).await);
    }
    assert!(worker.step());
    assert!(worker.step());
    assert_eq!(*passes.lock(), [vec![0, 1, 2], vec![3, 4]]);
    for (id, task) in tasks.into_iter().enumerate() {
        let answer = task.await.expect("no panic").expect("answered");
        assert_eq!(answer.embedding.as_slice()[0], id as f32);
    }
    assert_eq!(metrics.images.with_label_values(&["m"]).get(), 5);
    assert_eq!(metrics.queue_rows.with_label_values(&["m", "image", "interactive"]).get(), 0);
}

#[tokio::test]
async fn pictures_of_one_size_share_a_batch_whoever_stands_between() {
    let (fake, passes) = Fake::new();
    let (handle, mut worker, metrics) = driven(fake, 3);
    let mut tasks = Vec::new();
    for (id, width) in [(0, 1), (1, 2), (2, 1), (3, 2), (4, 1), (5, 1)] {
        let handle = handle.clone();
        let row = Pixels { width, ..image(id) };
        tasks.push(tokio::spawn(async move { handle.embed_image(row, Submit::default()).await }));
        tokio::task::yield_now().await;
    }
    for _ in 0..3 {
        assert!(worker.step());
    }
    assert_eq!(*passes.lock(), [vec![0, 2, 4], vec![1, 3], vec![5]]);
    for (id, task) in tasks.into_iter().enumerate() {
        let answer = task.await.expect("no panic").expect("answered");
        assert_eq!(answer.embedding.as_slice()[0], id as f32);
    }
    assert_eq!(metrics.images.with_label_values(&["m"]).get(), 6);
}

#[tokio::test]
async fn interactive_rows_lead_and_bulk_fills_up() {
    let (fake, passes) = Fake::new();
    let (handle, mut worker, _) = driven(fake, 3);
    let mut tasks = Vec::new();
    for (id, how) in [(0, bulk()), (1, bulk()), (2, Submit::default()), (3, bulk())] {
        tasks.push(queued(&handle, id, how).await);
    }
    worker.step();
    worker.step();
    assert_eq!(*passes.lock(), [vec![2, 0, 1], vec![3]]);
}

#[tokio::test]
async fn rows_nobody_waits_for_cost_no_forward_pass() {
    let (fake, passes) = Fake::new();
    let (handle, mut worker, metrics) = driven(fake, 8);
    let left = queued(&handle, 0, Submit::default()).await;
    let past = Submit { deadline: Some(Instant::now()), ..Submit::default() };
    let expired = queued(&handle, 1, past).await;
    let kept = queued(&handle, 2, Submit::default()).await;
    left.abort();
    assert!(left.await.expect_err("aborted").is_cancelled());
    worker.step();
    assert_eq!(*passes.lock(), [vec![2]]);
    assert!(matches!(expired.await.expect("no panic"), Err(BatchError::Expired)));
    kept.await.expect("no panic").expect("answered");
    assert_eq!(metrics.dropped.with_label_values(&["cancelled"]).get(), 1);
    assert_eq!(metrics.dropped.with_label_values(&["expired"]).get(), 1);
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_but_not_for_rows_that_left() {
    let (fake, _) = Fake::new();
    let towers = Parts { vision: Some(Box::new(FakeVision(fake))), ..Parts::default() };
    let config = config::Batch { max_queue_rows: 2, ..config(8) };
    let (handle, _worker) = pair(towers, &config, Arc::new(Metrics::new()));
    let first = queued(&handle, 0, Submit::default()).await;
    let _second = queued(&handle, 1, Submit::default()).await;
    let refused = handle.embed_image(image(2), Submit::default()).await;
    assert!(matches!(refused, Err(BatchError::Full { retry_after }) if !retry_after.is_zero()));
    first.abort();
    drop(first.await);
    let third = queued(&handle, 3, Submit::default()).await;
    assert!(!third.is_finished(), "the row of the caller that left made room");
}

#[test]
fn a_retry_is_worth_it_once_both_queues_are_drained() {
    let seconds = Duration::from_secs;
    fn row<I>(input: I) -> queue::Entry<I> {
        let (reply, _) = tokio::sync::oneshot::channel();
        let caller = queue::Caller::new(&Submit::default(), reply, None);
        queue::Entry { input, tap: Tap::default(), caller }
    }
    let mut queues = shared::Queues {
        image: queue::Queue::new(8, 100),
        text: queue::Queue::new(8, 100),
        closed: false,
        places: [residency::Place::new(), residency::Place::new()],
        arrived: Vec::new(),
        was_loaded: true,
    };
    let estimate = |queues: &_| shared::Shared::drain_estimate(queues);
    assert_eq!(estimate(&queues), Duration::from_millis(100), "never at once");
    queues.image.account(2, seconds(4));
    (0..3).for_each(|id| queues.image.push(row(image(id)), Priority::Interactive));
    assert_eq!(estimate(&queues), seconds(3 * 2));
    queues.text.account(10, seconds(5));
    (0..4).for_each(|id| queues.text.push(row(queue::TextRow::Embed(text(id))), Priority::Bulk));
    assert_eq!(estimate(&queues), seconds(3 * 2 + 2), "they take turns on one device");
    (0..60).for_each(|id| queues.image.push(row(image(id)), Priority::Interactive));
    assert_eq!(estimate(&queues), seconds(60), "more would be a guess");
}

#[tokio::test]
async fn a_bad_row_fails_alone() {
    let (mut fake, passes) = Fake::new();
    fake.panics_on.insert(5);
    fake.nan_on.insert(2);
    let (handle, mut worker, _) = driven(fake, 8);
    let mut tasks = Vec::new();
    for id in 0..8 {
        tasks.push(queued(&handle, id, Submit::default()).await);
    }
    assert!(worker.step(), "the worker goes on");
    for (id, task) in tasks.into_iter().enumerate() {
        match (id, task.await.expect("no panic")) {
            (5, answer) => assert!(matches!(answer, Err(BatchError::Tower(_)))),
            (2, answer) => assert!(matches!(answer, Err(BatchError::NotFinite))),
            (_, answer) => drop(answer.expect("a mate is answered")),
        }
    }
    // The whole, then two halves of three levels.
    assert_eq!(passes.lock().len(), 7);
    assert_eq!(handle.state(), WorkerState::Running);
}

#[tokio::test]
async fn a_bad_input_again_and_again_does_not_end_the_worker() {
    let (mut fake, _) = Fake::new();
    fake.panics_on.insert(5);
    let (handle, mut worker, _) = driven(fake, 8);
    for id in [1, 5, 5, 5, 5, 5, 5, 2] {
        let task = queued(&handle, id, Submit::default()).await;
        assert!(worker.step());
        assert_eq!(task.await.expect("no panic").is_ok(), id != 5);
    }
}

#[tokio::test]
async fn a_broken_tower_ends_the_worker_and_leaves_nobody_waiting() {
    let (mut fake, _) = Fake::new();
    fake.broken_after = 1;
    let (handle, mut worker, metrics) = driven(fake, 1);
    let good = queued(&handle, 0, Submit::default()).await;
    let bad = queued(&handle, 1, Submit::default()).await;
    let behind = queued(&handle, 2, Submit::default()).await;
    assert!(worker.step());
    assert!(!worker.step(), "a row that worked before fails now");
    good.await.expect("no panic").expect("answered");
    assert!(matches!(bad.await.expect("no panic"), Err(BatchError::Tower(_))));
    assert!(matches!(behind.await.expect("no panic"), Err(BatchError::WorkerGone)));
    let after = handle.embed_image(image(3), Submit::default()).await;
    assert!(matches!(after, Err(BatchError::WorkerGone)));
    assert_eq!(handle.state(), WorkerState::Failed);
    assert_eq!(metrics.worker_state.with_label_values(&["m", "failed"]).get(), 1);
    handle.stopped().await;
}

#[tokio::test]
async fn a_worker_that_is_dropped_answers_what_waits() {
    let (fake, _, open) = Fake::gated();
    let towers = Parts { vision: Some(Box::new(FakeVision(fake))), ..Parts::default() };
    let handle = unsupervised(towers, &config(1));
    let running = queued(&handle, 0, Submit::default()).await;
    // Without its gate every pass fails, and no row has ever succeeded.
    drop(open);
    assert!(running.await.expect("no panic").is_err());
    for id in 1..4 {
        assert!(handle.embed_image(image(id), Submit::default()).await.is_err());
    }
    handle.stopped().await;
    assert_eq!(handle.state(), WorkerState::Failed);
}

#[tokio::test]
async fn closing_finishes_what_was_accepted() {
    let (fake, passes, open) = Fake::gated();
    let towers = Parts { vision: Some(Box::new(FakeVision(fake))), ..Parts::default() };
    let handle = unsupervised(towers, &config(4));
    let mut tasks = Vec::new();
    for id in 0..3 {
        tasks.push(queued(&handle, id, Submit::default()).await);
    }
    handle.close();
    let late = handle.embed_image(image(9), Submit::default()).await;
    assert!(matches!(late, Err(BatchError::Closed)));
    for _ in 0..3 {
        // More openings than passes do no harm: the gate keeps them.
        open.send(()).expect("the worker lives");
    }
    for task in tasks {
        task.await.expect("no panic").expect("answered");
    }
    handle.stopped().await;
    assert_eq!(handle.state(), WorkerState::Stopped);
    assert_eq!(passes.lock().concat(), [0, 1, 2]);
}

#[tokio::test]
async fn a_text_waits_for_one_image_batch_at_most() {
    let (fake, passes) = Fake::new();
    let (handle, mut worker, _) = driven(fake, 1);
    let mut images = Vec::new();
    for id in 0..4 {
        images.push(queued(&handle, id, Submit::default()).await);
    }
    worker.step();
    let late = handle.clone();
    let words = tokio::spawn(async move { late.embed_text(text(7), Submit::default()).await });
    tokio::task::yield_now().await;
    worker.step();
    worker.step();
    words.await.expect("no panic").expect("answered");
    assert_eq!(passes.lock().len(), 2, "the text went among the images");
}

/// What happens to one submitted row.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Plain,
    Bulk,
    Expired,
    Leaves,
    Panics,
    Nan,
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![
        6 => Just(Fate::Plain),
        3 => Just(Fate::Bulk),
        1 => Just(Fate::Expired),
        1 => Just(Fate::Leaves),
        1 => Just(Fate::Panics),
        1 => Just(Fate::Nan),
    ];
    prop::collection::vec(fate, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_row_is_answered_once_and_batches_keep_their_promises(
        fates in fates(), max_rows in 1..9_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (mut fake, passes) = Fake::new();
            let of = |wanted| {
                let ids = fates.iter().enumerate().filter(move |(_, fate)| **fate == wanted);
                ids.map(|(id, _)| id as u32).collect::<HashSet<_>>()
            };
            fake.panics_on = of(Fate::Panics);
            fake.nan_on = of(Fate::Nan);
            let (handle, mut worker, _) = driven(fake, max_rows);
            // One good row first, so that failing rows alone never look like a broken tower.
            let first = queued(&handle, 1000, Submit::default()).await;
            worker.step();
            first.await.expect("no panic").expect("answered");

            let mut tasks = Vec::new();
            for (id, fate) in fates.iter().enumerate() {
                let how = match fate {
                    Fate::Bulk => bulk(),
                    Fate::Expired => {
                        Submit { deadline: Some(Instant::now()), ..Submit::default() }
                    }
                    _ => Submit::default(),
                };
                let task = queued(&handle, id as u32, how).await;
                if *fate == Fate::Leaves {
                    task.abort();
                }
                tasks.push(task);
            }
            tokio::task::yield_now().await;
            handle.close();
            while worker.step() {}

            for (id, (task, fate)) in tasks.into_iter().zip(&fates).enumerate() {
                let answer = task.await;
                match fate {
                    Fate::Leaves => prop_assert!(answer.expect_err("aborted").is_cancelled()),
                    Fate::Expired => {
                        prop_assert!(matches!(answer.expect("ran"), Err(BatchError::Expired)));
                    }
                    Fate::Nan => {
                        prop_assert!(matches!(answer.expect("ran"), Err(BatchError::NotFinite)));
                    }
                    Fate::Panics => {
                        prop_assert!(matches!(answer.expect("ran"), Err(BatchError::Tower(_))));
                    }
                    Fate::Plain | Fate::Bulk => {
                        // With many bad rows in one batch the budget may run out on a good one too.
                        if let Ok(answer) = answer.expect("ran") {
                            prop_assert_eq!(answer.embedding.as_slice()[0], id as f32);
                        }
                    }
                }
            }
            let passes = passes.lock();
            prop_assert!(passes.iter().all(|pass| pass.len() <= max_rows));
            // First in, first out within a priority, looking at each row's first pass.
            let mut seen = HashSet::new();
            let order: Vec<u32> =
                passes.iter().flatten().copied().filter(|id| seen.insert(*id)).collect();
            let is_bulk = |id: &u32| fates.get(*id as usize) == Some(&Fate::Bulk);
            for wanted in [true, false] {
                let ids: Vec<_> =
                    order.iter().filter(|id| **id < 1000 && is_bulk(id) == wanted).collect();
                prop_assert!(ids.is_sorted());
            }
            Ok(())
        })?;
    }
}

/// Towers that break, and what replaces them.
mod restarts {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A pair of towers whose vision tower fails on everything after so many passes.
    fn towers(passes: usize) -> Parts {
        let (mut vision, _) = Fake::new();
        vision.broken_after = passes;
        Parts { vision: Some(Box::new(FakeVision(vision))), ..Parts::default() }
    }

    /// A supervised worker whose towers last for these numbers of passes, one after the other.
    fn supervised(
        lives: &[usize],
        max_restarts: usize,
    ) -> (Handle, Arc<Metrics>, Arc<AtomicUsize>) {
        let (first, rest) = lives.split_first().expect("one life");
        let rest: std::vec::IntoIter<usize> = Vec::from(rest).into_iter();
        let loads = Arc::new(AtomicUsize::new(0));
        let loader: Loader = Arc::new({
            let (loads, rest) = (Arc::clone(&loads), Mutex::new(rest));
            move |_| {
                loads.fetch_add(1, Ordering::Relaxed);
                let next = rest.lock().next().map(towers);
                next.ok_or_else(|| "there is no device".into())
            }
        });
        let metrics = Arc::new(Metrics::new());
        let config = config::Batch { max_restarts, ..config(1) };
        let keeping = Keeping {
            loader,
            towers: [true, false],
            idle: None,
            may_yield: false,
            expected_bytes: [0; 2],
            budget: Arc::default(),
            give_back: || {},
        };
        let first = towers(*first);
        let handle = spawn("m", (first, keeping), &config, Arc::clone(&metrics));
        (handle.expect("a thread"), metrics, loads)
    }

    async fn embed(handle: &Handle, id: u32) -> Result<Answer, BatchError> {
        handle.embed_image(image(id), Submit::default()).await
    }

    #[tokio::test]
    async fn a_broken_tower_is_replaced_and_what_waited_is_answered() {
        let (handle, metrics, loads) = supervised(&[2, usize::MAX], 3);
        embed(&handle, 1).await.expect("one");
        embed(&handle, 2).await.expect("two");
        assert!(matches!(embed(&handle, 3).await, Err(BatchError::Tower(_))));
        // It waits for the new towers.
        embed(&handle, 4).await.expect("after the restart");
        assert_eq!(handle.state(), WorkerState::Running);
        assert_eq!(loads.load(Ordering::Relaxed), 1);
        assert_eq!(metrics.worker_restarts.with_label_values(&["m"]).get(), 1);
        handle.close();
        handle.stopped().await;
        assert_eq!(handle.state(), WorkerState::Stopped);
    }

    #[tokio::test]
    async fn restarts_are_bounded_and_nobody_is_left_waiting() {
        // The second towers do not even embed what the first did, and then there are none.
        let (handle, metrics, _) = supervised(&[1, 0], 2);
        embed(&handle, 1).await.expect("one");
        assert!(matches!(embed(&handle, 2).await, Err(BatchError::Tower(_))));
        assert!(matches!(embed(&handle, 3).await, Err(BatchError::WorkerGone)));
        handle.stopped().await;
        assert_eq!(handle.state(), WorkerState::Failed);
        assert_eq!(metrics.worker_restarts.with_label_values(&["m"]).get(), 2);
        assert!(matches!(embed(&handle, 4).await, Err(BatchError::WorkerGone)));
    }

    #[tokio::test]
    async fn a_server_that_stops_does_not_wait_for_a_restart() {
        let (handle, ..) = supervised(&[1], usize::MAX);
        embed(&handle, 1).await.expect("one");
        assert!(embed(&handle, 2).await.is_err());
        handle.close();
        handle.stopped().await;
        assert_eq!(handle.state(), WorkerState::Failed);
    }
}
