//! Frames of videos and pages of PDF files. Other programs make images of them, if they are installed: `ffmpeg` and
//! `ffprobe` for videos, Poppler's `pdftoppm` and `pdfinfo` for PDF files.
//!
//! Each program runs without a shell and for a limited time, and its output is limited to the bytes of an image. A frame or
//! a page becomes an image when its row's turn comes, so that images are not held.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::Value;

/// How long a program may take for one part.
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// Seconds that a program may go on after it closed its output.
#[cfg(target_os = "linux")]
const END_SECONDS: i64 = 2;
/// Address space of a program.
#[cfg(target_os = "linux")]
const MAX_MEMORY: u64 = 8 << 30;
/// Maximum number of bytes of a program's description of a file, and of its error messages.
const MAX_DESCRIPTION: usize = 1 << 20;
const MAX_COMPLAINT: u64 = 4096;
/// Maximum number of parts of a file.
const MAX_PARTS: u32 = 1_000_000;
/// Pixels of a page's longer side.
const PAGE_SIDE: &str = "1024";
/// Milliseconds between two frames, if no distance is given.
const USUAL_STEP_MS: u64 = 2000;

const VIDEO_ENDINGS: &[&str] = &["mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg"];

/// Whether an ending is that of a video.
pub(super) fn is_video(ending: &str) -> bool {
    VIDEO_ENDINGS.contains(&ending)
}

/// Where a part is in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Milliseconds(u64),
    /// From 1.
    Page(u32),
}

/// A frame of a video, or a page of a PDF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Part {
    path: PathBuf,
    place: Place,
}

/// The id: `clip.mp4#t=12.0`, `paper.pdf#page=3`.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.place {
            Place::Milliseconds(ms) => write!(f, "{path}#t={}", seconds(ms)),
            Place::Page(page) => write!(f, "{path}#page={page}"),
        }
    }
}

/// Seconds with one digit behind the point, or as many as it takes.
fn seconds(ms: u64) -> String {
    let text = format!("{}.{:03}", ms / 1000, ms % 1000);
    let short = text.trim_end_matches('0');
    if short.ends_with('.') { format!("{short}0") } else { short.to_owned() }
}

/// The frames of a video from its begin on, at equal distances.
///
/// # Errors
/// The reason why there are none: a missing program, or a fault of the file.
pub(super) fn frames(
    path: &Path,
    step: Option<Duration>,
) -> Result<impl Iterator<Item = Part> + use<>, String> {
    let step = step.map_or(USUAL_STEP_MS, |it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX));
    if step == 0 {
        return Err("the time between two frames is too short".to_owned());
    }
    let entries = "stream=duration,avg_frame_rate:format=duration";
    let fixed = ["-v", "error", "-select_streams", "v:0", "-show_entries", entries, "-of", "json"];
    let mut arguments: Vec<OsString> = fixed.iter().map(OsString::from).collect();
    arguments.extend(["-protocol_whitelist".into(), "file".into(), file(path)?]);
    let said = output("ffprobe", &arguments, MAX_DESCRIPTION)?;
    let said: Value = serde_json::from_slice(&said).map_err(|error| format!("ffprobe: {error}"))?;
    let last = last_frame(&said).ok_or("it has no video that ffprobe tells the length of")?;
    let count = last / step + 1;
    if count > u64::from(MAX_PARTS) {
        return Err(format!(
            "it has {count} frames at that distance, and at most {MAX_PARTS} are read"
        ));
    }
    let path = path.to_owned();
    let part = move |number| Part { path: path.clone(), place: Place::Milliseconds(number * step) };
    Ok((0..count).map(part))
}

/// The milliseconds of the last frame's begin, as `ffprobe` describes a video.
fn last_frame(said: &Value) -> Option<u64> {
    let stream = &said["streams"][0];
    let number = |value: &Value| value.as_str()?.parse::<f64>().ok().filter(|it| it.is_finite());
    let duration = number(&stream["duration"]).or_else(|| number(&said["format"]["duration"]))?;
    let (frames, seconds) = stream["avg_frame_rate"].as_str()?.split_once('/')?;
    let (frames, seconds) = (frames.parse::<f64>().ok()?, seconds.parse::<f64>().ok()?);
    let of_one = if frames > 0.0 && seconds > 0.0 { seconds / frames } else { 0.0 };
    // Behind the begin of the last frame nothing begins any more.
    let last = (duration - of_one).max(0.0) * 1000.0;
    Some(last.min(u64::MAX as f64) as u64)
}

