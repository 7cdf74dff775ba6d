use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;

fn items(text: &str, patches: &[Patch<'_>]) -> Vec<Item> {
    let documents = yaml::split(text);
    let decode = |document: yaml::Document<'_>| {
        let place = Place { file: "f.yaml".into(), line_offset: document.line_offset };
        decode_document(document.text, &place, &"default".into(), patches)
    };
    documents.into_iter().flat_map(decode).collect()
}

fn problems(text: &str) -> Vec<String> {
    items(text, &[]).iter().flat_map(|item| &item.problems).map(ToString::to_string).collect()
}

fn names(items: &[Item]) -> Vec<String> {
    items
        .iter()
        .filter(|item| !matches!(item.outcome, Outcome::Broken | Outcome::Foreign))
        .filter_map(|item| item.identity.as_ref())
        .map(ToString::to_string)
        .collect()
}

const ROUTE: &str =
    "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: n}\nspec: {}\n";

#[test]
fn documents_that_are_no_objects() {
    for (text, expected) in [
        (
            "resources: [a.yaml]\n",
            "f.yaml:1:1: warning: no Kubernetes object: `kind` is missing, so the document is left out",
        ),
        (
            "[{op: add}]\n",
            "f.yaml:1:1: warning: a list is no Kubernetes object; a JSON patch belongs under [[patch]] in edge.toml",
        ),
        ("just text\n", "f.yaml:1:1: the string \"just text\" is no Kubernetes object"),
        (
            "apiVersion: apps/v1\nkind: Deployment\n",
            "f.yaml:1:1: warning: apps/v1 Deployment is no kind that Edge reads, so the document is left out",
        ),
        (
            "apiVersion: v1\nkind: HTTPRoute\n",
            "f.yaml:1:1: warning: v1 HTTPRoute is no kind that Edge reads, did you mean apiVersion gateway.networking.k8s.io/v1?, so the document is left out",
        ),
        (
            "apiVersion: gateway.networking.k8s.io/v7\nkind: HTTPRoute\n",
            "f.yaml:1:1: warning: HTTPRoute: unknown version \"v7\" of its API, expected v1, v1beta1, v1alpha3, v1alpha2, so the document is left out",
        ),
        ("kind: HTTPRoute\n", "f.yaml:1:1: HTTPRoute: `apiVersion` is missing"),
        (
            "# x\n---\napiVersion: v1\nkind: Service\nmetadata: {name: 9}\n",
            "f.yaml:5:18: Service: metadata.name: found the number 9, expected a string; put it in quotes",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: A}\n",
            "f.yaml:3:18: Service: metadata.name \"A\": expected lower-case letters, digits and '-', beginning with a letter, at most 63",
        ),
        ("apiVersion: v1\nkind: Service\nmetadata: {}\n", "f.yaml:3:11: Service: `metadata.name` is missing"),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n",
            "f.yaml:1:1: Service default/a: required field `spec` is missing",
        ),
        ("a: [\n", "f.yaml:2:1: not valid YAML: while parsing a node, did not find expected node content"),
    ] {
        assert_eq!(problems(text), [expected], "{text:?}");
    }
}

#[test]
fn lists_and_namespaces_and_versions() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a, namespace: ignored}}\n\
                - apiVersion: gateway.networking.k8s.io/v1beta1\n  kind: HTTPRouteList\n  items:\n  - {metadata: {name: r}, spec: {}}\n\
                ---\napiVersion: gateway.networking.k8s.io/v1alpha2\nkind: TCPRoute\nmetadata: {name: t}\nspec: {rules: [{backendRefs: [{name: s, port: 1}]}]}\n";
    let found = items(text, &[]);
    assert_eq!(names(&found), ["Namespace a", "HTTPRoute default/r", "TCPRoute default/t"]);
    let lines: Vec<u32> = found.iter().map(|item| item.origin.line).collect();
    assert_eq!(lines, [4, 8, 10]);
    assert_eq!(
        problems(text),
        [
            "f.yaml:4:57: not acted on: Namespace a: metadata.namespace is not acted on: a Namespace belongs to no namespace"
        ]
    );
}

