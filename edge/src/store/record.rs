//! One record as bytes: the same in the database and in its plain copy, so either can rebuild the other.
//!
//! In: keyspace, key, sequence, payload. Out: a text line that says all of that plus length and SHA-256, then the payload
//! as it is. A reader needs no other file to know what a record is and whether it is whole. No I/O happens here.
//!
//! ```text
//! edge-record 1 certificates 42 1834 9f86d0…(64) shop/cart-tls
//! …payload…
//! ```

use std::fmt::Write as _;

use aws_lc_rs::digest;

/// What a record is about. Its name is a tree of the database and a folder of copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Keyspace {
    Certificates,
    InternalCa,
    Assignments,
    BoundAddresses,
    SessionSecret,
    Drain,
    TicketKeys,
    /// At ACME CAs, by issuer.
    Accounts,
    /// Under way at ACME CAs, by certificate.
    Orders,
    /// What CAs were asked and said, for planning.
    AcmeMemory,
    /// Of Secrets of the API server, that issuers need.
    SecretTexts,
    /// Whether this edge held the Lease of its group last.
    Tenure,
    /// What an operator says of endpoints.
    Holds,
    /// Hosts that an operator has closed.
    Maintenance,
    /// The revision at which an operator holds the configuration.
    Pin,
}

impl Keyspace {
    pub(super) const ALL: [Self; 15] = [
        Self::Certificates,
        Self::InternalCa,
        Self::Assignments,
        Self::BoundAddresses,
        Self::SessionSecret,
        Self::Drain,
        Self::TicketKeys,
        Self::Accounts,
        Self::Orders,
        Self::AcmeMemory,
        Self::SecretTexts,
        Self::Tenure,
        Self::Holds,
        Self::Maintenance,
        Self::Pin,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Certificates => "certificates",
            Self::InternalCa => "internal-ca",
            Self::Assignments => "assignments",
            Self::BoundAddresses => "bound-addresses",
            Self::SessionSecret => "session-secret",
            Self::Drain => "drain",
            Self::TicketKeys => "ticket-keys",
            Self::Accounts => "accounts",
            Self::Orders => "orders",
            Self::AcmeMemory => "acme-memory",
            Self::SecretTexts => "secret-texts",
            Self::Tenure => "tenure",
            Self::Holds => "holds",
            Self::Maintenance => "maintenance",
            Self::Pin => "pin",
        }
    }

    /// Largest payload, in bytes.
    pub(super) fn limit(self) -> usize {
        match self {
            Self::Certificates
            | Self::InternalCa
            | Self::SessionSecret
            | Self::Drain
            | Self::TicketKeys
            | Self::Accounts
            | Self::Orders
            | Self::Tenure
            | Self::Holds
            | Self::Pin => 256 << 10,
            Self::Assignments | Self::BoundAddresses | Self::SecretTexts | Self::Maintenance => 4 << 20,
            Self::AcmeMemory => 32 << 20,
        }
    }

    /// Whether its payloads hold keys.
    pub(super) fn is_secret(self) -> bool {
        match self {
            Self::Certificates
            | Self::InternalCa
            | Self::SessionSecret
            | Self::TicketKeys
            | Self::Accounts
            | Self::Orders
            | Self::SecretTexts => true,
            Self::Assignments
            | Self::BoundAddresses
            | Self::Drain
            | Self::AcmeMemory
            | Self::Tenure
            | Self::Holds
            | Self::Maintenance
            | Self::Pin => false,
        }
    }
}

/// A record that proved whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) keyspace: Keyspace,
    /// Grows with every write (microseconds of the clock where that is more): of two versions the larger is the newer.
    pub(super) sequence: u64,
    pub(super) key: &'a str,
    pub(super) payload: &'a [u8],
}

/// Why bytes are no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RecordError {
    #[error("no record header")]
    Header,
    #[error("record version {0}, expected 1")]
    Version(String),
    #[error("unknown keyspace {0:?}")]
    Keyspace(String),
    #[error("payload of {found} bytes, expected {expected}")]
    Length { found: usize, expected: usize },
    #[error("checksum does not match")]
    Checksum,
}

const MAGIC: &str = "edge-record";
const VERSION: &str = "1";
/// Longer than any header: two Kubernetes names of at most 253 characters each and five short fields.
const HEADER_LIMIT: usize = 1024;

