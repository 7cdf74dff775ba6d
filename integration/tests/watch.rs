//! What an operator looks at while things happen, with the real programs: the log and its levels,
//! requests as they come, and how busy it is.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use edge_integration::client::Connection;
use edge_integration::edged::{Edged, LIMIT, edgectl, program, until};
use edge_integration::lab::{HTTP, Lab, block_on, isolated};
use edge_integration::manifests::{CLASS, LISTENERS, gateway, service};
use serde_json::Value;

/// An `edgectl` that goes on, and its lines as they come.
struct Following {
    child: Child,
    lines: Receiver<String>,
}

impl Following {
    fn new(socket: &std::path::Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(program("edgectl"));
        command.arg("--socket").arg(socket).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.env("NO_COLOR", "1").spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line that says something; those before it are passed over.
    fn until(&self, part: &str) -> String {
        let mut passed = Vec::new();
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => passed.push(line),
                Err(error) => panic!("{part:?} did not come ({error}), but {passed:#?}"),
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn shop(lab: &Lab, origin: std::net::SocketAddr) {
    lab.manifest("class.yaml", CLASS);
    lab.manifest("gateway.yaml", &gateway("web", LISTENERS));
    lab.manifest("service.yaml", &service("default", "shop", 80, &[origin]));
    lab.manifest("route.yaml", ROUTE);
}

const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: shop, namespace: default }
spec:
  parentRefs: [{ name: web }]
  hostnames: [shop.edge.test, '*.shops.edge.test']
  rules: [{ backendRefs: [{ name: shop, port: 80 }] }]
";

fn objects(edged: &Edged, arguments: &[&str]) -> Vec<Value> {
    let said = edged.ctl(arguments);
    assert_eq!(said.code, Some(0), "{said:?}");
    said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_log_and_its_levels() {
    isolated("log", || {
        let mut lab = Lab::new();
        let origin = lab.origin("shop");
        shop(&lab, origin.address);
        lab.start(&[HTTP]);
        let socket = lab.path("edged.sock");
        let edged = lab.edged();

        // What was logged since the start, without any journal.
        let text = edged.ctl(&["log"]).stdout;
        assert!(text.contains(" info  proxy        the proxy runs workers=2"), "{text}");
        assert!(objects(edged, &["log", "-o", "json", "-n", "1"]).len() == 1);
        assert!(objects(edged, &["log", "-o", "json", "--level", "error"]).is_empty());
        let of_proxy = objects(edged, &["log", "-o", "json", "--module", "proxy", "--text", "RUNS"]);
        assert_eq!((&of_proxy[0]["module"], &of_proxy[0]["fields"]["workers"]), (&"proxy".into(), &2.into()));
        assert!(edged.ctl(&["log", "-o", "yaml", "-n", "1"]).stdout.starts_with("---\nnumber: "));

        // Nothing of `debug` is there until it is asked for; then it is, also on standard error.
        let settled = ["log", "-o", "json", "--module", "supervisor", "--level", "debug", "--text", "settled"];
        assert!(objects(edged, &settled).is_empty());
        assert!(!edged.ctl(&["status"]).stdout.contains("log levels"));
        let said = edged.ctl(&["loglevel", "supervisor=debug,store=trace", "--for", "1h"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.stdout.contains("supervisor") && said.stdout.contains("m59s left)"), "{said:?}");
        let status = edged.ctl(&["status"]).stdout;
        assert!(status.contains("log levels by command: supervisor debug until "), "{status}");

        let following = Following::new(&socket, &["log", "-f", "-n", "0", "--module", "supervisor"]);
        until("somebody follows", || {
            edged.ctl(&["loglevel", "supervisor=debug", "--for", "1h"]);
            following.lines.recv_timeout(Duration::from_millis(300)).ok()
        });
        let edged = lab.edged();
        std::fs::write(lab_manifest(&socket), ROUTE.replace("shop.edge.test", "store.edge.test")).unwrap();
        assert!(following.until("settled").contains(" debug supervisor "));
        assert!(!objects(edged, &settled).is_empty());
        assert!(edged.log().contains("DEBUG"), "{}", edged.log());

        // SIGHUP: the configured level is another one, what was said by command stays above it.
        let config = std::fs::read_to_string(lab.config()).unwrap();
        lab.write_file("edge.toml", &config.replace("level = \"info\"", "level = \"warn\""));
        let edged = lab.edged();
        edged.reload();
        until("the configured level", || edged.ctl(&["loglevel"]).stdout.contains("[log] level is warn").then_some(()));
        let levels: Value = serde_json::from_str(&edged.ctl(&["loglevel", "-o", "json"]).stdout).unwrap();
        assert_eq!(levels["configured"], "warn");
        let changed: Vec<&Value> = levels["changed"].as_array().unwrap().iter().map(|one| &one["module"]).collect();
        assert!(changed.contains(&&"supervisor".into()) && changed.len() == 2, "{levels}");

        // It ends: taken back, or by itself.
        assert_eq!(edged.ctl(&["loglevel", "default"]).code, Some(0));
        assert!(!edged.ctl(&["status"]).stdout.contains("log levels"));
        assert_eq!(edged.ctl(&["loglevel", "debug", "--for", "2s"]).code, Some(0));
        assert!(edged.ctl(&["status"]).stdout.contains("log levels by command: all debug until "));
        until("its time is over", || (!edged.ctl(&["status"]).stdout.contains("log levels")).then_some(()));

        for (wrong, code, part) in [
            (&["loglevel", "bpg=debug"][..], 64, "module \"bpg\" is not known; there are all, proxy, tls,"),
            (&["loglevel", "bgp=loud"], 64, "there are error, warn, info, debug, trace, and default"),
            (&["loglevel", "bgp"], 64, "module bgp has no level"),
            (&["log", "--module", "bpg"], 64, "module \"bpg\" is not known"),
            (&["loglevel", "debug", "--for", "soon"], 64, "expected a duration"),
        ] {
            let said = edged.ctl(wrong);
            assert!(said.code == Some(code) && said.stderr.contains(part), "{wrong:?}: {said:?}");
        }
        // Without a daemon.
        assert_eq!(edgectl(&["--socket", "/nowhere.sock", "log"]).code, Some(3));
    });
}

fn lab_manifest(socket: &std::path::Path) -> std::path::PathBuf {
    socket.with_file_name("manifests").join("route.yaml")
}

fn ask(at: std::net::SocketAddr, host: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
    block_on(async {
        let mut connection = Connection::open(at, None).await.unwrap();
        let all = [&[("host", host)], headers].concat();
        connection.request("GET", path, &all, b"").await.unwrap().status
    })
}

#[test]
fn requests_as_they_come() {
    isolated("tap", || {
        let mut lab = Lab::new();
        let origin = lab.origin("shop");
        shop(&lab, origin.address);
        // Without an access log it is the same.
        let config = std::fs::read_to_string(lab.config()).unwrap();
        let with_log = config.clone();
        lab.write_file("edge.toml", &with_log.replace(&format!("{}/access.log", lab.dir().display()), "off"));
        lab.start(&[HTTP]);
        let (socket, at) = (lab.path("edged.sock"), lab.at(HTTP));
        until("the shop answers", || (ask(at, "shop.edge.test", "/", &[]) == 200).then_some(()));

        let tap = |arguments: &[&str]| Following::new(&socket, &[&["tap"], arguments].concat());
        let of_host = tap(&["shop.edge.test", "-o", "json", "-H", "X-Env", "-H", "authorization"]);
        let of_all = tap(&["*", "--count", "3"]);
        let failed = tap(&["*", "--status", "4xx", "--failed", "-o", "json"]);
        let of_post = tap(&["*.shops.edge.test", "-X", "post", "-o", "json"]);
        // A tap has begun when edged says so in its log, and then misses nothing.
        until("four look", || {
            let text = lab.edged().ctl(&["log", "--text", "requests are shown"]).stdout;
            (text.lines().count() == 4).then_some(())
        });
        // It is logged before every worker knows; what is asked until the first one is seen may be missed.
        until("the first one is seen", || {
            ask(at, "shop.edge.test", "/first", &[("x-env", "canary"), ("authorization", "Basic aHVudGVyMg==")]);
            of_host.lines.recv_timeout(Duration::from_millis(500)).ok()
        });
        assert_eq!(ask(at, "nobody.edge.test", "/", &[]), 404);
        ask(at, "shop.edge.test", "/cart?q=secret", &[("x-env", "canary"), ("authorization", "Basic aHVudGVyMg==")]);
        let line: Value = serde_json::from_str(&of_host.until("/cart")).unwrap();
        assert_eq!(
            (&line["path"], &line["status"], &line["route"]),
            (&"/cart".into(), &200.into(), &"HTTPRoute default/shop".into())
        );
        assert_eq!(line["headers"], serde_json::json!([["x-env", "canary"], ["authorization", "[redacted]"]]));
        assert_eq!(line["endpoint"], origin.address.to_string());
        let of = |key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{key}: {line}"));
        let parts = of("before_ms") + of("upstream_ms") + of("after_ms");
        assert!((parts - of("duration_ms")).abs() < 0.01, "{line}");
        let line: Value = serde_json::from_str(&failed.until("404")).unwrap();
        assert_eq!((&line["host"], &line["reason"]), (&"nobody.edge.test".into(), &"no_route".into()));
        assert!(of_all.until("GET ").contains("shop.edge.test/"), "people see it in one line");
        let mut of_all = of_all;
        until("a count ends it", || {
            ask(at, "shop.edge.test", "/", &[]);
            of_all.child.try_wait().unwrap()
        });
        block_on(async {
            let mut connection = Connection::open(at, None).await.unwrap();
            for method in ["GET", "POST"] {
                connection.request(method, "/x", &[("host", "a.shops.edge.test")], b"").await.unwrap();
            }
        });
        let line: Value = serde_json::from_str(&of_post.until("{")).unwrap();
        assert_eq!((&line["method"], &line["host"]), (&"POST".into(), &"a.shops.edge.test".into()));

        // A reader that stands still loses requests and is told how many; the others do not notice.
        let slow = tap(&["*", "-o", "json", "-n", "100000"]);
        until("it looks", || {
            ask(at, "shop.edge.test", "/", &[]);
            slow.lines.recv_timeout(Duration::from_millis(500)).ok()
        });
        rustix::process::kill_process(pid(&slow.child), rustix::process::Signal::STOP).unwrap();
        let long = format!("/{}", "x".repeat(6000));
        block_on(async {
            let mut connection = Connection::open(at, None).await.unwrap();
            for _ in 0..2000 {
                connection.request("GET", &long, &[("host", "shop.edge.test")], b"").await.unwrap();
            }
        });
        rustix::process::kill_process(pid(&slow.child), rustix::process::Signal::CONT).unwrap();
        let missed: Value = serde_json::from_str(&slow.until("missed")).unwrap();
        assert!(missed["missed"].as_u64().unwrap() > 0);

        for (wrong, code, part) in [
            (&["tap", "a b"][..], 64, "is no host"),
            (&["tap", "*", "--status", "6xx"], 64, "expected such as 404 or 5xx"),
            (&["tap", "*", "--path", "cart"], 1, "does not begin with /"),
            (&["tap", "*", "--route", "cart"], 1, "expected NAMESPACE/NAME"),
        ] {
            let said = lab.edged().ctl(wrong);
            assert!(said.code == Some(code) && said.stderr.contains(part), "{wrong:?}: {said:?}");
        }
        // There are only so many at a time, and each that goes leaves its place.
        let mut many: Vec<Following> = (0..16).map(|_| tap(&["*"])).collect();
        until("no more places", || {
            let said = lab.edged().ctl(&["log", "-n", "1", "-f"]);
            said.stderr.contains("16 readers follow").then_some(())
        });
        many.clear();
        until("places again", || (lab.edged().ctl(&["log", "-n", "1"]).code == Some(0)).then_some(()));
    });
}

fn pid(child: &Child) -> rustix::process::Pid {
    rustix::process::Pid::from_child(child)
}

#[test]
fn how_busy_it_is() {
    isolated("top", || {
        let mut lab = Lab::new();
        let origin = lab.origin("shop");
        shop(&lab, origin.address);
        lab.start(&[HTTP]);
        let (socket, at) = (lab.path("edged.sock"), lab.at(HTTP));
        until("the shop answers", || (ask(at, "shop.edge.test", "/", &[]) == 200).then_some(()));

        let top = Following::new(&socket, &["top", "-o", "json", "--interval", "200ms"]);
        let frame = until("a frame with the requests in it", || {
            ask(at, "shop.edge.test", "/status/500", &[]);
            ask(at, "nobody.edge.test", "/", &[]);
            let frame: Value = serde_json::from_str(&top.lines.recv_timeout(LIMIT).unwrap()).unwrap();
            let hosts = frame["hosts"].as_array().unwrap();
            (hosts.len() == 2 && frame["all"]["refused"].as_f64() > Some(0.0)).then_some(frame)
        });
        assert!(frame["all"]["requests"].as_f64() > Some(0.0), "{frame:#}");
        let named = |rows: &str| frame[rows][0]["name"].as_str().unwrap_or_default().to_owned();
        assert_eq!(named("routes"), "HTTPRoute default/shop");
        assert_eq!(named("backends"), "Service default/shop:80");
        assert_eq!(named("endpoints"), origin.address.to_string());
        assert_eq!(frame["backends"][0]["ready"], serde_json::json!([1, 1]));
        assert!(frame["routes"][0]["p99"].as_f64() > Some(0.0), "{frame:#}");
        assert_eq!(frame["vips"][0]["address"], at.ip().to_string());
        drop(top);

        // As text, with what was asked for.
        let said = lab.edged().ctl(&["top", "-n", "2", "--interval", "100ms", "--by", "vip"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert_eq!(said.stdout.matches("\nVIPS\n").count(), 2, "{said:?}");
        assert!(!said.stdout.contains('\u{1b}'), "{said:?}");
        assert_eq!(lab.edged().ctl(&["top", "--interval", "10ms"]).code, Some(1));

        // On a terminal, by script(1), with keys.
        let line = format!("{} --socket {} top --interval 200ms", program("edgectl").display(), socket.display());
        let mut command = Command::new("script");
        command.args(["-q", "-e", "-c", &line, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut keys, mut out) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let into = std::sync::Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = std::io::Read::read(&mut out, &mut bytes) {
                into.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        let shows = |part: &str| String::from_utf8_lossy(&seen.lock().unwrap()).contains(part);
        until("the screen is drawn", || shows("for help").then_some(()));
        std::io::Write::write_all(&mut keys, b"?").unwrap();
        until("help is shown", || shows("PageDown").then_some(()));
        std::io::Write::write_all(&mut keys, b"x7").unwrap();
        until("VIPs are shown", || shows("ANNOUNCED").then_some(()));
        std::io::Write::write_all(&mut keys, b"q").unwrap();
        let status = until("it ends", || child.try_wait().unwrap());
        assert!(status.success(), "{status}");
        assert!(shows("\u{1b}[?1049l"), "the terminal is given back");
    });
}

/// Ends an edged that is no child of the test.
struct Successor(rustix::process::Pid);

impl Drop for Successor {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, rustix::process::Signal::KILL);
    }
}

#[test]
fn an_upgrade_ends_what_goes_on_and_the_levels() {
    isolated("handed", || {
        let mut lab = Lab::new();
        let origin = lab.origin("shop");
        shop(&lab, origin.address);
        lab.start(&[HTTP]);
        let (socket, at) = (lab.path("edged.sock"), lab.at(HTTP));
        until("the shop answers", || (ask(at, "shop.edge.test", "/", &[]) == 200).then_some(()));
        let edged = lab.edged();
        assert_eq!(edged.ctl(&["loglevel", "tls=debug"]).code, Some(0));
        let mut following = Following::new(&socket, &["log", "-f"]);
        following.until("generation 1");
        let said = edged.ctl(&["upgrade", "--force", "-o", "json"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        let process = said.json()["handed_over"]["process"].as_i64().unwrap();
        let successor = Successor(rustix::process::Pid::from_raw(i32::try_from(process).unwrap()).unwrap());
        let status = until("who followed the old one is told", || following.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(3), "{status}");

        // The new one is asked by the same socket, and begins with what is configured.
        let levels: Value = until("the new one answers", || {
            let said = edged.ctl(&["loglevel", "-o", "json"]);
            (said.code == Some(0)).then(|| said.json())
        });
        assert_eq!(levels["changed"], serde_json::json!([]), "{levels}");
        assert!(!edged.ctl(&["log", "--text", "took over"]).stdout.is_empty());
        let tap = Following::new(&socket, &["tap", "*", "-o", "json"]);
        until("a request is seen", || {
            ask(at, "shop.edge.test", "/after", &[]);
            tap.lines.recv_timeout(Duration::from_millis(500)).ok()
        });
        // The process in a bundle is the one that answers.
        let file = lab.path("b.tar.gz").display().to_string();
        let said = lab.edged().ctl(&["support-bundle", &file]);
        assert!(matches!(said.code, Some(0 | 1)), "{said:?}");
        let status =
            Command::new("tar").args(["-xzOf", &file, "--wildcards", "*/process/status.txt"]).output().unwrap();
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(status.contains(&format!("\nPid:\t{process}\n")), "{status}");
        drop(successor);
    });
}
