//! NGINX Gateway Fabric: its example folders as they are, and what their pages say will happen.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge_integration::client::{Connection, H2};
use edge_integration::documented::{PORT, Scene};
use edge_integration::edged::until;
use edge_integration::lab::{block_on, isolated};
use edge_integration::manifests::slices;

use crate::nginx;

const CAFE: &str = "cafe.example.com";

#[test]
fn authentication_filter() {
    nginx("basic-authentication", |files| {
        let mut scene = Scene::example(files, "basic-authentication", &["coffee", "tea"]);
        scene.start();
        let password = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let nobody = scene.get(CAFE, "/coffee", &[]);
        assert_eq!(nobody.status, 401);
        let realm = "Basic realm=\"Restricted basic-auth\"";
        assert!(nobody.header("www-authenticate").is_some_and(|value| value.starts_with(realm)), "{nobody:?}");
        assert_eq!(scene.get(CAFE, "/coffee", &[("authorization", &password("user1:password1"))]).status, 200);
        assert_eq!(scene.get(CAFE, "/coffee", &[("authorization", &password("user1:wrong"))]).status, 401);
        assert_eq!(scene.get(CAFE, "/tea", &[]).status, 200);
    });
}

#[test]
fn client_settings_policy() {
    nginx("client-settings-policy", |files| {
        let mut scene = Scene::example(files, "client-settings-policy", &["coffee", "tea"]);
        scene.start();
        let post = |path: &str, size: usize| scene.ask("POST", CAFE, path, &[], &vec![b'x'; size]).status;
        // 50 bytes of the Gateway, 75 of the route.
        for (path, size, status) in [("/coffee", 50, 200), ("/coffee", 51, 413), ("/tea", 75, 200), ("/tea", 76, 413)] {
            assert_eq!(post(path, size), status, "{path} with {size} bytes");
        }
    });
}

#[test]
fn proxy_settings_policy() {
    nginx("proxy-settings-policy", |files| {
        let mut scene = Scene::example(files, "proxy-settings-policy", &["coffee", "tea"]);
        scene.start();
        // What its `coffee` answers with: 5 MiB, which come whole.
        let large = "x".repeat(5 << 20);
        scene.backends[0].origin.page("/coffee", &large);
        let reply = scene.get(CAFE, "/coffee", &[]);
        assert_eq!((reply.status, reply.body.len()), (200, large.len()));
        assert_eq!(scene.get(CAFE, "/tea", &[]).status, 200);
    });
}

#[test]
fn rate_limit_policy() {
    nginx("rate-limit-policy", |files| {
        let mut scene = Scene::example(files, "rate-limit-policy", &["coffee", "tea"]);
        scene.service("grpc-backend", "", 1);
        scene.start();
        // 1 a second: "all successful responses", but "spaced apart roughly one second each".
        let start = Instant::now();
        assert_eq!(scene.statuses(4, "GET", CAFE, "/coffee", &[]), [200; 4]);
        assert!(start.elapsed() > Duration::from_millis(2500), "{:?}", start.elapsed());
        // Of eight at once one goes, three of the burst wait, the rest is refused.
        let at = scene.lab.at(PORT);
        let statuses = block_on(async {
            let ask = |_| {
                tokio::task::spawn_local(async move {
                    let mut connection = Connection::open(at, None).await.unwrap();
                    connection.get(CAFE, "/coffee").await.unwrap().status
                })
            };
            let asks: Vec<_> = (0..8).map(ask).collect();
            let mut found = Vec::new();
            for ask in asks {
                found.push(ask.await.unwrap());
            }
            found
        });
        let served = statuses.iter().filter(|status| **status == 200).count();
        assert!((3..=5).contains(&served), "{statuses:?}");
        assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
        let start = Instant::now();
        for _ in 0..3 {
            let reply = block_on(async {
                let mut connection = H2::open(scene.lab.at(PORT), None).await.unwrap();
                let fields = [("content-type", "application/grpc"), ("te", "trailers")];
                let path = "/helloworld.Greeter/SayHello";
                connection.request("POST", "grpc.example.com", path, &fields, b"\0\0\0\0\0").await.unwrap()
            });
            assert_eq!(reply.trailer("grpc-status"), Some("0"), "{reply:?}");
        }
        assert!(start.elapsed() > Duration::from_millis(1500), "{:?}", start.elapsed());
        // The Gateway's ten a second are without a burst.
        assert_eq!(scene.get(CAFE, "/tea", &[]).status, 200);
    });
}

#[test]
fn upstream_settings_policy() {
    nginx("upstream-settings-policy", |files| {
        let mut scene = Scene::example(files, "upstream-settings-policy", &["coffee", "tea"]);
        scene.start();
        assert_eq!(scene.get(CAFE, "/coffee", &[]).status, 200);
        assert_eq!(scene.get(CAFE, "/tea", &[]).status, 200);
        // Its targets are Services of the group `core`. What has no meaning here is said, and nothing else.
        let said = scene.check().text();
        assert!(said.contains("zoneSize"), "{said}");
        assert!(!said.contains("TargetNotFound") && !said.contains("not found"), "{said}");
        let explained = scene.edged().ctl(&["explain", "http://cafe.example.com/coffee"]).stdout;
        assert!(explained.contains("at most 32 idle ones"), "{explained}");
    });
}

