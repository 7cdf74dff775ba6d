use std::collections::BTreeMap;
use std::fmt::Write as _;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::gateway::{GatewaySpec, HttpRouteSpec};

fn tree(text: &str) -> Node<'_> {
    parse(text).unwrap().unwrap()
}

fn syntax_error(text: &str) -> String {
    let fault = parse(text).unwrap_err();
    format!("{}:{}: {}", fault.mark.line, fault.mark.column, fault.message)
}

#[test]
fn marks_count_from_one() {
    let node = tree("# comment\nspec:\n  listeners:\n  - name: a\n    port: 80\n");
    for (path, line, column) in [
        ("spec.listeners[0].port", 5, 11),
        ("spec.listeners[0].name", 4, 11),
        ("spec.listeners[0].missing.deeper", 4, 5),
        ("spec.listeners[7]", 4, 5),
        ("", 2, 1),
    ] {
        assert_eq!(node.mark_at(path), Mark { source: 0, line, column }, "{path}");
    }
}

#[test]
fn json_is_yaml() {
    let text = "[\n\t{\n\t\t\"op\": \"add\",\n\t\t\"value\": {\"port\": 443, \"x\": null, \"text\": \"a\\u00e9\\n\\/\"}\n\t}\n]";
    let node = tree(text);
    let Value::Sequence(items) = &node.value else { panic!() };
    assert_eq!(items[0].member("value").unwrap().member("port").unwrap().value, Value::Int(443));
    assert_eq!(items[0].member("value").unwrap().member("text").unwrap().as_str(), Some("aé\n/"));
}

#[test]
fn anchors_and_merge_keys() {
    let node = tree("a: &x {p: 1, q: 2}\nb: *x\nc:\n  <<: *x\n  q: 3\n");
    assert_eq!(node.member("b").unwrap().member("q").unwrap().value, Value::Int(2));
    assert_eq!(node.member("c").unwrap().member("p").unwrap().value, Value::Int(1));
    assert_eq!(node.member("c").unwrap().member("q").unwrap().value, Value::Int(3));
}

#[test]
fn faults_of_the_text() {
    for (text, expected) in [
        ("a: 1\nb: 2\na: 3\n", "3:1: key \"a\" is there twice, first on line 1 of the document"),
        ("? [a]\n: 1\n", "1:3: a mapping key is a list or a mapping, expected a string"),
        ("a: !special 1\n", "1:4: the tag !special has no meaning here"),
        ("a: &x [*x]\n", "1:8: an alias refers to a node that contains it"),
        ("a: !!int x\n", "1:4: the string \"x\" does not fit its tag !!int"),
    ] {
        assert_eq!(syntax_error(text), expected, "{text:?}");
    }
    for text in ["a: [1", "a: 'b", "{", "a:\n\t- b", "*unknown", "a: b: c"] {
        assert!(syntax_error(text).contains("not valid YAML"), "{text:?}: {}", syntax_error(text));
    }
    assert_eq!(parse("# nothing\n").unwrap(), None);
}

#[test]
fn bombs_are_bounded() {
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        writeln!(laughs, "a{level}: &a{level} [{aliases}]").unwrap();
    }
    assert!(syntax_error(&laughs).contains("nodes in one document"), "{}", syntax_error(&laughs));
    let mut deep = String::new();
    for level in 0..40 {
        writeln!(deep, "a{level}: &a{level} [{}]", if level == 0 { "x".into() } else { format!("*a{}", level - 1) })
            .unwrap();
    }
    assert!(parse(&deep).is_ok());
    for text in ["[".repeat(10_000), "{a: ".repeat(10_000), "- ".repeat(10_000)] {
        let fault = syntax_error(&text);
        assert!(fault.contains("nested deeper") || fault.contains("not valid YAML"), "{fault}");
    }
}

