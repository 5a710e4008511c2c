//! Leave to see one secret for a while: who gives it, who has it, what it opens, and its end.

use chrono::{DateTime, TimeDelta, Utc};
use commands::{Context, GrantRequest};
use domain::{Caller, Reason, Role, SecretId, UserId};
use reqwest::Method;
use serde_json::{Value, json};
use tests::{Client, Reply, Setup, TestApp, eventually};
use uuid::Uuid;

use super::api_keys::program;
use super::device::set_up;
use super::newcomers::member;
use super::secret_support::{at_once, edit, grant, items, path, put, readings, reveal};
use super::support::{audited, keep, problem, refused, said, up_to_now};

fn moment(reply: &Reply, field: &str) -> DateTime<Utc> {
    reply.str(field).parse().unwrap()
}

#[tokio::test]
async fn whoever_has_leave_sees_that_one_secret_and_nothing_else() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    let owner = app.owner();
    let (secret, another) = (path(&keep(&owner, "db").await), path(&keep(&owner, "mail").await));
    put(&owner, &secret, "v2").await.expect(200);
    let recorded = readings(&app).await;
    for (person, user) in [(app.viewer(), app.people.viewer), (app.auditor(), app.people.auditor)] {
        problem(&reveal(&person, &secret, "").await, 403, "forbidden");
        let given = grant(&owner, &secret, user, 60).await.expect(201);
        assert_eq!(moment(&given, "until") - moment(&given, "granted_at"), TimeDelta::minutes(60));
        let expected = json!({
            "id": given.json["id"], "user_id": user, "until": given.json["until"], "open": true, "reason": "incident 7",
            "granted_by": format!("user:{}", app.people.owner), "granted_at": given.json["granted_at"],
        });
        assert_eq!(given.json, expected);
        assert_eq!(reveal(&person, &secret, "").await.expect(200).str("value"), "v2");
        assert_eq!(reveal(&person, &secret, "?version=1").await.expect(200).str("value"), "value of db");
        problem(&reveal(&person, &secret, "?version=9").await, 404, "version_not_found");
        let there = person.speaking_to(other.address);
        let there = up_to_now(&app, &there).await;
        assert_eq!(reveal(&there, &secret, "").await.expect(200).str("value"), "v2");
        // Reading is all, and of this one.
        problem(&reveal(&person, &another, "").await, 403, "forbidden");
        problem(&put(&person, &secret, "mine").await, 403, "forbidden");
        problem(&person.delete(&secret).await, 403, "forbidden");
        problem(&grant(&person, &secret, user, 60).await, 403, "forbidden");
    }
    // What was given to one is nobody else's.
    let third = member(&app, app.people.team, Role::Viewer, "third@example.org").await;
    problem(&reveal(&third.client, &secret, "").await, 403, "forbidden");
    assert_eq!(readings(&app).await, recorded + 6);

    let records = audited(&app, &owner, "type=SecretRevealedByGrant").await;
    let grants = items(&owner, &format!("{secret}/grants")).await;
    assert_eq!((records.len(), grants.len()), (6, 2));
    assert_eq!(records[5]["actor"], format!("user:{}", app.people.viewer));
    assert_eq!(said(&records[5], "grant_id"), &grants[0]["id"]);
    assert_eq!(said(&records[0], "grant_id"), &grants[1]["id"]);
    let read = items(&owner, &format!("{secret}/access")).await;
    assert_eq!((read.len(), &read[5]["grant_id"], &read[4]["version"]), (6, &grants[0]["id"], &json!(1)));
    let all = items(&owner, &format!("/api/audit/secret-access?user_id={}", app.people.viewer)).await;
    assert_eq!(all.len(), 3);
    // Who sees the secret's metadata sees who has leave.
    assert_eq!(items(&app.viewer(), &format!("{secret}/grants")).await, grants);
    problem(&app.other_team().get(&format!("{secret}/grants")).await, 404, "secret_not_found");
}

