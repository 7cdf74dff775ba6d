//! `edgectl migrate`: reads files of other products, shows what they are for Edge, or writes it into a directory. What is
//! made of the texts is decided in `edge_config::migrate`; this file only moves bytes. It overwrites nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use edge_config::migrate::{Migration, NoteKind, Product, Source, migrate};
use serde::Serialize;

use super::args::Format;
use super::run::{RunError, Terminal, write};
use super::show::{View, plural, render};
use super::style::Style;
use super::table::one_line;

/// No configuration that somebody wrote is larger.
const MAX_FILE: u64 = 32 << 20;
const ENDINGS: [&str; 4] = ["yaml", "yml", "json", "conf"];

/// Why nothing could be migrated.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("{}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("{}: has more than {MAX_FILE} bytes", .0.display())]
    Large(PathBuf),
    #[error("{}: is not UTF-8", .0.display())]
    Encoding(PathBuf),
    #[error("{}: holds no file that ends in .yaml, .yml, .json or .conf", .0.display())]
    Empty(PathBuf),
    #[error("{}: is there already; nothing was written", .0.display())]
    Exists(PathBuf),
}

/// What is shown.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    migration: Migration,
    /// Where the files were written, if they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    directory: Option<PathBuf>,
}

impl View for Shown {
    fn human(&self, style: Style, _all: bool) -> String {
        let mut out = String::new();
        for (index, file) in self.migration.files.iter().enumerate() {
            match &self.directory {
                Some(directory) => out.push_str(&format!("wrote {}\n", directory.join(&file.path).display())),
                None => {
                    let gap = if index > 0 { "\n" } else { "" };
                    out.push_str(&format!("{gap}{}\n", style.heading(&format!("# ----- {} -----", file.path))));
                    // Nothing in it steers a terminal: both writers escape what could.
                    out.push_str(&file.text);
                }
            }
        }
        out
    }
}

/// Exit codes: 0 all is in the output, 1 something has no equivalent, 2 something could not be read.
pub fn run(
    product: Product,
    paths: &[PathBuf],
    into: Option<&Path>,
    format: Format,
    terminal: &mut Terminal<'_>,
) -> Result<u8, RunError> {
    let mut sources = Vec::new();
    for path in paths {
        read(path, &mut sources)?;
    }
    let migration = migrate(product, &sources);
    if let Some(directory) = into {
        store(directory, &migration)?;
    }
    let counts = [NoteKind::Fault, NoteKind::NoEquivalent, NoteKind::Differs, NoteKind::ToDo]
        .map(|kind| migration.notes.iter().filter(|note| note.kind == kind).count());
    let shown = Shown { migration, directory: into.map(Path::to_owned) };
    write(terminal, render(&shown, format, terminal.style, true).as_bytes())?;
    if format == Format::Human {
        let mut text = String::new();
        for note in &shown.migration.notes {
            text.push_str(&format!("{}\n", one_line(&note.to_string())));
        }
        text.push_str(&summary(&shown.migration, counts, terminal.style));
        terminal.error.write_all(text.as_bytes()).map_err(RunError::Output)?;
    }
    Ok(match counts {
        [0, 0, _, _] => 0,
        [0, ..] => 1,
        _ => 2,
    })
}

fn summary(migration: &Migration, [faults, lost, differs, todo]: [usize; 4], style: Style) -> String {
    let parts = [
        plural(migration.files.len(), "file", "files"),
        plural(faults, "fault", "faults"),
        format!("{lost} without equivalent"),
        format!("{differs} behave otherwise"),
        format!("{todo} to do"),
    ];
    let text = parts.join(", ");
    let text = if faults > 0 {
        style.bad(&text)
    } else if lost > 0 {
        style.warn(&text)
    } else {
        text
    };
    format!("{text}\n")
}

/// A file, `-`, or all files below a directory, in the order of their names.
fn read(path: &Path, sources: &mut Vec<Source>) -> Result<(), MigrateError> {
    let unreadable = |error| MigrateError::Read(path.to_owned(), error);
    if path == Path::new("-") {
        return take(io::stdin().lock(), Path::new("stdin"), sources);
    }
    if !fs::metadata(path).map_err(unreadable)?.is_dir() {
        return take(File::open(path).map_err(unreadable)?, path, sources);
    }
    let before = sources.len();
    let mut directories = vec![path.to_owned()];
    while let Some(directory) = directories.pop() {
        let failed = |error| MigrateError::Read(directory.clone(), error);
        let listed: Result<Vec<_>, _> = fs::read_dir(&directory).map_err(failed)?.collect();
        let mut entries = listed.map_err(failed)?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        let mut inner = Vec::new();
        for entry in entries {
            let kind = entry.file_type().map_err(failed)?;
            let path = entry.path();
            // Links are not followed: they can lead back.
            if kind.is_dir() {
                inner.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|ending| ENDINGS.iter().any(|e| ending == *e)) {
                take(File::open(&path).map_err(|error| MigrateError::Read(path.clone(), error))?, &path, sources)?;
            }
        }
        directories.extend(inner.into_iter().rev());
    }
    if sources.len() == before { Err(MigrateError::Empty(path.to_owned())) } else { Ok(()) }
}

fn take(from: impl Read, path: &Path, sources: &mut Vec<Source>) -> Result<(), MigrateError> {
    let mut bytes = Vec::new();
    from.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| MigrateError::Read(path.to_owned(), error))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(MigrateError::Large(path.to_owned()));
    }
    let text = String::from_utf8(bytes).map_err(|_| MigrateError::Encoding(path.to_owned()))?;
    sources.push(Source { file: path.display().to_string().into(), text });
    Ok(())
}

/// All files or, where one of them is there already, none.
fn store(directory: &Path, migration: &Migration) -> Result<(), RunError> {
    let paths: Vec<PathBuf> = migration.files.iter().map(|file| directory.join(&file.path)).collect();
    if let Some(known) = paths.iter().find(|path| fs::symlink_metadata(path).is_ok()) {
        return Err(MigrateError::Exists(known.clone()).into());
    }
    for (path, file) in paths.iter().zip(&migration.files) {
        let failed = |error| RunError::Write(path.clone(), error);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let mut out = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
        out.write_all(file.text.as_bytes()).map_err(failed)?;
    }
    Ok(())
}
