//! Bad input while serving and at the start: one clear line each, the rest keeps serving, the exit codes are right.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::time::Duration;

use edge_integration::client::fetch;
use edge_integration::edged::{edgectl, program, run, until};
use edge_integration::lab::{HTTP, Lab, block_on};
use edge_integration::load::{Load, Plan};
use edge_integration::manifests::{CLASS, LISTENERS, gateway, http_route, service, to};

/// A file, what is wrong with it, and words of the one line that must say so.
struct Bad {
    file: &'static str,
    text: String,
    words: &'static [&'static str],
}

fn cases() -> Vec<Bad> {
    let bad = |file, text: &str, words| Bad { file, text: text.to_owned(), words };
    let route = |name: &str, rules: &str| http_route(name, &[&format!("{name}.test")], rules);
    vec![
        bad("syntax.yaml", "kind: [unclosed\n  apiVersion: v1\n", &["syntax.yaml:"]),
        bad("tab.yaml", "kind: Service\n\tmetadata: {}\n", &["tab.yaml:", "tab"]),
        bad("kind.yaml", "apiVersion: v1\nkind: Sevrice\nmetadata: {name: x}\n", &["kind.yaml:", "Sevrice"]),
        bad(
            "unknown-field.yaml",
            &route("typo", "    - backendRef: [{name: a, port: 80}]\n"),
            &["unknown-field.yaml:", "backendRef"],
        ),
        bad("type.yaml", &route("type", "    - backendRefs: [{name: a, port: eighty}]\n"), &["type.yaml:", "port"]),
        bad("range.yaml", &route("range", "    - backendRefs: [{name: a, port: 70000}]\n"), &["range.yaml:", "70000"]),
        bad("dangling.yaml", &route("dangling", &to("nobody", 80)), &["dangling", "nobody"]),
        bad(
            "parent.yaml",
            &route("orphan", &to("a", 80)).replace("{name: web}", "{name: nowhere}"),
            &["orphan", "nowhere"],
        ),
        bad("twice.yaml", &http_route("steady", &["steady.test"], &to("a", 80)), &["twice.yaml:", "steady"]),
        bad(
            "secret.yaml",
            "apiVersion: v1\nkind: Secret\nmetadata: {name: odd, namespace: default}\ndata: {tls.crt: '***'}\n",
            &["secret.yaml:", "tls.crt"],
        ),
        bad(
            "duplicate-listeners.yaml",
            &gateway(
                "second",
                "    - {name: one, port: 9001, protocol: HTTP, hostname: x.test}\n    - {name: two, port: 9001, protocol: HTTP, hostname: x.test}\n",
            ),
            &["second"],
        ),
        bad(
            "overlap.yaml",
            "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: overlap, namespace: default}\nspec: {addresses: [127.0.0.0/8]}\n",
            &["overlap"],
        ),
        bad(
            "pool.yaml",
            "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: odd, namespace: default}\nspec: {addresses: [10.0.0.300]}\n",
            &["pool.yaml:", "10.0.0.300"],
        ),
        Bad {
            file: "deep.yaml",
            text: format!("a: {}1{}\n", "[".repeat(100_000), "]".repeat(100_000)),
            words: &["deep.yaml:"],
        },
        Bad { file: "bomb.yaml", text: bomb(), words: &["bomb.yaml:"] },
        Bad {
            file: "huge.yaml",
            text: format!("# {}\n{}", "x".repeat(10 << 20), route("huge", &to("a", 80))),
            words: &[],
        },
        Bad { file: "bytes.yaml", text: "\u{0}\u{1}\u{2}\u{feff}: \u{7f}\n".to_owned(), words: &["bytes.yaml:"] },
    ]
}

/// Aliases of aliases: 10 to the power of nine when expanded.
fn bomb() -> String {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..10 {
        let last = i - 1;
        let refs = vec![format!("*a{last}"); 10].join(", ");
        text.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
    }
    text
}

/// What the daemon says now about its inputs.
fn problems(lab: &mut Lab) -> String {
    lab.edged().ctl(&["get", "problems"]).text()
}

fn says(text: &str, words: &[&str]) -> bool {
    text.lines().any(|line| words.iter().all(|word| line.contains(word)))
}

