//! What is answered in place of the backend, and what becomes of its answers: HTTPRouteFilter's direct responses,
//! overrides, compression, timeouts.

use edge_integration::client::Reply;
use edge_integration::documented::Scene;

use crate::{WWW, envoy};

fn text(reply: &Reply) -> String {
    String::from_utf8_lossy(&reply.body).into_owned()
}

#[test]
fn direct_responses() {
    envoy("direct-response", |files| {
        let mut scene = Scene::quickstart(files, 1);
        scene.apply(files.task("traffic/direct-response").block(&["kind: HTTPRouteFilter"]));
        scene.start();
        for (path, status, kind, body) in [
            ("/inline", 503, "text/plain", "Oops! Your request is not found."),
            ("/value-ref", 500, "application/json", "{\"error\": \"Internal Server Error\"}"),
        ] {
            let reply = scene.get(WWW, path, &[]);
            assert_eq!((reply.status, reply.header("content-type")), (status, Some(kind)), "{reply:?}");
            assert_eq!(text(&reply), body);
        }
        assert_eq!(scene.get(WWW, "/", &[]).status, 200);
    });
}

#[test]
fn overrides() {
    envoy("response-override", |files| {
        let mut scene = Scene::quickstart(files, 1);
        scene.apply(files.task("traffic/response-override").block(&["name: response-override\n"]));
        scene.start();
        let oops = "Oops! Your request is not found.";
        let error = "{\"error\": \"Internal Server Error\"}";
        for (path, status, kind, body) in [
            ("/status/404", 404, "text/plain", oops),
            ("/status/500", 500, "application/json", error),
            ("/status/503", 503, "application/json", error),
            ("/status/511", 511, "application/json", error),
        ] {
            let reply = scene.get(WWW, path, &[]);
            assert_eq!((reply.status, reply.header("content-type")), (status, Some(kind)), "{reply:?}");
            assert_eq!(text(&reply), body, "{path}");
        }
        let redirected = scene.get(WWW, "/status/403", &[]);
        assert_eq!((redirected.status, redirected.header("location")), (302, Some("https://www.example.com/get")));
        assert_eq!(scene.get(WWW, "/status/401", &[]).status, 401, "of no rule");
    });
}

#[test]
fn overrides_of_what_is_answered_here_or_there() {
    envoy("response-override, source", |files| {
        let page = files.task("traffic/response-override");
        let said = "{\"error\": \"Authentication required. Please provide a valid token.\"}";
        for (source, here, there) in [("source: Local", true, false), ("source: Backend", false, true)] {
            let mut scene = Scene::quickstart(files, 1);
            scene.apply(page.block(&[source]));
            // The page's `/foo` is the one of the task about JWT; keys by value need no server.
            scene.apply(&files.file("examples/kubernetes/jwt/jwt.yaml"));
            scene.apply(
                files.task("security/jwt-authentication").block(&["type: ValueRef", "kind: ConfigMap\nmetadata"]),
            );
            scene.start();
            for (path, replaced) in [("/foo", here), ("/status/401", there)] {
                let reply = scene.get(WWW, path, &[]);
                assert_eq!(reply.status, 401, "{source} {path}: {reply:?}");
                assert_eq!(text(&reply) == said, replaced, "{source} {path}: {reply:?}");
                assert_eq!(reply.header("content-type") == Some("application/json") && text(&reply) == said, replaced);
            }
        }
    });
}

#[test]
fn compression() {
    envoy("response-compression", |files| {
        let page = files.task("traffic/response-compression");
        let long = "a line that is said again and again\n".repeat(100);
        for name in ["name: response-compression\n", "name: response-compression-deprecated"] {
            let mut scene = Scene::quickstart(files, 1);
            let words: &[&str] = if name.ends_with('\n') { &[name, "brotli"] } else { &[name] };
            scene.apply(page.block(words));
            scene.start();
            scene.backends[0].origin.page("/long", &long);
            for (accepted, coding) in [
                ("br;q=1.0, gzip;q=0.8", Some("br")),
                ("br;q=0.8, gzip;q=1.0", Some("gzip")),
                ("zstd", Some("zstd")),
                ("identity", None),
            ] {
                let reply = scene.get(WWW, "/", &[("accept-encoding", accepted)]);
                assert_eq!(reply.header("content-encoding"), coding, "{name} {accepted}: {reply:?}");
                assert!(coding.is_none() || reply.header("vary").is_some_and(|vary| vary.contains("Accept-Encoding")));
            }
        }
        let mut scene = Scene::quickstart(files, 1);
        scene.apply(page.block(&["minContentLength: 1024"]));
        scene.start();
        scene.backends[0].origin.page("/short", &long[..1000]);
        scene.backends[0].origin.page("/long", &long);
        let coding = |path: &str| {
            let reply = scene.get(WWW, path, &[("accept-encoding", "gzip")]);
            reply.header("content-encoding").map(str::to_owned)
        };
        assert_eq!((coding("/short"), coding("/long").as_deref()), (None, Some("gzip")));
    });
}

#[test]
fn timeouts_of_a_route() {
    envoy("http-timeouts", |files| {
        let page = files.task("traffic/http-timeouts");
        for (timeout, status) in [("request: \"4s\"", 200), ("request: \"2s\"", 504)] {
            let mut scene = Scene::quickstart(files, 1);
            scene.apply(page.block(&[timeout]));
            scene.start();
            assert_eq!(scene.get("timeout.example.com", "/?delay=3s", &[]).status, status, "{timeout}");
        }
    });
}