/// The pages of a PDF file.
///
/// # Errors
/// The reason why there are none: a missing program, or a fault of the file.
pub(super) fn pages(path: &Path) -> Result<impl Iterator<Item = Part> + use<>, String> {
    let said = output("pdfinfo", &[absolute(path)?], MAX_DESCRIPTION)?;
    let said = String::from_utf8_lossy(&said).into_owned();
    let pages =
        said.lines().find_map(|line| line.strip_prefix("Pages:")?.trim().parse::<u32>().ok());
    let pages = pages.ok_or("pdfinfo does not tell how many pages it has")?;
    if pages > MAX_PARTS {
        return Err(format!("it has {pages} pages, and at most {MAX_PARTS} are read"));
    }
    let path = path.to_owned();
    Ok((1..=pages).map(move |page| Part { path: path.clone(), place: Place::Page(page) }))
}

impl Part {
    /// The part as a PNG file, of no more bytes than `limit` and one.
    ///
    /// # Errors
    /// The reason why there is no image.
    pub(super) fn image(&self, limit: usize) -> Result<Vec<u8>, String> {
        let image = match self.place {
            Place::Milliseconds(ms) => {
                let (at, input) = (seconds(ms), file(&self.path)?);
                let before = ["-v", "error", "-nostdin", "-protocol_whitelist", "file", "-ss"];
                let behind = ["-map", "0:v:0", "-frames:v", "1", "-f", "image2pipe", "-c:v", "png"];
                let form = ["-compression_level", "1", "-pix_fmt", "rgb24", "pipe:1"];
                let mut arguments: Vec<OsString> = before.iter().map(OsString::from).collect();
                arguments.extend([at.into(), "-i".into(), input]);
                arguments.extend(behind.iter().chain(&form).map(OsString::from));
                output("ffmpeg", &arguments, limit)?
            }
            Place::Page(page) => {
                let page = page.to_string();
                let form =
                    ["-png", "-singlefile", "-scale-to", PAGE_SIDE, "-f", &page, "-l", &page];
                let mut arguments: Vec<OsString> = form.iter().map(OsString::from).collect();
                arguments.push(absolute(&self.path)?);
                output("pdftoppm", &arguments, limit)?
            }
        };
        if image.is_empty() { Err("there is nothing at that place".to_owned()) } else { Ok(image) }
    }
}

/// A path that is no option.
fn absolute(path: &Path) -> Result<OsString, String> {
    std::path::absolute(path).map(PathBuf::into_os_string).map_err(|error| error.to_string())
}

/// A path that is no address and no list of files.
fn file(path: &Path) -> Result<OsString, String> {
    let mut name = OsString::from("file:");
    name.push(absolute(path)?);
    Ok(name)
}

/// What a program writes, up to `limit` bytes and one.
fn output(program: &str, arguments: &[impl AsRef<OsStr>], limit: usize) -> Result<Vec<u8>, String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!(
            "the program `{program}` is not installed: videos take ffmpeg, and PDF files poppler-utils"
        ),
        _ => format!("{program}: {error}"),
    })?;
    confine(&child);
    let (Some(out), Some(complaints)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(format!("{program}: it has no output"));
    };
    let complaints = thread::spawn(move || {
        let mut text = Vec::new();
        let mut complaints = complaints.take(MAX_COMPLAINT);
        complaints.read_to_end(&mut text).unwrap_or_default();
        // The rest is read as well, or the program would wait for somebody to read it.
        io::copy(&mut complaints.into_inner(), &mut io::sink()).unwrap_or_default();
        String::from_utf8_lossy(&text).trim().replace('\n', "; ")
    });
    let child = Arc::new(Mutex::new(child));
    let (done, ended) = mpsc::channel::<()>();
    let watched = Arc::clone(&child);
    let watch = thread::spawn(move || {
        let overran = ended.recv_timeout(TIME_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout);
        if overran {
            watched.lock().kill().unwrap_or_default();
        }
        overran
    });
    let mut written = Vec::new();
    let read = out.take(limit as u64 + 1).read_to_end(&mut written);
    drop(done);
    let overran = watch.join().unwrap_or(true);
    let has_enough = written.len() > limit || read.is_err();
    let status =
        end(&mut child.lock(), has_enough).map_err(|error| format!("{program}: {error}"))?;
    let said = complaints.join().unwrap_or_default();
    match (overran, read) {
        (true, _) => Err(format!("{program} took more than {} seconds", TIME_LIMIT.as_secs())),
        (false, Err(error)) => Err(format!("{program}: {error}")),
        // More than the limit is for the caller to refuse.
        (false, Ok(_)) if written.len() > limit || status.success() => Ok(written),
        (false, Ok(_)) => {
            Err(format!("{program}: {}", if said.is_empty() { status.to_string() } else { said }))
        }
    }
}

