//! The two lock files of a data folder, see the module's text for what they mean.
//!
//! The locks belong to the open file, so two users in one process are as separate as two processes, and the system gives them up
//! for a process that dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::PrivateError;

#[derive(Debug)]
pub(super) struct Locks {
    private: File,
    private_path: PathBuf,
    users: File,
    users_path: PathBuf,
    supervising: bool,
}

/// What the supervising process writes into its lock file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    /// The server with this process id accepts connections and is looked after.
    Serving(u32),
    /// The server with this process id goes on although its supervisor left.
    HandedOver(u32),
    /// Nothing runs, as far as the supervisor knows.
    Nothing,
}

impl Locks {
    pub(super) fn open(data_dir: &Path) -> Result<Self, PrivateError> {
        let (private_path, users_path) = (data_dir.join("private.lock"), data_dir.join("users.lock"));
        Ok(Self {
            private: open(&private_path)?,
            users: open(&users_path)?,
            private_path,
            users_path,
            supervising: false,
        })
    }

    /// Counts us among the users, unless the last one is just stopping the server.
    pub(super) fn try_use(&self) -> Result<bool, PrivateError> {
        taken(self.users.try_lock_shared(), &self.users_path)
    }

    /// Tries to become the supervisor.
    pub(super) fn try_supervise(&mut self) -> Result<bool, PrivateError> {
        self.supervising = self.supervising || taken(self.private.try_lock(), &self.private_path)?;
        Ok(self.supervising)
    }

    pub(super) fn supervising(&self) -> bool {
        self.supervising
    }

    /// Stops being a user. True if there is no other, and none can come until [`Self::release`].
    pub(super) fn leave(&self) -> Result<bool, PrivateError> {
        self.users.unlock().map_err(|e| PrivateError::io("unlock", &self.users_path, e))?;
        taken(self.users.try_lock(), &self.users_path)
    }

    /// Gives up both locks, that of the users last: who then comes in finds the other one free.
    pub(super) fn release(&mut self) {
        for file in [&self.private, &self.users] {
            if let Err(error) = file.unlock() {
                tracing::warn!(%error, "could not release a lock of the private PostgreSQL");
            }
        }
        self.supervising = false;
    }

    /// The supervisor's note. One that is cut short or unknown counts as none.
    pub(super) fn note(&self) -> Result<Note, PrivateError> {
        self.read().map_err(|e| PrivateError::io("read", &self.private_path, e))
    }

    fn read(&self) -> io::Result<Note> {
        let mut text = String::new();
        let mut file = &self.private;
        file.rewind()?;
        file.take(64).read_to_string(&mut text)?;
        Ok(Note::parse(&text))
    }

    /// Replaces the note. Only the supervisor may.
    pub(super) fn write(&self, note: Note) -> Result<(), PrivateError> {
        self.replace(note).map_err(|e| PrivateError::io("write", &self.private_path, e))
    }

    fn replace(&self, note: Note) -> io::Result<()> {
        let mut file = &self.private;
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(note.to_string().as_bytes())
    }
}

fn open(path: &Path) -> Result<File, PrivateError> {
    let mut options = OpenOptions::new();
    options.create(true).read(true).write(true).truncate(false).mode(0o600);
    options.open(path).map_err(|e| PrivateError::io("open", path, e))
}

fn taken(outcome: Result<(), TryLockError>, path: &Path) -> Result<bool, PrivateError> {
    match outcome {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(PrivateError::io("lock", path, error)),
    }
}

impl Note {
    fn parse(text: &str) -> Self {
        // The line's end shows that it is whole.
        let Some((what, pid)) = text.strip_suffix('\n').and_then(|line| line.rsplit_once(' ')) else {
            return Self::Nothing;
        };
        match (what, pid.parse()) {
            ("serving", Ok(pid)) => Self::Serving(pid),
            ("handed over", Ok(pid)) => Self::HandedOver(pid),
            _ => Self::Nothing,
        }
    }
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Serving(pid) => writeln!(f, "serving {pid}"),
            Self::HandedOver(pid) => writeln!(f, "handed over {pid}"),
            Self::Nothing => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn notes_survive_the_file_and_half_a_note_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, reader) = (Locks::open(folder.path()).unwrap(), Locks::open(folder.path()).unwrap());
        for note in [Note::HandedOver(123_456), Note::Serving(7), Note::Nothing] {
            writer.write(note).unwrap();
            assert_eq!(reader.note().unwrap(), note);
        }
        assert_eq!(Note::parse("serving 12"), Note::Nothing);
        assert_eq!(Note::parse("serving x\n"), Note::Nothing);
    }

    #[test]
    fn only_the_last_user_has_it_alone_and_keeps_newcomers_out() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = Locks::open(folder.path()).unwrap();
        let mut second = Locks::open(folder.path()).unwrap();
        assert!(first.try_use().unwrap() && second.try_use().unwrap());
        assert!(first.try_supervise().unwrap() && !second.try_supervise().unwrap());
        assert!(!first.leave().unwrap());
        first.release();
        assert!(second.try_supervise().unwrap());
        assert!(second.leave().unwrap());
        assert!(!first.try_use().unwrap());
        second.release();
        assert!(first.try_use().unwrap() && first.try_supervise().unwrap());
    }
}
