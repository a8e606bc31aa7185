//! The results of the clients.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

#[derive(Default)]
pub(crate) struct Seen {
    stop: AtomicBool,
    counts: Mutex<BTreeMap<String, u64>>,
    wrong: Mutex<Vec<String>>,
    probes: Mutex<Vec<Duration>>,
    /// For each right result of the patient client: the time with all retries.
    waits: Mutex<Vec<Duration>>,
}

impl Seen {
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    pub(crate) fn count(&self, what: &str) {
        *self.counts.lock().unwrap().entry(what.to_owned()).or_default() += 1;
    }

    pub(crate) fn wrong(&self, what: String) {
        if !self.stopped() {
            self.wrong.lock().unwrap().push(what);
        }
    }

    pub(crate) fn probed(&self, time: Duration) {
        self.probes.lock().unwrap().push(time);
    }

    pub(crate) fn answered(&self, time: Duration) {
        self.waits.lock().unwrap().push(time);
    }

    pub(crate) fn print(&self) {
        for (what, count) in self.counts.lock().unwrap().iter() {
            println!("{count:8} {what}");
        }
        let mut waits = self.waits.lock().unwrap();
        waits.sort_unstable();
        let (median, longest) = (waits.get(waits.len() / 2), waits.last());
        println!(
            "right answers to the patient client: {}, median {median:?}, longest {longest:?}",
            waits.len()
        );
        let mut probes = self.probes.lock().unwrap();
        probes.sort_unstable();
        let (median, late) = (probes.get(probes.len() / 2), probes.get(probes.len() * 99 / 100));
        let slowest = probes.last();
        println!(
            "probes: {}, median {median:?}, 99th percentile {late:?}, slowest {slowest:?}",
            probes.len()
        );
    }

    /// The number of broken rules.
    pub(crate) fn violations(&self, longest_probe: Duration) -> usize {
        let wrong = self.wrong.lock().unwrap();
        for what in wrong.iter().take(20) {
            println!("VIOLATION {what}");
        }
        let slow = self.probes.lock().unwrap().iter().any(|&probe| probe > longest_probe);
        let none = self.waits.lock().unwrap().is_empty();
        if slow || none {
            println!("VIOLATION a probe was slow: {slow}; no right answer: {none}");
        }
        wrong.len() + usize::from(slow) + usize::from(none)
    }
}
