use std::sync::Arc;
use std::time::UNIX_EPOCH;

use edge_config::names::{Kind, ObjectKey, ObjectRef};
use edge_config::settings::{ParentRule, Ratio};
use prost::Message as _;
use tokio::sync::mpsc::UnboundedReceiver;

use super::super::messages::{ScopeSpans, Span};
use super::super::sampling::Sampler;
use super::super::{Batch, Tracer};
use super::*;
use crate::proxy::access_log::RuleOf;

struct Desk {
    sink: Sink,
    tracer: Arc<Tracer>,
    receiver: UnboundedReceiver<Batch>,
    request: RequestHead,
}

fn desk(fields: &[(&str, &[u8])]) -> Desk {
    let sampler = Sampler::new(Ratio::ONE, ParentRule::Follow);
    let (tracer, receiver) = Tracer::new(sampler, 1 << 20, Arc::default());
    let tracer = Arc::new(tracer);
    let mut sink = Sink::default();
    sink.adopt(Some(&tracer));
    let mut request = RequestHead::default();
    request.method = request.fields.store(b"GET");
    request.set_authority("[2001:db8::1]:8443");
    request.host = request.fields.store(b"[2001:db8::1]");
    request.set_path("/shop/cart");
    request.set_query(Some("token=secret"));
    request.scheme = Scheme::Https;
    for (name, value) in fields {
        request.fields.add(name.as_bytes(), value);
    }
    Desk { sink, tracer, receiver, request }
}

impl Desk {
    fn begin(&mut self) -> Trace {
        Trace::begin(&self.tracer, &mut self.sink, &mut self.request)
    }

    fn spans(&mut self, trace: &Trace, entry: &Entry<'_>, is_broken: bool) -> Vec<Span> {
        let (begun, duration) = (Instant::now(), Duration::from_millis(7));
        let told = Told { entry, request: &self.request, begun, duration, grpc_status: None, is_broken };
        trace.write(&mut self.sink, &told);
        self.sink.flush();
        match self.receiver.try_recv() {
            Ok(batch) => {
                let spans = ScopeSpans::decode(&*batch.bytes).unwrap().spans;
                assert_eq!(spans.len() as u64, batch.count);
                spans
            }
            Err(_) => Vec::new(),
        }
    }
}

fn entry() -> Entry<'static> {
    let (client, vip) = ("192.0.2.9:5000".parse().unwrap(), "198.51.100.1:8443".parse().unwrap());
    Entry::new(UNIX_EPOCH, client, vip, "HTTP/1.1")
}

