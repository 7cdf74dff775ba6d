//! A Kubernetes cluster for scenarios: a real control plane, a node that runs Pods as processes, and the edge beside it.
//!
//! Flows in: a prefix that keeps rigs apart, and the programs that `integration/run/cluster` builds. Flows out: hosts in
//! namespaces, kubeconfigs, and an API that nothing stands in for. Needs root. Everything ends with the [`Cluster`].

#![allow(clippy::panic, clippy::unwrap_used)]

pub mod control;
pub mod edge;
pub mod fabric;
pub mod objects;
pub mod process;
pub mod suite;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::process::Signal;

use self::control::{ControlPlane, Server};
use self::edge::EdgeHost;
use self::fabric::{Fabric, NODE, POD_BRIDGE, POD_CIDR};
use self::process::{Process, Program};
use crate::edged::{Said, program, workspace};

/// A channel of the Gateway API's definitions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Channel {
    Standard,
    Experimental,
}

/// What `integration/run/cluster` built.
#[derive(Clone)]
pub struct Programs {
    dir: PathBuf,
}

impl Programs {
    /// Builds what is missing; the first time that takes ten minutes and more.
    pub fn ready() -> Self {
        static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
        let dir = DIRECTORY.get_or_init(|| {
            let script = workspace().join("integration/run/cluster");
            let output = Command::new(&script).stderr(std::process::Stdio::inherit()).output();
            let output = output.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
            assert!(output.status.success(), "{} failed", script.display());
            String::from_utf8_lossy(&output.stdout).trim().into()
        });
        Self { dir: dir.clone() }
    }

    pub fn control_plane(&self) -> PathBuf {
        self.dir.join("control-plane")
    }

    pub fn suite(&self) -> PathBuf {
        self.dir.join("conformance.test")
    }

    pub fn definitions(&self, channel: Channel) -> PathBuf {
        self.dir.join(match channel {
            Channel::Standard => "crds/standard",
            Channel::Experimental => "crds/experimental",
        })
    }

    fn image(&self, name: &str) -> String {
        format!("{name}={}", self.dir.join(name).display())
    }
}

pub struct Cluster {
    // Dropped in this order: those who ask, those who answer, the network, the files.
    edge: Option<EdgeHost>,
    node: Option<Process>,
    pub control: ControlPlane,
    pub fabric: Fabric,
    pub programs: Programs,
    dir: PathBuf,
}

impl Cluster {
    /// A control plane without a node, without definitions, without an edge. What it writes is kept in `dir`, emptied
    /// first.
    pub fn start(prefix: &str, dir: &Path) -> Self {
        Self::start_with(prefix, dir, Server::default())
    }

    /// The same with an API server of some kind.
    pub fn start_with(prefix: &str, dir: &Path, server: Server) -> Self {
        let programs = Programs::ready();
        let _ = std::fs::remove_dir_all(dir);
        std::fs::create_dir_all(dir).unwrap();
        let dir = dir.canonicalize().unwrap();
        let fabric = Fabric::new(prefix);
        let control = ControlPlane::start(&fabric.control, &programs.control_plane(), &dir, server);
        Self { edge: None, node: None, control, fabric, programs, dir }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    /// Runs kubectl as the administrator; panics when it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> Said {
        let said = self.control.kubectl(arguments);
        assert!(said.code == Some(0), "kubectl {arguments:?}: {}", said.text());
        said
    }

    /// Applies manifests by server-side apply.
    pub fn apply(&self, name: &str, manifests: &str) {
        let path = self.dir.join(format!("{name}.yaml"));
        std::fs::write(&path, manifests).unwrap();
        self.apply_file(&path);
    }

    /// Applies a file or a directory by server-side apply.
    pub fn apply_file(&self, path: &Path) {
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &path.display().to_string()]);
    }

    /// The Gateway API's own definitions; returns when the API server serves them.
    pub fn define(&self, channel: Channel) {
        self.apply_file(&self.programs.definitions(channel));
        self.kubectl(&["wait", "--for=condition=Established", "--timeout=120s", "crd", "--all"]);
    }

    /// The node: returns when Kubernetes calls it ready.
    pub fn start_node(&mut self) {
        let node = Program::new(program("podlet"))
            .args(["--kubeconfig".into(), self.control.admin().into_os_string()])
            .args(["--node", "node1", "--node-ip", &NODE.to_string(), "--pod-cidr", POD_CIDR])
            .args(["--bridge", POD_BRIDGE, "--prefix", &format!("{}-", self.fabric.node.name())])
            .args(["--image", &self.programs.image("echo-basic"), "--image", &self.programs.image("coredns")])
            .args(["--state".into(), self.dir.join("podlet").into_os_string()]);
        let mut node = Process::start("podlet", self.fabric.node.name(), &node, &self.log("podlet"));
        node.until("node1 is ready", || {
            let said = self.control.kubectl(&["get", "node", "node1", "--output", READY]);
            (said.stdout == "True").then_some(())
        });
        self.node = Some(node);
    }

    pub fn node(&mut self) -> &mut Process {
        self.node.as_mut().expect("the node was started")
    }

    /// The edge with Kubernetes as its source.
    pub fn start_edge(&mut self) {
        self.start_edge_with("");
    }

    /// The same with more in its configuration.
    pub fn start_edge_with(&mut self, more: &str) {
        self.edge = Some(EdgeHost::start(self, more));
    }

    /// The edge, to ask it something.
    pub fn edge_seen(&self) -> &EdgeHost {
        self.edge.as_ref().expect("the edge was started")
    }

    pub fn edge(&mut self) -> &mut EdgeHost {
        self.edge.as_mut().expect("the edge was started")
    }

    /// Panics with the last words of a part that is gone.
    pub fn must_live(&mut self) {
        self.control.must_live();
        if let Some(node) = &mut self.node {
            node.must_live();
        }
        if let Some(edge) = &mut self.edge {
            edge.process.must_live();
        }
    }
}

const READY: &str = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;

impl Drop for Cluster {
    fn drop(&mut self) {
        self.edge.take();
        if let Some(node) = &self.node {
            // It takes the Pods' namespaces away.
            node.signal(Signal::TERM);
        }
        self.node.take();
    }
}
