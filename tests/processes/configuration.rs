//! `check`, the keys, and configurations that must be refused.

use std::fs;
use std::net::TcpListener;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustix::process::Signal;
use tests::Database;

use super::home::Home;

#[tokio::test]
async fn check_names_every_problem_at_once() {
    let toml = "registration = 'perhaps'\ncolour = 'red'\n[jobs.broken]\ncommand = []\n[jobs.Loud]\ncommand = ['true', '{day}']\n";
    let home = Home::new()
        .file(toml)
        .with("LISTEN", "everywhere")
        .with("ENCRYPTION_KEY", "too-short")
        .with("JWT_SECRET", "short as well")
        .with("WORKER_CONCURRENCY", "0")
        .with("ADMIN_EMAIL", "nobody")
        .with("LOG_LEVEL", "loud")
        .with("SMTP_URL", "smtp://mail.example.org");
    let ended = home.run(&["check"]).await.expect(1);
    for name in [
        "LISTEN",
        "ENCRYPTION_KEY",
        "JWT_SECRET",
        "WORKER_CONCURRENCY",
        "ADMIN_EMAIL",
        "LOG_LEVEL",
        "MAIL_FROM",
        "REGISTRATION",
        "colour",
        "daybook.toml jobs.broken.command",
        "daybook.toml jobs.Loud",
        "daybook.toml jobs.Loud.command[1]",
    ] {
        assert!(
            ended.stdout.lines().any(|line| line.starts_with(&format!("{name}: "))),
            "{name}: {}",
            ended.stdout
        );
    }
    assert!(
        !ended.stdout.contains("too-short") && !ended.stdout.contains("short as well"),
        "secrets stay secret"
    );
    assert!(ended.stderr.contains("12 problems"), "{}", ended.stderr);
    assert!(!home.data().exists(), "looking changes nothing");

    // `serve` refuses the same in words, and starts nothing.
    let ended = home.run(&["serve"]).await.expect(1);
    assert!(ended.stderr.contains("LISTEN: must be address:port"), "{}", ended.stderr);
    assert!(!home.data().exists());
}

#[tokio::test]
async fn check_finds_what_only_the_rules_know_and_a_good_configuration_good() {
    let home = Home::new().with("ADMIN_PASSWORD", "short").with("ADMIN_EMAIL", "a b@example.org");
    let ended = home.run(&["check"]).await.expect(1);
    for name in ["ADMIN_PASSWORD: ", "ADMIN_EMAIL: "] {
        assert!(ended.stdout.contains(name), "{}", ended.stdout);
    }
    let home =
        home.without("ADMIN_PASSWORD").without("ADMIN_EMAIL").file("[jobs.good]\ncommand = ['true']\n");
    assert_eq!(home.run(&["check"]).await.expect(0).stdout, "the configuration is good\n");
    assert_eq!(home.processes(), Vec::<u32>::new());
}

#[tokio::test]
async fn production_refuses_missing_keys_and_the_private_server() {
    let home = Home::new().with("ENVIRONMENT", "production").with("CORS_ORIGINS", "*");
    for command in ["serve", "check", "migrate"] {
        let ended = home.run(&[command]).await.expect(1);
        let told = format!("{}{}", ended.stdout, ended.stderr);
        for name in ["DATABASE_URL", "JWT_SECRET", "ENCRYPTION_KEY", "CORS_ORIGINS"] {
            assert!(told.contains(&format!("{name}: ")), "{command} {name}: {told}");
        }
    }
    assert!(!home.data().exists());
}

#[tokio::test]
async fn generated_keys_are_good_for_production() {
    let home = Home::new();
    let printed = home.run(&["keys", "generate"]).await.expect(0).stdout;
    assert_ne!(printed, home.run(&["keys", "generate"]).await.expect(0).stdout);
    assert!(!home.data().exists(), "printed, not kept");
    let database = Database::empty().await;
    let mut production = home.with("ENVIRONMENT", "production").with("DATABASE_URL", database.url());
    for (name, value) in printed.lines().map(|line| line.split_once('=').unwrap()) {
        production = production.with(name, value);
    }
    production.run(&["check"]).await.expect(0);
    let serving = production.serve().await;
    serving.sign_in(serving.admin.as_ref().unwrap()).await;
    serving.stop(Signal::TERM).await.expect(0);
    assert!(!production.data().join("keys").exists());
}

