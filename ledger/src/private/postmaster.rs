//! The server's first process: start, adopt, watch and stop it.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::cluster::{Cluster, PORT};
use super::programs::Programs;
use super::watchdog::Watchdog;
use super::{NAME, PrivateError, log, process};

const POLL: Duration = Duration::from_millis(10);
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// Fast shutdown, immediate shutdown, and the last resort, each with the time it gets.
const HALT: [(Signal, Duration); 3] = [
    (Signal::INT, Duration::from_secs(30)),
    (Signal::QUIT, Duration::from_secs(10)),
    (Signal::KILL, Duration::from_secs(5)),
];

/// Backends end by themselves when their postmaster is gone, unless they are busy.
const SETTLE: [(Option<Signal>, Duration); 3] = [
    (None, Duration::from_secs(2)),
    (Some(Signal::QUIT), Duration::from_secs(5)),
    (Some(Signal::KILL), Duration::from_secs(5)),
];

/// Settings that hold whatever `postgresql.conf` says. The log gets no statements and no values of rows: they may be private.
const SETTINGS: [&str; 28] = [
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "max_connections=200",
    "shared_buffers=128MB",
    "timezone=UTC",
    "log_timezone=UTC",
    "log_destination=stderr",
    "logging_collector=off",
    "log_min_messages=warning",
    "log_min_error_statement=panic",
    "log_error_verbosity=terse",
    "log_checkpoints=off",
    "log_statement=none",
    "log_duration=off",
    "log_min_duration_statement=-1",
    "log_min_duration_sample=-1",
    "log_transaction_sample_rate=0",
    "log_parameter_max_length=0",
    "log_parameter_max_length_on_error=0",
    "log_statement_stats=off",
    "debug_print_parse=off",
    "debug_print_rewritten=off",
    "debug_print_plan=off",
    "log_lock_waits=off",
    "update_process_title=on",
];

/// The running server, supervised by us.
#[derive(Debug)]
pub(super) struct Postmaster {
    pid: u32,
    /// None if another process started it.
    child: Option<Child>,
    watchdog: Watchdog,
}

impl Postmaster {
    /// Starts the server, after whatever is left of an earlier one is out of the way. It does not accept connections yet.
    pub(super) fn start(
        cluster: &Cluster,
        programs: &Programs,
        data_dir: &Path,
    ) -> Result<Self, PrivateError> {
        settle(cluster);
        free_pid_file(cluster)?;
        cluster.prepare_socket_dir()?;
        cluster.clear_socket_dir();
        log::bound(data_dir);
        let program = programs.bin.join("postgres");
        let output = log::open(data_dir)?;
        let mut command = server_command(cluster, &program);
        let mut child = command.stderr(output).spawn().map_err(|e| PrivateError::io("run", &program, e))?;
        let pid = child.id();
        match Watchdog::start(cluster.account(), pid, &cluster.data()) {
            Ok(watchdog) => Ok(Self { pid, child: Some(child), watchdog }),
            Err(error) => {
                halt(pid, || !matches!(child.try_wait(), Ok(None)));
                Err(error)
            }
        }
    }

    /// Takes on a running server which its supervisor handed over.
    pub(super) fn adopt(cluster: &Cluster, pid: u32) -> Result<Self, PrivateError> {
        Ok(Self { pid, child: None, watchdog: Watchdog::start(cluster.account(), pid, &cluster.data())? })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self, cluster: &Cluster) -> Option<String> {
        match self.child.as_mut().map(Child::try_wait) {
            Some(Ok(Some(status))) => Some(status.to_string()),
            Some(Ok(None)) => None,
            Some(Err(error)) => Some(error.to_string()),
            None if cluster.is_ours(self.pid) => None,
            None => Some("it is gone".to_owned()),
        }
    }

    /// Replaces a watchdog that somebody killed.
    pub(super) fn keep_watched(&mut self, cluster: &Cluster) -> Result<(), PrivateError> {
        if !self.watchdog.watches() {
            self.watchdog = Watchdog::start(cluster.account(), self.pid, &cluster.data())?;
        }
        Ok(())
    }

    /// Stops the server. The watchdog goes last: should we be killed meanwhile, it still does its work.
    pub(super) fn stop(mut self, cluster: &Cluster) {
        halt(self.pid, || self.ended(cluster).is_some());
        self.watchdog.dismiss();
    }

    /// Lets the server go on without us.
    pub(super) fn hand_over(self) {
        self.watchdog.dismiss();
        if let Some(mut child) = self.child {
            // PostgreSQL takes a zombie for a running server, so somebody must wait for it as long as we live.
            let reaper = std::thread::Builder::new().name("private-postgres-reaper".to_owned());
            if let Err(error) = reaper.spawn(move || child.wait()) {
                tracing::warn!(%error, "nothing waits for the private PostgreSQL that was handed over");
            }
        }
    }
}

