//! Without a mail server: each mail is a file that a person can look into.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::form::Mail;
use super::letters::Kind;
use super::outbox::MailId;

/// Mails have tokens in them: nobody else may look.
const FOLDER: u32 = 0o700;
const FILE: u32 = 0o600;

/// The folder in which mails are put.
#[derive(Clone, Debug)]
pub(super) struct MailFolder(pub(super) PathBuf);

impl MailFolder {
    /// Writes `<position>-<kind>.eml`, or `<position>-<kind>-<recipient>.eml` where an event has mails to several people, and says where it
    /// is. The same mail is the same file however often this is done: it is there whole
    /// or not at all, also after a crash.
    pub(super) async fn put(&self, id: MailId, kind: Kind, mail: Mail) -> io::Result<PathBuf> {
        let MailId { position, recipient } = id;
        let recipient = recipient.map(|user| format!("-{user}")).unwrap_or_default();
        let path = self.0.join(format!("{position}-{}{recipient}.eml", kind.as_str()));
        let folder = self.0.clone();
        tokio::task::spawn_blocking(move || {
            make(&folder)?;
            write(&folder, &path, &mail.bytes)?;
            Ok(path)
        })
        .await
        .map_err(io::Error::other)?
    }
}

fn make(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(FOLDER).create(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::set_permissions(folder, Permissions::from_mode(FOLDER))
        }
        Err(error) => Err(error),
    }
}

fn write(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let part = path.with_extension("eml.part");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE).open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, path)?;
    // The name is on disk when the folder is.
    File::open(folder)?.sync_all()
}
