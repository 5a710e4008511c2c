//! `daybook users`: what an operator does to accounts at the machine, beside a serving node and without one.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::home::Home;

/// Of `correct horse battery`, as older systems left it.
const BCRYPT: &str = "$2b$06$abcdefghijklmnopqrstuu50eFBEC8vQwBnuFXMHE45jBnqvQ8xz.";
const PASSWORD: &str = "correct horse battery";

fn line(email: &str, hash: &str) -> String {
    json!({"email": email, "name": "Ada", "password_hash": hash, "email_verified": true}).to_string()
}

async fn listed(home: &Home, search: &str) -> Vec<Value> {
    let listed = home.run(&["users", "list", "--search", search, "--json"]).await.expect(0);
    listed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn accounts_of_older_systems_are_imported_and_upgraded_at_the_first_sign_in() {
    let home = Home::new();
    let file = home.path().join("people.jsonl");
    let lines = [
        line("ada@example.org", BCRYPT),
        line("grace@example.org", &BCRYPT.replace("$2b$", "$2y$")),
        line("no address", BCRYPT),
        line("weak@example.org", "$1$md5$nothing"),
        line("ADA@example.org", BCRYPT),
        r#"{"email": "half@example.org""#.to_owned(),
        json!({"email": "late@example.org", "name": "L", "password_hash": BCRYPT, "active": false})
            .to_string(),
    ];
    fs::write(&file, lines.join("\n")).unwrap();
    let path = file.to_str().unwrap();
    let imported = home.run(&["users", "import", path, "--json"]).await.expect(1);
    let told: Vec<Value> = imported.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let refused: Vec<_> = told.iter().filter_map(|told| told["line"].as_u64()).collect();
    assert_eq!(refused, [3, 4, 5, 6]);
    assert_eq!(told.last().unwrap(), &json!({"done": true, "made": 3, "refused": 4}));
    assert!(!imported.stdout.contains(BCRYPT), "hashes are not repeated");

    let serving = home.serve().await;
    for email in ["ada@example.org", "grace@example.org"] {
        let client = serving.sign_in(&(email.to_owned(), PASSWORD.to_owned())).await;
        let me = client.get("/api/auth/me").await.expect(200);
        assert_eq!((me.str("email"), me.json["email_verified"].as_bool()), (email, Some(true)));
    }
    let inactive = json!({"email": "late@example.org", "password": PASSWORD});
    assert_eq!(serving.anon().post("/api/auth/login", inactive).await.status, 401);
    let again = home.run(&["users", "import", path]).await.expect(1);
    assert!(again.stdout.contains("0 accounts made, 7 lines refused"), "{}", again.stdout);
    serving.stop(Signal::INT).await.expect(0);
    // What was upgraded still opens the door, and the old hash is in no view any more.
    let serving = home.serve().await;
    serving.sign_in(&("ada@example.org".to_owned(), PASSWORD.to_owned())).await;
    let events = home.run(&["events", "--format", "jsonl"]).await.expect(0);
    assert_eq!(events.stdout.matches("PasswordRehashed").count(), 2);
    serving.stop(Signal::INT).await.expect(0);
    assert_eq!(home.processes(), Vec::<u32>::new());
}

#[tokio::test]
async fn somebody_is_deactivated_at_the_machine_and_it_says_by_whom() {
    let home = Home::new();
    home.run(&["admin", "create", "--email", "one@example.org"]).await.expect(0);
    let made = home.run(&["admin", "create", "--email", "two@example.org"]).await.expect(0).stdout;
    let password = made.lines().last().unwrap().split_whitespace().nth(1).unwrap().to_owned();
    let serving = home.serve().await;
    let two = serving.sign_in(&("two@example.org".to_owned(), password)).await;
    let id = two.get("/api/auth/me").await.expect(200).str("id").to_owned();

    let unasked = home.run(&["users", "deactivate", "two@example.org"]).await.expect(2);
    assert!(unasked.stderr.contains("--yes"), "{}", unasked.stderr);
    two.get("/api/auth/me").await.expect(200);
    let arguments = ["users", "deactivate", "TWO@example.org", "--operator", "Olga Operator", "--yes"];
    home.run(&arguments).await.expect(0);
    tests::eventually("the session's end", async || {
        (two.get("/api/auth/me").await.status == 401).then_some(())
    })
    .await;
    assert_eq!(listed(&home, "two@").await[0]["active"], false);
    let history = home.run(&["events", "--aggregate", &format!("user/{id}"), "--format", "jsonl"]).await;
    let history = history.expect(0).stdout;
    assert!(history.contains("UserDeactivated") && history.contains("Olga Operator"), "{history}");

    let last = home.run(&["users", "deactivate", "one@example.org", "--yes"]).await.expect(1);
    assert!(last.stderr.contains("last instance admin"), "{}", last.stderr);
    let nobody = home.run(&["users", "deactivate", "nobody@example.org", "--yes"]).await.expect(1);
    assert!(nobody.stderr.contains("no account"), "{}", nobody.stderr);
    let off = home.run(&["users", "reset-2fa", "one@example.org", "--yes"]).await.expect(1);
    assert!(off.stderr.contains("no second factor"), "{}", off.stderr);
    serving.stop(Signal::INT).await.expect(0);
    assert_eq!(home.processes(), Vec::<u32>::new());
}
