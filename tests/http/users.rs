//! People, as those see and change them who administer the instance.

use commands::NewAccount;
use domain::{PersonName, Role, UserId};
use serde_json::{Value, json};
use tests::{Client, PASSWORD, Reply, Setup, TestApp};
use uuid::Uuid;

use super::newcomers::{Newcomer, account, member, newcomer, registered, signed_in};
use super::support::{audited, problem, refused, up_to_now};

async fn amend(client: &Client, user: UserId, body: Value) -> Reply {
    client.patch(&format!("/api/users/{user}"), body).await
}

async fn login(app: &TestApp, email: &str) -> Reply {
    app.anon().post("/api/auth/login", json!({"email": email, "password": PASSWORD})).await
}

/// Somebody with this name.
async fn named(app: &TestApp, email: &str, name: &str) -> Newcomer {
    let plain = account(email).await;
    registered(app, NewAccount { name: PersonName::parse(name).unwrap(), ..plain }).await
}

async fn another_admin(app: &TestApp, email: &str) -> Newcomer {
    registered(app, NewAccount { admin: true, ..account(email).await }).await
}

/// What a list of people shows of a field, with these parameters.
async fn listed(client: &Client, field: &str, parameters: &[(&str, &str)]) -> Vec<String> {
    let request = client.request(reqwest::Method::GET, "/api/users?limit=200").query(parameters);
    let page = client.send(request).await.expect(200).json;
    let text = |user: &Value| user[field].as_str().unwrap().to_owned();
    page["items"].as_array().unwrap().iter().map(text).collect()
}

#[tokio::test]
async fn people_are_found_by_address_and_name_in_any_script_and_case() {
    let app = TestApp::start().await;
    let admin = app.admin();
    for (email, name) in [
        ("emile@example.org", "Émile Ångström"),
        ("Юлия@пример.рф", "Юлия Ќ"),
        ("percent@example.org", "100% _sure_ O'Hara \\ \"quoted\""),
        ("emile+work@example.net", "李小龙"),
    ] {
        named(&app, email, name).await;
    }
    for (q, found) in [
        ("Émile", vec!["emile@example.org"]),
        ("éMILE Å", vec!["emile@example.org"]),
        ("ångSTRÖM", vec!["emile@example.org"]),
        ("юЛИЯ", vec!["Юлия@пример.рф"]),
        ("@ПРИМЕР", vec!["Юлия@пример.рф"]),
        ("EMILE", vec!["emile@example.org", "emile+work@example.net"]),
        ("+work@", vec!["emile+work@example.net"]),
        ("小", vec!["emile+work@example.net"]),
        ("100%", vec!["percent@example.org"]),
        ("%", vec!["percent@example.org"]),
        ("_", vec!["percent@example.org"]),
        ("o'hara \\ \"", vec!["percent@example.org"]),
        ("nobody", vec![]),
        ("\0", vec![]),
        ("a\0", vec![]),
        // The address and the name are two texts.
        ("example.org\nÉmile", vec![]),
        ("example.orgÉmile", vec![]),
    ] {
        assert_eq!(listed(&admin, "email", &[("q", q)]).await, found, "{q:?}");
    }
    assert_eq!(listed(&admin, "email", &[("q", "")]).await.len(), 6 + 4);
    assert_eq!(listed(&admin, "email", &[("q", &"x".repeat(5_000))]).await.len(), 0);
}

