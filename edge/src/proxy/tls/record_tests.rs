//! Records against a rustls client, in memory; and against a client that says what it must not.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use proptest::prelude::*;
use rustls::{CipherSuite, ClientConfig, ClientConnection, RootCertStore, ServerConfig};

use super::*;
use crate::proxy::tls::{handshake, provider};

/// Both sides of a connection, and what stands in for the client where it misbehaves.
struct Pair {
    client: ClientConnection,
    records: Records,
    forger: Cipher,
    witness: Cipher,
}

fn suites() -> Vec<(&'static rustls::SupportedProtocolVersion, CipherSuite)> {
    use CipherSuite::*;
    let new = [TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
    let old = [
        TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    let new = new.map(|suite| (&rustls::version::TLS13, suite));
    new.into_iter().chain(old.map(|suite| (&rustls::version::TLS12, suite))).collect()
}

fn pair(version: &'static rustls::SupportedProtocolVersion, suite: CipherSuite) -> Pair {
    let mut provider = provider().as_ref().clone();
    provider.cipher_suites.retain(|known| known.suite() == suite);
    let provider = Arc::new(provider);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["a.example".into()]).unwrap().self_signed(&key).unwrap();
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    server.enable_secret_extraction = true;
    server.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(client), "a.example".try_into().unwrap()).unwrap();
    let (secrets, keys, owed) = handshake::in_memory(&Arc::new(server), &mut client);
    let mirror = |(sequence, secrets): &(u64, _)| Cipher::new(version.version, *sequence, secrets).unwrap();
    let (forger, mut witness) = (mirror(&secrets.rx), mirror(&secrets.tx));
    let mut records = Records::new(&secrets, keys, owed).unwrap();
    assert_eq!(records.owes(), version.version == rustls::ProtocolVersion::TLSv1_3);
    assert!(!records.is_urgent());
    let tickets = records.take_owed();
    client.read_tls(&mut &tickets[..]).unwrap();
    client.process_new_packets().unwrap();
    if !tickets.is_empty() {
        // Made by rustls with this key before it was ours.
        let mut again = tickets;
        witness.set_sequence(0);
        assert_eq!(witness.open(&mut again, None).unwrap().0, HANDSHAKE);
    }
    Pair { client, records, forger, witness }
}

/// With TLS 1.3.
fn new() -> Pair {
    pair(&rustls::version::TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256)
}

impl Pair {
    /// What the client has written, as records.
    fn written(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.client.writer().write_all(bytes).unwrap();
        let mut wire = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut wire).unwrap();
        }
        wire
    }

    /// What the client reads of these records.
    fn read(&mut self, mut wire: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        while !wire.is_empty() {
            self.client.read_tls(&mut wire).unwrap();
            self.client.process_new_packets().unwrap();
            let _ = self.client.reader().read_to_end(&mut all);
        }
        all
    }

    fn forged(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![0; content.len() + 64];
        let length = self.forger.seal(kind, content, &mut out).unwrap();
        out.truncate(length);
        out
    }

    /// The alert that is owed, as (level, description).
    fn alert(&mut self) -> Option<[u8; 2]> {
        let mut owed = self.records.take_owed();
        let (kind, length) = self.witness.open(&mut owed, None).ok()?;
        let front = self.witness.front();
        (kind == ALERT).then(|| owed[front..front + length].try_into().unwrap())
    }
}

/// Takes everything, in pieces of `size`; the records are given as they would come.
fn take_all(records: &mut Records, mut wire: Vec<u8>, size: usize) -> (Vec<u8>, Result<Taken, RecordError>) {
    let mut all = Vec::new();
    let mut into = vec![0; size + 32];
    loop {
        match records.take(&mut wire, &mut into, size) {
            Ok(Step { used, taken }) => {
                wire.drain(..used);
                match taken {
                    Taken::Data(count) => all.extend_from_slice(&into[..count]),
                    Taken::Nothing => {}
                    end => return (all, Ok(end)),
                }
            }
            Err(error) => return (all, Err(error)),
        }
    }
}

