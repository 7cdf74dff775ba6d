//! SecurityPolicy with tokens: JWT with keys from the documented address and from a ConfigMap, claims, external
//! authorization over HTTP and gRPC. The documented hosts are on loopback: `/etc/hosts` and the trusted certificates of
//! edged's own mount namespace say so.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge_integration::client::{H2, Reply};
use edge_integration::documented::{Checkout, PORT, Scene};
use edge_integration::edged::{until, workspace};
use edge_integration::lab::{Running, block_on, isolated};
use edge_integration::manifests::slices;
use edge_integration::pki::{self, Authority, Leaf};

use crate::{WWW, envoy};

const RAW: &str = "raw.githubusercontent.com";

/// The documented web server, with the files of the documents on it.
fn raw_server(scene: &Scene, files: &Checkout) -> (Running, Vec<String>) {
    let authority = Authority::new("documented").unwrap();
    let pair = authority.sign(&Leaf { dns: &[RAW], ..Leaf::default() }).unwrap();
    let at: SocketAddr = ([127, 0, 0, 60], 443).into();
    let server = scene.lab.origins().http_at("raw", at, Some(pki::acceptor(&pair, None).unwrap()));
    let keys = files.file("examples/kubernetes/jwt/jwks.json");
    for branch in ["main", "refs/heads/main"] {
        server.origin.page(&format!("/envoyproxy/gateway/{branch}/examples/kubernetes/jwt/jwks.json"), &keys);
    }
    scene.lab.write_file("ca.pem", &authority.certificate);
    scene.lab.write_file("hosts", &format!("127.0.0.1 localhost\n{} {RAW}\n", at.ip()));
    let root = scene.lab.dir().display();
    let script = format!("mount --bind {root}/hosts /etc/hosts && exec env SSL_CERT_FILE={root}/ca.pem \"$0\" \"$@\"");
    (server, ["unshare", "--mount", "sh", "-c", &script].map(str::to_owned).to_vec())
}

fn start(scene: &mut Scene, before: &[String]) {
    let before: Vec<&str> = before.iter().map(String::as_str).collect();
    scene.start_by(&before);
}

fn bearer(files: &Checkout, name: &str) -> String {
    format!("Bearer {}", files.file(&format!("examples/kubernetes/jwt/{name}")).trim())
}

/// One gRPC call in clear.
fn call(scene: &Scene, host: &str, path: &str, more: &[(&str, &str)]) -> Reply {
    let fields = [&[("content-type", "application/grpc"), ("te", "trailers")], more].concat();
    block_on(async {
        let mut connection = H2::open(scene.lab.at(PORT), None).await.unwrap();
        connection.request("POST", host, path, &fields, b"\0\0\0\0\0").await.unwrap()
    })
}

fn grpc_status(reply: &Reply) -> Option<&str> {
    reply.header("grpc-status").or(reply.trailer("grpc-status"))
}

#[test]
fn jwt() {
    envoy("jwt-authentication", |files| {
        isolated("documented-jwt", || {
            let mut scene = Scene::quickstart(files, 1);
            let (_raw, before) = raw_server(&scene, files);
            scene.apply(&files.file("examples/kubernetes/jwt/jwt.yaml"));
            start(&mut scene, &before);
            let john = bearer(files, "test.jwt");
            scene.until(200, WWW, "/foo", &[("authorization", &john)]);
            assert_eq!(scene.get(WWW, "/foo", &[]).status, 401);
            assert_eq!(scene.get(WWW, "/foo", &[("authorization", &format!("{john}x"))]).status, 401);
            assert_eq!(scene.get(WWW, "/bar", &[]).status, 200, "a route without the policy");
        });
    });
}

