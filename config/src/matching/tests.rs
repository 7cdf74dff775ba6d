//! One test per clause of the matching rules.

use std::sync::Arc;

use super::*;
use crate::names::HostPattern;
use crate::snapshot::RuleId;

/// Rules are numbered in the order given.
fn table(rules: Vec<(&str, RouteMatch)>) -> RouteTable {
    RouteTable::build((0u32..).zip(rules).map(|(number, (host, entry))| {
        let host = HostPattern::parse(Some(host).filter(|host| *host != "*")).unwrap();
        (host, Arc::new(RouteMatch { rule: RuleId(number), ..entry }))
    }))
}

fn path(path: PathMatch) -> RouteMatch {
    RouteMatch::new(path, RuleId(0), 0)
}

fn prefix(text: &str) -> RouteMatch {
    path(PathMatch::prefix(text))
}

fn exact(text: &str) -> RouteMatch {
    path(PathMatch::exact(text))
}

fn regex(text: &str) -> RouteMatch {
    path(PathMatch::Regex(Pattern::parse(text).unwrap()))
}

fn is(value: &str) -> ValueMatch {
    ValueMatch::Exact(value.into())
}

fn headers(entry: RouteMatch, headers: &[(&str, &str)]) -> RouteMatch {
    entry.with_headers(headers.iter().map(|(name, value)| FieldMatch::new(name, is(value))).collect())
}

fn query(entry: RouteMatch, query: &[(&str, &str)]) -> RouteMatch {
    entry.with_query(query.iter().map(|(name, value)| QueryMatch { name: (*name).into(), value: is(value) }).collect())
}

fn method(entry: RouteMatch, method: &str) -> RouteMatch {
    RouteMatch { method: Some(method.into()), ..entry }
}

/// `METHOD host/path?query name:value …` → number of the rule.
fn find(table: &RouteTable, request: &str) -> Option<u32> {
    matched(table, request).map(|matched| matched.rule.0)
}

fn matched(table: &RouteTable, request: &str) -> Option<Matched> {
    let mut words = request.split(' ');
    let (method, url) = (words.next().unwrap(), words.next().unwrap());
    let (host, rest) = url.split_once('/').unwrap();
    let rest = format!("/{rest}");
    let (path, query) = rest.split_once('?').map_or((rest.as_str(), None), |(path, query)| (path, Some(query)));
    let fields: Vec<(String, String)> =
        words.map(|word| word.split_once(':').unwrap()).map(|(name, value)| (name.into(), value.into())).collect();
    table.find(&RequestView { host, method, path, query, fields: &fields[..] })
}

fn check(table: &RouteTable, cases: &[(&str, Option<u32>)]) {
    for (request, expected) in cases {
        assert_eq!(find(table, request), *expected, "{request}");
    }
}

#[test]
fn prefixes_are_whole_segments() {
    let table = table(vec![("*", prefix("/v2")), ("*", prefix("/v2/sub/"))]);
    check(
        &table,
        &[
            ("GET h/v2", Some(0)),
            ("GET h/v2/", Some(0)),
            ("GET h/v2example", None),
            ("GET h/v2/example", Some(0)),
            ("GET h/v2/sub", Some(1)),
            ("GET h/v2/sub/", Some(1)),
            ("GET h/v2/subs", Some(0)),
            ("GET h/v", None),
            ("GET h/V2", None),
            ("GET h/", None),
        ],
    );
    assert_eq!(matched(&table, "GET h/v2/sub/x").unwrap().prefix, "/v2/sub".len());
    assert_eq!(matched(&table, "GET h/v2/x").unwrap().prefix, "/v2".len());
}

#[test]
fn the_root_prefix_matches_all() {
    let table = table(vec![("*", prefix("/"))]);
    check(&table, &[("GET h/", Some(0)), ("GET h/a/b", Some(0)), ("GET h//", Some(0))]);
    assert_eq!(matched(&table, "GET h/a").unwrap().prefix, 0);
    let fields: [(String, String); 0] = [];
    let asterisk = RequestView { host: "h", method: "OPTIONS", path: "*", query: None, fields: &fields[..] };
    assert!(table.find(&asterisk).is_some());
}

