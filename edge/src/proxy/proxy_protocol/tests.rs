use edge_config::snapshot::ProxyVersion;
use proptest::prelude::*;

use super::*;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn told(source: &str, destination: &str) -> Option<Origin> {
    Some(Origin { source: at(source), destination: at(destination) })
}

/// A version 2 header: command, family, and what follows the length.
fn v2(command: u8, family: u8, rest: &[&[u8]]) -> Vec<u8> {
    let rest = rest.concat();
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [v2::SIGNATURE, &[command, family], &length, &rest].concat()
}

fn inet() -> Vec<u8> {
    [&[192, 0, 2, 7, 198, 51, 100, 1][..], &5555u16.to_be_bytes(), &443u16.to_be_bytes()].concat()
}

#[test]
fn version_1() {
    let v4 = told("192.0.2.7:5555", "198.51.100.1:443");
    let longest =
        "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe 65535 65535\r\n";
    for (line, origin) in [
        ("PROXY TCP4 192.0.2.7 198.51.100.1 5555 443\r\n", v4),
        ("PROXY TCP4 192.0.2.7 198.51.100.1 0 65535\r\n", told("192.0.2.7:0", "198.51.100.1:65535")),
        ("PROXY TCP6 2001:db8::7 ::1 5555 443\r\n", told("[2001:db8::7]:5555", "[::1]:443")),
        ("PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 5555 443\r\n", v4),
        (
            longest,
            told("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe]:65535"),
        ),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN ff:: whatever 1 2 3\r\n", None),
    ] {
        for behind in ["", "GET / HTTP/1.1\r\n", "\0\0"] {
            let bytes = format!("{line}{behind}");
            assert_eq!(parse(bytes.as_bytes()), Ok(Start::Header { length: line.len(), origin }), "{line:?}");
        }
        // However it comes in pieces, there is no other answer before the last byte.
        for cut in 0..line.len() {
            let expected = if cut < 6 { Start::Undecided } else { Start::Partial };
            assert_eq!(parse(&line.as_bytes()[..cut]), Ok(expected), "{line:?} up to {cut}");
        }
    }
    let unknown = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
    assert_eq!(parse(unknown.as_bytes()), Ok(Start::Header { length: 107, origin: None }));
    assert!(parse(format!("PROXY UNKNOWN {}\r\n", "x".repeat(92)).as_bytes()).is_err());
    assert_eq!(parse(&[b"PROXY ", &[b'x'; 100][..]].concat()), Ok(Start::Partial));
    assert!(parse(&[b"PROXY ", &[b'x'; 101][..]].concat()).is_err());
}

#[test]
fn version_1_is_strict() {
    for line in [
        "PROXY TCP4 192.0.2.7 198.51.100.1 5555 443\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 5555 443 \r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 5555\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 5555 443 1\r\n",
        "PROXY TCP4  192.0.2.7 198.51.100.1 5555 443\r\n",
        "PROXY  TCP4 192.0.2.7 198.51.100.1 5555 443\r\n",
        "PROXY TCP4\t192.0.2.7 198.51.100.1 5555 443\r\n",
        "PROXY TCP4 192.0.2.07 198.51.100.1 5555 443\r\n",
        "PROXY TCP4 192.0.2 198.51.100.1 5555 443\r\n",
        "PROXY TCP4 192.0.2.256 198.51.100.1 5555 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 05555 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 00 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 -1 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 +1 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1  443\r\n",
        "PROXY TCP4 ::1 ::1 5555 443\r\n",
        "PROXY TCP6 192.0.2.7 198.51.100.1 5555 443\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 5555 443\r\n",
        "PROXY TCP6 [::1] ::1 5555 443\r\n",
        "PROXY TCP5 192.0.2.7 198.51.100.1 5555 443\r\n",
        "PROXY tcp4 192.0.2.7 198.51.100.1 5555 443\r\n",
        "PROXY UDP4 192.0.2.7 198.51.100.1 5555 443\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY \r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 5555 443\r\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 5555 \u{666}\r\n",
    ] {
        assert!(parse(line.as_bytes()).is_err(), "{line:?}");
    }
}

