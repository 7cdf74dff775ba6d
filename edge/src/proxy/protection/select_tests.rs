use super::*;
use edge_config::matching::{Pattern, QueryMatch};
use edge_config::names::{Kind, ObjectKey, ObjectRef};
use edge_config::policy::protection::{Counts, RateList, RateName, Reach, Unless};
use std::time::Duration;

fn request(target: &str, fields: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead::default();
    fields.iter().for_each(|(name, value)| head.fields.add(name.as_bytes(), value.as_bytes()));
    head.method = head.fields.store(b"GET");
    head.set_authority("Shop.test:8080");
    head.host = head.fields.store(b"shop.test");
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    head.set_path(path);
    head.query = query.map(|query| head.fields.store(query.as_bytes()));
    head
}

fn client() -> IpAddr {
    "192.0.2.7".parse().unwrap()
}

fn exact(name: &str, value: &str, inverted: bool) -> Unless<HeaderTest> {
    Unless { is: HeaderTest { name: name.into(), value: ValueMatch::Exact(value.into()) }, inverted }
}

#[test]
fn all_conditions_must_hold() {
    let path = |is, inverted| Selector { path: Some(Unless { is, inverted }), ..Selector::default() };
    let source = |range: &str, inverted| {
        let is = edge_config::settings::AddressRange::parse(range).unwrap();
        Selector { source: Some(Unless { is, inverted }), ..Selector::default() }
    };
    let methods = |list: &[(&str, bool)]| {
        let one = |(name, inverted): &(&str, bool)| Unless { is: (*name).into(), inverted: *inverted };
        Selector { methods: list.iter().map(one).collect(), ..Selector::default() }
    };
    let headers = |headers| Selector { headers, ..Selector::default() };
    let query = |value: ValueMatch, inverted| Selector {
        query: vec![Unless { is: QueryMatch { name: "user".into(), value }, inverted }],
        ..Selector::default()
    };
    let regex = |text: &str| Pattern::parse(text).unwrap();
    let request = request("/shop/cart?user=b%6Fb", &[("x-user", "one"), ("x-two", "a"), ("x-two", "b")]);
    for (number, (selector, expected)) in [
        (Selector::default(), true),
        (headers(vec![exact("x-user", "one", false)]), true),
        (headers(vec![exact("x-user", "two", false)]), false),
        (headers(vec![exact("x-user", "two", true)]), true),
        (headers(vec![exact("x-absent", "two", true)]), true),
        (headers(vec![exact("x-user", "one", false), exact("x-org", "test", true)]), true),
        (headers(vec![exact("x-user", "one", false), exact("x-org", "test", false)]), false),
        (headers(vec![exact("x-two", "a,b", false)]), true),
        (headers(vec![exact("x-two", "a", false)]), false),
        (
            headers(vec![Unless {
                is: HeaderTest { name: "x-user".into(), value: ValueMatch::Regex(regex("o.e")) },
                inverted: false,
            }]),
            true,
        ),
        (path(PathTest::Exact("/shop/cart".into()), false), true),
        (path(PathTest::Exact("/shop".into()), false), false),
        (path(PathTest::Prefix("/shop".into()), false), true),
        (path(PathTest::Prefix("/sho".into()), false), false),
        (path(PathTest::Prefix("".into()), false), true),
        (path(PathTest::Regex(regex("/shop/.*")), false), true),
        (path(PathTest::Regex(regex("/shop/.*")), true), false),
        (source("192.0.2.0/24", false), true),
        (source("192.0.2.0/24", true), false),
        (source("0.0.0.0/0", true), false),
        (source("2001:db8::/32", false), false),
        (methods(&[("GET", false)]), true),
        (methods(&[("POST", false), ("GET", false)]), true),
        (methods(&[("POST", false)]), false),
        (methods(&[("POST", true)]), true),
        (query(ValueMatch::Exact("bob".into()), false), true),
        (query(ValueMatch::Exact("ann".into()), false), false),
        (query(ValueMatch::Regex(regex("b.b")), true), false),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(is_about(&selector, &request, client()), expected, "{number}: {selector:?}");
    }
}

fn rate(by: Vec<KeyPart>, by_any: bool) -> Rate {
    let policy = ObjectRef::new(Kind::BackendTrafficPolicy, ObjectKey::new("shop", "limits"));
    Rate {
        name: RateName { policy, list: RateList::Local, index: 0 },
        digest: 42,
        requests: 1,
        per: Duration::from_secs(1),
        burst: 0,
        delay_after: None,
        when: None,
        otherwise: false,
        by,
        by_any,
        counts: Counts::Route,
        reach: Reach::Edge,
        dry_run: false,
        cost: 1,
        response_cost: 0,
        headers: None,
    }
}

#[test]
fn requests_that_differ_in_the_parts_are_counted_apart() {
    let of = |rate: &Rate, target: &str, fields: &[(&str, &str)]| key(rate, 7, &request(target, fields), client());
    let header = || KeyPart::Header("x-user".into());
    let by_user = rate(vec![header()], false);
    let one = of(&by_user, "/", &[("x-user", "one")]).unwrap();
    assert_eq!(of(&by_user, "/other", &[("x-user", "one")]), Some(one));
    assert_ne!(of(&by_user, "/", &[("x-user", "two")]), Some(one));
    assert_ne!(key(&by_user, 8, &request("/", &[("x-user", "one")]), client()), Some(one));
    assert_eq!(of(&by_user, "/", &[]), None, "one that has none is not counted");
    assert!(one.is_client());
    // Envoy needs all parts, NGINX any.
    let both = vec![header(), KeyPart::Query("q".into())];
    assert_eq!(of(&rate(both.clone(), false), "/", &[("x-user", "one")]), None);
    assert!(of(&rate(both.clone(), true), "/", &[("x-user", "one")]).is_some());
    assert_eq!(of(&rate(both.clone(), true), "/", &[]), None);
    // What moves from one part to the next is another client.
    let (ab, a_b) = ([("x-user", "ab")], [("x-user", "a")]);
    assert_ne!(of(&rate(both.clone(), false), "/?q=c", &ab), of(&rate(both, false), "/?q=bc", &a_b));
    assert_eq!(of(&rate(vec![], false), "/", &[]).map(Key::is_client), Some(false));
    let cookie = rate(vec![KeyPart::Cookie("id".into())], true);
    assert!(of(&cookie, "/", &[("cookie", "a=1; id=7")]).is_some() && of(&cookie, "/", &[]).is_none());
    let mapped: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
    let by_client = rate(vec![KeyPart::Client], true);
    assert_eq!(key(&by_client, 7, &request("/", &[]), mapped), key(&by_client, 7, &request("/", &[]), client()));
}
