//! One event, several mails: each once, whoever crashes; and what was queued when an event had one mail only.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::TimeDelta;
use commands::Commands;
use rustix::process::Signal;
use serde_json::json;
use sqlx::migrate::Migrator;
use tests::{Database, Setup, TestApp, eventually};

use super::grants::{Crew, NAME, mail_to};
use super::post::{PUBLIC_URL, Post, State, to};
use super::server::MailServer;
use crate::processes::home::Home;

#[tokio::test]
async fn two_nodes_tell_each_person_once() {
    const GRANTS: usize = 12;
    let server = MailServer::plain();
    let crew = Crew::new().await;
    let nodes = [crew.post.start(to(&server.url())), crew.post.start(to(&server.url()))];
    let mut positions = vec![];
    for _ in 0..GRANTS {
        positions.push(crew.grant(crew.grace, TimeDelta::minutes(5)).await.1);
    }
    for position in positions {
        for user in [crew.grace, crew.olga, crew.oskar] {
            crew.post.becomes_for(position, user, "sent").await;
        }
    }
    for node in nodes {
        node.stop().await;
    }
    let inbox = server.inbox();
    let ids: BTreeSet<&str> = inbox
        .iter()
        .filter_map(|mail| mail.headers.lines().find_map(|line| line.strip_prefix("Message-ID: ")))
        .collect();
    assert_eq!((inbox.len(), ids.len()), (3 * GRANTS, 3 * GRANTS), "no two mails are taken for one");
    for name in ["grace", "olga", "oskar"] {
        let to = json!([format!("<{name}@example.org>")]);
        assert_eq!(inbox.iter().filter(|mail| mail.envelope["to"] == to).count(), GRANTS, "{name}");
    }
}

#[tokio::test]
async fn killed_with_one_of_them_handed_over_the_others_are_sent_once() {
    let mut server = MailServer::with(&["--hold", "END*1"]);
    let crew = Crew::new().await;
    let home = Home::new()
        .with("DATABASE_URL", crew.post.database.url())
        .with("ENCRYPTION_KEY", BASE64.encode(crew.post.database.encryption_key()))
        .with("SMTP_URL", server.url())
        .with("MAIL_FROM", "Daybook <daybook@example.org>");
    let serving = home.serve().await;
    let (_, position) = crew.grant(crew.grace, TimeDelta::minutes(5)).await;
    server.hears("held at END").await;
    // The others do not wait for it.
    let held = eventually("two are sent and one is held", async || {
        let (sent, others): (Vec<State>, Vec<State>) =
            crew.post.states().await.into_iter().partition(|mail| mail.state == "sent");
        match &others[..] {
            [held] if held.state == "handing_over" && sent.len() == 2 => Some(held.clone()),
            _ => None,
        }
    })
    .await;
    assert_eq!((held.position, server.inbox().len()), (position, 3));
    serving.stop(Signal::KILL).await;
    server.release();

    let serving = home.serve().await;
    for user in [crew.grace, crew.olga, crew.oskar] {
        let state = if user.0 == held.recipient { "uncertain" } else { "sent" };
        let mail = crew.post.becomes_for(position, user, state).await;
        assert_eq!(mail.attempts, 1, "{mail:?}");
    }
    let last = crew.post.ask("last@example.org").await;
    crew.post.becomes(last, "sent").await;
    let inbox = server.inbox();
    for name in ["grace", "olga", "oskar", "last"] {
        mail_to(&inbox, name);
    }
    assert_eq!(inbox.len(), 4);
    serving.stop(Signal::TERM).await.expect(0);
}

/// The tables as they were before an event could have several mails.
async fn before_recipients() -> Post {
    let database = Database::empty().await;
    let folder = tempfile::tempdir().unwrap();
    let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("migrations");
    for file in fs::read_dir(migrations).unwrap() {
        let file = file.unwrap();
        if file.file_name().to_str().unwrap() < "0010" {
            fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
        }
    }
    let before = Migrator::new(folder.path()).await.unwrap();
    before.run(&mut database.connect().await).await.unwrap();
    let ledger = database.ledger();
    let commands = Commands::new(&ledger);
    Post { database, ledger, commands }
}

#[tokio::test]
async fn what_was_queued_before_an_event_had_several_mails_goes_out_once() {
    let post = before_recipients().await;
    let [waiting, sent] = [post.ask("waiting@example.org").await, post.ask("sent@example.org").await];
    let mut database = post.database.connect().await;
    for (position, state) in [(waiting, "queued"), (sent, "sent")] {
        sqlx::query("insert into mails (position, state, settled_at) values ($1, $2, now())")
            .bind(position)
            .bind(state)
            .execute(&mut database)
            .await
            .unwrap();
    }
    post.ledger.migrate().await.unwrap();
    let server = MailServer::plain();
    let mailer = post.start(to(&server.url()));
    post.becomes(waiting, "sent").await;
    let last = post.ask("last@example.org").await;
    post.becomes(last, "sent").await;
    mailer.stop().await;
    let inbox = server.inbox();
    assert_eq!((inbox.len(), post.states().await.len()), (2, 3), "{inbox:?}");
    mail_to(&inbox, "waiting");
    mail_to(&inbox, "last");
}

#[tokio::test]
async fn what_the_mails_say_works() {
    let server = MailServer::plain();
    let setup = Setup::default()
        .with("SMTP_URL", server.url())
        .with("MAIL_FROM", "Daybook <daybook@example.org>")
        .with("PUBLIC_URL", PUBLIC_URL);
    let app = TestApp::with(setup).await;
    let body = json!({"name": NAME, "value": "canary-77c2"});
    let secret = app.operator().post("/api/secrets", body).await.expect(201);
    let grants = format!("/api/secrets/{}/grants", secret.str("id"));
    let body = json!({"user_id": app.people.viewer.0, "minutes": 30, "reason": "incident 7"});
    app.owner().post(&grants, body).await.expect(201);
    let inbox = server.receives(2).await;
    // The address and the header, as the mail has them.
    let call = |mail: &str, method: &str| {
        let start = format!("{method} {PUBLIC_URL}");
        let path = mail.lines().find_map(|line| line.strip_prefix(start.as_str())).unwrap().to_owned();
        let team = mail.lines().find_map(|line| line.strip_prefix("Daybook-Team: ")).unwrap().to_owned();
        (path, team)
    };
    let (value, team) = call(&mail_to(&inbox, "viewer").text, "GET");
    // They have a team of their own besides.
    let viewer = app.as_user(app.people.viewer).with_header("Daybook-Team", team);
    assert_eq!(viewer.get(&value).await.expect(200).str("value"), "canary-77c2");
    let (grant, team) = call(&mail_to(&inbox, "owner").text, "DELETE");
    app.as_user(app.people.owner).with_header("Daybook-Team", team).delete(&grant).await.expect(204);
    viewer.get(&value).await.expect(403);
    app.stop().await;
    let inbox = server.inbox();
    assert_eq!(inbox.len(), 2, "that it was ended is told to nobody: {inbox:?}");
    assert!(inbox.iter().all(|mail| !mail.text.contains("canary")), "{inbox:?}");
}
