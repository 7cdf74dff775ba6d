//! Each feature against Pebble: Debian's where it has it, the newest one where not.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use edge_acme::challenge::ChallengeKind;
use edge_acme::client::now;
use edge_acme::failure::{Class, Step};
use edge_acme::order::{Account, RevocationReason, RevokeBy, SecretText, Secrets, account_key, certificate_id};
use edge_config::issuer::{ExternalAccount, SecretSource, Solve};
use edge_config::snapshot::KeyAlgorithm;
use edge_integration::acme::{Edition, Memory, Profile, Responder, Settings};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use serde_json::json;

use super::desk::{Desk, dns01, issuer, said, wish};

fn newest() -> Settings {
    Settings { edition: Edition::Newest, ..Settings::default() }
}

#[tokio::test]
async fn http01_from_nothing_to_a_certificate() {
    for settings in [Settings::default(), newest()] {
        let edition = settings.edition;
        let Some(desk) = Desk::open("http01", settings).await else { return };
        for round in 0..3 {
            let journal = Memory::default();
            let start = Instant::now();
            let account = Account::open(&desk.issuer, &desk.secrets, None, &journal).await.unwrap();
            let name = format!("www{round}.example.com");
            let obtained = account.obtain(&wish(&[&name]), &desk.responder, &journal, None).await.unwrap();
            said(&format!("{edition:?}: account, order, http-01, certificate"), start);
            assert!(obtained.validity.not_after > now() && obtained.notes.is_empty(), "{obtained:?}");
            assert!(!format!("{obtained:?} {:?} {:?}", journal.order_now(), journal.account_now()).contains("BEGIN"));
            let start = Instant::now();
            let more = account.obtain(&wish(&[&format!("b.{name}")]), &desk.responder, &journal, None).await.unwrap();
            said(&format!("{edition:?}: another order"), start);
            assert_ne!(obtained.key_pem, more.key_pem);
        }
        assert_eq!(desk.responder.in_place(), 0);
    }
}

#[tokio::test]
async fn tls_alpn01_for_names_and_addresses() {
    let Some(mut desk) = Desk::open("tls_alpn01", Settings::default()).await else { return };
    desk.issuer = issuer(&desk.pebble.directory(), Some(desk.pebble.trust()), Solve::TlsAlpn01);
    let mut wished = wish(&["alpn.example.com"]);
    wished.addresses = vec![IpAddr::from([127, 0, 0, 1])];
    let start = Instant::now();
    desk.obtain(&wished).await.unwrap();
    said("tls-alpn-01, a name and an address", start);
    assert!(desk.responder.seen().iter().all(|one| one.kind == ChallengeKind::TlsAlpn01));
}

#[tokio::test]
async fn dns01_for_a_wildcard_beside_its_domain() {
    let Some(mut desk) = Desk::open("dns01", Settings::default()).await else { return };
    desk.issuer = issuer(&desk.pebble.directory(), Some(desk.pebble.trust()), dns01());
    let start = Instant::now();
    desk.obtain(&wish(&["example.com", "*.example.com"])).await.unwrap();
    said("dns-01, wildcard and domain", start);
    let seen = desk.responder.seen();
    assert!(seen.len() == 2 && seen.iter().any(|one| one.wildcard) && seen.iter().any(|one| !one.wildcard));
}

#[tokio::test]
async fn what_no_solver_can_prove_is_refused_before_an_order() {
    let Some(mut desk) = Desk::open("refused", Settings::default()).await else { return };
    let error = desk.obtain(&wish(&["*.example.com", "www.example.com"])).await.unwrap_err();
    assert_eq!((error.class, error.step, error.faults.len()), (Class::Config, Step::Prepare, 1));
    assert!(error.to_string().contains("*.example.com: a wildcard needs a dns01 solver"), "{error}");
    desk.issuer.solvers[0].names.dns_zones = vec!["example.org".into()];
    let error = desk.obtain(&wish(&["www.example.com"])).await.unwrap_err();
    assert!(error.to_string().contains("no solver of the issuer"), "{error}");
    assert_eq!(desk.pebble.orders(), 0);
}

