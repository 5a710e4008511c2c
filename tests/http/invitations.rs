//! Being asked to join a team, and joining.

use std::collections::BTreeSet;

use chrono::{TimeDelta, Utc};
use commands::Context;
use domain::{Email, InvitationId, Invite, Role, Team, TeamCommand, TeamId};
use futures::future::join_all;
use serde_json::{Value, json};
use tests::{Client, PASSWORD, Reply, Setup, TestApp};
use uuid::Uuid;

use super::newcomers::{invitation_token, member, newcomer, take_in};
use super::support::{audited, count, problem, refused, said};

async fn invite(client: &Client, email: &str, role: &str) -> Reply {
    client.post("/api/team/invitations", json!({"email": email, "role": role})).await
}

/// An invitation to the team of owner, operator, viewer and auditor: its id and its token.
async fn invited(app: &TestApp, email: &str, role: &str) -> (String, String) {
    let made = invite(&app.owner(), email, role).await.expect(201);
    let id = made.str("id").to_owned();
    let token = invitation_token(app, app.people.team, &id).await;
    (id, token)
}

async fn register(app: &TestApp, email: &str, token: &str) -> Reply {
    let body = json!({"email": email, "password": PASSWORD, "name": "Grace", "invitation_token": token});
    app.anon().post("/api/auth/register", body).await
}

async fn join(client: &Client, token: &str) -> Reply {
    client.post("/api/teams/join", json!({"invitation_token": token})).await
}

#[track_caller]
fn not_open(reply: &Reply) {
    problem(reply, 422, "invitation_not_open");
    refused(reply, &["invitation_token"]);
}

async fn emails(client: &Client) -> Vec<String> {
    let list = client.get("/api/team/invitations").await.expect(200).json;
    let email = |invitation: &Value| invitation["email"].as_str().unwrap().to_owned();
    list["items"].as_array().unwrap().iter().map(email).collect()
}

async fn members(client: &Client) -> Vec<(String, String)> {
    let team = client.get("/api/team").await.expect(200).json;
    let text = |member: &Value, field: &str| member[field].as_str().unwrap().to_owned();
    team["members"].as_array().unwrap().iter().map(|one| (text(one, "email"), text(one, "role"))).collect()
}

#[tokio::test]
async fn whoever_is_invited_registers_into_the_team_and_owns_none_of_their_own() {
    let app = TestApp::with(Setup::default().with("REGISTRATION", "invite")).await;
    let made = invite(&app.owner(), "Grace@Example.org", "operator").await.expect(201);
    assert_eq!((made.str("email"), made.str("role")), ("Grace@Example.org", "operator"));
    assert_eq!(made.str("invited_by"), format!("user:{}", app.people.owner));
    let time = |field: &str| made.str(field).parse::<chrono::DateTime<Utc>>().unwrap();
    let week = (time("expires_at") - time("created_at") - TimeDelta::days(7)).abs();
    assert!(week < TimeDelta::minutes(1), "{}", made.text);
    assert_eq!(emails(&app.owner()).await, ["Grace@Example.org"]);

    let token = invitation_token(&app, app.people.team, made.str("id")).await;
    let grace = register(&app, "grace@example.ORG", &token).await.expect(201);
    assert_eq!(grace.json["email_verified"], true, "the token came to the address");
    let main = json!([{"id": app.people.team, "slug": "main", "name": "main", "role": "operator"}]);
    assert_eq!(grace.json["teams"], main);
    let login = json!({"email": "grace@example.org", "password": PASSWORD});
    let tokens = app.anon().post("/api/auth/login", login).await.expect(200);
    let client = app.anon().with_token(tokens.str("access_token"));
    client.post("/api/secrets", json!({"name": "hers", "value": "v"})).await.expect(201);
    assert_eq!(client.get("/api/auth/me").await.expect(200).json["teams"], main);
    assert!(emails(&app.owner()).await.is_empty());
    assert!(members(&app.owner()).await.contains(&("grace@example.ORG".into(), "operator".into())));
    let teams = "select count(*) from events where event_type = 'TeamCreated'";
    assert_eq!(count(&app, teams).await, 8, "those of the harness");
    let asked = "select count(*) from events where event_type = 'EmailVerificationRequested'";
    assert_eq!(count(&app, asked).await, 0);
    let trail = audited(&app, &app.admin(), "type=InvitationAccepted").await;
    assert_eq!((trail.len(), said(&trail[0], "user_id")), (1, &grace.json["id"]));
    assert_eq!(trail[0]["team_id"], json!(app.people.team));
}

