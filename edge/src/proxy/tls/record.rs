//! The records of a TLS connection after rustls has done its handshake, sealed and opened by us, without copies and without
//! memory while the connection idles.
//!
//! In flow the secrets of a finished handshake ([`Records::new`]), plaintext, and bytes of the peer; out flow records,
//! plaintext, and what is owed to the peer (key updates, alerts). No I/O here. rustls still derives the keys
//! ([`KernelConnection`]). RFC 8446 §4.6.3 (KeyUpdate), §5 (records), §6 (alerts); RFC 5246 for TLS 1.2. Everything a peer may
//! send without data is bounded; after an error there is only that error.

pub mod cipher;

use std::io;

use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{AlertDescription, ExtractedSecrets};

use self::cipher::{ALERT, Cipher, CipherError, DATA, HANDSHAKE, HEADER};

/// Records in a row that bring no data: empty ones, key updates, warnings.
const MOST_IDLE: u8 = 32;
/// The whole of a KeyUpdate message: type, length, and whether one is asked for in return.
const KEY_UPDATE: [u8; 4] = [24, 0, 0, 1];
const NOT_REQUESTED: u8 = 0;
const REQUESTED: u8 = 1;
const FATAL: u8 = 2;
const WARNING: u8 = 1;

/// Why a connection is of no further use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("record does not authenticate")]
    Forged,
    #[error("record is too long")]
    Overflow,
    #[error("unexpected {0}")]
    Unexpected(&'static str),
    #[error("malformed {0}")]
    Malformed(&'static str),
    #[error("renegotiation is refused")]
    Renegotiation,
    #[error("peer sent alert {0:?}")]
    Alert(AlertDescription),
    #[error("closed without close_notify")]
    Cut,
    #[error("the keys are used up")]
    Exhausted,
    #[error("no record could be made")]
    Internal,
}

impl RecordError {
    /// What the peer is told.
    fn alert(self) -> Option<AlertDescription> {
        Some(match self {
            Self::Forged => AlertDescription::BadRecordMac,
            Self::Overflow => AlertDescription::RecordOverflow,
            Self::Unexpected(_) => AlertDescription::UnexpectedMessage,
            Self::Malformed(_) => AlertDescription::DecodeError,
            Self::Renegotiation => AlertDescription::NoRenegotiation,
            Self::Internal => AlertDescription::InternalError,
            Self::Alert(_) | Self::Cut | Self::Exhausted => return None,
        })
    }
}

impl From<CipherError> for RecordError {
    fn from(error: CipherError) -> Self {
        match error {
            CipherError::Forged => Self::Forged,
            CipherError::Overflow => Self::Overflow,
            CipherError::Untyped => Self::Unexpected("record without a type"),
            CipherError::Exhausted => Self::Exhausted,
            CipherError::NoRoom => Self::Internal,
        }
    }
}

impl From<RecordError> for io::Error {
    fn from(error: RecordError) -> Self {
        let cut = error == RecordError::Cut;
        Self::new(if cut { io::ErrorKind::UnexpectedEof } else { io::ErrorKind::InvalidData }, error)
    }
}

/// What [`Records::take`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// So many bytes at the beginning of the peer's are done with.
    pub used: usize,
    pub taken: Taken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// So many bytes of plaintext.
    Data(usize),
    /// A record without data for the caller.
    Nothing,
    /// More bytes of the peer are needed.
    Starved,
    /// The peer has ended its direction properly.
    Ended,
}

/// What comes between a finished handshake and the end, of a server's connection.
pub struct Records {
    seal: Cipher,
    open: Cipher,
    keys: KernelConnection<ServerConnectionData>,
    /// At the beginning of the peer's bytes lies plaintext of so many bytes, and the end of its record behind it.
    opened: u16,
    behind: u16,
    /// The beginning of a handshake message.
    fragment: [u8; KEY_UPDATE.len() + 1],
    held: u8,
    idle: u8,
    /// Records for the peer.
    owed: Vec<u8>,
    /// What is owed should not wait for data.
    is_urgent: bool,
    /// A key update that was asked for is among what is owed.
    is_answering: bool,
    has_ended: bool,
    is_cut: bool,
    has_closed: bool,
    closes_with_next: bool,
    failed: Option<RecordError>,
}

