//! The shared state and the results of the clients.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use reqwest::Client;
use serde_json::Value;

use crate::{cases::Case, rpc};

/// The phase of the test, in order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Start,
    WarmUp,
    Load,
    Quiet,
    LoadAgain,
    /// From just before the signal.
    Terminated,
    Gone,
}

/// Requests that must succeed, and their expected results.
pub(crate) struct Good {
    pub(crate) over_http: Vec<(Case, Value)>,
    pub(crate) over_grpc: Vec<(rpc::Request, rpc::Answer)>,
}

/// A request that got no response while the server shut down.
pub(crate) struct Lost {
    pub(crate) id: String,
    pub(crate) what: String,
}

pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) url: String,
    pub(crate) rpc: rpc::Client,
    pub(crate) good: Vec<(Case, Value)>,
    pub(crate) called: Vec<(rpc::Request, rpc::Answer)>,
    pub(crate) bad: Vec<Case>,
    pub(crate) faults: bool,
    pub(crate) stop: AtomicBool,
    /// One hundred-megabyte body at a time.
    pub(crate) huge: tokio::sync::Semaphore,
    /// HTTP responses by code, as in the server's metrics.
    pub(crate) seen: Mutex<BTreeMap<String, u64>>,
    /// Good requests that failed because of an injected fault.
    pub(crate) faulted: AtomicU64,
    begin: Instant,
    phase: Mutex<Phase>,
    ids: AtomicU64,
    counts: Mutex<BTreeMap<String, u64>>,
    lost: Mutex<Vec<Lost>>,
    violations: Mutex<Vec<String>>,
}

impl Shared {
    pub(crate) fn new(
        client: Client,
        (url, rpc): (String, rpc::Client),
        Good { over_http: good, over_grpc: called }: Good,
        (bad, faults): (Vec<Case>, bool),
    ) -> Self {
        Self {
            client,
            url,
            rpc,
            good,
            called,
            bad,
            faults,
            stop: AtomicBool::new(false),
            huge: tokio::sync::Semaphore::new(1),
            seen: Mutex::default(),
            faulted: AtomicU64::new(0),
            begin: Instant::now(),
            phase: Mutex::new(Phase::Start),
            ids: AtomicU64::new(0),
            counts: Mutex::default(),
            lost: Mutex::default(),
            violations: Mutex::default(),
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        println!("{:>7.1} s  {phase:?}", self.begin.elapsed().as_secs_f32());
        *self.phase.lock().unwrap() = phase;
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.lock().unwrap()
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    pub(crate) fn next_id(&self) -> String {
        format!("chaos-{}", self.ids.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn count(&self, what: impl Into<String>) {
        *self.counts.lock().unwrap().entry(what.into()).or_default() += 1;
    }

    pub(crate) fn lose(&self, id: String, what: String) {
        self.lost.lock().unwrap().push(Lost { id, what });
    }

    /// Notes a broken rule, with its time.
    pub(crate) fn violate(&self, what: String) {
        self.count("VIOLATION");
        let what: String = what.chars().take(400).collect();
        let at = self.begin.elapsed().as_secs_f32();
        self.violations.lock().unwrap().push(format!("[{at:.1} s, {:?}] {what}", self.phase()));
    }

    /// A request that the server has read must get a response. A request that it never read was sent while the
    /// connection was being closed. In HTTP/1, the client must retry it.
    pub(crate) fn judge_losses(&self, read: &HashSet<String>) {
        for Lost { id, what } in self.lost.lock().unwrap().drain(..) {
            if read.contains(&id) {
                self.violate(format!("read, and not answered: {what}"));
            } else {
                println!("never read by the server: {what}");
                self.count("at SIGTERM: closed before the server read it");
            }
        }
    }

    pub(crate) fn print_counts(&self) {
        for (what, count) in &*self.counts.lock().unwrap() {
            println!("{count:>8}  {what}");
        }
    }

    /// Prints the broken rules. Returns whether there are none.
    pub(crate) fn print_violations(&self) -> bool {
        let violations = self.violations.lock().unwrap();
        violations.iter().take(20).for_each(|violation| println!("VIOLATION {violation}"));
        println!("violations: {}", violations.len());
        violations.is_empty()
    }
}