#[test]
fn bad_files_cost_themselves_only() {
    let mut lab = Lab::new();
    let a = lab.origin("a");
    lab.manifest(
        "base.yaml",
        &[CLASS, &gateway("web", LISTENERS), &service("default", "a", 80, &[a.address])].concat(),
    );
    lab.manifest("steady.yaml", &http_route("steady", &["steady.test"], &to("a", 80)));
    lab.start(&[HTTP]);
    let load = Load::start(Plan {
        http: lab.at(HTTP),
        https: None,
        host: "steady.test".to_owned(),
        backend: "a".to_owned(),
        h1: 3,
        h2: 1,
        websockets: 2,
        every: Duration::from_millis(5),
    })
    .unwrap();
    let http = lab.at(HTTP);
    let status = |host: &str| block_on(fetch(http, None, host, "/")).map_or(0, |reply| reply.status);
    for (i, case) in cases().into_iter().enumerate() {
        lab.manifest(case.file, &case.text);
        // A good change beside the bad one still takes effect.
        let name = format!("good-{i}");
        lab.manifest("good.yaml", &http_route(&name, &[&format!("{name}.test")], &to("a", 80)));
        if i.is_multiple_of(2) {
            lab.edged().reload();
        }
        until(&format!("{}: the good change beside it", case.file), || {
            (status(&format!("{name}.test")) == 200).then_some(())
        });
        let mut text = String::new();
        until(&format!("{}: a line with {:?}", case.file, case.words), || {
            text = problems(&mut lab);
            (case.words.is_empty() || says(&text, case.words)).then_some(())
        });
        let lines = text.lines().filter(|line| line.contains(case.file)).count();
        assert!(lines <= 4, "{}: {lines} lines for one fault\n{text}", case.file);
        assert!(text.lines().all(|line| line.len() < 1000), "{}: a line without end", case.file);
        lab.remove_manifest(case.file);
        until(&format!("{}: forgotten", case.file), || (!problems(&mut lab).contains(case.file)).then_some(()));
    }

    // A route that breaks keeps serving as it last was; when its file goes, so does it.
    lab.manifest("keeps.yaml", &http_route("keeps", &["keeps.test"], &to("a", 80)));
    until("the route", || (status("keeps.test") == 200).then_some(()));
    lab.manifest("keeps.yaml", "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: [\n");
    until("the complaint", || says(&problems(&mut lab), &["keeps.yaml:"]).then_some(()));
    assert_eq!(status("keeps.test"), 200, "the last good version serves");
    lab.remove_manifest("keeps.yaml");
    until("the route to go with its file", || (status("keeps.test") == 404).then_some(()));

    // The directory vanishes, and comes back with something new.
    let (here, gone) = (lab.path("manifests"), lab.path("elsewhere"));
    std::fs::rename(&here, &gone).unwrap();
    lab.edged().reload();
    until("the complaint about the directory", || says(&problems(&mut lab), &["manifests"]).then_some(()));
    assert_eq!(status("steady.test"), 200, "the last good version serves");
    std::fs::rename(&gone, &here).unwrap();
    lab.manifest("back.yaml", &http_route("back", &["back.test"], &to("a", 80)));
    until("the directory is watched again", || (status("back.test") == 200).then_some(()));

    // edge.toml breaks: all faults at once, the old one stays.
    let good = std::fs::read_to_string(lab.config()).unwrap();
    let bad = good.replace("workers = 2", "wrokers = 2").replace("[log]", "[log]\nlevle = 1").replace("\"lab\"", "3");
    lab.write_file("edge.toml", &bad);
    lab.edged().reload();
    until("the complaints about edge.toml", || {
        let text = problems(&mut lab);
        let all = ["wrokers", "levle", "name"].iter().all(|word| says(&text, &["edge.toml:", word]));
        all.then_some(())
    });
    assert_eq!(status("steady.test"), 200);
    lab.write_file("edge.toml", &good);
    lab.edged().reload();
    until("edge.toml forgiven", || (!problems(&mut lab).contains("edge.toml:")).then_some(()));

    let tally = load.stop();
    assert!(tally.failures.is_empty(), "{tally:?}");
    assert!(tally.exchanges() > 500, "hardly a load: {tally:?}");
}

#[test]
fn a_first_start_with_a_broken_configuration_ends_with_every_fault_and_code_78() {
    let lab = Lab::new();
    let good = std::fs::read_to_string(lab.config()).unwrap();
    lab.write_file(
        "edge.toml",
        &good.replace("workers = 2", "workers = 9999\nheed_timeout = \"1s\"").replace("[log]", "[lgo]"),
    );
    let mut edged = lab.spawn();
    let status = edged.wait_end().expect("edged ends by itself");
    let log = edged.log();
    assert_eq!(status.code(), Some(78), "{status}: {log}");
    for words in [["edge.toml:", "workers"], ["edge.toml:", "heed_timeout"], ["edge.toml:", "lgo"]] {
        assert!(says(&log, &words), "no line with {words:?} in\n{log}");
    }
    assert!(log.contains("did you mean"), "{log}");

    lab.write_file("edge.toml", "not toml at all [");
    let mut edged = lab.spawn();
    assert_eq!(edged.wait_end().expect("edged ends by itself").code(), Some(78));

    let nowhere = run(&program("edged"), &["--config", "/nonexistent/edge.toml"]);
    assert_eq!(nowhere.code, Some(78), "{nowhere:?}");
    assert!(nowhere.text().contains("/nonexistent/edge.toml"), "{nowhere:?}");
    assert_eq!(run(&program("edged"), &["--no-such-option"]).code, Some(64));
}

#[test]
fn check_tells_every_fault_and_its_exit_code_says_how_bad() {
    let lab = Lab::new();
    let config = lab.config().to_string_lossy().into_owned();
    lab.manifest("base.yaml", &[CLASS, &gateway("web", LISTENERS), &service("default", "a", 80, &[])].concat());
    lab.manifest("route.yaml", &http_route("steady", &["ok.test"], &to("a", 80)));
    let good = edgectl(&["check", &config]);
    assert_eq!(good.code, Some(0), "{good:?}");
    for case in cases() {
        lab.manifest(case.file, &case.text);
        let said = edgectl(&["check", &config]);
        if case.words.is_empty() {
            assert!(said.code.is_some(), "{}: {said:?}", case.file);
        } else {
            // What Edge does not know may be somebody else's: a warning, unless warnings are to be errors.
            let mild = ["kind.yaml", "unknown-field.yaml", "parent.yaml"].contains(&case.file);
            assert_eq!(said.code, Some(i32::from(!mild)), "{}: {said:?}", case.file);
            assert_eq!(edgectl(&["check", "--strict", &config]).code, Some(1), "{}", case.file);
            assert!(says(&said.text(), case.words), "{}: no line with {:?} in {said:?}", case.file, case.words);
        }
        lab.remove_manifest(case.file);
    }
    let nowhere = edgectl(&["check", "/nonexistent"]);
    assert_eq!(nowhere.code, Some(2), "{nowhere:?}");
    assert_eq!(edgectl(&["--no-such-option"]).code, Some(64));
    assert_eq!(edgectl(&["--socket", "/nonexistent.sock", "status"]).code, Some(3));
}
