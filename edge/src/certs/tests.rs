use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

use edge_acme::local::{self, Order, OrderKey};
use edge_config::names::ObjectKey;
use edge_config::snapshot::{KeyAlgorithm, WantedIssuer};

use super::issuance::{Issuance, Progress};
use super::table::{CertEntry, Origin};
use super::*;
use crate::control::observed::CertificateSource;
use crate::proxy::tls::provider;
use zeroize::Zeroizing;

pub(super) const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

pub(super) fn id(name: &str) -> CertId {
    CertId(ObjectKey::parse(name))
}

fn days(days: u64) -> Duration {
    Duration::from_secs(days * DAY as u64)
}

pub(super) fn wish(name: &str, issuer: WantedIssuer, dns: &[&str]) -> WantedCertificate {
    WantedCertificate {
        id: id(name),
        issuer,
        dns_names: dns.iter().map(|name| (*name).into()).collect(),
        addresses: Vec::new(),
        common_name: None,
        is_ca: false,
        key: KeyAlgorithm::EcdsaP256,
        rotate_key: true,
        duration: days(90),
        renew_before: days(30),
        profile: None,
        labels: Vec::new(),
        write_back: None,
        adopt: None,
        wanted_by: Vec::new(),
    }
}

pub(super) fn internal() -> WantedIssuer {
    WantedIssuer::Internal { instead_of: None }
}

fn used(hostname: &str, certificates: &[&str]) -> CertUse {
    CertUse {
        listener: "listener https of Gateway shop/web".into(),
        hostname: HostPattern::parse(Some(hostname)).unwrap(),
        certificates: certificates.iter().map(|name| id(name)).collect(),
    }
}

/// A pair as a user would supply it.
fn supplied(dns: &[&str], from: i64, is_ca: bool) -> Supplied {
    let names: Vec<Box<str>> = dns.iter().map(|name| (*name).into()).collect();
    let made = local::self_signed(&Order {
        dns_names: &names,
        addresses: &[],
        common_name: Some("supplied"),
        is_ca,
        key: OrderKey::New(KeyAlgorithm::EcdsaP256),
        duration: days(90),
        now: from,
    })
    .unwrap();
    let key_pem = Zeroizing::new(made.key_pem.as_bytes().to_vec());
    let entry = CertEntry::from_pem(made.chain_pem.as_bytes(), &key_pem, Origin::Supplied, provider()).unwrap();
    Ok(Arc::new(KeyMaterial { certificate_pem: made.chain_pem.into_bytes(), key_pem, entry: Arc::new(entry) }))
}

/// The same as PEM.
pub(super) fn pair(dns: &[&str], from: i64) -> (String, Zeroizing<String>) {
    let material = supplied(dns, from, false).unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&material.certificate_pem), Zeroizing::new(text(&material.key_pem)))
}

pub(super) struct Bench {
    pub(super) issuance: Issuance,
    pub(super) now: Cell<i64>,
    published: Vec<(CertTable, CertsObserved)>,
}

impl Bench {
    pub(super) fn new(store: Store) -> Self {
        let issuance = Issuance::load(store, CertsSettings { internal_ca: "Test CA".into() }, NOW);
        Self { issuance, now: Cell::new(NOW), published: Vec::new() }
    }

    pub(super) fn round(&mut self, wanted: &CertsWanted) -> (CertTable, CertsObserved) {
        let now = &self.now;
        let published = &mut self.published;
        let progress = self.issuance.round(wanted, || now.get(), &|| false, &mut |(table, observed, _)| {
            published.push((table, observed));
        });
        assert!(matches!(progress, Progress::Until(_)));
        self.published.last().unwrap().clone()
    }
}

fn error<'a>(observed: &'a CertsObserved, name: &str) -> &'a str {
    observed.certificates[&id(name)].error.as_deref().unwrap_or("")
}

