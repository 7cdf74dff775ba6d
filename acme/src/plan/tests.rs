use std::time::Duration;

use edge_config::names::ObjectKey;
use edge_config::snapshot::KeyAlgorithm;

use super::*;
use crate::level::Level;

const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

fn id(name: &str) -> CertId {
    CertId(ObjectKey::parse(name))
}

fn wanted(name: &str, issuer: WantedIssuer) -> WantedCertificate {
    WantedCertificate {
        id: id(name),
        issuer,
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
        write_back: None,
        adopt: None,
        wanted_by: Vec::new(),
    }
}

fn ca_wanted(name: &str, issuer: WantedIssuer) -> WantedCertificate {
    WantedCertificate { is_ca: true, ..wanted(name, issuer) }
}

fn internal() -> WantedIssuer {
    WantedIssuer::Internal { instead_of: None }
}

fn key(text: &str) -> KeyId {
    KeyId(text.into())
}

fn ca(name: &str, not_after: i64) -> Ca {
    Ca { key_id: key(name), validity: Validity { not_before: 0, not_after } }
}

fn held(wanted: &WantedCertificate, signer: &str, not_before: i64) -> Held {
    let own = key(&format!("key of {}", wanted.id));
    let signer = if signer == "self" { own.clone() } else { key(signer) };
    Held {
        made_for: MadeFor::new(wanted, signer),
        validity: Validity { not_before, not_after: not_before + 90 * DAY },
        key_id: own,
    }
}

/// An input with an internal CA, changed by the test.
struct World {
    wanted: Vec<WantedCertificate>,
    held: BTreeMap<CertId, Held>,
    supplied: BTreeMap<CertId, Result<Ca, String>>,
    internal: Result<Ca, &'static str>,
    failures: BTreeMap<CertId, Failure>,
    now: i64,
}

impl World {
    fn new(wanted: Vec<WantedCertificate>) -> Self {
        Self {
            wanted,
            held: BTreeMap::new(),
            supplied: BTreeMap::new(),
            internal: Ok(ca("internal", NOW + 3650 * DAY)),
            failures: BTreeMap::new(),
            now: NOW,
        }
    }

    fn hold(mut self, index: usize, signer: &str, not_before: i64) -> Self {
        let one = held(&self.wanted[index], signer, not_before);
        self.held.insert(self.wanted[index].id.clone(), one);
        self
    }

    fn plan(&self) -> Plan {
        plan(&PlanInput {
            wanted: &self.wanted,
            held: &self.held,
            supplied_cas: &self.supplied,
            internal: self.internal.clone(),
            failures: &self.failures,
            acme: AcmeInput::default(),
            now: self.now,
        })
    }

    fn reasons(&self) -> Vec<(String, Reason)> {
        self.plan().issue.into_iter().map(|issue| (issue.id.to_string(), issue.reason)).collect()
    }

    fn wait(&self, name: &str) -> String {
        self.plan().waiting[&id(name)].to_string()
    }
}

#[test]
fn missing_due_expired_and_changed() {
    let issue = |world: &World| world.reasons().pop().map(|(_, reason)| reason);
    let fresh = || World::new(vec![wanted("a/b", internal())]).hold(0, "internal", NOW);
    assert_eq!(issue(&World::new(vec![wanted("a/b", internal())])), Some(Reason::Missing));
    assert_eq!(issue(&fresh()), None);
    assert_eq!(issue(&World { now: NOW + 61 * DAY, ..fresh() }), Some(Reason::Due));
    assert_eq!(issue(&World { now: NOW + 91 * DAY, ..fresh() }), Some(Reason::Expired));
    assert_eq!(issue(&World { now: NOW - 300, ..fresh() }), Some(Reason::NotYetValid));
    type Change = fn(&mut World);
    let changes: [(Change, &str); 7] = [
        (|world| world.wanted[0].dns_names.push("b.example".into()), "the list of its names"),
        (|world| world.wanted[0].common_name = Some("x".into()), "its common name"),
        (|world| world.wanted[0].key = KeyAlgorithm::Rsa(2048), "its key algorithm"),
        (|world| world.wanted[0].is_ca = true, "isCA"),
        (|world| world.wanted[0].issuer = WantedIssuer::SelfSigned, "its issuer"),
        (|world| world.internal = Ok(ca("another", NOW + 3650 * DAY)), "the key of its CA"),
        (
            |world| {
                world.wanted[0].issuer = WantedIssuer::Ca(id("x/ca"));
                world.supplied.insert(id("x/ca"), Ok(ca("internal", NOW + DAY)));
            },
            "its issuer",
        ),
    ];
    for (change, what) in changes {
        let mut world = fresh();
        change(&mut world);
        assert_eq!(issue(&world), Some(Reason::Changed(what)));
    }
    // Only the reason why Edge itself issues is no change of the issuer.
    let mut world = fresh();
    world.wanted[0].issuer = WantedIssuer::Internal { instead_of: Some("ClusterIssuer le: no ACME yet".into()) };
    assert_eq!(issue(&world), None);
}

