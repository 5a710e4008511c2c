//! No image of this process' memory on a disk: it holds keys and, for moments, passwords and the values of secrets.

use rustix::process::{Resource, Rlimit, setrlimit};

/// Switches core dumps off, for this process and for all it starts. To be called before anything secret is read.
///
/// - The limit of a core's size becomes 0, for good: children inherit it. A job has its secrets in its environment, a program under
///   `daybook run` too, and the private PostgreSQL has personal data in its buffers.
/// - On Linux this process is also marked as not dumpable, since a core that is piped to a program (`systemd-coredump`) heeds no limit. For the
///   same reason nobody but root may trace it or read its memory and environment in `/proc`. What it starts loses the mark with
///   its `exec`: a job may be traced by its own tools.
///
/// # Errors
/// When the system refuses, such as a sandbox that allows neither.
pub fn forbid() -> std::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn there_is_no_core_and_no_way_back() {
        forbid().unwrap();
        let limit = rustix::process::getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
        #[cfg(target_os = "linux")]
        assert_eq!(
            rustix::process::dumpable_behavior().unwrap(),
            rustix::process::DumpableBehavior::NotDumpable
        );
        forbid().unwrap();
    }
}
