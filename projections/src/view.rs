//! What a view is: a pure fold, and the table its rows are kept in.

use std::fmt::Debug;

use domain::TeamId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::fact::{Fact, Unreadable};

/// What stands in place of bytes that nobody is shown.
pub const SEALED: &str = "sealed";

/// A view: rows made from events by a pure fold (D5). Everything else is done by the machine around it.
pub trait View: Send + Sync + 'static {
    /// The view's name, as in `/api/projections`. Its table is named for it, its version and its shape.
    const NAME: &'static str;
    /// Raised when the fold changes in a way that rows already made do not show. The new version has a table of its own, which it
    /// fills before it serves; nodes of the version before go on with theirs.
    const VERSION: u32;
    /// The aggregate types whose events it needs. It never sees others, and does not fail of others it could not read.
    const AGGREGATES: &'static [&'static str];
    /// Whether each row is made by one event and never touched again: a rebuild then need not keep rows in memory.
    const ONCE: bool = false;
    /// Whether single rows are read often enough to be cached.
    const CACHED: bool = true;
    /// Whether it needs personal data: what is [`domain::Personal`] in events, IP addresses, user agents. Without this a rebuild
    /// leaves them sealed, which is most of its work.
    const PERSONAL: bool = false;
    /// Whether it may trail the others by some milliseconds. It is then followed apart, in larger strides, so that what people
    /// wait for before they get an answer is not kept waiting for it.
    const TRAILING: bool = false;
    /// Whether it goes on past events that are damaged, with a row for each: [`View::unreadable`]. It stops before those that another
    /// version, or a node with another key, may be able to read: one event leads to one row, whoever folds it.
    const LISTS_DAMAGED: bool = false;
    /// Fields of the row that are never shown: they appear as `sealed`.
    const HIDDEN: &'static [&'static str] = &[];
    /// Whose its rows are. Where they are teams', the view is a [`TeamView`] and its table has a column `team_id`.
    const OWNER: Owner = Owner::Instance;

    /// A row. Times in it have milliseconds ([`crate::time`]).
    type Row: Serialize + DeserializeOwned + Clone + PartialEq + Debug + Send + Sync + 'static;

    /// The table's generated columns, in SQL; empty when there are none.
    #[must_use]
    fn columns() -> &'static str;

    /// What the table's indexes are on, in SQL: what comes after `create index on <table>`.
    #[must_use]
    fn indexes() -> &'static [&'static str];

    /// The keys of the rows that `fact` touches.
    #[must_use]
    fn keys(fact: &Fact) -> Vec<String>;

    /// The row `key` after `fact`; `None` when there is none (any more). Pure: no clock, no randomness, no effects.
    #[must_use]
    fn fold(key: &str, row: Option<Self::Row>, fact: &Fact) -> Option<Self::Row>;

    /// The row for an event that is damaged, and its key. A view that has none stops just before such an event; one that lists
    /// events ([`View::LISTS_DAMAGED`]) goes on.
    #[must_use]
    fn unreadable(event: &Unreadable) -> Option<(String, Self::Row)> {
        let _ = event;
        None
    }

    /// The row as an auditor may see it.
    #[must_use]
    fn public(row: &Self::Row) -> Value {
        let mut value = serde_json::to_value(row).unwrap_or_default();
        if let Value::Object(fields) = &mut value {
            for (name, field) in fields {
                *field = shown(Self::HIDDEN, name, std::mem::take(field));
            }
        }
        value
    }
}

/// Whose the rows of a view are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// No team's.
    Instance,
    /// Each a team's, which alone sees it.
    Team,
    /// Each a team's or none's. A team sees its own; who audits the whole instance sees all.
    TeamAndInstance,
}

impl Owner {
    /// The rows that a connection sees, in SQL; `None` where that is not a question of teams. Where the setting was never made
    /// it is null or empty, and no row is seen.
    pub(crate) fn visible(self) -> Option<&'static str> {
        match self {
            Self::Instance => None,
            Self::Team => Some("team_id = current_setting('daybook.team', true)"),
            Self::TeamAndInstance => Some(
                "team_id = current_setting('daybook.team', true) or current_setting('daybook.team', true) = '*'",
            ),
        }
    }
}

/// A view whose rows are teams'. They are read through [`crate::ByTeam`].
pub trait TeamView: View {
    /// Whose the row is.
    fn team(row: &Self::Row) -> Option<TeamId>;
}

/// A view whose rows are each a pure function of one stream: row `id` of the stream `STREAM/id`. Only these have a state as of a
/// moment.
pub trait StreamView: View {
    /// The stream's aggregate type.
    const STREAM: &'static str;
}

/// `value` unless it is there and its field is among the `hidden`.
pub(crate) fn shown<T: From<Value> + PartialEq<Value>>(hidden: &[&str], field: &str, value: T) -> T {
    if hidden.contains(&field) && value != Value::Null { Value::from(SEALED).into() } else { value }
}

/// What the machine must know of a view, without its type.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    /// The table of this version.
    pub(crate) table: String,
    pub(crate) aggregates: &'static [&'static str],
    pub(crate) columns: &'static str,
    pub(crate) indexes: &'static [&'static str],
    pub(crate) cached: bool,
    pub(crate) once: bool,
    pub(crate) personal: bool,
    pub(crate) trailing: bool,
    pub(crate) lists_damaged: bool,
    pub(crate) hidden: &'static [&'static str],
    pub(crate) owner: Owner,
    /// Names this shape of table and fold.
    pub(crate) shape: String,
}

impl Spec {
    pub(crate) fn of<V: View>() -> Self {
        let version = V::VERSION.to_string();
        let mut parts = vec![V::NAME, V::columns(), &version];
        parts.extend(V::indexes());
        // Who sees what of a table is part of it.
        parts.extend(V::OWNER.visible());
        let shape = format!("{:016x}", fnv(&parts.join("\u{1f}")));
        Self {
            name: V::NAME,
            table: format!("{}_v{version}_{}", V::NAME, &shape[..8]),
            aggregates: V::AGGREGATES,
            columns: V::columns(),
            indexes: V::indexes(),
            cached: V::CACHED,
            once: V::ONCE,
            personal: V::PERSONAL,
            trailing: V::TRAILING,
            lists_damaged: V::LISTS_DAMAGED,
            hidden: V::HIDDEN,
            owner: V::OWNER,
            shape,
        }
    }

    pub(crate) fn needs(&self, aggregate_type: &str) -> bool {
        self.aggregates.contains(&aggregate_type)
    }
}

/// FNV-1a, 64 bits: the same in every version of this program and of Rust.
pub(crate) fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::{jobs::Jobs, secrets::Secrets, users::Users};

    /// As it was before there were owners.
    fn shape_without_owner<V: View>() -> String {
        let version = V::VERSION.to_string();
        let mut parts = vec![V::NAME, V::columns(), &version];
        parts.extend(V::indexes());
        format!("{:016x}", fnv(&parts.join("\u{1f}")))
    }

    #[test]
    fn tables_from_before_rows_had_owners_are_made_anew_and_others_stay() {
        assert_ne!(Spec::of::<Secrets>().shape, shape_without_owner::<Secrets>());
        assert_ne!(Spec::of::<Jobs>().shape, shape_without_owner::<Jobs>());
        assert_eq!(Spec::of::<Users>().shape, shape_without_owner::<Users>());
    }
}
