//! Finding the program a job names.

use std::path::{Path, PathBuf};

use rustix::fs::Access;

/// The file to run for `name`: itself below `folder` if it has a slash, else the first of that name in `path`. The error is a sentence for
/// whoever asked for the job.
pub(super) fn find(name: &str, folder: &Path, path: &str) -> Result<PathBuf, String> {
    if name.is_empty() {
        return Err("the command is empty".to_owned());
    }
    if name.contains('/') {
        return check(name, &folder.join(name));
    }
    let candidates =
        path.split(':').filter(|entry| entry.starts_with('/')).map(|entry| Path::new(entry).join(name));
    let mut refused = format!("the command `{name}` was not found in PATH ({path})");
    for candidate in candidates.filter(|candidate| candidate.is_file()) {
        match check(name, &candidate) {
            Ok(found) => return Ok(found),
            Err(reason) => refused = reason,
        }
    }
    Err(refused)
}

fn check(name: &str, file: &Path) -> Result<PathBuf, String> {
    if !file.exists() {
        return Err(format!("the command `{name}` does not exist"));
    }
    if !file.is_file() || rustix::fs::access(file, Access::EXEC_OK).is_err() {
        return Err(format!("the command `{name}` ({}) is not an executable file", file.display()));
    }
    Ok(file.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::find;

    #[test]
    fn programs_are_found_or_the_reason_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        for (parent, name, mode) in
            [(&first, "tool", 0o644), (&second, "tool", 0o755), (&first, "text", 0o644)]
        {
            fs::create_dir_all(parent).unwrap();
            fs::write(parent.join(name), "#!/bin/sh\n").unwrap();
            fs::set_permissions(parent.join(name), Permissions::from_mode(mode)).unwrap();
        }
        let path = format!("relative::{}:{}", first.display(), second.display());
        assert_eq!(
            find("tool", folder.path(), &path).unwrap(),
            second.join("tool"),
            "one that cannot run is passed over"
        );
        assert_eq!(find("./second/tool", folder.path(), "").unwrap(), folder.path().join("./second/tool"));
        assert!(
            find("absent", folder.path(), &path)
                .unwrap_err()
                .starts_with("the command `absent` was not found in PATH")
        );
        assert!(find("text", folder.path(), &path).unwrap_err().contains("is not an executable file"));
        assert!(find("./second", folder.path(), &path).unwrap_err().contains("is not an executable file"));
        assert_eq!(
            find("./absent", folder.path(), &path).unwrap_err(),
            "the command `./absent` does not exist"
        );
    }
}
