//! `[certificates]` and `[[certificate]]`: who issues, and what is wanted beside the certificates of listeners.

use std::net::SocketAddr;

use super::{Section, Sink, not_empty, secret_key, set};
use crate::names::{CertId, HostPattern, Kind, ObjectKey};
use crate::public;
use crate::settings::{
    CertificateMode, CertificateSettings, CertificateWish, IssuerName, IssuerSettings, WildcardPolicy, WishedAddress,
};
use crate::snapshot::KeyAlgorithm;
use crate::validate::{is_label, is_object_name};
use crate::yaml::Quoted;

/// A list of issuers is a list of fall-backs: nobody needs more.
const MOST_ISSUERS: usize = 8;
/// What fits into a certificate of the public CAs.
const MOST_NAMES: usize = 100;

pub(super) fn certificates(mut section: Section<'_>, certificates: &mut CertificateSettings, sink: &mut Sink<'_>) {
    set(&mut certificates.placeholder, section.boolean(sink, "placeholder"));
    let name = section.parsed(sink, "internal_ca", |text| {
        // RFC 5280, ub-common-name.
        if (1..=64).contains(&text.chars().count()) {
            Ok(text.to_owned())
        } else {
            Err("is empty or longer than 64 characters".to_owned())
        }
    });
    set(&mut certificates.internal_ca, name);
    let modes = [("auto", CertificateMode::Auto), ("own", CertificateMode::Own), ("defer", CertificateMode::Defer)];
    set(&mut certificates.mode, section.word(sink, "mode", &modes));
    set(&mut certificates.issuers, issuers(&mut section, sink));
    let namespace = section.parsed(sink, "cluster_resource_namespace", super::namespace);
    set(&mut certificates.cluster_resource_namespace, namespace);
    set(&mut certificates.preflight, section.boolean(sink, "preflight"));
    set(&mut certificates.http01_responder, section.boolean(sink, "http01_responder"));
    set(&mut certificates.resolvers, section.list(sink, "resolvers", resolver));
    let policies = [("per-host", WildcardPolicy::PerHost), ("dns-01", WildcardPolicy::Dns01)];
    set(&mut certificates.wildcard, section.word(sink, "wildcard", &policies));
    section.finish(sink);
}

fn resolver(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse().map(|address| SocketAddr::new(address, 53)).or_else(|_| text.parse());
    match address {
        Ok(address) if address.port() > 0 => Ok(address),
        _ => Err(format!("{} is no address of a name server, expected one such as \"192.0.2.53\"", Quoted(text))),
    }
}

/// `issuers`, a list whose order counts, or `issuer`, one.
fn issuers(section: &mut Section<'_>, sink: &mut Sink<'_>) -> Option<Vec<IssuerName>> {
    let start = section.value_start("issuers");
    if section.has("issuer") && section.has("issuers") {
        section.error(sink, "has both issuer and issuers, expected one of them");
    }
    let one = section.parsed(sink, "issuer", issuer_name).map(|name| vec![name]);
    let several = section.list(sink, "issuers", issuer_name);
    if let Some(list) = &several {
        if list.len() > MOST_ISSUERS {
            let message =
                format!("{} has {} items, expected at most {MOST_ISSUERS}", section.path("issuers"), list.len());
            sink.error(start..start, message);
        }
        for (index, name) in list.iter().enumerate().filter(|(index, name)| list[..*index].contains(name)) {
            sink.error(start..start, format!("{}[{index}]: {name} is there twice", section.path("issuers")));
        }
    }
    several.or(one)
}

pub(super) fn issuer_name(text: &str) -> Result<IssuerName, String> {
    IssuerName::parse(text).ok_or_else(|| {
        format!(
            "{} is no issuer, expected \"NAME\", \"ClusterIssuer/NAME\", \"Issuer/NAME\" or \"issuers.NAME\"",
            Quoted(text)
        )
    })
}

