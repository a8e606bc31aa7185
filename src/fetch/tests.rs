//! Fetches from test sites on loopback addresses, some of which count as allowed.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};

use super::*;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// An address that is allowed, unlike [`HERE`].
const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// A complete GIF.
const PIXEL: &[u8] = b"GIF89a\x01\0\x01\0\x80\0\0\xff\xff\xff\0\0\0!\xf9\x04\x01\0\0\0\0,\0\0\0\0\
    \x01\0\x01\0\0\x02\x02D\x01\0;";

/// The action of a site after it has read a request's head.
#[derive(Clone)]
enum Reply {
    /// Sends these bytes and closes.
    Bytes(Vec<u8>),
    /// Sends these bytes and keeps the connection open.
    Hang(Vec<u8>),
    /// Sends the first bytes, and then the second ones for as long as the client reads.
    Endless(Vec<u8>, Vec<u8>),
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Reply {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    Reply::Bytes([head.as_bytes(), body].concat())
}

fn redirect(target: &str) -> Reply {
    answer("302 Found", &format!("location: {target}\r\n"), b"")
}

/// A site that sends its replies one after another, and then repeats the last one.
struct Site {
    port: u16,
    /// For each connection, the address that it was made to and the request's head.
    seen: Arc<Mutex<Vec<(IpAddr, String)>>>,
    server: JoinHandle<()>,
}

impl Site {
    async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        // The site listens on all addresses, so that a test can see which one was used.
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut replies: VecDeque<_> = replies.into_iter().collect();
        let server = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                loop {
                    let (stream, _) = listener.accept().await.expect("accepts");
                    let address = stream.local_addr().expect("connected").ip();
                    let last = replies.len() == 1;
                    let reply = if last { replies.front().cloned() } else { replies.pop_front() };
                    let seen = Arc::clone(&seen);
                    tokio::spawn(async move {
                        serve(stream, reply.expect("a reply"), |head| {
                            seen.lock().push((address, head))
                        })
                        .await;
                    });
                }
            }
        });
        Self { port, seen, server }
    }

    fn url(&self, host: &str) -> String {
        format!("http://{host}:{}/picture", self.port)
    }

    fn reached(&self) -> Vec<IpAddr> {
        self.seen.lock().iter().map(|(address, _)| *address).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve<S>(mut stream: S, reply: Reply, note: impl FnOnce(String))
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    note(String::from_utf8(head).expect("utf-8"));
    // Writing fails when the client closes the connection.
    match reply {
        Reply::Bytes(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
        Reply::Hang(bytes) => {
            let _ = stream.write_all(&bytes).await;
            std::future::pending::<()>().await;
        }
        Reply::Endless(first, more) => {
            let mut next = stream.write_all(&first).await;
            while next.is_ok() {
                next = stream.write_all(&more).await;
            }
        }
    }
}

/// Returns one scripted result per look-up, and then repeats the last one.
struct Script(Mutex<VecDeque<Vec<IpAddr>>>);

impl Lookup for Script {
    fn lookup(&self, _: &str) -> resolver::Answer {
        let mut script = self.0.lock();
        let last = script.len() == 1;
        let answer = if last { script.front().cloned() } else { script.pop_front() };
        Box::pin(async move { answer.ok_or_else(|| io::Error::other("no such host")) })
    }
}

fn script<const N: usize>(answers: [Vec<IpAddr>; N]) -> Arc<Script> {
    Arc::new(Script(Mutex::new(answers.into())))
}

/// A fetcher that allows http and [`THERE`], but not [`HERE`], for images of at most 4 KiB.
fn fetcher(lookup: Arc<dyn Lookup>, change: impl FnOnce(&mut config::Fetch)) -> Fetcher {
    let mut config = config::Fetch {
        enabled: true,
        allow_http: true,
        allow_networks: "127.0.0.2".parse().expect("a network"),
        ..config::Fetch::default()
    };
    change(&mut config);
    Fetcher::with_lookup(&config, 4096, lookup).expect("a client")
}

fn to_there() -> Fetcher {
    fetcher(script([vec![THERE]]), |_| {})
}

async fn refused(fetcher: &Fetcher, url: &str) -> FetchError {
    fetcher.fetch(url, Client::unique()).await.expect_err(url)
}

#[tokio::test]
async fn a_picture_is_fetched_and_nothing_is_told() {
    // The content type of the response does not matter.
    let site = Site::start([
        redirect("/elsewhere?signature=1"),
        answer("200 OK", "content-type: text/html\r\nset-cookie: a=b\r\n", PIXEL),
    ])
    .await;
    let fetcher = to_there();
    for _ in 0..2 {
        let fetched = fetcher
            .fetch(&site.url("pictures.example"), Client::unique())
            .await
            .expect("a picture");
        assert_eq!(fetched.bytes, PIXEL);
    }
    for (_, head) in &*site.seen.lock() {
        let head = head.to_ascii_lowercase();
        assert!(head.contains(&format!("host: pictures.example:{}\r\n", site.port)), "{head}");
        for secret in ["cookie", "authorization", "referer", "x-request-id"] {
            assert!(!head.contains(secret), "{head}");
        }
    }
}

#[tokio::test]
async fn a_name_that_changes_its_address_gains_nothing() {
    let site = Site::start([redirect("/again"), answer("200 OK", "", PIXEL)]).await;
    let rebinds = fetcher(script([vec![THERE], vec![HERE]]), |_| {});
    let error = refused(&rebinds, &site.url("pictures.example")).await;
    assert!(matches!(error, FetchError::Forbidden(Refusal::Address)), "{error:?}");
    assert_eq!(site.reached(), [THERE]);
}

#[tokio::test]
async fn of_several_addresses_only_the_allowed_are_connected_to() {
    let site = Site::start([answer("200 OK", "", PIXEL)]).await;
    let mixed = fetcher(script([vec![HERE, THERE, HERE]]), |_| {});
    mixed.fetch(&site.url("pictures.example"), Client::unique()).await.expect("a picture");
    assert_eq!(site.reached(), [THERE]);
}

#[tokio::test]
async fn a_private_address_is_refused_by_default_whatever_its_name() {
    let site = Site::start([answer("200 OK", "", PIXEL)]).await;
    let default = fetcher(script([vec![HERE]]), |config| {
        config.allow_networks = config::Fetch::default().allow_networks;
    });
    for host in ["pictures.example", "127.0.0.1", "127.1", "[::1]", "[::ffff:127.0.0.1]"] {
        let error = refused(&default, &site.url(host)).await;
        assert!(matches!(error, FetchError::Forbidden(Refusal::Address)), "{host}: {error:?}");
    }
    assert!(site.reached().is_empty());
}

#[tokio::test]
async fn redirects_are_checked_and_counted() {
    let to_here = |site: &Site| format!("http://127.0.0.1:{}/", site.port);
    let inside = Site::start([answer("200 OK", "", PIXEL)]).await;
    for target in [to_here(&inside), "file:///etc/passwd".to_owned(), "http://u:p@a/".to_owned()] {
        let site = Site::start([redirect(&target)]).await;
        let error = refused(&to_there(), &site.url("pictures.example")).await;
        assert!(matches!(error, FetchError::Forbidden(_)), "{target}: {error:?}");
    }
    assert!(inside.reached().is_empty());

    let circle = Site::start([redirect("/again")]).await;
    let error = refused(&to_there(), &circle.url("pictures.example")).await;
    assert!(matches!(error, FetchError::TooManyRedirects { limit: 3 }), "{error:?}");
    assert_eq!(circle.reached().len(), 4);
}

#[tokio::test]
async fn time_is_bounded() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n".to_vec();
    for reply in [Reply::Hang(Vec::new()), Reply::Hang([&head[..], PIXEL].concat())] {
        let site = Site::start([reply]).await;
        let timeout = Duration::from_millis(100);
        let hasty = fetcher(script([vec![THERE]]), |config| config.timeout = timeout);
        let error = refused(&hasty, &site.url("pictures.example")).await;
        assert!(matches!(error, FetchError::TimedOut(_)), "{error:?}");
    }
}

