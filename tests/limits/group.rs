//! A hard limit on the memory of a server and of its decode processes: a control group, where one can be made.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A group of processes that the kernel ends where they take more than they may.
pub(crate) struct Group {
    folder: PathBuf,
    /// The files' names of the second version, or of the first.
    second: bool,
}

impl Group {
    /// Makes a group of at most `bytes`; none where the system does not let this user.
    pub(crate) fn new(bytes: u64) -> io::Result<Self> {
        let second = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let parent = if second { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/memory" };
        let folder = Path::new(parent).join(format!("siglip-limits-{}", std::process::id()));
        fs::create_dir(&folder)?;
        let group = Self { folder, second };
        let limit = if second { "memory.max" } else { "memory.limit_in_bytes" };
        fs::write(group.folder.join(limit), bytes.to_string())?;
        if second {
            fs::write(group.folder.join("memory.swap.max"), "0")?;
        }
        Ok(group)
    }

    /// The file that takes the numbers of processes.
    pub(crate) fn members(&self) -> String {
        self.folder.join("cgroup.procs").display().to_string()
    }

    /// The most that the group has had, the pages of files included.
    pub(crate) fn peak(&self) -> u64 {
        let name = if self.second { "memory.peak" } else { "memory.max_usage_in_bytes" };
        let text = fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        text.trim().parse().unwrap_or_default()
    }

    /// Processes that the kernel ended.
    pub(crate) fn killed(&self) -> u64 {
        let name = if self.second { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|count| count.trim().parse().ok()).unwrap_or_default()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its processes are gone.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Bytes that a server and its decode processes have to themselves: pages of files can be read again.
pub(crate) fn resident(server: u32) -> u64 {
    let children = fs::read_dir(format!("/proc/{server}/task")).into_iter().flatten().flatten();
    let children = children
        .map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default())
        .collect::<String>();
    let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    children.map(|child| own(child, "siglip-decode")).sum::<u64>() + own(server, "")
}

/// None for another program: a child has its parent's memory until it has begun its own.
fn own(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    if !status.lines().any(|line| line.starts_with("Name:") && line.ends_with(name)) {
        return 0;
    }
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok())
    };
    ["RssAnon:", "RssShmem:"].into_iter().filter_map(kib).sum::<u64>() << 10
}
