//! One session: states, timers, poll sequences (RFC 5880 §6.2, §6.5, §6.8).
//!
//! In: [`Session::set`], [`Session::received`], [`Session::tick`]. Out: packets in their order, [`Session::deadline`].
//! Whoever drives it reads waiting packets before it ticks, or a thread that slept would call a living peer dead.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::packet::{Diagnostic, Packet, State, decode, encode};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The least time between two packets of ours.
    pub transmit: Duration,
    /// The least time between two packets of the peer that we can bear.
    pub receive: Duration,
    /// How many of our packets the peer must miss; never 0.
    pub multiplier: u8,
    /// Waits for the peer's first packet.
    pub is_passive: bool,
    /// Held down by the administrator (§6.8.16).
    pub is_disabled: bool,
}

/// What led to the state of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Nothing was heard yet.
    New,
    /// Both sides hear each other.
    Heard,
    /// Nothing was heard for the detection time.
    Silent {
        detection: Duration,
    },
    /// The peer says that it is down, and why.
    PeerDown {
        diagnostic: Diagnostic,
    },
    PeerAdminDown,
    Disabled,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("nothing was heard of the peer yet"),
            Self::Heard => f.write_str("both sides hear each other"),
            Self::Silent { detection } => write!(f, "the peer was silent for {} ms", detection.as_millis()),
            Self::PeerDown { diagnostic } => write!(f, "the peer went down: {diagnostic}"),
            Self::PeerAdminDown => f.write_str("the peer is administratively down"),
            Self::Disabled => f.write_str("administratively down"),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub sent: u64,
    pub received: u64,
    /// Times that the session left the state Up.
    pub lost: u64,
}

#[derive(Debug)]
pub struct Session {
    settings: Settings,
    discriminator: u32,
    state: State,
    diagnostic: Diagnostic,
    reason: Reason,
    since: Duration,
    /// The last packet of the peer within a detection time.
    remote: Option<Packet>,
    /// When it came.
    heard: Duration,
    /// §6.8.1 bfd.DesiredMinTxInterval, and what is really used until a poll sequence ends (§6.8.3).
    desired: Duration,
    desired_in_use: Duration,
    required_in_use: Duration,
    is_polling: bool,
    next_send: Option<Duration>,
    /// A final that is owed, and a change that is told before its turn (§6.8.7).
    owes_final: bool,
    tells_change: bool,
    counters: Counters,
}

/// A session that is up, between two processes of one machine. The peer is to notice nothing: it hears the same
/// discriminator, the same state and the same intervals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handed {
    pub discriminator: u32,
    /// The peer's last packet.
    pub remote: Vec<u8>,
    pub transmit: Duration,
    pub receive: Duration,
    pub multiplier: u8,
    pub desired_in_use: Duration,
    pub required_in_use: Duration,
}

/// §6.8.3: while a session is not up, it is no burden.
const SLOW: Duration = Duration::from_secs(1);

impl Session {
    /// `discriminator` is unique on this machine and not 0.
    pub fn new(now: Duration, discriminator: u32, settings: Settings) -> Self {
        let mut session = Self {
            settings,
            discriminator,
            state: State::Down,
            diagnostic: Diagnostic::NONE,
            reason: Reason::New,
            since: now,
            remote: None,
            heard: now,
            desired: SLOW.max(settings.transmit),
            desired_in_use: SLOW.max(settings.transmit),
            required_in_use: settings.receive,
            is_polling: false,
            next_send: Some(now),
            owes_final: false,
            tells_change: false,
            counters: Counters::default(),
        };
        if settings.is_disabled {
            session.enter(now, State::AdminDown, Diagnostic::ADMIN_DOWN, Reason::Disabled);
        }
        session
    }

    /// What another process has handed over, with the whole of its detection time before it. `None`: there is no sense
    /// in what it says of the peer.
    pub fn resume(now: Duration, handed: &Handed, settings: Settings) -> Option<Self> {
        let remote = decode(&handed.remote).ok()?;
        let before = Settings {
            transmit: handed.transmit,
            receive: handed.receive,
            multiplier: handed.multiplier.max(1),
            is_passive: settings.is_passive,
            is_disabled: false,
        };
        let mut session = Self::new(now, handed.discriminator, before);
        (session.state, session.reason) = (State::Up, Reason::Heard);
        session.remote = Some(remote);
        session.desired = handed.transmit;
        (session.desired_in_use, session.required_in_use) = (handed.desired_in_use, handed.required_in_use);
        // A poll sequence may have been under way; one more of them harms nothing.
        session.is_polling = handed.desired_in_use != handed.transmit || handed.required_in_use != handed.receive;
        session.set(now, settings);
        Some(session)
    }

