//! Settings of single commands that the environment gives, beside the configuration: `NAME`, or a file named by `NAME_FILE`.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use zeroize::Zeroizing;

use super::Failure;

/// Bytes a file with one setting may have.
const LARGEST_SETTING: usize = 64 * 1024;

/// What `NAME` says, or the file that `NAME_FILE` names; empty counts as not set.
pub(super) fn secret_setting(name: &str) -> Result<Option<Zeroizing<String>>, Failure> {
    let file_name = format!("{name}_FILE");
    let present = |name: &str| std::env::var_os(name).filter(|text| !text.is_empty());
    match (present(name), present(&file_name)) {
        (None, None) => Ok(None),
        (Some(text), None) => match text.into_string() {
            Ok(text) => Ok(Some(Zeroizing::new(text))),
            Err(_) => Err(Failure::Usage(format!("{name} is not text"))),
        },
        (None, Some(path)) => text_of(Path::new(&path)).map(Some),
        (Some(_), Some(_)) => Err(Failure::Usage(format!("set {name} or {file_name}, not both"))),
    }
}

/// A text setting of which nothing need be hidden.
pub(super) fn setting(given: Option<&str>, name: &str) -> Option<String> {
    let present = std::env::var(name).ok().filter(|text| !text.is_empty());
    given.map(str::to_owned).or(present)
}

/// The text of a small file, without white space around it.
pub(super) fn text_of(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let bytes = read(path, LARGEST_SETTING)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) if bytes.len() <= LARGEST_SETTING => Ok(Zeroizing::new(text.trim().to_owned())),
        _ => Err(Failure::Usage(format!("{}: is not the text that was expected", path.display()))),
    }
}

/// The beginning of a file: one byte more than `most` where it has that. The buffer is of that size from the beginning, since one that
/// grows leaves copies behind.
pub(super) fn read(path: &Path, most: usize) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let unreadable = |error: std::io::Error| Failure::Usage(format!("{}: {error}", path.display()));
    let mut bytes = Zeroizing::new(Vec::with_capacity(most + 1));
    let file = File::open(path).map_err(unreadable)?;
    file.take(most as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}
