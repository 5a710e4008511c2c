//! `kill -9` of the real program in the middle of a mail, and what the real program says.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustix::process::Signal;

use super::post::Post;
use super::server::{MailServer, read_mail};
use crate::processes::home::Home;
use tests::eventually;

/// A folder in which `daybook` uses this instance and this mail server.
fn home(post: &Post, server: &MailServer) -> Home {
    Home::new()
        .with("DATABASE_URL", post.database.url())
        .with("ENCRYPTION_KEY", BASE64.encode(post.database.encryption_key()))
        .with("SMTP_URL", server.url())
        .with("MAIL_FROM", "Daybook <daybook@example.org>")
        .with("PUBLIC_URL", "https://daybook.example.org")
}

#[tokio::test]
async fn killed_while_the_server_holds_its_last_answer() {
    let mut server = MailServer::with(&["--hold", "END*1"]);
    let post = Post::new().await;
    let home = home(&post, &server);
    let serving = home.serve().await;
    let position = post.ask("grace@example.org").await;
    server.hears("held at END").await;
    assert_eq!(post.becomes(position, "handing_over").await.attempts, 1);
    serving.stop(Signal::KILL).await;
    server.release();

    let serving = home.serve().await;
    let mail = post.becomes(position, "uncertain").await;
    assert_eq!(mail.attempts, 1, "{mail:?}");
    // Whoever asks for another one gets it.
    let other = post.ask("ada@example.org").await;
    post.becomes(other, "sent").await;
    let inbox = server.inbox();
    let recipients: Vec<_> = inbox.iter().map(|mail| mail.envelope["to"][0].as_str().unwrap()).collect();
    assert_eq!(recipients, ["<grace@example.org>", "<ada@example.org>"]);
    let counted =
        [r#"mails_total{outcome="uncertain"} 1"#, r#"mails_total{outcome="sent"} 1"#, "mails_queued 0"];
    eventually("the metrics tell of it", async || {
        let metrics = serving.anon().get("/metrics").await.expect(200).text;
        counted.iter().all(|line| metrics.contains(line)).then_some(())
    })
    .await;
    let ended = serving.stop(Signal::TERM).await.expect(0);
    assert!(ended.stderr.contains("nobody knows whether a mail was sent"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("grace") && !ended.stderr.contains("dbm_"), "{}", ended.stderr);
}

#[tokio::test]
async fn killed_before_the_server_had_anything() {
    let mut server = MailServer::with(&["--hold", "RCPT*1"]);
    let post = Post::new().await;
    let home = home(&post, &server);
    let serving = home.serve().await;
    let position = post.ask("grace@example.org").await;
    server.hears("held at RCPT").await;
    serving.stop(Signal::KILL).await;
    server.release();

    let serving = home.serve().await;
    let mail = post.becomes(position, "sent").await;
    assert_eq!((mail.attempts, server.inbox().len()), (2, 1), "{mail:?}");
    serving.stop(Signal::TERM).await.expect(0);
    assert_eq!(server.inbox().len(), 1);
}

#[tokio::test]
async fn without_a_mail_server_the_log_says_where_the_mail_is() {
    let post = Post::new().await;
    let key = BASE64.encode(post.database.encryption_key());
    let home = Home::new().with("DATABASE_URL", post.database.url()).with("ENCRYPTION_KEY", key);
    let serving = home.serve().await;
    let position = post.ask("grace@example.org").await;
    let name = format!("{position}-password-reset.eml");
    let file = home.data().join("mail").join(&name);
    eventually("the log says where", async || serving.process.stderr().contains(&name).then_some(())).await;
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let (headers, text) = read_mail(&fs::read_to_string(&file).unwrap());
    assert!(headers.contains("From: daybook@localhost\r\n"), "{headers}");
    assert!(text.contains(&format!("http://{}/reset-password?token=dbm_", serving.address)), "{text}");
    let ended = serving.stop(Signal::TERM).await.expect(0);
    assert!(!ended.stderr.contains("dbm_") && !ended.stderr.contains("grace"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_mail_server_that_makes_no_sense_is_told_before_anything_starts() {
    let home =
        Home::new().with("SMTP_URL", "smtp://u:hunter2@mail.example.org?tls=none").with("MAIL_FROM", "x");
    let ended = home.run(&["check"]).await.expect(1);
    let told = format!("{}{}", ended.stdout, ended.stderr);
    assert!(told.contains("SMTP_URL: must not send a password to another machine without TLS"), "{told}");
    assert!(told.contains("MAIL_FROM: must be an e-mail address") && !told.contains("hunter2"), "{told}");
}
