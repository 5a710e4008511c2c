//! Licence expressions, as far as packages use them: SPDX 2.3, annex D, and the slash of old Cargo manifests.

/// Whether the licences in `allowed` are enough for `expression`.
pub(super) fn is_satisfied(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = Words { words: spaced.split_whitespace().collect(), allowed };
    words.words.reverse();
    words.any() && words.words.is_empty()
}

struct Words<'a> {
    /// What is left, the next one last.
    words: Vec<&'a str>,
    allowed: &'a [&'a str],
}

impl Words<'_> {
    fn take(&mut self, word: &str) -> bool {
        let is_next = self.words.last() == Some(&word);
        if is_next {
            self.words.pop();
        }
        is_next
    }

    fn any(&mut self) -> bool {
        let mut satisfied = self.all();
        while self.take("OR") {
            satisfied |= self.all();
        }
        satisfied
    }

    fn all(&mut self) -> bool {
        let mut satisfied = self.one();
        while self.take("AND") {
            satisfied &= self.one();
        }
        satisfied
    }

    fn one(&mut self) -> bool {
        if self.take("(") {
            let satisfied = self.any();
            return self.take(")") && satisfied;
        }
        let mut licence = self.words.pop().unwrap_or_default().to_owned();
        if self.take("WITH") {
            licence = format!("{licence} WITH {}", self.words.pop().unwrap_or_default());
        }
        self.allowed.contains(&licence.as_str())
    }
}

#[test]
fn expressions_are_read_as_they_are_meant() {
    let allowed = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"];
    for good in [
        "MIT",
        "MIT OR GPL-3.0",
        "GPL-3.0/MIT",
        "MIT AND ISC",
        "(GPL-3.0 OR MIT) AND ISC",
        "Apache-2.0 WITH LLVM-exception OR X",
    ] {
        assert!(is_satisfied(good, &allowed), "{good}");
    }
    for bad in [
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "(MIT OR GPL-3.0) AND GPL-3.0",
        "Apache-2.0",
        "MIT ISC",
        "(MIT",
        "GPL-3.0 OR MIT AND X",
    ] {
        assert!(!is_satisfied(bad, &allowed), "{bad}");
    }
}
