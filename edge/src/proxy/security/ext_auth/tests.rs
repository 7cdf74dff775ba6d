use prost::Message as _;

use super::message::{
    Allowed, BoolValue, CheckResponse, Denied, Header, HeaderOption, HttpStatus, QueryParameter, Status,
};
use super::*;
use crate::proxy::message::ResponseHead;
use crate::proxy::upstream::ask::Answer;

fn answer(status: u16, code: Option<&str>, message: &CheckResponse) -> Answer {
    let mut head = ResponseHead { status, ..ResponseHead::default() };
    if let Some(code) = code {
        head.fields.add(b"grpc-status", code.as_bytes());
    }
    let message = message.encode_to_vec();
    let mut body = vec![0];
    body.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend_from_slice(&message);
    Answer { head, body, trailers: None, is_whole: true }
}

fn option(name: &str, value: &str, append: Option<bool>, action: i32) -> HeaderOption {
    HeaderOption {
        header: Some(Header { key: name.into(), value: value.into(), raw_value: Vec::new() }),
        append: append.map(|value| BoolValue { value }),
        append_action: action,
    }
}

#[test]
fn edits_of_an_authorizer_are_applied() {
    let allowed = Allowed {
        headers: vec![
            option("X-User", "alice", None, 0),
            option("x-group", "b", Some(true), 0),
            option("x-absent", "new", None, 1),
            option("x-old", "no", None, 1),
            option("x-here", "set", None, 3),
            option("x-not-here", "set", None, 3),
            option("host", "evil", None, 0),
            option(":path", "/evil", None, 0),
        ],
        headers_to_remove: vec!["X-Secret".into(), "host".into(), "content-length".into()],
        response_headers_to_add: vec![option("x-checked", "yes", None, 0)],
        query_parameters_to_set: vec![QueryParameter { key: "a".into(), value: "2 3".into() }],
        query_parameters_to_remove: vec!["b".into()],
    };
    let response = CheckResponse { status: Some(Status { code: 0 }), denied: None, ok: Some(allowed) };
    let Ok(Decision::Allowed(edits)) = grpc::decision(&answer(200, Some("0"), &response)) else { panic!() };
    let mut request = RequestHead::default();
    request.set_path("/x");
    request.query = Some(request.fields.store(b"a=1&b=2&c=3"));
    for (name, value) in [
        ("x-user", "forged"),
        ("x-user", "forged too"),
        ("x-group", "a"),
        ("x-old", "old"),
        ("x-here", "1"),
        ("x-secret", "s"),
    ] {
        request.fields.add(name.as_bytes(), value.as_bytes());
    }
    let mut passed = Passed::default();
    edits.apply(&mut request, &mut passed);
    let all: Vec<String> = request
        .fields
        .iter()
        .map(|(name, value)| format!("{}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)))
        .collect();
    assert_eq!(all, ["x-user=alice", "x-group=a", "x-old=old", "x-here=set", "x-group=b", "x-absent=new"]);
    assert_eq!((request.path(), request.query()), ("/x", Some("c=3&a=2%203")));
    assert_eq!(passed.fields.first(b"x-checked"), Some(&b"yes"[..]));
}

#[test]
fn what_is_no_decision_is_none() {
    let denied = |code, status| CheckResponse {
        status: Some(Status { code }),
        denied: Some(Denied {
            status: Some(HttpStatus { code: status }),
            headers: vec![option("x-why", "because", None, 0), option("content-length", "9", None, 0)],
            body: b"no".to_vec(),
        }),
        ok: None,
    };
    for (status, expected) in [(401, 401), (302, 302), (0, 403), (99, 403), (1000, 403)] {
        let decision = grpc::decision(&answer(200, Some("0"), &denied(7, status)));
        let Ok(Decision::Denied { status, fields, body }) = decision else { panic!() };
        assert_eq!((status, fields.len(), &body[..]), (expected, 1, &b"no"[..]));
    }
    let good = CheckResponse::default();
    assert!(matches!(grpc::decision(&answer(200, Some("0"), &good)), Ok(Decision::Allowed(_))));
    for (status, code) in [(200, Some("14")), (200, None), (503, Some("0"))] {
        assert!(grpc::decision(&answer(status, code, &good)).is_err(), "{status} {code:?}");
    }
    for body in [&b""[..], b"\0\0\0\0", b"\x01\0\0\0\0", b"\0\0\0\0\x05\x0a", b"\0\0\0\0\x02\xff\xff"] {
        let broken = Answer { body: body.to_vec(), ..answer(200, Some("0"), &good) };
        assert!(grpc::decision(&broken).is_err(), "{body:?}");
    }
    for (name, value) in [("a b", "x"), ("", "x"), ("x", "a\r\nb: c"), ("x", " padded")] {
        let ok = Allowed { headers: vec![option(name, value, None, 0)], ..Allowed::default() };
        let response = CheckResponse { status: None, denied: None, ok: Some(ok) };
        assert!(grpc::decision(&answer(200, Some("0"), &response)).is_err(), "{name:?} {value:?}");
    }
}

#[test]
fn an_authorizer_over_http() {
    let mut head = ResponseHead { status: 200, ..ResponseHead::default() };
    head.fields.add(b"x-user", b"alice");
    head.fields.add(b"x-user", b"admin");
    head.fields.add(b"x-other", b"1");
    let mut answer = Answer { head, body: b"text".to_vec(), trailers: None, is_whole: true };
    let names: [Box<str>; 2] = ["x-user".into(), "x-missing".into()];
    let Ok(Decision::Allowed(edits)) = http::decision(&answer, Some(&names)) else { panic!() };
    let mut request = RequestHead::default();
    request.fields.add(b"x-user", b"forged");
    edits.apply(&mut request, &mut Passed::default());
    let told: Vec<_> = request.fields.all(b"x-user").map(<[u8]>::to_vec).collect();
    assert_eq!(told, [b"alice".to_vec(), b"admin".to_vec()]);
    assert!(request.fields.first(b"x-other").is_none());
    // Where none is named all are told, but for what frames the answer or is about its body.
    for (name, value) in [("host", "evil"), ("content-length", "9"), ("transfer-encoding", "chunked"), ("date", "then")]
    {
        answer.head.fields.add(name.as_bytes(), value.as_bytes());
    }
    answer.head.fields.add(b"content-type", b"text/plain");
    let Ok(Decision::Allowed(edits)) = http::decision(&answer, None) else { panic!() };
    let mut request = RequestHead::default();
    request.fields.add(b"content-type", b"application/json");
    edits.apply(&mut request, &mut Passed::default());
    let found: Vec<_> = request.fields.iter().map(|(name, value)| [name, value].concat()).collect();
    assert_eq!(found, [&b"content-typeapplication/json"[..], b"x-useralice", b"x-useradmin", b"x-other1"]);
    for (status, is_denied) in [(201, true), (302, true), (401, true), (499, true), (500, false), (503, false)] {
        answer.head.status = status;
        assert_eq!(matches!(http::decision(&answer, Some(&names)), Ok(Decision::Denied { .. })), is_denied, "{status}");
    }
}
