//! HTTP/2 by `h2load`, with `nghttpd` as the h2c origin, both of Debian's nghttp2 packages.
//!
//! Flows in: a door of a proxy. Flows out: a [`Cell`]. Every cell begins with a run whose statuses and bytes are counted
//! to the last one; of the timed run statuses are checked and bytes are at least those of the good responses.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use edge_integration::edged::run;
use edge_integration::engine::{HOST, Histogram, spent};
use tempfile::TempDir;

use crate::cells::{Cell, Window};
use crate::peers::{Door, Running};

/// Bytes of the reply to a gRPC-like call.
const REPLY: u64 = 128;
const REQUEST: usize = 100;
/// Exchanges of the exact check.
const CHECKED: u64 = 3200;

/// The h2c origin and the files that the two programs want.
pub struct H2Site {
    nghttpd: Child,
    dir: TempDir,
    pub port: u16,
}

impl H2Site {
    pub fn start() -> Result<Self, String> {
        let said = |error: std::io::Error| format!("nghttpd: {error}");
        let dir = tempfile::Builder::new().prefix("edge-bench-h2-").tempdir().map_err(said)?;
        let service = dir.path().join("root/bench.Echo");
        std::fs::create_dir_all(&service).map_err(said)?;
        std::fs::write(service.join("Call"), vec![b'x'; REPLY as usize]).map_err(said)?;
        std::fs::write(dir.path().join("request"), vec![b'y'; REQUEST]).map_err(said)?;
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).map_err(said)?;
        let port = port.port();
        let nghttpd = Command::new("nghttpd")
            .args(["--no-tls", "--address=127.0.0.1", "--trailer=grpc-status: 0", "-d"])
            .arg(dir.path().join("root"))
            .arg(port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(said)?;
        Ok(Self { nghttpd, dir, port })
    }

    /// Ten connections with 32 streams each.
    pub fn measure(&self, running: &Running, grpc: bool, window: Window) -> Cell {
        let (door, path, size) =
            if grpc { (Door::Grpc, "/bench.Echo/Call", REPLY) } else { (Door::Https, "/b/1024", 1024) };
        let to = format!("--connect-to={}", running.door(door));
        let url = format!("https://{HOST}{path}");
        let body = self.dir.path().join("request");
        let body = format!("--data={}", body.display());
        let mut words = vec!["-c10", "-m32", "-t1", to.as_str()];
        if grpc {
            words.extend([&*body, "-H", "content-type: application/grpc", "-H", "te: trailers"]);
        }
        let mut cell = Cell::default();
        let exact = format!("-n{CHECKED}");
        let said = run(Path::new("h2load"), &[&words[..], &[exact.as_str(), url.as_str()]].concat()).stdout;
        let counts = Counts::parse(&said);
        if counts.succeeded != CHECKED || counts.ok != CHECKED || counts.data != CHECKED * size {
            let line = said.lines().filter(|line| line.contains("codes") || line.contains("requests:"));
            cell.fail(&format!("h2load, exact check: {}", line.collect::<Vec<_>>().join("; ")), 1);
            return cell;
        }
        let log = self.dir.path().join("log");
        let _ = std::fs::remove_file(&log);
        let times = [
            format!("--duration={}ms", window.time.as_millis()),
            format!("--warm-up-time={}ms", window.warm.as_millis()),
            format!("--log-file={}", log.display()),
        ];
        let child = Command::new("stdbuf")
            .args(["-oL", "h2load"])
            .args(&words)
            .args(&times)
            .arg(&url)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) => {
                cell.fail(&format!("h2load: {error}"), 1);
                return cell;
            }
        };
        let (mut before, mut after, mut said) = (None, None, String::new());
        for line in child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines()).map_while(Result::ok) {
            if line.contains("Main benchmark duration is started") {
                before = Some(running.clock().now());
            } else if line.contains("Main benchmark duration is over") {
                after = Some(running.clock().now());
            }
            said += &line;
            said.push('\n');
        }
        let _ = child.wait();
        let counts = Counts::parse(&said);
        let (Some(before), Some(after)) = (before, after) else {
            cell.fail("h2load did not run", 1);
            return cell;
        };
        let bad = counts.failed + counts.succeeded.saturating_sub(counts.ok);
        if bad > 0 || counts.data < counts.ok * size {
            cell.fail("h2load: failed or short", bad.max(1));
        }
        let mut latency = Histogram::default();
        for line in std::fs::read_to_string(&log).unwrap_or_default().lines() {
            if let Some(micros) = line.split('\t').nth(2).and_then(|word| word.parse().ok()) {
                latency.record(Duration::from_micros(micros));
            }
        }
        cell.spent(spent(&before, &after), counts.ok as f64, &latency);
        cell
    }
}

impl Drop for H2Site {
    fn drop(&mut self) {
        let _ = self.nghttpd.kill();
        let _ = self.nghttpd.wait();
    }
}

/// What h2load says at its end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    succeeded: u64,
    failed: u64,
    /// Status 2xx.
    ok: u64,
    data: u64,
}

impl Counts {
    fn parse(said: &str) -> Self {
        let line = |start: &str| said.lines().find(|line| line.starts_with(start)).unwrap_or_default();
        let before = |line: &str, word: &str| {
            let part = line.split([',', ':']).find(|part| part.trim_end().ends_with(word));
            part.and_then(|part| part.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default()
        };
        let requests = line("requests:");
        let data = line("traffic:").rsplit_once('(').and_then(|(_, rest)| rest.split(')').next()?.parse().ok());
        Self {
            succeeded: before(requests, "succeeded"),
            failed: before(requests, "failed") + before(requests, "errored") + before(requests, "timeout"),
            ok: before(line("status codes:"), "2xx"),
            data: data.unwrap_or_default(),
        }
    }
}
