use edge_config::names::Kind;

use super::record::Record;
use super::*;

fn opened(directory: &Path) -> Store {
    let opened = Store::open(directory);
    assert_eq!(opened.notices, Vec::<String>::new());
    opened.store
}

fn certificate(note: &str) -> StoredCertificate {
    let pem = |kind: &str| format!("-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----\n");
    StoredCertificate {
        note: note.into(),
        chain_pem: pem("CERTIFICATE").repeat(2),
        key_pem: Zeroizing::new(pem("PRIVATE KEY")),
    }
}

fn id(text: &str) -> CertId {
    CertId(ObjectKey::parse(text))
}

#[test]
fn everything_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let store = opened(directory.path());
    assert_eq!(store.assignments(), BTreeMap::new());
    assert!(store.internal_ca().is_none() && store.certificates().0.is_empty());
    let many: Vec<_> = (0..200).map(|n| (id(&format!("shop/cert-{n}")), certificate(&n.to_string()))).collect();
    store.put_certificates(&many).unwrap();
    store.remove_certificates(&[id("shop/cert-7"), id("shop/never-there")]).unwrap();
    store.put_internal_ca(&certificate("ca")).unwrap();
    let assigned = BTreeMap::from([
        (gateway("a/b"), vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]),
        (ObjectRef { kind: Kind::Service, ..gateway("a/b") }, vec!["192.0.2.2".parse().unwrap()]),
    ]);
    store.put_assignments(&assigned).unwrap();
    let bound = [("192.0.2.1".parse().unwrap(), "lo".to_owned())];
    store.put_bound_addresses(&bound).unwrap();
    let (secret, trouble) = store.session_secret();
    assert!(trouble.is_none());
    drop(store);

    let store = opened(directory.path());
    let (certificates, notices) = store.certificates();
    assert_eq!((certificates.len(), notices.len()), (199, 0));
    assert_eq!(certificates[&id("shop/cert-8")], certificate("8"));
    assert!(!certificates.contains_key(&id("shop/cert-7")));
    assert_eq!(store.internal_ca(), Some(certificate("ca")));
    assert_eq!(store.assignments(), assigned);
    assert_eq!(store.bound_addresses(), bound);
    assert_eq!(store.session_secret().0, secret);
    assert_eq!(store.degraded(), None);
}

fn gateway(key: &str) -> ObjectRef {
    ObjectRef::new(Kind::Gateway, ObjectKey::parse(key))
}

#[test]
fn assignments_of_the_first_version_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = opened(directory.path());
    let first = br#"{"shop/web": ["192.0.2.1", "2001:db8::1"], "a/b": ["192.0.2.7"]}"#;
    store.put_only(Keyspace::Assignments, zeroize::Zeroizing::new(first.to_vec())).unwrap();
    let expected = BTreeMap::from([
        (gateway("shop/web"), vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]),
        (gateway("a/b"), vec!["192.0.2.7".parse().unwrap()]),
    ]);
    assert_eq!(store.assignments(), expected);
    store.put_assignments(&expected).unwrap();
    drop(store);
    assert_eq!(opened(directory.path()).assignments(), expected);
    // Nothing is made up for a version to come, nor for one that never was.
    for version in [0, 1, 3] {
        let other = format!(r#"{{"version": {version}, "assigned": {{"Gateway a/b": ["192.0.2.7"]}}}}"#);
        assert_eq!(super::content::decode_assignments(other.as_bytes()), None, "version {version}");
    }
    assert_eq!(super::content::decode_assignments(b"[]"), None);
}

#[test]
fn in_memory_it_reads_what_it_was_told_and_says_that_it_forgets() {
    let store = Store::in_memory();
    let error = store.put_certificate(&id("a/b"), &certificate("x")).unwrap_err().to_string();
    assert_eq!(error, "certificates a/b is not on disk: no state directory");
    assert_eq!(store.certificates().0[&id("a/b")], certificate("x"));
    let (first, trouble) = store.session_secret();
    assert!(trouble.is_some());
    assert_eq!(store.session_secret().0, first);
    assert!(!store.is_durable() && store.put_public_file("x", b"").is_err());
}

#[test]
fn sizes_have_a_bound() {
    let store = Store::in_memory();
    let large = StoredCertificate { chain_pem: "x".repeat(300 << 10), ..certificate("large") };
    let error = store.put_certificate(&id("a/b"), &large).unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { limit: 262_144, .. }), "{error}");
    assert!(store.certificates().0.is_empty());
}

#[test]
fn what_is_stored_already_is_not_written_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = opened(directory.path());
    let assigned = BTreeMap::from([(gateway("a/b"), vec!["192.0.2.1".parse().unwrap()])]);
    store.put_assignments(&assigned).unwrap();
    let sequence = store.disk().sequence;
    store.put_assignments(&assigned).unwrap();
    assert_eq!(store.disk().sequence, sequence);
}

