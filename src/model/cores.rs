//! Which cores a thread keeps to.

use std::ops::Range;

/// Some of the cores that this process may use. Threads that keep to them find their data in those cores' caches.
///
/// Where the operating system takes no such wishes, or refuses one, threads run wherever it puts them: slower at
/// worst.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cores {
    #[cfg(target_os = "linux")]
    set: Option<rustix::thread::CpuSet>,
}

#[cfg(target_os = "linux")]
impl Cores {
    /// The cores at these places among those that the process may use, from the first again behind the last.
    pub(super) fn nth(places: Range<usize>) -> Self {
        use rustix::thread::{CpuSet, sched_getaffinity};

        let set = sched_getaffinity(None).ok().and_then(|allowed| {
            let all: Vec<_> = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect();
            let mut set = CpuSet::new();
            for place in places {
                set.set(*all.get(place.checked_rem(all.len())?)?);
            }
            Some(set)
        });
        Self { set }
    }

    /// Keeps the calling thread to them.
    pub(super) fn keep_to(&self) {
        let kept = self.set.map_or(Ok(()), |set| rustix::thread::sched_setaffinity(None, &set));
        if let Err(error) = kept {
            tracing::warn!(%error, "a tower's thread cannot be kept to its cores");
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Cores {
    /// The cores at these places among those that the process may use.
    pub(super) fn nth(_: Range<usize>) -> Self {
        Self {}
    }

    /// Keeps the calling thread to them.
    pub(super) fn keep_to(&self) {}
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::thread::{CpuSet, sched_getaffinity};

    use super::*;

    #[test]
    fn a_thread_keeps_to_its_cores() {
        let allowed = sched_getaffinity(None).expect("a process knows its cores");
        let first = (0..CpuSet::MAX_CPU).find(|&core| allowed.is_set(core)).expect("one at least");
        // The place behind the last core is the first one again.
        for place in [0, allowed.count() as usize] {
            let kept = std::thread::spawn(move || {
                Cores::nth(place..place + 1).keep_to();
                sched_getaffinity(None).expect("a thread knows its cores")
            });
            let kept = kept.join().expect("no panic");
            assert_eq!((kept.count(), kept.is_set(first)), (1, true));
        }
    }
}
