//! Why a session is not up, in words; pure.
//!
//! In flow an engine's log lines, what it says of a peer, and the kernel's counters of refused TCP-MD5 segments. Out
//! flows one line. GoBGP's API says next to nothing of causes (series 3 nothing at all), so the log of a child is read:
//! a cause that only the log knows is unknown of somebody else's engine.
//! Standards: RFC 4271 §4.5 and §6 (NOTIFICATION), RFC 4486 (reasons of Cease), RFC 8203 (reasons in words), RFC 2385.

use std::collections::BTreeMap;

use edge_config::announce::{Peer, PeerAddress, PeerAsn};
use serde_json::Value;

use crate::gobgp::read::PeerStatus;
use crate::observed::SessionState;
use crate::wanted::PeerPassword;

/// What a log line says of one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// Our call failed.
    Unreached(String),
    /// The other side took the call and closed it before it said anything.
    Closed,
    /// It answered our OPEN with a NOTIFICATION, of which series 3 does not say what was in it.
    Refused,
    Sent(u64, u64),
    WrongAsn(String),
    Received {
        code: u64,
        subcode: u64,
        words: String,
    },
    HoldTimer,
    /// It took the call, and nothing came of it.
    Unfinished,
    OverLimit,
    NoTtl(String),
    Up,
}

/// A log line about a peer: its address as the engine writes it, and what happened.
pub fn note(line: &str) -> Option<(String, Note)> {
    let line: Value = serde_json::from_str(line).ok()?;
    let text = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| line.get(name).and_then(Value::as_u64).unwrap_or_default();
    let note = match text("msg") {
        "failed to connect" => Note::Unreached(text("Error").to_owned()),
        // Series 3 names no code here, but says in words what was wrong.
        "sent notification" => match text("Data").split_once("received ") {
            Some((before, asn)) if before.starts_with("as number mismatch") => Note::WrongAsn(asn.to_owned()),
            // Not said so of a session that was up.
            _ if text("Data") == "hold timer expired" => Note::Unfinished,
            _ if number("Code") == 4 && text("State").starts_with("BGP_FSM_OPEN") => Note::Unfinished,
            _ => Note::Sent(number("Code"), number("Subcode")),
        },
        "received notification" => Note::Received {
            code: number("Code"),
            subcode: number("Subcode"),
            words: text("Communicated-Reason").to_owned(),
        },
        "hold timer expired" => Note::HoldTimer,
        "outgoing connection IO error" => Note::Closed,
        "state changed" => {
            // Numbers of series 3: reading failed; the message was none that is allowed here, and none was sent back.
            let is_silent = line.pointer("/reason/BGPNotification").is_none_or(Value::is_null);
            match (text("old"), line.pointer("/reason/Type").and_then(Value::as_u64)) {
                ("BGP_FSM_OPENSENT", Some(2)) => Note::Closed,
                ("BGP_FSM_OPENSENT", Some(10)) if is_silent => Note::Refused,
                _ => return None,
            }
        }
        "Administrative shutdown(Prefix limit reached)" => Note::OverLimit,
        "cannot set TTL for peer" | "cannot set minimal TTL for peer" => Note::NoTtl(text("Error").to_owned()),
        "Peer Up" => Note::Up,
        _ => return None,
    };
    Some((text("Key").to_owned(), note))
}

/// The last telling note of each peer.
#[derive(Debug, Clone, Default)]
pub struct Notes(BTreeMap<String, Note>);

impl Notes {
    /// Peers that are remembered; an engine has no more of ours.
    const MOST: usize = 1000;

    pub fn add(&mut self, address: String, note: Note) {
        if note == Note::Up {
            self.0.remove(&address);
            return;
        }
        // A closed connection follows most other causes and hides none of them, and so does a call that came too early.
        let tells_more = |known: &Note| !matches!(known, Note::Closed | Note::Unreached(_));
        if note == Note::Closed && self.0.get(&address).is_some_and(tells_more) {
            return;
        }
        if self.0.len() < Self::MOST || self.0.contains_key(&address) {
            self.0.insert(address, note);
        }
    }

    /// What was known is of a configuration before.
    pub fn forget(&mut self, address: &str) {
        self.0.remove(address);
    }

    pub fn of(&self, address: &str) -> Option<&Note> {
        self.0.get(address)
    }
}

/// The kernel's counters of TCP-MD5 (RFC 2385): segments with a wrong digest, without one, with an unexpected one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Md5 {
    pub failure: u64,
    pub missing: u64,
    pub unexpected: u64,
}

impl Md5 {
    /// Reads `/proc/net/netstat`: lines in pairs, names above values.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
        let names = lines.next()?.split_whitespace();
        let counters: BTreeMap<&str, u64> = names
            .zip(lines.next()?.split_whitespace())
            .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
            .collect();
        let of = |name: &str| counters.get(name).copied().unwrap_or(0);
        Some(Self { failure: of("TCPMD5Failure"), missing: of("TCPMD5NotFound"), unexpected: of("TCPMD5Unexpected") })
    }

    pub fn since(self, before: Self) -> Self {
        Self {
            failure: self.failure.saturating_sub(before.failure),
            missing: self.missing.saturating_sub(before.missing),
            unexpected: self.unexpected.saturating_sub(before.unexpected),
        }
    }
}

