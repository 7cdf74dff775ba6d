//! Answers as policies have them, over real sockets: overrides, compression, faults, direct answers, header edits.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

mod rig;

use std::io::Write as _;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edge::proxy::io::Backend as IoBackend;
use edge::proxy::metrics::Format;
use edge_config::policy::{
    Abort, AbortStatus, Body, Coding, Compressor, Delay, Fault, FieldEdits, FixedAnswer, Instead, ListenerHeaders,
    Override, Responses, RulePolicy, Share, Source,
};
use edge_config::snapshot::{Action, HeaderEdits, Redirect, Rule, Snapshot};
use rig::{Origin, Rig, on_both, rule};

fn with(responses: Responses) -> Rule {
    let policy = RulePolicy { responses: Some(Arc::new(responses)), ..RulePolicy::default() };
    Rule { policy: policy.or_none(), ..rule(0) }
}

fn page(status: Option<u16>, content_type: &str, text: &str) -> FixedAnswer {
    FixedAnswer {
        status,
        content_type: Some(content_type.into()),
        body: Some(Body::parse(text).unwrap()),
        ..FixedAnswer::default()
    }
}

fn instead(statuses: &[(u16, u16)], source: Source, answer: FixedAnswer) -> Override {
    let instead = Instead::Answer(Arc::new(answer));
    Override { statuses: statuses.to_vec(), fields: Vec::new(), source, instead }
}

