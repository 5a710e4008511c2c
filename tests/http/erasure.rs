//! Forgetting a person, and what every view shows of them afterwards.

use std::collections::BTreeSet;

use domain::{Role, User, UserCommand, UserId};
use futures::future::join_all;
use serde_json::{Value, json};
use tests::{Client, PASSWORD, Reply, Setup, TestApp, eventually};
use uuid::Uuid;

use super::newcomers::{account, invitation_token, member, newcomer, registered, take_in};
use super::support::{audited, count, keep, problem, refresh, up_to_now};

/// Somebody whose every text is found nowhere else.
const EMAIL: &str = "Ada.Lovelace@Example.org";
const NAME: &str = "Augusta Byron";
const RENAMED: &str = "Countess Ærø";
const AGENT: &str = "analytical-engine/1";

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

/// What somebody leaves behind who has used everything.
struct Life {
    id: UserId,
    own_team: domain::TeamId,
    session: Client,
    program: Client,
    /// Of the session: the one that was exchanged, and the one that is good.
    refresh_tokens: [String; 2],
    /// Of a team that they were not in yet.
    invitation: String,
    reset: String,
}

async fn sign_in(client: &Client, password: &str) -> Reply {
    client.post("/api/auth/login", json!({"email": EMAIL, "password": password})).await
}

async fn live(app: &TestApp) -> Life {
    let anon = app.anon().with_header("user-agent", AGENT);
    let body = json!({"email": EMAIL, "password": PASSWORD, "name": NAME});
    let made = anon.post("/api/auth/register", body).await.expect(201);
    let id: UserId = made.str("id").parse().unwrap();
    let own_team: domain::TeamId = made.json["teams"][0]["id"].as_str().unwrap().parse().unwrap();
    member(app, own_team, Role::Viewer, "guest@example.org").await;
    // Who does not prove who they are is a visitor, and not forgotten with anybody.
    sign_in(&app.anon(), "not the password").await.expect(401);
    let tokens = sign_in(&anon, PASSWORD).await.expect(200);
    let first = tokens.str("refresh_token").to_owned();
    let second = refresh(app, &first).await.expect(200).str("refresh_token").to_owned();
    let session = anon.with_token(tokens.str("access_token"));
    session.patch("/api/auth/me", json!({"name": RENAMED})).await.expect(200);
    session.post("/api/auth/2fa", Value::Null).await.expect(200);

    let invited = async |client: &Client, team| {
        let body = json!({"email": EMAIL.to_lowercase(), "role": "operator"});
        let made = client.post("/api/team/invitations", body).await.expect(201);
        invitation_token(app, team, made.str("id")).await
    };
    let token = invited(&app.owner(), app.people.team).await;
    session.post("/api/teams/join", json!({"invitation_token": token})).await.expect(200);
    take_in(app, app.people.other_team, id, Role::Owner).await;
    let third = app.admin().post("/api/teams", json!({"name": "Third", "slug": "third"})).await.expect(201);
    let admin = app.admin().with_header("daybook-team", "third");
    let invitation = invited(&admin, third.str("id").parse().unwrap()).await;

    let main = session.with_header("daybook-team", "main");
    keep(&main, "hers").await;
    main.get("/api/users").await.expect(403);
    let key = json!({"name": "program", "scopes": ["secrets:read"]});
    let key = main.post("/api/auth/api-keys", key).await.expect(201);
    let program = anon.with_token(key.str("key"));
    program.get("/api/secrets").await.expect(200);
    app.anon().post("/api/auth/password-reset", json!({"email": EMAIL})).await.expect(202);
    let reset = app.mail_tokens("PasswordResetRequested", id, 1).await.remove(0);
    Life { id, own_team, session, program, refresh_tokens: [first, second], invitation, reset }
}

