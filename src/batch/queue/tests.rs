//! Rows of several sizes in one queue.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;

/// A row of `size` that can be told apart by its number.
fn entry(id: u64, size: u32) -> (Entry<Pixels>, oneshot::Receiver<Result<Answer, BatchError>>) {
    let (reply, answer) = oneshot::channel();
    let input = Pixels { height: size, width: 1, data: Arc::from(id.to_le_bytes()) };
    let caller = Caller::new(&Submit::default(), reply, None);
    let entry = Entry { input, tap: Tap::default(), caller };
    (entry, answer)
}

fn id(entry: &Entry<Pixels>) -> u64 {
    u64::from_le_bytes(*entry.input.data.first_chunk().expect("eight bytes"))
}

/// A queue of interactive rows, numbered in order; the receivers keep them wanted.
fn queue_of(sizes: &[u32], max_rows: usize) -> Queue<Pixels> {
    let mut queue = Queue::new(max_rows, 1000);
    for (id, &size) in sizes.iter().enumerate() {
        queue.push(entry(id as u64, size).0, Priority::Interactive);
    }
    queue
}

fn ids(batch: &[Entry<Pixels>]) -> Vec<u64> {
    batch.iter().map(id).collect()
}

#[test]
fn the_row_that_waits_longest_chooses_the_size() {
    let mut queue = queue_of(&[4, 9, 4, 4, 9, 1], 2);
    assert_eq!(ids(&queue.take_batch()), [0, 2]);
    assert_eq!(ids(&queue.take_batch()), [1, 4]);
    assert_eq!(ids(&queue.take_batch()), [3]);
    assert_eq!(ids(&queue.take_batch()), [5]);
    assert!(queue.take_batch().is_empty());
}

#[test]
fn a_batch_of_larger_rows_has_fewer_of_them() {
    let mut queue = queue_of(&[20, 20, 20, 500, 500, 5, 5, 5, 5, 5], 4);
    queue.full_size = Some(10);
    assert_eq!(queue.take_batch().len(), 2);
    assert_eq!(queue.take_batch().len(), 1);
    assert_eq!(queue.take_batch().len(), 1, "however large a row is, it runs");
    assert_eq!(queue.take_batch().len(), 1);
    assert_eq!(queue.take_batch().len(), 4, "small rows do not raise the limit");
}

#[test]
fn the_time_to_drain_follows_the_rate_of_late() {
    let ms = Duration::from_millis;
    let mut queue = queue_of(&[4; 3], 2);
    assert_eq!(queue.drain_time(), ms(0), "nothing is known before the first batch");
    queue.account(4, ms(400));
    assert_eq!(queue.drain_time(), ms(3 * 100));
    // A fifth of the newest rate.
    queue.account(1, ms(600));
    assert_eq!(queue.drain_time(), ms(3 * 200));
    queue.take_batch();
    assert_eq!(queue.drain_time(), ms(200), "one row is left");
    queue.push(entry(9, 4).0, Priority::Bulk);
    assert_eq!(queue.drain_time(), ms(400), "bulk waits as well");
}

#[test]
fn bulk_of_a_rare_size_leads_after_a_while() {
    let mut queue = Queue::new(2, 1000);
    queue.push(entry(1000, 9).0, Priority::Bulk);
    let mut batches = 0;
    loop {
        // Bulk rows of the interactive rows' size ride along all the time.
        queue.push(entry(batches, 4).0, Priority::Interactive);
        queue.push(entry(500 + batches, 4).0, Priority::Bulk);
        if ids(&queue.take_batch()) == [1000] {
            break;
        }
        batches += 1;
        assert!(batches <= u64::from(policy::PATIENCE), "it waits while others ride along");
    }
}

#[test]
fn bulk_passes_no_row_that_was_there_before_it() {
    let mut queue = queue_of(&[4; 30], 1);
    queue.push(entry(1000, 4).0, Priority::Bulk);
    let mut order = Vec::new();
    while order.last() != Some(&1000) {
        // More rows come than go.
        let next = 30 + order.len() as u64 * 2;
        queue.push(entry(next, 4).0, Priority::Interactive);
        queue.push(entry(next + 1, 4).0, Priority::Interactive);
        order.extend(ids(&queue.take_batch()));
    }
    let before: Vec<u64> = (0..30).chain([1000]).collect();
    assert_eq!(order, before, "after those before it, and at once then");
}