/// Everything that is known of a peer that is not up.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    pub peer: &'a Peer,
    pub password: &'a PeerPassword,
    pub own_asn: u32,
    pub status: Option<&'a PeerStatus>,
    pub note: Option<&'a Note>,
    /// Counted while this peer was down, on this machine; other peers may have a share in it.
    pub md5: Md5,
}

/// Why the session is down, in one line; `None`: nothing is known yet.
pub fn diagnose(evidence: &Evidence<'_>) -> Option<String> {
    let Evidence { peer, password, status, note, md5, .. } = evidence;
    if let PeerPassword::Missing(reason) = password {
        return Some(format!("not configured: {reason}"));
    }
    let status = (*status)?;
    if status.is_over_limit || note == &Some(&Note::OverLimit) {
        return Some(format!("closed: the peer sent more than {} prefixes (max_prefixes)", peer.max_prefixes));
    }
    if status.session == SessionState::AdminDown {
        return Some("administratively down in the engine; expected up".to_owned());
    }
    if let Some(words) = wrong_md5(peer, password, *md5) {
        return Some(words);
    }
    match note {
        Some(note) => Some(words(evidence, note)),
        None => reason(evidence, status),
    }
}

fn wrong_md5(peer: &Peer, password: &PeerPassword, md5: Md5) -> Option<String> {
    let address = &peer.address;
    match password {
        PeerPassword::Is(_) if md5.failure > 0 => Some(format!(
            "TCP-MD5: the kernel dropped {} segments with a wrong digest: the password for {address} differs from the peer's",
            md5.failure
        )),
        PeerPassword::Is(_) if md5.missing > 0 => Some(format!(
            "TCP-MD5: the kernel dropped {} segments without a digest: the peer {address} has no password for this session",
            md5.missing
        )),
        PeerPassword::None if md5.unexpected > 0 => Some(format!(
            "TCP-MD5: the kernel dropped {} segments with a digest: the peer {address} wants a password, none is configured here",
            md5.unexpected
        )),
        _ => None,
    }
}

fn words(evidence: &Evidence<'_>, note: &Note) -> String {
    let peer = evidence.peer;
    let at = format!("{} port {}", peer.address, peer.port);
    match note {
        Note::Unreached(error) if error.contains("refused") => {
            format!("{at}: connection refused; expected a BGP speaker there that lets this host call")
        }
        Note::Unreached(error) if error.contains("network is unreachable") => {
            format!("{at}: no route to it from this host")
        }
        Note::Unreached(error) if error.contains("no route to host") => {
            let far =
                if peer.multihop.is_none() { "; a peer that is not on a connected network needs multihop" } else { "" };
            format!("{at}: nobody answers for this address (no route to host){far}")
        }
        Note::Unreached(error) if error.contains("timeout") => {
            let password = match evidence.password {
                PeerPassword::Is(_) => ", or the peer has another password or none",
                PeerPassword::None | PeerPassword::Missing(_) => ", or the peer wants a password",
            };
            let hops = match (peer.multihop, peer.ttl_security) {
                (None, None) if internal(evidence) != Some(true) => ", or it is more than one hop away (multihop)",
                _ => "",
            };
            format!("{at}: no answer to the call: the address is down or filtered{hops}{password}")
        }
        Note::Unreached(error) if error.contains("cannot assign requested address") => {
            let source = peer.source.map_or_else(|| "the source address".to_owned(), |address| address.to_string());
            format!("{at}: {source} is not an address of this host; expected one of its own")
        }
        Note::Unreached(error) => format!("{at}: {}", error.rsplit(": ").next().unwrap_or(error)),
        Note::Closed => {
            let ttl = ttl(peer).map(|ttl| format!(" or {ttl}")).unwrap_or_default();
            format!("{at}: took the call and closed it: the peer does not know this host as a neighbor{ttl}")
        }
        Note::Unfinished => {
            let ttl = ttl(peer).map(|ttl| format!(": as a rule it {ttl}")).unwrap_or_default();
            format!("{at}: took the call and fell silent before the session was up{ttl}")
        }
        Note::Refused => refused(evidence),
        Note::WrongAsn(asn) => wrong_asn(evidence, Some(asn)),
        Note::Sent(2, 2) => {
            wrong_asn(evidence, evidence.status.and_then(|status| status.asn).map(|asn| asn.to_string()).as_deref())
        }
        Note::Sent(4, _) | Note::HoldTimer => hold_timer(peer),
        Note::Sent(code, subcode) => format!("closed by us: {}", notification(*code, *subcode)),
        Note::Received { code: 2, subcode: 2, .. } => {
            let own = peer.local_asn.map_or(evidence.own_asn, |asn| asn.get());
            format!("the peer refuses our AS: it expects another number than {own} (asn or local_asn)")
        }
        Note::Received { code, subcode, words } if words.is_empty() => {
            format!("closed by the peer: {}", notification(*code, *subcode))
        }
        Note::Received { code, subcode, words } => {
            let words: String = words.chars().filter(|c| !c.is_control()).take(128).collect();
            format!("closed by the peer: {}: \"{words}\"", notification(*code, *subcode))
        }
        Note::NoTtl(error) => format!("{at}: the TTL of the session cannot be set: {error}"),
        Note::OverLimit => format!("closed: the peer sent more than {} prefixes (max_prefixes)", peer.max_prefixes),
        Note::Up => String::new(),
    }
}

