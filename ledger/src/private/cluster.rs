//! A cluster on disk: where its parts are, whose it is, and what its pid file says.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::account::Account;
use super::{PrivateError, process};

/// The server listens on no network; the number is only part of the socket's name.
pub(super) const PORT: u16 = 5432;
/// Bytes that a socket's path may have everywhere (`sun_path` has 104 on macOS, 108 on Linux, with a final NUL).
const SOCKET_PATH_LIMIT: usize = 100;
/// Not `TMPDIR`: all processes of a cluster must agree, whatever their environment.
const SOCKETS_ELSEWHERE: &str = "/tmp";

#[derive(Debug, Clone)]
pub(super) struct Cluster {
    root: PathBuf,
    socket_dir: PathBuf,
    tag: String,
    major: u32,
    account: Account,
}

impl Cluster {
    pub(super) fn link(data_dir: &Path) -> PathBuf {
        data_dir.join("postgres")
    }

    /// The cluster of a data folder, if it has one.
    pub(super) fn find(data_dir: &Path) -> Result<Option<Self>, PrivateError> {
        let link = Self::link(data_dir);
        match fs::symlink_metadata(&link) {
            Ok(_) => Self::open(&link).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PrivateError::io("look at", &link, error)),
        }
    }

    fn open(link: &Path) -> Result<Self, PrivateError> {
        let root = fs::canonicalize(link).map_err(|error| match (error.kind(), fs::read_link(link)) {
            (ErrorKind::NotFound, Ok(target)) => PrivateError::ClusterGone { link: link.to_owned(), target },
            _ => PrivateError::io("find", link, error),
        })?;
        let metadata = fs::metadata(&root).map_err(|e| PrivateError::io("look at", &root, e))?;
        // The owner comes before the version, which only the owner (and root) can read.
        let account = Account::for_owner(&root, metadata.uid())?;
        let major = read_major(&root)?;
        // Unique on this machine: it is in the arguments and titles of the cluster's processes and so tells them from others.
        let tag = format!("daybook-{:x}-{:x}", metadata.dev(), metadata.ino());
        let socket_dir = socket_dir(&root, &tag, account.uid);
        Ok(Self { root, socket_dir, tag, major, account })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn data(&self) -> PathBuf {
        data(&self.root)
    }

    pub(super) fn major(&self) -> u32 {
        self.major
    }

    pub(super) fn account(&self) -> &Account {
        &self.account
    }

    /// The name by which the cluster's processes are known (`cluster_name`).
    pub(super) fn tag(&self) -> &str {
        &self.tag
    }

    pub(super) fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.socket_dir.join(format!(".s.PGSQL.{PORT}"))
    }

    /// Makes the socket's folder if it is missing, and refuses one that others could enter or have made.
    pub(super) fn prepare_socket_dir(&self) -> Result<(), PrivateError> {
        let folder = &self.socket_dir;
        match DirBuilder::new().mode(0o700).create(folder) {
            Ok(()) => self.account.own(folder)?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(PrivateError::io("make", folder, error)),
        }
        let closed =
            is_closed(folder, self.account.uid).map_err(|e| PrivateError::io("look at", folder, e))?;
        if closed { Ok(()) } else { Err(PrivateError::SocketFolder(folder.clone(), self.account.uid)) }
    }

    /// Removes what a server that was killed leaves beside its socket: the socket's own lock file names a process id that
    /// may be somebody else's by now. Only while no server of this cluster runs.
    pub(super) fn clear_socket_dir(&self) {
        for file in [self.socket(), self.socket_dir.join(format!(".s.PGSQL.{PORT}.lock"))] {
            // It is missing after a clean shutdown.
            let _ = fs::remove_file(file);
        }
    }

    /// Removes a socket folder outside the cluster, once the server is down.
    pub(super) fn remove_socket_dir(&self) {
        if !self.socket_dir.starts_with(&self.root) {
            // Nothing depends on it, and the system cleans its temporary folder.
            let _ = fs::remove_dir(&self.socket_dir);
        }
    }

    pub(super) fn pid_file(&self) -> PathBuf {
        self.data().join("postmaster.pid")
    }

    /// The process id in the pid file, if that process is alive and of this cluster.
    pub(super) fn running_pid(&self) -> Option<u32> {
        self.noted_pid().filter(|&pid| self.is_ours(pid))
    }

    /// The process id in the pid file, whoever has it now.
    pub(super) fn noted_pid(&self) -> Option<u32> {
        fs::read_to_string(self.pid_file()).ok()?.lines().next()?.trim().parse().ok()
    }

    /// Whether the process is a running postmaster of this cluster. A zombie does not run.
    pub(super) fn is_ours(&self, pid: u32) -> bool {
        process::command_line(pid).is_some_and(|line| self.starts(&line))
    }

    /// All running processes of this cluster, those included which outlived their postmaster.
    pub(super) fn processes(&self) -> Vec<u32> {
        let title = format!("postgres: {}: ", self.tag);
        process::matching(|line| line.starts_with(&title) || self.starts(line))
    }

    fn starts(&self, command_line: &str) -> bool {
        command_line.contains(&format!("cluster_name={}", self.tag))
    }
}

