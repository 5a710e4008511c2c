//! `daybook projections status|rebuild|verify`.

use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;
use sqlx::Executor as _;
use tempfile::TempDir;
use tests::{Database, on_tables, within};
use tokio::process::Command;

use super::support::{Node, registered, secret_id, stored, team_id, user_id};

struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Ended {
    /// What it printed, a JSON document a line.
    fn lines(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Runs the program that was built with these tests on the test's database.
async fn daybook(database: &Database, folder: &TempDir, arguments: &[&str]) -> Ended {
    let program = std::env::current_exe().unwrap().parent().unwrap().with_file_name("daybook");
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("DATABASE_URL", database.url())
        .env("DATA_DIR", folder.path().join("data"))
        .env("ENCRYPTION_KEY", BASE64.encode(database.encryption_key()))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = within("the command's end", output).await.expect("make test builds the program first");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

/// A database with two secrets and a user in its views, and a folder to run commands in.
async fn settled() -> (Database, TempDir) {
    let database = Database::new().await;
    let node = Node::following(&database).await;
    let team = team_id();
    let events = vec![
        registered(user_id(), "Ada"),
        stored(secret_id(), team, "one"),
        stored(secret_id(), team, "two"),
    ];
    node.append(events).await;
    node.caught_up().await;
    node.stop().await;
    (database, tempfile::tempdir().unwrap())
}

#[tokio::test]
async fn verify_names_the_rows_that_differ_and_ends_with_1_and_a_rebuild_mends_them() {
    let (database, folder) = settled().await;
    let run = async |arguments: &[&str]| daybook(&database, &folder, arguments).await;
    let right = run(&["projections", "verify"]).await;
    assert_eq!(
        (right.code, right.out.contains("secrets: 2 rows at position 3, 0 differ")),
        (0, true),
        "{}",
        right.out
    );

    let spoil =
        r#"update secrets set row = row || '{"version": 7}' where row->>'name' = 'two' returning key"#;
    let key: String =
        sqlx::query_scalar(&on_tables(spoil)).fetch_one(&mut database.connect().await).await.unwrap();
    let wrong = run(&["projections", "verify", "--json"]).await;
    assert_eq!((wrong.code, wrong.err.contains("1 rows differ from the log")), (1, true), "{}", wrong.err);
    let lines = wrong.lines();
    let found = lines.iter().find(|line| line["different"] == 1).unwrap();
    assert_eq!((&found["view"], &found["differences"][0]["key"]), (&"secrets".into(), &key.as_str().into()));
    assert_eq!(run(&["projections", "verify", "users"]).await.code, 0);
    let wrong = run(&["projections", "verify", "secrets"]).await;
    assert!(wrong.code == 1 && wrong.out.contains(&key), "{}", wrong.out);

    let rebuilt = run(&["projections", "rebuild", "secrets", "--json"]).await;
    assert_eq!(rebuilt.code, 0, "{}", rebuilt.err);
    // That somebody made a view anew is recorded too, hence 4.
    let lines = rebuilt.lines();
    assert_eq!((&lines[0]["folded"], &lines[0]["head"]), (&4.into(), &4.into()));
    assert_eq!((&lines[lines.len() - 1]["done"], &lines[lines.len() - 1]["rows"]), (&true.into(), &2.into()));
    assert_eq!(run(&["projections", "verify"]).await.code, 0);
}

#[tokio::test]
async fn status_tells_of_every_view() {
    let (database, folder) = settled().await;
    database
        .connect()
        .await
        .execute(
            on_tables("update checkpoints set state = 'failed', last_error = 'no' where view = 'jobs'")
                .as_str(),
        )
        .await
        .unwrap();
    let status = daybook(&database, &folder, &["projections", "status", "--json"]).await;
    assert_eq!(status.code, 0, "{}", status.err);
    let lines = status.lines();
    let node = Node::idle(&database, ::projections::Options::default()).await;
    let names: Vec<&str> = lines.iter().map(|line| line["name"].as_str().unwrap()).collect();
    assert_eq!(names, node.views.names());
    for line in &lines {
        let failed = line["name"] == "jobs";
        assert_eq!(line["state"], if failed { "failed" } else { "live" });
        assert_eq!((&line["position"], &line["behind_events"]), (&3.into(), &0.into()));
        assert_eq!(line["last_error"], if failed { "no".into() } else { Value::Null });
    }
    let plain = daybook(&database, &folder, &["projections", "status"]).await.out;
    assert_eq!(plain.lines().count(), 1 + names.len(), "{plain}");
}

#[tokio::test]
async fn a_view_that_does_not_exist_is_wrong_usage() {
    let (database, folder) = settled().await;
    for command in ["rebuild", "verify"] {
        let ended = daybook(&database, &folder, &["projections", command, "nothing"]).await;
        assert_eq!(ended.code, 2, "{}", ended.err);
        assert!(ended.err.contains("there is no view \"nothing\"; there are users, "), "{}", ended.err);
    }
}
