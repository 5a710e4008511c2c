//! Files that jobs leave to be kept: in a folder of this machine, or in a bucket that speaks S3.
//!
//! An object's key is `<team>/<job>/<attempt>/<name>` below the place's prefix. Names are the jobs' own and not to be trusted: in a key they
//! are encoded, and a file is only ever looked for under a name that the log has.

mod keeping;
mod names;
mod reading;
mod rows;
mod s3;

use std::fmt::{Debug, Formatter};
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use domain::{Artifact, JobId, TeamId};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use ledger::connect::Pool;
use ledger::{Ledger, LedgerError, Sha256};
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use uuid::Uuid;

pub use keeping::KeepAttempt;
pub use s3::S3Bucket;

/// Bytes of a part of a file under way to its place. S3 takes 5 MiB at least, and 10,000 parts at most.
const PART: usize = 5 * 1024 * 1024;
/// Parts of a file under way at a time.
const PARTS: usize = 2;
/// Bytes read at a time.
const PIECE: usize = 64 * 1024;
/// Names a folder, for whoever finds its name in the database.
const FOLDER_ID: &str = ".place";

/// Where artifacts are kept.
#[derive(Clone, Debug)]
pub enum ArtifactPlace {
    /// A folder of this machine. It is made if it is not there.
    Folder(PathBuf),
    /// A bucket.
    S3(S3Bucket),
}

/// Why an artifact cannot be kept or had.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// Its time was over, and it was removed.
    #[error("it was removed when its time was over")]
    Expired,
    /// It is in the folder or bucket of another node, or of another configuration.
    #[error("it is kept in another place: {0}")]
    Elsewhere(String),
    /// It should be there and is not, or is not what it was.
    #[error("the place where it was kept has it no more, or has another")]
    Lost,
    /// The place cannot be used.
    #[error("the place of artifacts cannot be used: {0}")]
    Place(#[from] object_store::Error),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// A file cannot be read, or the folder cannot be made.
    #[error("{0}")]
    File(#[from] std::io::Error),
    /// The database is out of reach.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl From<sqlx::Error> for ArtifactError {
    fn from(error: sqlx::Error) -> Self {
        Self::Ledger(error.into())
    }
}

impl From<object_store::path::Error> for ArtifactError {
    fn from(error: object_store::path::Error) -> Self {
        Self::Place(error.into())
    }
}

/// An artifact that was found, to be read.
pub struct OpenArtifact {
    /// Bytes in all.
    pub size: u64,
    /// The bytes, as they come. The last of them only come if all are what was kept.
    pub content: BoxStream<'static, Result<Bytes, ArtifactError>>,
}

/// The place of artifacts, and the rows that say which are in it. Cheap to clone.
#[derive(Clone)]
pub struct ArtifactStore {
    pool: Pool,
    objects: Arc<dyn ObjectStore>,
    /// Comes before every key; with a slash at its end unless it is empty.
    prefix: Arc<str>,
    /// What the rows call it.
    place: Arc<str>,
}

impl Debug for ArtifactStore {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ArtifactStore").field("place", &self.place).finish_non_exhaustive()
    }
}

impl ArtifactStore {
    /// Opens the place. A bucket is not asked for anything yet.
    ///
    /// # Errors
    /// The folder cannot be made or read, or what is said of the bucket does not go together.
    pub fn open(ledger: &Ledger, place: &ArtifactPlace) -> Result<Self, ArtifactError> {
        let (objects, prefix, place): (Arc<dyn ObjectStore>, String, String) = match place {
            ArtifactPlace::Folder(folder) => {
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
                let objects = LocalFileSystem::new_with_prefix(folder)?;
                let objects = objects.with_automatic_cleanup(true).with_fsync(true);
                (Arc::new(objects), String::new(), format!("folder {}", folder_id(folder)?))
            }
            ArtifactPlace::S3(bucket) => {
                let prefix = bucket.prefix();
                (bucket.open()?, prefix, bucket.to_string())
            }
        };
        Ok(Self { pool: ledger.pool().clone(), objects, prefix: prefix.into(), place: place.into() })
    }

    /// The same store, with this ledger's connections.
    #[must_use]
    pub fn over(&self, ledger: &Ledger) -> Self {
        Self { pool: ledger.pool().clone(), ..self.clone() }
    }

