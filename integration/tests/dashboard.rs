//! The dashboard of a real edged: who may look, what every answer carries, and what a browser makes of it.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;

use edge_integration::browser::{self, Browser};
use edge_integration::client::{Connection, Reply, Tls, fetch};
use edge_integration::edged::until;
use edge_integration::lab::{HTTP, HTTPS, Lab, block_on, isolated, skip};
use edge_integration::pki::{self, Authority, Leaf};
use edge_integration::showcase::{HOSTILE, PORT, Showcase};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn token(lab: &Lab) -> String {
    let path = lab.path("dashboard.token");
    std::fs::write(&path, format!("{TOKEN}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    format!("token_file = \"{}\"\n", path.display())
}

fn ask(address: SocketAddr, tls: Option<&Tls>, method: &str, target: &str, fields: &[(&str, &str)]) -> Reply {
    let host = address.to_string();
    let mut all = vec![("host", host.as_str())];
    if fields.iter().any(|(name, _)| *name == "host") {
        all.clear();
    }
    all.extend_from_slice(fields);
    block_on(async {
        let mut connection = Connection::open(address, tls).await.unwrap();
        connection.request(method, target, &all, b"").await.unwrap()
    })
}

fn by_address(lab: &Lab) -> Tls {
    Tls { config: lab.tls_config(&["http/1.1"]), server_name: None }
}

#[track_caller]
fn is_guarded(reply: &Reply) {
    for (name, part) in [
        ("content-security-policy", "default-src 'none'"),
        ("content-security-policy", "script-src 'self';"),
        ("content-security-policy", "frame-ancestors 'none'"),
        ("content-security-policy", "trusted-types 'none'"),
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        let value = reply.header(name).unwrap_or_default();
        assert!(value.contains(part), "{} {name}: {value:?}", reply.status);
    }
    assert!(!reply.header("content-security-policy").unwrap().contains("unsafe"));
}

#[test]
fn on_loopback_everybody_may_look_and_nobody_may_change() {
    isolated("dash-open", || {
        let mut lab = Lab::new();
        let _showcase = Showcase::furnish(&lab, "names = [\"edge-a.example.com\"]\n");
        lab.start(&[HTTP, HTTPS, PORT]);
        let at = lab.at(PORT);
        for (path, kind) in [
            ("/", "text/html"),
            ("/main.js", "text/javascript"),
            ("/dashboard.css", "text/css"),
            ("/api/overview", "application/json"),
            ("/api/map?vip=nothing", "application/json"),
            ("/api/search?q=shop", "application/json"),
            ("/api/announcements", "application/json"),
            ("/api/certificates", "application/json"),
            ("/api/findings", "application/json"),
        ] {
            let reply = ask(at, None, "GET", path, &[]);
            assert_eq!(reply.status, 200, "{path}");
            assert!(reply.header("content-type").unwrap().starts_with(kind), "{path}");
            is_guarded(&reply);
            let head = ask(at, None, "HEAD", path, &[]);
            assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        }
        for (method, path, fields, status) in [
            ("POST", "/api/overview", &[][..], 405),
            ("PUT", "/", &[], 405),
            ("OPTIONS", "/api/map", &[], 405),
            ("GET", "/api/nothing", &[], 404),
            ("GET", "/v1/status", &[], 404),
            ("GET", "/../etc/passwd", &[], 404),
            ("GET", "/api/overview", &[("host", "evil.example")], 421),
            ("GET", "/", &[("host", "evil.example:9902")], 421),
            ("GET", "/", &[("host", "localhost"), ("host", "evil.example")], 421),
            ("GET", "/api/overview", &[("host", "edge-a.example.com:9902")], 200),
            ("GET", "/api/overview", &[("host", "localhost")], 200),
        ] {
            let reply = ask(at, None, method, path, fields);
            assert_eq!(reply.status, status, "{method} {path} {fields:?}");
            is_guarded(&reply);
        }
        let long = format!("/api/search?q={}", "x".repeat(5000));
        assert_eq!(ask(at, None, "GET", &long, &[]).status, 414);
        // The same words as edgectl.
        until("the checks have found who does not answer", || {
            let seen = ask(at, None, "GET", "/api/overview", &[]).json();
            let said = lab.edged().ctl(&["status", "-o", "json"]).json();
            let of = |value: &serde_json::Value| -> Option<Vec<(String, String)>> {
                let rows = value.as_array()?.iter();
                Some(rows.map(|row| (row["backend"].to_string(), row["reason"].to_string())).collect())
            };
            let rows = of(&said["backends"])?;
            let troubles = seen["troubles"]["listed"].as_array()?;
            let told: Vec<String> = troubles.iter().map(|one| one["reason"].to_string()).collect();
            // Ages in reasons differ by the second between the two questions.
            let reports = rows.iter().find(|(name, _)| name.contains("reports"))?;
            let shop = rows.iter().find(|(name, reason)| name.contains("shop") && reason.contains("ejected"))?;
            let start = shop.1.split('(').next()?.to_owned();
            (told.contains(&reports.1) && told.iter().any(|reason| reason.starts_with(&start))).then_some(())
        });
        let _ = lab.edged().ctl(&["reload"]);
    });
}

#[test]
fn elsewhere_only_with_a_token_or_a_certificate() {
    isolated("dash-auth", || {
        let mut lab = Lab::new();
        let authority = Authority::new("operators").unwrap();
        lab.write_file("operators.crt", &authority.certificate);
        let both = format!("{}client_ca = \"{}\"\n", token(&lab), lab.path("operators.crt").display());
        let _showcase = Showcase::furnish(&lab, &both);
        lab.start(&[HTTP, HTTPS, PORT]);
        let (at, tls) = (lab.at(PORT), by_address(&lab));
        let get = |tls: &Tls, target: &str, fields: &[(&str, &str)]| ask(at, Some(tls), "GET", target, fields);

        // Nothing without TLS, and nothing about the edge without saying who asks.
        assert!(block_on(fetch(at, None, "localhost", "/")).is_err());
        let none = get(&tls, "/api/overview", &[]);
        assert_eq!((none.status, none.header("www-authenticate")), (401, Some("Bearer realm=\"edge\"")));
        is_guarded(&none);
        let page = get(&tls, "/", &[]);
        assert_eq!((page.status, page.header("location")), (303, Some("/login")));
        assert_eq!(get(&tls, "/login", &[]).status, 200);

        let right = format!("Bearer {TOKEN}");
        assert_eq!(get(&tls, "/api/overview", &[("authorization", &right)]).status, 200);
        assert_eq!(get(&tls, "/api/overview", &[("authorization", &format!("Basic {TOKEN}"))]).status, 401);
        assert_eq!(get(&tls, &format!("/api/overview?token={TOKEN}"), &[]).status, 401);

        // The login: a cookie that is not the token, that no script and no other site can use.
        let session = get(&tls, "/session", &[("authorization", &right)]);
        let cookie = session.header("set-cookie").unwrap().to_owned();
        for part in ["__Host-edge-dashboard=", "; Path=/;", "; Secure", "; HttpOnly", "; SameSite=Strict"] {
            assert!(cookie.contains(part), "{cookie}");
        }
        assert!(session.status == 204 && !cookie.contains(TOKEN));
        let value = cookie.split(';').next().unwrap();
        assert_eq!(get(&tls, "/api/map", &[("cookie", value)]).status, 200);
        assert_eq!(get(&tls, "/", &[("cookie", &format!("a=b; {value}"))]).status, 200);
        let longer = value.replace('=', "=f");
        assert_eq!(get(&tls, "/api/map", &[("cookie", &longer)]).status, 401, "a later end than was signed");
        assert!(get(&tls, "/logout", &[("cookie", value)]).header("set-cookie").unwrap().contains("Max-Age=0"));

        // Who has a certificate of the CA needs no token; another CA's does not get through the handshake.
        let leaf = |authority: &Authority| authority.sign(&Leaf { client: true, ..Leaf::default() }).unwrap();
        let operator = pki::client(&lab.internal_ca(), &["http/1.1"], Some(&leaf(&authority))).unwrap();
        let operator = Tls { config: operator, server_name: None };
        assert_eq!(get(&operator, "/api/overview", &[]).status, 200);
        let stranger = leaf(&Authority::new("strangers").unwrap());
        let stranger =
            Tls { config: pki::client(&lab.internal_ca(), &["http/1.1"], Some(&stranger)).unwrap(), server_name: None };
        assert!(block_on(fetch(at, Some(&stranger), &at.to_string(), "/api/overview")).is_err());

        // Guessing is slow, and stops nobody who has a session or a certificate.
        let wrong = "Bearer 0123456789abcdef0123456789abcdee";
        let mut slowed = None;
        for _ in 0..12 {
            let reply = get(&tls, "/api/overview", &[("authorization", wrong)]);
            assert!(matches!(reply.status, 401 | 429), "{}", reply.status);
            if reply.status == 429 {
                slowed = reply.header("retry-after").map(str::to_owned);
            }
        }
        let seconds: u64 = slowed.expect("twelve wrong tokens in a row").parse().unwrap();
        assert!((1..=60).contains(&seconds));
        assert_eq!(get(&tls, "/api/overview", &[("authorization", &right)]).status, 429);
        assert_eq!(get(&tls, "/api/overview", &[("cookie", value)]).status, 200);
        assert_eq!(get(&operator, "/api/overview", &[]).status, 200);
        let log = std::fs::read_to_string(lab.path("edged.log")).unwrap();
        assert!(log.contains("wrong token from") && !log.contains(TOKEN), "{log}");
    });
}

#[test]
fn faults_of_its_files_cost_nothing_else() {
    isolated("dash-faults", || {
        let mut lab = Lab::new();
        let _showcase = Showcase::furnish(&lab, "token_file = \"missing.token\"\n");
        lab.start(&[HTTP, HTTPS]);
        let notice = |lab: &mut Lab, part: &str| {
            until(part, || {
                let status = lab.edged().ctl(&["status", "-o", "json"]).json();
                let notices = status["edge"]["notices"].as_array()?.clone();
                notices.iter().any(|notice| notice.as_str().is_some_and(|text| text.contains(part))).then_some(())
            });
        };
        notice(&mut lab, "missing.token: cannot be read");
        // The address of somebody else: it waits for it.
        let taken = std::net::TcpListener::bind(lab.at(PORT)).unwrap();
        let more = token(&lab);
        let _showcase = Showcase::furnish(&lab, &more);
        lab.edged().apply();
        notice(&mut lab, "cannot listen: ");
        drop(taken);
        let (at, tls) = (lab.at(PORT), by_address(&lab));
        until("the dashboard answers", || {
            let reply = block_on(fetch(at, Some(&tls), &at.to_string(), "/login")).ok()?;
            (reply.status == 200).then_some(())
        });
        // Gone with its section.
        lab.write_config("");
        lab.edged().apply();
        until("the dashboard is gone", || std::net::TcpStream::connect(at).is_err().then_some(()));
    });
}

/// What a page with everything in order has said and asked for; how often it asked.
#[track_caller]
fn is_calm(browser: &mut Browser, base: &str) -> usize {
    let heard = browser.heard();
    assert_eq!(heard.complaints, [""; 0]);
    for url in &heard.requests {
        assert!(url.starts_with(base), "a request to {url}");
    }
    assert_eq!(browser.value("document.getElementById('fault')?.hidden ?? true"), true, "{}", browser.text());
    heard.requests.len()
}

const ROWS: &str = "document.querySelectorAll('[data-lane=route] [data-id]').length";
const FOCUS: &str = "document.activeElement?.dataset?.kind + ' ' + document.activeElement?.dataset?.id";

#[test]
fn in_a_browser() {
    if let Err(why) = browser::available() {
        assert!(std::env::var_os("CI").is_none(), "{why}");
        skip("dashboard in a browser", &why);
        return;
    }
    isolated("dash-page", || {
        let mut lab = Lab::new();
        let showcase = Showcase::furnish(&lab, "");
        showcase.harm(&lab);
        showcase.crowd(&lab, 250);
        lab.start(&[HTTP, HTTPS, PORT]);
        let base = format!("http://{}/", lab.at(PORT));
        let mut page = Browser::start(1440, 900, false);

        // Problems come first, in words.
        page.open(&base);
        page.wait("document.querySelector('.trouble')");
        let text = page.text();
        for part in ["Problems", "no ready endpoint", "Certificates", "Requests"] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert!(is_calm(&mut page, &base) > 5, "page, styles, modules and views");

        // The map: the whole way, by keys alone.
        page.press("2");
        page.wait("document.querySelector('[data-lane=endpoint]')");
        let listbox = "[...document.querySelectorAll('[role=listbox][data-lane]')].map(one => one.getAttribute('aria-label')).join()";
        let lanes = page.value(listbox).as_str().unwrap().to_owned();
        assert!(lanes.starts_with("VIPs, 1,Listeners, 4,Certificates, "), "{lanes}");
        page.press("/");
        page.write("shop.example");
        page.wait("document.querySelector('#hits [role=option]')?.textContent.includes('shop')");
        page.press("ArrowDown");
        page.press("ArrowUp");
        page.value("document.querySelector('#hits').scrollTop");
        page.wait("document.getElementById('search').getAttribute('aria-activedescendant') === 'hit-0'");
        page.press("Enter");
        page.wait("document.activeElement?.dataset?.kind");
        page.press("Home");
        while page.value("document.activeElement.dataset.kind") != "route" {
            page.press("ArrowRight");
        }
        page.wait("document.querySelectorAll('[data-lane=route] [data-id]').length > 1");
        let before = page.value(FOCUS);
        page.press("ArrowDown");
        page.wait(&format!("({FOCUS}) !== {before}"));
        let kind = page.value("document.activeElement.dataset.kind");
        page.wait("document.activeElement.getAttribute('aria-selected') === 'true'");
        page.press("ArrowLeft");
        page.wait(&format!("document.activeElement.dataset.kind !== {kind}"));
        page.press("ArrowRight");
        page.wait(&format!("document.activeElement.dataset.kind === {kind}"));

        // Many routes: a page of them at a time, and a filter.
        page.open(&format!("{base}#/map?listener=Gateway+default%2Fweb%2Fhttp"));
        page.wait(&format!("{ROWS} === 100"));
        page.value("document.querySelector('[data-turn=routes_from][data-from=\"100\"]').click()");
        page.wait("document.querySelector('.lane.route .pages').textContent.includes('101–200')");
        page.value("document.getElementById('routes').focus()");
        page.write("tenant-0042");
        page.wait(&format!("{ROWS} === 1"));
        assert_eq!(page.value("document.activeElement.id"), "routes", "the field keeps the focus");
        assert_eq!(page.value("document.querySelector('[data-lane=route] .name').textContent"), "default/tenant-0042");
        is_calm(&mut page, &base);

        // Text stays text, wherever it comes from.
        let hostile = serde_json::to_string(HOSTILE).unwrap();
        page.open(&format!("{base}#/map?route=HTTPRoute+default%2Fharm"));
        page.wait(&format!("document.body.innerText.includes({hostile})"));
        page.wait(&format!("document.querySelector('[data-lane=endpoint]').innerText.includes({hostile})"));
        for view in ["overview", "findings", "announcements", "certificates"] {
            page.open(&format!("{base}#/{view}"));
            page.wait(&format!("document.getElementById('view').dataset.view === '{view}'"));
            page.wait("document.querySelector('#view .panel')");
            assert_eq!(page.value("document.querySelectorAll('#view img, #view script').length"), 0, "{view}");
        }
        assert_ne!(page.value("document.title"), "1337");
        is_calm(&mut page, &base);

        // Dark when the user prefers it, or says so.
        let ground = "getComputedStyle(document.body).backgroundColor";
        let light = page.value(ground);
        page.prefer(&[("prefers-color-scheme", "dark")]);
        page.wait(&format!("{ground} !== {light}"));
        page.press("d");
        page.wait(&format!("{ground} === {light}"));
        page.press("?");
        page.wait("document.getElementById('keys').open");
        page.press("Escape");
        page.wait("!document.getElementById('keys').open");
        is_calm(&mut page, &base);

        // An edged that is gone: the page says so, and how old it is.
        lab.edged().kill();
        page.wait("!document.getElementById('stale').hidden");
        let text = page.value("document.getElementById('stale').textContent");
        let text = text.as_str().unwrap();
        assert!(text.contains("has not answered for") && text.contains("was so at 20"), "{text}");
    });
}

#[test]
fn login_in_a_browser() {
    if let Err(why) = browser::available() {
        assert!(std::env::var_os("CI").is_none(), "{why}");
        skip("login to the dashboard in a browser", &why);
        return;
    }
    isolated("dash-login", || {
        let mut lab = Lab::new();
        let more = token(&lab);
        let _showcase = Showcase::furnish(&lab, &more);
        lab.start(&[HTTP, HTTPS, PORT]);
        let base = format!("https://{}/", lab.at(PORT));
        let mut page = Browser::start(1200, 800, true);
        page.open(&base);
        page.wait("location.pathname === '/login' && document.readyState === 'complete'");
        page.wait("document.activeElement?.id === 'token'");
        page.write("not the token at all, not at all");
        page.press("Enter");
        page.wait("document.getElementById('said').textContent.includes('no spaces')");
        page.write("0123456789abcdef0123456789abcdee");
        page.press("Enter");
        page.wait("document.getElementById('said').textContent === 'That is not the token.'");
        // The refusal is in the console of the browser itself.
        let refused = page.heard().complaints;
        assert!(refused.len() == 1 && refused[0].contains("401"), "{refused:?}");
        page.write(TOKEN);
        page.press("Enter");
        page.wait("location.pathname === '/' && document.querySelector('.tile')");
        assert_eq!(page.value("document.cookie"), "", "no script can read it");
        is_calm(&mut page, &base);
        page.open(&format!("{base}logout"));
        page.wait("location.pathname === '/login'");
    });
}
