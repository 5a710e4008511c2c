//! Which passwords may be chosen (NIST SP 800-63B-4, section 3.1.1.2; docs/adr/0006-passwords.md).

use domain::{Email, Invalid, PersonName};
use unicode_normalization::UnicodeNormalization as _;
use zeroize::Zeroizing;

use super::common::{is_common, joined};

/// Characters that a chosen password has at least and at most.
const LENGTH: std::ops::RangeInclusive<usize> = 12..=256;
/// Characters from which on a part of an address or a name must not be in a password: "Jo" is in too many words.
const SHORTEST_PART: usize = 4;

/// A password. Not printable; cleared from memory when dropped.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

/// Whose password it is to be, as far as that is known. `About::default()` is nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct About<'a> {
    /// What they sign in with.
    pub email: Option<&'a Email>,
    /// What they are called.
    pub name: Option<&'a PersonName>,
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

impl Password {
    /// Checks a password that `person` chose: 12 to 256 characters, any of Unicode, no rules of composition. It must not be a
    /// common one, nor contain the person's e-mail address, the part of it before the `@`, or their name: the whole of it, and each of its words
    /// of 4 characters or more. Neither letter case nor, in what has several words, separators make a difference.
    ///
    /// # Errors
    /// Says which rule it breaks, never what was typed.
    pub fn choose(text: impl Into<Zeroizing<String>>, person: &About<'_>) -> Result<Self, Invalid> {
        let password = Self::typed(text);
        let rule = |message: &str| Err(Invalid(message.to_owned()));
        if password.0.chars().count() > *LENGTH.end() {
            return rule("must have at most 256 characters");
        }
        if password.normalized().chars().count() < *LENGTH.start() {
            return rule("must have at least 12 characters");
        }
        let folded = Zeroizing::new(folded(&password.0));
        if is_common(&folded) {
            return rule(
                "is too common: it, or what is left of it without digits and signs, is among the first that are tried",
            );
        }
        if person.email.is_some_and(|email| has_email(&folded, email)) {
            return rule("must not contain the e-mail address or the part of it before the @");
        }
        if person.name.is_some_and(|name| has_name(&folded, name)) {
            return rule("must not contain the person's name");
        }
        Ok(password)
    }

    /// A password that is not anybody's choice: typed to prove who somebody is, or made at random. Any text.
    #[must_use]
    pub fn typed(text: impl Into<Zeroizing<String>>) -> Self {
        Self(text.into())
    }

    /// The text as it was typed.
    pub(super) fn as_typed(&self) -> &str {
        &self.0
    }

    /// The text in the one form (NFKC) that all keyboards agree on: an accent typed before or with its letter is the same.
    pub(super) fn normalized(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.nfkc().collect())
    }
}

/// How passwords, addresses and names are compared: NFKC in lower case.
pub(super) fn folded(text: &str) -> String {
    text.nfkc().collect::<String>().to_lowercase()
}

fn has_email(password: &str, email: &Email) -> bool {
    let address = folded(email.as_str());
    let local = address.rsplit_once('@').map_or("", |(local, _)| local);
    // What stands behind a plus is a label for sorting, not the person.
    let person = local.split('+').next().unwrap_or_default();
    [&address, local, person].into_iter().any(|part| has(password, part))
}

fn has_name(password: &str, name: &PersonName) -> bool {
    let name = folded(name.as_str());
    let words = name.split(|c: char| c.is_whitespace() || c.is_ascii_punctuation());
    has(password, &name) || words.into_iter().any(|word| has(password, word))
}

fn has(password: &str, part: &str) -> bool {
    let in_one = joined(part);
    is_telling(part) && password.contains(part)
        || in_one != part && is_telling(&in_one) && joined(password).contains(&in_one)
}