#[test]
fn type_errors_say_where_and_what() {
    let text = "gatewayClassName: x\nlisteners:\n- name: a\n  port: 70000\n  protocol: HTTP\n";
    for (text, expected) in [
        (text.to_owned(), "4:9: spec.listeners[0].port: 70000 is out of range, expected 0 to 65535"),
        (text.replace("70000", "\"80\""), "4:9: spec.listeners[0].port: found the string \"80\", expected an integer"),
        (
            text.replace("70000", "80").replace("name: a", "name: 1"),
            "3:9: spec.listeners[0].name: found the number 1, expected a string; put it in quotes",
        ),
        (text.replace("  port: 70000\n", ""), "3:3: spec.listeners[0]: required field `port` is missing"),
        ("gatewayClassName: x\nlisteners: {}\n".to_owned(), "2:12: spec.listeners: found a mapping, expected a list"),
    ] {
        let node = tree(&text);
        let (result, _) = decode::<GatewaySpec>(&node, "spec", &[]);
        let fault = result.unwrap_err();
        assert_eq!(format!("{}:{}: {fault}", fault.mark().line, fault.mark().column), expected);
    }
}

#[test]
fn unknown_fields_are_all_collected() {
    let text = "parentRefs:\n- name: g\n  nam: x\nrules:\n- matchs: []\n  backendRefs:\n  - name: s\n    port: null\nruels: 1\n";
    let node = tree(text);
    let (result, unknown) = decode::<HttpRouteSpec>(&node, "spec", &[]);
    assert_eq!(result.unwrap().rules[0].backend_refs[0].port, None);
    let found: Vec<_> = unknown
        .iter()
        .map(|unknown| {
            let hint = crate::suggest::closest(unknown.path.rsplit('.').next().unwrap(), unknown.known.iter().copied());
            (unknown.mark.line, unknown.path.as_str(), hint)
        })
        .collect();
    assert_eq!(
        found,
        [
            (3, "spec.parentRefs[0].nam", Some("name")),
            (5, "spec.rules[0].matchs", Some("matches")),
            (9, "spec.ruels", Some("rules"))
        ]
    );
}

#[derive(Debug, Deserialize)]
struct Anything {
    #[serde(default)]
    #[allow(dead_code)]
    a: BTreeMap<String, Vec<Option<bool>>>,
}

fn exercise(text: &str) {
    for document in split(text) {
        if let Ok(Some(node)) = parse(document.text) {
            let _ = decode::<HttpRouteSpec>(&node, "spec", &[]);
            let _ = decode::<GatewaySpec>(&node, "", &["metadata"]);
            let _ = decode::<Anything>(&node, "", &[]);
        }
    }
}

const SEED: &str = "---\nparentRefs: [{name: &n g, port: 1}]\nhostnames: [\"a.b\", *n]\nrules:\n- matches:\n  - path: {type: Exact, value: /}\n  filters: |\n    text\n  x: >-\n    folded\n    'q'\n...\n--- !!map\n? k\n: [1, 0x2, ~, .5]\n";

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_does_not_panic(text in "\\PC{0,200}") {
        exercise(&text);
    }

    #[test]
    fn yaml_like_text_does_not_panic(text in "[-:?,{}\\[\\]&*!|>'\"%@`# \\n\\ta-c0-9.~<]{0,120}") {
        exercise(&text);
    }

    #[test]
    fn mutated_text_does_not_panic(at in 0..SEED.len(), cut in 0..40usize, insert in "[-:?,{}\\[\\]&*!|>'\"%# \\n\\t\\PC]{0,6}") {
        let mut text: Vec<char> = SEED.chars().collect();
        let at = at.min(text.len());
        let end = (at + cut).min(text.len());
        text.splice(at..end, insert.chars());
        let text: String = text.into_iter().collect();
        exercise(&text);
        exercise(&text[..text.char_indices().map(|(index, _)| index).take_while(|index| *index <= at).last().unwrap_or(0)]);
    }
}
