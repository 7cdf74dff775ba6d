//! `podlet`: a kubelet whose Pods are plain processes, for the rig.
//!
//! Flows in: a kubeconfig, programs that stand for images. Flows out: one Node whose Pods really run, each in a network
//! namespace with an address of its own, and true answers about them. There is no container runtime, no image, no DNS,
//! no cgroup: what a Pod's spec says beyond program, environment, volumes and ports has no effect, and what a Pod of the
//! rig could not do without (host network, init containers, other kinds of volume) is refused in its status.
//!
//! One thread runs everything: the containers' death signal hangs on the thread that started them.

#![allow(clippy::print_stdout)]

mod addresses;
mod container;
mod environment;
mod fetch;
mod fleet;
mod launch;
mod listening;
mod logs;
mod node;
mod objects;
mod options;
mod pod;
mod sandbox;
mod schedule;
mod serve;
mod status;
mod volumes;

use std::cell::RefCell;
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use addresses::Pool;
use edge_integration::pki;
use fleet::Fleet;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use logs::Shelf;
use node::Registration;
use options::{Options, USAGE};
use pod::World;
use sandbox::{Gateways, sweep};
use serve::LogServer;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

/// A line on standard error.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => { eprintln!("podlet: {}", format_args!($($words)*)) };
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    if words.peek().is_some_and(|word| word == "launch") {
        say!("launch: {}", launch::run());
        return ExitCode::FAILURE;
    }
    pki::install_provider();
    let options = match Options::parse(words) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("podlet: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say!("runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match LocalSet::new().block_on(&runtime, run(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            say!("{problem}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), String> {
    let mut stops = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    let [Ok(terminate), Ok(interrupt)] = &mut stops else { return Err("signals: cannot be received".to_owned()) };
    let client = client(&options).await?;
    prepare_state(&options).map_err(|error| format!("--state {}: {error}", options.state.display()))?;
    let swept = sweep(&options.prefix, &options.node, &options.pod_cidrs).await;
    if swept > 0 {
        say!("removed {swept} namespaces of a run before");
    }
    let pool = Pool::new(&options.pod_cidrs);
    let gateways = Gateways::add(&options.bridge, &pool.gateways()).await.map_err(|fault| fault.to_string())?;
    let outcome = tokio::select! {
        outcome = work(client, &options, pool) => outcome,
        _ = terminate.recv() => Ok(None),
        _ = interrupt.recv() => Ok(None),
    };
    let outcome = match outcome {
        Ok(Some((mut fleet, registration))) => {
            let schedule = fleet::schedule(Rc::clone(&fleet.world));
            tokio::select! {
                () = fleet.follow() => {}
                () = schedule => {}
                () = registration.keep() => {}
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tokio::join!(registration.retire(), fleet.end());
            Ok(())
        }
        Ok(None) => Ok(()),
        Err(problem) => Err(problem),
    };
    sweep(&options.prefix, &options.node, &options.pod_cidrs).await;
    gateways.remove().await;
    outcome
}

/// Up to the point from which Pods are taken.
async fn work(client: Client, options: &Options, pool: Pool) -> Result<Option<(Fleet, Registration)>, String> {
    let shelf = Arc::new(Shelf::default());
    let wanted = SocketAddr::new(options.node_ip, options.port);
    let server = LogServer::bind(wanted, Arc::clone(&shelf)).await.map_err(|error| format!("{wanted}: {error}"))?;
    let address = server.address().map_err(|error| format!("{wanted}: {error}"))?;
    tokio::task::spawn_local(server.serve());
    let registration = Registration::new(&client, options, address.port());
    registration.register().await?;
    let gateways = pool.gateways();
    let world = World { options: options.clone(), client, pool: RefCell::new(pool), gateways, shelf };
    println!("podlet: node {} is ready, logs at https://{address}", options.node);
    Ok(Some((Fleet::new(Rc::new(world)), registration)))
}

async fn client(options: &Options) -> Result<Client, String> {
    let fault = |cause: String| format!("--kubeconfig {}: {cause}", options.kubeconfig.display());
    let file = Kubeconfig::read_from(&options.kubeconfig).map_err(|error| fault(fetch::innermost(&error)))?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    let config = config.map_err(|error| fault(fetch::innermost(&error)))?;
    Client::try_from(config).map_err(|error| fault(fetch::innermost(&error)))
}

/// An empty directory that only root reads: volumes hold secrets.
fn prepare_state(options: &Options) -> std::io::Result<()> {
    std::fs::create_dir_all(&options.state)?;
    std::fs::set_permissions(&options.state, Permissions::from_mode(0o700))?;
    let pods = options.state.join("pods");
    match std::fs::remove_dir_all(&pods) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::create_dir_all(&pods)?;
    std::fs::create_dir_all(options.state.join("root"))
}
