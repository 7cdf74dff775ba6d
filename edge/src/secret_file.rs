//! Files with a text that some share and others must not know: the secret of a fleet, the token of the dashboard.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Shorter secrets can be guessed from what is seen on the wire, or by asking.
const LEAST_SECRET: usize = 32;
const MOST_SECRET: u64 = 4096;

#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    #[error("{path}: cannot be read: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{path}: is readable by others (mode {mode:04o}), expected 0600 or 0400")]
    Mode { path: PathBuf, mode: u32 },
    #[error("{path}: has {found} bytes, expected {LEAST_SECRET} to {MOST_SECRET}")]
    Length { path: PathBuf, found: u64 },
}

/// The text of a secret, without the white space at its end.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let cannot = |error| SecretFileError::Read { path: path.to_owned(), error };
    let file = File::open(path).map_err(cannot)?;
    // Of the open file, so that nobody can change it in between.
    let about = file.metadata().map_err(cannot)?;
    let mode = about.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SecretFileError::Mode { path: path.to_owned(), mode });
    }
    let mut secret = Zeroizing::new(Vec::with_capacity(MOST_SECRET as usize + 1));
    file.take(MOST_SECRET + 1).read_to_end(&mut secret).map_err(cannot)?;
    // An editor's last line break is no part of it: the file is the same with and without one.
    let length = secret.trim_ascii_end().len();
    let found = secret.len() as u64;
    if length < LEAST_SECRET || found > MOST_SECRET {
        return Err(SecretFileError::Length { path: path.to_owned(), found: length as u64 });
    }
    secret.truncate(length);
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn files_of_secrets() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        for (content, mode, expected) in [
            (&[b'x'; 32][..], 0o600, None),
            (&[b'x'; 32], 0o400, None),
            (&[b'x'; 32], 0o640, Some("is readable by others (mode 0640), expected 0600 or 0400")),
            (&[b'x'; 31], 0o600, Some("has 31 bytes, expected 32 to 4096")),
            (&[b'x'; 5000], 0o600, Some("has 4097 bytes, expected 32 to 4096")),
        ] {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let found = read(&path).err().map(|error| error.to_string());
            let expected = expected.map(|text| format!("{}: {text}", path.display()));
            assert_eq!(found, expected);
            std::fs::remove_file(&path).unwrap();
        }
        assert!(read(&path).unwrap_err().to_string().contains("cannot be read"));
        std::fs::write(&path, [&[b'x'; 40][..], b"\n"].concat()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(read(&path).unwrap().len(), 40);
    }
}