#[tokio::test]
async fn withdrawn_leave_is_over_at_once_on_every_node() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    let (owner, viewer) = (app.owner(), app.viewer());
    let secret = path(&keep(&owner, "db").await);
    let given = grant(&owner, &secret, app.people.viewer, 60).await.expect(201);
    let url = format!("{secret}/grants/{}", given.str("id"));
    let there = viewer.speaking_to(other.address);
    reveal(&up_to_now(&app, &there).await, &secret, "").await.expect(200);
    problem(&viewer.delete(&url).await, 403, "forbidden");
    problem(&app.operator().delete(&url).await, 403, "forbidden");
    problem(&app.other_team().delete(&url).await, 404, "not_found");
    reveal(&viewer, &secret, "").await.expect(200);
    let over = owner.delete(&url).await.expect(204);
    problem(&reveal(&viewer, &secret, "").await, 403, "forbidden");
    let there = there.with_header("daybook-position", over.header("daybook-position"));
    problem(&reveal(&there, &secret, "").await, 403, "forbidden");
    problem(&owner.delete(&url).await, 404, "grant_not_found");
    problem(&owner.delete(&format!("{secret}/grants/{}", Uuid::now_v7())).await, 404, "grant_not_found");
    assert!(items(&owner, &format!("{secret}/grants")).await.is_empty());
    let events = audited(&app, &owner, "type=RevealGrantWithdrawn").await;
    assert_eq!(events[0]["actor"], format!("user:{}", app.people.owner));

    // One of two that a person has: the other goes on.
    let first = grant(&owner, &secret, app.people.viewer, 60).await.expect(201);
    grant(&owner, &secret, app.people.viewer, 1).await.expect(201);
    owner.delete(&format!("{secret}/grants/{}", first.str("id"))).await.expect(204);
    reveal(&viewer, &secret, "").await.expect(200);
}

#[tokio::test]
async fn leave_ends_by_itself() {
    let app = TestApp::start().await;
    let (owner, viewer) = (app.owner(), app.viewer());
    let kept = keep(&owner, "db").await;
    let secret = path(&kept);
    // Shorter than anybody may ask for over HTTP, so that nobody has to wait.
    let mut context = Context::of(Caller {
        actor: domain::Actor::User(app.people.owner),
        team: Some(app.people.team),
        permissions: Role::Owner.permissions(),
    });
    context.request_id = Some("short".to_owned());
    let id: SecretId = kept.str("id").parse().unwrap();
    let request = |duration| GrantRequest {
        user_id: app.people.viewer,
        duration,
        reason: Reason::parse("incident").unwrap(),
    };
    let made =
        app.commands.grant_reveal(&context, id, request(TimeDelta::milliseconds(1_500))).await.unwrap();
    let viewer = viewer.with_header("daybook-position", made.done.position.unwrap());
    let mut seen = 0;
    let refused = eventually("the end of the grant", async || {
        let reply = reveal(&viewer, &secret, "").await;
        seen += u32::from(reply.status == 200);
        (reply.status != 200).then_some(reply)
    })
    .await;
    problem(&refused, 403, "forbidden");
    let grants = items(&owner, &format!("{secret}/grants")).await;
    assert_eq!((grants.len(), &grants[0]["open"]), (1, &json!(false)));
    assert_eq!(readings(&app).await, i64::from(seen));
    for duration in
        [TimeDelta::zero(), TimeDelta::milliseconds(-1), TimeDelta::hours(24) + TimeDelta::milliseconds(1)]
    {
        assert!(app.commands.grant_reveal(&context, id, request(duration)).await.is_err(), "{duration}");
    }
    app.commands.grant_reveal(&context, id, request(TimeDelta::hours(24))).await.unwrap();
}

#[tokio::test]
async fn wrong_grants_are_refused_field_by_field() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let secret = path(&keep(&owner, "db").await);
    let with = async |field: &str, value: Value| {
        let mut body = json!({"user_id": app.people.viewer, "minutes": 60, "reason": "incident"});
        body[field] = value;
        owner.post(&format!("{secret}/grants"), body).await
    };
    for minutes in [
        json!(0),
        json!(-1),
        json!(1_441),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(1.5),
        json!("60"),
        Value::Null,
    ] {
        refused(&with("minutes", minutes).await, &["minutes"]);
    }
    for reason in
        [json!(""), json!(" "), json!("a\nb"), json!("x".repeat(501)), json!("\u{202e}"), Value::Null]
    {
        refused(&with("reason", reason).await, &["reason"]);
    }
    // A stranger, nobody and no id are told alike.
    let stranger = with("user_id", json!(app.people.stranger)).await;
    let nobody = with("user_id", json!(Uuid::now_v7())).await;
    refused(&stranger, &["user_id"]);
    assert_eq!(stranger.json["errors"], nobody.json["errors"]);
    refused(&with("user_id", json!("viewer@example.org")).await, &["user_id"]);
    refused(&with("until", json!("2031-01-01T00:00:00Z")).await, &["until"]);
    let all = json!({"user_id": Uuid::now_v7(), "minutes": 0, "reason": ""});
    let mut fields: Vec<String> = vec![];
    for field in owner.post(&format!("{secret}/grants"), all).await.expect(422).fields() {
        fields.push(field.to_owned());
    }
    fields.sort();
    assert_eq!(fields, ["minutes", "reason", "user_id"]);
    assert!(items(&owner, &format!("{secret}/grants")).await.is_empty());
    for minutes in [1, 1_440] {
        with("minutes", json!(minutes)).await.expect(201);
    }
    let nowhere = format!("/api/secrets/{}", Uuid::now_v7());
    problem(&grant(&owner, &nowhere, app.people.viewer, 60).await, 404, "secret_not_found");
    problem(&grant(&app.other_team(), &secret, app.people.stranger, 60).await, 404, "secret_not_found");
    problem(&app.operator().get(&format!("{nowhere}/grants")).await, 404, "secret_not_found");
}

