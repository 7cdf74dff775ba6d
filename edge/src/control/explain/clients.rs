//! How it is spoken to clients and to endpoints, in words: what a ClientTrafficPolicy says of a listener, and what a Backend
//! or a BackendTLSPolicy says of an upstream. Nothing is said of what everybody has.

use edge_config::policy::{
    CertificateDemands, CertificateDetails, CertificateField, ClientRules, Detection, NameDemand, NameKind, RequestId,
    TextMatch, TlsParameters, Underscores,
};
use edge_config::snapshot::{
    ClientSettings, ClientValidation, Listener, ListenerServe, Snapshot, SubjectAltName, Terminate, TrustId, Upstream,
};

use crate::control::span;

/// One line for each thing that a listener asks of its clients.
pub fn of_listener(snapshot: &Snapshot, listener: &Listener) -> Vec<String> {
    let mut lines = Vec::new();
    match &listener.serve {
        ListenerServe::Https { tls, .. } | ListenerServe::TlsTerminate { tls, .. } => {
            lines.extend(certificates(snapshot, tls));
            lines.extend(tls.parameters.as_ref().map(|offered| parameters(offered)));
        }
        _ => {}
    }
    lines.extend(listener.client.rules.iter().flat_map(|rules| self::rules(rules)));
    lines.extend(bounds(&listener.client));
    lines
}

/// How an upstream inside TLS is called.
pub fn of_upstream(snapshot: &Snapshot, upstream: &Upstream) -> Vec<String> {
    let Some(tls) = &upstream.tls else { return Vec::new() };
    let name = |name: &SubjectAltName| match name {
        SubjectAltName::Dns(name) | SubjectAltName::Uri(name) => name.to_string(),
    };
    let names: Vec<String> = tls.subject_alt_names.iter().map(name).collect();
    let verified = match tls.trust {
        _ if !tls.is_verified => "whoever answers is believed".to_owned(),
        trust => {
            let cas =
                trust.map_or("the system's CAs".to_owned(), |trust| format!("CAs of {}", source(snapshot, trust)));
            let names = if names.is_empty() { String::new() } else { format!(" and for {}", names.join(" or ")) };
            format!("verified by {cas}{names}")
        }
    };
    let mut lines = vec![format!("TLS to {}, {verified}", tls.hostname)];
    lines.extend(tls.client_certificate.as_ref().map(|own| format!("shows the certificate {own} where it is asked")));
    lines.extend(tls.parameters.as_ref().map(|offered| parameters(offered)));
    lines
}

fn source(snapshot: &Snapshot, trust: TrustId) -> String {
    snapshot.trust.get(trust.index()).map(|trust| trust.source.clone()).unwrap_or_default()
}

fn certificates(snapshot: &Snapshot, tls: &Terminate) -> Vec<String> {
    let of = |trust| match source(snapshot, trust) {
        source if source.is_empty() => String::new(),
        source => format!(" of a CA of {source}"),
    };
    let mut lines = match tls.client_validation {
        ClientValidation::Off => return Vec::new(),
        ClientValidation::Required { trust } => vec![format!("clients need a certificate{}", of(trust))],
        ClientValidation::IfGiven { trust } => {
            vec![format!("clients may show a certificate{}; another one is refused", of(trust))]
        }
        ClientValidation::Any { .. } => vec!["clients need a certificate, which nobody verifies".to_owned()],
        ClientValidation::Requested { .. } => {
            vec!["clients are asked for a certificate, which nobody verifies".to_owned()]
        }
    };
    lines.extend(tls.demands.iter().flat_map(|demands| self::demands(demands)));
    lines
}

fn demands(demands: &CertificateDemands) -> Vec<String> {
    let mut lines = Vec::new();
    match demands.certificates.len() + demands.keys.len() {
        0 => {}
        1 => lines.push("their certificate or its key is the one that the policy names by its digest".to_owned()),
        more => {
            lines.push(format!("their certificate or its key is one of {more} that the policy names by their digests"))
        }
    }
    if !demands.names.is_empty() {
        let names: Vec<String> = demands.names.iter().map(name).collect();
        lines.push(format!("their certificate has the name {}", names.join(" or ")));
    }
    if let Some(revocation) = &demands.revocation {
        let depth = if revocation.leaf_only { "" } else { ", and no CA between" };
        lines.push(format!("their certificate is not revoked by a list of {}{depth}", revocation.source));
    }
    if demands.allows_expired {
        lines.push("their certificate may have expired".to_owned());
    }
    lines
}

fn name(demand: &NameDemand) -> String {
    let kind = match &demand.kind {
        NameKind::Dns => "DNS",
        NameKind::Email => "email",
        NameKind::Ip => "IP",
        NameKind::Uri => "URI",
        NameKind::Other(oid) => oid,
    };
    match &demand.text {
        TextMatch::Exact(text) => format!("{kind} {text}"),
        TextMatch::Prefix(text) => format!("{kind} {text}…"),
        TextMatch::Suffix(text) => format!("{kind} …{text}"),
        TextMatch::Regex(pattern) => format!("{kind} ~ {}", pattern.as_str()),
    }
}

fn parameters(offered: &TlsParameters) -> String {
    let versions = match (offered.tls12, offered.tls13) {
        (true, false) => "TLS 1.2 only",
        (false, true) => "TLS 1.3 only",
        _ => "TLS 1.2 and 1.3",
    };
    let mut parts = vec![versions.to_owned()];
    if !offered.ciphers.is_empty() {
        parts.push(format!("of 1.2 {}", offered.ciphers.join(", ")));
    }
    if !offered.groups.is_empty() {
        parts.push(format!("groups {}", offered.groups.join(", ")));
    }
    parts.extend(offered.alpn.as_ref().map(|names| match names.is_empty() {
        true => "no ALPN".to_owned(),
        false => format!("ALPN {}", names.join(", ")),
    }));
    parts.join("; ")
}

