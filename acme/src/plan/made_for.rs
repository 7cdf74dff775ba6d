//! What a certificate was made for: kept beside it, and compared with what is wanted now.

use std::net::IpAddr;

use edge_config::issuer::IssuerId;
use edge_config::snapshot::{KeyAlgorithm, WantedCertificate, WantedIssuer};
use serde::{Deserialize, Serialize};

use super::IssuerState;

/// What a certificate was made for; it is stored beside it, and a difference to what is wanted means a new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeFor {
    /// Of ACME: the [`IssuerId`].
    pub issuer: String,
    /// Who signed it: another CA, or the same one with a new key, makes a chain that no longer holds. Empty for ACME.
    pub signer: KeyId,
    pub dns_names: Vec<Box<str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    pub common_name: Option<Box<str>>,
    pub is_ca: bool,
    pub key: String,
    /// Ordered from an ACME CA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<MadeByAcme>,
    /// It was made by somebody else for somebody else: it is good if it bears the names that are wanted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
    /// The CA was told not to vouch for it any more: its key is never used again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revoked: bool,
}

/// By which CA, and how the CA knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeByAcme {
    pub directory: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Box<str>>,
    /// URL of the account that got it; none in an attempt. Another account may not say that it replaces it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<Box<str>>,
    /// RFC 9773 §4.1; none in an attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ari_id: Option<Box<str>>,
}

/// SHA-256 over subject and public key, in hexadecimal digits: what a signature binds to.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub String);

impl MadeFor {
    /// For a certificate that is made here.
    pub fn new(wanted: &WantedCertificate, signer: KeyId) -> Self {
        Self {
            issuer: issuer_text(&wanted.issuer),
            signer,
            dns_names: wanted.dns_names.clone(),
            addresses: wanted.addresses.clone(),
            common_name: wanted.common_name.clone(),
            is_ca: wanted.is_ca,
            key: key_text(wanted.key),
            acme: None,
            adopted: false,
            revoked: false,
        }
    }

    /// For a certificate that is to be ordered from this issuer.
    pub fn ordered(wanted: &WantedCertificate, id: &IssuerId, issuer: &IssuerState) -> Self {
        let profile = wanted.profile.clone().or_else(|| issuer.profile.clone());
        let acme = MadeByAcme { directory: issuer.directory.clone(), profile, account: None, ari_id: None };
        Self { issuer: id.to_string(), acme: Some(acme), ..Self::new(wanted, KeyId::default()) }
    }

    /// What an attempt has become, once its certificate is there.
    pub fn obtained(mut self, account: Box<str>, ari_id: Option<Box<str>>) -> Self {
        if let Some(acme) = &mut self.acme {
            acme.account = Some(account);
            acme.ari_id = ari_id;
        }
        self
    }

    /// For a certificate that was obtained elsewhere, by these names.
    pub fn adopted(wanted: &WantedCertificate, dns_names: Vec<Box<str>>, addresses: Vec<IpAddr>) -> Self {
        let issuer = match &wanted.issuer {
            WantedIssuer::Acme(issuers) => issuers.first().map(ToString::to_string).unwrap_or_default(),
            local => issuer_text(local),
        };
        Self { issuer, dns_names, addresses, adopted: true, ..Self::new(wanted, KeyId::default()) }
    }

    /// Whether the next one may have its key.
    pub(super) fn lends_key(&self, wanted: &WantedCertificate) -> bool {
        !wanted.rotate_key && !self.revoked && self.key == key_text(wanted.key)
    }

    /// Whether Edge's own CA made it, which stands in for others.
    pub fn is_internal(&self) -> bool {
        self.issuer == INTERNAL
    }

    /// Who made it, for people.
    pub fn maker(&self) -> String {
        match self.issuer.strip_prefix("ca ") {
            Some(ca) => format!("CA {ca}"),
            None if self.is_internal() => "internal CA".to_owned(),
            None => self.issuer.clone(),
        }
    }

    /// Whether it bears one of the names that are wanted at least: for that one it is better than what nobody trusts.
    pub(super) fn is_of_use(&self, wanted: &WantedCertificate) -> bool {
        if self.is_ca || wanted.is_ca {
            return self.is_ca == wanted.is_ca && self.common_name == wanted.common_name;
        }
        wanted.dns_names.iter().any(|name| covers(&self.dns_names, name))
            || wanted.addresses.iter().any(|address| self.addresses.contains(address))
    }

    /// What of the names, the key or the kind is another than is wanted.
    pub(super) fn difference(&self, wanted: &WantedCertificate) -> Option<&'static str> {
        if self.adopted {
            let named = wanted.dns_names.iter().all(|name| covers(&self.dns_names, name));
            let addressed = wanted.addresses.iter().all(|address| self.addresses.contains(address));
            return (!named || !addressed).then_some("the list of its names");
        }
        if self.dns_names != wanted.dns_names || self.addresses != wanted.addresses {
            Some("the list of its names")
        } else if self.common_name != wanted.common_name {
            Some("its common name")
        } else if self.is_ca != wanted.is_ca {
            Some("isCA")
        } else if self.key != key_text(wanted.key) {
            Some("its key algorithm")
        } else {
            None
        }
    }
}

/// RFC 9525 §6.3: `*` stands for one label.
fn covers(names: &[Box<str>], name: &str) -> bool {
    let above = name.split_once('.').map(|(_, above)| above);
    names.iter().any(|one| {
        one.eq_ignore_ascii_case(name)
            || one.strip_prefix("*.").is_some_and(|zone| above.is_some_and(|above| above.eq_ignore_ascii_case(zone)))
    })
}

const INTERNAL: &str = "internal";

pub(super) fn issuer_text(issuer: &WantedIssuer) -> String {
    match issuer {
        WantedIssuer::Internal { .. } | WantedIssuer::Nobody { .. } => INTERNAL.into(),
        WantedIssuer::SelfSigned => "self-signed".into(),
        WantedIssuer::Ca(id) => format!("ca {id}"),
        WantedIssuer::Acme(issuers) => issuers.iter().fold("acme".into(), |text, one| format!("{text} {one:?}")),
    }
}

pub(super) fn key_text(key: KeyAlgorithm) -> String {
    match key {
        KeyAlgorithm::EcdsaP256 => "ecdsa-p256".into(),
        KeyAlgorithm::EcdsaP384 => "ecdsa-p384".into(),
        KeyAlgorithm::Ed25519 => "ed25519".into(),
        KeyAlgorithm::Rsa(bits) => format!("rsa-{bits}"),
    }
}
