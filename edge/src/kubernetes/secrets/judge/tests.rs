use std::time::Duration;

use edge_acme::local::{self, Order, OrderKey};
use edge_config::names::{CertId, ObjectKey};
use edge_config::snapshot::{KeyAlgorithm, WantedIssuer};

use super::*;

const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

fn offer(name: &str, from: i64) -> Offer {
    let made = local::self_signed(&Order {
        dns_names: &[name.into()],
        addresses: &[],
        common_name: None,
        is_ca: false,
        key: OrderKey::New(KeyAlgorithm::EcdsaP256),
        duration: Duration::from_secs(90 * DAY as u64),
        now: from,
    })
    .unwrap();
    let entry =
        CertEntry::from_pem(made.chain_pem.as_bytes(), made.key_pem.as_bytes(), Origin::Issued, provider()).unwrap();
    Offer {
        ca_pem: Some(made.chain_pem.clone()),
        chain_pem: made.chain_pem,
        key_pem: made.key_pem,
        facts: entry.facts,
        chain_length: 1,
        due: None,
    }
}

fn write_back() -> WriteBack {
    let pair = |name: &str, value: &str| (name.into(), value.into());
    WriteBack {
        secret: CertId(ObjectKey::parse("shop/tls")),
        annotations: vec![
            pair("cert-manager.io/issuer-name", "le"),
            pair("cert-manager.io/issuer-kind", "ClusterIssuer"),
            pair("cert-manager.io/issuer-group", "cert-manager.io"),
        ],
        labels: vec![pair("team", "shop")],
        derived: false,
    }
}

fn wish() -> WantedCertificate {
    WantedCertificate {
        id: CertId(ObjectKey::parse("shop/tls")),
        issuer: WantedIssuer::SelfSigned,
        dns_names: vec!["a.example".into()],
        addresses: Vec::new(),
        common_name: None,
        is_ca: false,
        key: KeyAlgorithm::EcdsaP256,
        rotate_key: true,
        duration: Duration::from_secs(90 * DAY as u64),
        renew_before: Duration::from_secs(30 * DAY as u64),
        profile: None,
        labels: Vec::new(),
        adopt: None,
        write_back: Some(write_back()),
        wanted_by: Vec::new(),
    }
}

/// As it comes back from the API once it is written.
fn written(offer: &Offer) -> Value {
    let body = creation(&write_back(), offer);
    let mut secret = body.0.clone();
    secret["metadata"]["resourceVersion"] = "7".into();
    secret["metadata"]["uid"] = "u".into();
    secret
}

fn verdict(secret: &Value, offer: &Offer) -> Verdict {
    judge(secret, &wish(), &write_back(), offer, NOW)
}

#[test]
fn what_is_created_stays_as_it_is() {
    let ours = offer("a.example", NOW - DAY);
    let secret = written(&ours);
    assert_eq!(secret["type"], "kubernetes.io/tls");
    assert_eq!(secret["metadata"]["labels"], json!({"app.kubernetes.io/managed-by": "edge", "team": "shop"}));
    assert_eq!(secret["metadata"]["annotations"]["cert-manager.io/issuer-name"], "le");
    assert_eq!(verdict(&secret, &ours), Verdict::Same);
    // What others add is none of ours.
    let mut secret = secret;
    secret["metadata"]["labels"]["theirs"] = "x".into();
    secret["data"]["keystore.jks"] = "AAAA".into();
    assert_eq!(verdict(&secret, &ours), Verdict::Same);
}