/// Waits for a program that has closed its output, and ends it if it goes on or is not needed any more.
fn end(child: &mut Child, at_once: bool) -> io::Result<ExitStatus> {
    if at_once || !ends_soon(child) {
        child.kill()?;
    }
    child.wait()
}

/// Whether a program ends within the time that it has after it closed its output. Without an answer of the system, it is
/// taken to end.
#[cfg(target_os = "linux")]
fn ends_soon(child: &Child) -> bool {
    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        process::{Pid, PidfdFlags, pidfd_open},
    };
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let Some(Ok(ended)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else { return true };
    let limit = Timespec { tv_sec: END_SECONDS, tv_nsec: 0 };
    poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&limit)) != Ok(0)
}

#[cfg(not(target_os = "linux"))]
fn ends_soon(_: &Child) -> bool {
    true
}

/// Limits the memory that a program may take.
#[cfg(target_os = "linux")]
fn confine(child: &Child) {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let limit = Rlimit { current: Some(MAX_MEMORY), maximum: Some(MAX_MEMORY) };
    // Without a number the limit would be this process's own.
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended already.
        prlimit(Some(pid), Resource::As, limit).map(drop).unwrap_or_default();
    }
}

#[cfg(not(target_os = "linux"))]
fn confine(_: &Child) {}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ids_tell_the_place() {
        let part = |place| Part { path: "a b.mp4".into(), place }.to_string();
        assert_eq!(part(Place::Milliseconds(12_000)), "a b.mp4#t=12.0");
        assert_eq!(part(Place::Milliseconds(250)), "a b.mp4#t=0.25");
        assert_eq!(part(Place::Page(3)), "a b.mp4#page=3");
    }

    #[test]
    fn a_frame_begins_before_the_end() {
        let said = |stream, whole: &str| {
            last_frame(&json!({"streams": [stream], "format": {"duration": whole}}))
        };
        assert_eq!(said(json!({"duration": "10.0", "avg_frame_rate": "25/1"}), "12"), Some(9960));
        assert_eq!(said(json!({"avg_frame_rate": "1/2"}), "10.0"), Some(8000));
        assert_eq!(said(json!({"duration": "0.02", "avg_frame_rate": "25/1"}), "1"), Some(0));
        assert_eq!(said(json!({"duration": "N/A", "avg_frame_rate": "0/0"}), "1.5"), Some(1500));
        assert_eq!(said(json!({"avg_frame_rate": "25/1"}), "N/A"), None);
        assert_eq!(last_frame(&json!({"streams": []})), None);
    }

    #[test]
    fn a_program_is_limited_and_its_complaint_is_told() {
        let words = |text: &'static str| ["-c", text];
        assert_eq!(output("sh", &words("printf abc"), 3), Ok(b"abc".to_vec()));
        // It never ends by itself.
        assert_eq!(output("sh", &words("yes"), 5), Ok(b"y\ny\ny\n".to_vec()));
        let failed = output("sh", &words("echo one >&2; echo two >&2; exit 3"), 5);
        assert_eq!(failed, Err("sh: one; two".to_owned()));
        let silent = output("sh", &words("exit 3"), 5).expect_err("it fails");
        assert!(silent.contains("exit status: 3"), "{silent}");
        // It closes its output, and goes on.
        let lasting =
            output("sh", &words("exec >&- 2>&-; exec sleep 100"), 5).expect_err("it is ended");
        assert!(cfg!(not(target_os = "linux")) || lasting.contains("signal: 9"), "{lasting}");
        let missing = output("no-such-program-here", &words(""), 5).expect_err("it is not there");
        assert!(missing.contains("is not installed"), "{missing}");
    }
}
