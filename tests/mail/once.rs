//! Each mail once: several nodes, stops, starts, and views made anew.

use std::collections::BTreeSet;

use projections::{Options, Projections};

use super::post::{Post, to};
use super::server::MailServer;
use tests::within;

#[tokio::test]
async fn two_nodes_send_each_mail_once() {
    const MAILS: usize = 40;
    let server = MailServer::plain();
    let post = Post::new().await;
    let user = post.person("grace@example.org").await;
    let nodes = [post.start(to(&server.url())), post.start(to(&server.url()))];
    for _ in 0..MAILS {
        post.ask_again(user, "grace@example.org").await;
    }
    server.receives(MAILS).await;
    for mail in post.states().await {
        post.becomes(mail.position, "sent").await;
    }
    for node in nodes {
        node.stop().await;
    }
    let inbox = server.inbox();
    let ids: BTreeSet<&str> = inbox.iter().flat_map(|mail| message_id(&mail.headers)).collect();
    assert_eq!((inbox.len(), ids.len(), post.states().await.len()), (MAILS, MAILS, MAILS));
}

fn message_id(headers: &str) -> Option<&str> {
    headers.lines().find_map(|line| line.strip_prefix("Message-ID: "))
}

#[tokio::test]
async fn views_made_anew_and_nodes_started_anew_send_nothing() {
    let server = MailServer::plain();
    let post = Post::new().await;
    let mailer = post.start(to(&server.url()));
    let position = post.ask("grace@example.org").await;
    post.becomes(position, "sent").await;
    let before = post.states().await;

    let projections = Projections::new(post.ledger.clone(), Options::default());
    projections.prepare().await.unwrap();
    for view in projections.names() {
        within(view, projections.rebuild(view, |_| {})).await.unwrap();
    }
    mailer.stop().await;
    let mailer = post.start(to(&server.url()));
    // What comes after all of it arrives, and nothing else has.
    let later = post.ask("ada@example.org").await;
    post.becomes(later, "sent").await;
    mailer.stop().await;
    assert_eq!(server.inbox().len(), 2);
    assert_eq!(post.states().await[..1], before);
}

#[tokio::test]
async fn who_is_stopped_waits_for_the_answer_to_what_was_handed_over() {
    let mut server = MailServer::with(&["--hold", "END*1"]);
    let post = Post::new().await;
    let mailer = post.start(to(&server.url()));
    let position = post.ask("grace@example.org").await;
    server.hears("held at END").await;
    assert_eq!(post.becomes(position, "handing_over").await.attempts, 1);
    let ending = mailer.told_to_stop();
    server.release();
    within("the mailer's end", ending).await.unwrap();
    assert_eq!(post.states().await[0].state, "sent");
    assert_eq!(server.inbox().len(), 1);
}

#[tokio::test]
async fn who_is_stopped_before_handing_over_lets_go() {
    let mut server = MailServer::with(&["--hold", "RCPT*1"]);
    let post = Post::new().await;
    let mailer = post.start(to(&server.url()));
    let position = post.ask("grace@example.org").await;
    server.hears("held at RCPT").await;
    mailer.stop().await;
    let [mail] = post.states().await.try_into().unwrap();
    assert_eq!((mail.state.as_str(), mail.claimed), ("queued", false), "{mail:?}");
    server.release();
    let mailer = post.start(to(&server.url()));
    post.becomes(position, "sent").await;
    mailer.stop().await;
    assert_eq!(server.inbox().len(), 1);
}

/// Somebody else was quicker: the one who was slow must not hand over what is not theirs any more.
#[tokio::test]
async fn who_lost_a_mail_to_another_does_not_hand_it_over() {
    let mut server = MailServer::with(&["--hold", "RCPT*1"]);
    let post = Post::new().await;
    let slow = post.start(to(&server.url()));
    let position = post.ask("grace@example.org").await;
    server.hears("held at RCPT").await;
    // As if the slow one had been cut off from the database for longer than its lease.
    sqlx::query("update mails set claimed_until = null, attempts = attempts + 1 where position = $1")
        .bind(position)
        .execute(&mut post.database.connect().await)
        .await
        .unwrap();
    let quick = post.start(to(&server.url()));
    post.becomes(position, "sent").await;
    server.release();
    server.hears("gone").await;
    for node in [slow, quick] {
        node.stop().await;
    }
    assert_eq!(server.inbox().len(), 1);
    assert_eq!(post.states().await[0].state, "sent");
}
