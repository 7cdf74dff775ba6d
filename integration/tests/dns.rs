//! DNS against Knot: updates with TSIG, delegation, propagation, CAA, and what pre-flight says of real answers.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use edge_acme::challenge::{Challenge, ChallengeKind, Identifier, Present as _};
use edge_acme::client::{Https, Settings as HttpsSettings, Trust, now};
use edge_acme::dns::preflight::{
    Announced, Ca, EdgeAnswer, Entry, Finding, Severity, Stands, Topic, Wish, Written, judge, look,
};
use edge_acme::dns::present::{DnsPresenter, txt_value};
use edge_acme::dns::propagation::{self, Patience};
use edge_acme::dns::provider::{Limits, Means, Provider, SecretResult, Secrets, TxtValue, WriteTxt as _};
use edge_acme::dns::resolver::{RecordType, Resolver, Settings};
use edge_config::issuer::{DnsProvider, SecretSource, ServerAddress, Tsig, TsigAlgorithm};
use edge_integration::knot::{Key, Knot, Zone, at, free_port};
use zeroize::Zeroizing;

const ONE: &str = "127.0.0.1";
const TWO: &str = "127.0.0.2";
const SECRET: &str = "c2VjcmV0IG9mIHRoaXMgdGVzdCwgd2hpY2ggaXMgbG9uZyBlbm91Z2g=";
const OTHER: &str = "YW5vdGhlciBzZWNyZXQsIHdoaWNoIGlzIGxvbmcgZW5vdWdoIGFzIHdlbGw=";
const KEYS: &[Key] = &[
    ("edge256", "hmac-sha256", SECRET),
    ("edge384", "hmac-sha384", SECRET),
    ("edge512", "hmac-sha512", SECRET),
    ("nobody", "hmac-sha256", SECRET),
];
const UPDATERS: &[&str] = &["edge256", "edge384", "edge512"];

/// Reads each `File` as its own path: the secret itself.
struct Literal;

impl Secrets for Literal {
    fn read<'a>(&'a self, source: &'a SecretSource) -> SecretResult<'a> {
        Box::pin(async move {
            let SecretSource::File(path) = source else { return Err("it is not a file".into()) };
            Ok(Zeroizing::new(path.to_string_lossy().into_owned().into_bytes()))
        })
    }
}

fn settings(port: u16) -> Settings {
    let mut settings = Settings::configured(vec![at(ONE, port)]);
    settings.authority_port = port;
    settings
}

fn means(port: u16) -> Means {
    Means {
        resolver: Resolver::new(settings(port)),
        https: Https::new(&HttpsSettings { trust: Trust::Insecure, ..HttpsSettings::default() }).unwrap(),
        now,
        limits: Limits::default(),
    }
}

fn rfc2136(server: SocketAddr, key: Option<(&str, TsigAlgorithm, &str)>) -> DnsProvider {
    let tsig = key.map(|(name, algorithm, secret)| Tsig {
        key_name: name.into(),
        algorithm,
        key: SecretSource::File(PathBuf::from(format!("{secret}\n"))),
    });
    DnsProvider::Rfc2136 { server: ServerAddress::Address(server), tsig }
}

fn example() -> Zone {
    Zone {
        name: "example.test",
        records: "@ NS ns1\n@ NS ns2\nns1 A 127.0.0.1\nns2 A 127.0.0.2\nshop A 203.1.113.10\n".into(),
        updates: UPDATERS,
        ..Zone::default()
    }
}

/// With one server only.
fn lone(name: &'static str, records: &str) -> Zone {
    let records = format!("@ NS ns1\nns1 A 127.0.0.1\n{records}");
    Zone { name, records, updates: UPDATERS, ..Zone::default() }
}

fn secondary(port: u16) -> Knot {
    let zone = Zone { name: "example.test", primary: Some(at(ONE, port)), ..Zone::default() };
    Knot::start(at(TWO, port), &[], &[zone])
}

fn challenge(name: &str, wildcard: bool, token: &str) -> Challenge {
    Challenge {
        identifier: Identifier::Dns(name.into()),
        wildcard,
        kind: ChallengeKind::Dns01,
        token: token.into(),
        key_authorization: format!("{token}.thumbprint").into(),
    }
}

fn value(challenge: &Challenge) -> String {
    txt_value(&challenge.key_authorization)
}

fn record(name: &str, value: &str) -> TxtValue {
    TxtValue { name: name.into(), domain: "shop.example.test".into(), value: value.into() }
}

