//! One tenant of a shared Gateway against another, under load: a host name, a reference and a policy stay whose they are, and
//! a tenant that comes, errs and goes costs nobody a request.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use edge_integration::client::{Connection, fetch};
use edge_integration::lab::{HTTP, Lab, block_on};
use edge_integration::load::{Load, Plan};
use edge_integration::manifests::{CLASS, gateway, service};

/// One listener for everybody, one for the tenant `shop` alone.
const LISTENERS: &str = "    - {name: open, port: 8080, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
    - name: bank
      port: 8080
      protocol: HTTP
      hostname: bank.test
      allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {kubernetes.io/metadata.name: shop}}}}
";

/// An HTTPRoute of a tenant on the shared Gateway.
fn route(namespace: &str, name: &str, host: &str, rules: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  parentRefs: [{{name: web, namespace: default}}]
  hostnames: [\"{host}\"]
  rules:
{rules}"
    )
}

/// What lets routes of a namespace refer to the Services of `bank`.
fn grant(from: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {{name: guests, namespace: bank}}
spec:
  from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: {from}}}]
  to: [{{group: \"\", kind: Service}}]
"
    )
}

struct Site {
    lab: Lab,
    load: Load,
}

impl Site {
    /// The tenant `shop` is served at shop.test, and somebody asks for it all the time.
    fn start() -> Self {
        let mut lab = Lab::new();
        let shop = lab.origin("shop");
        let base = [CLASS, &gateway("web", LISTENERS), &service("shop", "shop", 80, &[shop.address])].concat();
        lab.manifest("base.yaml", &base);
        let rules = "    - backendRefs: [{name: shop, port: 80}]\n";
        let routes = [route("shop", "shop", "shop.test", rules), route("shop", "bank", "bank.test", rules)].concat();
        lab.manifest("shop.yaml", &routes);
        lab.start(&[HTTP]);
        let plan = Plan {
            http: lab.at(HTTP),
            https: None,
            host: "shop.test".to_owned(),
            backend: "shop".to_owned(),
            h1: 3,
            h2: 1,
            websockets: 1,
            every: Duration::from_millis(3),
        };
        let load = Load::start(plan).unwrap();
        load.pass(50);
        Self { lab, load }
    }

    fn asks(&self, host: &str, target: &str) -> (u16, Option<String>) {
        asks(&self.lab, host, target)
    }

    fn says(&mut self, kind: &str, name: &str) -> String {
        self.lab.edged().ctl(&["get", kind, name]).text()
    }

    /// Nobody who asked for the shop was ever disappointed.
    fn ends(self) -> Lab {
        self.load.pass(50);
        let tally = self.load.stop();
        assert!(tally.failures.is_empty(), "{tally:?}");
        assert!(tally.exchanges() > 100, "hardly a load: {tally:?}");
        self.lab
    }
}

/// Status and backend.
fn asks(lab: &Lab, host: &str, target: &str) -> (u16, Option<String>) {
    let reply = block_on(fetch(lab.at(HTTP), None, host, target)).unwrap();
    (reply.status, reply.backend().map(str::to_owned))
}

#[test]
fn a_host_name_is_not_taken_from_who_has_it() {
    let mut site = Site::start();
    let thief = site.lab.origin("thief");
    let services = service("thief", "thief", 80, &[thief.address]);
    let all = "    - backendRefs: [{name: thief, port: 80}]\n";
    for round in 0..20 {
        // The same host, a wider one, any, and one whose listener is another's.
        let text = [
            services.clone(),
            route("thief", "same", "shop.test", all),
            route("thief", "wider", "*.test", all),
            route("thief", "bank", "bank.test", all),
            route("thief", "door", "bank.test", all).replace("default}", "default, sectionName: bank}"),
            // What is the thief's own is served.
            route("thief", "own", "thief.test", all),
        ]
        .concat();
        site.lab.manifest("thief.yaml", &text);
        site.lab.edged().apply();
        assert_eq!(site.asks("shop.test", "/"), (200, Some("shop".to_owned())), "round {round}");
        assert_eq!(site.asks("bank.test", "/cart"), (200, Some("shop".to_owned())), "round {round}");
        assert_eq!(site.asks("thief.test", "/"), (200, Some("thief".to_owned())), "round {round}");
        if round == 0 {
            let said = site.says("HTTPRoute", "thief/door");
            assert!(said.contains("NotAllowedByListeners"), "{said}");
        }
        // The whole tenant goes.
        site.lab.remove_manifest("thief.yaml");
        site.lab.edged().apply();
        assert_eq!(site.asks("thief.test", "/").0, 404, "round {round}");
    }
    site.ends();
}

/// A route of `shop` to a Service of `bank`, whose owner allows it, takes it back, and allows it to somebody else.
#[test]
fn a_reference_lives_as_long_as_its_grant() {
    let mut site = Site::start();
    let bank = site.lab.origin("bank");
    let text = [
        service("bank", "bank", 80, &[bank.address]),
        route("shop", "guest", "guest.test", "    - backendRefs: [{name: bank, namespace: bank, port: 80}]\n"),
    ]
    .concat();
    site.lab.manifest("bank.yaml", &text);
    site.lab.edged().apply();

    // Somebody who asks all the time sees one or the other and nothing else, and nothing at all of what is not allowed.
    let (stop, forbidden) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
    let asked = Arc::new(AtomicU64::new(0));
    let (at, stopped, is_forbidden, counter) = (site.lab.at(HTTP), stop.clone(), forbidden.clone(), asked.clone());
    let watcher = std::thread::spawn(move || {
        block_on(async {
            let mut connection = Connection::open(at, None).await.unwrap();
            while !stopped.load(Ordering::SeqCst) {
                let before = is_forbidden.load(Ordering::SeqCst);
                let reply = connection.get("guest.test", "/").await.unwrap();
                let after = is_forbidden.load(Ordering::SeqCst);
                match (reply.status, reply.backend()) {
                    (200, Some("bank")) => assert!(!(before && after), "served without a grant"),
                    (500, None) => {}
                    other => panic!("{other:?}"),
                }
                counter.fetch_add(1, Ordering::SeqCst);
            }
        });
    });
    let until_asked = |more: u64| {
        let goal = asked.load(Ordering::SeqCst) + more;
        while asked.load(Ordering::SeqCst) < goal && !watcher.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    for round in 0..30 {
        until_asked(3);
        assert_eq!(site.asks("guest.test", "/").0, 500, "round {round}: nobody has allowed it");
        forbidden.store(false, Ordering::SeqCst);
        site.lab.manifest("grant.yaml", &grant("shop"));
        site.lab.edged().apply();
        assert_eq!(site.asks("guest.test", "/"), (200, Some("bank".to_owned())), "round {round}");
        // It goes, or becomes another's in one write.
        if round % 2 == 0 {
            site.lab.remove_manifest("grant.yaml");
        } else {
            site.lab.manifest("grant.yaml", &grant("thief"));
        }
        site.lab.edged().apply();
        forbidden.store(true, Ordering::SeqCst);
    }
    until_asked(3);
    stop.store(true, Ordering::SeqCst);
    watcher.join().unwrap();
    let said = site.says("HTTPRoute", "shop/guest");
    assert!(said.contains("RefNotPermitted"), "{said}");
    site.ends();
}

/// Policies of one namespace whose targets have the names of another's objects.
#[test]
fn a_policy_reaches_no_other_namespace() {
    let mut site = Site::start();
    let deny = |namespace: &str, target: &str| {
        format!(
            "---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: {{name: deny-{target}, namespace: {namespace}}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: {}, name: {target}}}]
  authorization: {{defaultAction: Deny}}
",
            if target == "web" { "Gateway" } else { "HTTPRoute" }
        )
    };
    // A target of a policy has no namespace: somebody who writes one is told so.
    let astray = deny("thief", "shop")
        .replace("name: deny-shop", "name: astray")
        .replace("name: shop}", "name: shop, namespace: shop}");
    let limits = "---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: none, namespace: thief}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop}]
  rateLimit: {type: Local, local: {rules: [{limit: {requests: 1, unit: Hour}}]}}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: ClientTrafficPolicy
metadata: {name: none, namespace: thief}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: web}]
  connection: {connectionLimit: {value: 1}}
";
    let all = [deny("thief", "shop"), deny("thief", "web"), astray, limits.to_owned()].concat();
    for _ in 0..10 {
        site.lab.manifest("thief.yaml", &all);
        site.lab.edged().apply();
        site.load.pass(20);
        assert_eq!(site.asks("shop.test", "/"), (200, Some("shop".to_owned())));
        site.lab.remove_manifest("thief.yaml");
        site.lab.edged().apply();
    }
    site.lab.manifest("thief.yaml", &all);
    site.lab.edged().apply();
    let said = site.lab.edged().ctl(&["get", "problems"]).text();
    for name in ["thief/deny-shop", "thief/deny-web", "thief/none", "thief/astray"] {
        assert!(said.contains(name), "{name}: {said}");
    }
    // The same policy is no idle threat where it belongs.
    let mut lab = site.ends();
    lab.manifest("thief.yaml", &deny("shop", "shop"));
    lab.edged().apply();
    assert_eq!(asks(&lab, "shop.test", "/").0, 403);
    assert_eq!(asks(&lab, "bank.test", "/").0, 200, "another route of the same tenant");
}
