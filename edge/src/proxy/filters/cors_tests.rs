use super::*;

fn origin(text: &str) -> Origin {
    match text.split_once('*') {
        Some(("", "")) => Origin::Any,
        Some((before, after)) => Origin::Wildcard { before: before.into(), after: after.into() },
        None => Origin::Exact(text.into()),
    }
}

fn list(items: &[&str]) -> Vec<Box<str>> {
    items.iter().map(|item| (*item).into()).collect()
}

fn policy(origins: &[&str], credentials: bool, methods: &[&str], headers: &[&str]) -> Cors {
    Cors {
        allow_origins: origins.iter().map(|text| origin(text)).collect(),
        allow_credentials: credentials,
        allow_methods: list(methods),
        allow_headers: list(headers),
        expose_headers: vec![],
        max_age: 5,
    }
}

fn request(method: &str, fields: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead::default();
    head.method = head.fields.store(method.as_bytes());
    for (name, value) in fields {
        head.fields.add(name.as_bytes(), value.as_bytes());
    }
    head
}

fn text(fields: &Fields) -> String {
    let lines: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{}: {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)))
        .collect();
    lines.join("\n").replace("access-control-", "")
}

fn preflight(cors: &Cors, origin: &str, method: &str, headers: Option<&str>) -> String {
    let mut fields = vec![("origin", origin), ("access-control-request-method", method)];
    fields.extend(headers.map(|headers| ("access-control-request-headers", headers)));
    let mut response = ResponseHead { status: 500, ..ResponseHead::default() };
    assert!(answer_preflight(cors, &request("OPTIONS", &fields), &mut response));
    assert_eq!((response.status, response.length), (204, Length::None));
    text(&response.fields)
}

#[test]
fn origins() {
    for (allowed, given, expected) in [
        (&["*"][..], "https://a.example", true),
        (&["*"], "null", true),
        (&["*"], "https://a.example\u{e4}", false),
        (&[], "https://a.example", false),
        (&["https://a.example"], "https://a.example", true),
        (&["https://a.example"], "https://A.example", true),
        (&["https://a.example"], "http://a.example", false),
        (&["https://a.example"], "https://a.example:443", true),
        (&["https://a.example:443"], "https://a.example", true),
        (&["http://a.example:80"], "http://a.example", true),
        (&["https://a.example"], "https://a.example:80", false),
        (&["https://a.example"], "https://a.example:8443", false),
        (&["https://a.example:8443"], "https://a.example:8443", true),
        (&["https://a.example"], "https://a.example.evil.example", false),
        (&["https://a.example"], "null", false),
        (&["https://b.example", "https://a.example"], "https://a.example", true),
        (&["https://*.bar.com"], "https://www.bar.com", true),
        (&["https://*.bar.com"], "https://xpto.www.bar.com", true),
        (&["https://*.bar.com"], "https://bar.com", false),
        (&["https://*.bar.com"], "https://.bar.com", false),
        (&["https://*.bar.com"], "https://foobar.com", false),
        (&["https://*.bar.com"], "http://www.bar.com", false),
        (&["https://*.bar.com"], "https://www.bar.com:443", true),
        (&["https://*.bar.com"], "https://www.bar.com:8443", false),
        (&["https://*.bar.com:8443"], "https://www.bar.com:8443", true),
        (&["https://*.bar.com:8443"], "https://www.bar.com", false),
        (&["https://*.bar.com"], "https://evil.example/.bar.com", false),
        (&["https://*.bar.com"], "https://evil.example:1.bar.com", false),
        (&["https://*.bar.com"], "https://user@x.bar.com", false),
        (&["https://*"], "https://a.example", true),
        (&["https://*"], "https://[::1]", true),
        (&["https://*"], "https://a.example:8443", false),
        (&["https://*"], "https://", false),
        (&["https://*:8443"], "https://[::1]:8443", true),
        (&["https://*:443"], "https://a.example", true),
        (&["https://www.*.example"], "https://www.a.b.example", true),
    ] {
        let cors = policy(allowed, false, &[], &[]);
        assert_eq!(is_allowed(&cors, given.as_bytes()), expected, "{given} by {allowed:?}");
    }
}

