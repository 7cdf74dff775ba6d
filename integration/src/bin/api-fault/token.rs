//! The client's credentials: a bearer token in a file that can expire and be renewed.
//!
//! Flows in: orders. Flows out: the token file, and whether a request may pass. The file is replaced by renaming, as a
//! kubelet replaces that of a ServiceAccount.

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use http::HeaderValue;

pub struct Token {
    path: PathBuf,
    /// `Bearer …`
    wanted: String,
    expired: bool,
}

impl Token {
    pub fn write(path: &Path) -> io::Result<Self> {
        let mut token = Self { path: path.to_owned(), wanted: String::new(), expired: false };
        token.renew()?;
        Ok(token)
    }

    pub fn renew(&mut self) -> io::Result<()> {
        let mut random = [0_u8; 16];
        aws_lc_rs::rand::fill(&mut random).map_err(io::Error::other)?;
        let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut draft = self.path.clone().into_os_string();
        draft.push(".new");
        let draft = PathBuf::from(draft);
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(token.as_bytes())?;
        std::fs::rename(&draft, &self.path)?;
        self.wanted = format!("Bearer {token}");
        self.expired = false;
        Ok(())
    }

    pub fn expire(&mut self) {
        self.expired = true;
    }

    pub fn admits(&self, header: Option<&HeaderValue>) -> bool {
        !self.expired && header.is_some_and(|header| header.as_bytes() == self.wanted.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_token_passes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let header = || HeaderValue::from_str(&format!("Bearer {}", std::fs::read_to_string(&path).unwrap())).unwrap();
        let mut token = Token::write(&path).unwrap();
        let first = header();
        assert!(token.admits(Some(&first)) && !token.admits(None));
        token.expire();
        assert!(!token.admits(Some(&first)));
        token.renew().unwrap();
        assert!(token.admits(Some(&header())) && !token.admits(Some(&first)));
    }
}
