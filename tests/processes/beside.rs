//! Commands beside a server: exit code 0 means that every node shows what was written, at once.

use std::fs;

use base64::Engine as _;
use rustix::process::Signal;
use serde_json::json;
use tests::Database;

use super::home::Home;

async fn signs_in(serving: &super::home::Serving, email: &str, password: &str) {
    let body = json!({"email": email, "password": password});
    let reply = serving.anon().post("/api/auth/login", body).await;
    assert_eq!(reply.status, 200, "{email}: {}", reply.text);
}

#[tokio::test]
async fn what_a_command_wrote_is_shown_on_every_node_when_it_ends() {
    let database = Database::new().await;
    let key = base64::engine::general_purpose::STANDARD.encode(database.encryption_key());
    let home = Home::new().with("DATABASE_URL", database.url()).with("ENCRYPTION_KEY", key);
    let nodes = [home.serve().await, home.serve().await];
    let admin = nodes[0].admin.clone().unwrap();
    for round in 0..3 {
        let email = format!("boss-{round}@example.org");
        let made = home.run(&["admin", "create", "--email", &email]).await.expect(0);
        let password = made.stdout.lines().find_map(|line| line.strip_prefix("password ")).unwrap();
        let password = password.split_whitespace().next().unwrap();
        for node in &nodes {
            signs_in(node, &email, password).await;
        }
        let file = home.path().join("secrets.env");
        fs::write(&file, format!("ROUND_{round}=v{round}\n")).unwrap();
        let file = file.to_str().unwrap();
        home.run(&["secrets", "import", file, "--team", "main"]).await.expect(0);
        for node in &nodes {
            let list = node.sign_in(&admin).await.get("/api/secrets").await.expect(200);
            assert!(list.text.contains(&format!("ROUND_{round}")), "{}", list.text);
        }
    }
    let deactivated = home.run(&["users", "deactivate", "boss-0@example.org", "--yes"]).await;
    assert_eq!(deactivated.code, Some(0), "{}", deactivated.stderr);
    for node in &nodes {
        let body = json!({"email": "boss-0@example.org", "password": "whatever it is"});
        assert_eq!(node.anon().post("/api/auth/login", body).await.status, 401);
    }
    for node in nodes {
        node.stop(Signal::TERM).await.expect(0);
    }
    // Nobody serves: the command brings the views up to date itself.
    home.run(&["admin", "create", "--email", "late@example.org"]).await.expect(0);
    let verified = home.run(&["projections", "verify"]).await;
    assert_eq!(verified.code, Some(0), "{}", verified.stdout);
}

#[tokio::test]
async fn a_view_that_cannot_show_it_is_named_with_the_position() {
    let database = Database::new().await;
    let key = base64::engine::general_purpose::STANDARD.encode(database.encryption_key());
    let home = Home::new().with("DATABASE_URL", database.url()).with("ENCRYPTION_KEY", key);
    let serving = home.serve().await;
    serving.stop(Signal::TERM).await.expect(0);
    let ledger = database.ledger();
    let event = ledger::NewEvent {
        stream: ledger::StreamId::new("schedule", uuid::Uuid::now_v7()),
        sequence: 1,
        event_type: "ScheduleSung".to_owned(),
        event_version: "1".to_owned(),
        payload: json!({"ScheduleSung": {}}).into(),
    };
    let metadata = ledger::Metadata { actor: "system".to_owned(), ..ledger::Metadata::default() };
    ledger.append(ledger::Append { events: vec![event], metadata, data_keys: vec![] }).await.unwrap();
    let made = home.run(&["admin", "create", "--email", "boss@example.org"]).await;
    assert_ne!(made.code, Some(0), "{}", made.stdout);
    let head = ledger.head().await.unwrap();
    assert!(made.stderr.contains(&format!("recorded at position {head}")), "{}", made.stderr);
    assert!(
        made.stdout.contains("boss@example.org"),
        "it was made, and its password is shown: {}",
        made.stdout
    );
    // Verification and check say so, too.
    let verified = home.run(&["projections", "verify"]).await;
    assert_eq!(verified.code, Some(1));
    assert!(
        verified.stdout.contains("schedules") && verified.stdout.contains("failed"),
        "{}",
        verified.stdout
    );
}
