//! Well-behaved clients over HTTP, with good and bad requests.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use reqwest::header;
use serde_json::Value;

use crate::{
    cases::{BULK, Case, LINES},
    rude,
    shared::{Phase, Shared},
};

/// A request that takes longer counts as hanging. This is longer than the server's own deadline, and long
/// enough for a busy machine.
pub(crate) const HANGS: Duration = Duration::from_secs(180);
const TOLERANCE: f64 = 1e-5;
/// Larger bodies are sent rarely, and one at a time.
const HUGE: usize = 8 << 20;

/// Random numbers with a fixed seed for each client.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(number: usize) -> Self {
        Self(0x9e37_79b9_7f4a_7c15 ^ ((number as u64 + 1) << 20))
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// A response's body. The lines of a stream become an array.
pub(crate) async fn parsed(answer: reqwest::Response) -> reqwest::Result<Value> {
    let is_stream = answer.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == LINES);
    let bytes = answer.bytes().await?;
    if !is_stream {
        return Ok(serde_json::from_slice(&bytes).unwrap_or_default());
    }
    let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    Ok(lines.map(|line| serde_json::from_slice::<Value>(line).unwrap_or_default()).collect())
}

/// Whether two responses are equal, with a tolerance for numbers.
fn same(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap_or(f64::NAN), b.as_f64().unwrap_or(f64::NAN));
            (a - b).abs() <= TOLERANCE
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

fn code(body: &Value) -> &str {
    body["error"]["code"].as_str().or(body["code"].as_str()).unwrap_or("ok")
}

struct Answer {
    status: u16,
    retry_after: bool,
    body: Value,
}

async fn send(
    shared: &Shared,
    case: &Case,
    id: &str,
    timeout_ms: Option<usize>,
) -> reqwest::Result<Answer> {
    let mut request = shared.client.post(format!("{}{}", shared.url, case.path));
    if let Some(ms) = timeout_ms {
        request = request.header("x-request-timeout-ms", ms);
    }
    let request = request.header(header::CONTENT_TYPE, case.content_type).body(case.body.clone());
    let answer = request.header("x-request-id", id).timeout(HANGS).send().await?;
    let status = answer.status().as_u16();
    let retry_after = answer.headers().contains_key(header::RETRY_AFTER);
    let body = parsed(answer).await?;
    Ok(Answer { status, retry_after, body })
}

/// Sends one case and checks its response.
async fn ask(shared: &Shared, case: &Case, expected: Option<&Value>, timeout_ms: Option<usize>) {
    let began = shared.phase();
    let id = shared.next_id();
    let answer = match send(shared, case, &id, timeout_ms).await {
        Ok(answer) => answer,
        Err(error) => return lost(shared, &error, id, format!("{}, from {began:?}", case.name)),
    };
    let Answer { status, retry_after, body } = answer;
    let code = code(&body).to_owned();
    *shared.seen.lock().unwrap().entry(code.clone()).or_default() += 1;
    let what = match (case.fault, timeout_ms) {
        (Some(_), _) => "bad",
        (None, Some(_)) => "good, in a hurry",
        (None, None) if case.path == BULK => "good, bulk",
        (None, None) => "good",
    };
    shared.count(format!("{what}: {status} {code}"));
    let draining = shared.phase() >= Phase::Terminated;
    let allowed = match (status, code.as_str()) {
        (429, "overloaded") => retry_after,
        (503, "shutting_down") => draining,
        (503, "not_ready") => shared.faults,
        (504, "deadline_exceeded") => timeout_ms.is_some(),
        (500, "device_failed" | "internal") if shared.faults && case.fault.is_none() => {
            shared.faulted.fetch_add(1, Ordering::Relaxed);
            true
        }
        (status, code) => match (case.fault, expected) {
            (Some(fault), _) => fault == (status, code) || also_faulted(shared, &body, fault.1),
            (None, Some(expected)) if case.path == BULK => {
                status == 200 && same_rows(shared, &body, expected, draining)
            }
            (None, Some(expected)) => status == 200 && same(&body, expected),
            (None, None) => status == 200,
        },
    };
    if !allowed {
        shared.violate(format!("{}: wanted {:?}, got {status} {body}", case.name, case.fault));
    }
}

