//! A backend that keeps every byte it gets, and answers whatever is a whole request.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

pub struct Recorder {
    pub address: SocketAddr,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Recorder {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&bytes);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let log = Arc::clone(&log);
                std::thread::spawn(move || record(stream, &log));
            }
        });
        Self { address, bytes }
    }

    /// What has come since the last look.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.bytes.lock().unwrap())
    }
}

fn record(mut stream: TcpStream, log: &Mutex<Vec<u8>>) {
    let mut held = Vec::new();
    let mut piece = [0; 65536];
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        log.lock().unwrap().extend_from_slice(&piece[..count]);
        held.extend_from_slice(&piece[..count]);
        if is_whole(&held) {
            held.clear();
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_err() {
                return;
            }
        }
    }
}

/// Whether these bytes are one request, from its first byte to its last.
pub fn is_whole(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    if head.contains("\r\ntransfer-encoding: chunked") {
        return body.starts_with("0\r\n") && body.ends_with("\r\n\r\n")
            || body.ends_with("\r\n\r\n") && body.contains("\r\n0\r\n");
    }
    let length = head.split("\r\ncontent-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    body.len() == length.map_or(0, |length| length.parse().unwrap())
}
