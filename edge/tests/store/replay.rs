//! What a disk holds after a power loss, from the system calls of a process (strace).
//!
//! A file is an inode with content that is safe (as of its last fsync) and writes that are not yet; a directory has
//! entries that are safe and changes that are not yet. A crash keeps what is safe and, of the rest, what the mode says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Dice;

#[derive(Debug, Clone)]
pub enum Call {
    Open { path: PathBuf, fd: i64, create: bool, truncate: bool, append: bool },
    Close { fd: i64 },
    Write { fd: i64, offset: Option<u64>, bytes: Vec<u8> },
    Seek { fd: i64, position: u64 },
    Truncate { fd: i64, length: u64 },
    Sync { fd: i64 },
    Rename { from: PathBuf, to: PathBuf },
    Unlink { path: PathBuf },
    MakeDirectory { path: PathBuf },
}

/// Reads the files that `strace -ff -ttt -T -xx` wrote, in the order of time. A call counts when it ends, so that an
/// fsync is not believed early; a write counts when it begins, so that it is not believed late.
pub fn read_traces(prefix: &Path) -> Vec<Call> {
    let folder = prefix.parent().unwrap();
    let name = prefix.file_name().unwrap().to_str().unwrap();
    let mut calls = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_str().unwrap().starts_with(name) {
            continue;
        }
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            if let Some((start, end, call)) = parse(line) {
                let at = if matches!(call, Call::Sync { .. } | Call::Open { .. }) { end } else { start };
                calls.push((at, call));
            }
        }
    }
    calls.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    calls.into_iter().map(|(_, call)| call).collect()
}

fn parse(line: &str) -> Option<(f64, f64, Call)> {
    let (start, rest) = line.split_once(' ')?;
    let start: f64 = start.parse().ok()?;
    let (rest, took) = rest.rsplit_once(" <")?;
    let took: f64 = took.strip_suffix('>')?.parse().ok()?;
    let (call, result) = rest.rsplit_once(" = ")?;
    let result: i64 = result.split(' ').next()?.parse().ok()?;
    if result < 0 {
        return None;
    }
    let (name, arguments) = call.trim_end().strip_suffix(')')?.split_once('(')?;
    let arguments: Vec<&str> = arguments.split(", ").collect();
    let number = |at: usize| arguments.get(at)?.parse::<i64>().ok();
    let path = |at: usize| arguments.get(at).and_then(|text| unescape(text)).map(text_path);
    let call = match name {
        "openat" => {
            let flags = arguments.get(2)?;
            let has = |flag: &str| flags.split('|').any(|found| found == flag);
            Call::Open {
                path: path(1)?,
                fd: result,
                create: has("O_CREAT"),
                truncate: has("O_TRUNC"),
                append: has("O_APPEND"),
            }
        }
        "close" => Call::Close { fd: number(0)? },
        "write" | "pwrite64" => {
            let mut bytes = unescape(arguments.get(1)?)?;
            assert_eq!(bytes.len() as i64, number(2)?, "strace cut a write short: {}", &line[..80]);
            bytes.truncate(result as usize);
            Call::Write { fd: number(0)?, offset: number(3).map(|offset| offset as u64), bytes }
        }
        "lseek" => Call::Seek { fd: number(0)?, position: result as u64 },
        "ftruncate" => Call::Truncate { fd: number(0)?, length: number(1)? as u64 },
        "fsync" | "fdatasync" => Call::Sync { fd: number(0)? },
        "rename" => Call::Rename { from: path(0)?, to: path(1)? },
        "renameat" | "renameat2" => Call::Rename { from: path(1)?, to: path(3)? },
        "unlink" => Call::Unlink { path: path(0)? },
        "unlinkat" => Call::Unlink { path: path(1)? },
        "mkdir" => Call::MakeDirectory { path: path(0)? },
        "mkdirat" => Call::MakeDirectory { path: path(1)? },
        _ => return None,
    };
    Some((start, start + took, call))
}

fn text_path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(String::from_utf8(bytes).unwrap())
}

/// `"\x41\x42"` as bytes; a cut string (`"…"...`) has none.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix('"')?.strip_suffix('"')?;
    if digits.is_empty() {
        return Some(Vec::new());
    }
    digits.strip_prefix("\\x")?.split("\\x").map(|byte| u8::from_str_radix(byte, 16).ok()).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The process died, the machine lives: everything is there.
    Kill,
    /// Nothing that was not synced reached the disk.
    Drop,
    /// Some of it did, in any order, sectors torn.
    Torn,
    /// All changes of directories did, no content.
    NamesOnly,
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Truncate { length: u64 },
}

