//! A folder of secrets: what stands before the last `/` of their names.

use std::fmt;
use std::str::FromStr;

use domain::{Invalid, SecretName};

/// The beginning of secrets' names up to a `/`, such as `payments/`; or of all names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretFolder(String);

impl SecretFolder {
    /// The folder with all of them.
    #[must_use]
    pub fn all() -> Self {
        Self(String::new())
    }

    /// With the `/` at its end; empty for the one with all.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "/" } else { &self.0 })
    }
}

impl FromStr for SecretFolder {
    type Err = Invalid;

    /// `payments/stripe/`; `/` for all.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == "/" {
            return Ok(Self::all());
        }
        let Some(path) = text.strip_suffix('/') else {
            return Err(Invalid("must end with '/', such as payments/".to_owned()));
        };
        SecretName::parse(path)?;
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_folder_is_a_name_with_a_slash_at_its_end() {
        let folder = |text: &str| text.parse::<SecretFolder>();
        assert_eq!(folder("payments/stripe/").unwrap().as_str(), "payments/stripe/");
        assert_eq!(folder("/").unwrap(), SecretFolder::all());
        for bad in ["", "payments", "//", "/payments/", "../", "a/../", "a b/", "a\n/"] {
            assert!(folder(bad).is_err(), "{bad:?}");
        }
    }
}
