//! `measure`: the sizes that the project promises, on this machine, as a Markdown table.
//!
//! `EDGE_BIN_DIR=target/release target/release/measure [ROUTES [ROUTES_PER_FILE]]` (5000 routes, one per file; then
//! 10,000 routes in one manifest within edge.toml)

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::process::Command;
use std::time::{Duration, Instant};

use edge_integration::client::Connection;
use edge_integration::edged::{Edged, program, until};
use edge_integration::lab::{HTTP, Lab, block_on};
use edge_integration::manifests::{CLASS, LISTENERS, gateway, http_route, service, to};

const RELOADS: u32 = 120;
/// Routes in one manifest within edge.toml.
const INLINE: u32 = 10_000;

fn main() {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<u32>().expect("a number"));
    let routes = numbers.next().unwrap_or(5000);
    let per_file = numbers.next().unwrap_or(1).max(1);
    let edged = program("edged");
    let size = std::fs::metadata(&edged).unwrap().len();

    let idle = {
        let (mut lab, _origin) = lab();
        lab.start(&[HTTP]);
        block_on(async { Connection::open(lab.at(HTTP), None).await.unwrap().get("none.test", "/").await.unwrap() });
        lab.edged().memory("VmRSS")
    };
    let (lab, _origin) = lab();
    write_routes(&lab, routes, per_file);
    let last = format!("h{}.test", routes - 1);
    // The first start also makes the authority and certificates; the others are what a restart costs.
    let mut times = Vec::new();
    let mut daemon: Option<Edged> = None;
    for _ in 0..6 {
        drop(daemon.take());
        let begin = Instant::now();
        daemon = Some(lab.spawn());
        first_request(&lab, &last);
        times.push(begin.elapsed());
    }
    let mut daemon = daemon.unwrap();
    let first = times.remove(0);
    let loaded = daemon.memory("VmRSS");
    let watched = reloads(&lab, &daemon, false);
    let signalled = reloads(&lab, &daemon, true);
    let after = daemon.memory("VmRSS");
    daemon.kill();

    println!("| what | measured |\n| --- | --- |");
    println!("| size of edged | {:.1} MB |", size as f64 / 1e6);
    println!("| memory, idle with one Gateway | {:.1} MB |", idle as f64 / 1e3);
    println!("| memory with {routes} routes, {per_file} per file | {:.1} MB |", loaded as f64 / 1e3);
    println!("| memory after {} reloads | {:.1} MB |", 2 * RELOADS, after as f64 / 1e3);
    println!("| first start to first request, {routes} routes | {} ms |", first.as_millis());
    println!(
        "| later start to first request, median of {} | {} ms |",
        times.len(),
        quantile(&mut times, 0.5).as_millis()
    );
    for (how, mut times) in [("noticed by itself", watched), ("SIGHUP", signalled)] {
        let (half, most) = (quantile(&mut times, 0.5), quantile(&mut times, 0.99));
        println!(
            "| changed file to effect, {how}, p50 and p99 of {RELOADS} | {:.1} ms, {:.1} ms |",
            half.as_secs_f64() * 1e3,
            most.as_secs_f64() * 1e3
        );
    }
    inline(INLINE);
    let kernel = Command::new("uname")
        .arg("-r")
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    println!(
        "\n{} CPUs, Linux {}.",
        std::thread::available_parallelism().map_or(0, usize::from),
        kernel.unwrap_or_default()
    );
}

fn lab() -> (Lab, edge_integration::lab::Running) {
    let lab = Lab::new();
    let origin = lab.origin("a");
    lab.manifest(
        "base.yaml",
        &[CLASS, &gateway("web", LISTENERS), &service("default", "a", 80, &[origin.address])].concat(),
    );
    (lab, origin)
}

fn write_routes(lab: &Lab, routes: u32, per_file: u32) {
    for first in (0..routes).step_by(per_file as usize) {
        let text: String = (first..(first + per_file).min(routes))
            .map(|i| http_route(&format!("r{i}"), &[&format!("h{i}.test")], &to("a", 80)))
            .collect();
        lab.manifest(&format!("routes-{first}.yaml"), &text);
    }
}

fn first_request(lab: &Lab, host: &str) {
    until("the first request", || {
        block_on(async {
            let mut connection = Connection::open(lab.at(HTTP), None).await.ok()?;
            let reply = connection.get(host, "/").await.ok()?;
            (reply.status == 200).then_some(())
        })
    });
}

/// All routes in one manifest within edge.toml, which one more route changes each time.
fn inline(routes: u32) {
    let (mut lab, _origin) = lab();
    let begin_text: String =
        (0..routes).map(|i| http_route(&format!("r{i}"), &[&format!("h{i}.test")], &to("a", 80))).collect();
    let write = |lab: &Lab, more: &str| {
        let more = if more.is_empty() { String::new() } else { http_route(more, &[more], &to("a", 80)) };
        lab.write_config(&format!("[[manifests]]\ninline = '''\n{begin_text}{more}'''\n"));
    };
    write(&lab, "");
    let begin = Instant::now();
    lab.start(&[]);
    first_request(&lab, &format!("h{}.test", routes - 1));
    let load = begin.elapsed();
    let loaded = lab.edged().memory("VmRSS");
    let mut times = block_on(async {
        let mut connection = Connection::open(lab.at(HTTP), None).await.unwrap();
        let mut times = Vec::new();
        for i in 0..100 {
            let host = format!("more{i}.test");
            write(&lab, &host);
            let begin = Instant::now();
            lab.edged().reload();
            while connection.get(&host, "/").await.unwrap().status != 200 {
                assert!(begin.elapsed() < Duration::from_secs(60), "no effect");
            }
            times.push(begin.elapsed());
        }
        times
    });
    let after = lab.edged().memory("VmRSS");
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    println!("| start to first request, {routes} routes in one manifest | {:.0} ms |", millis(load));
    println!(
        "| SIGHUP to effect of one more, p50 and p99 of {} | {:.1} ms, {:.1} ms |",
        times.len(),
        millis(quantile(&mut times, 0.5)),
        millis(quantile(&mut times, 0.99))
    );
    println!(
        "| memory with them, and after {} reloads | {:.1} MB, {:.1} MB |",
        times.len(),
        loaded as f64 / 1e3,
        after as f64 / 1e3
    );
}

/// From the rename of one changed file to the first answer that shows it.
fn reloads(lab: &Lab, daemon: &Edged, signal: bool) -> Vec<Duration> {
    block_on(async {
        let mut connection = Connection::open(lab.at(HTTP), None).await.unwrap();
        let mut times = Vec::new();
        for i in 0..RELOADS {
            let mark = format!("{signal}-{i}");
            let rule = format!(
                "    - filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-mark, value: {mark}}}]}}}}]\n      backendRefs: [{{name: a, port: 80}}]\n"
            );
            lab.manifest("changing.yaml", &http_route("changing", &["changing.test"], &rule));
            let begin = Instant::now();
            if signal {
                daemon.reload();
            }
            while connection.get("changing.test", "/").await.unwrap().header("x-mark") != Some(&mark) {
                assert!(begin.elapsed() < Duration::from_secs(60), "no effect");
            }
            times.push(begin.elapsed());
        }
        times
    })
}

fn quantile(times: &mut [Duration], q: f64) -> Duration {
    times.sort();
    let index = ((times.len() as f64 * q) as usize).min(times.len().saturating_sub(1));
    times.get(index).copied().unwrap_or_default()
}
