//! Accounts, by user id.

use chrono::{DateTime, Utc};
use domain::{Event, Personal, UserEvent, canonical_text};
use serde::{Deserialize, Serialize};
use sqlx::QueryBuilder;

use crate::error::ReadError;
use crate::fact::Fact;
use crate::machine::{MOST_LISTED, Reader};
use crate::table_names::sql;
use crate::time::millis;
use crate::view::{StreamView, View};

/// What stands in place of what is forgotten, as in [`Personal::text`].
const ERASED: &str = "erased";

/// See the module.
#[derive(Debug)]
pub struct Users;

/// A person's account. What has a default was not in rows of the first version, which serve until they are made anew.
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
    /// The same as those who search compare it ([`domain::canonical_text`]): PostgreSQL's own lower case knows no letters but a to z in
    /// the locale `C`.
    #[serde(default)]
    pub canonical_name: String,
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
    /// The sealed shared key of the second factor, while one is set up.
    #[serde(default)]
    pub two_factor_sealed: Option<String>,
    /// Recovery codes that are not spent.
    #[serde(default)]
    pub recovery_codes_left: usize,
    /// Whether nobody knows any more who it was.
    #[serde(default)]
    pub erased: bool,
    /// The position of the event that set the present password.
    #[serde(default)]
    pub password_position: i64,
    /// Who changed it last at the command line, where they have no account.
    #[serde(default)]
    pub operator: Option<String>,
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
    const VERSION: u32 = 3;
    const AGGREGATES: &'static [&'static str] = &["user"];
    const PERSONAL: bool = true;
    const HIDDEN: &'static [&'static str] = &["password_hash", "two_factor_sealed"];
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
            Event::Team(_)
            | Event::Secret(_)
            | Event::Job(_)
            | Event::Schedule(_)
            | Event::Access(_)
            | Event::Claim(_) => vec![],
        }
    }

    fn fold(key: &str, row: Option<UserRow>, fact: &Fact) -> Option<UserRow> {
        let mut row = match &fact.event {
            Event::User(UserEvent::UserRegistered { email, .. }) => registered(key, email, fact),
            Event::User(_) => row?,
            Event::Team(_)
            | Event::Secret(_)
            | Event::Job(_)
            | Event::Schedule(_)
            | Event::Access(_)
            | Event::Claim(_) => {
                return row;
            }
        };
        if let Event::User(event) = &fact.event {
            change(&mut row, event, fact);
        }
        row.updated_at = fact.at;
        row.sequence = fact.sequence;
        Some(row)
    }
}

/// Before what the event says of it; see [`change`].
fn registered(key: &str, email: &Personal, fact: &Fact) -> UserRow {
    UserRow {
        id: key.to_owned(),
        email: email.text().to_owned(),
        canonical_email: canonical(email),
        name: String::new(),
        canonical_name: String::new(),
        password_hash: String::new(),
        admin: false,
        active: true,
        email_verified: false,
        two_factor: false,
        two_factor_sealed: None,
        recovery_codes_left: 0,
        erased: false,
        password_position: fact.position,
        operator: None,
        created_at: fact.at,
        updated_at: fact.at,
        sequence: fact.sequence,
    }
}

fn change(row: &mut UserRow, event: &UserEvent, fact: &Fact) {
    match event {
        UserEvent::UserRegistered { email: _, name, password_hash, admin } => {
            call(row, name.text());
            password_hash.text().clone_into(&mut row.password_hash);
            row.admin = *admin;
        }
        UserEvent::SignedOutEverywhere {}
        | UserEvent::ApiKeyMade { .. }
        | UserEvent::ApiKeyRevoked { .. } => {}
        UserEvent::UserRenamed { name } => call(row, name.text()),
        UserEvent::PasswordChanged { password_hash } | UserEvent::PasswordReset { password_hash, .. } => {
            password_hash.text().clone_into(&mut row.password_hash);
            row.password_position = fact.position;
        }
        UserEvent::PasswordRehashed { password_hash } => {
            password_hash.text().clone_into(&mut row.password_hash);
        }
        UserEvent::EmailVerified {} => row.email_verified = true,
        UserEvent::TwoFactorBegun { sealed } => row.two_factor_sealed = Some(sealed.clone()),
        UserEvent::TwoFactorEnabled { recovery_code_hashes } => {
            row.two_factor = true;
            row.recovery_codes_left = recovery_code_hashes.len();
        }
        UserEvent::TwoFactorDisabled {} => no_second_factor(row),
        UserEvent::TwoFactorReset { operator } => {
            no_second_factor(row);
            row.operator = Some(operator.text().to_owned());
        }
        UserEvent::RecoveryCodeUsed { .. } => {
            row.recovery_codes_left = row.recovery_codes_left.saturating_sub(1);
        }
        UserEvent::UserDeactivated { operator } => {
            row.active = false;
            row.operator = operator.as_ref().map(|operator| operator.text().to_owned());
        }
        UserEvent::UserReactivated {} => row.active = true,
        UserEvent::AdminGranted {} => row.admin = true,
        UserEvent::AdminRevoked {} => row.admin = false,
        UserEvent::UserErased { .. } => erase(row),
    }
}

