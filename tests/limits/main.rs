//! Everything at its limit at the same time, against a server process with a hard memory limit. The process
//! must not be ended, readiness probes must get a response within a second, and a patient client must always
//! get right results. The test ends by itself, prints memory use and numbers of responses, and fails if a rule
//! was broken.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod attacks;
mod bodies;
#[path = "../it/isolation/bombs.rs"]
mod bombs;
mod group;
mod patient;
#[path = "../it/process.rs"]
#[expect(dead_code, reason = "shared with the integration tests")]
mod process;
mod seen;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use self::{group::Group, process::Server, seen::Seen};

const MIB: u64 = 1 << 20;
/// Maximum time of a probe.
const PROBE: Duration = Duration::from_secs(1);

struct Options {
    seconds: u64,
    limit: u64,
    model: Option<String>,
    /// Whether slow probes are a failure: not where other programs share the machine.
    timed: bool,
    /// The server binary: of this build, or an optimised one.
    server: PathBuf,
}

fn options() -> Option<Options> {
    let server = env!("CARGO_BIN_EXE_siglip-server").into();
    let mut options = Options { seconds: 30, limit: 2560 * MIB, model: None, timed: true, server };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seconds" => options.seconds = args.next()?.parse().ok()?,
            "--mib" => options.limit = args.next()?.parse::<u64>().ok()? * MIB,
            "--model" => options.model = Some(args.next()?),
            "--server" => options.server = args.next()?.into(),
            "--untimed" => options.timed = false,
            "--nocapture" | "--quiet" | "-q" => {}
            // A filter or a list for the other tests.
            _ => return None,
        }
    }
    Some(options)
}

/// Starts the server with default limits. Only fetching from this machine is allowed in addition.
fn start(group: Option<&Group>, binary: &Path, model: Option<&str>) -> Server {
    let mut args = vec![
        "--grpc-listen",
        "127.0.0.1:0",
        "--log-filter",
        "off,siglip_server::decoder=off,siglip_server::app=info",
        "--fetch",
        "--fetch-allow-http",
        "--fetch-allow-networks",
        "127.0.0.0/8",
        "--cpu-pool-threads",
        "8",
        // The images of bulk streams are decoded to the end, which takes a build without optimisation a minute.
        "--grace-period",
        "150s",
    ];
    if let Some(model) = model {
        args.extend(["--model", model]);
    }
    match group {
        None => Server::start_copy(binary, &args),
        Some(group) => {
            let joins = "echo $$ > \"$0\"; exec \"$@\"";
            Server::start_by(&["sh", "-c", joins, &group.members()], binary, &args)
        }
    }
}

async fn run(options: Options) -> bool {
    siglip_server::tls::install_provider();
    let (model, binary) = (options.model.as_deref(), &*options.server);
    let expected = patient::expected(&start(None, binary, model)).await;
    let group = Group::new(options.limit);
    if let Err(error) = &group {
        println!("no control group ({error}): what is resident is measured, and nothing is ended");
    }
    let group = group.ok();
    let mut server = start(group.as_ref(), binary, model);
    let before = group::resident(server.pid());
    let seen = Arc::new(Seen::default());
    let site = attacks::site().await;
    let mut clients = attacks::all(&server, site, &seen);
    clients.spawn(patient::asks(server.url.clone(), expected, Arc::clone(&seen)));
    patient::probe(server.url.clone(), Arc::clone(&seen));
    let (begin, mut peak) = (Instant::now(), 0);
    while begin.elapsed() < Duration::from_secs(options.seconds) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        peak = peak.max(group::resident(server.pid()));
        if server.has_ended() {
            println!("the server has ended");
            return false;
        }
    }
    seen.stop();
    clients.shutdown().await;
    seen.print();
    let of_group = group.as_ref().map(|group| (group.peak() / MIB, group.killed()));
    println!(
        "resident MiB: {} before, {} at most; limit {}",
        before / MIB,
        peak / MIB,
        options.limit / MIB
    );
    println!(
        "MiB of the control group with pages of files, and processes that the kernel ended: {of_group:?}"
    );
    server.signal("TERM");
    let (status, log) = server.wait();
    println!("{log}exit {status}");
    let killed = of_group.map_or(0, |(_, killed)| killed);
    let probe = if options.timed { PROBE } else { Duration::MAX };
    seen.violations(probe) + usize::from(killed > 0 || peak > options.limit || !status.success())
        == 0
}

fn main() -> ExitCode {
    let Some(options) = options() else { return ExitCode::SUCCESS };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if runtime.block_on(run(options)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
