//! ACME issuers with every decision taken: which directory, which account, which solver for which name.
//!
//! In: TOML `[issuers.X]` and cert-manager's Issuer and ClusterIssuer (compile reads both). Out: [`AcmeIssuer`]s in the
//! snapshot, which the certificate side drives. No secret is here, only where it lies.

mod address;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::names::{CertId, ObjectKey};

pub use address::UrlHost;

/// `ClusterIssuer NAME`, `Issuer NS/NAME` or `issuers.NAME` (TOML): unique, and shown as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IssuerId(pub Box<str>);

impl fmt::Display for IssuerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A CA that speaks ACME (RFC 8555).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AcmeIssuer {
    pub id: IssuerId,
    /// URL of the directory; `https` but for loopback addresses.
    pub directory: Box<str>,
    /// `mailto:` contacts without the scheme.
    pub contacts: Vec<Box<str>>,
    /// The Secret with the account key (cert-manager's `privateKeySecretRef`); `None`: the store alone has it.
    pub account_secret: Option<SecretRef>,
    /// Whether an account is made where there is none.
    pub create_account: bool,
    /// RFC 8555 §7.3.4.
    pub external_account: Option<ExternalAccount>,
    /// ACME profile (`classic`, `tlsserver`, `shortlived`); `None`: the CA's own choice.
    pub profile: Option<Box<str>>,
    /// Common name of a certificate in the chain that is to be chosen among several.
    pub preferred_chain: Option<Box<str>>,
    /// PEM certificates that the directory's own TLS certificate must chain to; `None`: the system's.
    #[serde(skip)]
    pub trust: Option<Arc<[u8]>>,
    /// A file with such certificates (TOML), read when the issuer is first used and when it changes; never beside `trust`.
    pub trust_file: Option<PathBuf>,
    /// The directory's TLS certificate is not verified; refused for every directory of a public CA.
    pub insecure: bool,
    /// A CA of one's own: names under private domains and private addresses are asked of it, too.
    pub private: bool,
    /// In the order given; never empty. [`AcmeIssuer::solver`] chooses.
    pub solvers: Vec<Solver>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExternalAccount {
    pub key_id: Box<str>,
    /// The HMAC key, base64url as the CA gives it.
    pub key: SecretSource,
}

/// One key of a Secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct SecretRef {
    pub secret: ObjectKey,
    /// The member of `data`.
    pub key: Box<str>,
}

/// Where a secret text lies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum SecretSource {
    Object(SecretRef),
    /// Read each time it is needed; one newline at its end does not count.
    File(PathBuf),
}

/// How control over names is proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Solver {
    pub names: NameSelector,
    pub solve: Solve,
}

/// cert-manager's selector: what is empty selects all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NameSelector {
    /// Labels that the certificate's owner must have.
    pub labels: Vec<(Box<str>, Box<str>)>,
    /// Whole names, `*.` included where it is meant.
    pub dns_names: Vec<Box<str>>,
    /// A name in one of these zones; the longest zone wins.
    pub dns_zones: Vec<Box<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Solve {
    /// RFC 8555 §8.3; where port 80 cannot be reached, RFC 8737 is tried instead.
    Http01,
    /// RFC 8737 first, then RFC 8555 §8.3.
    TlsAlpn01,
    /// RFC 8555 §8.4.
    Dns01 {
        provider: DnsProvider,
        /// Whether a CNAME at `_acme-challenge` is followed to where the record is to be written.
        follow_cname: bool,
    },
}

/// Who writes TXT records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum DnsProvider {
    /// Dynamic update of a name server, signed by TSIG (RFC 8945) where a key is given.
    Rfc2136 {
        server: ServerAddress,
        tsig: Option<Tsig>,
    },
    /// An acme-dns server; `accounts` holds its JSON of registrations by name.
    AcmeDns {
        server: Box<str>,
        accounts: SecretSource,
    },
    Cloudflare {
        token: SecretSource,
    },
    /// Designate, DNS of OpenStack: application credential or password, in a clouds.yaml.
    Designate {
        clouds: SecretSource,
        cloud: Box<str>,
    },
    /// A program: `COMMAND present|cleanup NAME VALUE`, with a deadline; what it says goes into the reason.
    Exec {
        command: PathBuf,
        arguments: Vec<Box<str>>,
    },
    /// POST of JSON `{"fqdn", "value"}` to `URL/present` and `URL/cleanup`.
    Webhook {
        url: Box<str>,
        authorization: Option<SecretSource>,
    },
}

