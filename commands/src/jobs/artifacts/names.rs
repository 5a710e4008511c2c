//! Names of artifacts as parts of keys.

use ledger::Sha256;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What stands for itself. `~` does not: it begins the names that stand for others.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');
/// Bytes of one part of a key at most; file systems take 255, and what is under way has a longer name.
const LONGEST_PART: usize = 200;
/// Bytes of an encoded name at most; S3 takes keys of 1,024 bytes.
const LONGEST: usize = 600;

/// The name with everything encoded that means something to a file system or in a URL, part by part. Names that would be too long, or lead
/// anywhere, are replaced by their digest. Different names stay different.
pub(super) fn encoded(name: &str) -> String {
    let parts: Vec<String> =
        name.split('/').map(|part| utf8_percent_encode(part, ENCODED).to_string()).collect();
    let fits = |part: &String| !["", ".", ".."].contains(&part.as_str()) && part.len() <= LONGEST_PART;
    let whole = parts.join("/");
    if whole.len() <= LONGEST && parts.iter().all(fits) { whole } else { format!("~{}", Sha256::of(name)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn usual_names_are_readable() {
        assert_eq!(encoded("reports/2026-03/sales_v1.csv"), "reports/2026-03/sales_v1.csv");
        assert_eq!(encoded("a b ä%2F.txt"), "a%20b%20%C3%A4%252F%2Etxt".replace("%2E", "."));
    }

    #[test]
    fn names_that_lead_elsewhere_or_are_too_long_are_replaced() {
        for name in ["..", "../x", "a/../../b", "/etc/passwd", "a//b", "a/", "", ".", &"x".repeat(201)] {
            let encoded = encoded(name);
            assert!(encoded.starts_with('~') && encoded.len() == 65, "{name:?}: {encoded}");
        }
    }

    proptest! {
        #[test]
        fn every_name_makes_a_key_that_stays_where_it_is(name in any::<String>(), other in any::<String>()) {
            let key = encoded(&name);
            prop_assert!(key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.%/~".contains(&byte)), "{}", key);
            prop_assert!(key.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && part.len() <= LONGEST_PART));
            prop_assert_eq!(key == encoded(&other), name == other);
        }
    }
}
