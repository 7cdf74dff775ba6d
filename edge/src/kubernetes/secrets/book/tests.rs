use std::time::{Duration, SystemTime};

use edge_config::Compiled;
use edge_config::core::{Secret, SecretContents};
use edge_config::inputs::{Inputs, Meta, Outdated};
use edge_config::names::ObjectKey;
use edge_config::problem::Origin;
use edge_config::snapshot::{KeyAlgorithm, Snapshot, WantedIssuer};

use super::*;
use crate::certs::table::{CertFacts, Fingerprint};
use crate::source::PasswordText;

fn id(name: &str) -> CertId {
    CertId(ObjectKey::parse(name))
}

fn wish(name: &str) -> WantedCertificate {
    let write = WriteBack { secret: id(name), annotations: Vec::new(), labels: Vec::new(), derived: false };
    WantedCertificate {
        id: id(name),
        issuer: WantedIssuer::SelfSigned,
        dns_names: vec!["a.example".into()],
        addresses: Vec::new(),
        common_name: None,
        is_ca: false,
        key: KeyAlgorithm::EcdsaP256,
        rotate_key: true,
        duration: Duration::from_secs(1),
        renew_before: Duration::from_secs(1),
        profile: None,
        labels: Vec::new(),
        adopt: None,
        write_back: Some(write),
        wanted_by: Vec::new(),
    }
}

fn offer(print: u8) -> Arc<Offer> {
    let facts = CertFacts {
        dns_names: vec!["a.example".into()],
        addresses: Vec::new(),
        not_before: 0,
        not_after: 1,
        issuer: "CA".into(),
        fingerprint: Fingerprint([print; 32]),
    };
    let (chain_pem, key_pem) = ("chain".to_owned(), Zeroizing::new("key".to_owned()));
    Arc::new(Offer { chain_pem, key_pem, ca_pem: None, facts, chain_length: 1, due: None })
}

/// A Secret as the watch shows it once it holds an offer.
fn secret(name: &str, print: u8, line: u32) -> Object<Secret> {
    let sha256 = Fingerprint([print; 32]).to_string();
    let facts = edge_config::core::CertificateFacts {
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
        not_before: 0,
        not_after: 1,
        issuer: "CA".into(),
        key_algorithm: edge_config::core::KeyAlgorithm::EcdsaP256,
        sha256: sha256.clone(),
        is_ca: false,
        is_self_signed: true,
        chain_length: 1,
    };
    let meta = Meta {
        key: ObjectKey::parse(name),
        labels: [(MANAGED_BY.to_owned(), EDGE.to_owned())].into(),
        annotations: [(WRITTEN_ANNOTATION.to_owned(), sha256)].into(),
        generation: 1,
        created: None,
        origin: Origin { file: "kubernetes".into(), line, column: 0 },
    };
    let contents = SecretContents::Tls { certificate: Ok(facts), ca: None };
    Object {
        meta,
        spec: Secret {
            kind: "kubernetes.io/tls".into(),
            keys: Vec::new(),
            contents,
            crl: None,
            faults: std::collections::BTreeMap::new(),
        },
    }
}

struct Bench {
    book: Book,
    wishes: Vec<WantedCertificate>,
    secrets: Vec<Object<Secret>>,
    outdated: Vec<ObjectRef>,
    offers: Offers,
    texts: SecretTexts,
    now: Instant,
}

impl Bench {
    fn new(wishes: &[&str]) -> Self {
        let mut offers = Offers::default();
        for name in wishes {
            offers.certificates.insert(id(name), offer(1));
        }
        Self {
            book: Book::new(Instant::now()),
            wishes: wishes.iter().map(|name| wish(name)).collect(),
            secrets: Vec::new(),
            outdated: Vec::new(),
            offers,
            texts: SecretTexts::new(),
            now: Instant::now(),
        }
    }

