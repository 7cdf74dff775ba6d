//! Frames (RFC 9113 §4, §6): their header read, and whole frames written.

/// A frame header's length.
pub const HEADER: usize = 9;
/// The largest payload that we accept, and the least that everybody does (§4.2).
pub const MAX_SIZE: usize = 16_384;
/// What every client says first (§3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The largest window (§6.9.1).
pub const MAX_WINDOW: i64 = (1 << 31) - 1;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const WITH_PRIORITY: u8 = 0x20;

pub const HEADER_TABLE_SIZE: u16 = 1;
pub const ENABLE_PUSH: u16 = 2;
pub const MAX_CONCURRENT_STREAMS: u16 = 3;
pub const INITIAL_WINDOW_SIZE: u16 = 4;
pub const MAX_FRAME_SIZE: u16 = 5;
pub const MAX_HEADER_LIST_SIZE: u16 = 6;

/// An error code (§7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(pub u32);

impl Code {
    pub const NO_ERROR: Self = Self(0);
    pub const PROTOCOL_ERROR: Self = Self(1);
    pub const INTERNAL_ERROR: Self = Self(2);
    pub const FLOW_CONTROL_ERROR: Self = Self(3);
    pub const STREAM_CLOSED: Self = Self(5);
    pub const FRAME_SIZE_ERROR: Self = Self(6);
    pub const REFUSED_STREAM: Self = Self(7);
    pub const CANCEL: Self = Self(8);
    pub const COMPRESSION_ERROR: Self = Self(9);
    pub const ENHANCE_YOUR_CALM: Self = Self(11);
}

/// A frame's header.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl Head {
    /// Reads a header; `None` where it is not whole.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, kind, flags, d, e, f, g] = bytes.first_chunk::<HEADER>()?;
        Some(Self {
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            // "The reserved bit … MUST be ignored when receiving" (§4.1).
            stream: u32::from_be_bytes([d, e, f, g]) & 0x7fff_ffff,
        })
    }

    pub fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

pub fn head(into: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    let [_, a, b, c] = (length as u32).to_be_bytes();
    let [d, e, f, g] = stream.to_be_bytes();
    into.extend_from_slice(&[a, b, c, kind, flags, d, e, f, g]);
}

pub fn settings(into: &mut Vec<u8>, settings: &[(u16, u32)]) {
    head(into, settings.len() * 6, SETTINGS, 0, 0);
    for (id, value) in settings {
        into.extend_from_slice(&id.to_be_bytes());
        into.extend_from_slice(&value.to_be_bytes());
    }
}

pub fn settings_ack(into: &mut Vec<u8>) {
    head(into, 0, SETTINGS, ACK, 0);
}

pub fn ping(into: &mut Vec<u8>, flags: u8, opaque: [u8; 8]) {
    head(into, 8, PING, flags, 0);
    into.extend_from_slice(&opaque);
}

pub fn rst_stream(into: &mut Vec<u8>, stream: u32, code: Code) {
    head(into, 4, RST_STREAM, 0, stream);
    into.extend_from_slice(&code.0.to_be_bytes());
}

pub fn goaway(into: &mut Vec<u8>, last: u32, code: Code) {
    head(into, 8, GOAWAY, 0, 0);
    into.extend_from_slice(&last.to_be_bytes());
    into.extend_from_slice(&code.0.to_be_bytes());
}

pub fn window_update(into: &mut Vec<u8>, stream: u32, increment: u32) {
    head(into, 4, WINDOW_UPDATE, 0, stream);
    into.extend_from_slice(&increment.to_be_bytes());
}

/// The payload without its padding (§6.1); `None` where the padding is longer than the payload.
pub fn unpadded(head: Head, payload: &[u8]) -> Option<&[u8]> {
    if !head.has(PADDED) {
        return Some(payload);
    }
    let (padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(usize::from(*padding))?)
}

pub fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}
