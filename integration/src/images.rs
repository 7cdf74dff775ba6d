//! What `images/` makes, from the programs that the tests are built with.
//!
//! Flows in: a folder and what the environment says. Flows out: paths. [`missing`] says which tools are not there, and a
//! scenario then skips loudly.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::edged::{program, run, workspace};

/// What makes the package.
pub const TOOLS: [&str; 6] = ["dpkg-deb", "dpkg-shlibdeps", "jq", "lowdown", "gpg", "strip"];

/// Those of the tools that are not installed, if any.
pub fn missing(tools: &[&str]) -> Option<String> {
    let is_there =
        |tool: &&&str| ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].iter().any(|at| Path::new(at).join(tool).exists());
    let missing: Vec<&str> = tools.iter().filter(|tool| !is_there(tool)).copied().collect();
    (!missing.is_empty()).then(|| format!("no {} (make image-packages)", missing.join(", ")))
}

/// Runs a recipe of `images/`, and gives what it printed last.
pub fn make(recipe: &str, arguments: &[&Path], before: &[(&str, &str)]) -> String {
    let output = Command::new(workspace().join("images").join(recipe))
        .args(arguments)
        .envs(before.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{recipe}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said.lines().last().unwrap_or_default().to_owned()
}

/// Builds the Debian package into a folder. Compressing for real would be the longest part.
pub fn deb(out: &Path, before: &[(&str, &str)]) -> PathBuf {
    let programs = program("edged").canonicalize().unwrap();
    let all = [&[("COMPRESSION", "zstd")], before].concat();
    PathBuf::from(make("deb/build", &[programs.parent().unwrap(), out], &all))
}

/// Runs a program of which nothing but success will do, and gives what it printed.
pub fn must(tool: &str, arguments: &[&str]) -> String {
    let said = run(Path::new(tool), arguments);
    assert_eq!(said.code, Some(0), "{tool} {arguments:?}: {said:?}");
    said.stdout
}
