//! The operator's tools: admins and views, beside a serving node and without one.

use std::io::Write as _;
use std::process::Stdio;

use ledger::private::PrivateServer;
use rustix::process::Signal;
use serde_json::json;
use sqlx::ConnectOptions as _;
use tests::within;

use super::home::{Ended, Home};

/// Runs `admin create` with this as its standard input.
async fn create_with(home: &Home, email: &str, input: &'static [u8]) -> Ended {
    let mut command = home.command(&["admin", "create", "--email", email, "--password-stdin"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let waiting = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let output = within("admin create", waiting).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[tokio::test]
async fn admins_are_made_with_and_without_a_server() {
    let home = Home::new();
    let made = home.run(&["admin", "create", "--email", "one@example.org"]).await.expect(0).stdout;
    let one = made.lines().last().unwrap().split_whitespace().nth(1).unwrap().to_owned();
    create_with(&home, "two@example.org", b"chosen by hand\nnot this line\n").await.expect(0);
    let serving = home.serve().await;
    assert!(serving.admin.is_none(), "there are admins already");
    for (email, password) in [("one@example.org", one.as_str()), ("two@example.org", "chosen by hand")] {
        let client = serving.sign_in(&(email.to_owned(), password.to_owned())).await;
        assert_eq!(client.get("/api/auth/me").await.expect(200).json["admin"], true);
    }
    let three = create_with(&home, "three@example.org", b"while it serves").await.expect(0);
    assert!(!three.stdout.contains("while it serves"));
    let client = tests::eventually("the new admin signs in", async || {
        let body = json!({"email": "three@example.org", "password": "while it serves"});
        let answer = serving.anon().post("/api/auth/login", body).await;
        (answer.status == 200).then_some(answer)
    });
    client.await;
    for email in ["one@example.org", "ONE@example.org"] {
        let twice = home.run(&["admin", "create", "--email", email]).await.expect(1);
        assert!(twice.stderr.contains("there is an account"), "{}", twice.stderr);
        assert_eq!(twice.stdout, "", "no password for nobody");
    }
    for input in [&b""[..], b"\n", b"short\n"] {
        let refused = create_with(&home, "four@example.org", input).await.expect(2);
        assert!(refused.stderr.contains("--password-stdin"), "{}", refused.stderr);
    }
    serving.stop(Signal::TERM).await.expect(0);
    let twice = home.run(&["admin", "create", "--email", "three@example.org"]).await.expect(1);
    assert!(twice.stderr.contains("there is an account"), "{}", twice.stderr);
    assert_eq!(home.processes(), Vec::<u32>::new());
}

/// Changes the views behind everybody's back.
async fn tamper(home: &Home, sql: &str) {
    let server = PrivateServer::start_or_join(&home.data()).await.unwrap();
    let mut connection = server.connect_options().connect().await.unwrap();
    let done = sqlx::raw_sql(&tests::on_tables(sql)).execute(&mut connection).await.unwrap();
    assert_eq!(done.rows_affected(), 1, "{sql}");
    sqlx::Connection::close(connection).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn views_are_seen_verified_and_mended_with_and_without_a_server() {
    let home = Home::new();
    let serving = home.serve().await;
    let client = serving.sign_in(serving.admin.as_ref().unwrap()).await;
    let secret = client.post("/api/secrets", json!({"name": "report-db", "value": "v"})).await.expect(201);
    let id = secret.str("id");
    mend(&home, id).await;
    // Who reads by id gets the row of the rebuilt table.
    assert_eq!(client.get(&format!("/api/secrets/{id}")).await.expect(200).str("name"), "report-db");
    serving.stop(Signal::TERM).await.expect(0);
    mend(&home, id).await;
    assert_eq!(home.processes(), Vec::<u32>::new());
}

async fn mend(home: &Home, id: &str) {
    let status = home.run(&["projections", "status", "--json"]).await.expect(0).json_lines();
    let secrets = status.iter().find(|view| view["name"] == "secrets").unwrap();
    assert_eq!(
        (&secrets["rows"], &secrets["state"], &secrets["last_error"]),
        (&json!(1), &json!("live"), &json!(null))
    );
    for field in ["position", "behind_events", "behind_seconds", "events_per_second"] {
        assert!(status.iter().all(|view| view[field].is_number()), "{field}");
    }
    let table = home.run(&["projections", "status"]).await.expect(0).stdout;
    assert_eq!(table.lines().count(), status.len() + 1);
    assert!(home.run(&["projections", "verify"]).await.expect(0).stdout.contains("secrets: 1 rows"));

    tamper(
        home,
        &format!("update secrets set row = jsonb_set(row, '{{name}}', '\"forged\"') where key = '{id}'"),
    )
    .await;
    let found = home.run(&["projections", "verify"]).await.expect(1);
    assert!(
        found.stdout.contains(id) && found.stdout.contains("forged") && found.stdout.contains("report-db")
    );
    assert!(found.stderr.contains("1 rows differ from the log"), "{}", found.stderr);
    let found = home.run(&["projections", "verify", "secrets", "--json"]).await.expect(1).json_lines();
    let last = found.last().unwrap();
    assert_eq!((&last["view"], &last["different"]), (&json!("secrets"), &json!(1)));
    let difference = &last["differences"][0];
    assert_eq!((&difference["key"], &difference["live"]["name"]), (&json!(id), &json!("forged")));
    assert_eq!(difference["folded"]["name"], "report-db");
    assert!(!difference.to_string().contains("\"sealed\":\"ey"), "{difference}");
    // Another view is not concerned.
    home.run(&["projections", "verify", "users"]).await.expect(0);

    let rebuilt = home.run(&["projections", "rebuild", "secrets", "--json"]).await.expect(0).json_lines();
    let done = rebuilt.last().unwrap();
    assert_eq!((&done["view"], &done["done"], &done["rows"]), (&json!("secrets"), &json!(true), &json!(1)));
    home.run(&["projections", "verify"]).await.expect(0);

    tamper(home, &format!("delete from secrets where key = '{id}'")).await;
    let found = home.run(&["projections", "verify", "secrets"]).await.expect(1);
    assert!(found.stdout.contains(id) && found.stdout.contains("live   -"), "{}", found.stdout);
    let rebuilt = home.run(&["projections", "rebuild", "secrets"]).await.expect(0);
    assert!(rebuilt.stdout.contains("secrets: 1 rows at position"), "{}", rebuilt.stdout);
    home.run(&["projections", "verify", "secrets"]).await.expect(0);
    let records = home.run(&["events", "--format", "jsonl"]).await.expect(0).json_lines();
    assert!(records.iter().any(|event| event["type"] == "ViewRebuilt" && event["actor"] == "system"));
}
