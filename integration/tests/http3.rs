//! HTTP/3 with a client that shares no code with Edge (quic-go): what it asks and gets, how it moves between ports, what the
//! status, the log and the counters say of it.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::Command;

use edge_integration::client::{fetch, within};
use edge_integration::edged::{until, workspace};
use edge_integration::lab::{HTTPS, Lab, block_on};
use edge_integration::manifests::{CLASS, LISTENERS, gateway, http_route, service, to};
use serde_json::Value;

const POLICY: &str = "---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: ClientTrafficPolicy
metadata: {name: http3, namespace: default}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: web}]
  http3: {}
";

fn client() -> PathBuf {
    let built = Command::new(workspace().join("integration/run/peers")).output().unwrap();
    assert!(built.status.success(), "no client: {}", String::from_utf8_lossy(&built.stderr));
    PathBuf::from(String::from_utf8(built.stdout).unwrap().trim()).join("http3-client")
}

/// What the client says, or why it could not.
fn ask(lab: &Lab, client: &PathBuf, arguments: &[&str]) -> Result<Value, String> {
    let connect = lab.at(HTTPS).to_string();
    let mut command = Command::new(client);
    command.args(["-connect", &connect, "-host", "a.test"]).args(arguments);
    let output = command.output().unwrap();
    if output.status.success() {
        return Ok(serde_json::from_slice(&output.stdout).unwrap());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn behind(lab: &Lab, policy: &str) -> String {
    let origin = lab.origin("a");
    let objects = [
        CLASS,
        &gateway("web", LISTENERS),
        &service("default", "a", 80, &[origin.address]),
        &http_route("all", &["a.test"], &to("a", 80)),
        policy,
    ];
    objects.concat()
}

fn alt_svc(lab: &Lab) -> Option<String> {
    let (address, tls) = (lab.at(HTTPS), lab.tls("a.test", &["http/1.1"]));
    let answer = block_on(within("TCP", fetch(address, Some(&tls), "a.test", "/"))).unwrap();
    answer.headers.into_iter().find_map(|(name, value)| (name == "alt-svc").then_some(value))
}

#[test]
fn somebody_elses_client_is_served() {
    let client = client();
    let mut lab = Lab::new();
    lab.manifest("all.yaml", &behind(&lab, POLICY));
    lab.start(&[HTTPS]);
    assert_eq!(alt_svc(&lab).as_deref(), Some("h3=\":8443\"; ma=86400"));

    let got = ask(&lab, &client, &["-path", "/hello"]).unwrap();
    assert_eq!((got["status"].as_u64(), got["proto"].as_str()), (Some(200), Some("HTTP/3.0")));
    let echo: Value = serde_json::from_str(got["body"].as_str().unwrap()).unwrap();
    assert_eq!(echo["path"], "/hello", "{echo}");
    assert_eq!(echo["headers"]["x-forwarded-proto"][0], "https");

    let head = ask(&lab, &client, &["-method", "HEAD", "-path", "/bytes/1000"]).unwrap();
    assert_eq!((head["status"].as_u64(), head["bytes"].as_u64()), (Some(200), Some(0)));
    let large = ask(&lab, &client, &["-path", "/bytes/20000000"]).unwrap();
    assert_eq!(large["bytes"], 20_000_000);
    let sent = ask(&lab, &client, &["-method", "POST", "-path", "/", "-upload", "5000000"]).unwrap();
    assert_eq!(sent["status"], 200);
    let trailed = ask(&lab, &client, &["-method", "POST", "-path", "/", "-upload", "70000", "-trailer", "7"]).unwrap();
    assert_eq!(trailed["status"], 200);
    let nobody = ask(&lab, &client, &["-path", "/", "-method", "CONNECT"]);
    assert!(nobody.is_err() || nobody.as_ref().unwrap()["status"] == 501, "{nobody:?}");

    // Each port is dealt to one of two workers; the connection is one worker's throughout.
    let moved = ask(&lab, &client, &["-path", "/bytes/40000000", "-moves", "10"]).unwrap();
    assert_eq!((moved["bytes"].as_u64(), moved["moves"].as_u64()), (Some(40_000_000), Some(10)), "{moved}");

    let log = until("the last request is in the log", || {
        let log = lab.access_log();
        log.iter().any(|line| line["path"] == "/bytes/40000000").then_some(log)
    });
    let last = log.iter().find(|line| line["path"] == "/bytes/40000000").unwrap();
    assert_eq!((last["protocol"].as_str(), last["status"].as_u64()), (Some("HTTP/3"), Some(200)), "{last}");
    assert_eq!(last["tls_version"], "TLSv1.3", "{last}");
    // Its client is who made the handshake.
    let first = moved["local"][0].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
    assert!(last["client"].as_str().unwrap().ends_with(&format!(":{first}")), "{last} {moved}");
}

#[test]
fn it_comes_and_goes_with_its_policy_and_its_port() {
    let client = client();
    let mut lab = Lab::new();
    let text = behind(&lab, "");
    lab.manifest("all.yaml", &text);
    lab.start(&[HTTPS]);
    assert_eq!(alt_svc(&lab), None);
    assert!(UdpSocket::bind(lab.at(HTTPS)).is_ok(), "nobody has the UDP port");

    // Somebody else has it: the listener says so, TCP goes on, nothing is announced.
    let squatter = UdpSocket::bind(lab.at(HTTPS)).unwrap();
    lab.manifest("policy.yaml", POLICY);
    let port = format!("{HTTPS}/quic");
    until("the status names the port", || lab.edged().ctl(&["status"]).text().contains(&port).then_some(()));
    assert_eq!(alt_svc(&lab), None);
    drop(squatter);
    until("it is announced", || alt_svc(&lab));
    assert_eq!(ask(&lab, &client, &[]).unwrap()["status"], 200);

    lab.remove_manifest("policy.yaml");
    until("it is not announced any more", || alt_svc(&lab).is_none().then_some(()));
    assert!(ask(&lab, &client, &[]).is_err());
}
