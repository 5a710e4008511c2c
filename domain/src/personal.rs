//! Text that belongs to a person and can be forgotten.

use serde::{Deserialize, Serialize};

/// Personal data in an event (an e-mail address, a name, a password's hash) together with the subject it belongs to.
///
/// The rules never look inside. The ledger seals every [`Personal::Open`] it appends under the subject's own key and gives
/// readers `Open` or, once that key was destroyed, [`Personal::Erased`]; the write side loads it still `Sealed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Personal {
    /// In clear: on its way into the log, or opened for a reader.
    Open {
        /// The text itself.
        personal: String,
        /// Whose key seals it.
        subject: String,
    },
    /// As it stands in the log (base64 of the sealed bytes).
    Sealed {
        /// The sealed bytes.
        sealed: String,
        /// Whose key seals it.
        subject: String,
    },
    /// The subject's key is gone.
    Erased {
        /// Always true.
        erased: bool,
        /// Whose key sealed it.
        subject: String,
    },
}

impl Personal {
    /// Marks `text` as belonging to `subject`.
    pub fn new(subject: impl ToString, text: impl ToString) -> Self {
        Self::Open { personal: text.to_string(), subject: subject.to_string() }
    }

    /// Whose it is.
    #[must_use]
    pub fn subject(&self) -> &str {
        match self {
            Self::Open { subject, .. } | Self::Sealed { subject, .. } | Self::Erased { subject, .. } => {
                subject
            }
        }
    }

    /// What a reader may see: the text, or a word saying why there is none.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Open { personal, .. } => personal,
            Self::Sealed { .. } => "sealed",
            Self::Erased { .. } => "erased",
        }
    }
}