#[test]
fn jwt_of_grpc() {
    envoy("jwt-authentication, gRPC", |files| {
        isolated("documented-jwt-grpc", || {
            let mut scene = Scene::empty();
            let (_raw, before) = raw_server(&scene, files);
            scene.apply(&files.file("examples/kubernetes/grpc-routing.yaml"));
            scene.apply(&files.file("examples/kubernetes/jwt/grpc-jwt.yaml"));
            scene.service("yages", "http", 1);
            start(&mut scene, &before);
            let john = bearer(files, "test.jwt");
            until("the keys are there", || {
                let reply = call(&scene, "grpc-example.com", "/yages.Echo/Ping", &[("authorization", &john)]);
                (grpc_status(&reply) == Some("0")).then_some(())
            });
            let reply = call(&scene, "grpc-example.com", "/yages.Echo/Ping", &[]);
            assert_eq!(grpc_status(&reply), Some("16"), "Unauthenticated: {reply:?}");
        });
    });
}

#[test]
fn jwt_with_keys_of_a_config_map() {
    envoy("jwt-authentication, local keys", |files| {
        let mut scene = Scene::quickstart(files, 1);
        scene.apply(&files.file("examples/kubernetes/jwt/jwt.yaml"));
        scene.apply(files.task("security/jwt-authentication").block(&["type: ValueRef", "kind: ConfigMap\nmetadata"]));
        scene.start();
        // The pages' token that these keys signed is the one about claims.
        let page = files.file("site/content/en/latest/tasks/security/jwt-claim-authorization.md");
        let token = |name: &str| {
            let line = page.lines().find_map(|line| line.strip_prefix(&format!("export {name}=\""))).unwrap();
            format!("Bearer {}", line.trim_end_matches('"'))
        };
        assert_eq!(scene.get(WWW, "/foo", &[("authorization", &token("VALID_TOKEN"))]).status, 200);
        assert_eq!(scene.get(WWW, "/foo", &[]).status, 401);
        let stranger = bearer(files, "test.jwt");
        assert_eq!(scene.get(WWW, "/foo", &[("authorization", &stranger)]).status, 401, "signed by another key");
    });
}

#[test]
fn claims_and_scopes() {
    envoy("jwt-claim-authorization", |files| {
        isolated("documented-claims", || {
            let mut scene = Scene::quickstart(files, 1);
            let (_raw, before) = raw_server(&scene, files);
            scene.apply(files.task("security/jwt-claim-authorization").block(&["kind: SecurityPolicy"]));
            start(&mut scene, &before);
            let page = files.file("site/content/en/latest/tasks/security/jwt-claim-authorization.md");
            let token = |name: &str| {
                let line = page.lines().find_map(|line| line.strip_prefix(&format!("export {name}=\""))).unwrap();
                format!("Bearer {}", line.trim_end_matches('"'))
            };
            scene.until(200, WWW, "/", &[("authorization", &token("VALID_TOKEN"))]);
            assert_eq!(scene.get(WWW, "/", &[("authorization", &token("INVALID_TOKEN"))]).status, 403);
            assert_eq!(scene.get(WWW, "/", &[]).status, 401);
        });
    });
}

#[test]
fn a_limit_by_claim() {
    envoy("global-rate-limit, claims", |files| {
        isolated("documented-claim-limit", || {
            let mut scene = Scene::quickstart(files, 1);
            let (_raw, before) = raw_server(&scene, files);
            scene.apply(files.task("traffic/global-rate-limit").block(&["claimToHeaders", "x-claim-name"]));
            start(&mut scene, &before);
            let [john, tom] = ["test.jwt", "with-different-claim.jwt"].map(|name| bearer(files, name));
            scene.until(200, "ratelimit.example", "/foo", &[("authorization", &tom)]);
            let ask = |who: &str| scene.statuses(4, "GET", "ratelimit.example", "/foo", &[("authorization", who)]);
            assert_eq!(ask(&john), [200, 200, 200, 429]);
            assert_eq!(ask(&tom), [200; 4]);
            let forged =
                scene.get("ratelimit.example", "/foo", &[("x-claim-name", "John Doe"), ("authorization", &tom)]);
            assert_eq!(forged.status, 200, "what a client says of its name is not believed");
        });
    });
}

