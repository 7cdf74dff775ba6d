use super::super::hpack::Decoder;
use super::*;

const LIMITS: HeadLimits = HeadLimits { bytes: 65536, fields: 20 };

const GET: [(&str, &str); 3] = [(":method", "GET"), (":scheme", "https"), (":path", "/")];

fn decode(fields: &[(&str, &str)], ended: bool) -> Result<RequestHead, String> {
    let mut head = RequestHead::default();
    let mut block = RequestBlock::new(&mut head, LIMITS);
    for (name, value) in fields {
        block.field(name.as_bytes(), value.as_bytes());
    }
    block.finish(ended, Scheme::Https).map(|()| head).map_err(|error| error.to_string())
}

/// A GET of `/` with some of its pseudo-headers replaced, and further fields.
fn with(fields: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    let is_given = |name: &str| name.starts_with(':') && fields.iter().any(|(other, _)| *other == name);
    let mut all: Vec<_> = GET.into_iter().filter(|(name, _)| !is_given(name)).collect();
    all.extend(fields.iter().filter(|(name, _)| name.starts_with(':')));
    all.extend(fields.iter().filter(|(name, _)| !name.starts_with(':')));
    all
}

#[test]
fn a_request_becomes_canonical() {
    let fields = [
        (":method", "POST"),
        (":authority", "Shop.Example:443"),
        (":path", "/%61?q=%2e"),
        ("cookie", "a=1"),
        ("x-one", "1"),
        ("te", "trailers"),
        ("cookie", "b=2"),
        ("content-length", "5"),
        ("host", "SHOP.example"),
        ("x_forwarded_for", "1.2.3.4"),
        ("expect", "100-continue"),
    ];
    let head = decode(&with(&fields), false).unwrap();
    assert_eq!((head.method(), head.authority(), head.host()), ("POST", "Shop.Example:443", "shop.example"));
    assert_eq!((head.path(), head.query()), ("/a", Some("q=%2e")));
    assert_eq!((head.length, head.te_trailers, head.expect_continue), (Length::Known(5), true, true));
    let fields: Vec<_> = head.fields.iter().collect();
    assert_eq!(fields, [(&b"x-one"[..], &b"1"[..]), (b"cookie", b"a=1; b=2")]);

    let head = decode(&with(&[("host", "a.example.:8443")]), true).unwrap();
    assert_eq!((head.authority(), head.host(), head.length), ("a.example.:8443", "a.example", Length::None));
    assert_eq!(decode(&with(&[(":authority", "a")]), false).unwrap().length, Length::Unknown);
    let options = with(&[(":method", "OPTIONS"), (":path", "*"), ("host", "a")]);
    assert_eq!(decode(&options, true).unwrap().path(), "*");
}

