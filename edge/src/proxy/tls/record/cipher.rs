//! One direction of record protection: a key, its nonces, and how a record is laid out.
//!
//! In flow plaintext or whole records; out flow records or plaintext. RFC 8446 §5.2-5.3 (TLS 1.3), RFC 5288 and
//! RFC 7905 (TLS 1.2 with AES-GCM and ChaCha20-Poly1305). A sequence number is used once; when they run out, or when the key
//! has protected as much as it may (RFC 8446 §5.5), there is an error.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use rustls::{ConnectionTrafficSecrets, ProtocolVersion};

/// Content of a record at most.
pub const MOST_CONTENT: usize = 1 << 14;
/// Type, version and length.
pub const HEADER: usize = 5;
/// What a record adds in front and behind at most.
pub const MOST_FRONT: usize = HEADER + EXPLICIT;
pub const MOST_BACK: usize = TAG + 1;

pub const ALERT: u8 = 21;
pub const HANDSHAKE: u8 = 22;
pub const DATA: u8 = 23;

const TAG: usize = 16;
/// The part of a nonce that TLS 1.2 sends with AES-GCM.
const EXPLICIT: usize = 8;
const VERSION: [u8; 2] = [3, 3];
/// Records under one AES-GCM key: RFC 8446 §5.5 allows 2^24.5 of full size. A new key is wanted long before.
const MOST_RECORDS: u64 = 1 << 24;
const RENEW_AFTER: u64 = 1 << 23;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Tls13,
    Tls12Explicit,
    Tls12Implicit,
}

/// Why a record could not be opened or made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CipherError {
    /// Not made with this key, or altered since.
    Forged,
    /// More content than a record may have.
    Overflow,
    /// A record without a type.
    Untyped,
    /// The key or its sequence numbers are used up.
    Exhausted,
    /// The room for the record is too small; a fault of the caller.
    NoRoom,
}

pub struct Cipher {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    form: Form,
    sequence: u64,
    most: u64,
}

