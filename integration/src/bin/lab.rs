//! `lab`: the data centre for a person to play with.
//!
//! Flows in: `lab [--edges N] DIRECTORY`. Flows out: in the directory small programs that reach every part, `try.txt` with
//! what to do with them, and `ready` when all of it is there. Ends everything on a signal. `make lab` starts it in the
//! background, `make lab-down` ends it. `lab load NAMESPACE SECONDS` is one of the small programs: a client that counts
//! what it loses.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use edge_integration::cluster::process::{check_interrupt, end_on_signals};
use edge_integration::datacentre::flows::{Ask, Flow, Flows};
use edge_integration::datacentre::{self, DataCentre, FLOWS_VIP, HOST, LAN_VIP, Plan, TCP_PORT, UDP_PORT, VIP, VIP6};
use edge_integration::edged::program;
use edge_integration::router::Router;

/// For the announcements.
const PATIENCE: Duration = Duration::from_secs(30);
const USAGE: &str = "usage: lab [--edges 1..3] DIRECTORY";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [first, namespace, seconds] = &words[..]
        && first == "load"
    {
        let seconds = seconds.parse().unwrap_or(10);
        load(namespace, Duration::from_secs(seconds));
        return ExitCode::SUCCESS;
    }
    let (edges, directory) = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("lab: {why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if let Err(why) = datacentre::available() {
        eprintln!("lab: cannot be built here: {why}");
        return ExitCode::FAILURE;
    }
    end_on_signals();
    let lab = DataCentre::start(Plan { edges, ..Plan::whole() });
    let guide = furnish(&lab, &directory);
    std::fs::write(directory.join("try.txt"), &guide).unwrap();
    wait_announced(&lab);
    std::fs::write(directory.join("ready"), "").unwrap();
    print!("{guide}");
    let outcome = std::panic::catch_unwind(|| {
        loop {
            check_interrupt();
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    drop(outcome);
    drop(lab);
    ExitCode::SUCCESS
}

/// Until the routers have a way to the VIP by every edge; a person may look at what does not come.
fn wait_announced(lab: &DataCentre) {
    let start = Instant::now();
    let is_announced = |router: &Router| router.gateways(VIP).len() == lab.edges.len();
    while !lab.routers.iter().all(is_announced) && start.elapsed() < PATIENCE {
        check_interrupt();
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Asks every VIP of BGP all the time, over new and over kept connections, and says what was lost.
fn load(namespace: &str, time: Duration) {
    const OF_EACH: usize = 8;
    let every = Duration::from_millis(10);
    let http = |vip: &str| SocketAddr::new(vip.parse().unwrap(), 80);
    let flows = |port| SocketAddr::new(FLOWS_VIP.parse().unwrap(), port);
    let host = || HOST.to_owned();
    let kinds = [
        ("HTTP, a connection each", Ask::Http { host: host() }, http(VIP)),
        ("HTTP, kept connections", Ask::HttpKept { host: host() }, http(VIP)),
        ("HTTP over IPv6", Ask::Http { host: host() }, http(VIP6)),
        ("TCP, a connection each", Ask::Tcp, flows(TCP_PORT)),
        ("UDP, from one port each", Ask::Udp, flows(UDP_PORT)),
    ];
    let all = kinds.iter().flat_map(|(_, ask, to)| vec![Flow::new(ask.clone(), *to, every); OF_EACH]).collect();
    let running = Flows::start_in(namespace, all);
    std::thread::sleep(time);
    let tallies = running.stop();
    println!("{:<24} {:>7} {:>5} {:>12}", "", "asked", "lost", "longest gap");
    for ((name, ..), tallies) in kinds.iter().zip(tallies.chunks(OF_EACH)) {
        let (asked, lost) = tallies.iter().fold((0, 0), |(asked, lost), t| (asked + t.asked, lost + t.lost()));
        let gap = tallies.iter().map(|tally| tally.longest_gap).max().unwrap_or_default().as_millis();
        let why: BTreeSet<&str> = tallies.iter().flat_map(|tally| tally.failures.keys()).map(String::as_str).collect();
        let why: Vec<&str> = why.into_iter().collect();
        println!("{}", format!("{name:<24} {asked:>7} {lost:>5} {gap:>9} ms  {}", why.join(", ")).trim_end());
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<(u8, PathBuf), String> {
    let (mut edges, mut directory) = (3, None);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--edges" => {
                let value = arguments.next().unwrap_or_default();
                let number = value.parse().ok().filter(|number| (1..=3).contains(number));
                edges = number.ok_or_else(|| format!("--edges {value}: expected 1, 2 or 3"))?;
            }
            option if option.starts_with('-') => return Err(format!("{option}: unknown option")),
            path => directory = Some(PathBuf::from(path)),
        }
    }
    Ok((edges, directory.ok_or("the directory is missing")?))
}

/// Writes the small programs; the text that tells of them.
fn furnish(lab: &DataCentre, directory: &Path) -> String {
    let script = |name: &str, body: &str| {
        let path = directory.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    let inside = |namespace: &str| format!("exec ip netns exec {namespace} \"$@\"");
    for (index, router) in lab.routers.iter().enumerate() {
        script(
            &format!("tor{}", index + 1),
            &format!(
                "[ $# -gt 0 ] || exec vtysh --vty_socket {0} --config_dir {0}\n\
                 exec vtysh --vty_socket {0} --config_dir {0} -c \"$*\"",
                router.directory().display()
            ),
        );
    }
    let mut spaces = vec![("client", lab.client().name())];
    spaces.extend(lab.neighbour().map(|space| ("neighbour", space.name())));
    for number in 1..=2 {
        let name = if number == 1 { "in-tor1" } else { "in-tor2" };
        spaces.push((name, lab.network.router(number).name()));
    }
    let mut sockets = String::new();
    for edge in &lab.edges {
        spaces.push((edge.name, edge.namespace()));
        sockets += &format!("    {}) socket={} ;;\n", edge.name, edge.directory().join("edged.sock").display());
    }
    for (name, namespace) in spaces {
        script(name, &inside(namespace));
    }
    script(
        "edgectl",
        &format!(
            "edges=\nsockets=\n\
             while :; do\n  case ${{1:-}} in\n    --edge) edges=\"$edges ${{2:?--edge NAME}}\"; shift 2 ;;\n\
             \x20   --edge=*) edges=\"$edges ${{1#*=}}\"; shift ;;\n    *) break ;;\n  esac\ndone\n\
             for edge in ${{edges:-a}}; do\n  case $edge in\n{sockets}    *) echo \"edgectl: no edge $edge in this lab\" >&2; exit 64 ;;\n  esac\n\
             \x20 sockets=\"$sockets --socket $socket\"\ndone\nexec {} $sockets \"$@\"",
            program("edgectl").canonicalize().unwrap().display()
        ),
    );
    let own = std::env::current_exe().unwrap();
    script("load", &format!("exec {} load {} \"${{1:-10}}\"", own.display(), lab.client().name()));
    let names: Vec<&str> = lab.edges.iter().map(|edge| edge.name).collect();
    let at = directory.display();
    format!(
        "A data centre in network namespaces: routers tor1 and tor2 (FRR), edges {edges}, a client, keepalived.
Everything below is in {at}; put it into your path:  export PATH={at}:$PATH

  edgectl --edge a status                           what edge a serves and announces
  edgectl --edge b why {VIP}                 why, to whom, with the evidence
  edgectl --edge a --edge b why {VIP}        the same of several edges
  edgectl --edge a drain                            take leave; undrain comes back
  edgectl --edge a drill failover --yes             a planned failover with measured times
  tor1 show bgp summary                             the routers' view; without words, a shell
  in-tor1 ip route show proto bgp                   what the kernel of tor1 does with it
  client curl -s -H 'Host: {HOST}' http://{VIP}/
  client curl -s -H 'Host: {HOST}' 'http://[{VIP6}]/'
  client curl -s -H 'Host: {HOST}' http://{LAN_VIP}/    by ARP: one edge at a time has it
  a ip addr show dev lan                            which one (try b and c)
  load 10                                           a client that counts what it loses in 10 s, while you do what follows
  client bash -c 'exec 3<>/dev/tcp/{FLOWS_VIP}/{TCP_PORT}; head -c 6 <&3'    plain TCP; UDP is at {UDP_PORT}

Things that go wrong (each is undone by itself or by the second command):
  kill -9  $(cat {dir}/a/edged.pid)       edged dies: its guard withdraws at once
  kill -STOP $(cat {dir}/b/edged.pid)     it hangs: withdrawn within a second; kill -CONT wakes it up
  a ip link set dev tor1 down                       a wire; up brings it back
  ip -n {fabric} link set dev a-tor1.e nomaster   a black hole; `master a-tor1` mends it

edge.toml, log and manifests of each edge are in {dir}/EDGE; edit them, edged follows.
make lab-down removes everything.\n",
        edges = names.join(", "),
        dir = lab.directory().display(),
        fabric = lab.network.fabric.name(),
    )
}
