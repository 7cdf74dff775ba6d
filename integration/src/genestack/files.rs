//! Genestack's own gateway files: where they are, what they publish, and the backends that they name.
//!
//! Flows in: `EDGE_GENESTACK`, or `../shared/genestack` beside the workspace. Flows out: paths and tables. The files are
//! read where they are and never copied.

use std::path::{Path, PathBuf};

use crate::edged::workspace;
use crate::lab::{Origins, Running};
use crate::manifests;

/// What the operator puts in the place of `your.domain.tld`.
pub const DOMAIN: &str = "cloud.example.com";

/// (first label of the host, Service in `openstack`, port): the routes that attach to an HTTPS listener.
pub const OPENSTACK: &[(&str, &str, u16)] = &[
    ("barbican", "barbican-api", 9311),
    ("blazar", "blazar-api", 1234),
    ("cinder", "cinder-api", 8776),
    ("cloudformation", "heat-cfn", 8000),
    ("cloudkitty", "cloudkitty-api", 8089),
    ("designate", "designate-api", 9001),
    ("freezer", "freezer-api", 9090),
    ("glance", "glance-api", 9292),
    ("gnocchi", "gnocchi-api", 8041),
    ("heat", "heat-api", 8004),
    ("ironic", "ironic-api", 6385),
    ("keystone", "keystone-api", 5000),
    ("magnum", "magnum-api", 9511),
    ("masakari", "masakari-api", 15868),
    ("metadata", "nova-metadata", 8775),
    ("neutron", "neutron-server", 9696),
    ("nova", "nova-api", 8774),
    ("novnc", "nova-novncproxy", 6080),
    ("octavia", "octavia-api", 9876),
    ("placement", "placement-api", 8778),
    ("skyline", "skyline-api", 9999),
    ("zaqar", "zaqar-api", 8888),
];
/// The Service in `monitoring` with an HTTPS listener; its label is its name.
pub const GRAFANA: &str = "grafana";
/// A listener that no route of the files attaches to.
pub const WITHOUT_ROUTE: &str = "manila";
const MONITORING: &[(&str, u16)] = &[(GRAFANA, 80), ("loki-gateway", 80)];
/// Services of routes that the files leave dangling.
const DANGLING: &[(&str, &str, u16)] = &[
    ("openstack", "manila-api", 8786),
    ("monitoring", "kube-prometheus-stack-alertmanager", 9093),
    ("monitoring", "kube-prometheus-stack-prometheus", 9090),
];

/// Where the files are.
pub fn files() -> Result<PathBuf, String> {
    let path = match std::env::var_os("EDGE_GENESTACK") {
        Some(path) => PathBuf::from(path),
        None => workspace().join("../shared/genestack"),
    };
    if path.join("etc/gateway-api/routes").is_dir() {
        Ok(path)
    } else {
        Err(format!("{} is not there; set EDGE_GENESTACK", path.display()))
    }
}

/// Labels of all hosts that have an HTTPS listener and a Secret of their own.
pub fn labels() -> impl Iterator<Item = &'static str> {
    OPENSTACK.iter().map(|(label, ..)| *label).chain([GRAFANA, WITHOUT_ROUTE])
}

/// The same under the domain.
pub fn hosts() -> Vec<String> {
    labels().map(|label| format!("{label}.{DOMAIN}")).collect()
}

/// How many listener patches the files have.
pub fn patches(files: &Path) -> usize {
    std::fs::read_dir(files.join("etc/gateway-api/listeners")).map_or(0, Iterator::count)
}

/// Namespaces, Services and endpoints of everything that the routes name, with an origin each; `doubled` have a second one
/// that is named `-2`.
pub fn services(origins: &Origins, at: std::net::IpAddr, doubled: &[&str]) -> (String, Vec<Running>) {
    let mut text = String::new();
    for namespace in ["openstack", "monitoring", "cert-manager"] {
        text.push_str(&format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n"));
    }
    let mut running = Vec::new();
    let openstack = OPENSTACK.iter().map(|(_, service, port)| ("openstack", *service, *port));
    let monitoring = MONITORING.iter().map(|(service, port)| ("monitoring", *service, *port));
    for (namespace, service, port) in openstack.chain(monitoring).chain(DANGLING.iter().copied()) {
        let mut names = vec![service.to_owned()];
        if doubled.contains(&service) {
            names.push(format!("{service}-2"));
        }
        let endpoints: Vec<Running> = names.iter().map(|name| origins.http_at(name, (at, 0).into(), None)).collect();
        let addresses: Vec<_> = endpoints.iter().map(|origin| origin.address).collect();
        text.push_str(&manifests::service(namespace, service, port, &addresses));
        running.extend(endpoints);
    }
    (text, running)
}