#[test]
fn a_server_and_its_tries() {
    let mut desk = desk(&[
        ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", b"a=1"),
        ("user-agent", b"probe\xff"),
        ("authorization", b"Bearer secret"),
    ]);
    let mut trace = desk.begin();
    trace.route(desk.request.path, 5);
    trace.tell(&mut desk.request);
    desk.request.set_path("/cart");
    desk.request.fields.set(b"user-agent", b"edited");
    let to = |text: &str| text.parse().unwrap();
    let plain = (UpstreamProtocol::Http1, false);
    trace.begin_try(&mut desk.sink, &mut desk.request, to("10.0.0.1:80"), plain);
    trace.end_try(Some(Reason::ConnectFailed));
    trace.begin_try(&mut desk.sink, &mut desk.request, to("10.0.0.2:80"), plain);
    trace.answered_try(503);
    trace.end_try(Some(Reason::BackendClosed));
    trace.begin_try(&mut desk.sink, &mut desk.request, to("[2001:db8::2]:443"), (UpstreamProtocol::Http2, true));
    trace.answered_try(200);
    trace.end_try(None);
    let (gateway, route) = (
        ObjectRef::new(Kind::Gateway, ObjectKey::new("edge", "public")),
        ObjectRef::new(Kind::HTTPRoute, ObjectKey::new("shop", "cart")),
    );
    let entry = Entry {
        listener: Some((&gateway, "https")),
        rule: Some(RuleOf { route: &route, index: Some(2), name: None }),
        backend: Some("Service shop/cart:80"),
        status: 200,
        tries: 3,
        ..entry()
    };
    let spans = desk.spans(&trace, &entry, false);
    let [refused, answered, last, server] = &spans[..] else { panic!("{spans:?}") };

    assert_eq!((server.name.as_str(), server.kind), ("GET /shop", 2));
    assert_eq!(server.parent_span_id, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
    assert_eq!((server.trace_state.as_str(), server.flags, &server.status), ("a=1", 0x301, &None));
    assert_eq!(server.end - server.start, 7_000_000);
    assert_eq!(
        server.told(),
        [
            "http.request.method=GET",
            "http.route=/shop",
            "url.scheme=https",
            "url.path=/shop/cart",
            "server.address=2001:db8::1",
            "server.port=8443",
            "client.address=192.0.2.9",
            "client.port=5000",
            "network.peer.address=192.0.2.9",
            "network.peer.port=5000",
            "network.local.address=198.51.100.1",
            "network.local.port=8443",
            "network.protocol.version=1.1",
            "user_agent.original=probe\u{fffd}",
            "http.response.status_code=200",
            "edge.gateway=Gateway edge/public",
            "edge.listener=https",
            "edge.route=HTTPRoute shop/cart",
            "edge.rule=2",
            "edge.backend=Service shop/cart:80",
            "edge.tries=3",
        ]
    );
    for span in [refused, answered, last] {
        assert_eq!((span.name.as_str(), span.kind, span.flags), ("GET", 3, 0x101));
        assert_eq!((&span.trace_id, &span.parent_span_id), (&server.trace_id, &server.span_id));
    }
    assert_eq!(
        refused.told(),
        [
            "http.request.method=GET",
            "url.full=http://10.0.0.1:80/cart",
            "server.address=10.0.0.1",
            "server.port=80",
            "network.peer.address=10.0.0.1",
            "network.peer.port=80",
            "network.protocol.version=1.1",
            "edge.backend=Service shop/cart:80",
            "error.type=connect_failed",
        ]
    );
    assert_eq!(refused.status.as_ref().unwrap().code, 2);
    let told = answered.told();
    assert_eq!(&told[7..9], ["http.response.status_code=503", "http.request.resend_count=1"]);
    assert_eq!(told.last().unwrap(), "error.type=503");
    assert_eq!(answered.status.as_ref().unwrap().code, 2);
    let told = last.told();
    assert_eq!(told[1], "url.full=https://[2001:db8::2]:443/cart");
    assert!(told.contains(&"network.protocol.version=2".to_owned()) && last.status.is_none(), "{told:?}");
    // Neither what is after the question mark nor what lets somebody in.
    assert!(!format!("{spans:?}").contains("secret"));
}

#[test]
fn how_an_exchange_ended() {
    for (status, reason, is_broken, is_error, error) in [
        (404, Some(Reason::NoRoute), false, false, None),
        (302, Some(Reason::Redirect), false, false, None),
        (500, None, false, true, Some("error.type=500")),
        (503, Some(Reason::NoReadyEndpoint), false, true, Some("error.type=no_ready_endpoint")),
        (200, Some(Reason::BackendClosed), true, true, Some("error.type=backend_closed")),
        (0, Some(Reason::ClientClosed), true, false, Some("error.type=client_closed")),
        (400, Some(Reason::BadRequest("two_hosts")), false, false, None),
    ] {
        let mut desk = desk(&[]);
        let trace = desk.begin();
        let spans = desk.spans(&trace, &Entry { status, reason, ..entry() }, is_broken);
        let [server] = &spans[..] else { panic!("{spans:?}") };
        assert_eq!((server.name.as_str(), &server.parent_span_id[..]), ("GET", &b""[..]));
        assert_eq!(server.status.is_some(), is_error, "{status} {reason:?}");
        let told = server.told();
        assert_eq!(told.iter().find(|text| text.starts_with("error.type")).map(String::as_str), error);
        let code = reason.map(|reason| format!("edge.reason={}", reason.code()));
        assert!(code.is_none_or(|code| told.contains(&code)), "{told:?}");
        assert_eq!(told.iter().any(|text| text.starts_with("http.response.status_code")), status != 0);
    }
}

#[test]
fn a_try_that_nobody_ended_ends_with_the_exchange() {
    let mut desk = desk(&[]);
    let mut trace = desk.begin();
    let to = (UpstreamProtocol::Http1, false);
    trace.begin_try(&mut desk.sink, &mut desk.request, "10.0.0.1:80".parse().unwrap(), to);
    let spans = desk.spans(&trace, &Entry { status: 504, reason: Some(Reason::RequestTimeout), ..entry() }, false);
    let [client, server] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!(client.end, server.end);
    assert!(client.told().contains(&"error.type=request_timeout".to_owned()), "{client:?}");
}

#[test]
fn methods_that_clients_invent_are_one() {
    let mut desk = desk(&[]);
    desk.request.method = desk.request.fields.store(b"BREW");
    let mut trace = desk.begin();
    trace.route(desk.request.path, 0);
    let spans = desk.spans(&trace, &Entry { status: 501, ..entry() }, false);
    assert_eq!(spans[0].name, "HTTP /");
    assert_eq!(spans[0].told()[..2], ["http.request.method=_OTHER", "http.request.method_original=BREW"]);
}

#[test]
fn what_is_not_sampled_is_not_written() {
    let mut desk = desk(&[("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")]);
    let trace = desk.begin();
    assert!(desk.spans(&trace, &entry(), false).is_empty());
}

#[test]
fn authorities() {
    for (text, host, port) in [
        ("a.example", "a.example", None),
        ("a.example:8080", "a.example", Some(8080)),
        ("[::1]", "::1", None),
        ("[::1]:80", "::1", Some(80)),
        ("a:", "a", None),
    ] {
        assert_eq!(split(text.as_bytes()), (host.as_bytes(), port), "{text}");
    }
}
