//! The inside of a container: `podlet launch`, which becomes the container's program.
//!
//! Flows in: a [`Plan`] as JSON on standard input (it holds secrets, so it is in no file and no argument). The caller
//! has started us by `ip netns exec`, in the Pod's network namespace and a private mount namespace. Out of it comes the
//! program, in a root of its own: a small tmpfs with the host's programs and libraries, the volumes at their places.
//! It ends with podlet, however podlet ends.

use std::fs::Permissions;
use std::io::{self, Read as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use rustix::mount::{MountFlags, mount, mount_bind, mount_bind_recursive, mount_remount};
use rustix::process::{Signal, chroot, getppid, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

/// Of a plan; a Secret has 1 MiB at most.
const LONGEST: u64 = 16 * 1024 * 1024;
/// Of the host's root, what a container sees too.
const SHARED: [&str; 9] = ["bin", "dev", "lib", "lib32", "lib64", "proc", "sbin", "sys", "usr"];
const ROOT_OPTIONS: &std::ffi::CStr = c"size=64m,mode=755";

/// Everything the program inside needs.
#[derive(Serialize, Deserialize)]
pub struct Plan {
    /// Process id of podlet.
    pub parent: u32,
    /// An empty directory of the host to build the root in.
    pub root: PathBuf,
    pub program: PathBuf,
    pub name: String,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub directory: PathBuf,
    pub mounts: Vec<Mount>,
    pub host_name: String,
    /// Contents of `/etc/hosts`.
    pub hosts: String,
}

/// A directory or file of the host at a place inside.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub source: PathBuf,
    pub target: PathBuf,
    pub read_only: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("plan on standard input: {0}")]
    Plan(io::Error),
    #[error("podlet is gone")]
    Orphan,
    #[error("{what} {}: {error}", path.display())]
    Root { what: &'static str, path: PathBuf, error: io::Error },
    #[error("mount path {}: not an absolute path without ..", .0.display())]
    Target(PathBuf),
    #[error("mount path {}: the host's own directory, and not there", .0.display())]
    Shared(PathBuf),
    #[error("{}: {error}", path.display())]
    Execute { path: PathBuf, error: io::Error },
}

/// Returns only with the reason why the program could not be started.
pub fn run() -> Fault {
    match prepare() {
        Err(fault) => fault,
        Ok(plan) => {
            let path = Path::new("/.podlet").join(&plan.name);
            let error = Command::new(&path)
                .arg0(&plan.name)
                .args(&plan.arguments)
                .env_clear()
                .envs(plan.environment)
                .current_dir(&plan.directory)
                .exec();
            Fault::Execute { path, error }
        }
    }
}

fn prepare() -> Result<Plan, Fault> {
    let mut text = Vec::new();
    io::stdin().lock().take(LONGEST).read_to_end(&mut text).map_err(Fault::Plan)?;
    let plan: Plan = serde_json::from_slice(&text).map_err(|error| Fault::Plan(error.into()))?;
    let fault =
        |error: rustix::io::Errno| Fault::Root { what: "death signal", path: PathBuf::new(), error: error.into() };
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(fault)?;
    // Podlet may have died before the line above; then no signal comes.
    let parent = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if parent != Some(plan.parent) {
        return Err(Fault::Orphan);
    }
    build(&plan)?;
    chroot(&plan.root).map_err(|error| Fault::Root { what: "root", path: plan.root.clone(), error: error.into() })?;
    let working = std::env::set_current_dir("/");
    working.map_err(|error| Fault::Root { what: "directory", path: "/".into(), error })?;
    Ok(plan)
}

/// Does one step at a path; a failure says which.
fn step<T, E: Into<io::Error>>(what: &'static str, path: &Path, outcome: Result<T, E>) -> Result<T, Fault> {
    outcome.map_err(|error| Fault::Root { what, path: path.to_owned(), error: error.into() })
}

fn build(plan: &Plan) -> Result<(), Fault> {
    let root = plan.root.as_path();
    step("tmpfs", root, mount("podlet", root, "tmpfs", MountFlags::NOSUID, ROOT_OPTIONS))?;
    for name in SHARED {
        let (source, target) = (Path::new("/").join(name), root.join(name));
        match std::fs::symlink_metadata(&source) {
            Ok(seen) if seen.is_symlink() => {
                let leads = step("link", &source, std::fs::read_link(&source))?;
                step("link", &target, symlink(leads, &target))?;
            }
            Ok(seen) if seen.is_dir() => {
                step("directory", &target, std::fs::create_dir(&target))?;
                step("bind", &target, mount_bind_recursive(&source, &target))?;
            }
            _ => {}
        }
    }
    for (name, mode) in
        [("etc", 0o755), ("root", 0o700), ("run", 0o755), ("tmp", 0o1777), ("var", 0o755), (".podlet", 0o755)]
    {
        let path = root.join(name);
        step("directory", &path, std::fs::create_dir(&path))?;
        step("mode", &path, std::fs::set_permissions(&path, Permissions::from_mode(mode)))?;
    }
    for (name, text) in [("etc/hosts", &plan.hosts), ("etc/hostname", &format!("{}\n", plan.host_name))] {
        step("file", &root.join(name), std::fs::write(root.join(name), text))?;
    }
    let program = root.join(".podlet").join(&plan.name);
    step("file", &program, std::fs::write(&program, ""))?;
    step("program", &plan.program, mount_bind(&plan.program, &program))?;
    for mount in &plan.mounts {
        place(root, mount)?;
    }
    let directory = inside(root, &plan.directory)?;
    step("directory", &directory, std::fs::create_dir_all(&directory))
}

fn place(root: &Path, mount: &Mount) -> Result<(), Fault> {
    let target = inside(root, &mount.target)?;
    let seen = step("volume", &mount.source, std::fs::metadata(&mount.source))?;
    let shared = SHARED.iter().any(|name| target.starts_with(root.join(name)));
    if shared && !target.exists() {
        return Err(Fault::Shared(mount.target.clone()));
    }
    if seen.is_dir() {
        step("directory", &target, std::fs::create_dir_all(&target))?;
    } else {
        if let Some(parent) = target.parent() {
            step("directory", parent, std::fs::create_dir_all(parent))?;
        }
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&target);
        step("file", &target, file)?;
    }
    step("bind", &target, mount_bind(&mount.source, &target))?;
    if mount.read_only {
        step("read-only", &target, mount_remount(&target, MountFlags::BIND | MountFlags::RDONLY, c""))?;
    }
    Ok(())
}

/// Where a path of the container is while its root is built.
fn inside(root: &Path, path: &Path) -> Result<PathBuf, Fault> {
    let relative = path.strip_prefix("/").map_err(|_| Fault::Target(path.to_owned()))?;
    if relative.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(Fault::Target(path.to_owned()));
    }
    Ok(root.join(relative))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_stay_inside() {
        let root = Path::new("/state/root");
        let cases = [
            ("/etc/secret-volume", Some("/state/root/etc/secret-volume")),
            ("/", Some("/state/root/")),
            ("/root", Some("/state/root/root")),
            ("/../etc", None),
            ("relative", None),
        ];
        for (path, expected) in cases {
            let found = inside(root, Path::new(path)).ok();
            assert_eq!(found.as_deref(), expected.map(Path::new), "{path}");
        }
    }
}
