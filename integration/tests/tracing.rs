//! Traces with real processes: a real OTLP receiver gets the spans of two hops as one trace, and whatever becomes of the
//! receiver, clients notice nothing and the status says what it is.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use edge_integration::client::{Connection, Reply};
use edge_integration::edged::{until, workspace};
use edge_integration::lab::{HTTP, Lab, block_on};
use edge_integration::manifests::{CLASS, LISTENERS, gateway, http_route, service, to};
use serde_json::Value;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// The official receiver, and the file that it writes into.
struct Collector {
    child: Child,
    http: SocketAddr,
    grpc: SocketAddr,
    output: PathBuf,
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free(lab: &Lab) -> SocketAddr {
    TcpListener::bind((lab.vip, 0)).unwrap().local_addr().unwrap()
}

impl Collector {
    fn start(lab: &Lab) -> Self {
        let built = Command::new(workspace().join("integration/run/collector")).output().unwrap();
        assert!(built.status.success(), "no collector: {}", String::from_utf8_lossy(&built.stderr));
        let program = String::from_utf8(built.stdout).unwrap().trim().to_owned();
        let (http, grpc, output) = (free(lab), free(lab), lab.path("spans.json"));
        let child = Command::new(program)
            .args(["-http", &http.to_string(), "-grpc", &grpc.to_string()])
            .arg("-output")
            .arg(&output)
            .spawn()
            .unwrap();
        until("the collector listens", || {
            (std::net::TcpStream::connect(http).is_ok() && std::net::TcpStream::connect(grpc).is_ok()).then_some(())
        });
        Self { child, http, grpc, output }
    }

