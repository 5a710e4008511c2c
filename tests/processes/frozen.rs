//! A node that is stopped (SIGSTOP, a paused machine) in the middle of its work: the others go on, and it lets nobody in by what it
//! knew before.

use std::time::{Duration, Instant};

use base64::Engine as _;
use futures::future::join_all;
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _};
use tests::{Client, Database, eventually, on_tables};

use super::home::{Home, Serving};

struct Site {
    database: Database,
    home: Home,
}

impl Site {
    async fn new() -> Self {
        let database = Database::new().await;
        let key = base64::engine::general_purpose::STANDARD.encode(database.encryption_key());
        let home = Home::new().with("DATABASE_URL", database.url()).with("ENCRYPTION_KEY", key);
        Self { database, home }
    }
}

async fn is_ready(serving: &Serving) {
    eventually("readiness", async || (serving.anon().get("/readyz").await.status == 200).then_some(())).await;
}

async fn secret(client: &Client, name: &str) -> String {
    let made = client.post("/api/secrets", json!({"name": name, "value": "v"})).await.expect(201);
    format!("/api/secrets/{}/value", made.str("id"))
}

#[tokio::test]
async fn one_that_is_stopped_in_the_middle_of_a_batch_does_not_stop_the_others() {
    let Site { database, home } = Site::new().await;
    let frozen = home.serve().await;
    let admin = frozen.admin.clone().unwrap();
    let client = frozen.sign_in(&admin).await;
    let value = secret(&client, "db").await;
    is_ready(&frozen).await;

    let mut keeper = database.connect().await;
    keeper.execute("begin").await.unwrap();
    keeper.execute(on_tables("lock table secret_reads in exclusive mode").as_str()).await.unwrap();
    client.get(&value).await.expect(200);
    let mut behind = database.connect().await;
    let waits =
        on_tables("select count(*) from pg_locks where not granted and relation = 'secret_reads'::regclass");
    eventually("a batch in the middle", async || {
        let waiting: i64 = sqlx::query_scalar(&waits).fetch_one(&mut behind).await.unwrap();
        (waiting > 0).then_some(())
    })
    .await;
    frozen.process.signal(Signal::STOP);
    keeper.execute("rollback").await.unwrap();
    // Its transaction holds the checkpoints that all nodes need.
    let idle = "select count(*) from pg_stat_activity where datname = current_database() and state = 'idle in transaction'";
    eventually("its transaction ends though it does not", async || {
        let open: i64 = sqlx::query_scalar(idle).fetch_one(&mut behind).await.unwrap();
        (open == 0).then_some(())
    })
    .await;
    let other = home.serve().await;
    is_ready(&other).await;
    let there = other.sign_in(&admin).await;
    secret(&there, "meanwhile").await;

    frozen.process.signal(Signal::CONT);
    is_ready(&frozen).await;
    let list = client.get("/api/secrets").await.expect(200);
    assert!(list.text.contains("meanwhile"), "{}", list.text);
    for serving in [frozen, other] {
        serving.stop(Signal::TERM).await.expect(0);
    }
    let verified = home.run(&["projections", "verify"]).await;
    assert_eq!(verified.code, Some(0), "{}", verified.stdout);
    keeper.close().await.unwrap();
}

#[tokio::test]
async fn one_that_wakes_up_lets_nobody_in_by_what_was_revoked_meanwhile() {
    let Site { database: _database, home } = Site::new().await;
    let frozen = home.serve().await;
    let admin = frozen.admin.clone().unwrap();
    let other = home.serve().await;
    let [here, there] = [frozen.sign_in(&admin).await, other.sign_in(&admin).await];
    let value = secret(&there, "db").await;
    let key = json!({"name": "k", "scopes": ["secrets:reveal", "secrets:read"]});
    let key = there.post("/api/auth/api-keys", key).await.expect(201);
    let by_key = frozen.anon().with_token(key.str("key"));
    let revoked = [here.clone(), by_key];
    for client in &revoked {
        // It remembers them both.
        eventually("an answer", async || (client.get(&value).await.status == 200).then_some(())).await;
    }

    frozen.process.signal(Signal::STOP);
    let waiting = (0..12).map(|n| {
        let (client, value) = (revoked[n % 2].clone(), value.clone());
        tokio::spawn(async move { client.get(&value).await })
    });
    let waiting: Vec<_> = waiting.collect();
    there.delete(&format!("/api/auth/api-keys/{}", key.str("id"))).await.expect(204);
    here.speaking_to(other.address).post("/api/auth/logout", Value::Null).await.expect(204);
    for client in &revoked {
        // The one that is stopped may hold what the views need, for as long as the server lets it.
        let refused = eventually("an answer", async || {
            let reply = client.speaking_to(other.address).get(&value).await;
            (reply.status != 503).then_some(reply)
        })
        .await;
        assert_eq!(refused.status, 401, "{}", refused.text);
    }
    // What it knew is good for less than a second.
    let revoked_at = Instant::now();
    let old = || (revoked_at.elapsed() > Duration::from_secs(1)).then_some(());
    eventually("a second has passed", async || old()).await;
    frozen.process.signal(Signal::CONT);
    for reply in join_all(waiting).await {
        let reply = reply.unwrap();
        assert!([401, 503].contains(&reply.status), "{} {}", reply.status, reply.text);
    }
    for client in &revoked {
        eventually("the refusal", async || (client.get(&value).await.status == 401).then_some(())).await;
    }
    for serving in [frozen, other] {
        serving.stop(Signal::TERM).await.expect(0);
    }
}
