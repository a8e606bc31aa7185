//! Taking ports, and the connections that arrive there.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
};
use tracing::debug;

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

/// Where connections come from.
pub(super) trait Listener: Send + Sync {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Send + 'static;

    /// The next connection.
    ///
    /// # Errors
    /// The connection's own, or one that passes with time.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Closes the listener, and gives the connections that the system has accepted for it.
    fn into_accepted(self) -> Vec<Self::Stream>;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| at_once(stream))
    }

    fn into_accepted(self) -> Vec<TcpStream> {
        // Asked directly: the runtime may not know yet of the latest.
        let Ok(listener) = self.into_std() else { return Vec::new() };
        let accept = || {
            let (stream, _) = listener.accept().ok()?;
            stream.set_nonblocking(true).ok()?;
            TcpStream::from_std(stream).map(at_once).ok()
        };
        std::iter::from_fn(accept).collect()
    }
}

/// Answers are written in one piece; waiting to fill a packet only adds latency.
fn at_once(stream: TcpStream) -> TcpStream {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "cannot set TCP_NODELAY");
    }
    stream
}
