//! `daybook run`: a program with secrets in its environment, over the API.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};
use tests::{Client, eventually};

use super::Process;
use super::home::{Ended, Home, Serving};

struct Shop {
    home: Home,
    serving: Serving,
    owner: Client,
}

impl Shop {
    async fn open() -> Self {
        Self::open_with(Home::new()).await
    }

    async fn open_with(home: Home) -> Self {
        let serving = home.serve().await;
        let owner = serving.sign_in(serving.admin.as_ref().unwrap()).await;
        Self { home, serving, owner }
    }

    async fn with(self, name: &str, value: &str) -> Self {
        self.owner.post("/api/secrets", json!({"name": name, "value": value})).await.expect(201);
        self
    }

    async fn key(&self, scopes: &[&str]) -> String {
        let body = json!({"name": "deploy", "scopes": scopes});
        self.owner.post("/api/auth/api-keys", body).await.expect(201).str("key").to_owned()
    }

    /// A key that reads values.
    async fn reader(&self) -> String {
        self.key(&["secrets:list", "secrets:reveal"]).await
    }

    /// `daybook run` with these arguments, in a folder whose configuration cannot be read.
    fn command(&self, key: &str, arguments: &[&str]) -> Command {
        let folder = self.home.path().join("elsewhere");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("daybook.toml"), "this is no configuration [").unwrap();
        let mut command = self.home.command(&["run"]);
        command.args(arguments).current_dir(&folder).env("LISTEN", "nonsense");
        command.env("DAYBOOK_URL", format!("http://{}", self.serving.address)).env("DAYBOOK_API_KEY", key);
        command
    }

    async fn run(&self, key: &str, arguments: &[&str]) -> Ended {
        Process::start(self.command(key, arguments)).ended().await
    }

    /// The readings that were recorded.
    async fn readings(&self) -> Vec<Value> {
        let events = self.home.run(&["events", "--format", "jsonl"]).await.expect(0).json_lines();
        events.into_iter().filter(|event| event["type"] == "SecretRevealed").collect()
    }
}

#[tokio::test]
async fn a_program_gets_the_secrets_of_its_folders_and_each_reading_is_recorded() {
    let shop = Shop::open().await.with("payments/stripe/api-key", "sk\nlive").await;
    let shop = shop
        .with("payments/2fa.seed", "seed")
        .await
        .with("mail/password", "pw")
        .await
        .with("other", "no")
        .await;
    let key = shop.reader().await;
    let mut command =
        shop.command(&key, &["--secrets", "payments/", "--secrets", "mail/", "--", "env", "-0"]);
    command.env("KEPT", "yes").env("DAYBOOK_TEAM", "main");
    let ended = Process::start(command).ended().await.expect(0);
    assert_eq!(ended.stderr, "");
    let lines: Vec<&str> = ended.stdout.split_terminator('\0').collect();
    for expected in ["STRIPE_API_KEY=sk\nlive", "_2FA_SEED=seed", "PASSWORD=pw", "KEPT=yes"] {
        assert!(lines.contains(&expected), "{expected}: {lines:#?}");
    }
    assert!(!lines.iter().any(|line| line.starts_with("DAYBOOK_") || line.contains(&key)), "{lines:#?}");
    assert!(!ended.stdout.contains("OTHER="));

    let readings = shop.readings().await;
    assert_eq!(readings.len(), 3);
    for reading in &readings {
        assert!(reading["actor"].as_str().unwrap().starts_with("key:"), "{reading}");
        assert!(reading["changes"].to_string().contains("daybook run: env"), "{reading}");
    }
    let arguments = ["--secrets", "mail/", "--reason", "incident #42", "--", "true"];
    shop.run(&key, &arguments).await.expect(0);
    assert!(shop.readings().await.last().unwrap()["changes"].to_string().contains("incident #42"));
}

#[tokio::test]
async fn the_programs_end_is_the_commands_end() {
    let shop = Shop::open().await.with("app/token", "t").await;
    let key = shop.reader().await;
    let shell = |script| ["--secrets", "app/", "--", "sh", "-c", script];
    shop.run(&key, &shell("test \"$TOKEN\" = t && exit 41")).await.expect(41);
    let killed = shop.command(&key, &shell("kill -KILL $$")).status().unwrap();
    assert_eq!(killed.signal(), Some(9));
    let script = "tail -f /dev/null & trap \"kill $!; exit 7\" TERM; echo ready; wait";
    let mut waiting = Process::start(shop.command(&key, &shell(script)));
    waiting.line("its readiness", |line| line.trim() == "ready").await;
    waiting.stop(Signal::TERM).await.expect(7);

    let missing = shop.run(&key, &["--secrets", "app/", "--", "no-such-program"]).await.expect(127);
    assert!(missing.stderr.contains("no-such-program"), "{}", missing.stderr);
    let file = shop.home.path().join("no-program");
    fs::write(&file, "").unwrap();
    shop.run(&key, &["--secrets", "app/", "--", file.to_str().unwrap()]).await.expect(126);
}

