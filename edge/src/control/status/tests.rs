use std::sync::Arc;

use super::*;
use crate::control::fixture::{ago, golden, now, world};
use crate::control::observed::{CertificateSource, Drain, DrainStep, Observed, SourceState};
use crate::ctl::args::Format;
use crate::ctl::show::render;
use crate::ctl::style::Style;

fn changed(change: impl FnOnce(&mut Observed)) -> Status {
    let mut world = world();
    let mut observed = Observed::clone(&world.observed);
    change(&mut observed);
    world.observed = Arc::new(observed);
    status(&world, now())
}

#[test]
fn one_screen() {
    let status = status(&world(), now());
    assert_eq!(status.worst(), State::Down);
    golden("status.txt", &render(&status, Format::Human, Style::default(), false));
    golden("status-terminal.txt", &render(&status, Format::Human, Style { colour: true, width: Some(110) }, true));
    golden("status.json", &render(&status, Format::Json, Style::default(), false));
}

#[test]
fn what_goes_out_comes_in() {
    let status = status(&world(), now());
    let text = serde_json::to_string(&status).unwrap();
    assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
}

#[test]
fn rows_are_worst_first() {
    let status = status(&world(), now());
    let ordered = |states: Vec<State>| states.is_sorted();
    assert!(ordered(status.vips.iter().map(|row| row.health.state).collect()));
    assert!(ordered(status.listeners.iter().map(|row| row.health.state).collect()));
    assert!(ordered(status.routes.iter().map(|row| row.health.state).collect()));
    assert!(ordered(status.backends.iter().map(|row| row.health.state).collect()));
    assert!(ordered(status.certificates.iter().map(|row| row.health.state).collect()));
}

#[test]
fn every_row_that_is_not_up_says_why() {
    let status = status(&world(), now());
    let healths = (status.vips.iter().map(|row| &row.health))
        .chain(status.listeners.iter().map(|row| &row.health))
        .chain(status.routes.iter().map(|row| &row.health))
        .chain(status.backends.iter().map(|row| &row.health))
        .chain(status.certificates.iter().map(|row| &row.health));
    for health in healths {
        assert!(health.state == State::Up || !health.reason.is_empty(), "{health:?}");
    }
}

#[test]
fn the_edge_itself() {
    for (change, state, reason) in [
        (Box::new(|_: &mut Observed| {}) as Box<dyn FnOnce(&mut Observed)>, State::Up, ""),
        (
            Box::new(|observed| observed.acknowledged = 1),
            State::Pending,
            "3 of 4 workers have not taken generation 12 yet",
        ),
        (
            Box::new(|observed| observed.drain = Some(Drain { since: now(), step: DrainStep::Withdrawn })),
            State::Degraded,
            "drained since",
        ),
        (
            Box::new(|observed| {
                let error = Some("the directory is gone".to_owned());
                observed.sources = vec![SourceState {
                    name: "m".to_owned(),
                    last_good: Some(ago(60)),
                    error,
                    collections: Vec::new(),
                }];
            }),
            State::Degraded,
            "source m: the directory is gone; its last good version serves",
        ),
        (
            Box::new(|observed| observed.notices.push("store moved aside".to_owned())),
            State::Degraded,
            "store moved aside",
        ),
    ] {
        let found = changed(change).edge.health;
        assert_eq!(found.state, state, "{reason}");
        assert!(found.reason.starts_with(reason), "{}", found.reason);
    }
}

#[test]
fn certificates_that_end() {
    let of = |ends: i64, source: CertificateSource, error: Option<&str>| {
        let status = changed(|observed| {
            let state = observed.certificates.values_mut().next().unwrap();
            state.not_after = span::unix(crate::control::fixture::NOW + ends);
            state.source = source;
            state.error = error.map(str::to_owned);
        });
        status.certificates.into_iter().find(|row| row.secret == "edge/shop-tls").unwrap().health
    };
    let issued = || CertificateSource::Issued("internal CA".to_owned());
    for (ends, source, error, state, reason) in [
        (86_400 * 60, CertificateSource::Secret, None, State::Up, ""),
        (
            86_400 * 3,
            CertificateSource::Secret,
            None,
            State::Degraded,
            "ends in 3d and comes from a Secret that Edge does not renew",
        ),
        (86_400 * 3, issued(), None, State::Up, ""),
        (86_400 * 3, issued(), Some("not renewed: disk full"), State::Degraded, "not renewed: disk full"),
        (-7_200, issued(), None, State::Down, "ended 2h ago"),
        (
            86_400,
            CertificateSource::Placeholder,
            Some("no such Secret"),
            State::Degraded,
            "a placeholder is served: no such Secret",
        ),
    ] {
        let found = of(ends, source, error);
        assert_eq!((found.state, found.reason.as_str()), (state, reason));
    }
}
