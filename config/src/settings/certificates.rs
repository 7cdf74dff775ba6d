//! What `edge.toml` says about certificates: who issues, which are wanted beside those of listeners, and how ACME is
//! used. Plain values: no file is read here, secrets are named by the files that hold them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde::Serialize;

use crate::issuer::{AcmeIssuer, DnsProvider, SecretSource, Solve};
use crate::names::{CertId, ObjectKey};
use crate::snapshot::KeyAlgorithm;

/// `[certificates]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateSettings {
    /// Whether a listener whose Secret is missing serves a certificate of the internal CA.
    pub placeholder: bool,
    /// Common name of the internal CA, used when it is created.
    pub internal_ca: String,
    pub mode: CertificateMode,
    /// Who issues for listeners that name nobody: the first that can, the others where it cannot. Empty: nobody.
    pub issuers: Vec<IssuerName>,
    /// Where the Secrets of ClusterIssuers are (cert-manager's `--cluster-resource-namespace`).
    pub cluster_resource_namespace: String,
    /// Whether names and their addresses are looked at before a CA is asked.
    pub preflight: bool,
    /// Whether port 80 of a VIP without a listener there is opened for challenges of http-01.
    pub http01_responder: bool,
    /// Name servers for that; empty: those of the system.
    pub resolvers: Vec<SocketAddr>,
    pub wildcard: WildcardPolicy,
}

/// Who issues where cert-manager could.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CertificateMode {
    /// cert-manager what is its own while it is alive, Edge everything else.
    Auto,
    /// Edge, whatever else runs.
    Own,
    /// Never Edge, for what cert-manager would issue.
    Defer,
}

/// What a listener with a wildcard hostname gets from an ACME issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WildcardPolicy {
    /// A certificate for each exact name of its routes.
    PerHost,
    /// The wildcard certificate where a DNS-01 solver is there for it, otherwise as `PerHost`.
    Dns01,
}

/// `NAME`, `ClusterIssuer/NAME`, `Issuer/NAME` (of the namespace of who asks) or `issuers.NAME` (of edge.toml only).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum IssuerName {
    /// A ClusterIssuer of that name, or else the one of edge.toml.
    Any(String),
    ClusterIssuer(String),
    Issuer(String),
    Toml(String),
}

/// `[issuers.NAME]`, `[webhooks."GROUP/SOLVER"]` and `[[certificate]]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct IssuerSettings {
    /// By name; the `id` of each is `issuers.NAME`. File names are relative to the directory of `edge.toml` until
    /// [`Settings::anchored`](super::Settings::anchored).
    pub acme: BTreeMap<String, AcmeIssuer>,
    /// What stands for a cert-manager webhook solver, by `groupName/solverName`: Edge does not call webhooks of the API server.
    pub webhooks: BTreeMap<String, DnsProvider>,
    pub certificates: Vec<CertificateWish>,
}

/// `[[certificate]]`: wanted whether or not a listener uses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateWish {
    /// The Secret by which listeners name it; need not exist.
    pub id: CertId,
    /// Host names, wildcards allowed.
    pub names: Vec<Box<str>>,
    pub addresses: Vec<WishedAddress>,
    /// Empty: those of `[certificates]`.
    pub issuers: Vec<IssuerName>,
    pub profile: Option<Box<str>>,
    pub key: KeyAlgorithm,
    /// The line of `edge.toml` at which it is declared.
    pub line: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum WishedAddress {
    Address(IpAddr),
    /// `vip:NAMESPACE/NAME`: all addresses of the Gateway.
    Gateway(ObjectKey),
}

impl Default for CertificateSettings {
    fn default() -> Self {
        Self {
            placeholder: true,
            internal_ca: "Edge internal CA".to_owned(),
            mode: CertificateMode::Auto,
            issuers: Vec::new(),
            cluster_resource_namespace: "cert-manager".to_owned(),
            preflight: true,
            http01_responder: true,
            resolvers: Vec::new(),
            wildcard: WildcardPolicy::PerHost,
        }
    }
}

impl IssuerSettings {
    /// The same with the names of files relative to `base`.
    pub(super) fn anchor(&mut self, base: &Path) {
        let secret = |source: &mut SecretSource| {
            if let SecretSource::File(path) = source {
                *path = base.join(&*path);
            }
        };
        for issuer in self.acme.values_mut() {
            if let Some(path) = &mut issuer.trust_file {
                *path = base.join(&*path);
            }
            if let Some(account) = &mut issuer.external_account {
                secret(&mut account.key);
            }
        }
        let solvers = self.acme.values_mut().flat_map(|issuer| &mut issuer.solvers);
        let solved = solvers.filter_map(|solver| match &mut solver.solve {
            Solve::Dns01 { provider, .. } => Some(provider),
            Solve::Http01 | Solve::TlsAlpn01 => None,
        });
        for provider in solved.chain(self.webhooks.values_mut()) {
            match provider {
                DnsProvider::Rfc2136 { tsig, .. } => {
                    if let Some(tsig) = tsig {
                        secret(&mut tsig.key);
                    }
                }
                DnsProvider::AcmeDns { accounts, .. } => secret(accounts),
                DnsProvider::Cloudflare { token } => secret(token),
                DnsProvider::Designate { clouds, .. } => secret(clouds),
                DnsProvider::Exec { command, .. } => *command = base.join(&*command),
                DnsProvider::Webhook { authorization, .. } => {
                    if let Some(authorization) = authorization {
                        secret(authorization);
                    }
                }
            }
        }
    }
}