#[test]
fn everything_wanted_is_issued_in_order() {
    let mut root = wish("pki/root", WantedIssuer::SelfSigned, &[]);
    (root.is_ca, root.common_name) = (true, Some("Shop root".into()));
    let wanted = CertsWanted {
        certificates: vec![
            wish("a/leaf", WantedIssuer::Ca(id("pki/root")), &["leaf.example"]),
            wish("a/own", internal(), &["*.own.example"]),
            wish("a/user-ca", WantedIssuer::Ca(id("secrets/ca")), &["user.example"]),
            root,
        ],
        supplied: BTreeMap::from([
            (id("secrets/ca"), supplied(&[], NOW, true)),
            (id("secrets/unused"), supplied(&["x"], NOW, false)),
        ]),
        uses: vec![used("leaf.example", &["a/leaf"]), used("*.own.example", &["a/own"])],
        ..CertsWanted::default()
    };
    let mut bench = Bench::new(Store::in_memory());
    let (table, observed) = bench.round(&wanted);
    for (name, source) in [
        ("a/leaf", CertificateSource::Issued("CA pki/root".into())),
        ("a/own", CertificateSource::Issued("internal CA".into())),
        ("a/user-ca", CertificateSource::Issued("CA secrets/ca".into())),
        ("pki/root", CertificateSource::Issued("self-signed".into())),
    ] {
        let state = &observed.certificates[&id(name)];
        assert_eq!((state.source.clone(), state.error.as_deref()), (source, None), "{name}");
        let entry = table.entry(&id(name)).unwrap();
        assert!(entry.origin == Origin::Issued && entry.is_valid_at(NOW));
        assert!(state.renews_at.unwrap() > SystemTime::UNIX_EPOCH + Duration::from_secs(NOW as u64));
    }
    assert_eq!(&*table.entry(&id("a/leaf")).unwrap().facts.issuer, "Shop root");
    assert_eq!(&*table.entry(&id("a/own")).unwrap().facts.issuer, "Test CA");
    assert_eq!(table.len(), 4, "what nobody uses is not in the table");
    // Nothing to do: the very same entries, so that TLS configurations are kept.
    let (again, _) = bench.round(&wanted);
    for (id, entry) in table.iter() {
        assert!(Arc::ptr_eq(entry, again.entry(id).unwrap()), "{id}");
    }
}

#[test]
fn placeholders_stand_in_and_give_way() {
    let gone = used("shop.example", &["a/gone"]);
    let mut bench = Bench::new(Store::in_memory());
    let mut wanted = CertsWanted { uses: vec![gone], placeholder: true, ..CertsWanted::default() };
    let (table, observed) = bench.round(&wanted);
    let entry = table.entry(&id("a/gone")).unwrap().clone();
    assert_eq!((entry.origin, &*entry.facts.dns_names), (Origin::Placeholder, &["shop.example".into()][..]));
    assert_eq!(observed.certificates[&id("a/gone")].source, CertificateSource::Placeholder);
    assert_eq!(error(&observed, "a/gone"), "Secret a/gone does not exist or has no certificate");
    // Days later it is still the same one, a week later a new one.
    bench.now.set(NOW + 2 * DAY);
    assert!(Arc::ptr_eq(&entry, bench.round(&wanted).0.entry(&id("a/gone")).unwrap()));
    bench.now.set(NOW + 6 * DAY);
    assert!(bench.round(&wanted).0.entry(&id("a/gone")).unwrap().is_valid_at(NOW + 12 * DAY));
    bench.now.set(NOW);

    wanted.supplied.insert(id("a/gone"), supplied(&["shop.example"], NOW, false));
    let (table, observed) = bench.round(&wanted);
    assert_eq!(table.entry(&id("a/gone")).unwrap().origin, Origin::Supplied);
    assert_eq!(error(&observed, "a/gone"), "");

    // A client certificate is never made up.
    let wanted = CertsWanted { client: [id("a/client")].into(), placeholder: true, ..CertsWanted::default() };
    let (table, observed) = bench.round(&wanted);
    assert!(table.is_empty() && observed.certificates[&id("a/client")].not_after.is_none());
    let off = CertsWanted { uses: vec![used("x.example", &["a/gone"])], ..CertsWanted::default() };
    let (table, observed) = bench.round(&off);
    assert!(table.is_empty() && observed.certificates[&id("a/gone")].not_after.is_none());
}

