//! When and from where an API key was last used: a row beside the log, since a fact that every request brings is no history.

use std::net::IpAddr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::{ApiKeyId, UserId};
use ledger::connect::Pool;
use moka::sync::Cache;

use crate::middleware::client_ip::ClientIp;

/// How long a use from the same address is not noted again.
const NOT_AGAIN_FOR: Duration = Duration::from_secs(30);
/// Keys remembered for that.
const REMEMBERED: u64 = 10_000;

/// A key's last use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyUse {
    /// When.
    pub at: DateTime<Utc>,
    /// From where.
    pub ip: Option<String>,
}

/// Notes the uses of keys.
#[derive(Clone)]
pub struct KeyUses {
    pool: Pool,
    noted: Cache<(ApiKeyId, IpAddr), ()>,
}

impl KeyUses {
    /// On this database.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        let noted = Cache::builder().max_capacity(REMEMBERED).time_to_live(NOT_AGAIN_FOR).build();
        Self { pool, noted }
    }

    /// Notes that a key was used, unless that was noted a moment ago. No request fails of it.
    pub(crate) async fn note(&self, key: ApiKeyId, user: UserId, ClientIp(ip): ClientIp) {
        if self.noted.contains_key(&(key, ip)) {
            return;
        }
        self.noted.insert((key, ip), ());
        let query = "insert into api_key_uses (key_id, user_id, used_at, ip) values ($1, $2, now(), $3)
             on conflict (key_id) do update set used_at = excluded.used_at, ip = excluded.ip";
        let query = sqlx::query(query).bind(key.0).bind(user.0).bind(ip.to_string());
        if let Err(error) = query.execute(&self.pool).await {
            tracing::warn!(%key, %error, "the use of an API key could not be noted");
        }
    }

    /// The last uses of a person's keys.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn of(&self, user: UserId) -> Result<Vec<(ApiKeyId, KeyUse)>, sqlx::Error> {
        let query = sqlx::query_as("select key_id, used_at, ip from api_key_uses where user_id = $1");
        let rows: Vec<(uuid::Uuid, DateTime<Utc>, Option<String>)> =
            query.bind(user.0).fetch_all(&self.pool).await?;
        Ok(rows.into_iter().map(|(key, at, ip)| (ApiKeyId(key), KeyUse { at, ip })).collect())
    }

    /// Forgets the use of a key that is worthless from now on: nobody is shown it any more.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn forget_key(&self, key: ApiKeyId) -> Result<(), sqlx::Error> {
        let query = sqlx::query("delete from api_key_uses where key_id = $1").bind(key.0);
        query.execute(&self.pool).await.map(drop)
    }

    /// Forgets the uses of somebody's keys, since addresses are personal data.
    ///
    /// # Errors
    /// The database is out of reach.
    pub async fn forget(&self, user: UserId) -> Result<(), sqlx::Error> {
        sqlx::query("delete from api_key_uses where user_id = $1")
            .bind(user.0)
            .execute(&self.pool)
            .await
            .map(drop)
    }
}
