//! What a job's arguments come to once they fit the kind's parameters.

use std::collections::BTreeMap;

/// The value of each parameter that has one: given with the job, or its default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values(BTreeMap<String, Argument>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Argument {
    pub(super) text: String,
    /// The job's own, and not the default.
    pub(super) given: bool,
    pub(super) allow_leading_dash: bool,
}

impl Values {
    pub(super) fn insert(&mut self, name: &str, argument: Argument) {
        self.0.insert(name.to_owned(), argument);
    }

    /// The text that stands for a parameter; `None` for an optional one that was not given and has no default.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|argument| argument.text.as_str())
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, argument)| (name.as_str(), argument.text.as_str()))
    }

    /// Whether a parameter's value may stand where an option might. A default may: it is the kind's author's.
    #[must_use]
    pub fn may_lead_with_dash(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|argument| !argument.given || argument.allow_leading_dash)
    }
}
