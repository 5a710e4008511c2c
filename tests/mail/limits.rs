//! What is bounded: mails at a time, waits, and what is kept.

use super::post::{Post, to};
use super::server::MailServer;
use tests::eventually;

async fn change(post: &Post, sql: &str) {
    sqlx::query(sql).execute(&mut post.database.connect().await).await.unwrap();
}

#[tokio::test]
async fn so_many_at_a_time_and_no_more() {
    const AT_ONCE: usize = 2;
    let mut server = MailServer::with(&["--hold", "RCPT"]);
    let post = Post::new().await;
    let user = post.person("grace@example.org").await;
    let mut last = 0;
    for _ in 0..6 {
        last = post.ask_again(user, "grace@example.org").await;
    }
    let mut options = to(&server.url());
    options.at_once = AT_ONCE;
    let mailer = post.start(options);
    post.becomes(last, "queued").await;
    let held = || server.journal().matches("held at RCPT").count();
    eventually("as many are held as may be", async || (held() == AT_ONCE).then_some(())).await;
    assert_eq!(post.states().await.iter().filter(|mail| mail.claimed).count(), AT_ONCE);
    server.release();
    assert_eq!(server.receives(6).await.len(), 6);
    mailer.stop().await;
}

/// One more attempt, as after so many; says how many it were in the end, and the seconds until the next.
async fn one_more(post: &Post, server: &MailServer, position: i64, attempts: i32) -> (i32, f64) {
    change(post, &format!("update mails set attempts = {attempts}, last_error = null, next_at = now()"))
        .await;
    let mailer = post.start(to(&server.url()));
    post.is_put_off(position).await;
    mailer.stop().await;
    sqlx::query_as(
        "select attempts, extract(epoch from next_at - now())::float8 from mails where position = $1",
    )
    .bind(position)
    .fetch_one(&mut post.database.connect().await)
    .await
    .unwrap()
}

#[tokio::test]
async fn waits_grow_to_an_hour_and_no_further() {
    let server = MailServer::with(&["--answer", "RCPT=451"]);
    let post = Post::new().await;
    let mailer = post.start(to(&server.url()));
    let position = post.ask("grace@example.org").await;
    post.is_put_off(position).await;
    mailer.stop().await;
    for attempts in [8, 10, 70] {
        let (attempts, wait) = one_more(&post, &server, position, attempts).await;
        let longest = f64::from(attempts - 1).exp2().min(3_600.0);
        // Up to half of it is left to chance, and some of it is over by now.
        assert!(wait <= longest && wait > longest / 2.0 - 60.0, "after {attempts}: {wait}");
    }
}

#[tokio::test]
async fn what_is_long_done_with_is_removed() {
    let server = MailServer::plain();
    let post = Post::new().await;
    let mailer = post.start(to(&server.url()));
    let old = post.ask("grace@example.org").await;
    let recent = post.ask("ada@example.org").await;
    for position in [old, recent] {
        post.becomes(position, "sent").await;
    }
    mailer.stop().await;
    change(
        &post,
        &format!("update mails set settled_at = now() - interval '31 days' where position = {old}"),
    )
    .await;
    let mailer = post.start(to(&server.url()));
    let left = eventually("the old one is removed", async || {
        let states = post.states().await;
        (states.len() == 1).then_some(states)
    })
    .await;
    assert_eq!(left[0].position, recent);
    // What was removed is not queued again.
    let later = post.ask("olga@example.org").await;
    post.becomes(later, "sent").await;
    mailer.stop().await;
    assert_eq!(server.inbox().len(), 3);
}
