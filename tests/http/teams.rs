//! Teams: made, listed, changed, left, and what their members may do from one request to the next.

use futures::future::join_all;
use serde_json::{Value, json};
use tests::{Client, Reply, Setup, TestApp};
use uuid::Uuid;

use super::newcomers::{Newcomer, member, newcomer, registered, signed_in, take_in};
use super::support::{audited, count, keep, problem, refused};
use commands::FirstTeam;
use domain::Role;

async fn make(client: &Client, name: &str, slug: &str) -> Reply {
    client.post("/api/teams", json!({"name": name, "slug": slug})).await
}

async fn change(client: &Client, user: impl ToString, role: &str) -> Reply {
    client.patch(&format!("/api/team/members/{}", user.to_string()), json!({"role": role})).await
}

async fn part(client: &Client, user: impl ToString) -> Reply {
    client.delete(&format!("/api/team/members/{}", user.to_string())).await
}

async fn roles(client: &Client) -> Vec<(String, String)> {
    let team = client.get("/api/team").await.expect(200).json;
    let text = |member: &Value, field: &str| member[field].as_str().unwrap().to_owned();
    let of = |member: &Value| (text(member, "name"), text(member, "role"));
    let mut roles: Vec<_> = team["members"].as_array().unwrap().iter().map(of).collect();
    roles.sort();
    roles
}

/// The slugs of all pages of a list.
async fn slugs(client: &Client, limit: usize) -> Vec<String> {
    let (mut found, mut path) = (vec![], format!("/api/teams?limit={limit}"));
    loop {
        let page = client.get(&path).await.expect(200).json;
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= limit);
        found.extend(items.iter().map(|team| team["slug"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { return found };
        assert_eq!(items.len(), limit);
        path = format!("/api/teams?limit={limit}&cursor={next}");
    }
}

#[tokio::test]
async fn an_admin_makes_a_team_and_owns_it() {
    let app = TestApp::start().await;
    let admin = app.admin();
    let made = make(&admin, "Payments 支払い", "payments").await.expect(201);
    assert_eq!(
        (made.str("name"), made.str("slug"), made.header("etag")),
        ("Payments 支払い", "payments", "\"1\"")
    );
    assert!(made.header("daybook-position").parse::<i64>().unwrap() > 0);
    assert_eq!(made.json["two_factor_required"], false);
    let members = made.json["members"].as_array().unwrap();
    assert_eq!((members.len(), &members[0]["user_id"]), (1, &json!(app.people.admin)));
    assert_eq!((&members[0]["role"], &members[0]["email"]), (&json!("owner"), &json!("admin@example.org")));
    let there = admin.with_header("daybook-team", "payments");
    let shown = there.get("/api/team").await.expect(200);
    assert_eq!((&shown.json, shown.header("etag")), (&made.json, "\"1\""));
    keep(&there, "theirs").await;

    problem(&make(&admin, "Others", "payments").await, 409, "slug_taken");
    problem(&make(&admin, "Others", "main").await, 409, "slug_taken");
    for slug in ["", "Main", "-a", "a-", "a_b", "a b", "é", "a\0", &"x".repeat(64)] {
        refused(&make(&admin, "Others", slug).await, &["slug"]);
    }
    for name in ["", " ", " a", "a\n", "\u{202e}a", &"x".repeat(201)] {
        refused(&make(&admin, name, "others").await, &["name"]);
    }
    refused(&make(&admin, "", "").await, &["name", "slug"]);
    refused(&admin.post("/api/teams", json!({"name": "x", "slug": "x", "owner": 1})).await, &["owner"]);
    make(&admin, &"長".repeat(200), &"x".repeat(63)).await.expect(201);
}

#[tokio::test]
async fn of_16_who_want_one_slug_at_once_one_gets_it() {
    let app = TestApp::start().await;
    let admin = app.admin();
    let replies = join_all((0..16).map(|n| {
        let (admin, name) = (admin.clone(), format!("Team {n}"));
        async move { make(&admin, &name, "wanted").await }
    }))
    .await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 201).count(), 1);
    let others = replies.iter().filter(|reply| reply.status != 201);
    others.for_each(|reply| problem(reply, 409, "slug_taken"));
    let made = "select count(*) from events where event_type = 'TeamCreated'";
    assert_eq!(count(&app, made).await, 8 + 1);
}