#[test]
fn each_case() {
    let ours = offer("a.example", NOW - DAY);
    let (older, newer) = (offer("a.example", NOW - 80 * DAY), offer("a.example", NOW - 60));
    let fresh = offer("a.example", NOW - 10 * DAY);
    let other = offer("b.example", NOW - 60);
    let by_hand = |offer: &Offer, text: &str| {
        let mut secret = written(offer);
        secret["metadata"]["annotations"][WRITTEN_ANNOTATION] = text.into();
        secret
    };
    let foreign = |offer: &Offer| {
        let mut secret = written(offer);
        secret["metadata"] = json!({"resourceVersion": "7", "uid": "u"});
        secret
    };
    let with = |mut secret: Value, place: &str, value: Value| {
        *secret.pointer_mut(place).unwrap() = value;
        secret
    };
    let annotated = |mut secret: Value, name: &str| {
        secret["metadata"] = json!({"resourceVersion": "7", "uid": "u", "annotations":
            {"cert-manager.io/issuer-name": name, "cert-manager.io/issuer-kind": "ClusterIssuer"}});
        secret
    };
    for (name, secret, expected) in [
        ("an older one of ours", written(&older), "write tls.crt"),
        ("a newer one of another edge", written(&newer), "adopt"),
        ("a good one, by hand", by_hand(&fresh, "x"), "adopt"),
        ("one that is due, by hand", by_hand(&older, "x"), "write tls.crt"),
        ("one for another name, by hand", by_hand(&other, "x"), "write tls.crt"),
        ("of cert-manager, for the same issuer", annotated(foreign(&older), "le"), "write tls.crt"),
        ("of cert-manager, for the same issuer, good", annotated(foreign(&fresh), "le"), "adopt"),
        (
            "of cert-manager, for another",
            annotated(foreign(&older), "other"),
            "not ours: what it holds is of issuer other",
        ),
        ("somebody's", foreign(&older), "not ours: somebody else made it"),
        ("somebody's that is broken", with(foreign(&older), "/data/tls.key", "AAAA".into()), "not ours"),
        ("somebody's that is good", foreign(&fresh), "adopt"),
        ("ours, put there by somebody", by_hand(&ours, "x"), "adopt"),
        ("ours, taken over from cert-manager", annotated(foreign(&ours), "le"), "adopt"),
        ("empty", with(foreign(&older), "/data", json!({"tls.crt": "", "tls.key": ""})), "write tls.crt"),
        ("without its key", with(written(&ours), "/data/tls.key", Value::Null), "write tls.key"),
        ("with garbage", with(written(&ours), "/data/tls.crt", "!".into()), "write tls.crt"),
        ("with another CA", with(written(&ours), "/data/ca.crt", "AAAA".into()), "write ca.crt"),
        ("without a label", with(written(&ours), "/metadata/labels/team", Value::Null), "write "),
        ("on its way out", with(written(&older), "/metadata/labels", json!({})), "write tls.crt"),
    ] {
        let found = match verdict(&secret, &ours) {
            Verdict::Same => "same".to_owned(),
            Verdict::Adopt => "adopt".to_owned(),
            Verdict::NotOurs(why) => format!("not ours: {why}"),
            Verdict::Write(body) => {
                assert_eq!(
                    (&body.0["metadata"]["resourceVersion"], &body.0["metadata"]["uid"]),
                    (&json!("7"), &json!("u"))
                );
                assert!(body.0.get("type").is_none(), "it cannot be changed");
                format!(
                    "write {}",
                    body.0["data"].as_object().map_or(String::new(), |data| data
                        .keys()
                        .cloned()
                        .collect::<Vec<_>>()
                        .join(" "))
                )
            }
        };
        assert!(found.contains(expected), "{name}: {found}, not {expected}");
    }
    let mut leaving = written(&older);
    leaving["metadata"]["deletionTimestamp"] = "x".into();
    assert!(matches!(verdict(&leaving, &ours), Verdict::NotOurs(_)));
}

#[test]
fn keys_of_accounts() {
    let reference = SecretRef { secret: ObjectKey::parse("cert-manager/le-edge"), key: "tls.key".into() };
    let secret = account_creation(&reference, "one").0.clone();
    assert_eq!(secret["metadata"]["name"], "le-edge");
    assert_eq!(judge_account(&secret, &reference, "one"), Verdict::Same);
    assert!(matches!(judge_account(&secret, &reference, "two"), Verdict::Write(_)));
    let mut theirs = secret.clone();
    theirs["metadata"]["labels"] = Value::Null;
    assert!(matches!(judge_account(&theirs, &reference, "two"), Verdict::NotOurs(_)));
    theirs["data"]["tls.key"] = "".into();
    assert!(matches!(judge_account(&theirs, &reference, "two"), Verdict::Write(_)));
}

#[test]
fn bodies_are_wiped_and_not_printed() {
    let ours = offer("a.example", NOW);
    let body = creation(&write_back(), &ours);
    assert_eq!(format!("{body:?}"), "[redacted]");
    let mut value = body.0.clone();
    wipe(&mut value);
    assert_eq!(value["data"]["tls.key"], "");
}