#[test]
fn exact_is_exact() {
    let table = table(vec![("*", exact("/abc"))]);
    check(&table, &[("GET h/abc", Some(0)), ("GET h/abc/", None), ("GET h/ABC", None), ("GET h/abc?x", Some(0))]);
}

#[test]
fn path_precedence() {
    let table = table(vec![
        ("*", prefix("/")),
        ("*", prefix("/a")),
        ("*", prefix("/a/b")),
        ("*", regex("/a/b/.")),
        ("*", exact("/a/b/c")),
    ]);
    check(
        &table,
        &[
            ("GET h/a/b/c", Some(4)),
            ("GET h/a/b/d", Some(3)),
            ("GET h/a/b/dd", Some(2)),
            ("GET h/a/c", Some(1)),
            ("GET h/c", Some(0)),
        ],
    );
}

#[test]
fn method_then_headers_then_query_then_age() {
    let table = table(vec![
        ("*", query(prefix("/"), &[("q", "1")])),
        ("*", query(prefix("/"), &[("q", "1"), ("r", "1")])),
        ("*", headers(prefix("/"), &[("a", "1")])),
        ("*", headers(prefix("/"), &[("a", "1"), ("b", "1")])),
        ("*", method(prefix("/"), "GET")),
        ("*", prefix("/")),
        ("*", prefix("/")),
    ]);
    check(
        &table,
        &[
            ("GET h/?q=1&r=1 a:1 b:1", Some(4)),
            ("PUT h/?q=1&r=1 a:1 b:1", Some(3)),
            ("PUT h/?q=1&r=1 a:1", Some(2)),
            ("PUT h/?q=1&r=1", Some(1)),
            ("PUT h/?q=1", Some(0)),
            ("PUT h/", Some(5)),
            ("get h/", Some(5)),
        ],
    );
}

#[test]
fn a_longer_prefix_beats_any_number_of_conditions() {
    let table = table(vec![("*", method(headers(prefix("/a"), &[("a", "1")]), "GET")), ("*", prefix("/a/b"))]);
    check(&table, &[("GET h/a/b a:1", Some(1)), ("GET h/a a:1", Some(0))]);
}

#[test]
fn a_match_that_fails_leaves_the_request_to_the_next() {
    let table = table(vec![
        ("*", prefix("/")),
        ("*.example", prefix("/")),
        ("a.example", exact("/only")),
        ("a.example", headers(prefix("/a/b"), &[("x", "1")])),
        ("*.example", prefix("/a")),
    ]);
    check(
        &table,
        &[
            ("GET a.example/only", Some(2)),
            ("GET a.example/a/b", Some(4)),
            ("GET a.example/a/b x:1", Some(3)),
            ("GET a.example/c", Some(1)),
            ("GET example/c", Some(0)),
        ],
    );
}

#[test]
fn a_host_is_worth_more_than_a_path() {
    let table = table(vec![("*", exact("/a")), ("*.example", prefix("/")), ("*.b.example", prefix("/"))]);
    check(&table, &[("GET x.b.example/a", Some(2)), ("GET x.example/a", Some(1)), ("GET other/a", Some(0))]);
}

#[test]
fn header_names_without_case_values_with_it() {
    let table = table(vec![("*", headers(prefix("/"), &[("X-Color", "Blue")]))]);
    check(&table, &[("GET h/ x-color:Blue", Some(0)), ("GET h/ X-COLOR:Blue", Some(0)), ("GET h/ x-color:blue", None)]);
    check(&table, &[("GET h/ x-color:Red x-color:Blue", None), ("GET h/", None)]);
}

#[test]
fn the_first_of_equal_names_counts() {
    let twice = table(vec![
        ("*", headers(prefix("/h"), &[("A", "1"), ("a", "2")])),
        ("*", query(prefix("/q"), &[("a", "1"), ("a", "2"), ("A", "3")])),
    ]);
    check(
        &twice,
        &[
            ("GET h/h a:1", Some(0)),
            ("GET h/h a:2", None),
            ("GET h/q?a=1&A=3", Some(1)),
            ("GET h/q?a=1", None),
            ("GET h/q?A=3&a=2", None),
        ],
    );
    // And it counts once: one header, however often it is written, is not more than one other.
    let once =
        table(vec![("*", headers(prefix("/"), &[("b", "1")])), ("*", headers(prefix("/"), &[("a", "1"), ("a", "1")]))]);
    check(&once, &[("GET h/ a:1 b:1", Some(0))]);
}