impl Record<'_> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut header = String::with_capacity(160 + self.key.len());
        let sum = checksum(self.keyspace, self.sequence, self.key, self.payload);
        // Writing to a String cannot fail.
        let _ = writeln!(
            header,
            "{MAGIC} {VERSION} {} {} {} {sum} {}",
            self.keyspace.name(),
            self.sequence,
            self.payload.len(),
            self.key
        );
        let mut bytes = Vec::with_capacity(header.len() + self.payload.len());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(self.payload);
        bytes
    }
}

/// Reads a record; every byte is accounted for.
pub(super) fn decode(bytes: &[u8]) -> Result<Record<'_>, RecordError> {
    let end = bytes.iter().take(HEADER_LIMIT).position(|byte| *byte == b'\n').ok_or(RecordError::Header)?;
    let header = std::str::from_utf8(&bytes[..end]).map_err(|_| RecordError::Header)?;
    let payload = &bytes[end + 1..];
    let mut fields = header.splitn(7, ' ');
    let mut field = || fields.next().ok_or(RecordError::Header);
    if field()? != MAGIC {
        return Err(RecordError::Header);
    }
    let version = field()?;
    if version != VERSION {
        return Err(RecordError::Version(version.chars().take(20).collect()));
    }
    let name = field()?;
    let keyspace = Keyspace::ALL
        .into_iter()
        .find(|keyspace| keyspace.name() == name)
        .ok_or_else(|| RecordError::Keyspace(name.chars().take(40).collect()))?;
    let sequence = field()?.parse().map_err(|_| RecordError::Header)?;
    let expected: usize = field()?.parse().map_err(|_| RecordError::Header)?;
    let sum = field()?;
    let key = field()?;
    if payload.len() != expected {
        return Err(RecordError::Length { found: payload.len(), expected });
    }
    if checksum(keyspace, sequence, key, payload) != sum {
        return Err(RecordError::Checksum);
    }
    Ok(Record { keyspace, sequence, key, payload })
}

/// Covers the header's meaning too, so a record that lands under another key does not pass for that one.
fn checksum(keyspace: Keyspace, sequence: u64, key: &str, payload: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(keyspace.name().as_bytes());
    context.update(&sequence.to_be_bytes());
    context.update(&(key.len() as u64).to_be_bytes());
    context.update(key.as_bytes());
    context.update(payload);
    hex(context.finish().as_ref())
}

/// A file name for a key: readable, and unique by a hash because keys may be longer than file names.
pub(super) fn file_name(key: &str) -> String {
    let readable: String = key
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') { c } else { '_' })
        .take(120)
        .collect();
    let sum = hex(&digest::digest(&digest::SHA256, key.as_bytes()).as_ref()[..8]);
    // A leading dot would hide the file.
    format!("{}-{sum}.rec", readable.trim_start_matches('.'))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        Record { keyspace: Keyspace::Certificates, sequence: 7, key: "shop/cart tls", payload: b"\n\0payload\n" }
            .encode()
    }

    #[test]
    fn round_trip() {
        let bytes = sample();
        let record = decode(&bytes).unwrap();
        assert_eq!(record.key, "shop/cart tls");
        assert_eq!(record.sequence, 7);
        assert_eq!(record.payload, b"\n\0payload\n");
        assert_eq!(record.encode(), bytes);
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_found() {
        let bytes = sample();
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "truncated to {length}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut broken = bytes.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&broken).is_err(), "bit {bit}");
        }
        let mut longer = bytes;
        longer.push(b'x');
        assert!(matches!(decode(&longer), Err(RecordError::Length { .. })));
    }

    #[test]
    fn errors_name_the_cause() {
        assert_eq!(decode(b""), Err(RecordError::Header));
        assert_eq!(decode(b"edge-record 2 certificates 1 0 x k\n"), Err(RecordError::Version("2".into())));
        assert_eq!(decode(b"edge-record 1 cats 1 0 x k\n"), Err(RecordError::Keyspace("cats".into())));
        assert_eq!(decode(b"edge-record 1 certificates 1 0 x k\n"), Err(RecordError::Checksum));
    }

    #[test]
    fn file_names_are_distinct_and_short() {
        let long = format!("{}/{}", "n".repeat(63), "a".repeat(253));
        assert!(file_name(&long).len() < 160);
        assert_ne!(file_name("a/b"), file_name("a_b"));
        assert!(!file_name("../../etc/passwd").contains('/'));
    }
}
