//! Taking ports.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

use super::{AppError, AppHandle};

/// Connections that may wait to be accepted; the system's own limit may be lower.
const BACKLOG: u32 = 1024;

/// A port that is ours.
pub(super) enum Port {
    /// Connections arrive.
    Open(TcpListener),
    /// Shared with other processes: none arrive yet, since those would be lost that a server which is still
    /// loading its model gets in the place of one that answers.
    Bound(TcpSocket),
}

impl Port {
    /// Takes a port, which other processes may take as well if it is `shared`.
    pub(super) fn take(addr: SocketAddr, shared: bool) -> Result<(Self, SocketAddr), AppError> {
        let bind = || {
            let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // A port is free again at once after a restart.
            socket.set_reuseaddr(true)?;
            #[cfg(unix)]
            socket.set_reuseport(shared)?;
            socket.bind(addr)?;
            let addr = socket.local_addr()?;
            let port =
                if shared { Self::Bound(socket) } else { Self::Open(socket.listen(BACKLOG)?) };
            Ok((port, addr))
        };
        bind().map_err(|source| AppError::Bind { addr, source })
    }

    /// The same for a listener that there may be.
    pub(super) fn take_if(
        addr: Option<SocketAddr>,
        shared: bool,
    ) -> Result<(Option<Self>, Option<SocketAddr>), AppError> {
        let Some(addr) = addr else { return Ok((None, None)) };
        Self::take(addr, shared).map(|(port, addr)| (Some(port), Some(addr)))
    }

    /// Lets connections arrive: at once, or when the server is ready. None if it is told to stop before.
    pub(super) async fn open(self, handle: &AppHandle) -> io::Result<Option<TcpListener>> {
        match self {
            Self::Open(listener) => Ok(Some(listener)),
            Self::Bound(socket) => tokio::select! {
                () = handle.ready() => socket.listen(BACKLOG).map(Some),
                () = handle.leave.cancelled() => Ok(None),
            },
        }
    }
}
