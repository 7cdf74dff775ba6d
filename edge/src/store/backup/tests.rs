use std::os::unix::fs::PermissionsExt as _;

use edge_config::issuer::IssuerId;
use edge_config::names::{CertId, ObjectKey};
use zeroize::Zeroizing;

use super::super::{Sealing, StoredCertificate};
use super::*;

fn certificate(name: &str) -> (CertId, StoredCertificate) {
    let stored = StoredCertificate {
        note: format!("note of {name}"),
        chain_pem: format!("chain of {name}\n"),
        key_pem: Zeroizing::new(format!("key of {name}")),
    };
    (CertId(ObjectKey::parse(name)), stored)
}

fn fill(store: &Store) {
    store.put_certificates(&[certificate("shop/a"), certificate("shop/b")]).unwrap();
    store.put_internal_ca(&certificate("x/ca").1).unwrap();
    store.put_account(&IssuerId("issuers.le".into()), Zeroizing::new(b"account key".to_vec())).unwrap();
    store.put_drained_since(Some(UNIX_EPOCH)).unwrap();
}

fn sealing(at: &Path) -> Sealing {
    let path = at.join("store.key");
    fs::write(&path, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    Sealing::find(Some(&path), None)
}

#[test]
fn what_is_restored_is_what_was_there() {
    let at = tempfile::tempdir().unwrap();
    let opened = Store::open(&at.path().join("one"));
    fill(&opened.store);
    let file = opened.store.backup().unwrap();
    let counts: Vec<(&str, usize, usize)> =
        contents(&file).unwrap().kinds.iter().map(|kind| (kind.name, kind.records, kind.sealed)).collect();
    assert_eq!(counts, [("certificates", 2, 0), ("internal-ca", 1, 0), ("accounts", 1, 0)]);

    let two = at.path().join("two");
    restore(&two, &file).unwrap();
    let found = Store::open(&two).store;
    assert_eq!(found.certificates().0, opened.store.certificates().0);
    assert_eq!(found.internal_ca(), opened.store.internal_ca());
    assert_eq!(found.accounts(), opened.store.accounts());
    assert_eq!(found.drained_since(), None, "another machine has not left the network");
}

#[test]
fn sealed_records_stay_sealed_and_need_no_key() {
    let at = tempfile::tempdir().unwrap();
    let one = at.path().join("one");
    fill(&Store::open_sealed(&one, sealing(at.path())).store);
    // An edged without the key cannot read them, and its backup has them all the same.
    let file = Store::open(&one).store.backup().unwrap();
    let kinds = contents(&file).unwrap().kinds;
    assert!(kinds.iter().filter(|kind| kind.is_secret).all(|kind| kind.sealed == kind.records), "{kinds:?}");
    for secret in ["key of shop/a", "account key"] {
        assert!(!file.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret}");
    }
    let two = at.path().join("two");
    restore(&two, &file).unwrap();
    let found = Store::open_sealed(&two, sealing(at.path())).store;
    assert_eq!(found.certificates().0.len(), 2);
    assert_eq!(found.certificates().0[&certificate("shop/b").0], certificate("shop/b").1);
}

#[test]
fn nothing_is_restored_over_something_or_under_an_edged() {
    let at = tempfile::tempdir().unwrap();
    let source = Store::open(&at.path().join("one"));
    fill(&source.store);
    let file = source.store.backup().unwrap();
    let running = restore(&at.path().join("one"), &file).unwrap_err().to_string();
    assert!(running.ends_with("is in use by another edged"), "{running}");
    drop(source);
    let full = restore(&at.path().join("one"), &file).unwrap_err().to_string();
    assert!(full.contains("is not empty (state/): move it away first"), "{full}");
}

#[test]
fn a_damaged_file_is_refused_whole() {
    let at = tempfile::tempdir().unwrap();
    let source = Store::open(&at.path().join("one"));
    fill(&source.store);
    let file = source.store.backup().unwrap();
    for length in [0, 5, 14, 40, file.len() / 2, file.len() - 1] {
        assert!(restore(&at.path().join("two"), &file[..length]).is_err(), "cut to {length}");
    }
    for place in 0..file.len() {
        let mut broken = file.clone();
        broken[place] ^= 1;
        assert!(contents(&broken).is_err(), "byte {place}");
    }
    assert!(!at.path().join("two").join("copies").exists(), "nothing was written");
}