#[test]
fn supplied_ones_are_judged() {
    let garbage = Err("tls.crt holds no certificate".to_owned());
    let wanted = CertsWanted {
        supplied: BTreeMap::from([
            (id("a/good"), supplied(&["good.example"], NOW, false)),
            (id("a/old"), supplied(&["old.example"], NOW - 100 * DAY, false)),
            (id("a/future"), supplied(&["future.example"], NOW + 100 * DAY, false)),
            (id("a/other"), supplied(&["other.example"], NOW, false)),
            (id("a/wild"), supplied(&["*.wild.example"], NOW, false)),
            (id("a/garbage"), garbage),
        ]),
        uses: vec![
            used("good.example", &["a/good", "a/other"]),
            used("old.example", &["a/old"]),
            used("future.example", &["a/future"]),
            used("shop.example", &["a/other"]),
            used("x.wild.example", &["a/wild"]),
            used("garbage.example", &["a/garbage"]),
        ],
        placeholder: true,
        ..CertsWanted::default()
    };
    let (table, observed) = Bench::new(Store::in_memory()).round(&wanted);
    assert_eq!(error(&observed, "a/good"), "");
    assert_eq!(error(&observed, "a/wild"), "");
    assert_eq!(error(&observed, "a/old"), "expired at 2027-01-05T08:00:00Z");
    assert!(error(&observed, "a/future").starts_with("not valid before 2027-04-25T"));
    assert_eq!(
        error(&observed, "a/other"),
        "is not valid for shop.example, the hostname of listener https of Gateway shop/web"
    );
    assert!(error(&observed, "a/garbage").starts_with("Secret a/garbage: "), "{}", error(&observed, "a/garbage"));
    // Expired is better than nothing; garbage is nothing.
    assert_eq!(table.entry(&id("a/old")).unwrap().origin, Origin::Supplied);
    assert_eq!(table.entry(&id("a/garbage")).unwrap().origin, Origin::Placeholder);

    let wildcard = |covered: &str| {
        let wanted = CertsWanted { uses: vec![used(covered, &["a/wild"])], ..wanted.clone() };
        error(&Bench::new(Store::in_memory()).round(&wanted).1, "a/wild").is_empty()
    };
    assert!(
        wildcard("*.wild.example")
            && !wildcard("wild.example")
            && !wildcard("a.b.wild.example")
            && !wildcard("*.example")
    );
}

#[test]
fn a_restart_finds_everything_again() {
    let directory = tempfile::tempdir().unwrap();
    let wanted = CertsWanted {
        certificates: (0..50).map(|n| wish(&format!("a/c{n}"), internal(), &["c.example"])).collect(),
        ..CertsWanted::default()
    };
    let store = || Store::open(directory.path()).store;
    let mut first = Bench::new(store());
    let (before, observed) = first.round(&wanted);
    let ca = observed.internal_ca.unwrap();
    let file = std::fs::read_to_string(ca.file.unwrap()).unwrap();
    assert!(file.starts_with("-----BEGIN CERTIFICATE-----") && !file.contains("PRIVATE"));
    drop(first);

    let mut second = Bench::new(store());
    let (after, observed) = second.round(&wanted);
    for (id, entry) in before.iter() {
        assert_eq!(entry.facts.fingerprint, after.entry(id).unwrap().facts.fingerprint, "{id}");
    }
    assert_eq!(observed.internal_ca.unwrap().not_after, ca.not_after);
    // Fewer are wanted: the others are kept and listed.
    let fewer = CertsWanted { certificates: wanted.certificates[..10].to_vec(), ..CertsWanted::default() };
    let (table, observed) = second.round(&fewer);
    assert_eq!((table.len(), observed.unwanted.len()), (10, 40));
    let (table, _) = second.round(&wanted);
    assert_eq!(table.entry(&id("a/c40")).unwrap().facts, before.entry(&id("a/c40")).unwrap().facts);
}

