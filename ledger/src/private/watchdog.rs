//! Stops the server when the process that supervises it is killed.

use std::path::Path;
use std::process::{Child, Stdio};

use super::PrivateError;
use super::account::Account;

/// Waits until its input ends, which the system sees to when we die in whatever way, then asks the server to shut down.
///
/// The server may be so young that its pid file is not written yet, so the script looks a few times. It signals nothing but the
/// process that this cluster's pid file names.
const SCRIPT: &str = r#"
read -r _
for _ in 1 2 3 4 5; do
    read -r pid < "$2/postmaster.pid" && [ "$pid" = "$1" ] && kill -INT "$1" && exit
    kill -0 "$1" || exit
    sleep 1
done
"#;

/// A running watchdog. Dropping it without [`Watchdog::dismiss`] stops the server.
#[derive(Debug)]
pub(super) struct Watchdog(Child);

impl Watchdog {
    pub(super) fn start(account: &Account, postmaster: u32, data: &Path) -> Result<Self, PrivateError> {
        let shell = Path::new("/bin/sh");
        let mut command = account.command(shell);
        command.args(["-c", SCRIPT, "sh", &postmaster.to_string()]).arg(data).stdin(Stdio::piped());
        command.spawn().map(Self).map_err(|e| PrivateError::io("run", shell, e))
    }

    /// Whether it still watches; somebody may have killed it.
    pub(super) fn watches(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    /// Ends it without harm to the server: it is killed before its input ends.
    pub(super) fn dismiss(mut self) {
        let killed = self.0.kill().and_then(|()| self.0.wait());
        if let Err(error) = killed {
            tracing::warn!(%error, "could not end the watchdog of the private PostgreSQL");
        }
    }
}
