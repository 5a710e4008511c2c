//! Starting the process of an attempt.
//!
//! One without limits is started at once. One with limits begins as a shell that waits for a line and then becomes the program: until
//! it gets the line, its limits are set, so the program has them from its first instruction and all it starts inherits them. If Daybook
//! dies meanwhile, the shell reads the end of its input and ends.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Stdio;

use rustix::process::Pid;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use super::folder::Folder;
use super::limits::Limits;
use super::process::Attempt;
use super::program;

/// `PATH` of a worker that has none.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// POSIX shell. The program and its arguments are its arguments, never part of the script.
const GATE: &str = r#"IFS= read -r go && exec "$@" </dev/null"#;

/// A process that leads a group of its own.
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) leader: Pid,
}

impl Started {
    /// Sets the limits and lets the program begin. The error is a sentence for whoever asked for the job.
    pub(super) async fn begin(&mut self, limits: &Limits) -> Result<(), String> {
        let Some(mut gate) = self.child.stdin.take() else { return Ok(()) };
        limits.apply(self.leader)?;
        gate.write_all(b"\n").await.map_err(|error| format!("the job could not begin: {error}"))
    }
}

/// Starts the process. The error is a sentence for whoever asked for the job.
pub(super) fn launch(attempt: &Attempt, folder: &Folder) -> Result<Started, String> {
    let path =
        std::env::var("PATH").ok().filter(|path| !path.is_empty()).unwrap_or_else(|| DEFAULT_PATH.to_owned());
    let home = folder.home();
    let directory = attempt.directory.as_ref().unwrap_or(&home);
    if !directory.is_dir() {
        return Err(format!("the folder {} does not exist", directory.display()));
    }
    let (name, arguments) = attempt.argv.split_first().ok_or("the command is empty")?;
    let program = program::find(name, directory, &path)?;
    let mut command = command(name, &program, &attempt.limits);
    command.args(arguments).current_dir(directory);
    command.env_clear().envs(attempt.plain_env.iter().map(|(name, value)| (name, value)));
    command.envs(attempt.env.iter().map(|(name, value)| (name, OsStr::from_bytes(value.expose()))));
    // Last, so that no kind can change them.
    command.env("PATH", &path).env("HOME", &home);
    command.env("DAYBOOK_RESULT", folder.result()).env("DAYBOOK_ARTIFACTS", folder.artifacts());
    command
        .env("DAYBOOK_JOB_ID", attempt.job_id.to_string())
        .env("DAYBOOK_ATTEMPT", attempt.attempt.to_string());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    let child = command.spawn().map_err(|error| could_not_start(name, &error))?;
    let leader = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).ok_or("the process has no id")?;
    Ok(Started { child, leader })
}

fn command(name: &str, program: &Path, limits: &Limits) -> Command {
    if limits.is_empty() {
        let mut command = Command::new(program);
        command.arg0(name).stdin(Stdio::null());
        return command;
    }
    let mut command = Command::new("/bin/sh");
    command.args(["-c", GATE, name]).arg(program).stdin(Stdio::piped());
    command
}

fn could_not_start(name: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            format!("the command `{name}` could not be started: its interpreter does not exist")
        }
        io::ErrorKind::ArgumentListTooLong => {
            format!("the command `{name}` could not be started: its arguments and variables are too long")
        }
        _ => format!("the command `{name}` could not be started: {error}"),
    }
}