fn server_command(cluster: &Cluster, program: &Path) -> Command {
    let mut command = cluster.account().command(program);
    command.arg("-D").arg(cluster.data());
    for setting in SETTINGS {
        command.args(["-c", setting]);
    }
    command.args(["-c", &format!("port={PORT}"), "-c", &format!("cluster_name={}", cluster.tag()), "-c"]);
    command.arg(socket_setting(cluster.socket_dir()));
    command
}

/// The setting is a list, so the one folder is quoted.
fn socket_setting(folder: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let mut setting = b"unix_socket_directories=\"".to_vec();
    for &byte in folder.as_os_str().as_bytes() {
        if byte == b'"' {
            setting.push(b'"');
        }
        setting.push(byte);
    }
    setting.push(b'"');
    OsString::from_vec(setting)
}

/// Stops the server of this cluster which another process left behind, if there is one.
pub(super) fn halt_left_behind(cluster: &Cluster) {
    if let Some(pid) = cluster.running_pid() {
        halt(pid, || !cluster.is_ours(pid));
    }
}

/// Stops a server within a bounded time.
fn halt(pid: u32, mut gone: impl FnMut() -> bool) {
    for (signal, limit) in HALT {
        // Not before looking: a process id that is free again may be anybody's.
        if gone() {
            return;
        }
        process::signal(pid, signal);
        if wait_until(limit, &mut gone) {
            return;
        }
        tracing::warn!(pid, ?signal, seconds = limit.as_secs(), "the private PostgreSQL did not stop");
    }
}

/// Waits for the processes of a server that was killed to go, and helps those that do not. If even that fails, PostgreSQL
/// itself refuses to start beside them.
fn settle(cluster: &Cluster) {
    for (signal, limit) in SETTLE {
        let left = cluster.processes();
        if left.is_empty() {
            return;
        }
        for pid in left {
            signal.into_iter().for_each(|signal| process::signal(pid, signal));
        }
        if wait_until(limit, || cluster.processes().is_empty()) {
            return;
        }
    }
}

fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !done() {
        if Instant::now() > deadline {
            return false;
        }
        sleep(POLL);
    }
    true
}

/// Makes a stale pid file harmless whose number now belongs to some other process (or to a zombie), since PostgreSQL would
/// refuse to start. The number is replaced by that of the server's future parent, us, which PostgreSQL knows to disregard; the rest of
/// the file stays, for with it PostgreSQL makes sure that no process of the old server is attached to its shared memory.
fn free_pid_file(cluster: &Cluster) -> Result<(), PrivateError> {
    let foreign = |&pid: &u32| process::exists(pid) && !cluster.is_ours(pid);
    let Some(pid) = cluster.noted_pid().filter(foreign) else { return Ok(()) };
    let path = cluster.pid_file();
    let text = fs::read_to_string(&path).map_err(|e| PrivateError::io("read", &path, e))?;
    let rest = text.split_once('\n').map_or("", |(_, rest)| rest);
    tracing::info!(pid, "the private PostgreSQL's pid file is stale, its number belongs to another process");
    fs::write(&path, format!("{}\n{rest}", std::process::id()))
        .map_err(|e| PrivateError::io("write", &path, e))
}

/// Whether the server accepts connections, found out by opening one.
pub(super) fn accepts(cluster: &Cluster) -> bool {
    probe(&cluster.socket()).unwrap_or(false)
}

/// Sends a start-up message (protocol 3.0) and looks at the answer: an authentication request means yes, and so does any refusal but
/// 57P03 (`cannot_connect_now`), since too many clients, for one, is a serving server's answer.
fn probe(socket: &Path) -> io::Result<bool> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PROBE_LIMIT))?;
    stream.set_write_timeout(Some(PROBE_LIMIT))?;
    stream.write_all(&startup_message())?;
    let mut answer = [0; 512];
    let length = stream.read(&mut answer)?;
    let refusal = answer[..length].windows(7).any(|bytes| bytes == b"C57P03\0");
    Ok(length > 0 && !refusal)
}

fn startup_message() -> Vec<u8> {
    let body = format!("user\0{NAME}\0database\0postgres\0\0");
    // Shorter than 100 bytes.
    let length = u32::try_from(8 + body.len()).unwrap_or_default();
    [&length.to_be_bytes()[..], &196_608_u32.to_be_bytes(), body.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_folder_is_quoted_as_one_item_of_a_list() {
        assert_eq!(socket_setting(Path::new("/a, b/\"c")), r#"unix_socket_directories="/a, b/""c""#);
    }
}
