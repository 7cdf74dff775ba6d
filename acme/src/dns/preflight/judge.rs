//! The judgement of pre-flight: facts in, findings out, nothing else.

use std::fmt::Display;
use std::net::IpAddr;

use super::{Addresses, Announced, Entry, Facts, Finding, RecordPlace, Said, Seen, Severity, Sight, Stands, Topic};
use super::{Wish, Written};
use crate::challenge::{ChallengeKind, Identifier};
use crate::dns::caa::{self, Asker, Leave};

/// Everything there is to say, what stops first.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Findings(Vec::new());
    challenge(&facts.wish, &mut findings);
    match &facts.wish.identifier {
        Identifier::Ip(address) => own_address(*address, &facts.wish, &mut findings),
        Identifier::Dns(name) => {
            if let Some(addresses) = &facts.addresses {
                lead(name, addresses, &facts.wish, &mut findings);
            }
            leave(name, facts, &mut findings);
            if let Some(place) = &facts.record {
                record(place, facts.wish.written, &mut findings);
            }
        }
    }
    edges(&facts.wish, &mut findings);
    findings.0.sort_by_key(|finding| (finding.severity, finding.topic));
    findings.0
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, severity: Severity, topic: Topic, text: String) {
        self.0.push(Finding { severity, topic, text });
    }
}

/// What is certain when the CA sees the same, and a guess when it may not.
fn severity(sight: Sight) -> Severity {
    match sight {
        Sight::AsTheCa => Severity::Stops,
        Sight::Inside => Severity::Warns,
    }
}

fn challenge(wish: &Wish, findings: &mut Findings) {
    let kind = wish.kind;
    match (&wish.identifier, wish.wildcard) {
        (Identifier::Dns(name), true) if kind != ChallengeKind::Dns01 => findings.add(
            Severity::Stops,
            Topic::Challenge,
            format!("*.{name} cannot be proved by {kind}: give the issuer a dns01 solver, or ask for whole host names"),
        ),
        // RFC 8738 §7
        (Identifier::Ip(address), _) if kind == ChallengeKind::Dns01 => findings.add(
            Severity::Stops,
            Topic::Challenge,
            format!("the address {address} cannot be proved by dns-01: use an http01 solver for it"),
        ),
        _ => {}
    }
}

fn own_address(address: IpAddr, wish: &Wish, findings: &mut Findings) {
    if !is_global(address) && wish.ca.stands == Stands::OnTheInternet {
        let text =
            format!("{address} is not a global address, and {} reaches no other: use the internal CA", wish.ca.name);
        findings.add(Severity::Stops, Topic::Addresses, text);
    } else if !wish.entries.is_empty() && !wish.entries.iter().any(|entry| entry.address == address) {
        let text = format!("{address} is none of our addresses ({}): ask for one of those", entries(&wish.entries));
        findings.add(Severity::Warns, Topic::Addresses, text);
    } else {
        announcement(&format!("{address}"), &[address], wish, findings);
    }
}

/// Whether the name leads to us.
fn lead(name: &str, addresses: &Addresses, wish: &Wish, findings: &mut Findings) {
    let four = records(&addresses.a, IpAddr::from);
    let six = records(&addresses.aaaa, IpAddr::from);
    if four.is_empty() && six.is_empty() {
        return absent(name, addresses, wish, findings);
    }
    for (kind, failure) in [("A", failure(&addresses.a)), ("AAAA", failure(&addresses.aaaa))] {
        if let Some(reason) = failure {
            let text = format!(
                "the {kind} records of {name} cannot be looked up ({reason}), which some CAs take for a failure: \
                 mend the name servers of the zone"
            );
            findings.add(Severity::Warns, Topic::Addresses, text);
        }
    }
    let all: Vec<IpAddr> = four.iter().chain(&six).copied().collect();
    let whole_sight = addresses.a.sight.min(addresses.aaaa.sight);
    let unreachable = |address: &&IpAddr| !is_global(**address) && wish.ca.stands == Stands::OnTheInternet;
    if all.iter().all(|address| unreachable(&address)) {
        let text = format!(
            "{name} leads to {} only (from {}), which {} cannot reach from the Internet: \
             publish a global address for it, or use a dns01 solver",
            list(&all),
            source(&addresses.a, &addresses.aaaa),
            wish.ca.name
        );
        return findings.add(severity(whole_sight), Topic::Addresses, text);
    }
    if wish.entries.is_empty() {
        return findings.add(Severity::Fine, Topic::Addresses, format!("{name} leads to {}", list(&all)));
    }
    let ours = |address: &IpAddr| wish.entries.iter().any(|entry| entry.address == *address);
    let (mine, foreign): (Vec<IpAddr>, Vec<IpAddr>) = all.iter().copied().partition(ours);
    let (own, from) = (entries(&wish.entries), source(&addresses.a, &addresses.aaaa));
    if mine.is_empty() {
        let text = format!(
            "{name} leads to {} (from {from}), none of which is ours ({own}): \
             point it there, or list the public addresses that are translated to ours",
            list(&foreign)
        );
        return findings.add(Severity::Warns, Topic::Addresses, text);
    }
    let stale_six: Vec<IpAddr> = six.iter().copied().filter(|address| !ours(address)).collect();
    let stale_four: Vec<IpAddr> = four.iter().copied().filter(|address| !ours(address)).collect();
    if !stale_six.is_empty() {
        let text = format!(
            "AAAA of {name} is {} (from {}), which is not ours ({own}), and CAs try IPv6 first: \
             remove that record or point it to us",
            list(&stale_six),
            addresses.aaaa.server
        );
        findings.add(Severity::Warns, Topic::StaleIpv6, text);
    }
    if !stale_four.is_empty() {
        let text = format!(
            "A of {name} is also {} (from {}), which is not ours ({own}): remove that record",
            list(&stale_four),
            addresses.a.server
        );
        findings.add(Severity::Warns, Topic::Addresses, text);
    }
    if foreign.is_empty() {
        findings.add(Severity::Fine, Topic::Addresses, format!("{name} leads to {}, which is ours", list(&mine)));
    }
    announcement(name, &all, wish, findings);
}

