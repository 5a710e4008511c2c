//! Destroying data keys: what they sealed is forgotten, and the log stays as it is.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{Executor as _, PgConnection};

use crate::Ledger;
use crate::error::LedgerError;
use crate::personal::key_name;
use crate::scrub;
use crate::seal::SealError;
use crate::vault::HASHING_KEY;

/// Where processes that share a database tell each other which keys were destroyed.
pub(crate) const CHANNEL: &str = "daybook_keys";
/// The names in one notice, in bytes. PostgreSQL takes less than 8,000.
const LONGEST_NOTICE: usize = 7_000;
/// With more notices than these, everything is forgotten instead.
const MOST_NOTICES: usize = 16;
/// The server gives up after this, so that nobody waits for ever behind a lock. And what was said to be destroyed must not come
/// back when the server is killed, whatever the database's owner prefers.
const SETTINGS: &str = "set local statement_timeout = '10s'; set local synchronous_commit = on";

/// What one process tells the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Notice {
    /// These keys are gone.
    Destroyed(Vec<String>),
    /// So many keys are gone that it is simpler to forget all.
    ForgetAll,
    /// No key is gone: another key wraps new data keys from now on.
    WrappingKey,
}

impl Notice {
    /// What to tell when these are destroyed, each of a length that can be sent.
    fn of(names: &[String]) -> Vec<Self> {
        let mut notices = vec![];
        let (mut chunk, mut length) = (vec![], 0);
        for name in names {
            let needs = serde_json::to_string(name).map_or(usize::MAX, |text| text.len() + 1);
            if length + needs.min(LONGEST_NOTICE) > LONGEST_NOTICE {
                notices.push(Self::Destroyed(std::mem::take(&mut chunk)));
                length = 0;
            }
            if needs > LONGEST_NOTICE || notices.len() >= MOST_NOTICES {
                return vec![Self::ForgetAll];
            }
            length += needs;
            chunk.push(name.clone());
        }
        notices.push(Self::Destroyed(chunk));
        notices
    }

    /// What it looks like under way.
    pub(crate) fn payload(&self) -> String {
        // Names and a mark: this cannot fail, and who cannot read a notice forgets everything.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What cannot be read was sent by another version: it may be about any key.
    pub(crate) fn read(payload: &str) -> Self {
        serde_json::from_str(payload).unwrap_or(Self::ForgetAll)
    }
}

impl Ledger {
    /// Destroys the data keys of these names, for ever: what they sealed does not open any more, in this process from now on, in every
    /// other within a second ([`crate::FORGOTTEN_WITHIN`], [`Ledger::hear_destroyed_keys`]). Says how many there were; destroying
    /// again is no error. What is left of them in files goes with the next scrubbing ([`Ledger::scrub_destroyed_keys`]).
    ///
    /// A name may be used again: what is then sealed under it is sealed with another key, and what was sealed before stays closed.
    /// An append that is under way while its key is destroyed stores something that nobody can open.
    ///
    /// # Errors
    /// The database is out of reach; whether the keys are gone is then not known, and to be asked again. Or one of them is
    /// the instance's own, which would take every claim along: then nothing is destroyed.
    pub async fn destroy_keys(&self, names: &[String]) -> Result<u64, LedgerError> {
        self.destroy_made_until(names, None).await
    }

    /// Subjects whose names begin with `prefix` and whose keys were made before `before`, the oldest first: at most `limit`, each with
    /// when its key was made.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn subjects_made_before(
        &self,
        prefix: &str,
        before: DateTime<Utc>,
        limit: i64,
    ) -> Result<Vec<(String, DateTime<Utc>)>, LedgerError> {
        let query = sqlx::query_as(
            "select substr(id, length($1) + 1), created_at from data_keys \
             where starts_with(id, $1 || $2) and created_at < $3 order by created_at, id limit $4",
        );
        let query = query.bind(key_name("")).bind(prefix).bind(before).bind(limit);
        Ok(query.fetch_all(self.pool()).await?)
    }

    async fn destroy_made_until(
        &self,
        names: &[String],
        made_until: Option<DateTime<Utc>>,
    ) -> Result<u64, LedgerError> {
        if let Some(name) = names.iter().find(|name| *name == HASHING_KEY) {
            return Err(SealError::Indispensable { what: name.clone() }.into());
        }
        if names.is_empty() {
            return Ok(0);
        }
        let outcome = self.destroy(names, made_until).await;
        // Also when that failed: a commit without an answer may have happened. If we crash or are dropped before this line,
        // the notice, which comes to us as well, does the same.
        self.vault.memory.forget(names.iter().map(String::as_str));
        if let Ok(destroyed) = outcome {
            metrics::counter!("data_keys_destroyed_total").increment(destroyed);
        }
        outcome
    }

