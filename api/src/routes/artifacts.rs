//! Files that jobs have left.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use commands::jobs::{ArtifactError, OpenArtifact};
use domain::{Artifact, JobId};
use projections::JobRow;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::jobs::find;
use crate::answer::entity_tag;
use crate::app::App;
use crate::authenticate::Can;
use crate::authenticate::needs::JobsRead;
use crate::extract::{Json, Path};
use crate::list::Page;
use crate::problem::{Problem, ProblemBody};

/// A file that a job has left.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "name": "reports/march.csv", "size": 1024,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "expired": false
}))]
pub struct ArtifactBody {
    /// Its path below the folder in which the job left it.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the bytes, in hex.
    pub sha256: String,
    /// Whether it was removed because its time was over.
    pub expired: bool,
}

/// What the job's row tells of, and whether it is still kept.
pub(super) async fn artifacts_of(app: &App, row: &JobRow) -> Result<Vec<ArtifactBody>, Problem> {
    if row.artifacts.is_empty() {
        return Ok(vec![]);
    }
    let id = row.id.parse().map_err(Problem::internal)?;
    let kept = app.artifacts.kept(row.team_id, id).await.map_err(refusal)?;
    let bodies = row.artifacts.iter().map(|artifact| ArtifactBody {
        name: artifact.name.clone(),
        size: artifact.size,
        sha256: artifact.sha256.clone(),
        expired: !kept.contains(artifact),
    });
    Ok(bodies.collect())
}

/// The files that the job's last attempt has left, of those that came to their own end.
#[utoipa::path(
    get, path = "/jobs/{id}/artifacts", tag = "jobs", operation_id = "list_artifacts", params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "All of them", body = Page<ArtifactBody>),
        (status = 404, description = "No such job in this team", body = ProblemBody),
    ),
)]
pub async fn list(
    State(app): State<App>,
    caller: Can<JobsRead>,
    Path(id): Path<Uuid>,
) -> Result<Json<Page<ArtifactBody>>, Problem> {
    let row = find(&app, &caller, JobId(id)).await?;
    Ok(Json(Page { items: artifacts_of(&app, &row).await?, next: None }))
}

/// One of these files, as the job left it. `ETag` is its SHA-256. A download that ends before `Content-Length` bytes have come was cut off
/// because the file is not what it was.
#[utoipa::path(
    get, path = "/jobs/{id}/artifacts/{*name}", tag = "jobs", operation_id = "download_artifact",
    params(("id" = Uuid, Path), ("name" = String, Path, description = "Its name, with its slashes")),
    responses(
        (status = 200, description = "The bytes", content_type = "application/octet-stream"),
        (status = 304, description = "It is the one that If-None-Match names"),
        (status = 404, description = "No such job in this team, or no such file", body = ProblemBody),
        (status = 410, description = "It was removed because its time was over", body = ProblemBody),
    ),
)]
pub async fn download(
    State(app): State<App>,
    caller: Can<JobsRead>,
    Path((id, name)): Path<(Uuid, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let row = find(&app, &caller, JobId(id)).await?;
    // Names lead nowhere but to what the job's event tells of.
    let artifact = row.artifacts.iter().find(|artifact| artifact.name == name);
    let missing = || Problem::not_found().with_code("artifact_not_found");
    let artifact = artifact.ok_or_else(missing)?;
    let tag = HeaderValue::from_str(&format!("\"{}\"", artifact.sha256)).map_err(Problem::internal)?;
    let open = app.artifacts.read(row.team_id, JobId(id), artifact).await.map_err(refusal)?;
    if entity_tag::is_none_of(&headers, &artifact.sha256) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    Ok((file_headers(artifact, tag)?, content(open)).into_response())
}

fn content(open: OpenArtifact) -> Body {
    Body::from_stream(open.content)
}

/// Nothing of it is shown by a browser, whatever the job says that it is.
fn file_headers(artifact: &Artifact, tag: HeaderValue) -> Result<HeaderMap, Problem> {
    let disposition = HeaderValue::from_str(&disposition(&artifact.name)).map_err(Problem::internal)?;
    Ok(HeaderMap::from_iter([
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CONTENT_LENGTH, HeaderValue::from(artifact.size)),
        (header::CONTENT_DISPOSITION, disposition),
        (header::ETAG, tag),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        // It is the team's own, and goes as it is: not compressed, so that its length is known.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ]))
}

/// `Content-Disposition` (RFC 6266 section 4.3): the name's last part, without what could mean something there.
fn disposition(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let ascii: String = last.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    let extended: String = last.bytes().map(extended).collect();
    format!("attachment; filename=\"{ascii}\"; filename*=UTF-8''{extended}")
}

/// RFC 8187 section 3.2.1.
fn extended(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

fn refusal(error: ArtifactError) -> Problem {
    match error {
        ArtifactError::Expired => {
            Problem::gone("The file was removed because its time was over.").with_code("artifact_expired")
        }
        ArtifactError::Elsewhere(place) => {
            tracing::warn!(place, "an artifact was asked for that is kept elsewhere");
            let detail = "The file is kept in a place that this node does not use.";
            Problem::not_found().with_detail(detail).with_code("artifact_elsewhere")
        }
        ArtifactError::Lost => {
            tracing::error!("an artifact is not where it was kept, or is another");
            Problem::not_found()
                .with_detail("The file is not where it was kept any more.")
                .with_code("artifact_lost")
        }
        ArtifactError::Ledger(error) => error.into(),
        error @ (ArtifactError::Place(_) | ArtifactError::Tls(_) | ArtifactError::File(_)) => {
            Problem::unavailable(error, std::time::Duration::from_secs(5))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_nothing_in_a_header() {
        assert_eq!(
            disposition("a/b/report 1.csv"),
            "attachment; filename=\"report_1.csv\"; filename*=UTF-8''report%201.csv"
        );
        let hostile = disposition("x\"\r\nset-cookie: a=b; ä\\%22");
        assert_eq!(
            hostile,
            "attachment; filename=\"x___set-cookie__a_b_____22\"; \
             filename*=UTF-8''x%22%0D%0Aset-cookie%3A%20a%3Db%3B%20%C3%A4%5C%2522"
        );
        assert!(HeaderValue::from_str(&hostile).is_ok());
    }
}
