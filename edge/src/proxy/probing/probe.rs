//! One check of one endpoint. The caller has the deadline; the error is why, for people.
//!
//! Standards: RFC 9110 (a request like any other), grpc.health.v1 of the gRPC Health Checking Protocol.

use std::rc::Rc;

use bytes::Bytes;
use edge_config::policy::{Balance, Check, CheckKind, HttpCheck};

use super::knock::knock;
use crate::proxy::body::Chunk;
use crate::proxy::buffer::Buffer;
use crate::proxy::clock::Clock;
use crate::proxy::io::{Backend, Io as _};
use crate::proxy::limits::Limits;
use crate::proxy::message::{Length, RequestHead, Scheme};
use crate::proxy::proxy_protocol::Origin;
use crate::proxy::upstream::ask::{Answer, Question, ask};
use crate::proxy::upstream::balance::Random;
use crate::proxy::upstream::dial::connect;
use crate::proxy::upstream::{Dialer, Upstream};

/// The most that is read of an answer.
const MOST_READ: usize = 64 << 10;

pub async fn probe(upstream: &Upstream, check: &Check, clock: &Rc<Clock>, limits: &Limits) -> Result<(), String> {
    let Some(endpoint) = upstream.endpoints().next() else { return Err("no address".to_owned()) };
    // Nobody asks for this: the endpoint is told that it is asked by itself.
    let origin = Origin { source: endpoint.address, destination: endpoint.address };
    let dialer = Dialer { clock, backend: Backend::Epoll, limits, origin: Some(origin), connect_timeout: None };
    match &check.kind {
        CheckKind::Tcp { send, expect } => {
            let says_nothing = send.is_empty() && expect.is_empty() && upstream.tls.is_none();
            if says_nothing && upstream.proxy_protocol.is_none() {
                let limit = upstream.connect_timeout(limits.connect_timeout);
                return knock(endpoint.address, limit).await.map_err(|error| error.to_string());
            }
            let stream = connect(upstream, endpoint, dialer).await.map_err(|error| error.to_string())?;
            if says_nothing {
                // Nothing was said but the PROXY protocol's header, so a reset cuts nothing off, and no port waits for a minute (TIME-WAIT) for each check.
                stream.reset();
                return Ok(());
            }
            if !send.is_empty() {
                let sent = stream.write(Chunk::Pooled(Buffer::copy_of(send))).await.0;
                sent.map_err(|error| error.to_string())?;
            }
            let mut found = Expected::new(expect);
            while !found.is_met() {
                let (read, buffer) = stream.read(Buffer::take()).await;
                match read {
                    Ok(0) => return Err("closed before the expected answer".to_owned()),
                    Ok(_) if !found.add(buffer.as_slice()) => return Err("another answer than expected".to_owned()),
                    Ok(_) => {}
                    Err(error) => return Err(error.to_string()),
                }
            }
            Ok(())
        }
        CheckKind::Http(http) => {
            let answer = exchange(upstream, dialer, &http_head(upstream, http), Bytes::new()).await?;
            let status = answer.head.status;
            if !http.statuses.iter().any(|(first, last)| (*first..=*last).contains(&status)) {
                return Err(format!("answered {status}"));
            }
            match is_expected(&answer.body, &http.expect) {
                true => Ok(()),
                false => Err("the expected text is not in the answer".to_owned()),
            }
        }
        CheckKind::Grpc { service } => {
            let answer = exchange(upstream, dialer, &grpc_head(upstream), grpc_request(service)).await?;
            serving(&answer)
        }
    }
}

/// Whether the answer has the expected bytes in what was read of it.
fn is_expected(body: &[u8], expect: &[u8]) -> bool {
    expect.is_empty() || body.windows(expect.len()).any(|window| window == expect)
}

async fn exchange(upstream: &Upstream, dialer: Dialer<'_>, head: &RequestHead, body: Bytes) -> Result<Answer, String> {
    // One endpoint, so nothing is drawn.
    let question = Question { head, body, most: MOST_READ, balance: &Balance::RoundRobin };
    ask(upstream, &Random::new(1), dialer, &question).await.map_err(|error| error.to_string())
}

/// Looks for bytes in what comes piece by piece.
struct Expected<'e> {
    bytes: &'e [u8],
    /// The end of what came before, in which they may begin.
    held: Vec<u8>,
    read: usize,
    is_met: bool,
}

impl<'e> Expected<'e> {
    fn new(bytes: &'e [u8]) -> Self {
        Self { bytes, held: Vec::new(), read: 0, is_met: bytes.is_empty() }
    }

    fn is_met(&self) -> bool {
        self.is_met
    }

    /// Whether it still makes sense to go on.
    fn add(&mut self, piece: &[u8]) -> bool {
        if self.is_met {
            return true;
        }
        self.read += piece.len();
        self.held.extend_from_slice(piece);
        self.is_met = self.held.windows(self.bytes.len()).any(|window| window == self.bytes);
        let kept = self.held.len().saturating_sub(self.bytes.len().saturating_sub(1));
        self.held.drain(..kept);
        self.is_met || self.read <= MOST_READ
    }
}

