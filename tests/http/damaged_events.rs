//! One damaged event is listed as unreadable, with its position, and everything else goes on.

use serde_json::{Value, json};
use sqlx::Executor as _;
use tests::{Client, TestApp, eventually};

use super::support::{audited, keep, problem};

/// What a superuser can do to an event, and part of what is then said of it. `c4n4ry` stands for contents.
const DAMAGE: &[(&str, &str)] = &[
    ("event_type = 'SecretSung'", "secret event SecretSung version 1 is not known"),
    ("event_version = '77'", "version 77 is not known"),
    ("payload = 'null'", "SecretRenamed does not have its shape"),
    ("payload = '[\"c4n4ry\"]'", "does not have its shape"),
    ("payload = '{\"SecretRenamed\": {}}'", "missing field"),
    ("payload = '{\"SecretRenamed\": {\"from\": 5, \"name\": \"c4n4ry\"}}'", "does not have its shape"),
    ("payload = '{\"c4n4ry\": {}}'", "unknown variant"),
    ("payload = '{\"SecretRenamed\": {\"name\": \"c4n4ry\\ud800\"}}'", "payload cannot be read"),
    ("payload = '{\"SecretRenamed\": 1e400}'", "payload cannot be read: number out of range"),
    ("payload = (repeat('[', 200) || repeat(']', 200))::json", "payload cannot be read: recursion limit"),
    ("metadata = '[\"c4n4ry\"]'", "metadata is not an object"),
    ("metadata = '\"c4n4ry\"'", "metadata is not an object"),
    ("metadata = jsonb_set(metadata::jsonb, '{actor}', '5')::json", "metadata's actor is not a text"),
    (
        "metadata = jsonb_set(metadata::jsonb, '{c4n4ry}', '{}')::json",
        "metadata holds something that is not a text",
    ),
    ("metadata = '{\"actor\": \"\\udc00\"}'", "metadata cannot be read"),
    ("metadata = jsonb_set(metadata::jsonb, '{ip}', '\"AAAA\"')::json", ""),
    ("recorded_at = 'infinity'", "recorded_at is not within the years"),
    ("recorded_at = '294000-01-01'", "recorded_at is not within the years"),
];

/// A secret that was stored, renamed twice and given another value.
async fn lived(client: &Client, name: &str) -> String {
    let id = keep(client, name).await.str("id").to_owned();
    let path = format!("/api/secrets/{id}");
    for new in ["second", "third"] {
        client.patch(&path, json!({"name": format!("{name}/{new}")})).await.expect(200);
    }
    client.put(&format!("{path}/value"), json!({"value": "another"})).await.expect(200);
    id
}

async fn behind(app: &TestApp, sql: &str) {
    let sql = format!(
        "alter table events disable trigger events_are_for_ever; {sql}; \
         alter table events enable trigger events_are_for_ever"
    );
    app.database
        .connect()
        .await
        .execute(sqlx::raw_sql(&sql))
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}

fn item(page: &[Value], position: i64) -> &Value {
    page.iter().find(|event| event["position"] == position).unwrap()
}

#[tokio::test]
async fn a_damaged_event_is_listed_and_the_rest_goes_on() {
    let app = TestApp::start().await;
    let (owner, auditor) = (app.owner(), app.auditor());
    let id = lived(&owner, "lived").await;
    let other = lived(&owner, "other").await;
    let history = format!("/api/audit/secret/{id}/history");
    let whole = audited(&app, &auditor, &format!("aggregate_id={id}")).await;
    let renamed = &whole[2];
    assert_eq!((&renamed["type"], &renamed["sequence"]), (&json!("SecretRenamed"), &json!(2)));
    let position = renamed["position"].as_i64().unwrap();
    for (set, cause) in DAMAGE {
        behind(
            &app,
            &format!(
                "create table kept as select * from events where position = {position}; \
                 update events set {set} where position = {position}"
            ),
        )
        .await;
        // The list: everything known of it stays, and the others are as they were.
        let listed = audited(&app, &auditor, &format!("aggregate_id={id}")).await;
        let damaged = item(&listed, position);
        let said = damaged["unreadable"].as_str().unwrap_or_else(|| panic!("{set}: {damaged}"));
        assert!(said.contains(cause), "{set}: {said}");
        assert!(!damaged.to_string().contains("c4n4ry"), "{damaged}");
        for known in ["type", "at", "aggregate_id", "sequence", "actor", "team_id", "request_id"] {
            assert_eq!(damaged[known], renamed[known], "{set}: {known}");
        }
        assert_eq!(damaged["changes"], json!([]));
        let rest = |events: &[Value]| -> Vec<Value> {
            events.iter().filter(|event| event["position"] != position).cloned().collect()
        };
        assert_eq!(rest(&listed), rest(&whole), "{set}");

        // The history: the damaged event in its place, and those after it with what they state.
        let page = auditor.get(&history).await.expect(200);
        let items = page.json["items"].as_array().unwrap();
        assert_eq!(items.len(), 4, "{set}: {}", page.text);
        assert_eq!(items[1]["position"], position);
        assert!(items[1]["unreadable"].as_str().unwrap().contains(cause), "{set}: {}", page.text);
        let new_name =
            items[2]["changes"].as_array().unwrap().iter().find(|change| change["field"] == "name");
        assert_eq!(new_name.unwrap()["after"], "lived/third", "{set}: {}", page.text);
        // A page that begins after it.
        let page = auditor.get(&format!("{history}?cursor=2")).await.expect(200);
        assert_eq!(page.json["items"].as_array().unwrap().len(), 2);

        // The state cannot be told: which event it is, is.
        let state = format!("/api/audit/secret/{id}/state");
        let refused = auditor.get(&state).await;
        problem(&refused, 409, "event_unreadable");
        assert!(refused.str("detail").contains(&format!("event {position}")), "{}", refused.text);
        assert!(!refused.text.contains("c4n4ry"), "{}", refused.text);
        let before = auditor.get(&format!("{state}?as_of={}", position - 1)).await.expect(200);
        assert_eq!(before.json["state"]["name"], "lived");

        // A change is decided from the whole history: without it, it is refused. Of another secret it is not.
        if set.starts_with("payload") {
            let change = owner.patch(&format!("/api/secrets/{id}"), json!({"name": "no"})).await;
            problem(&change, 409, "event_unreadable");
            assert!(!change.text.contains("c4n4ry"), "{}", change.text);
        }
        owner.put(&format!("/api/secrets/{other}/value"), json!({"value": "more"})).await.expect(200);
        auditor.get(&format!("/api/audit/secret-access?secret_id={id}")).await.expect(200);

        behind(
            &app,
            &format!("delete from events where position = {position}; insert into events select * from kept; drop table kept"),
        )
        .await;
        assert_eq!(audited(&app, &auditor, &format!("aggregate_id={id}")).await, whole);
    }
    // An event that is not there any more is not passed over in silence either.
    behind(&app, &format!("delete from events where position = {position}")).await;
    let listed = audited(&app, &auditor, &format!("aggregate_id={id}")).await;
    assert!(item(&listed, position)["unreadable"].as_str().unwrap().contains("no event at this position"));
    app.stop().await;
}