/// Whether an injected fault hit the good item of a bad request. The response then lists both errors.
fn also_faulted(shared: &Shared, body: &Value, wanted: &str) -> bool {
    let listed = body["error"]["errors"].as_array().or(body["errors"].as_array());
    let lists = |code| listed.is_some_and(|items| items.iter().any(|item| item["code"] == code));
    shared.faults && lists(wanted) && (lists("device_failed") || lists("internal"))
}

/// Whether each row of a stream is right, or failed in an allowed way.
fn same_rows(shared: &Shared, found: &Value, expected: &Value, draining: bool) -> bool {
    let (Some(found), Some(expected)) = (found.as_array(), expected.as_array()) else {
        return false;
    };
    let failed = |row: &Value| match row["error"]["code"].as_str() {
        Some("device_failed" | "internal") if shared.faults => {
            shared.faulted.fetch_add(1, Ordering::Relaxed);
            true
        }
        Some("not_ready") => shared.faults,
        // The server is overloaded, and this row is one of many.
        Some("overloaded") => true,
        Some("shutting_down") => draining,
        _ => false,
    };
    let is_end = |row: &Value| row["done"].is_boolean();
    let rows = found.iter().zip(expected).all(|(found, expected)| {
        same(found, expected) || failed(found) || (is_end(found) && is_end(expected))
    });
    rows && (found.len() == expected.len() || draining)
}

/// Checks a request that got no response.
fn lost(shared: &Shared, error: &reqwest::Error, id: String, what: String) {
    if error.is_timeout() {
        shared.violate(format!("hangs: {what}"));
    } else if shared.phase() < Phase::Terminated {
        shared.violate(format!("lost: {what} {error:?}"));
    } else if error.is_connect() {
        shared.count("after SIGTERM: no connection");
    } else {
        shared.lose(id, format!("{what} {error:?}"));
    }
}

/// Sends every case once, several at a time.
pub(crate) async fn each_once(shared: &Arc<Shared>) {
    let turns = Arc::new(tokio::sync::Semaphore::new(8));
    let mut asked = tokio::task::JoinSet::new();
    let good = shared.good.iter().map(|(case, expected)| (case.clone(), Some(expected.clone())));
    let bad = shared.bad.iter().map(|case| (case.clone(), None));
    for (case, expected) in good.chain(bad).collect::<Vec<_>>() {
        let (shared, turns) = (Arc::clone(shared), Arc::clone(&turns));
        asked.spawn(async move {
            let _turn = turns.acquire().await;
            ask(&shared, &case, expected.as_ref(), None).await;
        });
    }
    while asked.join_next().await.is_some() {}
}

/// One client: sends mostly good requests until it is stopped.
pub(crate) async fn run(shared: Arc<Shared>, number: usize) {
    let mut dice = Dice::new(number);
    while !shared.stopped() {
        let (case, expected) = &shared.good[dice.below(shared.good.len())];
        match dice.below(100) {
            0..30 => {
                let case = &shared.bad[dice.below(shared.bad.len())];
                let _turn = match case.body.len() > HUGE {
                    true if dice.below(10) > 0 => continue,
                    true => shared.huge.acquire().await.ok(),
                    false => None,
                };
                ask(&shared, case, None, None).await;
            }
            30..38 => rude::leave_early(&shared, case, &mut dice).await,
            // A stream has no deadline except its idle timeout.
            38..48 if case.path != BULK => {
                ask(&shared, case, Some(expected), Some(1 + dice.below(40))).await;
            }
            _ => ask(&shared, case, Some(expected), None).await,
        }
        if shared.phase() >= Phase::Terminated {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
