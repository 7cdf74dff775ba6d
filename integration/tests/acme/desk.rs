//! What every scenario needs: a CA, a responder, an issuer aimed at them, wishes.

use std::time::Instant;

use edge_acme::client::Directory;
use edge_acme::failure::OrderError;
use edge_acme::order::{Account, Obtained, OrderWish, PATIENCE, Secrets};
use edge_config::issuer::{AcmeIssuer, DnsProvider, IssuerId, NameSelector, SecretSource, Solve, Solver};
use edge_config::snapshot::KeyAlgorithm;
use edge_integration::acme::{Memory, Pebble, Responder, Settings};
use edge_integration::lab::skip;

pub struct Desk {
    pub pebble: Pebble,
    pub responder: Responder,
    pub journal: Memory,
    pub issuer: AcmeIssuer,
    pub secrets: Secrets,
}

impl Desk {
    /// `None` where the program is missing.
    pub async fn open(scenario: &str, settings: Settings) -> Option<Self> {
        Self::open_at(scenario, settings, None).await
    }

    /// The same with another port at which the CA looks for http-01.
    pub async fn open_at(scenario: &str, settings: Settings, http_port: Option<u16>) -> Option<Self> {
        let responder = Responder::start().await.unwrap();
        let (http_port, tls_port) = (http_port.unwrap_or(responder.http_port), responder.tls_port);
        let pebble = match Pebble::start(&Settings { http_port, tls_port, ..settings }) {
            Ok(pebble) => pebble,
            Err(why) => {
                skip(scenario, &why);
                return None;
            }
        };
        responder.write_to(&pebble.names);
        let issuer = issuer(&pebble.directory(), Some(pebble.trust()), Solve::Http01);
        Some(Self { pebble, responder, journal: Memory::default(), issuer, secrets: Secrets::default() })
    }

    pub async fn account(&self) -> Result<Account, OrderError> {
        Account::open(&self.issuer, &self.secrets, self.journal.account_now(), &self.journal).await
    }

    pub async fn obtain(&self, wish: &OrderWish) -> Result<Obtained, OrderError> {
        self.account().await?.obtain(wish, &self.responder, &self.journal, None).await
    }

    pub async fn about(&self) -> Directory {
        self.account().await.unwrap().about().await.unwrap()
    }
}

pub fn issuer(directory: &str, trust: Option<&str>, solve: Solve) -> AcmeIssuer {
    AcmeIssuer {
        id: IssuerId("ClusterIssuer test".into()),
        directory: directory.into(),
        contacts: vec!["ops@example.com".into()],
        account_secret: None,
        create_account: true,
        external_account: None,
        profile: None,
        preferred_chain: None,
        trust: trust.map(|pem| pem.as_bytes().into()),
        trust_file: None,
        insecure: false,
        private: true,
        solvers: vec![Solver { names: NameSelector::default(), solve }],
    }
}

pub fn dns01() -> Solve {
    let provider = DnsProvider::Cloudflare { token: SecretSource::File("/nowhere".into()) };
    Solve::Dns01 { provider, follow_cname: false }
}

pub fn wish(names: &[&str]) -> OrderWish {
    OrderWish {
        dns_names: names.iter().map(|name| (*name).into()).collect(),
        addresses: Vec::new(),
        common_name: None,
        key: KeyAlgorithm::EcdsaP256,
        keep_key: None,
        profile: None,
        replaces: None,
        labels: Vec::new(),
        patience: PATIENCE,
    }
}

pub fn said(what: &str, since: Instant) {
    eprintln!("    {what}: {:.1} ms", since.elapsed().as_secs_f64() * 1000.0);
}
