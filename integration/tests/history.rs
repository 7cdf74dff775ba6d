//! Configurations of the past, with a real edged: they are listed with cause and author, one of them is held over a restart
//! with the endpoints of now, and released.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::net::SocketAddr;

use edge_integration::client::Connection;
use edge_integration::edged::until;
use edge_integration::lab::{HTTP, Lab, block_on};
use edge_integration::manifests::{CLASS, LISTENERS, gateway, http_route, service, to};
use serde_json::Value;

fn routes(host: &str) -> String {
    http_route("shop", &[host], &to("a", 80))
}

fn backends(origin: SocketAddr) -> String {
    service("default", "a", 80, &[origin])
}

/// Status and backend of one request.
fn ask(lab: &Lab, host: &str) -> (u16, Option<String>) {
    block_on(async {
        let mut connection = Connection::open(lab.at(HTTP), None).await.unwrap();
        let reply = connection.request("GET", "/", &[("host", host)], b"").await.unwrap();
        (reply.status, reply.backend().map(str::to_owned))
    })
}

fn revisions(lab: &mut Lab) -> Vec<Value> {
    let said = lab.edged().ctl(&["history", "-o", "json"]).json();
    said["revisions"].as_array().unwrap().clone()
}

/// Waits until there are so many, and returns the newest.
fn newest(lab: &mut Lab, count: usize) -> Value {
    until(&format!("there are {count} revisions"), || {
        let all = revisions(lab);
        (all.len() == count).then(|| all.last().unwrap().clone())
    })
}

#[test]
fn a_revision_is_held_and_released() {
    let mut lab = Lab::new();
    let (first, second) = (lab.origin("first"), lab.origin("second"));
    lab.manifest("base.yaml", &(CLASS.to_owned() + &gateway("web", LISTENERS)));
    lab.manifest("backends.yaml", &backends(first.address));
    lab.manifest("routes.yaml", &routes("old.test"));
    lab.start(&[HTTP]);
    let one = newest(&mut lab, 1);
    assert_eq!((&one["revision"], &one["cause"]["kind"]), (&1.into(), &"start".into()), "{one}");

    lab.manifest("routes.yaml", &routes("new.test"));
    assert_eq!(lab.edged().ctl(&["reload"]).code, Some(0));
    until("the new host is served", || (ask(&lab, "new.test").0 == 200).then_some(()));
    let two = newest(&mut lab, 2);
    assert_eq!(two["changes"]["named"][0]["what"], "HTTPRoute default/shop", "{two}");
    assert_ne!(one["hash"], two["hash"]);
    // The watch may have been faster than the command.
    assert!(["reload", "files"].contains(&two["cause"]["kind"].as_str().unwrap()), "{two}");

    // Where requests went, and where they go.
    let said = lab.edged().ctl(&["diff", "1"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stdout.contains("- http://old.test") && said.stdout.contains("+ http://new.test"), "{said:?}");
    assert_eq!(lab.edged().ctl(&["diff", "2"]).code, Some(0));
    assert_eq!(lab.edged().ctl(&["diff", "2", "1"]).code, Some(1));
    assert_eq!(lab.edged().ctl(&["history", "show", "99"]).code, Some(1));

    // Back; meanwhile the Pods moved, and stay where they are.
    lab.manifest("backends.yaml", &backends(second.address));
    until("the second origin is asked", || (ask(&lab, "new.test").1.as_deref() == Some("second")).then_some(()));
    let said = lab.edged().ctl(&["rollback", "1"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.stdout.contains("held at revision 1") && said.stdout.contains("HTTPRoute default/shop changed"),
        "{said:?}"
    );
    assert_eq!(ask(&lab, "old.test"), (200, Some("second".to_owned())), "the route of then with the endpoints of now");
    assert_eq!(ask(&lab, "new.test").0, 404);
    let three = newest(&mut lab, 3);
    assert_eq!((&three["cause"]["to"], &three["hash"]), (&1.into(), &one["hash"]), "{three}");
    assert!(three["by"].is_string(), "{three}");

    // A change waits, over a restart too, and everybody is told.
    lab.manifest("more.yaml", &http_route("more", &["more.test"], &to("a", 80)));
    let waits = |lab: &mut Lab| {
        until("two changes wait", || {
            let status = lab.edged().ctl(&["status", "-o", "json"]).json();
            (status["edge"]["held"]["waiting"]["total"] == 2).then_some(())
        });
    };
    waits(&mut lab);
    assert_eq!(ask(&lab, "more.test").0, 404);
    let status = lab.edged().ctl(&["status"]);
    assert_eq!(status.code, Some(1), "{status:?}");
    assert!(status.stdout.contains("HTTPRoute default/more added"), "{status:?}");
    let problems = lab.edged().ctl(&["get", "problems"]).stdout;
    assert!(problems.contains("held at revision 1") && problems.contains("rollback --release"), "{problems}");
    assert!(lab.edged().terminate().is_some_and(|status| status.success()));
    lab.start(&[HTTP]);
    assert_eq!(ask(&lab, "old.test"), (200, Some("second".to_owned())), "held after the restart");
    waits(&mut lab);

    // A file that is refused is told, and what is held stays.
    let sound = std::fs::read_to_string(lab.config()).unwrap();
    lab.write_file("edge.toml", &format!("{sound}\n[what]\nis = \"this\"\n"));
    assert_eq!(lab.edged().ctl(&["reload"]).code, Some(1));
    let refused = until("the refusal is told", || {
        revisions(&mut lab).into_iter().find(|revision| revision["outcome"]["is"] == "refused")
    });
    let number = refused["revision"].to_string();
    assert_eq!(lab.edged().ctl(&["rollback", &number]).code, Some(1));
    lab.write_file("edge.toml", &sound);

    let said = lab.edged().ctl(&["rollback", "--release"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    until("what waited is served", || {
        (ask(&lab, "more.test").0 == 200 && ask(&lab, "new.test").0 == 200 && ask(&lab, "old.test").0 == 404)
            .then_some(())
    });
    assert_eq!(lab.edged().ctl(&["rollback", "--release"]).code, Some(1), "nothing is held any more");

    // For a time only.
    assert_eq!(lab.edged().ctl(&["rollback", "1", "--for", "3s"]).code, Some(0));
    assert_eq!(ask(&lab, "old.test").0, 200);
    until("its time is over", || (ask(&lab, "new.test").0 == 200).then_some(()));
    for wrong in [&["rollback"][..], &["rollback", "1", "--release"], &["rollback", "--release", "--for", "1h"]] {
        assert_eq!(lab.edged().ctl(wrong).code, Some(64), "{wrong:?}");
    }
    let text = lab.edged().ctl(&["history"]).stdout;
    assert!(text.contains("rollback to 1") && text.contains("release") && text.contains("refused"), "{text}");
}