#[tokio::test]
async fn a_team_under_one_key_is_made_once() {
    let app = TestApp::start().await;
    let admin = app.admin().with_header("idempotency-key", "team-1");
    let first = make(&admin, "Payments", "payments").await.expect(201);
    let there = app.admin().with_header("daybook-team", "payments");
    there.patch("/api/team", json!({"name": "Pay"})).await.expect(200);
    let again = make(&admin, "Payments", "payments").await.expect(201);
    assert_eq!((&again.json, again.header("etag")), (&first.json, first.header("etag")));
    problem(&make(&admin, "Payments", "payments-2").await, 422, "idempotency_key_reused");
    // An invitation is another request, though it is the same key.
    let invitation = json!({"email": "grace@example.org", "role": "viewer"});
    let reply = admin.post("/api/team/invitations", invitation).await;
    problem(&reply, 422, "idempotency_key_reused");
}

#[tokio::test]
async fn an_admin_sees_all_teams_and_everybody_else_their_own() {
    let app = TestApp::start().await;
    let admin = app.admin();
    for n in 0..7 {
        make(&admin, "Team", &format!("team-{n}")).await.expect(201);
    }
    let all = slugs(&admin, 200).await;
    assert_eq!(all.len(), 8 + 7);
    assert_eq!(slugs(&admin, 4).await, all);
    let list = admin.get("/api/teams?limit=200").await.expect(200).json;
    let of = |slug: &str| list["items"].as_array().unwrap().iter().find(|team| team["slug"] == slug).unwrap();
    assert_eq!((&of("main")["role"], &of("main")["members"]), (&Value::Null, &json!(4)));
    assert_eq!((&of("team-0")["role"], &of("team-0")["members"]), (&json!("owner"), &json!(1)));

    let grace = newcomer(&app, "grace@example.org").await;
    assert!(slugs(&grace.client, 2).await.is_empty());
    for slug in ["team-4", "team-1", "team-3", "team-0", "team-5"] {
        take_in(&app, id_of(&list, slug), grace.id, Role::Viewer).await;
    }
    assert_eq!(slugs(&grace.client, 2).await, ["team-0", "team-1", "team-3", "team-4", "team-5"]);
    let page = grace.client.get("/api/teams?limit=2").await.expect(200).json;
    assert_eq!((&page["items"][1]["role"], &page["items"][1]["members"]), (&json!("viewer"), &json!(2)));
    let next = page["next"].as_str().unwrap();
    // Whoever leaves the last team of a page misses none of those that follow.
    part(&grace.client.with_header("daybook-team", "team-1"), grace.id).await.expect(204);
    let rest = grace.client.get(&format!("/api/teams?limit=2&cursor={next}")).await.expect(200).json;
    let rest: Vec<_> = rest["items"].as_array().unwrap().iter().map(|team| team["slug"].clone()).collect();
    assert_eq!(rest, ["team-3", "team-4"]);
    refused(&app.owner().get(&format!("/api/teams?cursor={next}")).await, &["cursor"]);
    refused(&grace.client.get("/api/teams?cursor=x").await, &["cursor"]);
    refused(&grace.client.get("/api/teams?limit=0").await, &["limit"]);
}

