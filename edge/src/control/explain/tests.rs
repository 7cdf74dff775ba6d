use super::*;
use crate::control::fixture::{golden, now, world};
use crate::control::observed::Observed;
use crate::ctl::args::Format;
use crate::ctl::show::render;
use crate::ctl::style::Style;

fn ask(url: &str, change: impl FnOnce(&mut Question)) -> Explanation {
    let mut question = Question::new(url);
    change(&mut question);
    explain(world().scene(), &question, now()).unwrap()
}

#[test]
fn in_full() {
    for (name, url) in [
        ("backend", "https://shop.example/cart/7?a=b"),
        ("redirect", "http://shop.example/x?y"),
        ("no-endpoint", "https://other.example/"),
        ("no-listener", "https://shop.exampel/cart"),
        ("refused-route", "https://lost.elsewhere/"),
        ("no-route", "https://shop.example:444/"),
    ] {
        let found = ask(url, |_| {});
        let text = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<Explanation>(&text).unwrap(), found);
        golden(&format!("explain-{name}.txt"), &render(&found, Format::Human, Style::default(), true));
    }
}

#[test]
fn answers() {
    let header = |line: &'static str| move |question: &mut Question| question.header(line).unwrap();
    let none = |_: &mut Question| {};
    type Change = Box<dyn FnOnce(&mut Question)>;
    let cases: Vec<(&str, Change, Kind, Option<u16>, &str)> = vec![
        ("https://shop.example/cart", Box::new(none), Kind::Backend, None, "answered by Service shop/cart:80"),
        (
            "https://shop.example/cart",
            Box::new(header("x-env: canary")),
            Kind::Backend,
            None,
            "answered by Service shop/cart:80 (90 %); 10 % of the requests fail",
        ),
        ("https://shop.example/old", Box::new(none), Kind::Redirect, Some(301), "301 to https://shop.example/cart"),
        ("http://a.example/b?c", Box::new(none), Kind::Redirect, Some(301), "301 to https://a.example/b?c"),
        // The more specific host has no match for it, so the less specific one of the same listener takes it.
        ("https://shop.example/", Box::new(none), Kind::Error, Some(503), "no ready endpoint"),
        (
            "https://a.example/",
            Box::new(header("host: shop.example")),
            Kind::Error,
            Some(421),
            "does not belong to listener wild",
        ),
        (
            "https://192.0.2.10/",
            Box::new(none),
            Kind::Nothing,
            None,
            "no listener takes a client that sends no server name",
        ),
        ("https://b.elsewhere/", Box::new(none), Kind::Nothing, None, "takes the server name b.elsewhere"),
        ("https://shop.example:80/", Box::new(none), Kind::Nothing, None, "speaks HTTP without TLS"),
        ("http://shop.example:443/", Box::new(none), Kind::Nothing, None, "speaks TLS only"),
        (
            "http://shop.example:8080/",
            Box::new(none),
            Kind::Nothing,
            None,
            "no Gateway listens on port 8080; there are 80, 443",
        ),
        ("https://shop.example/cart/../x", Box::new(none), Kind::Error, Some(400), "is refused"),
        (
            "https://shop.example/cart",
            Box::new(|question: &mut Question| question.vip = Some("192.0.2.11".parse().unwrap())),
            Kind::Nothing,
            None,
            "no address of the Gateway can be reached: address not on this machine: interface lo0 does not exist",
        ),
        (
            "https://shop.example/cart",
            Box::new(|question: &mut Question| question.vip = Some("192.0.2.99".parse().unwrap())),
            Kind::Nothing,
            None,
            "no Gateway has the address 192.0.2.99",
        ),
    ];
    for (url, change, kind, status, text) in cases {
        let found = ask(url, change).answer;
        assert_eq!((found.kind, found.status), (kind, status), "{url}: {}", found.text);
        assert!(found.text.contains(text), "{url}: {}", found.text);
    }
}

#[test]
fn hints() {
    for (url, hint) in [
        ("https://shop.exampel/", "did you mean shop.example?"),
        ("https://example/", "did you mean *.example (which needs a label before it)?"),
        ("https://lost.elsewhere/", "HTTPRoute shop/lost names lost.elsewhere but is not accepted: no hostname of it"),
        ("https://shop.example/old/", "matches exactly /old: only the slash differs"),
        ("https://a.b.example/", "no certificate of the listener covers a.b.example"),
    ] {
        let hints = ask(url, |_| {}).hints;
        assert!(hints.iter().any(|found| found.contains(hint)), "{url}: {hints:?}");
    }
}

#[test]
fn files_need_no_sockets() {
    let world = world();
    let observed = Observed::offline();
    let scene = Scene { observed: &observed, ..world.scene() };
    let found = explain(scene, &Question::new("https://shop.example/cart"), now()).unwrap();
    assert_eq!(found.answer.kind, Kind::Backend);
    assert!(found.walks[0].sockets.iter().all(|socket| socket.health == Health::up()));
}
