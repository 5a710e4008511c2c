//! The tables are as the migrations make them.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::{Findings, Kind, shown};
use crate::error::LedgerError;
use crate::migrations;
use crate::wrapping::table_exists;

pub(super) async fn migrations_as_listed(
    on: &mut PgConnection,
    findings: &mut Findings,
) -> Result<(), LedgerError> {
    let mut applied: BTreeMap<i64, (bool, Vec<u8>)> = BTreeMap::new();
    if table_exists(&mut *on, "_sqlx_migrations").await? {
        let sql = "select version, success, checksum from _sqlx_migrations";
        for (version, success, checksum) in
            sqlx::query_as::<_, (i64, bool, Vec<u8>)>(sql).fetch_all(on).await?
        {
            applied.insert(version, (success, checksum));
        }
    }
    for migration in migrations::migrator().iter() {
        let named = format!("migration {} ({})", migration.version, migration.description);
        match applied.remove(&migration.version) {
            None => findings.add(
                Kind::Migration,
                format!("{named} is missing: daybook migrate, or the next start, applies it"),
            ),
            Some((false, _)) => findings.add(Kind::Migration, format!("{named} did not come to its end")),
            Some((true, checksum)) if checksum != *migration.checksum => {
                findings.add(
                    Kind::Migration,
                    format!("{named} was applied in another form than this version has it"),
                );
            }
            Some(_) => {}
        }
    }
    for version in applied.keys() {
        findings.add(
            Kind::Migration,
            format!("migration {version} is of another, probably newer, version of Daybook"),
        );
    }
    Ok(())
}

/// The one trigger: before update, delete and truncate, for each statement (bits of `pg_trigger.tgtype`).
const TRIGGER: &str = "events_are_for_ever";
const TRIGGER_TYPE: i16 = 2 | 8 | 16 | 32;

/// Constraints of the event table, as `pg_get_constraintdef` writes them.
const CONSTRAINTS: &[&str] = &[
    "PRIMARY KEY (aggregate_type, aggregate_id, sequence)",
    "UNIQUE (\"position\")",
    "CHECK ((\"position\" >= 1))",
    "CHECK ((sequence >= 1))",
];

/// Columns of the event table. None may be null.
const COLUMNS: &[(&str, &str)] = &[
    ("position", "bigint"),
    ("recorded_at", "timestamp with time zone"),
    ("aggregate_type", "text"),
    ("aggregate_id", "text"),
    ("sequence", "bigint"),
    ("event_type", "text"),
    ("event_version", "text"),
    ("payload", "json"),
    ("metadata", "json"),
];

pub(super) async fn table_as_made(on: &mut PgConnection, findings: &mut Findings) -> Result<(), LedgerError> {
    triggers(&mut *on, findings).await?;
    constraints(&mut *on, findings).await?;
    columns(&mut *on, findings).await?;
    functions(&mut *on, findings).await?;
    let sql = "select relpersistence <> 'p', relkind <> 'r', \
               exists (select from pg_inherits where inhparent = c.oid), relrowsecurity, \
               exists (select from pg_rewrite where ev_class = c.oid) \
               from pg_class c where oid = 'events'::regclass";
    let (unlogged, kind, children, policies, rules): (bool, bool, bool, bool, bool) =
        sqlx::query_as(sql).fetch_one(on).await?;
    for (wrong, what) in [
        (unlogged, "the table events is unlogged: a crash of the server empties it"),
        (kind, "events is not a plain table"),
        (children, "the table events has tables that inherit from it"),
        (policies, "the table events has row-level security, which hides events"),
        (rules, "the table events has rules, which change what statements do"),
    ] {
        if wrong {
            findings.add(Kind::Table, what);
        }
    }
    Ok(())
}