#[tokio::test]
async fn an_invitation_is_for_one_address_and_one_use() {
    let app = TestApp::start().await;
    let (_, token) = invited(&app, "grace@example.org", "viewer").await;
    problem(&register(&app, "mallory@example.org", &token).await, 409, "invitation_for_another");
    register(&app, "grace@example.org", &token).await.expect(201);
    not_open(&register(&app, "grace@example.org", &token).await);
    not_open(&register(&app, "mallory@example.org", &token).await);
    let users = "select count(*) from events where event_type = 'UserRegistered'";
    assert_eq!(count(&app, users).await, 6 + 1);
}

#[tokio::test]
async fn a_token_that_is_not_one_of_ours_opens_nothing() {
    let app = TestApp::start().await;
    let (id, token) = invited(&app, "grace@example.org", "viewer").await;
    let (team, id) = (app.people.team.0.simple(), id.replace('-', ""));
    let proof = token.rsplit('.').next().unwrap();
    let other = app.people.other_team.0.simple();
    let changed = if token.ends_with('0') { "1" } else { "0" };
    for strange in [
        "",
        "dbi_",
        "dbi_..",
        &format!("{token}x"),
        &format!(" {token}"),
        &format!("{}{changed}", &token[..token.len() - 1]),
        &token.to_uppercase(),
        &format!("dbi_{other}.{id}.{proof}"),
        &format!("dbi_{team}.{}.{proof}", Uuid::now_v7().simple()),
        &format!("dbm_{id}.{proof}"),
        &"x".repeat(100_000),
        "dbi_\0",
    ] {
        not_open(&register(&app, "grace@example.org", strange).await);
        not_open(&join(&app.other_team(), strange).await);
    }
    // One that the instance could have made, of an invitation that never was.
    let never = invitation_token(&app, app.people.team, &Uuid::now_v7().to_string()).await;
    not_open(&register(&app, "grace@example.org", &never).await);
    let nowhere = invitation_token(&app, TeamId(Uuid::now_v7()), &id).await;
    not_open(&register(&app, "grace@example.org", &nowhere).await);
    register(&app, "grace@example.org", &token).await.expect(201);
}

#[tokio::test]
async fn of_64_who_register_with_one_invitation_at_once_exactly_one_does() {
    let app = TestApp::start().await;
    let (_, token) = invited(&app, "grace@example.org", "operator").await;
    let replies = join_all((0..64).map(|_| register(&app, "grace@example.org", &token))).await;
    let won = replies.iter().filter(|reply| reply.status == 201).count();
    for reply in replies.iter().filter(|reply| reply.status != 201) {
        match reply.status {
            // Passwords are hashed in a bounded pool: on a slow machine some are sent away.
            503 => problem(reply, 503, "overloaded"),
            409 => problem(reply, 409, "email_taken"),
            _ => not_open(reply),
        }
    }
    assert_eq!(won, 1);
    let users = "select count(*) from events where event_type = 'UserRegistered'";
    assert_eq!(count(&app, users).await, 6 + 1);
    let joined = members(&app.owner()).await;
    assert_eq!(joined.iter().filter(|(email, _)| email == "grace@example.org").count(), 1);
}

#[tokio::test]
async fn of_64_joins_by_one_invitation_at_once_exactly_one_happens() {
    let app = TestApp::start().await;
    let grace = newcomer(&app, "grace@example.org").await;
    let (_, token) = invited(&app, "grace@example.org", "operator").await;
    let replies = join_all((0..64).map(|_| join(&grace.client, &token))).await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 200).count(), 1);
    replies.iter().filter(|reply| reply.status != 200).for_each(not_open);
    let accepted = "select count(*) from events where event_type = 'InvitationAccepted'";
    assert_eq!(count(&app, accepted).await, 1);
}

