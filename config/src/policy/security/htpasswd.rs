//! Files of users as Apache's htpasswd writes them: `name:hash` on each line. Text in, hashes by name out; nothing in here
//! knows a password, and no hash is printed.
//!
//! Schemes: `{SHA}` (what Envoy Gateway knows), `{SSHA}`, `{PLAIN}`, `$apr1$` and bcrypt (`$2a$`, `$2b$`, `$2y$`). What
//! nginx has from crypt(3) beside them (DES, `$1$`, `$5$`, `$6$`) is refused by name.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use foldhash::{HashMap, HashMapExt};

/// Users by name.
#[derive(PartialEq, Eq)]
pub struct Htpasswd {
    users: HashMap<Box<str>, PasswordHash>,
}

#[derive(Clone, PartialEq, Eq)]
pub enum PasswordHash {
    /// SHA-1 of the password and what follows it here, which mostly is nothing.
    Sha1 {
        digest: [u8; 20],
        salt: Box<[u8]>,
    },
    Plain(Box<[u8]>),
    /// Apache's MD5, a thousand rounds. The hash is in the letters of crypt(3).
    Apr1 {
        salt: Box<[u8]>,
        hash: Box<[u8]>,
    },
    /// The whole text.
    Bcrypt(Box<str>),
}

/// More users than this are refused.
const MOST_USERS: usize = 100_000;
/// A longer name or hash is none.
const LONGEST: usize = 255;
/// Each more doubles the time, which is about 0.2 s for this one.
const COSTLIEST: u32 = 12;

impl Htpasswd {
    /// An error names the line, never what is in it.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let mut users = HashMap::new();
        for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let wrong = |why: &str| format!("line {number}: {why}");
            let line = std::str::from_utf8(line).map_err(|_| wrong("is not UTF-8"))?;
            let (name, hash) = line.split_once(':').ok_or_else(|| wrong("has no colon, expected name:hash"))?;
            // A comment may follow the hash.
            let hash = hash.split(':').next().unwrap_or_default();
            if name.is_empty() || name.len() > LONGEST || name.chars().any(char::is_control) {
                return Err(wrong("has no name of 1 to 255 bytes"));
            }
            let hash = PasswordHash::parse(hash).map_err(|why| wrong(&why))?;
            if users.insert(name.into(), hash).is_some() {
                return Err(wrong("names a user who is there already"));
            }
            if users.len() > MOST_USERS {
                return Err(format!("has more than {MOST_USERS} users"));
            }
        }
        if users.is_empty() {
            return Err("has no users".to_owned());
        }
        Ok(Self { users })
    }

    pub fn get(&self, name: &str) -> Option<&PasswordHash> {
        self.users.get(name)
    }

    /// Some user's: what is asked instead for a name that is not there, so that it takes as long.
    pub fn any(&self) -> Option<&PasswordHash> {
        self.users.values().next()
    }

    pub fn len(&self) -> usize {
        self.users.len()
    }

    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }
}

