//! The finder against a slow one that only knows the text of the specification.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::names::HostPattern;
use crate::snapshot::RuleId;

/// Precedence of one host and match that hold, larger first, spelled out separately from `RouteMatch::precedence`.
fn weight(host: &HostPattern, entry: &RouteMatch) -> Vec<i64> {
    let host = match host {
        HostPattern::Any => [0, 0],
        HostPattern::Wildcard(suffix) => [0, 2 + suffix.as_str().len() as i64],
        HostPattern::Exact(name) => [1, name.as_str().len() as i64],
    };
    let path = match &entry.path {
        PathMatch::Exact(_) => [6, 0, 0],
        PathMatch::Regex(_) => [5, 0, 0],
        PathMatch::Prefix(prefix) if prefix.is_empty() => [1, 0, 0],
        PathMatch::Prefix(prefix) => [4, prefix.len() as i64, 0],
        PathMatch::GrpcRegex { service, method } => {
            let length =
                |pattern: &Option<Pattern>| pattern.as_ref().map_or(0, |pattern| pattern.as_str().len() as i64);
            [3, length(service), length(method)]
        }
        PathMatch::GrpcMethod(method) => [2, method.len() as i64, 0],
    };
    let rest = [
        i64::from(entry.method.is_some()),
        entry.headers.len() as i64,
        entry.query.len() as i64,
        -i64::from(entry.rule.0),
        -i64::from(entry.index),
    ];
    [&host[..], &path[..], &rest[..]].concat()
}

fn naive<F: Fields + ?Sized>(
    entries: &[(HostPattern, Arc<RouteMatch>)],
    request: &RequestView<'_, F>,
) -> Option<(RuleId, u32)> {
    entries
        .iter()
        .filter(|(host, entry)| {
            host.matches(request.host) && holds(&entry.path, request.path) && entry.conditions_hold(request)
        })
        .max_by_key(|(host, entry)| weight(host, entry))
        .map(|(_, entry)| (entry.rule, entry.index))
}

fn holds(matched: &PathMatch, path: &str) -> bool {
    let call: Vec<&str> = path.split('/').collect();
    match matched {
        PathMatch::Exact(text) => path == &**text,
        PathMatch::Regex(pattern) => pattern.matches(path.as_bytes()),
        PathMatch::Prefix(prefix) => {
            let segments: Vec<&str> = prefix.split('/').collect();
            segments.len() <= call.len() && segments == call[..segments.len()] || prefix.is_empty()
        }
        PathMatch::GrpcRegex { service, method } => {
            call.len() == 3
                && service.as_ref().is_none_or(|pattern| pattern.matches(call[1].as_bytes()))
                && method.as_ref().is_none_or(|pattern| pattern.matches(call[2].as_bytes()))
        }
        PathMatch::GrpcMethod(method) => call.len() == 3 && call[2] == &**method,
    }
}

fn host_patterns() -> impl Strategy<Value = HostPattern> {
    prop::sample::select(vec!["*", "*.x", "*.b.x", "*.a.b.x", "b.x", "a.b.x", "c.a.b.x"])
        .prop_map(|text| HostPattern::parse(Some(text).filter(|text| *text != "*")).unwrap())
}

fn paths() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "ab", ""]), 1..4)
        .prop_map(|s| format!("/{}", s.join("/")))
}

fn path_matches() -> impl Strategy<Value = PathMatch> {
    let pattern = |text: &'static str| Pattern::parse(text).unwrap();
    prop_oneof![
        4 => paths().prop_map(|path| PathMatch::exact(&path)),
        8 => paths().prop_map(|path| PathMatch::prefix(&path)),
        1 => prop::sample::select(vec!["/a.*", "/.", ".*/b"]).prop_map(move |text| PathMatch::Regex(pattern(text))),
        1 => prop::sample::select(vec!["a", "b", "ab"]).prop_map(|text| PathMatch::grpc(None, Some(text))),
        1 => prop::sample::select(vec![("a", "b"), ("ab", "a")]).prop_map(|(s, m)| PathMatch::grpc(Some(s), Some(m))),
        1 => (prop::option::of(prop::sample::select(vec!["a?b", "a"])), prop::option::of(Just("b|a")))
            .prop_map(move |(s, m)| PathMatch::GrpcRegex { service: s.map(pattern), method: m.map(pattern) }),
    ]
}