/// RFC 9113 §8.1.1: the stream is reset. Then what is well-formed and refused with an answer.
#[test]
fn what_can_be_read_twice_is_refused() {
    let malformed: &[(&[(&str, &str)], &str)] = &[
        (&[(":method", "GET"), (":scheme", "https"), (":authority", "a")], "no :path"),
        (&[(":method", "GET"), (":path", "/"), (":authority", "a")], "no :scheme"),
        (&[(":scheme", "https"), (":path", "/"), (":authority", "a")], "no :method"),
        (&[GET[0], GET[0], GET[1], GET[2]], "pseudo-header twice"),
        (&[GET[0], GET[1], GET[2], (":path", "/b")], "pseudo-header twice"),
        (&[GET[0], GET[1], (":path", "")], "empty :path"),
        (&[GET[0], GET[1], GET[2], (":status", "200")], "unknown pseudo-header"),
        (&[GET[0], GET[1], GET[2], (":protocol", "websocket")], "unknown pseudo-header"),
        (&[GET[0], GET[1], ("host", "a"), GET[2]], "pseudo-header behind a field"),
        (&[GET[0], GET[1], GET[2], ("Host", "a")], "invalid field name"),
        (&[GET[0], GET[1], GET[2], ("", "a")], "invalid field name"),
        (&[GET[0], GET[1], GET[2], ("a b", "a")], "invalid field name"),
        (&[(":method", "G T"), GET[1], GET[2]], "invalid :method"),
    ];
    for (fields, why) in malformed {
        assert_eq!(decode(fields, true).map(|_| ()), Err(format!("malformed: {why}")), "{fields:?}");
    }
    let many = [("x-many", "1"); 20];
    for (fields, ended, why) in [
        (&[("host", "a"), ("connection", "close")][..], true, "malformed: connection-specific field"),
        (&[("host", "a"), ("keep-alive", "1")], true, "malformed: connection-specific field"),
        (&[("host", "a"), ("proxy-connection", "close")], true, "malformed: connection-specific field"),
        (&[("host", "a"), ("transfer-encoding", "chunked")], true, "malformed: connection-specific field"),
        (&[("host", "a"), ("upgrade", "h2c")], true, "malformed: connection-specific field"),
        (&[("host", "a"), ("te", "gzip")], true, "malformed: TE other than trailers"),
        (&[("host", "a"), ("te", "trailers, gzip")], true, "malformed: TE other than trailers"),
        (&[("host", "a"), ("x", " 1")], true, "malformed: white space around a field value"),
        (&[("host", "a"), ("x", "1\t")], true, "malformed: white space around a field value"),
        (&[("host", "a"), ("x", "a\r\nb")], true, "malformed: control character in a field value"),
        (&[("host", "a"), ("x", "a\0b")], true, "malformed: control character in a field value"),
        (&[("host", "a"), ("content-length", "5")], true, "malformed: Content-Length without a body"),
        (&[(":authority", "a"), ("host", "b")], true, "malformed request: Host differs from :authority"),
        (&[("host", "a"), ("host", "a")], true, "malformed request: more than one Host"),
        (&[], true, "malformed request: no :authority"),
        (&[("host", "u@a")], true, "malformed request: host has a character that no host name has"),
        (&[(":authority", "u@a")], true, "malformed request: host has a character that no host name has"),
        (&[("host", "a"), (":path", "/..;/b")], true, "malformed request: path has a dot segment with parameters"),
        (&[("host", "a"), (":path", "/x%00b")], true, "malformed request: path has an encoded control character"),
        (&[("host", "a"), (":path", "https://a/")], true, "malformed request: :path is no path"),
        (&[("host", "a"), (":path", "*")], true, "malformed request: * is a target for OPTIONS only"),
        (&[("host", "a"), ("content-length", "+5")], false, "malformed request: invalid Content-Length"),
        (
            &[("host", "a"), ("content-length", "5"), ("content-length", "5")],
            false,
            "malformed request: more than one Content-Length",
        ),
        (&[("host", "a"), (":method", "get")], true, "malformed request: method in the wrong case"),
        (&[("host", "a"), (":method", "TRACE")], false, "malformed request: TRACE with content"),
        (&[("host", "a"), ("expect", "tea")], true, "unknown expectation"),
        (&[(":method", "CONNECT"), (":authority", "a:443")], true, "not implemented: CONNECT"),
        (&[(":scheme", "ftp"), (":authority", "a")], true, "malformed request: scheme is neither http nor https"),
        (&many, true, "request head too large"),
    ] {
        assert_eq!(decode(&with(fields), ended).map(|_| ()), Err(why.to_owned()), "{fields:?}");
    }
}

/// What a block that we wrote says.
fn read(block: &[u8]) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Decoder::default().decode(block, |name, value| fields.push((text(name), text(value)))).unwrap();
    fields
}

fn decode_response(fields: &[(&str, &[u8])], ended: bool, is_head: bool) -> Result<ResponseHead, &'static str> {
    let mut head = ResponseHead::default();
    let mut block = ResponseBlock::new(&mut head, LIMITS);
    for (name, value) in fields {
        block.field(name.as_bytes(), value);
    }
    block.finish(ended, is_head).map(|()| head)
}