/// No address at all: no such name, no such record, or no answer.
fn absent(name: &str, addresses: &Addresses, wish: &Wish, findings: &mut Findings) {
    let Addresses { a, aaaa } = addresses;
    let sight = a.sight.min(aaaa.sight);
    let target = a.aliases.last().or(aaaa.aliases.last());
    let subject = match target {
        Some(target) => format!("{name} is an alias of {target}, which"),
        None => name.to_owned(),
    };
    let wanted = if wish.entries.is_empty() { "us".to_owned() } else { entries(&wish.entries) };
    let remedy = match target {
        Some(target) => format!("give {target} an A or AAAA record that leads to {wanted}, or change the alias"),
        None => format!("create an A or AAAA record for {name} that leads to {wanted}"),
    };
    let doubt = match sight {
        Sight::AsTheCa => "",
        Sight::Inside => " from here, though the CA may see more",
    };
    match (&a.said, &aaaa.said) {
        (Said::Failed(reason), _) | (_, Said::Failed(reason)) => {
            let text = format!(
                "{subject} cannot be looked up: {reason}; mend the name servers or the DNSSEC of its zone, \
                 since the CA will most likely see the same"
            );
            findings.add(Severity::Warns, Topic::Addresses, text);
        }
        (Said::NoName, _) | (_, Said::NoName) => {
            let text = format!("{subject} does not exist{doubt} (NXDOMAIN from {}): {remedy}", a.server);
            findings.add(severity(sight), Topic::Addresses, text);
        }
        _ => {
            let text = format!("{subject} has neither A nor AAAA records{doubt} (from {}): {remedy}", a.server);
            findings.add(severity(sight), Topic::Addresses, text);
        }
    }
}

/// Whether the network knows the way to those of our addresses that the name leads to.
fn announcement(name: &str, all: &[IpAddr], wish: &Wish, findings: &mut Findings) {
    let led: Vec<&Entry> = wish.entries.iter().filter(|entry| all.contains(&entry.address)).collect();
    let silent = |entry: &&&Entry| matches!(entry.announced, Announced::No(_));
    let Some(first) = led.iter().find(silent) else { return };
    let Announced::No(reason) = &first.announced else { return };
    let whole = led.iter().all(|entry| silent(&entry)) && led.len() >= all.len();
    // Another address of the name may still be reached.
    let severity = if whole { Severity::Stops } else { Severity::Warns };
    let text = format!(
        "{name} leads to {}, which is not announced ({reason}): no CA reaches it before it is, see edgectl why {0}",
        first.address
    );
    findings.add(severity, Topic::Announcement, text);
}

fn leave(name: &str, facts: &Facts, findings: &mut Findings) {
    let wish = &facts.wish;
    let Some(step) = facts.caa.last() else { return };
    let records = match &step.seen.said {
        Said::Failed(reason) => {
            let text = format!(
                "the CAA records of {} cannot be looked up ({reason}), and a CA must refuse then: \
                 mend the name servers or the DNSSEC of its zone",
                step.name
            );
            return findings.add(Severity::Warns, Topic::Caa, text);
        }
        Said::NoRecord | Said::NoName => {
            return findings.add(Severity::Fine, Topic::Caa, format!("no CAA record restricts {name}"));
        }
        Said::Records(records) => records,
    };
    let method = wish.kind.to_string();
    let asker = Asker {
        identities: &wish.ca.identities,
        account: wish.ca.account.as_deref(),
        method: &method,
        wildcard: wish.wildcard,
    };
    let at = &step.name;
    let tag = if wish.wildcard { "issuewild" } else { "issue" };
    let remedy = match wish.ca.identities.first() {
        Some(identity) => format!("add `CAA 0 {tag} \"{identity}\"` at {at}"),
        None => format!("change the CAA records at {at}"),
    };
    match caa::judge(records, &asker) {
        Leave::Granted => {
            findings.add(Severity::Fine, Topic::Caa, format!("CAA at {at} admits {} for {name}", wish.ca.name));
        }
        Leave::Denied(why) => {
            let text = format!(
                "CAA at {at} {why} (from {}), so {} must refuse {name}: {remedy}",
                step.seen.server, wish.ca.name
            );
            findings.add(severity(step.seen.sight), Topic::Caa, text);
        }
        Leave::Unknown(why) => {
            let text =
                format!("CAA at {at} {why} (from {}): if {} refuses {name}, {remedy}", step.seen.server, wish.ca.name);
            findings.add(Severity::Warns, Topic::Caa, text);
        }
    }
}

