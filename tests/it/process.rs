//! The binary as a separate process.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Output, Stdio},
};

/// The binary with these arguments and without the environment of the tests.
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

/// A server that runs until it is stopped, at the latest when the test ends.
pub(crate) struct Server {
    child: Child,
    /// Kept open, because a server that cannot write would fail.
    _stdout: BufReader<ChildStdout>,
    /// `http://127.0.0.1:PORT`.
    pub(crate) url: String,
    /// Its output once it is ready.
    pub(crate) announcement: String,
}

impl Server {
    /// Starts it on a free port and waits until it prints its address, which means that it is ready.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_with(args, &[])
    }

    /// The same with environment variables.
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

    /// Starts a binary through another program, which gets its path and arguments.
    #[cfg(target_os = "linux")]
    pub(crate) fn start_by(launcher: &[&str], path: &Path, args: &[&str]) -> Self {
        let mut command = program(launcher[0], &launcher[1..]);
        command.arg(path).args(["--listen", "127.0.0.1:0"]);
        command.args(args);
        command.env("PATH", "/usr/bin:/bin");
        Self::ready(command)
    }

    /// Whether the process has ended.
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

    /// An announced address, by the word before it.
    pub(crate) fn announced(&self, what: &str) -> &str {
        let line = self.announcement.lines().find_map(|line| line.strip_prefix(what));
        line.and_then(|rest| rest.split_whitespace().next()).expect("announced")
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log, unless it was taken. The caller must keep reading to get all of it, because lines are dropped
    /// when the pipe is full.
    pub(crate) fn log(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Sends a signal: `TERM` or `INT`.
    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        let sent = Command::new("sh").args(["-c", &kill]).status().expect("a shell");
        assert!(sent.success());
    }

    /// Waits for the end of the process. Returns its status and its log, unless the log was taken.
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