#[test]
fn values_by_expression() {
    let pattern = |text: &str| ValueMatch::Regex(Pattern::parse(text).unwrap());
    let table = table(vec![
        ("*", prefix("/h").with_headers(vec![FieldMatch::new("a", pattern("x+"))])),
        ("*", prefix("/q").with_query(vec![QueryMatch { name: "a".into(), value: pattern("x+") }])),
    ]);
    check(
        &table,
        &[("GET h/h a:xx", Some(0)), ("GET h/h a:xxy", None), ("GET h/q?a=%78x", Some(1)), ("GET h/q?a=y", None)],
    );
}

#[test]
fn grpc_precedence() {
    let grpc = |service, method| path(PathMatch::grpc(service, method));
    let table = table(vec![
        ("*", grpc(None, None)),
        ("*", grpc(None, Some("Get"))),
        ("*", grpc(Some("shop.Cart"), None)),
        ("*", headers(grpc(Some("shop.Cart"), Some("Get")), &[("a", "1")])),
        ("*", grpc(Some("shop.Cart"), Some("Get"))),
        ("*", path(PathMatch::GrpcRegex { service: Some(Pattern::parse(r"shop\..*").unwrap()), method: None })),
    ]);
    check(
        &table,
        &[
            ("POST h/shop.Cart/Get a:1", Some(3)),
            ("POST h/shop.Cart/Get", Some(4)),
            ("POST h/shop.Cart/Put", Some(2)),
            ("POST h/shop.Other/Put", Some(5)),
            ("POST h/other/Get", Some(1)),
            ("POST h/other/Put", Some(0)),
            ("POST h/a/b/Get", Some(0)),
        ],
    );
}

#[test]
fn thousands_of_paths_on_one_host() {
    let rules = (0..1_000)
        .map(|n| ("a.example", prefix(&format!("/p{n}"))))
        .chain((0..1_000).map(|n| ("a.example", exact(&format!("/e{n}")))));
    let table = table(rules.collect());
    check(
        &table,
        &[
            ("GET a.example/p7/x", Some(7)),
            ("GET a.example/p999", Some(999)),
            ("GET a.example/e3", Some(1_003)),
            ("GET a.example/p1000", None),
        ],
    );
}

#[test]
fn explanations_name_the_first_reason() {
    let table = table(vec![
        ("a.example", exact("/a")),
        ("a.example", method(prefix("/"), "PUT")),
        ("a.example", headers(prefix("/"), &[("x", "1")])),
        ("a.example", headers(prefix("/"), &[("y", "1")])),
        ("a.example", query(prefix("/"), &[("q", "1")])),
        ("a.example", prefix("/b")),
        ("a.example", prefix("/")),
        ("*.example", exact("/b")),
        ("b.example", prefix("/")),
    ]);
    let fields = [("y".to_owned(), "2".to_owned())];
    let request = RequestView { host: "a.example", method: "GET", path: "/b", query: None, fields: &fields[..] };
    let mut explained: Vec<(u32, String)> = table
        .explain(&request)
        .into_iter()
        .map(|candidate| {
            let text = match candidate.outcome {
                Outcome::Won => "won".to_owned(),
                Outcome::Lost(loss) => loss.to_string(),
            };
            (candidate.matched.rule.0, text)
        })
        .collect();
    explained.sort();
    let expected = [
        "path does not match",
        "method is not PUT",
        "header x is absent",
        "header y has another value",
        "query parameter q is absent",
        "won",
        "another match goes first: a longer path prefix",
        "another match goes first: a more specific host",
        "host does not match",
    ];
    let expected: Vec<(u32, String)> = (0u32..).zip(expected.map(str::to_owned)).collect();
    assert_eq!(explained, expected);
}
