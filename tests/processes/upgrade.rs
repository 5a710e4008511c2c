//! A rolling upgrade: two programs with different versions of a view on one database, under load. `DAYBOOK_NEXT` is the second program,
//! which `scripts/next-version.sh` builds (`make test-upgrade`).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use base64::Engine as _;
use rustix::process::Signal;
use serde_json::json;
use tests::{Client, Database, eventually};

use super::Process;
use super::home::{Home, Serving};

/// Goes on writing and reading its own secret, and reading it where it was not written, until it is told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn new() -> Self {
        Self { stop: Arc::default(), rounds: Arc::default(), tasks: vec![] }
    }

    /// `readers`: nodes that must show what is written at once, given its position.
    async fn on(&mut self, name: &str, writer: Client, readers: Vec<Client>) {
        let made = writer.post("/api/secrets", json!({"name": name, "value": "0"})).await.expect(201);
        let path = format!("/api/secrets/{}", made.str("id"));
        let (stop, rounds) = (self.stop.clone(), self.rounds.clone());
        self.tasks.push(tokio::spawn(async move {
            let mut round = 0;
            while !stop.load(Ordering::SeqCst) {
                round += 1;
                let body = json!({"value": round.to_string()});
                let written = writer.put(&format!("{path}/value"), body).await.expect(200);
                let own = writer.get(&format!("{path}/value")).await.expect(200);
                assert_eq!(own.str("value"), round.to_string(), "a stale read where it was written");
                for reader in &readers {
                    let reader = reader.with_header("daybook-position", written.header("daybook-position"));
                    let seen = reader.get(&format!("{path}/value")).await.expect(200);
                    assert_eq!(seen.str("value"), round.to_string(), "a stale read elsewhere");
                }
                rounds.fetch_add(1, Ordering::SeqCst);
            }
        }));
    }

    async fn goes_on(&self, further: usize) {
        let goal = self.rounds.load(Ordering::SeqCst) + further;
        eventually("further rounds", async || {
            assert!(!self.tasks.iter().any(tokio::task::JoinHandle::is_finished), "the load has failed");
            (self.rounds.load(Ordering::SeqCst) >= goal).then_some(())
        })
        .await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

async fn tables_of(database: &Database, view: &str) -> Vec<String> {
    let sql = "select tablename::text from pg_tables where tablename ~ ('^' || $1 || '_v[0-9]+_[0-9a-f]{8}$') order by 1";
    sqlx::query_scalar(sql).bind(view).fetch_all(&mut database.connect().await).await.unwrap()
}

#[tokio::test]
async fn two_versions_serve_side_by_side_and_neither_fails_or_is_stale() {
    let Some(next) = std::env::var_os("DAYBOOK_NEXT").map(PathBuf::from) else {
        eprintln!(
            "DAYBOOK_NEXT is not set: `make test-upgrade` runs this test with the next version's program"
        );
        return;
    };
    let database = Database::new().await;
    let key = base64::engine::general_purpose::STANDARD.encode(database.encryption_key());
    let home = Home::new().with("DATABASE_URL", database.url()).with("ENCRYPTION_KEY", key);
    let old = home.serve().await;
    let admin = old.admin.clone().unwrap();
    let on_old = old.sign_in(&admin).await;
    let mut load = Load::new();
    load.on("before", on_old.clone(), vec![]).await;
    load.goes_on(20).await;
    assert_eq!(tables_of(&database, "secrets").await.len(), 1);

    let new = Serving::of(Process::start(home.command_of(&next, &["serve"]))).await;
    eventually("readiness of the next version", async || {
        let reply = new.anon().get("/readyz").await;
        (reply.status == 200).then_some(())
    })
    .await;
    assert_eq!(tables_of(&database, "secrets").await.len(), 2, "each version has a table of its own");
    let on_new = new.sign_in(&admin).await;
    load.on("from-the-old", on_old.clone(), vec![on_new.clone()]).await;
    load.on("from-the-next", on_new.clone(), vec![on_old.clone()]).await;
    load.goes_on(60).await;
    // What is revoked on one is refused on the other.
    let session = old.sign_in(&admin).await;
    let at_next = session.speaking_to(new.address);
    eventually("the session on the next", async || {
        (at_next.get("/api/auth/me").await.status == 200).then_some(())
    })
    .await;
    session.post("/api/auth/logout", json!(null)).await.expect(204);
    eventually("the end on the next", async || {
        (at_next.get("/api/auth/me").await.status == 401).then_some(())
    })
    .await;
    load.end().await;
    old.stop(Signal::TERM).await.expect(0);
    on_new.get("/api/secrets").await.expect(200);
    new.stop(Signal::TERM).await.expect(0);
    // Both say what the log says: the old version's by its own program.
    for program in [super::process::binary().to_owned(), next] {
        let verified =
            Process::start(home.command_of(&program, &["projections", "verify", "secrets"])).ended().await;
        assert_eq!(verified.code, Some(0), "{} {}", verified.stdout, verified.stderr);
    }
}