    /// What is given out now, in order.
    fn jobs(&mut self) -> Vec<Job> {
        let mut inputs = Inputs::default();
        for secret in &self.secrets {
            inputs.secrets.insert(secret.meta.key.clone(), Arc::new(secret.clone()));
        }
        let why = || Outdated { reason: "broken".into(), since: String::new() };
        inputs.outdated = self.outdated.iter().map(|object| (object.clone(), why())).collect();
        let snapshot = Snapshot { certificates: self.wishes.clone(), ..Snapshot::default() };
        let compiled = Compiled { snapshot: Arc::new(snapshot), ..Compiled::default() };
        let world =
            World { inputs: Arc::new(inputs), compiled: Arc::new(compiled), ..World::empty("e", SystemTime::now()) };
        self.book.note(&Arc::new(world), &Arc::new(self.offers.clone()), &Arc::new(self.texts.clone()));
        let mut jobs = Vec::new();
        while let Next::Do(job) = self.book.next(self.now) {
            jobs.push(*job);
        }
        jobs
    }

    fn names(&mut self) -> String {
        let jobs = self.jobs();
        for job in &jobs {
            self.book.settled(job);
        }
        jobs.iter().map(|job| job.secret.key.to_string()).collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn a_secret_is_looked_at_when_something_changed() {
    let mut bench = Bench::new(&["n/a", "n/b"]);
    assert_eq!(bench.names(), "n/a n/b", "none is there");
    assert_eq!(bench.names(), "", "and nothing happened since");
    bench.secrets = vec![secret("n/a", 1, 0), secret("n/b", 1, 0)];
    assert_eq!(bench.names(), "", "they hold what they should");
    bench.secrets.remove(0);
    assert_eq!(bench.names(), "n/a", "one was deleted");
    bench.secrets.insert(0, secret("n/a", 2, 0));
    assert_eq!(bench.names(), "n/a", "it was replaced");
    bench.secrets[0] = secret("n/a", 1, 0);
    assert_eq!(bench.names(), "");
    bench.offers.certificates.insert(id("n/b"), offer(3));
    assert_eq!(bench.names(), "n/b", "renewed");
    bench.secrets[1] = secret("n/b", 3, 0);
    bench.outdated = vec![ObjectRef::new(Kind::Secret, ObjectKey::parse("n/b"))];
    assert_eq!(bench.names(), "n/b", "somebody emptied it; what is read is its last good version");
    bench.outdated.clear();
    bench.secrets[1].meta.labels.clear();
    assert_eq!(bench.names(), "n/b", "it lost its label");
    bench.secrets[1] = secret("n/b", 4, 7);
    assert_eq!(bench.names(), "", "a file has it now");
    bench.wishes[0].write_back = None;
    bench.secrets.clear();
    assert_eq!(bench.names(), "n/b", "left to others");
    bench.book.take_over();
    assert_eq!(bench.names(), "n/b", "who wrote until now may not have");
}

#[test]
fn failures_and_quarrels_wait() {
    let mut bench = Bench::new(&["n/a"]);
    let jobs = bench.jobs();
    assert_eq!(bench.jobs().len(), 0, "it is under way");
    bench.book.failed(&jobs[0], Failure::Unavailable(Some(Duration::from_secs(7))), bench.now);
    assert_eq!(bench.jobs().len(), 0);
    assert!(matches!(bench.book.next(bench.now), Next::Wait(Some(at)) if at == bench.now + Duration::from_secs(7)));
    // Somebody deletes it each time that it is written, for an hour.
    let mut writes = 0;
    let end = bench.now + Duration::from_secs(3600);
    while bench.now < end {
        bench.secrets.clear();
        for job in bench.jobs() {
            writes += 1;
            bench.book.written(&job, bench.now);
        }
        bench.secrets = vec![secret("n/a", 1, 0)];
        assert_eq!(bench.jobs().len(), 0);
        bench.now += Duration::from_secs(1);
    }
    assert!((5..40).contains(&writes), "{writes} writes in an hour");
}

#[test]
fn keys_of_accounts() {
    let mut bench = Bench::new(&[]);
    let reference = SecretRef { secret: ObjectKey::parse("cert-manager/le"), key: "tls.key".into() };
    bench.offers.accounts.insert(reference.clone(), Arc::new(Zeroizing::new("pem".to_owned())));
    assert_eq!(bench.names(), "cert-manager/le-edge");
    assert_eq!(bench.names(), "");
    let text = |text: &str| Ok(Arc::new(PasswordText::new(text.as_bytes().to_vec())));
    bench.texts.insert(account_secret(&reference), text("pem"));
    assert_eq!(bench.names(), "");
    bench.texts.insert(account_secret(&reference), Err("Secret cert-manager/le-edge does not exist".into()));
    assert_eq!(bench.names(), "cert-manager/le-edge", "it was deleted");
}
