//! The database role under which a team's requests are read, and which row-level security binds.
//!
//! It belongs to the server and not to a database, so that no migration can promise it: a dump that is restored on another
//! server has the migrations behind it and no role. Every start looks for it.

use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::Projections;
use crate::error::sqlstate;

/// The role's name; the same in every database, since what it may do is granted by table.
pub(crate) const ROLE: &str = "daybook_api";

/// What a database says when another process of the same server was faster, for this database or another.
const ALREADY_THERE: [&str; 2] = ["42710", "23505"];
const NOT_ALLOWED: &str = "42501";

/// The role cannot be used. Each but the first says in words and in SQL what an administrator has to do.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// The database did not answer as it should.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// It is not there, and this database user may not make it.
    #[error(
        "the database has no role {ROLE}, under which teams' rows are read, and the user {user} may not make it. \
         An administrator of the database has to run: create role {ROLE} nologin noinherit; grant {ROLE} to {user};"
    )]
    Missing {
        /// The database user, quoted for SQL.
        user: String,
    },
    /// This database user may neither assume it nor grant it.
    #[error(
        "the database user {user} may not assume the role {ROLE}, under which teams' rows are read. \
         An administrator of the database has to run: grant {ROLE} to {user};"
    )]
    NotGranted {
        /// The database user, quoted for SQL.
        user: String,
    },
    /// Row-level security would not bind it.
    #[error(
        "the role {ROLE} would see the rows of all teams: it is a superuser, is exempt from row-level security, or has the rights \
         of the user {user}. An administrator of the database has to run: \
         alter role {ROLE} nosuperuser nobypassrls noinherit; revoke {user} from {ROLE};"
    )]
    Unbound {
        /// The database user, quoted for SQL.
        user: String,
    },
}

impl Projections {
    /// Makes the role under which teams' requests are read, if it is missing, and makes sure that this program may assume it
    /// and that row-level security binds it. Changes nothing else. Several processes may do so at once, in several databases
    /// of one server. To be called before [`Projections::prepare`].
    ///
    /// # Errors
    /// See [`RoleError`].
    pub async fn make_role(&self) -> Result<(), RoleError> {
        let mut connection = self.inner.ledger.maintenance().await?;
        make(&mut connection).await
    }
}

impl Projections {
    /// As [`Projections::make_role`], but makes nothing: whether it would come to a good end.
    ///
    /// # Errors
    /// See [`RoleError`].
    pub async fn check_role(&self) -> Result<(), RoleError> {
        let mut connection = self.inner.ledger.pool().acquire().await?;
        check(&mut connection).await
    }
}

async fn check(connection: &mut PgConnection) -> Result<(), RoleError> {
    let there = format!(
        "select rolsuper or rolbypassrls or pg_has_role(oid, current_user, 'usage') from pg_roles where rolname = '{ROLE}'"
    );
    match sqlx::query_scalar::<_, bool>(&there).fetch_optional(&mut *connection).await? {
        Some(true) => Err(RoleError::Unbound { user: user(connection).await? }),
        Some(false) if may_assume(connection).await? || may_grant(connection).await? => Ok(()),
        Some(false) => Err(RoleError::NotGranted { user: user(connection).await? }),
        None => {
            let may_make = "select rolsuper or rolcreaterole from pg_roles where rolname = current_user";
            let may_make: Option<bool> =
                sqlx::query_scalar(may_make).fetch_optional(&mut *connection).await?;
            match may_make {
                Some(true) => Ok(()),
                Some(false) | None => Err(RoleError::Missing { user: user(connection).await? }),
            }
        }
    }
}

/// Whether the role can be granted to who does not have it yet. Before PostgreSQL 16 everybody can who makes roles.
async fn may_grant(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let sql = format!(
        "select pg_has_role(current_user, '{ROLE}', 'usage with admin option') \
         or (rolcreaterole and current_setting('server_version_num')::int < 160000) from pg_roles where rolname = current_user"
    );
    Ok(sqlx::query_scalar(&sql).fetch_optional(connection).await?.unwrap_or(false))
}

async fn make(connection: &mut PgConnection) -> Result<(), RoleError> {
    let there = format!("select exists (select from pg_roles where rolname = '{ROLE}')");
    if !sqlx::query_scalar(&there).fetch_one(&mut *connection).await? {
        create(connection).await?;
    }
    let unbound = format!(
        "select rolsuper or rolbypassrls or pg_has_role(oid, current_user, 'usage') from pg_roles where rolname = '{ROLE}'"
    );
    if sqlx::query_scalar(&unbound).fetch_one(&mut *connection).await? {
        return Err(RoleError::Unbound { user: user(connection).await? });
    }
    if may_assume(connection).await? {
        return Ok(());
    }
    let granted = connection.execute(format!("grant {ROLE} to session_user").as_str()).await;
    // Somebody else may have granted it at the same moment, in which case ours can fail.
    match (may_assume(connection).await?, granted) {
        (true, _) => Ok(()),
        (false, Err(error)) if !is(&error, &[NOT_ALLOWED]) => Err(error.into()),
        (false, _) => Err(RoleError::NotGranted { user: user(connection).await? }),
    }
}

async fn create(connection: &mut PgConnection) -> Result<(), RoleError> {
    match connection.execute(format!("create role {ROLE} nologin noinherit").as_str()).await {
        Ok(_) => Ok(()),
        Err(error) if is(&error, &ALREADY_THERE) => Ok(()),
        Err(error) if is(&error, &[NOT_ALLOWED]) => Err(RoleError::Missing { user: user(connection).await? }),
        Err(error) => Err(error.into()),
    }
}

/// Found by trying: what membership allows differs between versions of PostgreSQL.
async fn may_assume(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let assumed = transaction.execute(format!("set local role {ROLE}").as_str()).await;
    transaction.rollback().await?;
    match assumed {
        Ok(_) => Ok(true),
        Err(error) if is(&error, &[NOT_ALLOWED]) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whoever signed in to the database: the one whose memberships count.
async fn user(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    sqlx::query_scalar("select quote_ident(session_user)").fetch_one(connection).await
}

fn is(error: &sqlx::Error, codes: &[&str]) -> bool {
    sqlstate(error).is_some_and(|code| codes.contains(&code.as_str()))
}
