//! `bench`: Edge beside nginx and HAProxy on this machine, as a Markdown table.
//!
//! Every proxy has one worker on the first CPU; this client and a canned origin share the second. Rounds are
//! interleaved, every reply is verified, and what is compared is the CPU time of the whole proxy per verified request:
//! unlike requests per second it does not move with what else the machine does.
//!
//! `EDGE_BIN_DIR=target/release target/release/bench [ROUNDS [SECONDS [PROXY…]]]` (5 rounds of 3 s, all)

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use edge_integration::client::{Tls, fetch, open};
use edge_integration::edged::{program, run, until};
use edge_integration::lab::block_on;
use edge_integration::pki::{self, Authority, Leaf, Pair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const HOST: &str = "h0.example.test";
const BODY: usize = 1024;

#[derive(Clone, Copy, PartialEq)]
enum Scenario {
    Plain,
    Secure,
    Handshake,
}

const SCENARIOS: [(Scenario, &str, usize); 3] = [
    (Scenario::Plain, "HTTP/1.1 keep-alive, 1 KB, 64 connections", 64),
    (Scenario::Secure, "HTTPS keep-alive (TLS 1.3, ECDSA P-256), 1 KB, 64 connections", 64),
    (Scenario::Handshake, "HTTPS, one full handshake per request, 32 connections", 32),
];

/// One way to be a proxy: writes its configuration and says how to start it.
struct Proxy {
    name: &'static str,
    version: String,
    command: fn(&Setting) -> Vec<String>,
}

struct Setting {
    dir: String,
    http: u16,
    https: u16,
    origin: u16,
}

#[derive(Clone, Copy, Default)]
struct Round {
    requests: u64,
    failures: u64,
    seconds: f64,
    cpu: f64,
    p50: Duration,
    p99: Duration,
}

fn main() {
    pki::install_provider();
    let mut words = std::env::args().skip(1);
    let mut number = |otherwise: u64| words.next().map_or(otherwise, |word| word.parse().expect("a number"));
    let (rounds, seconds) = (number(5), Duration::from_secs(number(3)));
    let only: Vec<String> = words.collect();
    let mut proxies = proxies();
    proxies.retain(|proxy| only.is_empty() || only.iter().any(|name| name == proxy.name));
    let authority = Authority::new("bench").unwrap();
    let pair = authority.sign(&Leaf { dns: &[HOST], ..Leaf::default() }).unwrap();
    let origin = origin();

    println!("| scenario | proxy | requests/s | p50 | p99 | CPU per request | beside HAProxy | failures |");
    println!("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    for (scenario, title, connections) in SCENARIOS {
        let mut results: BTreeMap<&str, Vec<Round>> = BTreeMap::new();
        for _ in 0..rounds {
            for proxy in &proxies {
                let round = measure(proxy, scenario, connections, seconds, origin, &pair, &authority.certificate);
                eprintln!(
                    "{title}: {}: {:.1} µs CPU, {:.0} requests/s",
                    proxy.name,
                    round.cpu * 1e6 / round.requests.max(1) as f64,
                    round.requests as f64 / round.seconds
                );
                results.entry(proxy.name).or_default().push(round);
            }
        }
        let cost = |round: &Round| round.cpu / round.requests.max(1) as f64;
        for proxy in &proxies {
            let Some(mine) = results.get(proxy.name) else { continue };
            let against = results.get("HAProxy");
            let ratio =
                against.map(|peer| middle(mine.iter().zip(peer).map(|(mine, peer)| cost(mine) / cost(peer)).collect()));
            println!(
                "| {title} | {} {} | {:.0} | {} µs | {} µs | {:.1} µs | {} | {} |",
                proxy.name,
                proxy.version,
                middle(mine.iter().map(|round| round.requests as f64 / round.seconds).collect()),
                middle(mine.iter().map(|round| round.p50.as_micros() as f64).collect()) as u64,
                middle(mine.iter().map(|round| round.p99.as_micros() as f64).collect()) as u64,
                middle(mine.iter().map(|round| cost(round) * 1e6).collect()),
                ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
                mine.iter().map(|round| round.failures).sum::<u64>(),
            );
        }
    }
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn proxies() -> Vec<Proxy> {
    let version = |program: &str, argument: &str, after: &str| {
        let said = run(Path::new(program), &[argument]).text();
        let rest = said.split_once(after).map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        rest.split(|c: char| c.is_whitespace() || c == '-').next().unwrap_or_default().to_owned()
    };
    let exists = |path: &str| Path::new(path).exists();
    let mut found = vec![Proxy { name: "Edge", version: env!("CARGO_PKG_VERSION").to_owned(), command: edge }];
    if exists("/usr/sbin/nginx") {
        found.push(Proxy { name: "nginx", version: version("/usr/sbin/nginx", "-v", "nginx/"), command: nginx });
    }
    if exists("/usr/sbin/haproxy") {
        found.push(Proxy {
            name: "HAProxy",
            version: version("/usr/sbin/haproxy", "-v", "version "),
            command: haproxy,
        });
    }
    found
}

fn measure(
    proxy: &Proxy,
    scenario: Scenario,
    connections: usize,
    time: Duration,
    origin: u16,
    pair: &Pair,
    ca: &str,
) -> Round {
    let dir = tempfile::Builder::new().prefix("edge-bench-").tempdir().unwrap();
    let [http, https] = [free_port(), free_port()];
    let setting = Setting { dir: dir.path().to_string_lossy().into(), http, https, origin };
    std::fs::write(dir.path().join("cert.pem"), &pair.certificate).unwrap();
    std::fs::write(dir.path().join("key.pem"), &pair.key).unwrap();
    std::fs::write(dir.path().join("both.pem"), format!("{}{}", pair.certificate, pair.key)).unwrap();
    let words = (proxy.command)(&setting);
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let mut child = Command::new("taskset");
    child.args(["-c", "0"]).args(&words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let child = Ended(child.spawn().unwrap());
    let address: SocketAddr = ([127, 0, 0, 1], if scenario == Scenario::Plain { http } else { https }).into();
    let mut config = (*pki::client(ca, &["http/1.1"], None).unwrap()).clone();
    // A full handshake each time, not a resumption.
    config.resumption = rustls::client::Resumption::disabled();
    let tls = Tls { config: config.into(), server_name: Some(HOST.to_owned()) };
    let tls = (scenario != Scenario::Plain).then_some(tls);
    until(&format!("{} to answer", proxy.name), || {
        block_on(fetch(address, tls.as_ref(), HOST, "/")).ok().filter(|reply| reply.status == 200)
    });
    let warm = Duration::from_millis(500);
    load(address, tls.as_ref(), scenario, connections, warm);
    let before = cpu(child.0.id());
    let mut round = load(address, tls.as_ref(), scenario, connections, time);
    round.cpu = cpu(child.0.id()) - before;
    round
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

/// Every connection asks as fast as it is answered.
fn load(address: SocketAddr, tls: Option<&Tls>, scenario: Scenario, connections: usize, time: Duration) -> Round {
    let latencies = Rc::new(RefCell::new(Vec::<u32>::with_capacity(1 << 20)));
    let failures = Rc::new(RefCell::new(0u64));
    let begin = Instant::now();
    block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..connections {
            let (tls, latencies, failures) = (tls.cloned(), latencies.clone(), failures.clone());
            tasks.spawn_local(async move {
                let mut stream = None;
                while begin.elapsed() < time {
                    let start = Instant::now();
                    let outcome = async {
                        let mut open = match stream.take() {
                            Some(stream) => stream,
                            None => open(address, tls.as_ref()).await?.0,
                        };
                        exchange(&mut open).await?;
                        std::io::Result::Ok(open)
                    };
                    match outcome.await {
                        Ok(open) => {
                            latencies.borrow_mut().push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX));
                            stream = (scenario != Scenario::Handshake).then_some(open);
                        }
                        Err(_) => *failures.borrow_mut() += 1,
                    }
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    });
    let seconds = begin.elapsed().as_secs_f64();
    let mut latencies = latencies.take();
    latencies.sort_unstable();
    let quantile = |q: f64| {
        let index = (latencies.len() as f64 * q) as usize;
        Duration::from_micros(u64::from(latencies.get(index).copied().unwrap_or_default()))
    };
    let requests = latencies.len() as u64;
    Round { requests, failures: failures.take(), seconds, cpu: 0.0, p50: quantile(0.5), p99: quantile(0.99) }
}

/// One request and its whole, verified reply.
async fn exchange<S: edge_integration::client::Stream>(stream: &mut S) -> std::io::Result<()> {
    stream.write_all(b"GET /b/1024 HTTP/1.1\r\nhost: h0.example.test\r\n\r\n").await?;
    let mut buffer = [0u8; 4096];
    let mut filled = 0;
    loop {
        let n = stream.read(buffer.get_mut(filled..).unwrap_or_default()).await?;
        filled += n;
        let seen = buffer.get(..filled).unwrap_or_default();
        let whole = seen.windows(4).position(|four| four == b"\r\n\r\n").map(|end| end + 4 + BODY);
        match whole {
            Some(whole) if filled == whole => {
                let good = seen.starts_with(b"HTTP/1.1 200 ") && seen.ends_with(&[b'x'; BODY]);
                return if good { Ok(()) } else { Err(std::io::Error::other("another reply")) };
            }
            Some(whole) if filled > whole => return Err(std::io::Error::other("more than the reply")),
            _ if n == 0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => {}
        }
    }
}

/// An origin that costs next to nothing: a canned answer to every request head.
fn origin() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n").into_bytes();
            answer.extend_from_slice(&[b'x'; BODY]);
            let answer: Rc<[u8]> = answer.into();
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let answer = answer.clone();
                tokio::task::spawn_local(async move {
                    let mut head = Vec::new();
                    let mut buffer = [0u8; 4096];
                    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                        head.extend_from_slice(buffer.get(..n).unwrap_or_default());
                        if head.ends_with(b"\r\n\r\n") {
                            head.clear();
                            if stream.write_all(&answer).await.is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
    });
    port
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Seconds of user and system time of a process and its children, the dead ones included.
fn cpu(pid: u32) -> f64 {
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let mut total = 0.0;
    let mut todo = vec![pid];
    while let Some(pid) = todo.pop() {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace()).into_iter().flatten();
        total += fields.skip(11).take(4).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>();
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            todo.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    total / ticks
}

fn edge(setting: &Setting) -> Vec<String> {
    let template = include_str!("../../bench/edge.toml.tpl");
    let dir = &setting.dir;
    let mut text = String::new();
    let mut repeated = None::<String>;
    for line in template.lines() {
        match (line.trim(), &mut repeated) {
            ("@@route", _) => repeated = Some(String::new()),
            ("@@end", block) => text += &block.take().unwrap_or_default().replace("@host@", HOST).replace("@ups@", "0"),
            (_, Some(block)) => *block += &format!("{line}\n"),
            (_, None) => text += &format!("{line}\n"),
        }
    }
    let unused = free_port();
    for (mark, value) in [
        ("@http@", setting.http.to_string()),
        ("@https@", setting.https.to_string()),
        ("@grpc@", free_port().to_string()),
        ("@l4@", free_port().to_string()),
        ("@be_http@", setting.origin.to_string()),
        ("@be_h2c@", unused.to_string()),
        ("@be_sni@", unused.to_string()),
        ("@cert@", format!("{dir}/cert.pem")),
        ("@key@", format!("{dir}/key.pem")),
        ("@log@", "off".to_owned()),
        ("@dir@", dir.clone()),
    ] {
        text = text.replace(mark, &value);
    }
    std::fs::write(format!("{dir}/edge.toml"), text).unwrap();
    vec![program("edged").to_string_lossy().into(), "--config".into(), format!("{dir}/edge.toml")]
}

fn nginx(setting: &Setting) -> Vec<String> {
    let Setting { dir, http, https, origin, .. } = setting;
    let text = format!(
        "worker_processes 1; daemon off; pid {dir}/pid; error_log {dir}/error.log warn;
events {{ worker_connections 4096; multi_accept on; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s; tcp_nodelay on;
  client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;
  uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
  upstream origin {{ server 127.0.0.1:{origin}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{http} backlog=4096; listen 127.0.0.1:{https} ssl backlog=4096;
    server_name {HOST};
    ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/key.pem; ssl_protocols TLSv1.3;
    location / {{ proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection \"\";
      proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }}
  }}
}}
"
    );
    std::fs::write(format!("{dir}/nginx.conf"), text).unwrap();
    let words = ["/usr/sbin/nginx", "-p", dir, "-c", &format!("{dir}/nginx.conf"), "-e", &format!("{dir}/error.log")];
    words.map(str::to_owned).to_vec()
}

fn haproxy(setting: &Setting) -> Vec<String> {
    let Setting { dir, http, https, origin, .. } = setting;
    let text = format!(
        "global
  nbthread 1
  no strict-limits
  maxconn 4096
  ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
  mode http
  timeout client 3600s
  timeout server 3600s
  timeout connect 5s
  timeout http-keep-alive 3600s
  backlog 4096
frontend in
  bind 127.0.0.1:{http}
  bind 127.0.0.1:{https} ssl crt {dir}/both.pem alpn http/1.1
  option forwardfor
  use_backend origin if {{ req.hdr(host) -i {HOST} }}
backend origin
  http-reuse always
  server s 127.0.0.1:{origin} pool-max-conn 512
"
    );
    std::fs::write(format!("{dir}/haproxy.cfg"), text).unwrap();
    vec!["/usr/sbin/haproxy".into(), "-db".into(), "-f".into(), format!("{dir}/haproxy.cfg")]
}
