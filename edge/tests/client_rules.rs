//! What listeners ask of clients, as ClientTrafficPolicy and ClientSettingsPolicy have it, over real sockets and on both
//! back ends.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

mod rig;

use std::sync::Arc;
use std::time::Duration;

use edge_config::policy::{ClientKeep, ClientRules, Detection, RequestId, Underscores, Waits};
use edge_config::snapshot::{ClientKeepalive, ClientSettings, Snapshot};
use rig::{Origin, Rig, on_both};

/// An endpoint whose answer is the head that it was sent.
fn mirror() -> Origin {
    Origin::new(|client, _| {
        loop {
            let (head, _) = client.message();
            if head.is_empty() {
                return;
            }
            client.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}", head.len()));
        }
    })
}

fn with(client: impl Fn(&mut ClientSettings)) -> impl FnOnce(&mut Snapshot) {
    move |snapshot| snapshot.listeners.iter_mut().for_each(|listener| client(&mut listener.client))
}

fn rules(rules: ClientRules) -> impl FnOnce(&mut Snapshot) {
    with(move |client| client.rules = rules.clone().or_none())
}

fn get(rig: &Rig, extra: &str) -> String {
    rig.ask(&format!("GET / HTTP/1.1\r\nHost: a.test\r\n{extra}Connection: close\r\n\r\n")).to_ascii_lowercase()
}

#[test]
fn who_a_request_is_from() {
    on_both(|io| {
        let origin = mirror();
        let rig = Rig::plain(io, origin.address);
        let detection = |detection| rules(ClientRules { detection: Some(detection), ..ClientRules::default() });
        rig.publish_edited(origin.address, detection(Detection::Networks(vec!["127.0.0.0/8".parse().unwrap()])));
        let seen = get(&rig, "X-Forwarded-For: 6.6.6.6, 192.0.2.1, 127.0.0.9\r\n");
        assert!(seen.contains("x-forwarded-for: 192.0.2.1, 127.0.0.9, 127.0.0.1\r\n"), "{seen}");
        rig.publish_edited(origin.address, detection(Detection::Networks(vec!["10.0.0.0/8".parse().unwrap()])));
        let seen = get(&rig, "X-Forwarded-For: 192.0.2.1\r\n");
        assert!(seen.contains("x-forwarded-for: 127.0.0.1\r\n"), "{seen}");

        let named = Detection::Field { name: "x-real-ip".into(), is_required: true };
        rig.publish_edited(origin.address, detection(named));
        let seen = get(&rig, "X-Real-IP: 192.0.2.7\r\n");
        assert!(seen.contains("x-forwarded-for: 192.0.2.7, 127.0.0.1\r\n"), "{seen}");
        let refused = get(&rig, "X-Real-IP: who\r\n");
        assert!(refused.starts_with("http/1.1 403 ") && refused.contains("client_unnamed"), "{refused}");
    });
}

#[test]
fn fields_and_the_health_path() {
    on_both(|io| {
        let origin = mirror();
        let rig = Rig::plain(io, origin.address);
        let underscores = |underscores| rules(ClientRules { underscores, ..ClientRules::default() });
        assert!(get(&rig, "a_b: 1\r\n").contains("a_b: 1"));
        rig.publish_edited(origin.address, underscores(Underscores::Drop));
        let seen = get(&rig, "a_b: 1\r\nc-d: 2\r\n");
        assert!(!seen.contains("a_b") && seen.contains("c-d: 2"), "{seen}");
        rig.publish_edited(origin.address, underscores(Underscores::Reject));
        assert!(get(&rig, "a_b: 1\r\n").starts_with("http/1.1 400 "));

        let given = ClientRules {
            request_id: Some(RequestId::Generate),
            health_path: Some("/healthz".into()),
            ..ClientRules::default()
        };
        rig.publish_edited(origin.address, rules(given));
        let seen = get(&rig, "x-request-id: mine\r\n");
        assert!(seen.contains("x-request-id: ") && !seen.contains("mine"), "{seen}");
        let healthy = rig.ask("GET /healthz HTTP/1.1\r\nHost: nobody.test\r\nConnection: close\r\n\r\n");
        assert!(healthy.starts_with("HTTP/1.1 200 ") && healthy.contains("health_check"), "{healthy}");
        // Of the listener alone.
        assert!(
            rig.ask("GET /healthz/x HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").contains("x-request-id")
        );
    });
}

#[test]
fn connections_end_when_they_have_carried_enough() {
    on_both(|io| {
        let origin = Origin::echo();
        let rig = Rig::plain(io, origin.address);
        let keep = ClientKeep { requests: Some(2), ..ClientKeep::default() };
        let waits = |waits: Waits| with(move |client| client.waits = waits.clone().or_none());
        rig.publish_edited(origin.address, waits(Waits { keep, ..Waits::default() }));
        let mut client = rig.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(!client.message().0.to_ascii_lowercase().contains("connection: close"));
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(client.message().0.to_ascii_lowercase().contains("connection: close"));
        assert_eq!(client.rest(), "");

        // No connection is kept at all.
        let keep = ClientKeep { idle: Some(Duration::ZERO), ..ClientKeep::default() };
        rig.publish_edited(origin.address, waits(Waits { keep, ..Waits::default() }));
        let mut client = rig.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(client.message().0.to_ascii_lowercase().contains("connection: close"));

        // What a rule says goes before it.
        let keep = ClientKeep { requests: Some(1), ..ClientKeep::default() };
        let of_rule = Waits { keep, ..Waits::default() }.or_none();
        rig.publish_edited(origin.address, |snapshot| {
            for rule in &mut snapshot.rules {
                Arc::make_mut(rule).timeouts.waits.clone_from(&of_rule);
            }
        });
        let mut client = rig.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(client.message().0.to_ascii_lowercase().contains("connection: close"));
    });
}

#[test]
fn who_does_not_go_on_is_given_up() {
    on_both(|io| {
        let origin = Origin::echo();
        let rig = Rig::plain(io, origin.address);
        let body = Waits { body: Some(Duration::from_millis(100)), ..Waits::default() };
        rig.publish_edited(origin.address, with(move |client| client.waits = body.clone().or_none()));
        let mut client = rig.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe");
        let answer = client.rest();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");

        // An endpoint that takes a request and says nothing.
        let silent = Origin::new(|client, _| {
            client.message();
            client.rest();
        });
        let read = Waits { read: Some(Duration::from_millis(100)), ..Waits::default() };
        rig.publish_edited(silent.address, with(move |client| client.waits = read.clone().or_none()));
        let answer = rig.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    });
}

#[test]
fn probes_of_connections_are_set() {
    on_both(|io| {
        let origin = Origin::echo();
        let rig = Rig::plain(io, origin.address);
        let probes = ClientKeepalive { probes: 3, idle: Duration::from_secs(30), interval: Duration::from_secs(5) };
        rig.publish_edited(origin.address, |snapshot| snapshot.ports[0].keepalive = Some(probes));
        // That it serves is what can be seen from here; `ss -o` shows the timer.
        assert!(get(&rig, "").starts_with("http/1.1 200 "));
    });
}
