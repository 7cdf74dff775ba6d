use std::fs;

use edge_config::names::{CertId, ObjectKey};

use super::*;
use crate::store::{Store, StoredCertificate};

const ONE: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
const TWO: &str = "8c7dd922ad47494fc02c388e12c00eac278d1b2ea9d8b7a9bf1d6e2f6a4e9c01";

fn sealing(text: &str) -> Sealing {
    Sealing::Keys(parse(text.as_bytes()).unwrap())
}

fn certificate(note: &str) -> StoredCertificate {
    StoredCertificate {
        note: note.into(),
        chain_pem: "-----BEGIN CERTIFICATE-----\n".into(),
        key_pem: Zeroizing::new("-----BEGIN PRIVATE KEY-----\nTHE-KEY\n".into()),
    }
}

fn id(name: &str) -> CertId {
    CertId(ObjectKey::new("a", name))
}

/// Whether any file of a store says this.
fn is_written(directory: &Path, text: &str) -> bool {
    fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return is_written(&path, text);
        }
        fs::read(path).unwrap().windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[test]
fn keys_are_read_or_refused() {
    assert_eq!(parse(&[1, 2].repeat(16)).unwrap().len(), 1);
    assert_eq!(parse(format!("# new\n{TWO}\n\n{ONE}\n").as_bytes()).unwrap().len(), 2);
    for (bytes, expected) in [
        (&b""[..], "has no key"),
        (b"short", "line 1 is not 32 bytes in base64 or hexadecimal"),
        (&[0xff; 31], "has 31 bytes, expected 32"),
        (&[7; 32], "is 32 times the same byte: no key"),
        (&format!("{ONE}\n{}", "00".repeat(31)).into_bytes(), "line 2 is not 32 bytes in base64 or hexadecimal"),
        (&format!("{ONE}\n").repeat(17).into_bytes(), "has more than 16 keys"),
    ] {
        assert_eq!(parse(bytes).err().as_deref(), Some(expected));
    }
    let text = format!("{:?}", sealing(ONE));
    assert_eq!(text.len(), "[\"0123456789abcdef\"]".len(), "{text}");
}

#[test]
fn the_settings_go_before_the_credential_and_nothing_is_made_up() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    assert!(matches!(Sealing::find(None, None), Sealing::Clear));
    assert!(matches!(Sealing::find(None, Some(directory.path())), Sealing::Clear));
    let Sealing::Unusable(reason) = Sealing::find(Some(&file), None) else { panic!("a key that is not there") };
    assert!(reason.starts_with(&format!("key of the store {}: ", file.display())), "{reason}");
    fs::write(directory.path().join(CREDENTIAL), ONE).unwrap();
    assert!(matches!(Sealing::find(None, Some(directory.path())), Sealing::Keys(_)));
    assert!(matches!(Sealing::find(Some(&file), Some(directory.path())), Sealing::Unusable(_)));
    fs::write(&file, TWO).unwrap();
    for (mode, is_good) in [(0o644, false), (0o640, false), (0o600, true), (0o400, true)] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(Sealing::find(Some(&file), None).is_on(), is_good, "{mode:o}");
    }
}

#[test]
fn what_is_sealed_opens_under_its_name_only() {
    let sealing = sealing(ONE);
    let payload = Zeroizing::new(b"secret".to_vec());
    let sealed = sealing.seal(Keyspace::Certificates, "a/b", &payload).unwrap();
    assert!(!sealed.windows(6).any(|window| window == b"secret"));
    let opens = |keyspace, key, bytes: &[u8]| match sealing.open(keyspace, key, bytes) {
        Opened::Payload { payload, stale } => Some((payload.to_vec(), stale)),
        Opened::Locked { .. } => None,
    };
    assert_eq!(opens(Keyspace::Certificates, "a/b", &sealed), Some((b"secret".to_vec(), false)));
    assert_eq!(opens(Keyspace::Certificates, "a/c", &sealed), None);
    assert_eq!(opens(Keyspace::Orders, "a/b", &sealed), None);
    for at in [MAGIC.len() + 17, MAGIC.len() + 17 + NONCE, sealed.len() - 1] {
        let mut broken = sealed.to_vec();
        broken[at] ^= 1;
        assert_eq!(opens(Keyspace::Certificates, "a/b", &broken), None, "byte {at}");
    }
    assert_eq!(opens(Keyspace::Certificates, "a/b", &sealed[..MAGIC.len() + 17]), None);
    // What holds no key is not sealed.
    assert_eq!(*sealing.seal(Keyspace::Assignments, "all", &payload).unwrap(), *payload);
}

#[test]
fn clear_records_are_sealed_and_keys_are_changed() {
    let directory = tempfile::tempdir().unwrap();
    let open = |sealing| Store::open_sealed(directory.path(), sealing);
    open(Sealing::Clear).store.put_certificate(&id("old"), &certificate("old")).unwrap();
    assert!(is_written(directory.path(), "THE-KEY"));

    let opened = open(sealing(ONE));
    assert_eq!(opened.notices, ["1 of certificates sealed by the key in force"]);
    opened.store.put_certificate(&id("new"), &certificate("new")).unwrap();
    drop(opened);
    assert!(!is_written(&directory.path().join("copies"), "THE-KEY"));

    // Another key goes first, the old one still opens.
    let opened = open(sealing(&format!("{TWO}\n{ONE}")));
    assert_eq!(opened.notices, ["2 of certificates sealed by the key in force"]);
    drop(opened);
    let opened = open(sealing(TWO));
    assert_eq!(opened.notices, Vec::<String>::new());
    assert_eq!(opened.store.certificates().0[&id("old")], certificate("old"));
}

#[test]
fn a_key_that_is_missing_or_wrong_destroys_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let open = |sealing| Store::open_sealed(directory.path(), sealing);
    open(sealing(ONE)).store.put_internal_ca(&certificate("ca")).unwrap();
    for (lost, line) in [
        (Sealing::Clear, "1 records are sealed by the key "),
        (Sealing::Unusable("key of the store /x: No such file".into()), "key of the store /x: No such file; "),
        (sealing(TWO), "1 records are sealed by the key "),
    ] {
        let is_other = lost.is_on();
        let opened = open(lost);
        assert!(opened.notices[0].starts_with(line), "{:?}", opened.notices);
        assert!(opened.store.internal_ca().is_none());
        // Somebody makes another one; it is used, and does not take the place of the first.
        let error = opened.store.put_internal_ca(&certificate("other")).unwrap_err();
        assert!(error.to_string().starts_with("internal-ca all is not on disk: "), "{error}");
        assert_eq!(opened.store.internal_ca().unwrap().note, "other");
        // Without any key nothing secret is written in clear.
        let put = opened.store.put_certificate(&id("x"), &certificate("x"));
        assert_eq!(put.is_ok(), is_other, "{put:?}");
        drop(opened);
        assert!(!is_written(directory.path(), "THE-KEY"));
    }
    let opened = open(sealing(&format!("{ONE}\n{TWO}")));
    assert_eq!(opened.store.internal_ca(), Some(certificate("ca")));
    assert_eq!(opened.store.certificates().0.len(), 1);
}
