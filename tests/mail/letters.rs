//! What mails say, and to whom none is sent.

use std::collections::BTreeSet;

use chrono::{TimeDelta, Utc};
use commands::{About, Commands, Context, Password};
use domain::{
    AccessEvent, Email, InvitationId, MailTokenUse, Personal, Role, Team, TeamCommand, TokenId, User,
    UserCommand, UserId,
};
use uuid::Uuid;

use super::post::{PUBLIC_URL, Post, acting, to};
use super::server::{MailServer, Received};

/// The token in the mail's link, after making sure that the API's call has the same one.
fn token(mail: &Received, page: &str, field: &str) -> String {
    let link = format!("{PUBLIC_URL}/{page}?token=");
    let line = mail.text.lines().find_map(|line| line.strip_prefix(link.as_str()));
    let token = line.unwrap_or_else(|| panic!("{}", mail.text)).to_owned();
    assert!(mail.text.contains(&format!(r#""{field}": "{token}""#)), "{}", mail.text);
    token
}

/// What one mail says, of a fresh instance in which this was done.
async fn mail_after(work: impl AsyncFnOnce(&Post) -> i64) -> (Post, Received) {
    let server = MailServer::plain();
    let post = Post::new().await;
    let position = work(&post).await;
    let mailer = post.start(to(&server.url()));
    post.becomes(position, "sent").await;
    mailer.stop().await;
    let [mail] = server.inbox().try_into().unwrap();
    (post, mail)
}

#[tokio::test]
async fn the_way_to_a_new_password() {
    let (post, mail) = mail_after(async |post| post.ask("grace@example.org").await).await;
    assert!(mail.headers.contains("Subject: Choose a new password\r\n"), "{}", mail.headers);
    assert!(mail.headers.contains("From: Daybook <daybook@example.org>\r\n"), "{}", mail.headers);
    assert!(
        mail.text.contains(&format!("POST {PUBLIC_URL}/api/auth/password-reset/confirm\n")),
        "{}",
        mail.text
    );
    let token = token(&mail, "reset-password", "token");
    let brought = post.commands.read_mail_token(&token, MailTokenUse::PasswordReset).await.unwrap();
    let password = Password::choose("something quite different".to_owned(), &About::default()).unwrap();
    post.commands.reset_password(&acting(brought.user_id), &brought, password).await.unwrap();
}

#[tokio::test]
async fn the_way_to_show_that_an_address_is_theirs() {
    let (post, mail) = mail_after(async |post| {
        post.register("grace@example.org", false).await;
        post.ledger.head().await.unwrap()
    })
    .await;
    assert!(mail.headers.contains("Subject: Confirm your e-mail address\r\n"), "{}", mail.headers);
    assert!(mail.text.contains(&format!("POST {PUBLIC_URL}/api/auth/verify-email\n")), "{}", mail.text);
    let token = token(&mail, "verify-email", "token");
    let brought = post.commands.read_mail_token(&token, MailTokenUse::EmailVerification).await.unwrap();
    post.commands.verify_email(&acting(brought.user_id), &brought).await.unwrap();
}

/// Invites into a team of this name, and says at which position.
async fn invite(post: &Post, team_name: &str, email: &str) -> (Context, domain::TeamId, InvitationId, i64) {
    let owner = post.person("owner@example.org").await;
    let team = post.team(team_name, owner).await;
    let mut context = acting(owner);
    (context.caller.team, context.caller.permissions) = (Some(team), Role::Owner.permissions());
    let email = Email::parse(email).unwrap();
    let (id, done) = post.commands.invite(&context, team, email, None, Role::Operator).await.unwrap();
    (context, team, id, done.position.unwrap())
}

#[tokio::test]
async fn the_way_into_a_team() {
    const TEAM: &str = "Чайки & Cie: \"=?utf-8?\"";
    let (post, mail) = mail_after(async |post| invite(post, TEAM, "grace@example.org").await.3).await;
    assert!(mail.headers.contains("Subject: Join the team =?utf-8?"), "{}", mail.headers);
    assert!(
        mail.text.contains(&format!("\n    {TEAM}\n")) && mail.text.contains("as operator at"),
        "{}",
        mail.text
    );
    assert!(mail.text.contains(&format!("POST {PUBLIC_URL}/api/auth/register\n")), "{}", mail.text);
    assert!(mail.text.contains(&format!("POST {PUBLIC_URL}/api/teams/join\n")), "{}", mail.text);
    let token = token(&mail, "join", "invitation_token");
    let grace = post.person("grace@example.org").await;
    let email = Email::parse("grace@example.org").unwrap();
    post.commands.accept_invitation(&acting(grace), &token, grace, &email).await.unwrap();
}

async fn change(post: &Post, user: UserId, command: UserCommand) -> i64 {
    let done = post.commands.execute::<User>(&acting(user), user, None, command).await.unwrap();
    done.position.unwrap()
}

async fn set_up_second_factor(post: &Post) -> UserId {
    let user = post.person("grace@example.org").await;
    change(post, user, UserCommand::BeginTwoFactor { sealed: "sealed".into() }).await;
    let recovery_code_hashes = BTreeSet::from(["hash".to_owned()]);
    change(post, user, UserCommand::EnableTwoFactor { recovery_code_hashes }).await;
    user
}

#[tokio::test]
async fn who_has_another_password_is_told() {
    let (post, mail) = mail_after(async |post| {
        let user = post.person("grace@example.org").await;
        change(post, user, UserCommand::ChangePassword { password_hash: "hash".into() }).await
    })
    .await;
    assert!(mail.headers.contains("Subject: Your password was changed\r\n"), "{}", mail.headers);
    assert_eq!(mail.envelope["to"], serde_json::json!(["<grace@example.org>"]));
    assert!(mail.text.contains("knew the old one") && !mail.text.contains("hash"), "{}", mail.text);
    assert!(mail.text.contains(&format!("    at        {PUBLIC_URL}\n")), "{}", mail.text);
    drop(post);
    let (_post, mail) = mail_after(async |post| {
        let user = post.person("grace@example.org").await;
        let token_id = TokenId(Uuid::now_v7());
        change(post, user, UserCommand::ResetPassword { password_hash: "hash".into(), token_id }).await
    })
    .await;
    assert!(mail.text.contains("by means of a link that was sent to this address"), "{}", mail.text);
}

#[tokio::test]
async fn who_has_no_second_factor_any_more_is_told() {
    let (_post, mail) = mail_after(async |post| {
        let user = set_up_second_factor(post).await;
        change(post, user, UserCommand::DisableTwoFactor).await
    })
    .await;
    assert!(mail.headers.contains("Subject: Your second factor was switched off\r\n"), "{}", mail.headers);
    assert!(mail.text.contains("had a code"), "{}", mail.text);
    let (_post, mail) = mail_after(async |post| {
        let user = set_up_second_factor(post).await;
        let command = UserCommand::ResetTwoFactor { operator: "Olga Operator".into() };
        let done = post.commands.execute::<User>(&Context::system(None), user, None, command).await.unwrap();
        done.position.unwrap()
    })
    .await;
    assert!(
        mail.text.contains("by an operator of the instance") && !mail.text.contains("Olga"),
        "{}",
        mail.text
    );
}

/// Starts a mailer, and makes sure that the mail of `position` is skipped for this reason, and another one sent.
async fn is_skipped(post: &Post, position: i64, reason: &str) {
    let server = MailServer::plain();
    let mailer = post.start(to(&server.url()));
    let mail = post.becomes(position, "skipped").await;
    assert_eq!((mail.attempts, mail.reason()), (1, reason));
    let other = post.ask("other@example.org").await;
    post.becomes(other, "sent").await;
    mailer.stop().await;
    let inbox = server.inbox();
    assert!(inbox.iter().all(|mail| mail.envelope["to"][0] != "<grace@example.org>"), "{inbox:?}");
}

#[tokio::test]
async fn who_was_erased_gets_no_mail() {
    let post = Post::new().await;
    let grace = post.person("grace@example.org").await;
    let request = post.ask_again(grace, "grace@example.org").await;
    let notice = change(&post, grace, UserCommand::ChangePassword { password_hash: "hash".into() }).await;
    post.ledger.destroy_subjects(&[grace.to_string()]).await.unwrap();
    is_skipped(&post, request, "the recipient was erased").await;
    assert_eq!(post.becomes(notice, "skipped").await.reason(), "the recipient was erased");
}

#[tokio::test]
async fn what_has_expired_is_not_sent() {
    let post = Post::new().await;
    let grace = post.person("grace@example.org").await;
    let event = AccessEvent::PasswordResetRequested {
        user_id: grace,
        email: Personal::new(grace, "grace@example.org"),
        token_hash: "hash".into(),
        expires_at: Utc::now() - TimeDelta::seconds(1),
    };
    let position = post.commands.record(&acting(grace), &event).await.unwrap();
    is_skipped(&post, position, "it has expired").await;
}

#[tokio::test]
async fn what_was_tried_and_expired_meanwhile_has_failed() {
    let post = Post::new().await;
    let grace = post.person("grace@example.org").await;
    let event = AccessEvent::PasswordResetRequested {
        user_id: grace,
        email: Personal::new(grace, "grace@example.org"),
        token_hash: "hash".into(),
        expires_at: Utc::now() + TimeDelta::seconds(3),
    };
    let position = post.commands.record(&acting(grace), &event).await.unwrap();
    let server = MailServer::with(&["--answer", "RCPT=451"]);
    let mailer = post.start(to(&server.url()));
    let mail = post.becomes(position, "failed").await;
    assert_eq!(mail.reason(), "it has expired; before: RCPT was answered with 451 4.7.1");
    mailer.stop().await;
}

#[tokio::test]
async fn what_was_used_already_is_not_sent() {
    let post = Post::new().await;
    let position = post.ask("grace@example.org").await;
    // Whoever has the token, it is of no use any more.
    let [request] = post.ledger.read_at(&[position]).await.unwrap().try_into().unwrap();
    let used = serde_json::to_value(AccessEvent::MailTokenUsed { user_id: UserId(Uuid::now_v7()) }).unwrap();
    let event = ledger::NewEvent {
        stream: request.stream,
        sequence: 2,
        event_type: "MailTokenUsed".into(),
        event_version: "1".into(),
        payload: used.into(),
    };
    let append = ledger::Append { events: vec![event], metadata: request.metadata, data_keys: vec![] };
    post.ledger.append(append).await.unwrap();
    is_skipped(&post, position, "its token was used already").await;
}

#[tokio::test]
async fn an_invitation_that_was_withdrawn_is_not_sent() {
    let post = Post::new().await;
    let (context, team, id, position) = invite(&post, "crew", "grace@example.org").await;
    let commands: &Commands = &post.commands;
    commands.execute::<Team>(&context, team, None, TeamCommand::WithdrawInvitation { id }).await.unwrap();
    is_skipped(&post, position, "the invitation was withdrawn or taken up").await;
}