#[test]
fn renewals_come_and_failures_wait() {
    let mut bench = Bench::new(Store::in_memory());
    let mut bad = wish("a/bad", internal(), &["a.example"]);
    bad.key = KeyAlgorithm::Rsa(1000);
    let wanted = CertsWanted {
        certificates: vec![wish("a/good", internal(), &["good.example"]), bad],
        uses: vec![used("a.example", &["a/bad"])],
        placeholder: true,
        ..CertsWanted::default()
    };
    let (first, observed) = bench.round(&wanted);
    let text = error(&observed, "a/bad");
    assert!(text.contains("rsa key of 1000 bits") && text.contains("next try at"), "{text}");
    assert_eq!(first.entry(&id("a/bad")).unwrap().origin, Origin::Placeholder);
    bench.now.set(NOW + 61 * DAY);
    let (second, observed) = bench.round(&wanted);
    let (old, new) = (first.entry(&id("a/good")).unwrap(), second.entry(&id("a/good")).unwrap());
    assert!(new.facts.not_after > old.facts.not_after && observed.certificates[&id("a/good")].error.is_none());
    // Nine and a half years on: the internal CA has been renewed with its key, and everything goes on.
    bench.now.set(NOW + 3500 * DAY);
    let (third, observed) = bench.round(&wanted);
    assert!(observed.internal_ca.unwrap().not_after > NOW + 7000 * DAY);
    assert!(third.entry(&id("a/good")).unwrap().is_valid_at(NOW + 3500 * DAY));
}

#[test]
fn a_clock_in_the_past_issues_nothing_and_drops_nothing() {
    let mut bench = Bench::new(Store::in_memory());
    let wanted = CertsWanted { certificates: vec![wish("a/b", internal(), &["b.example"])], ..CertsWanted::default() };
    let (before, _) = bench.round(&wanted);
    bench.now.set(NOW - 3650 * DAY);
    let (after, observed) = bench.round(&wanted);
    assert!(Arc::ptr_eq(before.entry(&id("a/b")).unwrap(), after.entry(&id("a/b")).unwrap()));
    assert!(observed.notices.iter().any(|notice| notice.contains("clock")), "{:?}", observed.notices);
}

#[test]
fn thousands_have_placeholders_at_once() {
    let names: Vec<String> = (0..2000).map(|n| format!("a/c{n}")).collect();
    let mut slow = wish("a/slow", internal(), &["slow.example"]);
    slow.key = KeyAlgorithm::Rsa(4096);
    let mut certificates = vec![slow];
    certificates.extend(names.iter().map(|name| wish(name, internal(), &["c.example"])));
    let mut uses = vec![used("slow.example", &["a/slow"])];
    uses.extend(names.iter().map(|name| used("c.example", &[name])));
    let wanted = CertsWanted { certificates, uses, placeholder: true, ..CertsWanted::default() };
    let mut bench = Bench::new(Store::in_memory());
    let start = Instant::now();
    let mut first = None;
    let mut publications = 0;
    bench.issuance.round(&wanted, || NOW, &|| false, &mut |(table, ..)| {
        publications += 1;
        first.get_or_insert_with(|| (start.elapsed(), table.len()));
    });
    let (elapsed, count) = first.unwrap();
    assert_eq!(count, 2001, "the first publication has something for everybody");
    assert!(publications > 2);
    eprintln!("2001 certificates: all served after {elapsed:?}, all issued after {:?}", start.elapsed());
}