#[test]
fn unknown_and_inert_fields() {
    let text = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: r\n  lables: {}\n  creationTimestamp: null\n\
                  uid: x\nspce: {}\nspec:\n  hostname: [a]\n  useDefaultGateways: All\n";
    assert_eq!(
        problems(text.replace("uid", "  uid").as_str()),
        [
            "f.yaml:5:3: warning: HTTPRoute default/r: metadata: unknown field `lables`, did you mean `labels`?",
            "f.yaml:7:3: not acted on: HTTPRoute default/r: metadata.uid",
            "f.yaml:8:1: warning: HTTPRoute default/r: unknown field `spce`, did you mean `spec`?",
            "f.yaml:10:3: warning: HTTPRoute default/r: spec: unknown field `hostname`, did you mean `hostnames`?",
            "f.yaml:11:3: not acted on: HTTPRoute default/r: spec.useDefaultGateways",
        ]
    );
    let text = "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {name: p}\nspec: {myASN: 1, peerASN: 2, peerAdress: 192.0.2.1, disableMP: true}\n";
    assert_eq!(
        problems(text),
        [
            "f.yaml:4:7: BGPPeer default/p: spec: peerAddress is missing, expected it or interface",
            "f.yaml:4:30: warning: BGPPeer default/p: spec: unknown field `peerAdress`, did you mean `peerAddress`?",
            "f.yaml:4:53: not acted on: BGPPeer default/p: spec.disableMP: deprecated by MetalLB; dualStackAddressFamily says which families there are",
        ]
    );
    let text = "apiVersion: cert-manager.io/v1\nkind: ClusterIssuer\nmetadata: {name: i}\nspec: {acme: {server: https://ca.example.com/dir}}\n";
    assert_eq!(
        problems(text),
        ["f.yaml:4:14: ClusterIssuer i: spec.acme: required field `privateKeySecretRef` is missing"]
    );
    let text = "apiVersion: cert-manager.io/v1\nkind: ClusterIssuer\nmetadata: {name: i}\nspec:\n  acme:\n    server: https://ca.example.com/dir\n    privateKeySecretRef: {name: k}\n    solvers:\n    - http01: {gatewayHttpRoute: {}}\n    - dns01: {route53: {region: eu, auth: {x: 1}}}\n    - http01: {ingress: {class: nginx}}\n    - dns01: {webhook: {groupName: g, solverName: s, config: {a: [1]}}}\n";
    assert_eq!(
        problems(text),
        [
            "f.yaml:9:15: ClusterIssuer i: spec.acme.solvers[0].http01: expected exactly one of ingress and gatewayHTTPRoute",
            "f.yaml:9:16: warning: ClusterIssuer i: spec.acme.solvers[0].http01: unknown field `gatewayHttpRoute`, did you mean `gatewayHTTPRoute`?",
            "f.yaml:10:24: ClusterIssuer i: spec.acme.solvers[1].dns01.route53: unsupported solver, expected rfc2136, acmeDNS, cloudflare or webhook",
            "f.yaml:11:16: not acted on: ClusterIssuer i: spec.acme.solvers[2].http01.ingress: no Ingress and no Pod is made, Edge answers by itself",
            "f.yaml:12:54: not acted on: ClusterIssuer i: spec.acme.solvers[3].dns01.webhook.config: what stands for the webhook in edge.toml has its own",
        ]
    );
}

