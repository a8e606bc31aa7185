//! Towers that come and go.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// How the models of a test are loaded, and what a load meets.
struct Site {
    budget: Arc<MemoryBudget>,
    loads: Arc<Mutex<Vec<[bool; 2]>>>,
    /// Each load takes one message from it before it goes on.
    gate: Option<Arc<Mutex<mpsc::Receiver<()>>>>,
    /// So many loads fail first.
    failures: Arc<AtomicUsize>,
    for_good: bool,
    idle: Option<Duration>,
    /// What a model is thought to need.
    expected: u64,
    /// Whether its towers never yield.
    stays: bool,
}

const BYTES: u64 = 10;

impl Site {
    fn new(max: Option<u64>) -> Self {
        Self {
            budget: Arc::new(MemoryBudget::new(max)),
            loads: Arc::default(),
            gate: None,
            failures: Arc::default(),
            for_good: false,
            idle: None,
            expected: 2 * BYTES,
            stays: false,
        }
    }

    /// One whose loads wait until the test lets them go on.
    fn gated() -> (Self, mpsc::Sender<()>) {
        let (open, gate) = mpsc::channel();
        (Self { gate: Some(Arc::new(Mutex::new(gate))), ..Self::new(None) }, open)
    }

    /// A model of two towers, none of them loaded.
    fn model(&self, name: &str) -> (Handle, Arc<Metrics>) {
        let (loads, gate) = (Arc::clone(&self.loads), self.gate.clone());
        let (failures, for_good) = (Arc::clone(&self.failures), self.for_good);
        let loader: Loader = Arc::new(move |wanted: [bool; 2]| {
            if let Some(gate) = &gate {
                gate.lock().recv()?;
            }
            loads.lock().push(wanted);
            let left = failures
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if left.is_ok() {
                return Err(LoadFailure { error: "no file".into(), for_good });
            }
            let [vision, text] = wanted;
            Ok(Parts {
                vision: vision.then(|| Box::new(FakeVision(Fake::new().0)) as _),
                text: text.then(|| Box::new(FakeText(Fake::new().0)) as _),
                reader: None,
                bytes: wanted.map(|wanted| if wanted { BYTES } else { 0 }),
            })
        });
        let keeping = Keeping {
            loader,
            towers: [true, true],
            idle: self.idle,
            may_yield: !self.stays,
            expected_bytes: [self.expected, 0],
            budget: Arc::clone(&self.budget),
            give_back: || {},
        };
        let metrics = Arc::new(Metrics::new());
        let start = (Parts::default(), keeping);
        let handle = spawn(name, start, &config(4), Arc::clone(&metrics));
        (handle.expect("a thread"), metrics)
    }

    fn loads(&self) -> Vec<[bool; 2]> {
        self.loads.lock().clone()
    }
}

async fn embed(handle: &Handle, id: u32) -> Result<Answer, BatchError> {
    handle.embed_image(image(id), Submit::default()).await
}

fn presence(handle: &Handle) -> [Presence; 2] {
    let towers = handle.towers();
    [towers[0].presence, towers[1].presence]
}

/// Waits until the towers are as is said.
async fn until(handle: &Handle, expected: [Presence; 2]) {
    let mut changes = handle.shared.changes.subscribe();
    while presence(handle) != expected {
        changes.changed().await.expect("the handle lives");
    }
}

const LOADED: Presence = Presence::Loaded;
const UNLOADED: Presence = Presence::Unloaded;

