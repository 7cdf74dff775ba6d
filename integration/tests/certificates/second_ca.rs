//! Caddy's `acme_server` as another CA than Pebble: http-01, tls-alpn-01 and a renewal.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use edge_integration::acme::Names;
use edge_integration::acme::ask::free_port;
use edge_integration::client::Tls;
use edge_integration::cluster::process::{Process, Program};
use edge_integration::edged::until_within;
use edge_integration::lab::{Lab, skip};
use edge_integration::pki;

use super::bench::{PATIENCE, PORT_80, https, served_by, shop};

const CADDY: &str = "/usr/bin/caddy";
/// Caddy asks the system's resolver, and is given one in a mount namespace of its own.
const UNSHARE: &str = "/usr/bin/unshare";

struct Caddy {
    _process: Process,
    at: SocketAddr,
    dir: std::path::PathBuf,
}

impl Caddy {
    fn start(lab: &Lab, dns: IpAddr) -> Self {
        let dir = lab.path("caddy");
        std::fs::create_dir(&dir).unwrap();
        let at = SocketAddr::new([127, 0, 0, 1].into(), free_port("", [127, 0, 0, 1].into()));
        lab.write_file("caddy/resolv.conf", &format!("nameserver {dns}\n"));
        lab.write_file(
            "caddy/Caddyfile",
            &format!(
                "{{\n  admin off\n  skip_install_trust\n  auto_https disable_redirects\n  storage file_system {}\n}}\n\
                 https://127.0.0.1:{} {{\n  tls internal\n  acme_server\n}}\n",
                dir.join("storage").display(),
                at.port()
            ),
        );
        let script = format!("mount --bind {}/resolv.conf /etc/resolv.conf && exec \"$@\"", dir.display());
        let config = dir.join("Caddyfile");
        let program = Program::new(UNSHARE)
            .args(["-m", "sh", "-c", &script, "sh", CADDY, "run", "--adapter", "caddyfile", "--config"])
            .arg(&config)
            .env("HOME", dir.as_os_str());
        let mut process = Process::start("caddy", "", &program, &dir.join("caddy.log"));
        process.until("caddy listens", || std::net::TcpStream::connect(at).ok());
        Self { _process: process, at, dir }
    }

    fn root(&self) -> String {
        let path = self.dir.join("storage/pki/authorities/local/root.crt");
        until_within(PATIENCE, "Caddy's root", || std::fs::read_to_string(&path).ok().filter(|pem| pem.contains("END")))
    }
}

#[test]
fn caddy_issues_by_both_challenges_and_renews() {
    if !Path::new(CADDY).exists() || !Path::new(UNSHARE).exists() || !rustix::process::geteuid().is_root() {
        return skip("caddy", "it takes root, unshare(1) and Debian's caddy");
    }
    for (solver, ports) in [("http-01", &[80_u16, 443][..]), ("tls-alpn-01", &[443])] {
        let mut lab = Lab::new();
        // A resolver is asked on port 53 of an address that nobody else has.
        let dns = SocketAddr::new(lab.vip, 53);
        let names = match std::path::Path::new(edge_integration::acme::names::CHALLTESTSRV).exists() {
            true => Names::start_at("", dns, lab.vip, lab.dir()),
            false => return skip("caddy", "no pebble-challtestsrv (Debian package pebble)"),
        };
        let caddy = Caddy::start(&lab, dns.ip());
        lab.write_file("caddy.pem", &caddy.root());
        lab.write_config(&format!(
            "[certificates]\nissuers = [\"issuers.caddy\"]\nresolvers = [\"{}\"]\n\n[issuers.caddy]\n\
             directory = \"https://{}/acme/local/directory\"\nca_file = \"{}\"\n\n[[issuers.caddy.solver]]\ntype = \"{solver}\"\n",
            names.dns,
            caddy.at,
            lab.path("caddy.pem").display(),
        ));
        let mut listeners = https("shop", "shop.example.com");
        if solver == "http-01" {
            listeners = [PORT_80, &listeners].concat();
        }
        let _origin = shop(&lab, &listeners, &["shop.example.com"]);
        lab.start(ports);
        let tls = || Tls {
            config: pki::client(&caddy.root(), &["http/1.1"], None).unwrap(),
            server_name: Some("shop.example.com".to_owned()),
        };
        let at = lab.at(443);
        let first = served_by(at, &tls(), "shop.example.com");
        lab.edged().ctl(&["cert", "renew", "shop.example.com"]);
        until_within(PATIENCE, &format!("a renewal by {solver}"), || {
            (served_by(at, &tls(), "shop.example.com") != first).then_some(())
        });
        let text = lab.edged().ctl(&["cert", "show", "shop.example.com"]).text();
        assert!(text.contains("issuers.caddy"), "{text}");
    }
}
