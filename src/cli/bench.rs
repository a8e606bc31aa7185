//! `siglip-server bench`: how a server answers at a given rate.
//!
//! The load is open: requests begin when they are due, whether earlier ones are answered or not, as those of many
//! independent users do. A time is counted from the moment that a request was due, so that a server which stands still
//! is charged for all that had to wait (no coordinated omission).

mod report;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Args;
use reqwest::{Client, Url};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{small_file, tls};

/// Maximum number of requests that wait for a response at once. A request that is due beyond it is sent later, and its
/// time still counts from when it was due.
const IN_FLIGHT: usize = 4096;
/// Maximum number of requests of one rate.
const MAX_REQUESTS: f64 = 1e7;
/// How long a request may take.
const TIMEOUT: Duration = Duration::from_mins(2);
const MAX_FILE_BYTES: u64 = 64 << 20;

/// What to send, and how often.
#[derive(Debug, Args)]
pub(super) struct Bench {
    /// The server
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: Url,
    /// Requests per second; several with commas are tried one after the other
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "10")]
    rate: Vec<f64>,
    /// Seconds at each rate
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    seconds: f64,
    /// A text to embed; may be given several times, and requests take turns
    #[arg(long = "text", value_name = "TEXT")]
    texts: Vec<String>,
    /// An image file to embed; may be given several times, and requests take turns
    #[arg(long = "image", value_name = "FILE")]
    images: Vec<PathBuf>,
    /// Texts and images of one request
    #[arg(long, value_name = "N", default_value_t = 1)]
    items: usize,
    /// Send every text with a number behind it, so that the server's cache knows none
    #[arg(long)]
    distinct: bool,
    /// The model; the server's first by default
    #[arg(long = "of-model", value_name = "NAME")]
    of_model: Option<String>,
    /// The variable that holds the API key
    #[arg(long, value_name = "VARIABLE", default_value = "BENCH_API_KEY")]
    key_variable: String,
    /// Print one JSON object in place of a table
    #[arg(long)]
    json: bool,
    /// Draw times over rates
    #[arg(long, value_name = "FILE.svg")]
    svg: Option<PathBuf>,
}

/// What was seen at one rate.
struct Round {
    rate: f64,
    seconds: f64,
    /// Seconds from when a request was due to the end of its response, of those that were answered with success, in
    /// order of size.
    times: Vec<f64>,
    /// Responses by status, and requests without one.
    codes: BTreeMap<String, usize>,
    items: usize,
}

impl Round {
    fn quantile(&self, share: f64) -> Option<f64> {
        let place = (share * self.times.len() as f64).ceil().max(1.0) as usize - 1;
        self.times.get(place.min(self.times.len().saturating_sub(1))).copied()
    }

    fn sent(&self) -> usize {
        self.codes.values().sum()
    }

    fn json(&self) -> Value {
        let seconds = |share: f64| self.quantile(share);
        json!({
            "rate": self.rate,
            "seconds": self.seconds,
            "requests": self.sent(),
            "codes": self.codes,
            "answered_per_second": self.times.len() as f64 / self.seconds,
            "items_per_second": (self.times.len() * self.items) as f64 / self.seconds,
            "time": {
                "p50": seconds(0.5), "p90": seconds(0.9), "p95": seconds(0.95), "p99": seconds(0.99),
                "p999": seconds(0.999), "max": self.times.last(),
            },
        })
    }
}

/// What requests are made of.
struct Sender {
    client: Client,
    url: Url,
    key: Option<String>,
    inputs: Vec<Value>,
    model: Option<String>,
    items: usize,
    distinct: bool,
}