fn presenter(port: u16, follow: bool, patience: Patience) -> DnsPresenter {
    let provider = rfc2136(at(ONE, port), Some(("edge256", TsigAlgorithm::HmacSha256, SECRET)));
    DnsPresenter::new(provider, follow, Arc::new(Literal), means(port), patience)
}

fn patience(seconds: u64) -> Patience {
    Patience { deadline: Duration::from_secs(seconds), pause: Duration::from_millis(50) }
}

const NAME: &str = "_acme-challenge.shop.example.test";

#[tokio::test]
async fn updates_with_every_algorithm_touch_their_own_value_only() {
    let port = free_port(&[ONE]);
    let knot = Knot::start(at(ONE, port), KEYS, &[example()]);
    for (key, algorithm) in [
        ("edge256", TsigAlgorithm::HmacSha256),
        ("Edge384.", TsigAlgorithm::HmacSha384),
        ("edge512", TsigAlgorithm::HmacSha512),
    ] {
        let settings = rfc2136(at(ONE, port), Some((key, algorithm, SECRET)));
        let provider = Provider::open(&settings, &Literal, &means(port)).await.unwrap();
        for value in ["one", "two", "two"] {
            provider.add(&record(NAME, value)).await.unwrap();
        }
        assert_eq!(knot.texts(NAME), ["one", "two"], "{key}");
        provider.remove(&record(NAME, "one")).await.unwrap();
        provider.remove(&record(NAME, "one")).await.unwrap();
        assert_eq!(knot.texts(NAME), ["two"], "{key}");
        provider.remove(&record(NAME, "two")).await.unwrap();
        assert_eq!(knot.texts(NAME), [""; 0], "{key}");
    }
}

#[tokio::test]
async fn refused_updates_say_what_is_wrong_and_no_secret() {
    let port = free_port(&[ONE]);
    let knot = Knot::start(at(ONE, port), KEYS, &[example()]);
    let good = ("edge256", TsigAlgorithm::HmacSha256, SECRET);
    let hour_late = Means { now: || now() - 3600, ..means(port) };
    for (key, means, name, expected) in [
        (
            Some(("edge256", TsigAlgorithm::HmacSha256, OTHER)),
            means(port),
            NAME,
            "its TSIG key edge256 has another secret (BADSIG): correct the secret",
        ),
        (
            Some(("stranger", TsigAlgorithm::HmacSha256, SECRET)),
            means(port),
            NAME,
            "it knows no TSIG key stranger with this algorithm for zone example.test (BADKEY)",
        ),
        (
            Some(("edge256", TsigAlgorithm::HmacSha512, SECRET)),
            means(port),
            NAME,
            "it knows no TSIG key edge256 with this algorithm for zone example.test (BADKEY)",
        ),
        (Some(good), hour_late, NAME, "its clock and ours differ by more than 300 s (BADTIME): synchronize them"),
        (
            Some(("nobody", TsigAlgorithm::HmacSha256, SECRET)),
            means(port),
            NAME,
            "it knows no TSIG key nobody with this algorithm for zone example.test (BADKEY)",
        ),
        (None, means(port), NAME, "it takes no unsigned updates of zone example.test"),
        (Some(good), means(port), "_acme-challenge.elsewhere.test", "it serves no zone that holds this name"),
    ] {
        let provider = Provider::open(&rfc2136(at(ONE, port), key), &Literal, &means).await.unwrap();
        let error = provider.add(&record(name, "value")).await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains(expected), "{text}\nlacks\n{expected}");
        assert!(!text.contains(SECRET) && !text.contains(OTHER), "{text}");
    }
    assert_eq!(knot.texts(NAME), [""; 0]);
    for (secret, expected) in [("no base64!", "TSIG key: it is not base64"), ("", "TSIG key: it is empty")] {
        let settings = rfc2136(at(ONE, port), Some(("edge256", TsigAlgorithm::HmacSha256, secret)));
        let error = Provider::open(&settings, &Literal, &means(port)).await.unwrap_err().to_string();
        assert_eq!(error, expected);
    }
    // Nobody there.
    drop(knot);
    let provider = Provider::open(&rfc2136(at(ONE, port), Some(good)), &Literal, &means(port)).await.unwrap();
    let error = provider.add(&record(NAME, "value")).await.unwrap_err().to_string();
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test]
async fn a_wildcard_and_its_parent_share_a_name() {
    let port = free_port(&[ONE]);
    let knot = Knot::start(at(ONE, port), KEYS, &[lone("example.test", "")]);
    let presenter = presenter(port, false, patience(60));
    let (whole, parent) = (challenge("example.test", true, "a"), challenge("example.test", false, "b"));
    let (first, second) = tokio::join!(presenter.present(&whole), presenter.present(&parent));
    first.unwrap();
    second.unwrap();
    let mut both = [value(&whole), value(&parent)];
    both.sort();
    assert_eq!(knot.texts("_acme-challenge.example.test"), both);
    presenter.withdraw(&whole).await;
    assert_eq!(knot.texts("_acme-challenge.example.test"), [value(&parent)]);
    presenter.withdraw(&parent).await;
    assert_eq!(knot.texts("_acme-challenge.example.test"), [""; 0]);
}