/// Answers `/STATUS/LENGTH`, by chunks where the path ends with `c`; `text/html`, and what the query says of fields.
fn origin() -> Origin {
    Origin::new(|client, _| {
        loop {
            let head = client.head();
            let Some(target) = head.split(' ').nth(1) else { return };
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let mut parts = path.split('/').skip(1);
            let status: u16 = parts.next().and_then(|text| text.parse().ok()).unwrap_or(200);
            let length: usize = parts.next().and_then(|text| text.parse().ok()).unwrap_or(20);
            let is_chunked = parts.next() == Some("c");
            let text = text(length);
            let fields: String = query
                .split('&')
                .filter(|field| !field.is_empty())
                .map(|field| format!("{}\r\n", field.replace('=', ": ")))
                .collect();
            let kind = if fields.contains("content-type") { "" } else { "content-type: text/html\r\n" };
            let mut answer = format!("HTTP/1.1 {status} X\r\n{kind}etag: \"strong\"\r\nx-secret: v1.2\r\n{fields}");
            if is_chunked {
                answer.push_str("transfer-encoding: chunked\r\n\r\n");
                for piece in text.as_bytes().chunks(1000) {
                    answer.push_str(&format!("{:x}\r\n{}\r\n", piece.len(), String::from_utf8_lossy(piece)));
                }
                answer.push_str("0\r\n\r\n");
            } else {
                answer.push_str(&format!("content-length: {length}\r\n\r\n"));
                if !head.starts_with("HEAD") {
                    answer.push_str(&text);
                }
            }
            if client.stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    })
}

fn text(length: usize) -> String {
    let mut text = String::new();
    let mut number = 0;
    while text.len() < length {
        text.push_str(&format!("<p>line {number} of a page that is written again and again</p>\n"));
        number += 1;
    }
    text.truncate(length);
    text
}

fn rig(backend: IoBackend, origin: &Origin, responses: Responses) -> Rig {
    Rig::new(backend, vec![("", with(responses))], vec![vec![origin.address]])
}

fn get(rig: &Rig, path: &str, extra: &str) -> (String, String) {
    let mut client = rig.client();
    client.send(&format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{extra}Connection: close\r\n\r\n"));
    client.message()
}

#[test]
fn errors_become_pages() {
    on_both(|backend| {
        let origin = origin();
        let gone = page(None, "text/plain", "Oops! Your request is not found.");
        let json = page(Some(503), "application/json", "{\"path\": \"%REQ(:PATH)%\", \"code\": %RESPONSE_CODE%}");
        let kept = FixedAnswer { set: vec![("x-by".into(), "edge".into())], ..FixedAnswer::default() };
        let elsewhere = Redirect {
            scheme: Some(edge_config::snapshot::Scheme::Https),
            hostname: Some("www.example.com".into()),
            path: Some(edge_config::snapshot::PathEdit::Full("/get".into())),
            port: None,
            status: 302,
        };
        let redirect = Override {
            statuses: vec![(403, 403)],
            fields: Vec::new(),
            source: Source::All,
            instead: Instead::Redirect(elsewhere),
        };
        let responses = Responses {
            overrides: vec![
                instead(&[(404, 404)], Source::Backend, gone),
                instead(&[(500, 500), (501, 511)], Source::All, json),
                instead(&[(418, 418)], Source::All, kept),
                redirect,
            ],
            ..Responses::default()
        };
        let rig = rig(backend, &origin, responses);
        let (head, body) = get(&rig, "/404/50", "");
        assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
        assert_eq!(body, "Oops! Your request is not found.");
        assert!(!head.contains("x-secret") && !head.contains("etag") && head.contains("content-type: text/plain"));
        let (head, body) = get(&rig, "/507/200000/c", "");
        assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("content-type: application/json"), "{head}");
        assert_eq!(body, "{\"path\": \"/507/200000/c\", \"code\": 503}");
        let (head, body) = get(&rig, "/418/40", "");
        assert!(head.contains("x-by: edge") && head.contains("x-secret"), "{head}");
        assert_eq!(body, text(40));
        let (head, body) = get(&rig, "/403/40?q=1", "");
        assert!(head.starts_with("HTTP/1.1 302 "), "{head}");
        assert!(head.contains("location: https://www.example.com/get?q=1\r\n"), "{head}");
        assert_eq!(body, "");
        let (head, _) = get(&rig, "/200/40", "");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        // A small body that was not wanted costs no connection: only the large one did.
        let before = origin.connections();
        let mut client = rig.client();
        for _ in 0..10 {
            client.send("GET /404/50 HTTP/1.1\r\nHost: a.test\r\n\r\n");
            assert_eq!(client.message().1, "Oops! Your request is not found.");
        }
        assert!(origin.connections() <= before + 1, "{} after {before}", origin.connections());
        let metrics = edge::proxy::metrics::render(rig.proxy.metrics(), 0, Format::Prometheus);
        assert!(metrics.contains("edge_local_responses_total{reason=\"response_override\"}"), "{metrics}");
    });
}

#[test]
fn answers_of_edge_itself_are_told_apart() {
    let origin = origin();
    let responses = |source| Responses {
        overrides: vec![instead(&[(503, 503)], source, page(None, "text/html", "<h1>%LOCAL_REPLY_BODY%</h1>"))],
        ..Responses::default()
    };
    for (source, of_backend, of_edge) in
        [(Source::Local, false, true), (Source::Backend, true, false), (Source::All, true, true)]
    {
        let rig = rig(IoBackend::Epoll, &origin, responses(source));
        assert_eq!(get(&rig, "/503/30", "").1.starts_with("<h1>"), of_backend, "{source:?}");
        // Nobody is there.
        rig.publish(vec![("", with(responses(source)))], vec![Vec::new()]);
        let (head, body) = get(&rig, "/", "");
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
        assert_eq!(body == "<h1>503 no_ready_endpoint\n</h1>", of_edge, "{source:?}: {body}");
    }
}

/// What a Gateway says of answers holds where no route is.
#[test]
fn what_no_route_takes_has_a_page_too() {
    let origin = origin();
    let rig = Rig::new(IoBackend::Epoll, vec![("/app", rule(0))], vec![vec![origin.address]]);
    let responses = Responses {
        overrides: vec![instead(&[(404, 404)], Source::All, page(None, "text/html", "<h1>nothing here</h1>"))],
        ..Responses::default()
    };
    rig.publish_as(vec![("/app", rule(0))], vec![vec![origin.address]], |snapshot: &mut Snapshot| {
        let policy = RulePolicy { responses: Some(Arc::new(responses)), ..RulePolicy::default() };
        snapshot.listeners[0].policy = policy.or_none();
    });
    let (head, body) = get(&rig, "/elsewhere", "");
    assert!(head.starts_with("HTTP/1.1 404 ") && body == "<h1>nothing here</h1>", "{head}{body}");
}

fn compressors(at_least: u64) -> Responses {
    let one = |coding| Compressor { coding, at_least };
    Responses { compressors: Coding::ALL.map(one).to_vec(), ..Responses::default() }
}

/// curl is another implementation of all three codings and of both protocols.
fn curl(rig: &Rig, path: &str, coding: &str, http: &str) -> (String, String) {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "20", "--compressed", "--include", http])
        .args(["--header", "Host: a.test", "--header", &format!("Accept-Encoding: {coding}")])
        .arg(format!("http://{}{path}", rig.address))
        .output()
        .unwrap();
    assert!(output.status.success(), "{coding} {http}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

fn curl_knows(coding: &str) -> bool {
    let version = Command::new("curl").arg("--version").output().unwrap();
    String::from_utf8_lossy(&version.stdout).contains(coding)
}

#[test]
fn curl_reads_what_was_compressed() {
    let origin = origin();
    let rig = rig(IoBackend::Epoll, &origin, compressors(30));
    for (coding, feature) in [("gzip", "libz"), ("br", "brotli"), ("zstd", "zstd")] {
        if !curl_knows(feature) {
            eprintln!("{coding} not tested: this curl does not know it");
            continue;
        }
        for http in ["--http1.1", "--http2-prior-knowledge", "--http1.0"] {
            for path in ["/200/30", "/200/300000", "/200/300000/c", "/404/5000/c", "/200/1000/c"] {
                let (head, body) = curl(&rig, path, coding, http);
                assert!(head.contains(&format!("content-encoding: {coding}")), "{head}");
                assert!(head.contains("vary: accept-encoding") && head.contains("etag: w/\"strong\""), "{head}");
                let length: usize = path.split('/').nth(2).unwrap().parse().unwrap();
                assert!(body == text(length), "{coding} {http} {path}: {} of {length}", body.len());
            }
        }
    }
    let metrics = edge::proxy::metrics::render(rig.proxy.metrics(), 0, Format::Prometheus);
    assert!(metrics.contains("edge_compression_responses_total{coding=\"gzip\"}"), "{metrics}");
}

#[test]
fn what_is_not_compressed() {
    on_both(|backend| {
        let origin = origin();
        let rig = rig(backend, &origin, compressors(1000));
        for (path, extra, varies) in [
            ("/200/5000", "", true),
            ("/200/5000", "Accept-Encoding: deflate\r\n", true),
            ("/200/5000", "Accept-Encoding: gzip;q=0\r\n", true),
            ("/200/999", "Accept-Encoding: gzip\r\n", false),
            ("/206/5000", "Accept-Encoding: gzip\r\n", false),
            ("/200/5000?content-encoding=br", "Accept-Encoding: gzip\r\n", false),
            ("/200/5000?cache-control=no-transform", "Accept-Encoding: gzip\r\n", false),
            ("/200/5000?content-type=image/png", "Accept-Encoding: gzip\r\n", false),
            ("/200/5000?content-type=application/grpc-web", "Accept-Encoding: gzip\r\n", false),
        ] {
            let (head, body) = get(&rig, path, extra);
            let length: usize = path.split(['/', '?']).nth(2).unwrap().parse().unwrap();
            assert_eq!(body.len(), length, "{path} {extra}: {head}");
            assert!(!head.contains("content-encoding: gzip"), "{path}: {head}");
            assert_eq!(head.contains("vary: "), varies, "{path} {extra}: {head}");
        }
        // HEAD, and bodies without bytes.
        let mut client = rig.client();
        client.send("HEAD /200/5000 HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n");
        let head = client.head();
        assert!(head.contains("content-length: 5000") && !head.contains("content-encoding"), "{head}");
        let mut client = rig.client();
        client.send("GET /304/0 HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: gzip\r\nIf-None-Match: W/\"strong\"\r\nConnection: close\r\n\r\n");
        let head = client.head();
        assert!(head.contains("etag: W/\"strong\"") && !head.contains("content-encoding"), "{head}");
    });
}

/// Events leave when they come, not when a window is full.
#[test]
fn events_are_not_held_back() {
    on_both(|backend| {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let origin = Origin::new(move |client, _| {
            client.head();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            client.stream.write_all(head.as_bytes()).unwrap();
            for number in 0..3 {
                let event = format!("data: {number}\n\n");
                client.stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).unwrap();
                // The next one comes when the client has seen this one.
                let _ = wait.lock().unwrap().recv_timeout(Duration::from_secs(10));
            }
            client.stream.write_all(b"0\r\n\r\n").unwrap();
        });
        let rig = rig(backend, &origin, compressors(30));
        let mut client = rig.client();
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n");
        let head = client.head();
        assert!(head.contains("content-encoding: gzip"), "{head}");
        for _ in 0..3 {
            let size = client.until("\r\n");
            let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
            assert!(size > 0);
            client.until("\r\n");
            go.send(()).unwrap();
        }
        client.rest();
    });
}

