use super::*;

const OURS: &str = "203.1.113.10";
const OURS6: &str = "2a00:1450::10";

fn seen<T>(said: Said<T>) -> Seen<T> {
    Seen { sight: Sight::AsTheCa, server: "9.9.9.9".into(), aliases: Vec::new(), said }
}

fn four(addresses: &[&str]) -> Seen<Ipv4Addr> {
    seen(said(addresses.iter().map(|text| text.parse().unwrap()).collect()))
}

fn six(addresses: &[&str]) -> Seen<Ipv6Addr> {
    seen(said(addresses.iter().map(|text| text.parse().unwrap()).collect()))
}

fn said<T>(records: Vec<T>) -> Said<T> {
    if records.is_empty() { Said::NoRecord } else { Said::Records(records) }
}

fn entry(address: &str) -> Entry {
    Entry { address: address.parse().unwrap(), announced: Announced::Yes }
}

/// All is well for `shop.example.com` by http-01.
fn good() -> Facts {
    Facts {
        wish: Wish {
            identifier: Identifier::Dns("shop.example.com".into()),
            wildcard: false,
            kind: ChallengeKind::Http01,
            ca: Ca {
                name: "acme.ca.test".into(),
                identities: vec!["ca.test".into()],
                account: Some("https://acme.ca.test/acct/1".into()),
                stands: Stands::OnTheInternet,
            },
            entries: vec![entry(OURS), entry(OURS6)],
            edges: vec![
                EdgeAnswer { edge: "a".into(), result: Ok(()) },
                EdgeAnswer { edge: "b".into(), result: Ok(()) },
            ],
            written: Written::There,
        },
        addresses: Some(Addresses { a: four(&[OURS]), aaaa: six(&[OURS6]) }),
        caa: vec![CaaStep { name: "shop.example.com".into(), seen: seen(Said::NoRecord) }],
        record: None,
    }
}

fn dns01() -> Facts {
    let mut facts = good();
    facts.wish.kind = ChallengeKind::Dns01;
    facts.addresses = None;
    let servers = vec![("ns1.example.com".into(), Ok(())), ("ns2.example.com".into(), Ok(()))];
    facts.record = Some(RecordPlace {
        name: "_acme-challenge.shop.example.com".into(),
        sight: Sight::AsTheCa,
        aliases: Vec::new(),
        zone: Ok(ZoneServers { name: "example.com".into(), servers }),
    });
    facts
}

fn caa(facts: &mut Facts, at: &str, tag: &str, value: &str) {
    let record = Caa { critical: false, tag: tag.into(), value: value.into() };
    facts.caa.push(CaaStep { name: at.into(), seen: seen(Said::Records(vec![record])) });
}

fn addresses(facts: &mut Facts) -> &mut Addresses {
    facts.addresses.as_mut().unwrap()
}

fn record(facts: &mut Facts) -> &mut RecordPlace {
    facts.record.as_mut().unwrap()
}

/// A change of what is well, the severity and topic of what is found first, and a part of its text.
type Case = (&'static str, fn() -> Facts, fn(&mut Facts), Severity, Topic, &'static str);

