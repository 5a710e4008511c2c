//! Accounts, by user id.

use chrono::{DateTime, Utc};
use domain::{Event, Personal, UserEvent};
use serde::{Deserialize, Serialize};

use crate::error::ReadError;
use crate::fact::Fact;
use crate::machine::{MOST_LISTED, Reader};
use crate::time::millis;
use crate::view::{StreamView, View};

/// See the module.
#[derive(Debug)]
pub struct Users;

/// A person's account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UserRow {
    /// The user's id.
    pub id: String,
    /// As it was typed; `erased` once the person's key is gone.
    pub email: String,
    /// What decides whether two addresses are the same account ([`domain::Email::canonical`]).
    pub canonical_email: Option<String>,
    /// What they are called.
    pub name: String,
    /// PHC string of the password's hash.
    pub password_hash: String,
    /// Whether they administer the instance.
    pub admin: bool,
    /// Whether they may sign in.
    pub active: bool,
    /// Whether they have shown that the address is theirs.
    pub email_verified: bool,
    /// Whether they sign in with a second factor.
    pub two_factor: bool,
    /// When the account was made.
    #[serde(with = "millis")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(with = "millis")]
    pub updated_at: DateTime<Utc>,
    /// Events of its stream: the version in its `ETag`.
    pub sequence: i64,
}

impl View for Users {
    const NAME: &'static str = "users";
    const VERSION: u32 = 1;
    const AGGREGATES: &'static [&'static str] = &["user"];
    const PERSONAL: bool = true;
    const HIDDEN: &'static [&'static str] = &["password_hash"];
    type Row = UserRow;

    fn columns() -> &'static str {
        r#"email text collate "C" generated always as (row->>'canonical_email') stored"#
    }

    fn indexes() -> &'static [&'static str] {
        &["(email)"]
    }

    fn keys(fact: &Fact) -> Vec<String> {
        match &fact.event {
            Event::User(_) => vec![fact.aggregate_id.clone()],
            Event::Team(_) | Event::Secret(_) | Event::Job(_) | Event::Access(_) | Event::Claim(_) => vec![],
        }
    }

    fn fold(key: &str, row: Option<UserRow>, fact: &Fact) -> Option<UserRow> {
        match &fact.event {
            Event::User(UserEvent::UserRegistered { email, name, password_hash, admin }) => Some(UserRow {
                id: key.to_owned(),
                email: email.text().to_owned(),
                canonical_email: canonical(email),
                name: name.text().to_owned(),
                password_hash: password_hash.text().to_owned(),
                admin: *admin,
                active: true,
                email_verified: false,
                two_factor: false,
                created_at: fact.at,
                updated_at: fact.at,
                sequence: fact.sequence,
            }),
            Event::User(UserEvent::UserRenamed { name }) => row.map(|row| UserRow {
                name: name.text().to_owned(),
                updated_at: fact.at,
                sequence: fact.sequence,
                ..row
            }),
            Event::Team(_) | Event::Secret(_) | Event::Job(_) | Event::Access(_) | Event::Claim(_) => row,
        }
    }
}

impl StreamView for Users {
    const STREAM: &'static str = "user";
}

/// As [`domain::Email::canonical`]; nobody is found by an address that was erased.
fn canonical(email: &Personal) -> Option<String> {
    match email {
        Personal::Open { personal, .. } => Some(personal.to_lowercase()),
        Personal::Sealed { .. } | Personal::Erased { .. } => None,
    }
}

impl Reader<'_, Users> {
    /// The account whose canonical e-mail address is `canonical`. Not cached.
    ///
    /// # Errors
    /// The database is out of reach, or the row is not what this version expects.
    pub async fn by_email(&self, canonical: &str) -> Result<Option<UserRow>, ReadError> {
        let query = sqlx::query_as("select key, row::text from users where email = $1 order by key limit 1");
        self.row(query.bind(canonical)).await
    }

    /// Accounts by id, after id `after`: at most `limit` (and 1,000).
    ///
    /// # Errors
    /// The database is out of reach, or a row is not what this version expects.
    pub async fn list(&self, after: Option<&str>, limit: i64) -> Result<Vec<UserRow>, ReadError> {
        let query = sqlx::query_as("select key, row::text from users where key > $1 order by key limit $2");
        self.rows(query.bind(after.unwrap_or_default()).bind(limit.min(MOST_LISTED))).await
    }

    /// Whether there is any account yet.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn any(&self) -> Result<bool, ReadError> {
        Ok(sqlx::query_scalar("select exists (select from users)").fetch_one(self.pool).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, fact, folded, id};

    fn registered() -> Fact {
        let personal = |text: &str| Personal::new(id(1), text);
        fact(
            1,
            "user",
            id(1),
            UserEvent::UserRegistered {
                email: personal("Ada@Example.org"),
                name: personal("Ada"),
                password_hash: personal("$argon2id$x"),
                admin: true,
            },
        )
    }

    #[test]
    fn an_account_is_made_and_renamed() {
        let renamed =
            fact(2, "user", id(1), UserEvent::UserRenamed { name: Personal::new(id(1), "Countess") });
        let expected = UserRow {
            id: id(1),
            email: "Ada@Example.org".into(),
            canonical_email: Some("ada@example.org".into()),
            name: "Countess".into(),
            password_hash: "$argon2id$x".into(),
            admin: true,
            active: true,
            email_verified: false,
            two_factor: false,
            created_at: at(1),
            updated_at: at(2),
            sequence: 2,
        };
        assert_eq!(folded::<Users>(&[registered(), renamed]), [(id(1), expected)].into());
    }

    #[test]
    fn who_was_erased_is_found_by_no_address() {
        let erased = || Personal::Erased { erased: true, subject: id(1) };
        let event = UserEvent::UserRegistered {
            email: erased(),
            name: erased(),
            password_hash: erased(),
            admin: false,
        };
        let rows = folded::<Users>(&[fact(1, "user", id(1), event)]);
        assert_eq!(rows[&id(1)].email, "erased");
        assert_eq!(rows[&id(1)].canonical_email, None);
    }

    #[test]
    fn nobody_is_shown_the_hash() {
        let rows = folded::<Users>(&[registered()]);
        assert_eq!(Users::public(&rows[&id(1)])["password_hash"], "sealed");
    }
}