impl PasswordHash {
    fn parse(text: &str) -> Result<Self, String> {
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| "its hash is no base64".to_owned());
        if text.len() > LONGEST {
            return Err("its hash is longer than 255 bytes".to_owned());
        }
        if let Some(rest) = text.strip_prefix("{SHA}").or_else(|| text.strip_prefix("{SSHA}")) {
            let bytes = decode(rest)?;
            let (digest, salt) = bytes.split_at_checked(20).ok_or("its hash is shorter than SHA-1")?;
            if text.starts_with("{SHA}") != salt.is_empty() {
                return Err("its hash is not as long as SHA-1".to_owned());
            }
            let digest = <[u8; 20]>::try_from(digest).map_err(|_| "its hash is no SHA-1".to_owned())?;
            return Ok(Self::Sha1 { digest, salt: salt.into() });
        }
        if let Some(plain) = text.strip_prefix("{PLAIN}") {
            return match plain {
                "" => Err("its password is empty".to_owned()),
                plain => Ok(Self::Plain(plain.as_bytes().into())),
            };
        }
        if let Some(rest) = text.strip_prefix("$apr1$") {
            return match rest.split_once('$') {
                Some((salt, hash)) if salt.len() <= 8 && hash.len() == 22 => {
                    Ok(Self::Apr1 { salt: salt.as_bytes().into(), hash: hash.as_bytes().into() })
                }
                _ => Err("its hash is no $apr1$SALT$HASH".to_owned()),
            };
        }
        if ["$2a$", "$2b$", "$2y$"].iter().any(|start| text.starts_with(start)) {
            let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'/';
            let cost = text.get(4..6).and_then(|cost| cost.parse::<u32>().ok());
            let is_whole = text.len() == 60 && text.as_bytes().get(6) == Some(&b'$');
            return match cost {
                Some(cost) if is_whole && text.bytes().skip(7).all(is_letter) => match cost {
                    4..=COSTLIEST => Ok(Self::Bcrypt(text.into())),
                    _ => Err(format!("bcrypt of cost {cost}, expected 4 to {COSTLIEST}")),
                },
                _ => Err("its hash is no bcrypt".to_owned()),
            };
        }
        let scheme = match text {
            "" => return Err("has no hash".to_owned()),
            text if text.starts_with("$1$") => "MD5 of crypt(3)",
            text if text.starts_with("$5$") => "SHA-256 of crypt(3)",
            text if text.starts_with("$6$") => "SHA-512 of crypt(3)",
            text if text.len() == 13 => "DES of crypt(3)",
            _ => "a scheme that is not known",
        };
        Err(format!("has {scheme}, expected {{SHA}}, {{SSHA}}, {{PLAIN}}, $apr1$ or bcrypt"))
    }
}

impl fmt::Debug for Htpasswd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} users", self.users.len())
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_users() {
        let bcrypt = "$2y$05$abcdefghijklmnopqrstuuWG29KuyeAicPCJODk1zjyGvyQUU2awu";
        for (text, expected) in [
            ("user1:{SHA}tESsBmE/yNY3lb6a0L6vVQEZNqw=\r\nuser2:{SHA}EJ9LPFDXsN9ynSmbxvjp75Bmlx8=\r\n", Ok(2)),
            ("# people\n\nann:$apr1$XKjV7fL5$F4LhjI6kzq4UQGzrJ3c1y0:a comment\n", Ok(1)),
            (&format!("ann:{bcrypt}"), Ok(1)),
            ("ann:{PLAIN}secret", Ok(1)),
            ("ann:{SSHA}tESsBmE/yNY3lb6a0L6vVQEZNqxzYWx0", Ok(1)),
            ("", Err("has no users")),
            ("ann", Err("line 1: has no colon, expected name:hash")),
            (":{PLAIN}x", Err("line 1: has no name of 1 to 255 bytes")),
            ("ann:", Err("line 1: has no hash")),
            ("\nann:{SHA}!!", Err("line 2: its hash is no base64")),
            ("ann:{SHA}QQ==", Err("line 1: its hash is shorter than SHA-1")),
            ("ann:{SHA}tESsBmE/yNY3lb6a0L6vVQEZNqxzYWx0", Err("line 1: its hash is not as long as SHA-1")),
            ("ann:{PLAIN}x\nann:{PLAIN}y", Err("line 2: names a user who is there already")),
            (
                "ann:$6$salt$hash",
                Err("line 1: has SHA-512 of crypt(3), expected {SHA}, {SSHA}, {PLAIN}, $apr1$ or bcrypt"),
            ),
            ("ann:$apr1$toolongasalt$F4LhjI6kzq4UQGzrJ3c1y0", Err("line 1: its hash is no $apr1$SALT$HASH")),
            (&format!("ann:{}", bcrypt.replace("$05$", "$31$")), Err("line 1: bcrypt of cost 31, expected 4 to 12")),
            ("ann:$2y$05$short", Err("line 1: its hash is no bcrypt")),
        ] {
            let found = Htpasswd::parse(text.as_bytes());
            assert_eq!(found.as_ref().map(Htpasswd::len).map_err(String::as_str), expected, "{text:?}");
        }
        let users = Htpasswd::parse(b"ann:{PLAIN}secret").unwrap();
        assert!(!format!("{users:?} {:?}", users.get("ann")).contains("secret"));
        assert!(Htpasswd::parse(b"ann:{PLAIN}\xff").is_err());
    }
}
