//! Starting from nothing, stopping, starting again.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::process::Signal;
use serde_json::json;
use tests::Client;

use super::home::{Home, Serving};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn from_an_empty_folder_to_the_first_sign_in_and_back() {
    let home = Home::new();
    let first = home.serve().await;
    let admin = first.admin.clone().expect("the first start makes an admin");
    assert_eq!(admin.0, "admin@localhost");
    let banner = first.process.stdout();
    assert_eq!(banner.matches(&admin.1).count(), 1, "the password is shown once: {banner}");
    let me = first.sign_in(&admin).await.get("/api/auth/me").await.expect(200);
    assert_eq!((me.str("email"), &me.json["admin"]), ("admin@localhost", &json!(true)));
    assert_eq!(
        (&me.json["teams"][0]["slug"], &me.json["teams"][0]["role"]),
        (&json!("main"), &json!("owner"))
    );
    first.anon().get("/readyz").await.expect(200);
    let keys = home.data().join("keys");
    assert_eq!(mode(&keys), 0o700);
    for name in ["jwt_secret", "encryption_key"] {
        assert_eq!(mode(&keys.join(name)), 0o600, "{name}");
    }
    let ended = first.stop(Signal::INT).await.expect(0);
    assert!(!ended.stderr.contains(&admin.1), "the password is in the log");
    assert!(!ended.stderr.contains("ERROR"), "{}", ended.stderr);
    assert_eq!(home.processes(), Vec::<u32>::new(), "no PostgreSQL is left");

    let second = home.serve().await;
    assert!(second.admin.is_none() && !second.process.stdout().contains("password"));
    second.sign_in(&admin).await.get("/api/secrets").await.expect(200);
    second.stop(Signal::TERM).await.expect(0);
    assert_eq!(home.processes(), Vec::<u32>::new());
}

#[tokio::test]
async fn the_configured_admin_is_made_and_no_password_is_printed() {
    let home = Home::new().with("ADMIN_EMAIL", "ops@example.org").with("ADMIN_PASSWORD", "chosen beforehand");
    let serving = home.serve().await;
    assert!(serving.process.stdout().contains("ops@example.org"));
    assert!(!serving.process.stdout().contains("password"), "{}", serving.process.stdout());
    serving.sign_in(&("ops@example.org".to_owned(), "chosen beforehand".to_owned())).await;
    serving.stop(Signal::TERM).await.expect(0);
}

#[tokio::test]
async fn an_operators_command_before_the_first_start_does_not_cost_the_first_admin() {
    let home = Home::new();
    // Rebuilding is recorded, so the log is not empty any more.
    home.run(&["projections", "rebuild", "users"]).await.expect(0);
    let serving = home.serve().await;
    let admin = serving.admin.clone().expect("there was no user yet");
    serving.sign_in(&admin).await;
    serving.stop(Signal::TERM).await.expect(0);
}

#[tokio::test]
async fn two_instances_in_two_folders_run_side_by_side() {
    let homes = [Home::new().without("LISTEN"), Home::new().without("LISTEN")];
    let (one, two) = tokio::join!(homes[0].serve(), homes[1].serve());
    assert_ne!(one.address, two.address);
    for (serving, home) in [(&one, &homes[0]), (&two, &homes[1])] {
        assert!(serving.address.ip().is_loopback() && (8080..=8130).contains(&serving.address.port()));
        let client = serving.sign_in(serving.admin.as_ref().unwrap()).await;
        let name = json!({"name": "mine", "value": home.path()});
        client.post("/api/secrets", name).await.expect(201);
        let listed = client.get("/api/secrets").await.expect(200);
        assert_eq!(listed.json["items"].as_array().unwrap().len(), 1);
    }
    for (serving, home) in [(one, &homes[0]), (two, &homes[1])] {
        serving.stop(Signal::INT).await.expect(0);
        assert_eq!(home.processes(), Vec::<u32>::new());
    }
}

#[tokio::test]
async fn two_started_on_one_folder_at_the_same_instant_both_serve() {
    let home = Home::new();
    let both = [home.start(&["serve"]), home.start(&["serve"])].map(Serving::of);
    let [one, two] = both;
    let (one, two) = tokio::join!(one, two);
    let admins: Vec<_> = [&one, &two].iter().filter_map(|serving| serving.admin.clone()).collect();
    assert_eq!(admins.len(), 1, "one admin, told once");
    let clients: [Client; 2] = [one.sign_in(&admins[0]).await, two.sign_in(&admins[0]).await];
    for (index, client) in clients.iter().enumerate() {
        let secret = json!({"name": format!("secret-{index}"), "value": "v"});
        let made = client.post("/api/secrets", secret).await.expect(201);
        // The other node has it as soon as it is asked for what this one wrote.
        let there = clients[1 - index].with_header("daybook-position", made.header("daybook-position"));
        there.get(&format!("/api/secrets/{}", made.str("id"))).await.expect(200);
    }
    let events = home.run(&["events", "--format", "jsonl"]).await.expect(0).json_lines();
    let registered = events.iter().filter(|event| event["type"] == "UserRegistered");
    assert_eq!(registered.count(), 1);
    one.stop(Signal::TERM).await.expect(0);
    two.sign_in(&admins[0]).await;
    two.stop(Signal::TERM).await.expect(0);
    assert_eq!(home.processes(), Vec::<u32>::new());
}
