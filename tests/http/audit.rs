//! What an auditor can find out: what happened, how things came to be, how they stood.

use std::collections::BTreeSet;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};
use tests::{Client, Reply, TestApp};

use super::support::{audited, count, keep, problem, refused, said, up_to_now};

fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

fn positions(events: &[Value]) -> Vec<i64> {
    events.iter().map(|event| event["position"].as_i64().unwrap()).collect()
}

fn time(event: &Value) -> DateTime<Utc> {
    event["at"].as_str().unwrap().parse().unwrap()
}

fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// A secret that was stored, changed twice and put away, and the positions of that.
async fn lived(client: &Client) -> (String, Vec<i64>) {
    let secret = keep(client, "lived").await;
    let path = format!("/api/secrets/{}", secret.str("id"));
    let position = |reply: &Reply| reply.header("daybook-position").parse().unwrap();
    let mut positions = vec![position(&secret)];
    for value in ["second", "third"] {
        positions
            .push(position(&client.put(&format!("{path}/value"), json!({"value": value})).await.expect(200)));
    }
    positions.push(position(&client.delete(&path).await.expect(204)));
    (secret.str("id").to_owned(), positions)
}

#[tokio::test]
async fn events_are_found_by_everything_that_is_known_of_them() {
    let app = TestApp::start().await;
    let (operator, auditor) = (app.operator().with_header("x-request-id", "op-1"), app.auditor());
    let (id, _) = lived(&operator).await;
    keep(&app.owner(), "other").await;
    let all = audited(&app, &auditor, "").await;
    let sorted: BTreeSet<_> = positions(&all).into_iter().collect();
    assert_eq!(positions(&all), sorted.into_iter().rev().collect::<Vec<_>>(), "newest first, each once");

    let of_it = audited(&app, &auditor, &format!("aggregate_type=secret&aggregate_id={id}")).await;
    assert_eq!(types(&of_it), ["SecretDeleted", "SecretValueChanged", "SecretValueChanged", "SecretStored"]);
    let sequences: Vec<_> = of_it.iter().map(|event| event["sequence"].as_i64().unwrap()).collect();
    assert_eq!(sequences, [4, 3, 2, 1]);
    for event in &of_it {
        assert_eq!((&event["aggregate_type"], &event["aggregate_id"]), (&json!("secret"), &json!(id)));
        assert_eq!((&event["team_id"], &event["ip"]), (&json!(app.people.team), &json!("127.0.0.1")));
        assert_eq!((&event["request_id"], &event["version"]), (&json!("op-1"), &json!("1")));
    }
    assert_eq!(types(&audited(&app, &auditor, "type=SecretStored").await).len(), 2);
    assert_eq!(audited(&app, &auditor, "request_id=op-1").await, of_it);
    assert_eq!(audited(&app, &auditor, &format!("actor=user:{}", app.people.operator)).await, of_it);
    let two = audited(&app, &auditor, &format!("actor=user:{}&type=SecretStored", app.people.owner)).await;
    assert_eq!((two.len(), said(&two[0], "name")), (1, &json!("other")));
    for nothing in [
        "type=Nothing",
        "actor=user:x",
        "aggregate_id=x",
        "request_id=x%27--",
        "type=SecretStored&aggregate_type=job",
    ] {
        assert!(audited(&app, &auditor, nothing).await.is_empty(), "{nothing}");
    }
    // From is within, to is not.
    let (first, last) = (time(&of_it[3]), time(&of_it[0]));
    let between = async |from: DateTime<Utc>, to: DateTime<Utc>| {
        let query = format!("aggregate_id={id}&from={}&to={}", text(from), text(to));
        audited(&app, &auditor, &query).await.len()
    };
    let moment = TimeDelta::microseconds(1);
    assert_eq!(between(first, last + moment).await, 4);
    let inside = of_it.iter().filter(|event| time(event) > first && time(event) < last).count();
    assert_eq!(between(first + moment, last).await, inside);
    assert_eq!(between(last, first).await, 0);
    assert_eq!(between(Utc::now() + TimeDelta::days(1), Utc::now() + TimeDelta::days(2)).await, 0);
    let fields = auditor.get("/api/audit/events?fields=type,position&limit=1").await.expect(200);
    assert_eq!(fields.json["items"][0].as_object().unwrap().len(), 2);
}