#[tokio::test]
async fn only_who_may_change_the_team_and_see_the_secret_gives_leave() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let secret = path(&keep(&owner, "db").await);
    for person in
        [app.operator(), app.viewer(), app.auditor(), app.admin().with_header("daybook-team", "main")]
    {
        let reply = grant(&person, &secret, app.people.viewer, 60).await;
        assert!([403, 404].contains(&reply.status), "{}", reply.text);
    }
    let half = program(&app, &owner, &["team:write", "secrets:read"]).await;
    problem(&grant(&half, &secret, app.people.viewer, 60).await, 403, "forbidden");
    let other_half = program(&app, &owner, &["secrets:reveal", "secrets:read"]).await;
    problem(&grant(&other_half, &secret, app.people.viewer, 60).await, 403, "forbidden");
    problem(&reveal(&app.viewer(), &secret, "").await, 403, "forbidden");
    let both = program(&app, &owner, &["team:write", "secrets:reveal"]).await;
    grant(&both, &secret, app.people.viewer, 60).await.expect(201);
    reveal(&app.viewer(), &secret, "").await.expect(200);
}

#[tokio::test]
async fn leave_is_the_persons_own_and_no_program_has_it() {
    let app = TestApp::start().await;
    let (owner, viewer) = (app.owner(), app.viewer());
    let secret = path(&keep(&owner, "db").await);
    let theirs = program(&app, &viewer, &["secrets:read", "jobs:read"]).await;
    grant(&owner, &secret, app.people.viewer, 60).await.expect(201);
    problem(&reveal(&theirs, &secret, "").await, 403, "forbidden");
    reveal(&viewer, &secret, "").await.expect(200);
    // For their own team they speak of another's secret.
    let elsewhere = app.as_user(app.people.viewer);
    problem(&reveal(&elsewhere, &secret, "").await, 404, "secret_not_found");
}

#[tokio::test]
async fn whoever_leaves_the_team_leaves_the_secret_too() {
    let app = TestApp::start().await;
    let (owner, viewer) = (app.owner(), app.viewer());
    let secret = path(&keep(&owner, "db").await);
    grant(&owner, &secret, app.people.viewer, 60).await.expect(201);
    reveal(&viewer, &secret, "").await.expect(200);
    owner.delete(&format!("/api/team/members/{}", app.people.viewer)).await.expect(204);
    problem(&reveal(&viewer, &secret, "").await, 404, "team_not_found");
    let by_default = app.as_user(app.people.viewer);
    problem(&reveal(&by_default, &secret, "").await, 404, "secret_not_found");
    refused(&grant(&owner, &secret, app.people.viewer, 60).await, &["user_id"]);
}

#[tokio::test]
async fn leave_does_not_open_a_team_that_asks_for_a_second_factor() {
    let app = TestApp::start().await;
    let (owner, viewer) = (app.owner(), app.viewer());
    let secret = path(&keep(&owner, "db").await);
    grant(&owner, &secret, app.people.viewer, 60).await.expect(201);
    reveal(&viewer, &secret, "").await.expect(200);
    set_up(&owner).await;
    owner.patch("/api/team", json!({"two_factor_required": true})).await.expect(200);
    let recorded = readings(&app).await;
    assert_eq!(reveal(&viewer, &secret, "").await.expect(403).json.get("value"), None);
    assert_eq!(readings(&app).await, recorded);
    set_up(&viewer).await;
    reveal(&viewer, &secret, "").await.expect(200);
}

