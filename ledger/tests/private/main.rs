//! The private PostgreSQL against the machine's real server programs: who starts it, who joins, who stops it, and what happens
//! when one of them is killed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

mod killed;
mod support;

use std::env;
use std::fs::{self, Permissions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use ledger::private::{PrivateError, PrivateServer, find_programs};
use rustix::process::{Pid, getpgid};
use sqlx::{Connection as _, PgConnection};

use support::*;

#[test]
fn plays_another_process() {
    let Some(folder) = env::var_os(OTHER).map(PathBuf::from) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = start(&folder).await;
        println!("\nready {}", server.pid().unwrap());
        // Until the test closes the pipe or is gone itself.
        tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await.unwrap().unwrap();
        server.stop().await;
    });
}

#[tokio::test]
async fn starts_from_nothing_durable_and_off_the_network_and_keeps_its_data() {
    let folder = folder();
    let data_dir = folder.path().join("not/yet/there");
    let begin = Instant::now();
    let server = start(&data_dir).await;
    println!("from nothing to ready: {:?}", begin.elapsed());
    let mut connection = connect(&server).await;
    for (setting, value) in [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("listen_addresses", ""),
        ("max_connections", "200"),
        ("shared_buffers", "128MB"),
        ("server_encoding", "UTF8"),
        ("lc_collate", "C"),
    ] {
        assert_eq!(text(&mut connection, &format!("SHOW {setting}")).await, value, "{setting}");
    }
    assert_eq!(
        text(&mut connection, "SELECT current_user || ' ' || current_database()").await,
        "daybook daybook"
    );
    connection.close().await.unwrap();
    let owner = fs::metadata(server.directory()).unwrap();
    assert_eq!(owner.mode() & 0o777, 0o700);
    assert_ne!(owner.uid(), 0);
    remember(&server, "kept").await;
    let pid = server.pid().unwrap();
    server.stop().await;
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert_nothing_runs(folder.path()).await;

    let begin = Instant::now();
    let server = start(&data_dir).await;
    println!("from an existing cluster to ready: {:?}", begin.elapsed());
    assert_eq!(words(&server).await, "kept");
    server.stop().await;
    assert_nothing_runs(folder.path()).await;
}

#[tokio::test]
async fn the_url_serves_libpq_and_sqlx() {
    let folder = folder();
    let server = start(folder.path()).await;
    let psql = server.programs().join("psql");
    let output = Command::new(psql).args(["-Atc", "SELECT current_user", &server.url()]).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "daybook\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut connection = PgConnection::connect(&server.url()).await.unwrap();
    assert_eq!(text(&mut connection, "SELECT current_database()::text").await, "daybook");
    connection.close().await.unwrap();
    server.stop().await;
    assert_nothing_runs(folder.path()).await;
}

#[tokio::test]
async fn others_join_and_the_last_one_stops_it() {
    let folder = folder();
    let first = start(folder.path()).await;
    let second = start(folder.path()).await;
    let (other, pid) = Other::start(folder.path());
    assert_eq!((first.pid(), second.pid()), (Some(pid), Some(pid)));
    remember(&second, "joined").await;
    assert_eq!(words(&first).await, "joined");
    other.stop();
    second.stop().await;
    assert_eq!(words(&first).await, "joined");
    assert_eq!(first.pid(), Some(pid));
    first.stop().await;
    assert_nothing_runs(folder.path()).await;
}

#[tokio::test]
async fn a_leaving_owner_hands_over_without_disturbing_the_others() {
    let folder = folder();
    let (owner, pid) = Other::start(folder.path());
    let server = start(folder.path()).await;
    let mut connection = connect(&server).await;
    let mut transaction = connection.begin().await.unwrap();
    sqlx::raw_sql("CREATE TABLE half (done int)").execute(&mut *transaction).await.unwrap();
    owner.stop();
    transaction.commit().await.unwrap();
    assert_eq!(text(&mut connection, "SELECT count(*)::text FROM half").await, "0");
    assert_eq!(server.pid(), Some(pid));
    connection.close().await.unwrap();
    // We supervise now: a killed server comes back, and in the end it stops.
    watchdog(folder.path()).await;
    kill(pid);
    replaced(&server, pid).await;
    server.stop().await;
    assert_nothing_runs(folder.path()).await;
}

#[tokio::test]
async fn many_leaving_at_once_leave_nothing_behind() {
    let folder = folder();
    for _ in 0..3 {
        let servers = futures::future::join_all((0..6).map(|_| start(folder.path()))).await;
        let pids: Vec<_> = servers.iter().map(PrivateServer::pid).collect();
        assert!(pids.iter().all(|pid| pid.is_some() && *pid == pids[0]), "{pids:?}");
        futures::future::join_all(servers.into_iter().map(PrivateServer::stop)).await;
        assert_nothing_runs(folder.path()).await;
    }
}

#[tokio::test]
async fn two_processes_starting_at_the_same_instant_share_one_server() {
    let folder = folder();
    let mut others = [Other::spawn(folder.path()), Other::spawn(folder.path())];
    let pids = others.each_mut().map(Other::ready);
    assert_eq!(pids[0], pids[1]);
    others.into_iter().for_each(Other::stop);
    assert_nothing_runs(folder.path()).await;
}