fn conditions() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    prop::collection::vec((prop::sample::select(vec!["k", "l"]), prop::sample::select(vec!["1", "2"])), 0..3)
}

fn entries() -> impl Strategy<Value = Vec<(HostPattern, Arc<RouteMatch>)>> {
    let entry = (
        host_patterns(),
        path_matches(),
        prop::option::weighted(0.3, prop::sample::select(vec!["GET", "POST"])),
        conditions(),
        conditions(),
        0u32..8,
    );
    prop::collection::vec(entry, 0..60).prop_map(|entries| {
        (0u32..)
            .zip(entries)
            .map(|(index, (host, path, method, headers, query, rule))| {
                let value = |value: &str| ValueMatch::Exact(value.into());
                let mut entry = RouteMatch::new(path, RuleId(rule), index)
                    .with_headers(headers.iter().map(|(name, v)| FieldMatch::new(name, value(v))).collect())
                    .with_query(
                        query.iter().map(|(name, v)| QueryMatch { name: (*name).into(), value: value(v) }).collect(),
                    );
                entry.method = method.map(Into::into);
                (host, Arc::new(entry))
            })
            .collect()
    })
}

fn pairs(conditions: &[(&str, &str)]) -> Vec<(String, String)> {
    conditions.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

proptest! {
    #[test]
    fn the_index_finds_what_the_specification_says(
        entries in entries(),
        host in prop::sample::select(vec!["x", "b.x", "a.b.x", "c.a.b.x", "d.c.a.b.x", "y"]),
        path in paths(),
        method in prop::sample::select(vec!["GET", "PUT"]),
        fields in conditions(),
        query in conditions(),
    ) {
        let fields = pairs(&fields);
        let query = query.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
        let request = RequestView { host, method, path: &path, query: Some(&query), fields: &fields[..] };
        let table = RouteTable::build(entries.clone());
        let found = table.find(&request);
        prop_assert_eq!(found.map(|found| (found.rule, found.index)), naive(&entries, &request));

        let explained = table.explain(&request);
        prop_assert_eq!(explained.len(), entries.len());
        let won: Vec<_> = explained.iter().filter(|candidate| candidate.outcome == Outcome::Won).collect();
        prop_assert_eq!(won.first().map(|won| (won.matched.rule, won.matched.index)), found.map(|found| (found.rule, found.index)));
        prop_assert!(won.len() <= 1);
        if let Some(found) = found {
            prop_assert!(found.prefix <= path.len());
        }
    }

    #[test]
    fn precedence_is_a_total_order(entries in entries()) {
        use std::cmp::Ordering;
        for (_, a) in &entries {
            for (_, b) in &entries {
                prop_assert_eq!(a.precedence(b), b.precedence(a).reverse());
                prop_assert_eq!(a.precedence(b) == Ordering::Equal, a.index == b.index);
                for (_, c) in entries.iter().take(12) {
                    if a.precedence(b) == Ordering::Less && b.precedence(c) == Ordering::Less {
                        prop_assert_eq!(a.precedence(c), Ordering::Less);
                    }
                }
            }
        }
    }

    #[test]
    fn any_order_of_building_gives_one_table(entries in entries(), seed in any::<u64>()) {
        let mut shuffled = entries.clone();
        shuffled.sort_by_key(|(_, entry)| (u64::from(entry.index) + 1).wrapping_mul(seed | 1));
        let (one, two) = (RouteTable::build(entries), RouteTable::build(shuffled));
        prop_assert_eq!(serde_json::to_string(&one).unwrap(), serde_json::to_string(&two).unwrap());
        prop_assert_eq!(one, two);
    }
}