#[derive(Debug, Default)]
struct Inode {
    safe: Vec<u8>,
    unsafe_changes: Vec<Change>,
    /// Length as the process sees it, for appending.
    length: u64,
}

#[derive(Debug, Clone)]
enum Entry {
    Add { path: PathBuf, inode: usize },
    Remove { path: PathBuf },
    Move { from: PathBuf, to: PathBuf },
    Directory { path: PathBuf },
}

/// The disk below one directory.
pub struct Disk {
    root: PathBuf,
    inodes: Vec<Inode>,
    /// As the process sees it.
    names: BTreeMap<PathBuf, usize>,
    safe_entries: Vec<Entry>,
    unsafe_entries: Vec<Entry>,
    descriptors: BTreeMap<i64, Descriptor>,
}

struct Descriptor {
    target: Target,
    position: u64,
    append: bool,
}

enum Target {
    File(usize),
    Directory(PathBuf),
}

impl Disk {
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            inodes: Vec::new(),
            names: BTreeMap::new(),
            safe_entries: Vec::new(),
            unsafe_entries: Vec::new(),
            descriptors: BTreeMap::new(),
        }
    }

    pub fn apply(&mut self, call: &Call) {
        match call {
            Call::Open { path, fd, create, truncate, append } => {
                self.descriptors.remove(fd);
                if !path.starts_with(&self.root) {
                    return;
                }
                let target = match self.names.get(path) {
                    Some(inode) => Target::File(*inode),
                    None if *create => {
                        self.inodes.push(Inode::default());
                        let inode = self.inodes.len() - 1;
                        self.names.insert(path.clone(), inode);
                        self.unsafe_entries.push(Entry::Add { path: path.clone(), inode });
                        Target::File(inode)
                    }
                    None => Target::Directory(path.clone()),
                };
                if let (Target::File(inode), true) = (&target, *truncate) {
                    self.change(*inode, Change::Truncate { length: 0 });
                }
                self.descriptors.insert(*fd, Descriptor { target, position: 0, append: *append });
            }
            Call::Close { fd } => drop(self.descriptors.remove(fd)),
            Call::Write { fd, offset, bytes } => {
                let Some(Descriptor { target: Target::File(inode), position, append }) = self.descriptors.get_mut(fd)
                else {
                    return;
                };
                let inode = *inode;
                let at = match offset {
                    Some(offset) => *offset,
                    None => {
                        if *append {
                            *position = self.inodes[inode].length;
                        }
                        let at = *position;
                        *position += bytes.len() as u64;
                        at
                    }
                };
                self.change(inode, Change::Write { offset: at, bytes: bytes.clone() });
            }
            Call::Seek { fd, position } => {
                if let Some(descriptor) = self.descriptors.get_mut(fd) {
                    descriptor.position = *position;
                }
            }
            Call::Truncate { fd, length } => {
                if let Some(Descriptor { target: Target::File(inode), .. }) = self.descriptors.get(fd) {
                    self.change(*inode, Change::Truncate { length: *length });
                }
            }
            Call::Sync { fd } => match self.descriptors.get(fd).map(|descriptor| &descriptor.target) {
                Some(Target::File(inode)) => {
                    let inode = &mut self.inodes[*inode];
                    for change in std::mem::take(&mut inode.unsafe_changes) {
                        carry_out(&mut inode.safe, &change, None);
                    }
                }
                Some(Target::Directory(path)) => {
                    let path = path.clone();
                    let (synced, rest) = std::mem::take(&mut self.unsafe_entries)
                        .into_iter()
                        .partition(|entry| entry.parents().contains(&Some(path.as_path())));
                    self.safe_entries.extend::<Vec<_>>(synced);
                    self.unsafe_entries = rest;
                }
                None => {}
            },
            Call::Rename { from, to } if from.starts_with(&self.root) => {
                let moved: Vec<_> = self.names.keys().filter(|path| path.starts_with(from)).cloned().collect();
                for path in moved {
                    if let Some(inode) = self.names.remove(&path) {
                        self.names.insert(moved_path(&path, from, to), inode);
                    }
                }
                self.unsafe_entries.push(Entry::Move { from: from.clone(), to: to.clone() });
            }
            Call::Unlink { path } if path.starts_with(&self.root) => {
                self.names.remove(path);
                self.unsafe_entries.push(Entry::Remove { path: path.clone() });
            }
            Call::MakeDirectory { path } if path.starts_with(&self.root) => {
                self.unsafe_entries.push(Entry::Directory { path: path.clone() });
            }
            Call::Rename { .. } | Call::Unlink { .. } | Call::MakeDirectory { .. } => {}
        }
    }

    fn change(&mut self, inode: usize, change: Change) {
        let inode = &mut self.inodes[inode];
        inode.length = match &change {
            Change::Write { offset, bytes } => inode.length.max(offset + bytes.len() as u64),
            Change::Truncate { length } => *length,
        };
        inode.unsafe_changes.push(change);
    }

    /// Writes what is left after a crash now, with `target` in place of the root.
    pub fn crash(&self, target: &Path, mode: Mode, dice: &mut Dice) {
        let mut entries: Vec<&Entry> = self.safe_entries.iter().collect();
        let unsafe_kept = match mode {
            Mode::Kill | Mode::NamesOnly => self.unsafe_entries.len(),
            Mode::Drop => 0,
            // A journal keeps changes of names in order.
            Mode::Torn => dice.below(self.unsafe_entries.len() as u64 + 1) as usize,
        };
        entries.extend(&self.unsafe_entries[..unsafe_kept]);
        let mut names: BTreeMap<PathBuf, Option<usize>> = BTreeMap::new();
        for entry in entries {
            match entry {
                Entry::Add { path, inode } => drop(names.insert(path.clone(), Some(*inode))),
                Entry::Directory { path } => drop(names.insert(path.clone(), None)),
                Entry::Remove { path } => drop(names.remove(path)),
                Entry::Move { from, to } => {
                    let moved: Vec<_> = names.keys().filter(|path| path.starts_with(from)).cloned().collect();
                    for path in moved {
                        if let Some(found) = names.remove(&path) {
                            names.insert(moved_path(&path, from, to), found);
                        }
                    }
                }
            }
        }
        std::fs::create_dir_all(target).unwrap();
        for (path, inode) in names {
            let place = moved_path(&path, &self.root, target);
            match inode {
                None => std::fs::create_dir_all(&place).unwrap(),
                Some(inode) => {
                    // A file whose directory never reached the disk is gone with it.
                    if place.parent().is_some_and(Path::is_dir) {
                        std::fs::write(&place, self.content(&self.inodes[inode], mode, dice)).unwrap();
                    }
                }
            }
        }
    }

    fn content(&self, inode: &Inode, mode: Mode, dice: &mut Dice) -> Vec<u8> {
        let mut content = inode.safe.clone();
        for change in &inode.unsafe_changes {
            match mode {
                Mode::Kill => carry_out(&mut content, change, None),
                Mode::Drop | Mode::NamesOnly => {}
                Mode::Torn => match dice.below(3) {
                    0 => {}
                    1 => carry_out(&mut content, change, None),
                    _ => carry_out(&mut content, change, Some(dice)),
                },
            }
        }
        content
    }
}

