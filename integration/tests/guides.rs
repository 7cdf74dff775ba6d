//! What the guides in `docs/` have people type: every edge.toml and manifest in them is checked, so that a key that is
//! renamed breaks the page that tells of it.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::path::Path;

use edge_integration::edged::{edgectl, workspace};
use edge_integration::genestack::files::files;
use edge_integration::lab;

/// The blocks of a page in one language, in order.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(workspace().join("docs").join(page)).unwrap();
    let begin = format!("\n```{language}\n");
    text.split(&begin).skip(1).map(|rest| rest.split("\n```").next().unwrap().to_owned()).collect()
}

/// `edgectl check` of an edge.toml in a folder.
fn check(folder: &Path, settings: &str) -> (Option<i32>, String) {
    let path = folder.join("edge.toml");
    std::fs::write(&path, settings).unwrap();
    let said = edgectl(&["check", path.to_str().unwrap()]);
    (said.code, said.text())
}

#[test]
fn the_installation_serves_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let manifests = folder.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    std::fs::write(manifests.join("web.yaml"), &blocks("install.md", "yaml")[0]).unwrap();
    let settings = &blocks("install.md", "toml")[0];
    let (code, text) = check(folder.path(), settings);
    assert_eq!(code, Some(0), "{text}");
    // The certificate is still to come; nothing else is in doubt.
    assert_eq!(text.matches("warning:").count(), 1, "{text}");

    let config = folder.path().join("edge.toml");
    let said = edgectl(&["explain", "--config", config.to_str().unwrap(), "https://shop.example.com/"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    for words in ["192.0.2.10:443", "2 of 2 endpoints ready", "answered by Service default/shop:80"] {
        assert!(said.stdout.contains(words), "no {words}: {said:?}");
    }
}

#[test]
fn the_migration_finds_what_it_says_in_genestack() {
    let files = match files() {
        Ok(files) => files,
        Err(why) => return lab::skip("the_migration_finds_what_it_says_in_genestack", &why),
    };
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(files, folder.path().join("genestack")).unwrap();
    let (code, text) = check(folder.path(), &blocks("migration.md", "toml")[0]);
    assert_eq!(code, Some(1), "{text}");
    let known = [
        "not found",
        "Gateway flex-gateway has no listener http",
        "nginx-gateway",
        "EnvoyProxy envoy-gateway/custom-proxy-config: spec.provider",
        "edge.toml has no [l2]",
        "metadata.namespace",
    ];
    for words in known {
        assert!(text.contains(words), "the page says that this is told: {words}\n{text}");
    }
    // And the page leaves nothing out.
    for line in text.lines().filter(|line| line.contains(".y")) {
        assert!(known.iter().any(|words| line.contains(words)), "the page does not tell of this: {line}");
    }
}

#[test]
fn each_step_of_the_migration_is_a_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let steps = blocks("migration.md", "toml");
    assert!(steps.len() > 2, "{steps:?}");
    for step in &steps[1..] {
        let (code, text) = check(folder.path(), step);
        assert_eq!(code, Some(0), "{step}\n{text}");
    }
}