#[tokio::test]
async fn what_was_withdrawn_or_has_expired_opens_nothing() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (id, token) = invited(&app, "grace@example.org", "operator").await;
    let grace = newcomer(&app, "grace@example.org").await;
    owner.delete(&format!("/api/team/invitations/{id}")).await.expect(204);
    problem(&owner.delete(&format!("/api/team/invitations/{id}")).await, 404, "invitation_not_found");
    assert!(emails(&owner).await.is_empty());
    not_open(&join(&grace.client, &token).await);

    let (id, token) = outlived(&app, "heidi@example.org").await;
    assert!(emails(&owner).await.is_empty(), "it is not open any more");
    let heidi = newcomer(&app, "heidi@example.org").await;
    not_open(&join(&heidi.client, &token).await);
    // It makes room for another to the same address.
    let again = invite(&owner, "heidi@example.org", "viewer").await.expect(201);
    assert_ne!(again.str("id"), id);
    not_open(&join(&heidi.client, &token).await);
    let token = invitation_token(&app, app.people.team, again.str("id")).await;
    join(&heidi.client, &token).await.expect(200);
}

/// An invitation whose time was over an hour ago, and its token.
async fn outlived(app: &TestApp, email: &str) -> (String, String) {
    let (team, id) = (app.people.team, InvitationId(Uuid::now_v7()));
    let token = invitation_token(app, team, &id.to_string()).await;
    let now = Utc::now() - TimeDelta::days(7) - TimeDelta::hours(1);
    let invite = Invite {
        id,
        email: Email::parse(email).unwrap(),
        invitee: None,
        email_hash: app.ledger.keyed_hash(&["email", email]).await.unwrap(),
        role: Role::Viewer,
        token_hash: ledger::Sha256::of(&token),
        now,
        expires_at: now + TimeDelta::days(7),
    };
    let mut context = Context::system(Some(team));
    context.caller.permissions = Role::Owner.permissions();
    let command = TeamCommand::Invite(invite);
    let done = app.commands.execute::<Team>(&context, team, None, command).await.unwrap();
    app.projections.settle(done.position.unwrap(), tests::LIMIT).await.unwrap();
    (id.to_string(), token)
}

#[tokio::test]
async fn where_nobody_can_register_an_invitation_is_for_those_who_have_an_account() {
    let app = TestApp::with(Setup::default().with("REGISTRATION", "closed")).await;
    let (_, token) = invited(&app, "grace@example.org", "operator").await;
    problem(&register(&app, "grace@example.org", &token).await, 403, "registration_closed");
    let grace = newcomer(&app, "grace@example.org").await;
    join(&grace.client, &token).await.expect(200);
}

#[tokio::test]
async fn somebody_who_has_an_account_joins_with_it() {
    let app = TestApp::start().await;
    let grace = newcomer(&app, "grace@example.org").await;
    problem(&grace.client.get("/api/secrets").await, 403, "forbidden");
    let (_, token) = invited(&app, "GRACE@example.org", "operator").await;
    problem(&register(&app, "grace@example.org", &token).await, 409, "email_taken");
    problem(&join(&app.other_team(), &token).await, 409, "invitation_for_another");
    problem(&join(&app.anon(), &token).await, 401, "unauthorized");
    let joined = join(&grace.client, &token).await.expect(200);
    assert_eq!((joined.str("slug"), joined.json["members"].as_array().unwrap().len()), ("main", 5));
    assert!(joined.header("daybook-position").parse::<i64>().unwrap() > 0);
    assert_eq!(joined.header("etag"), app.owner().get("/api/team").await.expect(200).header("etag"));
    grace.client.post("/api/secrets", json!({"name": "hers", "value": "v"})).await.expect(201);
    not_open(&join(&grace.client, &token).await);
    // A program does not join for its maker.
    let key = json!({"name": "program", "scopes": ["team:read"]});
    let key = grace.client.post("/api/auth/api-keys", key).await.expect(201);
    let reply = join(&app.anon().with_token(key.str("key")), &token).await;
    problem(&reply, 403, "session_needed");
    refused(
        &grace.client.post("/api/teams/join", json!({"invitation_token": 7})).await,
        &["invitation_token"],
    );
    refused(&grace.client.post("/api/teams/join", json!({})).await, &["invitation_token"]);
}

