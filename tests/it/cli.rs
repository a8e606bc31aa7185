//! The command line, on the binary.

mod checkpoints;
mod offline;
mod vectors;

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
};

use crate::process::{command, run, stderr, stdout};

#[test]
fn the_help_shows_every_option() {
    insta::assert_snapshot!("help", stdout(&run(&["--help"])));
    insta::assert_snapshot!("short_help", stdout(&run(&["-h"])));
}

#[test]
fn a_command_shows_its_own_options_and_takes_all() {
    insta::assert_snapshot!("healthcheck_help", stdout(&run(&["healthcheck", "--help"])));
    insta::assert_snapshot!("embed_short_help", stdout(&run(&["embed", "-h"])));
    let text = stdout(&run(&["config", "--limits-max-items", "7"]));
    assert!(text.contains("max_items = 7"), "{text}");
    assert_eq!(run(&["openapi", "--limits-max-items", "7"]).status.code(), Some(0));
}

#[test]
fn completions_and_manual_pages_are_printed() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&run(&["completions", shell]));
        assert!(script.contains("healthcheck") && script.contains("grpc-listen"), "{shell}");
    }
    let page = stdout(&run(&["man"]));
    assert!(page.contains(".TH siglip-server 1") && page.contains("SIGLIP_LISTEN"), "{page}");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("man1");
    let ended = run(&["man", "--dir", path.to_str().expect("utf-8")]);
    assert_eq!(ended.status.code(), Some(0), "{}", stderr(&ended));
    for name in ["siglip-server.1", "siglip-server-embed.1", "siglip-server-download.1"] {
        assert!(path.join(name).is_file(), "{name}");
    }
}

#[test]
fn the_version_names_the_commit() {
    let version = stdout(&run(&["--version"]));
    let expected = format!("siglip-server {} (", env!("CARGO_PKG_VERSION"));
    assert!(version.starts_with(&expected), "{version}");
}

#[test]
fn a_bad_value_is_named_with_its_origin() {
    let flag = run(&["--listen", "8080"]);
    assert_eq!(flag.status.code(), Some(2));
    assert!(stderr(&flag).contains("flag --listen: `8080` is not an address"), "{}", stderr(&flag));

    let variable = command(&["config"]).env("SIGLIP_LISTEN", "8080").output().expect("runs");
    assert_eq!(variable.status.code(), Some(2));
    assert!(stderr(&variable).contains("variable SIGLIP_LISTEN: `8080`"), "{}", stderr(&variable));

    let misspelt = command(&["config"]).env("SIGLIP_LISTN", "x").output().expect("runs");
    assert_eq!(misspelt.status.code(), Some(2));
    assert!(stderr(&misspelt).contains("did you mean `SIGLIP_LISTEN`"), "{}", stderr(&misspelt));

    let mut file = tempfile::NamedTempFile::new().expect("a file");
    writeln!(file, "[limits]\nmax_items = 0").expect("writes");
    let path = file.path().to_str().expect("utf-8");
    let in_file = run(&["--config", path]);
    assert_eq!(in_file.status.code(), Some(2));
    let expected = format!("{path}:2: [limits] max_items: must be at least 1");
    assert!(stderr(&in_file).contains(&expected), "{}", stderr(&in_file));
}

#[test]
fn an_unknown_flag_is_a_usage_error() {
    assert_eq!(run(&["--lissten", "127.0.0.1:1"]).status.code(), Some(2));
    assert_eq!(run(&["serv"]).status.code(), Some(2));
}

#[test]
fn options_stand_before_or_behind_the_command() {
    for args in [["--device", "cpu", "config"], ["config", "--device", "cpu"]] {
        let text = stdout(&run(&args));
        assert!(text.contains("device = \"cpu\""), "{text}");
        assert!(text.contains("# from flag --device"), "{text}");
    }
}

#[test]
fn the_configuration_is_printed_for_programs() {
    let output = command(&["config", "--format", "json"])
        .env("SIGLIP_LIMITS_MAX_ITEMS", "7")
        .output()
        .expect("runs");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["limits"]["max_items"]["value"], 7);
    assert_eq!(json["limits"]["max_items"]["origin"], "variable SIGLIP_LIMITS_MAX_ITEMS");
}

#[test]
fn the_interface_is_printed() {
    assert!(stdout(&run(&["openapi"])).starts_with("openapi: 3."));
}

#[test]
fn a_model_that_is_not_there_is_named() {
    let output = run(&["--listen", "127.0.0.1:0", "--model", "/nowhere/at/all"]);
    assert_eq!(output.status.code(), Some(1));
    let log = stderr(&output);
    assert!(log.contains("cannot load the model `/nowhere/at/all`"), "{log}");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = taken.local_addr().expect("an address").to_string();
    let output = run(&["--listen", &addr]);
    assert_eq!(output.status.code(), Some(1));
    let log = stderr(&output);
    assert!(log.contains(&format!("cannot listen on {addr}: another process")), "{log}");
}

#[test]
fn programs_that_read_the_log_read_why_the_server_ended() {
    let args = ["--listen", "127.0.0.1:0", "--model", "/nowhere/at/all", "--log-format", "json"];
    let output = run(&args);
    assert_eq!(output.status.code(), Some(1));
    let log = stderr(&output);
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let last = lines.last().expect("a line");
    assert_eq!(last["level"], "ERROR", "{log}");
    assert!(last["cause"].as_str().expect("a cause").contains("/nowhere/at/all"), "{log}");
}

#[test]
fn a_port_that_speaks_something_else_is_named_by_the_health_check() {
    for (answer, named) in [
        (&b"\x15\x03\x01\x00\x02\x02\x50"[..], "the port speaks TLS"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("an address").to_string();
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            // If the request were not read, closing the connection would discard the response.
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let mut part = [0; 256];
                let count = stream.read(&mut part).expect("reads");
                assert_ne!(count, 0, "the client left");
                asked.extend_from_slice(&part[..count]);
            }
            stream.write_all(answer).expect("writes");
        });
        let output = run(&["healthcheck", "--listen", &addr]);
        served.join().expect("serves");
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(named), "{}", stderr(&output));
    }
}

#[test]
fn a_server_that_is_not_there_is_not_healthy() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = free.local_addr().expect("an address").to_string();
    drop(free);
    let output = run(&["healthcheck", "--listen", &addr]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&format!("cannot ask {addr}")), "{}", stderr(&output));
}