fn id_of(list: &Value, slug: &str) -> domain::TeamId {
    let teams = list["items"].as_array().unwrap();
    let team = teams.iter().find(|team| team["slug"] == slug).unwrap();
    team["id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_team_is_renamed_unless_somebody_was_faster() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let team = owner.get("/api/team").await.expect(200);
    assert_eq!(team.header("etag"), "\"4\"");
    let tagged = |tag: &str| owner.with_header("if-match", tag);
    let renamed = tagged("\"4\"").patch("/api/team", json!({"name": "Zahlungen"})).await.expect(200);
    assert_eq!(
        (renamed.str("name"), renamed.str("slug"), renamed.header("etag")),
        ("Zahlungen", "main", "\"5\"")
    );
    problem(&tagged("\"4\"").patch("/api/team", json!({"name": "Late"})).await, 412, "precondition_failed");
    problem(&tagged("\"4\"").patch("/api/team", json!({})).await, 412, "precondition_failed");
    for nothing in
        [json!({}), json!({"name": "Zahlungen"}), json!({"name": null, "two_factor_required": false})]
    {
        let same = owner.patch("/api/team", nothing).await.expect(200);
        assert_eq!((same.str("name"), same.header("etag")), ("Zahlungen", "\"5\""));
    }
    for name in ["", " a", "a\n", "\u{2066}a"] {
        refused(&owner.patch("/api/team", json!({"name": name})).await, &["name"]);
    }
    refused(&owner.patch("/api/team", json!({"slug": "other"})).await, &["slug"]);
    // Who asks others for a second factor must have one.
    let both = json!({"name": "Half done", "two_factor_required": true});
    problem(&owner.patch("/api/team", both).await, 409, "two_factor_off");
    assert_eq!(owner.get("/api/team").await.expect(200).str("name"), "Zahlungen");
    let history =
        app.auditor().get(&format!("/api/audit/team/{}/history", app.people.team)).await.expect(200);
    let last = history.json["items"].as_array().unwrap().last().unwrap();
    assert_eq!(last["changes"], json!([{"field": "name", "before": "main", "after": "Zahlungen"}]));
}

#[tokio::test]
async fn members_can_insist_on_the_version_of_the_team_they_saw() {
    let app = TestApp::start().await;
    let (owner, viewer) = (app.owner(), app.people.viewer);
    let stale = owner.with_header("if-match", "\"3\"");
    problem(&change(&stale, viewer, "operator").await, 412, "precondition_failed");
    problem(&part(&stale, viewer).await, 412, "precondition_failed");
    let invitation = json!({"email": "grace@example.org", "role": "viewer"});
    let invitation = owner.post("/api/team/invitations", invitation).await.expect(201);
    let path = format!("/api/team/invitations/{}", invitation.str("id"));
    problem(&stale.delete(&path).await, 412, "precondition_failed");
    let fresh = |reply: &Reply| owner.with_header("if-match", reply.header("etag"));
    let team = owner.get("/api/team").await.expect(200);
    let changed = change(&fresh(&team), viewer, "operator").await.expect(200);
    assert_eq!((changed.str("role"), changed.header("etag")), ("operator", "\"6\""));
    fresh(&changed).delete(&path).await.expect(204);
    let team = owner.get("/api/team").await.expect(200);
    part(&fresh(&team), viewer).await.expect(204);
    refused(&change(&owner.with_header("if-match", "x"), app.people.operator, "viewer").await, &["If-Match"]);
    // Whoever may not is not told of versions.
    problem(
        &change(&app.auditor().with_header("if-match", "\"1\""), viewer, "owner").await,
        403,
        "forbidden",
    );
    let strange = app.other_team().with_header("if-match", "\"1\"");
    problem(&change(&strange, app.people.operator, "owner").await, 404, "not_a_member");
}

#[tokio::test]
async fn a_role_holds_from_the_next_request_on_and_on_every_node() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    let (owner, user) = (app.owner(), app.people.operator);
    keep(&app.operator(), "before").await;
    let there = other.operator();
    there.get("/api/secrets").await.expect(200);
    let changed = change(&owner, user, "viewer").await.expect(200);
    assert_eq!((changed.str("role"), changed.str("email")), ("viewer", "operator@example.org"));
    let secret = json!({"name": "after", "value": "v"});
    problem(&app.operator().post("/api/secrets", secret.clone()).await, 403, "forbidden");
    let seen = there.with_header("daybook-position", changed.header("daybook-position"));
    problem(&seen.post("/api/secrets", secret).await, 403, "forbidden");
    seen.get("/api/secrets").await.expect(200);
    change(&owner, user, "owner").await.expect(200);
    app.operator().patch("/api/team", json!({"name": "Theirs"})).await.expect(200);
    let changed = change(&owner, user, "auditor").await.expect(200);
    problem(&app.operator().patch("/api/team", json!({"name": "Not theirs"})).await, 403, "forbidden");
    app.operator().get("/api/audit/events").await.expect(200);
    let same = change(&owner, user, "auditor").await.expect(200);
    assert_eq!((same.header("etag"), same.header("daybook-position")), (changed.header("etag"), ""));
    let removed = part(&owner, user).await.expect(204);
    problem(&app.operator().get("/api/audit/events").await, 404, "team_not_found");
    let seen = there.with_header("daybook-position", removed.header("daybook-position"));
    problem(&seen.get("/api/audit/events").await, 404, "team_not_found");
}

