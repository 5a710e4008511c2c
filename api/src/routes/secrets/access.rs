//! Who read which secret: of one secret, and of one person.

use axum::extract::{OriginalUri, State};
use chrono::{DateTime, Utc};
use domain::{JobId, Permission, SecretId, UserId};
use projections::{SecretAccessFilter, SecretAccessRow};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::find;
use crate::app::App;
use crate::authenticate::needs::AuditRead;
use crate::authenticate::{Can, Identity};
use crate::extract::{Json, Path, Query};
use crate::list::{Page, Picked, limit, pick};
use crate::problem::{Problem, ProblemBody};
use crate::routes::audit;
use projections::time::text as time;

/// A value that left.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "position": 4711, "at": "2026-11-21T08:00:00.000Z", "secret_id": "0198c5a0-7f3e-7d60-b1c5-3b7f0a5d9e13", "version": 3,
    "actor": "user:0198c5a0-3f6e-7c41-9a2b-5d8e1f0a7b3c", "user_id": "0198c5a0-3f6e-7c41-9a2b-5d8e1f0a7b3c",
    "reason": "incident 7", "grant_id": null, "job_id": null, "attempt": null, "request_id": "r-1", "ip": "203.0.113.7",
    "user_agent": "curl/8"
}))]
pub struct AccessBody {
    /// The record's place in the log.
    pub position: i64,
    /// When.
    pub at: String,
    /// Which secret.
    pub secret_id: String,
    /// Which version of it.
    pub version: u32,
    /// Who: `user:<id>`, `key:<id>` or `job:<id>`.
    pub actor: String,
    /// The person who asked, or whose API key did.
    pub user_id: Option<String>,
    /// Why, if that was said.
    pub reason: Option<String>,
    /// The leave by which it was read, where the role was not enough.
    pub grant_id: Option<String>,
    /// The job whose process got it.
    pub job_id: Option<String>,
    /// Which attempt of it.
    pub attempt: Option<u32>,
    /// The request.
    pub request_id: Option<String>,
    /// From where; shown to those who may audit.
    pub ip: Option<String>,
    /// With what; shown to those who may audit.
    pub user_agent: Option<String>,
}

impl AccessBody {
    fn of(row: SecretAccessRow, audits: bool) -> Self {
        Self {
            position: row.position,
            at: time(row.at),
            secret_id: row.secret_id.to_string(),
            version: row.version,
            actor: row.actor,
            user_id: row.user_id.map(|id| id.to_string()),
            reason: row.reason,
            grant_id: row.grant_id.map(|id| id.to_string()),
            job_id: row.job_id.map(|id| id.to_string()),
            attempt: row.attempt,
            request_id: row.request_id,
            ip: row.ip.filter(|_| audits),
            user_agent: row.user_agent.filter(|_| audits),
        }
    }
}

/// Which part of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct AccessQuery {
    /// Items of a page, 1 to 200 (50).
    limit: Option<u32>,
    /// A position: records before it.
    cursor: Option<String>,
    /// Picks fields: `fields=at,actor`.
    fields: Option<String>,
    /// Recorded at or after this moment.
    #[serde(default, deserialize_with = "crate::input::moment")]
    from: Option<DateTime<Utc>>,
    /// Recorded before this moment.
    #[serde(default, deserialize_with = "crate::input::moment")]
    to: Option<DateTime<Utc>>,
}

/// Who read a secret, newest first, of a deleted or destroyed one too: for those who may see its metadata or audit the team.
#[utoipa::path(
    get, path = "/secrets/{id}/access", tag = "secrets", params(("id" = Uuid, Path), AccessQuery),
    responses(
        (status = 200, description = "A page", body = Page<AccessBody>),
        (status = 404, description = "No such secret in this team", body = ProblemBody),
    ),
)]
pub async fn of_secret(
    State(app): State<App>,
    caller: Identity,
    OriginalUri(uri): OriginalUri,
    Path(id): Path<Uuid>,
    Query(query): Query<AccessQuery>,
) -> Result<Json<Page<Picked>>, Problem> {
    if !caller.has(Permission::AuditRead) {
        caller.require(Permission::SecretsRead).await?;
    }
    find(&app, &caller, SecretId(id)).await?;
    let filter = SecretAccessFilter {
        secret_id: Some(SecretId(id)),
        from: query.from,
        to: query.to,
        ..SecretAccessFilter::default()
    };
    let part = Part { limit: query.limit, cursor: query.cursor, fields: query.fields };
    part.of(&app, &caller, &uri, filter).await
}

/// Whose readings.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ReadingsQuery {
    /// Items of a page, 1 to 200 (50).
    limit: Option<u32>,
    /// A position: records before it.
    cursor: Option<String>,
    /// Picks fields: `fields=at,secret_id`.
    fields: Option<String>,
    /// Of this person and of their API keys.
    user_id: Option<Uuid>,
    /// Of this secret.
    secret_id: Option<Uuid>,
    /// Of this job.
    job_id: Option<Uuid>,
    /// Recorded at or after this moment.
    #[serde(default, deserialize_with = "crate::input::moment")]
    from: Option<DateTime<Utc>>,
    /// Recorded before this moment.
    #[serde(default, deserialize_with = "crate::input::moment")]
    to: Option<DateTime<Utc>>,
}

/// Which of the team's secrets somebody has read, newest first.
#[utoipa::path(
    get, path = "/audit/secret-access", tag = "audit", params(ReadingsQuery),
    responses((status = 200, description = "A page", body = Page<AccessBody>)),
)]
pub async fn of_person(
    State(app): State<App>,
    caller: Can<AuditRead>,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<ReadingsQuery>,
) -> Result<Json<Page<Picked>>, Problem> {
    let filter = SecretAccessFilter {
        secret_id: query.secret_id.map(SecretId),
        user_id: query.user_id.map(UserId),
        job_id: query.job_id.map(JobId),
        from: query.from,
        to: query.to,
    };
    let part = Part { limit: query.limit, cursor: query.cursor, fields: query.fields };
    part.of(&app, &caller, &uri, filter).await
}

/// Which part of a list of records.
struct Part {
    limit: Option<u32>,
    cursor: Option<String>,
    fields: Option<String>,
}

impl Part {
    async fn of(
        self,
        app: &App,
        caller: &Identity,
        uri: &axum::http::Uri,
        filter: SecretAccessFilter,
    ) -> Result<Json<Page<Picked>>, Problem> {
        let limit = limit(self.limit)?;
        let before = audit::before(self.cursor.as_deref())?;
        // As with the audit trail: the answer shows everything before this very reading of it.
        let reading = audit::record(app, caller, uri).await?;
        projections::demand(reading, false);
        let before = Some(before.map_or(reading, |before| before.min(reading)));
        let access = app.projections.secret_access().of(caller.team()?);
        let mut rows = access.list(&filter, before, limit as i64 + 1).await?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|row| row.position.to_string());
        let audits = caller.has(Permission::AuditRead);
        let items = rows.into_iter().map(|row| AccessBody::of(row, audits)).collect();
        Ok(Json(pick(Page { items, next }, self.fields.as_deref())?))
    }
}
