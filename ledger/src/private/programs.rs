//! Finding the machine's PostgreSQL server programs.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::PrivateError;

/// The oldest major version that will do for a new cluster.
const OLDEST: u32 = 15;

/// Folders that hold one folder per installed version: the parent, the prefix of the version's folder, and where below it the programs are.
const VERSIONED: [(&str, &str, &str); 4] = [
    ("/usr/lib/postgresql", "", "bin"),         // Debian
    ("/opt/homebrew/opt", "postgresql", "bin"), // Homebrew on Apple silicon
    ("/usr/local/opt", "postgresql", "bin"),    // Homebrew on Intel
    ("/usr", "pgsql-", "bin"),                  // PostgreSQL's own packages for Fedora and its relatives
];
/// Fedora's own package.
const PLAIN: &str = "/usr/bin";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Programs {
    pub(super) bin: PathBuf,
    pub(super) major: u32,
}

/// The folder of the server programs for a new cluster: the one on `PATH` if it is of version 15 or newer, else the newest in
/// the places where Debian, Homebrew and Fedora put them. Symlinks are resolved, since `initdb` finds its templates beside itself.
///
/// # Errors
/// [`PrivateError::ProgramsMissing`], which says how to install them.
pub fn find_programs() -> Result<PathBuf, PrivateError> {
    find_newest().map(|programs| programs.bin)
}

pub(super) fn find_newest() -> Result<Programs, PrivateError> {
    let path = env::var_os("PATH").unwrap_or_default();
    if let Some(programs) = on_path(&path).into_iter().find(|p| p.major >= OLDEST) {
        return Ok(programs);
    }
    newest(installed()).map_err(|found| missing(&found))
}

/// The programs of the major version that made the cluster.
pub(super) fn find_version(cluster: &Path, major: u32) -> Result<Programs, PrivateError> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut all = on_path(&path);
    if let Some(programs) = of_version(&all, major) {
        return Ok(programs);
    }
    all.extend(installed());
    if all.is_empty() {
        return Err(missing(&all));
    }
    of_version(&all, major).ok_or_else(|| PrivateError::OtherVersion {
        cluster: cluster.to_owned(),
        wanted: major,
        found: majors(&all),
    })
}

fn of_version(all: &[Programs], major: u32) -> Option<Programs> {
    all.iter().find(|p| p.major == major).cloned()
}

fn newest(all: Vec<Programs>) -> Result<Programs, Vec<Programs>> {
    match all.iter().max_by_key(|p| p.major) {
        Some(best) if best.major >= OLDEST => Ok(best.clone()),
        _ => Err(all),
    }
}

fn missing(found: &[Programs]) -> PrivateError {
    let places = VERSIONED.iter().map(|(parent, prefix, rest)| format!("{parent}/{prefix}*/{rest}"));
    let looked_in =
        ["PATH".to_owned()].into_iter().chain(places).chain([PLAIN.to_owned()]).collect::<Vec<_>>();
    let found = if found.is_empty() { String::new() } else { format!(" (found: {})", majors(found)) };
    PrivateError::ProgramsMissing { oldest: OLDEST, looked_in: looked_in.join(", "), found }
}

fn majors(all: &[Programs]) -> String {
    let mut majors: Vec<u32> = all.iter().map(|p| p.major).collect();
    majors.sort_unstable();
    majors.dedup();
    majors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn on_path(path: &OsStr) -> Vec<Programs> {
    env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .filter_map(|folder| look_in(&folder))
        .collect()
}

fn installed() -> Vec<Programs> {
    let versioned =
        VERSIONED.iter().flat_map(|(parent, prefix, rest)| below(Path::new(parent), prefix, rest));
    versioned.chain([PathBuf::from(PLAIN)]).filter_map(|folder| look_in(&folder)).collect()
}

fn below(parent: &Path, prefix: &str, rest: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    named.map(|entry| entry.path().join(rest)).collect()
}

/// The programs in a folder, or in the folder to which its symlinks point.
fn look_in(folder: &Path) -> Option<Programs> {
    let postgres = folder.join("postgres");
    if !postgres.is_file() || !folder.join("initdb").is_file() {
        return None;
    }
    let real = fs::canonicalize(&postgres).ok()?;
    let bin = real.parent().filter(|bin| bin.join("initdb").is_file()).unwrap_or(folder).to_owned();
    let major = version(&bin.join("postgres"))?;
    Some(Programs { bin, major })
}

/// Asks the program: `postgres (PostgreSQL) 15.13 (Debian ...)`.
fn version(postgres: &Path) -> Option<u32> {
    let output = Command::new(postgres).arg("--version").env_clear().output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

fn parse_version(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("(PostgreSQL) ")?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn install(folder: &Path, version: &str) {
        fs::create_dir_all(folder).unwrap();
        for name in ["postgres", "initdb"] {
            let program = folder.join(name);
            fs::write(&program, format!("#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    #[test]
    fn versions_are_read_in_all_their_spellings() {
        assert_eq!(parse_version("postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_version("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(parse_version("something else 15\n"), None);
    }

    #[test]
    fn symlinks_on_the_path_lead_to_the_real_folder() {
        let folder = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(folder.path()).unwrap().join("real");
        let links = folder.path().join("links");
        install(&real, "16.2");
        fs::create_dir(&links).unwrap();
        for name in ["postgres", "initdb"] {
            symlink(real.join(name), links.join(name)).unwrap();
        }
        let path = env::join_paths([folder.path().join("absent"), links]).unwrap();
        assert_eq!(on_path(&path), [Programs { bin: real, major: 16 }]);
    }

    #[test]
    fn a_folder_without_initdb_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        install(folder.path(), "16.2");
        fs::remove_file(folder.path().join("initdb")).unwrap();
        assert_eq!(look_in(folder.path()), None);
    }

    #[test]
    fn the_newest_is_chosen_by_number_and_old_ones_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for version in ["9.6", "16.1", "14.2"] {
            install(&folder.path().join(version).join("bin"), version);
        }
        let all: Vec<Programs> = below(folder.path(), "", "bin").iter().filter_map(|f| look_in(f)).collect();
        assert_eq!(newest(all.clone()).unwrap().major, 16);
        assert_eq!(of_version(&all, 14).unwrap().major, 14);
        let old: Vec<Programs> = all.into_iter().filter(|p| p.major < OLDEST).collect();
        let text = missing(&newest(old).unwrap_err()).to_string();
        assert!(text.contains("found: 9, 14") && text.contains("make postgres"), "{text}");
    }
}
