use super::*;

const LIMITS: HeadLimits = HeadLimits { bytes: 65536, fields: 20 };

fn parts(method: &str, uri: &str, fields: &[(&str, &str)]) -> http::request::Parts {
    let mut request = http::Request::builder().method(method).uri(uri);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn decode(parts: &http::request::Parts, ended: bool) -> Result<RequestHead, String> {
    let mut head = RequestHead::default();
    request(parts, ended, Scheme::Https, LIMITS, &mut head).map(|()| head).map_err(|error| error.to_string())
}

#[test]
fn a_request_becomes_canonical() {
    let fields = [
        ("cookie", "a=1"),
        ("x-one", "1"),
        ("te", "trailers"),
        ("cookie", "b=2"),
        ("content-length", "5"),
        ("host", "SHOP.example"),
        ("x_forwarded_for", "1.2.3.4"),
        ("expect", "100-continue"),
    ];
    let head = decode(&parts("POST", "https://Shop.Example:443/%61?q=%2e", &fields), false).unwrap();
    assert_eq!((head.method(), head.authority(), head.host()), ("POST", "Shop.Example:443", "shop.example"));
    assert_eq!((head.path(), head.query()), ("/a", Some("q=%2e")));
    assert_eq!((head.length, head.te_trailers, head.expect_continue), (Length::Known(5), true, true));
    let fields: Vec<_> = head.fields.iter().collect();
    assert_eq!(fields, [(&b"x-one"[..], &b"1"[..]), (b"cookie", b"a=1; b=2")]);

    let head = decode(&parts("GET", "/", &[("host", "a.example.:8443")]), true).unwrap();
    assert_eq!((head.authority(), head.host(), head.length), ("a.example.:8443", "a.example", Length::None));
    assert_eq!(decode(&parts("GET", "https://a/", &[]), false).unwrap().length, Length::Unknown);
    assert_eq!(decode(&parts("OPTIONS", "*", &[("host", "a")]), true).unwrap().path(), "*");
}

#[test]
fn what_can_be_read_twice_is_refused() {
    let many: Vec<_> = (0..21).map(|_| ("x-many", "1")).collect();
    for (method, uri, fields, ended, why) in [
        ("GET", "https://a/", &[("host", "b")][..], true, "malformed request: Host differs from :authority"),
        ("GET", "/", &[("host", "a"), ("host", "a")], true, "malformed request: more than one Host"),
        ("GET", "/", &[], true, "malformed request: no :authority"),
        ("GET", "/", &[("host", "u@a")], true, "malformed request: host has a character that no host name has"),
        ("GET", "https://a/..;/b", &[], true, "malformed request: path has a dot segment with parameters"),
        ("GET", "https://a/x%00b", &[], true, "malformed request: path has an encoded control character"),
        ("get", "https://a/", &[], true, "malformed request: method in the wrong case"),
        ("TRACE", "https://a/", &[], false, "malformed request: TRACE with content"),
        ("GET", "*", &[("host", "a")], true, "malformed request: * is a target for OPTIONS only"),
        ("POST", "https://a/", &[("content-length", "+5")], false, "malformed request: invalid Content-Length"),
        (
            "POST",
            "https://a/",
            &[("content-length", "5"), ("content-length", "5")],
            false,
            "malformed request: more than one Content-Length",
        ),
        ("POST", "https://a/", &[("content-length", "5")], true, "malformed request: Content-Length without a body"),
        ("GET", "https://a/", &[("x", " 1")], true, "malformed request: white space around a field value"),
        ("GET", "https://a/", &[("expect", "tea")], true, "unknown expectation"),
        ("CONNECT", "a:443", &[], true, "not implemented: CONNECT"),
        ("GET", "ftp://a/", &[], true, "malformed request: scheme is neither http nor https"),
        ("GET", "https://a/", &many, true, "request head too large"),
    ] {
        assert_eq!(
            decode(&parts(method, uri, fields), ended).map(|_| ()),
            Err(why.to_owned()),
            "{method} {uri} {fields:?}"
        );
    }
}

#[test]
fn a_response_survives_both_ways() {
    let original = http::Response::builder()
        .status(200)
        .header("content-length", "7")
        .header("set-cookie", "a=1")
        .header("set-cookie", "b=2")
        .header("x-latin", HeaderValue::from_bytes(b"\xe9").unwrap())
        .body(())
        .unwrap();
    let mut head = ResponseHead::default();
    response(&original.into_parts().0, false, false, LIMITS, &mut head).unwrap();
    assert_eq!((head.status, head.length), (200, Length::Known(7)));
    let written = to_response(&head).unwrap();
    assert_eq!(written.headers().get_all("set-cookie").iter().count(), 2);
    assert_eq!(
        (&written.headers()["content-length"], &written.headers()["x-latin"].as_bytes()),
        (&HeaderValue::from_static("7"), &&b"\xe9"[..])
    );
}

#[test]
fn response_lengths() {
    for (status, length, ended, is_head, expected) in [
        (200, None, false, false, Ok(Length::Unknown)),
        (200, None, true, false, Ok(Length::None)),
        (200, Some("0"), true, false, Ok(Length::Known(0))),
        (200, Some("5"), true, false, Err("Content-Length without a body")),
        (200, Some("5"), true, true, Ok(Length::Known(5))),
        (304, Some("5"), true, false, Ok(Length::Known(5))),
        (204, None, true, false, Ok(Length::None)),
        (101, None, true, false, Err("status that HTTP/2 does not have")),
    ] {
        let mut builder = http::Response::builder().status(status);
        if let Some(length) = length {
            builder = builder.header("content-length", length);
        }
        let mut head = ResponseHead::default();
        let result = response(&builder.body(()).unwrap().into_parts().0, ended, is_head, LIMITS, &mut head);
        assert_eq!(result.map(|()| head.length), expected, "{status} {length:?}");
    }
}

#[test]
fn a_request_is_written_with_what_the_head_knows() {
    let head =
        decode(&parts("POST", "https://a.example/x?y", &[("te", "trailers"), ("content-length", "3")]), false).unwrap();
    let written = to_request(&head, false).unwrap();
    assert_eq!(written.uri(), "http://a.example/x?y");
    assert_eq!(
        (&written.headers()["te"], &written.headers()["content-length"]),
        (&HeaderValue::from_static("trailers"), &HeaderValue::from_static("3"))
    );
    let mut bad = head;
    bad.fields.add(b"x", b"a\r\nb");
    assert_eq!(to_request(&bad, false).unwrap_err(), Unwritable("field value"));
}

#[test]
fn trailers_lose_what_belongs_to_heads() {
    let mut given = HeaderMap::new();
    for (name, value) in [("grpc-status", "0"), ("set-cookie", "a=1"), ("x_real_ip", "1.2.3.4"), ("te", "trailers")] {
        given.insert(name, HeaderValue::from_static(value));
    }
    let mut fields = Fields::default();
    trailers(&given, LIMITS, &mut fields).unwrap();
    assert_eq!(fields.iter().collect::<Vec<_>>(), [(&b"grpc-status"[..], &b"0"[..])]);
    given.insert("host", HeaderValue::from_static("a"));
    assert!(trailers(&given, LIMITS, &mut Fields::default()).is_err());
    assert_eq!(to_trailers(&fields).unwrap().len(), 1);
}
