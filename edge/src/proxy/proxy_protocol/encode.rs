//! Headers that go to endpoints.

use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use edge_config::snapshot::ProxyVersion;

use super::{Origin, v1, v2};

/// Version 1 is the longer one at its longest.
const ROOM: usize = v1::MOST;
const _: () = assert!(v2::FIXED + v2::INET6 <= ROOM);

/// The bytes of one header.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    bytes: [u8; ROOM],
    length: usize,
}

impl Header {
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn push(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        debug_assert!(end <= ROOM, "the longest header fits");
        if let Some(room) = self.bytes.get_mut(self.length..end) {
            room.copy_from_slice(bytes);
            self.length = end;
        }
    }
}

/// The header for a connection on behalf of a client.
pub fn encode(version: ProxyVersion, origin: &Origin) -> Header {
    let mut header = Header { bytes: [0; ROOM], length: 0 };
    match version {
        ProxyVersion::V1 => text(&mut header, origin),
        ProxyVersion::V2 => binary(&mut header, origin),
    }
    header
}

fn text(header: &mut Header, Origin { source, destination }: &Origin) {
    let mut rest: &mut [u8] = &mut header.bytes;
    let (from, to) = (source.port(), destination.port());
    let written = match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            write!(rest, "PROXY TCP4 {source} {destination} {from} {to}\r\n")
        }
        _ => write!(rest, "PROXY TCP6 {} {} {from} {to}\r\n", v6(source), v6(destination)),
    };
    let left = rest.len();
    debug_assert!(written.is_ok(), "the longest line fits");
    header.length = ROOM - left;
}

fn binary(header: &mut Header, Origin { source, destination }: &Origin) {
    header.push(v2::SIGNATURE);
    header.push(&[v2::VERSION | v2::PROXY]);
    let block = |family: u8, length: usize| [family, 0, length as u8];
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header.push(&block(v2::TCP4, v2::INET));
            header.push(&source.octets());
            header.push(&destination.octets());
        }
        _ => {
            header.push(&block(v2::TCP6, v2::INET6));
            header.push(&v6(source).octets());
            header.push(&v6(destination).octets());
        }
    }
    header.push(&source.port().to_be_bytes());
    header.push(&destination.port().to_be_bytes());
}

/// Both addresses of a header are of one family (a load balancer in front may have told two).
fn v6(address: &SocketAddr) -> Ipv6Addr {
    match address.ip() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}
