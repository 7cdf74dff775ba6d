//! What the machine says, without edged: versions, kernel, addresses, routes, sockets, unit, journal, sizes.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Part;
use crate::control::span;

/// Of one file or program.
const MOST: u64 = 8 << 20;
/// Of one program.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of a listing.
const MOST_ENTRIES: usize = 20_000;

/// Programs that are asked, if they are there. None changes anything.
const PROGRAMS: [(&str, &[&str]); 9] = [
    ("system/addresses.txt", &["ip", "-details", "address"]),
    ("system/routes.txt", &["ip", "route", "show", "table", "all"]),
    ("system/routes6.txt", &["ip", "-6", "route", "show", "table", "all"]),
    ("system/rules.txt", &["ip", "rule"]),
    ("system/neighbours.txt", &["ip", "neighbour"]),
    ("system/sockets.txt", &["ss", "--listening", "--tcp", "--udp", "--numeric", "--processes", "--extended"]),
    ("system/socket-summary.txt", &["ss", "--summary"]),
    // Never its Environment=, in which there may be anything.
    (
        "unit/state.txt",
        &[
            "systemctl",
            "show",
            "edged",
            "edge-gobgpd",
            "--property=Id,ActiveState,SubState,Result,ExecMainStatus,ExecMainStartTimestamp,NRestarts,MainPID,MemoryCurrent,\
             MemoryMax,TasksCurrent,LimitNOFILE,FragmentPath,DropInPaths,UnitFileState",
        ],
    ),
    ("unit/journal.txt", &["journalctl", "--unit=edged", "--no-pager", "--output=short-iso-precise", "--lines=5000"]),
];

const FILES: [(&str, &str); 8] = [
    ("system/os-release.txt", "/etc/os-release"),
    ("system/kernel.txt", "/proc/version"),
    ("system/memory.txt", "/proc/meminfo"),
    ("system/load.txt", "/proc/loadavg"),
    ("system/uptime.txt", "/proc/uptime"),
    ("system/socket-counts.txt", "/proc/net/sockstat"),
    ("system/network-counters.txt", "/proc/net/netstat"),
    ("system/interfaces.txt", "/proc/net/dev"),
];

/// Settings of the kernel that decide what an edge can do; folders with all of it.
const SYSCTLS: [&str; 9] = [
    "net/ipv4/conf",
    "net/ipv6/conf",
    "net/core",
    "net/ipv4",
    "net/ipv4/neigh/default",
    "net/ipv6/neigh/default",
    "kernel/io_uring_disabled",
    "fs/file-max",
    "vm/overcommit_memory",
];

pub fn parts() -> Vec<Part> {
    let mut parts: Vec<Part> = FILES.iter().map(|(name, path)| Part::text(name, file(Path::new(path)))).collect();
    parts.extend(PROGRAMS.iter().map(|(name, words)| Part::text(name, program(words))));
    parts.push(Part::text("system/sysctl.txt", Ok(sysctls())));
    parts
}

/// Of a process: how much it holds and may hold.
pub fn process(pid: u32) -> Vec<Part> {
    let of = |name: &str| file(&Path::new("/proc").join(pid.to_string()).join(name));
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).map(|all| format!("{} open\n", all.count()));
    vec![
        Part::text("process/status.txt", of("status")),
        Part::text("process/limits.txt", of("limits")),
        Part::text("process/descriptors.txt", descriptors.map_err(|error| format!("/proc/{pid}/fd: {error}"))),
    ]
}

