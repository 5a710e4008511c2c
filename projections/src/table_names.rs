//! The tables' names. A table belongs to a view in one version: nodes of two versions have tables of their own, side by side.

use std::collections::HashMap;
use std::sync::{OnceLock, PoisonError, RwLock};

use crate::registry;

/// The name of the view's table in this version.
fn names() -> &'static HashMap<&'static str, String> {
    static NAMES: OnceLock<HashMap<&'static str, String>> = OnceLock::new();
    NAMES.get_or_init(|| registry::specs().into_iter().map(|spec| (spec.name, spec.table)).collect())
}

/// `sql` with the table's name in the place of each view's name in braces: `select row from {users}`.
#[must_use]
pub fn with_tables(sql: &str) -> String {
    names().iter().fold(sql.to_owned(), |sql, (view, table)| sql.replace(&format!("{{{view}}}"), table))
}

/// As [`with_tables`], worked out once for each statement of the program.
pub(crate) fn sql(statement: &'static str) -> &'static str {
    static KNOWN: OnceLock<RwLock<HashMap<&'static str, &'static str>>> = OnceLock::new();
    let known = KNOWN.get_or_init(RwLock::default);
    if let Some(found) = known.read().unwrap_or_else(PoisonError::into_inner).get(statement) {
        return found;
    }
    let mut known = known.write().unwrap_or_else(PoisonError::into_inner);
    // Leaked once for each statement that stands in the source.
    known.entry(statement).or_insert_with(|| with_tables(statement).leak())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_braces_are_tables_and_nothing_else_changes() {
        let statement = "select '{}' from {users} u join {jobs} on {nothing}";
        let replaced = sql(statement);
        assert!(replaced.starts_with("select '{}' from users_v"), "{replaced}");
        assert!(replaced.contains(" join jobs_v") && replaced.ends_with(" on {nothing}"), "{replaced}");
        assert_eq!(sql(statement).as_ptr(), replaced.as_ptr());
    }

    #[test]
    fn every_name_leaves_room_for_what_a_rebuild_adds() {
        // PostgreSQL cuts names after 63 bytes.
        assert!(names().values().all(|table| table.len() + "__rebuild_0123456789abcdef".len() <= 63));
    }
}
