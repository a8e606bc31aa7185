//! Batches on a device that computes by itself: the next one is begun before the one under way has ended.

use super::*;
/// What a device was asked to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    Begun(Vec<u32>),
    Ended(Vec<u32>),
    /// Run to its end before anything else was done.
    Ran(Vec<u32>),
}
use Event::{Begun, Ended, Ran};

type Events = Arc<Mutex<Vec<Event>>>;

/// A device whose passes end when they are waited for. A pass with a row of `fails_on` fails: at once if it is even,
/// when it is waited for if it is odd.
#[derive(Clone, Default)]
struct Device {
    events: Events,
    fails_on: HashSet<u32>,
    panics_on: HashSet<u32>,
    is_dead: bool,
}

impl Device {
    fn result(&self, ids: &[u32]) -> Result<Vec<Embedding>, TowerError> {
        assert!(ids.iter().all(|id| !self.panics_on.contains(id)), "a bad row");
        if self.is_dead || ids.iter().any(|id| self.fails_on.contains(id)) {
            return Err(TowerError::OutOfMemory);
        }
        Ok(ids.iter().map(|&id| Embedding::new(vec![id as f32, 1.0])).collect())
    }

    fn run(&self, ids: Vec<u32>) -> Result<Vec<Embedding>, TowerError> {
        let result = self.result(&ids);
        self.events.lock().push(Ran(ids));
        result
    }

    fn begin(&self, ids: Vec<u32>) -> Result<Pass, TowerError> {
        self.events.lock().push(Begun(ids.clone()));
        if ids.iter().any(|id| self.fails_on.contains(id) && id % 2 == 0) {
            return Err(TowerError::OutOfMemory);
        }
        let device = self.clone();
        Ok(Pass::under_way(move || {
            let result = device.result(&ids);
            device.events.lock().push(Ended(ids));
            result
        }))
    }
}

struct Pictures(Device);
struct Texts(Device);

fn picture_ids(rows: &[Pixels]) -> Vec<u32> {
    rows.iter()
        .map(|row| u32::from_le_bytes(*row.data.first_chunk().expect("four bytes")))
        .collect()
}

impl Tower for Pictures {
    type Input = Pixels;

    fn begin(&mut self, rows: &[Pixels], taps: &[Tap]) -> Result<Pass, TowerError> {
        assert_eq!(rows.len(), taps.len());
        self.0.begin(picture_ids(rows))
    }
}

impl Tower for Texts {
    type Input = Tokens;

    fn begin(&mut self, rows: &[Tokens], taps: &[Tap]) -> Result<Pass, TowerError> {
        Pass::pooled(taps, || self.0.run(rows.iter().map(|row| row.ids[0]).collect()))
    }
}

/// A worker of batches of two, with the events of its device.
fn worker(device: Device) -> (Handle, Worker, Events) {
    let events = Arc::clone(&device.events);
    let towers = Parts {
        vision: Some(Box::new(Pictures(device.clone()))),
        text: Some(Box::new(Texts(Device { fails_on: HashSet::new(), ..device }))),
        ..Parts::default()
    };
    let (handle, worker) = pair(towers, &config(2), Arc::new(Metrics::new()));
    (handle, worker, events)
}

async fn pictures(
    handle: &Handle,
    ids: impl IntoIterator<Item = u32>,
) -> Vec<JoinHandle<Result<Answer, BatchError>>> {
    let mut tasks = Vec::new();
    for id in ids {
        tasks.push(queued(handle, id, Submit::default()).await);
    }
    tasks
}

/// Every answer: the row's own value, or that it failed.
async fn values(tasks: Vec<JoinHandle<Result<Answer, BatchError>>>) -> Vec<Option<u32>> {
    let mut values = Vec::new();
    for task in tasks {
        let answer = task.await.expect("no panic");
        values.push(answer.ok().map(|answer| answer.embedding.as_slice()[0] as u32));
    }
    values
}

