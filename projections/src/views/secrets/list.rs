//! The team's secrets, by name.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::QueryBuilder;

use super::{SecretRow, Secrets};
use crate::error::ReadError;
use crate::machine::{Listed, MOST_LISTED};
use crate::table_names::sql;
use crate::team_reader::TeamReader;
use crate::time;

/// Which secrets of a team are wanted; by default all that were not put away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretFilter {
    /// Name or description contain this, whatever the case of the letters a to z.
    pub q: Option<String>,
    /// They have this tag.
    pub tag: Option<String>,
    /// The name begins with this.
    pub prefix: Option<String>,
    /// They should be replaced at or before this moment.
    pub expiring_by: Option<DateTime<Utc>>,
    /// They were there before this moment, and nobody has read them since.
    pub unused_since: Option<DateTime<Utc>>,
    /// Those that were put away, instead of those that were not.
    pub deleted: bool,
}

impl TeamReader<'_, Secrets> {
    /// The team's secrets by name and id, after those two `after`: at most `limit` (and 1,000).
    ///
    /// # Errors
    /// The database is out of reach, or a row is not what this version expects.
    pub async fn list(
        &self,
        filter: &SecretFilter,
        after: Option<(&str, &str)>,
        limit: i64,
    ) -> Result<Listed<SecretRow>, ReadError> {
        let mut query = QueryBuilder::new(sql("select key, row::text from {secrets} where team_id = "));
        query.push_bind(self.whose.setting());
        // Not as an argument: the indexes are of one half each.
        query.push(if filter.deleted { " and deleted" } else { " and not deleted" });
        if let Some((name, key)) = after {
            query.push(" and (name, key) > (").push_bind(name).push(", ").push_bind(key).push(")");
        }
        if let Some(prefix) = &filter.prefix {
            query.push(" and name ^@ ").push_bind(prefix);
        }
        if let Some(tag) = &filter.tag {
            query.push(" and row->'tags' ? ").push_bind(tag);
        }
        if let Some(q) = &filter.q {
            query.push(" and position(").push_bind(q.to_ascii_lowercase());
            // Whatever the database's locale: the same letters on both sides.
            query.push(r#" in lower(((row->>'name') || chr(10) || (row->>'description')) collate "C")) > 0"#);
        }
        // Times are kept as texts of one form, which are in order as the times are.
        if let Some(by) = filter.expiring_by {
            query.push(r#" and (row->>'expires_at') collate "C" <= "#).push_bind(time::text(by));
        }
        if let Some(since) = filter.unused_since {
            query.push(r#" and (row->>'created_at') collate "C" < "#).push_bind(time::text(since));
            query.push(sql(r#" and not exists (select from {secret_reads} r where r.key = {secrets}.key
                    and r.team_id = {secrets}.team_id and (r.row->>'at') collate "C" >= "#));
            query.push_bind(time::text(since)).push(")");
        }
        query.push(" order by name, key limit ").push_bind(limit.min(MOST_LISTED));
        self.listed(query.build_query_as()).await
    }

    /// The team's secret of this name that is not deleted. Not cached.
    ///
    /// # Errors
    /// The database is out of reach, or the row is not what this version expects.
    pub async fn by_name(&self, name: &str) -> Result<Option<SecretRow>, ReadError> {
        let query = sqlx::query_as(sql(
            "select key, row::text from {secrets} where not deleted and team_id = $1 and name = $2 order by key limit 1",
        ));
        Ok(self.rows(query.bind(self.whose.setting()).bind(name)).await?.into_iter().next())
    }
    /// The names of those of these secrets that are the team's, by id. Not cached.
    ///
    /// # Errors
    /// The database is out of reach, or a row is not what this version expects.
    pub async fn names(&self, ids: &[&str]) -> Result<HashMap<String, String>, ReadError> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        // Without what is large: values and texts.
        let query = sqlx::query_as(sql(
            r#"select key, (row || '{"sealed": null, "description": "", "tags": [], "grants": []}')::text
               from {secrets} where team_id = $1 and key = any($2)"#,
        ));
        let rows = self.rows(query.bind(self.whose.setting()).bind(ids)).await?;
        Ok(rows.into_iter().map(|row| (row.id, row.name)).collect())
    }
}
