//! What a job's processes may use (rlimits).
//!
//! Each limit holds for every process of the job by itself, not for all of them together, and the job cannot raise them, unless Daybook runs as
//! root: root may. They are set before the job's program begins: the process waits as a shell until they are (see `launch.rs`). Core dumps are off for Daybook and all it
//! starts in any case.

use rustix::process::{Pid, Signal};
use serde::Serialize;

use super::process::Ending;

/// The fewest files a job can be allowed to have open: less does not start a program.
pub const LEAST_OPEN_FILES: u64 = 16;

/// The least memory a job can be allowed, in bytes: less does not start a program.
pub const LEAST_MEMORY_BYTES: u64 = 8 * 1024 * 1024;

/// What each process of an attempt may use. `None` does not limit it beyond what Daybook itself is limited to; a limit higher than
/// Daybook's own is lowered to that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Memory it may write to, in bytes (`RLIMIT_DATA`): heap, private mappings and stacks of threads. Address space that is only reserved, as
    /// Go, Java and Node do, does not count, nor does memory shared with others. What it asks for beyond is refused.
    pub memory_bytes: Option<u64>,
    /// Seconds of processor time (`RLIMIT_CPU`): SIGXCPU then, SIGKILL a second later.
    pub cpu_seconds: Option<u64>,
    /// Open files, sockets and pipes (`RLIMIT_NOFILE`).
    pub open_files: Option<u64>,
    /// The largest file it may write, in bytes (`RLIMIT_FSIZE`): SIGXFSZ beyond.
    pub file_bytes: Option<u64>,
    /// Processes and threads of the user Daybook runs as, all of them together (`RLIMIT_NPROC`). The kernel does not hold root to
    /// it, so that no attempt starts with it if Daybook runs as root.
    pub processes: Option<u64>,
}

impl Limits {
    /// Nothing is limited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether they can be enforced here. The error is a sentence for whoever asked for the job.
    pub(super) fn check(&self) -> Result<(), String> {
        let least = |name: &str, limit: Option<u64>, least: u64| match limit {
            Some(limit) if limit < least => Err(format!("the job's limit of {name} is below {least}")),
            Some(_) | None => Ok(()),
        };
        least("open files", self.open_files, LEAST_OPEN_FILES)?;
        least("memory in bytes", self.memory_bytes, LEAST_MEMORY_BYTES)?;
        least("seconds of processor time", self.cpu_seconds, 1)?;
        least("processes", self.processes, 1)?;
        if !self.is_empty() && !cfg!(target_os = "linux") {
            return Err("the job's limits cannot be enforced on this system, which is not Linux".to_owned());
        }
        if self.processes.is_some() && rustix::process::geteuid().is_root() {
            let error = "the job's limit of processes is not enforced for root: run Daybook as another user";
            return Err(error.to_owned());
        }
        Ok(())
    }

    /// Sets them for a process that has not begun. The error is a sentence for whoever asked for the job.
    #[cfg(target_os = "linux")]
    pub(super) fn apply(&self, process: Pid) -> Result<(), String> {
        use rustix::process::Resource;

        let limits = [
            (Resource::Data, "memory", self.memory_bytes, 0),
            // At its soft limit a process may still tidy up; at the hard one it is killed.
            (Resource::Cpu, "processor time", self.cpu_seconds, 1),
            (Resource::Nofile, "open files", self.open_files, 0),
            (Resource::Fsize, "file size", self.file_bytes, 0),
            (Resource::Nproc, "processes", self.processes, 0),
        ];
        for (resource, name, limit, spare) in limits {
            if let Some(limit) = limit {
                set(process, resource, limit, spare)
                    .map_err(|error| format!("the job's limit of {name} could not be set: {error}"))?;
            }
        }
        Ok(())
    }

    /// Never asked for: [`Limits::check`] has refused them.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn apply(&self, _process: Pid) -> Result<(), String> {
        self.check()
    }

    /// Which limit ended the attempt, as far as that can be told from its end.
    pub(super) fn explain(&self, ending: &Ending) -> Option<String> {
        let ended_by = |signal: Signal| {
            let number = signal.as_raw();
            match ending {
                Ending::Signalled { signal } => *signal == number,
                // How a shell says that the program it ran was ended by a signal.
                Ending::Exited { code } => *code == 128 + number,
                Ending::TimedOut
                | Ending::Cancelled
                | Ending::HandedBack
                | Ending::TakenAway
                | Ending::Failed { .. }
                | Ending::CouldNotStart { .. } => false,
            }
        };
        let cpu = self.cpu_seconds.filter(|_| ended_by(Signal::XCPU));
        let file = self.file_bytes.filter(|_| ended_by(Signal::XFSZ));
        cpu.map(|seconds| format!("limit of {seconds} s of processor time reached (SIGXCPU)"))
            .or_else(|| file.map(|bytes| format!("limit of {bytes} bytes for a file reached (SIGXFSZ)")))
    }
}

/// Never above what holds already: only root could raise that, and it was set for a reason.
#[cfg(target_os = "linux")]
fn set(process: Pid, resource: rustix::process::Resource, limit: u64, spare: u64) -> rustix::io::Result<()> {
    use rustix::process::{Rlimit, getrlimit, prlimit};

    let present = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let maximum = limit.saturating_add(spare).min(present);
    let limit = Rlimit { current: Some(limit.min(maximum)), maximum: Some(maximum) };
    prlimit(Some(process), resource, limit).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_start_a_program_is_refused() {
        let none = Limits::default();
        assert!(none.is_empty());
        assert_eq!(none.check(), Ok(()));
        for (limits, named) in [
            (Limits { open_files: Some(15), ..none }, "open files"),
            (Limits { memory_bytes: Some(1024), ..none }, "memory"),
            (Limits { cpu_seconds: Some(0), ..none }, "processor time"),
            (Limits { processes: Some(0), ..none }, "processes"),
        ] {
            assert!(limits.check().is_err_and(|error| error.contains(named)), "{limits:?}");
        }
        assert_eq!(Limits { open_files: Some(16), file_bytes: Some(0), ..none }.check(), Ok(()));
    }

    #[test]
    fn the_limit_that_ended_it_is_told_if_there_was_one() {
        let limits = Limits { cpu_seconds: Some(2), file_bytes: Some(10), ..Limits::default() };
        let told = |ending| limits.explain(&ending).unwrap_or_default();
        assert!(told(Ending::Signalled { signal: 24 }).starts_with("limit of 2 s of processor time"));
        assert!(told(Ending::Exited { code: 153 }).starts_with("limit of 10 bytes for a file"));
        assert_eq!(told(Ending::Exited { code: 1 }), "");
        assert_eq!(Limits::default().explain(&Ending::Signalled { signal: 24 }), None);
    }
}
