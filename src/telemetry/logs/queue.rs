//! Lines on their way to a writer that may be slow.
//!
//! The reader of the log may stop reading, and a write would then block the thread that logs. So lines wait in a queue
//! that is bounded in lines and in bytes, one thread writes them, and lines that do not fit are dropped and counted.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use tracing_subscriber::fmt::MakeWriter;

/// How long the end of the process waits for lines that are still to be written.
const PATIENCE_AT_THE_END: Duration = Duration::from_secs(1);

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Maximum number of lines.
    pub(super) lines: usize,
    /// Maximum number of bytes in all of them.
    pub(super) bytes: usize,
}

enum Message {
    Line(Vec<u8>),
    /// Everything before it is written once the sender is told.
    Flush(SyncSender<()>),
}

/// The end that takes lines.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    lines: SyncSender<Message>,
    waiting_bytes: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
    max_bytes: usize,
}

/// Waits at its end until what is queued is written, but no longer than a second.
#[derive(Debug)]
pub(super) struct Guard(SyncSender<Message>);

/// A queue, and a thread that moves its lines on to `to`.
///
/// # Errors
/// The thread cannot be started.
pub(super) fn queue(
    to: impl io::Write + Send + 'static,
    bounds: Bounds,
) -> io::Result<(Queue, Guard)> {
    let (lines, waiting) = mpsc::sync_channel(bounds.lines);
    let waiting_bytes = Arc::new(AtomicUsize::new(0));
    let written = Arc::clone(&waiting_bytes);
    thread::Builder::new().name("log".to_owned()).spawn(move || write(to, &waiting, &written))?;
    let dropped = Arc::default();
    let queue = Queue { lines: lines.clone(), waiting_bytes, dropped, max_bytes: bounds.bytes };
    Ok((queue, Guard(lines)))
}

fn write(mut to: impl io::Write, lines: &Receiver<Message>, waiting_bytes: &AtomicUsize) {
    for message in lines {
        match message {
            Message::Line(line) => {
                // There is nowhere to say that the log cannot be written.
                let _ = to.write_all(&line);
                waiting_bytes.fetch_sub(line.len(), Ordering::Relaxed);
            }
            Message::Flush(done) => {
                let _ = to.flush();
                // It is told only while somebody waits.
                let _ = done.try_send(());
            }
        }
    }
}

impl Queue {
    /// How many lines were dropped so far.
    pub(super) fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }

    /// Queues a line, or drops it where there is no room.
    fn put(&self, line: &[u8]) {
        let bytes = line.len();
        let before = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = before.saturating_add(bytes) <= self.max_bytes;
        if !fits || self.lines.try_send(Message::Line(line.to_vec())).is_err() {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Each write is one line: that is how the formatter hands them over.
impl io::Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let (done, written) = mpsc::sync_channel(1);
        let end = Instant::now() + PATIENCE_AT_THE_END;
        let mut message = Message::Flush(done);
        // A full queue has room again as soon as somebody reads.
        while let Err(mpsc::TrySendError::Full(returned)) = self.0.try_send(message) {
            if Instant::now() > end {
                return;
            }
            message = returned;
            #[expect(
                clippy::disallowed_methods,
                reason = "a full queue tells nobody of its next room"
            )]
            thread::sleep(PATIENCE_AT_THE_END / 100);
        }
        let _ = written.recv_timeout(end.saturating_duration_since(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use io::Write as _;

    use super::*;

    /// Takes a line for each permit, and everything once there is no more giver.
    struct Stuck(Receiver<()>, Arc<AtomicUsize>);

    impl io::Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1.fetch_add(bytes.len(), Ordering::SeqCst);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_that_nobody_reads_holds_nobody_up_and_counts_what_it_drops() {
        let (permits, stuck) = mpsc::channel();
        let written = Arc::default();
        let bounds = Bounds { lines: 4, bytes: 1 << 20 };
        let (mut queue, guard) = queue(Stuck(stuck, Arc::clone(&written)), bounds).expect("starts");
        for _ in 0..100 {
            queue.write_all(b"a line\n").expect("never fails");
        }
        // One is being written, four wait.
        let dropped = queue.dropped().load(Ordering::Relaxed);
        assert!((95..=96).contains(&dropped), "{dropped}");
        drop(permits);
        drop(guard);
        assert_eq!(written.load(Ordering::SeqCst) as u64, (100 - dropped) * 7);
    }

    #[test]
    fn long_lines_are_bounded_in_bytes_and_make_room_when_written() {
        let (permits, stuck) = mpsc::channel();
        let written: Arc<AtomicUsize> = Arc::default();
        let bounds = Bounds { lines: 1000, bytes: 100 };
        let (mut queue, _guard) =
            queue(Stuck(stuck, Arc::clone(&written)), bounds).expect("starts");
        for _ in 0..10 {
            queue.write_all(&[b'x'; 40]).expect("never fails");
        }
        assert_eq!(queue.dropped().load(Ordering::Relaxed), 8);
        permits.send(()).expect("takes one");
        permits.send(()).expect("takes one");
        while queue.waiting_bytes.load(Ordering::Relaxed) > 0 {
            thread::yield_now();
        }
        queue.write_all(&[b'x'; 100]).expect("never fails");
        assert_eq!(queue.dropped().load(Ordering::Relaxed), 8);
        drop(permits);
    }
}
