//! etcd, the API server and the controllers: certificates, command lines, and when they are ready.
//!
//! Flows in: the namespace of the control plane and a directory. Flows out: a cluster without a node, and kubeconfigs.
//! The API server is the real one with RBAC; there is no scheduler, since `podlet` binds Pods itself.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

use crate::cluster::fabric::CONTROL;
use crate::cluster::process::{LIMIT, Process, Program, check_interrupt};
use crate::edged::Said;
use crate::lab::block_on;
use crate::netns::{Namespace, run_in};
use crate::pki::{self, Authority, Leaf, Pair};

const SERVICES: &str = "10.96.0.0/16,fd96::/108";

/// In what API servers differ.
#[derive(Debug, Clone, Copy)]
pub struct Server {
    /// Whether a watch may begin with a list. Never with an etcd before 3.5; and where it is switched off.
    pub streams_lists: bool,
}

impl Default for Server {
    fn default() -> Self {
        Self { streams_lists: true }
    }
}

pub struct ControlPlane {
    // Dropped in this order.
    controllers: Process,
    apiserver: Option<Process>,
    etcd: Option<Process>,
    namespace: String,
    program: PathBuf,
    dir: PathBuf,
    ca: Authority,
    server: Server,
}

/// Where the API server listens.
pub fn server() -> String {
    format!("https://{CONTROL}:6443")
}

impl ControlPlane {
    /// Returns when the API server is ready and the controllers work. The directory keeps keys, database and logs.
    pub fn start(inside: &Namespace, program: &Path, dir: &Path, server: Server) -> Self {
        pki::install_provider();
        let ca = Authority::new("edge-rig").unwrap();
        std::fs::write(dir.join("ca.crt"), &ca.certificate).unwrap();
        let address = CONTROL.to_string();
        let names = [&*address, "127.0.0.1", "10.96.0.1", "localhost", "kubernetes.default.svc"];
        keep(dir, "apiserver", &ca.sign(&Leaf { dns: &names, ..Leaf::default() }).unwrap());
        keep(dir, "kubelet-client", &user(&ca, "kube-apiserver", "system:masters"));
        let (private, public) = pki::key_halves().unwrap();
        std::fs::write(dir.join("service-accounts.key"), private).unwrap();
        std::fs::write(dir.join("service-accounts.pub"), public).unwrap();
        std::fs::write(dir.join("admin.kubeconfig"), kubeconfig(&ca, "admin", "system:masters")).unwrap();
        let controllers = kubeconfig(&ca, "system:kube-controller-manager", "");
        std::fs::write(dir.join("controllers.kubeconfig"), controllers).unwrap();

        let run = |name: &str, arguments: &[String]| process(inside.name(), program, dir, name, arguments);
        let etcd = run("etcd", &etcd(dir));
        let mut apiserver = run("kube-apiserver", &apiserver(dir, server));
        let admin = dir.join("admin.kubeconfig");
        ask(inside.name(), &mut apiserver, "the API server is ready", &admin, ready);
        let mut controllers = run("kube-controller-manager", &self::controllers(dir));
        ask(inside.name(), &mut controllers, "the controllers work", &admin, accounts);
        let (namespace, program, dir) = (inside.name().to_owned(), program.to_owned(), dir.to_owned());
        Self { controllers, apiserver: Some(apiserver), etcd: Some(etcd), namespace, program, dir, ca, server }
    }

    /// Takes the API server away, as a crash would; etcd and the controllers stay.
    pub fn stop_apiserver(&mut self) {
        if let Some(mut process) = self.apiserver.take() {
            process.stop(Duration::ZERO);
        }
    }

    /// Brings it back, and returns when it is ready.
    pub fn start_apiserver(&mut self) {
        let mut process =
            process(&self.namespace, &self.program, &self.dir, "kube-apiserver", &apiserver(&self.dir, self.server));
        ask(&self.namespace, &mut process, "the API server is ready again", &self.admin(), ready);
        self.apiserver = Some(process);
    }

    /// Takes the API server and its database away, as a crash of their host would; the controllers stay.
    pub fn stop(&mut self) {
        self.stop_apiserver();
        if let Some(mut process) = self.etcd.take() {
            process.stop(Duration::ZERO);
        }
    }

    /// Brings both back, and returns when the API server is ready.
    pub fn start_again(&mut self) {
        self.etcd = Some(process(&self.namespace, &self.program, &self.dir, "etcd", &etcd(&self.dir)));
        self.start_apiserver();
    }

    /// Panics with its last words when a part of it is gone.
    pub fn must_live(&mut self) {
        self.controllers.must_live();
        self.etcd.iter_mut().chain(&mut self.apiserver).for_each(Process::must_live);
    }

