//! Logins, authorizers and their troubles with real peers: a certified OpenID provider and an authorizer of Envoy's
//! protocol. curl is the browser.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

#[path = "oidc/browser.rs"]
mod browser;

use std::path::Path;

use edge_integration::edged::{Edged, until};
use edge_integration::lab::{Origins, isolated, skip};
use edge_integration::netns;
use edge_integration::pki::{Authority, Leaf};

use browser::{Browser, PROVIDER, SECRET, SHOP, control, discovered, loopback, provider, scene, start};

#[test]
fn a_browser_logs_in_stays_and_logs_out() {
    isolated("oidc-in", || {
        let _provider = provider(&[]);
        let scene = scene(|text| text);
        let browser = Browser::new();
        discovered(&browser);
        browser.log_in();
        let forged = ["-H", "X-Id-Token: forged", "-H", "Cookie: a=1"];
        let page = browser.ask(&format!("{SHOP}/"), &forged);
        assert_eq!(page.status, 200, "{page:?}");
        assert!(page.body.contains("x-id-token"), "{page:?}");
        // The backend tells what it was told: the token in its field, and no cookie of Edge's.
        assert!(!page.body.contains("forged") && !page.body.contains("edge-oidc"), "{page:?}");
        // Programs, and who has no cookie, are told and not sent.
        let stranger = Browser::new();
        let url = format!("{SHOP}/");
        for more in [
            &["-H", "Accept: application/json"][..],
            &["-H", "X-Requested-With: XMLHttpRequest"],
            &["-H", "Sec-Fetch-Mode: cors"],
            &["-X", "POST", "-d", "x"],
        ] {
            let page = stranger.ask(&url, more);
            assert_eq!((page.status, page.field("location")), (401, None), "{more:?} {page:?}");
            assert!(page.body.contains("login_required"), "{page:?}");
        }
        let page = stranger.ask(&url, &["-X", "POST", "-H", "Content-Type: application/grpc", "-d", "x"]);
        assert_eq!((page.status, page.field("grpc-status")), (200, Some("16")), "{page:?}");
        let page = browser.ask(&format!("{SHOP}/logout"), &[]);
        assert_eq!(page.status, 302, "{page:?}");
        assert!(page.location().starts_with(&format!("http://{PROVIDER}/end_session?id_token_hint=")), "{page:?}");
        assert!(browser.cookies().iter().all(|(name, _)| name.contains("-login-")), "{:?}", browser.cookies());
        assert_eq!(browser.ask(&url, &[]).status, 302);
        let metrics = scene.metrics();
        for line in ["edge_oidc_provider_up{", "edge_oidc_logins_total{outcome=\"granted\"} 1", "edge_jwks_keys{"] {
            assert!(metrics.contains(line), "{line}: {metrics}");
        }
        let explained = scene.edged.ctl(&["explain", &format!("{SHOP}/")]).stdout;
        assert!(explained.contains("login at http://127.0.0.1:18421"), "{explained}");
    });
}