async fn triggers(on: &mut PgConnection, findings: &mut Findings) -> Result<(), LedgerError> {
    let sql = "select t.tgname::text, t.tgenabled::text, \
                   t.tgtype = $1 and t.tgqual is null and t.tgattr = ''::int2vector and p.proname = $2 \
                       and p.pronamespace = (select relnamespace from pg_class where oid = t.tgrelid) as as_made \
               from pg_trigger t join pg_proc p on p.oid = t.tgfoid \
               where t.tgrelid = 'events'::regclass and not t.tgisinternal order by t.tgname";
    let query = sqlx::query_as(sql).bind(TRIGGER_TYPE).bind(TRIGGER);
    let triggers: Vec<(String, String, bool)> = query.fetch_all(on).await?;
    if !triggers.iter().any(|(name, ..)| name == TRIGGER) {
        findings
            .add(Kind::Table, format!("the trigger {TRIGGER} is missing: events can be changed and deleted"));
    }
    for (name, enabled, as_made) in triggers {
        let name = shown(&name);
        if name != TRIGGER {
            findings
                .add(Kind::Table, format!("the table events has a trigger {name} that no migration makes"));
            continue;
        }
        // Enabled for ordinary sessions, or for all.
        if !["O", "A"].contains(&enabled.as_str()) {
            findings.add(
                Kind::Table,
                format!("the trigger {name} is disabled: events can be changed and deleted"),
            );
        }
        if !as_made {
            findings.add(Kind::Table, format!("the trigger {name} is not as the migrations make it"));
        }
    }
    Ok(())
}

async fn constraints(on: &mut PgConnection, findings: &mut Findings) -> Result<(), LedgerError> {
    let sql = "select pg_get_constraintdef(c.oid), c.convalidated and coalesce(i.indisvalid and i.indisready and i.indislive, true) \
               from pg_constraint c left join pg_index i on i.indexrelid = c.conindid and c.contype in ('p', 'u') \
               where c.conrelid = 'events'::regclass";
    let found: Vec<(String, bool)> = sqlx::query_as(sql).fetch_all(on).await?;
    for constraint in CONSTRAINTS {
        // One that is not valid says so at its end.
        match found.iter().find(|(definition, _)| definition.trim_end_matches(" NOT VALID") == *constraint) {
            Some((_, true)) => {}
            Some((_, false)) => {
                findings.add(
                    Kind::Table,
                    format!("the constraint {constraint} of the table events is not valid"),
                );
            }
            None => findings.add(Kind::Table, format!("the table events lacks the constraint {constraint}")),
        }
    }
    Ok(())
}

async fn columns(on: &mut PgConnection, findings: &mut Findings) -> Result<(), LedgerError> {
    let sql = "select attname::text, format_type(atttypid, atttypmod), attnotnull from pg_attribute \
               where attrelid = 'events'::regclass and attnum > 0 and not attisdropped";
    let found: Vec<(String, String, bool)> = sqlx::query_as(sql).fetch_all(on).await?;
    for (column, of_type) in COLUMNS {
        match found.iter().find(|(name, ..)| name == column) {
            Some((_, found, true)) if found == of_type => {}
            Some((_, found, true)) => {
                findings.add(
                    Kind::Table,
                    format!("the column {column} of the table events is {found}, not {of_type}"),
                );
            }
            Some(_) => {
                findings.add(Kind::Table, format!("the column {column} of the table events may be null"))
            }
            None => findings.add(Kind::Table, format!("the table events lacks the column {column}")),
        }
    }
    Ok(())
}

/// The functions of the schema say what the migrations say.
async fn functions(on: &mut PgConnection, findings: &mut Findings) -> Result<(), LedgerError> {
    let made = migrations::functions();
    let names: Vec<&str> = made.keys().copied().collect();
    let sql = "select proname::text, prosrc from pg_proc where proname = any($1) \
               and pronamespace = (select relnamespace from pg_class where oid = 'events'::regclass)";
    let found: Vec<(String, String)> = sqlx::query_as(sql).bind(names).fetch_all(on).await?;
    for (name, body) in made {
        let of_it: Vec<_> = found.iter().filter(|(found, _)| found == name).collect();
        match of_it.as_slice() {
            [] => findings.add(Kind::Table, format!("the function {name} is missing")),
            [(_, found)] if found == body => {}
            [_] => findings.add(Kind::Table, format!("the function {name} is not as the migrations make it")),
            _ => findings.add(Kind::Table, format!("there is more than one function {name}")),
        }
    }
    Ok(())
}
