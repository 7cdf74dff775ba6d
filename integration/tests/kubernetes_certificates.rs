//! Certificates in a real API server: cert-manager's kinds without cert-manager, Secrets that Edge writes, what becomes of
//! them in other hands, and cert-manager coming and going.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge_integration::cluster::objects::{condition, object, secret, settle, versions};
use edge_integration::cluster::process::{Program, await_within};
use edge_integration::cluster::{Channel, Cluster};
use edge_integration::edged::{program, workspace};
use edge_integration::lab::skip;
use edge_integration::netns;
use edge_integration::pki::{Authority, Leaf};
use edge_integration::trials::field::writes;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);
/// So long nothing must happen.
const REST: Duration = Duration::from_secs(6);

const OBJECTS: &str = r#"
apiVersion: cert-manager.io/v1
kind: ClusterIssuer
metadata: {name: itself}
spec: {selfSigned: {}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: root, namespace: default}
spec:
  isCA: true
  commonName: Test CA
  secretName: root-ca
  privateKey: {algorithm: ECDSA}
  issuerRef: {name: itself, kind: ClusterIssuer}
---
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: ca, namespace: default}
spec: {ca: {secretName: root-ca}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: leaf, namespace: default}
spec:
  secretName: leaf-tls
  dnsNames: [leaf.test]
  privateKey: {algorithm: ECDSA}
  issuerRef: {name: ca}
"#;

const GATEWAY: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: web
  namespace: default
  annotations: {cert-manager.io/issuer: ca, cert-manager.io/private-key-algorithm: ECDSA}
spec:
  gatewayClassName: gateway-conformance
  listeners:
    - {name: https, port: 443, protocol: HTTPS, hostname: web.test, tls: {certificateRefs: [{name: web-tls}]}}
"#;

#[test]
fn certificates_in_a_real_api_server() {
    if let Err(why) = netns::available() {
        return skip("certificates in the API", &why);
    }
    let mut cluster = Cluster::start("kube6", &workspace().join("target/kubernetes-certificates"));
    cluster.define(Channel::Experimental);
    definitions_are_installed(&cluster);
    cluster.start_edge();
    cluster.apply("objects", OBJECTS);
    certificates_get_their_secrets(&cluster);
    a_gateway_gets_its_secret(&cluster);
    nothing_at_rest(&cluster);
    a_secret_that_is_lost_comes_back(&cluster);
    a_secret_in_other_hands(&cluster);
    somebody_who_does_not_give_up(&cluster);
    without_rights_it_serves_and_says_so(&cluster);
    the_api_server_goes_away(&mut cluster);
    cert_manager_comes_and_goes(&cluster);
    definitions_are_removed(&cluster);
}

fn definitions_are_installed(cluster: &Cluster) {
    let printed = ctl(cluster, &["crds", "print"], None);
    assert!(String::from_utf8_lossy(&printed.stdout).contains("certificates.cert-manager.io"));
    // Who may not define kinds is told so.
    let refused = ctl(cluster, &["crds", "install"], Some(&cluster.control.kubeconfig("nobody")));
    assert!(text(&refused).contains("refused"), "{}", text(&refused));
    for outcome in ["installed", "unchanged"] {
        let done = ctl(cluster, &["crds", "install"], Some(&cluster.control.admin()));
        let said = text(&done);
        assert_eq!(said.matches(outcome).count(), if outcome == "installed" { 4 } else { 3 }, "{said}");
    }
}

fn certificates_get_their_secrets(cluster: &Cluster) {
    for name in ["certificate/root", "certificate/leaf", "issuer/ca", "clusterissuer/itself"] {
        cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", name]);
    }
    let leaf = secret(cluster, "leaf-tls").unwrap();
    assert_eq!(leaf["type"], "kubernetes.io/tls");
    assert_eq!(leaf["metadata"]["labels"]["app.kubernetes.io/managed-by"], "edge");
    let annotations = &leaf["metadata"]["annotations"];
    assert_eq!(annotations["cert-manager.io/issuer-name"], "ca");
    assert_eq!(annotations["cert-manager.io/issuer-kind"], "Issuer");
    assert_eq!(annotations["cert-manager.io/certificate-name"], "leaf");
    let root = secret(cluster, "root-ca").unwrap();
    assert_eq!(leaf["data"]["ca.crt"], root["data"]["tls.crt"], "who reads it can verify it");
    let status = object(cluster, "certificate/leaf")["status"].clone();
    for name in ["notBefore", "notAfter", "renewalTime"] {
        let at = status[name].as_str().unwrap_or_else(|| panic!("{name}: {status}"));
        assert!(at.starts_with("20") && at.ends_with('Z') && at.len() == 20, "{at}");
    }
    assert_eq!(status["revision"], 1);
    assert_eq!(condition(&status, "Ready")["reason"], "Ready");
    assert_eq!(condition(&object(cluster, "issuer/ca")["status"], "Ready")["reason"], "KeyPairVerified");
    await_within(LIMIT, "an Event tells of it as cert-manager would", || {
        let output = "--output=jsonpath={range .items[?(@.regarding.kind==\"Certificate\")]}{.reason} {.note}\n{end}";
        let said = cluster.kubectl(&["get", "events.events.k8s.io", output]).stdout;
        said.contains("Issuing The certificate has been successfully issued").then_some(())
    });
}

