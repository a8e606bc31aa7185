//! A hard memory limit for a server and its decode processes, with a control group if one can be created.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A group of processes. The kernel ends them if they exceed the limit.
pub(crate) struct Group {
    folder: PathBuf,
    /// Whether this is a control group of version 2, and not 1.
    second: bool,
}

impl Group {
    /// Creates a group of at most `bytes`. Fails if this user is not allowed to.
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

    /// The file for process ids.
    pub(crate) fn members(&self) -> String {
        self.folder.join("cgroup.procs").display().to_string()
    }

    /// Peak memory of the group, including the pages of files.
    pub(crate) fn peak(&self) -> u64 {
        let name = if self.second { "memory.peak" } else { "memory.max_usage_in_bytes" };
        let text = fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        text.trim().parse().unwrap_or_default()
    }

    /// Number of processes that the kernel ended.
    pub(crate) fn killed(&self) -> u64 {
        let name = if self.second { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|count| count.trim().parse().ok()).unwrap_or_default()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its processes have ended.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Private bytes of a server and its decode processes, without pages of files, which can be read again.
pub(crate) fn resident(server: u32) -> u64 {
    let children = fs::read_dir(format!("/proc/{server}/task")).into_iter().flatten().flatten();
    let children = children
        .map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default())
        .collect::<String>();
    let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    children.map(|child| own(child, "siglip-decode")).sum::<u64>() + own(server, "")
}

/// 0 for another program: a child has its parent's memory until it has started its own program.
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
