//! How many connections the process may have, given the file descriptors that it may open.
//!
//! A process that has used up its descriptors accepts no connection: its probes fail, and nothing says why. So the listeners
//! that strangers reach share what the system grants, and the rest is kept for the admin listener, for model files
//! and for fetches.

use tracing::warn;

use crate::config;

/// Connections of the admin listener at once. Probes and scrapes are few; a listener of its own must not be what
/// uses up the descriptors.
pub(super) const ADMIN_CONNECTIONS: usize = 64;

/// Descriptors that no connection takes: those of the admin listener, of files, of fetches and of the runtime.
const RESERVE: usize = 256;

/// The connections that each listener may have at once: as configured, or fewer where the system grants too few file
/// descriptors. The process's own limit is raised to what the system lets it have.
pub(super) fn connections(listen: &config::Listen) -> usize {
    let Some(granted) = raise_limit() else { return listen.max_connections };
    let listeners = 1 + usize::from(listen.grpc.is_some()) + usize::from(listen.unix.is_some());
    let each = share(granted, listeners);
    if each < listen.max_connections {
        warn!(
            configured = listen.max_connections,
            used = each,
            descriptors = granted,
            "too few file descriptors for listen.max_connections; raise the limit (ulimit -n)"
        );
    }
    each.min(listen.max_connections)
}

/// What one of `listeners` may take of the `granted` descriptors.
fn share(granted: usize, listeners: usize) -> usize {
    let kept = RESERVE.min(granted / 2);
    ((granted - kept) / listeners.max(1)).max(1)
}

/// Raises the soft limit of open files to the hard one, as far as that may be, and returns it.
#[cfg(target_os = "linux")]
fn raise_limit() -> Option<usize> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    // A system that refuses leaves what there was. No limit at all is none to keep.
    let granted = if raised.is_ok() { maximum } else { current };
    granted.and_then(|granted| usize::try_from(granted).ok())
}

#[cfg(not(target_os = "linux"))]
fn raise_limit() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn listeners_share_what_is_not_kept() {
        assert_eq!(share(1024, 1), 768);
        assert_eq!(share(1024, 2), 384);
        assert_eq!(share(128, 2), 32);
        assert_eq!(share(1, 3), 1);
    }
}
