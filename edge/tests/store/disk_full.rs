//! A disk that fills up: what was acknowledged stays, what was not is said not to be, and room brings all back.

use std::path::Path;
use std::process::Command;

use edge::store::Store;

use super::{child, skip};

struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// `None` where we may not mount.
    fn mount(size: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(directory.path());
        mount.output().is_ok_and(|output| output.status.success()).then(|| Self(directory))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[test]
fn a_full_disk_is_an_error_and_never_a_loss() {
    for size in ["1m", "3m"] {
        let Some(disk) = Tmpfs::mount(size) else {
            return skip("a_full_disk_is_an_error_and_never_a_loss", "may not mount tmpfs (needs root)");
        };
        let directory = disk.path().join("edge");
        // Something to give back later.
        std::fs::write(disk.path().join("ballast"), vec![0; 256 << 10]).unwrap();
        let opened = Store::open(&directory);
        let mut acknowledged = None;
        let mut refused = 0;
        for version in 0..2000 {
            // Distinct names do not matter: every write needs room in the database.
            match child::write(&opened.store, version) {
                Ok(()) if refused == 0 => acknowledged = Some(version),
                Ok(()) => {}
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().contains("is not on disk"), "{error}");
                    if refused > 20 {
                        break;
                    }
                }
            }
        }
        let degraded = opened.store.degraded();
        drop(opened);
        // The full disk opens, too: with what was acknowledged, or in memory when not even that is possible.
        let full = Store::open(&directory);
        if let Some(acknowledged) = acknowledged {
            child::check(&full.store, acknowledged, 2000)
                .unwrap_or_else(|error| panic!("{size}: {error}; {:?}", full.notices));
        }
        drop(full);
        std::fs::remove_file(disk.path().join("ballast")).unwrap();
        let roomy = Store::open(&directory);
        assert!(roomy.store.is_durable(), "{:?}", roomy.notices);
        if let Some(acknowledged) = acknowledged {
            child::check(&roomy.store, acknowledged, 2000)
                .unwrap_or_else(|error| panic!("{size}, room again: {error}"));
        }
        eprintln!("disk full ({size}): {acknowledged:?} acknowledged, {refused} refused, then {degraded:?}");
    }
}