#[tokio::test]
async fn rows_that_come_at_once_bring_one_load() {
    let (site, open) = Site::gated();
    let (handle, metrics) = site.model("m");
    assert_eq!(presence(&handle), [UNLOADED; 2]);
    let mut tasks = Vec::new();
    for id in 0..8 {
        tasks.push(queued(&handle, id, Submit::default()).await);
    }
    let words = handle.clone();
    let words = tokio::spawn(async move { words.embed_text(text(9), Submit::default()).await });
    until(&handle, [Presence::Loading; 2]).await;
    open.send(()).expect("a load waits");
    for (id, task) in tasks.into_iter().enumerate() {
        let answer = task.await.expect("no panic").expect("answered");
        assert_eq!(answer.embedding.as_slice()[0], id as f32);
    }
    words.await.expect("no panic").expect("answered");
    // The first load is of the whole model.
    assert_eq!(site.loads(), [[true, true]]);
    assert_eq!(metrics.model_loads.with_label_values(&["m", "ok"]).get(), 1);
    assert_eq!(metrics.towers_loaded.with_label_values(&["m", "text"]).get(), 1);
    assert_eq!(metrics.device_memory.with_label_values(&["m"]).get(), 2 * BYTES as i64);
}

#[tokio::test]
async fn a_tower_goes_alone_and_comes_back_alone() {
    let site = Site::new(None);
    let (handle, metrics) = site.model("m");
    embed(&handle, 1).await.expect("answered");
    assert!(handle.unload(TowerKind::Vision).await);
    assert_eq!(presence(&handle), [UNLOADED, LOADED]);
    handle.embed_text(text(2), Submit::default()).await.expect("the text tower is there");
    embed(&handle, 3).await.expect("it comes back");
    assert_eq!(site.loads(), [[true, true], [true, false]]);
    assert_eq!(metrics.tower_unloads.with_label_values(&["m", "admin"]).get(), 1);
    assert_eq!(metrics.device_memory.with_label_values(&["m"]).get(), 2 * BYTES as i64);
}

#[tokio::test]
async fn an_idle_tower_is_unloaded() {
    let site = Site { idle: Some(Duration::from_millis(5)), ..Site::new(None) };
    let (handle, metrics) = site.model("m");
    embed(&handle, 1).await.expect("answered");
    until(&handle, [UNLOADED; 2]).await;
    embed(&handle, 2).await.expect("it comes back");
    until(&handle, [UNLOADED; 2]).await;
    assert_eq!(site.loads(), [[true, true], [true, false]]);
    assert_eq!(metrics.tower_unloads.with_label_values(&["m", "idle"]).get(), 3);
}

#[tokio::test]
async fn a_load_that_fails_is_tried_again_and_says_why() {
    let site = Site::new(None);
    site.failures.store(1, Ordering::SeqCst);
    let (handle, metrics) = site.model("m");
    let refused = |answer: Result<Answer, BatchError>| match answer {
        Err(BatchError::NotLoaded { why, retry_after }) => (why.to_string(), retry_after),
        other => panic!("{other:?}"),
    };
    let (why, retry_after) = refused(embed(&handle, 1).await);
    assert_eq!(why, "the model's vision tower cannot be loaded: no file");
    assert!(retry_after > Duration::from_millis(500), "{retry_after:?}");
    // The pause has not passed, so nothing is tried.
    refused(embed(&handle, 2).await);
    assert_eq!(site.loads().len(), 1);
    assert_eq!(handle.failed_for_good(), None);
    // An operator need not wait.
    handle.load(TowerKind::Vision).await.expect("the file is there now");
    embed(&handle, 3).await.expect("answered");
    assert_eq!(metrics.model_loads.with_label_values(&["m", "failed"]).get(), 1);
    assert_eq!(handle.state(), WorkerState::Running);
}

#[tokio::test]
async fn a_failure_that_time_does_not_mend_is_known_until_a_load_succeeds() {
    let site = Site { for_good: true, ..Site::new(None) };
    site.failures.store(1, Ordering::SeqCst);
    let (handle, _) = site.model("m");
    assert!(handle.load(TowerKind::Text).await.is_err());
    assert_eq!(handle.failed_for_good().as_deref(), Some("no file"));
    handle.load(TowerKind::Text).await.expect("mended");
    handle.load(TowerKind::Vision).await.expect("mended");
    assert_eq!(handle.failed_for_good(), None);
}

