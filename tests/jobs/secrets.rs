//! Jobs that use secrets.

use serde_json::{Value, json};
use tests::{Setup, TestApp, eventually};

use super::*;

/// Prints its environment's names and its secret in several disguises, and leaves the secret as its result.
const KINDS: &str = r#"
[jobs.connect]
command = ["sh", "-c", '''
env | sed 's/=.*//' | sort | tr '\n' ' '; echo
echo "plain $DB_PASSWORD, in base64 $(printf %s "$DB_PASSWORD" | base64)"
printf 'open '; sleep 0.05; printf 'sesame!\n'
echo "$DB_PASSWORD" >&2
printf '{{"used": "%s", "length": %s}}' "$DB_PASSWORD" ${{#DB_PASSWORD}} > "$DAYBOOK_RESULT"
until [ -e go ]; do sleep 0.02; done
''']
secrets = { DB_PASSWORD = "report-db" }
env = { MODE = "fast" }
max_attempts = 1
"#;

async fn store(client: &Client, name: &str, value: &str) -> String {
    let secret = client.post("/api/secrets", json!({"name": name, "value": value})).await.expect(201);
    secret.str("id").to_owned()
}

#[tokio::test]
async fn a_secret_is_used_recorded_and_never_shown() {
    let app = TestApp::with(Setup::default().kinds(KINDS)).await;
    let operator = app.operator();
    let secret = store(&operator, "report-db", "open sesame!").await;
    let path = queue(&operator, json!({"kind": "connect"})).await;
    printed(&operator, &path, "***").await;

    // The process still runs, and the use of the secret is on record.
    let used = eventually("the record", async || {
        let used = app.auditor().get("/api/audit/events?type=SecretUsed").await.expect(200);
        used.json["items"].get(0).cloned()
    })
    .await;
    assert_eq!(used["actor"], format!("job:{}", id(&path)));
    let change = |field: &str| {
        let changes = used["changes"].as_array().unwrap();
        changes.iter().find(|change| change["field"] == field).map(|change| change["after"].clone())
    };
    assert_eq!(change("secret_id"), Some(json!(secret)));
    assert_eq!((change("version"), change("attempt")), (Some(json!(1)), Some(json!(1))));
    let started = history(&app, &path).await.last().unwrap().position;
    assert!(used["position"].as_i64().unwrap() > started, "after the start that it was recorded for");

    open_gate(&app, "go");
    let job = ended(&operator, &path).await;
    assert_eq!((job.str("status"), &job.json["error"]), ("completed", &Value::Null), "{}", job.text);
    assert_eq!(job.json["result"], json!({"used": "***", "length": 12}));
    let out = texts(&operator, &path, "stdout").await;
    assert_eq!(
        out[0]
            .split_whitespace()
            .filter(|name| !["PWD", "SHLVL", "OLDPWD", "_"].contains(name))
            .collect::<Vec<_>>(),
        [
            "DAYBOOK_ARTIFACTS",
            "DAYBOOK_ATTEMPT",
            "DAYBOOK_JOB_ID",
            "DAYBOOK_RESULT",
            "DB_PASSWORD",
            "HOME",
            "MODE",
            "PATH"
        ],
        "nothing else of Daybook's own environment"
    );
    assert_eq!(out[1..], ["plain ***, in base64 ***", "***"]);
    assert_eq!(texts(&operator, &path, "stderr").await, ["***"]);
    let stored = app.ledger.read(0, 10_000).await.unwrap();
    assert!(stored.iter().all(|event| !event.payload.to_string().contains("open sesame")));
}

#[tokio::test]
async fn the_next_attempt_uses_the_present_value() {
    let kinds = "[jobs.length]\ncommand = ['sh', '-c', 'echo ${{#KEY}}; test ${{#KEY}} = 5']\nsecrets = { KEY = 'key' }";
    let app = TestApp::with(Setup::default().kinds(kinds).with("JOB_RETRY_DELAY_SECONDS", 2)).await;
    let operator = app.operator();
    let secret = store(&operator, "key", "abc").await;
    let path = queue(&operator, json!({"kind": "length", "max_attempts": 2})).await;
    printed(&operator, &path, "3").await;
    operator.put(&format!("/api/secrets/{secret}/value"), json!({"value": "abcde"})).await.expect(200);
    assert_eq!(ended(&operator, &path).await.str("status"), "completed");
    assert_eq!(texts(&operator, &path, "stdout").await, ["3", "5"]);
}

#[tokio::test]
async fn a_missing_secret_and_another_teams_fail_the_job_in_words() {
    let app = TestApp::with(Setup::default().kinds(KINDS)).await;
    open_gate(&app, "go");
    // The other team has one of this name, which is none of ours.
    store(&app.other_team(), "report-db", "the other team's").await;
    let operator = app.operator();
    let (path, job) = run(&operator, json!({"kind": "connect"})).await;
    assert_eq!((job.str("status"), &job.json["exit_code"]), ("failed", &Value::Null));
    assert_eq!(job.str("error"), "the team has no secret named \"report-db\"");
    assert_eq!(texts(&operator, &path, "system").await, [job.str("error")]);
    assert!(texts(&operator, &path, "stdout").await.is_empty(), "the process never ran");

    // A deleted one is missing too.
    let secret = store(&operator, "report-db", "ours for a while").await;
    operator.delete(&format!("/api/secrets/{secret}")).await;
    let (_, job) = run(&operator, json!({"kind": "connect"})).await;
    assert_eq!(job.str("error"), "the team has no secret named \"report-db\"");
    let used = app.auditor().get("/api/audit/events?type=SecretUsed").await.expect(200);
    assert_eq!(used.json["items"], json!([]));

    // And the other team's own job gets theirs.
    let (_, job) = run(&app.other_team(), json!({"kind": "connect"})).await;
    assert_eq!(job.json["result"], json!({"used": "***", "length": 16}));
}

#[tokio::test]
async fn an_attempt_that_cannot_have_all_its_secrets_uses_none() {
    let kinds = "[jobs.both]\ncommand = ['true']\nsecrets = { A = 'there', B = 'away' }\nmax_attempts = 1";
    let app = TestApp::with(Setup::default().kinds(kinds)).await;
    let operator = app.operator();
    store(&operator, "there", "a value").await;
    let uses = async || {
        let used = app.auditor().get("/api/audit/events?type=SecretUsed").await.expect(200);
        used.json["items"].as_array().unwrap().len()
    };
    let (_, job) = run(&operator, json!({"kind": "both"})).await;
    assert_eq!(job.str("error"), "the team has no secret named \"away\"");
    assert_eq!(uses().await, 0);

    // There it is, but its value is gone for ever.
    let away = store(&operator, "away", "another").await;
    let destroy = format!("/api/secrets/{away}/destroy");
    operator.post(&destroy, json!({"versions": [1]})).await.expect(200);
    let (_, job) = run(&operator, json!({"kind": "both"})).await;
    assert!(job.str("error").starts_with("the secret \"away\" cannot be used: "), "{}", job.text);
    assert_eq!(uses().await, 0);

    operator.put(&format!("/api/secrets/{away}/value"), json!({"value": "the next"})).await.expect(200);
    let (_, job) = run(&operator, json!({"kind": "both"})).await;
    assert_eq!(job.str("status"), "completed", "{}", job.text);
    eventually("both uses", async || (uses().await == 2).then_some(())).await;
}