impl Entry {
    fn parents(&self) -> [Option<&Path>; 2] {
        match self {
            Self::Add { path, .. } | Self::Remove { path } | Self::Directory { path } => [path.parent(), None],
            Self::Move { from, to } => [from.parent(), to.parent()],
        }
    }
}

fn moved_path(path: &Path, from: &Path, to: &Path) -> PathBuf {
    match path.strip_prefix(from) {
        Ok(rest) if rest.as_os_str().is_empty() => to.to_owned(),
        Ok(rest) => to.join(rest),
        Err(_) => path.to_owned(),
    }
}

/// Applies a change; with dice, only some of its sectors of 512 bytes.
fn carry_out(content: &mut Vec<u8>, change: &Change, dice: Option<&mut Dice>) {
    match change {
        Change::Truncate { length } => content.resize(*length as usize, 0),
        Change::Write { offset, bytes } => {
            let start = *offset as usize;
            if content.len() < start + bytes.len() {
                content.resize(start + bytes.len(), 0);
            }
            match dice {
                None => content[start..start + bytes.len()].copy_from_slice(bytes),
                Some(dice) => {
                    for (at, sector) in bytes.chunks(512).enumerate() {
                        if dice.below(2) == 0 {
                            let start = start + at * 512;
                            content[start..start + sector.len()].copy_from_slice(sector);
                        }
                    }
                }
            }
        }
    }
}
