use tokio::sync::oneshot;

use super::tests::{Bench, NOW, id, internal, pair, wish};
use super::*;
use crate::certs::command::RevocationReason;
use crate::certs::edges::Shared;
use crate::store::StoredCertificate;

fn asked<T>(bench: &mut Bench, wanted: &CertsWanted, command: impl FnOnce(oneshot::Sender<T>) -> CertCommand) -> T {
    let (reply, mut answer) = oneshot::channel();
    bench.issuance.obey(command(reply), wanted, NOW);
    answer.try_recv().unwrap()
}

fn fingerprint(bench: &mut Bench, wanted: &CertsWanted, name: &str) -> table::Fingerprint {
    bench.round(wanted).0.entry(&id(name)).unwrap().facts.fingerprint
}

#[test]
fn what_is_imported_is_served_if_it_fits() {
    let mut bench = Bench::new(Store::in_memory());
    let wanted = CertsWanted { certificates: vec![wish("a/b", internal(), &["b.example"])], ..CertsWanted::default() };
    let made = fingerprint(&mut bench, &wanted, "a/b");
    let import = |name: &str, (chain_pem, key_pem): (String, zeroize::Zeroizing<String>)| {
        let id = id(name);
        move |reply| CertCommand::Import { id, chain_pem, key_pem, reply }
    };
    for (name, pair, expected) in [
        ("a/other", pair(&["b.example"], NOW), "nobody wants a certificate a/other of Edge"),
        ("a/b", pair(&["c.example"], NOW), "it does not bear all names of a/b: b.example"),
        ("a/b", pair(&["b.example"], NOW - 200 * 86_400), "it is not valid now"),
        ("a/b", ("x".into(), pair(&["b.example"], NOW).1), "no PEM block CERTIFICATE"),
    ] {
        assert_eq!(asked(&mut bench, &wanted, import(name, pair)), Err(expected.into()));
        assert_eq!(fingerprint(&mut bench, &wanted, "a/b"), made);
    }
    let good = pair(&["*.example"], NOW);
    let leaf = rustls::pki_types::pem::PemObject::from_pem_slice(good.0.as_bytes()).unwrap();
    let leaf: rustls::pki_types::CertificateDer<'_> = leaf;
    let expected = table::CertFacts::of(&leaf).unwrap().fingerprint;
    asked(&mut bench, &wanted, import("a/b", good)).unwrap();
    assert_eq!(fingerprint(&mut bench, &wanted, "a/b"), expected);
}

#[test]
fn what_other_edges_have_is_taken_if_it_is_newer_and_told_to_those_that_come_up() {
    let (mut one, mut two) = (Bench::new(Store::in_memory()), Bench::new(Store::in_memory()));
    let wanted = CertsWanted { certificates: vec![wish("a/b", internal(), &["b.example"])], ..CertsWanted::default() };
    one.round(&wanted);
    two.now.set(NOW + 86_400);
    two.round(&wanted);
    let held = |bench: &mut Bench| {
        let all = asked(bench, &wanted, |reply| CertCommand::Held { reply });
        let certificate = all.into_iter().find_map(|one| match one {
            Shared::Certificate { stored, .. } => Some(stored),
            _ => None,
        });
        certificate.unwrap()
    };
    let (older, newer) = (held(&mut one), held(&mut two));
    let give = |bench: &mut Bench, stored: &StoredCertificate| {
        let shared = Shared::Certificate { id: id("a/b"), stored: stored.clone() };
        asked(bench, &wanted, |reply| CertCommand::Received { shared, reply })
    };
    give(&mut two, &older).unwrap();
    assert_eq!(held(&mut two), newer);
    // Nowhere to store it: it is in force all the same, and the giver is told.
    assert!(give(&mut one, &newer).unwrap_err().contains("is not on disk"));
    assert_eq!(held(&mut one), newer);
}

#[test]
fn people_ask_for_renewals_and_revocations() {
    let mut bench = Bench::new(Store::in_memory());
    let wanted = CertsWanted { certificates: vec![wish("a/b", internal(), &["b.example"])], ..CertsWanted::default() };
    let first = fingerprint(&mut bench, &wanted, "a/b");
    assert_eq!(
        asked(&mut bench, &wanted, |reply| CertCommand::Renew { id: id("a/b"), reply }),
        Ok("a/b is made anew".into())
    );
    assert_ne!(fingerprint(&mut bench, &wanted, "a/b"), first);
    assert!(asked(&mut bench, &wanted, |reply| CertCommand::Renew { id: id("a/x"), reply }).is_err());
    // Who should issue it cannot: what there is of it is not thrown away.
    let mut away = wanted.clone();
    let mut chosen = pair(&["b.example"], NOW);
    let (chain_pem, key_pem) = (std::mem::take(&mut chosen.0), chosen.1);
    away.certificates[0].issuer = WantedIssuer::Ca(id("pki/ca"));
    asked(&mut bench, &away, |reply| CertCommand::Import { id: id("a/b"), chain_pem, key_pem, reply }).unwrap();
    away.certificates[0].issuer = WantedIssuer::Internal { instead_of: Some("Issuer ca not found".into()) };
    let kept = fingerprint(&mut bench, &away, "a/b");
    let answer = asked(&mut bench, &away, |reply| CertCommand::Renew { id: id("a/b"), reply });
    assert!(answer.unwrap_err().starts_with("a/b is not renewed: Issuer ca not found; what is held serves until"));
    assert_eq!(fingerprint(&mut bench, &away, "a/b"), kept);
    // Noted on disk as well, from where it comes back.
    let stored = bench.issuance.note_revoked(&id("a/b")).unwrap();
    assert!(stored.note.contains("\"revoked\":true"), "{}", stored.note);
    let (_, observed) = bench.round(&away);
    assert!(observed.certificates[&id("a/b")].error.as_ref().unwrap().contains("it was revoked"));
    away = wanted.clone();
    asked(&mut bench, &away, |reply| CertCommand::Renew { id: id("a/b"), reply }).unwrap();
    fingerprint(&mut bench, &away, "a/b");
    let revoke = |name: &str| {
        let id = id(name);
        |reply| CertCommand::Revoke { id, reason: RevocationReason::KeyCompromise, reply }
    };
    let answer = asked(&mut bench, &wanted, revoke("a/b"));
    assert_eq!(answer, Err("a/b is not from an ACME CA: nobody keeps a list of it".into()));
    assert_eq!(asked(&mut bench, &wanted, revoke("a/x")), Err("there is no certificate a/x of Edge".into()));
}