#[tokio::test]
async fn keys_come_from_files_too() {
    let database = Database::empty().await;
    let home = Home::new().with("DATABASE_URL", database.url());
    let key = home.path().join("key");
    fs::write(&key, format!("{}\n", BASE64.encode([7; 32]))).unwrap();
    let home = home.with("ENCRYPTION_KEY_FILE", key.display());
    home.run(&["migrate"]).await.expect(0);
    fs::remove_file(&key).unwrap();
    let ended = home.run(&["check"]).await.expect(1);
    assert!(ended.stdout.contains("ENCRYPTION_KEY_FILE: cannot read"), "{}", ended.stdout);
}

#[tokio::test]
async fn a_wrong_encryption_key_is_refused_and_nothing_is_overwritten() {
    let database = Database::empty().await;
    let home = || Home::new().with("DATABASE_URL", database.url());
    let (right, wrong) = (BASE64.encode([1; 32]), BASE64.encode([2; 32]));
    let good = home().with("ENCRYPTION_KEY", &right);
    good.run(&["admin", "create", "--email", "ops@example.org"]).await.expect(0);
    let before = good.run(&["events", "--format", "jsonl"]).await.expect(0).stdout;
    let bad = home().with("ENCRYPTION_KEY", &wrong);
    for command in
        [&["serve"][..], &["migrate"], &["check"], &["admin", "create", "--email", "x@example.org"]]
    {
        let ended = bad.run(command).await.expect(1);
        let told = format!("{}{}", ended.stdout, ended.stderr);
        assert!(told.contains("ENCRYPTION_KEY"), "{command:?}: {told}");
        assert!(told.contains("does not open what this database holds"), "{command:?}: {told}");
    }
    assert_eq!(good.run(&["events", "--format", "jsonl"]).await.expect(0).stdout, before);
    let rotated = home().with("ENCRYPTION_KEY", &wrong).with("ENCRYPTION_KEY_PREVIOUS", &right);
    assert_eq!(rotated.run(&["events", "--format", "jsonl"]).await.expect(0).stdout, before);
}

#[tokio::test]
async fn lost_and_open_key_files_are_refused_and_the_right_one_brings_everything_back() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::new();
    home.run(&["admin", "create", "--email", "ops@example.org"]).await.expect(0);
    let file = home.data().join("keys/encryption_key");
    let key = fs::read(&file).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let ended = home.run(&["events"]).await.expect(1);
    assert!(ended.stderr.contains("chmod 600"), "{}", ended.stderr);
    fs::remove_file(&file).unwrap();
    let ended = home.run(&["events"]).await.expect(1);
    assert!(ended.stderr.contains("does not open what this database holds"), "{}", ended.stderr);
    assert!(!file.exists(), "no other key takes its place");
    let ended = home.run(&["check"]).await.expect(1);
    assert!(
        ended.stdout.contains("ENCRYPTION_KEY: ") && ended.stdout.contains("is missing"),
        "{}",
        ended.stdout
    );
    fs::write(&file, key).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let events = home.run(&["events", "--format", "jsonl"]).await.expect(0).json_lines();
    assert_eq!(events[0]["type"], "UserRegistered");
    assert_eq!(home.processes(), Vec::<u32>::new());
}

#[tokio::test]
async fn a_configured_address_that_is_taken_is_said_and_nothing_is_started() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let home = Home::new().with("LISTEN", address);
    let ended = home.run(&["serve"]).await.expect(3);
    assert!(ended.stderr.contains(&format!("cannot listen on {address} (LISTEN)")), "{}", ended.stderr);
    assert!(!home.data().join("postgres").exists());
}