impl Records {
    /// Takes a connection over from rustls; `owed` are records that were not sent yet (tickets) and may go with the first
    /// data. `None` where rustls has chosen a suite that is not known here.
    pub fn new(
        secrets: &ExtractedSecrets,
        keys: KernelConnection<ServerConnectionData>,
        owed: Vec<u8>,
    ) -> Option<Self> {
        let version = keys.protocol_version();
        Some(Self {
            seal: Cipher::new(version, secrets.tx.0, &secrets.tx.1)?,
            open: Cipher::new(version, secrets.rx.0, &secrets.rx.1)?,
            keys,
            opened: 0,
            behind: 0,
            fragment: [0; KEY_UPDATE.len() + 1],
            held: 0,
            idle: 0,
            owed,
            is_urgent: false,
            is_answering: false,
            has_ended: false,
            is_cut: false,
            has_closed: false,
            closes_with_next: false,
            failed: None,
        })
    }

    /// Whether something should be sent even if there is no data.
    pub fn is_urgent(&self) -> bool {
        self.is_urgent
    }

    /// Whether something is to be sent before the next data.
    pub fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    /// What is to be sent before anything that is sealed from now on.
    pub fn take_owed(&mut self) -> Vec<u8> {
        self.is_urgent = false;
        self.is_answering = false;
        std::mem::take(&mut self.owed)
    }

    /// Ends our direction: what is owed then ends with close_notify.
    pub fn close(&mut self) {
        if self.failed.is_none() && !self.has_closed {
            // Without keys there is nothing to end with; the peer sees a cut.
            let _ = self.owe(ALERT, &[WARNING, u8::from(AlertDescription::CloseNotify)]);
            self.has_closed = true;
        }
    }

    /// The data that is sealed next is the last.
    pub fn close_with_next(&mut self) {
        self.closes_with_next = true;
    }

    /// Whether [`close`](Self::close) is due behind the data that was sealed just now. Nothing may be owed then.
    pub fn closes_with_next(&self) -> bool {
        self.closes_with_next && !self.has_closed && self.owed.is_empty()
    }

