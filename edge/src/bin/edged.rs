//! `edged`: the daemon. Reads `edge.toml`, serves until SIGTERM or SIGINT, reads again on SIGHUP. Under the name
//! `edge-guard`, which it gives itself, it is the guard of another edged (see `edge::vip::guard`), and as `edge-minder` the
//! parent of its gobgpd (see `edge_bgp::child::minder`).

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use edge::supervisor::{self, StartError};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Gateway, load balancer and certificate authority for bare-metal edges
///
/// SIGHUP reads the configuration again (edgectl upgrade also takes up a new program); SIGUSR1 reopens the access log; SIGTERM and SIGINT drain and stop.
///
/// Exit codes: 0 stopped on request, 64 wrong arguments, 70 could not start, 78 edge.toml has faults.
#[derive(Parser)]
#[command(name = "edged", version)]
struct Arguments {
    /// Path of edge.toml
    #[arg(long, value_name = "FILE", default_value = "/etc/edge/edge.toml")]
    config: PathBuf,
    /// Take the place of the edged that runs, which is at the other end of standard input; edged starts itself so
    #[arg(long, hide = true)]
    take_over: bool,
}

/// Exit codes as in sysexits.h.
const USAGE: u8 = 64;
const SOFTWARE: u8 = 70;
const CONFIG: u8 = 78;

fn main() -> ExitCode {
    if let Err(error) = edge::privileges::take() {
        eprintln!("edged: the capabilities of its file stay unused: {error}");
    }
    if let Some(code) = edge::vip::guard::if_asked() {
        return code;
    }
    if let Some(code) = edge_bgp::child::minder::if_asked() {
        return code;
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nothing is left to do when even this cannot be written.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    if let Err(error) = edge::memory::keep_pages_small() {
        eprintln!("edged: huge pages stay on, memory use is higher: {error}");
    }
    edge::memory::free_pages_soon();
    edge::proxy::tls::install_provider();
    match supervisor::run(&arguments.config, arguments.take_over) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in chain(&error).lines() {
                eprintln!("edged: {line}");
            }
            ExitCode::from(if matches!(error, StartError::Configuration(_)) { CONFIG } else { SOFTWARE })
        }
    }
}

/// The whole story of an error: each level prints its own part only.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
