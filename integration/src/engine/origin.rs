//! The origin of the benchmark: one epoll thread that answers from a table.
//!
//! Flows in: connections of proxies. Flows out: `GET /b/N` gives N bytes of the pattern, `POST /up` compares what
//! arrives with the pattern and says 200 or 400, `GET /ws` switches to WebSocket and echoes. A connection that begins
//! with a TLS record has that one record skipped: what passthrough delivers is a ClientHello and then plain HTTP.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use rustix::event::epoll;

use super::outgoing::Outgoing;
use super::pattern;
use super::response::{end_of_head, value_of};
use crate::websocket::accept_key;

const LISTENER: u64 = u64::MAX;
const SCRATCH: usize = 256 << 10;
const MAX_HEAD: usize = 64 << 10;
/// A body of the pattern's first bytes says that an upload was right.
pub(super) const UPLOADED: u64 = 2;

pub struct FastOrigin {
    pub address: SocketAddr,
}

impl FastOrigin {
    /// Serves until the program ends.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        rustix::net::listen(&listener, 4096)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let mut server = Server {
            poll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            listener,
            peers: Vec::new(),
            free: Vec::new(),
            scratch: vec![0; SCRATCH],
        };
        std::thread::Builder::new().name("origin".to_owned()).spawn(move || {
            if let Err(error) = server.run() {
                eprintln!("the origin ended: {error}");
                std::process::exit(1);
            }
        })?;
        Ok(Self { address })
    }
}

struct Server {
    poll: rustix::fd::OwnedFd,
    listener: TcpListener,
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    scratch: Vec<u8>,
}

struct Peer {
    socket: TcpStream,
    /// What is incomplete of a head or a frame.
    held: Vec<u8>,
    state: State,
    out: Outgoing,
    blocked: bool,
    last: bool,
}

#[derive(Clone, Copy)]
enum State {
    /// Nothing was read yet.
    Fresh,
    Head,
    Upload {
        at: u64,
        left: u64,
        good: bool,
    },
    Frames,
}