fn head(upstream: &Upstream, method: &str, path: &str, host: Option<&str>) -> RequestHead {
    let mut head = RequestHead::default();
    head.fields.add(b"user-agent", b"edge-health");
    head.method = head.fields.store(method.as_bytes());
    let tls = upstream.tls.as_ref().and_then(|tls| tls.as_ref().ok());
    let authority = match (host, tls) {
        (Some(host), _) => host.to_owned(),
        (None, Some(tls)) => tls.name.to_str().into_owned(),
        (None, None) => upstream.endpoints().next().map(|endpoint| endpoint.address.to_string()).unwrap_or_default(),
    };
    head.set_authority(&authority);
    let (path, query) = match path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path, None),
    };
    head.set_path(path);
    head.query = query.map(|query| head.fields.store(query.as_bytes()));
    head.scheme = if tls.is_some() { Scheme::Https } else { Scheme::Http };
    head
}

fn http_head(upstream: &Upstream, check: &HttpCheck) -> RequestHead {
    head(upstream, &check.method, &check.path, check.host.as_deref())
}

fn grpc_head(upstream: &Upstream) -> RequestHead {
    let mut head = head(upstream, "POST", "/grpc.health.v1.Health/Check", None);
    head.fields.add(b"content-type", b"application/grpc");
    head.te_trailers = true;
    head.length = Length::Unknown;
    head
}

/// HealthCheckRequest { service = 1 } in a frame of gRPC.
fn grpc_request(service: &str) -> Bytes {
    let mut message = Vec::with_capacity(service.len() + 2);
    if !service.is_empty() {
        // At most 255 bytes, of which the length takes one or two.
        message.push(0x0a);
        let length = service.len();
        if length < 128 {
            message.push(length as u8);
        } else {
            message.extend_from_slice(&[(length & 0x7f) as u8 | 0x80, (length >> 7) as u8]);
        }
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(&message);
    frame.into()
}

/// HealthCheckResponse { status = 1 }: SERVING is 1.
fn serving(answer: &Answer) -> Result<(), String> {
    if answer.head.status != 200 {
        return Err(format!("answered {}", answer.head.status));
    }
    match answer.grpc_status() {
        Some(0) => {}
        Some(5) => return Err("the service is not known there (NOT_FOUND)".to_owned()),
        Some(12) => return Err("health checks are not offered there (UNIMPLEMENTED)".to_owned()),
        Some(code) => return Err(format!("grpc-status {code}")),
        None => return Err("no grpc-status".to_owned()),
    }
    match answer.body.get(5..) {
        Some([0x08, 1, ..]) => Ok(()),
        Some([0x08, 2, ..]) => Err("NOT_SERVING".to_owned()),
        Some([0x08, 3, ..]) => Err("SERVICE_UNKNOWN".to_owned()),
        _ => Err("status UNKNOWN".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::message::Fields;
    use crate::proxy::message::ResponseHead;

    #[test]
    fn expected_bytes_are_found_across_pieces() {
        for (expect, pieces, is_met) in [
            ("", &[][..], true),
            ("PONG", &["PO", "NG"], true),
            ("PONG", &["xxP", "O", "N", "Gyy"], true),
            ("PONG", &["PON", "PONK"], false),
            ("aab", &["aaa", "ab"], true),
        ] {
            let mut expected = Expected::new(expect.as_bytes());
            for piece in pieces {
                expected.add(piece.as_bytes());
            }
            assert_eq!(expected.is_met(), is_met, "{expect} {pieces:?}");
        }
        let mut endless = Expected::new(b"never");
        let piece = vec![b'x'; 4096];
        assert_eq!((0..100).take_while(|_| endless.add(&piece)).count(), 16);
        assert!(endless.held.len() < 5);
    }

    #[test]
    fn frames_of_the_health_protocol() {
        assert_eq!(&grpc_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&grpc_request("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = grpc_request(&"x".repeat(200));
        assert_eq!(&long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 1]);
        let answer = |status, code: Option<&str>, body: &[u8]| {
            let mut answer =
                Answer { head: ResponseHead::default(), body: body.to_vec(), trailers: None, is_whole: true };
            answer.head.status = status;
            answer.trailers = code.map(|code| {
                let mut fields = Fields::default();
                fields.add(b"grpc-status", code.as_bytes());
                fields
            });
            serving(&answer)
        };
        assert_eq!(answer(200, Some("0"), &[0, 0, 0, 0, 2, 8, 1]), Ok(()));
        for (status, code, body) in [
            (200, Some("0"), &[0, 0, 0, 0, 2, 8, 2][..]),
            (200, Some("0"), &[0, 0, 0, 0, 0]),
            (200, Some("0"), b""),
            (200, Some("12"), b""),
            (200, None, &[0, 0, 0, 0, 2, 8, 1]),
            (503, Some("0"), &[0, 0, 0, 0, 2, 8, 1]),
        ] {
            assert!(answer(status, code, body).is_err(), "{status} {code:?}");
        }
    }
}