#[tokio::test]
async fn a_delegated_name_is_written_where_it_leads() {
    let port = free_port(&[ONE]);
    let alias = "_acme-challenge.shop CNAME hop\nhop CNAME shop.auth.test.\n";
    let zones = [lone("example.test", alias), lone("auth.test", "")];
    let knot = Knot::start(at(ONE, port), KEYS, &zones);
    let challenge = challenge("shop.example.test", false, "a");
    let following = presenter(port, true, patience(60));
    following.present(&challenge).await.unwrap();
    assert_eq!(knot.texts("shop.auth.test"), [value(&challenge)]);
    // What was written is taken back from there, even by a presenter that did not write it.
    presenter(port, true, patience(60)).withdraw(&challenge).await;
    assert_eq!(knot.texts("shop.auth.test"), [""; 0]);
    // Not followed, it is written beside the alias, where a name server ignores it (RFC 2136 §3.4.2.2).
    let error = presenter(port, false, patience(2)).present(&challenge).await.unwrap_err();
    assert!(
        error.contains("0 of 1 name servers of example.test show the TXT record; ns1.example.test shows none"),
        "{error}"
    );
}

#[tokio::test]
async fn all_name_servers_must_show_the_record() {
    let port = free_port(&[ONE, TWO]);
    let knot = Knot::start(at(ONE, port), KEYS, &[example()]);
    let second = secondary(port);
    let challenge = challenge("shop.example.test", false, "a");
    // Too slow for the deadline.
    let error = presenter(port, false, patience(2)).present(&challenge).await.unwrap_err();
    assert!(
        error.starts_with("_acme-challenge.shop.example.test: after ")
            && error.ends_with("1 of 2 name servers of example.test show the TXT record; ns2.example.test shows none"),
        "{error}"
    );
    assert_eq!((knot.texts(NAME), second.texts(NAME)), (vec![value(&challenge)], Vec::new()));
    // It follows in time.
    let waiting = tokio::spawn({
        let (presenter, challenge) = (presenter(port, false, patience(60)), challenge.clone());
        async move { presenter.present(&challenge).await }
    });
    let resolver = Resolver::new(settings(port));
    let seen = propagation::look(&resolver, NAME, &value(&challenge)).await.unwrap().to_string();
    assert!(seen.starts_with("1 of 2 name servers"), "{seen}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished(), "ns2 does not show it");
    second.refresh("example.test");
    waiting.await.unwrap().unwrap();
    assert_eq!(second.texts(NAME), [value(&challenge)]);
    // An old value at a server is named.
    let newer = self::challenge("shop.example.test", false, "b");
    let error = presenter(port, false, patience(2)).present(&newer).await.unwrap_err();
    assert!(error.ends_with("ns2.example.test shows 1 other values"), "{error}");
    // One that is down does not hold it up.
    drop(second);
    presenter(port, false, patience(60)).present(&newer).await.unwrap();
    // None left: the error says so.
    drop(knot);
    let error = presenter(port, false, patience(2)).present(&newer).await.unwrap_err();
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test]
async fn a_program_and_its_own_tools() {
    let port = free_port(&[ONE]);
    let knot = Knot::start(at(ONE, port), KEYS, &[lone("example.test", "")]);
    // What an operator would write around knsupdate (package knot-dnsutils).
    let script = format!(
        "case $1 in present) verb='add' ;; cleanup) verb='del' ;; esac\n\
         printf 'server 127.0.0.1 {port}\\nzone example.test.\\n%s %s 60 TXT \"%s\"\\nsend\\n' $verb $2 $3 | \
         knsupdate -v -y hmac-sha256:edge256:{SECRET}"
    );
    let provider =
        DnsProvider::Exec { command: "/bin/sh".into(), arguments: vec!["-c".into(), script.into(), "hook".into()] };
    let presenter = DnsPresenter::new(provider, false, Arc::new(Literal), means(port), patience(60));
    let challenge = challenge("shop.example.test", false, "a");
    presenter.present(&challenge).await.unwrap();
    assert_eq!(knot.texts(NAME), [value(&challenge)]);
    presenter.withdraw(&challenge).await;
    assert_eq!(knot.texts(NAME), [""; 0]);
}

#[tokio::test]
async fn long_answers_and_closed_udp_go_over_tcp() {
    let port = free_port(&[ONE]);
    let many: String = (0..40).map(|number| format!("big TXT \"{number}-{}\"\n", "x".repeat(90))).collect();
    let _knot = Knot::start(at(ONE, port), KEYS, &[lone("example.test", &many)]);
    let found = Resolver::new(settings(port)).lookup("big.example.test", RecordType::TXT).await.unwrap();
    assert_eq!(found.records().len(), 40);
    // A port with TCP only.
    let listener = tokio::net::TcpListener::bind((ONE, 0)).await.unwrap();
    let only_tcp = listener.local_addr().unwrap();
    let forward = tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let mut to = tokio::net::TcpStream::connect((ONE, port)).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
        }
    });
    // The first server is dead, the second is asked.
    let dead = SocketAddr::from(([127, 0, 0, 1], 1));
    let resolver = Resolver::new(Settings { servers: vec![dead, only_tcp], ..settings(port) });
    let found = resolver.lookup("shop.example.test", RecordType::A).await.unwrap();
    assert!(found.records().is_empty());
    assert_eq!(found.server, only_tcp);
    forward.abort();
    let error = Resolver::new(Settings { servers: vec![dead], ..settings(port) });
    let error = error.lookup("shop.example.test", RecordType::A).await.unwrap_err().to_string();
    assert!(error.starts_with("name server 127.0.0.1:1: "), "{error}");
}