/// Whoever issued it is away (the object was deleted, or is half written): what clients trust is not replaced by what
/// they do not.
#[test]
fn what_an_issuer_made_that_is_away_serves_until_it_ends() {
    let away = |why: &str| WantedIssuer::Internal { instead_of: Some(why.into()) };
    type Change = fn(&mut Held);
    let by_acme: Change = |held| held.made_for.issuer = "ClusterIssuer le".into();
    let by_ca: Change = |held| held.made_for.issuer = "ca pki/root".into();
    let adopted: Change = |held| {
        held.made_for.issuer = "ClusterIssuer le".into();
        held.made_for.adopted = true;
    };
    for (title, change) in [("ACME", by_acme), ("a CA", by_ca), ("adopted", adopted)] {
        let fresh = || {
            let mut world = World::new(vec![wanted("a/b", away("ClusterIssuer le not found"))]).hold(0, "x", NOW);
            change(world.held.get_mut(&id("a/b")).unwrap());
            world
        };
        // (age in days, level, whether it is replaced)
        for (age, level) in [(1, Level::Fine), (62, Level::Fine), (64, Level::Late), (82, Level::Warning)] {
            let world = World { now: NOW + age * DAY, ..fresh() };
            let plan = world.plan();
            assert!(plan.issue.is_empty(), "{title}, {age} d: {:?}", plan.issue);
            assert_eq!(
                plan.waiting[&id("a/b")].to_string(),
                "ClusterIssuer le not found; what is held serves until it ends at 2027-04-15T08:00:00Z"
            );
            assert_eq!(plan.standing[&id("a/b")].level, level, "{title}, {age} d");
        }
        assert_eq!(fresh().plan().next, fresh().plan().renewals.get(&id("a/b")).copied());
        let late = World { now: NOW + 80 * DAY, ..fresh() };
        assert_eq!(late.plan().next, Some(NOW + 90 * DAY + 1));
        // Then what nobody trusts is better than what is over.
        let over = World { now: NOW + 90 * DAY + 1, ..fresh() };
        assert_eq!(over.reasons(), [("a/b".to_owned(), Reason::Changed("its issuer"))], "{title}");
        // Another name: it is of no use. One more name: for the first it still is.
        let mut other = fresh();
        other.wanted[0].dns_names = vec!["b.example".into()];
        assert_eq!(other.reasons().len(), 1, "{title}");
        let mut more = fresh();
        more.wanted[0].dns_names.push("b.example".into());
        assert!(more.reasons().is_empty(), "{title}");
        // Where nobody may stand in, nothing is made ever.
        for age in [1, 80, 100] {
            let mut world = World { now: NOW + age * DAY, ..fresh() };
            world.wanted[0].issuer = WantedIssuer::Nobody { why: "gone".into() };
            assert!(world.reasons().is_empty() && world.wait("a/b").starts_with("gone"), "{title}, {age} d");
        }
    }
    // What the internal CA made is no better than what it would make.
    let stand_in = World::new(vec![wanted("a/b", away("gone"))]).hold(0, "internal", NOW - 80 * DAY);
    assert_eq!(stand_in.reasons(), [("a/b".to_owned(), Reason::Due)]);
    // Somebody wants the internal CA instead: that is no outage.
    let mut chosen = World::new(vec![wanted("a/b", internal())]).hold(0, "x", NOW);
    by_acme(chosen.held.get_mut(&id("a/b")).unwrap());
    assert_eq!(chosen.reasons(), [("a/b".to_owned(), Reason::Changed("its issuer"))]);
    // A CA whose own issuer is away signs on.
    let ca_away = ca_wanted("m/root", WantedIssuer::Nobody { why: "gone".into() });
    let mut world = World::new(vec![wanted("a/leaf", WantedIssuer::Ca(id("m/root"))), ca_away]).hold(1, "x", NOW);
    by_ca(world.held.get_mut(&id("m/root")).unwrap());
    assert_eq!(world.reasons(), [("a/leaf".to_owned(), Reason::Missing)]);
}