#[tokio::test]
async fn a_programs_key_shrinks_and_ends_with_its_makers_membership() {
    let app = TestApp::start().await;
    let key = json!({"name": "deploy", "scopes": ["secrets:read", "secrets:write", "team:read"]});
    let key = app.operator().post("/api/auth/api-keys", key).await.expect(201);
    let program = app.anon().with_token(key.str("key"));
    keep(&program, "programmed").await;
    // It does not leave for its maker.
    problem(&part(&program, app.people.operator).await, 403, "forbidden");
    change(&app.owner(), app.people.operator, "viewer").await.expect(200);
    problem(&program.post("/api/secrets", json!({"name": "x", "value": "v"})).await, 403, "forbidden");
    program.get("/api/secrets").await.expect(200);
    part(&app.owner(), app.people.operator).await.expect(204);
    problem(&program.get("/api/secrets").await, 404, "team_not_found");
}

#[tokio::test]
async fn wrong_roles_and_strange_members_are_refused() {
    let app = TestApp::start().await;
    let owner = app.owner();
    for role in ["", "Owner", "admin", "system", "owner "] {
        refused(&change(&owner, app.people.viewer, role).await, &["role"]);
    }
    let path = format!("/api/team/members/{}", app.people.viewer);
    refused(&owner.patch(&path, json!({"role": null})).await, &["role"]);
    refused(&owner.patch(&path, json!({})).await, &["role"]);
    refused(&owner.patch(&path, json!({"role": "owner", "admin": true})).await, &["admin"]);
    for nobody in [app.people.stranger.to_string(), Uuid::now_v7().to_string()] {
        problem(&change(&owner, &nobody, "viewer").await, 404, "not_a_member");
        problem(&part(&owner, &nobody).await, 404, "not_a_member");
    }
    problem(&change(&owner, "x", "viewer").await, 404, "not_found");
    assert_eq!(roles(&owner).await.len(), 4);
}

#[tokio::test]
async fn another_teams_members_do_not_exist() {
    let app = TestApp::start().await;
    let stranger = app.other_team();
    for user in [app.people.owner, app.people.viewer] {
        problem(&change(&stranger, user, "viewer").await, 404, "not_a_member");
        problem(&part(&stranger, user).await, 404, "not_a_member");
    }
    let posing = app.as_user(app.people.stranger).with_header("daybook-team", "main");
    for reply in [posing.get("/api/team").await, change(&posing, app.people.viewer, "owner").await] {
        problem(&reply, 404, "team_not_found");
    }
    // Being admin does not make one a member.
    let admin = app.admin().with_header("daybook-team", "main");
    problem(&admin.get("/api/team").await, 404, "team_not_found");
    assert_eq!(roles(&app.owner()).await.len(), 4);
}

#[tokio::test]
async fn whoever_is_in_a_team_may_leave_it() {
    let app = TestApp::start().await;
    for (client, user) in [
        (app.operator(), app.people.operator),
        (app.viewer(), app.people.viewer),
        (app.auditor(), app.people.auditor),
    ] {
        problem(&part(&client, app.people.owner).await, 403, "forbidden");
        part(&client, user).await.expect(204);
        problem(&part(&client, user).await, 404, "team_not_found");
        problem(&client.get("/api/team").await, 404, "team_not_found");
        let me = app.as_user(user).get("/api/auth/me").await.expect(200).json;
        assert_eq!(me["teams"].as_array().unwrap().len(), 1, "their own");
    }
    assert_eq!(roles(&app.owner()).await, [("owner".to_owned(), "owner".to_owned())]);
    let recorded = audited(&app, &app.admin(), "type=MemberRemoved").await;
    assert_eq!((recorded.len(), &recorded[0]["actor"]), (3, &json!(format!("user:{}", app.people.auditor))));
    assert_eq!(audited(&app, &app.admin(), "type=AccessRefused").await.len(), 3);
    // Somebody who is in no team at all.
    let nobody = member(&app, app.people.team, Role::Viewer, "grace@example.org").await;
    part(&nobody.client, nobody.id).await.expect(204);
    problem(&part(&nobody.client, nobody.id).await, 403, "no_team");
    assert_eq!(nobody.client.get("/api/auth/me").await.expect(200).json["teams"], json!([]));
    problem(&nobody.client.get("/api/team").await, 403, "forbidden");
}

