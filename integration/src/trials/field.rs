//! Thousands of routes on a real control plane, two origins, and an edge that serves them.
//!
//! Flows in: how many routes. Flows out: a cluster in which every route answers, and what the edge says of itself. The
//! Services have no selector and their slices lead to two programs on the node's host: what a route costs is the same,
//! and no Pod has to be run.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::objects::{self, Objects, Plural};
use super::steady::{Plan, Steady};
use crate::client::{Connection, Tls};
use crate::cluster::edge::CLASS;
use crate::cluster::fabric::{CONTROL, NODE};
use crate::cluster::process::{Process, Program, await_within, check_interrupt};
use crate::cluster::{Channel, Cluster};
use crate::edged::{program, run};
use crate::engine::resident;
use crate::lab::block_on;
use crate::netns::run_in;
use crate::pki::{self, Authority, Leaf, Pair};

/// The namespace of the Gateway and of what is not one of many.
pub const HOME: &str = "home";
/// The suffix of every host.
pub const DOMAIN: &str = "trial.test";
/// Two origins, told apart by `x-backend`.
pub const ORIGINS: [(&str, u16); 2] = [("one", 9001), ("two", 9002)];
/// A machine of two cores that does other things as well.
const PATIENCE: Duration = Duration::from_secs(300);
const ROUTES_PER_NAMESPACE: u32 = 100;
const AT_A_TIME: usize = 16;

pub struct Field {
    pub cluster: Cluster,
    origins: Vec<Process>,
    fault: Option<Process>,
    pub routes: u32,
    pub vip: IpAddr,
    authority: Authority,
    /// How long nothing may be written until it counts as rest.
    rest: Duration,
    /// From the start of edged to the first answer through the Gateway.
    pub start: Duration,
}

/// One of the many routes.
pub fn name(index: u32) -> String {
    format!("r{index}")
}

pub fn host(index: u32) -> String {
    format!("r{index}.{DOMAIN}")
}

pub fn origin(index: usize) -> SocketAddr {
    let (_, port) = ORIGINS[index % ORIGINS.len()];
    SocketAddr::new(NODE.into(), port)
}

impl Field {
    /// Everything up and served. The edge speaks with the API server itself, or through `api-fault`.
    pub fn raise(prefix: &str, dir: &Path, routes: u32, through_faults: bool) -> Self {
        pki::install_provider();
        let cluster = Cluster::start(prefix, dir);
        cluster.define(Channel::Experimental);
        let authority = Authority::new("trials").unwrap();
        let origins = ORIGINS.iter().map(|(name, port)| origin_process(&cluster, name, *port)).collect();
        let mut field = Self {
            cluster,
            origins,
            fault: None,
            routes,
            vip: IpAddr::from([0, 0, 0, 0]),
            authority,
            // With few routes nothing is under way for longer.
            rest: Duration::from_millis(if routes > 500 { 3000 } else { 1200 }),
            start: Duration::ZERO,
        };
        let began = Instant::now();
        field.inside(|field| block_on(field.fill()));
        eprintln!("  {routes} routes with Services and slices created in {:.0} s", began.elapsed().as_secs_f64());
        let began = Instant::now();
        field.cluster.start_edge();
        if through_faults {
            field.lead_through_faults();
        }
        field.vip = field.inside(|field| block_on(field.address()));
        let last = host(routes.saturating_sub(1));
        field.inside(|field| field.await_status(&last, 200));
        field.start = began.elapsed();
        field
    }

    /// Runs work in the namespace of the client.
    pub fn inside<T: Send>(&mut self, work: impl FnOnce(&mut Self) -> T + Send) -> T {
        let name = self.cluster.fabric.client.name().to_owned();
        run_in(&name, || work(self)).unwrap()
    }

    pub async fn objects(&self) -> Objects {
        Objects::connect(&self.cluster.control.admin()).await
    }

    pub fn namespaces(&self) -> u32 {
        self.routes.div_ceil(ROUTES_PER_NAMESPACE)
    }

    /// Where one of the many routes is.
    pub fn namespace(&self, index: u32) -> String {
        format!("many-{}", index % self.namespaces().max(1))
    }