#[test]
fn keys_are_kept_where_asked() {
    let keep = |change: fn(&mut WantedCertificate)| {
        let mut world = World::new(vec![wanted("a/b", internal())]).hold(0, "internal", NOW - 80 * DAY);
        change(&mut world.wanted[0]);
        world.plan().issue[0].keep_key
    };
    assert!(!keep(|_| {}));
    assert!(keep(|wanted| wanted.rotate_key = false));
    assert!(!keep(|wanted| {
        wanted.rotate_key = false;
        wanted.key = KeyAlgorithm::Ed25519;
    }));
}

#[test]
fn a_ca_comes_before_what_it_signs() {
    let chain = vec![
        wanted("a/leaf", WantedIssuer::Ca(id("z/middle"))),
        ca_wanted("z/middle", WantedIssuer::Ca(id("m/root"))),
        ca_wanted("m/root", WantedIssuer::SelfSigned),
    ];
    let world = World::new(chain);
    let order: Vec<String> = world.reasons().into_iter().map(|(name, _)| name).collect();
    assert_eq!(order, ["m/root", "z/middle", "a/leaf"]);
}

#[test]
fn a_new_key_of_the_ca_renews_what_it_signed_and_a_kept_one_does_not() {
    let world = |rotate_key: bool| {
        let mut root = ca_wanted("m/root", WantedIssuer::SelfSigned);
        root.rotate_key = rotate_key;
        let leaf = wanted("a/leaf", WantedIssuer::Ca(id("m/root")));
        World::new(vec![leaf, root]).hold(1, "self", NOW - 80 * DAY).hold(0, "key of m/root", NOW - DAY)
    };
    let names = |world: World| -> Vec<String> { world.reasons().into_iter().map(|(name, _)| name).collect() };
    assert_eq!(names(world(true)), ["m/root", "a/leaf"]);
    assert_eq!(names(world(false)), ["m/root"]);
    // Another subject is another CA, whatever its key.
    let mut renamed = world(false);
    renamed.wanted[1].common_name = Some("new name".into());
    assert_eq!(names(renamed), ["m/root", "a/leaf"]);
}

#[test]
fn waits_say_why() {
    let leaf = |ca: &str| wanted("a/leaf", WantedIssuer::Ca(id(ca)));
    assert_eq!(World::new(vec![leaf("x/ca")]).wait("a/leaf"), "the CA's Secret x/ca does not exist");

    let mut world = World::new(vec![leaf("x/ca")]);
    world.supplied.insert(id("x/ca"), Err("is no CA certificate".into()));
    assert_eq!(world.wait("a/leaf"), "the CA's Secret x/ca cannot sign: is no CA certificate");
    world.supplied.insert(id("x/ca"), Ok(ca("x", NOW - DAY)));
    assert_eq!(world.wait("a/leaf"), "its CA x/ca has expired at 2027-01-14T08:00:00Z");

    let world = World::new(vec![leaf("b/ca"), ca_wanted("b/ca", WantedIssuer::Ca(id("x/gone")))]);
    assert_eq!(world.wait("a/leaf"), "its CA b/ca is not issued yet");

    let world = World::new(vec![leaf("b/no-ca"), wanted("b/no-ca", internal())]);
    assert!(world.wait("a/leaf").contains("isCA: true"));
    assert_eq!(world.reasons(), [("b/no-ca".into(), Reason::Missing)]);

    let circle = World::new(vec![
        ca_wanted("a/one", WantedIssuer::Ca(id("a/two"))),
        ca_wanted("a/two", WantedIssuer::Ca(id("a/one"))),
        ca_wanted("a/own", WantedIssuer::Ca(id("a/own"))),
    ]);
    let plan = circle.plan();
    assert!(plan.issue.is_empty() && plan.waiting.len() == 3, "{plan:?}");
    assert_eq!(circle.wait("a/own"), "it would be signed, by way of a/own, by itself");

    let deep: Vec<_> =
        (0..20).map(|n| ca_wanted(&format!("d/{n:02}"), WantedIssuer::Ca(id(&format!("d/{:02}", n + 1))))).collect();
    assert!(World::new(deep).plan().waiting.values().any(|wait| wait.to_string().contains("more than 8 CAs")));

    let world = World { internal: Err("disk says no"), ..World::new(vec![wanted("a/b", internal())]) };
    assert_eq!(world.wait("a/b"), "no internal CA: disk says no");

    let world = World { now: 1_000, ..World::new(vec![wanted("a/b", internal())]) };
    assert!(world.plan().issue.is_empty() && world.wait("a/b").contains("clock"));
    assert_eq!(world.plan().next, Some(1_060));
}