#[test]
fn preflights_as_in_the_conformance_suite() {
    let one = Cors {
        expose_headers: list(&["x-header-3", "x-header-4"]),
        max_age: 3600,
        ..policy(
            &["https://www.foo.com", "https://*.bar.com"],
            true,
            &["GET", "OPTIONS"],
            &["x-header-1", "x-header-2"],
        )
    };
    for origin in ["https://www.foo.com", "https://www.bar.com", "https://xpto.www.bar.com"] {
        assert_eq!(
            preflight(&one, origin, "GET", Some("x-header-1, x-header-2")),
            format!(
                "allow-origin: {origin}\nallow-credentials: true\nallow-methods: GET, OPTIONS\n\
                 allow-headers: x-header-1, x-header-2\nmax-age: 3600\nexpose-headers: x-header-3, x-header-4\n\
                 vary: Origin"
            )
        );
    }
    assert_eq!(preflight(&one, "https://foobar.com", "GET", None), "");

    let two = policy(&["https://www.foo.com"], false, &["*"], &[]);
    assert_eq!(
        preflight(&two, "https://www.foo.com", "POST", None),
        "allow-origin: https://www.foo.com\nallow-methods: *\nmax-age: 5\nvary: Origin"
    );
    let any = policy(&["*"], false, &["PUT"], &[]);
    for origin in ["https://foobar.com", "https://foobar.com:12345"] {
        assert_eq!(preflight(&any, origin, "PUT", None), "allow-origin: *\nallow-methods: PUT\nmax-age: 5");
    }
    let everything = policy(&["*"], true, &["*"], &["*"]);
    assert_eq!(
        preflight(&everything, "https://other.foo.com", "PUT", Some("x-header-1, x-header-2")),
        "allow-origin: https://other.foo.com\nallow-credentials: true\nallow-methods: PUT\n\
         allow-headers: x-header-1, x-header-2\nmax-age: 5\nvary: Origin"
    );
    assert_eq!(
        preflight(&policy(&["*"], false, &["*"], &["*"]), "https://other.foo.com", "PUT", Some("x-header-1")),
        "allow-origin: *\nallow-methods: *\nallow-headers: *\nmax-age: 5"
    );
}

#[test]
fn preflights_echo_only_what_is_valid() {
    let everything = policy(&["*"], true, &["*"], &["*"]);
    let expected = "allow-origin: https://a\nallow-credentials: true\nmax-age: 5\nvary: Origin";
    assert_eq!(preflight(&everything, "https://a", "P UT", Some("x y")), expected);
    assert_eq!(preflight(&everything, "https://a", "", Some("")), expected);
    let max = Cors { max_age: u32::MAX, ..everything };
    assert!(preflight(&max, "https://a", "GET", None).contains("max-age: 4294967295\n"));
}

#[test]
fn what_is_no_preflight() {
    let cors = policy(&["*"], false, &["*"], &[]);
    for (method, fields) in [
        ("OPTIONS", &[("origin", "https://a")][..]),
        ("OPTIONS", &[("access-control-request-method", "GET")]),
        ("GET", &[("origin", "https://a"), ("access-control-request-method", "GET")]),
        ("options", &[("origin", "https://a"), ("access-control-request-method", "GET")]),
    ] {
        let mut response = ResponseHead { status: 299, ..ResponseHead::default() };
        assert!(!answer_preflight(&cors, &request(method, fields), &mut response), "{method} {fields:?}");
        assert_eq!(response.status, 299);
    }
}

#[test]
fn actual_responses() {
    let exposing = |cors: Cors, names: &[&str]| Cors { expose_headers: list(names), ..cors };
    let exact = policy(&["https://a"], false, &["GET"], &["x"]);
    let trusting = policy(&["https://a"], true, &[], &[]);
    let any = policy(&["*"], false, &[], &[]);
    let backend: &[(&str, &str)] = &[("x", "1"), ("access-control-allow-origin", "*"), ("access-control-max-age", "9")];
    for (cors, origin, before, expected) in [
        (exact.clone(), Some("https://a"), &[][..], "allow-origin: https://a\nvary: Origin"),
        (exact.clone(), Some("https://a"), backend, "x: 1\nallow-origin: https://a\nvary: Origin"),
        (exact.clone(), Some("https://b"), backend, "x: 1\nvary: Origin"),
        (exact.clone(), None, backend, "x: 1\nvary: Origin"),
        (exact.clone(), None, &[("vary", "accept, origin")], "vary: accept, origin"),
        (exact.clone(), None, &[("vary", "*")], "vary: *"),
        (exact.clone(), None, &[("vary", "accept")], "vary: accept\nvary: Origin"),
        (trusting.clone(), Some("https://a"), &[], "allow-origin: https://a\nallow-credentials: true\nvary: Origin"),
        (any.clone(), Some("https://a"), backend, "x: 1\nallow-origin: *"),
        (any.clone(), None, backend, "x: 1"),
        (exposing(any.clone(), &["*"]), Some("https://a"), &[], "allow-origin: *\nexpose-headers: *"),
        (
            exposing(trusting.clone(), &["*", "x-a", "x-b"]),
            Some("https://a"),
            &[],
            "allow-origin: https://a\nallow-credentials: true\nexpose-headers: x-a\nexpose-headers: x-b\nvary: Origin",
        ),
        (
            exposing(trusting, &["*"]),
            Some("https://a"),
            &[],
            "allow-origin: https://a\nallow-credentials: true\nvary: Origin",
        ),
        (policy(&[], false, &[], &[]), Some("https://a"), backend, "x: 1"),
    ] {
        let mut head = request("GET", before);
        decorate(&cors, origin.map(str::as_bytes), &mut head.fields);
        assert_eq!(text(&head.fields), expected, "{cors:?} for {origin:?}");
    }
}