#[tokio::test]
async fn the_last_owner_stays_one() {
    let app = TestApp::start().await;
    let (owner, me) = (app.owner(), app.people.owner);
    problem(&part(&owner, me).await, 409, "last_owner");
    for role in ["operator", "viewer", "auditor"] {
        problem(&change(&owner, me, role).await, 409, "last_owner");
    }
    change(&owner, me, "owner").await.expect(200);
    change(&owner, app.people.viewer, "owner").await.expect(200);
    change(&owner, me, "viewer").await.expect(200);
    problem(&change(&owner, me, "owner").await, 403, "forbidden");
    problem(&part(&app.viewer(), app.people.viewer).await, 409, "last_owner");
    part(&owner, me).await.expect(204);
    assert_eq!(roles(&app.viewer()).await.len(), 3);
}

#[tokio::test]
async fn of_two_owners_who_leave_at_once_exactly_one_does() {
    let app = TestApp::start().await;
    let other = app.another_node(Setup::default()).await;
    for round in 0..12 {
        let own = |who: &str| format!("{who}{round}@example.org");
        let ada = super::newcomers::account(&own("ada")).await;
        let ada = registered(&app, commands::NewAccount { team: FirstTeam::Own, ..ada }).await;
        let team = ada.client.get("/api/team").await.expect(200);
        let team: domain::TeamId = team.str("id").parse().unwrap();
        let bob = member(&app, team, Role::Owner, &own("bob")).await;
        // On two nodes every other time, and one of them demoted by the other every third.
        let elsewhere = if round % 2 == 0 { &app } else { &other };
        let bobs = on(elsewhere, &app, &bob).await;
        let (one, two) = if round % 3 == 0 {
            tokio::join!(part(&ada.client, ada.id), change(&bobs, bob.id, "viewer"))
        } else {
            tokio::join!(part(&ada.client, ada.id), part(&bobs, bob.id))
        };
        let refusals: Vec<_> = [&one, &two].into_iter().filter(|reply| reply.status >= 300).collect();
        assert_eq!(refusals.len(), 1, "{} {}", one.text, two.text);
        problem(refusals[0], 409, "last_owner");
        let owners = if one.status < 300 { &bob.client } else { &ada.client };
        let up_to_now = super::support::up_to_now(&app, owners).await;
        let left = roles(&up_to_now).await;
        assert_eq!(left.iter().filter(|(_, role)| role == "owner").count(), 1, "{left:?}");
    }
}

/// The same person on another node, in a session that this node knows of.
async fn on(node: &TestApp, home: &TestApp, person: &Newcomer) -> Client {
    let (client, _) = signed_in(node, person.id).await;
    client.with_header("daybook-position", home.ledger.head().await.unwrap())
}

#[tokio::test]
async fn somebody_in_several_teams_is_in_each_what_they_are_there() {
    let app = TestApp::start().await;
    let grace = member(&app, app.people.team, Role::Viewer, "grace@example.org").await;
    take_in(&app, app.people.other_team, grace.id, Role::Owner).await;
    let speaking = |team: &str| grace.client.with_header("daybook-team", team);
    let (main, other) = (speaking("main"), speaking(&app.people.other_team.to_string()));
    problem(&main.post("/api/secrets", json!({"name": "x", "value": "v"})).await, 403, "forbidden");
    keep(&other, "x").await;
    other.patch("/api/team", json!({"name": "Another"})).await.expect(200);
    problem(&main.patch("/api/team", json!({"name": "Another"})).await, 403, "forbidden");
    assert_eq!(slugs(&grace.client, 10).await, ["main", "other"]);
    let me = grace.client.get("/api/auth/me").await.expect(200).json;
    let teams: Vec<_> =
        me["teams"].as_array().unwrap().iter().map(|team| (&team["slug"], &team["role"])).collect();
    assert_eq!(teams, [(&json!("main"), &json!("viewer")), (&json!("other"), &json!("owner"))]);
    // Without the header: the one they have been in for longest; once that is left, the next.
    assert_eq!(grace.client.get("/api/team").await.expect(200).str("slug"), "main");
    part(&grace.client, grace.id).await.expect(204);
    assert_eq!(grace.client.get("/api/team").await.expect(200).str("slug"), "other");
    problem(&main.get("/api/secrets").await, 404, "team_not_found");
}