/// Per kind: the body, and the fields of it that are told; everything else in it is acted on.
#[test]
fn what_nobody_obeys_is_told() {
    const CTP: &str = "gateway.envoyproxy.io/v1alpha1";
    for (version, kind, body, expected) in [
        (
            "v1",
            "Service",
            "spec: {type: LoadBalancer, selector: {a: b}, publishNotReadyAddresses: true, ports: [{port: 80, targetPort: 8080}]}",
            &[
                "spec.selector: endpoints come from EndpointSlices, Pods are not looked at",
                "spec.ports[0].targetPort: endpoints come with their ports from EndpointSlices",
            ][..],
        ),
        ("v1", "Service", "spec: {type: ClusterIP, clusterIP: None, ports: [{port: 80, appProtocol: h2c}]}", &[]),
        (
            "discovery.k8s.io/v1",
            "EndpointSlice",
            "addressType: FQDN\nports: [{name: a, port: 1, appProtocol: h2c}]\nendpoints: [{addresses: [a.example], hostname: a, nodeName: n}]",
            &["addressType FQDN: its endpoints are left out", "ports[0].appProtocol", "endpoints[0].hostname"],
        ),
        (
            "gateway.networking.k8s.io/v1",
            "TCPRoute",
            "spec: {rules: [{name: a, backendRefs: [{name: s, port: 1}]}]}",
            &["spec.rules[0].name"],
        ),
        (
            "gateway.networking.k8s.io/v1",
            "HTTPRoute",
            "spec: {rules: [{name: a, retry: {attempts: 1, backoff: 1s}, sessionPersistence: {absoluteTimeout: 1h}, backendRefs: [{name: s, port: 1}]}]}",
            &[],
        ),
        (
            "gateway.networking.k8s.io/v1",
            "Gateway",
            "spec: {gatewayClassName: c, listeners: [{name: a, port: 80, protocol: HTTP}],\n \
             infrastructure: {labels: {a: b}, annotations: {metallb.io/address-pool: p, metallb.io/elsewhere: x}}}",
            &["spec.infrastructure.annotations.metallb.io/elsewhere"],
        ),
        (
            CTP,
            "ClientTrafficPolicy",
            "spec: {connection: {bufferLimit: 1}, timeout: {http: {idleTimeout: 1s, requestReceivedTimeout: 1s}}, http1: {preserveHeaderCase: true}}",
            &[
                "spec.timeout.http.requestReceivedTimeout beyond the head of a request: its body only has to keep moving",
                "spec.http1.preserveHeaderCase",
            ],
        ),
        (
            CTP,
            "BackendTrafficPolicy",
            "spec: {loadBalancer: {type: Random, zoneAware: {}}, timeout: {tcp: {connectTimeout: 1s}, http: {requestTimeout: 1s, connectionIdleTimeout: 1s}}}",
            &["spec.loadBalancer.zoneAware"],
        ),
        (
            "cert-manager.io/v1",
            "Certificate",
            "spec: {secretName: s, issuerRef: {name: i}, dnsNames: [a.example], isCA: true, ipAddresses: [192.0.2.1], usages: [digital signature],\n \
             privateKey: {algorithm: ECDSA, rotationPolicy: Never, encoding: PKCS8}, subject: {countries: [DE]}, secretTemplate: {}, uris: []}",
            &["spec.usages", "spec.privateKey.encoding", "spec.subject", "spec.uris"],
        ),
        (
            "metallb.io/v1beta1",
            "IPAddressPool",
            "spec: {addresses: [192.0.2.0/28], autoAssign: false, avoidBuggyIPs: true, serviceAllocation: {priority: 1, namespaces: [a]}}",
            &[],
        ),
    ] {
        let text = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x, namespace: n}}\n{body}\n");
        let found: Vec<String> = items(&text, &[])[0].problems.iter().map(|problem| problem.message.clone()).collect();
        assert_eq!(found, expected, "{text}");
    }
    let annotated = GATEWAY.replace(
        "namespace: n}",
        "namespace: n, annotations: {cert-manager.io/issuer: i, cert-manager.io/usages: x, other.example/a: b}}",
    );
    assert_eq!(
        problems(&annotated),
        ["f.yaml:3:76: not acted on: Gateway n/g: metadata.annotations.cert-manager.io/usages"]
    );
}

#[test]
fn secrets_are_not_printed() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: aHVzaA==, b: \"not base64 hush\"}\nstringData: {c: hush}\n";
    assert_eq!(
        problems(text),
        ["f.yaml:4:7: Secret default/s: data: the value of \"b\" is not base64; plain text belongs in `stringData`"]
    );
    let found = items(&text.replace(", b: \"not base64 hush\"", ""), &[]);
    let Outcome::Secret(secret) = &found[0].outcome else { panic!("{found:?}") };
    assert_eq!(secret.spec.values["a"], b"hush");
    let printed = format!("{secret:?}");
    assert!(!printed.contains("hush") && !printed.contains("104, 117"), "{printed}");
}