impl DnsProvider {
    /// The secret that it needs, where it needs one.
    pub fn secret(&self) -> Option<&SecretSource> {
        match self {
            Self::Rfc2136 { tsig, .. } => tsig.as_ref().map(|tsig| &tsig.key),
            Self::AcmeDns { accounts, .. } => Some(accounts),
            Self::Cloudflare { token } => Some(token),
            Self::Designate { clouds, .. } => Some(clouds),
            Self::Exec { .. } => None,
            Self::Webhook { authorization, .. } => authorization.as_ref(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum ServerAddress {
    Address(SocketAddr),
    Name { host: Box<str>, port: u16 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tsig {
    pub key_name: Box<str>,
    pub algorithm: TsigAlgorithm,
    /// Base64.
    pub key: SecretSource,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum TsigAlgorithm {
    HmacSha256,
    HmacSha384,
    HmacSha512,
}

impl AcmeIssuer {
    /// The members of Secrets that it needs beside its account's key: of the account's binding and of DNS providers.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretRef> {
        let binding = self.external_account.iter().map(|account| &account.key);
        let providers = self.solvers.iter().filter_map(|solver| match &solver.solve {
            Solve::Dns01 { provider, .. } => provider.secret(),
            Solve::Http01 | Solve::TlsAlpn01 => None,
        });
        binding.chain(providers).filter_map(|source| match source {
            SecretSource::Object(reference) => Some(reference),
            SecretSource::File(_) => None,
        })
    }

    /// The solver for a name, by cert-manager's order: an exact name goes before a zone, a longer zone before a shorter
    /// one, more labels before fewer, the first of equals. `labels` are those of the certificate's owner.
    pub fn solver<'a>(&'a self, name: &str, labels: impl Fn(&str, &str) -> bool) -> Option<&'a Solver> {
        let name = name.trim_end_matches('.');
        let bare = name.strip_prefix("*.").unwrap_or(name);
        let rank = |solver: &Solver| {
            let NameSelector { labels: wished, dns_names, dns_zones } = &solver.names;
            let exact = dns_names.iter().any(|one| one.eq_ignore_ascii_case(name));
            let in_zone = |zone: &str| {
                let zone = zone.trim_end_matches('.').to_ascii_lowercase();
                bare == zone || bare.strip_suffix(zone.as_str()).is_some_and(|rest| rest.ends_with('.'))
            };
            let zone = dns_zones.iter().filter(|zone| in_zone(zone)).map(|zone| zone.len()).max();
            let matches = wished.iter().all(|(key, value)| labels(key, value))
                && (dns_names.is_empty() || exact)
                && (dns_zones.is_empty() || zone.is_some());
            matches.then_some((exact, zone.unwrap_or(0), wished.len()))
        };
        let mut best: Option<((bool, usize, usize), &Solver)> = None;
        for solver in &self.solvers {
            if let Some(rank) = rank(solver)
                && best.is_none_or(|(found, _)| rank > found)
            {
                best = Some((rank, solver));
            }
        }
        best.map(|(_, solver)| solver)
    }
}

/// Where certificates that Edge obtained are to be written, and what is said of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WriteBack {
    /// The Secret of type `kubernetes.io/tls`.
    pub secret: CertId,
    /// cert-manager's own annotations, so that it finds its work done (`cert-manager.io/issuer-name` and so on).
    pub annotations: Vec<(Box<str>, Box<str>)>,
    pub labels: Vec<(Box<str>, Box<str>)>,
    /// Nobody named this Secret, its name is made from a listener's Secret and a host: one that is there already and is
    /// neither Edge's nor cert-manager's is somebody else's and is left alone.
    pub derived: bool,
}

/// What is known of cert-manager in the cluster that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CertManager {
    /// It makes Certificates for annotated Gateways, too (`--enable-gateway-api`), as far as can be seen; where that
    /// cannot be told, `true`: two issuers of one Secret are worse than none.
    pub gateways: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn solver(names: NameSelector, tag: &str) -> Solver {
        let provider = DnsProvider::Cloudflare { token: SecretSource::File(tag.into()) };
        Solver { names, solve: Solve::Dns01 { provider, follow_cname: false } }
    }

    fn texts(texts: &[&str]) -> Vec<Box<str>> {
        texts.iter().map(|text| (*text).into()).collect()
    }

    #[test]
    fn the_most_particular_solver_is_chosen() {
        let all = NameSelector::default();
        let zone = |zones: &[&str]| NameSelector { dns_zones: texts(zones), ..NameSelector::default() };
        let name = NameSelector { dns_names: texts(&["www.example.com"]), ..NameSelector::default() };
        let labelled = NameSelector { labels: vec![("team".into(), "a".into())], ..NameSelector::default() };
        let solvers = vec![
            solver(all, "all"),
            solver(labelled, "labelled"),
            solver(zone(&["example.com"]), "zone"),
            solver(zone(&["sub.example.com", "other.org"]), "longer"),
            solver(name, "name"),
        ];
        let issuer = AcmeIssuer {
            id: IssuerId("x".into()),
            directory: "https://ca/dir".into(),
            contacts: Vec::new(),
            account_secret: None,
            create_account: true,
            external_account: None,
            profile: None,
            preferred_chain: None,
            trust: None,
            trust_file: None,
            insecure: false,
            private: false,
            solvers,
        };
        for (host, team, expected) in [
            ("www.example.com", "a", "name"),
            ("example.com", "a", "zone"),
            ("*.example.com", "a", "zone"),
            ("a.sub.example.com", "b", "longer"),
            ("notexample.com", "a", "labelled"),
            ("notexample.com", "b", "all"),
        ] {
            let found = issuer.solver(host, |key, value| key == "team" && value == team).unwrap();
            let Solve::Dns01 { provider: DnsProvider::Cloudflare { token: SecretSource::File(tag) }, .. } =
                &found.solve
            else {
                panic!("{found:?}")
            };
            assert_eq!(tag.to_str(), Some(expected), "{host}");
        }
    }
}
