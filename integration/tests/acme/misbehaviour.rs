//! A CA that cuts, dribbles, lies, refuses and loses things, at every step: what it costs is one sentence and a few
//! requests; no key is lost, and nothing is ordered twice without need.

use std::time::{Duration, Instant};

use edge_acme::challenge::{Challenge, Present};
use edge_acme::client::now;
use edge_acme::failure::{Class, OrderError, Step};
use edge_acme::order::{Account, Obtained, OrderRecord, OrderWish, Secrets};
use edge_config::issuer::{AcmeIssuer, ExternalAccount, SecretSource, Solve};
use edge_integration::acme::Memory;
use edge_integration::acme::small::{Fault, Leaf, Manner, Place, Reply, Small};

use super::desk::{issuer, wish};

/// For the whole of one order; everything is quick here but what is broken.
const PATIENCE: Duration = Duration::from_secs(5);
/// For one that must come to its end on a busy machine.
const LONG: Duration = Duration::from_secs(60);
const FOR_EVER: usize = usize::MAX;

/// Puts every answer in place: nobody looks.
struct Anyone;

impl Present for Anyone {
    async fn present(&self, _: &Challenge) -> Result<(), String> {
        Ok(())
    }

    async fn withdraw(&self, _: &Challenge) {}
}

/// One CA and one client with its journal.
struct Case {
    small: Small,
    issuer: AcmeIssuer,
    secrets: Secrets,
    journal: Memory,
    wish: OrderWish,
}

impl Case {
    fn new() -> Self {
        let small = Small::start();
        let issuer = AcmeIssuer { contacts: Vec::new(), ..issuer(&small.directory(), None, Solve::Http01) };
        let wish = OrderWish { patience: PATIENCE, ..wish(&["www.example.com", "example.com"]) };
        Self { small, issuer, secrets: Secrets::default(), journal: Memory::default(), wish }
    }

    fn with(place: Place, times: usize, fault: &Fault) -> Self {
        let case = Self::new();
        case.small.fault(place, times, fault.clone());
        case
    }

    /// As a daemon does it: the account of the journal, and the order of the journal where it is not over.
    async fn attempt(&self, resume: bool) -> Result<Obtained, OrderError> {
        self.order(&self.wish, self.journal.order_now().filter(|_| resume)).await
    }

    /// Goes on with what broke off, for as long as it takes.
    async fn end(&self) -> Result<Obtained, OrderError> {
        self.order(&OrderWish { patience: LONG, ..self.wish.clone() }, self.journal.order_now()).await
    }

    async fn order(&self, wish: &OrderWish, record: Option<OrderRecord>) -> Result<Obtained, OrderError> {
        let account = Account::open(&self.issuer, &self.secrets, self.journal.account_now(), &self.journal).await?;
        account.obtain(wish, &Anyone, &self.journal, record).await
    }

    fn key(&self) -> Option<String> {
        self.journal.order_now().map(|record| record.key.reveal().to_owned())
    }
}

/// One line for a person, and no secret in it.
fn is_a_sentence(error: &OrderError, case: &str) {
    let text = error.to_string();
    assert!((10..700).contains(&text.len()) && !text.chars().any(char::is_control), "{case}: {text:?}");
    assert!(!text.contains("BEGIN") && !text.contains("token-of-order"), "{case}: {text}");
}

fn faults() -> Vec<(&'static str, Fault)> {
    let says = |status, kind, body: &str| Fault::Says(Reply::of(status, kind, body));
    vec![
        ("cut", Fault::Cut),
        ("done, then cut", Fault::DoneThenCut),
        ("half of the answer", Fault::HalfThenCut),
        ("no nonce", Fault::WithoutNonce),
        ("endless", Fault::Endless),
        ("a page instead", says(200, "text/html", "<html><body>Welcome to the hotel</body></html>")),
        ("nothing", says(200, "application/json", "")),
        ("other JSON", says(200, "application/json", "[null, {\"status\": 7}]")),
        ("bytes", Fault::Says(Reply::of(200, "application/json", vec![0xff, 0, 0x80, b'{']))),
        ("deep", says(200, "application/json", &"[".repeat(100_000))),
        ("huge", says(200, "application/json", &format!("[{}1]", "1,".repeat(1 << 20)))),
        ("500", says(500, "text/plain", "")),
        ("502 with a page", says(502, "text/html", "<html>Bad\r\nGateway</html>")),
        ("503", Fault::Says(Reply::of(503, "text/html", "later").with("retry-after", "1"))),
        ("a nonce of nobody", Fault::Says(Reply::problem(400, "badNonce", "not ours"))),
        ("serverInternal", Fault::Says(Reply::problem(500, "serverInternal", "the database is\naway"))),
        ("redirect", Fault::Says(Reply::of(302, "text/html", "").with("location", "http://192.0.2.1/dir"))),
    ]
}