const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g, namespace: n}\n\
                       spec:\n  gatewayClassName: c\n  listeners:\n  - {name: a, port: 80, protocol: HTTP}\n";

fn patched(patches: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
    let target = PatchTarget { group: None, kind: Kind::Gateway, key: ObjectKey::new("n", "g") };
    let patches: Vec<Patch<'_>> = patches
        .iter()
        .map(|(file, text)| Patch {
            target: &target,
            format: PatchType::Json,
            text,
            place: Place { file: (*file).into(), line_offset: 0 },
        })
        .collect();
    let found = items(GATEWAY, &patches);
    let Outcome::Ready(AnyObject::Gateway(gateway)) = &found[0].outcome else { panic!("{found:?}") };
    let listeners = gateway.spec.listeners.iter().map(|listener| listener.name.clone()).collect();
    (listeners, found[0].problems.iter().map(ToString::to_string).collect())
}

#[test]
fn a_failing_patch_costs_only_itself() {
    let good = |name: &str, port: u16| {
        format!(
            "[{{\"op\": \"add\", \"path\": \"/spec/listeners/-\",\n  \"value\": {{\"name\": \"{name}\", \"port\": {port}, \"protocol\": \"HTTP\"}}}}]"
        )
    };
    let (b, c) = (good("b", 81), good("c", 82));
    let type_error = good("x", 1).replace(": 1,", ": 70000,");
    let rule = good("X", 1);
    let duplicate = good("b", 83);
    let name = "[{\"op\": \"replace\", \"path\": \"/metadata/name\", \"value\": \"other\"}]";
    for (middle, expected) in [
        (
            "[",
            "2.json:2:1: Gateway n/g: patch: not valid YAML: while parsing a node, did not find expected node content",
        ),
        (
            "[{\"op\": \"remove\", \"path\": \"/spec/x\"}]",
            "2.json:1:27: Gateway n/g: patch: operation 1: /spec/x is not there",
        ),
        (
            &type_error,
            "2.json:2:34: Gateway n/g: spec.listeners[2].port: 70000 is out of range, expected 0 to 65535; the patch is left out",
        ),
        (
            &rule,
            "2.json:2:21: Gateway n/g: spec.listeners[2].name: \"X\" is no name, expected lower-case letters, digits, '-' and '.', at most 253; the patch is left out",
        ),
        (
            &duplicate,
            "2.json:2:21: Gateway n/g: spec.listeners[2].name: \"b\" is the name of two listeners; the patch is left out",
        ),
    ] {
        let (listeners, problems) = patched(&[("1.json", &b), ("2.json", middle), ("3.json", &c)]);
        assert_eq!(listeners, ["a", "b", "c"], "{middle}");
        assert_eq!(problems, [expected], "{middle}");
    }
    let (listeners, problems) = patched(&[("1.json", &b), ("2.json", name)]);
    assert_eq!(listeners, ["a", "b"]);
    assert_eq!(
        problems,
        [
            "2.json:1:1: Gateway n/g: the patches change the kind, name or namespace of their target; the patch is left out"
        ]
    );
}

/// The manifests that operators run, if the folder is there: `EDGE_GENESTACK`, or beside the workspace.
fn genestack() -> Option<PathBuf> {
    let path = match option_env!("EDGE_GENESTACK") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/genestack"),
    };
    path.is_dir().then_some(path)
}

