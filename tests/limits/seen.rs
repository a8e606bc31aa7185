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
    slowest_probe: Mutex<Duration>,
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
        let mut slowest = self.slowest_probe.lock().unwrap();
        *slowest = time.max(*slowest);
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
        println!("slowest probe: {:?}", self.slowest_probe.lock().unwrap());
    }

    /// The number of broken rules.
    pub(crate) fn violations(&self, longest_probe: Duration) -> usize {
        let wrong = self.wrong.lock().unwrap();
        for what in wrong.iter().take(20) {
            println!("VIOLATION {what}");
        }
        let slow = *self.slowest_probe.lock().unwrap() > longest_probe;
        let none = self.waits.lock().unwrap().is_empty();
        if slow || none {
            println!("VIOLATION a probe was slow: {slow}; no right answer: {none}");
        }
        wrong.len() + usize::from(slow) + usize::from(none)
    }
}
