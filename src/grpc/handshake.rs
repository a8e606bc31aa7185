//! TLS on the gRPC listener.

use std::{io, time::Duration};

use futures::Stream;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, warn};

/// How long a handshake may take: two round trips, however far away the client.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections whose handshake is done and that the server has not taken yet.
const WAITING_CONNECTIONS: usize = 16;
/// How long to wait when the process is out of file descriptors: some call will end by then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

type Connection = TlsStream<TcpStream>;

/// Connections after their handshake. Handshakes run side by side, so a client that is slow in its own
/// keeps nobody waiting.
pub(super) fn connections(
    listener: TcpListener,
    tls: TlsAcceptor,
) -> impl Stream<Item = io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(WAITING_CONNECTIONS);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                // The server takes no more connections; this closes the port.
                () = sender.closed() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        tokio::spawn(shake_hands(stream, tls.clone(), sender.clone()));
                    }
                    Err(error) => {
                        warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    });
    ReceiverStream::new(receiver)
}

async fn shake_hands(
    stream: TcpStream,
    tls: TlsAcceptor,
    connections: mpsc::Sender<io::Result<Connection>>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "cannot set TCP_NODELAY");
    }
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        // Nobody waits for it once the server drains.
        Ok(Ok(stream)) => drop(connections.send(Ok(stream)).await),
        Ok(Err(error)) => debug!(%error, "a TLS handshake failed"),
        Err(_) => debug!("a TLS handshake took too long"),
    }
}