    /// The kubeconfig of a cluster administrator.
    pub fn admin(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    /// Writes a kubeconfig for a user of their own.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        let path = self.dir.join(format!("{user}.kubeconfig"));
        std::fs::write(&path, kubeconfig(&self.ca, user, "")).unwrap();
        path
    }

    /// Runs kubectl as the administrator.
    pub fn kubectl(&self, arguments: &[&str]) -> Said {
        let program = Program::new(&self.program)
            .arg("kubectl")
            .args(arguments)
            .env("KUBECONFIG", self.admin())
            .env("HOME", &self.dir);
        let output = program.command(&self.namespace).output().unwrap();
        Said {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

fn process(inside: &str, program: &Path, dir: &Path, name: &str, arguments: &[String]) -> Process {
    let program = Program::new(program).arg(name).args(arguments);
    Process::start(name, inside, &program, &dir.join(format!("{name}.log")))
}

fn etcd(dir: &Path) -> [String; 2] {
    [format!("--data-dir={}", dir.join("etcd").display()), "--unsafe-no-fsync".to_owned()]
}

fn apiserver(dir: &Path, server: Server) -> Vec<String> {
    let path = |name: &str| dir.join(name).display().to_string();
    vec![
        "--etcd-servers=http://127.0.0.1:2379".to_owned(),
        "--secure-port=6443".to_owned(),
        format!("--advertise-address={CONTROL}"),
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--tls-cert-file={}", path("apiserver.crt")),
        format!("--tls-private-key-file={}", path("apiserver.key")),
        format!("--client-ca-file={}", path("ca.crt")),
        format!("--kubelet-client-certificate={}", path("kubelet-client.crt")),
        format!("--kubelet-client-key={}", path("kubelet-client.key")),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", path("service-accounts.pub")),
        format!("--service-account-signing-key-file={}", path("service-accounts.key")),
        format!("--service-cluster-ip-range={SERVICES}"),
        "--allow-privileged=true".to_owned(),
        format!("--feature-gates=WatchList={}", server.streams_lists),
    ]
}

fn controllers(dir: &Path) -> Vec<String> {
    let path = |name: &str| dir.join(name).display().to_string();
    let kubeconfig = path("controllers.kubeconfig");
    vec![
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        "--leader-elect=false".to_owned(),
        "--use-service-account-credentials=true".to_owned(),
        format!("--service-account-private-key-file={}", path("service-accounts.key")),
        format!("--root-ca-file={}", path("ca.crt")),
        // The suite makes and deletes hundreds of objects; the default of 20 a second would be what it waits for.
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=400".to_owned(),
        // A busy machine is not a dead node.
        "--node-monitor-grace-period=120s".to_owned(),
    ]
}

/// A client of the API, for the thread it is made on.
pub async fn client(kubeconfig: &Path) -> kube::Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config)
}

/// Asks until the answer is yes, as long as the process lives.
fn ask(
    inside: &str,
    process: &mut Process,
    what: &str,
    kubeconfig: &Path,
    question: impl AsyncFn(Client) -> bool + Sync,
) {
    let work = || {
        block_on(async {
            let client = client(kubeconfig).await.unwrap();
            let start = Instant::now();
            while !question(client.clone()).await {
                process.must_live();
                check_interrupt();
                assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    };
    run_in(inside, work).unwrap();
}

async fn ready(client: Client) -> bool {
    let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
    matches!(client.request_text(request).await, Ok(text) if text == "ok")
}

/// The account that every namespace gets is the work of one of the controllers.
async fn accounts(client: Client) -> bool {
    Api::<ServiceAccount>::namespaced(client, "default").get("default").await.is_ok()
}

fn user(ca: &Authority, name: &str, group: &str) -> Pair {
    let organisation = (!group.is_empty()).then_some(group);
    ca.sign(&Leaf { client: true, common_name: Some(name), organisation, ..Leaf::default() }).unwrap()
}

fn keep(dir: &Path, name: &str, pair: &Pair) {
    std::fs::write(dir.join(format!("{name}.crt")), &pair.certificate).unwrap();
    std::fs::write(dir.join(format!("{name}.key")), &pair.key).unwrap();
}

/// A kubeconfig that holds all it needs; JSON is YAML.
fn kubeconfig(ca: &Authority, name: &str, group: &str) -> String {
    let pair = user(ca, name, group);
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "rig",
        "clusters": [{"name": "rig", "cluster": {
            "server": server(), "certificate-authority-data": encode(&ca.certificate),
        }}],
        "users": [{"name": name, "user": {
            "client-certificate-data": encode(&pair.certificate), "client-key-data": encode(&pair.key),
        }}],
        "contexts": [{"name": "rig", "context": {"cluster": "rig", "user": name}}],
    })
    .to_string()
}
