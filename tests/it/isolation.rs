//! Images are decoded in separate processes, and failures there do not affect the server.

mod bombs;
mod estimates;

use std::{fs, path::Path, process::Command};

use image::{DynamicImage, ImageFormat};
use reqwest::{Client, StatusCode};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde_json::Value;

use crate::{
    app::client,
    hostile::{self, FORMATS},
    process::Server,
};

const CAT: &[u8] = include_bytes!("../fixtures/images/cat.png");
/// Only failures are logged, because the log is not read here.
const QUIET: [&str; 4] = ["--cpu-pool-threads", "1", "--log-filter", "warn"];

fn start(isolation: &str) -> Server {
    Server::start(&[&QUIET[..], &["--decode-isolation", isolation]].concat())
}

async fn embed(client: &Client, server: &Server, image: &[u8]) -> (StatusCode, Value) {
    let url = format!("{}/v1/embeddings", server.url);
    let request = client.post(url).header("content-type", "image/png").body(image.to_vec());
    let answer = request.send().await.expect("answers");
    (answer.status(), answer.json().await.expect("JSON"))
}

async fn metric(client: &Client, server: &Server, series: &str) -> f64 {
    let url = format!("{}/metrics", server.url);
    let text = client.get(url).send().await.expect("answers").text().await.expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series} in {text}")).parse().expect("a number")
}

async fn ended(client: &Client, server: &Server, reason: &str) -> f64 {
    metric(client, server, &format!("siglip_decode_ended_total{{reason=\"{reason}\"}}")).await
}

/// The decode processes of a server.
fn children(server: &Server) -> Vec<u32> {
    let pid = server.pid();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("readable");
    let of_thread = |thread: std::io::Result<fs::DirEntry>| {
        let path = thread.expect("a thread").path().join("children");
        fs::read_to_string(path).unwrap_or_default()
    };
    let all: String = threads.map(of_thread).collect();
    all.split_whitespace().map(|pid| pid.parse().expect("a number")).collect()
}

fn only_child(server: &Server) -> u32 {
    let [child] = children(server)[..] else { panic!("{:?}", children(server)) };
    child
}

fn send(signal: &str, pid: u32) {
    let sent = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
    assert!(sent.expect("kill runs").success());
}

/// Waits for the end of a process, which may not be a child.
fn wait_for_end(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("not 0");
    // It may have ended already.
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    let timeout = Timespec { tv_sec: 20, tv_nsec: 0 };
    let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout));
    assert_eq!(ended, Ok(1), "the process has not ended");
}

#[tokio::test]
async fn a_process_gives_what_a_thread_gives() {
    let client = client();
    let servers = ["process", "thread"].map(start);
    for (server, processes) in servers.iter().zip([1, 0]) {
        assert_eq!(children(server).len(), processes);
        let idle = metric(&client, server, "siglip_decode_processes{state=\"idle\"}").await;
        assert_eq!(idle, processes as f64);
        let info: Value = client
            .get(format!("{}/info", server.url))
            .send()
            .await
            .expect("answers")
            .json()
            .await
            .expect("JSON");
        assert_eq!(info["decode_isolation"], if processes == 1 { "process" } else { "thread" });
    }
    let fixtures = fs::read_dir("tests/fixtures/images").expect("a folder");
    let mut images: Vec<_> =
        fixtures.map(|file| fs::read(file.expect("a file").path()).expect("readable")).collect();
    for (_, format) in FORMATS {
        images.extend(
            [(1, 1), (33, 21), (300, 200)]
                .map(|(width, height)| hostile::encoded(format, width, height)),
        );
    }
    for hostile in [hostile::bombs(), hostile::without_pixels(), hostile::impostors()] {
        images.extend(hostile.into_iter().map(|hostile| hostile.bytes));
    }
    images.extend(hostile::inflated());
    // Threads do not read AVIF.
    images.retain(|image| image.get(4..12) != Some(b"ftypavif"));
    images.extend([bombs::tiff_of_shared_rows(20_000, 64), bombs::tiff_of_large_jpeg(5000)]);
    for (index, image) in images.iter().enumerate() {
        let mut answers = Vec::new();
        for server in &servers {
            let (status, mut answer) = embed(&client, server, image).await;
            if let Some(answer) = answer.as_object_mut() {
                answer.remove("id");
                answer.remove("created");
            }
            if let Some(error) = answer.get_mut("error").and_then(Value::as_object_mut) {
                error.remove("request_id");
            }
            answers.push((status, answer));
        }
        assert_eq!(answers[0], answers[1], "image {index}");
    }
    for reason in ["crash", "killed", "memory", "time"] {
        assert_eq!(ended(&client, &servers[0], reason).await, 0.0, "{reason}");
    }
}