    fn batches(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.output).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn spans(&self) -> Vec<Value> {
        let mut spans = Vec::new();
        for batch in self.batches() {
            for resource in batch["resourceSpans"].as_array().into_iter().flatten() {
                for scope in resource["scopeSpans"].as_array().into_iter().flatten() {
                    spans.extend(scope["spans"].as_array().into_iter().flatten().cloned());
                }
            }
        }
        spans
    }
}

/// An attribute as text.
fn told(of: &Value, key: &str) -> String {
    let pairs = of["attributes"].as_array().cloned().unwrap_or_default();
    let value = pairs.iter().find(|pair| pair["key"] == key).map(|pair| pair["value"].clone()).unwrap_or_default();
    let text = value["stringValue"].as_str().or_else(|| value["intValue"].as_str());
    text.unwrap_or_default().to_owned()
}

/// `front` is a hop to the same Edge again, as `back`, and from there to the origin.
fn lab(settings: &str) -> Lab {
    let mut lab = Lab::new();
    let origin = lab.origin("shop");
    let again = service("default", "again", 80, &[lab.at(HTTP)]);
    let back = service("default", "shop", 80, &[origin.address]);
    let hop = "    - matches: [{path: {type: PathPrefix, value: /shop}}]
      filters: [{type: URLRewrite, urlRewrite: {hostname: back.edge.test}}]
      backendRefs: [{name: again, port: 80}]
";
    let routes =
        [http_route("front", &["front.edge.test"], hop), http_route("back", &["back.edge.test"], &to("shop", 80))];
    lab.manifest("all.yaml", &[CLASS, &gateway("web", LISTENERS), &again, &back, &routes[0], &routes[1]].concat());
    lab.write_config(settings);
    lab.start(&[HTTP]);
    until("the shop answers", || (ask(&lab, "back.edge.test", "/", &[]).status == 200).then_some(()));
    lab
}

fn ask(lab: &Lab, host: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    block_on(async {
        let mut connection = Connection::open(lab.at(HTTP), None).await.unwrap();
        let all = [&[("host", host)], headers].concat();
        connection.request("GET", path, &all, b"").await.unwrap()
    })
}

fn arrived(reply: &Reply, name: &str) -> String {
    reply.json()["headers"][name][0].as_str().unwrap_or_default().to_owned()
}

fn to_collector(endpoint: &str, more: &str) -> String {
    format!("[tracing]\nendpoint = \"{endpoint}\"\n{more}\n")
}

#[test]
fn two_hops_are_one_trace() {
    let mut lab = lab("");
    let collector = Collector::start(&lab);
    let (http, grpc) = (format!("http://{}", collector.http), format!("http://{}", collector.grpc));
    for (protocol, endpoint) in [("http/protobuf", &http), ("grpc", &grpc)] {
        let more = format!("protocol = \"{protocol}\"\nservice_name = \"edge-{}\"", &protocol[..4]);
        lab.write_config(&to_collector(endpoint, &more));
        lab.edged().apply();
        let parent = PARENT.replace("b7ad6b71", if protocol == "grpc" { "11111111" } else { "22222222" });
        let caller = &parent[36..52];
        let reply = ask(
            &lab,
            "front.edge.test",
            "/shop/cart?token=secret",
            &[("traceparent", &parent), ("tracestate", "a=1"), ("tracestate", "b=2")],
        );
        assert_eq!(reply.status, 200);
        assert_eq!(arrived(&reply, "tracestate"), "a=1,b=2");
        let last = arrived(&reply, "traceparent");
        assert_eq!((&last[..35], &last[52..]), (&parent[..35], "-01"));

        // From the caller to the origin, each the parent of the next.
        let mut chain = Vec::new();
        until("all spans are there", || {
            let spans = collector.spans();
            chain.clear();
            let mut of = caller.to_owned();
            while let Some(span) = spans.iter().find(|span| span["parentSpanId"] == of.as_str()) {
                of = span["spanId"].as_str().unwrap().to_owned();
                chain.push(span.clone());
            }
            (chain.len() == 4).then_some(())
        });
        let [front, to_back, back, to_shop] = &chain[..] else { panic!("{chain:?}") };
        for span in &chain {
            assert_eq!(
                (span["traceId"].as_str(), span["traceState"].as_str()),
                (Some(&parent[3..35]), Some("a=1,b=2"))
            );
        }
        assert_eq!(to_shop["spanId"], last[36..52]);
        assert_eq!((front["kind"].as_u64(), to_back["kind"].as_u64()), (Some(2), Some(3)));
        assert_eq!((front["name"].as_str(), back["name"].as_str()), (Some("GET /shop"), Some("GET /")));
        assert_eq!(told(front, "server.address"), "front.edge.test");
        assert_eq!(told(back, "server.address"), "back.edge.test");
        assert_eq!(told(front, "url.path"), "/shop/cart");
        assert_eq!(told(front, "edge.route"), "HTTPRoute default/front");
        assert_eq!(told(front, "http.response.status_code"), "200");
        assert_eq!(told(to_back, "network.peer.address"), lab.vip.to_string());
        assert!(told(to_shop, "url.full").ends_with("/shop/cart"), "{to_shop}");
        let logged = until("both hops are in the log", || {
            let lines = lab.access_log();
            let of = lines.iter().filter(|line| line["path"] == "/shop/cart").cloned().collect::<Vec<_>>();
            (of.len() % 2 == 0 && !of.is_empty()).then_some(of)
        });
        assert!(logged.iter().all(|line| line["trace_id"] == parent[3..35]), "{logged:?}");
    }
    let said = format!("{:?}", collector.batches());
    assert!(said.contains("edge-http") && said.contains("edge-grpc") && !said.contains("secret"), "{said}");
    // An answer of Edge's own is a trace that begins here.
    let reply = ask(&lab, "nobody.edge.test", "/", &[]);
    assert_eq!(reply.status, 404);
    let refused = until("the refusal is there", || {
        collector.spans().into_iter().find(|span| told(span, "edge.reason") == "no_route")
    });
    assert_eq!(refused["parentSpanId"].as_str().unwrap_or_default(), "");
    // What is left at the end arrives.
    assert_eq!(ask(&lab, "back.edge.test", "/last", &[]).status, 200);
    lab.edged().terminate();
    until("the last one is there", || collector.spans().iter().find(|span| told(span, "url.path") == "/last").cloned());
}

#[test]
fn what_is_sampled() {
    let mut lab = lab("");
    // Without tracing nobody looks.
    let given = [("traceparent", "any\u{a0}thing"), ("tracestate", "=")];
    assert_eq!(arrived(&ask(&lab, "back.edge.test", "/", &given), "tracestate"), "=");
    let collector = Collector::start(&lab);
    let endpoint = format!("http://{}", collector.http);
    let unsampled = PARENT.replace("-01", "-00");
    for (settings, parent, flags, is_same) in [
        ("sample_ratio = 0", None, "02", false),
        ("sample_ratio = 1", None, "03", false),
        ("sample_ratio = 0", Some(PARENT), "01", true),
        ("sample_ratio = 1", Some(&*unsampled), "00", true),
        ("sample_ratio = 0\nparent = \"ratio\"", Some(PARENT), "00", true),
        ("sample_ratio = 1\nparent = \"ignore\"", Some(&*unsampled), "03", false),
    ] {
        lab.write_config(&to_collector(&endpoint, settings));
        lab.edged().apply();
        let headers: Vec<(&str, &str)> = parent.iter().map(|parent| ("traceparent", *parent)).collect();
        let came = arrived(&ask(&lab, "back.edge.test", "/", &headers), "traceparent");
        assert_eq!(&came[53..], flags, "{settings}: {came}");
        assert_eq!(came[3..35] == PARENT[3..35], is_same, "{settings}: {came}");
        if flags.ends_with(['1', '3']) {
            until("its spans are there", || {
                let spans = collector.spans();
                let of = spans.iter().filter(|span| span["traceId"] == came[3..35] && span["spanId"] == came[36..52]);
                (of.count() == 1).then_some(())
            });
        }
    }
    // Of what was not sampled nothing came, also not late.
    assert!(collector.spans().iter().all(|span| span["flags"].as_u64().unwrap_or_default() & 1 == 1));
}

/// An edged that nobody in the tests has started.
struct Other(i32);

impl Drop for Other {
    fn drop(&mut self) {
        if let Some(process) = rustix::process::Pid::from_raw(self.0) {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        }
    }
}

#[test]
fn an_upgrade_loses_no_span() {
    let mut lab = lab("");
    let collector = Collector::start(&lab);
    lab.write_config(&to_collector(&format!("http://{}", collector.http), ""));
    lab.edged().apply();
    let address = lab.at(HTTP);
    let edged = lab.edged();
    let _successor = block_on(async {
        let mut old = Connection::open(address, None).await.unwrap();
        assert_eq!(old.get("back.edge.test", "/before").await.unwrap().status, 200);
        let said = edged.ctl(&["upgrade", "--force"]).text();
        let process = said.split("(process ").nth(1).and_then(|rest| rest.split(')').next()).map(str::parse);
        let Some(Ok(process)) = process else { panic!("{said}") };
        let successor = Other(process);
        let mut new = Connection::open(address, None).await.unwrap();
        assert_eq!(new.get("back.edge.test", "/of-the-new").await.unwrap().status, 200);
        // The last that the old one does, and its end.
        assert_eq!(old.get("back.edge.test", "/of-the-old").await.unwrap().status, 200);
        successor
    });
    assert!(lab.edged().wait_end().is_some_and(|status| status.success()));
    for path in ["/before", "/of-the-new", "/of-the-old"] {
        until(path, || {
            let spans = collector.spans();
            let span = spans.iter().find(|span| told(span, "url.path") == path)?;
            let of_try = |other: &&Value| other["parentSpanId"] == span["spanId"];
            spans.iter().any(|other| of_try(&other)).then_some(())
        });
    }
}

/// A receiver that does this with every connection.
fn fake(lab: &Lab, behaviour: fn(&mut std::net::TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind((lab.vip, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.set_read_timeout(Some(Duration::from_millis(300)));
            let mut request = [0; 64 << 10];
            while stream.read(&mut request).is_ok_and(|read| read > 0) {}
            behaviour(&mut stream);
        }
    });
    address
}

#[test]
fn whatever_becomes_of_the_collector() {
    let mut lab = lab("");
    let refused = fake(&lab, |stream| {
        let _ = stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 8\r\n\r\nno token");
    });
    let page = fake(&lab, |stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>");
    });
    let garbage = fake(&lab, |stream| {
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_10.0\r\n\r\n");
    });
    let silent = fake(&lab, |stream| {
        // Until the other end has had enough.
        let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
        let _ = stream.read(&mut [0; 64]);
    });
    let nobody = free(&lab);
    for (address, protocol, expected) in [
        (nobody, "http/protobuf", "cannot reach"),
        (nobody, "grpc", "takes no spans"),
        (refused, "http/protobuf", "it answers 401: no token"),
        (page, "http/protobuf", "which is no OTLP"),
        (garbage, "http/protobuf", "takes no spans"),
        (garbage, "grpc", "takes no spans"),
        (silent, "http/protobuf", "no answer from"),
    ] {
        let more = format!("protocol = \"{protocol}\"\ntimeout = \"1s\"\nqueue = \"64KiB\"");
        lab.write_config(&to_collector(&format!("http://{address}"), &more));
        lab.edged().apply();
        let what = format!("{protocol} {expected}");
        until(&what, || {
            assert_eq!(ask(&lab, "front.edge.test", "/shop", &[]).status, 200, "{what}");
            let said = lab.edged().ctl(&["status"]).text();
            said.contains(&format!("http://{address}")).then_some(said).filter(|said| said.contains(expected))
        });
    }
    let socket = lab.path("edged.sock");
    let page = edge_integration::edged::run(
        std::path::Path::new("curl"),
        &["-sS", "--unix-socket", socket.to_str().unwrap(), "http://edge/metrics"],
    );
    let line = page.stdout.lines().find(|line| line.starts_with("edge_trace_spans_total{outcome=\"failed\"}")).unwrap();
    assert!(!line.ends_with(" 0"), "{line}");

    // A collector that comes back is found, and nothing is wrong any more.
    let collector = Collector::start(&lab);
    lab.write_config(&to_collector(&format!("http://{}", collector.http), ""));
    lab.edged().apply();
    assert_eq!(ask(&lab, "back.edge.test", "/", &[]).status, 200);
    until("it gets spans", || (!collector.spans().is_empty()).then_some(()));
    until("nothing is wrong", || (!lab.edged().ctl(&["status"]).text().contains("takes no spans")).then_some(()));
}
