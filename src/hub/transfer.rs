//! Downloads one file into the cache. It continues an interrupted download, checks the file and then gives it
//! its name.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use reqwest::{StatusCode, header};
use ring::digest;
use tracing::{info, warn};

use super::{
    HubError, Progress, RepoId,
    cache::Repo,
    client::{Answer, Client, Hash, RemoteFile},
    partial,
};
use crate::small_file;

/// Maximum number of attempts in a row without a byte of progress.
const ATTEMPTS: u32 = 5;
/// Maximum number of all attempts, for a connection that breaks after every few bytes.
const MAX_ATTEMPTS: u32 = 200;
/// Maximum pause before a retry.
const MAX_PAUSE: Duration = Duration::from_secs(20);
/// How often the lock of another process is checked.
const LOCK_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum time that another process may hold a file without progress.
const LOCK_PATIENCE: Duration = Duration::from_secs(300);

/// Downloads files of one commit.
pub(super) struct Transfer<'a> {
    pub(super) client: &'a Client,
    pub(super) repo: &'a Repo,
    pub(super) id: &'a RepoId,
    pub(super) commit: &'a str,
    pub(super) progress: &'a dyn Progress,
    /// The pause after the first failure.
    pub(super) pause: Duration,
}

/// A file and the known facts about it.
struct Target<'a> {
    name: &'a str,
    size: u64,
    hash: Hash,
    partial: PathBuf,
}

impl Transfer<'_> {
    /// Ensures that the snapshot has a file, and returns its path.
    pub(super) async fn get(&self, file: &RemoteFile, limit: u64) -> Result<PathBuf, HubError> {
        let (size, hash) = self.client.describe(self.id, self.commit, file).await?;
        if size > limit {
            return Err(HubError::TooLarge { file: file.name.clone(), bytes: size, limit });
        }
        let blob = self.repo.blob(hash.as_str());
        let there = || std::fs::metadata(&blob).is_ok_and(|found| found.len() == size);
        if !there() {
            let partial = self.repo.partial(hash.as_str());
            let _lock = lock(&self.repo.lock(hash.as_str()), &partial).await?;
            // The process that held the lock may have downloaded the file.
            if !there() {
                let target = Target { name: &file.name, size, hash: hash.clone(), partial };
                self.fill(&target).await?;
                std::fs::rename(&target.partial, &blob)
                    .map_err(|source| HubError::io(&blob, source))?;
            }
        }
        self.progress.at(&file.name, size, size);
        self.repo.link(self.commit, &file.name, hash.as_str())
    }

    /// Fills the partial file with as many connections as needed.
    async fn fill(&self, target: &Target<'_>) -> Result<(), HubError> {
        let (mut failures, mut restarted, mut pause) = (0, false, self.pause);
        for attempt in 1.. {
            let before = length(&target.partial);
            let error = match self.attempt(target).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if length(&target.partial) > before {
                (failures, pause) = (0, self.pause);
            }
            failures += 1;
            // Bytes of an earlier run may be wrong, so the download starts again once. If all bytes come from
            // this run, the hub is at fault.
            let stale = matches!(error, HubError::WrongHash { .. }) && before > 0 && !restarted;
            restarted |= stale;
            let over = failures >= ATTEMPTS || attempt >= MAX_ATTEMPTS;
            if !stale && (over || !error.is_unreachable()) {
                return Err(broken_off(target, error));
            }
            let asked = match &error {
                HubError::Status { retry_after: Some(after), .. } => *after,
                _ => pause,
            };
            let wait = asked.min(MAX_PAUSE);
            warn!(file = target.name, %error, ?wait, "the download is tried again");
            tokio::time::sleep(wait).await;
            pause *= 2;
        }
        Ok(())
    }

    /// Downloads the rest of the file with one connection.
    async fn attempt(&self, target: &Target<'_>) -> Result<(), HubError> {
        let mut sink = Sink::open(target).await?;
        self.progress.at(target.name, sink.written, target.size);
        if sink.written < target.size {
            let from = (target.name, sink.written);
            let mut answer = self.client.open(self.id, self.commit, from).await?;
            self.check(target, &answer)?;
            sink.align(&answer)?;
            loop {
                let chunk = answer.response.chunk().await;
                match chunk.map_err(|source| HubError::unreachable(&answer.host, source))? {
                    None => break,
                    Some(chunk) => sink.write(&chunk)?,
                }
                self.progress.at(target.name, sink.written, target.size);
            }
        }
        sink.finish()
    }

    /// Checks that the response is about the file that the hub listed.
    fn check(&self, target: &Target<'_>, answer: &Answer) -> Result<(), HubError> {
        let changed = |what, expected: &str, found: &str| HubError::Changed {
            file: target.name.to_owned(),
            what,
            expected: expected.to_owned(),
            found: found.to_owned(),
        };
        if let Some(commit) = answer.commit()
            && commit != self.commit
        {
            return Err(changed("the commit", self.commit, commit));
        }
        match answer.hash() {
            // An `ETag` with another kind of hash cannot be compared; the bytes are hashed anyway.
            Some(hash) if hash.contradicts(&target.hash) => {
                Err(changed("the hash", target.hash.as_str(), hash.as_str()))
            }
            _ => Ok(()),
        }
    }
}

/// The error of a download that did not finish.
fn broken_off(target: &Target<'_>, error: HubError) -> HubError {
    match (error, length(&target.partial)) {
        (HubError::Unreachable { source, .. }, got) if got > 0 => {
            let (file, expected) = (target.name.to_owned(), target.size);
            HubError::Truncated { file, got, expected, source: Some(source) }
        }
        (error, _) => error,
    }
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}