#[tokio::test]
async fn nobody_is_asked_twice_or_though_they_are_in_the_team() {
    let app = TestApp::start().await;
    let owner = app.owner();
    for address in ["viewer@example.org", "VIEWER@Example.Org", "owner@example.org"] {
        problem(&invite(&owner, address, "operator").await, 409, "already_member");
    }
    // Of another team they may be.
    invite(&owner, "stranger@example.org", "operator").await.expect(201);
    let (id, _) = invited(&app, "grace@example.org", "viewer").await;
    for address in ["grace@example.org", "Grace@EXAMPLE.org"] {
        problem(&invite(&owner, address, "operator").await, 409, "already_invited");
    }
    invite(&app.other_team(), "grace@example.org", "viewer").await.expect(201);
    owner.delete(&format!("/api/team/invitations/{id}")).await.expect(204);
    invite(&owner, "grace@example.org", "operator").await.expect(201);
    // Who has come in some other way since cannot come in once more.
    let (_, token) = invited(&app, "heidi@example.org", "owner").await;
    let heidi = member(&app, app.people.team, Role::Viewer, "heidi@example.org").await;
    problem(&join(&heidi.client, &token).await, 409, "already_member");
    let joined = members(&owner).await;
    assert!(joined.contains(&("heidi@example.org".into(), "viewer".into())), "{joined:?}");
}

#[tokio::test]
async fn of_16_who_ask_the_same_person_at_once_one_does() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let replies = join_all((0..16).map(|_| invite(&owner, "grace@example.org", "viewer"))).await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 201).count(), 1);
    let others = replies.iter().filter(|reply| reply.status != 201);
    others.for_each(|reply| problem(reply, 409, "already_invited"));
    assert_eq!(emails(&owner).await, ["grace@example.org"]);
}