proptest! {
    #[test]
    fn batches_keep_their_promises(
        arrivals in prop::collection::vec(
            prop::collection::vec((1..4_u32, prop::bool::weighted(0.3)), 0..5), 1..40,
        ),
        max_rows in 1..6_usize,
    ) {
        let mut queue = Queue::new(max_rows, 1000);
        queue.full_size = Some(2);
        // Of each row its size, whether it is bulk, and how many rows of its priority stood before it.
        let mut rows: Vec<(u32, bool, u64)> = Vec::new();
        // Of each row how many interactive rows stood before it, all of which a bulk row lets go first.
        let mut interactive_before: Vec<u64> = Vec::new();
        let (mut taken, mut batches) = (Vec::new(), 0);
        let mut came_at = Vec::new();
        let mut arrivals = arrivals.into_iter();
        loop {
            let arrived = arrivals.next();
            let over = arrived.is_none();
            for (size, bulk) in arrived.unwrap_or_default() {
                let priority = if bulk { Priority::Bulk } else { Priority::Interactive };
                let lane = queue.lane();
                let before = if bulk { lane.bulk } else { lane.interactive };
                interactive_before.push(lane.interactive as u64);
                queue.push(entry(rows.len() as u64, size).0, priority);
                rows.push((size, bulk, before as u64));
                came_at.push(batches);
            }
            let waiting = queue.len();
            let batch = ids(&queue.take_batch());
            prop_assert_eq!(queue.len() + batch.len(), waiting);
            prop_assert_eq!(batch.is_empty(), waiting == 0);
            if over && waiting == 0 {
                break;
            }
            batches += u64::from(waiting > 0);
            let row = |id: u64| rows[id as usize];
            let size = batch.first().map_or(1, |&first| row(first).0);
            prop_assert!(batch.iter().all(|&id| row(id).0 == size), "one size");
            prop_assert!(batch.len() <= queue.capacity((size as usize, 1)));
            for &id in &batch {
                let (_, bulk, before) = row(id);
                let waited = batches - came_at[id as usize];
                if !bulk {
                    // Each batch takes the first interactive row, but for those that bulk leads.
                    let bulk_led = waited / u64::from(policy::PATIENCE) + 1;
                    prop_assert!(waited <= before + 1 + bulk_led, "row {id} waited {waited}");
                } else {
                    // Each bulk row before it leads after so many batches at the latest, once the interactive rows
                    // that came earlier are gone.
                    let patience = u64::from(policy::PATIENCE) + 1;
                    let most = (before + 1) * patience + interactive_before[id as usize];
                    prop_assert!(waited <= most, "row {id} waited {waited}");
                }
            }
            taken.extend(batch);
        }
        prop_assert_eq!(taken.len(), rows.len());
        // First in, first out among rows of one priority and one size.
        for bulk in [false, true] {
            for size in 1..4 {
                let order: Vec<_> = taken
                    .iter()
                    .filter(|&&id| (rows[id as usize].0, rows[id as usize].1) == (size, bulk))
                    .collect();
                prop_assert!(order.is_sorted());
            }
        }
    }
}

/// A row of a request.
fn row_of(request: RequestId, id: u64) -> Entry<Pixels> {
    let mut entry = entry(id, 4).0;
    entry.caller.request = Some(request);
    entry
}

#[test]
fn a_short_request_waits_for_one_batch_of_a_long_one() {
    let mut queue = Queue::new(4, 1000);
    let long = RequestId::unique();
    for id in 0..100 {
        queue.push(row_of(long, id), Priority::Interactive);
    }
    assert_eq!(ids(&queue.take_batch()), [0, 1, 2, 3]);
    for id in [1000, 1001] {
        queue.push(row_of(RequestId::unique(), id), Priority::Interactive);
    }
    assert_eq!(ids(&queue.take_batch()), [1000, 1001, 4, 5], "they fill the turn under way");
    assert_eq!(ids(&queue.take_batch()), [6, 7, 8, 9]);
}

#[test]
fn long_requests_go_batch_by_batch() {
    let mut queue = Queue::new(2, 1000);
    let requests = [RequestId::unique(), RequestId::unique()];
    for (of, request) in requests.into_iter().enumerate() {
        for row in 0..4 {
            queue.push(row_of(request, of as u64 * 10 + row), Priority::Interactive);
        }
    }
    let order: Vec<_> = (0..4).map(|_| ids(&queue.take_batch())).collect();
    assert_eq!(order, [[0, 1], [10, 11], [2, 3], [12, 13]]);
}

#[test]
fn new_requests_keep_no_old_one_waiting_for_ever() {
    let mut queue = Queue::new(1, 1000);
    let long = RequestId::unique();
    for id in 0..3 {
        queue.push(row_of(long, id), Priority::Interactive);
    }
    let mut order = Vec::new();
    for batch in 0..60 {
        // More rows come than go.
        for row in 0..2 {
            queue.push(row_of(RequestId::unique(), 100 + 2 * batch + row), Priority::Interactive);
        }
        order.extend(ids(&queue.take_batch()));
    }
    let last = order.iter().position(|&id| id == 2);
    assert!(last.is_some(), "the last row of the long request went: {order:?}");
}
