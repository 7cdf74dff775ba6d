//! What makes one request like another, so that they go to the same endpoint: the hash of something that the client
//! brings, or of a cookie that it is given for the next time.

use std::net::IpAddr;

use edge_config::policy::{HashCookie, HashKey};
use edge_config::snapshot::{Backend, Balance, Rule};

use crate::proxy::message::{RequestHead, ResponseHead};
use crate::proxy::upstream::hashing;
use crate::proxy::worker::Worker;

/// What a request is balanced by, where that is something of its own.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alike {
    hash: Option<u64>,
    /// The client gets a cookie with this, to be alike the next time.
    seat: Option<u64>,
}

impl Alike {
    pub fn of(worker: &Worker, rule: &Rule, backend: &Backend, request: &RequestHead, client: IpAddr) -> Self {
        let Balance::Hash(by) = backend.balance.as_ref().unwrap_or(&rule.balance) else { return Self::default() };
        let hash = hashing::of_request(&by.key, request, client);
        let is_seated = matches!(&by.key, HashKey::Cookie(cookie) if cookie.ttl.is_some());
        if hash.is_some() || !is_seated {
            return Self { hash, seat: None };
        }
        let seat = worker.random.next();
        let mut found = hashing::Hash::default();
        found.add(&hex(seat));
        Self { hash: Some(found.finish()), seat: Some(seat) }
    }

    pub fn hash(&self) -> Option<u64> {
        self.hash
    }

    /// Gives the client its cookie, where it is to have one.
    pub fn seat(&self, balance: &Balance, response: &mut ResponseHead) {
        if let (Some(seat), Balance::Hash(by)) = (self.seat, balance)
            && let HashKey::Cookie(cookie) = &by.key
        {
            response.fields.add(b"set-cookie", &seated(cookie, seat));
        }
    }
}

fn hex(number: u64) -> [u8; 16] {
    let mut text = [0; 16];
    for (place, digit) in text.iter_mut().enumerate() {
        let nibble = (number >> (60 - 4 * place)) & 0xf;
        *digit = b"0123456789abcdef"[nibble as usize];
    }
    text
}

/// The cookie of a client that had none.
fn seated(cookie: &HashCookie, seat: u64) -> Vec<u8> {
    let mut value = Vec::with_capacity(96);
    value.extend_from_slice(cookie.name.as_bytes());
    value.push(b'=');
    value.extend_from_slice(&hex(seat));
    let has = |name: &str| cookie.attributes.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
    if let Some(ttl) = cookie.ttl.filter(|ttl| !ttl.is_zero() && !has("max-age")) {
        value.extend_from_slice(format!("; Max-Age={}", ttl.as_secs().max(1)).as_bytes());
    }
    if !has("path") {
        value.extend_from_slice(b"; Path=/");
    }
    for (name, text) in &cookie.attributes {
        value.extend_from_slice(format!("; {name}").as_bytes());
        if !text.is_empty() {
            value.extend_from_slice(format!("={text}").as_bytes());
        }
    }
    if !has("httponly") {
        value.extend_from_slice(b"; HttpOnly");
    }
    value
}
