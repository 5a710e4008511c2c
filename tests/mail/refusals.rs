//! Servers that say no, or nothing.

use super::post::{Post, State, impatient, to};
use super::server::MailServer;

/// Asks for a mail through this server, and waits until it is in this state.
async fn sent_through(server: &MailServer, state: &str) -> (Post, State) {
    let post = Post::new().await;
    let mailer = post.start(impatient(&server.url()));
    let position = post.ask("grace@example.org").await;
    let mail = post.becomes(position, state).await;
    mailer.stop().await;
    (post, mail)
}

fn count(server: &MailServer, command: &str) -> usize {
    server.journal().lines().filter(|line| line.starts_with(command)).count()
}

#[tokio::test]
async fn not_now_is_asked_again_and_sent_once() {
    for stage in ["CONNECT=421", "EHLO=451", "MAIL=451", "RCPT=451", "DATA=451", "END=452"] {
        let server = MailServer::with(&["--answer", &format!("{stage}*1")]);
        let (_post, mail) = sent_through(&server, "sent").await;
        assert_eq!(mail.attempts, 2, "{stage}: {mail:?}");
        assert_eq!(server.inbox().len(), 1, "{stage}");
        assert!(mail.reason().contains(stage.split_once('=').unwrap().1), "{stage}: {mail:?}");
    }
}

#[tokio::test]
async fn never_is_the_end_of_it() {
    for stage in ["MAIL=550", "RCPT=550", "DATA=554", "END=552"] {
        let server = MailServer::with(&["--answer", stage]);
        let (_post, mail) = sent_through(&server, "failed").await;
        assert_eq!((mail.attempts, server.inbox().len()), (1, 0), "{stage}: {mail:?}");
        assert!(mail.reason().contains(stage.split_once('=').unwrap().1), "{stage}: {mail:?}");
        assert!(!mail.reason().contains("grace"), "servers repeat addresses: {mail:?}");
    }
}

#[tokio::test]
async fn what_is_said_of_signing_in_is_not_about_the_mail() {
    // In clear, so that there is no password: the server wants one.
    let server = MailServer::with(&["--auth", "u:p"]);
    let post = Post::new().await;
    let mailer = post.start(to(&server.url()));
    let position = post.ask("grace@example.org").await;
    let mail = post.is_put_off(position).await;
    assert_eq!((mail.state.as_str(), mail.reason()), ("queued", "MAIL was answered with 530 5.7.0"));
    mailer.stop().await;
}

#[tokio::test]
async fn a_connection_lost_before_the_content_costs_nothing() {
    for stage in ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA"] {
        let server = MailServer::with(&["--drop", &format!("{stage}*1")]);
        let (_post, mail) = sent_through(&server, "sent").await;
        assert_eq!((mail.attempts, server.inbox().len()), (2, 1), "{stage}: {mail:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_tried_again() {
    let gone = MailServer::plain();
    let url = gone.url();
    drop(gone);
    let post = Post::new().await;
    let mailer = post.start(to(&url));
    let position = post.ask("grace@example.org").await;
    let mail = post.is_put_off(position).await;
    assert!(mail.state == "queued" && mail.reason().starts_with("connecting: "), "{mail:?}");
    mailer.stop().await;
    let server = MailServer::plain();
    let mailer = post.start(to(&server.url()));
    post.becomes(position, "sent").await;
    assert_eq!(server.inbox().len(), 1);
    mailer.stop().await;
}

/// The server has it or not: from here that looks the same.
#[tokio::test]
async fn a_connection_lost_with_the_content_is_uncertain_and_not_tried_again() {
    for (stage, arrived) in [("BODY", 0), ("END", 1)] {
        let server = MailServer::with(&["--drop", &format!("{stage}*1")]);
        let (post, mail) = sent_through(&server, "uncertain").await;
        assert_eq!(
            (mail.attempts, mail.reason()),
            (1, "the connection was lost before the last answer"),
            "{stage}"
        );
        assert_eq!(server.inbox().len(), arrived, "{stage}");
        // Others are sent by the same server, and this one is not.
        let mailer = post.start(to(&server.url()));
        let other = post.ask("ada@example.org").await;
        post.becomes(other, "sent").await;
        mailer.stop().await;
        assert_eq!(server.inbox().len(), arrived + 1, "{stage}");
        assert_eq!(count(&server, "clear DATA"), 2, "{stage}");
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_in_time_is_uncertain() {
    let mut server = MailServer::with(&["--hold", "END*1"]);
    let (_post, mail) = sent_through(&server, "uncertain").await;
    assert_eq!((mail.attempts, mail.reason()), (1, "the server did not answer in time"));
    server.release();
    assert_eq!(server.inbox().len(), 1);
}
