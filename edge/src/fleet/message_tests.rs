use proptest::prelude::*;

use super::*;

fn challenge(name: &str) -> Challenge {
    Challenge {
        identifier: Identifier::Dns(name.into()),
        wildcard: false,
        kind: ChallengeKind::TlsAlpn01,
        token: "abc-_1".into(),
        key_authorization: "abc-_1.thumb".into(),
    }
}

fn every_shared() -> Vec<Shared> {
    let id = || CertId(ObjectKey::new("shop", "web"));
    let secret = || Zeroizing::new(b"s3cr3t".to_vec());
    let stored = StoredCertificate {
        note: "note".into(),
        chain_pem: "chain\n".into(),
        key_pem: Zeroizing::new("s3cr3t".into()),
    };
    vec![
        Shared::Certificate { id: id(), stored },
        Shared::Account { issuer: IssuerId("le".into()), record: secret() },
        Shared::Order { id: id(), record: Some(secret()) },
        Shared::Order { id: id(), record: None },
        Shared::Challenge { challenge: challenge("a.example"), lifetime: Duration::from_secs(60) },
        Shared::ChallengeOver(challenge("a.example")),
        Shared::Memory(vec![1, 2, 3]),
        Shared::TicketKeys(secret()),
    ]
}

#[test]
fn what_is_shared_arrives_as_it_was() {
    for shared in every_shared() {
        let item = Item::from(&shared);
        let bytes = encode_ask(7, &Ask::Share(item.clone()));
        assert_eq!(decode_ask(&bytes), Ok((7, Ok(Ask::Share(item.clone())))));
        assert!(!format!("{item:?}").contains("s3cr3t"));
        let back = Shared::try_from(item).unwrap();
        assert_eq!(merge_key(&back), merge_key(&shared));
        assert_eq!(super::super::merge::version(&back), super::super::merge::version(&shared));
        assert_eq!(Item::from(&back), Item::from(&shared));
    }
}

fn merge_key(shared: &Shared) -> Option<String> {
    super::super::merge::key(shared)
}

#[test]
fn answers_arrive_as_they_were() {
    let inventory = [("tickets".to_owned(), super::super::merge::Version { order: 3, digest: "x".into() })];
    for answer in [
        Answer::Hello(Hello::ours()),
        Answer::Pong(Pong { fit: true, votes: false, list: "l".into(), orders: true, hash: Some("h".into()) }),
        Answer::Keys(KeyPage { keys: [("HTTPRoute n/a".to_owned(), "1".to_owned())].into(), more: true }),
        Answer::Done(Done { error: Some("why".into()) }),
        Answer::Inventory(Page { entries: inventory.into(), more: true }),
        Answer::Item(Fetched { item: None }),
        Answer::Unknown,
    ] {
        assert_eq!(decode_answer(&encode_answer(9, &answer)), Ok((9, answer)));
    }
}

#[test]
fn later_versions_are_understood_as_far_as_possible() {
    let ask = |text: &str| decode_ask(text.as_bytes());
    assert_eq!(ask(r#"{"id":1,"kind":"dance","body":{"a":[1]}}"#), Ok((1, Err("dance".into()))));
    assert_eq!(ask(r#"{"id":1,"kind":"dance"}"#), Ok((1, Err("dance".into()))));
    let ping = Ping { claims: true, leaves: false, lacks: false, list: "x".into() };
    let text = r#"{"id":1,"kind":"ping","body":{"claims":true,"list":"x","colour":"red"},"more":1}"#;
    assert_eq!(ask(text), Ok((1, Ok(Ask::Ping(ping)))));
    assert_eq!(decode_answer(br#"{"id":1,"kind":"what","body":7}"#), Ok((1, Answer::Unknown)));
    // An older edge says nothing of its configuration.
    let pong = Pong { fit: true, votes: true, list: "l".into(), orders: false, hash: None };
    let text = br#"{"id":1,"kind":"pong","body":{"fit":true,"votes":true,"list":"l","orders":false}}"#;
    assert_eq!(decode_answer(text), Ok((1, Answer::Pong(pong))));
    for (oldest, newest, speaks) in [(1, 1, true), (1, 5, true), (2, 5, false), (0, 0, false)] {
        assert_eq!(Hello { oldest, newest, software: String::new() }.refusal().is_none(), speaks);
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let proof = Proof::from(&challenge("a.example"));
    for (name, proof) in [
        ("a name", Proof { dns: Some("a b".into()), ..proof.clone() }),
        ("two identifiers", Proof { ip: Some("192.0.2.1".parse().unwrap()), ..proof.clone() }),
        ("no identifier", Proof { dns: None, ..proof.clone() }),
        ("a token", Proof { token: "../x".into(), key_authorization: "../x.t".into(), ..proof.clone() }),
        ("another token", Proof { token: "other".into(), ..proof.clone() }),
        ("a kind", Proof { kind: "http-99".into(), ..proof.clone() }),
    ] {
        assert!(Challenge::try_from(proof).is_err(), "{name}");
    }
    for item in [
        Item::Order { id: String::new(), record: None },
        Item::Order { id: "a/b\n".into(), record: None },
        Item::Account { issuer: "x".repeat(5000), record: Bytes(Zeroizing::default()) },
    ] {
        assert!(Shared::try_from(item).is_err());
    }
    assert!(decode_ask(br#"{"id":1,"kind":"share","body":{"memory":{"record":"***"}}}"#).is_err());
}

proptest! {
    #[test]
    fn foreign_bytes_are_a_message_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode_ask(&bytes);
        let _ = decode_answer(&bytes);
    }

    #[test]
    fn messages_that_were_touched_are_a_message_or_not(at in 0usize..400, byte in any::<u8>(), which in 0usize..8) {
        let shared = &every_shared()[which];
        let mut bytes = encode_ask(1, &Ask::Share(Item::from(shared))).to_vec();
        let place = at % bytes.len();
        bytes[place] = byte;
        if let Ok((_, Ok(Ask::Share(item)))) = decode_ask(&bytes) {
            let _ = Shared::try_from(item);
        }
    }
}