#[tokio::test]
async fn people_are_filtered_and_listed_page_by_page_in_the_order_they_came() {
    let app = TestApp::start().await;
    let admin = app.admin();
    let mut came = vec![];
    for n in 0..9 {
        let plain = account(&format!("p{n}@example.org")).await;
        let account = NewAccount { admin: n % 4 == 0, active: n % 3 != 0, ..plain };
        came.push(registered(&app, account).await.email);
    }
    let of = |wanted: &[usize]| -> Vec<String> { wanted.iter().map(|n| came[*n].clone()).collect() };
    let found =
        async |filters: &[(&str, &str)]| listed(&admin, "email", &[filters, &[("q", "p")]].concat()).await;
    let ours = async |filters: &[(&str, &str)]| -> Vec<String> {
        found(filters).await.into_iter().filter(|email| came.contains(email)).collect()
    };
    assert_eq!(ours(&[]).await, came);
    assert_eq!(ours(&[("active", "true")]).await, of(&[1, 2, 4, 5, 7, 8]));
    assert_eq!(ours(&[("active", "false")]).await, of(&[0, 3, 6]));
    assert_eq!(ours(&[("admin", "true")]).await, of(&[0, 4, 8]));
    assert_eq!(ours(&[("admin", "true"), ("active", "true")]).await, of(&[4, 8]));
    assert_eq!(ours(&[("admin", "false"), ("active", "false")]).await, of(&[3, 6]));

    let (mut paged, mut cursor) = (vec![], String::new());
    loop {
        let page = admin.get(&format!("/api/users?limit=2&active=true{cursor}")).await.expect(200).json;
        let items = page["items"].as_array().unwrap();
        paged.extend(items.iter().map(|user| user["email"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        refused(&admin.get(&format!("/api/users?cursor={next}")).await, &["cursor"]);
        cursor = format!("&cursor={next}");
        // Whoever comes meanwhile comes last.
        newcomer(&app, &format!("late{}@example.org", paged.len())).await;
    }
    let present = listed(&admin, "email", &[("active", "true")]).await;
    assert!(paged.len() > 12);
    assert_eq!(paged, present, "nobody is missing or there twice");
}

#[tokio::test]
async fn wrong_questions_about_people_are_refused() {
    let app = TestApp::start().await;
    let admin = app.admin();
    let picked = admin.get("/api/users?limit=1&fields=id,email").await.expect(200).json;
    let names: Vec<_> = picked["items"][0].as_object().unwrap().keys().collect();
    assert_eq!(names, ["email", "id"]);
    for (query, field) in [
        ("fields=password_hash", "fields"),
        ("fields=", "fields"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("active=yes", "active"),
        ("admin=1", "admin"),
        ("cursor=x", "cursor"),
        ("name=x", "name"),
        ("q=a&q=b", "q"),
    ] {
        refused(&admin.get(&format!("/api/users?{query}")).await, &[field]);
    }
    let page = admin.get("/api/users?limit=200").await.expect(200);
    for never in ["argon2", "password", "sealed", "canonical"] {
        assert!(!page.text.contains(never), "{never}");
    }
}

#[tokio::test]
async fn one_sees_oneself_and_an_admin_everybody() {
    let app = TestApp::start().await;
    let people = app.people;
    for (client, user) in [
        (app.owner(), people.owner),
        (app.auditor(), people.auditor),
        (app.admin(), people.admin),
        (app.other_team(), people.stranger),
    ] {
        let me = client.get("/api/auth/me").await.expect(200);
        for path in ["/api/users", "/api/auth/users"] {
            let shown = client.get(&format!("{path}/{user}")).await.expect(200);
            assert_eq!((&shown.json, shown.header("etag")), (&me.json, me.header("etag")));
            let by_admin = app.admin().get(&format!("{path}/{user}")).await.expect(200);
            assert_eq!((&by_admin.json, by_admin.header("etag")), (&me.json, me.header("etag")));
        }
    }
    // The owner of a team learns of its members from the team; and nobody learns who exists.
    let nobody = UserId(Uuid::now_v7());
    for path in ["/api/users", "/api/auth/users"] {
        problem(&app.owner().get(&format!("{path}/{}", people.viewer)).await, 403, "forbidden");
        problem(&app.owner().get(&format!("{path}/{nobody}")).await, 403, "forbidden");
        problem(&app.admin().get(&format!("{path}/{nobody}")).await, 404, "not_found");
        problem(&app.admin().get(&format!("{path}/x")).await, 404, "not_found");
    }
    // An admin's program administers nothing.
    let key = json!({"name": "program", "scopes": ["team:read"]});
    let key = app.admin().post("/api/auth/api-keys", key).await.expect(201);
    let program = app.anon().with_token(key.str("key"));
    problem(&program.get("/api/users").await, 403, "forbidden");
    problem(&program.get(&format!("/api/users/{}", people.viewer)).await, 403, "forbidden");
    problem(&amend(&program, people.viewer, json!({"name": "x"})).await, 403, "forbidden");
}

#[tokio::test]
async fn an_admin_changes_a_person_at_once_or_not_at_all() {
    let app = TestApp::start().await;
    let (admin, viewer) = (app.admin(), app.people.viewer);
    let shown = admin.get(&format!("/api/users/{viewer}")).await.expect(200);
    assert_eq!(shown.header("etag"), "\"2\"");
    let tagged = |tag: &str| admin.with_header("if-match", tag);
    let renamed = amend(&tagged("\"2\""), viewer, json!({"name": "Zoë"})).await.expect(200);
    assert_eq!((renamed.str("name"), renamed.header("etag")), ("Zoë", "\"3\""));
    problem(&amend(&tagged("\"2\""), viewer, json!({"name": "Late"})).await, 412, "precondition_failed");
    let all = json!({"name": "Zoë B", "active": false, "admin": true});
    let changed = amend(&admin, viewer, all).await.expect(200);
    assert_eq!((changed.str("name"), changed.header("etag")), ("Zoë B", "\"6\""));
    assert_eq!((&changed.json["active"], &changed.json["admin"]), (&json!(false), &json!(true)));
    for nothing in [json!({}), json!({"active": false, "admin": true}), json!({"name": null, "active": null})]
    {
        let same = amend(&admin, viewer, nothing).await.expect(200);
        assert_eq!(
            (same.json, same.headers.get("etag")),
            (changed.json.clone(), changed.headers.get("etag"))
        );
    }
    for name in ["", " Zoë", "Zoë\n", "\u{202e}eoZ", "\u{61c}Zoë", &"x".repeat(201)] {
        refused(&amend(&admin, viewer, json!({"name": name, "active": true})).await, &["name"]);
    }
    refused(&amend(&admin, viewer, json!({"active": "true"})).await, &["active"]);
    refused(&amend(&admin, viewer, json!({"email": "x@example.org"})).await, &["email"]);
    let now = admin.get(&format!("/api/users/{viewer}")).await.expect(200);
    assert_eq!(now.json, changed.json);
    problem(&amend(&admin, UserId(Uuid::now_v7()), json!({"name": "x"})).await, 404, "user_not_found");
    problem(&admin.patch("/api/users/x", json!({"name": "x"})).await, 404, "not_found");
    let recorded = audited(&app, &admin, &format!("aggregate_id={viewer}")).await;
    let types: Vec<_> = recorded.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let expected =
        ["AdminGranted", "UserDeactivated", "UserRenamed", "UserRenamed", "EmailVerified", "UserRegistered"];
    assert_eq!(types, expected, "newest first");
    assert_eq!(recorded[0]["actor"], format!("user:{}", app.people.admin));
}

#[tokio::test]
async fn who_is_deactivated_is_out_until_they_are_reactivated() {
    let app = TestApp::start().await;
    let grace = member(&app, app.people.team, Role::Operator, "grace@example.org").await;
    let key = json!({"name": "program", "scopes": ["secrets:read"]});
    let key = grace.client.post("/api/auth/api-keys", key).await.expect(201);
    let program = app.anon().with_token(key.str("key"));
    program.get("/api/secrets").await.expect(200);
    amend(&app.admin(), grace.id, json!({"active": false})).await.expect(200);
    problem(&grace.client.get("/api/secrets").await, 401, "session_ended");
    assert_eq!(program.get("/api/secrets").await.status, 401);
    let refresh = json!({"refresh_token": grace.refresh_token});
    assert_eq!(app.anon().post("/api/auth/refresh", refresh).await.status, 401);
    problem(&login(&app, "grace@example.org").await, 401, "sign_in_failed");
    let team = app.owner().get("/api/team").await.expect(200).json;
    let members = team["members"].as_array().unwrap();
    let shown = members.iter().find(|member| member["email"] == "grace@example.org").unwrap();
    assert_eq!(shown["active"], false);
    amend(&app.admin(), grace.id, json!({"active": true})).await.expect(200);
    login(&app, "grace@example.org").await.expect(200);
    problem(&grace.client.get("/api/secrets").await, 401, "session_ended");
}

#[tokio::test]
async fn the_last_admin_stays_one_and_half_of_a_change_is_none() {
    let app = TestApp::start().await;
    let (admin, me) = (app.admin(), app.people.admin);
    let before = admin.get("/api/auth/me").await.expect(200);
    let refuse = async || {
        for body in [
            json!({"admin": false}),
            json!({"active": false}),
            json!({"name": "Renamed", "active": false}),
            json!({"name": "Renamed", "admin": false}),
            json!({"active": true, "admin": false, "name": "Renamed"}),
        ] {
            problem(&amend(&admin, me, body).await, 409, "last_admin");
        }
        let erased = admin.post(&format!("/api/users/{me}/erase"), Value::Null).await;
        problem(&erased, 409, "last_admin");
        let now = admin.get("/api/auth/me").await.expect(200);
        assert_eq!((&now.json, now.header("etag")), (&before.json, before.header("etag")));
    };
    refuse().await;
    // Another who may not sign in is none.
    let other = another_admin(&app, "other@example.org").await;
    amend(&admin, other.id, json!({"active": false})).await.expect(200);
    refuse().await;
    amend(&admin, other.id, json!({"active": true})).await.expect(200);
    amend(&admin, other.id, json!({"admin": false})).await.expect(200);
    refuse().await;
    // With another who may, one goes.
    amend(&admin, app.people.viewer, json!({"admin": true})).await.expect(200);
    let viewer = up_to_now(&app, &app.viewer()).await;
    amend(&admin, me, json!({"admin": false})).await.expect(200);
    problem(&amend(&admin, other.id, json!({"name": "x"})).await, 403, "forbidden");
    problem(&amend(&viewer, app.people.viewer, json!({"admin": false})).await, 409, "last_admin");
    amend(&viewer, me, json!({"admin": true})).await.expect(200);
    admin.get("/api/users").await.expect(200);
}

#[tokio::test]
async fn of_two_admins_who_unmake_each_other_at_once_exactly_one_succeeds() {
    let app = TestApp::start().await;
    let second = app.another_node(Setup::default()).await;
    let (mut one, mut two) = (app.people.admin, another_admin(&app, "admin2@example.org").await.id);
    for round in 0..24 {
        let elsewhere = if round % 2 == 0 { &app } else { &second };
        let ((here, _), (there, _)) = (signed_in(&app, one).await, signed_in(elsewhere, two).await);
        let (here, there) = (up_to_now(&app, &here).await, up_to_now(&app, &there).await);
        // Each the other, and every fifth time each oneself.
        let (ones, twos) = if round % 5 == 0 { (one, two) } else { (two, one) };
        let unmade =
            [json!({"admin": false}), json!({"active": false}), json!({"admin": false, "name": "X"})];
        let body = &unmade[round % 3];
        let (first, other) = if round % 4 == 3 {
            let erase = format!("/api/users/{twos}/erase");
            tokio::join!(amend(&here, ones, body.clone()), there.post(&erase, Value::Null))
        } else {
            tokio::join!(amend(&here, ones, body.clone()), amend(&there, twos, body.clone()))
        };
        let (lost, gone) = if first.status < 300 { (&other, ones) } else { (&first, twos) };
        let case = format!("round {round}: {} {}", first.text, other.text);
        assert!((first.status < 300) != (other.status < 300), "{case}");
        // Refused as the last one, or because they were no admin any more when they asked.
        assert!(lost.str("code") == "last_admin" || [401, 403].contains(&lost.status), "{case}");
        let (left, leaving) = if gone == one { (two, one) } else { (one, two) };
        let (client, _) = signed_in(&app, left).await;
        let client = up_to_now(&app, &client).await;
        let admins = listed(&client, "id", &[("admin", "true"), ("active", "true")]).await;
        assert_eq!(admins, [left.to_string()], "{case}");
        let back = amend(&client, leaving, json!({"admin": true, "active": true})).await;
        (one, two) = match back.status {
            200 => (left, leaving),
            _ => {
                problem(&back, 409, "user_erased");
                (left, another_admin(&app, &format!("next{round}@example.org")).await.id)
            }
        };
    }
}