#[test]
fn every_suite_talks_to_rustls_in_both_directions() {
    for (version, suite) in suites() {
        let mut pair = pair(version, suite);
        assert!(pair.client.negotiated_cipher_suite().unwrap().suite() == suite);
        for length in [1, 15, 16, 17, 1000, 16_383, 16_384, 16_385, 40_000] {
            let bytes: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            for size in [1, 700, 16_384, 65_536] {
                let wire = pair.written(&bytes);
                assert_eq!(take_all(&mut pair.records, wire, size), (bytes.clone(), Ok(Taken::Starved)), "{suite:?}");
                let mut out = vec![0; pair.records.framed(length).max(size.min(5000)) + 3];
                let (mut wire, mut done) = (Vec::new(), 0);
                while done < length {
                    pair.records.refresh().unwrap();
                    let (taken, written) = pair.records.seal(&bytes[done..], &mut out).unwrap();
                    wire.extend_from_slice(&out[..written]);
                    done += taken;
                }
                assert_eq!(wire.len(), pair.records.framed(length));
                assert!(pair.read(&wire) == bytes, "{suite:?}");
            }
            if length <= cipher::MOST_CONTENT {
                let (front, back) = pair.records.margins();
                let mut lying = [&vec![0; front][..], &bytes, &vec![0; back]].concat();
                pair.records.seal_in_place(&mut lying).unwrap();
                assert!(pair.read(&lying) == bytes);
            }
        }
        // Ends: theirs, then ours.
        pair.client.send_close_notify();
        let wire = pair.written(b"");
        assert_eq!(take_all(&mut pair.records, [wire, vec![7; 9]].concat(), 100), (vec![], Ok(Taken::Ended)));
        pair.records.close();
        pair.records.close();
        assert!(pair.records.refresh().is_err());
        let owed = pair.records.take_owed();
        pair.client.read_tls(&mut &owed[..]).unwrap();
        assert!(pair.client.process_new_packets().unwrap().peer_has_closed());
        assert!(!pair.records.owes());
    }
}

#[test]
fn keys_change_on_either_side_and_are_answered() {
    for (version, suite) in suites() {
        if version.version != rustls::ProtocolVersion::TLSv1_3 {
            continue;
        }
        let mut pair = pair(version, suite);
        let mut out = [0; 100];
        for round in 0..5 {
            // Asked by the client: twice before we can answer is answered once.
            pair.client.refresh_traffic_keys().unwrap();
            pair.client.refresh_traffic_keys().unwrap();
            let wire = pair.written(b"ping");
            assert_eq!(take_all(&mut pair.records, wire, 9), (b"ping".to_vec(), Ok(Taken::Starved)));
            assert!(pair.records.is_urgent());
            let owed = pair.records.take_owed();
            assert_eq!(owed.len(), 5 + 5 + 17, "{round}");
            assert_eq!(pair.read(&owed), b"");
            let (_, written) = pair.records.seal(b"pong", &mut out).unwrap();
            assert_eq!(pair.read(&out[..written]), b"pong");
            // Asked by us.
            pair.records.ask_for_update();
            let owed = pair.records.take_owed();
            pair.read(&owed);
            let wire = pair.written(b"again");
            assert_eq!(take_all(&mut pair.records, wire, 9).0, b"again");
            assert!(!pair.records.owes());
        }
    }
}

#[test]
fn a_worn_key_is_changed_before_more_is_sealed() {
    let mut pair = new();
    pair.records.ciphers().0.set_sequence(1 << 23);
    pair.records.refresh().unwrap();
    let mut owed = pair.records.take_owed();
    pair.witness.set_sequence(1 << 23);
    let (kind, length) = pair.witness.open(&mut owed, None).unwrap();
    assert_eq!((kind, &owed[5..5 + length]), (HANDSHAKE, &[24, 0, 0, 1, 0][..]));
    assert!(!pair.records.ciphers().0.is_worn());
    pair.records.refresh().unwrap();
    assert!(!pair.records.owes());
    // TLS 1.2 has no other key: it goes on to the limit.
    let (version, suite) = suites()[3];
    let mut old = self::pair(version, suite);
    old.records.ciphers().0.set_sequence((1 << 24) - 1);
    old.records.refresh().unwrap();
    assert!(old.records.seal(b"x", &mut [0; 99]).is_ok());
    assert_eq!(old.records.seal(b"x", &mut [0; 99]), Err(RecordError::Exhausted));
}

