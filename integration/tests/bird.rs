//! The speaker with BIRD as the router: another reader of what gobgpd sends. What counts is the router's kernel.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::path::Path;
use std::process::{Child, Command, Stdio};

use edge_bgp::{Stopped, Tell};
use edge_integration::edged::until;
use edge_integration::lab::skip;
use edge_integration::netns::{self, Namespace, run_in};
use edge_integration::router::wire;
use edge_integration::speaker::{Rig, announced, bgp, peer, prefix, told, wanted};

const BIRD: &str = "/usr/sbin/bird";
const CONFIG: &str = "router id 10.9.0.1;
protocol device {}
protocol kernel { ipv4 { export all; import none; }; }
protocol kernel { ipv6 { export all; import none; }; }
protocol bgp edge {
  local 10.1.1.2 as 65000;
  neighbor 10.1.1.1 as 65101;
  hold time 9;
  connect retry time 1;
  error wait time 1, 2;
  ipv4 { import all; export none; };
  ipv6 { import all; export none; };
}
";
const V4: &str = "203.0.113.10/32";
const V6: &str = "2001:db8:cafe::10/128";

/// Ends with the test.
struct Bird(Child);

impl Drop for Bird {
    fn drop(&mut self) {
        // It is gone already: the same thing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The gateways of the routes that BIRD has put into the kernel.
fn gateways(router: &Namespace) -> Vec<String> {
    let of = |family: &str| {
        let text = netns::ip(&format!("-n {} -j {family} route show proto bird", router.name())).unwrap();
        let routes: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let routes = routes.as_array().cloned().unwrap_or_default();
        routes.iter().map(|route| route["gateway"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    [of("-4"), of("-6")].concat()
}

#[test]
fn bird_takes_both_families_and_gives_them_back() {
    let missing = || (!Path::new(BIRD).exists()).then(|| format!("{BIRD} is missing (package bird2)"));
    if let Some(why) = netns::available().err().or_else(missing) {
        return skip("bird", &why);
    }
    let edge = Namespace::new("bird-edge").unwrap();
    let router = Namespace::new("bird-router").unwrap();
    wire((&edge, "up0", &["10.1.1.1/30", "fd00:1:1::1/64"]), (&router, "down0", &["10.1.1.2/30", "fd00:1:1::2/64"]));
    let directory = tempfile::Builder::new().prefix("edge-bird-").tempdir().unwrap();
    let config = directory.path().join("bird.conf");
    std::fs::write(&config, CONFIG).unwrap();
    let mut command = Command::new(BIRD);
    command.arg("-f").arg("-c").arg(&config).arg("-s").arg(directory.path().join("bird.ctl"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _bird = Bird(run_in(router.name(), || command.spawn()).unwrap().unwrap());

    let mut plan = bgp(65101, "10.1.1.1");
    plan.peers = vec![peer("bird", "10.1.1.2", 65000)];
    plan.prefixes = vec![prefix(V4, &["bird"]), prefix(V6, &["bird"])];
    let rig = Rig::new(&edge);
    rig.set(announced(&plan));
    rig.established("bird");
    rig.until("adj-out has both", |seen| told(seen, "bird", V4) && told(seen, "bird", V6));
    until("BIRD's kernel has both", || (gateways(&router) == ["10.1.1.1", "fd00:1:1::1"]).then_some(()));
    rig.set(wanted(&plan, Tell::Withdrawn));
    until("BIRD's kernel has none", || gateways(&router).is_empty().then_some(()));
    assert_eq!(rig.stop(), Stopped::Withdrawn);
}
