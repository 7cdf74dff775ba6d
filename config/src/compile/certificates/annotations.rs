//! What annotations say of the certificates of a Gateway or ListenerSet: cert-manager's, and Edge's own beside them.
//!
//! | annotation | values |
//! | --- | --- |
//! | `edge.internal/issuers` | issuers between commas, the first that can; goes before cert-manager's |
//! | `edge.internal/certificates` | `own`, `defer`: goes before `[certificates] mode` |
//! | `edge.internal/wildcard` | `per-host`, `dns-01`: goes before `[certificates] wildcard` |
//! | `edge.internal/profile` | ACME profile: goes before that of the issuer |

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::super::context::Context;
use crate::certmanager::{CLUSTER_ISSUER_ANNOTATION, ISSUER_ANNOTATION, IssuerRef, PrivateKeyAlgorithm};
use crate::inputs::Meta;
use crate::names::{HostPattern, Kind};
use crate::problem::Severity;
use crate::settings::{CertificateMode, IssuerName, WildcardPolicy};
use crate::snapshot::KeyAlgorithm;
use crate::wire::GoDuration;

/// cert-manager's default lifetime, and its least.
pub(super) const DURATION: Duration = Duration::from_secs(90 * 24 * 3600);
const LEAST_DURATION: Duration = Duration::from_secs(3600);

pub(super) const ISSUERS: &str = "edge.internal/issuers";
const MODE: &str = "edge.internal/certificates";
const WILDCARD: &str = "edge.internal/wildcard";
const PROFILE: &str = "edge.internal/profile";
const IGNORED_LISTENERS: &str = "cert-manager.io/ignore-tls-listeners";

/// The object that declares a listener, and its Gateway, which may be the same.
#[derive(Clone, Copy)]
pub(in super::super) struct Asker<'a> {
    pub kind: Kind,
    pub own: &'a Meta,
    pub gateway: &'a Meta,
}

