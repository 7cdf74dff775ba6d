//! The rig's own parts on a real control plane, before anything else is proved with them: `podlet` runs what it is told
//! and tells the truth about it, `api-fault` does what it is ordered and nothing else.

#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use edge_integration::cluster::Cluster;
use edge_integration::cluster::fabric::CONTROL;
use edge_integration::cluster::process::{LIMIT, Process, Program, await_within};
use edge_integration::edged::{Said, program, workspace};
use edge_integration::lab::skip;
use edge_integration::netns;
use rustix::process::{Pid, Signal, kill_process};

const MANIFESTS: &str = r#"apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  replicas: 2
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      containers:
        - name: echo
          image: registry.k8s.io/gateway-api/echo-basic:v1.5.1
          env:
            - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
            - {name: SERVICE_NAME, valueFrom: {secretKeyRef: {name: later, key: name}}}
          volumeMounts: [{name: certificate, mountPath: /etc/secret-volume}]
      volumes:
        - name: certificate
          secret: {secretName: later, items: [{key: name, path: deep/name}]}
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  selector: {app: echo}
  ports: [{port: 8080, targetPort: 3000}]
---
apiVersion: v1
kind: Pod
metadata: {name: shell}
spec:
  restartPolicy: Never
  containers:
    - name: shell
      image: echo-basic
      command: [/bin/sh, -c, "cat /etc/secret-volume/deep/name; echo; exit 3"]
      volumeMounts: [{name: certificate, mountPath: /etc/secret-volume}]
  volumes:
    - name: certificate
      secret: {secretName: later, items: [{key: name, path: deep/name}]}
"#;
const SECRET: &str = "apiVersion: v1
kind: Secret
metadata: {name: later}
stringData: {name: of-a-secret}
";

#[test]
fn the_rig_keeps_its_promises() {
    if let Err(why) = netns::available() {
        return skip("the rig's own parts", &why);
    }
    let mut cluster = Cluster::start("k2t", &workspace().join("target/rig-parts"));
    cluster.start_node();
    pods_wait_run_and_answer(&cluster);
    a_dead_container_is_said_and_started_again(&cluster);
    a_deleted_pod_is_replaced(&cluster);
    faults_on_command(&cluster);
    nothing_is_left(&mut cluster);
}

fn pods_wait_run_and_answer(cluster: &Cluster) {
    cluster.apply("echo", MANIFESTS);
    // Deployments may be there before what they mount.
    let reason = r"jsonpath={.items[*].status.containerStatuses[0].state.waiting.message}";
    await_within(LIMIT, "Pods say what they wait for", || {
        let said = cluster.kubectl(&["get", "pods", "--selector=app=echo", "--output", reason]).stdout;
        (said == "Secret later: not found Secret later: not found").then_some(())
    });
    assert!(pods(cluster).iter().all(|pod| !pod.ready));
    cluster.apply("secret", SECRET);
    for pod in ready_pods(cluster) {
        let answer = ask(cluster, pod.ip, "/some/path");
        assert!(answer.contains(&format!("\"pod\": \"{}\"", pod.name)), "{answer}");
        assert!(answer.contains("\"service\": \"of-a-secret\""), "{answer}");
        let log = cluster.kubectl(&["logs", &pod.name, "--container=echo", "--since=10m"]).stdout;
        assert!(log.contains("Echoing back request made to /some/path"), "{log}");
        let early = cluster.kubectl(&["logs", &pod.name, "--since-time=2999-01-01T00:00:00Z"]).stdout;
        assert_eq!(early, "");
    }
    await_within(LIMIT, "a run that ends is over", || (phase(cluster, "shell") == "Failed").then_some(()));
    assert_eq!(cluster.kubectl(&["logs", "shell"]).stdout, "of-a-secret\n");
}

fn a_dead_container_is_said_and_started_again(cluster: &Cluster) {
    let pod = ready_pods(cluster).remove(0);
    let pid = inside(cluster, pod.ip).remove(0);
    kill_process(pid, Signal::KILL).unwrap();
    await_within(LIMIT, "a restart is counted", || {
        let now = pods(cluster).into_iter().find(|other| other.name == pod.name).unwrap();
        (now.restarts == 1 && now.ready).then_some(())
    });
    assert!(ask(cluster, pod.ip, "/again").contains(&pod.name));
    let before = cluster.kubectl(&["logs", "--previous", &pod.name]).stdout;
    assert!(before.contains("/some/path") && !before.contains("/again"), "{before}");
}

fn a_deleted_pod_is_replaced(cluster: &Cluster) {
    let old = ready_pods(cluster).remove(0);
    cluster.kubectl(&["delete", "pod", &old.name, "--timeout=60s"]);
    let now = ready_pods(cluster);
    assert!(now.iter().all(|pod| pod.name != old.name && pod.ip != old.ip), "an address is not used again at once");
    assert!(namespaces(cluster).iter().all(|name| !name.contains(&format!("_{}-", old.ip))));
}

