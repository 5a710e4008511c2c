//! What a secret is called in a program's environment.

use commands::SecretFolder;

use super::refused::is_refused;

/// The variable of a secret of this folder.
///
/// # Errors
/// A sentence that says why there is none.
pub(super) fn name(folder: &SecretFolder, secret: &str) -> Result<String, String> {
    let rest = secret.strip_prefix(folder.as_str()).unwrap_or(secret);
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let mut name: String = rest.chars().map(letter).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        name.insert(0, '_');
    }
    if name.is_empty() {
        Err(format!("{secret} has no name under {folder}"))
    } else if is_refused(&name) {
        Err(format!(
            "{secret} would be {name}, which decides what code runs or whom it believes: give it another name"
        ))
    } else {
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn under(folder: &str, secret: &str) -> Result<String, String> {
        name(&folder.parse().unwrap(), secret)
    }

    #[test]
    fn names_become_variables() {
        for (folder, secret, variable) in [
            ("payments/", "payments/stripe/api-key", "STRIPE_API_KEY"),
            ("payments/stripe/", "payments/stripe/api-key", "API_KEY"),
            ("/", "payments/Stripe.v2", "PAYMENTS_STRIPE_V2"),
            ("/", "2fa-seed", "_2FA_SEED"),
            ("a/", "a/path/x", "PATH_X"),
        ] {
            assert_eq!(under(folder, secret), Ok(variable.to_owned()));
        }
    }

    #[test]
    fn no_secret_decides_what_runs() {
        let meant = ["app/path", "app/LD_PRELOAD", "app/ld/library-path", "app/bash.env", "app/node/options"];
        for secret in meant {
            assert!(under("app/", secret).unwrap_err().starts_with(secret));
        }
    }
}
