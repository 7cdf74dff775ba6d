//! What a CA found wrong with one name. Texts are those of Boulder and Pebble, which most CAs run or imitate; where
//! none is recognized, the problem type decides (RFC 8555 §6.7).

use std::net::IpAddr;

use super::{Beside, Cause, Diagnosis, ca, challenge_of, hint, is_ours, quote, says};
use crate::challenge::ChallengeKind;
use crate::dns::preflight::Topic;
use crate::failure::{Class, Fault};

pub(super) fn diagnose(fault: &Fault, beside: Beside<'_>) -> Diagnosis {
    let (ca, said) = (ca(beside), quote(&fault.detail));
    let name = format!("{}{}", if fault.wildcard { "*." } else { "" }, fault.identifier);
    let hinted = |topic| hint(beside, topic, Some(&fault.identifier));
    let kind = fault.kind.as_deref().unwrap_or_default();
    let dns = fault.challenge == Some(ChallengeKind::Dns01);
    let (cause, text) = match kind {
        "caa" => (
            Cause::Caa,
            hinted(Topic::Caa)
                .unwrap_or_else(|| format!("a CAA record forbids {ca} to issue for {name} ({said}): admit it there")),
        ),
        "dns" => of_dns(&name, &said, fault, beside),
        // Pebble and Boulder call both a missing and a wrong TXT record unauthorized.
        "unauthorized" | "incorrectResponse" if dns => of_txt(&name, &said, fault, beside),
        _ if redirects(fault) => (
            Cause::Redirect,
            format!(
                "{ca} was redirected for {name} to a place where it does not look ({said}): \
                 let redirects of port 80 lead to http or https on ports 80 and 443 only, or exempt /.well-known/acme-challenge/"
            ),
        ),
        "unauthorized" | "incorrectResponse" | "connection" | "tls" if stale(fault, beside).is_some() => (
            Cause::StaleIpv6,
            hinted(Topic::StaleIpv6).unwrap_or_else(|| {
                let address = stale(fault, beside).map(|address| address.to_string()).unwrap_or_default();
                format!(
                    "{ca} looked for {name} at {address}, which is not ours: remove that AAAA record or point it to us"
                )
            }),
        ),
        // Not every CA says where it looked, and what was known before it looked explains most of it.
        "unauthorized" | "incorrectResponse" | "connection" | "tls"
            if used(fault).is_none() && hinted(Topic::Addresses).is_some() =>
        {
            let hint = hinted(Topic::Addresses).unwrap_or_default();
            (Cause::WrongAddress, format!("{ca} did not find us at {name} ({said}): {hint}"))
        }
        "connection" => of_connection(&name, &said, fault, beside),
        "tls" => of_tls(&name, &said, ca),
        "unauthorized" | "incorrectResponse" if fault.challenge == Some(ChallengeKind::TlsAlpn01) => {
            of_tls(&name, &said, ca)
        }
        "unauthorized" | "incorrectResponse" => of_content(&name, &said, fault, beside),
        "rejectedIdentifier" | "unsupportedIdentifier" if fault.wildcard && says(&fault.detail, &["wildcard"]) => (
            Cause::WildcardWithoutDns,
            format!("{ca} proves wildcards by dns-01 only ({said}): add a dns01 solver for {name}"),
        ),
        "rejectedIdentifier" | "unsupportedIdentifier" => (
            Cause::NameRefused,
            format!(
                "{ca} does not issue for {name} ({said}): use another issuer for it or remove it from the listener"
            ),
        ),
        "rateLimited" => (
            Cause::RateLimited,
            format!("{ca} limits the rate for {name} ({said}): mend what made it fail before; it is tried again later"),
        ),
        _ if fault.wildcard && fault.class == Class::Config => (
            Cause::WildcardWithoutDns,
            format!("{name} is proved by dns-01 only ({said}): add a dns01 solver, or ask for whole host names"),
        ),
        _ => (Cause::Other, format!("{ca} refused {name} by {} ({said})", challenge_of(fault))),
    };
    Diagnosis { cause, text }
}

fn of_dns(name: &str, said: &str, fault: &Fault, beside: Beside<'_>) -> (Cause, String) {
    let (ca, hinted) = (ca(beside), |topic| hint(beside, topic, Some(&fault.identifier)));
    if says(&fault.detail, &["txt"]) && fault.challenge == Some(ChallengeKind::Dns01) {
        return of_txt(name, said, fault, beside);
    }
    if says(&fault.detail, &["caa"]) {
        let text = hinted(Topic::Caa).unwrap_or_else(|| {
            format!(
                "{ca} could not look up the CAA records for {name} ({said}): mend the zone's name servers or DNSSEC"
            )
        });
        return (Cause::DnsFails, text);
    }
    if says(&fault.detail, &["nxdomain", "no such host", "no valid a", "no valid ip", "no valid aaaa"]) {
        let text = hinted(Topic::Addresses).unwrap_or_else(|| {
            format!("{ca} finds no address for {name} ({said}): create its A or AAAA record, publicly and in all name servers")
        });
        return (Cause::NoSuchName, text);
    }
    let text = hinted(Topic::Addresses).or_else(|| hinted(Topic::Record)).unwrap_or_else(|| {
        format!(
            "{ca} could not look up {name} ({said}): mend the name servers of its zone, its delegation or its DNSSEC"
        )
    });
    (Cause::DnsFails, text)
}

