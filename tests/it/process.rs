//! The binary as a process of its own.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Output, Stdio},
};

/// The binary with these arguments and none of the environment of the tests.
pub(crate) fn command(args: &[&str]) -> Command {
    program(env!("CARGO_BIN_EXE_siglip-server"), args)
}

fn program(path: impl AsRef<OsStr>, args: &[&str]) -> Command {
    let mut command = Command::new(path);
    // No terminal, so that the width of the help does not depend on where the tests run.
    command.args(args).env_clear().stdin(Stdio::null());
    command
}

/// Runs the binary to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    command(args).output().expect("the binary runs")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("utf-8")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("utf-8")
}

/// A server that runs until it is told to stop, at the latest when the test ends.
pub(crate) struct Server {
    child: Child,
    /// Held open: a server that cannot write would fail.
    _stdout: BufReader<ChildStdout>,
    /// `http://127.0.0.1:PORT`.
    pub(crate) url: String,
    /// What it says once it is ready.
    pub(crate) announcement: String,
}

impl Server {
    /// Starts it on a free port and waits until it is ready: that is when it says where it listens.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_with(args, &[])
    }

    /// The same, with variables.
    pub(crate) fn start_with(args: &[&str], env: &[(&str, &str)]) -> Self {
        let anywhere = ["--listen", "127.0.0.1:0"];
        let listen = if args.contains(&"--listen") { &[][..] } else { &anywhere[..] };
        let mut command = command(listen);
        command.args(args).envs(env.iter().copied());
        Self::ready(command)
    }

    /// Starts a copy of the binary.
    #[cfg(target_os = "linux")]
    pub(crate) fn start_copy(path: &Path, args: &[&str]) -> Self {
        let mut command = program(path, &["--listen", "127.0.0.1:0"]);
        command.args(args);
        Self::ready(command)
    }

    /// Starts a binary by another program, which is given its path and arguments.
    #[cfg(target_os = "linux")]
    pub(crate) fn start_by(launcher: &[&str], path: &Path, args: &[&str]) -> Self {
        let mut command = program(launcher[0], &launcher[1..]);
        command.arg(path).args(["--listen", "127.0.0.1:0"]);
        command.args(args);
        command.env("PATH", "/usr/bin:/bin");
        Self::ready(command)
    }

    /// Whether it has ended by itself.
    #[cfg(target_os = "linux")]
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    fn ready(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        let mut announcement = String::new();
        // The example is the last line.
        while !announcement.lines().any(|line| line.starts_with("try")) {
            if lines.read_line(&mut announcement).expect("utf-8") == 0 {
                let mut log = String::new();
                let mut stderr = child.stderr.take().expect("piped");
                stderr.read_to_string(&mut log).expect("utf-8");
                panic!("the server ended before it was ready:\n{announcement}\n{log}");
            }
        }
        let url = announcement.lines().find_map(|line| line.strip_prefix("HTTP"));
        let url =
            url.and_then(|rest| rest.split_whitespace().next()).expect("an address").to_owned();
        Self { child, _stdout: lines, url, announcement }
    }

    /// An address that it announced, by the word in front of it.
    pub(crate) fn announced(&self, what: &str) -> &str {
        let line = self.announcement.lines().find_map(|line| line.strip_prefix(what));
        line.and_then(|rest| rest.split_whitespace().next()).expect("announced")
    }

    /// The process's number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log, unless that was taken. It must be read by who wants all of it: lines past a full pipe are dropped.
    pub(crate) fn log(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Sends a signal: `TERM` or `INT`.
    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        let sent = Command::new("sh").args(["-c", &kill]).status().expect("a shell");
        assert!(sent.success());
    }

    /// Waits for the process's end: its status and its log, unless that was taken.
    pub(crate) fn wait(mut self) -> (ExitStatus, String) {
        let mut log = String::new();
        if let Some(mut stderr) = self.log() {
            stderr.read_to_string(&mut log).expect("utf-8");
        }
        (self.child.wait().expect("the process ends"), log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