#[test]
fn what_is_no_header() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"PROXX", b"proxy ", b"PROXY\t", b"\r\n\r\nG", b"\x16\x03\x01", b"\0"] {
        assert_eq!(parse(bytes), Ok(Start::Other), "{bytes:?}");
    }
    for bytes in [&b""[..], b"P", b"PROXY", b"\r", b"\r\n\r\n\0\r\nQUI"] {
        assert_eq!(parse(bytes), Ok(Start::Undecided), "{bytes:?}");
    }
}

#[test]
fn version_2() {
    let v4 = told("192.0.2.7:5555", "198.51.100.1:443");
    let inet6 = {
        let (source, destination) =
            ("2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap(), std::net::Ipv6Addr::LOCALHOST);
        [&source.octets()[..], &destination.octets(), &1u16.to_be_bytes(), &2u16.to_be_bytes()].concat()
    };
    let noop = [4, 0, 2, 1, 2];
    let ssl = [&[0x20, 0, 8, 1, 0, 0, 0, 0][..], &[0x21, 0, 0]].concat();
    for (bytes, origin) in [
        (v2(0x21, 0x11, &[&inet()]), v4),
        (v2(0x21, 0x11, &[&inet(), &noop, &ssl, &[0xee, 0, 0]]), v4),
        (v2(0x21, 0x21, &[&inet6]), told("[2001:db8::7]:1", "[::1]:2")),
        // LOCAL, whatever else it says.
        (v2(0x20, 0x00, &[]), None),
        (v2(0x20, 0x11, &[&inet()]), None),
        (v2(0x20, 0xff, &[b"anything"]), None),
        // UNSPEC, datagrams, Unix sockets.
        (v2(0x21, 0x00, &[b"ignored"]), None),
        (v2(0x21, 0x12, &[&inet()]), None),
        (v2(0x21, 0x22, &[&inet6]), None),
        (v2(0x21, 0x31, &[&[b'x'; 216]]), None),
    ] {
        let expected = Start::Header { length: bytes.len(), origin };
        assert_eq!(parse(&bytes), Ok(expected), "{bytes:?}");
        assert_eq!(parse(&[&bytes[..], b"\x16\x03\x01"].concat()), Ok(expected), "{bytes:?}");
        for cut in 0..bytes.len() {
            let expected = if cut < 12 { Start::Undecided } else { Start::Partial };
            assert_eq!(parse(&bytes[..cut]), Ok(expected), "{bytes:?} up to {cut}");
        }
    }
}

#[test]
fn version_2_is_strict() {
    for (why, bytes) in [
        ("version 1", v2(0x11, 0x11, &[&inet()])),
        ("version 3", v2(0x31, 0x11, &[&inet()])),
        ("command 2", v2(0x22, 0x11, &[&inet()])),
        ("family 4", v2(0x21, 0x41, &[&inet()])),
        ("transport 3", v2(0x21, 0x13, &[&inet()])),
        ("no transport", v2(0x21, 0x10, &[&inet()])),
        ("no family", v2(0x21, 0x01, &[&inet()])),
        ("cut address", v2(0x21, 0x11, &[&inet()[..11]])),
        ("IPv4 as IPv6", v2(0x21, 0x21, &[&inet()])),
        ("cut Unix address", v2(0x21, 0x31, &[&[b'x'; 215]])),
        ("cut TLV", v2(0x21, 0x11, &[&inet(), &[4, 0]])),
        ("TLV beyond the end", v2(0x21, 0x11, &[&inet(), &[4, 0, 2, 1]])),
        ("too long", v2(0x21, 0x11, &[&inet(), &[4, 0x10, 0], &[0; 4096]])),
        ("checksum of 3 bytes", v2(0x21, 0x11, &[&inet(), &[3, 0, 3, 0, 0, 0]])),
        ("wrong checksum", v2(0x21, 0x11, &[&inet(), &[3, 0, 4, 1, 2, 3, 4]])),
    ] {
        assert!(parse(&bytes).is_err(), "{why}");
    }
    // Told before the rest came.
    assert!(parse(&v2(0x31, 0x11, &[&inet()])[..13]).is_err());
    assert!(parse(&v2(0x21, 0x41, &[&inet()])[..16]).is_err());
}

#[test]
fn checksums() {
    let noop = [4, 0, 1, 9];
    let mut bytes = v2(0x21, 0x11, &[&inet(), &[3, 0, 4, 0, 0, 0, 0], &noop]);
    let sum = crc::crc32c([&bytes, b"", b""]).to_be_bytes();
    bytes[31..35].copy_from_slice(&sum);
    assert!(matches!(parse(&bytes), Ok(Start::Header { origin: Some(_), .. })));
    for place in [16, 27, 31, 34, 38] {
        let mut changed = bytes.clone();
        changed[place] ^= 1;
        assert_eq!(parse(&changed), Err(Malformed("v2 checksum does not hold")), "{place}");
    }
    let twice = v2(0x21, 0x11, &[&inet(), &[3, 0, 4, 0, 0, 0, 0], &[3, 0, 4, 0, 0, 0, 0]]);
    assert_eq!(parse(&twice), Err(Malformed("v2 checksum is there twice")));
}

#[test]
fn known_headers() {
    let origin = told("192.0.2.7:5555", "198.51.100.1:443").unwrap();
    assert_eq!(encode(ProxyVersion::V1, &origin).as_slice(), b"PROXY TCP4 192.0.2.7 198.51.100.1 5555 443\r\n");
    assert_eq!(encode(ProxyVersion::V2, &origin).as_slice(), v2(0x21, 0x11, &[&inet()]));
    let mixed = told("192.0.2.7:1", "[::1]:2").unwrap();
    assert_eq!(encode(ProxyVersion::V1, &mixed).as_slice(), b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n");
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<std::net::Ipv4Addr>().prop_map(std::net::IpAddr::from),
        any::<std::net::Ipv6Addr>().prop_map(std::net::IpAddr::from),
        any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_ipv6_mapped().into()),
    ];
    (ip, any::<u16>()).prop_map(SocketAddr::from)
}

