//! One client connection: TCP, TLS where asked for, one exchange after the other.
//!
//! Flows in: readiness and "ask now". Flows out: [`Step`]s. Never blocks; the driver owns time and counting.

use std::io::{self, BufRead as _, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind};

use super::origin::UPLOADED;
use super::outgoing::Outgoing;
use super::response::{Response, end_of_head};
use super::{DOMAIN, HOST, Kind, Work};
use crate::websocket::accept_key;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODw==";
/// Bytes of a WebSocket message.
const MESSAGE: usize = 64;

/// What a turn brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing yet; wait for readiness.
    Wait,
    /// Ready for the first exchange.
    Open,
    /// The exchange is over and its response was the expected one.
    Done,
}

enum Stage {
    Connecting,
    Handshake,
    /// Waiting for the 101.
    Upgrading,
    Idle,
    Busy,
}

pub(super) struct Connection {
    pub socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    stage: Stage,
    out: Outgoing,
    response: Response,
    hello: Option<Arc<[u8]>>,
    upgraded: bool,
    number: u64,
    /// When the current exchange was due.
    pub since: Instant,
    /// Whether a resumed handshake is owed.
    resumes: bool,
    /// Body bytes in either direction that the driver has not counted yet.
    pub moved: u64,
    /// Bytes of the current upload among them.
    sent: u64,
    /// Bytes of the current echo that came back.
    echoed: usize,
    /// What there is of the 101.
    upgrade: Vec<u8>,
}

/// What the connections of a driver share.
pub(super) struct Common {
    pub work: Work,
    pub hello: Option<Arc<[u8]>>,
}

