//! Daybook as root where nobody else may enter, and as an ordinary user.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use rustix::process::Signal;
use serde_json::json;

use super::Process;
use super::home::{Home, Serving, processes_of};
use super::process::binary;

const KINDS: &str = "[jobs.whoami]\ncommand = ['id', '-u']\n";

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The user id a job of this node runs as.
async fn jobs_user(serving: &Serving) -> String {
    let client = serving.sign_in(serving.admin.as_ref().unwrap()).await;
    let job = client.post("/api/jobs", json!({"kind": "whoami"})).await.expect(201);
    let path = format!("/api/jobs/{}", job.str("id"));
    tests::eventually("the job's end", async || {
        let job = client.get(&path).await.expect(200);
        (job.str("status") == "completed").then_some(())
    })
    .await;
    let log = client.get(&format!("{path}/logs")).await.expect(200);
    log.json["items"][0]["text"].as_str().unwrap().to_owned()
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "a test that could not be made says so")]
async fn root_in_a_folder_that_nobody_else_may_enter() {
    if !is_root() {
        println!("not root: a folder closed to the private server's user cannot occur, nothing tested");
        return;
    }
    let home = Home::with_mode(0o700).file(KINDS);
    let serving = home.serve().await;
    let cluster = fs::canonicalize(home.data().join("postgres")).unwrap();
    assert!(!cluster.starts_with(home.path()), "{}", cluster.display());
    let postgres = fs::metadata(format!("/proc/{}", home.postgres().unwrap())).unwrap();
    assert_ne!(postgres.uid(), 0, "PostgreSQL does not run as root");
    assert_eq!(jobs_user(&serving).await, "0");
    let admin = serving.admin.clone().unwrap();
    serving.stop(Signal::INT).await.expect(0);
    assert_eq!(processes_of(&cluster), Vec::<u32>::new());
    let again = home.serve().await;
    again.sign_in(&admin).await;
    again.stop(Signal::TERM).await.expect(0);
    assert_eq!(processes_of(&cluster), Vec::<u32>::new());
    fs::remove_dir_all(&cluster).unwrap();
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "a test that could not be made says so")]
async fn an_ordinary_user_in_a_folder_of_their_own() {
    if !is_root() {
        println!("not root: all the other tests run as an ordinary user already, nothing tested");
        return;
    }
    let (uid, gid) = nobody();
    let home = Home::with_mode(0o700).file(KINDS);
    // Where the build lies need not be open to others.
    let shelf = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap();
    let program = shelf.path().join("daybook");
    fs::copy(binary(), &program).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    chown(home.path(), Some(uid), Some(gid)).unwrap();
    let start = || {
        let (uid, gid) = (format!("--reuid={uid}"), format!("--regid={gid}"));
        let arguments = [&uid, &gid, "--clear-groups", "--", program.to_str().unwrap(), "serve"];
        Process::start(home.command_of(Path::new("setpriv"), &arguments))
    };
    let serving = Serving::of(start()).await;
    let postgres = fs::metadata(format!("/proc/{}", home.postgres().unwrap())).unwrap();
    assert_eq!(postgres.uid(), uid, "PostgreSQL runs as the user who started Daybook");
    assert_eq!(jobs_user(&serving).await, uid.to_string());
    for name in ["keys/jwt_secret", "keys/encryption_key", "postgres"] {
        let metadata = fs::metadata(home.data().join(name)).unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o077), (uid, 0), "{name}");
    }
    let admin = serving.admin.clone().unwrap();
    serving.stop(Signal::KILL).await;
    // Again, in the moment after a kill.
    let again = Serving::of(start()).await;
    again.sign_in(&admin).await;
    again.stop(Signal::INT).await.expect(0);
    assert_eq!(home.processes(), Vec::<u32>::new());
}

/// An unprivileged user of this machine.
fn nobody() -> (u32, u32) {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with("nobody:")).expect("a user nobody");
    let fields: Vec<&str> = line.split(':').collect();
    (fields[2].parse().unwrap(), fields[3].parse().unwrap())
}
