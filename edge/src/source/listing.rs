//! Which files there are: directory trees in a fixed order, bounded, safe from symbolic-link loops; and what tells
//! whether a file has changed.

use std::fs::{self, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Files of one tree.
pub(super) const MAX_FILES: usize = 100_000;
/// Directories below each other.
const MAX_DEPTH: usize = 32;
/// Bytes of one file.
pub(super) const MAX_FILE: u64 = 64 << 20;

/// What a look at a path found.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// In the order in which their documents count.
    pub(super) files: Vec<PathBuf>,
    /// Every directory that was looked into, for the watcher.
    pub(super) directories: Vec<PathBuf>,
    /// Paths that could not be looked into; what was below them is unknown, not gone.
    pub(super) unreadable: Vec<(PathBuf, String)>,
}

/// Lists a file, or the manifests in a directory tree. `exclude` holds file names and relative path prefixes.
pub(super) fn list(root: &Path, exclude: &[String]) -> Listing {
    let mut listing = Listing::default();
    match fs::metadata(root) {
        Ok(metadata) if metadata.is_dir() => {
            let mut above = Vec::new();
            walk(root, root, exclude, &mut above, &mut listing);
        }
        Ok(_) => listing.files.push(root.to_owned()),
        Err(fault) => listing.unreadable.push((root.to_owned(), describe(&fault))),
    }
    listing
}

fn walk(root: &Path, directory: &Path, exclude: &[String], above: &mut Vec<(u64, u64)>, listing: &mut Listing) {
    let unreadable = |listing: &mut Listing, reason: String| listing.unreadable.push((directory.to_owned(), reason));
    let entries = fs::metadata(directory).and_then(|metadata| {
        let identity = (metadata.dev(), metadata.ino());
        let mut entries = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            // The directory says what most entries are; only links have to be looked at.
            let kind = entry.file_type().ok().filter(|kind| !kind.is_symlink());
            entries.push((entry.path(), kind));
        }
        Ok((identity, entries))
    });
    let (identity, mut entries) = match entries {
        Ok(found) => found,
        Err(fault) => return unreadable(listing, describe(&fault)),
    };
    if above.contains(&identity) {
        // A link to a directory that it is in: everything there is listed already.
        return;
    }
    if above.len() == MAX_DEPTH {
        return unreadable(listing, format!("is deeper than {MAX_DEPTH} directories"));
    }
    listing.directories.push(directory.to_owned());
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    above.push(identity);
    for (path, kind) in entries {
        // Editors' temporary files, and the `..data` directories of mounted ConfigMaps: their files are linked to by
        // their plain names.
        let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| !name.starts_with('.')) else {
            continue;
        };
        let relative = path.strip_prefix(root).unwrap_or(&path);
        if exclude.iter().any(|excluded| name == excluded || relative.starts_with(excluded)) {
            continue;
        }
        match kind.map_or_else(|| fs::metadata(&path).map(|metadata| metadata.file_type()), Ok) {
            Ok(kind) if kind.is_dir() => walk(root, &path, exclude, above, listing),
            Ok(kind) if kind.is_file() && is_manifest(&path) => {
                if listing.files.len() == MAX_FILES {
                    listing.unreadable.push((path, format!("there are more than {MAX_FILES} files")));
                    break;
                }
                listing.files.push(path);
            }
            Ok(_) => {}
            Err(fault) if is_manifest(&path) => listing.unreadable.push((path, describe(&fault))),
            Err(_) => {}
        }
    }
    above.pop();
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

/// An I/O fault without the number of the operating system.
pub(super) fn describe(fault: &io::Error) -> String {
    match fault.kind() {
        io::ErrorKind::NotFound => "is not there".to_owned(),
        io::ErrorKind::PermissionDenied => "may not be read".to_owned(),
        _ => format!("cannot be read: {fault}"),
    }
}

/// Tells one version of a file from another without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// It was changed so shortly before it was read that another change may have the same time.
    is_fresh: bool,
}

impl Stamp {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::from_metadata(&fs::metadata(path)?))
    }

    fn from_metadata(metadata: &Metadata) -> Self {
        let age = metadata.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            is_fresh: age.is_none_or(|age| age < Duration::from_secs(1)),
        }
    }

    /// Whether the file that had this stamp when it was read is certainly the same now.
    pub(super) fn still_holds(&self, now: &Self) -> bool {
        !self.is_fresh && Self { is_fresh: false, ..now.clone() } == *self
    }
}

/// Reads a whole file of at most [`MAX_FILE`] bytes.
pub(super) fn read(path: &Path) -> Result<(Vec<u8>, Stamp), String> {
    let file = fs::File::open(path).map_err(|fault| describe(&fault))?;
    let metadata = file.metadata().map_err(|fault| describe(&fault))?;
    if !metadata.is_file() {
        return Err("is no file".to_owned());
    }
    if metadata.len() > MAX_FILE {
        return Err(format!("has {} bytes, expected at most {MAX_FILE}", metadata.len()));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1);
    // It may grow while it is read.
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|fault| describe(&fault))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("has more than {MAX_FILE} bytes"));
    }
    Ok((bytes, Stamp::from_metadata(&metadata)))
}