/// The tables in which a text is found.
async fn tables_with(app: &TestApp, text: &str) -> BTreeSet<String> {
    let mut connection = app.database.connect().await;
    let tables = "select table_name::text from information_schema.tables
                  where table_schema = 'public' and table_type = 'BASE TABLE'";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut connection).await.unwrap();
    assert!(tables.len() > 12, "{tables:?}");
    let mut found = BTreeSet::new();
    for table in tables {
        let sql =
            format!("select exists (select from {table} t where strpos(lower(t::text), lower($1)) > 0)");
        match sqlx::query_scalar(&sql).bind(text).fetch_one(&mut connection).await {
            // Of a view's table, its name without the version.
            Ok(true) => drop(found.insert(table.split("_v").next().unwrap_or_default().to_owned())),
            Ok(false) => {}
            // A view that was just being made anew.
            Err(error) => assert!(table.contains("__rebuild_"), "{error}"),
        }
    }
    found
}

async fn assert_nowhere(app: &TestApp, texts: &[&str], when: &str) {
    for text in texts {
        assert_eq!(tables_with(app, text).await, [].into(), "{text} {when}");
    }
}

/// What everybody sees of the person, on one node, from the position of the erasing on.
async fn assert_unknown(node: &TestApp, position: &str, life: &Life) {
    let see = |client: Client| client.with_header("daybook-position", position);
    let admin = see(node.admin());
    let shown = admin.get(&format!("/api/users/{}", life.id)).await.expect(200).json;
    let fields =
        ["email", "name", "active", "admin", "email_verified", "two_factor"].map(|field| &shown[field]);
    assert_eq!(json!(fields), json!(["erased", "erased", false, false, false, false]));
    let teams: Vec<_> = shown["teams"].as_array().unwrap().iter().map(|team| &team["id"]).collect();
    assert_eq!(teams, [&json!(life.own_team)], "as the last owner");
    for q in ["lovelace", "BYRON", "ærø"] {
        let request = admin.request(reqwest::Method::GET, "/api/users").query(&[("q", q)]);
        assert_eq!(admin.send(request).await.expect(200).json["items"], json!([]), "{q}");
    }
    let id = life.id.to_string();
    for members in [see(node.owner()), see(node.other_team())] {
        let team = members.get("/api/team").await.expect(200);
        assert!(!team.text.contains(&id), "{}", team.text);
    }
    let third = admin.with_header("daybook-team", "third");
    assert_eq!(third.get("/api/team/invitations").await.expect(200).json["items"], json!([]));
    assert_eq!(see(life.on(node, &life.session)).get("/api/auth/me").await.status, 401);
    assert_eq!(see(life.on(node, &life.program)).get("/api/secrets").await.status, 401);
    problem(&sign_in(&node.anon(), PASSWORD).await, 401, "sign_in_failed");
    for token in &life.refresh_tokens {
        problem(&refresh(node, token).await, 401, "refresh_token_invalid");
    }
    let reset = json!({"token": life.reset, "new_password": "a staple that is correct"});
    let reply = node.anon().post("/api/auth/password-reset/confirm", reset).await;
    problem(&reply, 422, "token_not_open");
}

impl Life {
    /// The same person or program, speaking to this node.
    fn on(&self, node: &TestApp, client: &Client) -> Client {
        client.speaking_to(node.address)
    }
}

async fn erase(app: &TestApp, id: UserId) -> Reply {
    app.admin().post(&format!("/api/users/{id}/erase"), Value::Null).await
}

async fn assert_views_say_what_the_log_says(app: &TestApp, when: &str) {
    for view in app.projections.names() {
        let verified = app.projections.verify(view, |_| ()).await.unwrap();
        assert_eq!(verified.different, 0, "{view} {when}: {:?}", verified.differences);
    }
}

