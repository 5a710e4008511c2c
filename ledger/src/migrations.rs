//! The tables, in order. A migration that was shipped never changes: the next one mends it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use sqlx::migrate::{Migration, MigrationType, Migrator};

const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "ledger", include_str!("../../migrations/0001_ledger.sql")),
    (2, "jobs", include_str!("../../migrations/0002_jobs.sql")),
    (3, "projections", include_str!("../../migrations/0003_projections.sql")),
    (4, "sign_in_attempts", include_str!("../../migrations/0004_sign_in_attempts.sql")),
    (5, "reactors", include_str!("../../migrations/0005_reactors.sql")),
    (6, "mails", include_str!("../../migrations/0006_mails.sql")),
    (7, "api_key_uses", include_str!("../../migrations/0007_api_key_uses.sql")),
    (8, "retired_keys", include_str!("../../migrations/0008_retired_keys.sql")),
    (9, "ledger_keys", include_str!("../../migrations/0009_ledger_keys.sql")),
    (10, "mail_recipients", include_str!("../../migrations/0010_mail_recipients.sql")),
    (11, "workers", include_str!("../../migrations/0011_workers.sql")),
    (12, "job_logs", include_str!("../../migrations/0012_job_logs.sql")),
    (13, "artifacts", include_str!("../../migrations/0013_artifacts.sql")),
    (14, "ledger_identity", include_str!("../../migrations/0014_ledger_identity.sql")),
    (15, "restoring_and_copying", include_str!("../../migrations/0015_restoring_and_copying.sql")),
    (16, "failure_counts", include_str!("../../migrations/0016_failure_counts.sql")),
    (17, "effects", include_str!("../../migrations/0017_effects.sql")),
];

/// The functions that the migrations make, with what stands between their dollars: of several the last.
pub(crate) fn functions() -> BTreeMap<&'static str, &'static str> {
    let mut functions = BTreeMap::new();
    for (_, _, sql) in MIGRATIONS {
        for text in sql.split("function ").skip(1) {
            // Anything else that speaks of a function has no body before the next one.
            let Some((name, rest)) = text.split_once('(') else { continue };
            let Some((_, quoted)) = rest.split_once(" as $") else { continue };
            let Some((tag, body)) = quoted.split_once('$') else { continue };
            let Some((body, _)) = body.split_once(&format!("${tag}$")) else { continue };
            functions.insert(name.trim(), body);
        }
    }
    functions
}

pub(crate) fn migrator() -> Migrator {
    let migration = |(version, name, sql): &(i64, &'static str, &'static str)| {
        Migration::new(*version, Cow::Borrowed(name), MigrationType::Simple, Cow::Borrowed(sql), false)
    };
    Migrator { migrations: MIGRATIONS.iter().map(migration).collect(), ..Migrator::DEFAULT }
}

#[cfg(test)]
mod tests {
    use super::functions;

    #[test]
    fn the_functions_are_found_with_their_bodies() {
        let functions = functions();
        for name in ["append_events", "event_digest", "events_are_for_ever", "position_at"] {
            assert!(functions.contains_key(name), "{name}: {:?}", functions.keys());
        }
        assert!(functions["events_are_for_ever"].contains("is append-only"));
        assert!(functions.values().all(|body| !body.contains('$')));
    }
}