#[test]
fn the_newer_version_wins_whichever_side_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = opened(directory.path());
    store.put_certificate(&id("a/b"), &certificate("old")).unwrap();
    let disk = &mut *store.disk();
    let write = |disk: &mut Disk, note: &str, key: &str, to_database: bool| {
        let sequence = disk.next_sequence();
        let payload = certificate(note).encode();
        let bytes = Record { keyspace: Keyspace::Certificates, sequence, key, payload: &payload }.encode();
        let records = [(key, bytes.as_slice())];
        match to_database {
            true => disk.database.as_mut().unwrap().put(Keyspace::Certificates, &records).unwrap(),
            false => disk.copies.as_ref().unwrap().put(Keyspace::Certificates, &records).unwrap(),
        }
    };
    write(disk, "newer in the database", "a/b", true);
    write(disk, "only a copy", "a/c", false);
    *disk = Disk::default();
    for healed in [false, true] {
        let reopened = Store::open(directory.path());
        let (certificates, _) = reopened.store.certificates();
        assert_eq!(certificates[&id("a/b")].note, "newer in the database");
        assert_eq!(certificates[&id("a/c")].note, "only a copy");
        assert_eq!(reopened.notices.is_empty(), healed, "{:?}", reopened.notices);
    }
}

#[test]
fn a_record_under_a_wrong_key_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let store = opened(directory.path());
    let payload = certificate("x").encode();
    let bytes = Record { keyspace: Keyspace::Certificates, sequence: 9, key: "a/b", payload: &payload }.encode();
    let database = |store: &Store, key: &str, bytes: &[u8]| {
        store.disk().database.as_mut().unwrap().put(Keyspace::Certificates, &[(key, bytes)]).unwrap();
    };
    database(&store, "other/key", &bytes);
    database(&store, "no/record", b"junk");
    *store.disk() = Disk::default();
    drop(store);
    let reopened = Store::open(directory.path());
    assert!(reopened.store.certificates().0.is_empty());
    assert_eq!(reopened.notices.len(), 2, "{:?}", reopened.notices);
    drop(reopened);
    opened(directory.path());
}

#[test]
fn secrets_are_not_printed() {
    let secret = SessionSecret::random();
    let text = format!("{:?} {secret:?}", certificate("note"));
    assert!(text.contains("[redacted]") && !text.contains("PRIVATE"), "{text}");
}

#[test]
fn a_public_file_is_readable_by_all_and_replaced_whole() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let store = opened(directory.path());
    let path = store.put_public_file("internal-ca.crt", b"one").unwrap();
    store.put_public_file("internal-ca.crt", b"two").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
}

#[test]
fn parts_of_what_planning_remembers_are_there_until_the_whole_has_them() {
    let directory = tempfile::tempdir().unwrap();
    let text = |bytes: &Zeroizing<Vec<u8>>| String::from_utf8(bytes.to_vec()).unwrap();
    let since = |store: &Store| -> Vec<(u64, String)> {
        store.acme_memory_since().iter().map(|(number, bytes)| (*number, text(bytes))).collect()
    };
    let part = |text: &str| Zeroizing::new(text.as_bytes().to_vec());
    {
        let store = Store::open(directory.path()).store;
        store.put_acme_memory(part("whole"), 0).unwrap();
        for number in [9, 10, 11] {
            store.put_acme_memory_since(number, part(&format!("part {number}"))).unwrap();
        }
    }
    let store = Store::open(directory.path()).store;
    assert_eq!(text(&store.acme_memory().unwrap()), "whole");
    assert_eq!(since(&store), [(9, "part 9".into()), (10, "part 10".into()), (11, "part 11".into())]);
    // Written while the eleventh was on its way.
    store.put_acme_memory(part("whole of ten"), 10).unwrap();
    assert_eq!(since(&store), [(11, "part 11".into())]);
    store.put_acme_memory(part("whole of ten"), 11).unwrap();
    drop(store);
    let store = Store::open(directory.path()).store;
    assert_eq!((text(&store.acme_memory().unwrap()), since(&store).len()), ("whole of ten".to_owned(), 0));
}

#[test]
fn a_store_passes_from_one_process_to_the_next_without_losing_what_either_wrote() {
    let directory = tempfile::tempdir().unwrap();
    let account = |text: &str| Zeroizing::new(text.as_bytes().to_vec());
    let first = opened(directory.path());
    first.put_secret_texts(account("one")).unwrap();
    first.put_tenure(b"old".to_vec()).unwrap();
    let beside = Store::beside(directory.path(), Sealing::Clear);
    assert!(beside.notices.is_empty(), "{:?}", beside.notices);
    let second = beside.store;
    assert_eq!(&**second.secret_texts().unwrap(), b"one");
    // Each goes on; nobody sees the other's.
    first.put_secret_texts(account("two")).unwrap();
    first.put_acme_memory(account("asked"), 0).unwrap();
    second.put_acme_memory(account("stale"), 0).unwrap();
    second.put_tenure(b"new".to_vec()).unwrap();
    assert_eq!(&**second.secret_texts().unwrap(), b"one");
    assert_eq!(&**Store::beside(directory.path(), Sealing::Clear).store.tenure().unwrap(), b"old");

    first.close();
    assert_eq!(second.take(directory.path(), Sealing::Clear), Vec::<String>::new());
    assert!(second.is_durable() && !first.is_durable());
    first.put_secret_texts(account("late")).unwrap();
    drop((first, second));
    let third = opened(directory.path());
    assert_eq!(&**third.secret_texts().unwrap(), b"two");
    assert_eq!(&**third.acme_memory().unwrap(), b"asked", "what CAs were asked is known to who asks them");
    assert_eq!(&**third.tenure().unwrap(), b"new");
}
