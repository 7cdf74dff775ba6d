//! `[dashboard]`: the read-only web page, where it is and who may see it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DashboardSettings {
    pub address: SocketAddr,
    /// Names by which browsers may call it, besides its address, `localhost` and the name of the edge.
    pub names: Vec<String>,
    /// Its certificate and key, as PEM files. `None`: one of the internal CA.
    pub certificate: Option<DashboardCertificate>,
    /// Who has a certificate of these CAs may look.
    pub client_ca: Option<PathBuf>,
    /// Who knows the text of this file may look.
    pub token_file: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DashboardCertificate {
    pub certificate: PathBuf,
    pub private_key: PathBuf,
}

impl DashboardSettings {
    /// Nobody has to say who they are.
    pub fn is_open(&self) -> bool {
        self.client_ca.is_none() && self.token_file.is_none()
    }

    /// HTTP without TLS: only what is open anyway and cannot be reached from elsewhere.
    pub fn is_plain(&self) -> bool {
        self.is_open() && self.certificate.is_none()
    }

    /// The same with its paths taken relative to `base`.
    pub(super) fn anchor(&mut self, base: &Path) {
        if let Some(files) = &mut self.certificate {
            files.certificate = base.join(&files.certificate);
            files.private_key = base.join(&files.private_key);
        }
        for file in [&mut self.client_ca, &mut self.token_file].into_iter().flatten() {
            *file = base.join(&*file);
        }
    }
}
