//! What a job leaves in `DAYBOOK_ARTIFACTS`, and handing it on before the folder is removed.

use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that was stored: its name as in [`Artifact`], its size in bytes, and the SHA-256 of its content in hexadecimal.
pub use domain::Artifact as KeptArtifact;
use futures::future::BoxFuture;

use super::mask::Patterns;

/// Files an attempt may leave.
pub const MOST_ARTIFACTS: usize = 100;

/// Entries of the folder that are looked at.
const MOST_ENTRIES: usize = 10_000;

/// Folders one in the other.
const DEEPEST: usize = 16;

/// Bytes of a name, with those of the folders before it.
const LONGEST_NAME: usize = 512;

/// Files left out that are named in the log, each with a reason.
const MOST_REMARKS: usize = 5;

/// A file a job left, as long as its folder is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Its path below the folder, with `/` between its parts: valid UTF-8 of at most 512 bytes, no part of it `.` or `..`, no control
    /// characters.
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// Where it is. A regular file and no link when it was found, and none of the job's processes runs any more.
    pub path: PathBuf,
}

/// Stores what jobs leave.
pub trait KeepArtifacts: Send + Sync {
    /// Stores the files, which are removed afterwards, and says which it has. What it could not store it leaves out.
    fn keep<'a>(&'a self, found: Vec<Artifact>) -> BoxFuture<'a, Vec<KeptArtifact>>;
}

/// Stores nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoArtifacts;

impl KeepArtifacts for NoArtifacts {
    fn keep<'a>(&'a self, _found: Vec<Artifact>) -> BoxFuture<'a, Vec<KeptArtifact>> {
        Box::pin(std::future::ready(vec![]))
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By name.
    pub(super) artifacts: Vec<Artifact>,
    /// What was left out and why: sentences for the job's log.
    pub(super) remarks: Vec<String>,
}

/// Looks for the files below `folder`, of at most `max_bytes` together (with 0 none is taken). Follows no link. Blocks.
pub(super) fn find(folder: &Path, max_bytes: u64, patterns: &Arc<Patterns>) -> Found {
    let mut walk = Walk { patterns, max_bytes, bytes: 0, entries: 0, found: Found::default(), left_out: 0 };
    match fs::symlink_metadata(folder) {
        Ok(metadata) if metadata.is_dir() => walk.folder(folder, "", 0),
        Ok(_) => walk.leave_out("the artifacts' folder", "it is no folder any more"),
        // The job has removed it.
        Err(_) => {}
    }
    if let more @ 1.. = walk.left_out.saturating_sub(MOST_REMARKS) {
        walk.found.remarks.push(format!("{more} more artifacts were left out"));
    }
    walk.found
}

struct Walk<'a> {
    patterns: &'a Arc<Patterns>,
    max_bytes: u64,
    bytes: u64,
    entries: usize,
    found: Found,
    left_out: usize,
}

