//! Teams that ask their members for a second factor.

use serde_json::json;
use tests::{Client, TestApp};

use super::device::{set_up, switch_off};
use super::support::{audited, keep, problem, said};

async fn require(owner: &Client, required: bool) {
    let team = owner.patch("/api/team", json!({"two_factor_required": required})).await.expect(200);
    assert_eq!(team.json["two_factor_required"], required);
}

#[tokio::test]
async fn members_without_one_are_kept_out_of_that_team_until_they_have_one() {
    let app = TestApp::start().await;
    let (owner, operator) = (app.owner(), app.operator());
    let kept = keep(&operator, "db").await;
    let path = format!("/api/secrets/{}", kept.str("id"));
    set_up(&owner).await;
    require(&owner, true).await;

    for reply in [
        operator.get("/api/secrets").await,
        operator.get(&path).await,
        operator.get(&format!("{path}/value")).await,
        operator.post("/api/secrets", json!({"name": "more", "value": "v"})).await,
        operator.get("/api/jobs").await,
        operator.get("/api/team").await,
        app.auditor().get("/api/audit/events").await,
    ] {
        problem(&reply, 403, "two_factor_required");
        assert!(reply.str("detail").contains("/api/auth/2fa"), "{}", reply.text);
    }
    // What they could not do anyway, no second factor would help with.
    problem(&operator.get("/api/audit/events").await, 403, "forbidden");
    problem(&operator.get("/api/users").await, 403, "forbidden");
    // The owner goes on, everybody goes on in other teams, and one's own account is one's own.
    owner.get(&path).await.expect(200);
    let elsewhere = app.as_user(app.people.operator);
    keep(&elsewhere, "own").await;
    app.other_team().get("/api/team").await.expect(200);
    operator.get("/api/auth/me").await.expect(200);

    let refusals = audited(&app, &owner, "type=AccessRefused").await;
    let of_operator = refusals.iter().filter(|event| said(event, "permission") == "secrets:reveal");
    assert_eq!(of_operator.count(), 1, "{refusals:?}");

    let (_, codes) = set_up(&operator).await;
    operator.get(&format!("{path}/value")).await.expect(200);
    operator.get("/api/team").await.expect(200);
    // And without it again, at once.
    switch_off(&operator, &codes[0]).await.expect(204);
    problem(&operator.get(&path).await, 403, "two_factor_required");

    require(&owner, false).await;
    operator.get(&path).await.expect(200);
    app.auditor().get("/api/audit/events").await.expect(200);
}

#[tokio::test]
async fn who_has_none_does_not_ask_it_of_others_and_may_leave() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let asked = json!({"two_factor_required": true});
    problem(&owner.patch("/api/team", asked.clone()).await, 409, "two_factor_off");
    // Being set up is not yet having one.
    super::device::begin(&owner).await;
    problem(&owner.patch("/api/team", asked.clone()).await, 409, "two_factor_off");
    assert_eq!(owner.get("/api/team").await.expect(200).json["two_factor_required"], false);
    problem(&app.operator().patch("/api/team", asked).await, 403, "forbidden");

    let (_, codes) = set_up(&owner).await;
    require(&owner, true).await;
    let leave = format!("/api/team/members/{}", app.people.viewer);
    problem(&app.operator().delete(&leave).await, 403, "forbidden");
    app.viewer().delete(&leave).await.expect(204);

    // The owner who gives it up is kept out like everybody else, and comes back as everybody else does.
    switch_off(&owner, &codes[0]).await.expect(204);
    problem(&owner.get("/api/team").await, 403, "two_factor_required");
    problem(
        &owner.patch("/api/team", json!({"two_factor_required": false})).await,
        403,
        "two_factor_required",
    );
    set_up(&owner).await;
    require(&owner, false).await;
}

#[tokio::test]
async fn the_next_request_on_another_node_knows_of_it() {
    let app = TestApp::start().await;
    let other = app.another_node(tests::Setup::default()).await;
    set_up(&app.owner()).await;
    other.operator().get("/api/secrets").await.expect(200);
    let changed = app.owner().patch("/api/team", json!({"two_factor_required": true})).await.expect(200);
    let position = changed.header("daybook-position");
    let there = other.operator().with_header("daybook-position", position);
    problem(&there.get("/api/secrets").await, 403, "two_factor_required");
}