fn record(place: &RecordPlace, written: Written, findings: &mut Findings) {
    let name = &place.name;
    match (place.aliases.last(), written) {
        (Some(target), Written::There) => findings.add(
            Severity::Warns,
            Topic::Record,
            format!(
                "{name} is an alias of {target}, where the CA will look, but the record would be written at {name}: \
                 let the solver follow aliases (cnameStrategy: Follow), or remove the alias"
            ),
        ),
        (None, Written::OnlyWhereAliased) => findings.add(
            severity(place.sight),
            Topic::Record,
            format!(
                "{name} is no alias, so the CA will not look where acme-dns writes: add a CNAME to its full domain"
            ),
        ),
        (Some(target), _) => {
            findings.add(Severity::Fine, Topic::Record, format!("{name} is an alias of {target}"));
        }
        (None, _) => {}
    }
    let zone = match &place.zone {
        Ok(zone) => zone,
        Err(reason) => {
            let text =
                format!("the zone for {name} was not found: {reason}; see that it is delegated and its servers answer");
            return findings.add(Severity::Warns, Topic::Record, text);
        }
    };
    let bad: Vec<String> = zone
        .servers
        .iter()
        .filter_map(|(server, state)| state.as_ref().err().map(|reason| format!("{server} ({reason})")))
        .collect();
    let (total, count) = (zone.servers.len(), bad.len());
    if count > 0 {
        let text = format!(
            "{count} of {total} name servers of {} do not answer for it, and the CA may ask any: mend or remove {}",
            zone.name,
            bad.join(", ")
        );
        findings.add(Severity::Warns, Topic::Record, text);
    } else {
        let text = format!("all {total} name servers of {} answer", zone.name);
        findings.add(Severity::Fine, Topic::Record, text);
    }
}

fn edges(wish: &Wish, findings: &mut Findings) {
    let total = wish.edges.len();
    if total == 0 || wish.kind == ChallengeKind::Dns01 {
        return;
    }
    let silent: Vec<String> = wish
        .edges
        .iter()
        .filter_map(|edge| edge.result.as_ref().err().map(|reason| format!("{} ({reason})", edge.edge)))
        .collect();
    if silent.is_empty() {
        let text = format!("{total} of {total} edges answer the challenge");
        return findings.add(Severity::Fine, Topic::Edges, text);
    }
    let (severity, remedy) = if silent.len() == total {
        (Severity::Stops, "start one that does")
    } else {
        (Severity::Warns, "the CA may meet any of them, so mend or drain those")
    };
    let text =
        format!("{} of {total} edges do not answer the challenge, {}: {remedy}", silent.len(), silent.join(", "));
    findings.add(severity, Topic::Edges, text);
}

fn records<T: Copy>(seen: &Seen<T>, address: impl Fn(T) -> IpAddr) -> Vec<IpAddr> {
    match &seen.said {
        Said::Records(records) => records.iter().map(|record| address(*record)).collect(),
        Said::NoRecord | Said::NoName | Said::Failed(_) => Vec::new(),
    }
}

fn failure<T>(seen: &Seen<T>) -> Option<&str> {
    match &seen.said {
        Said::Failed(reason) => Some(reason),
        Said::Records(_) | Said::NoRecord | Said::NoName => None,
    }
}

fn source<A, B>(a: &Seen<A>, b: &Seen<B>) -> Box<str> {
    if matches!(a.said, Said::Records(_)) { a.server.clone() } else { b.server.clone() }
}

fn list<T: Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn entries(entries: &[Entry]) -> String {
    const SHOWN: usize = 4;
    let addresses: Vec<IpAddr> = entries.iter().map(|entry| entry.address).collect();
    match addresses.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!("{} and {more} more", list(&addresses[..SHOWN])),
        _ => list(&addresses),
    }
}

/// Whether the Internet routes it (IANA's special-purpose registries, the part that names are met with).
pub(super) fn is_global(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(four) => {
            let [a, b, c, _] = four.octets();
            !(four.is_private()
                || four.is_loopback()
                || four.is_link_local()
                || four.is_unspecified()
                || four.is_documentation()
                || a >= 224
                || a == 0
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && (18..20).contains(&b)))
        }
        // Global unicast is 2000::/3, without the documentation's blocks.
        IpAddr::V6(six) => {
            let [a, b, ..] = six.segments();
            a & 0xe000 == 0x2000 && !(a == 0x2001 && b == 0x0db8) && !(a == 0x3fff && b < 0x1000)
        }
    }
}