#[tokio::test]
async fn every_kind_of_key() {
    let Some(desk) = Desk::open("keys", Settings::default()).await else { return };
    for key in [KeyAlgorithm::EcdsaP384, KeyAlgorithm::Rsa(2048), KeyAlgorithm::Rsa(4096)] {
        let mut wished = wish(&["key.example.com"]);
        (wished.key, wished.common_name) = (key, Some("key.example.com".into()));
        let start = Instant::now();
        let first = desk.obtain(&wished).await.unwrap();
        said(&format!("{key:?}"), start);
        wished.keep_key = Some(SecretText::new(first.key_pem.clone()));
        let second = desk.obtain(&wished).await.unwrap();
        assert!(first.key_pem == second.key_pem && first.chain_pem != second.chain_pem);
    }
}

#[tokio::test]
async fn an_external_account_is_demanded_and_bound() {
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let settings = Settings { external_accounts: vec![("kid-1".into(), key.into())], ..Settings::default() };
    let Some(mut desk) = Desk::open("eab", settings).await else { return };
    let error = desk.account().await.unwrap_err();
    assert_eq!((error.class, error.kind.as_deref()), (Class::Config, Some("externalAccountRequired")), "{error}");
    let secret = SecretSource::File("/nowhere".into());
    desk.issuer.external_account = Some(ExternalAccount { key_id: "kid-1".into(), key: secret });
    let error = desk.account().await.unwrap_err();
    assert!(error.to_string().contains("the key of the external account kid-1 is not there"), "{error}");
    desk.secrets.external_key = Some(SecretText::new("d3Jvbmc=".to_owned()));
    let error = desk.account().await.unwrap_err();
    assert_eq!(error.class, Class::Config, "{error}");
    desk.secrets.external_key = Some(SecretText::new(format!("{key}\n")));
    desk.obtain(&wish(&["eab.example.com"])).await.unwrap();
    assert_eq!(desk.journal.account_now().unwrap().external_key_id.as_deref(), Some("kid-1"));
}

#[tokio::test]
async fn an_account_is_opened_without_its_ca_and_kept_by_its_key() {
    let Some(desk) = Desk::open("account", Settings::default()).await else { return };
    let account = desk.account().await.unwrap();
    let record = account.record();
    let mut gone = desk.issuer.clone();
    gone.directory = record.directory.clone();
    // Another process finds the account of a key that is in a Secret.
    let secrets = Secrets { account_key: Some(record.key.clone()), ..Secrets::default() };
    let elsewhere = Memory::default();
    let found = Account::open(&desk.issuer, &secrets, None, &elsewhere).await.unwrap();
    assert_eq!((found.record().url, found.thumbprint()), (record.url.clone(), account.thumbprint()));
    // Contacts follow the issuer.
    gone.contacts = vec!["other@example.com".into()];
    let moved = Account::open(&gone, &Secrets::default(), Some(record.clone()), &elsewhere).await.unwrap();
    assert!(moved.sync_contacts(&elsewhere).await.unwrap() && !moved.sync_contacts(&elsewhere).await.unwrap());
    assert_eq!(elsewhere.account_now().unwrap().contacts, gone.contacts);
    // No key, and none may be made.
    gone.create_account = false;
    let error = Account::open(&gone, &Secrets::default(), None, &elsewhere).await.unwrap_err();
    assert_eq!((error.class, error.step), (Class::Config, Step::Prepare));
    // A key without an account, and none may be made.
    let fresh = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let secrets = Secrets { account_key: Some(account_key(&fresh).unwrap()), ..Secrets::default() };
    let error = Account::open(&gone, &secrets, None, &elsewhere).await.unwrap_err();
    assert_eq!(error.kind.as_deref(), Some("accountDoesNotExist"), "{error}");

    let issuer = desk.issuer.clone();
    drop(desk);
    let start = Instant::now();
    let offline = Account::open(&issuer, &Secrets::default(), Some(record), &elsewhere).await.unwrap();
    said("an account opened while its CA is away", start);
    assert_eq!(offline.thumbprint(), account.thumbprint());
    let error = offline.obtain(&wish(&["x.example.com"]), &NoOne, &elsewhere, None).await.unwrap_err();
    assert_eq!((error.class, error.step), (Class::Transient, Step::Directory), "{error}");
}