/// Images in the formats of phones and browsers.
fn modern() -> Vec<(String, Vec<u8>)> {
    let fixtures = fs::read_dir("tests/fixtures/formats").expect("a folder");
    let paths = fixtures.map(|file| file.expect("a file").path());
    let mut images: Vec<_> = paths
        .filter_map(|path| {
            let extension = path.extension()?.to_str()?.to_owned();
            let known = matches!(&*extension, "heic" | "avif" | "jxl");
            known.then(|| (extension, fs::read(&path).expect("readable")))
        })
        .collect();
    images.sort();
    images
}

#[tokio::test]
async fn a_decoder_that_may_end_its_process_is_kept_from_threads() {
    let client = client();
    let servers = ["process", "thread"].map(start);
    for (server, reads_avif) in servers.iter().zip([true, false]) {
        let info = client.get(format!("{}/info", server.url)).send().await.expect("answers");
        let info: Value = info.json().await.expect("JSON");
        let formats = info["image_formats"].as_array().expect("a list");
        assert_eq!(formats.iter().any(|format| format == "AVIF"), reads_avif, "{formats:?}");
        assert!(formats.iter().any(|format| format == "HEIC"), "{formats:?}");
    }
    for (extension, image) in modern().iter().step_by(3) {
        let (status, whole) = embed(&client, &servers[0], image).await;
        assert_eq!(status, StatusCode::OK, "{extension}: {whole}");
        let (status, answer) = embed(&client, &servers[1], image).await;
        if extension == "avif" {
            assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
            let message = "this is an AVIF file; this server reads AVIF in decode processes only, of which it has \
                           none (`--decode-isolation`): convert the image to JPEG or PNG";
            assert_eq!(answer["error"]["message"], message);
        } else {
            assert_eq!(answer["data"], whole["data"], "{extension}");
        }
    }
    assert_eq!(ended(&client, &servers[0], "memory").await, 0.0);
}

#[tokio::test]
async fn damaged_avif_costs_its_own_item_alone() {
    let client = client();
    let server = start("process");
    let mut images: Vec<_> = modern();
    images.retain(|(extension, _)| extension == "avif");
    for (index, (_, image)) in images.iter().enumerate() {
        let mut damaged = image.clone();
        // After the boxes that describe it.
        let from = image.len() * 3 / 4;
        for at in (from..image.len()).step_by(7 + index) {
            damaged[at] ^= 0x5a;
        }
        for image in [&damaged[..], &image[..image.len() / 2], &image[..image.len() * 9 / 10]] {
            let (status, answer) = embed(&client, &server, image).await;
            let fine = matches!(status, StatusCode::OK | StatusCode::UNPROCESSABLE_ENTITY);
            assert!(fine, "{index}: {status} {answer}");
        }
    }
    let (status, _) = embed(&client, &server, CAT).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn a_process_has_no_rights_and_little_memory() {
    let server = start("process");
    let (status, _) = embed(&client(), &server, CAT).await;
    assert_eq!(status, StatusCode::OK);
    let child = only_child(&server);
    let said = fs::read_to_string(format!("/proc/{child}/status")).expect("readable");
    let value = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.expect(name).trim().to_owned()
    };
    assert_eq!(value("Name"), "siglip-decode");
    assert_eq!(value("NoNewPrivs"), "1");
    assert_eq!(value("Seccomp"), "2");
    let kilobytes: u64 = value("RssAnon").trim_end_matches(" kB").parse().expect("a number");
    assert!(kilobytes < 10 << 10, "{kilobytes} kB");
    let limits = fs::read_to_string(format!("/proc/{child}/limits")).expect("readable");
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        line.split_whitespace().next().expect("a limit").to_owned()
    };
    assert_eq!(limit("Max open files"), "1");
    assert_eq!(limit("Max core file size"), "0");
    assert_ne!(limit("Max address space"), "unlimited");
    assert_ne!(limit("Max cpu time"), "unlimited");
    // The socket and the shared memory, each also under a second number, and standard error.
    let open: Vec<_> = fs::read_dir(format!("/proc/{child}/fd")).expect("readable").collect();
    assert!(open.len() <= 5, "{open:?}");
}

