//! What a job leaves in `DAYBOOK_ARTIFACTS`, and handing it on before the folder is removed.

use std::path::PathBuf;

/// A file that was stored: its name as in [`Artifact`], its size in bytes, and the SHA-256 of its content in hexadecimal.
pub use domain::Artifact as KeptArtifact;
use futures::future::BoxFuture;

/// A file a job left, as long as its folder is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Its path below the folder.
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// Stores what jobs leave.
pub trait KeepArtifacts: Send + Sync {
    /// Stores the files, which are removed afterwards, and says which it has. What it could not store it leaves out.
    fn keep<'a>(&'a self, found: Vec<Artifact>) -> BoxFuture<'a, Vec<KeptArtifact>>;
}