#[test]
fn a_response_survives_both_ways() {
    let fields: [(&str, &[u8]); 5] = [
        (":status", b"200"),
        ("set-cookie", b"a=1"),
        ("set-cookie", b"b=2"),
        ("x-latin", b"\xe9"),
        ("content-length", b"7"),
    ];
    let head = decode_response(&fields, false, false).unwrap();
    assert_eq!((head.status, head.length), (200, Length::Known(7)));
    let mut block = Vec::new();
    put_response(&head, &mut block).unwrap();
    let expected: Vec<_> =
        fields.iter().map(|(name, value)| ((*name).to_owned(), String::from_utf8_lossy(value).into_owned())).collect();
    assert_eq!(read(&block), expected);
}

#[test]
fn response_lengths() {
    for (status, length, ended, is_head, expected) in [
        ("200", None, false, false, Ok(Length::Unknown)),
        ("200", None, true, false, Ok(Length::None)),
        ("200", Some("0"), true, false, Ok(Length::Known(0))),
        ("200", Some("5"), true, false, Err("Content-Length without a body")),
        ("200", Some("5"), true, true, Ok(Length::Known(5))),
        ("304", Some("5"), true, false, Ok(Length::Known(5))),
        ("204", None, true, false, Ok(Length::None)),
        ("101", None, true, false, Err("status that HTTP/2 does not have")),
        ("103", None, true, false, Err("interim response at the end")),
        ("2000", None, true, false, Err("invalid :status")),
        ("600", None, true, false, Err("invalid :status")),
    ] {
        let mut fields = vec![(":status", status.as_bytes())];
        fields.extend(length.map(|length| ("content-length", length.as_bytes())));
        let result = decode_response(&fields, ended, is_head);
        assert_eq!(result.map(|head| head.length), expected, "{status} {length:?}");
    }
    for fields in [&[][..], &[(":status", &b"200"[..]), (":status", b"200")], &[(":path", b"/")]] {
        assert!(decode_response(fields, true, false).is_err(), "{fields:?}");
    }
}

#[test]
fn a_request_is_written_with_what_the_head_knows() {
    let given = [(":method", "PUT"), (":authority", "a.example"), (":path", "/x?y"), ("te", "trailers")];
    let mut head = decode(&with(&given), false).unwrap();
    head.length = Length::Known(3);
    let mut block = Vec::new();
    put_request(&head, false, &mut block).unwrap();
    let expected = [
        (":method", "PUT"),
        (":scheme", "http"),
        (":authority", "a.example"),
        (":path", "/x?y"),
        ("content-length", "3"),
        ("te", "trailers"),
    ];
    assert_eq!(read(&block), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    for (name, value, what) in [("x", "a\r\nb", "field value"), ("X", "a", "field name"), ("a:b", "c", "field name")] {
        let mut bad = head.clone();
        bad.fields.add(name.as_bytes(), value.as_bytes());
        assert_eq!(put_request(&bad, false, &mut Vec::new()), Err(Unwritable(what)));
    }
    head.set_path("/a b");
    assert_eq!(put_request(&head, false, &mut Vec::new()), Err(Unwritable("target")));
}

#[test]
fn trailers_lose_what_belongs_to_heads() {
    let read = |fields: &[(&str, &str)]| {
        let mut block = TrailerBlock::new(LIMITS);
        for (name, value) in fields {
            block.field(name.as_bytes(), value.as_bytes());
        }
        block.finish()
    };
    let fields =
        read(&[("grpc-status", "0"), ("set-cookie", "a=1"), ("x_real_ip", "1.2.3.4"), ("te", "trailers")]).unwrap();
    assert_eq!(fields.iter().collect::<Vec<_>>(), [(&b"grpc-status"[..], &b"0"[..])]);
    for bad in [("host", "a"), ("content-length", "1"), (":status", "200"), (":path", "/"), ("connection", "close")] {
        assert!(read(&[bad]).is_err(), "{bad:?}");
    }
    assert!(read(&[("x-many", "1"); 21]).is_err());
}