impl<'a> Asker<'a> {
    fn text(&self, name: &str) -> Option<&'a str> {
        self.own.annotations.get(name).or_else(|| self.gateway.annotations.get(name)).map(String::as_str)
    }

    fn wrong(&self, context: &Context<'_>, name: &str, value: &str, expected: &str) {
        let message = format!("annotation {name} {value:?}: expected {expected}");
        context.problem(Severity::Error, self.kind, self.own, message);
    }

    fn word<T>(&self, context: &Context<'_>, name: &str, words: [(&str, T); 2]) -> Option<T> {
        let value = self.text(name)?;
        let expected = format!("{} or {}", words[0].0, words[1].0);
        let found = words.into_iter().find(|(word, _)| *word == value);
        if found.is_none() {
            self.wrong(context, name, value, &expected);
        }
        found.map(|(_, value)| value)
    }

    pub fn mode(&self, context: &Context<'_>) -> CertificateMode {
        let words = [("own", CertificateMode::Own), ("defer", CertificateMode::Defer)];
        self.word(context, MODE, words).unwrap_or(context.inputs.settings.certificates.mode)
    }

    pub fn wildcard(&self, context: &Context<'_>) -> WildcardPolicy {
        let words = [("per-host", WildcardPolicy::PerHost), ("dns-01", WildcardPolicy::Dns01)];
        self.word(context, WILDCARD, words).unwrap_or(context.inputs.settings.certificates.wildcard)
    }

    /// The list of Edge's own annotation.
    pub fn issuers(&self, context: &Context<'_>) -> Option<Vec<IssuerName>> {
        let value = self.text(ISSUERS)?;
        let mut names = Vec::new();
        for text in value.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            match IssuerName::parse(text) {
                Some(name) => names.push(name),
                None => self.wrong(
                    context,
                    ISSUERS,
                    text,
                    "\"NAME\", \"ClusterIssuer/NAME\", \"Issuer/NAME\" or \"issuers.NAME\"",
                ),
            }
        }
        Some(names)
    }

    /// Whether cert-manager leaves a listener alone, so that it is nobody's by its annotations.
    pub fn ignores(&self, listener: &str) -> bool {
        let list = self.own.annotations.get(IGNORED_LISTENERS);
        list.is_some_and(|list| list.split(',').any(|name| name.trim() == listener))
    }

    /// The issuer that cert-manager's annotations name: a listener's own object first; a ListenerSet also uses its
    /// Gateway's ClusterIssuer. An error where there are two.
    pub fn issuer(&self) -> Result<Option<IssuerRef>, String> {
        let group = |meta: &Meta| {
            meta.annotations.get("cert-manager.io/issuer-group").map_or("cert-manager.io", String::as_str).to_owned()
        };
        let cluster = |meta: &Meta| {
            let name = meta.annotations.get(CLUSTER_ISSUER_ANNOTATION)?;
            Some(IssuerRef { name: name.clone(), kind: "ClusterIssuer".to_owned(), group: group(meta) })
        };
        let issuer = self.own.annotations.get(ISSUER_ANNOTATION).map(|name| {
            let kind = self.own.annotations.get("cert-manager.io/issuer-kind").map_or("Issuer", String::as_str);
            IssuerRef { name: name.clone(), kind: kind.to_owned(), group: group(self.own) }
        });
        match (issuer, cluster(self.own)) {
            (Some(_), Some(_)) => Err(format!(
                "has both annotations {ISSUER_ANNOTATION} and {CLUSTER_ISSUER_ANNOTATION}, expected one of them"
            )),
            (issuer, own) => Ok(issuer.or(own).or_else(|| cluster(self.gateway))),
        }
    }

    /// What annotations shape a certificate; `is_acme` where the CA has a say, too.
    pub(super) fn shape(&self, context: &Context<'_>, usual: PrivateKeyAlgorithm, is_acme: bool) -> Shape {
        let (kind, meta) = (self.kind, self.own);
        let text = |name: &str| meta.annotations.get(&format!("cert-manager.io/{name}")).map(String::as_str);
        let wrong = |name: &str, value: &str, expected: &str| {
            self.wrong(context, &format!("cert-manager.io/{name}"), value, expected);
        };
        let duration = |name: &str| {
            let value = text(name)?;
            let parsed = GoDuration::parse(value);
            if parsed.is_none() {
                wrong(name, value, "a duration such as \"2160h\"");
            }
            parsed
        };
        let wished = duration("duration");
        if wished.is_some() && is_acme {
            let message = "annotation cert-manager.io/duration: the CA and its profiles say how long certificates live";
            context.problem(Severity::Inert, kind, meta, message);
        }
        let renew_before = match (duration("renew-before"), text("renew-before-percentage")) {
            (Some(before), None) => Some(RenewBefore::Time(before.0)),
            (None, Some(value)) => {
                let percentage = value.parse().ok().filter(|percentage| (1..=99).contains(percentage));
                if percentage.is_none() {
                    wrong("renew-before-percentage", value, "1 to 99");
                }
                percentage.map(RenewBefore::Percentage)
            }
            (Some(before), Some(value)) => {
                wrong("renew-before-percentage", value, "it or renew-before, not both");
                Some(RenewBefore::Time(before.0))
            }
            (None, None) => None,
        };
        let (duration, renew_before) =
            lifetime(context, (kind, meta), wished.filter(|_| !is_acme), renew_before, is_acme);
        let size = text("private-key-size").and_then(|value| {
            let parsed = value.parse::<u32>();
            if parsed.is_err() {
                wrong("private-key-size", value, "a number of bits");
            }
            parsed.ok()
        });
        let algorithm = text("private-key-algorithm").map_or(usual, PrivateKeyAlgorithm::parse);
        let items = |name: &str| {
            text(name).into_iter().flat_map(|list| list.split(',')).map(str::trim).filter(|item| !item.is_empty())
        };
        let mut names = Vec::new();
        for name in items("alt-names") {
            match HostPattern::parse(Some(name)) {
                Ok(HostPattern::Exact(_) | HostPattern::Wildcard(_)) => names.push(name.into()),
                Ok(HostPattern::Any) | Err(_) => wrong("alt-names", name, "DNS names between commas"),
            }
        }
        let mut addresses = Vec::new();
        for address in items("ip-sans") {
            match address.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => wrong("ip-sans", address, "IP addresses between commas"),
            }
        }
        Shape {
            common_name: text("common-name").filter(|name| !name.is_empty()).map(Into::into),
            duration,
            renew_before,
            key: key_algorithm(context, (kind, meta), &algorithm, size),
            rotate_key: text("private-key-rotation-policy") != Some("Never"),
            profile: self.text(PROFILE).filter(|profile| !profile.is_empty()).map(Into::into),
            labels: meta.labels.clone(),
            names,
            addresses,
        }
    }
}

