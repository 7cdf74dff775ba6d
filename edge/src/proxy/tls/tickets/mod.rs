//! Session tickets that outlive a process and are good at every edge of a fleet (RFC 5077 §4, RFC 8446 §4.6.1).
//!
//! In: sets of keys, whenever they change. Out: a ticketer per listener. What a ticket holds is sealed with AES-256-GCM
//! under a key that all listeners share, bound to the listener and its rule for client certificates: a ticket of one
//! never opens at another (CVE-2025-23419). A handshake costs one atomic load beside the sealing itself. Who makes keys,
//! and when, is decided elsewhere ([`crate::fleet`]).

mod keys;

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use rustls::server::ProducesTickets;

pub use keys::{Duty, KeyName, LEAD, PERIOD, TicketKey, TicketKeys};

/// Told to clients, in seconds: a ticket of the last second of its key can be opened for that long.
const LIFETIME: u32 = 12 * 3600;
const NAME: usize = 16;
const TAG: usize = 16;
const CONTEXT: usize = 32;

/// The keys in force. Clones share them.
#[derive(Clone)]
pub struct Tickets(Arc<ArcSwap<Installed>>);

struct Installed {
    /// Seals; opens first.
    first: Ready,
    others: Vec<Ready>,
}

/// A key with its schedule.
struct Ready {
    name: KeyName,
    key: LessSafeKey,
}

impl Ready {
    fn new(key: &TicketKey) -> Self {
        let unbound = UnboundKey::new(&AES_256_GCM, &*key.secret).expect("a key of AES-256 has 32 bytes");
        Self { name: key.name, key: LessSafeKey::new(unbound) }
    }
}

impl Tickets {
    /// With a key of its own, good until somebody installs others.
    pub fn random() -> Self {
        let first = Ready::new(&TicketKey::random(0));
        Self(Arc::new(ArcSwap::from_pointee(Installed { first, others: Vec::new() })))
    }

    /// Replaces the keys. An empty set changes nothing.
    pub fn install(&self, keys: &TicketKeys, now: i64) {
        let Some(sealing) = keys.sealing(now) else { return };
        let others = keys.all().iter().filter(|key| key.name != sealing.name);
        let installed = Installed { first: Ready::new(sealing), others: others.map(Ready::new).collect() };
        self.0.store(Arc::new(installed));
    }

    /// A ticketer whose tickets are good where the same context is given, at every edge with the same keys.
    pub fn ticketer(&self, context: TicketContext) -> Arc<dyn ProducesTickets> {
        Arc::new(Ticketer { tickets: self.clone(), context })
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets([redacted])")
    }
}

/// What tickets are bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TicketContext([u8; CONTEXT]);

impl TicketContext {
    /// Of parts that are told apart: each counts with its length.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut bytes = [0; CONTEXT];
        bytes.copy_from_slice(context.finish().as_ref());
        Self(bytes)
    }
}

struct Ticketer {
    tickets: Tickets,
    context: TicketContext,
}

impl Ticketer {
    /// What is authenticated beside the content.
    fn bound(&self, name: &KeyName) -> Aad<[u8; NAME + CONTEXT]> {
        let mut bytes = [0; NAME + CONTEXT];
        let (first, second) = bytes.split_at_mut(NAME);
        first.copy_from_slice(name);
        second.copy_from_slice(&self.context.0);
        Aad::from(bytes)
    }
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticketer([redacted])")
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    /// Name, nonce, content, tag.
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let installed = self.tickets.0.load();
        let Ready { name, key } = &installed.first;
        // Random nonces collide with a chance of 2^-33 among 2^32 tickets (NIST SP 800-38D §8.3): 190,000 a second for
        // the whole period of a key.
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(NAME + NONCE_LEN + plain.len() + TAG);
        ticket.extend_from_slice(name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(plain);
        let content = ticket.get_mut(NAME + NONCE_LEN..)?;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key.seal_in_place_separate_tag(nonce, self.bound(name), content).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        if sealed.len() < TAG {
            return None;
        }
        let installed = self.tickets.0.load();
        // Names are public: how long a comparison takes tells nothing.
        let mut keys = std::iter::once(&installed.first).chain(&installed.others);
        let Ready { key, .. } = keys.find(|ready| ready.name == *name)?;
        let mut content = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = key.open_in_place(nonce, self.bound(name), &mut content).ok()?.len();
        content.truncate(length);
        Some(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn context(name: &str) -> TicketContext {
        TicketContext::of([name.as_bytes(), b"none"])
    }

    #[test]
    fn a_ticket_opens_where_keys_and_context_are_the_same() {
        let keys = TicketKeys::default().with(TicketKey::random(NOW), NOW);
        let (here, there, stranger) = (Tickets::random(), Tickets::random(), Tickets::random());
        here.install(&keys, NOW);
        there.install(&keys, NOW);
        let ticket = here.ticketer(context("a")).encrypt(b"session").unwrap();
        assert_eq!(there.ticketer(context("a")).decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(there.ticketer(context("b")).decrypt(&ticket), None, "another listener");
        assert_eq!(stranger.ticketer(context("a")).decrypt(&ticket), None, "another fleet");
        // Two keys later it still opens; the new key seals.
        let newer = keys.with(TicketKey::random(NOW + 1), NOW + 1).with(TicketKey::random(NOW + 2), NOW + 2);
        there.install(&newer, NOW + 2);
        assert!(there.ticketer(context("a")).decrypt(&ticket).is_some());
        let fresh = there.ticketer(context("a")).encrypt(b"session").unwrap();
        assert_eq!(fresh[..16], newer.sealing(NOW + 2).unwrap().name);
        assert_eq!(here.ticketer(context("a")).decrypt(&fresh), None, "a key that it does not have yet");
        there.install(&TicketKeys::default(), NOW);
        assert!(there.ticketer(context("a")).decrypt(&fresh).is_some(), "nothing is no reason to forget");
    }

    #[test]
    fn nothing_that_was_touched_opens() {
        let tickets = Tickets::random();
        let ticketer = tickets.ticketer(context("a"));
        let ticket = ticketer.encrypt(b"what was agreed").unwrap();
        assert_eq!(ticketer.decrypt(&ticket).as_deref(), Some(&b"what was agreed"[..]));
        for length in 0..ticket.len() {
            assert_eq!(ticketer.decrypt(&ticket[..length]), None, "cut to {length}");
        }
        for bit in 0..ticket.len() * 8 {
            let mut touched = ticket.clone();
            touched[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(ticketer.decrypt(&touched), None, "bit {bit}");
        }
        assert_ne!(ticketer.encrypt(b"x").unwrap(), ticketer.encrypt(b"x").unwrap());
    }

    #[test]
    fn parts_of_a_context_are_told_apart() {
        assert_ne!(TicketContext::of([&b"ab"[..], b"c"]), TicketContext::of([&b"a"[..], b"bc"]));
        assert_eq!(TicketContext::of([&b"ab"[..]]), TicketContext::of([&b"ab"[..]]));
    }
}
