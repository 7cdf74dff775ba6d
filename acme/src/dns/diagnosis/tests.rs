use super::*;
use crate::dns::preflight::{
    Addresses, Announced, Ca, Caa, CaaStep, EdgeAnswer, Entry, Said, Seen, Sight, Stands, Wish, Written,
};
use crate::failure::LookedAt;

const OURS: &str = "203.1.113.10";

fn facts() -> Facts {
    fn seen<T>(said: Said<T>) -> Seen<T> {
        Seen { sight: Sight::AsTheCa, server: "9.9.9.9".into(), aliases: Vec::new(), said }
    }
    let caa = Caa { critical: false, tag: "issue".into(), value: "other.test".into() };
    Facts {
        wish: Wish {
            identifier: Identifier::Dns("shop.example.com".into()),
            wildcard: false,
            kind: ChallengeKind::Http01,
            ca: Ca {
                name: "acme.ca.test".into(),
                identities: vec!["ca.test".into()],
                account: None,
                stands: Stands::OnTheInternet,
            },
            entries: vec![Entry { address: OURS.parse().unwrap(), announced: Announced::Yes }],
            edges: vec![EdgeAnswer { edge: "b".into(), result: Err("404".into()) }],
            written: Written::There,
        },
        addresses: Some(Addresses {
            a: seen(Said::Records(vec![OURS.parse().unwrap()])),
            aaaa: seen(Said::Records(vec!["2a00:1450::dead".parse().unwrap()])),
        }),
        caa: vec![CaaStep { name: "example.com".into(), seen: seen(Said::Records(vec![caa])) }],
        record: None,
    }
}

fn fault(kind: &str, challenge: ChallengeKind, detail: &str, looked_at: &[(&str, u16)]) -> OrderError {
    let mut error = OrderError::new(Class::Validation, Step::Validate, "");
    let looked = |(address, port): &(&str, u16)| LookedAt {
        url: None,
        host: "shop.example.com".into(),
        port: Some(*port),
        resolved: Vec::new(),
        used: Some(address.parse().unwrap()),
    };
    error.faults = vec![Fault {
        identifier: Identifier::Dns("shop.example.com".into()),
        wildcard: false,
        challenge: Some(challenge),
        class: Class::Validation,
        kind: Some(kind.into()),
        detail: detail.into(),
        looked_at: looked_at.iter().map(looked).collect(),
    }];
    error
}

fn of_ca(class: Class, step: Step, kind: &str, detail: &str) -> OrderError {
    let mut error = OrderError::new(class, step, detail);
    error.kind = (!kind.is_empty()).then(|| kind.into());
    error
}

