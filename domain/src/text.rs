//! Texts that can only be built valid ("parse, don't validate"). `parse` is the way in for anything a person typed; the
//! transparent serde representation is for stored events, which were valid when they happened and are never checked again.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::is_combining_mark;

/// Why a text was refused: a sentence for the person who typed it, without the field's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

fn invalid<T>(message: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid(message.into()))
}

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident by $check:path;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Checks what a person typed. Surrounding white space is not forgiven: it is a character like any other.
            ///
            /// # Errors
            /// A sentence that says which rule the text breaks.
            pub fn parse(text: &str) -> Result<Self, Invalid> {
                $check(text).map(|()| Self(text.to_owned()))
            }

            /// The text as it was typed.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

texts! {
    /// An e-mail address, kept as typed (at most 254 bytes, RFC 5321; letters of any script, RFC 6531). Two addresses that differ only
    /// in letter case, or in how accents are encoded, are the same account: see [`Email::canonical`].
    Email by check_email;
    /// A person's name: 1 to 200 characters of any script, on one line.
    PersonName by check_name;
    /// A team's name: 1 to 200 characters of any script, on one line.
    TeamName by check_name;
    /// A team's short name in addresses: 1 to 63 of `a-z`, `0-9` and inner hyphens, and no id: both name a team in one header.
    TeamSlug by check_team_slug;
    /// A secret's name: 1 to 200 characters, `/`-separated segments (at most 8) of letters, digits, `.`, `_` and `-`,
    /// each starting with a letter or digit.
    SecretName by check_secret_name;
    /// Free text of at most 2,000 characters; line breaks and tabs are allowed.
    Description by check_description;
    /// A label: 1 to 64 of `a-z`, `0-9`, `.`, `_`, `:` and `-`, starting with a letter or digit.
    Tag by check_tag;
    /// The name of a kind of job: 1 to 63 of `a-z`, `0-9` and inner hyphens.
    KindName by check_slug;
    /// Jobs with the same key take turns: 1 to 200 characters, on one line.
    ConcurrencyKey by check_name;
    /// A schedule's name: 1 to 200 characters of any script, on one line.
    ScheduleName by check_name;
    /// When something runs, in cron's notation: 1 to 200 visible ASCII characters and spaces. Whether it means something, and ever comes
    /// to pass, is for who computes the times to say.
    CronExpression by check_cron;
    /// The name of a time zone: 1 to 64 of letters, digits, `/`, `_`, `+` and `-`. Whether there is such a zone is for who knows them to
    /// say.
    TimeZoneName by check_zone;
    /// What an API key is for: 1 to 200 characters of any script, on one line.
    ApiKeyName by check_name;
    /// Why a secret was read: 1 to 500 characters, on one line.
    Reason by check_reason;
}

impl TimeZoneName {
    /// That of who names none.
    #[must_use]
    pub fn utc() -> Self {
        Self("UTC".to_owned())
    }
}

/// How many versions of a secret are kept: 1 to 1,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionLimit(u32);