impl IssuerName {
    /// As in edge.toml and in the annotation `edge.internal/issuers`.
    pub fn parse(text: &str) -> Option<Self> {
        let (make, name): (fn(String) -> Self, &str) = match (text.split_once('/'), text.strip_prefix("issuers.")) {
            (Some(("ClusterIssuer", name)), _) => (Self::ClusterIssuer, name),
            (Some(("Issuer", name)), _) => (Self::Issuer, name),
            (Some(_), _) => return None,
            (None, Some(name)) => (Self::Toml, name),
            (None, None) => (Self::Any, text),
        };
        is_object_name(Kind::ClusterIssuer, name).then(|| make(name.to_owned()))
    }
}

impl std::fmt::Display for IssuerName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any(name) => f.write_str(name),
            Self::ClusterIssuer(name) => write!(f, "ClusterIssuer/{name}"),
            Self::Issuer(name) => write!(f, "Issuer/{name}"),
            Self::Toml(name) => write!(f, "issuers.{name}"),
        }
    }
}

/// `[[certificate]]`
pub(super) fn wishes(root: &mut Section<'_>, settings: &mut IssuerSettings, sink: &mut Sink<'_>) {
    for section in root.sections(sink, "certificate") {
        let start = section.start();
        let Some(wish) = wish(section, sink) else { continue };
        if settings.certificates.iter().any(|known| known.id == wish.id) {
            sink.error(start..start, format!("certificate: secret {} is there twice", wish.id));
        }
        settings.certificates.push(wish);
    }
}

fn wish(mut section: Section<'_>, sink: &mut Sink<'_>) -> Option<CertificateWish> {
    let line = sink.line(section.start());
    let id = section.required(sink, "secret", |text| secret_key(text).map(CertId));
    let has = (section.has("names"), section.has("addresses"));
    let names = section.list(sink, "names", |text| match HostPattern::parse(Some(text)) {
        Ok(HostPattern::Any) => Err("is empty".to_owned()),
        Ok(_) => public::issuable_name(text).map(|()| Box::<str>::from(text)),
        Err(why) => Err(format!("{} {why}", Quoted(text))),
    });
    let addresses = section.list(sink, "addresses", wished_address);
    let is_sound = (names.is_some() || !has.0) && (addresses.is_some() || !has.1);
    let (names, addresses) = (names.unwrap_or_default(), addresses.unwrap_or_default());
    if names.is_empty() && addresses.is_empty() && is_sound {
        section.error(sink, "has neither names nor addresses, expected at least one");
    }
    if names.len() + addresses.len() > MOST_NAMES {
        let found = names.len() + addresses.len();
        section.error(sink, &format!("has {found} names and addresses, expected at most {MOST_NAMES}"));
    }
    let issuers = issuers(&mut section, sink).unwrap_or_default();
    let profile = section.parsed(sink, "profile", not_empty).map(Into::into);
    let keys = [
        ("ecdsa-p256", KeyAlgorithm::EcdsaP256),
        ("ecdsa-p384", KeyAlgorithm::EcdsaP384),
        ("rsa-2048", KeyAlgorithm::Rsa(2048)),
        ("rsa-3072", KeyAlgorithm::Rsa(3072)),
        ("rsa-4096", KeyAlgorithm::Rsa(4096)),
    ];
    let key = section.word(sink, "key", &keys).unwrap_or(KeyAlgorithm::EcdsaP256);
    section.finish(sink);
    Some(CertificateWish { id: id?, names, addresses, issuers, profile, key, line })
}

fn wished_address(text: &str) -> Result<WishedAddress, String> {
    if let Some(gateway) = text.strip_prefix("vip:") {
        return match gateway.split_once('/') {
            Some((namespace, name)) if is_label(namespace) && is_object_name(Kind::Gateway, name) => {
                Ok(WishedAddress::Gateway(ObjectKey::new(namespace, name)))
            }
            _ => Err(format!("{} names no Gateway, expected \"vip:namespace/name\"", Quoted(text))),
        };
    }
    let address = text.parse().map(WishedAddress::Address);
    address.map_err(|_| format!("{} is no IP address, expected one or \"vip:namespace/name\"", Quoted(text)))
}
