use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::proxy::tls::provider;

/// What rustls itself sends, as one record.
fn real(name: &'static str, protocols: &[&str]) -> Vec<u8> {
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

/// The same message in records of at most `size` bytes.
fn refragment(bytes: &[u8], size: usize) -> Vec<u8> {
    let payload = &bytes[RECORD_HEADER..];
    payload
        .chunks(size)
        .flat_map(|part| [&[0x16, 3, 1, (part.len() >> 8) as u8, part.len() as u8], part].concat())
        .collect()
}

fn built(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 2, 0x13, 1, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend((body.len() as u16).to_be_bytes());
    message.extend(body);
    let mut record = vec![0x16, 3, 1];
    record.extend((message.len() as u16).to_be_bytes());
    record.extend(message);
    record
}

fn sni(name: &[u8]) -> Vec<u8> {
    let length = name.len() as u16;
    let mut extension = vec![0, 0];
    extension.extend((length + 5).to_be_bytes());
    extension.extend((length + 3).to_be_bytes());
    extension.push(0);
    extension.extend(length.to_be_bytes());
    extension.extend(name);
    extension
}

fn name_of(bytes: &[u8]) -> Result<Option<String>, String> {
    match parse(bytes) {
        Ok(Parsed::Whole(hello)) => Ok(hello.server_name.map(String::from)),
        Ok(Parsed::Needs(count)) => Err(format!("needs {count}")),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn name_and_protocols_are_found_however_the_bytes_are_split() {
    let whole = real("Shop.Example", &["h2", "http/1.1"]);
    let expected = Hello {
        server_name: Some("shop.example".into()),
        protocols: vec![b"h2"[..].into(), b"http/1.1"[..].into()],
        resumes: false,
    };
    for size in [1, 2, 3, 4, 5, 7, 100, 5000] {
        let bytes = refragment(&whole, size);
        let mut known = 0;
        for end in 0..bytes.len() {
            match parse(&bytes[..end]).unwrap() {
                // Never asks for less than it has, nor for more than there is.
                Parsed::Needs(count) => assert!(count > end && count <= bytes.len() && count >= known, "{size} {end}"),
                Parsed::Whole(_) => panic!("complete at {end} of {}", bytes.len()),
            }
            known = end;
        }
        assert_eq!(parse(&bytes).unwrap(), Parsed::Whole(expected.clone()), "records of {size}");
        // What follows the last record is not looked at.
        assert_eq!(parse(&[&bytes[..], b"\x17garbage"].concat()).unwrap(), Parsed::Whole(expected.clone()));
    }
}

/// As QUIC carries it.
#[test]
fn a_message_without_records_is_read_when_it_is_whole() {
    let record = real("a.example", &["h3"]);
    let bytes = &record[RECORD_HEADER..];
    for length in 0..bytes.len() {
        assert_eq!(message(&bytes[..length]).unwrap(), None, "{length} bytes");
    }
    let hello = message(bytes).unwrap().unwrap();
    assert_eq!((hello.server_name.as_deref(), &*hello.protocols), (Some("a.example"), &[Box::from(*b"h3")][..]));
    assert!(message(&[bytes, &[0]].concat()).is_err(), "something behind it");
    assert!(message(&[2]).is_err(), "another message");
}

#[test]
fn odd_names() {
    for (name, expected) in [
        (&b"a.example"[..], Ok(Some("a.example"))),
        (b"A_b.EXAMPLE", Ok(Some("a_b.example"))),
        (b"localhost", Ok(Some("localhost"))),
        (b"192.0.2.1", Ok(None)),
        (b"2001:db8::1", Ok(None)),
        (b"", Err("server_name is no host name")),
        (b"a..example", Err("server_name is no host name")),
        (b"a.example.", Err("server_name is no host name")),
        (b".example", Err("server_name is no host name")),
        (b"*.example", Err("server_name is no host name")),
        (b"a.example\0.evil", Err("server_name is no host name")),
        (b"a example", Err("server_name is no host name")),
        (b"\xff.example", Err("server_name is no ASCII")),
        (&[b'a'; 64], Err("server_name is no host name")),
        (&b"a.".repeat(128)[..255], Err("server_name is no host name")),
    ] {
        let expected =
            expected.map(|name| name.map(str::to_owned)).map_err(|why| format!("malformed ClientHello: {why}"));
        assert_eq!(name_of(&built(&sni(name))), expected, "{name:?}");
    }
    assert_eq!(name_of(&built(&[])), Ok(None));
}

#[test]
fn what_is_refused() {
    let good = built(&sni(b"a.example"));
    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    for (bytes, why) in [
        (b"GET / HTTP/1.1\r\n".to_vec(), "no TLS handshake: first byte 0x47, expected 0x16"),
        (changed(1, 2), "malformed ClientHello: record version"),
        (changed(3, 0x80), "malformed ClientHello: record length"),
        (changed(5, 2), "malformed ClientHello: another handshake message, expected ClientHello"),
        (vec![0x16, 3, 1, 0, 0], "malformed ClientHello: record length"),
        (vec![0x16, 3, 1, 0, 9, 2], "malformed ClientHello: another handshake message, expected ClientHello"),
        (changed(8, good[8] - 1), "malformed ClientHello: bytes behind it in the same record"),
        (
            [&refragment(&good, 9)[..14], b"\x15\x03\x01"].concat(),
            "malformed ClientHello: another record type in between",
        ),
        (built(&[sni(b"a.example"), sni(b"b.example")].concat()), "malformed ClientHello: two server_name extensions"),
        (built(&[0, 0, 0, 3, 0, 1, 0]), "malformed ClientHello: server_name"),
        (built(&[0, 0, 0, 1]), "malformed ClientHello: extension cut short"),
        (built(&[0, 16, 0, 2, 0, 0]), "malformed ClientHello: ALPN list"),
        (built(&[0, 16, 0, 3, 0, 1, 0]), "malformed ClientHello: ALPN protocol name"),
    ] {
        assert_eq!(name_of(&bytes), Err(why.to_owned()));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes);
    }

    /// Damaged real messages reach deeper than random bytes, and every prefix agrees with the whole.
    #[test]
    fn damage_is_refused_or_read_but_never_both(at in 0usize..300, value: u8, size in 1usize..300, cut in 0usize..300) {
        let mut bytes = built(&[sni(b"a.example"), vec![0, 16, 0, 5, 0, 3, 2, b'h', b'2']].concat());
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        let bytes = if bytes.len() > RECORD_HEADER { refragment(&bytes, size) } else { bytes };
        let whole = parse(&bytes);
        let part = parse(&bytes[..cut.min(bytes.len())]);
        match (part, whole) {
            (Ok(Parsed::Whole(part)), Ok(Parsed::Whole(whole))) => prop_assert_eq!(part, whole),
            (Ok(Parsed::Whole(_)), other) => prop_assert!(false, "a prefix was enough, the whole gave {:?}", other),
            (Err(part), Ok(whole)) => prop_assert!(false, "prefix refused with {}, whole gave {:?}", part, whole),
            _ => {}
        }
    }

    /// Two readers that disagree about a name are a way round a listener: what we accept, rustls reads the same.
    #[test]
    fn rustls_reads_the_same_name(at in 0usize..120, value: u8) {
        let mut bytes = built(&sni(b"a.example"));
        if at >= RECORD_HEADER && at < bytes.len() {
            bytes[at] = value;
        }
        let mut acceptor = rustls::server::Acceptor::default();
        acceptor.read_tls(&mut bytes.as_slice()).unwrap();
        if let (Ok(Parsed::Whole(ours)), Ok(Some(theirs))) = (parse(&bytes), acceptor.accept()) {
            let theirs = theirs.client_hello().server_name().map(str::to_owned);
            prop_assert_eq!(ours.server_name.map(String::from), theirs);
        }
    }
}
