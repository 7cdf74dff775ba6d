//! Diagnosis: a failed order in one sentence that ends in the remedy.
//!
//! In: the failure as the order reports it, what pre-flight saw of the name, how wrong the clock is. Out: a cause for
//! machines and a sentence for people. Pure. What a CA says is quoted short and without control characters.

use std::fmt;
use std::net::IpAddr;

use super::preflight::{Facts, Finding, Severity, Topic, judge};
use crate::challenge::{ChallengeKind, Identifier};
use crate::failure::{Class, Fault, OrderError, Step};
use crate::plan::Timestamp;

mod fault;

/// A clock that is wrong by more than this spoils certificates and signatures.
const SKEW: i64 = 300;

/// What is known beside the failure.
#[derive(Debug, Clone, Copy, Default)]
pub struct Beside<'a> {
    /// Of the name at fault, if it was looked at.
    pub facts: Option<&'a Facts>,
    /// Seconds by which the CA's clock is ahead of ours (`Date` of its answers).
    pub clock_ahead: Option<i64>,
    /// For people: the issuer.
    pub issuer: &'a str,
    /// The profile that was asked for.
    pub profile: Option<&'a str>,
}

/// What went wrong; each has its own remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// Pre-flight has found it, before the CA was asked.
    Preflight,
    ClockWrong,
    CaDown,
    RateLimited,
    AccountGone,
    AccountRefused,
    ExternalAccount,
    Contact,
    Terms,
    Profile,
    NameRefused,
    WildcardWithoutDns,
    NoSuchName,
    DnsFails,
    Caa,
    StaleIpv6,
    WrongAddress,
    ConnectionRefused,
    ConnectionTimeout,
    Unreachable,
    Redirect,
    WrongContent,
    TlsAlpn,
    TxtMissing,
    TxtWrong,
    NotPresented,
    WrongCertificate,
    Other,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    pub cause: Cause,
    /// One sentence without its full stop.
    pub text: String,
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Finds the cause.
pub fn diagnose(error: &OrderError, beside: Beside<'_>) -> Diagnosis {
    let Diagnosis { cause, mut text } = clock(error, beside).unwrap_or_else(|| of(error, beside));
    if let [_, rest @ ..] = error.faults.as_slice()
        && !rest.is_empty()
    {
        text.push_str(&format!("; {} more of its names failed as well", rest.len()));
    }
    if let Some(until) = error.until
        && cause != Cause::RateLimited
    {
        text.push_str(&format!("; {} asks not to be called before {}", ca(beside), Timestamp(until)));
    }
    Diagnosis { cause, text }
}

/// A wrong clock looks like a certificate that is not valid, or like a refused signature.
fn clock(error: &OrderError, beside: Beside<'_>) -> Option<Diagnosis> {
    let ahead = beside.clock_ahead.filter(|ahead| ahead.abs() > SKEW);
    let validity = says(&error.detail, &["certificate expired", "expired", "not valid yet", "notvalidyet"])
        && error.kind.is_none()
        && error.class == Class::Transient
        && says(&error.detail, &["certificate"]);
    let text = match ahead {
        Some(ahead) => {
            let (by, direction) = (ahead.unsigned_abs(), if ahead > 0 { "behind" } else { "ahead of" });
            format!(
                "the clock of this host is {by} s {direction} that of {}: synchronize it (chrony, timesyncd)",
                ca(beside)
            )
        }
        None if validity => format!(
            "the TLS certificate of {} is not valid at this host's time ({}): check the clock, then the CA's certificate",
            ca(beside),
            quote(&error.detail)
        ),
        None => return None,
    };
    Some(Diagnosis { cause: Cause::ClockWrong, text })
}

