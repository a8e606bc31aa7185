//! A connection that is kept open, and reopened when it breaks.

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

pub(super) struct Client {
    server: String,
    connection: Option<SendRequest<Full<Bytes>>>,
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

impl Client {
    pub(super) fn new(server: &str) -> Self {
        Self { server: server.to_owned(), connection: None }
    }

    pub(super) async fn send(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        let mut connection = match self.connection.take() {
            Some(connection) if connection.ready_and_open() => connection,
            _ => self.connect().await.context("connecting")?,
        };
        let answer = connection.send_request(request).await?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        self.connection = Some(connection);
        Ok(Answer { status, body })
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(&self.server).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends when the sender is dropped, or with an error that the sender gets too.
        tokio::spawn(async move { connection.await.unwrap_or_default() });
        Ok(sender)
    }
}

trait Open {
    /// Whether the server keeps the connection.
    fn ready_and_open(&self) -> bool;
}

impl<B> Open for SendRequest<B> {
    fn ready_and_open(&self) -> bool {
        !self.is_closed()
    }
}