#[test]
fn of_names_by_table() {
    use ChallengeKind::{Dns01, Http01, TlsAlpn01};
    let facts = facts();
    let known = Beside { facts: Some(&facts), ..Beside::default() };
    let alone = Beside { issuer: "issuers.le", ..Beside::default() };
    let ours = &[(OURS, 80)][..];
    for (error, beside, cause, text) in [
        (
            fault("connection", Http01, "203.1.113.10: Fetching http://x/: Connection refused", ours),
            known,
            Cause::ConnectionRefused,
            "acme.ca.test was refused the connection at 203.1.113.10 port 80 for shop.example.com",
        ),
        (
            fault("connection", Http01, "Timeout during connect (likely firewall problem)", ours),
            known,
            Cause::ConnectionTimeout,
            "got no answer at 203.1.113.10 port 80 for shop.example.com (Timeout during connect (likely firewall problem)): \
             let every firewall on the way pass that port from anywhere",
        ),
        (
            fault("connection", TlsAlpn01, "Connection reset by peer", &[]),
            alone,
            Cause::Unreachable,
            "issuers.le could not complete the exchange at port 443",
        ),
        (
            fault("connection", Http01, "Connection refused", &[("198.52.100.1", 80)]),
            known,
            Cause::WrongAddress,
            "looked for shop.example.com at 198.52.100.1 port 80, which is not ours (Connection refused): point the name",
        ),
        (
            fault("unauthorized", Http01, "Invalid response from http://x: 404", &[("2a00:1450::dead", 80)]),
            known,
            Cause::StaleIpv6,
            "AAAA of shop.example.com is 2a00:1450::dead",
        ),
        (
            fault("unauthorized", Http01, "Invalid response from http://x: 404", ours),
            known,
            Cause::WrongContent,
            "1 of 1 edges do not answer the challenge, b (404)",
        ),
        (
            fault("unauthorized", Http01, "Invalid response from http://x: \"<html>\"", ours),
            alone,
            Cause::WrongContent,
            "got a wrong answer from 203.1.113.10 for shop.example.com (Invalid response from http://x: \"<html>\"): \
             let no proxy, CDN",
        ),
        (
            fault("unauthorized", Http01, "Invalid response", &[("198.52.100.1", 80)]),
            known,
            Cause::WrongAddress,
            "got another server's answer from 198.52.100.1",
        ),
        (
            fault(
                "connection",
                Http01,
                "Invalid port in redirect target. Only ports 80 and 443 are supported, not 8443",
                ours,
            ),
            known,
            Cause::Redirect,
            "was redirected for shop.example.com to a place where it does not look",
        ),
        (
            fault("connection", Http01, "Connection refused", &[(OURS, 80), (OURS, 8443)]),
            known,
            Cause::Redirect,
            "was redirected",
        ),
        (
            fault("caa", Http01, "CAA record for example.com prevents issuance", &[]),
            known,
            Cause::Caa,
            "CAA at example.com issue admits other.test (from 9.9.9.9), so acme.ca.test must refuse",
        ),
        (
            fault("caa", Http01, "CAA record for example.com prevents issuance", &[]),
            alone,
            Cause::Caa,
            "a CAA record forbids issuers.le to issue for shop.example.com",
        ),
        (
            fault("dns", Http01, "DNS problem: NXDOMAIN looking up A for shop.example.com - check that", &[]),
            alone,
            Cause::NoSuchName,
            "finds no address for shop.example.com",
        ),
        (
            fault("dns", Http01, "DNS problem: SERVFAIL looking up A for shop.example.com", &[]),
            alone,
            Cause::DnsFails,
            "could not look up shop.example.com",
        ),
        (
            fault("dns", Http01, "DNS problem: SERVFAIL looking up CAA for shop.example.com", &[]),
            alone,
            Cause::DnsFails,
            "could not look up the CAA records for shop.example.com",
        ),
        (
            fault("dns", Dns01, "DNS problem: NXDOMAIN looking up TXT for _acme-challenge.shop.example.com", &[]),
            alone,
            Cause::TxtMissing,
            "found no TXT record at _acme-challenge.shop.example.com",
        ),
        (
            fault("unauthorized", Dns01, "No TXT record found at _acme-challenge.shop.example.com", &[]),
            alone,
            Cause::TxtMissing,
            "see that the zone there is the one the solver writes",
        ),
        (
            fault("unauthorized", Dns01, "Incorrect TXT record \"abc\" found at _acme-challenge.shop.example.com", &[]),
            alone,
            Cause::TxtWrong,
            "found an old or foreign TXT record at _acme-challenge.shop.example.com",
        ),
        (
            fault("dns", Dns01, "DNS problem: query timed out looking up TXT for _acme-challenge.x", &[]),
            alone,
            Cause::DnsFails,
            "could not look up _acme-challenge.shop.example.com",
        ),
        (
            fault("tls", TlsAlpn01, "Cannot negotiate ALPN protocol \"acme-tls/1\"", &[(OURS, 443)]),
            known,
            Cause::TlsAlpn,
            "did not meet our answer on port 443 for shop.example.com",
        ),
        (
            fault("rejectedIdentifier", Http01, "The ACME server refuses to issue for policy", &[]),
            alone,
            Cause::NameRefused,
            "does not issue for shop.example.com",
        ),
        (
            fault("strange", Http01, "", &[]),
            alone,
            Cause::Other,
            "refused shop.example.com by http-01 (it gave no reason)",
        ),
    ] {
        let found = diagnose(&error, beside);
        assert_eq!(found.cause, cause, "{found}");
        assert!(found.text.contains(text), "{found}\nlacks\n{text}");
        assert!(!found.text.contains('\n') && !found.text.ends_with('.'), "{found}");
    }
}