#[tokio::test]
async fn a_row_that_cannot_wait_for_the_load_is_told_when_to_come_back() {
    let (site, open) = Site::gated();
    let (handle, _) = site.model("m");
    let soon = Instant::now() + Duration::from_millis(20);
    let how = Submit { deadline: Some(soon), ..Submit::default() };
    let answer = handle.embed_image(image(1), how).await;
    assert!(matches!(answer, Err(BatchError::NotLoaded { .. })), "{answer:?}");
    open.send(()).expect("the load goes on");
    until(&handle, [LOADED; 2]).await;
    embed(&handle, 2).await.expect("answered");
}

#[tokio::test]
async fn a_row_that_is_refused_has_the_tower_loaded_for_the_next() {
    let (site, open) = Site::gated();
    let (handle, _) = site.model("m");
    let row = queued(&handle, 1, Submit::default()).await;
    until(&handle, [Presence::Loading; 2]).await;
    let slow = Instant::now();
    while slow.elapsed() < Duration::from_millis(30) {
        tokio::task::yield_now().await;
    }
    open.send(()).expect("the load goes on");
    row.await.expect("no panic").expect("answered");
    assert!(handle.unload(TowerKind::Vision).await);
    // The load took longer than this row can wait, which is known at once.
    let soon = Instant::now() + Duration::from_millis(10);
    let how = Submit { deadline: Some(soon), ..Submit::default() };
    let answer = handle.embed_image(image(2), how).await;
    assert!(matches!(answer, Err(BatchError::NotLoaded { .. })), "{answer:?}");
    open.send(()).expect("the load goes on");
    until(&handle, [LOADED; 2]).await;
    embed(&handle, 3).await.expect("answered");
}

#[tokio::test]
async fn the_tower_that_was_used_least_recently_makes_room() {
    // Room for two models.
    let site = Site::new(Some(4 * BYTES));
    let models = ["a", "b", "c"].map(|name| site.model(name));
    let [(a, of_a), (b, of_b), (c, _)] = &models;
    embed(a, 1).await.expect("room for it");
    embed(b, 2).await.expect("room for it");
    a.embed_text(text(3), Submit::default()).await.expect("used once more");
    embed(a, 4).await.expect("used once more");
    embed(c, 5).await.expect("another one makes room");
    assert_eq!((presence(a), presence(b), presence(c)), ([LOADED; 2], [UNLOADED; 2], [LOADED; 2]));
    assert_eq!(of_b.tower_unloads.with_label_values(&["b", "memory"]).get(), 2);
    assert_eq!(of_a.tower_unloads.with_label_values(&["a", "memory"]).get(), 0);
    // One tower of b needs the place of one tower.
    b.embed_text(text(6), Submit::default()).await.expect("comes back");
    assert_eq!((presence(a), presence(b)), ([LOADED, UNLOADED], [UNLOADED, LOADED]));
}

#[tokio::test]
async fn a_model_that_stays_comes_back_after_an_operator_unloaded_it() {
    let site = Site { stays: true, ..Site::new(Some(2 * BYTES)) };
    let (handle, _) = site.model("m");
    embed(&handle, 1).await.expect("room for it");
    for tower in TowerKind::ALL {
        assert!(handle.unload(tower).await);
    }
    embed(&handle, 2).await.expect("its own place is free");
    handle.embed_text(text(3), Submit::default()).await.expect("its own place is free");
    assert!(site.budget.check(1).is_err(), "nothing is left for others");
}

#[tokio::test]
async fn a_load_that_needs_more_than_was_thought_makes_others_go() {
    let site = Site::new(Some(4 * BYTES));
    let (a, _) = site.model("a");
    embed(&a, 1).await.expect("room for it");
    let small = Site { expected: BYTES, ..Site::new(None) };
    let small = Site { budget: Arc::clone(&site.budget), ..small };
    let (b, _) = small.model("b");
    let (c, _) = small.model("c");
    embed(&b, 2).await.expect("room for it");
    a.embed_text(text(3), Submit::default()).await.expect("used once more");
    embed(&c, 4).await.expect("room for what it was thought to need");
    until(&b, [LOADED, UNLOADED]).await;
    assert_eq!((presence(&a), presence(&c)), ([UNLOADED, LOADED], [LOADED; 2]));
}