#[tokio::test]
async fn what_is_refused_starts_no_program() {
    let shop =
        Shop::open().await.with("app/token", "t").await.with("app/a-b", "1").await.with("app/a.b", "2").await;
    let shop = shop.with("loads/ld-preload", "/tmp/x.so").await.with("shells/bash.env", "/tmp/x.sh").await;
    let shop = shop.with("nodes/node-options", "--require=/tmp/x.js").await;
    let key = shop.reader().await;
    for (folder, told) in [
        ("app/", "app/a-b and app/a.b would both be A_B"),
        ("loads/", "loads/ld-preload would be LD_PRELOAD"),
        ("shells/", "shells/bash.env would be BASH_ENV"),
        ("nodes/", "nodes/node-options would be NODE_OPTIONS"),
        ("none/", "there are no secrets under none/"),
    ] {
        let ended = shop.run(&key, &["--secrets", folder, "--", "echo", "started"]).await.expect(1);
        assert!(ended.stderr.contains(told), "{}", ended.stderr);
        assert_eq!(ended.stdout, "");
    }
    assert_eq!(shop.readings().await, Vec::<Value>::new(), "what cannot end well is not begun");
    let allowed = ["--secrets", "none/", "--allow-none", "--", "echo", "started"];
    assert_eq!(shop.run(&key, &allowed).await.expect(0).stdout, "started\n");
}

#[tokio::test]
async fn a_variable_that_is_set_already_is_replaced_only_if_that_is_asked_for() {
    let shop = Shop::open().await.with("app/mode", "from inside").await;
    let key = shop.reader().await;
    for set in ["from outside", ""] {
        let mut command = shop.command(&key, &["--secrets", "app/", "--", "printenv", "MODE"]);
        command.env("MODE", set);
        let refused = Process::start(command).ended().await.expect(1);
        let told = "app/mode would be MODE, which is set already (--override to replace it)";
        assert!(refused.stderr.contains(told) && refused.stdout.is_empty(), "{refused:?}");
    }
    assert_eq!(shop.readings().await, Vec::<Value>::new());
    let arguments = ["--secrets", "app/", "--override", "--", "printenv", "MODE"];
    let mut command = shop.command(&key, &arguments);
    command.env("MODE", "from outside");
    assert_eq!(Process::start(command).ended().await.expect(0).stdout, "from inside\n");
    let anew = shop.run(&key, &["--secrets", "app/", "--", "printenv", "MODE"]).await.expect(0);
    assert_eq!(anew.stdout, "from inside\n");
}

#[tokio::test]
async fn a_key_goes_over_http_to_this_machine_only_and_there_past_every_proxy() {
    let shop = Shop::open().await.with("app/token", "t").await;
    let key = shop.reader().await;
    let run = async |url: String, arguments: &[&str]| {
        let mut command = shop.command(&key, arguments);
        // Nothing listens there.
        for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            command.env(name, "http://127.0.0.1:1");
        }
        command.env("DAYBOOK_URL", url);
        Process::start(command).ended().await
    };
    let port = shop.serving.address.port();
    let (here, elsewhere) = (format!("http://127.0.0.1:{port}"), format!("http://0.0.0.0:{port}"));
    let print = ["--secrets", "app/", "--", "printenv", "TOKEN"];
    assert_eq!(run(here, &print).await.expect(0).stdout, "t\n");
    // Connections to it end up here as well, but it is no address of this machine alone.
    let refused = run(elsewhere.clone(), &print).await.expect(2);
    assert!(refused.stderr.contains("over http") && refused.stderr.contains("--insecure"), "{refused:?}");
    assert!(refused.stdout.is_empty() && !refused.stderr.contains(&key), "{refused:?}");
    let insecure = ["--secrets", "app/", "--insecure", "--", "printenv", "TOKEN"];
    assert_eq!(run(elsewhere, &insecure).await.expect(0).stdout, "t\n");
}

#[tokio::test]
async fn a_key_without_the_right_to_reveal_is_refused_by_the_permissions_name() {
    let shop = Shop::open().await.with("app/token", "t").await;
    let lister = shop.key(&["secrets:read"]).await;
    let stranger = shop.key(&["jobs:read"]).await;
    let arguments = ["--secrets", "app/", "--", "echo", "started"];
    for (key, told) in [
        (lister.as_str(), "app/token: The permission secrets:reveal is missing."),
        (stranger.as_str(), "the secrets under app/: The permission secrets:list is missing."),
        ("dbk_nonsense", "does not accept the API key"),
    ] {
        let ended = shop.run(key, &arguments).await.expect(1);
        assert!(ended.stderr.contains(told), "{}", ended.stderr);
        assert!(!ended.stderr.contains(key) && ended.stdout.is_empty(), "{ended:?}");
    }
    let mut elsewhere = shop.command(&lister, &arguments);
    elsewhere.env("DAYBOOK_TEAM", "nobody");
    Process::start(elsewhere).ended().await.expect(1);
}

