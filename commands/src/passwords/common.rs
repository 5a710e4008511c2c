//! Passwords that everybody tries first: common ones and such as have leaked. `common.md`, beside the list, says where it comes from.

/// One entry a line, sorted by bytes: passwords of 12 characters and more as [`joined`] leaves them, and the words that people
/// put digits and signs around as [`core`] leaves them.
static LIST: &str = include_str!("common.txt");

/// Fewer characters than this are no word to be found on the list.
const SHORTEST_CORE: usize = 4;
/// Digits and signs around a listed word that do not make a password of it, one that is repeated counting once: enough for a
/// date with a sign.
const MOST_AROUND: usize = 8;

/// Whether a password, already folded ([`super::choice::folded`]), is one of those. It is when
///
/// - it is on the list, whatever its letter case and whatever white space, `-`, `_` and `.` it has in it; or
/// - it is so once the ASCII digits and punctuation before and behind it are taken away, at most eight of them, runs of one
///   and the same counting as one; or
/// - it is one piece again and again, and the piece has fewer than 4 characters or is listed in one of these ways.
pub(super) fn is_common(folded: &str) -> bool {
    let joined = joined(folded);
    let piece = piece(&joined);
    piece.chars().count() < SHORTEST_CORE || [joined.as_str(), piece].into_iter().any(is_known)
}

/// Without the separators that people put between words.
pub(super) fn joined(folded: &str) -> String {
    folded.chars().filter(|c| !c.is_whitespace() && !matches!(c, '-' | '_' | '.')).collect()
}

/// Without the ASCII digits and punctuation around it.
fn core(joined: &str) -> &str {
    joined.trim_matches(|c: char| c.is_ascii_digit() || c.is_ascii_punctuation())
}

/// What `text` repeats; all of it when it repeats nothing.
fn piece(text: &str) -> &str {
    let whole = text.len();
    let repeats = |end: &usize| {
        whole.is_multiple_of(*end)
            && text.as_bytes().chunks(*end).all(|part| part == &text.as_bytes()[..*end])
    };
    let ends = text.char_indices().map(|(start, _)| start).skip(1);
    ends.take_while(|end| *end <= whole / 2).find(repeats).map_or(text, |end| &text[..end])
}

fn is_known(joined: &str) -> bool {
    let core = core(joined);
    is_listed(joined)
        || core.chars().count() >= SHORTEST_CORE && around(joined, core) <= MOST_AROUND && is_listed(core)
}

/// Characters of `joined` before and behind its core, runs counting as one.
fn around(joined: &str, core: &str) -> usize {
    let (before, behind) = joined.split_once(core).unwrap_or_default();
    let runs = |text: &str| {
        let mut characters: Vec<char> = text.chars().collect();
        characters.dedup();
        characters.len()
    };
    runs(before) + runs(behind)
}

/// Halves the list until the entry is found or nothing is left. `low` and `high` are always where a line begins.
fn is_listed(entry: &str) -> bool {
    let list = LIST.as_bytes();
    let (mut low, mut high) = (0, list.len());
    while low < high {
        let middle = usize::midpoint(low, high);
        let start = list[low..middle].iter().rposition(|byte| *byte == b'\n').map_or(low, |at| low + at + 1);
        let end = list[start..high].iter().position(|byte| *byte == b'\n').map_or(high, |at| start + at);
        match list[start..end].cmp(entry.as_bytes()) {
            std::cmp::Ordering::Equal => return true,
            std::cmp::Ordering::Less => low = end + 1,
            std::cmp::Ordering::Greater => high = start,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_in_the_form_that_is_looked_up() {
        let entries: Vec<&str> = LIST.lines().collect();
        assert!(entries.len() > 80_000, "{}", entries.len());
        assert!(LIST.len() <= 1_000_000 && LIST.ends_with('\n') && !LIST.contains('\r'));
        assert!(entries.is_sorted_by(|one, next| one.as_bytes() < next.as_bytes()));
        for entry in entries {
            assert_eq!(joined(&super::super::choice::folded(entry)), entry, "not as it is looked up");
            let count = entry.chars().count();
            assert!(if count < 12 { core(entry) == entry && count >= 4 } else { count <= 32 }, "{entry}");
        }
    }

    #[test]
    fn every_entry_is_found_and_its_neighbours_are_not() {
        for entry in LIST.lines() {
            assert!(is_listed(entry), "{entry}");
            assert!(!is_listed(&format!("{entry}\0")), "{entry}");
        }
        assert!(!is_listed("") && !is_listed("\0") && !is_listed("\u{10ffff}"));
    }

    #[test]
    fn common_passwords_are_known_however_they_are_dressed_up() {
        for common in [
            "1qaz2wsx3edc4rfv",
            "manchesterunited",
            "manchester united",
            "man-chester_united.",
            "password1234",
            "password2024!",
            "!!summer-2024!!",
            "password!!!!!!!!!!!!",
            "1.1.1999 liverpool",
            "p@ssw0rd1234",
            "passwordpassword",
            "trustno1trustno1trustno1",
            "abcabcabcabc",
            "aaaaaaaaaaaa",
            "ääääääääääää",
            "12-12-12-12-12",
            "daybook-2026!",
            "correct horse battery staple",
        ] {
            assert!(is_common(common), "{common}");
        }
    }

    #[test]
    fn others_are_not() {
        for good in [
            "correct horse battery",
            "password by the river",
            "password938475610",
            "liverpool stands on the mersey",
            "長い長い長い秘密の言葉です",
            "zqx vbn wkj 7",
            "kl3m-9vtr-22qp",
        ] {
            assert!(!is_common(good), "{good}");
        }
    }
}