#[tokio::test]
async fn two_folders_have_two_servers() {
    let (one, two) = (folder(), folder());
    let (first, second) = tokio::join!(start(one.path()), start(two.path()));
    assert_ne!(first.pid(), second.pid());
    remember(&first, "one").await;
    remember(&second, "two").await;
    assert_eq!((words(&first).await, words(&second).await), ("one".to_owned(), "two".to_owned()));
    first.stop().await;
    assert_nothing_runs(one.path()).await;
    assert_eq!(words(&second).await, "two");
    second.stop().await;
    assert_nothing_runs(two.path()).await;
}

#[tokio::test]
async fn odd_and_long_paths_work() {
    let folder = folder();
    let data_dir = folder.path().join(r#"a, "b" 'c' ü"#).join("x".repeat(120));
    let server = start(&data_dir).await;
    remember(&server, "far").await;
    let socket_dir = server.connect_options().get_socket().cloned().unwrap();
    assert!(socket_dir.starts_with("/tmp"), "{}", socket_dir.display());
    assert_eq!(fs::metadata(&socket_dir).unwrap().mode() & 0o777, 0o700);
    let second = start(&data_dir).await;
    assert_eq!(words(&second).await, "far");
    second.stop().await;
    server.stop().await;
    assert!(!socket_dir.exists());
    assert_nothing_runs(folder.path()).await;

    let odd = folder.path().join(r#"a, "b" ü"#);
    let server = start(&odd).await;
    remember(&server, "odd").await;
    assert!(server.connect_options().get_socket().unwrap().starts_with(server.directory()));
    server.stop().await;
    assert_nothing_runs(folder.path()).await;
}

#[tokio::test]
async fn a_cluster_of_another_version_is_refused_naming_both() {
    let folder = folder();
    let server = start(folder.path()).await;
    let version_file = server.directory().join("data/PG_VERSION");
    server.stop().await;
    let version = fs::read_to_string(&version_file).unwrap();
    fs::write(&version_file, "99\n").unwrap();
    let error = PrivateServer::start_or_join(folder.path()).await.unwrap_err();
    assert!(matches!(error, PrivateError::OtherVersion { wanted: 99, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("99") && text.contains(version.trim()), "{text}");
    assert_nothing_runs(folder.path()).await;
}

#[tokio::test]
async fn a_server_that_cannot_start_is_an_error_with_its_own_words() {
    let folder = folder();
    let server = start(folder.path()).await;
    let settings = server.directory().join("data/postgresql.conf");
    server.stop().await;
    let text = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, format!("{text}\nno_such_setting = 1\n")).unwrap();
    let error = PrivateServer::start_or_join(folder.path()).await.unwrap_err().to_string();
    assert!(error.contains("no_such_setting") && error.contains("postgres.log"), "{error}");
    assert_nothing_runs(folder.path()).await;
}

#[tokio::test]
async fn root_keeps_the_cluster_where_its_user_may_enter() {
    if !rustix::process::geteuid().is_root() {
        println!("not root: a folder closed to the server's user cannot occur, nothing tested");
        return;
    }
    let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let server = start(&data_dir).await;
    let elsewhere = server.directory().to_owned();
    assert!(!elsewhere.starts_with(folder.path()), "{}", elsewhere.display());
    assert_eq!(fs::canonicalize(data_dir.join("postgres")).unwrap(), elsewhere);
    remember(&server, "elsewhere").await;
    server.stop().await;
    let server = start(&data_dir).await;
    assert_eq!((words(&server).await.as_str(), server.directory()), ("elsewhere", elsewhere.as_path()));
    server.stop().await;

    // A deleted data folder means a fresh cluster; the old one's folder remains for somebody to delete.
    fs::remove_dir_all(&data_dir).unwrap();
    let server = start(&data_dir).await;
    let fresh = server.directory().to_owned();
    assert_ne!(fresh, elsewhere);
    let mut connection = connect(&server).await;
    assert_eq!(
        text(&mut connection, "SELECT count(*)::text FROM pg_class WHERE relname = 'words'").await,
        "0"
    );
    connection.close().await.unwrap();
    server.stop().await;
    for path in [&elsewhere, &fresh] {
        assert_nothing_runs(path).await;
        fs::remove_dir_all(path).unwrap();
    }
}

#[test]
fn starting_and_stopping_can_be_spawned() {
    fn spawnable<F: Future + Send>(_: impl FnOnce() -> F) {}
    spawnable(|| PrivateServer::start_or_join(Path::new("")));
    spawnable(|| async {
        PrivateServer::start_or_join(Path::new("")).await?.stop().await;
        Ok::<_, PrivateError>(())
    });
}

#[test]
fn the_machines_programs_are_found() {
    let bin = find_programs().unwrap();
    assert!(bin.join("initdb").is_file() && bin.join("postgres").is_file());
    assert_eq!(bin, fs::canonicalize(&bin).unwrap());
}

#[tokio::test]
async fn the_terminals_interrupt_reaches_neither_server_nor_watchdog() {
    let folder = folder();
    let server = start(folder.path()).await;
    for pid in [server.pid().unwrap(), watchdog(folder.path()).await] {
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        assert_eq!(getpgid(Some(pid)).unwrap(), pid, "it leads a process group of its own");
    }
    server.stop().await;
    assert_nothing_runs(folder.path()).await;
}
