//! Masking the values of secrets in a stream of bytes.
//!
//! [`Patterns`] are made once per attempt from the values; a [`Masker`] per stream then replaces each occurrence by `***`, also
//! when it is split across writes. What is looked for, per value:
//!
//! - the value itself, and itself without surrounding white space;
//! - each of its lines of at least [`SHORTEST`] bytes, without surrounding white space (a key in PEM printed line by line);
//! - its base64, standard and URL-safe, with and without padding, at each of the three alignments it can have inside a longer
//!   text, and also when the base64 is wrapped into lines. Of an embedded value the characters that depend on its neighbours
//!   stay: they hold at most 6 bits of it at either end;
//! - a value that is no ASCII, as a text in which each of its bytes is a character (Latin-1), in UTF-8: what programs make of bytes
//!   that they take for text, such as in a JSON document;
//! - a value that is no UTF-8, as the text it becomes where what cannot be read is replaced by U+FFFD.
//!
//! Each of these is found however much of it is escaped:
//!
//! - for a URL: any of its bytes as `%2F` or `%2f`, a space also as `+`;
//! - for a JSON string: any of its characters as `\u002f` or `\u002F`, beyond U+FFFF as two of them, and `\"`, `\\`, `\/`, `\b`, `\f`, `\n`,
//!   `\r`, `\t`. Since `\n` is read as a line break, base64 may be wrapped with it too.
//!
//! A value shorter than [`SHORTEST`] is not looked for in base64: its core would be one to three characters, found by chance in
//! every second word.
//!
//! What is **not** recognised: hexadecimal, base32 and other alphabets of base64; HTML entities, quoted-printable, the escapes of shells, of YAML and
//! of programming languages beyond JSON's (`\x2f`, `\'`, `\u{2f}`); UTF-16; two encodings one in the other, such as JSON in JSON, apart from
//! escaped base64; compression, encryption, hashes; a value that was cut, reversed, spaced out, changed in case or in its Unicode normal form,
//! wrapped into lines other than its own, or that colours (ANSI) run through.
//!
//! Matches that overlap are replaced together by one `***`. The result does not depend on how the stream was cut into writes. Bytes
//! are held back only while they may still become a value, so a finished line is not delayed for nothing.

mod escapes;
mod masker;
mod search;

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use zeroize::{Zeroize as _, Zeroizing};

pub use self::masker::Masker;
use self::search::Search;

/// What stands in place of a value.
pub const MASK: &str = "***";

/// Bytes a value (or one of its lines) needs to be looked for beyond its plain, whole form.
pub const SHORTEST: usize = 4;

/// A secret's value. It has no `Debug` and no `Display`, so it cannot end up in a log by accident, and is overwritten when dropped.
#[derive(Clone)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Wraps a value.
    #[must_use]
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(value.into()))
    }

    /// The value, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<Zeroizing<Vec<u8>>> for SecretBytes {
    fn from(value: Zeroizing<Vec<u8>>) -> Self {
        Self(value)
    }
}

/// The values are too many or too large to look for (several hundred MiB).
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the secrets are too large to be masked in the output")]
pub struct TooLarge;

/// What to look for; shared by the streams of an attempt.
pub struct Patterns {
    /// For what values look like, then, if any is long enough, for what they look like in base64.
    searches: Vec<Search>,
    /// The bytes some pattern begins with, escaped or not.
    begins: [bool; 256],
}

impl Patterns {
    /// Prepares the search for these values. Empty values are ignored.
    ///
    /// # Errors
    /// [`TooLarge`] when the automaton would not fit.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, TooLarge> {
        let mut plain = Forms::default();
        let mut encoded = Forms::default();
        for value in values {
            add_plain(value, &mut plain);
            add_misread(value, &mut plain);
            for form in [value, value.trim_ascii()] {
                add_encoded(form, &mut encoded);
            }
        }
        let mut begins = [false; 256];
        for first in plain.0.iter().chain(&encoded.0).filter_map(|pattern| pattern.first()) {
            begins[usize::from(*first)] = true;
        }
        // What escapes begin with.
        b"%+\\".iter().for_each(|first| begins[usize::from(*first)] = true);
        let searches = [Search::new(&plain.0)?, Search::new(&encoded.0)?];
        Ok(Self { searches: searches.into_iter().flatten().collect(), begins })
    }

    /// The whole text masked at once.
    #[must_use]
    pub fn mask(self: &Arc<Self>, text: &[u8]) -> Vec<u8> {
        let mut masker = Masker::new(Arc::clone(self));
        let mut out = Vec::with_capacity(text.len());
        masker.push(text, &mut out);
        masker.finish(&mut out);
        out
    }
}

/// What values look like. Overwritten when it goes; the automaton that is made of it keeps its own copy as long as the attempt runs.
#[derive(Default)]
struct Forms(BTreeSet<Vec<u8>>);

impl Forms {
    fn add(&mut self, form: &[u8]) {
        if !self.0.contains(form) {
            self.0.insert(form.to_vec());
        }
    }
}

impl Drop for Forms {
    fn drop(&mut self) {
        while let Some(mut form) = self.0.pop_first() {
            form.zeroize();
        }
    }
}

fn add_plain(value: &[u8], into: &mut Forms) {
    let trimmed = value.trim_ascii();
    // A value of white space only has no trimmed form worth looking for.
    for form in [value, if trimmed.len() >= SHORTEST { trimmed } else { value }] {
        if !form.is_empty() {
            into.add(form);
        }
    }
    let lines = value.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    lines.filter(|line| line.len() >= SHORTEST).for_each(|line| into.add(line));
}

/// What programs make of a value that they take for another kind of text.
fn add_misread(value: &[u8], into: &mut Forms) {
    if value.is_ascii() {
        return;
    }
    // A byte is two at most. With room for all no copies are left behind.
    let mut latin1 = Zeroizing::new(String::with_capacity(2 * value.len()));
    latin1.extend(value.iter().copied().map(char::from));
    add_plain(latin1.as_bytes(), into);
    if std::str::from_utf8(value).is_err() {
        let mut replaced = Zeroizing::new(String::with_capacity(3 * value.len()));
        for chunk in value.utf8_chunks() {
            replaced.push_str(chunk.valid());
            replaced.extend((!chunk.invalid().is_empty()).then_some(char::REPLACEMENT_CHARACTER));
        }
        // With little else than replacement characters it would be found in any garbage.
        let left = replaced.chars().filter(|character| *character != char::REPLACEMENT_CHARACTER);
        if left.count() >= SHORTEST {
            add_plain(replaced.as_bytes(), into);
        }
    }
}

fn add_encoded(value: &[u8], into: &mut Forms) {
    if value.len() < SHORTEST {
        return;
    }
    // Bytes that stand before the value in its group of three, and the characters they have a part in.
    for (before, skip) in [(0, 0), (1, 2), (2, 3)] {
        let mut bytes = Zeroizing::new(Vec::with_capacity(before + value.len()));
        bytes.resize(before, 0);
        bytes.extend_from_slice(value);
        let complete = bytes.len() * 8 / 6;
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            let text = Zeroizing::new(engine.encode(&*bytes).into_bytes());
            let padding = (4 - text.len() % 4) % 4;
            let padded = Zeroizing::new([&text[skip..], &b"=="[..padding]].concat());
            [&text[skip..complete], &text[skip..], &padded].into_iter().for_each(|form| into.add(form));
        }
    }
}

#[cfg(test)]
mod tests;