impl Connection {
    pub fn open(common: &Common, config: Option<Arc<ClientConfig>>, resumes: bool, since: Instant) -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, Some(ipproto::TCP))?;
        rustix::net::sockopt::set_tcp_nodelay(&socket, true)?;
        match rustix::net::connect(&socket, &common.work.address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let tls = match config {
            None => None,
            Some(config) => {
                let name = ServerName::try_from(HOST).map_err(io::Error::other)?;
                Some(Box::new(ClientConnection::new(config, name).map_err(io::Error::other)?))
            }
        };
        Ok(Self {
            socket: socket.into(),
            tls,
            stage: Stage::Connecting,
            out: Outgoing::default(),
            response: Response::default(),
            hello: common.hello.clone(),
            upgraded: false,
            number: 0,
            since,
            resumes,
            moved: 0,
            sent: 0,
            echoed: 0,
            upgrade: Vec::new(),
        })
    }

    pub fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    /// Begins an exchange that was due at `since`.
    pub fn ask(&mut self, work: &Work, host: u32, since: Instant) -> Result<Step, String> {
        self.since = since;
        self.response.clear();
        (self.sent, self.echoed) = (0, 0);
        self.stage = Stage::Busy;
        let head = &mut self.out.head;
        head.clear();
        if let Some(hello) = self.hello.take() {
            head.extend_from_slice(&hello);
        }
        let ending = if work.once { "connection: close\r\n\r\n" } else { "\r\n" };
        let written = match work.kind {
            Kind::Download(length) => write!(
                head,
                "GET /b/{length} HTTP/1.1\r\nhost: h{host}.{DOMAIN}\r\nuser-agent: bench/1\r\naccept: */*\r\n\
                 accept-encoding: gzip\r\n{ending}"
            ),
            Kind::Upload(length) => write!(
                head,
                "POST /up HTTP/1.1\r\nhost: h{host}.{DOMAIN}\r\nuser-agent: bench/1\r\naccept: */*\r\n\
                 content-length: {length}\r\n{ending}"
            ),
            Kind::Echo if self.upgraded => {
                self.number += 1;
                let mask = [0x37, 0xfa, 0x21, 0x3d];
                let message = message(self.number);
                head.extend_from_slice(&[0x82, 0x80 | MESSAGE as u8]);
                head.extend_from_slice(&mask);
                head.extend(message.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
                Ok(())
            }
            Kind::Echo => {
                self.stage = Stage::Upgrading;
                write!(
                    head,
                    "GET /ws HTTP/1.1\r\nhost: h{host}.{DOMAIN}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                     sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n\r\n"
                )
            }
        };
        written.map_err(|error| error.to_string())?;
        self.out.start(if let Kind::Upload(length) = work.kind { length } else { 0 });
        self.flush().map_err(|error| format!("write: {error}"))?;
        Ok(Step::Wait)
    }

    /// Goes on after readiness.
    pub fn turn(&mut self, work: &Work, scratch: &mut [u8]) -> Result<Step, String> {
        if let Stage::Connecting = self.stage {
            match rustix::net::sockopt::socket_error(&self.socket) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(format!("connect: {error}")),
                Err(error) => return Err(format!("connect: {error}")),
            }
            // Readiness of a socket that still connects.
            if rustix::net::getpeername(&self.socket).is_err() {
                return Ok(Step::Wait);
            }
            if self.tls.is_none() {
                return self.opened(work);
            }
            self.stage = Stage::Handshake;
        }
        self.flush().map_err(|error| format!("write: {error}"))?;
        loop {
            let n = match self.socket.read(scratch) {
                Ok(0) => return Err("closed by the proxy".to_owned()),
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Step::Wait),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(format!("read: {error}")),
            };
            let bytes = scratch.get(..n).unwrap_or_default();
            let step = if self.tls.is_some() { self.decrypt(bytes, work)? } else { self.consume(bytes, work)? };
            if step != Step::Wait || n < scratch.len() {
                return Ok(step);
            }
        }
    }

    fn opened(&mut self, work: &Work) -> Result<Step, String> {
        self.stage = Stage::Idle;
        if work.kind == Kind::Echo {
            return self.ask(work, 0, self.since);
        }
        Ok(Step::Open)
    }

    fn decrypt(&mut self, mut bytes: &[u8], work: &Work) -> Result<Step, String> {
        let Some(mut tls) = self.tls.take() else { return Ok(Step::Wait) };
        let mut outcome = Ok(Step::Wait);
        let mut was_handshaking = tls.is_handshaking();
        while !bytes.is_empty() && outcome == Ok(Step::Wait) {
            if let Err(error) = tls.read_tls(&mut bytes) {
                outcome = Err(format!("TLS: {error}"));
                break;
            }
            if let Err(error) = tls.process_new_packets() {
                outcome = Err(format!("TLS: {error}"));
                break;
            }
            if was_handshaking && !tls.is_handshaking() {
                was_handshaking = false;
                self.stage = Stage::Idle;
                if self.resumes && tls.handshake_kind() != Some(HandshakeKind::Resumed) {
                    outcome = Err("the handshake was not resumed".to_owned());
                    break;
                }
                outcome = Ok(Step::Open);
            }
            loop {
                let mut reader = tls.reader();
                let n = match reader.fill_buf() {
                    Ok([]) => {
                        // After a whole response that asked for the end, it is the end.
                        if outcome != Ok(Step::Done) {
                            outcome = Err("closed by the proxy".to_owned());
                        }
                        break;
                    }
                    Ok(plain) => {
                        let n = plain.len();
                        match self.consume(plain, work) {
                            Ok(Step::Wait) => {}
                            other => outcome = other,
                        }
                        n
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => {
                        outcome = Err(format!("TLS: {error}"));
                        break;
                    }
                };
                reader.consume(n);
                if outcome.is_err() {
                    break;
                }
            }
        }
        // What follows a finished exchange in the same read: session tickets and alerts.
        while !bytes.is_empty() && outcome.is_ok() {
            let fed = tls.read_tls(&mut bytes).map_err(|error| error.to_string());
            let fed = fed.and_then(|_| tls.process_new_packets().map_err(|error| error.to_string()));
            match fed {
                Err(error) => outcome = Err(format!("TLS: {error}")),
                Ok(state) if state.plaintext_bytes_to_read() > 0 => {
                    outcome = Err("more than the response".to_owned());
                }
                Ok(_) => {}
            }
        }
        self.tls = Some(tls);
        self.flush().map_err(|error| format!("write: {error}"))?;
        match outcome {
            Ok(Step::Open) => self.opened(work),
            other => other,
        }
    }

    fn consume(&mut self, bytes: &[u8], work: &Work) -> Result<Step, String> {
        match self.stage {
            Stage::Upgrading => {
                self.switch(bytes)?;
                if !self.upgraded {
                    return Ok(Step::Wait);
                }
                self.stage = Stage::Idle;
                Ok(Step::Open)
            }
            Stage::Busy if work.kind == Kind::Echo => {
                let mut frame = [0; MESSAGE + 2];
                let expected = message(self.number);
                if let Some((head, payload)) = frame.split_at_mut_checked(2) {
                    head.copy_from_slice(&[0x82, MESSAGE as u8]);
                    payload.copy_from_slice(&expected);
                }
                let at = self.echoed;
                if frame.get(at..at + bytes.len()) != Some(bytes) {
                    return Err("another message than the echo".to_owned());
                }
                self.echoed += bytes.len();
                if at + bytes.len() < frame.len() {
                    return Ok(Step::Wait);
                }
                self.moved += MESSAGE as u64;
                self.stage = Stage::Idle;
                Ok(Step::Done)
            }
            Stage::Busy => {
                let expected = if let Kind::Download(length) = work.kind { length } else { UPLOADED };
                let progress = self.response.read(bytes, expected)?;
                if let Kind::Download(_) = work.kind {
                    self.moved += progress.body;
                }
                if !progress.done {
                    return Ok(Step::Wait);
                }
                if !self.out.done() {
                    return Err("answered before the whole request was sent".to_owned());
                }
                self.stage = Stage::Idle;
                Ok(Step::Done)
            }
            _ => Err("bytes that nobody asked for".to_owned()),
        }
    }

    fn switch(&mut self, bytes: &[u8]) -> Result<(), String> {
        let head = &mut self.upgrade;
        head.extend_from_slice(bytes);
        let Some(end) = end_of_head(head) else {
            return if head.len() > 4096 { Err("a head without end".to_owned()) } else { Ok(()) };
        };
        let text = String::from_utf8_lossy(head);
        let accepted = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .any(|(name, value)| name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == accept_key(KEY));
        if end != head.len() || !text.starts_with("HTTP/1.1 101 ") || !accepted {
            return Err("no upgrade to WebSocket".to_owned());
        }
        self.upgraded = true;
        Ok(())
    }

    /// Sends what can be sent now.
    fn flush(&mut self) -> io::Result<()> {
        let asking = matches!(self.stage, Stage::Busy | Stage::Upgrading);
        match &mut self.tls {
            None if asking => {
                self.out.write_to(&mut self.socket)?;
            }
            None => {}
            Some(tls) => loop {
                let all = !asking || self.out.write_to(&mut tls.writer())?;
                let mut full = false;
                while tls.wants_write() && !full {
                    match tls.write_tls(&mut self.socket) {
                        Ok(_) => {}
                        Err(error) if error.kind() == ErrorKind::WouldBlock => full = true,
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                if all || full {
                    break;
                }
            },
        }
        let sent = self.out.body_sent();
        self.moved += sent.saturating_sub(self.sent);
        self.sent = sent;
        Ok(())
    }
}

fn message(number: u64) -> [u8; MESSAGE] {
    let mut message = [0; MESSAGE];
    for (index, chunk) in message.chunks_mut(8).enumerate() {
        chunk.copy_from_slice(&number.wrapping_add(index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    }
    message
}