#[test]
fn nothing_but_a_whole_cookie_of_this_policy_and_host_is_a_session() {
    isolated("oidc-forge", || {
        let _provider = provider(&[]);
        // A second policy with the same client, for another host.
        let scene = scene(|text| {
            let second = text.replace("shop.edge.test", "other.edge.test").replace("name: shop\n", "name: other\n");
            let second = second.replace("name: login", "name: other-login");
            let second =
                second.replace("        - name: other\n          port: 80", "        - name: shop\n          port: 80");
            format!("{text}---\n{second}")
        });
        let browser = Browser::new();
        discovered(&browser);
        browser.log_in();
        let url = format!("{SHOP}/");
        let session: Vec<(String, String)> =
            browser.cookies().into_iter().filter(|(name, _)| !name.contains("-login-")).collect();
        assert!(!session.is_empty());
        let sent = |edit: &dyn Fn(&str, &str) -> String| {
            let all: Vec<String> = session.iter().map(|(name, value)| edit(name, value)).collect();
            format!("Cookie: {}", all.join("; "))
        };
        let stranger = Browser::new();
        let ask = |cookie: &str| stranger.ask(&url, &["-H", cookie]).status;
        assert_eq!(ask(&sent(&|name, value| format!("{name}={value}"))), 200);
        assert_eq!(ask(&sent(&|name, value| format!("{name}={}", &value[..value.len() - 2]))), 302);
        let altered = |value: &str| {
            let (kept, last) = value.split_at(value.len() - 1);
            format!("{kept}{}", if last == "A" { "B" } else { "A" })
        };
        assert_eq!(ask(&sent(&|name, value| format!("{name}={}", altered(value)))), 302);
        assert_eq!(ask(&sent(&|name, value| format!("{name}x={value}"))), 302);
        let other =
            Browser { options: vec!["--resolve".into(), "other.edge.test:8080:127.0.0.42".into()], ..Browser::new() };
        let page = until("the other host", || {
            let page = other.ask("http://other.edge.test:8080/", &[]);
            (page.status == 302).then_some(page)
        });
        let name = page.fields("set-cookie").next().unwrap().split("-login-").next().unwrap().to_owned();
        assert!(session.iter().all(|(known, _)| *known != name), "each policy has a cookie of its own");
        let cookie = sent(&|known, value| format!("{}={value}", known.replacen(&session[0].0, &name, 1)));
        assert_eq!(other.ask("http://other.edge.test:8080/", &["-H", &cookie]).status, 302, "of another policy");
        // A callback that nobody began, a state of another browser, and what the provider refuses.
        let page = stranger.ask(&format!("{SHOP}/oauth2/callback?code=x&state=abcdefghijklmnopqrstuv"), &[]);
        assert_eq!(page.status, 401, "{page:?}");
        let victim = Browser::new();
        let begun = victim.ask(&url, &[]);
        let callback = victim.sign_in(&begun, &format!("http://{PROVIDER}"));
        assert_eq!(stranger.ask(&callback, &[]).status, 401, "another browser's login");
        let arrived = victim.ask(&callback, &[]);
        assert_eq!((arrived.status, arrived.location()), (302, &*url));
        assert_eq!(victim.ask(&callback, &[]).status, 302, "back in history, with a session");
        let state = callback.split("state=").nth(1).unwrap().split('&').next().unwrap();
        let fresh = Browser::new();
        let page = fresh.ask(&format!("{SHOP}//evil.test/"), &[]);
        assert_eq!(page.status, 302);
        assert_ne!(page.location().split("state=").nth(1).unwrap().split('&').next(), Some(state));
        let callback = fresh.sign_in(&page, &format!("http://{PROVIDER}"));
        let arrived = fresh.ask(&callback, &[]);
        assert!(arrived.location().starts_with(SHOP), "never to another host: {arrived:?}");
        drop(scene);
    });
}

#[test]
fn a_provider_that_rotates_fails_or_goes_away_opens_nothing() {
    isolated("oidc-away", || {
        let first = provider(&["-lifetime", "4s"]);
        let scene = scene(|text| text);
        let browser = Browser::new();
        discovered(&browser);
        browser.log_in();
        let url = format!("{SHOP}/");
        // Tokens end and are renewed without anybody noticing; the provider's keys are others by then.
        control("rotate");
        until("the session was prolonged", || {
            let page = browser.ask(&url, &[]);
            assert_eq!(page.status, 200, "{page:?}");
            control("counts").contains("refreshes 1").then_some(())
        });
        let another = Browser::new();
        until("a login under the new keys", || {
            let callback = another.sign_in(&another.ask(&url, &[]), &format!("http://{PROVIDER}"));
            (another.ask(&callback, &[]).status == 302).then_some(())
        });
        for trouble in ["garbage", "broken"] {
            control("well");
            let late = Browser::new();
            let callback = late.sign_in(&late.ask(&url, &[]), &format!("http://{PROVIDER}"));
            control(trouble);
            let page = late.ask(&callback, &[]);
            assert_eq!(page.status, 503, "{trouble} {page:?}");
            assert!(page.body.contains("provider_away"), "{page:?}");
        }
        // Nobody's session outlives its tokens.
        drop(first);
        let page = until("the tokens are over", || Some(browser.ask(&url, &[])).filter(|page| page.status != 200));
        assert_eq!(page.status, 503, "{page:?}");
        let _second = provider(&["-skew", "1h"]);
        let page = until("the provider is back", || Some(browser.ask(&url, &[])).filter(|page| page.status == 302));
        let told = || std::fs::read_to_string(scene.dir.path().join("edged.log")).unwrap();
        // Its keys are new as well, and unknown ones are not asked for without end.
        until("a token of a clock that is an hour ahead", || {
            let skewed = Browser::new();
            let callback = skewed.sign_in(&skewed.ask(&url, &[]), &format!("http://{PROVIDER}"));
            let page = skewed.ask(&callback, &[]);
            assert_eq!(page.status, 401, "{page:?}");
            assert!(page.body.contains("login_failed"), "{page:?}");
            told().contains("is a clock wrong?").then_some(())
        });
        assert!(page.location().contains("code_challenge_method=S256"), "{page:?}");
        assert!(!told().contains(SECRET), "secrets are not told");
    });
}

