//! The control packet on the wire (RFC 5880 §4.1), both ways, and the checks that need no session (§6.8.6).

use std::fmt;
use std::time::Duration;

const LENGTH: usize = 24;
const VERSION: u8 = 1;
const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const AUTHENTICATION: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    AdminDown,
    Down,
    Init,
    Up,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::AdminDown => "admin down",
            Self::Down => "down",
            Self::Init => "init",
            Self::Up => "up",
        }
    }
}

/// Why a session is not up, as it is told to the other side. Codes from others than those of RFC 5880 are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Diagnostic(u8);

impl Diagnostic {
    pub const NONE: Self = Self(0);
    pub const TIME_EXPIRED: Self = Self(1);
    pub const NEIGHBOR_DOWN: Self = Self(3);
    pub const ADMIN_DOWN: Self = Self(7);
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "no diagnostic",
            1 => "control detection time expired",
            2 => "echo function failed",
            3 => "neighbor signaled session down",
            4 => "forwarding plane reset",
            5 => "path down",
            6 => "concatenated path down",
            7 => "administratively down",
            8 => "reverse concatenated path down",
            code => return write!(f, "diagnostic {code}"),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    pub state: State,
    pub diagnostic: Diagnostic,
    pub is_poll: bool,
    pub is_final: bool,
    pub is_demand: bool,
    /// Never 0.
    pub multiplier: u8,
    /// Never 0.
    pub my_discriminator: u32,
    pub your_discriminator: u32,
    pub desired_transmit: Duration,
    pub required_receive: Duration,
}

/// Why a packet was not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Discard {
    Short,
    Version,
    Multiplier,
    Multipoint,
    Discriminator,
    Authenticated,
    /// It crossed more routers than is allowed.
    Hops,
    NoSession,
}

impl fmt::Display for Discard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short => "too short",
            Self::Version => "not version 1",
            Self::Multiplier => "detection multiplier is zero",
            Self::Multipoint => "multipoint bit is set",
            Self::Discriminator => "discriminator is zero",
            Self::Authenticated => "authenticated, which is not agreed",
            Self::Hops => "TTL or hop limit is too small",
            Self::NoSession => "of no session",
        })
    }
}

pub fn encode(packet: &Packet) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    let state = match packet.state {
        State::AdminDown => 0,
        State::Down => 1,
        State::Init => 2,
        State::Up => 3,
    };
    bytes[0] = VERSION << 5 | packet.diagnostic.0 & 0x1f;
    bytes[1] = state << 6
        | if packet.is_poll { POLL } else { 0 }
        | if packet.is_final { FINAL } else { 0 }
        | if packet.is_demand { DEMAND } else { 0 };
    bytes[2] = packet.multiplier;
    bytes[3] = LENGTH as u8;
    bytes[4..8].copy_from_slice(&packet.my_discriminator.to_be_bytes());
    bytes[8..12].copy_from_slice(&packet.your_discriminator.to_be_bytes());
    bytes[12..16].copy_from_slice(&microseconds(packet.desired_transmit).to_be_bytes());
    bytes[16..20].copy_from_slice(&microseconds(packet.required_receive).to_be_bytes());
    // The last four stay zero: no echo (§6.8.9).
    bytes
}

pub fn decode(bytes: &[u8]) -> Result<Packet, Discard> {
    let header: &[u8; LENGTH] = bytes.first_chunk().ok_or(Discard::Short)?;
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if header[0] >> 5 != VERSION {
        return Err(Discard::Version);
    }
    let length = usize::from(header[3]);
    if length < LENGTH || length > bytes.len() {
        return Err(Discard::Short);
    }
    if header[2] == 0 {
        return Err(Discard::Multiplier);
    }
    if header[1] & MULTIPOINT != 0 {
        return Err(Discard::Multipoint);
    }
    if header[1] & AUTHENTICATION != 0 {
        return Err(Discard::Authenticated);
    }
    let state = match header[1] >> 6 {
        0 => State::AdminDown,
        1 => State::Down,
        2 => State::Init,
        _ => State::Up,
    };
    let (mine, yours) = (word(4), word(8));
    // Only who does not know us yet may leave ours out.
    if mine == 0 || (yours == 0 && !matches!(state, State::Down | State::AdminDown)) {
        return Err(Discard::Discriminator);
    }
    Ok(Packet {
        state,
        diagnostic: Diagnostic(header[0] & 0x1f),
        is_poll: header[1] & POLL != 0,
        is_final: header[1] & FINAL != 0,
        is_demand: header[1] & DEMAND != 0,
        multiplier: header[2],
        my_discriminator: mine,
        your_discriminator: yours,
        desired_transmit: Duration::from_micros(u64::from(word(12))),
        required_receive: Duration::from_micros(u64::from(word(16))),
    })
}

fn microseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}
