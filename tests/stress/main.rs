//! Chaos test: many good and bad clients against a server process with injected faults in its towers, and a
//! SIGTERM under load at the end. It ends by itself, prints a table of counts, and fails if a rule was broken.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod cases;
mod clients;
#[path = "../it/hostile.rs"]
#[expect(dead_code, reason = "shared with the integration tests")]
mod hostile;
#[path = "../it/process.rs"]
#[expect(dead_code, reason = "shared with the integration tests")]
mod process;
mod rpc;
mod rude;
mod shared;
mod watch;

use std::{
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use reqwest::{Client, header};
use tokio::task::JoinSet;

use self::{
    clients::HANGS,
    process::Server,
    shared::{Good, Phase, Shared},
    watch::{Log, Resident},
};

/// Primes, so that every kind meets passes of every size. `broken` costs a reload.
const FAULTS: &str = "error:53,panic:97,nan:71,memory:83,broken:151:2,row";
/// Number of additional gRPC clients.
const RPC_CLIENTS: usize = 4;
/// Short timeouts, so that slow clients are disconnected often.
const FLAGS: [&str; 20] = [
    "--limits-request-timeout",
    "150s",
    "--listen",
    "127.0.0.1:0",
    "--grpc-listen",
    "127.0.0.1:0",
    "--log-filter",
    "off,siglip_server::rest::layers::observe=info",
    "--log-format",
    "json",
    "--drain-delay",
    "1s",
    "--listen-idle-timeout",
    "10s",
    "--listen-write-timeout",
    "4s",
    "--cache-text-bytes",
    "0",
    "--cache-image-bytes",
    "0",
];

#[derive(Clone, Copy)]
struct Options {
    seconds: u64,
    clients: usize,
    faults: bool,
}

fn options() -> Option<Options> {
    let mut options = Options { seconds: 20, clients: 64, faults: true };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seconds" => options.seconds = args.next()?.parse().ok()?,
            "--clients" => options.clients = args.next()?.parse().ok()?,
            "--no-faults" => options.faults = false,
            "--nocapture" | "--quiet" | "-q" => {}
            // A filter or a list for the other tests.
            _ => return None,
        }
    }
    Some(options)
}

/// The good cases with the results of an idle server, which are the expected results.
async fn answers(client: &Client) -> Good {
    let server = Server::start(&["--log-filter", "off", "--grpc-listen", "127.0.0.1:0"]);
    let mut over_http = Vec::new();
    for case in cases::good() {
        let request = client.post(format!("{}{}", server.url, case.path));
        let request =
            request.header(header::CONTENT_TYPE, case.content_type).body(case.body.clone());
        let answer = request.send().await.expect("answers");
        let status = answer.status();
        let body = clients::parsed(answer).await.expect("a body");
        assert!(status.is_success(), "{}: {body}", case.name);
        over_http.push((case, body));
    }
    let mut rpc = rpc::connect(server.announced("gRPC")).await;
    let mut over_grpc = Vec::new();
    for request in rpc::requests() {
        let answer = rpc.embed(request.clone()).await.expect("answers").into_inner();
        over_grpc.push((request, rpc::Answer::of(answer)));
    }
    Good { over_http, over_grpc }
}

/// Starts all clients.
fn spawn(shared: &Arc<Shared>, clients: usize) -> JoinSet<()> {
    let mut all = JoinSet::new();
    for number in 0..clients {
        all.spawn(clients::run(Arc::clone(shared), number));
    }
    for number in 0..RPC_CLIENTS {
        all.spawn(rpc::run(Arc::clone(shared), number));
    }
    all.spawn(rude::slow_head(Arc::clone(shared)));
    all.spawn(rude::slow_body(Arc::clone(shared)));
    all.spawn(rude::never_reads(Arc::clone(shared)));
    all
}

/// Waits for the clients, each of which may be in the middle of something.
async fn join(shared: &Shared, mut clients: JoinSet<()>) {
    let all = async {
        while let Some(ended) = clients.join_next().await {
            ended.expect("a client does not panic");
        }
    };
    if tokio::time::timeout(HANGS * 3, all).await.is_err() {
        shared.violate(format!("{} clients do not end", clients.len()));
    }
}

async fn chaos(options: Options) -> bool {
    siglip_server::tls::install_provider();
    let client = Client::new();
    let good = answers(&client).await;
    let faults = if options.faults { &[("SIGLIP_FAILPOINT", FAULTS)][..] } else { &[] };
    let mut server = Server::start_with(&FLAGS, faults);
    let log = Log::follow(server.log().expect("piped"));
    let bad = cases::bad().into_iter();
    let bad = bad.chain(cases::marked_rows().into_iter().filter(|_| options.faults)).collect();
    let url = server.url.clone();
    let rpc = rpc::connect(server.announced("gRPC")).await;
    let shared = Arc::new(Shared::new(client, (url, rpc), good, (bad, options.faults)));

    // Send every kind once, including the largest: memory is compared with the level after this.
    shared.enter(Phase::WarmUp);
    clients::each_once(&shared).await;
    shared.enter(Phase::Load);
    let clients = spawn(&shared, options.clients);
    let mut resident = Resident::default();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(options.seconds) {
        tokio::time::sleep(Duration::from_millis(250)).await;
        resident.sample(server.pid());
    }
    shared.stop.store(true, Ordering::SeqCst);
    join(&shared, clients).await;
    // By then, the work of disconnected clients has ended.
    shared.enter(Phase::Quiet);
    tokio::time::sleep(Duration::from_secs(3)).await;
    watch::compare_metrics(&shared).await;

    // Run again, with the signal in the middle.
    shared.stop.store(false, Ordering::SeqCst);
    shared.enter(Phase::LoadAgain);
    let clients = spawn(&shared, options.clients);
    tokio::time::sleep(Duration::from_secs(3)).await;
    shared.enter(Phase::Terminated);
    server.signal("TERM");
    let ended = tokio::task::spawn_blocking(|| server.wait());
    match tokio::time::timeout(HANGS, ended).await {
        Ok(ended) if ended.as_ref().is_ok_and(|(status, _)| status.code() == Some(0)) => {}
        Ok(ended) => shared.violate(format!("the server ended with {ended:?}")),
        Err(_) => shared.violate("the server does not end".to_owned()),
    }
    shared.enter(Phase::Gone);
    shared.stop.store(true, Ordering::SeqCst);
    join(&shared, clients).await;
    let read = log.into_ids().await;
    shared.judge_losses(&read);
    shared.print_counts();
    // In a short run, memory still grows.
    resident.judge(&shared, options.seconds >= 120);
    shared.print_violations()
}

fn main() -> ExitCode {
    let Some(options) = options() else { return ExitCode::SUCCESS };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if runtime.block_on(chaos(options)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