fn of(error: &OrderError, beside: Beside<'_>) -> Diagnosis {
    let (ca, said) = (ca(beside), quote(&error.detail));
    let kind = error.kind.as_deref().unwrap_or_default();
    if let Some(fault) = error.faults.first() {
        return fault::diagnose(fault, beside);
    }
    let (cause, text) = match (kind, error.step) {
        ("rateLimited", _) => limited(error, beside),
        _ if error.class == Class::Limited => limited(error, beside),
        ("externalAccountRequired", _) => (
            Cause::ExternalAccount,
            format!(
                "{ca} needs an external account binding: get a key id and HMAC key from it and set externalAccountBinding"
            ),
        ),
        (_, Step::Account) if says(&error.detail, &["external", "eab", "hmac", "key id", "keyid", "jws mac"]) => (
            Cause::ExternalAccount,
            format!(
                "{ca} does not accept the external account binding ({said}): check its key id and HMAC key, or get new ones"
            ),
        ),
        ("accountDoesNotExist", _) => (
            Cause::AccountGone,
            format!(
                "{ca} no longer knows the account: remove its key (the Secret or the stored account) so that a new one is made"
            ),
        ),
        ("unauthorized", Step::Account | Step::NewOrder | Step::Authorize | Step::RenewalInfo) => (
            Cause::AccountRefused,
            format!(
                "{ca} refuses the account ({said}): if it was deactivated or revoked, remove its key so that a new one is made"
            ),
        ),
        ("invalidContact" | "unsupportedContact", _) => {
            (Cause::Contact, format!("{ca} refuses the contact address ({said}): correct the issuer's email"))
        }
        ("userActionRequired", _) => {
            (Cause::Terms, format!("{ca} wants its terms to be accepted or an action in its portal ({said})"))
        }
        ("invalidProfile", _) => (Cause::Profile, profile(beside, &said)),
        ("caa", _) => (
            Cause::Caa,
            hint(beside, Topic::Caa, None)
                .unwrap_or_else(|| format!("a CAA record forbids {ca} to issue ({said}): admit it there")),
        ),
        ("rejectedIdentifier" | "unsupportedIdentifier", _) => {
            if says(&error.detail, &["wildcard"]) {
                (
                    Cause::WildcardWithoutDns,
                    format!("{ca} proves wildcards by dns-01 only ({said}): add a dns01 solver"),
                )
            } else {
                (Cause::NameRefused, format!("{ca} does not issue for such a name ({said}): use another issuer for it"))
            }
        }
        (_, Step::Present | Step::Prepare) if says(&error.detail, &["edges answer"]) => (
            Cause::NotPresented,
            format!(
                "not every edge answers the challenge ({said}), and a CA may ask any of them: mend that edge, or drain it"
            ),
        ),
        (_, Step::Present | Step::Prepare) if says(&error.detail, &["secret "]) => (
            Cause::NotPresented,
            format!(
                "credentials that a solver needs are not at hand ({said}): create that Secret, or correct the issuer"
            ),
        ),
        // It is a sentence already, with its remedy, and ours.
        (_, Step::Prepare) if error.class == Class::Validation => (Cause::Preflight, error.detail.to_string()),
        (_, Step::Present) => (Cause::NotPresented, format!("the challenge could not be answered: {said}")),
        (_, Step::Verify) => (
            Cause::WrongCertificate,
            format!("{ca} issued a certificate that does not fit ({said}): it is not used; report this to the CA"),
        ),
        _ if error.class == Class::Config && says(&error.detail, &["wildcard", "dns-01", "dns01"]) => (
            Cause::WildcardWithoutDns,
            format!("a wildcard is proved by dns-01 only ({said}): add a dns01 solver, or ask for whole host names"),
        ),
        _ if error.class == Class::Config && says(&error.detail, &["profile"]) => {
            (Cause::Profile, profile(beside, &said))
        }
        _ if error.class == Class::Transient => (
            Cause::CaDown,
            format!(
                "{ca} is down or cannot be reached ({said}): nothing is lost, it is tried again; \
                     if others can reach it, check this host's way out and its DNS"
            ),
        ),
        _ => (Cause::Other, format!("{}: {said}{}", error.step, kind_of(kind))),
    };
    Diagnosis { cause, text }
}

fn profile(beside: Beside<'_>, said: &str) -> String {
    let wanted = beside.profile.map_or_else(|| "that was asked for".into(), |profile| format!("{profile:?}"));
    format!("{} has no profile {wanted} ({said}): correct the issuer's profile or leave it out", ca(beside))
}

fn limited(error: &OrderError, beside: Beside<'_>) -> (Cause, String) {
    let until = match error.until {
        Some(until) => format!("nothing is asked before {}", Timestamp(until)),
        None => "it is tried again later and less often".into(),
    };
    let remedy = if says(&error.detail, &["exact set"]) {
        "find out what orders the same names again and again"
    } else if says(&error.detail, &["failed authorizations", "failed validations", "authorization failures"]) {
        "mend the cause of the failures first (see the failure before this one)"
    } else {
        "spread new names over time, or ask the CA for a higher limit"
    };
    let text = format!("{} limits the rate ({}): {until}; {remedy}", ca(beside), quote(&error.detail));
    (Cause::RateLimited, text)
}

fn ca(beside: Beside<'_>) -> &str {
    match (beside.facts, beside.issuer) {
        (Some(facts), _) if !facts.wish.ca.name.is_empty() => &facts.wish.ca.name,
        (_, "") => "the CA",
        (_, issuer) => issuer,
    }
}

/// What pre-flight has against the name in this matter, if anything.
fn hint(beside: Beside<'_>, topic: Topic, of: Option<&Identifier>) -> Option<String> {
    let facts = beside.facts.filter(|facts| of.is_none_or(|of| facts.wish.identifier == *of))?;
    let against = |finding: &Finding| finding.topic == topic && finding.severity != Severity::Fine;
    judge(facts).into_iter().find(against).map(|finding| finding.text)
}

/// Whether `address` is one of ours; `None` where that is not known.
fn is_ours(beside: Beside<'_>, address: IpAddr) -> Option<bool> {
    let entries = &beside.facts?.wish.entries;
    if entries.is_empty() { None } else { Some(entries.iter().any(|entry| entry.address == address)) }
}

fn says(text: &str, any_of: &[&str]) -> bool {
    let text = text.to_ascii_lowercase();
    any_of.iter().any(|part| text.contains(part))
}

fn kind_of(kind: &str) -> String {
    if kind.is_empty() { String::new() } else { format!(" ({kind})") }
}

/// A CA's words: one line, short.
fn quote(text: &str) -> String {
    const LONGEST: usize = 240;
    let mut line: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    if let Some((end, _)) = line.char_indices().nth(LONGEST) {
        line.truncate(end);
        line.push('…');
    }
    let line = line.trim().trim_end_matches('.');
    if line.is_empty() { "it gave no reason".into() } else { line.to_owned() }
}

fn challenge_of(fault: &Fault) -> &'static str {
    match fault.challenge {
        Some(ChallengeKind::Http01) => "http-01",
        Some(ChallengeKind::TlsAlpn01) => "tls-alpn-01",
        Some(ChallengeKind::Dns01) => "dns-01",
        None => "its challenge",
    }
}

#[cfg(test)]
mod tests;