#[test]
fn faults_on_purpose() {
    on_both(|backend| {
        let origin = origin();
        let fault = |delay, abort| Responses { fault: Some(Fault { delay, abort }), ..Responses::default() };
        let half = Abort { status: AbortStatus::Http(501), share: Share(500_000) };
        let rig = rig(backend, &origin, fault(None, Some(half)));
        let failed = (0..200).filter(|_| get(&rig, "/200/20", "").0.starts_with("HTTP/1.1 501")).count();
        assert!((50..150).contains(&failed), "{failed} of 200");
        let length = Duration::from_millis(300);
        let late = Delay { length, share: Share::ALL };
        rig.publish(vec![("", with(fault(Some(late), None)))], vec![vec![origin.address]]);
        let start = Instant::now();
        assert!(get(&rig, "/200/20", "").0.starts_with("HTTP/1.1 200"));
        assert!(start.elapsed() >= length);
        let call = Abort { status: AbortStatus::Grpc(14), share: Share::ALL };
        rig.publish(vec![("", with(fault(None, Some(call))))], vec![vec![origin.address]]);
        let (head, _) = get(&rig, "/200/20", "Content-Type: application/grpc\r\n");
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("grpc-status: 14"), "{head}");
        assert!(get(&rig, "/200/20", "").0.starts_with("HTTP/1.1 503"));
        let none = Abort { share: Share(0), ..half };
        rig.publish(vec![("", with(fault(None, Some(none))))], vec![vec![origin.address]]);
        assert!((0..50).all(|_| get(&rig, "/200/20", "").0.starts_with("HTTP/1.1 200")));
    });
}

