//! HTTP/2, frame by frame.

use tokio::io::AsyncWriteExt;

use super::{Server, read_to_end};

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
/// `GET http://[::]/`, from the static table except for the host.
pub(super) const GET: [u8; 9] = [0x82, 0x86, 0x84, 0x41, 0x04, b'[', b':', b':', b']'];

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub(super) fn hello() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_opened_and_reset_end_their_connection() {
    let server = Server::start(|_| ()).await;
    let mut stream = server.connect().await;
    let mut bytes = hello();
    for id in (1..40_000).step_by(2) {
        // The whole request, and its end: RST_STREAM with CANCEL.
        bytes.extend(frame(HEADERS, 0x5, id, &GET));
        bytes.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
    }
    // The server may close first.
    let _ = stream.write_all(&bytes).await;
    // The server sends GOAWAY and closes.
    read_to_end(&mut stream).await;
    server.still_well().await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_without_an_end_ends_its_connection() {
    let server = Server::start(|_| ()).await;
    let mut stream = server.connect().await;
    let mut bytes = [hello(), frame(HEADERS, 0x1, 1, &GET)].concat();
    for _ in 0..1000 {
        // A literal header of a thousand bytes each.
        let field = [&[0x00, 0x01, b'y', 0x7f, 0x81, 0x07][..], &[b'a'; 1024 - 128 + 128]].concat();
        bytes.extend(frame(CONTINUATION, 0, 1, &field[..field.len().min(1024)]));
    }
    let _ = stream.write_all(&bytes).await;
    read_to_end(&mut stream).await;
    server.still_well().await;
    server.end().await;
}