fn wish(name: &str, kind: ChallengeKind, wildcard: bool) -> Wish {
    let entry = |address: &str| Entry { address: address.parse().unwrap(), announced: Announced::Yes };
    Wish {
        identifier: Identifier::Dns(name.into()),
        wildcard,
        kind,
        ca: Ca {
            name: "acme.ca.test".into(),
            identities: vec!["ca.test".into()],
            account: Some("https://acme.ca.test/acct/1".into()),
            stands: Stands::OnTheInternet,
        },
        entries: vec![entry("203.1.113.10"), entry("2a00:1450::10")],
        edges: vec![EdgeAnswer { edge: "a".into(), result: Ok(()) }],
        written: Written::There,
    }
}

const TREES: &str = "
good A 203.1.113.10
good AAAA 2a00:1450::10
stale A 203.1.113.10
stale AAAA 2a00:1450::dead
private A 10.0.0.1
foreign A 198.52.100.1
empty TXT \"nothing else\"
dangling CNAME gone
alias CNAME good
chain CNAME alias
loop CNAME pool
pool CNAME loop
open CAA 0 issue \"ca.test\"
open A 203.1.113.10
deep.down.open A 203.1.113.10
closed CAA 0 issue \";\"
closed A 203.1.113.10
wild CAA 0 issue \"ca.test\"
wild CAA 0 issuewild \"other.test\"
wild A 203.1.113.10
method CAA 0 issue \"ca.test; validationmethods=dns-01\"
method A 203.1.113.10
account CAA 0 issue \"ca.test; accounturi=https://acme.ca.test/acct/2\"
account A 203.1.113.10
critical CAA 128 strange \"x\"
critical A 203.1.113.10
caaalias CNAME closed
";