struct NoOne;

impl edge_acme::challenge::Present for NoOne {
    async fn present(&self, _: &edge_acme::challenge::Challenge) -> Result<(), String> {
        Err("nobody".into())
    }
    async fn withdraw(&self, _: &edge_acme::challenge::Challenge) {}
}

#[tokio::test]
async fn account_keys_roll_over_and_a_cut_is_settled() {
    let Some(desk) = Desk::open("rollover", Settings::default()).await else { return };
    let account = desk.account().await.unwrap();
    let before = account.thumbprint();
    account.roll_key(&desk.journal).await.unwrap();
    assert_ne!(before, account.thumbprint());
    desk.obtain(&wish(&["rolled.example.com"])).await.unwrap();
    // Killed before the CA heard of it, and after.
    let record = desk.journal.account_now().unwrap();
    account.roll_key(&desk.journal).await.unwrap();
    let journaled: Vec<edge_acme::order::AccountRecord> =
        desk.journal.accounts.lock().unwrap().iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    let cut = journaled.iter().rev().find(|one| one.next_key.is_some()).unwrap().clone();
    let opened = Account::open(&desk.issuer, &desk.secrets, Some(cut), &desk.journal).await.unwrap();
    assert_eq!(opened.thumbprint(), account.thumbprint());
    let unheard = edge_acme::order::AccountRecord {
        next_key: Some(account_key(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap()),
        ..opened.record()
    };
    let opened = Account::open(&desk.issuer, &desk.secrets, Some(unheard), &desk.journal).await.unwrap();
    assert!(opened.thumbprint() == account.thumbprint() && opened.record().next_key.is_none());
    assert_ne!(record.key, opened.record().key);
    opened.deactivate().await.unwrap();
    let error = desk.obtain(&wish(&["late.example.com"])).await.unwrap_err();
    assert_eq!(error.class, Class::Config, "{error}");
}

#[tokio::test]
async fn certificates_are_revoked_by_account_and_by_key() {
    let Some(desk) = Desk::open("revoke", Settings::default()).await else { return };
    let account = desk.account().await.unwrap();
    for (key, by_key) in
        [(KeyAlgorithm::EcdsaP256, false), (KeyAlgorithm::EcdsaP384, true), (KeyAlgorithm::Rsa(2048), true)]
    {
        let mut wished = wish(&["revoked.example.com"]);
        wished.key = key;
        let obtained = desk.obtain(&wished).await.unwrap();
        let pem = SecretText::new(obtained.key_pem.clone());
        let by = if by_key { RevokeBy::Key(&pem) } else { RevokeBy::Account };
        for _ in 0..2 {
            account.revoke(&obtained.chain_pem, by, RevocationReason::Superseded).await.unwrap();
        }
        let der = edge_integration::pki::certificates(&obtained.chain_pem).unwrap();
        let serial = edge_integration::pki::facts(&der[0]).unwrap().serial.replace(':', "");
        assert_eq!(desk.pebble.status(&serial), "Revoked");
    }
}

#[tokio::test]
async fn refused_nonces_cost_time_only() {
    for percent in [5, 50] {
        let settings = Settings { refused_nonces: percent, ..Settings::default() };
        let Some(desk) = Desk::open("nonces", settings).await else { return };
        let start = Instant::now();
        for round in 0..10 {
            let name = format!("n{round}.example.com");
            let wished = wish(&[&name]);
            // A dozen in a row are refused once in 4096 times: then the order is gone on with, as by the daemon.
            for left in (0..3).rev() {
                let account = desk.account().await.unwrap();
                let begun = desk.journal.order_now().filter(|record| record.dns_names.iter().any(|one| **one == *name));
                match account.obtain(&wished, &desk.responder, &desk.journal, begun).await {
                    Ok(_) => break,
                    Err(error) => {
                        let is_refused = error.kind.as_deref() == Some("badNonce");
                        assert!(left > 0 && error.resumes && is_refused, "{name}: {error:?}");
                    }
                }
            }
        }
        said(&format!("10 orders, {percent} % of nonces refused"), start);
        assert_eq!(desk.pebble.orders(), 10);
    }
}

#[tokio::test]
async fn valid_authorizations_are_used_again() {
    let settings = Settings { reused_authorizations: 100, ..Settings::default() };
    let Some(desk) = Desk::open("reuse", settings).await else { return };
    for _ in 0..2 {
        desk.obtain(&wish(&["again.example.com"])).await.unwrap();
    }
    assert_eq!(desk.responder.seen().len(), 1);
}

#[tokio::test]
async fn renewal_windows_and_what_is_replaced() {
    let Some(desk) = Desk::open("ari", newest()).await else { return };
    let account = desk.account().await.unwrap();
    let first = desk.obtain(&wish(&["ari.example.com"])).await.unwrap();
    let id = first.ari_id.clone().unwrap();
    assert_eq!(certificate_id(&first.chain_pem), Some(id.clone()));
    let window = account.renewal_window(&id).await.unwrap();
    assert!(window.start > now() && window.start < window.end && window.end <= first.validity.not_after, "{window:?}");

    let moved = json!({ "suggestedWindow": { "start": "2020-01-01T00:00:00Z", "end": "2020-01-02T00:00:00Z" },
        "explanationURL": "https://example.com/incident" });
    desk.pebble.set_renewal_window(&first.chain_pem, &moved);
    let window = account.renewal_window(&id).await.unwrap();
    assert!(window.end < now() && window.explanation.as_deref() == Some("https://example.com/incident"));
    for nonsense in [
        json!({}),
        json!("x"),
        json!({ "suggestedWindow": { "start": "2020-01-02T00:00:00Z", "end": "2020-01-01T00:00:00Z" } }),
    ] {
        desk.pebble.set_renewal_window(&first.chain_pem, &nonsense);
        assert_eq!(account.renewal_window(&id).await.unwrap_err().class, Class::Transient);
    }

    let mut wished = wish(&["ari.example.com"]);
    wished.replaces = Some(id);
    let second = desk.obtain(&wished).await.unwrap();
    assert!(second.replaced && second.notes.is_empty(), "{second:?}");
    // Replaced already: ordered without.
    let third = desk.obtain(&wished).await.unwrap();
    assert!(!third.replaced && third.notes.len() == 1, "{third:?}");
    // Of another account, and of no CA.
    for id in [second.ari_id.unwrap(), "AAAA.BBBB".into()] {
        let elsewhere = Memory::default();
        let other = Account::open(&desk.issuer, &desk.secrets, None, &elsewhere).await.unwrap();
        wished.replaces = Some(id);
        let obtained = other.obtain(&wished, &desk.responder, &elsewhere, None).await.unwrap();
        assert!(!obtained.replaced, "{obtained:?}");
    }
}

#[tokio::test]
async fn profiles_are_those_that_the_ca_has() {
    let profiles =
        vec![Profile { name: "classic", validity: 7_776_000 }, Profile { name: "shortlived", validity: 518_400 }];
    let Some(mut desk) = Desk::open("profiles", Settings { profiles, ..newest() }).await else { return };
    assert_eq!(desk.about().await.meta.profiles.len(), 2);
    desk.issuer.profile = Some("classic".into());
    for (profile, days) in [(None, 90), (Some("shortlived"), 6)] {
        let mut wished = wish(&["profile.example.com"]);
        wished.profile = profile.map(Into::into);
        let obtained = desk.obtain(&wished).await.unwrap();
        assert_eq!((obtained.validity.lifetime() + 43_200) / 86_400, days, "{obtained:?}");
    }
    let mut wished = wish(&["profile.example.com"]);
    wished.profile = Some("tlsserver".into());
    let error = desk.obtain(&wished).await.unwrap_err();
    assert_eq!((error.class, error.kind.as_deref()), (Class::Config, Some("invalidProfile")));
    assert!(error.to_string().contains("only classic, shortlived"), "{error}");

    let Some(mut desk) = Desk::open("profiles", Settings::default()).await else { return };
    desk.issuer.profile = Some("classic".into());
    let error = desk.obtain(&wish(&["profile.example.com"])).await.unwrap_err();
    assert!(error.to_string().contains("the CA has no profiles"), "{error}");
}

#[tokio::test]
async fn another_chain_is_chosen_by_name() {
    let settings = Settings { alternate_roots: 2, chain_length: 2, ..Settings::default() };
    let Some(mut desk) = Desk::open("chains", settings).await else { return };
    let usual = desk.obtain(&wish(&["chain.example.com"])).await.unwrap();
    assert!(usual.notes.is_empty());
    for root in [1, 2] {
        let pem = edge_integration::pki::certificates(&desk.pebble.root(root)).unwrap();
        let name = edge_integration::pki::facts(&pem[0]).unwrap().subject;
        let name = name.strip_prefix("CN=").unwrap().to_owned();
        desk.issuer.preferred_chain = Some(name.as_str().into());
        let obtained = desk.obtain(&wish(&["chain.example.com"])).await.unwrap();
        assert!(obtained.notes.is_empty(), "{name}: {obtained:?}");
        let top = edge_integration::pki::certificates(&obtained.chain_pem).unwrap().pop().unwrap();
        assert_eq!(edge_integration::pki::facts(&top).unwrap().issuer, format!("CN={name}"));
    }
    desk.issuer.preferred_chain = Some("ISRG Root X9".into());
    let obtained = desk.obtain(&wish(&["chain.example.com"])).await.unwrap();
    assert!(obtained.notes[0].starts_with("no chain has \"ISRG Root X9\"; there are"), "{obtained:?}");
}

#[tokio::test]
async fn fifty_hosts_sixteen_in_flight() {
    for settings in [Settings::default(), newest()] {
        let edition = settings.edition;
        let Some(desk) = Desk::open("fifty", settings).await else { return };
        let account = desk.account().await.unwrap();
        let start = Instant::now();
        let one = |number: u32| {
            let (account, responder) = (&account, &desk.responder);
            async move {
                let journal = Memory::default();
                account.obtain(&wish(&[&format!("h{number}.example.com")]), responder, &journal, None).await.unwrap();
            }
        };
        let mut waiting = 0..50;
        let mut running: FuturesUnordered<_> = waiting.by_ref().take(16).map(one).collect();
        while running.next().await.is_some() {
            running.extend(waiting.next().map(one));
        }
        said(&format!("{edition:?}: 50 hosts, 16 in flight"), start);
        assert_eq!(desk.pebble.orders(), 50);
    }
}

#[tokio::test]
async fn a_hundred_names_in_one_certificate() {
    let Some(desk) = Desk::open("hundred", Settings::default()).await else { return };
    let names: Vec<String> = (0..100).map(|number| format!("n{number}.example.com")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let start = Instant::now();
    desk.obtain(&wish(&names)).await.unwrap();
    said("100 names in one order", start);
}

/// Leaves answers where they are.
struct Kept<'r>(&'r Responder);

impl edge_acme::challenge::Present for Kept<'_> {
    async fn present(&self, challenge: &edge_acme::challenge::Challenge) -> Result<(), String> {
        self.0.present(challenge).await
    }
    async fn withdraw(&self, _: &edge_acme::challenge::Challenge) {}
}