impl VersionLimit {
    /// Checks what somebody asked for.
    ///
    /// # Errors
    /// A sentence with the bounds.
    pub fn parse(number: u32) -> Result<Self, Invalid> {
        if (1..=1_000).contains(&number) { Ok(Self(number)) } else { invalid("must be 1 to 1000") }
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

impl Email {
    /// The form that decides whether two addresses are the same account: see [`canonical_text`].
    #[must_use]
    pub fn canonical(&self) -> String {
        canonical_text(&self.0)
    }
}

/// What texts are compared by that a person may write in another way and mean the same: lower case, with letters and their accents in
/// one piece (Unicode NFC). Keyboards differ in whether they give an accent of its own.
#[must_use]
pub fn canonical_text(text: &str) -> String {
    text.to_lowercase().nfc().collect()
}

fn length(text: &str, most: usize) -> Result<(), Invalid> {
    match text.chars().count() {
        0 => invalid("must not be empty"),
        n if n > most => invalid(format!("must be at most {most} characters, has {n}")),
        _ => Ok(()),
    }
}

/// Characters that show nothing or change how their neighbours are shown, besides controls: soft hyphens, what Unicode calls
/// bidirectional controls, fillers, line and paragraph separators, zero-width characters, the byte-order mark, tags.
const DECEPTIVE: [RangeInclusive<char>; 15] = [
    '\u{ad}'..='\u{ad}',
    '\u{61c}'..='\u{61c}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180e}'..='\u{180e}',
    '\u{200b}'..='\u{200b}',
    '\u{200e}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{3164}'..='\u{3164}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{fff9}'..='\u{fffb}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e007f}',
];

/// Joiners, variation selectors and the empty braille pattern: some scripts need them, and by themselves they show nothing.
const BARE: [RangeInclusive<char>; 7] = [
    '\u{34f}'..='\u{34f}',
    '\u{180b}'..='\u{180d}',
    '\u{180f}'..='\u{180f}',
    '\u{200c}'..='\u{200d}',
    '\u{2800}'..='\u{2800}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{e0100}'..='\u{e01ef}',
];

fn is_deceptive(c: char) -> bool {
    c.is_control() || DECEPTIVE.iter().any(|range| range.contains(&c))
}

fn shows_nothing(c: char) -> bool {
    c.is_whitespace() || BARE.iter().any(|range| range.contains(&c))
}

fn check_line(text: &str, most: usize) -> Result<(), Invalid> {
    length(text, most)?;
    if text.chars().any(is_deceptive) {
        return invalid("must not contain control, invisible or text-direction characters");
    }
    if text.trim() != text || text.trim().is_empty() {
        return invalid("must not begin or end with white space");
    }
    if text.chars().all(shows_nothing) {
        return invalid("must show something");
    }
    Ok(())
}

fn check_name(text: &str) -> Result<(), Invalid> {
    check_line(text, 200)
}

fn check_reason(text: &str) -> Result<(), Invalid> {
    check_line(text, 500)
}

fn check_description(text: &str) -> Result<(), Invalid> {
    let count = text.chars().count();
    if count > 2_000 {
        return invalid(format!("must be at most 2000 characters, has {count}"));
    }
    if text.chars().any(|c| is_deceptive(c) && !matches!(c, '\n' | '\r' | '\t')) {
        return invalid("must not contain control, invisible or text-direction characters");
    }
    Ok(())
}

fn check_cron(text: &str) -> Result<(), Invalid> {
    length(text, 200)?;
    if text.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
        Ok(())
    } else {
        invalid("must be made of visible ASCII characters and spaces")
    }
}

fn check_zone(text: &str) -> Result<(), Invalid> {
    length(text, 64)?;
    if text.chars().all(|c| c.is_ascii_alphanumeric() || "/_+-".contains(c)) {
        Ok(())
    } else {
        invalid("must be the name of a time zone such as Europe/Berlin")
    }
}

/// A letter or digit of any script, or part of one.
fn is_letter(c: char) -> bool {
    c.is_alphanumeric() || is_accent(c)
}

/// What is written above, below or after a letter and belongs to it; not what encloses one, and not what shows nothing.
fn is_accent(c: char) -> bool {
    let encloses =
        matches!(c, '\u{488}' | '\u{489}' | '\u{1abe}' | '\u{20dd}'..='\u{20e4}' | '\u{a670}'..='\u{a672}');
    is_combining_mark(c) && !encloses && !shows_nothing(c)
}

fn check_email(text: &str) -> Result<(), Invalid> {
    if text.len() > 254 {
        return invalid(format!("must be at most 254 bytes, has {}", text.len()));
    }
    check_line(text, 254)?;
    let Some((local, domain)) = text.rsplit_once('@') else {
        return invalid("must be an e-mail address such as ada@example.org");
    };
    let labels_ok = domain.contains('.') || domain == "localhost";
    let domain_ok = labels_ok
        && domain.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with(|c: char| c == '-' || is_accent(c))
                && !label.ends_with('-')
                && label.chars().all(|c| is_letter(c) || c == '-')
        });
    let local_ok = !local.is_empty()
        && local.len() <= 64
        && !local.starts_with(|c: char| c == '.' || is_accent(c))
        && !local.ends_with('.')
        && !local.contains("..")
        && local.chars().all(|c| is_letter(c) || "!#$%&'*+/=?^_`{|}~.-".contains(c));
    if local_ok && domain_ok { Ok(()) } else { invalid("must be an e-mail address such as ada@example.org") }
}