fn file(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(failed)?.take(MOST).read_to_end(&mut bytes).map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a program says; one that hangs is left alone after a while and ended.
fn program(words: &[&str]) -> Result<String, String> {
    let Some((name, arguments)) = words.split_first() else { return Err("no program".to_owned()) };
    let failed = |error: std::io::Error| format!("{name}: {error}");
    let mut child = Command::new(name)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env("LC_ALL", "C")
        .spawn()
        .map_err(failed)?;
    let read = |stream: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // What cannot be read is missing.
            let _ = stream.map(|stream| stream.take(MOST).read_to_end(&mut bytes));
            bytes
        })
    };
    let out = read(child.stdout.take().map(|stream| Box::new(stream) as _));
    let error = read(child.stderr.take().map(|stream| Box::new(stream) as _));
    let end = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if Instant::now() >= end => {
                // It may have ended by itself by now.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{name}: no end within {PATIENCE:?}"));
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let text = |thread: std::thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&thread.join().unwrap_or_default()).into_owned()
    };
    let (out, error) = (text(out), text(error));
    if out.is_empty() && !status.success() {
        return Err(format!("{name}: {status}: {}", error.trim().replace('\n', "; ")));
    }
    Ok(format!("$ {}\n{out}{error}", words.join(" ")))
}

fn sysctls() -> String {
    let mut out = String::new();
    for root in SYSCTLS {
        sysctl(Path::new("/proc/sys"), &Path::new("/proc/sys").join(root), &mut out);
    }
    out
}

/// A setting, or the settings of a folder, and of the folders in one called `conf`.
fn sysctl(base: &Path, path: &Path, out: &mut String) {
    if path.is_dir() {
        let mut entries: Vec<_> =
            std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        entries.sort();
        for entry in entries {
            if !entry.is_dir() || path.ends_with("conf") {
                sysctl(base, &entry, out);
            }
        }
        return;
    }
    // Some may be written only.
    let Ok(value) = std::fs::read_to_string(path) else { return };
    let name = path.strip_prefix(base).unwrap_or(path).display().to_string().replace('/', ".");
    // A key of the kernel's, not of ours, but a key.
    if !name.contains("key") && !name.contains("secret") {
        let _ = writeln!(out, "{name} = {}", value.trim().replace('\n', "; "));
    }
}

/// Names, sizes, modes and ages of what is in a folder; no content.
pub fn listing(root: &Path) -> Result<String, String> {
    std::fs::read_dir(root).map_err(|error| format!("{}: {error}", root.display()))?;
    let mut out = String::new();
    let (mut folders, mut entries, mut bytes) = (vec![root.to_owned()], 0_usize, 0_u64);
    while let Some(folder) = folders.pop() {
        let Ok(found) = std::fs::read_dir(&folder) else { continue };
        let mut found: Vec<_> = found.flatten().collect();
        found.sort_by_key(std::fs::DirEntry::path);
        for entry in found {
            let Ok(metadata) = entry.metadata() else { continue };
            entries += 1;
            if entries > MOST_ENTRIES {
                let _ = writeln!(out, "and more than {MOST_ENTRIES} entries");
                return Ok(out);
            }
            use std::os::unix::fs::MetadataExt as _;
            let (mode, uid, gid) = (metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
            let at = metadata.modified().map(span::rfc3339).unwrap_or_default();
            let _ =
                writeln!(out, "{mode:04o} {uid:>5} {gid:>5} {:>12} {at} {}", metadata.len(), entry.path().display());
            bytes += metadata.len();
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    let _ = writeln!(out, "{entries} entries, {bytes} bytes");
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_end_and_say_why_not() {
        assert!(program(&["echo", "hello"]).unwrap().contains("hello"));
        assert!(program(&["no-such-program-here"]).unwrap_err().starts_with("no-such-program-here: "));
        let error = program(&["sh", "-c", "echo bad >&2; exit 3"]).unwrap_err();
        assert!(error.contains("exit status: 3: bad"), "{error}");
    }

    #[test]
    fn listings_have_no_content() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("keys")).unwrap();
        std::fs::write(directory.path().join("keys/a.pem"), "a secret").unwrap();
        let text = listing(directory.path()).unwrap();
        assert!(text.contains("keys/a.pem") && text.contains("2 entries") && !text.contains("a secret"), "{text}");
        assert!(listing(Path::new("/no/such/folder")).unwrap_err().contains("/no/such/folder"));
        assert!(sysctls().contains("net.core.somaxconn = "));
    }
}