fn a_gateway_gets_its_secret(cluster: &Cluster) {
    cluster.apply("gateway", GATEWAY);
    let found = await_within(LIMIT, "the Secret is written", || secret(cluster, "web-tls"));
    assert_eq!(found["metadata"]["annotations"]["cert-manager.io/issuer-name"], "ca");
    await_within(LIMIT, "its listener says so", || {
        let gateway = object(cluster, "gateway/web");
        let listener = &gateway["status"]["listeners"][0];
        let said = condition(listener, "CertificateReady");
        (said["status"] == "True" && said["message"].as_str()?.starts_with("web.test: until 20")).then_some(())
    });
}

/// Waits until nothing is left to write, then sees whether nothing is written, nor tried.
fn nothing_at_rest(cluster: &Cluster) {
    let settled = settle(cluster);
    let tried = || writes(cluster.edge_seen().socket());
    let before = tried();
    assert!(before.values().sum::<u64>() >= 6, "it counts: {before:?}");
    std::thread::sleep(REST);
    assert_eq!(tried(), before, "calls at rest");
    assert_eq!(versions(cluster), settled, "something was written at rest");
}

fn a_secret_that_is_lost_comes_back(cluster: &Cluster) {
    let before = secret(cluster, "leaf-tls").unwrap();
    cluster.kubectl(&["delete", "secret", "leaf-tls"]);
    let again = await_within(LIMIT, "it is written again", || secret(cluster, "leaf-tls"));
    assert_eq!(again["data"], before["data"], "from the store: nothing was issued");
    cluster.kubectl(&[
        "patch",
        "secret",
        "leaf-tls",
        "--type=merge",
        "--patch",
        r#"{"data":{"tls.crt":"","tls.key":""}}"#,
    ]);
    await_within(LIMIT, "an empty one is filled", || {
        (secret(cluster, "leaf-tls")?["data"] == before["data"]).then_some(())
    });
    assert_eq!(object(cluster, "certificate/leaf")["status"]["revision"], 1);
}

fn a_secret_in_other_hands(cluster: &Cluster) {
    let authority = Authority::new("hands").unwrap();
    let put = |name: &str| {
        let pair = authority.sign(&Leaf { dns: &[name], ..Leaf::default() }).unwrap();
        let data = json!({"stringData": {"tls.crt": pair.certificate, "tls.key": pair.key}}).to_string();
        cluster.kubectl(&["patch", "secret", "leaf-tls", "--type=merge", "--patch", &data]);
        // It may be replaced by the time it is read.
        STANDARD.encode(pair.certificate)
    };
    let theirs = put("leaf.test");
    std::thread::sleep(REST);
    assert_eq!(secret(cluster, "leaf-tls").unwrap()["data"]["tls.crt"], theirs, "a good one stays");
    cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "certificate/leaf"]);
    let wrong = put("other.test");
    await_within(LIMIT, "one for another name is replaced", || {
        let found = secret(cluster, "leaf-tls")?["data"]["tls.crt"].clone();
        (found != wrong && found == theirs).then_some(())
    });
    // One that Edge did not make, under a name that a listener wants.
    let pair = authority.sign(&Leaf { dns: &["web.test"], ..Leaf::default() }).unwrap();
    cluster.kubectl(&["delete", "gateway/web", "secret/web-tls"]);
    let foreign = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "web-tls", "namespace": "default"},
        "stringData": {"tls.crt": pair.certificate, "tls.key": pair.key},
    });
    cluster.apply("foreign", &foreign.to_string());
    cluster.apply("gateway", GATEWAY);
    let version = secret(cluster, "web-tls").unwrap()["metadata"]["resourceVersion"].clone();
    std::thread::sleep(REST);
    assert_eq!(
        secret(cluster, "web-tls").unwrap()["metadata"]["resourceVersion"],
        version,
        "it is served, not touched"
    );
}

/// GitOps that deletes what it does not know, again and again.
fn somebody_who_does_not_give_up(cluster: &Cluster) {
    for _ in 0..5 {
        await_within(LIMIT, "it is there", || secret(cluster, "leaf-tls"));
        cluster.kubectl(&["delete", "secret", "leaf-tls"]);
    }
    await_within(LIMIT, "it is there in the end", || secret(cluster, "leaf-tls"));
}

