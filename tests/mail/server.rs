//! The mail server, and what it has got.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;
use tempfile::TempDir;
use tests::eventually;

/// A running `server.py`. It ends when this is dropped.
pub(crate) struct MailServer {
    child: Child,
    input: ChildStdin,
    folder: TempDir,
    pub(crate) port: u16,
}

/// A mail as the server accepted it.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// `from`, `to`, `parameters`, `user`, `tls`.
    pub(crate) envelope: Value,
    /// The headers' lines, as they came.
    pub(crate) headers: String,
    /// The text, decoded.
    pub(crate) text: String,
}

pub(crate) fn certificate(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("mail/certificates").join(name)
}

impl MailServer {
    /// One that talks in clear and takes everything.
    pub(crate) fn plain() -> Self {
        Self::with(&[])
    }

    /// See `server.py` for the options.
    pub(crate) fn with(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("python3");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("mail/server.py")).arg(folder.path());
        command.args(options).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3, which the mail server of the tests is written in");
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).unwrap();
        let port = line.trim().strip_prefix("listening ").expect("its port").parse().unwrap();
        Self { child, input, folder, port }
    }

    /// With TLS of this kind, and the certificate of this name.
    pub(crate) fn with_tls(tls: &str, name: &str, more: &[&str]) -> Self {
        let path = certificate(name);
        let mut options = vec!["--tls", tls, "--certificate", path.to_str().unwrap()];
        options.extend(more);
        Self::with(&options)
    }

    /// Its address in clear.
    pub(crate) fn url(&self) -> String {
        format!("smtp://127.0.0.1:{}", self.port)
    }

    /// Goes on where it holds.
    pub(crate) fn release(&mut self) {
        self.input.write_all(b"release\n").unwrap();
    }

    /// Every command it has heard, one a line; what it did instead of answering stands between them.
    pub(crate) fn journal(&self) -> String {
        fs::read_to_string(self.folder.path().join("journal")).unwrap_or_default()
    }

    /// Waits until the journal has this.
    pub(crate) async fn hears(&self, what: &str) {
        eventually(&format!("the mail server hears {what}"), async || {
            self.journal().contains(what).then_some(())
        })
        .await;
    }

    /// What it has accepted, in order.
    pub(crate) fn inbox(&self) -> Vec<Received> {
        (1..).map_while(|number| self.received(number)).collect()
    }

    /// Waits until it has accepted so many.
    pub(crate) async fn receives(&self, count: usize) -> Vec<Received> {
        eventually(&format!("{count} mails arrive"), async || {
            let inbox = self.inbox();
            (inbox.len() >= count).then_some(inbox)
        })
        .await
    }

    fn received(&self, number: u32) -> Option<Received> {
        let envelope = fs::read_to_string(self.folder.path().join(format!("{number}.json"))).ok()?;
        let mail = fs::read_to_string(self.folder.path().join(format!("{number}.eml"))).unwrap();
        let (headers, text) = read_mail(&mail);
        Some(Received { envelope: serde_json::from_str(&envelope).unwrap(), headers, text })
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A mail's headers, and its text decoded.
pub(crate) fn read_mail(mail: &str) -> (String, String) {
    let (headers, body) = mail.split_once("\r\n\r\n").expect("a mail has headers and a body");
    let encoding = headers.lines().find_map(|line| line.strip_prefix("Content-Transfer-Encoding: "));
    let text = match encoding.expect("how it is encoded") {
        "7bit" => body.to_owned(),
        "base64" => String::from_utf8(BASE64.decode(body.replace("\r\n", "")).unwrap()).unwrap(),
        "quoted-printable" => quoted_printable(body),
        other => panic!("{other}"),
    };
    (headers.to_owned(), text.replace("\r\n", "\n"))
}

fn quoted_printable(body: &str) -> String {
    let joined = body.replace("=\r\n", "");
    let mut parts = joined.split('=');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).unwrap()
}
