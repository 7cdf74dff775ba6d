//! The written policy of `docs/parsing.md`, held to: each of its rules has cases, and each case is sent through Edge as raw
//! bytes and judged by the raw bytes that reach a backend. Nothing at all for what is refused; for what is accepted one
//! canonical request and not a byte more.
#![allow(clippy::unwrap_used, clippy::panic)] // what fails in a helper fails the test

mod cases;
mod recorder;
mod responses;
#[path = "../rig/mod.rs"]
mod rig;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::time::Duration;

use cases::{Case, Want};
use edge::proxy::limits::Limits;
use recorder::Recorder;
use rig::{Rig, on_both, rule};

const POLICY: &str = include_str!("../../../docs/parsing.md");

/// Rules and their answers, as the document has them.
fn documented() -> BTreeMap<&'static str, &'static str> {
    let mut rules = BTreeMap::new();
    for line in POLICY.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split(" | ").map(str::trim).collect();
        assert!(cells.len() >= 4, "{line}");
        let name = cells[0].trim_start_matches("| `").trim_end_matches('`');
        assert_eq!(rules.insert(name, cells[2]), None, "{name} is there twice");
    }
    rules
}

#[test]
fn every_rule_has_cases_and_every_case_a_rule() {
    let rules = documented();
    let mut seen = BTreeMap::new();
    for case in cases::all() {
        let answer = match &case.want {
            Want::Refused(status) | Want::CutOff(status) | Want::After(status) => status.to_string(),
            Want::Closed => "closed".to_owned(),
            Want::Redirected(_) => "307".to_owned(),
            Want::Forwarded(_) => "forwarded".to_owned(),
        };
        seen.insert(case.rule, answer);
    }
    seen.insert("head-slow", "408".to_owned());
    for case in responses::all() {
        seen.insert(case.rule, case.want.answer());
    }
    let seen: BTreeMap<&str, &str> = seen.iter().map(|(rule, answer)| (*rule, &**answer)).collect();
    assert_eq!(rules, seen);
}

#[test]
fn no_two_cases_are_the_same() {
    let mut seen = BTreeSet::new();
    for case in cases::all() {
        assert!(
            seen.insert((case.parts.concat(), format!("{:?}", case.path))),
            "{} {} is there twice",
            case.rule,
            case.name
        );
    }
}

