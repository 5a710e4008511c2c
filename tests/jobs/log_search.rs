//! Searching through logs: of one job, and of many.

use serde_json::{Value, json};
use tests::{Setup, TestApp};

use super::*;

const KINDS: &str = r#"
[jobs.shell]
command = ["sh", "-c", "{script}"]
params.script = { type = "string", max_length = 10000 }

[jobs.other]
command = ["sh", "-c", "{script}"]
params.script = { type = "string", max_length = 10000 }
"#;

fn found(page: &Reply) -> Vec<String> {
    let items = page.json["items"].as_array().unwrap();
    items.iter().map(|item| item["text"].as_str().unwrap().to_owned()).collect()
}

/// All pages of a search.
async fn all(client: &Client, query: &str) -> Vec<Value> {
    let mut items = vec![];
    let mut cursor = String::new();
    loop {
        let page = client.get(&format!("/api/jobs/logs?{query}{cursor}")).await.expect(200);
        items.extend(page.json["items"].as_array().unwrap().iter().cloned());
        let Some(next) = page.json["next"].as_str() else { return items };
        cursor = format!("&cursor={next}");
    }
}

#[tokio::test]
async fn the_logs_of_a_kind_are_searched_newest_first() {
    let app = TestApp::with(Setup::default().kinds(KINDS)).await;
    let operator = app.operator();
    let mut jobs = vec![];
    for n in 1..=4 {
        let text = format!("echo Error {n}a; echo fine; echo error {n}b >&2");
        let (path, _) = run(&operator, script(&text)).await;
        jobs.push(id(&path).to_owned());
    }
    let (other, _) = run(&operator, with(script("echo error elsewhere"), json!({"kind": "other"}))).await;
    let get = async |query: &str| operator.get(&format!("/api/jobs/logs?{query}")).await;

    let page = get("kind=shell&q=ERROR&stream=stdout").await.expect(200);
    assert_eq!(found(&page), ["Error 4a", "Error 3a", "Error 2a", "Error 1a"]);
    assert_eq!(page.json["next"], Value::Null);
    let item = &page.json["items"][0];
    assert_eq!(
        (&item["job_id"], &item["kind"], &item["attempt"], &item["stream"]),
        (&json!(jobs[3]), &json!("shell"), &json!(1), &json!("stdout"))
    );
    assert_eq!(found(&get("kind=shell&q=error&stream=stderr").await.expect(200)).len(), 4);
    let everything = get("q=error").await.expect(200);
    assert_eq!(found(&everything)[0], "error elsewhere");
    assert_eq!(everything.json["items"][0]["job_id"], id(&other));
    assert_eq!(found(&everything).len(), 9);
    assert!(found(&get("kind=none&q=error").await.expect(200)).is_empty());
    assert_eq!(get("").await.expect(200).json["items"].as_array().unwrap().len(), 13);

    // Pages, whatever their size, are the whole without a gap and without a repeat.
    for limit in [1, 2, 5, 200] {
        let paged = all(&operator, &format!("q=error&limit={limit}")).await;
        assert_eq!(json!(paged), everything.json["items"], "{limit}");
    }

    // From and to are times of lines.
    let lines = get("kind=shell&q=error").await.expect(200).json["items"].clone();
    let times: Vec<&str> =
        lines.as_array().unwrap().iter().map(|line| line["at"].as_str().unwrap()).collect();
    let of_second = |n: &&Value| n["job_id"] == jobs[1].as_str();
    let wanted: Vec<&Value> = lines.as_array().unwrap().iter().filter(of_second).collect();
    let before_third = times.iter().zip(lines.as_array().unwrap()).rev();
    let third = before_third.clone().find(|(_, line)| line["job_id"] == jobs[2].as_str()).unwrap().0;
    let second = before_third.clone().find(|(_, line)| line["job_id"] == jobs[1].as_str()).unwrap().0;
    let between = get(&format!("kind=shell&q=error&from={second}&to={third}")).await.expect(200);
    assert_eq!(json!(wanted), between.json["items"]);
    assert!(found(&get(&format!("q=error&to={}", "2001-01-01T00:00:00Z")).await.expect(200)).is_empty());
    assert!(found(&get(&format!("q=error&from={}", "2999-01-01T00:00:00Z")).await.expect(200)).is_empty());
}

#[tokio::test]
async fn what_is_searched_for_is_text_and_no_pattern() {
    let app = TestApp::with(Setup::default().kinds(KINDS)).await;
    let operator = app.operator();
    let text =
        r#"printf '%s\n' '100%' '100 of' 'a_b' 'axb' 'x.*y' 'xaay' 'say "hi"' 'back\slash' 'ÄRGER' '[a]'"#;
    let (path, _) = run(&operator, script(text)).await;
    for (q, expected) in [
        ("100%25", "100%"),
        ("a_b", "a_b"),
        ("x.*y", "x.*y"),
        ("%22HI%22", "say \"hi\""),
        ("back%5Cslash", "back\\slash"),
        ("%C3%A4rger", "ÄRGER"),
        ("%5Ba%5D", "[a]"),
    ] {
        let within = operator.get(&format!("{path}/logs?q={q}")).await.expect(200);
        let across = operator.get(&format!("/api/jobs/logs?kind=shell&q={q}")).await.expect(200);
        assert_eq!((found(&within), found(&across)), (vec![expected.into()], vec![expected.into()]), "{q}");
    }
}

