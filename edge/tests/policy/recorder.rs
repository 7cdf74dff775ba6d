//! A backend that keeps every byte it gets, and answers whatever is a whole request.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use rustix::net::{RecvFlags, recv};

use crate::rig::wait_for;

pub struct Recorder {
    pub address: SocketAddr,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    bytes: Vec<u8>,
    /// All that were ever accepted, with the other end of each.
    connections: Vec<(SocketAddr, TcpStream)>,
}

impl Recorder {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::<Mutex<Log>>::default();
        let shared = Arc::clone(&log);
        std::thread::spawn(move || {
            while let Ok((stream, peer)) = listener.accept() {
                shared.lock().unwrap().connections.push((peer, stream.try_clone().unwrap()));
                let log = Arc::clone(&shared);
                std::thread::spawn(move || record(stream, &log));
            }
        });
        Self { address, log }
    }

    /// What has come since the last look.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.log.lock().unwrap().bytes)
    }

    /// The same, once nothing that was sent before is still on its way to us.
    pub fn take_all(&self) -> Vec<u8> {
        // Connections are accepted in their order.
        let last = TcpStream::connect(self.address).unwrap();
        let own = last.local_addr().unwrap();
        wait_for(|| {
            let log = self.log.lock().unwrap();
            log.connections.iter().any(|(peer, _)| *peer == own) && log.connections.iter().all(|(_, one)| is_read(one))
        });
        self.take()
    }
}

/// Whether the kernel holds nothing of a connection that was not read.
fn is_read(stream: &TcpStream) -> bool {
    !matches!(recv(stream, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT), Ok((1.., _)))
}

fn record(mut stream: TcpStream, log: &Mutex<Log>) {
    let mut held = Vec::new();
    let mut piece = [0; 65536];
    while let Ok(1..) = stream.peek(&mut [0; 1]) {
        // Read and written down in one step.
        let mut log = log.lock().unwrap();
        let Ok(count @ 1..) = stream.read(&mut piece) else { return };
        log.bytes.extend_from_slice(&piece[..count]);
        drop(log);
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
