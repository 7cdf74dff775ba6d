//! `edgectl tap`: one line per request.

use serde::Deserialize;

use super::plural;
use crate::ctl::style::Style;
use crate::ctl::table::one_line;

/// A line of the answer, as far as people are shown it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Seen {
    Missed {
        missed: u64,
    },
    /// It fits everything.
    Request(Box<Request>),
}

/// As the access log has it; what is absent is empty or 0.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Request {
    ts: String,
    client: String,
    listener: String,
    route: String,
    rule: Option<u32>,
    backend: String,
    endpoint: String,
    method: String,
    host: String,
    path: String,
    protocol: String,
    status: u16,
    bytes_in: u64,
    bytes_out: u64,
    duration_ms: f64,
    before_ms: Option<f64>,
    upstream_ms: Option<f64>,
    after_ms: Option<f64>,
    tries: u32,
    tls_version: String,
    sni: String,
    reason: String,
    headers: Vec<(String, String)>,
}

/// When, outcome, how long, what; then how it went through Edge.
pub fn line(seen: &Seen, style: Style) -> String {
    let request = match seen {
        Seen::Request(request) => request,
        Seen::Missed { missed } => {
            let count = plural(usize::try_from(*missed).unwrap_or(usize::MAX), "request", "requests");
            return format!("{}\n", style.warn(&format!("… {count} not shown: this reader is too slow")));
        }
    };
    // The day is today.
    let time = request.ts.split_once('T').map_or(&*request.ts, |(_, time)| time).trim_end_matches('Z');
    let status = match request.status {
        0 => "  -".to_owned(),
        status => format!("{status:>3}"),
    };
    let status = match request.status {
        500.. => style.bad(&status),
        400..500 => style.warn(&status),
        0 if !request.reason.is_empty() => style.bad(&status),
        _ => style.good(&status),
    };
    let what = match &*request.method {
        "" => format!("{} {}", request.protocol, if request.sni.is_empty() { "-" } else { &request.sni }),
        method => format!("{method} {}{}", request.host, request.path),
    };
    let mut out = format!("{} {status} {:>8} {}", style.faint(time), millis(request.duration_ms), one_line(&what));
    let mut more = Vec::new();
    if !request.method.is_empty() {
        more.push(request.protocol.clone());
    }
    more.extend([request.tls_version.clone()].into_iter().filter(|version| !version.is_empty()));
    more.push(format!("from {}", request.client));
    match (&*request.route, request.rule) {
        ("", _) => {
            more.push(if request.listener.is_empty() { String::new() } else { format!("at {}", request.listener) })
        }
        (route, Some(rule)) => more.push(format!("by {route} rule {rule}")),
        (route, None) => more.push(format!("by {route}")),
    }
    if !request.endpoint.is_empty() {
        let tries = if request.tries > 1 { format!(" after {} tries", request.tries) } else { String::new() };
        more.push(format!("to {} of {}{tries}", request.endpoint, request.backend));
    }
    if let (Some(before), Some(upstream), Some(after)) = (request.before_ms, request.upstream_ms, request.after_ms) {
        more.push(format!("{} + {} + {}", millis(before), millis(upstream), millis(after)));
    }
    more.push(format!("{} in, {} out", bytes(request.bytes_in), bytes(request.bytes_out)));
    more.retain(|part| !part.is_empty());
    out.push_str(&format!("  {}", style.faint(&one_line(&more.join(", ")))));
    if !request.reason.is_empty() {
        out.push_str(&format!("  {}", style.bad(&one_line(&request.reason))));
    }
    out.push('\n');
    for (name, value) in &request.headers {
        out.push_str(&format!("      {} {}\n", style.faint(&format!("{}:", one_line(name))), one_line(value)));
    }
    out
}

/// Three digits and a unit.
pub fn millis(millis: f64) -> String {
    match millis {
        ms if ms < 1.0 => format!("{:.0}us", ms * 1000.0),
        ms if ms < 10.0 => format!("{ms:.1}ms"),
        ms if ms < 10_000.0 => format!("{ms:.0}ms"),
        ms => format!("{:.0}s", ms / 1000.0),
    }
}

pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut amount = count as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1000.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if amount < 10.0 { format!("{amount:.1} {}", UNITS[unit]) } else { format!("{amount:.0} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(json: &str) -> String {
        line(&serde_json::from_str(json).unwrap(), Style::default())
    }

    #[test]
    fn requests_for_people() {
        let text = shown(
            r#"{"ts":"2026-11-23T23:20:16.005Z","client":"192.0.2.1:5000","vip":"198.51.100.1:443",
            "listener":"Gateway a/b/https","route":"HTTPRoute a/c","rule":0,"backend":"Service a/d:80",
            "endpoint":"10.0.0.1:80","method":"GET","host":"a.example","path":"/x\u001b[2J","protocol":"HTTP/2","status":503,
            "bytes_in":0,"bytes_out":2048,"duration_ms":12.345,"before_ms":0.25,"upstream_ms":12.0,"after_ms":0.095,
            "tries":2,"tls_version":"TLSv1.3","reason":"connect_failed","headers":[["x-env","a"]]}"#,
        );
        let expected = "23:20:16.005 503     12ms GET a.example/x\u{fffd}[2J  HTTP/2, TLSv1.3, from 192.0.2.1:5000, by \
                        HTTPRoute a/c rule 0, to 10.0.0.1:80 of Service a/d:80 after 2 tries, 250us + 12ms + 95us, 0 B in, \
                        2.0 KiB out  connect_failed\n      x-env: a\n";
        assert_eq!(text, expected);
        let text = shown(
            r#"{"ts":"2026-11-23T23:20:16.005Z","client":"192.0.2.1:5000","protocol":"TLS","sni":"db.example","duration_ms":90000.0}"#,
        );
        assert_eq!(text, "23:20:16.005   -      90s TLS db.example  from 192.0.2.1:5000, 0 B in, 0 B out\n");
        assert_eq!(shown(r#"{"missed":2}"#), "… 2 requests not shown: this reader is too slow\n");
    }

    #[test]
    fn amounts() {
        for (count, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (50 << 20, "50 MiB"), (u64::MAX, "16384 PiB")]
        {
            assert_eq!(bytes(count), text);
        }
    }
}