impl Cipher {
    /// `None` for a suite that is not known here.
    pub fn new(version: ProtocolVersion, sequence: u64, secrets: &ConnectionTrafficSecrets) -> Option<Self> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return None,
        };
        Self::with(version, sequence, algorithm, key.as_ref(), iv.as_ref())
    }

    fn with(
        version: ProtocolVersion,
        sequence: u64,
        algorithm: &'static Algorithm,
        key: &[u8],
        iv: &[u8],
    ) -> Option<Self> {
        let is_gcm = algorithm != &CHACHA20_POLY1305;
        let form = match version {
            ProtocolVersion::TLSv1_3 => Form::Tls13,
            ProtocolVersion::TLSv1_2 if is_gcm => Form::Tls12Explicit,
            ProtocolVersion::TLSv1_2 => Form::Tls12Implicit,
            _ => return None,
        };
        Some(Self {
            key: LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?),
            iv: iv.try_into().ok()?,
            form,
            sequence,
            most: if is_gcm { MOST_RECORDS } else { u64::MAX },
        })
    }

    pub fn is_tls13(&self) -> bool {
        self.form == Form::Tls13
    }

    /// Whether a new key should come before more is protected.
    pub fn is_worn(&self) -> bool {
        self.most == MOST_RECORDS && self.sequence >= RENEW_AFTER
    }

    pub fn front(&self) -> usize {
        if self.form == Form::Tls12Explicit { MOST_FRONT } else { HEADER }
    }

    pub fn back(&self) -> usize {
        if self.form == Form::Tls13 { MOST_BACK } else { TAG }
    }

    /// Content that fits into so much room as one record.
    pub fn fits(&self, room: usize) -> usize {
        room.saturating_sub(self.front() + self.back()).min(MOST_CONTENT)
    }

    /// Makes a record of the content at the beginning of `out` and says how long it is.
    pub fn seal(&mut self, kind: u8, content: &[u8], out: &mut [u8]) -> Result<usize, CipherError> {
        let total = self.front() + content.len() + self.back();
        let out = out.get_mut(..total).ok_or(CipherError::NoRoom)?;
        let (front, rest) = out.split_at_mut_checked(self.front()).ok_or(CipherError::NoRoom)?;
        let (body, back) = rest.split_at_mut_checked(content.len()).ok_or(CipherError::NoRoom)?;
        let (nonce, aad) = self.frame(kind, content.len(), front)?;
        let inner = [kind];
        let inner = if self.is_tls13() { &inner[..] } else { &[] };
        self.key
            .seal_out_of_place_scatter(nonce, aad.aad(), content, body, inner, back)
            .map_err(|_| CipherError::Exhausted)?;
        Ok(total)
    }

    /// Makes a record of memory that has the content where it belongs.
    pub fn seal_in_place(&mut self, kind: u8, record: &mut [u8]) -> Result<(), CipherError> {
        let length = record.len().checked_sub(self.front() + self.back()).ok_or(CipherError::NoRoom)?;
        let (front, rest) = record.split_at_mut_checked(self.front()).ok_or(CipherError::NoRoom)?;
        let (body, back) = rest.split_at_mut_checked(length).ok_or(CipherError::NoRoom)?;
        let (nonce, aad) = self.frame(kind, length, front)?;
        let inner = [kind];
        let inner = if self.is_tls13() { &inner[..] } else { &[] };
        self.key.seal_in_place_scatter(nonce, aad.aad(), body, inner, back).map_err(|_| CipherError::Exhausted)
    }

    /// Writes what is in front of the content and gives what protects it.
    fn frame(&mut self, kind: u8, length: usize, front: &mut [u8]) -> Result<(Nonce, Bound), CipherError> {
        if length > MOST_CONTENT {
            return Err(CipherError::Overflow);
        }
        let sequence = self.next()?;
        let nonce = self.nonce(sequence);
        let fragment = (front.len() - HEADER + length + self.back()) as u16;
        let outer = if self.is_tls13() { DATA } else { kind };
        let [high, low] = fragment.to_be_bytes();
        let header = [outer, VERSION[0], VERSION[1], high, low];
        let (to, explicit) = front.split_at_mut_checked(HEADER).ok_or(CipherError::NoRoom)?;
        to.copy_from_slice(&header);
        for (byte, chosen) in explicit.iter_mut().zip(nonce.iter().skip(NONCE_LEN - EXPLICIT)) {
            *byte = *chosen;
        }
        let bound = if self.is_tls13() { Bound::header(header) } else { Bound::long(sequence, kind, length) };
        Ok((Nonce::assume_unique_for_key(nonce), bound))
    }

    /// How many bytes a whole record, as its header tells, has at least room for when opened into memory of its own.
    pub fn inner(&self, total: usize) -> usize {
        total.saturating_sub(self.front() + TAG)
    }

    /// Opens a whole record. The content comes to the beginning of `into`, which has room for [`inner`](Self::inner) bytes;
    /// or without it to where it lies in the record, behind [`front`](Self::front). Gives its type and length.
    pub fn open(&mut self, record: &mut [u8], into: Option<&mut [u8]>) -> Result<(u8, usize), CipherError> {
        let header: [u8; HEADER] = record.first_chunk().copied().ok_or(CipherError::Forged)?;
        let [outer, major, minor, high, low] = header;
        let length = self.inner(record.len());
        let least = usize::from(self.is_tls13());
        let told = HEADER + usize::from(u16::from_be_bytes([high, low]));
        if record.len() < self.front() + TAG + least || record.len() != told {
            return Err(CipherError::Forged);
        }
        // A content of 2^14 bytes, and for TLS 1.3 its type (RFC 8446 §5.4).
        if length > MOST_CONTENT + least {
            return Err(CipherError::Overflow);
        }
        let sequence = self.next()?;
        let mut nonce = self.nonce(sequence);
        let (front, rest) = record.split_at_mut_checked(self.front()).ok_or(CipherError::Forged)?;
        // In TLS 1.2 with AES-GCM the sender chooses this part; the sequence number is in what is authenticated.
        let explicit = front.get(HEADER..).unwrap_or_default();
        for (byte, sent) in nonce.iter_mut().skip(NONCE_LEN - explicit.len()).zip(explicit) {
            *byte = *sent;
        }
        let nonce = Nonce::assume_unique_for_key(nonce);
        let bound = if self.is_tls13() {
            Bound::header(header)
        } else if [major, minor] == VERSION {
            Bound::long(sequence, outer, length)
        } else {
            return Err(CipherError::Forged);
        };
        let content = match into {
            Some(into) => {
                let into = into.get_mut(..length).ok_or(CipherError::NoRoom)?;
                let (ciphertext, tag) = rest.split_at_checked(length).ok_or(CipherError::Forged)?;
                self.key
                    .open_separate_gather(nonce, bound.aad(), ciphertext, tag, into)
                    .map_err(|_| CipherError::Forged)?;
                &*into
            }
            None => &*self.key.open_in_place(nonce, bound.aad(), rest).map_err(|_| CipherError::Forged)?,
        };
        if !self.is_tls13() {
            return Ok((outer, length));
        }
        // Behind the content its type, and behind that zeros as padding (RFC 8446 §5.4).
        let at = content.iter().rposition(|&byte| byte != 0).ok_or(CipherError::Untyped)?;
        Ok((content.get(at).copied().unwrap_or_default(), at))
    }

    fn next(&mut self) -> Result<u64, CipherError> {
        let sequence = self.sequence;
        if sequence >= self.most {
            return Err(CipherError::Exhausted);
        }
        self.sequence = sequence + 1;
        Ok(sequence)
    }

    fn nonce(&self, sequence: u64) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        for (byte, number) in nonce.iter_mut().skip(NONCE_LEN - 8).zip(sequence.to_be_bytes()) {
            *byte ^= number;
        }
        nonce
    }

    #[cfg(test)]
    pub fn set_sequence(&mut self, sequence: u64) {
        self.sequence = sequence;
    }
}

