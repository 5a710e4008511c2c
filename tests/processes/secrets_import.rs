//! `daybook secrets import`: all of a file or nothing of it.

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::{Value, json};
use tests::{Client, eventually};

use super::Process;
use super::home::{Ended, Home, Serving};

/// What must never be repeated.
const CANARY: &str = "c4n4ry-value";
/// Of the specification of Fernet; the token holds `hello`.
const KEY: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";
const OTHER_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const TOKEN: &str =
    "gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA==";

fn written(home: &Home, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = home.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

/// Writes a file and imports it for the team `main`. What it holds is never shown.
async fn import(home: &Home, name: &str, text: impl AsRef<[u8]>, more: &[&str]) -> Ended {
    import_with(home, name, text, more, &[]).await
}

async fn import_with(
    home: &Home,
    name: &str,
    text: impl AsRef<[u8]>,
    more: &[&str],
    environment: &[(&str, &str)],
) -> Ended {
    let path = written(home, name, text);
    let mut command = home.command(&["secrets", "import", path.to_str().unwrap(), "--team", "main"]);
    command.args(more).envs(environment.iter().copied());
    let ended = Process::start(command).ended().await;
    assert!(!ended.stdout.contains(CANARY) && !ended.stderr.contains(CANARY), "{ended:?}");
    ended
}

async fn served(home: &Home) -> (Serving, Client) {
    let serving = home.serve().await;
    let owner = serving.sign_in(serving.admin.as_ref().unwrap()).await;
    (serving, owner)
}

async fn names(owner: &Client) -> Vec<String> {
    let listed = owner.get("/api/secrets?limit=200").await.expect(200);
    listed.json["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["name"].as_str().unwrap().to_owned())
        .collect()
}

/// The secret of this name, once there is one at this version.
async fn secret(owner: &Client, name: &str, version: u64) -> Value {
    eventually(name, async || {
        let listed = owner.get(&format!("/api/secrets?prefix={name}")).await.expect(200);
        let found = listed.json["items"].as_array().unwrap().iter().find(|it| it["name"] == name).cloned();
        found.filter(|it| it["version"] == version)
    })
    .await
}

async fn value(owner: &Client, name: &str, version: u64) -> String {
    let id = secret(owner, name, version).await["id"].as_str().unwrap().to_owned();
    owner.get(&format!("/api/secrets/{id}/value")).await.expect(200).str("value").to_owned()
}

/// How many events there are of any kind: what is stored, even if nobody sees it.
async fn events(home: &Home) -> usize {
    let log = home.run(&["events", "--format", "jsonl"]).await.expect(0).stdout;
    assert!(!log.contains(CANARY));
    log.lines().filter(|line| line.contains("\"Secret") || line.contains("\"Claimed\"")).count()
}

#[tokio::test]
async fn an_env_file_is_tried_stored_refused_and_replaced() {
    let home = Home::new();
    let (serving, owner) = served(&home).await;
    let begun = events(&home).await;
    let text = format!("# shop\nexport STRIPE_KEY={CANARY}\r\nPEM=\"two\nlines $HOME\"\n");
    let folder = ["--prefix", "payments/"];
    let tried = import(&home, ".env", &text, &["--prefix", "payments/", "--dry-run"]).await.expect(0);
    let told = "would store payments/STRIPE_KEY\nwould store payments/PEM\n2 secrets would be stored, 0 replaced; nothing was changed\n";
    assert_eq!(tried.stdout, told);
    assert_eq!(events(&home).await, begun, "a dry run stores nothing");

    let stored = import(&home, ".env", &text, &folder).await.expect(0);
    assert_eq!(stored.stdout, "2 secrets stored, 0 replaced\n");
    assert_eq!(value(&owner, "payments/STRIPE_KEY", 1).await, CANARY);
    assert_eq!(value(&owner, "payments/PEM", 1).await, "two\nlines $HOME");
    assert_eq!(secret(&owner, "payments/PEM", 1).await["created_by"], "system");

    let again = format!("NEW={CANARY}\nSTRIPE_KEY={CANARY}\n");
    let before = events(&home).await;
    let refused = import(&home, "again.env", &again, &folder).await.expect(1);
    assert_eq!(refused.stdout, "line 2: payments/STRIPE_KEY exists already\n");
    assert!(refused.stderr.contains("1 problem; nothing was stored"), "{}", refused.stderr);
    assert_eq!(events(&home).await, before, "one that is taken keeps all from being stored");

    let more = ["--prefix", "payments/", "--replace", "--json"];
    let replaced = import(&home, "again.env", again.replace(CANARY, "next"), &more).await.expect(0);
    let told = replaced.json_lines().pop().unwrap();
    assert_eq!((&told["stored"], &told["replaced"], &told["refused"]), (&json!(1), &json!(1), &json!(0)));
    assert_eq!(value(&owner, "payments/STRIPE_KEY", 2).await, "next");
    assert_eq!(value(&owner, "payments/NEW", 1).await, "next");
    serving.stop(Signal::INT).await.expect(0);
    let last = import(&home, "last.env", "LAST=x", &[]).await.expect(0);
    assert_eq!(last.stdout, "1 secrets stored, 0 replaced\n", "without a server");
}

#[tokio::test]
async fn one_wrong_line_keeps_all_from_being_stored_and_all_are_told() {
    let home = Home::new();
    let (_serving, owner) = served(&home).await;
    import(&home, "first.env", "TAKEN=1\n", &[]).await.expect(0);
    secret(&owner, "TAKEN", 1).await;
    let before = events(&home).await;
    let most = "x".repeat(65_536);
    let text = format!(
        "GOOD={most}\n{CANARY}\nLONG=x{most}\nTAKEN={CANARY}\nGOOD={CANARY}\n../etc/passwd={CANARY}\na\u{7}b={CANARY}\nEMPTY=\n"
    );
    let refused = import(&home, "wrong.env", &text, &[]).await.expect(1);
    let told: Vec<&str> = refused.stdout.lines().collect();
    let expected = [
        "line 2: has no '='",
        "line 3: the value must be at most 65536 bytes, has 65537",
        "line 4: TAKEN exists already",
        "line 5: GOOD is there twice: see line 1",
        "line 6: the name must be segments",
        "line 7: the name must be segments",
        "line 8: the value must not be empty",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}");
    }
    assert!(refused.stderr.contains("7 problems; nothing was stored"), "{}", refused.stderr);
    assert_eq!(events(&home).await, before);
    let many: String = (0..150).map(|_| "=x\n").collect();
    let refused = import(&home, "many.env", many, &[]).await.expect(1);
    assert_eq!(refused.stdout.lines().count(), 101);
    assert!(refused.stdout.ends_with("… and 50 more\n"), "{}", refused.stdout);
    import(&home, "most.env", format!("GOOD={most}\n"), &[]).await.expect(0);
    assert_eq!(value(&owner, "GOOD", 1).await.len(), 65_536);
}

#[tokio::test]
async fn json_files_say_more_about_each_secret() {
    let home = Home::new();
    let (_serving, owner) = served(&home).await;
    let text =
        json!({"payments": {"stripe": "sk", "bank": {"iban": "DE1"}}, "report-db": "a\nb"}).to_string();
    import(&home, "nested.json", text, &["--prefix", "shop/"]).await.expect(0);
    assert_eq!(value(&owner, "shop/payments/bank/iban", 1).await, "DE1");
    assert_eq!(names(&owner).await, ["shop/payments/bank/iban", "shop/payments/stripe", "shop/report-db"]);
    let list = json!([{"name": "listed", "value_base64": "aGVsbG8=", "description": "by hand", "tags": ["prod"],
        "expires_at": "2030-01-01T00:00:00Z"}]);
    import(&home, "list.json", list.to_string(), &[]).await.expect(0);
    assert_eq!(value(&owner, "listed", 1).await, "hello");
    let found = secret(&owner, "listed", 1).await;
    assert_eq!((&found["description"], &found["tags"]), (&json!("by hand"), &json!(["prod"])));
    assert_eq!(found["expires_at"], "2030-01-01T00:00:00.000Z");

    let before = events(&home).await;
    let wrong =
        format!(r#"{{"new": "x", "number": 5, "deep": {{"no": null}}, "twice": "{CANARY}", "twice": "y"}}"#);
    let refused = import(&home, "wrong.json", wrong, &["--json"]).await.expect(1);
    let told = refused.json_lines();
    let places: Vec<&str> = told.iter().filter_map(|told| told["place"].as_str()).collect();
    assert_eq!(places, ["number", "deep.no", "twice"]);
    assert_eq!(told.last().unwrap()["refused"], 3);
    let broken = import(&home, "broken.json", format!("{{\"a\": {CANARY}}}"), &[]).await.expect(1);
    assert!(broken.stdout.starts_with("line 1: is not JSON"), "{}", broken.stdout);
    assert_eq!(events(&home).await, before);
}

#[tokio::test]
async fn fernet_tokens_are_opened_with_their_key_or_not_at_all() {
    let home = Home::new();
    let (_serving, owner) = served(&home).await;
    let tokens = format!("A={TOKEN}\nB=\"{TOKEN}\"\n");
    let fernet = ["--format", "fernet"];
    let before = events(&home).await;
    import(&home, "old.env", &tokens, &fernet).await.expect(2);
    let wrong = import_with(&home, "old.env", &tokens, &fernet, &[("FERNET_KEY", OTHER_KEY)]).await.expect(1);
    let expected = "line 1: cannot be opened: it was made with another key, or was changed or cut\n";
    assert!(wrong.stdout.starts_with(expected) && wrong.stdout.lines().count() == 2, "{}", wrong.stdout);
    let cut = format!("A={TOKEN}\nB={}\n", &TOKEN[..TOKEN.len() - 8]);
    let refused = import_with(&home, "old.env", cut, &fernet, &[("FERNET_KEY", KEY)]).await.expect(1);
    assert!(refused.stdout.starts_with("line 2: cannot be opened"), "{}", refused.stdout);
    assert!(!refused.stdout.contains(&TOKEN[..20]), "{}", refused.stdout);
    let no_key = import_with(&home, "old.env", &tokens, &fernet, &[("FERNET_KEY", "short")]).await.expect(2);
    assert!(no_key.stderr.contains("key 1 is not 32 bytes") && !no_key.stderr.contains("short"));
    assert_eq!(events(&home).await, before);

    let keys = written(&home, "keys", format!("{OTHER_KEY},{KEY}\n"));
    let with_file = ["--format", "fernet", "--fernet-key-file", keys.to_str().unwrap()];
    import(&home, "old.env", &tokens, &with_file).await.expect(0);
    assert_eq!(value(&owner, "A", 1).await, "hello");
    let json = json!({"old": {"token": TOKEN}}).to_string();
    let file = [("FERNET_KEY_FILE", keys.to_str().unwrap())];
    import_with(&home, "old.json", json, &fernet, &file).await.expect(0);
    assert_eq!(value(&owner, "old/token", 1).await, "hello");
}

#[tokio::test]
async fn a_file_has_an_end_and_is_stored_whole() {
    let home = Home::new();
    let (_serving, owner) = served(&home).await;
    let lines =
        |count: usize| (0..count).map(|number| format!("N{number:04}=value {number}\n")).collect::<String>();
    let refused = import(&home, "many.env", lines(2_001), &[]).await.expect(1);
    assert_eq!(refused.stdout, "the file: must have at most 2000 secrets, has 2001\n");
    import(&home, "many.env", lines(2_000), &["--dry-run"]).await.expect(0);
    assert_eq!(names(&owner).await, Vec::<String>::new());
    import(&home, "many.env", lines(2_000), &[]).await.expect(0);
    assert_eq!(value(&owner, "N1999", 1).await, "value 1999");
    let line = "x".repeat(65_000);
    let large: String = (0..126).map(|number| format!("L{number:03}={line}\n")).collect();
    import(&home, "large.env", large, &[]).await.expect(0);
    assert_eq!(value(&owner, "L125", 1).await.len(), 65_000);
    let too_large = import(&home, "large.env", "#".repeat(8 * 1024 * 1024 + 1), &[]).await.expect(1);
    assert!(too_large.stdout.starts_with("the file: must be at most"), "{}", too_large.stdout);
}

#[tokio::test]
async fn wrong_usage_is_told_in_words() {
    let home = Home::new();
    let (_serving, _owner) = served(&home).await;
    let unknown = import(&home, "secrets.txt", "A=1", &[]).await.expect(2);
    assert!(unknown.stderr.contains("--format"), "{}", unknown.stderr);
    import(&home, "x.env", "A=1", &["--prefix", "../"]).await.expect(2);
    import(&home, "x.env", "A=1", &["--prefix", "payments"]).await.expect(2);
    import(&home, "x.env", "A=1", &["--fernet-key-file", "x"]).await.expect(2);
    home.run(&["secrets", "import", "none.env", "--team", "main"]).await.expect(2);
    home.run(&["secrets", "import", "x.env"]).await.expect(2);
    let nobody = home.run(&["secrets", "import", "x.env", "--team", "nobody"]).await.expect(1);
    assert!(nobody.stderr.contains("there is no team nobody"), "{}", nobody.stderr);
    let nothing = import(&home, "empty.env", "# nothing\n", &[]).await.expect(1);
    assert!(nothing.stderr.contains("has no secrets"), "{}", nothing.stderr);
}
