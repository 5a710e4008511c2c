//! Without a mail server.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use commands::mail::MailTarget;

use super::post::{PUBLIC_URL, Post, options};
use super::server::read_mail;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn mails_are_files_that_nobody_else_can_read() {
    let folder = tempfile::tempdir().unwrap();
    let mails = folder.path().join("mail");
    // Somebody made it, and did not think of who may look.
    fs::create_dir(&mails).unwrap();
    fs::set_permissions(&mails, fs::Permissions::from_mode(0o755)).unwrap();
    let post = Post::new().await;
    let mailer = post.start(options(MailTarget::Folder(mails.clone())));
    let position = post.ask("grace@example.org").await;
    assert_eq!(post.becomes(position, "sent").await.attempts, 1);
    mailer.stop().await;
    let file = mails.join(format!("{position}-password-reset.eml"));
    assert_eq!((mode(&mails), mode(&file)), (0o700, 0o600));
    let (headers, text) = read_mail(&fs::read_to_string(file).unwrap());
    assert!(headers.contains("To: grace@example.org\r\n"), "{headers}");
    assert!(text.contains(&format!("{PUBLIC_URL}/reset-password?token=dbm_")), "{text}");
    assert_eq!(fs::read_dir(&mails).unwrap().count(), 1, "nothing half-written is left");
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_to_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let mails = folder.path().join("mail");
    fs::write(&mails, "in the way").unwrap();
    let post = Post::new().await;
    let mailer = post.start(options(MailTarget::Folder(mails.clone())));
    let position = post.ask("grace@example.org").await;
    let mail = post.is_put_off(position).await;
    assert!(mail.reason().starts_with("the file could not be written: "), "{mail:?}");
    fs::remove_file(&mails).unwrap();
    post.becomes(position, "sent").await;
    mailer.stop().await;
    assert!(mails.join(format!("{position}-password-reset.eml")).is_file());
}