fn rules(rules: &ClientRules) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(rules.detection.as_ref().map(|detection| match detection {
        Detection::Networks(networks) => {
            let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
            format!("the client is the last entry of X-Forwarded-For outside of {}", networks.join(", "))
        }
        Detection::Field { name, is_required: false } => format!("the client is who the field {name} says"),
        Detection::Field { name, is_required: true } => {
            format!("the client is who the field {name} says; 403 without it")
        }
    }));
    lines.extend(rules.certificate.map(|field| match field {
        CertificateField::Always => "X-Forwarded-Client-Cert of any client passes".to_owned(),
        CertificateField::Forward => "X-Forwarded-Client-Cert of clients with a verified certificate passes".to_owned(),
        CertificateField::Append(details) => {
            format!("{} is added to X-Forwarded-Client-Cert of clients with a verified certificate", told(details))
        }
        CertificateField::Set(details) => format!("X-Forwarded-Client-Cert is {}", told(details)),
    }));
    match rules.underscores {
        Underscores::Pass => {}
        Underscores::Reject => lines.push("fields with underscores in their names: 400".to_owned()),
        Underscores::Drop => lines.push("fields with underscores in their names are dropped".to_owned()),
    }
    lines.extend(rules.request_id.map(|id| match id {
        RequestId::Generate => "X-Request-ID is a new one".to_owned(),
        RequestId::PreserveOrGenerate => "X-Request-ID is the client's, or a new one".to_owned(),
        RequestId::Remove => "X-Request-ID is removed".to_owned(),
    }));
    lines.extend(rules.health_path.as_ref().map(|path| format!("{path} is answered here, for whoever watches Edge")));
    lines
}

fn told(details: CertificateDetails) -> String {
    let CertificateDetails { subject, certificate, chain, dns, uri } = details;
    let parts =
        [(true, "Hash"), (certificate, "Cert"), (chain, "Chain"), (subject, "Subject"), (uri, "URI"), (dns, "DNS")];
    let parts: Vec<&str> = parts.iter().filter(|(is_told, _)| *is_told).map(|(_, part)| *part).collect();
    parts.join(", ")
}

fn bounds(client: &ClientSettings) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(limit) = client.connection_limit {
        lines.push(format!("at most {} connections at once", limit.most));
    }
    lines.extend(client.handshake_timeout.map(|limit| format!("timeout of the handshake {}", span::exact(limit))));
    if let Some(bounds) = client.http2 {
        let parts = [
            bounds.streams.map(|most| format!("{most} streams at once")),
            bounds.stream_window.map(|size| format!("a window of {size} bytes for each")),
            bounds.connection_window.map(|size| format!("one of {size} bytes for all")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        lines.push(format!("HTTP/2 inside TLS: {}", parts.join(", ")));
    }
    if let Some(waits) = &client.waits {
        lines.extend(waits.stream.map(|limit| match limit.is_zero() {
            true => "streams may stand still for ever".to_owned(),
            false => format!("streams may stand still for {}", span::exact(limit)),
        }));
        lines.extend(waits.keep.requests.map(|most| format!("connections end after {most} requests")));
        lines.extend(waits.keep.age.map(|age| format!("connections end after {}", span::exact(age))));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use edge_config::policy::{Http2Bounds, Revocation, Sha256};
    use edge_config::snapshot::Trust;

    use super::*;
    use crate::control::fixture::world;

    #[test]
    fn what_a_policy_says_of_a_listener() {
        let world = world();
        let mut snapshot = Snapshot::clone(world.scene().snapshot);
        let usual = |listener: &&Listener| matches!(listener.serve, ListenerServe::Https { .. });
        let mut listener = snapshot.listeners.iter().find(usual).unwrap().clone();
        assert_eq!(of_listener(&snapshot, &listener), Vec::<String>::new(), "nothing where nobody says anything");
        snapshot.trust = vec![Trust { source: "Secret shop/ca".into(), certificates: Vec::new() }];
        let ListenerServe::Https { tls, .. } = &mut listener.serve else { unreachable!() };
        tls.client_validation = ClientValidation::Required { trust: TrustId(0) };
        tls.demands = Some(Arc::new(CertificateDemands {
            keys: vec![Sha256([1; 32])],
            names: vec![NameDemand { kind: NameKind::Uri, text: TextMatch::Prefix("spiffe://a/".into()) }],
            revocation: Some(Revocation { source: "Secret shop/crl".into(), lists: Vec::new(), leaf_only: true }),
            ..CertificateDemands::default()
        }));
        tls.parameters = Some(Arc::new(TlsParameters { tls12: false, alpn: Some(vec!["h2"]), ..Default::default() }));
        let field = CertificateField::Set(CertificateDetails { subject: true, uri: true, ..Default::default() });
        listener.client.rules = ClientRules { certificate: Some(field), ..ClientRules::default() }.or_none();
        listener.client.http2 = Some(Http2Bounds { streams: Some(10), ..Http2Bounds::default() });
        assert_eq!(
            of_listener(&snapshot, &listener),
            [
                "clients need a certificate of a CA of Secret shop/ca",
                "their certificate or its key is the one that the policy names by its digest",
                "their certificate has the name URI spiffe://a/…",
                "their certificate is not revoked by a list of Secret shop/crl",
                "TLS 1.3 only; ALPN h2",
                "X-Forwarded-Client-Cert is Hash, Subject, URI",
                "HTTP/2 inside TLS: 10 streams at once",
            ]
        );
    }
}