#[test]
fn what_a_client_must_not_say() {
    use RecordError::{Malformed, Unexpected};
    const UNEXPECTED: Option<[u8; 2]> = Some([2, 10]);
    const DECODE: Option<[u8; 2]> = Some([2, 50]);
    for (said, error, alert) in [
        (&[(HANDSHAKE, &[][..])][..], Unexpected("empty handshake fragment"), UNEXPECTED),
        (&[(HANDSHAKE, &[1, 0, 0, 4])], Unexpected("handshake message"), UNEXPECTED),
        (&[(HANDSHAKE, &[11, 0, 0, 0])], Unexpected("handshake message"), UNEXPECTED),
        (&[(HANDSHAKE, &[24, 0, 0, 2, 0, 0])], Unexpected("handshake message"), UNEXPECTED),
        (&[(HANDSHAKE, &[24, 0, 0, 1, 0, 24])], Unexpected("bytes behind a key update"), UNEXPECTED),
        (&[(HANDSHAKE, &[24, 0, 0, 1, 2])], Malformed("key update"), DECODE),
        (&[(HANDSHAKE, &[24, 0]), (DATA, b"x")], Unexpected("record within a handshake message"), UNEXPECTED),
        (&[(HANDSHAKE, &[24, 0]), (ALERT, &[1, 0])], Unexpected("record within a handshake message"), UNEXPECTED),
        (&[(20, &[1])], Unexpected("record type"), UNEXPECTED),
        (&[(99, b"abc")], Unexpected("record type"), UNEXPECTED),
        (&[(0, &[0; 9])], Unexpected("record without a type"), UNEXPECTED),
        (&[(0, &[])], Unexpected("record without a type"), UNEXPECTED),
        (&[(ALERT, &[])], Malformed("alert"), DECODE),
        (&[(ALERT, &[1, 0, 1])], Malformed("alert"), DECODE),
        (&[(ALERT, &[2, 40])], RecordError::Alert(AlertDescription::HandshakeFailure), None),
        (&[(ALERT, &[1, 40])], RecordError::Alert(AlertDescription::HandshakeFailure), None),
    ] {
        let mut pair = new();
        let wire: Vec<u8> = said.iter().flat_map(|(kind, content)| pair.forged(*kind, content)).collect();
        let good = pair.forged(DATA, b"never read");
        assert_eq!(take_all(&mut pair.records, [wire, good.clone()].concat(), 99), (vec![], Err(error)), "{said:?}");
        assert_eq!(pair.alert(), alert, "{said:?}");
        // It stays so.
        assert_eq!(take_all(&mut pair.records, good, 99), (vec![], Err(error)));
        assert_eq!(pair.records.refresh(), Err(error));
        pair.records.close();
        assert!(!pair.records.owes());
    }
    for (wire, error) in [
        (&[20, 3, 3, 0, 1, 1][..], Unexpected("unprotected record")),
        (&[21, 3, 3, 0, 2, 1, 0], Unexpected("unprotected record")),
        (&[23, 3, 3, 0x41, 0x01], RecordError::Overflow),
        (&[23, 3, 3, 0, 0], RecordError::Forged),
        (&[23, 3, 3, 0, 3, 1, 2, 3], RecordError::Forged),
    ] {
        assert_eq!(take_all(&mut new().records, wire.to_vec(), 99), (vec![], Err(error)), "{wire:?}");
    }
    // One byte more than 2^14 with its type; the length alone tells.
    let long = [&[23, 3, 3, 0x40, 0x12][..], &[0; 0x4012]].concat();
    assert_eq!(take_all(&mut new().records, long, 99).1, Err(RecordError::Overflow));
    // TLS 1.2: a second handshake is refused, a warning is not the end.
    let (version, suite) = suites()[3];
    let mut old = pair(version, suite);
    let wire = [old.forged(ALERT, &[1, 90]), old.forged(ALERT, &[1, 100]), old.forged(DATA, b"x")].concat();
    assert_eq!(take_all(&mut old.records, wire, 9), (b"x".to_vec(), Ok(Taken::Starved)));
    let wire = old.forged(HANDSHAKE, &[1, 0, 0, 0]);
    assert_eq!(take_all(&mut old.records, wire, 9).1, Err(RecordError::Renegotiation));
    assert_eq!(old.alert(), Some([2, 100]));
}

