//! `acme-figures`: how fast certificates come, and what a thousand of them cost, beside Caddy in the same run.
//!
//! Flows in: `acme-figures [--rounds N] [--caddy PROGRAM] FILE`. Flows out: a table in the file. Every time is from the
//! act (a file that is renamed into place, a call of Caddy's API) to a client's first handshake that its CA vouches for.
//! The CA is Pebble without its sleeps, on the same machine.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edge_integration::acme::ask::free_port;
use edge_integration::acme::{Pebble, Settings};
use edge_integration::client::{Connection, Tls};
use edge_integration::cluster::process::{Process, Program, end_on_signals};
use edge_integration::edged::program;
use edge_integration::lab::{Lab, block_on};
use edge_integration::manifests::{CLASS, gateway, http_route, service, to};
use edge_integration::pki;
use rustls::ClientConfig;
use serde_json::json;

const USAGE: &str = "usage: acme-figures [--rounds N] [--caddy PROGRAM] FILE";
const AT_ONCE: usize = 50;
const MANY: usize = 1000;
/// Of what is averaged over handshakes.
const HANDSHAKES: usize = 200;
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let (mut rounds, mut caddy, mut file) = (30, None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--rounds" => rounds = arguments.next().and_then(|number| number.parse().ok()).unwrap_or(30),
            "--caddy" => caddy = arguments.next().map(PathBuf::from),
            path => file = Some(PathBuf::from(path)),
        }
    }
    let Some(file) = file else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    end_on_signals();
    let mut text = heading(rounds, caddy.as_deref());
    let ours = match edged(rounds) {
        Ok(figures) => figures,
        Err(why) => {
            eprintln!("acme-figures: cannot be taken here: {why}");
            return ExitCode::FAILURE;
        }
    };
    for (what, figure) in &ours {
        println!("{what}: {figure}");
    }
    let theirs = caddy.and_then(|program| match beside(&program, rounds.min(10)) {
        Ok(figures) => Some(figures),
        Err(why) => {
            eprintln!("acme-figures: without Caddy: {why}");
            None
        }
    });
    for (place, (what, figure)) in ours.iter().enumerate() {
        let other = theirs.as_ref().and_then(|theirs| theirs.get(place)).map_or("", |(_, figure)| figure.as_str());
        let _ = writeln!(text, "| {what} | {figure} | {other} |");
    }
    std::fs::write(&file, &text).unwrap();
    println!("{text}");
    ExitCode::SUCCESS
}

/// What was measured, where, and by what.
fn heading(rounds: usize, caddy: Option<&Path>) -> String {
    let run = |program: &Path, arguments: &[&str]| {
        let output = std::process::Command::new(program).args(arguments).output().ok();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    let edged = run(&program("edged"), &["--version"]);
    let caddy = caddy.map(|caddy| run(caddy, &["version"])).unwrap_or_default();
    let caddy = caddy.split(' ').next().unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "# How fast certificates come, and what a thousand cost\n\nMade by `make acme-figures`: {edged} and Caddy {caddy} on one \
         machine with {cores} cores, one after the other, {rounds} rounds ({} for Caddy). A time is from the act (a manifest that \
         is renamed into place, a call of Caddy's API) to a client's first handshake that the CA vouches for. The CA is Pebble \
         without its sleeps, on the same cores.\n\n| what | edged | Caddy |\n| --- | --- | --- |\n",
        rounds.min(10)
    )
}

type Figures = Vec<(String, String)>;

fn edged(rounds: usize) -> Result<Figures, String> {
    let mut lab = Lab::new();
    let pebble = Pebble::start(&Settings { names_lead_to: lab.vip, ..Settings::default() })?;
    lab.write_file("ca.pem", pebble.trust());
    lab.write_config(&format!(
        "[certificates]\nissuers = [\"issuers.pebble\"]\nresolvers = [\"{}\"]\n\n\
         [issuers.pebble]\ndirectory = \"{}\"\nca_file = \"{}\"\n",
        pebble.names.dns,
        pebble.directory(),
        lab.path("ca.pem").display()
    ));
    let origin = lab.origin("shop");
    let listeners = "    - {name: http, port: 80, protocol: HTTP}\n    \
                     - {name: https, port: 443, protocol: HTTPS, hostname: \"*.example.com\", tls: {certificateRefs: [{name: web-tls}]}}\n";
    let manifests = [CLASS, &gateway("web", listeners), &service("default", "shop", 80, &[origin.address])];
    lab.manifest("web.yaml", &manifests.concat());
    let route = |name: &str| http_route(name, &[&format!("{name}.example.com")], &to("shop", 80));
    lab.manifest("first.yaml", &route("first"));
    lab.start(&[80, 443]);
    let client = pki::client(&pebble.root(0), &["http/1.1"], None).map_err(|error| error.to_string())?;
    let address = lab.at(443);
    wait(address, &client, &["first.example.com".into()]);

    let mut figures = Figures::new();
    let times = (0..rounds).map(|round| {
        let name = format!("n{round}");
        let began = Instant::now();
        lab.manifest(&format!("{name}.yaml"), &route(&name));
        wait(address, &client, &[format!("{name}.example.com")]);
        began.elapsed()
    });
    figures.push(("new host to first valid handshake".into(), spread(times.collect())));

    let names: Vec<String> = (0..AT_ONCE).map(|number| format!("m{number}")).collect();
    let began = Instant::now();
    lab.manifest("fifty.yaml", &names.iter().map(|name| route(name)).collect::<String>());
    wait(address, &client, &names.iter().map(|name| format!("{name}.example.com")).collect::<Vec<_>>());
    figures.push((format!("{AT_ONCE} new hosts at once, all served"), millis(began.elapsed())));

    let (few, few_memory) = (handshakes(address, &client), lab.edged().memory("VmRSS"));
    let few_count = rounds + AT_ONCE + 1;
    let names: Vec<String> = (few_count..MANY).map(|number| format!("k{number}")).collect();
    let began = Instant::now();
    lab.manifest("thousand.yaml", &names.iter().map(|name| route(name)).collect::<String>());
    wait(address, &client, &names.iter().map(|name| format!("{name}.example.com")).collect::<Vec<_>>());
    figures.push((format!("{} new hosts at once, all served", names.len()), millis(began.elapsed())));
    let (many, many_memory) = (handshakes(address, &client), lab.edged().memory("VmRSS"));
    figures.push((format!("a handshake with {few_count} certificates, median"), millis(few)));
    figures.push((format!("a handshake with {MANY} certificates, median"), millis(many)));
    figures.push((format!("RSS with {few_count} certificates"), format!("{} MiB", few_memory / 1024)));
    let each = many_memory.saturating_sub(few_memory) / names.len() as u64;
    figures.push((
        format!("RSS with {MANY} certificates (routes and listeners' configuration included)"),
        format!("{} MiB, {each} KiB for each", many_memory / 1024),
    ));
    Ok(figures)
}

