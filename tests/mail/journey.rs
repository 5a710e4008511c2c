//! People and their mailboxes, over HTTP: what they are sent is what they need.

use serde_json::json;
use tests::{PASSWORD, Setup, TestApp};

use super::post::PUBLIC_URL;
use super::server::{MailServer, Received};

const NEW: &str = "a staple that is correct";

async fn app(server: &MailServer) -> TestApp {
    let setup = Setup::default()
        .with("SMTP_URL", server.url())
        .with("MAIL_FROM", "Daybook <daybook@example.org>")
        .with("PUBLIC_URL", PUBLIC_URL)
        .with("REGISTRATION", "open");
    TestApp::with(setup).await
}

/// The token in the link to this page.
fn token(mail: &Received, page: &str) -> String {
    let link = format!("{PUBLIC_URL}/{page}?token=");
    let token = mail.text.lines().find_map(|line| line.strip_prefix(link.as_str()));
    token.unwrap_or_else(|| panic!("{}", mail.text)).to_owned()
}

fn subject(mail: &Received) -> &str {
    mail.headers.lines().find_map(|line| line.strip_prefix("Subject: ")).unwrap_or_default()
}

async fn login(app: &TestApp, email: &str, password: &str) -> u16 {
    app.anon().post("/api/auth/login", json!({"email": email, "password": password})).await.status
}

#[tokio::test]
async fn whoever_registers_shows_that_the_address_is_theirs() {
    let server = MailServer::plain();
    let app = app(&server).await;
    let body = json!({"email": "grace@example.org", "password": PASSWORD, "name": "Grace"});
    let made = app.anon().post("/api/auth/register", body).await.expect(201);
    assert_eq!(made.json["email_verified"], false);
    let [mail] = server.receives(1).await.try_into().unwrap();
    let body = json!({"token": token(&mail, "verify-email")});
    app.anon().post("/api/auth/verify-email", body).await.expect(204);
    let shown = app.admin().get(&format!("/api/users/{}", made.str("id"))).await.expect(200);
    assert_eq!(shown.json["email_verified"], true);
    app.stop().await;
}

#[tokio::test]
async fn whoever_forgot_their_password_gets_back_in_and_is_told() {
    let server = MailServer::plain();
    let app = app(&server).await;
    for email in ["nobody@example.org", "viewer@example.org"] {
        app.anon().post("/api/auth/password-reset", json!({ "email": email })).await.expect(202);
    }
    let [mail] = server.receives(1).await.try_into().unwrap();
    let body = json!({"token": token(&mail, "reset-password"), "new_password": NEW});
    app.anon().post("/api/auth/password-reset/confirm", body.clone()).await.expect(204);
    assert_eq!(login(&app, "viewer@example.org", NEW).await, 200);
    app.anon().post("/api/auth/password-reset/confirm", body).await.expect(422);

    let inbox = server.receives(2).await;
    let subjects: Vec<&str> = inbox.iter().map(subject).collect();
    assert_eq!(subjects, ["Choose a new password", "Your password was changed"]);
    assert!(inbox.iter().all(|mail| mail.envelope["to"] == json!(["<viewer@example.org>"])), "{inbox:?}");
    app.stop().await;
}

#[tokio::test]
async fn whoever_is_invited_joins() {
    let server = MailServer::plain();
    let app = app(&server).await;
    for email in ["grace@example.org", "stranger@example.org"] {
        let body = json!({"email": email, "role": "viewer"});
        app.owner().post("/api/team/invitations", body).await.expect(201);
    }
    let inbox = server.receives(2).await;
    let token_of = |email: &str| {
        let mail = inbox.iter().find(|mail| mail.envelope["to"][0] == format!("<{email}>"));
        token(mail.unwrap(), "join")
    };
    // One who has no account yet, and one who has.
    let body = json!({
        "email": "grace@example.org", "password": PASSWORD, "name": "Grace",
        "invitation_token": token_of("grace@example.org"),
    });
    let made = app.anon().post("/api/auth/register", body).await.expect(201);
    assert_eq!(
        (&made.json["email_verified"], &made.json["teams"][0]["slug"]),
        (&json!(true), &json!("main"))
    );
    let body = json!({"invitation_token": token_of("stranger@example.org")});
    app.as_user(app.people.stranger).post("/api/teams/join", body).await.expect(200);
    app.stop().await;
    // The invitation was mail enough: nobody is asked to show an address that they got it at.
    assert_eq!(server.inbox().len(), 2);
}
