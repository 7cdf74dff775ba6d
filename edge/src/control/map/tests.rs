use std::fmt::Write as _;

use super::*;
use crate::control::fixture::{golden, now, world};
use crate::control::shown::{self, Question};
use crate::proxy::metrics::Sample;

fn map() -> Map {
    Map::new(Arc::new(world()), now())
}

fn nothing() -> Rates {
    Rates::new(None, Sample::take(&[], true))
}

fn chosen(lanes: &[Lane]) -> Vec<(&'static str, &str)> {
    lanes.iter().filter_map(|lane| Some((lane.kind, lane.chosen.as_deref()?))).collect()
}

fn page(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap() + "\n"
}

#[test]
fn as_a_browser_gets_it() {
    let map = map();
    let rates = nothing();
    let points: [u8; 0] = [];
    golden("dashboard-overview.json", &page(&shown::overview(&map, &rates, &points)));
    let question = Question::parse("vip=192.0.2.10&listener=Gateway+edge%2Fpublic%2Fshop&route=HTTPRoute+shop%2Fcart");
    golden("dashboard-map.json", &page(&shown::map(&map, &rates, &question)));
    golden("dashboard-announcements.json", &page(&shown::announcements(&map, &Question::default())));
    golden("dashboard-certificates.json", &page(&shown::certificates(&map, &Question::default())));
    golden("dashboard-findings.json", &page(&shown::findings(&map, &Question::default())));
}

#[test]
fn without_a_choice_the_worst_is_shown() {
    let map = map();
    let lanes = map.lanes(&Chosen::default(), &nothing());
    assert_eq!(lanes[0].chosen.as_deref(), Some(&*vip_id(&map.status.vips[0])));
    assert_eq!(map.status.vips[0].health.state, State::Down);
    for lane in &lanes {
        assert_eq!(lane.states.iter().sum::<usize>(), lane.total, "{}", lane.kind);
        assert!(lane.nodes.is_sorted_by_key(|node| node.health.state) || lane.kind == "rule" || lane.kind == "backend");
    }
}

#[test]
fn the_way_up_is_found() {
    let map = map();
    for (question, expected) in [
        ("endpoint=10.0.0.2:8080", "backend shop/cart:80"),
        ("endpoint=10.0.0.2:8080", "route HTTPRoute shop/cart"),
        ("backend=shop/front:80", "route HTTPRoute shop/front"),
        ("backend=shop/front:80", "vip 192.0.2.11"),
        ("route=HTTPRoute shop/canary", "listener Gateway edge/public/shop"),
        ("certificate=edge/wild-tls", "listener Gateway edge/public/wild"),
        // It is where it would be.
        ("route=HTTPRoute shop/lost", "route HTTPRoute shop/lost"),
        // Whatever is not there any more is as nothing.
        ("route=HTTPRoute shop/none", "vip edge/private"),
    ] {
        let lanes = shown::map(&map, &nothing(), &Question::parse(&question.replace(' ', "+"))).lanes;
        let mut way = String::new();
        chosen(&lanes).iter().for_each(|(kind, id)| writeln!(way, "{kind} {id}").unwrap());
        let expected = expected.replace("vip edge/private", "vip Gateway edge/private");
        assert!(way.contains(&format!("{expected}\n")), "{question}: no {expected} in\n{way}");
    }
}

#[test]
fn found_by_host_address_node_and_name() {
    let map = map();
    for (text, kind, title) in [
        ("SHOP.example", "route", "HTTPRoute shop/cart"),
        ("192.0.2.1", "vip", "192.0.2.10"),
        ("node-b", "endpoint", "10.0.0.2:8080"),
        ("wild-tls", "certificate", "edge/wild-tls"),
        ("front", "backend", "shop/front:80"),
        ("doubled", "listener", "doubled"),
    ] {
        let found = map.find(text);
        assert!(found.hits.iter().any(|hit| hit.kind == kind && hit.title == title), "{text}: {found:?}");
    }
    assert_eq!(map.find("no such thing").hits.len() + map.find(" ").hits.len(), 0);
}

#[test]
fn one_reason_is_told_once() {
    let mut map = map();
    let row = map.status.routes[0].clone();
    map.status.routes = (0..5000)
        .map(|number| {
            let health = Health::new(State::Down, "shop/cart:80: no ready endpoint");
            crate::control::view::RouteRow { route: format!("shop/r{number}"), health, ..row.clone() }
        })
        .collect();
    let troubles = map.troubles();
    let routes: Vec<&Trouble> = troubles.listed.iter().filter(|one| one.kind == "route").collect();
    assert_eq!((routes.len(), routes[0].count, routes[0].names.len()), (1, 5000, 3));
    assert!(troubles.states[0] >= 5000 && troubles.listed.is_sorted_by_key(|one| one.health.state));
    let text = serde_json::to_string(&troubles).unwrap();
    assert!(text.len() < 16 << 10, "{} bytes", text.len());
}