    /// For another process; `None`: it is not up, and begins anew there.
    pub fn hand(&self) -> Option<Handed> {
        let remote = self.remote.as_ref().filter(|_| self.state == State::Up)?;
        Some(Handed {
            discriminator: self.discriminator,
            remote: encode(remote).to_vec(),
            transmit: self.settings.transmit,
            receive: self.settings.receive,
            multiplier: self.settings.multiplier,
            desired_in_use: self.desired_in_use,
            required_in_use: self.required_in_use,
        })
    }

    /// Takes over new settings; a session that is up stays up (§6.8.3).
    pub fn set(&mut self, now: Duration, settings: Settings) {
        if settings == self.settings {
            return;
        }
        let before = std::mem::replace(&mut self.settings, settings);
        match (before.is_disabled, settings.is_disabled) {
            (false, true) => self.enter(now, State::AdminDown, Diagnostic::ADMIN_DOWN, Reason::Disabled),
            (true, false) => self.enter(now, State::Down, Diagnostic::NONE, Reason::New),
            _ => {}
        }
        if before.receive != settings.receive {
            // §6.8.3: a smaller one shortens the detection time only when the peer knows it.
            if settings.receive >= self.required_in_use || self.state != State::Up {
                self.required_in_use = settings.receive;
            }
            self.is_polling |= self.state == State::Up;
        }
        self.aim();
        self.tells_change = true;
        if self.next_send.is_none() {
            self.next_send = Some(now);
        }
    }

