//! Restricts a decode process before it sees an image.

use std::{collections::BTreeMap, fs};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, RulesetCreated,
    RulesetStatus, Scope,
};
use rustix::process::{Resource, Rlimit, getpid, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Compare,
    SeccompCondition, SeccompFilter, SeccompRule,
};

/// The system calls that a decoder and the runtime need: memory, open descriptors, time, locks, randomness for
/// hash maps, and exit.
const ALLOWED: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_getrusage,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Calls with the memory protection as their third argument. No memory may become executable.
const MAPPING: [i64; 2] = [libc::SYS_mmap, libc::SYS_mprotect];

/// Signals that end a whole group of processes. A decode process ends with its server, which may still have
/// images to decode.
const FOR_THE_SERVER: [i32; 6] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];

/// The restrictions that the kernel has applied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Granted {
    pub(super) seccomp: bool,
    pub(super) landlock: bool,
}

/// Closes every descriptor except the first three. The server's own descriptors are not inherited, but those
/// that it was started with may be.
pub(super) fn close_inherited() {
    // SAFETY: no object in this process owns a descriptor above the first three yet.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
}

/// Gives up files, the network, new processes and core dumps, as far as the kernel supports it. None of this
/// needs a privilege.
pub(super) fn enter() -> Granted {
    for signal in FOR_THE_SERVER {
        // SAFETY: ignoring a signal runs no code of this process.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // If memory runs out, the kernel should end this process instead of the server.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    // A core dump could contain a client's image.
    let _ = setrlimit(Resource::Core, none);
    // The process cannot open further descriptors. Open ones stay open, and `poll` works with one.
    let one = Rlimit { current: Some(1), maximum: Some(1) };
    let _ = setrlimit(Resource::Nofile, one);
    Granted { landlock: restrict_paths(), seccomp: filter_calls().is_ok() }
}

fn restrict_paths() -> bool {
    let made = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(ABI::V5)))
        .and_then(|rules| rules.scope(Scope::from_all(ABI::V6)))
        .and_then(Ruleset::create)
        .and_then(RulesetCreated::restrict_self);
    made.is_ok_and(|status| status.ruleset != RulesetStatus::NotEnforced)
}

fn filter_calls() -> Result<(), Box<dyn std::error::Error>> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|&call| (call, Vec::new())).collect();
    let only = |argument, compare, value| {
        SeccompCondition::new(argument, Width::Dword, compare, value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
    };
    let executable = u64::from(libc::PROT_EXEC.cast_unsigned());
    for call in MAPPING {
        rules.insert(call, vec![only(2, Compare::MaskedEq(executable), 0)?]);
    }
    // An abort sends a signal to the process itself.
    let own = u64::from(getpid().as_raw_nonzero().get().cast_unsigned());
    rules.insert(libc::SYS_tgkill, vec![only(0, Compare::Eq, own)?]);
    // Any other call fails as for an unprivileged process. It does not end the process, because libraries try
    // calls that they do not need.
    let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let target = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, target)?;
    seccompiler::apply_filter(&BpfProgram::try_from(filter)?)?;
    Ok(())
}