#[test]
fn of_the_ca_by_table() {
    let alone = Beside { issuer: "issuers.le", profile: Some("tlsserver"), ..Beside::default() };
    let mut limited = of_ca(
        Class::Limited,
        Step::NewOrder,
        "rateLimited",
        "too many certificates (5) already issued for this exact set of domains",
    );
    limited.until = Some(1_790_000_000);
    let mut down = of_ca(Class::Transient, Step::Directory, "", "no answer from acme.ca.test within 30 s");
    down.until = Some(1_790_000_000);
    let behind = Beside { clock_ahead: Some(86_400), ..alone };
    let nearly = Beside { clock_ahead: Some(-20), ..alone };
    for (error, beside, cause, text) in [
        (
            limited,
            alone,
            Cause::RateLimited,
            format!("nothing is asked before {}; find out what orders the same names", Timestamp(1_790_000_000)),
        ),
        (
            of_ca(Class::Limited, Step::NewOrder, "rateLimited", "too many failed authorizations (5)"),
            alone,
            Cause::RateLimited,
            "it is tried again later and less often; mend the cause of the failures first".into(),
        ),
        (of_ca(Class::Limited, Step::NewOrder, "", "503"), alone, Cause::RateLimited, "limits the rate (503)".into()),
        (
            of_ca(Class::Config, Step::NewOrder, "accountDoesNotExist", "no such account"),
            alone,
            Cause::AccountGone,
            "issuers.le no longer knows the account: remove its key".into(),
        ),
        (
            of_ca(Class::Config, Step::NewOrder, "unauthorized", "account is deactivated"),
            alone,
            Cause::AccountRefused,
            "refuses the account (account is deactivated)".into(),
        ),
        (
            of_ca(Class::Config, Step::Account, "externalAccountRequired", "x"),
            alone,
            Cause::ExternalAccount,
            "needs an external account binding".into(),
        ),
        (
            of_ca(
                Class::Config,
                Step::Account,
                "unauthorized",
                "the field 'kid' references a key id that is not known to the ACME server: external account",
            ),
            alone,
            Cause::ExternalAccount,
            "does not accept the external account binding".into(),
        ),
        (
            of_ca(Class::Config, Step::NewOrder, "invalidProfile", "no such profile"),
            alone,
            Cause::Profile,
            "issuers.le has no profile \"tlsserver\" (no such profile)".into(),
        ),
        (
            of_ca(Class::Config, Step::NewOrder, "rejectedIdentifier", "Policy forbids issuing for name"),
            alone,
            Cause::NameRefused,
            "does not issue for such a name".into(),
        ),
        (
            of_ca(Class::Config, Step::Authorize, "", "no dns-01 solver for *.example.com"),
            alone,
            Cause::WildcardWithoutDns,
            "add a dns01 solver".into(),
        ),
        (
            of_ca(
                Class::Transient,
                Step::Present,
                "",
                "_acme-challenge.x: after 180 s 1 of 2 name servers of x show the TXT record; ns2.x shows none",
            ),
            alone,
            Cause::NotPresented,
            "the challenge could not be answered: _acme-challenge.x: after 180 s 1 of 2 name servers".into(),
        ),
        (
            down,
            alone,
            Cause::CaDown,
            format!(
                "check this host's way out and its DNS; issuers.le asks not to be called before {}",
                Timestamp(1_790_000_000)
            ),
        ),
        (
            of_ca(Class::Transient, Step::NewOrder, "serverInternal", "The service is down for maintenance"),
            nearly,
            Cause::CaDown,
            "is down or cannot be reached (The service is down for maintenance)".into(),
        ),
        (
            of_ca(
                Class::Transient,
                Step::Directory,
                "",
                "cannot reach acme.ca.test: invalid peer certificate: certificate not valid yet",
            ),
            alone,
            Cause::ClockWrong,
            "check the clock, then the CA's certificate".into(),
        ),
        (
            of_ca(Class::Transient, Step::NewOrder, "badNonce", "x"),
            behind,
            Cause::ClockWrong,
            "the clock of this host is 86400 s behind that of issuers.le: synchronize it".into(),
        ),
        (
            of_ca(Class::Config, Step::Account, "invalidContact", "contact email has invalid domain"),
            alone,
            Cause::Contact,
            "correct the issuer's email".into(),
        ),
        (of_ca(Class::Config, Step::NewOrder, "userActionRequired", "x"), alone, Cause::Terms, "terms".into()),
        (
            of_ca(Class::Transient, Step::Verify, "", "the certificate lacks shop.example.com"),
            alone,
            Cause::WrongCertificate,
            "issued a certificate that does not fit".into(),
        ),
        (
            of_ca(Class::Ours, Step::Finalize, "badCSR", "bad\nCSR."),
            alone,
            Cause::Other,
            "finalizing the order: bad CSR (badCSR)".into(),
        ),
    ] {
        let found = diagnose(&error, beside);
        assert_eq!(found.cause, cause, "{found}");
        assert!(found.text.contains(&text), "{found}\nlacks\n{text}");
    }
}

#[test]
fn many_names_and_long_texts() {
    let mut error = fault("connection", ChallengeKind::Http01, &"é".repeat(1000), &[]);
    error.faults.extend([error.faults[0].clone(), error.faults[0].clone()]);
    let found = diagnose(&error, Beside::default());
    assert!(found.text.ends_with("; 2 more of its names failed as well"), "{found}");
    assert!(found.text.chars().count() < 600, "{found}");
}

#[test]
fn a_name_that_leads_elsewhere_is_said_to_where_the_ca_does_not_say_where_it_looked() {
    let mut facts = facts();
    let seen = facts.addresses.as_mut().unwrap();
    seen.a.said = Said::Records(vec!["198.50.100.7".parse().unwrap()]);
    seen.aaaa.said = Said::NoRecord;
    for (kind, challenge) in [("connection", ChallengeKind::TlsAlpn01), ("unauthorized", ChallengeKind::Http01)] {
        let error = fault(kind, challenge, "Failed to connect", &[]);
        let diagnosis = diagnose(&error, Beside { facts: Some(&facts), ..Beside::default() });
        assert_eq!(diagnosis.cause, Cause::WrongAddress, "{}", diagnosis.text);
        for words in ["leads to 198.50.100.7", OURS, "point it there"] {
            assert!(diagnosis.text.contains(words), "{}", diagnosis.text);
        }
    }
}