#[tokio::test]
async fn an_image_that_asks_for_too_much_memory_is_refused_alone() {
    let (client, server) = (client(), start("process"));
    let (_, first) = embed(&client, &server, CAT).await;
    // It would take half a gigabyte.
    let bomb = bombs::webp_of_groups(8192);
    for _ in 0..2 {
        let (status, answer) = embed(&client, &server, &bomb).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
        assert_eq!(answer["error"]["code"], "undecodable_image");
        let message = answer["error"]["message"].as_str().expect("a text");
        assert!(message.contains("more memory"), "{message}");
    }
    assert!(ended(&client, &server, "memory").await >= 2.0);
    assert_eq!(ended(&client, &server, "crash").await, 0.0);
    let pixels = metric(&client, &server, "siglip_decode_processes{state=\"busy\"}").await;
    assert_eq!(pixels, 0.0);
    let (status, second) = embed(&client, &server, CAT).await;
    assert_eq!((status, &second["data"]), (StatusCode::OK, &first["data"]));
    // A few groups are accepted.
    assert_eq!(embed(&client, &server, &bombs::webp_of_groups(64)).await.0, StatusCode::OK);
}

/// Only without optimisation is there an image within the limits that certainly takes longer than two seconds.
#[cfg(debug_assertions)]
#[tokio::test]
async fn an_image_that_takes_too_long_is_refused_alone() {
    let client = client();
    let server = Server::start(&[&QUIET[..], &["--limits-max-decode-time", "1s"]].concat());
    let mut slow = std::io::Cursor::new(Vec::new());
    DynamicImage::new_luma_a16(6900, 6900).write_to(&mut slow, ImageFormat::Png).expect("written");
    let (status, answer) = embed(&client, &server, &slow.into_inner()).await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "{answer}");
    assert_eq!(answer["error"]["code"], "deadline_exceeded");
    assert_eq!(ended(&client, &server, "time").await, 1.0);
    let (status, answer) = embed(&client, &server, CAT).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

#[tokio::test]
async fn a_process_that_is_gone_is_replaced() {
    let (client, server) = (client(), start("process"));
    let (_, first) = embed(&client, &server, CAT).await;
    let child = only_child(&server);
    // A signal that stops the service must not end the child.
    send("TERM", child);
    send("INT", child);
    let (status, _) = embed(&client, &server, &hostile::encoded(ImageFormat::Png, 3, 3)).await;
    assert_eq!((status, only_child(&server)), (StatusCode::OK, child));
    send("KILL", child);
    wait_for_end(child);
    let other = hostile::encoded(ImageFormat::Png, 4, 4);
    assert_eq!(embed(&client, &server, &other).await.0, StatusCode::OK);
    // One child: the other process was reaped.
    assert_ne!(only_child(&server), child);
    let (status, second) = embed(&client, &server, CAT).await;
    assert_eq!((status, &second["data"]), (StatusCode::OK, &first["data"]));
}

#[tokio::test]
async fn processes_end_with_their_server() {
    let server = start("process");
    let child = only_child(&server);
    server.signal("KILL");
    wait_for_end(child);
}

#[tokio::test]
async fn the_program_may_be_replaced_while_it_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("server");
    fs::copy(env!("CARGO_BIN_EXE_siglip-server"), &program).expect("copied");
    let server = Server::start_copy(&program, &QUIET);
    fs::remove_file(&program).expect("removed");
    let child = only_child(&server);
    send("KILL", child);
    wait_for_end(child);
    let (status, answer) = embed(&client(), &server, CAT).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_ne!(only_child(&server), child);
}

/// As in a container: it is process 1 and its user has no capabilities.
#[tokio::test]
async fn process_one_without_rights_has_processes_too() {
    let launcher = ["unshare", "--user", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let tried = Command::new(launcher[0]).args(&launcher[1..]).arg("true").status();
    if !tried.is_ok_and(|status| status.success()) {
        // Not every system allows this for every user.
        return;
    }
    let program = Path::new(env!("CARGO_BIN_EXE_siglip-server"));
    let (client, mut server) = (client(), Server::start_by(&launcher, program, &QUIET));
    let (status, answer) = embed(&client, &server, CAT).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let info = client.get(format!("{}/info", server.url)).send().await.expect("answers");
    let info: Value = info.json().await.expect("JSON");
    assert_eq!(info["decode_isolation"], "process");
    assert!(!server.has_ended());
}