/// Bytes that are nearly a header.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let v1 = "PROXY (TCP4|TCP6|UNKNOWN|[A-Z]{0,7}) [0-9a-f.: ]{0,90}(\r\n|\n|\r)?.{0,4}".prop_map(String::into_bytes);
    let tail = prop::collection::vec(any::<u8>(), 0..300);
    let v2 = (prop_oneof![Just(0x21u8), Just(0x20), any::<u8>()], any::<u8>(), 0..400u16, tail).prop_map(
        |(command, family, length, rest)| {
            [v2::SIGNATURE, &[command, family], &length.to_be_bytes(), &rest[..]].concat()
        },
    );
    prop_oneof![v1, v2, prop::collection::vec(any::<u8>(), 0..64)]
}

proptest! {
    #[test]
    fn what_is_written_is_read(source in address(), destination in address(), behind in prop::collection::vec(any::<u8>(), 0..20)) {
        let origin = Origin { source, destination };
        let expected = Origin { source: canonical(source), destination: canonical(destination) };
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            let header = encode(version, &origin);
            let length = header.as_slice().len();
            let bytes = [header.as_slice(), &behind].concat();
            prop_assert_eq!(parse(&bytes), Ok(Start::Header { length, origin: Some(expected) }));
        }
    }

    /// More bytes never change an answer that was given, and a header is never longer than what there is.
    #[test]
    fn answers_stay(bytes in nearly()) {
        let mut last = Ok(Start::Undecided);
        for cut in 0..=bytes.len() {
            let now = parse(&bytes[..cut]);
            if let Ok(Start::Header { length, .. }) = now {
                prop_assert!(length <= cut && length <= MOST);
            }
            match last {
                Ok(Start::Undecided) => {}
                Ok(Start::Partial) => prop_assert!(!matches!(now, Ok(Start::Undecided | Start::Other))),
                settled => prop_assert_eq!(now, settled),
            }
            last = now;
        }
    }
}