#[test]
fn snippets_are_refused_and_never_skipped() {
    nginx("snippets", |files| {
        let mut scene = Scene::example(files, "snippets", &["coffee", "tea"]);
        scene.start();
        assert_eq!(scene.get(CAFE, "/coffee", &[]).status, 500, "a rule that names a SnippetsFilter");
        assert_eq!(scene.get(CAFE, "/tea", &[]).status, 200);
        let said = scene.check().text();
        for name in ["limit-except-sf", "limit-conn-sp"] {
            assert!(said.contains(name), "{name} is not told in {said}");
        }
    });
}

#[test]
fn cors_filter() {
    nginx("cors-filter", |files| {
        let mut scene = Scene::example(files, "cors-filter", &["coffee"]);
        scene.start();
        let preflight = |origin: &str| {
            let fields = [("origin", origin), ("access-control-request-method", "GET")];
            scene.ask("OPTIONS", CAFE, "/coffee", &fields, b"")
        };
        for origin in ["https://www.foo.com", "https://app.bar.com"] {
            let reply = preflight(origin);
            assert_eq!(reply.header("access-control-allow-origin"), Some(origin), "{reply:?}");
            assert_eq!(reply.header("access-control-allow-credentials"), Some("true"));
            assert_eq!(reply.header("access-control-max-age"), Some("10"));
        }
        assert_eq!(preflight("https://www.other.com").header("access-control-allow-origin"), None);
    });
}

/// The document's authorizer, which is an nginx with a configuration of its own.
struct Authorizer(Child);

impl Authorizer {
    fn start(folder: &Path, document: &str, at: SocketAddr) -> Self {
        // The block of the ConfigMap, as it is mounted; only the port is this test's.
        let lines = document.lines().skip_while(|line| !line.contains("default.conf: |")).skip(1);
        let server: Vec<&str> = lines.take_while(|line| line.starts_with("    ") || line.is_empty()).collect();
        let server = server.join("\n").replace("listen 8080;", &format!("listen {at};"));
        assert!(server.contains(&at.to_string()), "{document}");
        let root = folder.display();
        let conf = format!(
            "daemon off; master_process off; pid {root}/nginx.pid; error_log stderr;\nevents {{}}\nhttp {{ access_log off;\n\
             client_body_temp_path {root}; proxy_temp_path {root}; fastcgi_temp_path {root}; uwsgi_temp_path {root}; \
             scgi_temp_path {root};\n{server}\n}}\n"
        );
        let file = folder.join("nginx.conf");
        std::fs::write(&file, conf).unwrap();
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-c").arg(&file).arg("-p").arg(folder).stdout(Stdio::null()).stderr(Stdio::null());
        let authorizer = Self(command.spawn().unwrap());
        until("the authorizer listens", || std::net::TcpStream::connect(at).is_ok().then_some(()));
        authorizer
    }
}

impl Drop for Authorizer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn external_authentication() {
    nginx("external-authentication", |files| {
        isolated("documented-external-authentication", || {
            let document = files.file("examples/external-authentication/external-auth.yaml");
            let mut scene = Scene::example(files, "external-authentication", &["coffee", "tea"]);
            let at: SocketAddr = ([127, 0, 0, 1], 19004).into();
            let authorizer = Authorizer::start(scene.lab.dir(), &document, at);
            scene.add("authorizer", &slices("default", "ext-auth-server", "http", "TCP", &[at]));
            scene.start();
            let key = [("x-api-key", "my-custom-secret")];
            let reply = scene.until(200, CAFE, "/coffee", &key);
            assert_eq!(reply.backend(), Some("coffee-1"), "{reply:?}");
            // Only the authorizer says who it is.
            let forged = [key[0], ("x-user-id", "root")];
            let reply = scene.get(CAFE, "/coffee", &forged);
            assert_eq!((reply.status, &reply.json()["headers"]["x-user-id"]), (200, &serde_json::Value::Null));
            for fields in [&[][..], &[("x-api-key", "guessed")]] {
                let reply = scene.get(CAFE, "/coffee", fields);
                assert_eq!((reply.status, &*reply.body), (401, &b"unauthorized"[..]), "{reply:?}");
            }
            // Up to 1024 bytes of a body are shown to the authorizer; a longer one is refused.
            for (size, status) in [(1024, 200), (1025, 413)] {
                assert_eq!(scene.ask("POST", CAFE, "/coffee", &key, &vec![b'x'; size]).status, status, "{size}");
            }
            assert_eq!(scene.get(CAFE, "/tea", &[]).status, 200, "a route without the filter");
            // "If there is any problem communicating with the external service, this filter MUST fail closed."
            drop(authorizer);
            scene.until(403, CAFE, "/coffee", &key);
            assert_eq!(scene.get(CAFE, "/tea", &[]).status, 200);
        });
    });
}