pub(super) enum RenewBefore {
    Time(Duration),
    Percentage(u32),
}

/// What a certificate is to be like, beside its names and its issuer.
#[derive(Clone)]
pub(super) struct Shape {
    pub common_name: Option<Box<str>>,
    pub duration: Duration,
    pub renew_before: Duration,
    pub key: KeyAlgorithm,
    pub rotate_key: bool,
    pub profile: Option<Box<str>>,
    /// Of the object that asks: solvers may select by them.
    pub labels: BTreeMap<String, String>,
    /// Beside those of listeners.
    pub names: Vec<Box<str>>,
    pub addresses: Vec<IpAddr>,
}

/// Lifetime and renewal, made sensible. By ACME the CA says how long a certificate lives: without a wish the renewal is
/// zero, which leaves it to the CA and the real lifetime.
pub(super) fn lifetime(
    context: &Context<'_>,
    (kind, meta): (Kind, &Meta),
    duration: Option<GoDuration>,
    renew_before: Option<RenewBefore>,
    is_acme: bool,
) -> (Duration, Duration) {
    let duration = duration.map_or(DURATION, |duration| duration.0);
    let lifetime = duration.max(LEAST_DURATION);
    if lifetime != duration {
        let message = format!("certificate duration {}s is raised to one hour", duration.as_secs());
        context.problem(Severity::Warning, kind, meta, message);
    }
    let renew_before = renew_before.map(|before| match before {
        RenewBefore::Time(before) => before,
        RenewBefore::Percentage(percentage) => lifetime / 100 * percentage,
    });
    let renew_before = renew_before.filter(|before| {
        let sensible = *before < lifetime && !before.is_zero();
        if !sensible {
            let message = format!(
                "certificate renewal {}s before the end of a lifetime of {}s: a third of it is used",
                before.as_secs(),
                lifetime.as_secs()
            );
            context.problem(Severity::Warning, kind, meta, message);
        }
        sensible
    });
    (lifetime, renew_before.unwrap_or(if is_acme { Duration::ZERO } else { lifetime / 3 }))
}

/// cert-manager's defaults: RSA of 2048 bits, ECDSA on P-256.
pub(super) fn key_algorithm(
    context: &Context<'_>,
    (kind, meta): (Kind, &Meta),
    algorithm: &PrivateKeyAlgorithm,
    size: Option<u32>,
) -> KeyAlgorithm {
    let (key, exact) = match (algorithm, size) {
        (PrivateKeyAlgorithm::Rsa, None | Some(2048)) => (KeyAlgorithm::Rsa(2048), true),
        (PrivateKeyAlgorithm::Rsa, Some(3072)) => (KeyAlgorithm::Rsa(3072), true),
        (PrivateKeyAlgorithm::Rsa, Some(bits)) => (KeyAlgorithm::Rsa(4096), bits == 4096),
        (PrivateKeyAlgorithm::Ecdsa, None | Some(256)) => (KeyAlgorithm::EcdsaP256, true),
        (PrivateKeyAlgorithm::Ecdsa, Some(bits)) => (KeyAlgorithm::EcdsaP384, bits == 384),
        (PrivateKeyAlgorithm::Ed25519, _) => (KeyAlgorithm::Ed25519, true),
        (PrivateKeyAlgorithm::Other(_), _) => (KeyAlgorithm::EcdsaP256, false),
    };
    if !exact {
        let asked = size.map(|size| format!(" of {size} bits")).unwrap_or_default();
        let message = format!("private key {algorithm}{asked} is not supported, {key:?} is used");
        context.problem(Severity::Warning, kind, meta, message);
    }
    key
}