#[tokio::test]
async fn a_value_that_no_environment_can_hold_is_refused_by_name() {
    let shop = Shop::open().await;
    let file = shop.home.path().join("binary.json");
    fs::write(&file, json!([{"name": "app/binary", "value_base64": "YQBi"}]).to_string()).unwrap();
    shop.home.run(&["secrets", "import", file.to_str().unwrap(), "--team", "main"]).await.expect(0);
    eventually("the secret", async || {
        let listed = shop.owner.get("/api/secrets").await.expect(200);
        (listed.json["items"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    let key = shop.reader().await;
    let ended = shop.run(&key, &["--secrets", "app/", "--", "true"]).await.expect(1);
    assert!(ended.stderr.contains("app/binary holds a NUL byte"), "{}", ended.stderr);
}

#[tokio::test]
async fn wrong_usage_and_a_daybook_that_is_away_are_told_apart() {
    let home = Home::new();
    let run = async |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = home.command(&["run"]);
        command.args(arguments).envs(environment.iter().copied());
        Process::start(command).ended().await
    };
    let arguments = ["--secrets", "app/", "--", "true"];
    // A port that nothing listens at: it was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let away = run(&arguments, &[("DAYBOOK_URL", &url), ("DAYBOOK_API_KEY", "dbk_x")]).await.expect(3);
    assert!(away.stderr.contains("cannot be reached") && away.stderr.contains("refused"), "{}", away.stderr);
    let no_key = run(&arguments, &[]).await.expect(2);
    assert!(no_key.stderr.contains("DAYBOOK_API_KEY_FILE"), "{}", no_key.stderr);
    let missing = [("DAYBOOK_API_KEY_FILE", "no-such-file")];
    assert!(run(&arguments, &missing).await.expect(2).stderr.contains("no-such-file"));
    let twice = [("DAYBOOK_API_KEY_FILE", "x"), ("DAYBOOK_API_KEY", "dbk_x")];
    assert!(run(&arguments, &twice).await.expect(2).stderr.contains("not both"));
    let key = [("DAYBOOK_API_KEY", "dbk_x")];
    for wrong in [
        &["--secrets", "app", "--", "true"][..],
        &["--secrets", "../", "--", "true"],
        &["--secrets", "app/"],
        &["--secrets", "app/", "true"],
        &["--", "true"],
        &["--secrets", "app/", "--reason", "two\nlines", "--", "true"],
        &["--secrets", "app/", "--url", "ftp://x", "--", "true"],
        &["--secrets", "app/", "--url", "https://user:pw@x", "--", "true"],
        &["--secrets", "app/", "--url", "http://daybook.example.org", "--", "true"],
    ] {
        run(wrong, &key).await.expect(2);
    }
    run(&arguments, &[("DAYBOOK_API_KEY", "two\nlines")]).await.expect(2);
    assert_eq!(home.processes(), Vec::<u32>::new(), "no server of its own");
}

#[tokio::test]
async fn many_secrets_arrive_from_all_pages() {
    let shop = Shop::open().await;
    let file = shop.home.path().join("many.env");
    let lines: String = (0..203).map(|number| format!("N{number}=value {number}\n")).collect();
    fs::write(&file, lines).unwrap();
    let import = ["secrets", "import", file.to_str().unwrap(), "--team", "main", "--prefix", "many/"];
    shop.home.run(&import).await.expect(0);
    let client = shop.owner.clone();
    eventually("the last secret", async || {
        let listed = client.get("/api/secrets?prefix=many/N99").await.expect(200);
        (listed.json["items"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    let key_file = shop.home.path().join("key");
    fs::write(&key_file, format!("{}\n", shop.reader().await)).unwrap();
    let script = "env | grep -c '^N[0-9]*=value '";
    let mut command = shop.command("", &["--secrets", "many/", "--", "sh", "-c", script]);
    command.env_remove("DAYBOOK_API_KEY").env("DAYBOOK_API_KEY_FILE", &key_file);
    let ended = Process::start(command).ended().await.expect(0);
    assert_eq!(ended.stdout, "203\n");
}

#[tokio::test]
async fn it_waits_where_daybook_asks_it_to() {
    let home = Home::new().with("RATE_LIMIT_ENABLED", true).with("RATE_LIMIT_AUTHENTICATED_PER_MINUTE", 60);
    let shop = Shop::open_with(home).await.with("app/token", "t").await;
    let key = shop.reader().await;
    let client = shop.serving.anon().with_token(&key);
    eventually("the limit", async || (client.get("/api/secrets?limit=1").await.status == 429).then_some(()))
        .await;
    let ended = shop.run(&key, &["--secrets", "app/", "--", "sh", "-c", "echo $TOKEN"]).await.expect(0);
    assert_eq!(ended.stdout, "t\n");
}