    /// To be called before data is sealed; may make something owed, which must leave first.
    pub fn refresh(&mut self) -> Result<(), RecordError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.has_closed {
            return Err(RecordError::Unexpected("data after the end"));
        }
        if self.seal.is_worn() && self.seal.is_tls13() { self.update(NOT_REQUESTED) } else { Ok(()) }
    }

    /// Seals data from `plaintext` into `out`, as many records as fit and at most 64; says how much was taken and written.
    pub fn seal(&mut self, plaintext: &[u8], out: &mut [u8]) -> Result<(usize, usize), RecordError> {
        let (mut taken, mut written) = (0, 0);
        for _ in 0..64 {
            let room = out.get_mut(written..).unwrap_or_default();
            let rest = plaintext.get(taken..).unwrap_or_default();
            let count = rest.len().min(self.seal.fits(room.len()));
            // A record cut short by the room alone is for the next write.
            if count == 0 || (count < rest.len() && count < cipher::MOST_CONTENT && written > 0) {
                break;
            }
            written += self.seal.seal(DATA, rest.get(..count).unwrap_or_default(), room)?;
            taken += count;
        }
        Ok((taken, written))
    }

    /// How many bytes so much data has as records.
    pub fn framed(&self, length: usize) -> usize {
        length + length.div_ceil(cipher::MOST_CONTENT) * (self.seal.front() + self.seal.back())
    }

    /// What goes around data that is sealed where it lies.
    pub fn margins(&self) -> (usize, usize) {
        (self.seal.front(), self.seal.back())
    }

    /// Seals data with its margins where it lies.
    pub fn seal_in_place(&mut self, record: &mut [u8]) -> Result<(), RecordError> {
        Ok(self.seal.seal_in_place(DATA, record)?)
    }

    /// Opens the next of the peer's bytes, one record at a time: into `into`, or where there is not enough room for that,
    /// where they lie, to be copied by the next calls. Gives `most` bytes at most; `into` may have room for more.
    pub fn take(&mut self, bytes: &mut [u8], into: &mut [u8], most: usize) -> Result<Step, RecordError> {
        if self.opened > 0 {
            let into = into.get_mut(..most).unwrap_or_default();
            return Ok(self.take_opened(bytes, into));
        }
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.has_ended {
            // What follows close_notify is to be ignored (RFC 8446 §6.1).
            return Ok(Step { used: bytes.len(), taken: Taken::Ended });
        }
        match self.take_record(bytes, into, most) {
            Ok(Step { taken: Taken::Starved, .. }) if self.is_cut => Err(RecordError::Cut),
            Err(error) => {
                self.fail(error);
                Err(error)
            }
            step => step,
        }
    }

    /// How many bytes the record at the beginning has, as far as that is known.
    pub fn wants(&self, bytes: &[u8]) -> usize {
        total(bytes)
    }

    /// No more bytes of the peer will come: without its close_notify that is an error, behind what is here.
    pub fn cut(&mut self) {
        self.is_cut = true;
    }

    /// Whether [`take`](Self::take) could not open the next record right into so much memory.
    pub fn copies(&self, bytes: &[u8], into: usize, most: usize) -> bool {
        self.opened > 0 || !self.is_direct(total(bytes), into, most)
    }

    fn is_direct(&self, total: usize, into: usize, most: usize) -> bool {
        let inner = self.open.inner(total);
        inner <= into && inner - usize::from(self.open.is_tls13()).min(inner) <= most
    }

    /// Whether [`take`](Self::take) would give something.
    pub fn is_readable(&self, bytes: &[u8]) -> bool {
        self.opened > 0 || self.failed.is_some() || self.has_ended || self.is_cut || missing(bytes).is_none()
    }

    fn take_opened(&mut self, bytes: &[u8], into: &mut [u8]) -> Step {
        let opened = usize::from(self.opened);
        let count = opened.min(into.len()).min(bytes.len());
        if let (Some(to), Some(from)) = (into.get_mut(..count), bytes.get(..count)) {
            to.copy_from_slice(from);
        }
        self.opened -= count as u16;
        let used = if self.opened == 0 { count + usize::from(std::mem::take(&mut self.behind)) } else { count };
        Step { used, taken: Taken::Data(count) }
    }

    fn take_record(&mut self, bytes: &mut [u8], into: &mut [u8], most: usize) -> Result<Step, RecordError> {
        let total = match missing(bytes) {
            Some(total) if total > HEADER + cipher::MOST_CONTENT + 256 => return Err(RecordError::Overflow),
            Some(_) => return Ok(Step { used: 0, taken: Taken::Starved }),
            None => total(bytes),
        };
        let outer = bytes.first().copied().unwrap_or_default();
        if self.open.is_tls13() && outer != DATA {
            // After the handshake everything is protected, and ChangeCipherSpec has no place (RFC 8446 §5).
            return Err(RecordError::Unexpected("unprotected record"));
        }
        let Some(record) = bytes.get_mut(..total) else { return Err(RecordError::Internal) };
        let direct = self.is_direct(total, into.len(), most);
        let front = self.open.front();
        let (kind, length) = self.open.open(record, direct.then_some(&mut *into))?;
        if length > cipher::MOST_CONTENT {
            return Err(RecordError::Overflow);
        }
        if kind == DATA && self.held == 0 && length > 0 {
            self.idle = 0;
            if direct {
                return Ok(Step { used: total, taken: Taken::Data(length) });
            }
            self.opened = length as u16;
            self.behind = (total - front - length) as u16;
            return Ok(Step { used: front, taken: Taken::Nothing });
        }
        self.idle += 1;
        if self.idle > MOST_IDLE {
            return Err(RecordError::Unexpected("number of records without data"));
        }
        let content = if direct { into.get(..length) } else { bytes.get(front..front + length) };
        let content = content.unwrap_or_default();
        match kind {
            _ if self.held > 0 && kind != HANDSHAKE => {
                return Err(RecordError::Unexpected("record within a handshake message"));
            }
            DATA => {}
            ALERT => self.alert(content)?,
            HANDSHAKE => self.handshake(content)?,
            _ => return Err(RecordError::Unexpected("record type")),
        }
        let taken = if self.has_ended { Taken::Ended } else { Taken::Nothing };
        Ok(Step { used: total, taken })
    }

    fn alert(&mut self, content: &[u8]) -> Result<(), RecordError> {
        let &[level, code] = content else { return Err(RecordError::Malformed("alert")) };
        match AlertDescription::from(code) {
            AlertDescription::CloseNotify => self.has_ended = true,
            // Announces a close_notify and means nothing by itself.
            AlertDescription::UserCanceled => {}
            _ if !self.open.is_tls13() && level == WARNING => {}
            alert => return Err(RecordError::Alert(alert)),
        }
        Ok(())
    }

    /// The only message that a client may send after its handshake is KeyUpdate: we never ask for a certificate later.
    fn handshake(&mut self, content: &[u8]) -> Result<(), RecordError> {
        if !self.open.is_tls13() {
            return Err(RecordError::Renegotiation);
        }
        if content.is_empty() {
            return Err(RecordError::Unexpected("empty handshake fragment"));
        }
        for &byte in content {
            let at = usize::from(self.held);
            if KEY_UPDATE.get(at).is_some_and(|&expected| expected != byte) {
                return Err(RecordError::Unexpected("handshake message"));
            }
            // No byte may follow under the old key (RFC 8446 §5.1).
            let slot = self.fragment.get_mut(at).ok_or(RecordError::Unexpected("bytes behind a key update"))?;
            *slot = byte;
            self.held += 1;
        }
        let [.., request] = self.fragment;
        if usize::from(self.held) < self.fragment.len() {
            return Ok(());
        }
        self.held = 0;
        if request > REQUESTED {
            return Err(RecordError::Malformed("key update"));
        }
        let (sequence, secrets) = self.keys.update_rx_secret().map_err(|_| RecordError::Internal)?;
        self.open = Cipher::new(self.keys.protocol_version(), sequence, &secrets).ok_or(RecordError::Internal)?;
        // One answer is enough for all that were asked while it could not leave.
        if request == REQUESTED && !self.is_answering && !self.has_closed {
            self.update(NOT_REQUESTED)?;
            self.is_answering = true;
        }
        Ok(())
    }

    /// Owes a key update, and seals with the new key from then on.
    fn update(&mut self, request: u8) -> Result<(), RecordError> {
        let [a, b, c, d] = KEY_UPDATE;
        self.owe(HANDSHAKE, &[a, b, c, d, request])?;
        let (sequence, secrets) = self.keys.update_tx_secret().map_err(|_| RecordError::Internal)?;
        self.seal = Cipher::new(self.keys.protocol_version(), sequence, &secrets).ok_or(RecordError::Internal)?;
        Ok(())
    }

    fn owe(&mut self, kind: u8, content: &[u8]) -> Result<(), RecordError> {
        let mut record = [0; 64];
        let length = self.seal.seal(kind, content, &mut record)?;
        self.owed.extend_from_slice(record.get(..length).unwrap_or_default());
        self.is_urgent = true;
        Ok(())
    }

    fn fail(&mut self, error: RecordError) {
        if let Some(alert) = error.alert()
            && !self.has_closed
        {
            // Should it not be possible, the peer sees a cut.
            let _ = self.owe(ALERT, &[FATAL, u8::from(alert)]);
        }
        self.failed = Some(error);
    }

    /// Asks the peer for new keys and takes new ones.
    #[cfg(test)]
    pub fn ask_for_update(&mut self) {
        self.update(REQUESTED).unwrap();
    }

    #[cfg(test)]
    pub fn ciphers(&mut self) -> (&mut Cipher, &mut Cipher) {
        (&mut self.seal, &mut self.open)
    }
}

impl std::fmt::Debug for Records {
    // Never the secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").field("failed", &self.failed).finish_non_exhaustive()
    }
}

/// How long the record at the beginning of these bytes is, as far as they tell.
fn total(bytes: &[u8]) -> usize {
    match bytes {
        [_, _, _, high, low, ..] => HEADER + usize::from(u16::from_be_bytes([*high, *low])),
        _ => HEADER,
    }
}

/// The length of the first record where it is not complete.
fn missing(bytes: &[u8]) -> Option<usize> {
    let total = total(bytes);
    (bytes.len() < total).then_some(total)
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