pub(super) fn data(root: &Path) -> PathBuf {
    root.join("data")
}

fn read_major(root: &Path) -> Result<u32, PrivateError> {
    let not = |reason: String| PrivateError::NotACluster { path: root.to_owned(), reason };
    let file = data(root).join("PG_VERSION");
    let text = fs::read_to_string(&file).map_err(|e| not(format!("{}: {e}", file.display())))?;
    text.trim().parse().map_err(|_| not(format!("{} says {:?}", file.display(), text.trim())))
}

/// In the cluster, unless the path were too long for a socket. Elsewhere others can make folders too, so a name that
/// is not ours is passed over for the next.
fn socket_dir(root: &Path, tag: &str, uid: u32) -> PathBuf {
    let within = root.join("run");
    if within.join(format!(".s.PGSQL.{PORT}")).as_os_str().as_bytes().len() <= SOCKET_PATH_LIMIT {
        return within;
    }
    let name = |n: u32| Path::new(SOCKETS_ELSEWHERE).join(format!("{tag}-{n}"));
    let usable =
        |folder: &PathBuf| is_closed(folder, uid).unwrap_or_else(|error| error.kind() == ErrorKind::NotFound);
    (0..10).map(name).find(usable).unwrap_or_else(|| name(0))
}

/// Whether this is a folder (no symlink) of that user which nobody else may enter.
fn is_closed(folder: &Path, uid: u32) -> io::Result<bool> {
    let metadata = fs::symlink_metadata(folder)?;
    Ok(metadata.is_dir() && metadata.uid() == uid && metadata.mode() & 0o077 == 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::private::account::me;

    #[test]
    fn a_long_path_moves_the_socket_elsewhere_and_foreign_folders_are_passed_over() {
        assert_eq!(socket_dir(Path::new("/a/b"), "t", me()), Path::new("/a/b/run"));
        let long = Path::new("/").join("x".repeat(100));
        let tag = format!("daybook-test-{}", std::process::id());
        let first = socket_dir(&long, &tag, me());
        assert_eq!(first, Path::new("/tmp").join(format!("{tag}-0")));
        DirBuilder::new().mode(0o755).create(&first).unwrap();
        let second = socket_dir(&long, &tag, me());
        fs::remove_dir(&first).unwrap();
        assert_eq!(second, Path::new("/tmp").join(format!("{tag}-1")));
    }

    #[test]
    fn a_folder_without_a_cluster_a_dangling_link_and_nothing_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Cluster::find(folder.path()).unwrap().is_none());
        let link = Cluster::link(folder.path());
        std::os::unix::fs::symlink("/nowhere/at/all", &link).unwrap();
        assert!(matches!(Cluster::find(folder.path()), Err(PrivateError::ClusterGone { .. })));
        fs::remove_file(&link).unwrap();
        fs::create_dir(&link).unwrap();
        let error = Cluster::find(folder.path()).unwrap_err();
        // Root owns the folder when root runs the tests, which is the other way of being wrong.
        assert!(
            matches!(error, PrivateError::NotACluster { .. } | PrivateError::OtherOwner { owner: 0, .. }),
            "{error}"
        );
    }
}
