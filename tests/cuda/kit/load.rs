//! Sends requests to a server from several clients at the same time. All inputs are different, because a server
//! computes equal inputs only once.

mod bodies;
mod client;
mod photo;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;

use self::{
    bodies::Bodies,
    client::{Answer, Client},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// `HOST:PORT`.
    #[arg(long)]
    server: String,
    /// The model's name there.
    #[arg(long)]
    model: String,
    #[arg(long, value_enum)]
    kind: Kind,
    /// Size of the images in pixels.
    #[arg(long, default_value_t = 224)]
    width: u32,
    /// Size of the images in pixels.
    #[arg(long, default_value_t = 224)]
    height: u32,
    /// Items per request. For kind `mixed`, the maximum.
    #[arg(long, default_value_t = 1)]
    items: usize,
    /// Number of requests at the same time.
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// Measured time in seconds.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Time before the measurement in seconds.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Number of sending threads.
    #[arg(long, default_value_t = 4)]
    threads: usize,
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// JPEG files: a single one as the request body, several as raw tensors.
    Jpeg,
    /// Images that the client resized and normalised, as raw tensors.
    Pixels,
    Texts,
    /// Alternating JPEG files and texts, of any number up to the maximum.
    Mixed,
}

/// The results of one client.
#[derive(Default)]
struct Seen {
    /// Milliseconds of each request that was answered.
    took: Vec<f64>,
    items: usize,
    rejected: usize,
    failed: usize,
    failure: Option<String>,
}

/// How long a client waits after it was refused because of overload.
const PAUSE: Duration = Duration::from_millis(5);

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let bodies = Arc::new(Bodies::new(arguments));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(arguments.threads)
        .enable_all()
        .build()?;
    let begin = Instant::now();
    let counts = begin + Duration::from_secs_f64(arguments.warm_up);
    let until = counts + Duration::from_secs_f64(arguments.seconds);
    let all = runtime.block_on(async {
        let clients: Vec<_> = (0..arguments.clients)
            .map(|number| {
                let client = Client::new(&arguments.server);
                tokio::spawn(send(client, (Arc::clone(&bodies), number), counts..until))
            })
            .collect();
        let mut all = Seen::default();
        for client in clients {
            let Ok(seen) = client.await else { continue };
            all.took.extend(seen.took);
            all.items += seen.items;
            all.rejected += seen.rejected;
            all.failed += seen.failed;
            all.failure = all.failure.or(seen.failure);
        }
        all
    });
    report(arguments, all);
    Ok(())
}

async fn send(
    mut client: Client,
    (bodies, number): (Arc<Bodies>, usize),
    window: std::ops::Range<Instant>,
) -> Seen {
    let mut seen = Seen::default();
    let mut turn = number;
    while Instant::now() < window.end {
        let (request, items) = bodies.request(turn);
        turn += 1;
        let sent = Instant::now();
        let answer = client.send(request).await;
        let counts = window.contains(&Instant::now());
        match answer {
            Ok(Answer { status: 200, .. }) if counts => {
                seen.took.push(sent.elapsed().as_secs_f64() * 1e3);
                seen.items += items;
            }
            Ok(Answer { status: 200, .. }) => {}
            Ok(Answer { status: 429 | 503, .. }) => {
                seen.rejected += usize::from(counts);
                tokio::time::sleep(PAUSE).await;
            }
            Ok(Answer { status, body }) => {
                seen.failed += 1;
                let text = String::from_utf8_lossy(&body).chars().take(300).collect::<String>();
                seen.failure.get_or_insert(format!("{status}: {text}"));
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => {
                seen.failed += 1;
                seen.failure.get_or_insert(format!("{error:#}"));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    seen
}

fn report(arguments: &Arguments, mut seen: Seen) {
    seen.took.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (seen.took.len() as f64 * share) as usize;
        seen.took.get(index.min(seen.took.len().saturating_sub(1)))
    };
    let line = json!({
        "items_per_second": seen.items as f64 / arguments.seconds,
        "requests": seen.took.len(),
        "p50_ms": at(0.50),
        "p99_ms": at(0.99),
        "rejected": seen.rejected,
        "failed": seen.failed,
        "failure": seen.failure,
        "clients": arguments.clients,
        "items": arguments.items,
    });
    println!("{line}");
}