impl Server {
    fn run(&mut self) -> io::Result<()> {
        epoll::add(&self.poll, &self.listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        let mut events = Vec::with_capacity(512);
        loop {
            events.clear();
            match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                let token = event.data.u64();
                if token == LISTENER {
                    self.accept()?;
                    continue;
                }
                let index = token as usize;
                let Some(Some(peer)) = self.peers.get_mut(index) else { continue };
                let before = peer.blocked;
                let alive = peer.turn(&mut self.scratch);
                if !alive {
                    self.peers.get_mut(index).map(Option::take);
                    self.free.push(index);
                } else if peer.blocked != before {
                    let flags = if peer.blocked { epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
                    epoll::modify(&self.poll, &peer.socket, epoll::EventData::new_u64(token), flags)?;
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            let index = self.free.pop().unwrap_or_else(|| {
                self.peers.push(None);
                self.peers.len() - 1
            });
            epoll::add(&self.poll, &socket, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
            let peer = Peer {
                socket,
                held: Vec::new(),
                state: State::Fresh,
                out: Outgoing::default(),
                blocked: false,
                last: false,
            };
            if let Some(slot) = self.peers.get_mut(index) {
                *slot = Some(peer);
            }
        }
    }
}

impl Peer {
    /// `false` where the connection is over.
    fn turn(&mut self, scratch: &mut [u8]) -> bool {
        if self.blocked && !self.flush() {
            return false;
        }
        while !self.blocked {
            let n = match self.socket.read(scratch) {
                Ok(0) => return false,
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return false,
            };
            if !self.take(scratch.get(..n).unwrap_or_default()) {
                return false;
            }
            if n < scratch.len() {
                break;
            }
        }
        true
    }

    fn flush(&mut self) -> bool {
        match self.out.write_to(&mut self.socket) {
            Ok(done) => {
                self.blocked = !done;
                !(done && self.last)
            }
            Err(_) => false,
        }
    }

    fn take(&mut self, bytes: &[u8]) -> bool {
        if self.held.is_empty() {
            return self.take_all(bytes);
        }
        let mut joined = std::mem::take(&mut self.held);
        joined.extend_from_slice(bytes);
        self.take_all(&joined)
    }

    fn take_all(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match self.state {
                State::Fresh => {
                    self.state = State::Head;
                    if bytes.first() == Some(&0x16) {
                        let length = match bytes.get(3..5) {
                            Some(&[high, low]) => 5 + usize::from(u16::from_be_bytes([high, low])),
                            _ => usize::MAX,
                        };
                        let Some(rest) = bytes.get(length..) else {
                            self.state = State::Fresh;
                            self.held = bytes.to_vec();
                            return bytes.len() < MAX_HEAD;
                        };
                        bytes = rest;
                    }
                }
                State::Head => {
                    let Some(end) = end_of_head(bytes) else {
                        self.held = bytes.to_vec();
                        return bytes.len() < MAX_HEAD;
                    };
                    let (head, rest) = bytes.split_at(end);
                    bytes = rest;
                    if !self.answer(head) {
                        return false;
                    }
                }
                State::Upload { at, left, good } => {
                    let take = left.min(bytes.len() as u64);
                    let (body, rest) = bytes.split_at(take as usize);
                    bytes = rest;
                    let good = good && pattern::matches(at, body);
                    self.state = State::Upload { at: at + take, left: left - take, good };
                    if left == take {
                        self.state = State::Head;
                        let status = if good { "200 OK" } else { "400 Bad Request" };
                        if !self.reply(status, UPLOADED) {
                            return false;
                        }
                    }
                }
                State::Frames => match self.echo(bytes) {
                    Some(0) => {
                        self.held = bytes.to_vec();
                        return bytes.len() < MAX_HEAD;
                    }
                    Some(n) => bytes = bytes.get(n..).unwrap_or_default(),
                    None => return false,
                },
            }
        }
        true
    }

    fn answer(&mut self, head: &[u8]) -> bool {
        let mut lines = head.split(|byte| *byte == b'\n');
        let line = lines.next().unwrap_or_default();
        let mut words = line.split(|byte| *byte == b' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (mut length, mut key) = (0, None);
        for line in lines {
            match line.first().map(u8::to_ascii_lowercase) {
                Some(b'c') => {
                    if let Some(value) = value_of(line, b"content-length") {
                        length = number(value).unwrap_or(u64::MAX);
                    } else if value_of(line, b"connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close")) {
                        self.last = true;
                    }
                }
                Some(b's') => key = value_of(line, b"sec-websocket-key").or(key),
                _ => {}
            }
        }
        match (method, path, key) {
            (b"POST", b"/up", _) if length > 0 && length < u64::MAX => {
                self.state = State::Upload { at: 0, left: length, good: true };
                true
            }
            (b"GET", b"/ws", Some(key)) => {
                let accept = accept_key(&String::from_utf8_lossy(key));
                self.state = State::Frames;
                self.out.head.clear();
                let written = write!(
                    self.out.head,
                    "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
                     sec-websocket-accept: {accept}\r\n\r\n"
                );
                self.out.start(0);
                written.is_ok() && self.flush()
            }
            (b"GET", path, _) => match path.strip_prefix(b"/b/").and_then(number) {
                Some(length) => self.reply("200 OK", length),
                None => self.reply("404 Not Found", 0),
            },
            _ => self.reply("400 Bad Request", 0),
        }
    }

    fn reply(&mut self, status: &str, length: u64) -> bool {
        self.out.head.clear();
        let written = write!(
            self.out.head,
            "HTTP/1.1 {status}\r\ncontent-type: application/octet-stream\r\ncontent-length: {length}\r\n\r\n"
        );
        self.out.start(length);
        written.is_ok() && self.flush()
    }

    /// Echoes one short frame (RFC 6455 §5.2); how many bytes it had, 0 where it is incomplete, `None` at the end.
    fn echo(&mut self, bytes: &[u8]) -> Option<usize> {
        let (&[first, second], rest) = bytes.split_first_chunk::<2>().map_or((&[0, 0], None), |(a, b)| (a, Some(b)));
        let Some(rest) = rest else { return Some(0) };
        let length = usize::from(second & 0x7f);
        // Only what the client sends: a whole masked message of up to 125 bytes.
        if second & 0x80 == 0 || length > 125 || !matches!(first, 0x81 | 0x82) {
            return None;
        }
        let Some((mask, rest)) = rest.split_first_chunk::<4>() else { return Some(0) };
        let Some(payload) = rest.get(..length) else { return Some(0) };
        self.out.head.clear();
        self.out.head.extend_from_slice(&[first, length as u8]);
        self.out.head.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.out.start(0);
        self.flush().then_some(6 + length)
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