    async fn fill(&self) {
        let objects = self.objects().await;
        let spaces = (0..self.namespaces()).map(|index| format!("many-{index}")).chain([HOME.to_owned()]);
        for space in spaces {
            objects.create(Plural::Namespaces, &objects::namespace(&space)).await;
        }
        objects.create(Plural::Secrets, &secret(&self.certificate())).await;
        objects.create(Plural::Gateways, &gateway()).await;
        for (index, (name, _)) in ORIGINS.iter().enumerate() {
            objects.create(Plural::Services, &objects::service(HOME, name)).await;
            objects.create(Plural::EndpointSlices, &objects::slice(HOME, name, origin(index))).await;
        }
        let create = |index: u32| {
            let (objects, space, name) = (objects.clone(), self.namespace(index), name(index));
            async move {
                check_interrupt();
                objects.create(Plural::Services, &objects::service(&space, &name)).await;
                objects.create(Plural::EndpointSlices, &objects::slice(&space, &name, origin(0))).await;
                objects.create(Plural::HttpRoutes, &objects::route(&space, &name, &host(index), &name)).await;
            }
        };
        futures_util::stream::iter((0..self.routes).map(create))
            .buffer_unordered(AT_A_TIME)
            .for_each(async |()| {})
            .await;
    }

    /// The address of the Gateway once it is programmed.
    async fn address(&self) -> IpAddr {
        let objects = self.objects().await;
        let began = Instant::now();
        loop {
            check_interrupt();
            let gateway = objects.look(Plural::Gateways, HOME, "web").await.unwrap_or_default();
            let conditions = gateway["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let is_programmed = conditions.iter().any(|one| one["type"] == "Programmed" && one["status"] == "True");
            let address = gateway["status"]["addresses"][0]["value"].as_str().and_then(|text| text.parse().ok());
            if let (true, Some(address)) = (is_programmed, address) {
                return address;
            }
            assert!(began.elapsed() < PATIENCE, "the Gateway is not programmed: {}", gateway["status"]);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A fresh certificate for every host.
    pub fn certificate(&self) -> Pair {
        self.authority.sign(&Leaf { dns: &[&format!("*.{DOMAIN}")], ..Leaf::default() }).unwrap()
    }

    pub fn http(&self) -> SocketAddr {
        SocketAddr::new(self.vip, 80)
    }

    pub fn https(&self) -> (SocketAddr, Tls) {
        let config = pki::client(&self.authority.certificate, &["http/1.1"], None).unwrap();
        (SocketAddr::new(self.vip, 443), Tls { config, server_name: Some(host(0)) })
    }

    /// One request on a connection of its own: its status, or what went wrong.
    pub fn ask(&self, host: &str) -> Result<u16, String> {
        block_on(async {
            let mut connection = Connection::open(self.http(), None).await?;
            connection.get(host, "/").await
        })
        .map(|reply| reply.status)
        .map_err(|error: std::io::Error| error.to_string())
    }

    pub fn await_status(&self, host: &str, status: u16) {
        await_within(PATIENCE, &format!("{host} answers {status}"), || (self.ask(host) == Ok(status)).then_some(()));
    }

    /// A load on the first of the many routes, over HTTP and HTTPS.
    pub fn load(&self) -> Steady {
        Steady::start(self.plan((0..self.routes.min(20)).map(host).collect()))
    }

    pub fn plan(&self, hosts: Vec<String>) -> Plan {
        Plan {
            http: self.http(),
            https: Some(self.https()),
            hosts,
            backends: ORIGINS.iter().map(|(name, _)| (*name).to_owned()).collect(),
            connections: 8,
            every: Duration::from_millis(20),
            renew: 50,
        }
    }

    /// Resident memory of edged in kB.
    pub fn memory(&mut self) -> u64 {
        resident(self.cluster.edge().process.pid(), "VmRSS")
    }

    /// Writes of status so far, by how they ended.
    pub fn writes(&mut self) -> BTreeMap<String, u64> {
        let dir = self.cluster.dir().to_owned();
        writes(&dir.join("edged.sock"))
    }

    /// Waits until edged has nothing left to say: a second look finds what the first did.
    pub fn await_rest(&mut self) {
        let socket = self.cluster.dir().join("edged.sock");
        let rest = self.rest;
        let mut known = (Instant::now(), writes(&socket));
        await_within(PATIENCE, "no more status is written", || {
            let page = metrics(&socket);
            let is_idle = sum(&page, "edge_kubernetes_status_backlog") == 0;
            let now = writes(&socket);
            if !is_idle || now != known.1 {
                known = (Instant::now(), now);
            }
            (known.0.elapsed() > rest).then_some(())
        });
    }

    /// From now on the edge reaches the API server through `api-fault` only.
    pub fn lead_through_faults(&mut self) {
        let path = |name: &str| self.cluster.dir().join(name);
        let (through, control) = (path("fault.kubeconfig"), path("fault.sock"));
        let fault = Program::new(program("api-fault"))
            .args(["--kubeconfig".into(), self.cluster.control.kubeconfig("edge").into_os_string()])
            .args(["--listen", &format!("{CONTROL}:7443")])
            .args(["--write".into(), through.clone().into_os_string()])
            .args(["--control".into(), control.clone().into_os_string()]);
        let inside = self.cluster.fabric.control.name();
        let mut process = Process::start("api-fault", inside, &fault, &self.cluster.log("api-fault"));
        process.until("api-fault listens", || control.exists().then_some(()));
        self.fault = Some(process);
        self.cluster.edge().reconnect(&through);
    }

    /// Says one line to `api-fault`.
    pub fn tell(&self, line: &str) -> String {
        let socket = self.cluster.dir().join("fault.sock");
        let said = run(&program("api-fault"), &["tell", &socket.display().to_string(), line]);
        assert!(said.code == Some(0), "api-fault, {line}: {}", said.text());
        said.stdout.trim().to_owned()
    }

    /// Requests that `api-fault` saw since the last `reset-counts`, by what they did.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        serde_json::from_str(&self.tell("counts")).unwrap()
    }

    pub fn must_live(&mut self) {
        self.cluster.must_live();
        self.origins.iter_mut().chain(&mut self.fault).for_each(Process::must_live);
    }
}

fn origin_process(cluster: &Cluster, name: &str, port: u16) -> Process {
    let listen = format!("{NODE}:{port}");
    let origin = Program::new(program("demo-backend")).args(["--name", name, "--listen", &listen]);
    Process::start(name, cluster.fabric.node.name(), &origin, &cluster.log(name))
}

fn gateway() -> Value {
    let all = json!({"namespaces": {"from": "All"}});
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "web", "namespace": HOME},
        "spec": {
            "gatewayClassName": CLASS,
            "listeners": [
                {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": all},
                {"name": "https", "port": 443, "protocol": "HTTPS", "allowedRoutes": all,
                 "tls": {"certificateRefs": [{"name": "web-tls"}]}},
            ],
        },
    })
}