#[tokio::test]
async fn a_model_that_never_fits_is_refused_with_its_size() {
    let site = Site::new(Some(2 * BYTES - 1));
    assert!(site.budget.check(2 * BYTES).is_err());
    let (handle, _) = site.model("m");
    let why = embed(&handle, 1).await.expect_err("too large").to_string();
    assert!(
        why.ends_with("it needs 20 bytes, and the bound on resident weights leaves 19"),
        "{why}"
    );
    assert!(site.loads().is_empty());
}

#[tokio::test]
async fn a_tower_that_has_rows_never_goes() {
    let site = Site::new(Some(2 * BYTES));
    let (open, gate) = mpsc::channel();
    let (mut vision, _) = Fake::new();
    vision.gate = Some(gate);
    let (handle, rows) = held_with_rows(&site, vision).await;
    // Neither an operator nor a load that needs the room gets it.
    let asked = handle.clone();
    let asked = tokio::spawn(async move { asked.unload(TowerKind::Vision).await });
    let (other, _) = site.model("other");
    let waits = queued(&other, 7, Submit::default()).await;
    until(&other, [Presence::Loading; 2]).await;
    assert_eq!(handle.towers()[0].presence, LOADED);
    open.send(()).expect("the first row runs");
    assert!(!asked.await.expect("no panic"), "the second row waits");
    assert!(!waits.is_finished());
    open.send(()).expect("the second row runs");
    for row in rows {
        row.await.expect("no panic").expect("answered");
    }
    waits.await.expect("no panic").expect("there is room once the rows are done");
    assert_eq!(handle.towers()[0].presence, UNLOADED);
}

/// A model with one row in its vision tower, which stands at a gate, and one behind it.
async fn held_with_rows(
    site: &Site,
    vision: Fake,
) -> (Handle, Vec<JoinHandle<Result<Answer, BatchError>>>) {
    let passes = Arc::clone(&vision.passes);
    let keeping = Keeping {
        loader: Arc::new(|_| Err("not again".into())),
        towers: [true, false],
        idle: None,
        may_yield: true,
        expected_bytes: [BYTES, 0],
        budget: Arc::clone(&site.budget),
        give_back: || {},
    };
    let vision = Some(Box::new(FakeVision(vision)) as _);
    let parts = Parts { vision, bytes: [BYTES, 0], ..Parts::default() };
    let metrics = Arc::new(Metrics::new());
    let handle = spawn("held", (parts, keeping), &config(1), metrics);
    let handle = handle.expect("a thread");
    let first = queued(&handle, 1, Submit::default()).await;
    while passes.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    let second = queued(&handle, 2, Submit::default()).await;
    (handle, vec![first, second])
}

#[tokio::test]
async fn a_stop_during_a_load_answers_what_waited() {
    let (site, open) = Site::gated();
    let (handle, _) = site.model("m");
    let row = queued(&handle, 1, Submit::default()).await;
    until(&handle, [Presence::Loading; 2]).await;
    handle.close();
    open.send(()).expect("the load goes on");
    row.await.expect("no panic").expect("answered");
    handle.stopped().await;
    assert_eq!(handle.state(), WorkerState::Stopped);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_load_that_nobody_waits_for() {
    let (site, _open) = Site::gated();
    let (handle, _) = site.model("m");
    let row = queued(&handle, 1, Submit::default()).await;
    until(&handle, [Presence::Loading; 2]).await;
    row.abort();
    drop(row.await);
    handle.close();
    handle.stopped().await;
    assert_eq!(handle.state(), WorkerState::Stopped);
}