#[test]
fn the_thread_serves_the_newest_wish_and_ends() {
    let (send, receive) = std::sync::mpsc::channel();
    let board = Arc::new(crate::proxy::challenges::Board::new(0));
    let means = Means { board, edges: Arc::new(edges::Alone), roads: Default::default() };
    let certs =
        Certs::start(Store::in_memory(), CertsSettings { internal_ca: "Test CA".into() }, means, move |published| {
            let _ = send.send(published);
        })
        .unwrap();
    let mut ticket = 0;
    for n in 0..100 {
        let name = format!("a/c{n}");
        ticket = certs.set(CertsWanted {
            certificates: vec![wish(&name, internal(), &["c.example"])],
            uses: vec![used("c.example", &[&name])],
            placeholder: true,
            ..CertsWanted::default()
        });
    }
    assert_eq!(ticket, 100);
    let last = loop {
        let published = receive.recv_timeout(Duration::from_secs(20)).unwrap();
        if published.applied == ticket {
            break published;
        }
    };
    assert!(last.table.entry(&id("a/c99")).is_some() && last.table.len() == 1);
    drop(certs);
    while receive.recv().is_ok() {}
}

#[test]
fn no_key_is_printed() {
    let one = supplied(&["a.example"], NOW, false);
    let secret = String::from_utf8(one.as_ref().unwrap().key_pem.to_vec()).unwrap().lines().nth(1).unwrap().to_owned();
    let wanted = CertsWanted {
        supplied: BTreeMap::from([(id("a/b"), one)]),
        uses: vec![used("a.example", &["a/b"])],
        ..CertsWanted::default()
    };
    let (table, observed) = Bench::new(Store::in_memory()).round(&wanted);
    let text = format!("{wanted:?} {table:?} {observed:?}");
    assert!(!text.contains(&secret) && !text.contains("PRIVATE"));
}

#[test]
fn a_secret_that_edge_may_drive_is_taken_up_and_outlives_itself() {
    let mut bench = Bench::new(Store::in_memory());
    let mut one = wish("a/b", internal(), &["b.example"]);
    one.adopt = Some(edge_config::snapshot::Adopt {
        secret: id("a/b"),
        not_before: NOW,
        not_after: NOW + 90 * DAY,
        sha256: "".into(),
        unfit: None,
    });
    let mut wanted = CertsWanted {
        certificates: vec![one],
        supplied: BTreeMap::from([(id("a/b"), supplied(&["b.example"], NOW, false))]),
        uses: vec![used("b.example", &["a/b"])],
        placeholder: true,
        ..CertsWanted::default()
    };
    let theirs = wanted.supplied[&id("a/b")].as_ref().unwrap().entry.facts.fingerprint;
    let (table, observed) = bench.round(&wanted);
    assert_eq!(table.entry(&id("a/b")).unwrap().facts.fingerprint, theirs);
    assert_eq!(error(&observed, "a/b"), "");
    // Somebody deletes the Secret: what it held is Edge's by now, and nothing new is made.
    wanted.supplied.clear();
    wanted.certificates[0].adopt = None;
    let (table, _) = bench.round(&wanted);
    assert_eq!(table.entry(&id("a/b")).unwrap().facts.fingerprint, theirs);
    // A newer one that is put there by another edge is taken up as well; an older one is not.
    for (from, is_taken) in [(NOW + 10 * DAY, true), (NOW - 20 * DAY, false)] {
        let before = bench.round(&wanted).0.entry(&id("a/b")).unwrap().facts.fingerprint;
        let found = supplied(&["b.example"], from, false);
        let print = found.as_ref().unwrap().entry.facts.fingerprint;
        wanted.written = BTreeMap::from([(id("a/b"), print.to_string().into())]);
        wanted.supplied = BTreeMap::from([(id("a/b"), found)]);
        bench.now.set(NOW + 11 * DAY);
        let after = bench.round(&wanted).0.entry(&id("a/b")).unwrap().facts.fingerprint;
        assert_eq!(after, if is_taken { print } else { before });
    }
}