#[test]
fn a_renewal_that_gains_nothing_waits() {
    let mut world = World::new(vec![wanted("a/b", internal())]).hold(0, "internal", NOW - 61 * DAY);
    // The CA ends with the certificate.
    world.internal = Ok(ca("internal", NOW + 29 * DAY));
    assert_eq!(world.wait("a/b"), "its CA internal ends at 2027-02-13T08:00:00Z, so nothing longer can be signed");
    assert_eq!(world.plan().next, None);
    world.internal = Ok(ca("internal", NOW + 40 * DAY));
    assert_eq!(world.reasons(), [("a/b".into(), Reason::Due)]);
}

#[test]
fn failures_back_off_and_a_clock_set_back_does_not_hold_for_ever() {
    let mut world = World::new(vec![wanted("a/b", internal())]);
    let attempt = world.plan().issue[0].attempt.clone();
    let failure = |count, last_try| Failure { count, last_try, reason: "no".into(), attempt: attempt.clone() };
    world.failures.insert(id("a/b"), failure(3, NOW - 1));
    let until = world.plan().next.unwrap();
    assert!((NOW + 19..NOW + 25).contains(&until));
    assert!(world.wait("a/b").starts_with("no; next try at 2027-"));
    world.now = until;
    assert_eq!(world.reasons().len(), 1);
    world.failures.insert(id("a/b"), failure(30, NOW + 1000 * DAY));
    assert_eq!(world.reasons().len(), 1);
}

#[test]
fn a_failure_holds_back_only_what_was_tried() {
    let mut world = World::new(vec![wanted("a/b", internal())]);
    let attempt = world.plan().issue[0].attempt.clone();
    let failure = Failure { count: 9, last_try: NOW - 1, reason: "no".into(), attempt };
    world.failures.insert(id("a/b"), failure);
    assert!(world.plan().issue.is_empty());
    world.internal = Ok(ca("another", NOW + 900 * DAY));
    assert_eq!(world.reasons(), [("a/b".into(), Reason::Missing)]);
    world.internal = Ok(ca("internal", NOW + 900 * DAY));
    assert!(world.plan().issue.is_empty());
    world.wanted[0].dns_names = vec!["mended.example".into()];
    assert_eq!(world.reasons(), [("a/b".into(), Reason::Missing)]);
}

#[test]
fn what_failed_below_an_old_key_is_issued_with_the_new_one() {
    let ca_wish = WantedCertificate { is_ca: true, rotate_key: true, ..wanted("a/ca", WantedIssuer::SelfSigned) };
    let world =
        World::new(vec![ca_wish, wanted("a/leaf", WantedIssuer::Ca(id("a/ca")))]).hold(0, "a/ca", NOW - 61 * DAY);
    let attempt = world.plan().issue.iter().find(|one| one.id == id("a/leaf")).unwrap().attempt.clone();
    let mut world = world;
    let failure = Failure { count: 9, last_try: NOW - 1, reason: "no".into(), attempt };
    world.failures.insert(id("a/leaf"), failure);
    assert_eq!(world.reasons().len(), 2, "the CA gets a new key in this plan, and the leaf hangs on it");
}

#[test]
fn what_nobody_wants_is_listed_and_kept() {
    let mut world = World::new(vec![wanted("a/b", internal()), wanted("a/c", internal())])
        .hold(0, "internal", NOW)
        .hold(1, "internal", NOW);
    world.wanted.pop();
    let plan = world.plan();
    assert_eq!(plan.unwanted, [id("a/c")]);
    assert_eq!(plan.renewals.len(), 1);
    assert_eq!(plan.next, plan.renewals.values().next().copied());
}