    /// Where an attempt's objects are: what comes before their names.
    fn folder_of(&self, team: TeamId, job: JobId, attempt: u32) -> String {
        format!("{}{team}/{job}/{attempt}", self.prefix)
    }

    fn key(&self, team: TeamId, job: JobId, attempt: u32, name: &str) -> Result<Path, ArtifactError> {
        Ok(Path::parse(format!("{}/{}", self.folder_of(team, job, attempt), names::encoded(name)))?)
    }

    /// Stores a file, piece by piece. It is there wholly or not at all.
    async fn put(&self, key: Path, path: &FilePath, size: u64) -> Result<(u64, String), ArtifactError> {
        let mut file = opened(path).await?.take(size);
        let objects = Arc::clone(&self.objects);
        let mut writer = BufWriter::with_capacity(objects, key, PART).with_max_concurrency(PARTS);
        let copied = copy(&mut file, &mut writer).await;
        if copied.is_err()
            && let Err(error) = writer.abort().await
        {
            tracing::debug!(%error, "parts of an artifact are left in its place");
        }
        let copied = copied?;
        writer.shutdown().await?;
        Ok(copied)
    }

    /// The content of an artifact that the team's job has left.
    ///
    /// # Errors
    /// It is gone ([`ArtifactError::Expired`]) or not here, or what is needed is out of reach.
    pub async fn read(
        &self,
        team: TeamId,
        job: JobId,
        artifact: &Artifact,
    ) -> Result<OpenArtifact, ArtifactError> {
        let row = self.row_with(team, job, artifact).await?.ok_or(ArtifactError::Expired)?;
        if row.place != *self.place {
            return Err(ArtifactError::Elsewhere(row.place));
        }
        let key = self.key(team, job, row.attempt, &artifact.name)?;
        match self.objects.get(&key).await {
            Ok(found) if found.meta.size == artifact.size => {
                let content = reading::checked(found.into_stream(), artifact.sha256.clone());
                Ok(OpenArtifact { size: artifact.size, content: content.boxed() })
            }
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Err(ArtifactError::Lost),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes whatever an attempt has left, told of or not; how many files that were.
    async fn remove(&self, team: TeamId, job: JobId, attempt: u32) -> Result<u64, ArtifactError> {
        let folder = Path::parse(self.folder_of(team, job, attempt))?;
        let found = self.objects.list(Some(&folder)).map_ok(|object| object.location).boxed();
        let mut removed = 0;
        let mut removing = self.objects.delete_stream(found);
        loop {
            match removing.next().await {
                None => return Ok(removed),
                Some(Ok(_)) => removed += 1,
                // Another node was faster.
                Some(Err(object_store::Error::NotFound { .. })) => {}
                Some(Err(error)) => return Err(error.into()),
            }
        }
    }
}

/// A file that a job has left, not what it might have put in its place since: no link is followed, and no pipe waited for.
async fn opened(path: &FilePath) -> std::io::Result<tokio::fs::File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(std::io::Error::other)?;
    let file = tokio::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).await?;
    if file.metadata().await?.is_file() {
        Ok(file)
    } else {
        Err(std::io::Error::other("it is no regular file any more"))
    }
}

/// Bytes and SHA-256 of what was copied.
async fn copy(
    file: &mut (impl tokio::io::AsyncRead + Unpin),
    writer: &mut BufWriter,
) -> Result<(u64, String), std::io::Error> {
    let (mut bytes, mut digest) = (0, Sha256::default());
    let mut piece = vec![0; PIECE];
    loop {
        let length = file.read(&mut piece).await?;
        let read = piece.get(..length).unwrap_or_default();
        if read.is_empty() {
            return Ok((bytes, digest.finish()));
        }
        digest.update(read);
        writer.write_all(read).await?;
        bytes += length as u64;
    }
}

/// The folder's own name for itself: what is kept in one folder is not looked for in another, wherever it is mounted.
fn folder_id(folder: &FilePath) -> std::io::Result<String> {
    let file = folder.join(FOLDER_ID);
    let mut made = tempfile::NamedTempFile::new_in(folder)?;
    made.write_all(Uuid::now_v7().to_string().as_bytes())?;
    made.as_file().sync_all()?;
    // Of several processes one makes it; it never appears without its content.
    if let Err(error) = made.persist_noclobber(&file)
        && error.error.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(error.error);
    }
    Ok(std::fs::read_to_string(&file)?.trim().to_owned())
}
