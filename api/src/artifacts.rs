//! The place of artifacts, as it is configured.

use chrono::TimeDelta;
use commands::jobs::{ArtifactError, ArtifactPlace, ArtifactStore, Retention, S3Bucket};

use crate::app::App;
use crate::config::{Hidden, Settings};
use crate::node::Node;

/// Folder of artifacts below `DATA_DIR`, unless they are in a bucket.
const FOLDER: &str = "artifacts";

/// Opens the place of artifacts.
///
/// # Errors
/// The folder cannot be used, or what is said of the bucket does not go together.
pub(crate) fn artifacts(node: &Node) -> Result<ArtifactStore, ArtifactError> {
    ArtifactStore::open(&node.ledger, &place(&node.settings))
}

fn place(settings: &Settings) -> ArtifactPlace {
    let folder = || ArtifactPlace::Folder(settings.data_dir.join(FOLDER));
    // A URL that is wrong was refused when it was read.
    let bucket = settings.artifacts_url.as_deref().and_then(|url| S3Bucket::parse(url).ok());
    bucket.map_or_else(folder, |bucket| {
        let hidden = |value: &Option<Hidden>| value.as_ref().map(|value| value.expose().to_owned());
        let hosted = settings.aws_virtual_hosted_style_request.map(|hosted| hosted.to_string());
        let bucket = bucket
            .at(settings.artifacts_endpoint.clone())
            .with("AWS_REGION", settings.aws_region.as_deref())
            .with("AWS_ACCESS_KEY_ID", settings.aws_access_key_id.as_deref())
            .with("AWS_SECRET_ACCESS_KEY", hidden(&settings.aws_secret_access_key).as_deref())
            .with("AWS_SESSION_TOKEN", hidden(&settings.aws_session_token).as_deref())
            .with("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", hosted.as_deref());
        ArtifactPlace::S3(bucket)
    })
}

/// What removes logs and artifacts when their time is over; nothing if they are kept for ever.
pub(crate) fn retention(app: &App) -> Option<Retention> {
    let days = app.settings.job_retention_days;
    (days > 0).then(|| Retention {
        commands: app.commands.background(),
        artifacts: app.artifacts.over(&app.ledger.background()),
        keep: TimeDelta::days(days.into()),
    })
}