fn call(row: &mut UserRow, name: &str) {
    name.clone_into(&mut row.name);
    row.canonical_name = canonical_text(name);
}

fn no_second_factor(row: &mut UserRow) {
    row.two_factor = false;
    row.two_factor_sealed = None;
    row.recovery_codes_left = 0;
}

/// At once, and not only with the next rebuild after the person's key has gone.
fn erase(row: &mut UserRow) {
    no_second_factor(row);
    for text in [&mut row.email, &mut row.password_hash] {
        ERASED.clone_into(text);
    }
    call(row, ERASED);
    (row.canonical_email, row.operator) = (None, None);
    (row.admin, row.active, row.email_verified, row.erased) = (false, false, false, true);
}

impl StreamView for Users {
    const STREAM: &'static str = "user";
}

/// As [`domain::Email::canonical`]; nobody is found by an address that was erased.
fn canonical(email: &Personal) -> Option<String> {
    match email {
        Personal::Open { personal, .. } => Some(canonical_text(personal)),
        Personal::Sealed { .. } | Personal::Erased { .. } => None,
    }
}

/// Which accounts are wanted; all by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UserFilter {
    /// The address or the name contains this, whatever its letters' case.
    pub q: Option<String>,
    /// They may sign in, or may not.
    pub active: Option<bool>,
    /// They administer the instance, or do not.
    pub admin: Option<bool>,
}

impl Reader<'_, Users> {
    /// The account whose canonical e-mail address is `canonical`. Not cached.
    ///
    /// # Errors
    /// The database is out of reach, or the row is not what this version expects.
    pub async fn by_email(&self, canonical: &str) -> Result<Option<UserRow>, ReadError> {
        let query =
            sqlx::query_as(sql("select key, row::text from {users} where email = $1 order by key limit 1"));
        self.row(query.bind(canonical)).await
    }

    /// Accounts by id, after id `after`: at most `limit` (and 1,000).
    ///
    /// # Errors
    /// The database is out of reach, or a row is not what this version expects.
    pub async fn list(
        &self,
        filter: &UserFilter,
        after: Option<&str>,
        limit: i64,
    ) -> Result<Vec<UserRow>, ReadError> {
        let mut query = QueryBuilder::new(sql("select key, row::text from {users} where key > "));
        query.push_bind(after.unwrap_or_default());
        for (field, value) in [("active", filter.active), ("admin", filter.admin)] {
            if let Some(value) = value {
                query.push(format_args!(" and (row->>'{field}')::boolean = ")).push_bind(value);
            }
        }
        if let Some(q) = &filter.q {
            let q = canonical_text(q);
            query.push(" and (position(").push_bind(q.clone());
            query.push(" in coalesce(row->>'canonical_email', '')) > 0 or position(").push_bind(q);
            query.push(" in row->>'canonical_name') > 0)");
        }
        query.push(" order by key limit ").push_bind(limit.min(MOST_LISTED));
        self.rows(query.build_query_as()).await
    }

    /// Whether there is any account yet.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn any(&self) -> Result<bool, ReadError> {
        Ok(sqlx::query_scalar(sql("select exists (select from {users})"))
            .fetch_one(&mut *self.connection().await?)
            .await?)
    }
}

#[cfg(test)]
mod tests;