fn without_rights_it_serves_and_says_so(cluster: &Cluster) {
    cluster.kubectl(&["delete", "clusterrolebinding", "edge-write-secrets"]);
    let certificate = OBJECTS.rsplit("---").next().unwrap().replace("leaf", "late");
    cluster.apply("late", &certificate);
    await_within(LIMIT, "the Certificate says what is missing", || {
        let ready = condition(&object(cluster, "certificate/late")["status"], "Ready");
        (ready["status"] == "False" && ready["message"].as_str()?.contains("not written yet")).then_some(())
    });
    cluster.apply_file(&workspace().join("manifests/edge-write.yaml"));
    // It was refused a few times by now, and waits a little longer each time.
    await_within(LIMIT * 3, "with rights it is written", || secret(cluster, "late-tls"));
    cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "certificate/late"]);
}

fn the_api_server_goes_away(cluster: &mut Cluster) {
    let before = settle(cluster);
    cluster.control.stop_apiserver();
    cluster.edge().restart(Duration::from_secs(20));
    await_within(LIMIT, "it serves from what it has", || {
        cluster.edge().ctl(&["status", "--all"]).stdout.contains("web-tls").then_some(())
    });
    cluster.control.start_apiserver();
    cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "certificate/leaf"]);
    std::thread::sleep(REST);
    assert_eq!(settle(cluster), before, "nothing was issued anew, nothing is written");
}

fn cert_manager_comes_and_goes(cluster: &Cluster) {
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "cert-manager-controller", "namespace": "kube-system"},
        "spec": {"holderIdentity": "cert-manager-0", "leaseDurationSeconds": 60, "renewTime": now()},
    });
    cluster.apply("lease", &lease.to_string());
    await_within(LIMIT, "it is seen", || notices(cluster).contains("cert-manager is alive").then_some(()));
    let before = secret(cluster, "leaf-tls").unwrap();
    cluster.kubectl(&["delete", "secret", "leaf-tls"]);
    std::thread::sleep(REST);
    assert_eq!(secret(cluster, "leaf-tls"), None, "it is left to cert-manager");
    cluster.kubectl(&["delete", "lease", "--namespace=kube-system", "cert-manager-controller"]);
    let again = await_within(LIMIT, "Edge takes over", || secret(cluster, "leaf-tls"));
    assert_eq!(again["data"], before["data"], "with what it had");
    await_within(LIMIT, "it is not seen any more", || {
        (!notices(cluster).contains("cert-manager is alive")).then_some(())
    });
}

fn definitions_are_removed(cluster: &Cluster) {
    let admin = cluster.control.admin();
    let refused = ctl(cluster, &["crds", "remove", "--force"], Some(&cluster.control.kubeconfig("nobody")));
    assert!(text(&refused).contains("refused") && refused.status.code() == Some(1), "{}", text(&refused));
    let refused = ctl(cluster, &["crds", "remove"], Some(&admin));
    assert!(text(&refused).contains("3 objects of this kind exist"), "{}", text(&refused));
    assert_eq!(refused.status.code(), Some(1));
    cluster.kubectl(&["get", "certificate/root", "certificate/leaf", "certificate/late", "issuer/ca"]);
    let done = ctl(cluster, &["crds", "remove", "--force"], Some(&admin));
    assert_eq!(text(&done).matches("removed").count(), 3, "{}", text(&done));
    // What is in Secrets stays, and serves.
    assert!(secret(cluster, "leaf-tls").is_some());
    await_within(LIMIT, "the kinds are gone", || {
        let known = cluster.kubectl(&["get", "crd", "--output=name"]).stdout;
        (!known.contains("cert-manager.io")).then_some(())
    });
    let theirs = ["print"].map(|what| ctl(cluster, &["crds", what], None));
    let theirs = String::from_utf8_lossy(&theirs[0].stdout).replace("managed-by: edge", "managed-by: Helm");
    cluster.apply("theirs", &theirs);
    for command in [&["crds", "install"][..], &["crds", "remove", "--force"]] {
        let refused = ctl(cluster, command, Some(&admin));
        assert!(text(&refused).contains("cert-manager's own definition is there"), "{}", text(&refused));
    }
}

fn ctl(cluster: &Cluster, arguments: &[&str], kubeconfig: Option<&Path>) -> Output {
    let mut edgectl = Program::new(program("edgectl")).args(arguments);
    if let Some(path) = kubeconfig {
        edgectl = edgectl.arg("--kubeconfig").arg(path);
    }
    edgectl.command(cluster.fabric.node.name()).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

fn notices(cluster: &Cluster) -> String {
    cluster.edge_seen().ctl(&["status", "--all"]).text()
}

/// RFC 3339 with microseconds.
fn now() -> String {
    let output = std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S.000000Z"]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
