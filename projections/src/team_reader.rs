//! Reading views whose rows are teams'. There is no way to read one without saying on whose behalf.

use std::sync::Arc;

use domain::TeamId;
use ledger::Ledger;
use ledger::connect::Pooled;
use sqlx::postgres::PgArguments;
use sqlx::query::QueryAs;

use crate::Inner;
use crate::confined::{Confined, Whose};
use crate::error::ReadError;
use crate::history::{self, AsOf};
use crate::machine::{self, Listed, Machine, Reader};
use crate::view::{Owner, StreamView, TeamView, View};
use crate::views::audit::Audit;

/// A view whose rows are teams'.
pub struct ByTeam<'a, V: TeamView> {
    machine: &'a Machine<V>,
    inner: &'a Inner,
}

impl<'a, V: TeamView> ByTeam<'a, V> {
    pub(crate) fn new(machine: &'a Machine<V>, inner: &'a Inner) -> Self {
        const { assert!(!matches!(V::OWNER, Owner::Instance), "a view of teams' rows says whose they are") };
        Self { machine, inner }
    }

    /// For what is done on behalf of `team`: every request of a caller, and what a job of the team gets.
    #[must_use]
    pub fn of(self, team: TeamId) -> TeamReader<'a, V> {
        self.on_behalf(Whose::Team(team))
    }

    /// For what Daybook does by itself, such as looking for jobs to run: rows of all teams, by the background's pool, which
    /// nothing confines. Never for a request.
    #[must_use]
    pub fn across_teams(self) -> Reader<'a, V> {
        Reader::new(self.machine, self.inner, &self.inner.background)
    }

    fn on_behalf(self, whose: Whose) -> TeamReader<'a, V> {
        let Inner { ledger, confined, .. } = self.inner;
        TeamReader { machine: self.machine, inner: self.inner, ledger, confined, whose }
    }
}

impl<'a> ByTeam<'a, Audit> {
    /// For somebody who may audit the whole instance.
    #[must_use]
    pub fn of_instance(self) -> TeamReader<'a, Audit> {
        self.on_behalf(Whose::Instance)
    }
}

/// Reads one view on behalf of a team. Two walls stand around its rows: everything here asks for the team's rows only and looks
/// at whose a row is before it gives it away, cached or not; and the connections it uses see no others
/// ([`crate::Projections::confined`]).
pub struct TeamReader<'a, V: TeamView> {
    machine: &'a Machine<V>,
    inner: &'a Inner,
    pub(crate) ledger: &'a Ledger,
    confined: &'a Confined,
    pub(crate) whose: Whose,
}

impl<V: TeamView> TeamReader<'_, V> {
    /// The team's row `key`, from the cache if it is there.
    ///
    /// # Errors
    /// The database is out of reach, or the row is not what this version expects.
    pub async fn get(&self, key: impl ToString) -> Result<Option<Arc<V::Row>>, ReadError> {
        let key = key.to_string();
        self.machine.readable(self.inner).await?;
        if let Some(row) = self.machine.cached(&key) {
            return Ok(Some(row).filter(|row| self.whose.sees(V::team(row))));
        }
        // Before the connection is waited for: what happens meanwhile must not be lost on the row.
        let epoch = self.machine.begin_read();
        let mut connection = self.connection().await?;
        let row = self.machine.read(&key, epoch, &mut *connection).await?;
        Ok(row.filter(|row| self.whose.sees(V::team(row))))
    }

    /// The team's row `key` as this process has it, also while the view stands still: for callers that can tell whether it is the one
    /// they want.
    pub(crate) async fn held(&self, key: &str) -> Result<Option<Arc<V::Row>>, ReadError> {
        let row = match self.machine.cached(key) {
            Some(row) => Some(row),
            None => {
                // Before the connection is waited for: what happens meanwhile must not be lost on the row.
                let epoch = self.machine.begin_read();
                let mut connection = self.confined.acquire(self.whose).await?;
                self.machine.read(key, epoch, &mut *connection).await?
            }
        };
        Ok(row.filter(|row| self.whose.sees(V::team(row))))
    }

    /// A connection that sees the team's rows only, for what is no row.
    pub(crate) async fn connection(&self) -> Result<Pooled, ReadError> {
        self.machine.readable(self.inner).await?;
        let mut connection = self.confined.acquire(self.whose).await?;
        self.inner.check_connection(self.machine.place, &mut connection).await?;
        Ok(connection)
    }

    /// Runs a query that selects `key, row::text`, for a list that people read. It asks for the team's rows only.
    pub(crate) async fn listed(
        &self,
        query: QueryAs<'_, sqlx::Postgres, (String, String), PgArguments>,
    ) -> Result<Listed<V::Row>, ReadError> {
        let mut connection = self.connection().await?;
        machine::listed::<V>(query, &mut *connection).await
    }

    /// Runs a query that selects `key, row::text`. It asks for the team's rows only.
    pub(crate) async fn rows(
        &self,
        query: QueryAs<'_, sqlx::Postgres, (String, String), PgArguments>,
    ) -> Result<Vec<V::Row>, ReadError> {
        let mut connection = self.connection().await?;
        machine::rows::<V>(query, &mut *connection).await
    }
}

/// Rows of one stream each, by its id: as they are, and as they were.
pub trait ById<V: StreamView>: Sync {
    /// The row as this process has it, also while the view stands still: whether it is the one that is wanted is for the caller to see
    /// from its sequence.
    ///
    /// # Errors
    /// The database is out of reach, or the row is not what this version expects.
    fn held(&self, id: &str) -> impl Future<Output = Result<Option<Arc<V::Row>>, ReadError>> + Send;

    /// The row as of position `up_to` of the log (its end by default), folded from the log.
    ///
    /// # Errors
    /// The database is out of reach, or an event does not fit.
    fn as_of(
        &self,
        id: &str,
        up_to: Option<i64>,
    ) -> impl Future<Output = Result<Option<AsOf<V::Row>>, ReadError>> + Send;
}

impl<V: StreamView> ById<V> for Reader<'_, V> {
    async fn held(&self, id: &str) -> Result<Option<Arc<V::Row>>, ReadError> {
        Self::held(self, id).await
    }

    async fn as_of(&self, id: &str, up_to: Option<i64>) -> Result<Option<AsOf<V::Row>>, ReadError> {
        history::state_as_of::<V>(self.ledger, id, up_to).await
    }
}

impl<V: StreamView + TeamView> ById<V> for TeamReader<'_, V> {
    async fn held(&self, id: &str) -> Result<Option<Arc<V::Row>>, ReadError> {
        Self::held(self, id).await
    }

    async fn as_of(&self, id: &str, up_to: Option<i64>) -> Result<Option<AsOf<V::Row>>, ReadError> {
        let found = history::state_as_of::<V>(self.ledger, id, up_to).await?;
        Ok(found.filter(|found| self.whose.sees(V::team(&found.row))))
    }
}

/// A view without rows of teams is read as it is.
pub(crate) fn shared<'a, V: View>(machine: &'a Machine<V>, inner: &'a Inner) -> Reader<'a, V> {
    const { assert!(matches!(V::OWNER, Owner::Instance), "rows of teams are read through `ByTeam`") };
    Reader::new(machine, inner, &inner.ledger)
}