#[tokio::test]
async fn pre_flight_by_table() {
    use ChallengeKind::{Dns01, Http01};
    use Severity::{Fine, Stops, Warns};
    let port = free_port(&[ONE, TWO]);
    let forbidding = format!("{TREES}@ CAA 0 issue \"other.test\"\n");
    let half = "@ NS ns2\nns2 A 127.0.0.2\ngood A 203.1.113.10\n_acme-challenge.moved CNAME x.example.test.\n";
    let top = lone("test", "example NS ns1.example\nns1.example A 127.0.0.1\n");
    let zones = [top, lone("example.test", TREES), lone("strict.test", &forbidding), lone("half.test", half)];
    let _knot = Knot::start(at(ONE, port), KEYS, &zones);
    // It answers, but not for half.test.
    let _lame = Knot::start(at(TWO, port), KEYS, &[lone("other.test", "")]);
    let resolver = Resolver::new(settings(port));
    for (name, kind, severity, topic, text) in [
        ("good.example.test", Http01, Fine, Topic::Addresses, "leads to 203.1.113.10, 2a00:1450::10, which is ours"),
        ("chain.example.test", Http01, Fine, Topic::Addresses, "which is ours"),
        ("stale.example.test", Http01, Warns, Topic::StaleIpv6, "AAAA of stale.example.test is 2a00:1450::dead"),
        ("private.example.test", Http01, Stops, Topic::Addresses, "leads to 10.0.0.1 only"),
        ("foreign.example.test", Http01, Warns, Topic::Addresses, "leads to 198.52.100.1 (from 127.0.0.1), none of"),
        ("empty.example.test", Http01, Stops, Topic::Addresses, "has neither A nor AAAA records"),
        ("gone.example.test", Http01, Stops, Topic::Addresses, "does not exist (NXDOMAIN from 127.0.0.1)"),
        (
            "dangling.example.test",
            Http01,
            Stops,
            Topic::Addresses,
            "dangling.example.test is an alias of gone.example.test, which does not exist",
        ),
        ("loop.example.test", Http01, Warns, Topic::Addresses, "the aliases of loop.example.test do not end"),
        ("shop.elsewhere.example", Http01, Warns, Topic::Addresses, "answered REFUSED for shop.elsewhere.example"),
        ("open.example.test", Http01, Fine, Topic::Addresses, "which is ours"),
        ("deep.down.open.example.test", Http01, Fine, Topic::Addresses, "which is ours"),
        ("closed.example.test", Http01, Stops, Topic::Caa, "CAA at closed.example.test issue admits no CA"),
        ("wild.example.test", Http01, Fine, Topic::Addresses, "which is ours"),
        ("*.wild.example.test", Dns01, Stops, Topic::Caa, "issuewild admits other.test"),
        ("method.example.test", Http01, Stops, Topic::Caa, "admits ca.test by dns-01 only, not by http-01"),
        ("method.example.test", Dns01, Fine, Topic::Caa, "admits acme.ca.test for method.example.test"),
        ("account.example.test", Http01, Stops, Topic::Caa, "admits account https://acme.ca.test/acct/2 only"),
        ("critical.example.test", Http01, Stops, Topic::Caa, "critical property \"strange\""),
        // The set behind an alias counts (RFC 8659 §3).
        ("caaalias.example.test", Http01, Stops, Topic::Caa, "issue admits no CA"),
        ("good.strict.test", Http01, Stops, Topic::Caa, "CAA at strict.test issue admits other.test (from 127.0.0.1)"),
        ("open.strict.test", Http01, Fine, Topic::Addresses, "which is ours"),
        ("*.good.example.test", Http01, Stops, Topic::Challenge, "cannot be proved by http-01"),
        ("good.half.test", Http01, Fine, Topic::Addresses, "which is ours"),
        (
            "good.half.test",
            Dns01,
            Warns,
            Topic::Record,
            "1 of 2 name servers of half.test do not answer for it, and the CA may ask any: mend or remove ns2.half.test \
             (name server 127.0.0.2",
        ),
        ("moved.half.test", Dns01, Warns, Topic::Record, "is an alias of x.example.test, where the CA will look"),
        ("good.example.test", Dns01, Fine, Topic::Caa, "no CAA record restricts good.example.test"),
    ] {
        let (bare, wildcard) = name.strip_prefix("*.").map_or((name, false), |bare| (bare, true));
        let findings = judge(&look(&resolver, wish(bare, kind, wildcard)).await);
        let Finding { severity: found, topic: about, text: said } = &findings[0];
        assert_eq!((*found, *about), (severity, topic), "{name} by {kind}: {findings:#?}");
        assert!(said.contains(text), "{name} by {kind}: {said}");
    }
    // The system's resolver may have another view: the same facts only warn.
    let mut inside = settings(port);
    inside.sight = edge_acme::dns::resolver::Sight::Inside;
    let inside = Resolver::new(inside);
    for name in ["gone.example.test", "closed.example.test", "private.example.test"] {
        let findings = judge(&look(&inside, wish(name, Http01, false)).await);
        assert_eq!(findings[0].severity, Warns, "{name}: {findings:#?}");
    }
}