#[tokio::test]
async fn a_secret_has_twenty_open_grants_and_what_is_over_makes_room() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let secret = path(&keep(&owner, "db").await);
    let replies = at_once(24, |_| {
        let (owner, secret, viewer) = (owner.clone(), secret.clone(), app.people.viewer);
        async move {
            loop {
                let reply = grant(&owner, &secret, viewer, 60).await;
                if reply.str("code") != "contended" {
                    return reply;
                }
            }
        }
    })
    .await;
    let given: Vec<&Reply> = replies.iter().filter(|reply| reply.status == 201).collect();
    assert_eq!(given.len(), 20);
    replies
        .iter()
        .filter(|reply| reply.status != 201)
        .for_each(|reply| problem(reply, 409, "too_many_grants"));
    owner.delete(&format!("{secret}/grants/{}", given[7].str("id"))).await.expect(204);
    grant(&owner, &secret, app.people.auditor, 60).await.expect(201);
    problem(&grant(&owner, &secret, app.people.auditor, 60).await, 409, "too_many_grants");
    assert_eq!(items(&owner, &format!("{secret}/grants")).await.len(), 20);
}

async fn repeat(owner: &Client, secret: &str, user: UserId, minutes: i64) -> Reply {
    grant(&owner.with_header("idempotency-key", "g1"), secret, user, minutes).await
}

#[tokio::test]
async fn a_repeated_request_gives_leave_once() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let secret = path(&keep(&owner, "db").await);
    let first = repeat(&owner, &secret, app.people.viewer, 60).await.expect(201);
    let again = repeat(&owner, &secret, app.people.viewer, 60).await.expect(201);
    assert_eq!(first.json, again.json);
    problem(&repeat(&owner, &secret, app.people.viewer, 61).await, 422, "idempotency_key_reused");
    assert_eq!(items(&owner, &format!("{secret}/grants")).await.len(), 1);
    // As the same request also when that grant is over by now.
    owner.delete(&format!("{secret}/grants/{}", first.str("id"))).await.expect(204);
    let late = repeat(&owner, &secret, app.people.viewer, 60).await;
    assert!(late.status < 500, "{}", late.text);
    problem(&reveal(&app.viewer(), &secret, "").await, 403, "forbidden");
}

#[tokio::test]
async fn leave_ends_with_the_secret() {
    let app = TestApp::start().await;
    let (owner, viewer) = (app.owner(), app.viewer());
    let secret = path(&keep(&owner, "db").await);
    let given = grant(&owner, &secret, app.people.viewer, 60).await.expect(201);
    owner.delete(&secret).await.expect(204);
    problem(&reveal(&viewer, &secret, "").await, 404, "secret_not_found");
    problem(&grant(&owner, &secret, app.people.viewer, 60).await, 404, "secret_not_found");
    owner.post(&format!("{secret}/restore"), json!({})).await.expect(200);
    reveal(&viewer, &secret, "").await.expect(200);
    owner.post(&format!("{secret}/destroy"), json!({})).await.expect(200);
    assert!([403, 410].contains(&reveal(&viewer, &secret, "").await.status));
    problem(&reveal(&owner, &secret, "").await, 410, "secret_destroyed");
    problem(&grant(&owner, &secret, app.people.viewer, 60).await, 409, "secret_destroyed");
    let url = format!("{secret}/grants/{}", given.str("id"));
    let late = owner.send(owner.request(Method::DELETE, &url)).await;
    problem(&late, 409, "secret_destroyed");
    assert!(items(&owner, &format!("{secret}/grants")).await.is_empty());
}

#[tokio::test]
async fn a_grant_that_was_forged_in_a_view_is_undone_by_making_it_anew() {
    let app = TestApp::start().await;
    let kept = keep(&app.owner(), "db").await;
    let grants = json!([{
        "id": Uuid::now_v7(), "user_id": app.people.viewer, "until": "2099-01-01T00:00:00.000Z", "reason": "forged",
        "granted_by": "user:nobody", "granted_at": "2026-01-01T00:00:00.000Z",
    }]);
    let sql = format!(
        "update secrets set row = jsonb_set(row::jsonb, '{{grants}}', '{grants}') where key = '{}'",
        kept.str("id")
    );
    edit(&app, &sql).await;
    super::secret_support::rebuild_everything(&app).await;
    let other = app.another_node(Setup::default()).await;
    problem(&reveal(&other.viewer(), &path(&kept), "").await, 403, "forbidden");
}