    /// Destroys the keys of these subjects: their personal data opens as erased. See [`Ledger::destroy_keys`].
    ///
    /// # Errors
    /// As [`Ledger::destroy_keys`].
    pub async fn destroy_subjects(&self, subjects: &[String]) -> Result<u64, LedgerError> {
        let names: Vec<String> = subjects.iter().map(|subject| key_name(subject)).collect();
        self.destroy_keys(&names).await
    }

    /// As [`Ledger::destroy_subjects`], but of keys that were made after `made_until`, to the millisecond: for what is only now heard of,
    /// while the name may be another's by now.
    ///
    /// # Errors
    /// As [`Ledger::destroy_keys`].
    pub async fn destroy_subjects_made_until(
        &self,
        subjects: &[String],
        made_until: DateTime<Utc>,
    ) -> Result<u64, LedgerError> {
        let names: Vec<String> = subjects.iter().map(|subject| key_name(subject)).collect();
        self.destroy_made_until(&names, Some(made_until)).await
    }

    /// As [`Ledger::destroy_subjects`] of one subject, which never has a key again: whatever is still appended of it opens as erased.
    ///
    /// # Errors
    /// As [`Ledger::destroy_keys`].
    pub async fn retire_subject(&self, subject: &str) -> Result<u64, LedgerError> {
        let name = key_name(subject);
        let mut transaction = self.pool().begin().await?;
        transaction.execute(SETTINGS).await?;
        // After an append that is about to store a key of this name, and before any other (see `append_events`).
        sqlx::query("select pg_advisory_xact_lock(7310868735422851431)").execute(&mut *transaction).await?;
        sqlx::query("insert into retired_keys (id) values ($1) on conflict do nothing")
            .bind(&name)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        self.destroy_keys(&[name]).await
    }

    /// If we crash here, the rows are there and nobody was told, or they are gone, everybody is told, and some node scrubs the table.
    async fn destroy(&self, names: &[String], made_until: Option<DateTime<Utc>>) -> Result<u64, LedgerError> {
        let mut transaction = self.pool().begin().await?;
        transaction.execute(SETTINGS).await?;
        let destroyed = delete(&mut transaction, names, made_until).await?;
        if destroyed > 0 {
            scrub::request(&mut transaction).await?;
        }
        let payloads: Vec<String> = Notice::of(names).iter().map(Notice::payload).collect();
        // Also of keys that were not there: somebody may remember what was removed by hand.
        sqlx::query("select pg_notify($1, payload) from unnest($2::text[]) as notice(payload)")
            .bind(CHANNEL)
            .bind(payloads)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        self.vault.destroyed.notify_one();
        Ok(destroyed)
    }
}

/// In the order of their names, so that two who destroy the same keys do not wait for each other.
async fn delete(
    connection: &mut PgConnection,
    names: &[String],
    made_until: Option<DateTime<Utc>>,
) -> Result<u64, sqlx::Error> {
    let query = sqlx::query(
        "delete from data_keys where id in (select id from data_keys where id = any($1) \
         and ($2::timestamptz is null or date_trunc('milliseconds', created_at) <= $2) order by id for update)",
    );
    Ok(query.bind(names).bind(made_until).execute(connection).await?.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize, length: usize) -> Vec<String> {
        (0..count).map(|n| format!("{n:0length$}")).collect()
    }

    #[test]
    fn a_notice_says_what_it_was_told_to() {
        let destroyed = Notice::Destroyed(vec!["subject/\"ä\u{1}\"".to_owned()]);
        for notice in [destroyed, Notice::ForgetAll, Notice::WrappingKey] {
            assert_eq!(Notice::read(&notice.payload()), notice);
        }
    }

    #[test]
    fn a_notice_nobody_can_read_is_about_every_key() {
        for payload in ["", "{}", "[\"k\"]", r#"{"destroyed":"k"}"#, r#"{"renamed":["k"]}"#] {
            assert_eq!(Notice::read(payload), Notice::ForgetAll, "{payload}");
        }
    }

    #[test]
    fn many_names_are_told_in_parts_that_can_be_sent() {
        for (count, length) in [(1, 1), (148, 44), (2_000, 44), (14, 1_000), (3, 6_997)] {
            let names = names(count, length);
            let notices = Notice::of(&names);
            assert!(notices.iter().all(|notice| notice.payload().len() < 8_000));
            let told = notices.into_iter().flat_map(|notice| match notice {
                Notice::Destroyed(names) => names,
                Notice::ForgetAll | Notice::WrappingKey => vec![],
            });
            assert_eq!(told.collect::<Vec<_>>(), names);
        }
    }

    #[test]
    fn too_many_names_or_too_long_ones_are_all() {
        let escaped = vec!["\u{1}".repeat(2_000)];
        for names in [names(100_000, 44), names(1, 8_000), [names(3, 44), names(1, 8_000)].concat(), escaped]
        {
            assert_eq!(Notice::of(&names), [Notice::ForgetAll]);
        }
    }
}