/// Whatever goes wrong once is over at the next try, with the same key and, but for an answer to new-order that never
/// came, with the same order.
#[tokio::test]
async fn what_breaks_once_is_gone_on_with() {
    let start = Instant::now();
    let mut tries = 0;
    for place in Place::OF_AN_ORDER {
        for (name, fault) in faults() {
            let title = format!("{name} at {place:?}");
            let case = Case::with(place, 1, &fault);
            if let Err(error) = case.attempt(false).await {
                is_a_sentence(&error, &title);
                assert!(matches!(error.class, Class::Transient | Class::Limited), "{title}: {error:?}");
                let begun = case.small.asked(Place::NewOrder) > 0;
                assert!(error.resumes || !begun, "{title}: an order is given up: {error}");
                let key = case.key();
                tries += 1;
                let obtained = case.end().await.unwrap_or_else(|error| panic!("{title}, then: {error}"));
                assert!(key.is_none_or(|key| key == *obtained.key_pem), "{title}: another key");
            }
            let lost = place == Place::NewOrder && case.small.orders() == 2;
            assert!(case.small.orders() == 1 || lost, "{title}: {} orders", case.small.orders());
            assert_eq!(case.small.accounts(), 1, "{title}");
            assert!(case.small.requests() < 60, "{title}: {} requests", case.small.requests());
        }
    }
    eprintln!("    {tries} tries were cut short, in {:?}", start.elapsed());
    assert!(tries > 30, "{tries}");
}

/// What stays broken ends in time, in one sentence that says where, and in few requests.
#[tokio::test]
async fn what_stays_broken_is_said_and_costs_little() {
    let mut most = (0, String::new());
    let mut running = Vec::new();
    for place in Place::OF_AN_ORDER {
        for (name, fault) in faults() {
            // The order is done all the same.
            if name == "no nonce" && place != Place::Nonce {
                continue;
            }
            running.push(async move {
                let title = format!("{name} at {place:?}");
                let case = Case::with(place, FOR_EVER, &fault);
                let began = Instant::now();
                let outcome = case.attempt(false).await;
                (title, case, outcome, began.elapsed())
            });
        }
    }
    // What waits does not wait for others.
    for (title, case, outcome, took) in futures_util::future::join_all(running).await {
        let Err(error) = outcome else {
            // The order itself tells how a challenge went, and that it was finalized.
            let done = ["done, then cut at Finalize", "half of the answer at Finalize"].contains(&&*title);
            assert!(done || title.ends_with("Challenge"), "{title} went well");
            continue;
        };
        is_a_sentence(&error, &title);
        assert!(matches!(error.class, Class::Transient | Class::Limited), "{title}: {error:?}");
        assert!(case.small.orders() <= 1, "{title}: {} orders", case.small.orders());
        assert!(took < Duration::from_secs(60), "{title}: {took:?}");
        let requests = case.small.requests();
        if requests > most.0 {
            most = (requests, title.clone());
        }
        assert!(requests < 100, "{title}: {requests} requests");
    }
    eprintln!("    at most {} requests: {}", most.0, most.1);
}

/// No answer, or one byte a second: the limit of one request ends it. They wait together.
#[tokio::test]
async fn silence_ends() {
    let each = Place::OF_AN_ORDER.into_iter().flat_map(|place| {
        let slow = [Fault::Silent, Fault::Dribbles(Duration::from_secs(1))];
        slow.into_iter().map(move |fault| async move {
            let title = format!("{fault:?} at {place:?}");
            let case = Case::with(place, 1, &fault);
            let error = case.attempt(false).await.expect_err(&title);
            assert_eq!(error.class, Class::Transient, "{title}: {error}");
            assert!(error.to_string().contains("no answer from 127.0.0.1"), "{title}: {error}");
            let obtained = case.end().await.unwrap_or_else(|error| panic!("{title}, then: {error}"));
            let _ = obtained;
            assert!(case.small.orders() <= 2, "{title}");
        })
    });
    let together = futures_util::future::join_all(each);
    tokio::time::timeout(Duration::from_secs(120), together).await.expect("the limit of a request is 30 s");
}