fn secret(pair: &Pair) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "web-tls", "namespace": HOME},
        "data": secret_content(&pair.certificate, &pair.key),
    })
}

/// `data` of the Secret, of whatever text.
pub fn secret_content(certificate: &str, key: &str) -> Value {
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    json!({"tls.crt": encode(certificate), "tls.key": encode(key)})
}

/// The metrics page of an edged, over its control socket.
pub fn metrics(socket: &Path) -> String {
    let ask = || -> std::io::Result<String> {
        let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: edge\r\nconnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(page)
    };
    ask().unwrap_or_default()
}

/// The sum of the samples of a family.
pub fn sum(page: &str, family: &str) -> u64 {
    samples(page, family).values().sum()
}

fn samples(page: &str, family: &str) -> BTreeMap<String, u64> {
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        let labels = name.strip_prefix(family)?;
        (labels.is_empty() || labels.starts_with('{')).then_some(())?;
        Some((labels.to_owned(), value.parse::<f64>().ok()? as u64))
    };
    page.lines().filter_map(sample).collect()
}

/// Writes of status so far, by kind and how they ended.
pub fn writes(socket: &Path) -> BTreeMap<String, u64> {
    samples(&metrics(socket), "edge_kubernetes_status_writes_total")
}

/// How many more there are now.
pub fn more(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> u64 {
    after.values().sum::<u64>().saturating_sub(before.values().sum())
}

/// The configuration and the state of one more edge, beside those of the first.
pub fn beside(dir: &Path, name: &str) -> PathBuf {
    let dir = dir.join(name);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_family() {
        let page = "# TYPE a counter\na_total{kind=\"x\"} 3\na_total{kind=\"y\"} 4\na_total_more 9\nb 1\n";
        assert_eq!(sum(page, "a_total"), 7);
        assert_eq!(sum(page, "b"), 1);
        assert_eq!(sum(page, "c"), 0);
    }
}