#[tokio::test]
async fn a_hundred_invitations_are_open_at_most_and_listed_page_by_page() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let mut made = vec![];
    for n in 0..100 {
        made.push(invite(&owner, &format!("guest{n}@example.org"), "viewer").await.expect(201).json);
    }
    problem(&invite(&owner, "one-more@example.org", "viewer").await, 409, "too_many_invitations");
    // Each team has its own hundred.
    invite(&app.other_team(), "one-more@example.org", "viewer").await.expect(201);
    let (mut listed, mut path) = (vec![], "/api/team/invitations?limit=30".to_owned());
    let mut pages = 0;
    loop {
        let page = owner.get(&path).await.expect(200).json;
        pages += 1;
        listed.extend(page["items"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        refused(&app.other_team().get(&format!("/api/team/invitations?cursor={next}")).await, &["cursor"]);
        path = format!("/api/team/invitations?limit=30&cursor={next}");
    }
    assert_eq!((pages, listed), (4, made.clone()));
    for bad in ["limit=0", "limit=201", "limit=x"] {
        refused(&owner.get(&format!("/api/team/invitations?{bad}")).await, &["limit"]);
    }
    let path = format!("/api/team/invitations/{}", made[50]["id"].as_str().unwrap());
    owner.delete(&path).await.expect(204);
    invite(&owner, "one-more@example.org", "viewer").await.expect(201);
}

#[tokio::test]
async fn an_invitation_under_one_key_is_made_once_and_always_answered_alike() {
    let app = TestApp::start().await;
    let owner = app.owner().with_header("idempotency-key", "invite-1");
    let first = invite(&owner, "grace@example.org", "operator").await.expect(201);
    let same = |reply: &Reply| {
        assert_eq!(reply.status, 201, "{}", reply.text);
        assert_eq!(reply.json, first.json);
        assert_eq!(reply.header("daybook-position"), first.header("daybook-position"));
    };
    same(&invite(&owner, "grace@example.org", "operator").await);
    problem(&invite(&owner, "heidi@example.org", "operator").await, 422, "idempotency_key_reused");
    // Also when there were others in between, and when it was taken up.
    outlived(&app, "ivan@example.org").await;
    invite(&app.owner(), "judy@example.org", "viewer").await.expect(201);
    same(&invite(&owner, "grace@example.org", "operator").await);
    let token = invitation_token(&app, app.people.team, first.str("id")).await;
    register(&app, "grace@example.org", &token).await.expect(201);
    same(&invite(&owner, "grace@example.org", "operator").await);
    let made = "select count(*) from events where event_type = 'MemberInvited'";
    assert_eq!(count(&app, made).await, 3);
    // One that makes room for itself, by withdrawing what has expired.
    let (owner, path) = (app.owner().with_header("idempotency-key", "invite-2"), "/api/team/invitations");
    let body = json!({"email": "ivan@example.org", "role": "viewer"});
    outlived(&app, "kim@example.org").await;
    let first = owner.post(path, body.clone()).await.expect(201);
    assert_eq!(owner.post(path, body).await.expect(201).json, first.json);
    assert_eq!(first.str("email"), "ivan@example.org");
}

#[tokio::test]
async fn a_joining_under_one_key_of_registering_has_one_answer() {
    let app = TestApp::start().await;
    let (_, token) = invited(&app, "grace@example.org", "operator").await;
    let anon = app.anon().with_header("idempotency-key", "register-1");
    let body = json!({"email": "grace@example.org", "password": PASSWORD, "name": "Grace", "invitation_token": token});
    let first = anon.post("/api/auth/register", body.clone()).await.expect(201);
    let grace: domain::UserId = first.str("id").parse().unwrap();
    take_in(&app, app.people.other_team, grace, Role::Viewer).await;
    let again = anon.post("/api/auth/register", body).await.expect(201);
    assert_eq!(again.json, first.json);
}

#[tokio::test]
async fn wrong_invitations_are_refused_field_by_field() {
    let app = TestApp::start().await;
    let owner = app.owner();
    refused(&invite(&owner, "x", "admin").await, &["email", "role"]);
    for role in ["", "Owner", "OWNER", " owner", "owner ", "member", "admin", "system", "owner\0"] {
        refused(&invite(&owner, "grace@example.org", role).await, &["role"]);
    }
    for email in
        ["", "grace", "a b@example.org", "\u{202e}a@example.org", &format!("{}@x.org", "x".repeat(320))]
    {
        refused(&invite(&owner, email, "viewer").await, &["email"]);
    }
    let post = async |body: Value| owner.post("/api/team/invitations", body).await;
    refused(&post(json!({"email": "g@example.org"})).await, &["role"]);
    refused(&post(json!({"email": "g@example.org", "role": 1})).await, &["role"]);
    refused(&post(json!({"email": "g@example.org", "role": "viewer", "admin": true})).await, &["admin"]);
    assert!(emails(&owner).await.is_empty());
    for id in [Uuid::now_v7().to_string(), "x".to_owned(), "%00".to_owned()] {
        assert_eq!(owner.delete(&format!("/api/team/invitations/{id}")).await.status, 404, "{id}");
    }
}

#[tokio::test]
async fn another_teams_invitations_do_not_exist() {
    let app = TestApp::start().await;
    let (id, _) = invited(&app, "grace@example.org", "viewer").await;
    assert!(emails(&app.other_team()).await.is_empty());
    let path = format!("/api/team/invitations/{id}");
    problem(&app.other_team().delete(&path).await, 404, "invitation_not_found");
    let posing = app.as_user(app.people.stranger).with_header("daybook-team", app.people.team);
    for reply in [posing.get("/api/team/invitations").await, posing.delete(&path).await] {
        assert_eq!(reply.status, 404, "{}", reply.text);
    }
    assert_eq!(emails(&app.owner()).await, ["grace@example.org"]);
}

#[tokio::test]
async fn the_address_of_who_is_asked_is_sealed_and_the_token_nowhere() {
    let app = TestApp::start().await;
    let (_, token) = invited(&app, "grace@example.org", "operator").await;
    let proof = token.rsplit('.').next().unwrap();
    let texts: BTreeSet<&str> = ["grace@", &token, proof].into();
    for text in texts {
        let found =
            format!("select count(*) from events where payload::text || metadata::text like '%{text}%'");
        assert_eq!(count(&app, &found).await, 0, "{text}");
    }
    let trail = audited(&app, &app.auditor(), "type=MemberInvited").await;
    assert!(!format!("{trail:?}").contains(&token));
}