#[tokio::test]
async fn limits_are_kept_with_their_time() {
    let limited = |detail: &str| Reply::problem(429, "rateLimited", detail);
    let set = "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s, \
               retry after 2099-01-02 03:04:05 UTC: see https://letsencrypt.org/docs/rate-limits/";
    let cases = [
        (Place::NewAccount, limited("too many new registrations"), Step::Account, Some(3600)),
        (Place::NewOrder, limited("too many new orders (300) from this account"), Step::NewOrder, Some(90)),
        (Place::NewOrder, limited("too many failed authorizations (5) for \"example.com\""), Step::NewOrder, None),
        (Place::Finalize, limited("slow down"), Step::Finalize, Some(3600)),
        (Place::NewOrder, Reply::of(503, "text/html", "<h1>overloaded</h1>"), Step::NewOrder, Some(45)),
        (Place::Nonce, Reply::of(429, "text/html", ""), Step::Account, Some(45)),
    ];
    for (place, reply, step, wait) in cases {
        let reply = match wait {
            Some(seconds) => reply.with("retry-after", &seconds.to_string()),
            None => reply,
        };
        let title = format!("{place:?} {}", String::from_utf8_lossy(&reply.body));
        let case = Case::with(place, FOR_EVER, &Fault::Says(reply));
        let error = case.attempt(false).await.unwrap_err();
        is_a_sentence(&error, &title);
        assert_eq!((error.class, error.step), (Class::Limited, step), "{title}: {error}");
        let left = error.until.map(|until| until - now());
        let fits = |left: i64, wait: i64| (wait - 20..=wait).contains(&left);
        assert!(left.zip(wait).map_or(left == wait, |(left, wait)| fits(left, wait)), "{title}: {left:?}");
        // Whoever is told to wait does not ask again by himself.
        assert_eq!(case.small.asked(place), 1, "{title}");
    }
    // Only the text says when.
    let case = Case::with(Place::NewOrder, FOR_EVER, &Fault::Says(limited(set)));
    let error = case.attempt(false).await.unwrap_err();
    assert!(error.until.is_some_and(|until| until > now() + 86_400), "{error}");
}

#[tokio::test]
async fn another_certificate_than_was_asked_for_is_not_taken() {
    for (leaf, class, expected) in [
        (Leaf::OtherNames, Class::Config, "its names are"),
        (Leaf::MoreNames, Class::Config, "its names are"),
        (Leaf::OtherKey, Class::Config, "it is for another key"),
        (Leaf::Expired, Class::Config, "the certificate ended at"),
        (Leaf::NotYet, Class::Config, "the certificate begins at"),
        (Leaf::BrokenChain, Class::Config, "the chain is broken"),
        (Leaf::SelfSigned, Class::Config, "it is for another key"),
        (Leaf::IsCa, Class::Config, "it is a CA's"),
        (Leaf::Garbage, Class::Config, "with no certificate in them"),
        (Leaf::Nothing, Class::Transient, "the CA sent no certificate"),
    ] {
        let case = Case::new();
        case.small.set(Manner { leaf, ..Manner::default() });
        let error = case.attempt(false).await.unwrap_err();
        is_a_sentence(&error, &format!("{leaf:?}"));
        assert_eq!((error.class, error.step), (class, Step::Verify), "{leaf:?}: {error}");
        assert!(error.to_string().contains(expected), "{leaf:?}: {error}");
        // It would be the same one again: only what was no certificate at all is fetched again.
        assert_eq!(error.resumes, class == Class::Transient, "{leaf:?}");
        assert_eq!(case.small.asked(Place::Certificate), 1, "{leaf:?}");
    }
}

#[tokio::test]
async fn an_order_that_never_ends_is_asked_for_now_and_then() {
    let case = Case::new();
    case.small.set(Manner { stuck: true, ..Manner::default() });
    for resume in [false, true, true] {
        let before = case.small.requests();
        let error = case.attempt(resume).await.unwrap_err();
        is_a_sentence(&error, "stuck");
        assert!(error.resumes && error.class == Class::Transient && error.step == Step::Finalize, "{error:?}");
        // The CA answers: that is no reason to think it down for all others.
        assert!(error.answered, "{error:?}");
        assert!(case.small.requests() - before < 25, "{}", case.small.requests() - before);
    }
    assert_eq!((case.small.orders(), case.small.asked(Place::Finalize)), (1, 1));
    case.small.behave();
    // A CA that came to its senses: finalized once more by whoever is asked.
    let key = case.key();
    drop(case.attempt(true).await);
    assert_eq!(case.key(), key);
}

#[tokio::test]
async fn storms_of_refused_nonces_end() {
    let storm = Fault::Says(Reply::problem(400, "badNonce", "not ours"));
    for (place, times, goes) in [
        (Place::NewOrder, 8, true),
        (Place::Authorization, 8, true),
        (Place::NewOrder, FOR_EVER, false),
        (Place::NewAccount, FOR_EVER, false),
    ] {
        let case = Case::with(place, times, &storm);
        let outcome = case.attempt(false).await;
        assert_eq!(outcome.is_ok(), goes, "{place:?} {times}: {outcome:?}");
        assert!(case.small.asked(place) <= 12, "{place:?}: {}", case.small.asked(place));
        // Every nonce was used once.
        assert_eq!(case.small.bad_nonces(), 0);
    }
}

