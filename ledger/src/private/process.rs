//! Looking at and signalling processes by id.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// Whether a process (perhaps a zombie, perhaps another user's) has this id.
pub(super) fn exists(pid: u32) -> bool {
    known(pid).is_some_and(|pid| matches!(test_kill_process(pid), Ok(()) | Err(rustix::io::Errno::PERM)))
}

pub(super) fn signal(pid: u32, signal: Signal) {
    if let Some(known) = known(pid)
        && let Err(error) = kill_process(known, signal)
        && error != rustix::io::Errno::SRCH
    {
        tracing::warn!(pid, %error, "could not signal a process of the private PostgreSQL");
    }
}

fn known(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().filter(|&pid| pid > 1).and_then(Pid::from_raw)
}

/// The command line of a process, its arguments separated by spaces. Empty for a zombie and for a process that was started a
/// moment ago, none if there is no such process.
///
/// Linux shows it to everybody, unlike the working directory, which root may not see in a container without `CAP_SYS_PTRACE`.
pub(super) fn command_line(pid: u32) -> Option<String> {
    if has_proc() {
        return read_command_line(pid);
    }
    list_by_ps(&["-p", &pid.to_string()]).pop().map(|(_, command)| command)
}

/// All processes with such a command line.
pub(super) fn matching(wanted: impl Fn(&str) -> bool) -> Vec<u32> {
    let all = if has_proc() { list_proc() } else { list_by_ps(&["-ax"]) };
    all.into_iter().filter(|(_, command)| wanted(command)).map(|(pid, _)| pid).collect()
}

fn has_proc() -> bool {
    Path::new("/proc/self/cmdline").exists()
}

fn read_command_line(pid: u32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    Some(text.trim_end_matches('\0').replace('\0', " "))
}

fn list_proc() -> Vec<(u32, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, read_command_line(pid)?))).collect()
}

/// Where there is no `/proc` (macOS), `ps` tells. Zombies show as `(name)`.
fn list_by_ps(which: &[&str]) -> Vec<(u32, String)> {
    let output = Command::new("ps").args(which).args(["-ww", "-o", "pid=,command="]).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    let row = |line: &str| {
        let (pid, command) = line.trim_start().split_once(' ')?;
        Some((pid.parse().ok()?, command.trim_start().to_owned()))
    };
    text.lines().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Read as _;
    use std::process::Stdio;

    #[test]
    fn a_process_is_found_while_it_lives_and_not_once_it_is_reaped() {
        const SCRIPT: &str = "echo; read -r _ # marked";
        let mut shell = Command::new("/bin/sh");
        let mut child =
            shell.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // Its word shows that it runs: right after the start a process has no command line yet.
        child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        let pid = child.id();
        let line = format!("/bin/sh -c {SCRIPT}");
        assert!(exists(pid));
        assert_eq!(command_line(pid).unwrap(), line);
        assert!(matching(|found| found == line).contains(&pid));
        signal(pid, Signal::KILL);
        child.wait().unwrap();
        assert!(!exists(pid));
        assert!(!matching(|found| found == line).contains(&pid));
    }

    #[test]
    fn nothing_is_ever_sent_to_process_groups_or_to_init() {
        assert!(known(0).is_none() && known(1).is_none() && known(u32::MAX).is_none());
    }
}