#[test]
fn authorizers_decide_and_their_absence_does_what_the_policy_says() {
    isolated("oidc-ext", || {
        let at = [loopback(1, 18422), loopback(1, 18423)];
        let arguments = ["-grpc", "127.0.0.1:18422", "-http", "127.0.0.1:18423"];
        let authorizer = start("authorizer", &arguments, &at);
        let scene = scene(|text| text);
        let browser = Browser {
            options: ["--resolve", "grpc.edge.test:8080:127.0.0.42", "--resolve", "http.edge.test:8080:127.0.0.42"]
                .map(str::to_owned)
                .to_vec(),
            ..Browser::new()
        };
        let grpc = "http://grpc.edge.test:8080/x?y=z";
        let page = browser.ask(grpc, &[]);
        assert_eq!((page.status, page.field("www-authenticate")), (401, Some("Test")), "{page:?}");
        assert_eq!(page.body, "not you\n");
        let told = page.field("x-told").unwrap();
        assert_eq!(told, "GET grpc.edge.test:8080/x?y=z from 127.0.0.1 ext site=example body 0");
        let page = browser.ask(grpc, &["-H", "X-Allow: yes", "-H", "X-User: forged", "-d", "seven b"]);
        assert_eq!((page.status, page.field("x-checked")), (200, Some("yes")), "{page:?}");
        let page = browser.ask(grpc, &["-H", "X-Allow: yes", "-d", &"x".repeat(1025)]);
        assert_eq!(page.status, 413, "{page:?}");
        for mode in ["X-Mode: slow", "X-Mode: error"] {
            let page = browser.ask(grpc, &["-H", "X-Allow: yes", "-H", mode]);
            assert_eq!(page.status, 503, "{mode} {page:?}");
            assert!(page.body.contains("ext_auth_failed"), "{page:?}");
        }
        let http = "http://http.edge.test:8080/x?y=z";
        let page = browser.ask(http, &["-H", "X-Secret: s"]);
        assert_eq!((page.status, page.body.as_str()), (401, "not you\n"), "{page:?}");
        assert_eq!(page.field("x-told"), Some("GET http.edge.test:8080/check/x?y=z body 0 secret \"\""));
        assert_eq!(browser.ask(http, &["-H", "X-Allow: yes"]).status, 200);
        // It says failOpen.
        for mode in ["X-Mode: slow", "X-Mode: error"] {
            assert_eq!(browser.ask(http, &["-H", mode]).status, 200, "{mode}");
        }
        drop(authorizer);
        assert_eq!(browser.ask(grpc, &["-H", "X-Allow: yes"]).status, 503);
        assert_eq!(browser.ask(http, &[]).status, 200);
        let explained = scene.edged.ctl(&["explain", "http://grpc.edge.test:8080/"]).stdout;
        assert!(explained.contains("authorizer"), "{explained}");
    });
}

/// Genestack's documentation (docs/infrastructure-envoy-gateway-api-security.md), with what it leaves to its reader.
const GENESTACK: &str = include_str!("oidc/genestack.yaml");

