//! The server's log file: append, keep it bounded, show its end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::PrivateError;

/// Size in bytes from which on the log is moved to `postgres.log.1`.
const LIMIT: u64 = 8 * 1024 * 1024;
const TAIL_BYTES: u64 = 4096;
const TAIL_LINES: usize = 12;

pub(super) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("postgres.log")
}

/// Opens the log for a child to append to. The child inherits the open file, so its user needs no right to the folder.
pub(super) fn open(data_dir: &Path) -> Result<File, PrivateError> {
    let path = path(data_dir);
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(|e| PrivateError::io("open", &path, e))
}

/// Moves a log that grew too large aside, by copy and truncate because the server has the file open.
pub(super) fn bound(data_dir: &Path) {
    let path = path(data_dir);
    if fs::metadata(&path).is_ok_and(|m| m.len() > LIMIT)
        && let Err(error) = rotate(&path)
    {
        tracing::warn!(%error, log = %path.display(), "could not rotate the private PostgreSQL's log");
    }
}

fn rotate(path: &Path) -> io::Result<()> {
    fs::copy(path, path.with_extension("log.1"))?;
    OpenOptions::new().write(true).open(path)?.set_len(0)
}

/// The last lines, for an error message.
pub(super) fn tail(path: &Path) -> String {
    match read_end(path) {
        Ok(text) => {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
        }
        Err(error) => format!("(not readable: {error})"),
    }
}

fn read_end(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_large_log_is_moved_aside_and_the_open_file_goes_on_from_its_start() {
        use std::io::Write as _;
        let folder = tempfile::tempdir().unwrap();
        let mut file = open(folder.path()).unwrap();
        file.set_len(LIMIT + 1).unwrap();
        bound(folder.path());
        file.write_all(b"first\nlast\n").unwrap();
        assert_eq!(fs::read_to_string(path(folder.path())).unwrap(), "first\nlast\n");
        assert_eq!(fs::metadata(folder.path().join("postgres.log.1")).unwrap().len(), LIMIT + 1);
    }

    #[test]
    fn the_tail_is_the_last_lines_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path());
        fs::write(&path, (0..5000).map(|n| format!("line {n}\n")).collect::<String>()).unwrap();
        let tail = tail(&path);
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.ends_with("line 4999"), "{tail}");
    }
}
