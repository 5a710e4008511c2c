//! The form of a mail: addresses, headers, and the bytes that travel (RFC 5322, MIME).

use chrono::{DateTime, Utc};
use lettre::Address;
use lettre::address::Envelope;
use lettre::message::header::{ContentType, HeaderName, HeaderValue, MIME_VERSION_1_0};
use lettre::message::{Mailbox, Message};

use super::letters::Letter;

/// Says that no person wrote it, so that no out-of-office notes come back (RFC 3834).
const AUTO_SUBMITTED: HeaderName = HeaderName::new_from_ascii_str("Auto-Submitted");

/// Who mails come from: `ada@example.org` or `Ada <ada@example.org>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender(Mailbox);

impl Sender {
    /// Who files come from when nobody was named.
    pub const USUAL: &str = "daybook@localhost";

    /// Reads what was configured.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, email) = match text.strip_suffix('>').and_then(|rest| rest.rsplit_once('<')) {
            Some((name, email)) => (name.trim().trim_matches('"').trim(), email),
            None => ("", text),
        };
        if name.contains(char::is_control) {
            return Err("must not have control characters in its name".into());
        }
        let email = address(email).ok_or("must be an e-mail address, or Name <address>")?;
        Ok(Self(Mailbox::new((!name.is_empty()).then(|| name.to_owned()), email)))
    }
}

/// A mail as it travels. The same letter has the same bytes at every attempt, so that whoever gets two can tell.
#[derive(Debug)]
pub(super) struct Mail {
    pub(super) envelope: Envelope,
    pub(super) bytes: Vec<u8>,
    /// Whether an address needs SMTPUTF8 (RFC 6531). The content never needs more than seven bits otherwise.
    pub(super) international: bool,
}

/// Gives a letter its form. `unique`: tells this mail of this instance from all others; of letters and digits.
///
/// # Errors
/// A sentence that says why the address is none, with nothing personal in it.
pub(super) fn form(
    letter: &Letter,
    from: &Sender,
    at: DateTime<Utc>,
    unique: &str,
) -> Result<Mail, &'static str> {
    let to = address(&letter.to).ok_or("the recipient's address is not one that mail can be sent to")?;
    let from = from.0.clone();
    let international = !from.email.to_string().is_ascii() || !to.to_string().is_ascii();
    let message_id = format!("<{unique}@{}>", from.email.domain());
    let message = Message::builder()
        .from(from)
        .to(Mailbox::new(None, to))
        .subject(&letter.subject)
        .date(at.into())
        .message_id(Some(message_id))
        .raw_header(HeaderValue::new(AUTO_SUBMITTED, "auto-generated".to_owned()))
        .header(MIME_VERSION_1_0)
        .header(ContentType::TEXT_PLAIN)
        .body(letter.text.clone())
        .map_err(|_| "the mail could not be put together")?;
    Ok(Mail { envelope: message.envelope().clone(), bytes: message.formatted(), international })
}

/// An address with its domain in ASCII (RFC 5890), which every server knows. What comes before the `@` has no such form.
fn address(text: &str) -> Option<Address> {
    let parsed = domain::Email::parse(text).ok()?;
    let (local, host) = parsed.as_str().rsplit_once('@')?;
    let host = idna::domain_to_ascii(host).ok().filter(|host| !host.is_empty())?;
    Address::new(local, host).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::letters::Kind;
    use super::*;

    fn letter(to: &str, subject: &str, text: &str) -> Letter {
        Letter { kind: Kind::Invitation, to: to.into(), subject: subject.into(), text: text.into() }
    }

    fn formed(to: &str, subject: &str, text: &str) -> Mail {
        let from = Sender::parse("Daybook at work <daybook@example.org>").unwrap();
        let at = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        form(&letter(to, subject, text), &from, at, "abc").unwrap()
    }

    fn text_of(mail: &Mail) -> &str {
        std::str::from_utf8(&mail.bytes).unwrap()
    }

    #[test]
    fn a_mail_has_what_a_mail_needs() {
        let mail = formed("ada@example.org", "Choose a new password", "Hello\n");
        let text = text_of(&mail);
        for header in [
            "From: \"Daybook at work\" <daybook@example.org>\r\n",
            "To: ada@example.org\r\n",
            "Subject: Choose a new password\r\n",
            "Date: Fri, 15 Jan 2027 08:00:00 +0000\r\n",
            "Message-ID: <abc@example.org>\r\n",
            "Auto-Submitted: auto-generated\r\n",
            "MIME-Version: 1.0\r\n",
            "Content-Type: text/plain; charset=utf-8\r\n",
        ] {
            assert!(text.contains(header), "{header}: {text}");
        }
        assert!(text.ends_with("\r\n\r\nHello\r\n"), "{text}");
        assert!(!mail.international);
        assert_eq!(mail.bytes, formed("ada@example.org", "Choose a new password", "Hello\n").bytes);
    }

    #[test]
    fn nothing_that_people_chose_becomes_a_header() {
        let mail = formed("ada@example.org", "Join x\r\nBcc: eve@example.org\r\n\r\nbody", "x");
        assert!(!text_of(&mail).lines().any(|line| line.starts_with("Bcc:")), "{}", text_of(&mail));
        for to in
            ["ada@example.org\r\nBcc: eve@example.org", "ada@example.org, eve@example.org", "a <b@c.org>"]
        {
            let from = Sender::parse("d@example.org").unwrap();
            assert!(form(&letter(to, "x", "x"), &from, DateTime::UNIX_EPOCH, "abc").is_err(), "{to}");
        }
        for from in ["x\r\nBcc: <d@example.org>", "x", "", "<>", "A <a@b", "a@example.org, b@example.org"] {
            assert!(Sender::parse(from).is_err(), "{from:?}");
        }
    }

    #[test]
    fn only_what_has_no_ascii_form_needs_an_extension() {
        let mail = formed("ada@пример.рф", "Приглашение", "Привет, Аделаида\n");
        assert!(text_of(&mail).is_ascii() && !mail.international);
        assert_eq!(mail.envelope.to()[0].to_string(), "ada@xn--e1afmkfd.xn--p1ai");
        let mail = formed("юзер@пример.рф", "x", "x");
        assert!(mail.international);
        assert_eq!(mail.envelope.to()[0].to_string(), "юзер@xn--e1afmkfd.xn--p1ai");
    }

    #[test]
    fn every_address_that_people_may_have_is_one_that_mail_can_be_sent_to() {
        let long = format!("{}@{}.example.org", "a".repeat(64), "b".repeat(63));
        for to in
            ["root@localhost", "a+b@x.co", "O'Hara@example.org", "!#$%&'*+/=?^_`{|}~.-@example.org", &long]
        {
            assert_eq!(formed(to, "x", "x").envelope.to()[0].to_string(), to);
        }
    }

    #[test]
    fn long_lines_of_any_script_are_broken_on_the_way_and_whole_again_for_the_reader() {
        let mail = formed("ada@example.org", &"é".repeat(200), &format!("{}\n", "é".repeat(2_000)));
        assert!(text_of(&mail).is_ascii());
        assert!(text_of(&mail).lines().all(|line| line.len() <= 998));
    }
}
