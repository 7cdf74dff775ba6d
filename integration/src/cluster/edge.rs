//! `edged` on a host of the rig, with Kubernetes as its only source of objects.
//!
//! Flows in: a started [`Cluster`]. Flows out: the running daemon, its control socket and its configuration. Its user in
//! the API is `edge`, who may do what the rights below say.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cluster::Cluster;
use crate::cluster::process::{Process, Program};
use crate::edged::{Said, program, run, workspace};
use crate::netns::Namespace;

/// The class that the conformance suite uses, and any scenario may.
pub const CLASS: &str = "gateway-conformance";
pub const CONTROLLER: &str = "edge.internal/gateway-controller";
/// Addresses that Gateways get.
const POOL: &str = "10.99.0.1-10.99.0.199";
/// The pool of both IP families, for who names it.
pub const BOTH_FAMILIES: &str = "both-families";
const POOL_OF_BOTH: [&str; 2] = ["10.99.0.210-10.99.0.219", "fd99::1-fd99::ff"];
/// An address that is only given to who asks for it.
pub const USABLE: &str = "10.99.0.250";
/// An address that Edge has not.
pub const UNUSABLE: &str = "10.98.0.1";

pub struct EdgeHost {
    pub process: Process,
    config: PathBuf,
    socket: PathBuf,
    inside: String,
    log: PathBuf,
}

impl EdgeHost {
    /// Starts it with rights and a class of its own, and more in its configuration; returns when it answers on its control
    /// socket.
    pub fn start(cluster: &Cluster, more: &str) -> Self {
        // No more than these: a right that is missing fails a scenario.
        for rights in ["edge-read.yaml", "edge-write.yaml"] {
            cluster.apply_file(&workspace().join("manifests").join(rights));
        }
        cluster.apply("edge-class", &class(CLASS));
        let dir = cluster.dir();
        let kubeconfig = cluster.control.kubeconfig("edge");
        Self::run(&cluster.fabric.edge, dir, &[&toml(dir, &kubeconfig), more].concat())
    }

    /// Starts one on a host with a configuration that places its state, its socket and its log in this directory.
    pub fn run(host: &Namespace, dir: &Path, toml: &str) -> Self {
        let config = dir.join("edge.toml");
        std::fs::write(&config, toml).unwrap();
        let (socket, log) = (dir.join("edged.sock"), dir.join("edged.log"));
        let inside = host.name().to_owned();
        let mut process = daemon(&inside, &config, &log);
        process.until("edged answers", || socket.exists().then_some(()));
        Self { process, config, socket, inside, log }
    }

    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Runs edgectl against it.
    pub fn ctl(&self, arguments: &[&str]) -> Said {
        let socket = self.socket.display().to_string();
        run(&program("edgectl"), &[&["--socket", &socket], arguments].concat())
    }

    /// Reaches the API server by another kubeconfig from now on: it is started again.
    pub fn reconnect(&mut self, kubeconfig: &Path) {
        let text = std::fs::read_to_string(&self.config).unwrap();
        let line = format!("kubeconfig = \"{}\"", kubeconfig.display());
        let lines: Vec<&str> =
            text.lines().map(|old| if old.starts_with("kubeconfig = ") { line.as_str() } else { old }).collect();
        std::fs::write(&self.config, lines.join("\n")).unwrap();
        self.restart(Duration::from_secs(60));
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends it, by force where `patience` is zero, and starts it again.
    pub fn restart(&mut self, patience: Duration) {
        self.restart_after(patience, || ());
    }

    /// The same, with something done in between.
    pub fn restart_after(&mut self, patience: Duration, between: impl FnOnce()) {
        self.process.stop(patience);
        between();
        let _ = std::fs::remove_file(&self.socket);
        self.process = daemon(&self.inside, &self.config, &self.log);
        let socket = &self.socket;
        self.process.until("edged answers again", || socket.exists().then_some(()));
    }
}

fn daemon(inside: &str, config: &Path, log: &Path) -> Process {
    let program = Program::new(program("edged")).args(["--config".into(), config.as_os_str().to_owned()]);
    Process::start("edged", inside, &program, log)
}

/// A GatewayClass of Edge's.
pub fn class(name: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata:
  name: {name}
spec:
  controllerName: {CONTROLLER}
"
    )
}

/// How edges of the rig are configured.
pub fn toml(dir: &Path, kubeconfig: &Path) -> String {
    let (dir, kubeconfig) = (dir.display(), kubeconfig.display());
    // `debug` tells how long each step of a change took.
    let level = std::env::var("EDGE_LOG_LEVEL").unwrap_or_else(|_| "info".to_owned());
    format!(
        r#"[state]
directory = "{dir}/state"

[kubernetes]
kubeconfig = "{kubeconfig}"

[gateway]
controller_names = ["{CONTROLLER}"]

[[pool]]
name = "rig"
addresses = ["{POOL}"]

[[pool]]
name = "on-request"
addresses = ["{USABLE}/32"]
auto_assign = false

[[pool]]
name = "{BOTH_FAMILIES}"
addresses = {POOL_OF_BOTH:?}
auto_assign = false

[vips]
interface = "lo"

[control]
socket = "{dir}/edged.sock"

[log]
level = "{level}"
format = "human"
"#
    )
}