/// The first two figures of Caddy.
fn beside(program: &Path, rounds: usize) -> Result<Figures, String> {
    let lab = Lab::new();
    let pebble = Pebble::start(&Settings { names_lead_to: lab.vip, ..Settings::default() })?;
    lab.write_file("ca.pem", pebble.trust());
    let loopback = "127.0.0.1".parse().unwrap();
    let admin = SocketAddr::new(loopback, free_port("", loopback));
    let config = |hosts: &[String]| {
        json!({
            "admin": { "listen": admin.to_string() },
            "storage": { "module": "file_system", "root": lab.path("caddy") },
            "apps": {
                "http": { "servers": { "web": {
                    "listen": [lab.at(443).to_string()],
                    "automatic_https": { "disable_redirects": true },
                    "routes": [{ "match": [{ "host": hosts }], "handle": [{ "handler": "static_response" }] }],
                } } },
                "tls": { "automation": { "policies": [{ "issuers": [{
                    "module": "acme",
                    "ca": pebble.directory(),
                    "trusted_roots_pem_files": [lab.path("ca.pem")],
                    "challenges": { "bind_host": lab.vip.to_string() },
                }] }] } },
            },
        })
    };
    let mut hosts = vec!["first.example.com".to_owned()];
    lab.write_file("caddy.json", &config(&hosts).to_string());
    let file = lab.path("caddy.json");
    let run = Program::new(program)
        .args(["run".into(), "--config".into(), file.into_os_string()])
        .env("HOME", lab.dir())
        .env("XDG_CONFIG_HOME", lab.dir());
    let mut caddy = Process::start("caddy", "", &run, &lab.path("caddy.log"));
    let client = pki::client(&pebble.root(0), &["http/1.1"], None).map_err(|error| error.to_string())?;
    wait(lab.at(443), &client, &hosts);
    let load = |hosts: &[String]| post(admin, "/load", &config(hosts).to_string());
    let mut times = Vec::new();
    for round in 0..rounds {
        let name = format!("n{round}.example.com");
        hosts.push(name.clone());
        let began = Instant::now();
        load(&hosts)?;
        wait(lab.at(443), &client, &[name]);
        times.push(began.elapsed());
    }
    // Its limiter of orders starts afresh.
    std::thread::sleep(Duration::from_secs(11));
    let names: Vec<String> = (0..AT_ONCE).map(|number| format!("m{number}.example.com")).collect();
    hosts.extend(names.iter().cloned());
    let began = Instant::now();
    load(&hosts)?;
    wait(lab.at(443), &client, &names);
    let fifty = began.elapsed();
    caddy.must_live();
    Ok(vec![("new host".into(), spread(times)), ("fifty".into(), millis(fifty))])
}

fn post(address: SocketAddr, path: &str, body: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{path}: {error}");
    let mut stream = TcpStream::connect(address).map_err(failed)?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(format!("{path}: {answer}")) }
}

/// Returns when each name has had a handshake that the CA vouches for.
fn wait(address: SocketAddr, client: &Arc<ClientConfig>, names: &[String]) {
    let end = Instant::now() + PATIENCE;
    let mut left: BTreeSet<&String> = names.iter().collect();
    block_on(async {
        while let Some(name) = left.first().copied() {
            let tls = Tls { config: Arc::clone(client), server_name: Some(name.clone()) };
            if Connection::open(address, Some(&tls)).await.is_ok() {
                left.remove(name);
            } else {
                assert!(Instant::now() < end, "{} of {} names are not served", left.len(), names.len());
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    });
}

/// The median of full handshakes, TCP included.
fn handshakes(address: SocketAddr, client: &Arc<ClientConfig>) -> Duration {
    let mut config = ClientConfig::clone(client);
    config.resumption = rustls::client::Resumption::disabled();
    let config = Arc::new(config);
    let mut times: Vec<Duration> = block_on(async {
        let mut times = Vec::new();
        for _ in 0..HANDSHAKES {
            let tls = Tls { config: Arc::clone(&config), server_name: Some("first.example.com".into()) };
            let began = Instant::now();
            Connection::open(address, Some(&tls)).await.unwrap();
            times.push(began.elapsed());
        }
        times
    });
    times.sort_unstable();
    times[times.len() / 2]
}

fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    format!("p50 {}, p95 {}, worst {}", millis(at(50)), millis(at(95)), millis(at(100)))
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