/// Holds a blob's lock, as `huggingface_hub` does, until the file is dropped.
async fn lock(path: &Path, partial: &Path) -> Result<File, HubError> {
    let at_fault = |source| HubError::io(path, source);
    for folder in [path.parent(), partial.parent()].into_iter().flatten() {
        std::fs::create_dir_all(folder).map_err(|source| HubError::io(folder, source))?;
    }
    let file = partial::open(path).map_err(at_fault)?;
    let (mut since, mut seen, mut told) = (Instant::now(), length(partial), false);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) => {}
            Err(std::fs::TryLockError::Error(source)) => return Err(at_fault(source)),
        }
        if !told {
            told = true;
            info!(lock = %path.display(), "another process downloads this file; waiting for it");
        }
        let now = length(partial);
        if now != seen {
            (since, seen) = (Instant::now(), now);
        } else if since.elapsed() > LOCK_PATIENCE {
            return Err(HubError::Locked { path: path.to_owned(), waited: LOCK_PATIENCE });
        }
        tokio::time::sleep(LOCK_INTERVAL).await;
    }
}

/// The partial file, with the hash of its bytes so far.
struct Sink<'t> {
    target: &'t Target<'t>,
    file: File,
    digest: digest::Context,
    written: u64,
}

impl<'t> Sink<'t> {
    /// Opens the partial file to append to it. If it has more bytes than the whole file, it belongs to another
    /// file and is emptied.
    async fn open(target: &'t Target<'t>) -> Result<Self, HubError> {
        let at_fault = |source| HubError::io(&target.partial, source);
        let file = partial::open(&target.partial);
        let mut sink =
            Self { target, file: file.map_err(at_fault)?, digest: begin(target), written: 0 };
        let there = length(&target.partial);
        if there > target.size {
            sink.restart()?;
        } else if there > 0 {
            let (path, digest) = (target.partial.clone(), sink.digest);
            // The file may have gigabytes, so it is not hashed on an async thread.
            let hashed = tokio::task::spawn_blocking(move || hash_file(&path, digest)).await;
            (sink.digest, sink.written) =
                hashed.map_err(io::Error::other).and_then(|hashed| hashed).map_err(at_fault)?;
        }
        Ok(sink)
    }

    fn restart(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).map_err(|source| HubError::io(&self.target.partial, source))?;
        (self.digest, self.written) = (begin(self.target), 0);
        Ok(())
    }

    /// Aligns the file with the response: if the response has the whole file, the file is started again.
    fn align(&mut self, answer: &Answer) -> Result<(), HubError> {
        if self.written == 0 {
            return Ok(());
        }
        let range = answer.response.headers().get(header::CONTENT_RANGE);
        let begins = format!("bytes {}-", self.written);
        let continues = answer.response.status() == StatusCode::PARTIAL_CONTENT
            && range.and_then(|range| range.to_str().ok()).is_some_and(|r| r.starts_with(&begins));
        if continues {
            return Ok(());
        }
        self.restart()?;
        if answer.response.status() == StatusCode::OK {
            return Ok(());
        }
        // The server has another length for the file, or sends another range.
        Err(HubError::Truncated {
            file: self.target.name.to_owned(),
            got: 0,
            expected: self.target.size,
            source: None,
        })
    }

    fn write(&mut self, chunk: &[u8]) -> Result<(), HubError> {
        let after = self.written + chunk.len() as u64;
        if after > self.target.size {
            return Err(HubError::Changed {
                file: self.target.name.to_owned(),
                what: "the size",
                expected: self.target.size.to_string(),
                found: format!("at least {after}"),
            });
        }
        // Chunks are written to the file at once, so that an interrupted download keeps them. The page cache
        // takes a chunk in microseconds, so an async thread can do it.
        self.file.write_all(chunk).map_err(|source| HubError::io(&self.target.partial, source))?;
        self.digest.update(chunk);
        self.written = after;
        Ok(())
    }

    /// Checks the downloaded bytes. Wrong bytes are deleted, so that the next attempt does not continue from
    /// them.
    fn finish(self) -> Result<(), HubError> {
        let Target { name, size, hash, partial } = self.target;
        let at_fault = |source| HubError::io(partial, source);
        let file = (*name).to_owned();
        if self.written < *size {
            return Err(HubError::Truncated {
                file,
                got: self.written,
                expected: *size,
                source: None,
            });
        }
        let found = hex(self.digest.finish().as_ref());
        if found != hash.as_str() {
            std::fs::remove_file(partial).map_err(at_fault)?;
            return Err(HubError::WrongHash { file, expected: hash.as_str().to_owned(), found });
        }
        // The file is synced before it gets its name, so that a crash cannot leave a blob of zeros.
        self.file.sync_all().map_err(at_fault)
    }
}

fn begin(target: &Target<'_>) -> digest::Context {
    match target.hash {
        Hash::Sha256(_) => digest::Context::new(&digest::SHA256),
        Hash::GitSha1(_) => {
            let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
            context.update(format!("blob {}\0", target.size).as_bytes());
            context
        }
    }
}

fn hash_file(path: &Path, mut digest: digest::Context) -> io::Result<(digest::Context, u64)> {
    let (mut file, mut buffer, mut read) = (small_file::open_regular(path)?, vec![0; 1 << 20], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((digest, read)),
            count => {
                digest.update(&buffer[..count]);
                read += count as u64;
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
        text
    })
}
