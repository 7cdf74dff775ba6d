//! The texts of passwords: those that sources supply, and those in files, which are read here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use edge_bgp::Secret;
use edge_config::announce::{Announce, Password};

/// Texts that sources supply, or why they do not.
pub type Passwords = BTreeMap<Password, Result<Secret, String>>;

/// What files held when they were read last.
#[derive(Debug, Default)]
pub struct PasswordFiles(BTreeMap<PathBuf, Result<Secret, String>>);

impl PasswordFiles {
    /// Reads the files that the plan names anew; says whether anything is other than before.
    pub fn read(&mut self, plan: &Announce) -> bool {
        let peers = plan.bgp.iter().flat_map(|bgp| &bgp.peers).filter_map(|peer| peer.password.as_ref());
        let keys = plan.l2.iter().filter_map(|group| group.key.as_ref());
        let files = peers.chain(keys).filter_map(|password| match password {
            Password::File(path) => Some(path),
            Password::Secret(_) | Password::Inline(_) => None,
        });
        let read = files.map(|path| (path.clone(), first_line(path))).collect();
        let before = std::mem::replace(&mut self.0, read);
        before != self.0
    }

    /// The text of a password, from its file or as it was supplied.
    pub fn text(&self, supplied: &Passwords, password: &Password) -> Result<Secret, String> {
        let found = match password {
            Password::File(path) => self.0.get(path),
            Password::Secret(_) | Password::Inline(_) => supplied.get(password),
        };
        found.cloned().unwrap_or_else(|| Err("it was not supplied".to_owned()))
    }
}

/// More than any password: a file that goes on is not one.
const LONGEST: u64 = 4096;

fn first_line(path: &Path) -> Result<Secret, String> {
    use std::io::Read as _;
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = fs::File::open(path).map_err(failed)?;
    let mut text = zeroize::Zeroizing::new(String::new());
    file.take(LONGEST).read_to_string(&mut text).map_err(failed)?;
    match text.lines().next().map(str::trim_end).filter(|line| !line.is_empty()) {
        Some(line) => Ok(Secret::new(line.to_owned())),
        None => Err(format!("{}: the first line is empty, expected a password", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_the_first_line_of_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        for (text, expected) in [("secret\n", Some("secret")), ("one \ntwo", Some("one")), ("\n", None), ("", None)] {
            fs::write(&path, text).unwrap();
            assert_eq!(first_line(&path).ok().as_ref().map(Secret::expose), expected, "{text:?}");
        }
        assert!(first_line(&directory.path().join("none")).unwrap_err().contains("none: No such file"));
    }
}