#[tokio::test]
async fn the_trail_goes_on_past_an_event_that_was_damaged_before_it_was_followed() {
    let app = TestApp::start().await;
    let (owner, auditor, admin) = (app.owner(), app.auditor(), app.admin());
    let id = keep(&owner, "kept").await.str("id").to_owned();
    let payloads = [r#"{"SecretStored": {}}"#, r#"{"SecretStored": "\ud800"}"#, r#"{"SecretStored": 1e999}"#];
    let mut positions = vec![];
    for payload in payloads {
        for metadata in [r#"{"actor": "system"}"#, r#"[]"#, r#"{"actor": "\udfff"}"#] {
            let sql = "insert into events select (select max(position) + 1 from events), (select max(recorded_at) from events), \
                       'secret', $1, 1, 'SecretStored', '1', $2::json, $3::json returning position";
            let stranger = uuid::Uuid::now_v7().to_string();
            let query = sqlx::query_scalar::<_, i64>(sql).bind(&stranger).bind(payload).bind(metadata);
            positions.push(query.fetch_one(&mut app.database.connect().await).await.unwrap());
            // What comes after it is folded, too.
            auditor.get(&format!("/api/audit/secret/{id}/history")).await.expect(200);
        }
    }
    let listed = eventually("the trail has passed them", async || {
        let reply = admin.get("/api/audit/events?limit=200").await;
        let items = reply.json["items"].as_array()?.clone();
        positions
            .iter()
            .all(|position| items.iter().any(|item| item["position"] == *position))
            .then_some(items)
    })
    .await;
    for position in &positions {
        let event = item(&listed, *position);
        assert_eq!((&event["type"], &event["aggregate_type"]), (&json!("SecretStored"), &json!("secret")));
        assert!(event["unreadable"].is_string(), "{event}");
    }
    // Views that cannot do without it stop just before the first of them, and say so.
    let views = admin.get("/api/projections").await.expect(200);
    let view = |name: &str| {
        let items = views.json["items"].as_array().unwrap();
        items.iter().find(|view| view["name"] == name).unwrap_or_else(|| panic!("{}", views.text)).clone()
    };
    assert_eq!(
        (&view("secrets")["state"], &view("secrets")["position"]),
        (&json!("failed"), &json!(positions[0] - 1))
    );
    for others in ["users", "jobs", "audit"] {
        assert_eq!(view(others)["state"], "live", "{others}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_feed_goes_on_past_a_damaged_event() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let id = lived(&owner, "told").await;
    let position = app.ledger.head().await.unwrap() - 1;
    behind(
        &app,
        &format!(
            "update events set payload = '{{\"SecretRenamed\": {{\"name\": \"\\ud800\"}}}}' \
             where event_type = 'SecretRenamed' and position <= {position}"
        ),
    )
    .await;
    // From before the damaged events on: they and what came after them is told.
    let client = owner.with_header("last-event-id", 1);
    let mut stream = client.stream("/api/secrets/changes").await;
    let told = eventually("the last change", async || {
        let event = stream.next().await?;
        (event.data["version"] == 2).then_some(event)
    })
    .await;
    assert_eq!(told.data["id"], json!(id));
    drop(stream);
    app.stop().await;
}
