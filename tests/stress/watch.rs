//! Watches the server's log, metrics and memory.

use std::{
    collections::{BTreeMap, HashSet},
    io::{BufRead as _, BufReader},
    process::ChildStderr,
    sync::atomic::Ordering,
};

use crate::shared::Shared;

/// Maximum growth of the resident set after its first plateau.
const GROWTH: f64 = 1.05;
/// The fraction of passes that fail because of `FAULTS` in `main.rs`.
const FAULT_RATE: f64 = 1.0 / 53.0 + 1.0 / 97.0 + 1.0 / 71.0 + 1.0 / 83.0;
/// Number of rows that fail in a broken tower before it is replaced: two batches of texts.
const BROKEN_ROWS: f64 = 64.0;
/// Equal inputs in flight are computed once and fail together.
const SHARE: f64 = 2.0;

/// The requests that the server has read, according to its log.
pub(crate) struct Log(tokio::task::JoinHandle<HashSet<String>>);

impl Log {
    /// Reads the log as it is written.
    pub(crate) fn follow(log: ChildStderr) -> Self {
        Self(tokio::task::spawn_blocking(move || {
            let mut ids = HashSet::new();
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                let id =
                    line.split_once("\"request_id\":\"").and_then(|(_, rest)| rest.split_once('"'));
                ids.extend(id.map(|(id, _)| id.to_owned()));
            }
            ids
        }))
    }

    /// All request ids in the log, after the server has ended.
    pub(crate) async fn into_ids(self) -> HashSet<String> {
        self.0.await.expect("does not panic")
    }
}

/// Series of the metrics with their values.
async fn scrape(shared: &Shared) -> Vec<(String, f64)> {
    let answer = shared.client.get(format!("{}/metrics", shared.url)).send().await;
    let text = answer.expect("answers").text().await.expect("text");
    let series = text.lines().filter(|line| !line.starts_with('#'));
    series
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(series, value)| (series.to_owned(), value.parse().expect("a number")))
        .collect()
}

/// Compares the server's own counts with those of the clients.
pub(crate) async fn compare_metrics(shared: &Shared) {
    let series = scrape(shared).await;
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    for (name, value) in &series {
        let Some(rest) = name.strip_prefix("siglip_requests_total{code=\"") else { continue };
        let (code, route) = rest.split_once('"').expect("a label");
        if route.contains("/v1/") || route.contains("unmatched") {
            *counted.entry(code.to_owned()).or_default() += *value as u64;
        }
    }
    let seen = shared.seen.lock().unwrap().clone();
    println!("answers by code, metrics: {counted:?}\nanswers by code, clients: {seen:?}");
    for (code, seen) in &seen {
        if counted.get(code).is_none_or(|counted| counted < seen) {
            shared.violate(format!("metrics: {code} {:?}, clients saw {seen}", counted.get(code)));
        }
    }
    let sum = |start: &str| -> f64 {
        series.iter().filter(|(name, _)| name.starts_with(start)).map(|(_, value)| value).sum()
    };
    for name in ["siglip_requests_in_flight", "siglip_queue_rows"] {
        // The scrape itself is in flight.
        if sum(name) > 1.0 {
            shared.violate(format!("{name} is {} although nobody asks", sum(name)));
        }
    }
    for name in ["siglip_dropped_total", "siglip_worker_restarts_total", "siglip_rejected_total"] {
        for (name, value) in series.iter().filter(|(series, _)| series.starts_with(name)) {
            println!("{name} {value}");
        }
    }
    // A pass that fails is repeated in halves, down to the rows that fail.
    let batches = sum("siglip_batch_rows_count");
    let marked = seen.get("device_failed").copied().unwrap_or_default() as f64;
    let passes = batches * (1.0 + 2.0 * FAULT_RATE) + 12.0 * marked;
    let bound = SHARE * (passes * FAULT_RATE + BROKEN_ROWS);
    let faulted = shared.faulted.load(Ordering::Relaxed);
    println!(
        "forward passes {batches}; good requests failed by faults {faulted}, bound {bound:.0}"
    );
    if faulted as f64 > bound {
        shared.violate(format!("faults failed {faulted} good requests, more than {bound:.0}"));
    }
}

/// The resident set over time.
#[derive(Default)]
pub(crate) struct Resident(Vec<u64>);

impl Resident {
    pub(crate) fn sample(&mut self, pid: u32) {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        self.0
            .extend(line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()));
    }

    /// Compares the end with the first plateau, since every kind of input was sent before the first sample.
    /// Requests in flight, and the memory that the allocator keeps for ten seconds, change the resident set by
    /// a tenth from moment to moment. A leak raises the minimum, so the first quartiles are compared.
    pub(crate) fn judge(&self, shared: &Shared, strictly: bool) {
        let samples = &self.0;
        let part = |from: usize, to: usize, quarter: usize| {
            quartile(&samples[samples.len() * from / 10..samples.len() * to / 10], quarter)
        };
        let growth = |from: u64, to: u64| (to as f64 / from as f64 - 1.0) * 100.0;
        for (name, quarter) in [("first quartile", 1), ("median", 2)] {
            let (plateau, end) = (part(1, 4, quarter), part(7, 10, quarter));
            println!(
                "resident KiB, {name}: plateau {plateau}, end {end} ({:+.1} %)",
                growth(plateau, end)
            );
        }
        println!(
            "resident MiB over time: {:?}, highest {:?}",
            samples
                .chunks(samples.len().div_ceil(20).max(1))
                .map(|part| quartile(part, 2) >> 10)
                .collect::<Vec<_>>(),
            samples.iter().max().map(|highest| highest >> 10)
        );
        let (plateau, end) = (part(1, 4, 1), part(7, 10, 1));
        if strictly && end as f64 > plateau as f64 * GROWTH {
            shared.violate(format!("memory grows: {plateau} KiB, then {end} KiB"));
        }
    }
}

fn quartile(samples: &[u64], quarter: usize) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() * quarter / 4).copied().unwrap_or_default()
}
