//! Which cores a thread keeps to.

/// A share of the physical cores that this process may use. Threads that keep to them find their data in those
/// cores' caches.
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
    /// One of `count` shares, with every hardware thread of its cores.
    pub(super) fn share(index: usize, count: usize) -> Self {
        let allowed = rustix::thread::sched_getaffinity(None);
        let set = allowed.ok().map(|allowed| {
            let mut set = rustix::thread::CpuSet::new();
            let physical = linux::physical(&allowed);
            linux::share(&physical, index, count).iter().flatten().for_each(|&cpu| set.set(cpu));
            set
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
    /// One of `count` shares.
    pub(super) fn share(_: usize, _: usize) -> Self {
        Self {}
    }

    /// Keeps the calling thread to them.
    pub(super) fn keep_to(&self) {}
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs;

    use indexmap::IndexMap;
    use rustix::thread::CpuSet;

    /// The hardware threads that are allowed, by the physical core they are of. How they are numbered differs
    /// from machine to machine, so the kernel is asked; where it does not tell, each is a core.
    pub(super) fn physical(allowed: &CpuSet) -> Vec<Vec<usize>> {
        let mut cores = IndexMap::<String, Vec<usize>>::new();
        for cpu in (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)) {
            let siblings =
                format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            let core = fs::read_to_string(siblings).unwrap_or_else(|_| cpu.to_string());
            cores.entry(core.trim().to_owned()).or_default().push(cpu);
        }
        cores.into_values().collect()
    }

    /// Adjacent cores: equally many for each share, at least one.
    pub(super) fn share<T>(cores: &[T], index: usize, count: usize) -> &[T] {
        let start = index * cores.len() / count;
        let end = (index + 1) * cores.len() / count;
        &cores[start..end.max(start + 1).min(cores.len())]
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::thread::sched_getaffinity;

    use super::{
        Cores,
        linux::{physical, share},
    };

    #[test]
    fn shares_are_disjoint_and_whole_or_at_least_not_empty() {
        for (cores, count) in [(8, 2), (7, 3), (5, 5), (64, 6)] {
            let cores: Vec<_> = (0..cores).collect();
            let shares: Vec<_> = (0..count).flat_map(|index| share(&cores, index, count)).collect();
            assert_eq!(shares, cores.iter().collect::<Vec<_>>());
        }
        assert!((0..5).all(|index| share(&[0, 1], index, 5).len() == 1));
    }

    #[test]
    fn a_thread_keeps_to_its_cores() {
        let allowed = sched_getaffinity(None).expect("a process knows its cores");
        let count = physical(&allowed).len();
        let kept: u32 = (0..count)
            .map(|index| {
                let kept = std::thread::spawn(move || {
                    Cores::share(index, count).keep_to();
                    sched_getaffinity(None).expect("a thread knows its cores")
                });
                kept.join().expect("no panic").count()
            })
            .sum();
        assert_eq!(kept, allowed.count(), "one physical core each, and together all");
    }
}
