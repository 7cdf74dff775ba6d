//! `screenshots DIRECTORY`: the pictures of the dashboard in its manual, from a running edged with traffic.
//!
//! Flows in: a directory. Flows out: PNG files in it, light and dark. A picture of more than 200 kB is a failure: they are
//! in the repository.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use edge_integration::browser::{self, Browser};
use edge_integration::lab::{HTTP, HTTPS, Lab, isolated};
use edge_integration::load::{Load, Plan};
use edge_integration::showcase::{PORT, Showcase};

const MOST: u64 = 200 << 10;
/// Until the lines of the overview show something.
const TRAFFIC: Duration = Duration::from_secs(45);

/// Name, view, what must be there.
const PICTURES: [(&str, &str, &str); 3] = [
    (
        "dashboard-overview",
        "#/overview",
        "document.querySelector('.trouble') && document.querySelectorAll('.tile polyline').length === 4",
    ),
    (
        "dashboard-map",
        "#/map?listener=Gateway+default%2Fweb%2Fshop&route=HTTPRoute+default%2Fshop",
        "document.querySelector('[data-lane=endpoint] [data-id]')",
    ),
    ("dashboard-certificates", "#/certificates", "document.querySelector('.calendar rect')"),
];

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: screenshots DIRECTORY");
        return ExitCode::from(2);
    };
    if let Err(why) = browser::available() {
        eprintln!("screenshots: {why}");
        return ExitCode::FAILURE;
    }
    let large = isolated("pictures", || take(&directory));
    for (path, bytes) in &large {
        eprintln!("screenshots: {} has {bytes} bytes, expected at most {MOST}", path.display());
    }
    if large.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn take(directory: &Path) -> Vec<(PathBuf, u64)> {
    let mut lab = Lab::with_vip([127, 0, 0, 10].into());
    let showcase = Showcase::furnish(&lab, "\n[edge]\nname = \"edge-a\"\n");
    showcase.crowd(&lab, 5000);
    lab.start(&[HTTP, HTTPS, PORT]);
    let plan = |host: &str, backend: &str, h1: usize, every: u64| Plan {
        http: lab.at(HTTP),
        https: Some((lab.at(HTTPS), lab.tls(host, &["http/1.1", "h2"]))),
        host: host.to_owned(),
        backend: backend.to_owned(),
        h1,
        h2: 1,
        websockets: 0,
        every: Duration::from_millis(every),
    };
    let loads = [plan("shop.example.com", "shop", 6, 20), plan("tenant-0042.example.com", "api", 4, 50)];
    let loads: Vec<Load> = loads.into_iter().map(|plan| Load::start(plan).unwrap()).collect();
    let base = format!("http://{}/", lab.at(PORT));
    let mut large = Vec::new();
    for dark in [false, true] {
        let mut page = Browser::start(1280, 800, dark);
        page.open(&base);
        page.wait("document.querySelector('.tile')");
        if !dark {
            std::thread::sleep(TRAFFIC);
        }
        for (name, view, ready) in PICTURES {
            page.open(&format!("{base}{view}"));
            page.wait("document.querySelector('#view [class]')");
            page.wait(ready);
            // Rates of routes and backends come with the second look.
            std::thread::sleep(Duration::from_secs(if name == "dashboard-map" { 8 } else { 2 }));
            let path = directory.join(format!("{name}{}.png", if dark { "-dark" } else { "" }));
            page.picture(&path);
            let bytes = std::fs::metadata(&path).unwrap().len();
            println!("{} {bytes} bytes", path.display());
            if bytes > MOST {
                large.push((path, bytes));
            }
        }
        let heard = page.heard();
        assert!(heard.complaints.is_empty(), "{:?}", heard.complaints);
    }
    drop(loads);
    large
}
