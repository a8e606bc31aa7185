//! `siglip-server healthcheck`: what a container asks of the server beside it. Needs no curl in the image.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    config::{Config, Listen},
    tls,
};

/// Shorter than any orchestrator's own, so that its log shows our message.
const TIMEOUT: Duration = Duration::from_secs(2);
/// A probe's answer is far smaller; whatever else listens there is cut off.
const MAX_ANSWER_BYTES: u64 = 16 << 10;

pub(super) fn run(config: &Config) -> anyhow::Result<()> {
    let Listen { http, admin, .. } = config.listen;
    // The admin listener speaks plain HTTP, whatever the other does.
    let addr = reachable(admin.unwrap_or(http));
    let encrypted = admin.is_none() && config.tls.cert_file.is_some();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = runtime.block_on(async {
        let ask = async { if encrypted { ask_encrypted(addr).await } else { ask(addr).await } };
        tokio::time::timeout(TIMEOUT, ask).await
    });
    let status = asked
        .with_context(|| format!("no answer from {addr} within {TIMEOUT:?}"))?
        .with_context(|| format!("cannot ask {addr}"))?;
    if status.split(' ').nth(1) == Some("200") {
        return super::print("ready\n");
    }
    bail!("not ready: {status}")
}

/// One request by hand: HTTP/1.0 ends the answer with the connection, so there is nothing to parse.
async fn ask(addr: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    let request = format!("GET /health/ready HTTP/1.0\r\nHost: {addr}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
    let head = String::from_utf8_lossy(&answer);
    let head = head.lines().next().unwrap_or_default();
    match answer.first() {
        // The first byte of TLS's alerts: to it a request in plain text is none.
        Some(0x15) => {
            bail!("the port speaks TLS; set the server's --tls-cert (SIGLIP_TLS_CERT) here as well")
        }
        Some(_) if !head.starts_with("HTTP/") => bail!("what listens there does not speak HTTP"),
        _ => Ok(head.to_owned()),
    }
}

/// The same over TLS. The certificate names the host that clients know, not this address, so it is not
/// checked; nothing secret is sent, and the answer is one word.
async fn ask_encrypted(addr: SocketAddr) -> anyhow::Result<String> {
    tls::install_provider();
    let client =
        reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(true).build()?;
    let answer = client.get(format!("https://{addr}/health/ready")).send().await?;
    Ok(format!("{:?} {}", answer.version(), answer.status()))
}

/// A server that listens everywhere is asked on the loopback.
pub(super) fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everywhere_is_asked_on_the_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:8080", "127.0.0.1:8080"),
            ("[::]:8080", "[::1]:8080"),
            ("10.1.2.3:80", "10.1.2.3:80"),
        ] {
            let listen: SocketAddr = listen.parse().expect("an address");
            assert_eq!(reachable(listen).to_string(), asked);
        }
    }
}
