//! The repository's own invariants: what ARCHITECTURE.md and style promise, checked.
//!
//! Every test gathers all it finds before it fails, so that one run tells everything.

mod crates;
mod documents;
mod kinds;
mod sources;
mod spdx;
mod supply;
mod text;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use toml::Table;

/// The crates of the workspace; those that make up the product come first.
const PRODUCT: [&str; 5] = ["domain", "ledger", "commands", "projections", "api"];

/// A file of the repository.
pub(super) struct SourceFile {
    /// From the root, with slashes.
    pub(super) path: String,
    pub(super) text: String,
}

impl SourceFile {
    /// The crate or top folder it is in.
    pub(super) fn top(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }
}

pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the root").to_owned()
}

pub(super) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub(super) fn read_toml(path: &str) -> Table {
    read(path).parse().unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file with this ending below `folder`, in order; hidden folders and `target` are not looked into.
pub(super) fn files(folder: &str, ending: &str) -> Vec<SourceFile> {
    let mut found = vec![];
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().unwrap().is_dir() {
                if !name.starts_with('.') && name != "target" {
                    folders.push(entry.path());
                }
            } else if name.ends_with(ending) {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found.into_iter().map(source_file).collect()
}

fn source_file(file: PathBuf) -> SourceFile {
    let path = file.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
    SourceFile { text: read(&path), path }
}

/// What cargo prints. Never reaches for the network.
pub(super) fn cargo(arguments: &[&str]) -> String {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    let output =
        command.args(arguments).args(["--offline", "--locked"]).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Fails with all findings, one a line.
#[track_caller]
pub(super) fn assert_none(what: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{what}:\n  {}", findings.join("\n  "));
}
