//! The way to the server: TLS, passwords, certificates.

use super::post::{Post, to};
use super::server::{MailServer, certificate};

const SIGNED_IN: &str = "ada@example.org:p/w: é";
/// The same, percent-encoded.
const IN_URL: &str = "ada%40example.org:p%2Fw%3A%20%C3%A9";

/// The server's address, with the tests' own authority.
fn trusted(scheme: &str, server: &MailServer, more: &str) -> String {
    format!(
        "{scheme}://{IN_URL}@127.0.0.1:{}?ca={}{more}",
        server.port,
        certificate("authority.pem").display()
    )
}

#[tokio::test]
async fn a_password_goes_through_starttls() {
    let server = MailServer::with_tls("starttls", "here.pem", &["--auth", SIGNED_IN]);
    let post = Post::new().await;
    let mailer = post.start(to(&trusted("smtp", &server, "&tls=required")));
    let position = post.ask("grace@example.org").await;
    let [mail] = server.receives(1).await.try_into().unwrap();
    assert_eq!((&mail.envelope["tls"], &mail.envelope["user"]), (&true.into(), &"ada@example.org".into()));
    assert_eq!(mail.envelope["from"], "<daybook@example.org>");
    assert_eq!(mail.envelope["to"], serde_json::json!(["<grace@example.org>"]));
    let journal = server.journal();
    let in_clear: Vec<&str> = journal.lines().filter(|line| line.starts_with("clear ")).collect();
    assert_eq!(in_clear.len(), 2, "EHLO and STARTTLS: {journal}");
    assert!(journal.contains("tls AUTH PLAIN "), "{journal}");
    post.becomes(position, "sent").await;
    mailer.stop().await;
}

#[tokio::test]
async fn within_tls_from_the_first_byte_and_the_older_way_to_sign_in() {
    let options = ["--auth", SIGNED_IN, "--mechanisms", "LOGIN"];
    let server = MailServer::with_tls("wrapped", "here.pem", &options);
    let post = Post::new().await;
    let mailer = post.start(to(&trusted("smtps", &server, "")));
    let position = post.ask("grace@example.org").await;
    let [mail] = server.receives(1).await.try_into().unwrap();
    assert_eq!((&mail.envelope["tls"], &mail.envelope["user"]), (&true.into(), &"ada@example.org".into()));
    assert!(server.journal().contains("tls AUTH LOGIN"), "{}", server.journal());
    post.becomes(position, "sent").await;
    mailer.stop().await;
}

/// Nothing but greetings may have gone that way, and the mail waits for somebody to mend it.
async fn nothing_is_sent(server: &MailServer, url: &str, reason: &str) {
    let post = Post::new().await;
    let mailer = post.start(to(url));
    let position = post.ask("grace@example.org").await;
    let mail = post.is_put_off(position).await;
    assert_eq!(mail.state, "queued", "{mail:?}");
    assert!(mail.reason().contains(reason), "{mail:?}");
    mailer.stop().await;
    let journal = server.journal();
    assert!(!journal.contains("AUTH") && !journal.contains("MAIL") && !journal.contains("RCPT"), "{journal}");
    assert!(server.inbox().is_empty());
}

#[tokio::test]
async fn a_password_is_not_sent_without_tls() {
    let server = MailServer::with(&["--auth", SIGNED_IN]);
    nothing_is_sent(&server, &trusted("smtp", &server, "&tls=required"), "offers no STARTTLS").await;
}

#[tokio::test]
async fn the_certificate_of_another_server_is_refused() {
    let server = MailServer::with_tls("starttls", "elsewhere.pem", &["--auth", SIGNED_IN]);
    nothing_is_sent(&server, &trusted("smtp", &server, "&tls=required"), "STARTTLS: ").await;
    let server = MailServer::with_tls("wrapped", "elsewhere.pem", &["--auth", SIGNED_IN]);
    nothing_is_sent(&server, &trusted("smtps", &server, ""), "connecting with TLS: ").await;
}

#[tokio::test]
async fn the_certificate_of_an_unknown_authority_is_refused() {
    let server = MailServer::with_tls("starttls", "here.pem", &["--auth", SIGNED_IN]);
    let url = format!("smtp://{IN_URL}@127.0.0.1:{}?tls=required", server.port);
    nothing_is_sent(&server, &url, "UnknownIssuer").await;
    let server = MailServer::with_tls("wrapped", "here.pem", &["--auth", SIGNED_IN]);
    nothing_is_sent(&server, &format!("smtps://{IN_URL}@127.0.0.1:{}", server.port), "UnknownIssuer").await;
}

/// Whoever is in between may slip something in behind the clear answer, to be taken for the server's first words under TLS.
#[tokio::test]
async fn what_is_slipped_in_before_tls_is_not_taken_for_the_servers_words() {
    let server = MailServer::with_tls("starttls", "here.pem", &["--auth", SIGNED_IN, "--inject"]);
    nothing_is_sent(&server, &trusted("smtp", &server, "&tls=required"), "STARTTLS: ").await;
}

#[tokio::test]
async fn a_wrong_password_costs_no_mail() {
    let server = MailServer::with_tls("wrapped", "here.pem", &["--auth", SIGNED_IN]);
    let post = Post::new().await;
    let wrong = trusted("smtps", &server, "").replace("w%3A", "x%3A");
    let mailer = post.start(to(&wrong));
    let position = post.ask("grace@example.org").await;
    let mail = post.is_put_off(position).await;
    assert_eq!((mail.state.as_str(), mail.reason()), ("queued", "AUTH was answered with 535 5.7.8"));
    mailer.stop().await;
    // Somebody has mended it.
    let mailer = post.start(to(&trusted("smtps", &server, "")));
    post.becomes(position, "sent").await;
    assert_eq!(server.inbox().len(), 1);
    mailer.stop().await;
}

#[tokio::test]
async fn an_address_beyond_ascii_needs_a_server_that_takes_it() {
    let post = Post::new().await;
    let able = MailServer::plain();
    let mailer = post.start(to(&able.url()));
    let position = post.ask("юзер@пример.рф").await;
    let [mail] = able.receives(1).await.try_into().unwrap();
    assert_eq!(mail.envelope["to"], serde_json::json!(["<юзер@xn--e1afmkfd.xn--p1ai>"]));
    assert_eq!(mail.envelope["parameters"], serde_json::json!(["SMTPUTF8", "BODY=8BITMIME"]));
    assert!(mail.headers.contains("To: юзер@xn--e1afmkfd.xn--p1ai\r\n"), "{}", mail.headers);
    post.becomes(position, "sent").await;
    mailer.stop().await;

    let unable = MailServer::with(&["--plain-ascii"]);
    let mailer = post.start(to(&unable.url()));
    let refused = post.ask("другой@пример.рф").await;
    let mail = post.becomes(refused, "failed").await;
    assert!(mail.reason().contains("does not offer SMTPUTF8"), "{mail:?}");
    // Its domain alone has a form in ASCII, which every server takes.
    let taken = post.ask("ada@пример.рф").await;
    post.becomes(taken, "sent").await;
    assert_eq!(unable.inbox()[0].envelope["to"], serde_json::json!(["<ada@xn--e1afmkfd.xn--p1ai>"]));
    assert_eq!(unable.inbox()[0].envelope["parameters"], serde_json::json!([]));
    assert_eq!(unable.inbox().len(), 1);
    mailer.stop().await;
}