/// What series 4 says of itself, and what counters tell where there is no log.
fn reason(evidence: &Evidence<'_>, status: &PeerStatus) -> Option<String> {
    let peer = evidence.peer;
    let said = status.message.chars().filter(|c| !c.is_control()).take(200).collect::<String>();
    let said = if said.is_empty() { said } else { format!(": {said}") };
    match status.reason {
        2 => Some(hold_timer(peer)),
        3 => Some(format!("closed by us{said}")),
        4 => Some(format!("closed by the peer{said}")),
        5 | 6 => Some(format!("the connection was lost{said}")),
        13 => Some(wrong_asn(evidence, None)),
        _ if status.notifications_sent > 0 => {
            Some("closed by us with a NOTIFICATION; the engine's log says why".to_owned())
        }
        _ if status.notifications_received > 0 => Some(refused(evidence)),
        _ if peer.is_passive => Some("waits for the peer's call".to_owned()),
        _ => None,
    }
}

fn refused(evidence: &Evidence<'_>) -> String {
    let peer = evidence.peer;
    let own = peer.local_asn.map_or(evidence.own_asn, |asn| asn.get());
    format!(
        "the peer {} refuses our OPEN with a NOTIFICATION (the engine does not say which): as a rule it expects another AS than {own} (asn, local_asn), or has a session with another router of our router id",
        peer.address
    )
}

/// What a peer may have against packets that come from further or nearer than it thinks.
fn ttl(peer: &Peer) -> Option<String> {
    match (peer.ttl_security, peer.multihop) {
        (Some(least), _) => Some(format!("sends a TTL that arrives below {least} (ttl_security)")),
        (None, None) => Some("expects another TTL (multihop, ttl_security)".to_owned()),
        (None, Some(_)) => None,
    }
}

fn hold_timer(peer: &Peer) -> String {
    format!("hold timer expired: nothing was heard of the peer for {} s", peer.hold_time.as_secs())
}

fn wrong_asn(evidence: &Evidence<'_>, seen: Option<&str>) -> String {
    let own = evidence.peer.local_asn.map_or(evidence.own_asn, |asn| asn.get());
    let expected = match evidence.peer.asn {
        PeerAsn::Number(asn) => asn.to_string(),
        PeerAsn::Internal => format!("{own} (internal)"),
        PeerAsn::External => format!("any but {own} (external)"),
    };
    match seen {
        Some(seen) => format!("wrong AS: the peer says {seen}; expected {expected}"),
        None => format!("wrong AS: the peer says another number; expected {expected}"),
    }
}

/// `None`: it is not known.
fn internal(evidence: &Evidence<'_>) -> Option<bool> {
    let own = evidence.peer.local_asn.map_or(evidence.own_asn, |asn| asn.get());
    match (&evidence.peer.address, evidence.peer.asn) {
        (PeerAddress::Interface(_), _) => Some(true),
        (_, PeerAsn::Internal) => Some(true),
        (_, PeerAsn::External) => Some(false),
        (_, PeerAsn::Number(asn)) => Some(asn.get() == own),
    }
}

/// RFC 4271 §4.5, RFC 4486 §3, RFC 9003.
fn notification(code: u64, subcode: u64) -> String {
    let words = match (code, subcode) {
        (1, _) => "message header error",
        (2, 1) => "unsupported BGP version",
        (2, 2) => "bad peer AS",
        (2, 3) => "bad BGP identifier: expected a router id of its own",
        (2, 4) => "unsupported optional parameter",
        (2, 6) => "unacceptable hold time",
        (2, 7) => "unsupported capability: the peer does not have the same families",
        (2, _) => "OPEN message error",
        (3, _) => "UPDATE message error",
        (4, _) => "hold timer expired",
        (5, _) => "finite state machine error",
        (6, 1) => "maximum number of prefixes reached",
        (6, 2) => "administrative shutdown",
        (6, 3) => "peer de-configured",
        (6, 4) => "administrative reset",
        (6, 5) => "connection rejected: the peer does not know this host as a neighbor, or has it passive",
        (6, 6) => "other configuration change",
        (6, 7) => "connection collision resolution",
        (6, 8) => "out of resources",
        (6, 10) => "BFD down",
        (6, _) => "cease",
        _ => "unknown reason",
    };
    format!("{words} (NOTIFICATION {code}/{subcode})")
}

#[cfg(test)]
mod tests;
