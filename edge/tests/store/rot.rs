//! Files that were cut, flipped, zeroed or replaced: the store opens, serves what the other copy has, and says so.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use edge::store::Store;

use super::{Dice, child};

const LAST: u64 = 20;

fn filled() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let opened = Store::open(directory.path());
    assert_eq!(opened.notices, Vec::<String>::new());
    for version in 0..=LAST {
        child::write(&opened.store, version).unwrap();
    }
    directory
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Opens, expects everything, and expects the second open to have nothing to say.
fn heals(directory: &Path, what: &str) -> Vec<String> {
    let opened = Store::open(directory);
    child::check(&opened.store, LAST, LAST).unwrap_or_else(|error| panic!("{what}: {error}; {:?}", opened.notices));
    let notices = opened.notices.clone();
    drop(opened);
    let again = Store::open(directory);
    assert_eq!(again.notices, Vec::<String>::new(), "{what}: not healed");
    child::check(&again.store, LAST, LAST).unwrap_or_else(|error| panic!("{what}, again: {error}"));
    notices
}

#[test]
fn every_file_may_rot() {
    let original = filled();
    let mut dice = Dice::new(3);
    type Spoil = fn(&mut Vec<u8>, &mut Dice);
    let rots: [(&str, Spoil); 6] = [
        ("emptied", |bytes, _| bytes.clear()),
        ("cut", |bytes, dice| bytes.truncate(dice.below(bytes.len() as u64) as usize)),
        ("flipped", |bytes, dice| {
            for _ in 0..8 {
                let at = dice.below(bytes.len() as u64) as usize;
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << dice.below(8);
                }
            }
        }),
        ("zeroed", |bytes, _| bytes.fill(0)),
        ("garbage", |bytes, dice| bytes.iter_mut().for_each(|byte| *byte = dice.below(256) as u8)),
        ("longer", |bytes, dice| bytes.extend((0..3000).map(|_| dice.below(256) as u8))),
    ];
    let paths: Vec<PathBuf> =
        files(original.path()).into_iter().map(|path| path.strip_prefix(original.path()).unwrap().to_owned()).collect();
    assert!(paths.len() > 8, "{paths:?}");
    for path in &paths {
        for (rot, damage) in rots {
            let directory = tempfile::tempdir().unwrap();
            copy(original.path(), directory.path());
            let victim = directory.path().join(path);
            let mut bytes = fs::read(&victim).unwrap();
            damage(&mut bytes, &mut dice);
            fs::write(&victim, bytes).unwrap();
            heals(directory.path(), &format!("{} {rot}", path.display()));
        }
        let directory = tempfile::tempdir().unwrap();
        copy(original.path(), directory.path());
        fs::remove_file(directory.path().join(path)).unwrap();
        heals(directory.path(), &format!("{} removed", path.display()));
    }
}

#[test]
fn either_half_suffices_and_a_third_kind_of_file_harms_nothing() {
    for gone in ["state", "copies"] {
        let directory = filled();
        fs::remove_dir_all(directory.path().join(gone)).unwrap();
        let notices = heals(directory.path(), &format!("without {gone}"));
        assert!(!notices.is_empty());
    }
    let directory = filled();
    fs::remove_dir_all(directory.path().join("state")).unwrap();
    fs::write(directory.path().join("state"), "a file in place of a directory").unwrap();
    let notices = heals(directory.path(), "state is a file");
    assert!(notices.iter().any(|notice| notice.contains("state.broken-1")), "{notices:?}");

    let directory = filled();
    let folder = directory.path().join("copies/certificates");
    fs::create_dir(folder.join("directory.rec")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.join("link.rec")).unwrap();
    fs::write(folder.join("left.tmp"), "half").unwrap();
    let notices = heals(directory.path(), "strange entries");
    assert!(notices.iter().filter(|notice| notice.contains("set aside")).count() == 2, "{notices:?}");
    assert!(!folder.join("left.tmp").exists());
}

#[test]
fn a_database_that_somebody_has_open_is_left_alone() {
    let directory = filled();
    let file = fs::File::open(directory.path().join("state/db")).unwrap();
    file.lock().unwrap();
    let opened = Store::open(directory.path());
    assert!(opened.notices.iter().any(|notice| notice.contains("another process has it open")), "{:?}", opened.notices);
    child::check(&opened.store, LAST, LAST).unwrap();
    assert!(!directory.path().join("state.broken-1").exists());
    drop(opened);
    file.unlock().unwrap();
    heals(directory.path(), "released");

    // A lock that lasts no longer than a child needs to become another program is waited for.
    let file = fs::File::open(directory.path().join("state/db")).unwrap();
    file.lock().unwrap();
    let brief = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        drop(file);
    });
    assert_eq!(heals(directory.path(), "held for a moment"), Vec::<String>::new());
    brief.join().unwrap();
}

#[test]
fn broken_databases_are_kept_but_not_without_end() {
    let directory = filled();
    for round in 1..=8 {
        let state = directory.path().join("state");
        fs::remove_dir_all(&state).unwrap();
        fs::write(&state, "no directory").unwrap();
        let notices = heals(directory.path(), "no directory");
        assert!(notices.iter().any(|notice| notice.contains(&format!("state.broken-{round}"))), "{notices:?}");
    }
    let kept = (1..=8).filter(|round| directory.path().join(format!("state.broken-{round}")).exists()).count();
    assert_eq!(kept, 5);
}

#[test]
fn open_permissions_are_closed() {
    let directory = filled();
    for folder in ["state", "copies", "copies/certificates"] {
        fs::set_permissions(directory.path().join(folder), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let notices = heals(directory.path(), "permissions");
    assert_eq!(notices.iter().filter(|notice| notice.contains("was open to other users")).count(), 3, "{notices:?}");
    for path in files(&directory.path().join("copies")) {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
    for folder in ["state", "copies", "copies/certificates", "copies/session-secret"] {
        assert_eq!(
            fs::metadata(directory.path().join(folder)).unwrap().permissions().mode() & 0o777,
            0o700,
            "{folder}"
        );
    }
}

#[test]
fn without_a_directory_it_works_in_memory_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    for impossible in [file.join("below"), PathBuf::from("/proc/edge-test"), file] {
        let opened = Store::open(&impossible);
        assert!(!opened.store.is_durable());
        assert!(opened.notices[0].contains("in memory only"), "{:?}", opened.notices);
        let error = child::write(&opened.store, 0).unwrap_err().to_string();
        assert!(error.contains("is not on disk"), "{error}");
        child::check(&opened.store, 0, 0).unwrap();
    }
    let held = filled();
    let first = Store::open(held.path());
    let second = Store::open(held.path());
    assert!(first.store.is_durable() && !second.store.is_durable());
    assert!(second.notices[0].contains("in use by another edged"), "{:?}", second.notices);
    // The second one must not have touched the directory.
    drop((first, second));
    heals(held.path(), "after a second daemon");
}
