//! Which user runs the server.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::PrivateError;

/// Whom root makes the server's user, in this order.
const CANDIDATES: [&str; 2] = ["postgres", "nobody"];

/// The user that runs the server's programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
    name: String,
    /// Whether we are root and must become this user.
    switch: bool,
}

impl Account {
    /// The user for a new cluster: ourselves, or as root one of the unprivileged users of this machine.
    pub(super) fn for_new_cluster() -> Result<Self, PrivateError> {
        let me = me();
        if me != 0 {
            return Ok(Self::ourselves());
        }
        let passwd = passwd();
        CANDIDATES
            .iter()
            .find_map(|name| find(&passwd, |entry| entry.name == *name))
            .ok_or_else(|| PrivateError::NoAccount(format!("neither of the users {}", CANDIDATES.join(", "))))
    }

    /// The user of an existing cluster is its owner, whom only root can become.
    pub(super) fn for_owner(cluster: &Path, owner: u32) -> Result<Self, PrivateError> {
        let me = me();
        if me == owner && me != 0 {
            return Ok(Self::ourselves());
        }
        if me != 0 || owner == 0 {
            return Err(PrivateError::OtherOwner { path: cluster.to_owned(), owner, me });
        }
        find(&passwd(), |entry| entry.uid == owner).ok_or_else(|| {
            PrivateError::NoAccount(format!("no entry for the cluster's owner, user id {owner},"))
        })
    }

    /// Whoever we are: users from a directory service have no line in `/etc/passwd`, and need none.
    fn ourselves() -> Self {
        let uid = me();
        Self { uid, gid: rustix::process::getegid().as_raw(), name: format!("id {uid}"), switch: false }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs as this user, with nothing of our environment, input or terminal, in a folder that anyone may enter.
    /// Its process group is its own: Ctrl-C on the terminal is meant for us.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C").env("PATH", "/usr/bin:/bin").current_dir("/").process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if self.switch {
            // Setting a user also drops root's supplementary groups.
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Gives a file or folder to this user.
    pub(super) fn own(&self, path: &Path) -> Result<(), PrivateError> {
        if !self.switch {
            return Ok(());
        }
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
            .map_err(|e| PrivateError::io("change the owner of", path, e))
    }

    /// Whether this user may enter the folder, found out by doing it: rules beyond the mode bits count too.
    pub(super) fn can_enter(&self, folder: &Path) -> bool {
        let script = r#"cd "$1""#;
        let mut shell = self.command(Path::new("/bin/sh"));
        shell.args(["-c", script, "sh"]).arg(folder).status().is_ok_and(|status| status.success())
    }
}

pub(super) fn me() -> u32 {
    rustix::process::geteuid().as_raw()
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

fn passwd() -> String {
    fs::read_to_string("/etc/passwd").unwrap_or_default()
}

fn find(passwd: &str, wanted: impl Fn(&Entry<'_>) -> bool) -> Option<Account> {
    let entry = passwd.lines().filter_map(parse).find(|entry| entry.uid != 0 && wanted(entry))?;
    Some(Account { uid: entry.uid, gid: entry.gid, name: entry.name.to_owned(), switch: true })
}

/// One line of passwd(5): `name:password:uid:gid:...`.
fn parse(line: &str) -> Option<Entry<'_>> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    Some(Entry { name, uid: fields.nth(1)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn users_are_found_by_name_and_id_but_never_root() {
        let text = "root:x:0:0::/root:/bin/sh\n# a comment\nnobody:*:-2:-2::/:/bin/false\npostgres:x:101:104:P:/var:/bin/sh\ntoor:x:0:0::/:/bin/sh\n";
        let found = find(text, |entry| entry.name == "postgres").unwrap();
        assert_eq!((found.uid, found.gid, found.name()), (101, 104, "postgres"));
        assert_eq!(find(text, |entry| entry.uid == 101).unwrap(), found);
        assert!(find(text, |entry| entry.name == "toor").is_none());
        assert!(find(text, |entry| entry.name == "nobody").is_none());
    }
}