#[test]
fn the_policy_that_genestack_documents_works_as_it_is() {
    if let Err(why) = netns::available() {
        return skip("oidc", &why);
    }
    isolated("oidc-gs", || {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let authority = Authority::new("test authority").unwrap();
        let hosts = [("login", "login.microsoftonline.com"), ("app", "alertmanager.example.com")];
        let pairs = hosts.map(|(name, host)| {
            let pair = authority.sign(&Leaf { dns: &[host], ..Leaf::default() }).unwrap();
            std::fs::write(path(&format!("{name}.pem")), &pair.certificate).unwrap();
            std::fs::write(path(&format!("{name}.key")), &pair.key).unwrap();
            pair
        });
        std::fs::write(path("ca.pem"), &authority.certificate).unwrap();
        std::fs::write(path("hosts"), "127.0.0.1 localhost\n127.0.0.50 login.microsoftonline.com\n").unwrap();
        let issuer = "https://login.microsoftonline.com/7d3b9f2e-0000-4000-8000-2c963f66afa6/v2.0";
        let _provider = start(
            "openid-provider",
            &[
                "-listen",
                "127.0.0.50:443",
                "-issuer",
                issuer,
                "-certificate",
                &path("login.pem"),
                "-key",
                &path("login.key"),
                "-client",
                "5c9d1a77-0000-4000-8000-aa5566778899",
                "-secret",
                "value-from-azure",
                "-redirects",
                "https://alertmanager.example.com/alertmanager/oauth2/callback",
            ],
            &[loopback(50, 443)],
        );
        let indent = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
        let secret = format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: alertmanager-envoy-secret, namespace: internal}}\n\
             type: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
            indent(&pairs[1].certificate),
            indent(&pairs[1].key)
        );
        std::fs::create_dir(path("manifests")).unwrap();
        std::fs::write(path("manifests/genestack.yaml"), format!("{GENESTACK}{secret}")).unwrap();
        let root = dir.path().display();
        let settings = format!(
            "[state]\ndirectory = \"{root}/state\"\n[control]\nsocket = \"{root}/edged.sock\"\n\
             [[manifests]]\npath = \"{root}/manifests\"\n[[pool]]\nname = \"p\"\naddresses = [\"127.0.0.43\"]\n"
        );
        std::fs::write(path("edge.toml"), settings).unwrap();
        let origins = Origins::start();
        let _backend = origins.http_at("alertmanager", loopback(1, 19093), None);
        // Who edged believes, and where it finds the provider, are of the machine: its certificates and its hosts.
        let script =
            format!("mount --bind {root}/hosts /etc/hosts && exec env SSL_CERT_FILE={root}/ca.pem \"$0\" \"$@\"");
        let mut edged = Edged::spawn_by(
            &["unshare", "--mount", "sh", "-c", &script],
            Path::new(&path("edge.toml")),
            Path::new(&path("edged.sock")),
            Path::new(&path("edged.log")),
        );
        edged.wait_port(loopback(43, 443));
        let options = [
            "--cacert",
            &path("ca.pem"),
            "--resolve",
            "alertmanager.example.com:443:127.0.0.43",
            "--resolve",
            "login.microsoftonline.com:443:127.0.0.50",
        ];
        let browser = Browser { options: options.map(str::to_owned).to_vec(), ..Browser::new() };
        let url = "https://alertmanager.example.com/#/alerts";
        let page =
            until("the provider is discovered", || Some(browser.ask(url, &[])).filter(|page| page.status == 302));
        assert!(page.location().starts_with("https://login.microsoftonline.com/"), "{page:?}");
        let callback = browser.sign_in(&page, "https://login.microsoftonline.com");
        assert!(
            callback.starts_with("https://alertmanager.example.com/alertmanager/oauth2/callback?code="),
            "{callback}"
        );
        let arrived = browser.ask(&callback, &[]);
        assert_eq!((arrived.status, arrived.location()), (302, "https://alertmanager.example.com/"), "{arrived:?}");
        assert!(arrived.fields("set-cookie").all(|cookie| cookie.contains("; Secure; HttpOnly; SameSite=Lax")));
        let page = browser.ask(url, &[]);
        assert_eq!(page.status, 200, "{page:?}");
        assert_eq!(browser.ask("https://alertmanager.example.com/alertmanager/logout", &[]).status, 302);
        assert_eq!(browser.ask(url, &[]).status, 302);
    });
}