#[tokio::test]
async fn wrong_searches_are_refused_and_other_teams_logs_are_not_there() {
    let app = TestApp::with(Setup::default().kinds(KINDS)).await;
    let operator = app.operator();
    for n in 0..3 {
        run(&operator, script(&format!("echo ours {n}"))).await;
    }
    let page = operator.get("/api/jobs/logs?q=ours&limit=1").await.expect(200);
    let cursor = page.str("next").to_owned();
    for (query, field) in [
        ("limit=0".to_owned(), "limit"),
        ("limit=201".to_owned(), "limit"),
        ("stream=stdin".to_owned(), "stream"),
        ("kind=%00".to_owned(), "kind"),
        ("kind=a%20b".to_owned(), "kind"),
        ("from=yesterday".to_owned(), "from"),
        ("to=x".to_owned(), "to"),
        ("lines=3".to_owned(), "lines"),
        (format!("q={}", "x".repeat(513)), "q"),
        ("cursor=AAAA".to_owned(), "cursor"),
        (format!("q=other&cursor={cursor}"), "cursor"),
        (format!("cursor={cursor}"), "cursor"),
    ] {
        let refused = operator.get(&format!("/api/jobs/logs?{query}")).await.expect(422);
        assert_eq!(refused.fields(), [field], "{query}");
    }
    let strange = app.other_team().get(&format!("/api/jobs/logs?q=ours&cursor={cursor}")).await.expect(422);
    assert_eq!(strange.fields(), ["cursor"]);
    assert!(all(&app.other_team(), "q=ours").await.is_empty());
    assert_eq!(all(&app.viewer(), "q=ours").await.len(), 3);
    app.auditor().get("/api/jobs/logs").await.expect(403);
    app.anon().get("/api/jobs/logs").await.expect(401);

    // Also where a row of the logs says otherwise: the team's own view decides.
    let stolen = "update job_log_chunks set team_id = $1";
    sqlx::query(stolen).bind(app.people.other_team.0).execute(app.ledger.pool()).await.unwrap();
    assert!(all(&app.other_team(), "q=ours").await.is_empty());
}

#[tokio::test]
async fn one_request_looks_at_so_much_and_no_more() {
    let app = TestApp::with(Setup::default().kinds(KINDS)).await;
    let operator = app.operator();
    let (path, _) = run(&operator, script("echo first; echo needle")).await;
    // As after a long time: thousands of chunks of other lines, later than it.
    let many = "insert into job_log_chunks (job_id, first_seq, last_seq, attempt, team_id, kind, at, lines) \
                select job_id, n * 10 + 3, n * 10 + 12, 1, team_id, kind, at + n * interval '1 ms', \
                       (select jsonb_agg(jsonb_build_object('at', c.lines->0->'at', 'stream', 'stdout', 'text', 'hay ' || line)) \
                        from generate_series(1, 10) line) \
                from job_log_chunks c, generate_series(0, 3999) n where job_id = $1::uuid and first_seq = 1";
    let done = sqlx::query(many).bind(id(&path)).execute(app.ledger.pool()).await.unwrap();
    assert_eq!(done.rows_affected(), 4_000);
    let first = operator.get("/api/jobs/logs?kind=shell&q=needle").await.expect(200);
    assert!(found(&first).is_empty() && first.json["next"].is_string(), "{}", first.text);
    let needle = all(&operator, "kind=shell&q=needle").await;
    assert_eq!(needle.len(), 1);
    // Within one job as well, and it goes on where it stopped.
    let none = operator.get(&format!("{path}/logs?q=nothing")).await.expect(200);
    assert!(found(&none).is_empty() && none.json["next"].is_string(), "{}", none.text);
    let rest = operator.get(&format!("{path}/logs?q=nothing&cursor={}", none.str("next"))).await.expect(200);
    assert!(found(&rest).is_empty());
}

#[tokio::test]
async fn an_attempts_lines_are_picked() {
    let app = TestApp::with(Setup::default().kinds(KINDS).with("JOB_RETRY_DELAY_SECONDS", 0)).await;
    let operator = app.operator();
    let text = "echo attempt $DAYBOOK_ATTEMPT; exit 1";
    let (path, _) = run(&operator, with(script(text), json!({"max_attempts": 3}))).await;
    for attempt in 1..=3 {
        let page = operator.get(&format!("{path}/logs?attempt={attempt}")).await.expect(200);
        assert_eq!(found(&page), [format!("attempt {attempt}")]);
        assert_eq!(page.json["items"][0]["seq"], attempt);
    }
    assert!(found(&operator.get(&format!("{path}/logs?attempt=4")).await.expect(200)).is_empty());
    let strange = operator.get(&format!("{path}/logs?attempt=-1")).await.expect(422);
    assert_eq!(strange.fields(), ["attempt"]);
}
