//! The processes of an attempt: its group, and those that left it.
//!
//! A process leaves its group by `setsid` or `setpgid`, and loses its parent when that ends. It is still known by one of these, which
//! it would have to lose all at once to escape:
//!
//! - its environment at its `exec`, which names the attempt's folder ([`Mark`]);
//! - its parent, group or session, if one of these belongs to the attempt, now or when an earlier signal was sent;
//! - the attempt's output, if it holds it open.
//!
//! They are looked for in `/proc`, among the processes that began after the attempt. Where there is none (macOS), only the group is known.
//! A process of another user, such as one started with `sudo`, can be signalled by root only.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, kill_process, kill_process_group};

/// Rounds of killing without a pause that [`Mark::kill_all`] and an attempt that is abandoned make.
pub(super) const ROUNDS: usize = 20;

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(1);

/// What only the environment of an attempt's processes holds.
#[derive(Debug, Clone)]
pub(super) struct Mark(Vec<u8>);

impl Mark {
    /// `variable` begins with this.
    pub(super) fn new(variable: &str, value: &Path) -> Self {
        use std::os::unix::ffi::OsStrExt as _;
        Self([variable.as_bytes(), b"=", value.as_os_str().as_bytes()].concat())
    }

    fn is_on(&self, process: Pid) -> bool {
        let environment = fs::read(path_of(process, "environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == self.0)
    }

    /// Kills every process that has it, but this one. Blocks, for a moment if any is found.
    pub(super) fn kill_all(&self) {
        for _ in 0..ROUNDS {
            let mut found = living();
            found.retain(|process| self.is_on(process.id));
            if found.is_empty() {
                return;
            }
            found.iter().for_each(|process| process.signal(Signal::KILL));
            std::thread::sleep(PAUSE);
        }
    }
}

/// The processes of one attempt but its leader, which is not to be reaped before this is gone.
#[derive(Debug)]
pub(super) struct Descendants {
    leader: Pid,
    mark: Mark,
    /// The inodes of the pipes its output goes into.
    pipes: Vec<u64>,
    /// Those that were found before: a signal may have ended what they were known by.
    known: Mutex<Vec<Process>>,
}

impl Descendants {
    pub(super) fn new(leader: Pid, mark: Mark, pipes: Vec<u64>) -> Self {
        Self { leader, mark, pipes, known: Mutex::default() }
    }

    /// Sends a signal to the leader's group and to each of them that left it, and says how many these are and how many live in all. Blocks,
    /// for some microseconds for each process of the machine.
    pub(super) fn signal(&self, signal: Signal) -> Counted {
        // First: a process may be known by its parent only, which the signal ends.
        let members = self.living();
        // The only errors say that there is nobody left to hear it.
        let _nobody_left = kill_process_group(self.leader, signal);
        let outside = members.iter().filter(|process| process.group != Some(self.leader));
        let left_group = outside.map(|process| process.signal(signal)).count();
        Counted { left_group, all: members.len() }
    }

    fn living(&self) -> Vec<Process> {
        let Some(leader) = Process::read(self.leader) else { return vec![] };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut others = living();
        others.retain(|process| process.began >= leader.began && process.id != self.leader);
        let (mut members, mut others): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|process| known.contains(process) || self.is_member(process));
        // Whoever belongs to one of them is one of them.
        loop {
            let ids: Vec<Pid> = members.iter().map(|member| member.id).chain([self.leader]).collect();
            let belongs = |id: Option<Pid>| id.is_some_and(|id| ids.contains(&id));
            let (found, rest): (Vec<_>, Vec<_>) = others.into_iter().partition(|process| {
                belongs(process.parent) || belongs(process.group) || belongs(process.session)
            });
            if found.is_empty() {
                known.clone_from(&members);
                return members;
            }
            members.extend(found);
            others = rest;
        }
    }

    fn is_member(&self, process: &Process) -> bool {
        // A child of ours holds for an instant all that we have open, until its `exec`.
        let is_ours = process.parent == Some(getpid());
        process.group == Some(self.leader)
            || self.mark.is_on(process.id)
            || (!is_ours && self.pipes.iter().any(|pipe| process.holds(*pipe)))
    }
}

/// How many processes an attempt has besides its leader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// Those that left its group.
    pub(super) left_group: usize,
    /// Those, and those in the group.
    pub(super) all: usize,
}

/// A process, as `/proc/<id>/stat` shows it.
#[derive(Debug, Clone, Copy)]
struct Process {
    id: Pid,
    parent: Option<Pid>,
    group: Option<Pid>,
    session: Option<Pid>,
    /// When it began, in ticks since the machine's start.
    began: u64,
    /// Ended, but not reaped.
    dead: bool,
}

/// The same process, whatever has become of it.
impl PartialEq for Process {
    fn eq(&self, other: &Self) -> bool {
        (self.id, self.began) == (other.id, other.began)
    }
}

impl Process {
    fn read(id: Pid) -> Option<Self> {
        let stat = fs::read(path_of(id, "stat")).ok()?;
        // The name before may hold anything, parentheses too.
        let fields = &stat[stat.iter().rposition(|byte| *byte == b')')? + 1..];
        let fields: Vec<&str> = std::str::from_utf8(fields).ok()?.split_ascii_whitespace().collect();
        // A process that is ending has none, which is written as -1.
        let process = |index: usize| {
            let number = fields.get(index)?.parse().ok().filter(|number: &i32| *number > 0)?;
            Pid::from_raw(number)
        };
        Some(Self {
            id,
            parent: process(1),
            group: process(2),
            session: process(3),
            began: fields.get(19)?.parse().ok()?,
            dead: matches!(*fields.first()?, "Z" | "X" | "x"),
        })
    }

    /// Whether it has the pipe open, in whatever direction.
    fn holds(&self, pipe: u64) -> bool {
        let wanted = format!("pipe:[{pipe}]");
        let files = fs::read_dir(path_of(self.id, "fd")).into_iter().flatten().flatten();
        files
            .filter_map(|file| fs::read_link(file.path()).ok())
            .any(|link| link.as_os_str() == wanted.as_str())
    }

    /// If it is still the process that was seen: a number is given to another one only after all others were.
    fn signal(&self, signal: Signal) {
        if Self::read(self.id).is_some_and(|present| present == *self) {
            // The only errors say that it is gone, or another user's.
            let _gone = kill_process(self.id, signal);
        }
    }
}

fn path_of(process: Pid, file: &str) -> String {
    format!("/proc/{}/{file}", process.as_raw_nonzero())
}

/// All processes but this one and those that have ended.
fn living() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
    let this = getpid();
    ids.filter(|id| *id != this).filter_map(Process::read).filter(|process| !process.dead).collect()
}