#[tokio::test]
async fn bytes_are_bounded_announced_or_not() {
    let announced = b"HTTP/1.1 200 OK\r\ncontent-length: 4097\r\n\r\n".to_vec();
    let until_closed = [b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", PIXEL].concat();
    for reply in [Reply::Hang(announced), Reply::Endless(until_closed, PIXEL.to_vec())] {
        let site = Site::start([reply]).await;
        let error = refused(&to_there(), &site.url("pictures.example")).await;
        assert!(matches!(error, FetchError::TooManyBytes { limit: 4096 }), "{error:?}");
    }
}

#[tokio::test]
async fn what_is_not_a_picture_is_broken_off() {
    let page = b"<!doctype html><title>A page about pictures</title>".to_vec();
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\nconnection: close\r\n\r\n".to_vec();
    for reply in [
        Reply::Endless([head, page.clone()].concat(), page),
        answer("200 OK", "content-type: image/png\r\n", b""),
        answer("200 OK", "content-type: image/svg+xml\r\n", b"<svg/>"),
    ] {
        let site = Site::start([reply]).await;
        let error = refused(&to_there(), &site.url("pictures.example")).await;
        assert!(matches!(error, FetchError::NotAnImage(_)), "{error:?}");
    }
}

#[tokio::test]
async fn other_failures_are_named_in_general() {
    let site = Site::start([answer("404 Not Found", "", PIXEL)]).await;
    let error = refused(&to_there(), &site.url("pictures.example")).await;
    assert_eq!(error.to_string(), "the URL was answered with status 404 Not Found");

    let free = TcpListener::bind((THERE, 0)).await.expect("a port").local_addr().expect("bound");
    let closed = format!("http://{free}/?signature=secret");
    let error = refused(&to_there(), &closed).await;
    assert_eq!(error.to_string(), "the URL could not be fetched: no connection");
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    let error = refused(&fetcher(script([]), |_| {}), &site.url("nowhere.example")).await;
    assert_eq!(error.to_string(), "the URL could not be fetched: no connection");
}

#[tokio::test]
async fn a_slot_is_held_until_the_picture_is_decoded() {
    let site = Site::start([answer("200 OK", "", PIXEL)]).await;
    let narrow = fetcher(script([vec![THERE]]), |config| config.max_concurrent = 1);
    let url = site.url("pictures.example");
    let first = narrow.fetch(&url, Client::unique()).await.expect("a picture");
    let mut second = Box::pin(narrow.fetch(&url, Client::unique()));
    assert!(futures::poll!(&mut second).is_pending());
    assert_eq!(site.reached().len(), 1);
    drop(first);
    second.await.expect("a picture");
}

#[tokio::test]
async fn a_silent_site_does_not_hold_up_others() {
    let silent = Site::start([Reply::Hang(Vec::new())]).await;
    let good = Site::start([answer("200 OK", "", PIXEL)]).await;
    let fetcher = fetcher(script([vec![THERE]]), |config| config.max_concurrent = 4);
    let (url, client) = (silent.url("images.silent.example"), Client::unique());
    let mut held: Vec<_> = (0..20).map(|_| Box::pin(fetcher.fetch(&url, client.clone()))).collect();
    for fetch in &mut held {
        assert!(futures::poll!(fetch).is_pending());
    }
    fetcher.fetch(&good.url("good.example"), Client::unique()).await.expect("an image");
}

#[test]
fn a_site_is_what_one_owner_has() {
    for (host, expected) in [
        ("a.b.example", "b.example"),
        ("example", "example"),
        ("a.b.example.", "b.example."),
        ("192.0.2.7", "192.0.2.7"),
        ("[2001:db8::1]", "[2001:db8::1]"),
        ("", ""),
    ] {
        assert_eq!(super::site(host), expected, "{host}");
    }
}

#[tokio::test]
async fn https_checks_the_name_that_was_asked_for() {
    use rustls::pki_types::PrivateKeyDer;

    let made = rcgen::generate_simple_self_signed(["pictures.example".to_owned()]).expect("made");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    tls::install_provider();
    let tls = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a certificate and its key");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind((THERE, 0)).await.expect("a port");
    let address: SocketAddr = listener.local_addr().expect("bound");
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("accepts");
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(stream, answer("200 OK", "", PIXEL), drop).await;
            }
        }
    });

    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), made.cert.pem()).expect("written");
    let fetcher = fetcher(script([vec![THERE]]), |config| {
        config.allow_http = false;
        config.ca_file = Some(file.path().to_owned());
    });
    let url = |host: &str| format!("https://{host}:{}/", address.port());
    let fetched =
        fetcher.fetch(&url("pictures.example"), Client::unique()).await.expect("the name is right");
    assert_eq!(fetched.bytes, PIXEL);
    let error = refused(&fetcher, &url("others.example")).await;
    assert_eq!(error.to_string(), "the URL could not be fetched: no connection");
    server.abort();
}
