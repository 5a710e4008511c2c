//! libpq's password file.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Rights of the group and of others: libpq does not use a file that has any.
const FOREIGN_RIGHTS: u32 = 0o077;

/// The lines of a password file.
///
/// # Errors
/// In words, without what is in it.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("{} cannot be read: {}", path.display(), error.kind());
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(format!("{} is not a plain file", path.display()));
    }
    if metadata.permissions().mode() & FOREIGN_RIGHTS != 0 {
        return Err(format!("{} can be read by others: its mode has to be 0600 or less", path.display()));
    }
    fs::read_to_string(path).map_err(failed)
}

/// The password of the first line that fits.
pub(super) fn password(lines: &str, host: &str, port: u16, database: &str, user: &str) -> Option<String> {
    let port = port.to_string();
    let wanted = [host, &port, database, user];
    lines.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let (fields, password) = split(line)?;
        let fits = fields.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted);
        (fits && !password.is_empty()).then_some(password)
    })
}

/// Four fields and the password; a backslash takes the next character as it is.
fn split(line: &str) -> Option<(Vec<String>, String)> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            ':' if fields.len() < 5 => fields.push(String::new()),
            // Further fields are not part of the password.
            ':' => break,
            '\\' => fields.last_mut()?.extend(characters.next()),
            other => fields.last_mut()?.push(other),
        }
    }
    let password = fields.pop()?;
    (fields.len() == 4).then_some((fields, password))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_counts() {
        let lines = "# host:1:db:user:no\n\nhost:1:db:user:one\nhost:*:db:user:two\n*:*:*:o\\:d\\\\d:th\\:ree\nshort:1\n";
        let find = |host, port, database, user| password(lines, host, port, database, user);
        assert_eq!(find("host", 1, "db", "user").as_deref(), Some("one"));
        assert_eq!(find("host", 2, "db", "user").as_deref(), Some("two"));
        assert_eq!(find("any", 3, "d", "o:d\\d").as_deref(), Some("th:ree"));
        assert_eq!(find("any", 3, "d", "user"), None);
    }
}
