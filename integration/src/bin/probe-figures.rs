//! `probe-figures`: what active checks of many endpoints cost.
//!
//! Flows in: `probe-figures [--endpoints N] [--seconds N] [--only none,http,tcp] FILE`. Flows out: a table in the file. One
//! server of this program answers at as many addresses of 127.0.0.0/8; the cost is the CPU time of edged's process, all its
//! threads, as the kernel counts it, and it carries no traffic meanwhile.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic)]

use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use edge_integration::cluster::process::end_on_signals;
use edge_integration::edged::{program, run, until_within};
use edge_integration::lab::Lab;
use edge_integration::manifests::{CLASS, gateway, http_route, to};
use edge_integration::trials::field::metrics;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const USAGE: &str = "usage: probe-figures [--endpoints N] [--seconds N] [--only none,http,tcp] FILE";
const INTERVAL: u64 = 5;
/// Of one core, of `edged`, for 10,000 endpoints.
const GOAL: f64 = 5.0;
const PATIENCE: Duration = Duration::from_secs(120);
/// As many as an EndpointSlice holds.
const SLICE: u32 = 1000;

/// What is asked, and how a policy says so.
const KINDS: [(&str, &str, &str); 3] = [
    ("none", "no checks", ""),
    ("http", "HTTP, connections kept for ten checks", "type: HTTP, http: {path: /healthz}"),
    ("tcp", "TCP, a connect for each check", "type: TCP, tcp: {}"),
];

fn main() -> ExitCode {
    let (mut endpoints, mut seconds, mut only, mut file) = (10_000_u32, 60_u64, String::new(), None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|number| number.parse().ok());
        match argument.as_str() {
            "--endpoints" => endpoints = number().unwrap_or(endpoints.into()) as u32,
            "--seconds" => seconds = number().unwrap_or(seconds),
            "--only" => only = arguments.next().unwrap_or_default(),
            path => file = Some(PathBuf::from(path)),
        }
    }
    let Some(file) = file else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    end_on_signals();
    if let Err(why) = enough_files(endpoints) {
        eprintln!("probe-figures: cannot be taken here: {why}");
        return ExitCode::FAILURE;
    }
    let mut text = heading(endpoints, seconds);
    for (name, what, check) in KINDS {
        if !only.is_empty() && !only.split(',').any(|wanted| wanted == name) {
            continue;
        }
        let Figure { share, checks, memory } = measure(endpoints, seconds, check);
        let each = if checks > 0.0 { format!("{:.1} µs", share * 10_000.0 / checks) } else { String::new() };
        let verdict = if share < GOAL { "reached" } else { "**not reached**" };
        let line = format!("| {what} | {checks:.0} | {share:.2} % ({verdict}) | {each} | {memory} MiB |");
        println!("{line}");
        let _ = writeln!(text, "{line}");
    }
    std::fs::write(&file, &text).unwrap();
    ExitCode::SUCCESS
}

fn heading(endpoints: u32, seconds: u64) -> String {
    let edged = run(&program("edged"), &["--version"]).stdout;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!(
        "# What active checks cost\n\nMade by `make probe-figures`: {} with {endpoints} endpoints of one Service, each checked every \
         {INTERVAL} s, beside the server that answers on a machine with {cores} cores (load {load}). CPU is that of edged's \
         whole process over {seconds} s without any traffic, loopback's share of the kernel included; the goal is less than \
         {GOAL} % of a core.\n\n| checks | checks a second | CPU, of one core | each | memory (RSS) |\n\
         | --- | --- | --- | --- | --- |\n",
        edged.trim()
    )
}

/// A descriptor for each endpoint, here and there.
fn enough_files(endpoints: u32) -> Result<(), String> {
    let needed = u64::from(endpoints) + 2000;
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|now| now >= needed) {
        return Ok(());
    }
    let most = now.maximum.map(|most| most.max(needed));
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: most })
        .map_err(|error| format!("{needed} descriptors: {error}"))
}

struct Figure {
    /// Per cent of one core.
    share: f64,
    /// A second.
    checks: f64,
    memory: u64,
}