const CASES: &[Case] = &[
    (
        "all is well",
        good,
        |_| {},
        Severity::Fine,
        Topic::Addresses,
        "leads to 203.1.113.10, 2a00:1450::10, which is ours",
    ),
    (
        "NXDOMAIN",
        good,
        |facts| *addresses(facts) = Addresses { a: seen(Said::NoName), aaaa: seen(Said::NoName) },
        Severity::Stops,
        Topic::Addresses,
        "shop.example.com does not exist (NXDOMAIN from 9.9.9.9): create an A or AAAA record for shop.example.com \
         that leads to 203.1.113.10, 2a00:1450::10",
    ),
    (
        "NXDOMAIN in the inside view",
        good,
        |facts| {
            *addresses(facts) = Addresses { a: seen(Said::NoName), aaaa: seen(Said::NoName) };
            addresses(facts).a.sight = Sight::Inside;
        },
        Severity::Warns,
        Topic::Addresses,
        "shop.example.com does not exist from here, though the CA may see more (NXDOMAIN from 9.9.9.9)",
    ),
    (
        "no address at all",
        good,
        |facts| *addresses(facts) = Addresses { a: four(&[]), aaaa: six(&[]) },
        Severity::Stops,
        Topic::Addresses,
        "has neither A nor AAAA records (from 9.9.9.9): create",
    ),
    (
        "an alias that leads nowhere",
        good,
        |facts| {
            *addresses(facts) = Addresses { a: seen(Said::NoName), aaaa: seen(Said::NoName) };
            addresses(facts).a.aliases = vec!["lb.old.test".into()];
        },
        Severity::Stops,
        Topic::Addresses,
        "shop.example.com is an alias of lb.old.test, which does not exist (NXDOMAIN from 9.9.9.9): give lb.old.test an A",
    ),
    (
        "SERVFAIL",
        good,
        |facts| {
            let failed = "name server 9.9.9.9:53 answered SERVFAIL for shop.example.com";
            *addresses(facts) = Addresses { a: seen(Said::Failed(failed.into())), aaaa: six(&[]) };
        },
        Severity::Warns,
        Topic::Addresses,
        "cannot be looked up: name server 9.9.9.9:53 answered SERVFAIL for shop.example.com; mend the name servers",
    ),
    (
        "one family fails",
        good,
        |facts| addresses(facts).aaaa = seen(Said::Failed("name server 9.9.9.9:53 answered SERVFAIL for x".into())),
        Severity::Warns,
        Topic::Addresses,
        "the AAAA records of shop.example.com cannot be looked up",
    ),
    (
        "somebody else's address",
        good,
        |facts| *addresses(facts) = Addresses { a: four(&["198.52.100.1"]), aaaa: six(&[]) },
        Severity::Warns,
        Topic::Addresses,
        "leads to 198.52.100.1 (from 9.9.9.9), none of which is ours (203.1.113.10, 2a00:1450::10): point it there, or list \
         the public addresses that are translated to ours",
    ),
    (
        "stale AAAA",
        good,
        |facts| addresses(facts).aaaa = six(&["2a00:1450::dead"]),
        Severity::Warns,
        Topic::StaleIpv6,
        "AAAA of shop.example.com is 2a00:1450::dead (from 9.9.9.9), which is not ours (203.1.113.10, 2a00:1450::10), \
         and CAs try IPv6 first: remove that record or point it to us",
    ),
    (
        "a second A elsewhere",
        good,
        |facts| addresses(facts).a = four(&[OURS, "198.52.100.1"]),
        Severity::Warns,
        Topic::Addresses,
        "A of shop.example.com is also 198.52.100.1",
    ),
    (
        "private addresses for a public CA",
        good,
        |facts| *addresses(facts) = Addresses { a: four(&["10.1.2.3"]), aaaa: six(&["fd00::1"]) },
        Severity::Stops,
        Topic::Addresses,
        "leads to 10.1.2.3, fd00::1 only (from 9.9.9.9), which acme.ca.test cannot reach from the Internet",
    ),
    (
        "private addresses in the inside view",
        good,
        |facts| {
            *addresses(facts) = Addresses { a: four(&["10.1.2.3"]), aaaa: six(&[]) };
            addresses(facts).a.sight = Sight::Inside;
        },
        Severity::Warns,
        Topic::Addresses,
        "leads to 10.1.2.3 only",
    ),
    (
        "private addresses for a CA of one's own",
        good,
        |facts| {
            *addresses(facts) = Addresses { a: four(&["10.1.2.3"]), aaaa: six(&[]) };
            facts.wish.entries = vec![entry("10.1.2.3")];
            facts.wish.ca.stands = Stands::Inside;
        },
        Severity::Fine,
        Topic::Addresses,
        "shop.example.com leads to 10.1.2.3, which is ours",
    ),
    (
        "not announced",
        good,
        |facts| {
            for entry in &mut facts.wish.entries {
                entry.announced = Announced::No("no BGP session is up".into());
            }
        },
        Severity::Stops,
        Topic::Announcement,
        "shop.example.com leads to 203.1.113.10, which is not announced (no BGP session is up): no CA reaches it before it is, see edgectl why 203.1.113.10",
    ),
    (
        "one of two not announced",
        good,
        |facts| facts.wish.entries[1].announced = Announced::No("drained".into()),
        Severity::Warns,
        Topic::Announcement,
        "leads to 2a00:1450::10, which is not announced (drained)",
    ),
    (
        "not known whether announced",
        good,
        |facts| facts.wish.entries[0].announced = Announced::Unknown,
        Severity::Fine,
        Topic::Addresses,
        "",
    ),
    ("CAA admits", good, |facts| caa(facts, "example.com", "issue", "ca.test"), Severity::Fine, Topic::Addresses, ""),
    (
        "CAA forbids",
        good,
        |facts| caa(facts, "example.com", "issue", "other.test"),
        Severity::Stops,
        Topic::Caa,
        "CAA at example.com issue admits other.test (from 9.9.9.9), so acme.ca.test must refuse shop.example.com: \
         add `CAA 0 issue \"ca.test\"` at example.com",
    ),
    (
        "CAA forbids in the inside view",
        good,
        |facts| {
            caa(facts, "example.com", "issue", "other.test");
            facts.caa.last_mut().unwrap().seen.sight = Sight::Inside;
        },
        Severity::Warns,
        Topic::Caa,
        "must refuse shop.example.com",
    ),
    (
        "CAA binds the account",
        good,
        |facts| caa(facts, "example.com", "issue", "ca.test; accounturi=https://acme.ca.test/acct/2"),
        Severity::Stops,
        Topic::Caa,
        "admits account https://acme.ca.test/acct/2 only, not https://acme.ca.test/acct/1",
    ),
    (
        "CAA cannot be looked up",
        good,
        |facts| facts.caa[0].seen.said = Said::Failed("name server 9.9.9.9:53 answered SERVFAIL for x".into()),
        Severity::Warns,
        Topic::Caa,
        "the CAA records of shop.example.com cannot be looked up",
    ),
    (
        "issuewild for a wildcard",
        dns01,
        |facts| {
            facts.wish.wildcard = true;
            caa(facts, "example.com", "issuewild", ";");
        },
        Severity::Stops,
        Topic::Caa,
        "add `CAA 0 issuewild \"ca.test\"` at example.com",
    ),
    (
        "wildcard by http-01",
        good,
        |facts| facts.wish.wildcard = true,
        Severity::Stops,
        Topic::Challenge,
        "*.shop.example.com cannot be proved by http-01: give the issuer a dns01 solver",
    ),
    (
        "one edge does not answer",
        good,
        |facts| facts.wish.edges[1].result = Err("no answer within 2 s".into()),
        Severity::Warns,
        Topic::Edges,
        "1 of 2 edges do not answer the challenge, b (no answer within 2 s): the CA may meet any of them",
    ),
    (
        "no edge answers",
        good,
        |facts| {
            for edge in &mut facts.wish.edges {
                edge.result = Err("404".into());
            }
        },
        Severity::Stops,
        Topic::Edges,
        "2 of 2 edges do not answer the challenge, a (404), b (404)",
    ),
    ("dns-01 is well", dns01, |_| {}, Severity::Fine, Topic::Caa, "no CAA record restricts shop.example.com"),
    (
        "an alias that is not followed",
        dns01,
        |facts| record(facts).aliases = vec!["x.auth.test".into()],
        Severity::Warns,
        Topic::Record,
        "_acme-challenge.shop.example.com is an alias of x.auth.test, where the CA will look",
    ),
    (
        "acme-dns without its alias",
        dns01,
        |facts| facts.wish.written = Written::OnlyWhereAliased,
        Severity::Stops,
        Topic::Record,
        "is no alias, so the CA will not look where acme-dns writes",
    ),
    (
        "an alias that is followed",
        dns01,
        |facts| {
            facts.wish.written = Written::WhereAliased;
            record(facts).aliases = vec!["x.auth.test".into()];
        },
        Severity::Fine,
        Topic::Caa,
        "",
    ),
    (
        "a lame server",
        dns01,
        |facts| {
            let servers = vec![("ns1.test".into(), Ok(())), ("ns2.test".into(), Err("it does not serve it".into()))];
            record(facts).zone = Ok(ZoneServers { name: "example.com".into(), servers });
        },
        Severity::Warns,
        Topic::Record,
        "1 of 2 name servers of example.com do not answer for it, and the CA may ask any: mend or remove ns2.test (it does",
    ),
    (
        "no zone",
        dns01,
        |facts| record(facts).zone = Err("no zone was found above x".into()),
        Severity::Warns,
        Topic::Record,
        "the zone for _acme-challenge.shop.example.com was not found: no zone was found above x",
    ),
    (
        "an address of ours",
        good,
        |facts| {
            facts.wish.identifier = Identifier::Ip(OURS.parse().unwrap());
            facts.addresses = None;
        },
        Severity::Fine,
        Topic::Edges,
        "2 of 2 edges answer",
    ),
    (
        "a private address",
        good,
        |facts| facts.wish.identifier = Identifier::Ip("10.0.0.1".parse().unwrap()),
        Severity::Stops,
        Topic::Addresses,
        "10.0.0.1 is not a global address",
    ),
    (
        "an address by dns-01",
        dns01,
        |facts| facts.wish.identifier = Identifier::Ip(OURS.parse().unwrap()),
        Severity::Stops,
        Topic::Challenge,
        "the address 203.1.113.10 cannot be proved by dns-01",
    ),
];