impl Walk<'_> {
    fn folder(&mut self, path: &Path, prefix: &str, depth: usize) {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries.flatten().take(MOST_ENTRIES.saturating_sub(self.entries) + 1),
            Err(error) => return self.leave_out(prefix, &format!("it cannot be read: {error}")),
        };
        let mut entries: Vec<DirEntry> = entries.collect();
        entries.sort_by_key(DirEntry::file_name);
        for entry in entries {
            self.entries += 1;
            if self.entries > MOST_ENTRIES {
                if self.entries == MOST_ENTRIES + 1 {
                    self.leave_out("what follows", &format!("there are more than {MOST_ENTRIES} files"));
                }
                return;
            }
            self.entry(&entry, prefix, depth);
        }
    }

    fn entry(&mut self, entry: &DirEntry, prefix: &str, depth: usize) {
        let name = match entry.file_name().into_string() {
            Ok(name) => format!("{prefix}{name}"),
            Err(name) => {
                let shown = format!("{prefix}{}", name.to_string_lossy());
                return self.leave_out(&shown, "its name is not valid UTF-8");
            }
        };
        if let Some(reason) = self.bad_name(&name) {
            return self.leave_out(&name, reason);
        }
        // Of the entry itself, not of what a link leads to.
        match entry.metadata() {
            Ok(metadata) if metadata.is_file() => self.file(entry.path(), name, metadata.len()),
            Ok(metadata) if metadata.is_dir() && depth + 1 < DEEPEST => {
                self.folder(&entry.path(), &format!("{name}/"), depth + 1);
            }
            Ok(metadata) if metadata.is_dir() => self.leave_out(&name, "its folder is too deep"),
            Ok(_) => self.leave_out(&name, "it is not a regular file"),
            Err(error) => self.leave_out(&name, &format!("it cannot be read: {error}")),
        }
    }

    fn bad_name(&self, name: &str) -> Option<&'static str> {
        match () {
            () if name.len() > LONGEST_NAME => Some("its name is too long"),
            () if name.chars().any(char::is_control) => Some("its name holds control characters"),
            () if self.patterns.mask(name.as_bytes()) != name.as_bytes() => Some("its name shows a secret"),
            () => None,
        }
    }

    fn file(&mut self, path: PathBuf, name: String, size: u64) {
        let total = self.bytes.saturating_add(size);
        match () {
            () if self.max_bytes == 0 => self.leave_out(&name, "artifacts are not kept here"),
            () if self.found.artifacts.len() >= MOST_ARTIFACTS => {
                self.leave_out(&name, &format!("more than {MOST_ARTIFACTS} files"));
            }
            () if total > self.max_bytes => {
                self.leave_out(&name, &format!("more than {} bytes in all", self.max_bytes));
            }
            () => {
                self.bytes = total;
                self.found.artifacts.push(Artifact { name, size, path });
            }
        }
    }

    fn leave_out(&mut self, name: &str, reason: &str) {
        self.left_out += 1;
        if self.left_out <= MOST_REMARKS {
            let masked = self.patterns.mask(name.as_bytes());
            let shown: String = String::from_utf8_lossy(&masked).chars().take(LONGEST_NAME).collect();
            self.found.remarks.push(format!("artifact left out: {shown:?}: {reason}"));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;

    use super::*;

    fn find_in(folder: &Path, max_bytes: u64) -> (Vec<(String, u64)>, Vec<String>) {
        let patterns = Arc::new(Patterns::new([&b"hunter2"[..]]).unwrap());
        let found = find(folder, max_bytes, &patterns);
        for artifact in &found.artifacts {
            assert_eq!(artifact.path, folder.join(&artifact.name));
            assert_eq!(fs::metadata(&artifact.path).unwrap().len(), artifact.size);
        }
        let artifacts = found.artifacts.into_iter().map(|artifact| (artifact.name, artifact.size)).collect();
        (artifacts, found.remarks)
    }

    #[test]
    fn regular_files_are_found_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("artifacts");
        assert_eq!(find_in(&folder, 100), (vec![], vec![]), "the job has removed it");
        fs::create_dir_all(folder.join("sub/empty")).unwrap();
        fs::write(folder.join("report.csv"), "a,b").unwrap();
        fs::write(folder.join("sub/b ä.txt"), "").unwrap();
        assert_eq!(
            find_in(&folder, 100),
            (vec![("report.csv".to_owned(), 3), ("sub/b ä.txt".to_owned(), 0)], vec![])
        );
        symlink("/etc/passwd", folder.join("link")).unwrap();
        symlink("/etc", folder.join("folder")).unwrap();
        fs::write(folder.join("line\nend"), "").unwrap();
        fs::write(folder.join("of-hunter2"), "").unwrap();
        fs::write(folder.join(OsStr::from_bytes(b"\xff")), "").unwrap();
        let (artifacts, remarks) = find_in(&folder, 100);
        assert_eq!(artifacts.len(), 2);
        assert_eq!(
            remarks,
            [
                "artifact left out: \"folder\": it is not a regular file",
                "artifact left out: \"line\\nend\": its name holds control characters",
                "artifact left out: \"link\": it is not a regular file",
                "artifact left out: \"of-***\": its name shows a secret",
                "artifact left out: \"\u{FFFD}\": its name is not valid UTF-8",
            ]
        );
        fs::remove_dir_all(&folder).unwrap();
        symlink("/etc", &folder).unwrap();
        assert_eq!(
            find_in(&folder, 100).1,
            ["artifact left out: \"the artifacts' folder\": it is no folder any more"]
        );
    }

    #[test]
    fn files_bytes_and_depth_are_limited() {
        let root = tempfile::tempdir().unwrap();
        for index in 0..110 {
            fs::write(root.path().join(format!("{index:03}")), "x").unwrap();
        }
        let (artifacts, remarks) = find_in(root.path(), 1000);
        assert_eq!((artifacts.len(), remarks.len()), (MOST_ARTIFACTS, MOST_REMARKS + 1));
        assert_eq!(remarks[0], "artifact left out: \"100\": more than 100 files");
        assert_eq!(remarks[MOST_REMARKS], "5 more artifacts were left out");
        fs::write(root.path().join("001"), "a larger one").unwrap();
        let (artifacts, remarks) = find_in(root.path(), 2);
        assert_eq!(artifacts, [("000".to_owned(), 1), ("002".to_owned(), 1)], "smaller ones still fit");
        assert_eq!(remarks[0], "artifact left out: \"001\": more than 2 bytes in all");
        assert_eq!(find_in(root.path(), 0).0, []);
        let deep = tempfile::tempdir().unwrap();
        let path = deep.path().join(["d"; 20].join("/"));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("file"), "x").unwrap();
        let (artifacts, remarks) = find_in(deep.path(), 100);
        assert_eq!((artifacts.len(), remarks.len()), (0, 1));
        assert!(remarks[0].ends_with("its folder is too deep"));
    }
}