fn check_slug(text: &str) -> Result<(), Invalid> {
    length(text, 63)?;
    let plain = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !plain || text.starts_with('-') || text.ends_with('-') {
        return invalid("must be made of a-z, 0-9 and inner hyphens");
    }
    Ok(())
}

fn check_team_slug(text: &str) -> Result<(), Invalid> {
    check_slug(text)?;
    match uuid::Uuid::try_parse(text) {
        Ok(_) => invalid("must not look like an id"),
        Err(_) => Ok(()),
    }
}

fn check_tag(text: &str) -> Result<(), Invalid> {
    length(text, 64)?;
    let plain = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._:-".contains(c));
    if !plain || !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return invalid("must be made of a-z, 0-9, '.', '_', ':' and '-', starting with a letter or digit");
    }
    Ok(())
}

fn check_secret_name(text: &str) -> Result<(), Invalid> {
    length(text, 200)?;
    let segments: Vec<&str> = text.split('/').collect();
    if segments.len() > 8 {
        return invalid("must have at most 8 segments separated by '/'");
    }
    let plain = |segment: &&str| {
        segment.starts_with(|c: char| c.is_ascii_alphanumeric())
            && segment.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    if segments.iter().all(plain) {
        Ok(())
    } else {
        invalid(
            "must be segments of letters, digits, '.', '_' and '-', each starting with a letter or digit, separated by single '/'",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_people_have_are_taken() {
        for good in [
            "ada@example.org",
            "a+b@x.co",
            "O'Hara@example.org",
            "юзер@пример.рф",
            "root@localhost",
            "संपर्क@डाटामेल.भारत",
        ] {
            assert!(Email::parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn addresses_that_are_none_are_refused() {
        let long = format!("{}@example.org", "a".repeat(320));
        for bad in [
            "",
            "ada",
            "ada@",
            "@x.org",
            "a b@x.org",
            "a@x",
            "a@-x.org",
            "a@x..org",
            "a\0@x.org",
            "a..b@x.org",
            &long,
        ] {
            assert!(Email::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn letter_case_does_not_make_another_account() -> Result<(), Invalid> {
        let canonical = |text| Email::parse(text).map(|email| email.canonical());
        assert_eq!(canonical("Ada@Example.ORG")?, canonical("ada@example.org")?);
        assert_eq!(canonical("JOSE\u{301}@example.org")?, canonical("jos\u{e9}@example.org")?);
        Ok(())
    }

    #[test]
    fn names_may_be_of_any_script_but_not_deceive() {
        for good in ["Ada Lovelace", "李小龙", "Zoë", "م\u{200d}حمد", "👩\u{200d}🚀"] {
            assert!(PersonName::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            " Ada",
            "Ada\0",
            "Ada\n",
            "\u{202e}adA",
            "Ada\u{200b}",
            "\u{feff}Ada",
            "\u{2066}x\u{2069}",
            "\u{61c}Ada",
            "A\u{ad}da",
            "\u{3164}",
            "\u{200d}",
            "\u{fe0f}\u{200c}",
            "\u{2800}",
        ] {
            assert!(PersonName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(PersonName::parse(&"x".repeat(200)).is_ok());
        assert!(PersonName::parse(&"x".repeat(201)).is_err());
    }

    #[test]
    fn secret_names_are_paths_that_cannot_climb() {
        for good in ["report-db", "payments/stripe/api-key", "A.b_c", "0"] {
            assert!(SecretName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", "../a", "a/../b", ".env", "a b", "a\0", "é", "a/b/c/d/e/f/g/h/i"]
        {
            assert!(SecretName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn slugs_and_tags_keep_to_their_letters() {
        assert!(TeamSlug::parse("main").is_ok() && Tag::parse("env:prod").is_ok());
        for bad in ["", "Main", "-a", "a-", "a_b", "é", "0198c5a0-7f3e-7d60-b1c5-3b7f0a5d9e11"] {
            assert!(TeamSlug::parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "-a", "A", "a b"] {
            assert!(Tag::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn descriptions_may_have_lines() {
        assert!(Description::parse("").is_ok() && Description::parse("a\n\tb").is_ok());
        assert!(Description::parse("a\0").is_err() && Description::parse(&"x".repeat(2001)).is_err());
    }
}
