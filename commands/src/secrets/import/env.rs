//! `.env` files.
//!
//! A line is `NAME=value`, with `export` before it or not, and with blanks around the `=` or not. Lines that are empty or begin with `#` say
//! nothing.
//!
//! | value | what it means |
//! |---|---|
//! | without quotes | what stands there, without blanks at both ends and without a comment (`#` after a blank) |
//! | `'single'` | what stands there, line breaks included |
//! | `"double"` | likewise, with `\n`, `\r`, `\t`, `\\`, `\"`, `\'`, `\$` and `` \` `` for what they stand for; another `\` is itself |
//!
//! Nothing is interpolated: `$NAME` is five characters of the value. A line break in quotes is `\n`, however the file ends its lines.

use zeroize::Zeroizing;

use super::{Entries, Entry, Place};

const BLANKS: [char; 2] = [' ', '\t'];

/// Reads a file without its byte-order mark.
pub(super) fn entries(text: &str) -> Entries {
    let mut found = Entries::default();
    let mut rest = text;
    let mut number = 1;
    while !rest.is_empty() {
        let taken = match entry(rest, number) {
            Line::Nothing => line_length(rest),
            Line::Secret(entry, length) => {
                found.entries.push(entry);
                length
            }
            Line::Wrong(message, length) => {
                found.problem(Place::line(number), message);
                length
            }
        };
        number += rest[..taken].matches('\n').count() as u64;
        rest = &rest[taken..];
    }
    found
}

/// What stands at the beginning of a text, and how many bytes of it that takes.
enum Line {
    /// An empty line, or a comment.
    Nothing,
    Secret(Entry, usize),
    Wrong(&'static str, usize),
}

/// Bytes of the first line, with its end.
fn line_length(text: &str) -> usize {
    text.find('\n').map_or(text.len(), |end| end + 1)
}

fn entry(text: &str, number: u64) -> Line {
    let length = line_length(text);
    let line = text[..length].trim_end_matches(['\r', '\n']);
    if line.trim().is_empty() || line.trim_start().starts_with('#') {
        return Line::Nothing;
    }
    let Some((name, value)) = line.split_once('=') else {
        return Line::Wrong("has no '='", length);
    };
    let name = without_export(name.trim_matches(BLANKS));
    if name.is_empty() {
        return Line::Wrong("has no name before the '='", length);
    }
    let begin = line.len() - value.trim_start_matches(BLANKS).len();
    let (value, length) = match line[begin..].chars().next() {
        Some(quote @ ('\'' | '"')) => match quoted(&text[begin + 1..], quote) {
            (Ok(value), taken) => (value, begin + 1 + taken),
            (Err(wrong), taken) => return Line::Wrong(wrong, begin + 1 + taken),
        },
        Some('`') => return Line::Wrong("quotes are ' and \", not `", length),
        _ => (Zeroizing::new(unquoted(value).as_bytes().to_vec()), length),
    };
    Line::Secret(Entry::plain(Place::line(number), name.to_owned(), value), length)
}

fn without_export(name: &str) -> &str {
    match name.strip_prefix("export") {
        Some(rest) if rest.starts_with(BLANKS) => rest.trim_start_matches(BLANKS),
        _ => name,
    }
}

/// Everything after the `=` but the comment.
fn unquoted(value: &str) -> &str {
    let comment = value.match_indices('#').find(|(at, _)| value[..*at].ends_with(BLANKS));
    comment.map_or(value, |(at, _)| &value[..at]).trim_matches(BLANKS)
}

/// A value, or what is wrong with it; and the bytes up to the line's end behind it.
type Quoted = (Result<Zeroizing<Vec<u8>>, &'static str>, usize);

/// A value up to the quote that closes it.
fn quoted(text: &str, quote: char) -> Quoted {
    let Some(close) = closing(text, quote) else {
        return (Err("the quote that begins here is not closed"), text.len());
    };
    let after = &text[close + 1..];
    let length = close + 1 + line_length(after);
    let tail = after[..line_length(after)].trim_end_matches(['\r', '\n']);
    let is_comment = tail.starts_with(BLANKS) && tail.trim().starts_with('#');
    if !is_comment && !tail.trim_matches(BLANKS).is_empty() {
        return (Err("something stands behind the closing quote"), length);
    }
    (Ok(unescaped(&text[..close], quote == '"')), length)
}

fn closing(text: &str, quote: char) -> Option<usize> {
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        if character == quote {
            return Some(at);
        }
        if character == '\\' && quote == '"' {
            characters.next();
        }
    }
    None
}

fn unescaped(text: &str, escapes: bool) -> Zeroizing<Vec<u8>> {
    // Large enough from the beginning: a buffer that grows leaves copies behind.
    let mut value = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match (byte, bytes.peek()) {
            (b'\r', Some(b'\n')) => {}
            (b'\\', Some(next)) if escapes && meaning(*next).is_some() => {
                value.extend(bytes.next().and_then(meaning));
            }
            _ => value.push(byte),
        }
    }
    value
}

fn meaning(escaped: u8) -> Option<u8> {
    match escaped {
        b'n' => Some(b'\n'),
        b'r' => Some(b'\r'),
        b't' => Some(b'\t'),
        b'\\' | b'"' | b'\'' | b'$' | b'`' => Some(escaped),
        _ => None,
    }
}
