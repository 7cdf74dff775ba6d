//! What every scenario needs: a lab, a CA, an edged that orders from it, and a look at what is served.

use std::net::SocketAddr;
use std::time::Duration;

use edge_integration::acme::{Pebble, Settings};
use edge_integration::client::{Connection, Tls};
use edge_integration::edged::until_within;
use edge_integration::lab::{Lab, block_on, skip};
use edge_integration::manifests::{CLASS, gateway, http_route, service, to};
use edge_integration::pki;

/// For an order on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Bench {
    pub lab: Lab,
    pub pebble: Pebble,
}

/// A CA that finds the lab's VIP under every name, and an edged (not started) that orders from it.
pub fn bench(scenario: &str, change: impl FnOnce(&mut Settings), solvers: &str) -> Option<Bench> {
    let lab = Lab::new();
    let mut settings = Settings { names_lead_to: lab.vip, ..Settings::default() };
    change(&mut settings);
    match Pebble::start(&settings) {
        Ok(pebble) => {
            configure(&lab, &[("pebble", &pebble)], solvers);
            Some(Bench { lab, pebble })
        }
        Err(why) => {
            skip(scenario, &why);
            None
        }
    }
}

pub fn configure(lab: &Lab, cas: &[(&str, &Pebble)], solvers: &str) {
    let dns = cas[0].1.names.dns;
    let names: Vec<String> = cas.iter().map(|(name, _)| format!("\"issuers.{name}\"")).collect();
    let mut text = format!("[certificates]\nissuers = [{}]\nresolvers = [\"{dns}\"]\n", names.join(", "));
    for (name, pebble) in cas {
        lab.write_file(&format!("{name}.pem"), pebble.trust());
        let file = lab.path(&format!("{name}.pem"));
        text.push_str(&format!(
            "\n[issuers.{name}]\ndirectory = \"{}\"\nca_file = \"{}\"\n{}",
            pebble.directory(),
            file.display(),
            solvers.replace("[[solver]]", &format!("[[issuers.{name}.solver]]"))
        ));
    }
    lab.write_config(&text);
}

impl Bench {
    pub fn trust(&self) -> Tls {
        trust(&self.pebble, "")
    }

    pub fn https(&self) -> SocketAddr {
        self.lab.at(443)
    }

    /// Waits until a name is served with a certificate of the CA; gives the leaf.
    pub fn served(&self, name: &str) -> Vec<u8> {
        served(self.https(), &self.pebble, name)
    }

    pub fn orders(&self) -> usize {
        self.pebble.log().matches("Added order").count()
    }

    /// Authorizations that the CA has found wanting.
    pub fn validated_in_vain(&self) -> usize {
        self.pebble.log().matches("set INVALID by completed challenge").count()
    }
}

pub fn trust(pebble: &Pebble, name: &str) -> Tls {
    Tls { config: pki::client(&pebble.root(0), &["http/1.1"], None).unwrap(), server_name: Some(name.to_owned()) }
}

pub fn served(address: SocketAddr, pebble: &Pebble, name: &str) -> Vec<u8> {
    served_by(address, &trust(pebble, name), name)
}

/// Waits until a name is served with what this client trusts; gives the leaf.
pub fn served_by(address: SocketAddr, tls: &Tls, name: &str) -> Vec<u8> {
    let leaf = || {
        let opened = block_on(Connection::open(address, Some(tls))).ok()?;
        opened.handshake.certificates.first().map(|leaf| leaf.to_vec())
    };
    until_within(PATIENCE, &format!("{name} is served with a certificate of the CA"), leaf)
}

pub const PORT_80: &str = "    - {name: http, port: 80, protocol: HTTP}\n";

pub fn https(name: &str, hostname: &str) -> String {
    let hostname = if hostname.is_empty() { String::new() } else { format!(", hostname: \"{hostname}\"") };
    format!(
        "    - {{name: {name}, port: 443, protocol: HTTPS{hostname}, tls: {{certificateRefs: [{{name: {name}-tls}}]}}}}\n"
    )
}

/// Whatever comes to port 80 goes to HTTPS.
pub fn redirect() -> String {
    let rule = "    - filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]\n";
    http_route("redirect", &[], rule).replace("{name: web}", "{name: web, sectionName: http}")
}

pub fn shop(lab: &Lab, listeners: &str, hosts: &[&str]) -> edge_integration::lab::Running {
    let origin = lab.origin("shop");
    let route = http_route("shop", hosts, &to("shop", 80));
    let route = match listeners.contains("name: shop,") {
        true => route.replace("{name: web}", "{name: web, sectionName: shop}"),
        false => route,
    };
    let manifests = [CLASS, &gateway("web", listeners), &service("default", "shop", 80, &[origin.address]), &route];
    lab.manifest("web.yaml", &manifests.concat());
    origin
}

/// What a port says of itself in a handshake that trusts the internal CA.
pub fn placeholder(lab: &Lab, name: &str) -> Option<Vec<u8>> {
    let tls = lab.tls(name, &["http/1.1"]);
    let opened = block_on(Connection::open(lab.at(443), Some(&tls))).ok()?;
    Some(opened.handshake.certificates.first()?.to_vec())
}

pub const TSIG: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