/// A program that ends with the test.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The documented authorizer: who bears `token1` is `user1`, and so on.
fn authorizer(more: &[&str]) -> (Peer, [SocketAddr; 2]) {
    let built = Command::new(workspace().join("integration/run/peers")).output().unwrap();
    assert!(built.status.success(), "no peers: {}", String::from_utf8_lossy(&built.stderr));
    let folder: PathBuf = String::from_utf8(built.stdout).unwrap().trim().into();
    let at: [SocketAddr; 2] = [([127, 0, 0, 1], 19002).into(), ([127, 0, 0, 1], 19003).into()];
    let [http, grpc] = at.map(|at| at.to_string());
    let mut command = Command::new(folder.join("authorizer"));
    command.args(["-http", &http, "-grpc", &grpc, "-bearers"]).args(more);
    let peer = Peer(command.stdout(Stdio::null()).spawn().unwrap());
    for address in at {
        until("the authorizer listens", || std::net::TcpStream::connect(address).is_ok().then_some(()));
    }
    (peer, at)
}

#[test]
fn external_authorization_over_http() {
    envoy("ext-auth, HTTP", |files| {
        isolated("documented-ext-http", || {
            let (_peer, [http, _]) = authorizer(&[]);
            let page = files.task("security/ext-auth");
            let mut scene = Scene::quickstart(files, 1);
            scene.apply(&files.file("examples/kubernetes/ext-auth-http-service.yaml"));
            scene.add("authorizer", &slices("default", "http-ext-auth", "", "TCP", &[http]));
            scene.apply(page.block(&["name: myapp\nspec:\n  parentRefs"]));
            scene.apply(page.block(&["kind: SecurityPolicy", "http-ext-auth"]));
            scene.start();
            assert_eq!(scene.get(WWW, "/myapp", &[]).status, 403);
            let reply = scene.get(WWW, "/myapp", &[("authorization", "Bearer token1")]);
            assert_eq!(reply.status, 200, "{reply:?}");
            assert_eq!(reply.json()["headers"]["x-current-user"][0], "user1", "{reply:?}");
            assert_eq!(scene.get(WWW, "/myapp", &[("authorization", "Bearer token9")]).status, 403);
            assert_eq!(scene.get(WWW, "/", &[]).status, 200, "another route");
        });
    });
}

#[test]
fn external_authorization_over_grpc_with_tls() {
    envoy("ext-auth, gRPC", |files| {
        isolated("documented-ext-grpc", || {
            let page = files.task("security/ext-auth");
            let mut scene = Scene::quickstart(files, 1);
            // The document brings the certificate of its server and the key: self-signed, and trusted as it is.
            let service = files.file("examples/kubernetes/ext-auth-grpc-service.yaml");
            let [certificate, key] = ["tls.crt", "tls.key"].map(|name| {
                let line = service.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": ")).unwrap();
                let pem = String::from_utf8(STANDARD.decode(line.trim()).unwrap()).unwrap();
                scene.lab.write_file(name, &pem);
                scene.lab.path(name).display().to_string()
            });
            let (_peer, [_, grpc]) = authorizer(&["-certificate", &certificate, "-key", &key]);
            scene.apply(&service);
            scene.add("authorizer", &slices("default", "grpc-ext-auth", "", "TCP", &[grpc]));
            scene.apply(page.block(&["name: myapp\nspec:\n  parentRefs"]));
            scene.apply(page.block(&["kind: SecurityPolicy", "grpc-ext-auth"]));
            scene.apply(page.block(&["kind: BackendTLSPolicy"]));
            scene.start();
            assert_eq!(scene.get(WWW, "/myapp", &[]).status, 403);
            let reply = scene.get(WWW, "/myapp", &[("authorization", "Bearer token1")]);
            assert_eq!(reply.status, 200, "{reply:?}");
            assert_eq!(reply.json()["headers"]["x-current-user"][0], "user1", "{reply:?}");
        });
    });
}