#[tokio::test]
async fn retry_after_is_waited_for() {
    let settings = Settings { retry_after: Some((1, 1)), sleeps: true, ..newest() };
    let Some(desk) = Desk::open("retry_after", settings).await else { return };
    let start = Instant::now();
    desk.obtain(&wish(&["slow.example.com"])).await.unwrap();
    said("with slow validation and Retry-After of 1 s", start);
    let mut hasty = wish(&["hasty.example.com"]);
    hasty.patience = Duration::from_millis(50);
    let account = desk.account().await.unwrap();
    // The CA looks within five seconds: between the two tries as well.
    let error = account.obtain(&hasty, &Kept(&desk.responder), &desk.journal, None).await.unwrap_err();
    assert!(error.class == Class::Transient && error.resumes && error.step == Step::Validate, "{error}");
    let record = desk.journal.order_now();
    hasty.patience = Duration::from_secs(60);
    let account = desk.account().await.unwrap();
    let obtained = account.obtain(&hasty, &desk.responder, &desk.journal, record).await.unwrap();
    assert!(obtained.notes[0].starts_with("went on with the order"), "{obtained:?}");
    assert_eq!(desk.pebble.orders(), 2);
}

#[tokio::test]
async fn failed_validations_say_what_the_ca_saw() {
    let Some(desk) = Desk::open("validation", Settings::default()).await else { return };
    // It says to have answered and has not: another content, so no other challenge is tried.
    *desk.responder.lies.lock().unwrap() = vec![ChallengeKind::Http01];
    let error = desk.obtain(&wish(&["lie.example.com", "lies.example.com"])).await.unwrap_err();
    // Pebble says where in words only; Boulder's `validationRecord` is in `misbehaviour`.
    // It says one of the two, whichever the CA looked at first.
    assert!(error.to_string().contains("http://lie"), "{error}");
    assert_eq!((error.class, error.step, error.resumes), (Class::Validation, Step::Validate, false));
    assert!(error.faults.iter().all(|fault| fault.challenge == Some(ChallengeKind::Http01)), "{error:?}");
    assert_eq!(desk.pebble.orders(), 1);

    // Nobody listens for http-01: the other challenge does it, in another order.
    let closed = edge_integration::acme::party::nobody().port();
    let settings = Settings { ..Settings::default() };
    let Some(desk) = Desk::open_at("fallback", settings, Some(closed)).await else { return };
    let obtained = desk.obtain(&wish(&["closed.example.com"])).await.unwrap();
    assert!(obtained.notes[0].contains("tried another challenge after"), "{obtained:?}");
    eprintln!("    {}", obtained.notes[0]);
    assert_eq!(desk.pebble.orders(), 2);
    // It cannot even be put in place: no order is lost.
    *desk.responder.refuses.lock().unwrap() = vec![ChallengeKind::Http01];
    let obtained = desk.obtain(&wish(&["refused.example.com"])).await.unwrap();
    assert!(obtained.notes.is_empty());
    assert_eq!(desk.pebble.orders(), 3);
    *desk.responder.refuses.lock().unwrap() = vec![ChallengeKind::Http01, ChallengeKind::TlsAlpn01];
    let error = desk.obtain(&wish(&["refused2.example.com"])).await.unwrap_err();
    assert!(error.class == Class::Transient && error.step == Step::Present && error.resumes, "{error}");
}