#[test]
fn what_carries_no_data_is_counted() {
    let enough = Err(RecordError::Unexpected("number of records without data"));
    for (kind, content) in [(DATA, &[][..]), (ALERT, &[1, 90])] {
        let mut pair = new();
        for _ in 0..3 {
            let mut wire: Vec<u8> = (0..MOST_IDLE).flat_map(|_| pair.forged(kind, content)).collect();
            wire.extend(pair.forged(DATA, b"x"));
            assert_eq!(take_all(&mut pair.records, wire, 9), (b"x".to_vec(), Ok(Taken::Starved)));
        }
        let wire: Vec<u8> = (0..=MOST_IDLE).flat_map(|_| pair.forged(kind, content)).collect();
        assert_eq!(take_all(&mut pair.records, wire, 9), (vec![], enough));
    }
    let mut pair = new();
    for _ in 0..MOST_IDLE {
        pair.client.refresh_traffic_keys().unwrap();
        let wire = pair.written(b"");
        assert_eq!(take_all(&mut pair.records, wire, 9), (vec![], Ok(Taken::Starved)));
    }
    assert_eq!(pair.records.take_owed().len(), 27);
    pair.client.refresh_traffic_keys().unwrap();
    let wire = pair.written(b"");
    assert_eq!(take_all(&mut pair.records, wire, 9), (vec![], enough));
}

#[test]
fn padding_fragments_and_a_cut() {
    let mut pair = new();
    // Type and padding by hand: what looks like a type of 0 is padding behind the real one.
    let wire = pair.forged(0, b"abc\x17\0\0");
    assert_eq!(take_all(&mut pair.records, wire, 9).0, b"abc");
    // A key update in two records.
    let wire = [pair.forged(HANDSHAKE, &[24, 0]), pair.forged(HANDSHAKE, &[0, 1, 1])].concat();
    assert_eq!(take_all(&mut pair.records, wire, 9), (vec![], Ok(Taken::Starved)));
    assert!(pair.records.is_urgent());
    // The keys that our forger has are the old ones now.
    let wire = pair.forged(DATA, b"x");
    assert_eq!(take_all(&mut pair.records, wire, 9).1, Err(RecordError::Forged));

    let mut pair = new();
    let wire = [pair.forged(DATA, b"whole"), pair.forged(DATA, b"part")].concat();
    pair.records.cut();
    let cut = wire[..wire.len() - 1].to_vec();
    assert_eq!(take_all(&mut pair.records, cut, 9), (b"whole".to_vec(), Err(RecordError::Cut)));
    assert!(!pair.records.owes());
    // We may still have something to say.
    assert!(pair.records.refresh().is_ok());
    assert_eq!(io::Error::from(RecordError::Cut).kind(), io::ErrorKind::UnexpectedEof);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// An altered byte is never plaintext, whatever the size of the reader.
    #[test]
    fn altered_records_give_an_error(
        which in 0_usize..6, length in 1_usize..300, at in any::<prop::sample::Index>(), bit in 0_u8..8, size in 1_usize..400
    ) {
        let (version, suite) = suites()[which];
        let mut pair = pair(version, suite);
        let mut wire = pair.forged(DATA, &vec![b'p'; length]);
        let at = at.index(wire.len());
        wire[at] ^= 1 << bit;
        let (bytes, end) = take_all(&mut pair.records, wire, size);
        prop_assert_eq!(bytes, b"");
        // A length that grew waits for more.
        prop_assert!(matches!(end, Err(_) | Ok(Taken::Starved)));
        prop_assert!(end.is_err() || at == 3 || at == 4);
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600), size in 1_usize..700, head in any::<bool>()) {
        let mut pair = new();
        let length = (bytes.len() as u16).to_be_bytes();
        let wire = if head { [&[23, 3, 3], &length[..], &bytes].concat() } else { bytes };
        prop_assert_eq!(take_all(&mut pair.records, wire, size).0, b"");
    }
}
