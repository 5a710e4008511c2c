//! The folder of one attempt: fresh, for its owner only, removed afterwards.
//!
//! ```text
//! <root>/attempt-<random>/        0700, locked (flock) as long as the attempt runs
//!     home/                       the job's HOME, empty at first
//!     artifacts/                  DAYBOOK_ARTIFACTS, empty at first: files the job wants kept
//!     result.json                 DAYBOOK_RESULT, written by the job if it likes
//! ```

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;

use super::descendants::Mark;

const PREFIX: &str = "attempt-";

/// Random characters after it: no two attempts ever have the same name, wherever their folders are.
const RANDOM: usize = 16;

/// A folder this young may belong to an attempt that has not locked it yet.
const YOUNG: Duration = Duration::from_secs(60);

/// Removing is tried so often: processes that were just killed may still be making files.
const TRIES: usize = 3;

const HOME: &str = "home";
const ARTIFACTS: &str = "artifacts";
pub(super) const RESULT: &str = "result.json";

pub(super) struct Folder {
    path: PathBuf,
    /// Held until the folder is gone; tells [`sweep`] to leave it alone.
    _lock: File,
}

impl Folder {
    /// Makes a folder below `root`, which is made too if it is missing. Blocks.
    pub(super) fn create(root: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(root)?;
        let root = root.canonicalize()?;
        let made = tempfile::Builder::new()
            .prefix(PREFIX)
            .rand_bytes(RANDOM)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(root)?;
        let lock = lock(made.path())?;
        for folder in [HOME, ARTIFACTS] {
            DirBuilder::new().mode(0o700).create(made.path().join(folder))?;
        }
        Ok(Self { path: made.keep(), _lock: lock })
    }

    pub(super) fn home(&self) -> PathBuf {
        self.path.join(HOME)
    }

    pub(super) fn artifacts(&self) -> PathBuf {
        self.path.join(ARTIFACTS)
    }

    pub(super) fn result(&self) -> PathBuf {
        self.path.join(RESULT)
    }

    /// Its own name: letters, digits and `-`.
    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// What all processes of the attempt have in their environment.
    pub(super) fn mark(&self) -> Mark {
        mark(&self.path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(folder = %self.path.display(), %error, "a job's folder could not be removed");
        }
    }
}

fn mark(folder: &Path) -> Mark {
    Mark::new("DAYBOOK_RESULT", &folder.join(RESULT))
}

/// Removes the folders of attempts whose worker was killed, this one's or another's with the same root, and kills what is left of their
/// processes. Blocks. Returns how many.
///
/// # Errors
/// When `root` cannot be read; a missing one is empty.
pub fn sweep(root: &Path) -> io::Result<usize> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let abandoned = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
    Ok(abandoned.filter(|entry| sweep_one(&entry.path(), YOUNG).unwrap_or(false)).count())
}

fn sweep_one(path: &Path, young: Duration) -> io::Result<bool> {
    let age = fs::symlink_metadata(path)?.modified()?.elapsed().unwrap_or_default();
    if age < young {
        return Ok(false);
    }
    let _lock = lock(path)?;
    mark(&path.canonicalize()?).kill_all();
    remove(path)?;
    Ok(true)
}

fn lock(path: &Path) -> io::Result<File> {
    let folder = File::open(path)?;
    rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive)?;
    Ok(folder)
}

fn remove(path: &Path) -> io::Result<()> {
    let mut last = Ok(());
    for _ in 0..TRIES {
        last = fs::remove_dir_all(path);
        match &last {
            Ok(()) => break,
            // Some tools leave folders their owner may not write (Go's module cache).
            Err(error) if error.kind() == ErrorKind::PermissionDenied => open_up(path),
            Err(_) => {}
        }
    }
    last
}

/// Makes all folders below `path` writable for us, as far as that goes. Follows no links.
fn open_up(path: &Path) {
    if fs::set_permissions(path, Permissions::from_mode(0o700)).is_err() {
        return;
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn it_is_private_empty_and_goes_away() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::create(&root.path().join("deeper/jobs")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder.path), mode(&folder.home())), (0o700, 0o700));
        assert_eq!(fs::read_dir(folder.home()).unwrap().count(), 0);
        fs::create_dir(folder.home().join("sealed")).unwrap();
        fs::write(folder.home().join("sealed/file"), "x").unwrap();
        fs::set_permissions(folder.home().join("sealed"), Permissions::from_mode(0o500)).unwrap();
        let path = folder.path.clone();
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn only_abandoned_folders_are_swept() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(sweep(&root.path().join("missing")).unwrap(), 0);
        let running = Folder::create(root.path()).unwrap();
        let abandoned = root.path().join("attempt-abandoned");
        fs::create_dir_all(abandoned.join("home")).unwrap();
        assert_eq!(sweep(root.path()).unwrap(), 0, "young ones are left");
        assert!(sweep_one(&running.path, Duration::ZERO).is_err(), "running ones are locked");
        assert!(running.home().exists());
        assert!(sweep_one(&abandoned, Duration::ZERO).unwrap());
        assert!(!abandoned.exists());
    }
}