#[tokio::test]
async fn a_full_batch_is_begun_while_the_device_is_at_another() {
    let (handle, mut worker, events) = worker(Device::default());
    let tasks = pictures(&handle, 0..5).await;
    for _ in 0..4 {
        assert!(worker.step());
    }
    let (first, second, rest) = (vec![0, 1], vec![2, 3], vec![4]);
    let expected = [
        Begun(first.clone()),
        Begun(second.clone()),
        Ended(first),
        // The last is not full: whatever comes until the second has ended may share its pass.
        Ended(second),
        Begun(rest.clone()),
    ];
    assert_eq!(*events.lock(), expected);
    assert!(worker.step());
    assert_eq!(events.lock().last(), Some(&Ended(rest)));
    assert_eq!(values(tasks).await, (0..5).map(Some).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_lone_batch_is_answered_without_another_to_push_it() {
    let (handle, worker, _) = worker(Device::default());
    let thread = std::thread::spawn(|| worker.run());
    let answer = handle.embed_image(image(7), Submit::default()).await.expect("answered");
    assert_eq!(answer.embedding.as_slice()[0], 7.0);
    handle.close();
    thread.join().expect("no panic");
}

#[tokio::test]
async fn what_is_under_way_is_finished_when_the_queues_close() {
    let (handle, mut worker, events) = worker(Device::default());
    let tasks = pictures(&handle, 0..4).await;
    assert!(worker.step());
    assert!(worker.step());
    assert_eq!(events.lock().len(), 3, "the second is under way");
    handle.close();
    worker.run();
    assert_eq!(values(tasks).await, (0..4).map(Some).collect::<Vec<_>>());
    assert_eq!(handle.state(), WorkerState::Stopped);
}

#[tokio::test]
async fn a_text_that_waits_is_not_overtaken_by_a_batch_begun_ahead() {
    let (handle, mut worker, events) = worker(Device::default());
    let tasks = pictures(&handle, 0..4).await;
    assert!(worker.step());
    let asked = handle.clone();
    let asked = tokio::spawn(async move { asked.embed_text(text(9), Submit::default()).await });
    tokio::task::yield_now().await;
    for _ in 0..4 {
        assert!(worker.step());
    }
    let expected =
        [Begun(vec![0, 1]), Ended(vec![0, 1]), Ran(vec![9]), Begun(vec![2, 3]), Ended(vec![2, 3])];
    assert_eq!(*events.lock(), expected);
    asked.await.expect("no panic").expect("answered");
    values(tasks).await;
}

#[tokio::test]
async fn a_row_that_fails_harms_neither_its_mates_nor_the_batch_beside_it() {
    for bad in 0..4 {
        let device = Device { fails_on: [bad].into(), ..Device::default() };
        let (handle, mut worker, _) = worker(device);
        let tasks = pictures(&handle, 0..4).await;
        while somebody_waits(&tasks) {
            assert!(worker.step());
            tokio::task::yield_now().await;
        }
        let expected: Vec<_> = (0..4).map(|id| (id != bad).then_some(id)).collect();
        assert_eq!(values(tasks).await, expected, "{bad}");
        assert_eq!(handle.state(), WorkerState::Running);
    }
}

#[tokio::test]
async fn a_pass_that_panics_at_its_end_is_pinned_on_its_row() {
    let device = Device { panics_on: [1].into(), ..Device::default() };
    let (handle, mut worker, _) = worker(device);
    let tasks = pictures(&handle, 0..4).await;
    while somebody_waits(&tasks) {
        assert!(worker.step());
        tokio::task::yield_now().await;
    }
    assert_eq!(values(tasks).await, [Some(0), None, Some(2), Some(3)]);
}

#[tokio::test]
async fn a_dead_device_leaves_nobody_waiting() {
    let device = Device { is_dead: true, ..Device::default() };
    let (handle, worker, _) = worker(device);
    let tasks = pictures(&handle, 0..12).await;
    worker.run();
    assert_eq!(values(tasks).await, [None; 12]);
    assert_eq!(handle.state(), WorkerState::Failed);
}

fn somebody_waits(tasks: &[JoinHandle<Result<Answer, BatchError>>]) -> bool {
    tasks.iter().any(|task| !task.is_finished())
}
