//! Forgetting a person, and what every view shows of them afterwards.

use std::collections::BTreeSet;

use domain::{User, UserCommand};
use serde_json::{Value, json};
use tests::{TestApp, eventually};

use super::support::{audited, count};

/// Where the person's events came from, as the audit trail shows it.
async fn addresses(app: &TestApp, actor: &str) -> BTreeSet<String> {
    let events = audited(app, &app.admin(), &format!("actor={actor}")).await;
    events.iter().map(|event| event["ip"].as_str().unwrap_or("none").to_owned()).collect()
}

#[tokio::test]
async fn the_audit_trail_forgets_from_where_an_erased_person_came() {
    let app = TestApp::start().await;
    let (stranger, id) = (app.other_team(), app.people.stranger);
    stranger.patch("/api/auth/me", json!({"name": "Whoever"})).await.expect(200);
    let actor = format!("user:{id}");
    assert!(addresses(&app, &actor).await.contains("127.0.0.1"));

    app.admin().post(&format!("/api/users/{id}/erase"), Value::Null).await.expect(204);
    eventually("the trail forgets", async || {
        (!addresses(&app, &actor).await.contains("127.0.0.1")).then_some(())
    })
    .await;
    let history = app.admin().get(&format!("/api/audit/user/{id}/history")).await.expect(200);
    assert!(history.text.contains("erased") && !history.text.contains("Whoever"), "{}", history.text);
    let others = addresses(&app, &format!("user:{}", app.people.admin)).await;
    assert!(others.contains("127.0.0.1"), "others are as they were: {others:?}");
}

/// A crash after the event and before the keys were destroyed: the event alone stands in the log.
#[tokio::test]
async fn what_a_crash_left_undone_of_an_erasure_is_done() {
    let app = TestApp::start().await;
    let id = app.people.stranger;
    let command = UserCommand::Erase { other_admins: 1, subjects: BTreeSet::new() };
    let context = api::node::registrar();
    app.commands.execute::<User>(&context, id, None, command).await.unwrap();
    let keys = format!("select count(*) from data_keys where id = 'subject/{id}'");
    eventually("the key is destroyed", async || (count(&app, &keys).await == 0).then_some(())).await;
    let parked = "select count(*) from reactor_failures";
    assert_eq!(count(&app, parked).await, 0);
}