fn faults_on_command(cluster: &Cluster) {
    let path = |name: &str| cluster.dir().join(name);
    let through = path("fault.kubeconfig");
    let fault = Program::new(program("api-fault"))
        .args(["--kubeconfig".into(), cluster.control.admin().into_os_string()])
        .args(["--listen", &format!("{CONTROL}:7443")])
        .args(["--write".into(), through.clone().into_os_string()])
        .args(["--control".into(), path("fault.sock").into_os_string()]);
    let mut proxy = Process::start("api-fault", cluster.fabric.control.name(), &fault, &cluster.log("api-fault"));
    proxy.until("api-fault listens", || path("fault.sock").exists().then_some(()));
    let tell = |line: &str| {
        let output = Command::new(program("api-fault")).arg("tell").arg(path("fault.sock")).arg(line).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let through = format!("--kubeconfig={}", through.display());
    let kubectl = |words: &[&str]| -> Said { cluster.control.kubectl(&[&[through.as_str()], words].concat()) };

    assert_eq!(kubectl(&["get", "node", "node1", "--output=name"]).stdout, "node/node1\n");
    for (line, expected) in [
        ("fail 503 resource=nodes", "ServiceUnavailable"),
        ("fail 409 resource=nodes verb=get", "Conflict"),
        ("expire", "the token is not valid"),
        ("refuse", "EOF"),
    ] {
        tell(line);
        let said = kubectl(&["get", "node", "node1"]);
        assert!(said.code == Some(1) && said.stderr.contains(expected), "{line}: {}", said.text());
        tell("clear");
        tell("renew");
        assert_eq!(kubectl(&["get", "node", "node1"]).code, Some(0), "after {line}");
    }
    // A 429 is waited out by the client.
    tell("fail 429 retry-after=1 times=1 resource=nodes");
    assert_eq!(kubectl(&["get", "node", "node1"]).code, Some(0));

    let list = ["get", "--raw", "/api/v1/namespaces/default/configmaps"];
    let before = kubectl(&list).stdout;
    tell("stale resource=configmaps");
    cluster.kubectl(&["create", "configmap", "fresh"]);
    assert_eq!(kubectl(&list).stdout, before);
    tell("clear");
    assert!(kubectl(&list).stdout.contains("fresh"));

    tell("gone resource=configmaps");
    let said = kubectl(&["get", "--raw", "/api/v1/namespaces/default/configmaps?watch=true"]);
    assert!(said.stdout.contains(r#""type":"ERROR""#) && said.stdout.contains("410"), "{}", said.text());
    let counts = tell("counts");
    assert!(counts.contains(r#""get nodes 503":1"#) && counts.contains(r#""get nodes 401":1"#), "{counts}");
}

/// The node ends by a signal; what it made goes with it.
fn nothing_is_left(cluster: &mut Cluster) {
    let names = namespaces(cluster);
    assert!(!names.is_empty());
    let node = cluster.node();
    node.signal(Signal::TERM);
    await_within(LIMIT, "podlet ends", || node.ended());
    assert_eq!(namespaces(cluster), Vec::<String>::new());
}

struct Seen {
    name: String,
    ip: IpAddr,
    ready: bool,
    restarts: u32,
}

fn pods(cluster: &Cluster) -> Vec<Seen> {
    let columns = "jsonpath={range .items[*]}{.metadata.name} {.status.podIP} {.status.containerStatuses[0].ready} \
                   {.status.containerStatuses[0].restartCount} {.metadata.deletionTimestamp}{\"\\n\"}{end}";
    let said = cluster.kubectl(&["get", "pods", "--selector=app=echo", "--output", columns]).stdout;
    let seen = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, ip, ready, restarts] = words.as_slice() else { return None };
        Some(Seen {
            name: (*name).to_owned(),
            ip: ip.parse().ok()?,
            ready: *ready == "true",
            restarts: restarts.parse().ok()?,
        })
    };
    said.lines().filter_map(seen).collect()
}

/// Both Pods, once the endpoints lead to them too.
fn ready_pods(cluster: &Cluster) -> Vec<Seen> {
    await_within(LIMIT, "two Pods are ready and are endpoints", || {
        let seen = pods(cluster);
        let output = "jsonpath={range .items[*].endpoints[?(@.conditions.ready==true)]}{.addresses[0]} {end}";
        let slices = ["get", "endpointslices", "--selector=kubernetes.io/service-name=echo", "--output", output];
        let mut endpoints: Vec<String> =
            cluster.kubectl(&slices).stdout.split_whitespace().map(str::to_owned).collect();
        let mut wanted: Vec<String> = seen.iter().map(|pod| pod.ip.to_string()).collect();
        endpoints.sort();
        wanted.sort();
        (seen.len() == 2 && seen.iter().all(|pod| pod.ready) && endpoints == wanted).then_some(seen)
    })
}

fn phase(cluster: &Cluster, name: &str) -> String {
    cluster.kubectl(&["get", "pod", name, "--output=jsonpath={.status.phase}"]).stdout
}

/// One request from the edge's host, as edged reaches Pods.
fn ask(cluster: &Cluster, ip: IpAddr, path: &str) -> String {
    let work = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(ip, 3000), Duration::from_secs(30))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: echo\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    cluster.fabric.edge.run(work).unwrap().unwrap()
}

/// Namespaces of Pods: podlet names them after its own host.
fn namespaces(cluster: &Cluster) -> Vec<String> {
    let stem = format!("{}-node1_", cluster.fabric.node.name());
    let all = netns::ip("netns list").unwrap();
    let names = all.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| name.starts_with(&stem)).map(str::to_owned).collect()
}

fn inside(cluster: &Cluster, ip: IpAddr) -> Vec<Pid> {
    let name = namespaces(cluster).into_iter().find(|name| name.contains(&format!("_{ip}-"))).unwrap();
    let pids = netns::ip(&format!("netns pids {name}")).unwrap();
    pids.lines().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}