#[test]
fn judged_by_table() {
    for (case, start, change, severity, topic, text) in CASES {
        let mut facts = start();
        change(&mut facts);
        let findings = judge(&facts);
        let first = &findings[0];
        assert_eq!((first.severity, first.topic), (*severity, *topic), "{case}: {findings:#?}");
        assert!(first.text.contains(text), "{case}: {}", first.text);
        assert!(findings.is_sorted_by_key(|finding| finding.severity), "{case}: {findings:#?}");
        for finding in &findings {
            assert!(!finding.text.ends_with('.') && !finding.text.contains('\n'), "{case}: {finding}");
        }
    }
}

#[test]
fn global_addresses() {
    for (address, expected) in [
        ("1.1.1.1", true),
        ("10.0.0.1", false),
        ("100.64.0.1", false),
        ("100.128.0.1", true),
        ("172.16.0.1", false),
        ("192.168.1.1", false),
        ("192.0.2.1", false),
        ("198.18.0.1", false),
        ("169.254.1.1", false),
        ("127.0.0.1", false),
        ("0.0.0.0", false),
        ("224.0.0.1", false),
        ("255.255.255.255", false),
        ("2a00:1450::1", true),
        ("2001:db8::1", false),
        ("3fff:fff::1", false),
        ("fd00::1", false),
        ("fe80::1", false),
        ("::1", false),
        ("::ffff:10.0.0.1", false),
        ("::ffff:1.1.1.1", true),
    ] {
        assert_eq!(judge::is_global(address.parse().unwrap()), expected, "{address}");
    }
}