/// What is protected beside the content.
struct Bound {
    bytes: [u8; 13],
    length: usize,
}

impl Bound {
    /// TLS 1.3: the header as it is (RFC 8446 §5.2).
    fn header(header: [u8; HEADER]) -> Self {
        let mut bytes = [0; 13];
        for (to, from) in bytes.iter_mut().zip(header) {
            *to = from;
        }
        Self { bytes, length: HEADER }
    }

    /// TLS 1.2: sequence number, type, version, length of the content (RFC 5246 §6.2.3.3).
    fn long(sequence: u64, kind: u8, length: usize) -> Self {
        let [a, b, c, d, e, f, g, h] = sequence.to_be_bytes();
        let [high, low] = (length as u16).to_be_bytes();
        Self { bytes: [a, b, c, d, e, f, g, h, kind, VERSION[0], VERSION[1], high, low], length: 13 }
    }

    fn aad(&self) -> Aad<&[u8]> {
        Aad::from(self.bytes.get(..self.length).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter_map(|byte| (byte as char).to_digit(16)).map(|n| n as u8).collect();
        digits.chunks(2).map(|pair| pair[0] * 16 + pair[1]).collect()
    }

    /// RFC 8448 §3: the application data of the simple 1-RTT handshake, and the client's close_notify behind it.
    #[test]
    fn the_records_of_the_rfc() {
        let key = bytes("17 42 2d da 59 6e d5 d9 ac d8 90 e3 c6 3f 50 51");
        let iv = bytes("5b 78 92 3d ee 08 57 90 33 e5 23 d9");
        let data = bytes(
            "17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe 82 28 ba 55 cb ef ac ea 42 f9 14 aa 66 bc ab 3f 2b 98 19
             a8 a5 b4 6b 39 5b d5 4a 9a 20 44 1e 2b 62 97 4e 1f 5a 62 92 a2 97 70 14 bd 1e 3d ea e6 3a ee bb 21 69 49
             15 e4",
        );
        let close = bytes("17 03 03 00 13 c9 87 27 60 65 56 66 b7 4d 7f f1 15 3e fd 6d b6 d0 b0 e3");
        let text: Vec<u8> = (0..50).collect();
        let make = || Cipher::with(ProtocolVersion::TLSv1_3, 0, &AES_128_GCM, &key, &iv).unwrap();
        let (mut one, mut other, mut third) = (make(), make(), make());
        for (kind, content, expected) in [(DATA, &text[..], &data), (ALERT, &[1, 0][..], &close)] {
            let mut out = vec![0; expected.len()];
            assert_eq!(one.seal(kind, content, &mut out), Ok(expected.len()));
            assert_eq!(&out, expected);
            let mut lying = [&[0; HEADER][..], content, &[0; MOST_BACK]].concat();
            third.seal_in_place(kind, &mut lying).unwrap();
            assert_eq!(&lying, expected);
            let mut into = vec![0; other.inner(out.len())];
            assert_eq!(other.open(&mut out, Some(&mut into)), Ok((kind, content.len())));
            assert_eq!(&into[..content.len()], content);
        }
    }

    #[test]
    fn every_layout_opens_what_it_seals_and_nothing_else() {
        for version in [ProtocolVersion::TLSv1_3, ProtocolVersion::TLSv1_2] {
            for algorithm in [&AES_128_GCM, &AES_256_GCM, &CHACHA20_POLY1305] {
                let make = || Cipher::with(version, 7, algorithm, &vec![3; algorithm.key_len()], &[9; 12]).unwrap();
                for length in [0, 1, 15, 16, 17, 1000, MOST_CONTENT] {
                    let content: Vec<u8> = (0..length).map(|n| n as u8).collect();
                    let (mut sealer, mut opener, mut direct) = (make(), make(), make());
                    let mut record = vec![0; length + MOST_FRONT + MOST_BACK];
                    let total = sealer.seal(DATA, &content, &mut record).unwrap();
                    assert_eq!(sealer.fits(total), length);
                    record.truncate(total);
                    let mut into = vec![0; direct.inner(total)];
                    assert_eq!(direct.open(&mut record.clone(), Some(&mut into)), Ok((DATA, length)));
                    assert_eq!(into[..length], content);
                    assert_eq!(opener.open(&mut record.clone(), None), Ok((DATA, length)));
                    // The same record again is a record of another sequence number.
                    assert_eq!(opener.open(&mut record.clone(), None), Err(CipherError::Forged));
                    for at in (0..total).step_by(1 + total / 100) {
                        let mut altered = record.clone();
                        altered[at] ^= 1 << (at % 8);
                        let result = make().open(&mut altered, None);
                        assert!(matches!(result, Err(CipherError::Forged)), "{version:?} {length} {at}: {result:?}");
                    }
                    for cut in 0..total.min(64) {
                        assert!(make().open(&mut record.clone()[..cut], None).is_err());
                    }
                }
                assert_eq!(make().seal(DATA, &[0; MOST_CONTENT + 1], &mut [0; 20_000]), Err(CipherError::Overflow));
                assert_eq!(make().seal(DATA, b"abc", &mut [0; 8]), Err(CipherError::NoRoom));
            }
        }
    }

    #[test]
    fn a_key_wears_out() {
        for (algorithm, worn, last) in
            [(&AES_256_GCM, RENEW_AFTER, MOST_RECORDS - 1), (&CHACHA20_POLY1305, u64::MAX, u64::MAX - 1)]
        {
            for version in [ProtocolVersion::TLSv1_3, ProtocolVersion::TLSv1_2] {
                let mut cipher = Cipher::with(version, 0, algorithm, &[3; 32], &[9; 12]).unwrap();
                assert!(!cipher.is_worn());
                cipher.set_sequence(worn);
                assert_eq!(cipher.is_worn(), algorithm == &AES_256_GCM);
                cipher.set_sequence(last);
                assert!(cipher.seal(DATA, b"x", &mut [0; 64]).is_ok());
                assert_eq!(cipher.seal(DATA, b"x", &mut [0; 64]), Err(CipherError::Exhausted));
            }
        }
    }
}