    /// A packet of this session (§6.8.6, from "set bfd.RemoteDiscr" on).
    pub fn received(&mut self, now: Duration, packet: &Packet) {
        self.counters.received += 1;
        if self.settings.is_disabled {
            return;
        }
        self.remote = Some(*packet);
        self.heard = now;
        if packet.is_final && self.is_polling {
            self.is_polling = false;
            self.desired_in_use = self.desired;
            self.required_in_use = self.settings.receive;
        }
        match (self.state, packet.state) {
            (State::AdminDown, _) => {}
            (State::Down, State::AdminDown) => self.reason = Reason::PeerAdminDown,
            (_, State::AdminDown) => {
                self.enter(now, State::Down, Diagnostic::NEIGHBOR_DOWN, Reason::PeerAdminDown);
            }
            (State::Down, State::Down) => self.enter(now, State::Init, self.diagnostic, self.reason),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.enter(now, State::Up, Diagnostic::NONE, Reason::Heard);
            }
            (State::Up, State::Down) => {
                let reason = Reason::PeerDown { diagnostic: packet.diagnostic };
                self.enter(now, State::Down, Diagnostic::NEIGHBOR_DOWN, reason);
            }
            (State::Down, State::Up) | (State::Init, State::Down) | (State::Up, State::Init | State::Up) => {}
        }
        self.owes_final |= packet.is_poll;
        // A peer that asks for a faster pace gets it from the next packet on.
        if let Some(pace) = self.pace() {
            let latest = now + pace;
            self.next_send = Some(self.next_send.map_or(latest, |next| next.min(latest)));
        }
    }

    /// Ends what is over and returns what is to be sent. `random` is any number, for jitter.
    pub fn tick(&mut self, now: Duration, random: u32) -> Vec<Packet> {
        if let Some(detection) = self.detection().filter(|detection| now >= self.heard + *detection) {
            // §6.8.1: a peer that was silent is not known any more.
            self.remote = None;
            self.owes_final = false;
            if matches!(self.state, State::Init | State::Up) {
                self.enter(now, State::Down, Diagnostic::TIME_EXPIRED, Reason::Silent { detection });
            }
        }
        let mut out = Vec::new();
        if std::mem::take(&mut self.owes_final) {
            // Not one of the periodic ones (§6.8.7): with the final bit, without the poll bit (§6.5).
            out.push(Packet { is_poll: false, is_final: true, ..self.packet() });
            self.counters.sent += 1;
        }
        let is_due = self.next_send.is_some_and(|next| now >= next);
        if !(is_due || self.tells_change) {
            return out;
        }
        let tells_change = std::mem::take(&mut self.tells_change);
        match self.pace() {
            Some(pace) => {
                out.push(self.packet());
                self.counters.sent += 1;
                self.next_send = Some(now + self.jittered(pace, random));
            }
            None => {
                // A change is told even to a peer that wants nothing periodic, if it is known at all.
                if tells_change && self.remote.is_some() {
                    out.push(self.packet());
                    self.counters.sent += 1;
                }
                self.next_send = None;
            }
        }
        out
    }

    /// When [`Session::tick`] has something to do.
    pub fn deadline(&self) -> Option<Duration> {
        if self.owes_final || self.tells_change {
            return Some(Duration::ZERO);
        }
        let silence = self.detection().map(|detection| self.heard + detection);
        silence.into_iter().chain(self.next_send).min()
    }

    pub fn discriminator(&self) -> u32 {
        self.discriminator
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn is_up(&self) -> bool {
        self.state == State::Up
    }

    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// When the state was entered.
    pub fn since(&self) -> Duration {
        self.since
    }

    /// What the peer said last, if it still speaks.
    pub fn remote(&self) -> Option<&Packet> {
        self.remote.as_ref()
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How long the peer may be silent (§6.8.4); `None`: it does not speak.
    pub fn detection(&self) -> Option<Duration> {
        let remote = self.remote.as_ref()?;
        Some(self.required_in_use.max(remote.desired_transmit) * u32::from(remote.multiplier))
    }

    /// The time between our packets before jitter; `None`: none are to be sent (§6.8.7).
    pub fn pace(&self) -> Option<Duration> {
        let Some(remote) = &self.remote else {
            // A passive side waits to be spoken to; and who is held down says so only to who listens.
            return (!self.settings.is_passive && !self.settings.is_disabled).then_some(self.desired_in_use);
        };
        let is_relieved = remote.is_demand && remote.state == State::Up && self.state == State::Up && !self.is_polling;
        if remote.required_receive.is_zero() || is_relieved {
            return None;
        }
        Some(self.desired_in_use.max(remote.required_receive))
    }

    fn enter(&mut self, now: Duration, state: State, diagnostic: Diagnostic, reason: Reason) {
        if self.state == State::Up && state != State::Up {
            self.counters.lost += 1;
        }
        if self.state != state {
            self.since = now;
        }
        (self.state, self.diagnostic, self.reason) = (state, diagnostic, reason);
        self.aim();
        self.tells_change = true;
    }

    /// What we wish of our own pace follows from the state; a change of it while up is agreed by a poll (§6.8.3).
    fn aim(&mut self) {
        let is_up = self.state == State::Up;
        let desired = if is_up { self.settings.transmit } else { SLOW.max(self.settings.transmit) };
        if !is_up {
            self.is_polling = false;
            self.required_in_use = self.settings.receive;
            (self.desired, self.desired_in_use) = (desired, desired);
        } else if desired != self.desired {
            self.is_polling = true;
            // Slower only when the peer knows it.
            if desired < self.desired_in_use {
                self.desired_in_use = desired;
            }
            self.desired = desired;
        }
    }

    fn packet(&self) -> Packet {
        Packet {
            state: self.state,
            diagnostic: self.diagnostic,
            is_poll: self.is_polling,
            is_final: false,
            is_demand: false,
            multiplier: self.settings.multiplier.max(1),
            my_discriminator: self.discriminator,
            your_discriminator: self.remote.map_or(0, |remote| remote.my_discriminator),
            desired_transmit: self.desired,
            required_receive: self.settings.receive,
        }
    }

    /// §6.8.7: shorter by up to a quarter; with a multiplier of 1 by at least a tenth.
    fn jittered(&self, pace: Duration, random: u32) -> Duration {
        let (least, span) = if self.settings.multiplier <= 1 { (750, 150) } else { (750, 250) };
        pace * (least + random % (span + 1)) / 1000
    }
}