#[tokio::test]
async fn who_is_erased_is_gone_everywhere_at_once_and_nothing_brings_them_back() {
    let app = TestApp::with(Setup::default().with("REGISTRATION", "open")).await;
    let other = app.another_node(Setup::default()).await;
    let life = live(&app).await;
    let known = ["ada.lovelace", NAME, "countess"];
    assert_eq!(tables_with(&app, "ada.lovelace").await, ["teams".to_owned(), "users".to_owned()].into());
    let done = erase(&app, life.id).await.expect(204);
    let position = done.header("daybook-position");
    assert_nowhere(&app, &known, "at once").await;
    for node in [&other, &app] {
        assert_unknown(node, position, &life).await;
    }
    // The addresses of their requests stand in the trail until that is made anew.
    eventually("the trail forgets", async || tables_with(&app, AGENT).await.is_empty().then_some(())).await;
    assert_views_say_what_the_log_says(&app, "afterwards").await;
    for view in app.projections.names() {
        eventually("no other rebuild", async || app.projections.rebuild(view, |_| ()).await.ok()).await;
    }
    assert_nowhere(&app, &[&known[..], &[AGENT]].concat(), "after every view was made anew").await;
    assert_views_say_what_the_log_says(&app, "after they were made anew").await;
    assert_unknown(&other, position, &life).await;

    let admin = app.admin();
    for (kind, id) in [("user", life.id.to_string()), ("team", app.people.team.to_string())] {
        let history = admin.get(&format!("/api/audit/{kind}/{id}/history")).await.expect(200);
        let state = admin.get(&format!("/api/audit/{kind}/{id}/state")).await.expect(200);
        assert!(history.text.contains("erased"), "{}", history.text);
        for text in known {
            let said = format!("{}{}", history.text, state.text).to_lowercase();
            assert!(!said.contains(&text.to_lowercase()), "{text}: {said}");
        }
    }
    let keys = format!("select count(*) from data_keys where id = 'subject/{}'", life.id);
    assert_eq!(
        count(&app, &keys).await,
        0,
        "nothing that was tried with their credentials has made a new one"
    );
}

#[tokio::test]
async fn the_address_of_who_was_erased_is_free_and_its_next_owner_is_somebody_else() {
    let app = TestApp::with(Setup::default().with("REGISTRATION", "open")).await;
    let life = live(&app).await;
    let taken = json!({"email": EMAIL, "password": PASSWORD, "name": "Somebody else"});
    let register = async || app.anon().post("/api/auth/register", taken.clone()).await;
    problem(&register().await, 409, "email_taken");
    erase(&app, life.id).await.expect(204);
    let next = register().await.expect(201);
    assert_ne!(next.str("id"), life.id.to_string());
    let tokens = sign_in(&app.anon(), PASSWORD).await.expect(200);
    let client = app.anon().with_token(tokens.str("access_token"));
    let me = client.get("/api/auth/me").await.expect(200).json;
    assert_eq!((&me["name"], me["teams"].as_array().unwrap().len()), (&json!("Somebody else"), 1));
    // Whom the team has asked is not who has the address now.
    let join = client.post("/api/teams/join", json!({"invitation_token": life.invitation})).await;
    problem(&join, 422, "invitation_not_open");
    // Erasing twice is fine, and is about the one who was erased.
    let again = erase(&app, life.id).await.expect(204);
    assert_eq!(again.header("daybook-position"), "");
    assert_eq!(client.get("/api/auth/me").await.expect(200).json["email"], me["email"]);
    let old = app.admin().get(&format!("/api/users/{}", life.id)).await.expect(200);
    assert_eq!(old.str("email"), "erased");
    problem(&register().await, 409, "email_taken");
    let path = format!("/api/users/{}", life.id);
    for body in [json!({"name": "Back"}), json!({"active": true}), json!({"admin": true})] {
        problem(&app.admin().patch(&path, body).await, 409, "user_erased");
    }
    problem(&erase(&app, UserId(Uuid::now_v7())).await, 404, "not_found");
    erase(&app, next.str("id").parse().unwrap()).await.expect(204);
    register().await.expect(201);
}

#[tokio::test]
async fn of_16_who_erase_somebody_at_once_on_two_nodes_none_is_refused_and_one_does() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    let grace = newcomer(&app, "grace@example.org").await;
    let there = up_to_now(&app, &other.admin()).await;
    let path = format!("/api/users/{}/erase", grace.id);
    let replies = join_all((0..16).map(|n| {
        let (client, path) = (if n % 2 == 0 { app.admin() } else { there.clone() }, path.clone());
        async move { client.post(&path, Value::Null).await }
    }))
    .await;
    assert!(replies.iter().all(|reply| reply.status == 204), "{replies:?}");
    let erased = "select count(*) from events where event_type = 'UserErased'";
    assert_eq!(count(&app, erased).await, 1);
    let released = "select count(*) from events where event_type = 'Released'";
    assert_eq!(count(&app, released).await, 1);
}

