//! Jobs must not outlive a worker that is killed.
//!
//! A job runs in a process group of its own, so nothing ends it when its worker dies by `kill -9`. One small shell per worker
//! does: it learns the groups over its standard input (`+<group>` and `-<group>`), and when that ends, because the worker is gone for
//! whatever reason, it kills those that are left. It stands in its own process group and ignores SIGINT, SIGTERM, SIGHUP and SIGQUIT, so that a Ctrl-C
//! that ends the worker does not end it first.
//!
//! Processes that left their group it finds by their environment, with `grep` in `/proc`. What it cannot reach: one that has also changed its
//! environment, and a job whose worker was killed within the microseconds between starting it and telling the shell (which the next worker
//! with the same folder for jobs kills when it starts).

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process_group};

/// POSIX shell, no bashisms. Reads until the end of its input, then kills what is still listed: `<group>` or `<group>:<folder>`.
const SCRIPT: &str = r#"
trap '' INT TERM HUP QUIT
entries=' '
while IFS= read -r line; do
    entry=${line#?}
    case $line in
        +*) entries="$entries$entry " ;;
        -*) case $entries in
                *" $entry "*) entries="${entries%%" $entry "*} ${entries#*" $entry "}" ;;
            esac ;;
    esac
done
set --
for entry in $entries; do
    kill -s KILL -- "-${entry%%:*}" 2>/dev/null
    case $entry in
        *:*) set -- "$@" -e "/${entry#*:}/result.json" ;;
    esac
done
round=0
while [ $# -gt 0 ] && [ $round -lt 50 ]; do
    left=
    for file in $(grep -lF "$@" /proc/[0-9]*/environ 2>/dev/null); do
        left=${file#/proc/}
        kill -s KILL "${left%/environ}" 2>/dev/null
    done
    [ -n "$left" ] || break
    round=$((round + 1))
done
exit 0
"#;

/// What is to be killed: a process group, and what left it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    group: i32,
    /// The name of the attempt's folder, which its processes have in their environment.
    folder: String,
}

impl Entry {
    pub(super) fn new(group: Pid, folder: String) -> Self {
        Self { group: group.as_raw_pid(), folder }
    }
}

impl Display for Entry {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.group, self.folder)
    }
}

/// Kills the process groups given to it when this process ends, however it ends.
pub struct Watchdog(Mutex<State>);

struct State {
    shell: Shell,
    entries: BTreeSet<Entry>,
}

struct Shell {
    child: Child,
    input: ChildStdin,
}

impl Watchdog {
    /// Starts the shell.
    ///
    /// # Errors
    /// When `/bin/sh` cannot be started.
    pub fn start() -> io::Result<Self> {
        Ok(Self(Mutex::new(State { shell: Shell::start()?, entries: BTreeSet::new() })))
    }

    /// From now on these die with this process.
    pub(super) fn watch(&self, entry: Entry) {
        let mut state = self.state();
        state.tell('+', &entry);
        state.entries.insert(entry);
    }

    /// They are gone. To be called while the group's leader is not yet reaped: afterwards its number may belong to others.
    pub(super) fn release(&self, entry: &Entry) {
        let mut state = self.state();
        state.entries.remove(entry);
        state.tell('-', entry);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Tells the shell; one that does not listen any more is replaced by a new one that is told everything.
    fn tell(&mut self, sign: char, entry: &Entry) {
        let line = format!("{sign}{entry}\n");
        if self.shell.write(&line).is_ok() {
            return;
        }
        if let Err(error) = self.restart(&line) {
            tracing::error!(%error, "the watchdog is gone: jobs would outlive a worker that is killed");
        }
    }

    fn restart(&mut self, line: &str) -> io::Result<()> {
        self.shell.kill();
        self.shell = Shell::start()?;
        let entries: String = self.entries.iter().map(|entry| format!("+{entry}\n")).collect();
        self.shell.write(&(entries + line))
    }
}

impl Shell {
    fn start() -> io::Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "daybook-watchdog"]).env_clear().current_dir("/").process_group(0);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let input = child.stdin.take().ok_or_else(|| io::Error::other("the watchdog has no input"))?;
        // A shell that hangs must not hang the worker: a full pipe is an error, and the shell is replaced.
        rustix::fs::fcntl_setfl(&input, OFlags::NONBLOCK)?;
        Ok(Self { child, input })
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.input.write_all(text.as_bytes())
    }

    /// Ends the shell before its input ends, so that it kills nothing.
    fn kill(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = ended {
            tracing::warn!(%error, "the watchdog could not be ended");
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        for group in self.entries.iter().filter_map(|entry| Pid::from_raw(entry.group)) {
            // A group that is gone already is what we want.
            let _gone = kill_process_group(group, Signal::KILL);
        }
        self.shell.kill();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::io::Read as _;
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    /// A process that is a group of its own and does not outlive the test.
    struct Sleeper(Child);

    impl Sleeper {
        fn new() -> Self {
            Self(
                Command::new("sleep")
                    .arg("600")
                    .process_group(0)
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap(),
            )
        }

        fn entry(&self) -> Entry {
            Entry::new(Pid::from_raw(self.0.id().cast_signed()).unwrap(), "attempt-none".to_owned())
        }

        fn was_killed(&mut self) -> bool {
            self.0.wait().unwrap().signal() == Some(9)
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn the_shell_kills_what_is_still_listed_when_its_input_ends() {
        let (mut ended, mut left) = (Sleeper::new(), Sleeper::new());
        let mut child = Command::new("/bin/sh")
            .args(["-c", &SCRIPT.replacen("while", "echo ready\nwhile", 1)])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        output.read_exact(&mut [0; 6]).unwrap();
        let (ended_id, left_id) = (ended.0.id(), left.0.id());
        for line in [format!("+{ended_id}\n"), format!("+{left_id}\n-{ended_id}\n-1234567\n")] {
            input.write_all(line.as_bytes()).unwrap();
        }
        for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
            kill_process_group(Pid::from_raw(child.id().cast_signed()).unwrap(), signal).unwrap();
        }
        drop(input);
        assert!(child.wait().unwrap().success());
        assert!(left.was_killed());
        assert!(ended.0.try_wait().unwrap().is_none(), "not listed any more, so not killed");
    }

    #[test]
    fn a_lost_shell_is_replaced_and_told_everything() {
        let watchdog = Watchdog::start().unwrap();
        let (mut first, mut second) = (Sleeper::new(), Sleeper::new());
        watchdog.watch(first.entry());
        let lost = watchdog.state().shell.child.id();
        watchdog.state().shell.kill();
        watchdog.watch(second.entry());
        assert_ne!(watchdog.state().shell.child.id(), lost);
        // The new shell's input ends without the old one's help.
        let Shell { child: mut shell, input } =
            std::mem::replace(&mut watchdog.state().shell, Shell::start().unwrap());
        drop(input);
        assert!(shell.wait().unwrap().success());
        assert!(first.was_killed() && second.was_killed());
        watchdog.release(&first.entry());
        watchdog.release(&second.entry());
    }

    #[test]
    fn dropping_it_kills_what_is_listed() {
        let watchdog = Watchdog::start().unwrap();
        let mut sleeper = Sleeper::new();
        watchdog.watch(sleeper.entry());
        drop(watchdog);
        assert!(sleeper.was_killed());
    }
}
