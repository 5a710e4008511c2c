//! The document a job leaves behind in `DAYBOOK_RESULT`, or as the last line of its output that is one.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use domain::JsonText;
use ledger::is_text_deeper_than;
use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::json_line::LastLine;
use super::mask::Patterns;

/// The largest result that is kept, in bytes.
pub(super) const RESULT_BYTES: u64 = 1024 * 1024;
/// Levels of objects and arrays in a result that is kept: fewer than those that can be read back, whatever it is stored within.
pub(super) const RESULT_LEVELS: usize = 64;

/// Reads the result, if the job wrote one, with the values of its secrets masked. The error is a sentence for the job's log. Blocks.
pub(super) fn read(path: &Path, patterns: &Arc<Patterns>) -> Result<Option<JsonText>, String> {
    let file = match open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(|error| format!("the result could not be read: {error}"))?,
    };
    let metadata = file.metadata().map_err(|error| format!("the result could not be read: {error}"))?;
    if !metadata.is_file() {
        return Err("the result is not a regular file and was not kept".to_owned());
    }
    // It may hold a secret's value, which is masked only below. With room for all of it no copies are left behind.
    let room = usize::try_from(metadata.len().min(RESULT_BYTES) + 1).unwrap_or_default();
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(RESULT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("the result could not be read: {error}"))?;
    if bytes.len() as u64 > RESULT_BYTES {
        return Err("the result is larger than 1 MiB and was not kept".to_owned());
    }
    parse(&bytes, patterns).map(Some)
}

/// The result of a job that left none in `DAYBOOK_RESULT`. As [`read`].
pub(super) fn of_line(line: LastLine, patterns: &Arc<Patterns>) -> Result<Option<JsonText>, String> {
    match line {
        LastLine::None => Ok(None),
        LastLine::Document(text) => parse(&text, patterns).map(Some),
        LastLine::TooLong => {
            Err("the last JSON line is longer than 1 MiB and was not kept as the result".to_owned())
        }
    }
}

/// A document with every text in it masked, and any number that shows a value. NUL becomes U+FFFD, since PostgreSQL's JSON cannot hold it.
pub(super) fn parse(text: &[u8], patterns: &Arc<Patterns>) -> Result<JsonText, String> {
    let invalid = |error| format!("the result is not valid JSON and was not kept: {error}");
    let mut reader = serde_json::Deserializer::from_slice(text);
    let masked = JsonText::rewritten(&mut reader, |text| masked_text(text, patterns)).map_err(invalid)?;
    reader.end().map_err(invalid)?;
    not_too_deep(masked)
}

/// The error is a sentence for the job's log.
pub(super) fn not_too_deep(result: JsonText) -> Result<JsonText, String> {
    if is_text_deeper_than(RESULT_LEVELS, result.text()) {
        return Err(format!("the result has more than {RESULT_LEVELS} levels and was not kept"));
    }
    Ok(result)
}

/// Follows no link and waits for no pipe the job may have put there.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

fn masked_text(text: &str, patterns: &Arc<Patterns>) -> String {
    String::from_utf8_lossy(&patterns.mask(text.as_bytes())).replace('\0', "\u{FFFD}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::fs;
    use std::process::Command;

    use serde_json::json;

    use super::*;

    fn read_with(secrets: &[&str], write: impl FnOnce(&Path)) -> Result<Option<JsonText>, String> {
        read_with_bytes(&secrets.iter().map(|secret| secret.as_bytes()).collect::<Vec<_>>(), write)
    }

    fn read_with_bytes(secrets: &[&[u8]], write: impl FnOnce(&Path)) -> Result<Option<JsonText>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("result.json");
        write(&path);
        read(&path, &Arc::new(Patterns::new(secrets.iter().copied()).unwrap()))
    }

    fn read_text(secrets: &[&str], text: &str) -> Result<Option<JsonText>, String> {
        read_with(secrets, |path| fs::write(path, text).unwrap())
    }

    #[test]
    fn a_document_is_kept_and_masked() {
        assert_eq!(read_with(&[], |_| {}), Ok(None));
        assert_eq!(read_text(&[], r#" {"rows": 3} "#), Ok(Some(json!({"rows": 3}).into())));
        let text = r#"{"pa\"ss":["x pa\"ss y", 123456, null, true], "nul": "a\u0000b"}"#;
        let expected = json!({"***": ["x *** y", "***", null, true], "nul": "a\u{FFFD}b"});
        assert_eq!(read_text(&["pa\"ss", "123456"], text), Ok(Some(expected.into())));
    }

    #[test]
    fn a_value_that_is_no_text_is_masked_however_it_was_made_one() {
        let binary = b"\xffkey\x00\xe9\x80word";
        let latin1: String = binary.iter().copied().map(char::from).collect();
        let escaped: String = binary.iter().map(|byte| format!("\\u{byte:04x}")).collect();
        let replaced = String::from_utf8_lossy(binary).replace('\0', "\\u0000");
        let document = format!(
            r#"{{"escaped": "-{escaped}-", "latin1": "-{}-", "replaced": "-{replaced}-"}}"#,
            latin1.replace('\0', "\\u0000").replace('\u{80}', "\\u0080")
        );
        let read = read_with_bytes(&[binary], |path| fs::write(path, document).unwrap());
        assert_eq!(
            read,
            Ok(Some(json!({"escaped": "-***-", "latin1": "-***-", "replaced": "-***-"}).into()))
        );
        let text = "pässwörd";
        let escaped: String = text.bytes().map(|byte| format!("\\u{byte:04x}")).collect();
        assert_eq!(
            read_text(&[text], &format!(r#"["{text}", "{escaped}"]"#)),
            Ok(Some(json!(["***", "***"]).into()))
        );
        // Of which nothing is left to tell it by.
        let garbage = read_with_bytes(&[b"\xff\xfe\xfd\xfc\xfb"], |path| {
            fs::write(path, "[\"\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\"]").unwrap();
        });
        assert_eq!(garbage, Ok(Some(json!(["\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}"]).into())));
    }

    #[test]
    fn anything_else_is_refused_with_a_reason() {
        assert!(read_text(&[], "{").unwrap_err().starts_with("the result is not valid JSON"));
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(read_text(&[], &nested(RESULT_LEVELS)).unwrap().is_some());
        for levels in [RESULT_LEVELS + 1, 127] {
            assert!(read_text(&[], &nested(levels)).unwrap_err().contains("more than 64 levels"));
        }
        assert!(read_text(&[], "").unwrap_err().starts_with("the result is not valid JSON"));
        assert!(
            read_text(&[], &"[".repeat(100_000)).unwrap_err().starts_with("the result is not valid JSON")
        );
        let quoted = |length: usize| format!("\"{}\"", "x".repeat(length - 2));
        let limit = usize::try_from(RESULT_BYTES).unwrap();
        assert!(read_text(&[], &quoted(limit)).unwrap().is_some());
        assert!(read_text(&[], &quoted(limit + 1)).unwrap_err().contains("larger than 1 MiB"));
        assert!(
            read_with(&[], |path| fs::create_dir(path).unwrap()).unwrap_err().contains("not a regular file")
        );
        let link = |path: &Path| std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
        assert!(read_with(&[], link).unwrap_err().contains("could not be read"));
        let pipe = |path: &Path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
        assert!(read_with(&[], pipe).unwrap_err().contains("not a regular file"));
    }
}
