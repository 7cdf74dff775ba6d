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
/// Of all connections together.
const STREAMS: u64 = 320;
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
        // h2load waits for ever for a response that does not come.
        let said =
            run(Path::new("timeout"), &[&["20", "h2load"], &words[..], &[exact.as_str(), url.as_str()]].concat())
                .stdout;
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
        let limit = (window.time + window.warm).as_secs() + 20;
        let child = Command::new("timeout")
            .arg(limit.to_string())
            .args(["stdbuf", "-oL", "h2load"])
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
        let ended = child.wait().is_ok_and(|status| status.success());
        let counts = Counts::parse(&said);
        let (Some(before), Some(after)) = (before, after) else {
            cell.fail("h2load did not run to its end", 1);
            return cell;
        };
        if !ended {
            cell.fail("h2load did not end by itself", 1);
        }
        let bad = counts.failed + counts.other;
        if bad > 0 {
            cell.fail("h2load: failed, or another status than 2xx", bad);
        }
        // What straddles the begin of the window has its statuses and a part of its bytes outside.
        if counts.data + STREAMS * size < counts.succeeded * size {
            cell.fail("h2load: short bodies", 1);
        }
        let mut latency = Histogram::default();
        for line in std::fs::read_to_string(&log).unwrap_or_default().lines() {
            if let Some(micros) = line.split('\t').nth(2).and_then(|word| word.parse().ok()) {
                latency.record(Duration::from_micros(micros));
            }
        }
        cell.spent(spent(&before, &after), counts.succeeded as f64, &latency);
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
    /// Status 2xx, and any other.
    ok: u64,
    other: u64,
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
        let statuses = line("status codes:");
        let data = line("traffic:").rsplit_once('(').and_then(|(_, rest)| rest.split(')').next()?.parse().ok());
        Self {
            succeeded: before(requests, "succeeded"),
            failed: before(requests, "failed") + before(requests, "errored") + before(requests, "timeout"),
            ok: before(statuses, "2xx"),
            other: ["3xx", "4xx", "5xx"].iter().map(|class| before(statuses, class)).sum(),
            data: data.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_h2load_are_read() {
        let said = "finished in 1.00s, 3200.00 req/s, 3.20MB/s
requests: 3210 total, 3210 started, 3205 done, 3200 succeeded, 2 failed, 1 errored, 4 timeout
status codes: 3199 2xx, 0 3xx, 1 4xx, 2 5xx
traffic: 3.45MB (3617920) total, 107.55KB (110130) headers (space savings 54.53%), 3.13MB (3276800) data
";
        let expected = Counts { succeeded: 3200, failed: 7, ok: 3199, other: 3, data: 3_276_800 };
        assert_eq!(Counts::parse(said), expected);
        assert_eq!(Counts::parse(""), Counts::default());
    }
}
