//! cert-manager's Issuer, ClusterIssuer and Certificate: SelfSigned, CA and ACME issuers are acted on, others are known
//! by their names, so that listeners can say that nobody issues for them.

mod acme;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::wire::{GoDuration, open_enum};

pub use acme::{
    AcmeDnsSpec, AcmeIssuerSpec, CloudflareSpec, CnameStrategy, Dns01Spec, ExternalAccountBinding, GatewaySolver,
    Http01Spec, IngressSolver, Opaque, Rfc2136Spec, SecretKeySelector, SolverSelector, SolverSpec, WebhookSpec,
};

/// The annotation on a Gateway that names an Issuer of its namespace.
pub const ISSUER_ANNOTATION: &str = "cert-manager.io/issuer";
/// The annotation on a Gateway that names a ClusterIssuer.
pub const CLUSTER_ISSUER_ANNOTATION: &str = "cert-manager.io/cluster-issuer";
/// An issuer of this group, whatever its kind and name, is Edge's own CA: cert-manager's way to name an issuer that is
/// not one of its own.
pub const INTERNAL_ISSUER_GROUP: &str = "edge.internal";

/// On the wire one member says which issuer it is; files must have exactly one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuerSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_signed: Option<SelfSignedIssuer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<CaIssuer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<AcmeIssuerSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault: Option<UnsupportedIssuer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub venafi: Option<UnsupportedIssuer>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SelfSignedIssuer {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub crl_distribution_points: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CaIssuer {
    /// A Secret with the CA's `tls.crt` and `tls.key`: in the issuer's namespace, or, for a ClusterIssuer, in
    /// cert-manager's.
    pub secret_name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub crl_distribution_points: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ocsp_servers: Vec<String>,
    #[serde(default, rename = "issuingCertificateURLs", skip_serializing_if = "Vec::is_empty")]
    pub issuing_certificate_urls: Vec<String>,
}

/// Vault and Venafi: known to be there, nothing more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnsupportedIssuer {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateSpec {
    pub secret_name: String,
    pub issuer_ref: IssuerRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub common_name: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_names: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_addresses: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uris: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub email_addresses: Vec<String>,
    #[serde(default, rename = "isCA")]
    pub is_ca: bool,
    /// Lifetime; 90 days where absent, as cert-manager has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<GoDuration>,
    /// How long before the end it is renewed; a third of the lifetime where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_before: Option<GoDuration>,
    /// The same in percent of the lifetime, 1 to 99; never beside `renewBefore`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_before_percentage: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<PrivateKeySpec>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub usages: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_template: Option<SecretTemplate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_history_limit: Option<i32>,
}

impl CertificateSpec {
    pub fn addresses(&self) -> impl Iterator<Item = std::net::IpAddr> {
        self.ip_addresses.iter().filter_map(|address| address.parse().ok())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuerRef {
    pub name: String,
    #[serde(default = "issuer_word")]
    pub kind: String,
    #[serde(default = "issuer_group")]
    pub group: String,
}

fn issuer_word() -> String {
    "Issuer".to_owned()
}

fn issuer_group() -> String {
    "cert-manager.io".to_owned()
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrivateKeySpec {
    #[serde(default)]
    pub algorithm: PrivateKeyAlgorithm,
    /// Bits: 2048, 3072, 4096 or 8192 for RSA (default 2048); 256, 384 or 521 for ECDSA (default 256).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation_policy: Option<RotationPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
}

open_enum! {
    #[derive(Default)]
    pub enum PrivateKeyAlgorithm { #[default] Rsa = "RSA", Ecdsa = "ECDSA", Ed25519 = "Ed25519" }
}

open_enum! {
    pub enum RotationPolicy { Never = "Never", Always = "Always" }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub organizations: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub countries: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub organizational_units: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub localities: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub provinces: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretTemplate {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}
