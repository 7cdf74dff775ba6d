//! HTTPRouteFilter's rewrites, and Backend.

use edge_integration::documented::Scene;
use edge_integration::edged::until;
use edge_integration::lab::isolated;

use crate::{WWW, envoy};

#[test]
fn rewrites() {
    envoy("http-urlrewrite", |files| {
        let page = files.task("traffic/http-urlrewrite");
        let foo: &[(&str, &str)] = &[("x-custom-host", "foo")];
        for (words, host, path, fields, seen) in [
            (
                &["replacePrefixMatch"][..],
                "path.rewrite.example",
                "/get/origin/path",
                &[][..],
                ("path.rewrite.example", "/replace/origin/path"),
            ),
            (
                &["replaceFullPath"],
                "path.rewrite.example",
                "/get/origin/path/extra",
                &[],
                ("path.rewrite.example", "/force/replace/fullpath"),
            ),
            (
                &["replaceRegexMatch"],
                "path.regex.rewrite.example",
                "/service/foo/v1/api",
                &[],
                ("path.regex.rewrite.example", "/v1/api/instance/foo"),
            ),
            (&["hostname: \"envoygateway.io\""], "path.rewrite.example", "/get", &[], ("envoygateway.io", "/get")),
            (
                &["name: header-host-rewrite", "kind: HTTPRoute\n"],
                "host.header.rewrite.example",
                "/header",
                foo,
                ("foo", "/header"),
            ),
        ] {
            let mut scene = Scene::quickstart(files, 1);
            scene.apply(page.block(words));
            scene.start();
            let reply = scene.get(host, path, fields);
            assert_eq!(reply.status, 200, "{words:?}: {reply:?}");
            let told = reply.json();
            assert_eq!((told["host"].as_str(), told["path"].as_str()), (Some(seen.0), Some(seen.1)), "{words:?}");
            if seen.0 != host {
                assert_eq!(told["headers"]["x-forwarded-host"][0], host, "{words:?}: {told}");
            }
        }
    });
}

#[test]
fn a_host_that_is_rewritten_without_a_trace() {
    envoy("http-urlrewrite, appendXForwardedHost", |files| {
        let page = files.task("traffic/http-urlrewrite");
        let mut scene = Scene::quickstart(files, 1);
        scene.apply(page.block(&["name: header-host-rewrite", "kind: HTTPRoute\n"]));
        // The page shows the filter alone; its spec under the name that the route has.
        let filter = page.block(&["appendXForwardedHost: false"]);
        scene.apply(&filter.replace("name: host-rewrite-no-xfh", "name: header-host-rewrite"));
        scene.start();
        let told = scene.get("host.header.rewrite.example", "/header", &[("x-custom-host", "foo")]).json();
        assert_eq!(told["host"], "foo");
        assert_eq!(told["headers"]["x-forwarded-host"], serde_json::Value::Null, "{told}");
    });
}

#[test]
fn a_backend_by_name() {
    envoy("backend", |files| {
        isolated("documented-backend", || {
            let mut scene = Scene::quickstart(files, 1);
            scene.apply(files.task("traffic/backend").block(&["name: httpbin\n  namespace"]));
            let httpbin = scene.lab.origins().http_at("httpbin", ([127, 0, 0, 61], 80).into(), None);
            scene.lab.write_file("hosts", "127.0.0.1 localhost\n127.0.0.61 httpbin.org\n");
            let hosts = scene.lab.path("hosts").display().to_string();
            let script = format!("mount --bind {hosts} /etc/hosts && exec \"$0\" \"$@\"");
            scene.start_by(&["unshare", "--mount", "sh", "-c", &script]);
            until("the name is known", || {
                let reply = scene.get(WWW, "/headers", &[]);
                (reply.status == 200 && reply.backend() == Some("httpbin")).then_some(())
            });
            assert!(httpbin.origin.count("/headers") > 0);
        });
    });
}

#[test]
fn a_backend_that_anybody_could_name_is_refused_and_said_so() {
    envoy("backend, dynamic resolver", |files| {
        let mut scene = Scene::quickstart(files, 1);
        scene.apply(files.task("traffic/backend").block(&["name: dynamic-forward-proxy"]));
        scene.start();
        let reply = scene.get("gateway.envoyproxy.io", "/", &[]);
        assert_eq!(reply.status, 500, "{reply:?}");
        assert!(scene.check().text().contains("DynamicResolver"), "{:?}", scene.check());
    });
}