#[test]
fn direct_answers() {
    on_both(|backend| {
        let origin = origin();
        let answer = page(Some(429), "text/html", "<p>%REQ(X-Who)% asked</p>");
        let direct = Rule { action: Action::Respond(Arc::new(answer)), ..rule(0) };
        let rig = Rig::new(backend, vec![("", direct)], vec![vec![origin.address]]);
        let (head, body) = get(&rig, "/x", "X-Who: <me>\r\n");
        assert!(head.starts_with("HTTP/1.1 429 ") && head.contains("content-type: text/html"), "{head}");
        assert_eq!(body, "<p>&lt;me&gt; asked</p>");
        let (head, _) = get(&rig, "/x", "Content-Type: application/grpc\r\n");
        assert!(head.contains("grpc-status: 14"), "{head}");
        assert_eq!(origin.connections(), 0);
    });
}

#[test]
fn header_edits_of_a_listener() {
    let origin = Origin::echo();
    let rig = Rig::plain(IoBackend::Epoll, origin.address);
    let pair = |name: &str, value: &str| (name.into(), value.into());
    let headers = ListenerHeaders {
        early: FieldEdits {
            edits: HeaderEdits { remove: vec!["x-debug".into()], ..HeaderEdits::default() },
            absent: vec![pair("x-tier", "public")],
            remove_named: Vec::new(),
        },
        late: FieldEdits {
            edits: HeaderEdits {
                set: vec![pair("strict-transport-security", "max-age=60"), pair("x-frame-options", "DENY")],
                ..HeaderEdits::default()
            },
            ..FieldEdits::default()
        },
    };
    rig.publish_edited(origin.address, |snapshot| {
        snapshot.listeners[0].client.headers = Some(Arc::new(headers));
    });
    let (head, body) = get(&rig, "/", "X-Debug: 1\r\n");
    assert!(body.contains("x-tier: public") && !body.contains("x-debug"), "{body}");
    // RFC 6797: not without TLS.
    assert!(head.contains("x-frame-options: DENY") && !head.contains("strict-transport"), "{head}");
    assert!(get(&rig, "/", "X-Tier: gold\r\n").1.contains("x-tier: gold"));
}