#[allow(clippy::disallowed_methods, reason = "a test reads its input")]
fn files_below(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files_below(&path, found);
        } else if path
            .extension()
            .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
        {
            found.push((path.clone(), std::fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn genestack_is_read_as_it_is() {
    let Some(root) = genestack() else {
        eprintln!("NOT TESTED: Genestack's manifests are not there; set EDGE_GENESTACK to their folder when compiling");
        return;
    };
    let mut files = Vec::new();
    files_below(&root, &mut files);
    assert!(files.len() > 50, "{}", files.len());
    let (mut objects, mut errors) = (0, Vec::new());
    for (path, text) in &files {
        for item in items(text, &[]) {
            objects += usize::from(!matches!(item.outcome, Outcome::Broken | Outcome::Foreign));
            for problem in item.problems.iter().filter(|problem| problem.severity != Severity::Inert) {
                errors.push(format!("{}: {problem}", path.strip_prefix(&root).unwrap().display()));
            }
        }
    }
    assert!(objects >= 40, "{objects}");
    errors.retain(|error| {
        // Patches are declared in edge.toml, kustomization.yaml is not for us, and one file holds a strategic merge.
        !error.contains("a JSON patch belongs under")
            && !error.contains("kustomization.yaml: ")
            && !error.contains("gateway-letsencrypt.yaml: ")
    });
    assert_eq!(errors, Vec::<String>::new());
    let listeners: Vec<_> = files.iter().filter(|(path, _)| path.parent().unwrap().ends_with("listeners")).collect();
    assert_eq!(listeners.len(), 26);
    let gateway = &files.iter().find(|(path, _)| path.ends_with("envoy-gateway.yaml")).unwrap().1;
    let target = PatchTarget { group: None, kind: Kind::Gateway, key: ObjectKey::new("envoy-gateway", "flex-gateway") };
    let patches: Vec<Patch<'_>> = listeners
        .iter()
        .map(|(path, text)| Patch {
            target: &target,
            format: PatchType::Json,
            text,
            place: Place { file: path.display().to_string().into(), line_offset: 0 },
        })
        .collect();
    let found = items(&gateway.replace("your.domain.tld", "a.example"), &patches);
    let Outcome::Ready(AnyObject::Gateway(gateway)) = &found[0].outcome else { panic!("{found:?}") };
    assert_eq!(gateway.spec.listeners.len(), 28);
    assert_eq!(found[0].problems, []);
}

/// Run by hand in release: `cargo test --release -p edge-config -- --ignored how_long --nocapture`.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::disallowed_methods, reason = "a measurement")]
fn how_long_five_thousand_routes_take() {
    let text: String = (0..5000)
        .map(|index| {
            format!(
                "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: route-{index}\n  namespace: shop\nspec:\n  \
                 parentRefs:\n    - name: flex-gateway\n      sectionName: https\n      namespace: envoy-gateway\n  hostnames:\n    - \"h{index}.example.test\"\n  \
                 rules:\n    - backendRefs:\n        - name: backend-{index}\n          port: 8080\n"
            )
        })
        .collect();
    let start = std::time::Instant::now();
    let documents = yaml::split(&text);
    let split = start.elapsed();
    let trees: usize = documents.iter().filter(|document| yaml::parse(document.text).is_ok()).count();
    let parsed = start.elapsed();
    let found = items(&text, &[]);
    let all = start.elapsed() - parsed;
    assert_eq!((trees, names(&found).len()), (5000, 5000));
    eprintln!("{} KiB: split {split:?}, parse {:?}, all of it {all:?}", text.len() >> 10, parsed - split);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_objects_do_not_panic(at in 0..GATEWAY.len(), cut in 0..30usize, insert in "[-:?,{}\\[\\]&*!|>'\"%# \\n\\ta-z0-9]{0,6}") {
        for seed in [GATEWAY, ROUTE] {
            let at = at.min(seed.len());
            let mut text = seed.to_owned();
            text.replace_range(at..(at + cut).min(seed.len()), &insert);
            items(&text, &[]);
            items(&text[..at.min(text.len())], &[]);
        }
    }

    #[test]
    fn mutated_patches_do_not_panic(at in 0..90usize, insert in "[-:,{}\\[\\]/~\" a-z0-9]{0,6}") {
        let mut text = "[{\"op\": \"add\", \"path\": \"/spec/listeners/-\", \"value\": {\"name\": \"b\", \"port\": 81, \"protocol\": \"HTTP\"}}]".to_owned();
        text.insert_str(at, &insert);
        let target = PatchTarget { group: None, kind: Kind::Gateway, key: ObjectKey::new("n", "g") };
        let place = Place { file: "p".into(), line_offset: 0 };
        for format in [PatchType::Json, PatchType::Merge] {
            items(GATEWAY, &[Patch { target: &target, format, text: &text, place: place.clone() }]);
        }
    }
}