/// Sends every case; says which of them go wrong, all at once.
#[test]
fn nothing_that_can_be_read_in_two_ways_reaches_a_backend() {
    let all = cases::all();
    on_both(|io| {
        let recorder = Recorder::new();
        let rig = Rig::plain(io, recorder.address);
        let mut policy = edge_config::settings::PathPolicy::default();
        let mut faults = Vec::new();
        for case in &all {
            if case.path != policy {
                policy = case.path;
                *rig.path.lock().unwrap() = policy;
                rig.publish(vec![("", rule(0))], vec![vec![recorder.address]]);
            }
            let before = recorder.take();
            assert!(before.is_empty(), "before {}: {}", case.name, before.escape_ascii());
            if let Err(fault) = judge(case, &rig, &recorder) {
                faults.push(format!("{} [{}]: {fault}", case.rule, case.name));
                // What may be late of it belongs to it.
                recorder.take_all();
            }
        }
        // Whatever was on its way to the backend is there by now.
        let answer = rig.ask("GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let last = recorder.take();
        assert!(last.starts_with(b"GET /last HTTP/1.1\r\n") && recorder::is_whole(&last), "{}", last.escape_ascii());
        assert!(faults.is_empty(), "{} of {} cases:\n{}", faults.len(), all.len(), faults.join("\n"));
    });
    let mut by_rule: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for case in all.iter().filter(|case| !matches!(case.want, Want::Forwarded(_))) {
        by_rule.entry(case.rule).or_default().push(&case.name);
    }
    let refused: usize = by_rule.values().map(Vec::len).sum();
    println!(
        "{refused} ambiguous inputs in {} rules, none reached a backend; {} were accepted",
        by_rule.len(),
        all.len() - refused
    );
    for (rule, names) in by_rule {
        println!("{rule} ({}): {}", names.len(), names.join(" | "));
    }
}

fn judge(case: &Case, rig: &Rig, recorder: &Recorder) -> Result<(), String> {
    let mut client = rig.client();
    let mut received = Vec::new();
    for (index, part) in case.parts.iter().enumerate() {
        if index > 0 {
            rig::wait_for(|| {
                received.extend(recorder.take());
                !received.is_empty()
            });
        }
        // A refusal may come, and the end with it, before all is sent.
        let _ = client.stream.write_all(part);
    }
    let answer = match case.want {
        Want::Forwarded(_) | Want::Redirected(_) => client.head(),
        Want::Refused(_) | Want::CutOff(_) | Want::Closed | Want::After(_) => client.rest(),
    };
    received.extend(recorder.take_all());
    let text = received.escape_ascii().to_string();
    let fault = |what: &str| Err(format!("{what}: client {answer:?}, backend {text:?}"));
    let status = |status: u16| answer.starts_with(&format!("HTTP/1.1 {status} "));
    match &case.want {
        Want::Refused(expected) => {
            if !status(*expected) || answer.matches("HTTP/1.1 ").count() != 1 {
                return fault("not one answer with the right status");
            }
            if !answer.contains("\r\nconnection: close\r\n") {
                return fault("the connection is not closed");
            }
            if !received.is_empty() { fault("the backend has something") } else { Ok(()) }
        }
        Want::Closed if answer.is_empty() && received.is_empty() => Ok(()),
        Want::Closed => fault("an answer, or the backend has something"),
        Want::After(expected) => {
            let rest = answer.split_once("ok").map_or("", |(_, rest)| rest);
            if !rest.starts_with(&format!("HTTP/1.1 {expected} ")) || rest.matches("HTTP/1.1 ").count() != 1 {
                return fault("not one answer to each");
            }
            if received.windows(6).filter(|bytes| bytes == b"HTTP/1").count() == 1 {
                Ok(())
            } else {
                fault("more than one request")
            }
        }
        Want::CutOff(expected) => {
            if !status(*expected) || !answer.contains("\r\nconnection: close\r\n") {
                return fault("not the right status, or not closed");
            }
            if recorder::is_whole(&received) { fault("the backend has a whole request") } else { Ok(()) }
        }
        Want::Redirected(url) => {
            if !status(307) || !answer.contains(&format!("\r\nlocation: {url}\r\n")) {
                return fault("not sent to the right place");
            }
            if !received.is_empty() { fault("the backend has something") } else { Ok(()) }
        }
        Want::Forwarded(expected) => {
            let expected = expected.as_bytes();
            if !status(200) {
                return fault("not accepted");
            }
            let Some(plain) = without_own(&received) else { return fault("Edge's own fields are not there once") };
            if plain == expected { Ok(()) } else { fault(&format!("expected {}, not", expected.escape_ascii())) }
        }
    }
}

/// Takes out the fields that Edge adds, each of which must be there exactly once and say what Edge knows.
fn without_own(request: &[u8]) -> Option<Vec<u8>> {
    // One byte, one character: what is no UTF-8 comes out as it went in.
    let mut text: String = request.iter().map(|byte| char::from(*byte)).collect();
    let authority = text.split("\r\nhost: ").nth(1)?.split("\r\n").next()?.to_owned();
    let mut own = vec!["x-forwarded-for: 127.0.0.1\r\n".to_owned(), "x-forwarded-proto: http\r\n".to_owned()];
    if !authority.is_empty() {
        own.push(format!("x-forwarded-host: {authority}\r\n"));
    }
    for line in own {
        if text.matches(&line).count() != 1 {
            return None;
        }
        text = text.replace(&line, "");
    }
    text.chars().map(|byte| u8::try_from(byte).ok()).collect()
}

#[test]
fn a_head_that_takes_too_long_is_cut() {
    on_both(|io| {
        let recorder = Recorder::new();
        let limits = Limits { head_timeout: Duration::from_millis(200), ..Limits::default() };
        let rig = Rig::with_limits(io, vec![("", rule(0))], vec![vec![recorder.address]], limits);
        for begun in ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n"] {
            let answer = rig.ask(begun);
            assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("connection: close\r\n"), "{answer}");
        }
        assert_eq!(recorder.take(), b"");
    });
}