impl Bench {
    pub(super) fn run(self) -> anyhow::Result<()> {
        ensure!(self.items > 0 && self.seconds > 0.0, "--items and --seconds are above 0");
        let most = self.rate.iter().copied().fold(0.0, f64::max) * self.seconds;
        ensure!(
            self.rate.iter().all(|&rate| rate > 0.0) && most <= MAX_REQUESTS,
            "a rate is above 0, and has at most {MAX_REQUESTS:.0} requests in its time"
        );
        let mut inputs: Vec<_> = self.texts.iter().map(|text| json!({"text": text})).collect();
        for path in &self.images {
            let bytes = small_file::read(path, MAX_FILE_BYTES);
            let bytes = bytes.with_context(|| path.display().to_string())?;
            inputs.push(json!({"image": STANDARD.encode(bytes)}));
        }
        if inputs.is_empty() {
            inputs.push(json!({"text": "a photo of a cat"}));
        }
        let mut base = self.url.clone();
        if !base.path().ends_with('/') {
            // The last part of a path is replaced by what is joined to it, and a prefix must stay.
            base.set_path(&format!("{}/", base.path()));
        }
        tls::install_provider();
        let client =
            Client::builder().timeout(TIMEOUT).pool_max_idle_per_host(IN_FLIGHT).build()?;
        let sender = Arc::new(Sender {
            client,
            url: base.join("v1/embeddings")?,
            key: std::env::var(&self.key_variable).ok(),
            inputs,
            model: self.of_model,
            items: self.items,
            distinct: self.distinct,
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let mut rounds = Vec::new();
        if !self.json {
            super::print(&report::head())?;
        }
        for &rate in &self.rate {
            let seen = runtime.block_on(round(&sender, rate, self.seconds));
            if !self.json {
                super::print(&report::line(&seen))?;
            }
            rounds.push(seen);
        }
        if self.json {
            let rounds: Vec<_> = rounds.iter().map(Round::json).collect();
            super::print(&format!("{:#}\n", json!({"url": self.url.as_str(), "rounds": rounds})))?;
        }
        if let Some(path) = &self.svg {
            std::fs::write(path, report::svg(&rounds))
                .with_context(|| path.display().to_string())?;
        }
        let answered: usize = rounds.iter().map(|round| round.times.len()).sum();
        ensure!(answered > 0, "no request was answered with success: {:?}", rounds[0].codes);
        Ok(())
    }
}

/// Sends at a rate for some time, and waits for what is under way.
async fn round(sender: &Arc<Sender>, rate: f64, seconds: f64) -> Round {
    let count = (rate * seconds).round().max(1.0) as usize;
    let room = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut tasks = JoinSet::new();
    let (mut times, mut codes) = (Vec::with_capacity(count), BTreeMap::new());
    let mut note = |outcome: Result<(String, Option<f64>), tokio::task::JoinError>| {
        let (code, time) = outcome.unwrap_or_else(|_| ("failed".to_owned(), None));
        *codes.entry(code).or_default() += 1;
        times.extend(time);
    };
    let begin = Instant::now();
    for number in 0..count {
        let due = begin + Duration::from_secs_f64(number as f64 / rate);
        tokio::time::sleep_until(due.into()).await;
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { break };
        let sender = Arc::clone(sender);
        tasks.spawn(async move {
            let code = sender.send(number).await;
            drop(permit);
            let time = (code == "200").then(|| due.elapsed().as_secs_f64());
            (code, time)
        });
        while let Some(outcome) = tasks.try_join_next() {
            note(outcome);
        }
    }
    while let Some(outcome) = tasks.join_next().await {
        note(outcome);
    }
    times.sort_by(f64::total_cmp);
    // At least the time for which requests were due; more where the server was behind at the end.
    let seconds = begin.elapsed().as_secs_f64().max(seconds);
    Round { rate, seconds, times, codes, items: sender.items }
}

impl Sender {
    /// The status of the response, or what kept it from coming.
    async fn send(&self, number: usize) -> String {
        let input = |place: usize| {
            let mut input = self.inputs[place % self.inputs.len()].clone();
            if let (true, Some(text)) = (self.distinct, input["text"].as_str()) {
                input["text"] = json!(format!("{text} {place}"));
            }
            input
        };
        let first = number * self.items;
        let inputs: Vec<_> = (first..first + self.items).map(input).collect();
        let mut body = json!({"input": inputs, "encoding_format": "base64"});
        if let Some(model) = &self.model {
            body["model"] = json!(model);
        }
        let mut request = self.client.post(self.url.clone()).json(&body);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        match request.send().await {
            // The time ends with the last byte.
            Ok(response) => {
                let status = response.status();
                match response.bytes().await {
                    Ok(_) => status.as_u16().to_string(),
                    Err(_) => "broken off".to_owned(),
                }
            }
            Err(error) if error.is_timeout() => "no answer in time".to_owned(),
            Err(error) if error.is_connect() => "not connected".to_owned(),
            Err(_) => "broken off".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_times_seen() {
        let times: Vec<_> = (1..=100).map(f64::from).collect();
        let round = Round { rate: 1.0, seconds: 1.0, times, codes: BTreeMap::new(), items: 1 };
        assert_eq!(round.quantile(0.5), Some(50.0));
        assert_eq!(round.quantile(0.99), Some(99.0));
        assert_eq!(round.quantile(0.999), Some(100.0));
        let none = Round { times: vec![], ..round };
        assert_eq!(none.quantile(0.5), None);
    }
}
