//! The folder in which this run's servers live, and who removes it.
//!
//! Rust's test harness ends a run by `exit`: nothing static is dropped, so nobody in this process could tidy up. Two shells that
//! hold the other end of a pipe do it, which the system closes in whatever way we end, be it Ctrl-C or `kill -9`: the
//! private server's own watchdog stops PostgreSQL, and the janitor here removes the folder once no server is left in it.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Waits for our end, then for the servers', at most 30 s, and removes the clusters (which may lie elsewhere) and the folder.
const JANITOR: &str = r#"
read -r _
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do
    ls "$1"/*/postgres/data/postmaster.pid > /dev/null 2>&1 || break
    sleep 1
done
for cluster in "$1"/*/postgres; do
    [ -L "$cluster" ] && rm -rf -- "$(readlink -f "$cluster")"
done
rm -rf -- "$1"
"#;

struct Folder {
    path: PathBuf,
    /// Its input is the pipe: this must live as long as the process.
    _janitor: Child,
}

/// A folder of this run that does not exist yet, for the data of a server.
pub(crate) fn fresh(name: &str) -> PathBuf {
    static FOLDER: OnceLock<Folder> = OnceLock::new();
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    FOLDER.get_or_init(make).path.join(format!("{name}-{number}"))
}

fn make() -> Folder {
    let path = std::env::temp_dir().join(format!("daybook-tests-{}", std::process::id()));
    // Root's server runs as another user, who must pass through.
    DirBuilder::new().mode(0o711).create(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let janitor = watch(&path);
    Folder { path, _janitor: janitor }
}

fn watch(path: &Path) -> Child {
    let mut janitor = Command::new("/bin/sh");
    janitor.args(["-c", JANITOR, "daybook-tests-janitor"]).arg(path);
    // Out of reach of a Ctrl-C on the terminal, which goes to our process group.
    janitor.process_group(0).current_dir("/");
    // Who waits for our output to end must not have to wait for the janitor.
    janitor.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    janitor.spawn().expect("/bin/sh")
}
