//! Version 2: binary (§2.2).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{MOST, Malformed, Origin, Start, canonical, crc};

pub const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length of the rest.
pub const FIXED: usize = 16;
/// Of the address blocks.
pub const INET: usize = 12;
pub const INET6: usize = 36;
const UNIX: usize = 216;

pub const VERSION: u8 = 0x20;
pub const PROXY: u8 = 0x01;
const LOCAL: u8 = 0x00;
pub const TCP4: u8 = 0x11;
pub const TCP6: u8 = 0x21;

const TLV_CRC32C: u8 = 0x03;

/// `bytes` begins with the signature. What is wrong in the fixed part is told before the rest is there.
pub fn parse(bytes: &[u8]) -> Result<Start, Malformed> {
    let Some(command) = bytes.get(12) else { return Ok(Start::Partial) };
    // "Receivers must drop connections presenting unexpected values here", of the version and of the command.
    if command & 0xf0 != VERSION {
        return Err(Malformed("v2 version is unknown"));
    }
    let is_local = match command & 0x0f {
        LOCAL => true,
        PROXY => false,
        _ => return Err(Malformed("v2 command is unknown")),
    };
    let Some(family) = bytes.get(13).copied() else { return Ok(Start::Partial) };
    let addresses = match family {
        // LOCAL: "discard the protocol block including the family which is ignored".
        _ if is_local => None,
        0x00 => None,
        0x11 | 0x12 => Some(INET),
        0x21 | 0x22 => Some(INET6),
        0x31 | 0x32 => Some(UNIX),
        _ => return Err(Malformed("v2 family is unknown")),
    };
    let Some(&[high, low]) = bytes.get(14..FIXED) else { return Ok(Start::Partial) };
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > MOST {
        return Err(Malformed("v2 header is too long"));
    }
    if addresses.is_some_and(|addresses| length < FIXED + addresses) {
        return Err(Malformed("v2 address block is cut off"));
    }
    let Some(header) = bytes.get(..length) else { return Ok(Start::Partial) };
    let Some(addresses) = addresses else { return Ok(Start::Header { length, origin: None }) };
    verify(header, FIXED + addresses)?;
    // What is valid and not understood (datagrams, Unix sockets) is as good as UNSPEC.
    let origin = match family {
        TCP4 => inet(header),
        TCP6 => inet6(header),
        _ => None,
    };
    Ok(Start::Header { length, origin })
}

fn inet(header: &[u8]) -> Option<Origin> {
    let block: &[u8; INET] = header.get(FIXED..)?.first_chunk()?;
    let [a, b, c, d, e, f, g, h, ports @ ..] = *block;
    let (from, to) = both(ports);
    Some(Origin {
        source: SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), from),
        destination: SocketAddr::new(Ipv4Addr::new(e, f, g, h).into(), to),
    })
}

fn inet6(header: &[u8]) -> Option<Origin> {
    let block: &[u8; INET6] = header.get(FIXED..)?.first_chunk()?;
    let (source, rest) = block.split_first_chunk::<16>()?;
    let (destination, ports) = rest.split_first_chunk::<16>()?;
    let (from, to) = both(*ports.first_chunk()?);
    Some(Origin {
        source: canonical(SocketAddr::new(Ipv6Addr::from(*source).into(), from)),
        destination: canonical(SocketAddr::new(Ipv6Addr::from(*destination).into(), to)),
    })
}

fn both([a, b, c, d]: [u8; 4]) -> (u16, u16) {
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

/// Walks the TLVs, which must fill the header to its end, and checks the sum where there is one.
fn verify(header: &[u8], start: usize) -> Result<(), Malformed> {
    let cut = Malformed("v2 TLV is cut off");
    let mut at = start;
    let mut sum = None;
    while at < header.len() {
        let Some(&[kind, high, low]) = header.get(at..at + 3) else { return Err(cut) };
        let value = at + 3;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let content = header.get(value..value + length).ok_or(cut)?;
        if kind == TLV_CRC32C {
            let expected: [u8; 4] = content.try_into().map_err(|_| Malformed("v2 checksum is not 4 bytes long"))?;
            if sum.replace((value, u32::from_be_bytes(expected))).is_some() {
                return Err(Malformed("v2 checksum is there twice"));
            }
        }
        at = value + length;
    }
    let Some((place, expected)) = sum else { return Ok(()) };
    // "the checksum field itself is zero for the calculation".
    let (before, rest) = header.split_at(place);
    let found = crc::crc32c([before, &[0; 4], rest.get(4..).unwrap_or_default()]);
    if found == expected { Ok(()) } else { Err(Malformed("v2 checksum does not hold")) }
}