fn measure(endpoints: u32, seconds: u64, check: &str) -> Figure {
    let mut lab = Lab::new();
    let server = Server::start();
    let addresses: Vec<Ipv4Addr> = (0..endpoints).map(|number| Ipv4Addr::from(0x7f80_0001 + number)).collect();
    let listeners = "    - {name: http, port: 80, protocol: HTTP}\n";
    let mut text = [CLASS, &gateway("web", listeners), &http_route("shop", &["shop.test"], &to("shop", 80))].concat();
    text += &service(&addresses, server.port);
    if !check.is_empty() {
        let _ = write!(
            text,
            "---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: BackendTrafficPolicy\n\
             metadata: {{name: checks, namespace: default}}\nspec:\n  \
             targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop}}]\n  \
             healthCheck: {{active: {{interval: {INTERVAL}s, timeout: 1s, {check}}}}}\n"
        );
    }
    lab.manifest("base.yaml", &text);
    lab.start(&[80]);
    if !check.is_empty() {
        // Two rounds: connections are there, and memory is what it stays.
        let enough = u64::from(endpoints) * 2;
        until_within(PATIENCE, "all are asked", || (made(&lab, "success") >= enough).then_some(()));
    }
    let pid = lab.edged().pid();
    let (asked, before, start) = (made(&lab, "success"), cpu(pid), Instant::now());
    std::thread::sleep(Duration::from_secs(seconds));
    let (used, time) = (cpu(pid) - before, start.elapsed().as_secs_f64());
    let asked = made(&lab, "success") - asked;
    assert_eq!(made(&lab, "failure"), 0, "the server did not answer in time");
    Figure { share: used * 100.0 / time, checks: asked as f64 / time, memory: lab.edged().memory("VmRSS") / 1024 }
}

/// Checks that were made, as edged counts them: a TCP check is over before a server would notice it.
fn made(lab: &Lab, outcome: &str) -> u64 {
    let page = metrics(&lab.path("edged.sock"));
    let name = format!("edge_health_checks_total{{outcome=\"{outcome}\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&name)?.trim().parse().ok()).unwrap_or_default()
}

fn service(addresses: &[Ipv4Addr], port: u16) -> String {
    let mut text = "---\napiVersion: v1\nkind: Service\nmetadata: {name: shop, namespace: default}\n\
                    spec: {ports: [{name: main, port: 80}]}\n"
        .to_owned();
    for (number, slice) in addresses.chunks(SLICE as usize).enumerate() {
        let _ = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: shop-{number}\n  \
             namespace: default\n  labels: {{kubernetes.io/service-name: shop}}\naddressType: IPv4\n\
             ports: [{{name: main, port: {port}}}]\nendpoints:\n"
        );
        for address in slice {
            let _ = writeln!(text, "  - {{addresses: [\"{address}\"], conditions: {{ready: true}}}}");
        }
    }
    text
}

/// Seconds of CPU that a process has had; proc_pid_stat(5), utime and stime.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name may have anything in it, also brackets.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |place: usize| fields[place].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / rustix::param::clock_ticks_per_second() as f64
}

/// Answers at every address of 127.0.0.0/8.
struct Server {
    port: u16,
}

impl Server {
    fn start() -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        rustix::net::listen(&listener, 4096).unwrap();
        let SocketAddr::V4(at) = listener.local_addr().unwrap() else { panic!("an IPv4 address") };
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    let Ok((stream, _)) = listener.accept().await else { continue };
                    tokio::spawn(converse(stream));
                }
            });
        });
        Self { port: at.port() }
    }
}

async fn converse(mut stream: TcpStream) -> io::Result<()> {
    let mut read = [0; 1024];
    let mut filled = 0;
    loop {
        let got = stream.read(&mut read[filled..]).await.unwrap_or_default();
        if got == 0 {
            return Ok(());
        }
        filled += got;
        if read[..filled].ends_with(b"\r\n\r\n") {
            filled = 0;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
        }
    }
}