fn of_txt(name: &str, said: &str, fault: &Fault, beside: Beside<'_>) -> (Cause, String) {
    let (ca, place) = (ca(beside), format!("_acme-challenge.{}", fault.identifier));
    let hinted =
        hint(beside, Topic::Record, Some(&fault.identifier)).map(|hint| format!("; {hint}")).unwrap_or_default();
    if says(&fault.detail, &["nxdomain", "no txt", "not found"]) {
        let text = format!(
            "{ca} found no TXT record at {place} for {name} ({said}): see that the zone there is the one the solver writes, \
             and that all its name servers get changes at once{hinted}"
        );
        return (Cause::TxtMissing, text);
    }
    if says(&fault.detail, &["incorrect", "did not match", "correct value", "wrong"]) {
        let text = format!(
            "{ca} found an old or foreign TXT record at {place} for {name} ({said}): remove what is left there, \
             and see that secondaries follow quickly{hinted}"
        );
        return (Cause::TxtWrong, text);
    }
    (
        Cause::DnsFails,
        format!("{ca} could not look up {place} ({said}): mend the name servers of its zone or its DNSSEC{hinted}"),
    )
}

fn of_connection(name: &str, said: &str, fault: &Fault, beside: Beside<'_>) -> (Cause, String) {
    let ca = ca(beside);
    let (used, port) = (used(fault), port(fault));
    let place = match used {
        Some(address) => format!("{address} port {port}"),
        None => format!("port {port}"),
    };
    if let Some(address) = used
        && is_ours(beside, address) == Some(false)
    {
        let text =
            format!("{ca} looked for {name} at {place}, which is not ours ({said}): point the name to our addresses");
        return (Cause::WrongAddress, text);
    }
    let (cause, what) = if says(&fault.detail, &["refused"]) {
        (Cause::ConnectionRefused, "was refused the connection")
    } else if says(&fault.detail, &["timeout", "timed out", "deadline"]) {
        (Cause::ConnectionTimeout, "got no answer")
    } else {
        (Cause::Unreachable, "could not complete the exchange")
    };
    let remedy = match cause {
        Cause::ConnectionRefused => {
            "see that the name leads to an announced address and nothing refuses that port before us"
        }
        Cause::ConnectionTimeout => "let every firewall on the way pass that port from anywhere",
        _ => "see that the way to that port is open and nothing on it answers in our place",
    };
    let hinted = hint(beside, Topic::Announcement, Some(&fault.identifier)).map(|hint| format!("; {hint}"));
    (cause, format!("{ca} {what} at {place} for {name} ({said}): {remedy}{}", hinted.unwrap_or_default()))
}

fn of_content(name: &str, said: &str, fault: &Fault, beside: Beside<'_>) -> (Cause, String) {
    let ca = ca(beside);
    let at = used(fault).map(|address| format!(" from {address}")).unwrap_or_default();
    if used(fault).and_then(|address| is_ours(beside, address)) == Some(false) {
        let text = format!("{ca} got another server's answer{at} for {name} ({said}): point the name to our addresses");
        return (Cause::WrongAddress, text);
    }
    let text = hint(beside, Topic::Edges, Some(&fault.identifier)).unwrap_or_else(|| {
        format!(
            "{ca} got a wrong answer{at} for {name} ({said}): let no proxy, CDN or other server before the edges \
             answer /.well-known/acme-challenge/"
        )
    });
    (Cause::WrongContent, text)
}

fn of_tls(name: &str, said: &str, ca: &str) -> (Cause, String) {
    let text = format!(
        "{ca} did not meet our answer on port 443 for {name} ({said}): let TLS reach the edges untouched, or open port 80 for http-01"
    );
    (Cause::TlsAlpn, text)
}

/// Let's Encrypt goes to ports 80 and 443 only, by http and https only.
fn redirects(fault: &Fault) -> bool {
    let texts = ["invalid port in redirect", "redirect target", "too many redirects", "redirect loop", "in redirect"];
    let elsewhere = fault.looked_at.len() > 1
        && fault.looked_at.last().and_then(|last| last.port).is_some_and(|port| port != 80 && port != 443);
    fault.challenge != Some(ChallengeKind::Dns01) && (says(&fault.detail, &texts) || elsewhere)
}

/// The IPv6 address that was tried though only IPv4 is ours.
fn stale(fault: &Fault, beside: Beside<'_>) -> Option<IpAddr> {
    used(fault).filter(|address| address.is_ipv6() && is_ours(beside, *address) == Some(false))
}

fn used(fault: &Fault) -> Option<IpAddr> {
    fault.looked_at.last().and_then(|last| last.used)
}

fn port(fault: &Fault) -> u16 {
    let looked = fault.looked_at.last().and_then(|last| last.port);
    looked.unwrap_or(if fault.challenge == Some(ChallengeKind::TlsAlpn01) { 443 } else { 80 })
}