#[tokio::test]
async fn a_deleted_account_is_made_again_where_that_is_allowed() {
    let mut case = Case::new();
    case.attempt(false).await.unwrap();
    case.small.forget_accounts();
    let obtained = case.attempt(false).await.unwrap();
    assert!(obtained.notes[0].contains("lost the account"), "{obtained:?}");
    assert_eq!((case.small.orders(), case.small.accounts()), (2, 2));
    case.issuer.create_account = false;
    case.small.forget_accounts();
    let error = case.attempt(false).await.unwrap_err();
    assert_eq!((error.class, error.kind.as_deref()), (Class::Config, Some("accountDoesNotExist")), "{error}");
    assert_eq!(case.small.accounts(), 2);
}

#[tokio::test]
async fn demands_that_are_not_met_are_named_before_an_order() {
    let mut case = Case::new();
    case.small.set(Manner { wants_external_account: true, profiles: vec!["classic", "short"], ..Manner::default() });
    let error = case.attempt(false).await.unwrap_err();
    assert_eq!((error.class, error.kind.as_deref()), (Class::Config, Some("externalAccountRequired")), "{error}");
    let key = SecretSource::File("/nowhere".into());
    case.issuer.external_account = Some(ExternalAccount { key_id: "kid-1".into(), key });
    case.secrets.external_key =
        Some(edge_acme::order::SecretText::new("d3Jvbmctd3Jvbmctd3Jvbmctd3JvbmctIQ".to_owned()));
    case.issuer.profile = Some("tlsserver".into());
    let error = case.attempt(false).await.unwrap_err();
    assert!(error.to_string().contains("no profile \"tlsserver\", only classic, short"), "{error}");
    assert_eq!(case.small.orders(), 0);
    // The directory named it, and the CA changed its mind.
    case.issuer.profile = Some("short".into());
    let refusal = Reply::problem(400, "invalidProfile", "not for this account");
    case.small.fault(Place::NewOrder, 1, Fault::Says(refusal));
    let error = case.attempt(false).await.unwrap_err();
    assert_eq!((error.class, error.resumes), (Class::Config, false), "{error}");
    case.attempt(false).await.unwrap();
}

/// Boulder's `validationRecord`, which no test server has.
#[tokio::test]
async fn a_failed_validation_says_where_the_ca_looked() {
    let case = Case::new();
    let refuses = Some(("unauthorized", "2001:db8::9: Invalid response from http://www.example.com/: 404"));
    case.small.set(Manner { refuses, ..Manner::default() });
    let error = case.attempt(false).await.unwrap_err();
    assert_eq!((error.class, error.step, error.resumes), (Class::Validation, Step::Validate, false));
    assert_eq!(
        error.to_string(),
        "validation by the CA: www.example.com by http-01: 2001:db8::9: Invalid response from \
         http://www.example.com/: 404 (unauthorized); the CA looked at http://www.example.com/ on 2001:db8::9 port 80 \
         (of 2 addresses); and 1 more of its names"
    );
}

#[tokio::test]
async fn nobody_is_led_elsewhere() {
    let other = Small::start();
    let elsewhere = |status| Reply::of(status, "text/html", "").with("location", &other.directory());
    for place in Place::OF_AN_ORDER {
        for status in [301, 302, 307, 308] {
            let case = Case::with(place, FOR_EVER, &Fault::Says(elsewhere(status)));
            match case.attempt(false).await {
                Err(error) => assert!(error.to_string().contains(&other.directory()), "{place:?}: {error}"),
                Ok(_) => assert_eq!(place, Place::Challenge),
            }
        }
    }
    assert_eq!(other.requests(), 0);
    // A directory that names plain HTTP elsewhere is a matter of whoever wrote its URL.
    let directory =
        r#"{"newNonce":"http://192.0.2.1/n","newAccount":"http://192.0.2.1/a","newOrder":"file:///etc/passwd"}"#;
    let case = Case::with(Place::Directory, FOR_EVER, &Fault::Says(Reply::of(200, "application/json", directory)));
    let error = case.attempt(false).await.unwrap_err();
    assert!(error.class == Class::Config && error.to_string().contains("192.0.2.1"), "{error}");
}

#[tokio::test]
async fn a_directory_that_vanishes_and_comes_back() {
    let mut case = Case::new();
    case.attempt(false).await.unwrap();
    let address = case.small.address;
    drop(std::mem::replace(&mut case.small, Small::start()));
    let error = case.attempt(false).await.unwrap_err();
    assert!(error.class == Class::Transient && error.to_string().contains("cannot reach"), "{error}");
    // It comes back and remembers nobody.
    case.small = Small::start_at(address);
    let obtained = case.attempt(false).await.unwrap();
    assert!(obtained.notes[0].contains("lost the account"), "{obtained:?}");
}