#[tokio::test]
async fn an_admin_who_erases_oneself_leaves_nothing_behind() {
    let app = TestApp::start().await;
    let plain = account("second@example.org").await;
    let second = registered(&app, commands::NewAccount { admin: true, ..plain }).await;
    let ours = [app.people.team, app.people.other_team];
    for team in ours {
        take_in(&app, team, second.id, Role::Owner).await;
    }
    let client = second.client.with_header("user-agent", AGENT);
    client.get("/api/audit/events").await.expect(200);
    client.post(&format!("/api/users/{}/erase", second.id), Value::Null).await.expect(204);
    assert_eq!(client.get("/api/users").await.status, 401);
    let keys = format!("select count(*) from data_keys where id = 'subject/{}'", second.id);
    assert_eq!(count(&app, &keys).await, 0);
    for members in [app.owner(), app.other_team()] {
        let team = members.get("/api/team").await.expect(200);
        assert!(!team.text.contains(&second.id.to_string()), "{}", team.text);
    }
    eventually("the trail forgets", async || tables_with(&app, AGENT).await.is_empty().then_some(())).await;
    let parked = "select count(*) from reactor_failures";
    assert_eq!(count(&app, parked).await, 0);
}

#[tokio::test]
async fn a_team_keeps_the_last_owner_who_was_erased_as_nobody() {
    let app = TestApp::start().await;
    let guest = member(&app, app.people.other_team, Role::Viewer, "guest@example.org").await;
    erase(&app, app.people.stranger).await.expect(204);
    let team = guest.client.get("/api/team").await.expect(200).json;
    let owner = team["members"].as_array().unwrap().iter().find(|member| member["role"] == "owner").unwrap();
    let shown = ["name", "email", "active"].map(|field| &owner[field]);
    assert_eq!(json!(shown), json!(["erased", "erased", false]));
}

#[tokio::test]
async fn what_follows_late_of_an_erasure_leaves_alone_who_has_the_address_now() {
    let app = TestApp::start().await;
    let mut connection = app.database.connect().await;
    // Somebody who does not come has the reactor's seat.
    let taken = "update reactors set holder = gen_random_uuid(), held_until = now() + interval '1 hour'
                 where name = 'forgetting'";
    eventually("the reactor's row", async || {
        let done = sqlx::query(taken).execute(&mut connection).await.unwrap();
        (done.rows_affected() == 1).then_some(())
    })
    .await;
    let grace = newcomer(&app, "grace@example.org").await;
    let invite = json!({"email": "grace@example.org", "role": "viewer"});
    let invite = async || app.owner().post("/api/team/invitations", invite.clone()).await.expect(201);
    let (first, erased) = (invite().await, erase(&app, grace.id).await.expect(204));
    let second = invite().await;
    let given_up = "update reactors set holder = null, held_until = null where name = 'forgetting'";
    sqlx::query(given_up).execute(&mut connection).await.unwrap();
    let position: i64 = erased.header("daybook-position").parse().unwrap();
    let done = format!("select count(*) from reactors where name = 'forgetting' and position >= {position}");
    eventually("what follows", async || (count(&app, &done).await == 1).then_some(())).await;

    let open = app.owner().get("/api/team/invitations").await.expect(200).json;
    assert_eq!(open["items"], json!([second.json]), "and not {}", first.text);
    for view in ["teams", "audit"] {
        eventually("no other rebuild", async || app.projections.rebuild(view, |_| ()).await.ok()).await;
    }
    let open = app.owner().get("/api/team/invitations").await.expect(200).json;
    assert_eq!(open["items"][0]["email"], "grace@example.org", "its key is as it was");
}
