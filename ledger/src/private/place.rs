//! Making a new cluster: where it can lie, and so that it is there whole or not at all.

use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::account::{Account, me};
use super::cluster::{Cluster, data};
use super::programs::Programs;
use super::{NAME, PrivateError, log};

/// Where root keeps clusters that cannot lie in the data folder.
const SYSTEM: &str = "/var/lib/daybook";
const TEMPORARY: &str = "/var/tmp";
const UNFINISHED: &str = "postgres.new-";
const INITDB_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(5);

/// Makes the data folder if it is missing.
pub(super) fn make_data_dir(data_dir: &Path) -> Result<(), PrivateError> {
    // The server's user must pass through root's folder, and its files are closed one by one.
    let mode = if me() == 0 { 0o711 } else { 0o700 };
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(data_dir)
        .map_err(|e| PrivateError::io("make", data_dir, e))
}

/// Makes the cluster of a data folder that has none.
///
/// Everything happens under the name `postgres.new-<random>` (a folder, or a symlink to one elsewhere), and the renaming is
/// the last step: if we crash before it there is no cluster, and the next start removes the remains.
pub(super) fn create(data_dir: &Path, programs: &Programs) -> Result<(), PrivateError> {
    remove_unfinished(data_dir);
    let account = Account::for_new_cluster()?;
    let unfinished = data_dir.join(format!("{UNFINISHED}{}", Uuid::now_v7().simple()));
    let outcome = make_root(data_dir, &unfinished, &account)
        .and_then(|root| fill(data_dir, &root, &account, programs))
        .and_then(|()| publish(data_dir, &unfinished));
    if outcome.is_err() {
        remove(&unfinished);
    }
    outcome
}

fn publish(data_dir: &Path, unfinished: &Path) -> Result<(), PrivateError> {
    fs::rename(unfinished, Cluster::link(data_dir)).map_err(|e| PrivateError::io("rename", unfinished, e))?;
    File::open(data_dir)
        .and_then(|folder| folder.sync_all())
        .map_err(|e| PrivateError::io("sync", data_dir, e))
}

/// An empty folder which the server's user may enter: in the data folder if that can be, else elsewhere.
fn make_root(data_dir: &Path, unfinished: &Path, account: &Account) -> Result<PathBuf, PrivateError> {
    let mut tried = Vec::new();
    match make_folder(unfinished, account) {
        Ok(()) => return fs::canonicalize(unfinished).map_err(|e| PrivateError::io("find", unfinished, e)),
        // Without root's rights there is no other user in play, so elsewhere would be no better.
        Err(error) if me() != 0 => return Err(error),
        Err(error) => tried.push(format!("{} ({error})", data_dir.display())),
    }
    for folder in elsewhere() {
        match make_linked(unfinished, &folder, account) {
            Ok(()) => return Ok(folder),
            Err(error) => tried.push(format!("{} ({error})", folder.display())),
        }
    }
    Err(PrivateError::NoPlace { user: account.name().to_owned(), tried: tried.join("; ") })
}

fn elsewhere() -> [PathBuf; 2] {
    let random = Uuid::now_v7().simple();
    [Path::new(SYSTEM).join(random.to_string()), Path::new(TEMPORARY).join(format!("{NAME}-{random}"))]
}

/// The link comes first: if we crash in between, the next start finds the folder through it.
fn make_linked(unfinished: &Path, folder: &Path, account: &Account) -> Result<(), PrivateError> {
    if let Some(parent) = folder.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(parent)
            .map_err(|e| PrivateError::io("make", parent, e))?;
    }
    symlink(folder, unfinished).map_err(|e| PrivateError::io("make", unfinished, e))?;
    make_folder(folder, account).inspect_err(|_| remove(unfinished))
}

fn make_folder(folder: &Path, account: &Account) -> Result<(), PrivateError> {
    DirBuilder::new().mode(0o700).create(folder).map_err(|e| PrivateError::io("make", folder, e))?;
    let entered = account.own(folder).and_then(|()| {
        let refused =
            || PrivateError::io("enter, as the server's user,", folder, ErrorKind::PermissionDenied.into());
        if account.can_enter(folder) { Ok(()) } else { Err(refused()) }
    });
    if entered.is_err() {
        remove(folder);
    }
    entered
}

fn fill(data_dir: &Path, root: &Path, account: &Account, programs: &Programs) -> Result<(), PrivateError> {
    let run = root.join("run");
    DirBuilder::new().mode(0o700).create(&run).map_err(|e| PrivateError::io("make", &run, e))?;
    account.own(&run)?;
    initdb(data_dir, &data(root), account, programs)
}

fn initdb(data_dir: &Path, data: &Path, account: &Account, programs: &Programs) -> Result<(), PrivateError> {
    let program = programs.bin.join("initdb");
    let output = log::open(data_dir)?;
    let errors = output.try_clone().map_err(|e| PrivateError::io("open", &log::path(data_dir), e))?;
    let mut command = account.command(&program);
    command.args(["-U", NAME, "-A", "trust", "--encoding=UTF8", "--locale=C", "--no-instructions", "-D"]);
    let mut child = command
        .arg(data)
        .stdout(output)
        .stderr(errors)
        .spawn()
        .map_err(|e| PrivateError::io("run", &program, e))?;
    let deadline = Instant::now() + INITDB_LIMIT;
    loop {
        match child.try_wait().map_err(|e| PrivateError::io("wait for", &program, e))? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(PrivateError::failed(&program, status, data_dir)),
            None if Instant::now() > deadline => {
                let _ = child.kill().and_then(|()| child.wait());
                return Err(PrivateError::failed(
                    &program,
                    format!("not done after {} s", INITDB_LIMIT.as_secs()),
                    data_dir,
                ));
            }
            None => sleep(POLL),
        }
    }
}

/// Removes what a start that was killed left behind.
fn remove_unfinished(data_dir: &Path) {
    let entries = fs::read_dir(data_dir).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(UNFINISHED)) {
        remove(&entry.path());
    }
}

/// Removes an unfinished cluster; if it is a link, the folder it points to as well, provided that it is one we make.
fn remove(path: &Path) {
    let removed = match fs::read_link(path) {
        Ok(target) => {
            if target.starts_with(SYSTEM)
                || target.to_string_lossy().starts_with(&format!("{TEMPORARY}/{NAME}-"))
            {
                let _ = fs::remove_dir_all(&target);
            }
            fs::remove_file(path)
        }
        Err(_) => fs::remove_dir_all(path),
    };
    if let Err(error) = removed
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "could not remove an unfinished cluster");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn remains_are_removed_with_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let keep = folder.path().join("keep");
        fs::create_dir_all(keep.join("inner")).unwrap();
        fs::create_dir_all(folder.path().join(format!("{UNFINISHED}a/data"))).unwrap();
        symlink(&keep, folder.path().join(format!("{UNFINISHED}b"))).unwrap();
        remove_unfinished(folder.path());
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["keep"]);
        assert!(keep.join("inner").is_dir());
    }

    #[test]
    fn a_failing_initdb_leaves_nothing_and_its_words_are_in_the_error() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder =
            tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap();
        let program = folder.path().join("initdb");
        fs::write(&program, "#!/bin/sh\necho no space for this >&2\nexit 3\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let data_dir = folder.path().join("data");
        make_data_dir(&data_dir).unwrap();
        let error = create(&data_dir, &Programs { bin: folder.path().to_owned(), major: 15 })
            .unwrap_err()
            .to_string();
        assert!(error.contains("initdb") && error.contains("no space for this"), "{error}");
        let left: Vec<_> = fs::read_dir(&data_dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["postgres.log"]);
    }
}