/// Whether a part is long enough to be the person's rather than chance. A sign of the scripts that write a syllable or a word
/// with one says as much as several letters.
fn is_telling(part: &str) -> bool {
    let count = part.chars().count();
    count >= SHORTEST_PART || count >= 2 && part.chars().all(|c| c >= '\u{2e80}')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refusal(text: &str, person: &About<'_>) -> Option<String> {
        Password::choose(text.to_owned(), person).err().map(|invalid| invalid.0)
    }

    /// What is said of `text` when somebody of this address and name chooses it.
    fn of(email: &str, name: &str, text: &str) -> Option<String> {
        let (email, name) = (Email::parse(email).unwrap(), PersonName::parse(name).unwrap());
        refusal(text, &About { email: Some(&email), name: Some(&name) })
    }

    #[test]
    fn the_length_is_bounded_in_characters_of_any_script() {
        let nobody = About::default();
        assert_eq!(refusal("eleven char", &nobody).unwrap(), "must have at least 12 characters");
        assert_eq!(refusal("twelve chars", &nobody), None);
        assert_eq!(refusal("長い長い長い秘密の言葉の", &nobody), None);
        assert_eq!(refusal(&"長い秘密".repeat(64), &nobody), None);
        assert_eq!(refusal(&"長い秘密!".repeat(52), &nobody).unwrap(), "must have at most 256 characters");
        // Eleven letters, of which each accent is a character of its own on some keyboards.
        assert!(refusal("e\u{301}lodie vole", &nobody).is_some());
    }

    #[test]
    fn nothing_is_asked_of_its_composition() {
        for plain in
            ["only small letters here", "ÜBERALL GROSSBUCHSTABEN", "🚲🚃🚌🛵🚜🚂🛶🚀🛸🚁🛴🚲", "839201746655"]
        {
            assert_eq!(refusal(plain, &About::default()), None, "{plain}");
        }
    }

    #[test]
    fn a_common_one_is_refused_in_any_case_and_width() {
        for common in ["PassWord1234", "Ｐａｓｓｗｏｒｄ１２３４", "Manchester United", "Sommer2024!!!!!!"]
        {
            let said = refusal(common, &About::default());
            assert!(said.clone().is_some_and(|said| said.starts_with("is too common")), "{common}: {said:?}");
        }
    }

    #[test]
    fn ones_own_address_is_refused() {
        let said = "must not contain the e-mail address or the part of it before the @";
        for own in [
            "Ada.King@Example.org",
            "my ada.king in 1843",
            "my AdaKing in 1843",
            "my ada-king in 1843",
            "ada.king+daybook 1843",
        ] {
            let refused = of("ada.king+daybook@example.org", "Augusta", own);
            assert_eq!(refused.as_deref(), Some(said), "{own}");
        }
        assert_eq!(of("jo@example.org", "Augusta", "a job of joy and joking"), None);
    }

    #[test]
    fn ones_own_name_is_refused() {
        let said = "must not contain the person's name";
        for own in [
            "ada lovelace 1843",
            "AdaLovelace 1843",
            "the lovelace engine",
            "LOVELACE-engine",
            "k. lovelace, engine",
        ] {
            let refused = of("a@example.org", "Ada King Lovelace", own);
            assert_eq!(refused.as_deref(), Some(said), "{own}");
        }
        let said = Some(said.to_owned());
        assert_eq!(of("a@example.org", "Ada King", "adaking and so on"), said);
        assert_eq!(of("a@example.org", "Zoë Müller", "ZOE\u{308}-MU\u{308}LLER-1"), said);
        assert_eq!(of("a@example.org", "李小龙", "我的密码是李小龙一二三四"), said);
        // Words of three letters are in too many others, and two words that meet are not a name.
        assert_eq!(of("a@example.org", "Ada Kim", "armada of akimbo things"), None);
        assert_eq!(of("a@example.org", "Erin", "paper in a hand of mine"), None);
    }

    #[test]
    fn nothing_of_it_is_printed() {
        let password = Password::choose("open sesame, twice".to_owned(), &About::default()).unwrap();
        assert_eq!(format!("{password:?}"), "Password");
    }
}