#[tokio::test]
async fn a_blocked_name_is_a_matter_of_configuration() {
    let settings = Settings { blocked: vec!["blocked.example".into()], ..Settings::default() };
    let Some(desk) = Desk::open("blocked", settings).await else { return };
    let error = desk.obtain(&wish(&["www.blocked.example"])).await.unwrap_err();
    assert_eq!((error.class, error.kind.as_deref()), (Class::Config, Some("rejectedIdentifier")), "{error}");
}

#[tokio::test]
async fn a_ca_that_lost_its_accounts_gets_them_again() {
    let port = edge_integration::acme::party::nobody().port();
    let settings = Settings { port: Some(port), ..Settings::default() };
    let Some(mut desk) = Desk::open("lost", settings.clone()).await else { return };
    let account = desk.account().await.unwrap();
    desk.obtain(&wish(&["kept.example.com"])).await.unwrap();
    let (http_port, tls_port) = (desk.responder.http_port, desk.responder.tls_port);
    desk.pebble.stop();
    desk.pebble = edge_integration::acme::Pebble::start(&Settings { http_port, tls_port, ..settings }).unwrap();
    desk.issuer.trust = Some(desk.pebble.trust().as_bytes().into());
    let obtained = desk.obtain(&wish(&["lost.example.com"])).await.unwrap();
    assert!(obtained.notes[0].contains("lost the account"), "{obtained:?}");
    assert_eq!(desk.account().await.unwrap().thumbprint(), account.thumbprint());
}