#[tokio::test]
async fn paging_backwards_meets_every_event_once_while_new_ones_arrive() {
    let app = TestApp::start().await;
    let (operator, auditor) = (app.operator(), app.auditor());
    for n in 0..15 {
        keep(&operator, &format!("s{n}")).await;
    }
    let before = positions(&audited(&app, &auditor, "").await);
    let auditor = up_to_now(&app, &auditor).await;
    let (mut met, mut cursor) = (vec![], String::new());
    loop {
        let page = auditor.get(&format!("/api/audit/events?limit=4{cursor}")).await.expect(200);
        met.extend(positions(page.json["items"].as_array().unwrap()));
        keep(&operator, &format!("meanwhile-{}", met.len())).await;
        let Some(next) = page.json["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let unique: BTreeSet<_> = met.iter().collect();
    assert_eq!(unique.len(), met.len());
    assert!(before.iter().all(|position| unique.contains(position)), "{before:?} {met:?}");
    assert!(met.is_sorted_by(|a, b| a > b));
}

#[tokio::test]
async fn claims_are_hidden_and_nothing_else() {
    let app = TestApp::start().await;
    let keyed = app.operator().with_header("idempotency-key", "k");
    keyed.post("/api/secrets", json!({"name": "db", "value": "v"})).await.expect(201);
    let admin = audited(&app, &app.admin(), "").await;
    assert!(admin.iter().all(|event| event["aggregate_type"] != "claim"));
    assert!(count(&app, "select count(*) from events where aggregate_type = 'claim'").await > 2);
    let last = positions(&admin)[0];
    let shown = format!("select count(*) from events where aggregate_type <> 'claim' and position <= {last}");
    assert_eq!(count(&app, &shown).await, admin.len() as i64, "the admin sees the whole instance");
    refused(&app.admin().get("/api/audit/events?aggregate_type=claim").await, &["aggregate_type"]);
    problem(
        &app.admin().get(&format!("/api/audit/claim/{}/history", app.people.team)).await,
        404,
        "not_found",
    );
}

#[tokio::test]
async fn an_auditor_sees_their_own_team_and_the_admin_all() {
    let app = TestApp::start().await;
    let ours = keep(&app.owner(), "ours").await;
    let theirs = keep(&app.other_team(), "theirs").await;
    for (client, team) in [(app.auditor(), app.people.team), (app.other_team(), app.people.other_team)] {
        let events = audited(&app, &client, "").await;
        assert!(!events.is_empty());
        assert!(events.iter().all(|event| event["team_id"] == json!(team)), "{events:?}");
    }
    let history = |secret: &Reply| format!("/api/audit/secret/{}/history", secret.str("id"));
    let state = |secret: &Reply| format!("/api/audit/secret/{}/state", secret.str("id"));
    for path in [history(&theirs), state(&theirs), format!("/api/audit/team/{}/state", app.people.other_team)]
    {
        problem(&app.auditor().get(&path).await, 404, "not_found");
        app.admin().get(&path).await.expect(200);
    }
    let query = format!("aggregate_id={}", theirs.str("id"));
    assert!(audited(&app, &app.auditor(), &query).await.is_empty());
    app.auditor().get(&history(&ours)).await.expect(200);
    let by_team = app.auditor().get(&format!("/api/audit/team/{}/state", app.people.team)).await.expect(200);
    assert_eq!(by_team.json["state"]["slug"], "main");
}

#[tokio::test]
async fn a_history_tells_what_each_event_changed() {
    let app = TestApp::start().await;
    let (id, expected) = lived(&app.operator()).await;
    let auditor = app.auditor();
    let path = format!("/api/audit/secret/{id}/history");
    let history = auditor.get(&path).await.expect(200);
    let items = history.json["items"].as_array().unwrap();
    assert_eq!(types(items), ["SecretStored", "SecretValueChanged", "SecretValueChanged", "SecretDeleted"]);
    // A write's position is that of the last event stored with it: the claim on a name stands after it.
    assert!(positions(items).iter().zip(&expected).all(|(event, write)| event <= write), "{history:?}");
    let change = |event: &Value, field: &str| {
        let changes = event["changes"].as_array().unwrap().clone();
        let found = changes.iter().find(|change| change["field"] == field);
        found.map(|change| (change["before"].clone(), change["after"].clone()))
    };
    let sealed = Some((json!("sealed"), json!("sealed")));
    assert_eq!(change(&items[0], "name"), Some((Value::Null, json!("lived"))));
    assert_eq!(change(&items[0], "sealed"), Some((Value::Null, json!("sealed"))));
    assert_eq!(change(&items[1], "version"), Some((json!(1), json!(2))));
    assert_eq!(change(&items[1], "sealed"), sealed);
    assert_eq!(
        (change(&items[2], "version"), change(&items[2], "sealed")),
        (Some((json!(2), json!(3))), sealed)
    );
    assert_eq!(items[3]["changes"], json!([{"field": "deleted", "before": false, "after": true}]));

    let first = auditor.get(&format!("{path}?limit=3")).await.expect(200);
    assert_eq!((types(first.json["items"].as_array().unwrap()).len(), first.str("next")), (3, "3"));
    let rest = auditor.get(&format!("{path}?limit=3&cursor=3")).await.expect(200);
    assert_eq!((rest.json["items"][0].clone(), &rest.json["next"]), (items[3].clone(), &Value::Null));
    for bad in ["cursor=x", "cursor=0", "cursor=-1", "limit=0", "limit=201", "as_of=1"] {
        let field = bad.split('=').next().unwrap();
        refused(&auditor.get(&format!("{path}?{bad}")).await, &[field]);
    }
    let user = app.admin().get(&format!("/api/audit/user/{}/history", app.people.owner)).await.expect(200);
    let registered = &user.json["items"][0];
    assert_eq!(change(registered, "email"), Some((Value::Null, json!("owner@example.org"))));
    assert_eq!(change(registered, "password_hash"), Some((Value::Null, json!("sealed"))));
    assert!(!user.text.contains("argon2"));
}

#[tokio::test]
async fn a_state_is_as_of_the_moment_that_was_asked_for() {
    let app = TestApp::start().await;
    let (id, _) = lived(&app.operator()).await;
    let auditor = app.auditor();
    let path = format!("/api/audit/secret/{id}/state");
    let history = auditor.get(&format!("/api/audit/secret/{id}/history")).await.expect(200);
    let items = history.json["items"].as_array().unwrap().clone();
    let at = positions(&items);
    let as_of = async |as_of: String| auditor.get(&format!("{path}?as_of={as_of}")).await;
    let expect = |reply: Reply, event: usize| {
        let reply = reply.expect(200);
        assert_eq!(reply.json["position"], at[event]);
        assert_eq!(reply.json["sequence"], event as i64 + 1);
        let state = &reply.json["state"];
        assert_eq!(
            (&state["version"], &state["deleted"]),
            (&json!((event + 1).min(3)), &json!(event == 3)),
            "{}",
            reply.text
        );
        assert_eq!((&state["sealed"], &state["name"]), (&json!("sealed"), &json!("lived")));
    };
    problem(&as_of((at[0] - 1).to_string()).await, 404, "not_found");
    problem(&as_of("0".to_owned()).await, 404, "not_found");
    for (event, position) in at.iter().enumerate() {
        expect(as_of(position.to_string()).await, event);
        if event > 0 {
            expect(as_of((position - 1).to_string()).await, event - 1);
        }
    }
    expect(auditor.get(&path).await, 3);
    // A moment includes what was recorded at it; what happened within one millisecond is one moment.
    let moment = TimeDelta::microseconds(1);
    problem(&as_of(text(time(&items[0]) - moment)).await, 404, "not_found");
    for event in 0..4 {
        let last = (0..4).rev().find(|other| time(&items[*other]) == time(&items[event])).unwrap();
        expect(as_of(text(time(&items[event]))).await, last);
        expect(as_of(text(time(&items[event]) + moment)).await, last);
    }
    let offset = time(&items[0]).with_timezone(&chrono::FixedOffset::east_opt(7_200).unwrap());
    expect(as_of(offset.to_rfc3339_opts(SecondsFormat::Millis, false).replace('+', "%2B")).await, 0);
    problem(&as_of("1970-01-01T00:00:00Z".to_owned()).await, 404, "not_found");
    problem(&as_of("0001-01-01T00:00:00Z".to_owned()).await, 404, "not_found");

    let beyond = app.ledger.head().await.unwrap() + 100;
    for wrong in [
        "-1",
        &beyond.to_string(),
        "9223372036854775808",
        "x",
        "",
        "2031-01-01",
        "%00",
        "2999-01-01T00:00:00Z",
        "1.5",
        "-262143-01-01T00:00:00Z",
        "-5000-01-01T00:00:00Z",
        "%2B262142-01-01T00:00:00Z",
    ] {
        refused(&as_of(wrong.to_owned()).await, &["as_of"]);
    }
    problem(&auditor.get(&format!("/api/audit/secret/{}/state", app.people.team)).await, 404, "not_found");
}

#[tokio::test]
async fn reading_the_audit_trail_is_itself_on_record() {
    let app = TestApp::start().await;
    let secret = keep(&app.owner(), "db").await;
    let id = secret.str("id");
    let auditor = app.auditor();
    let asked = [
        "/api/audit/events?type=SecretStored&limit=5".to_owned(),
        format!("/api/audit/secret/{id}/history"),
        format!("/api/audit/secret/{id}/state?as_of=0"),
    ];
    for (number, path) in asked.iter().enumerate() {
        let reply = auditor.with_header("x-request-id", format!("audit-{number}")).get(path).await;
        assert_eq!(reply.status, if number == 2 { 404 } else { 200 });
        // In the log when the answer arrives, not only some time later in a view.
        let recorded = format!(
            "select count(*) from events where event_type = 'AuditRead' and metadata->>'request_id' = 'audit-{number}'"
        );
        assert_eq!(count(&app, &recorded).await, 1, "{path}");
    }
    let reads =
        audited(&app, &app.owner(), &format!("type=AuditRead&actor=user:{}", app.people.auditor)).await;
    let queries: Vec<_> =
        reads.iter().rev().map(|event| said(event, "query").as_str().unwrap().to_owned()).collect();
    assert_eq!(queries, asked);
    let access = reads[0]["aggregate_id"].as_str().unwrap();
    let record = app.owner().get(&format!("/api/audit/access/{access}/state")).await.expect(200);
    assert_eq!(record.json["state"]["details"]["query"], asked[2]);
}

#[tokio::test]
async fn no_record_no_audit_trail() {
    let app = TestApp::start().await;
    keep(&app.owner(), "db").await;
    let mut blocker = app.database.connect().await;
    sqlx::query("select pg_advisory_lock(7310868735422851431)").execute(&mut blocker).await.unwrap();
    let reply = app.auditor().get("/api/audit/events").await;
    // The server gave up waiting for the lock: it is certain that nothing was recorded.
    problem(&reply, 503, "database_unavailable");
    assert!(reply.json.get("items").is_none());
}
