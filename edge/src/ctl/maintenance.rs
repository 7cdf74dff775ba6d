//! `edgectl maintenance`: from arguments and a page to what is asked of edged.

use std::path::{Path, PathBuf};

use super::args::{Closing, Maintenance};
use crate::control::maintenance::{Ask, LONGEST_PAGE, Notice, Page};

#[derive(Debug, thiserror::Error)]
pub enum MaintenanceError {
    #[error("{}: cannot be read", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    #[error("{}: has {length} bytes, expected {LONGEST_PAGE} at most", path.display())]
    Long { path: PathBuf, length: u64 },
    #[error("{}: is no text in UTF-8", .0.display())]
    Text(PathBuf),
}

/// `None`: only what is in force is asked for.
pub fn ask(command: &Maintenance) -> Result<Option<Ask>, MaintenanceError> {
    match command {
        Maintenance::List => Ok(None),
        Maintenance::Off { host } => Ok(Some(Ask { host: host.clone(), notice: None })),
        Maintenance::On(Closing { host, length, page, retry_after, allow }) => {
            let notice = Notice {
                page: page.as_deref().map(read).transpose()?,
                retry_after: *retry_after,
                allow: allow.clone(),
                seconds: length.map(|length| length.as_secs()),
            };
            Ok(Some(Ask { host: host.clone(), notice: Some(notice) }))
        }
    }
}

fn read(path: &Path) -> Result<Page, MaintenanceError> {
    let of_file = |error| MaintenanceError::Read(path.to_owned(), error);
    let length = std::fs::metadata(path).map_err(of_file)?.len();
    if length > LONGEST_PAGE as u64 {
        return Err(MaintenanceError::Long { path: path.to_owned(), length });
    }
    let bytes = std::fs::read(path).map_err(of_file)?;
    let text = String::from_utf8(bytes).map_err(|_| MaintenanceError::Text(path.to_owned()))?;
    let content_type = match path.extension().and_then(|end| end.to_str()) {
        Some("html" | "htm") => "text/html; charset=utf-8",
        Some("json") => "application/json",
        Some("xml") => "application/xml",
        _ => "text/plain; charset=utf-8",
    };
    Ok(Page { content_type: content_type.to_owned(), text })
}
