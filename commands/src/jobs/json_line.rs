//! The last line of a job's output that is a JSON document, its result if it wrote no other.

use serde::de::IgnoredAny;
use zeroize::Zeroizing;

use super::result::RESULT_BYTES;

/// The longest line that is taken, without its line end.
const LONGEST: usize = RESULT_BYTES as usize;

/// Looks through an output as the job writes it. Remembers two lines at most: the last document, and the line that comes.
#[derive(Default)]
pub(super) struct JsonLine {
    /// The last document. It may hold a secret's value, which is masked only when it is read.
    last: Option<Zeroizing<Vec<u8>>>,
    /// A line that begins like an object or an array, so far.
    line: Zeroizing<Vec<u8>>,
    state: State,
    /// The last document was too long to be remembered.
    too_long: bool,
}

/// What is known of the line that comes.
#[derive(Default, Clone, Copy)]
enum State {
    /// Nothing but white space so far.
    #[default]
    Blank,
    /// It begins like a document.
    Document,
    /// The same, but it is too long; the byte is its last one that is no white space.
    TooLong(u8),
    /// It is none.
    Other,
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LastLine {
    /// No line was a document.
    None,
    /// The text of the last one.
    Document(Zeroizing<Vec<u8>>),
    /// The last one is longer than a result may be.
    TooLong,
}

impl JsonLine {
    /// Takes the next bytes of the output.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.take(piece);
            if piece.ends_with(b"\n") {
                self.complete();
            }
        }
    }

    /// The output has ended.
    pub(super) fn finish(&mut self) -> LastLine {
        self.complete();
        match self.last.take() {
            _ if self.too_long => LastLine::TooLong,
            Some(document) => LastLine::Document(document),
            None => LastLine::None,
        }
    }

    fn take(&mut self, piece: &[u8]) {
        let piece = match self.state {
            State::Other => return,
            State::Blank => piece.trim_ascii_start(),
            State::Document | State::TooLong(_) => piece,
        };
        if let (State::Blank, Some(first)) = (self.state, piece.first()) {
            self.state = if matches!(first, b'{' | b'[') { State::Document } else { State::Other };
        }
        match self.state {
            State::Document if self.line.len() + piece.len() > LONGEST + 1 => {
                self.state = State::TooLong(last_of(piece).or(last_of(&self.line)).unwrap_or_default());
                self.line = Zeroizing::default();
            }
            State::Document => append(&mut self.line, piece),
            State::TooLong(last) => self.state = State::TooLong(last_of(piece).unwrap_or(last)),
            State::Blank | State::Other => {}
        }
    }

    fn complete(&mut self) {
        let line = self.line.trim_ascii_end();
        match std::mem::take(&mut self.state) {
            State::Document if line.len() > LONGEST => self.forget(last_of(line)),
            State::Document if serde_json::from_slice::<IgnoredAny>(line).is_ok() => {
                self.last = Some(std::mem::take(&mut self.line));
                self.too_long = false;
            }
            State::TooLong(last) => self.forget(Some(last)),
            State::Document | State::Blank | State::Other => {}
        }
        self.line.clear();
    }

    /// What was found before does not count if a document came after it, though it is too long to be looked at.
    fn forget(&mut self, last: Option<u8>) {
        if matches!(last, Some(b'}' | b']')) {
            self.last = None;
            self.too_long = true;
        }
    }
}

/// Grows without leaving a copy behind that is not overwritten.
fn append(line: &mut Zeroizing<Vec<u8>>, piece: &[u8]) {
    if line.capacity() - line.len() < piece.len() {
        let mut grown = Zeroizing::new(Vec::with_capacity(2 * (line.len() + piece.len())));
        grown.extend_from_slice(line);
        *line = grown;
    }
    line.extend_from_slice(piece);
}

fn last_of(piece: &[u8]) -> Option<u8> {
    piece.trim_ascii_end().last().copied()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn last(pieces: &[&[u8]]) -> LastLine {
        let mut line = JsonLine::default();
        pieces.iter().for_each(|piece| line.push(piece));
        line.finish()
    }

    fn document(text: &str) -> LastLine {
        LastLine::Document(Zeroizing::new(text.as_bytes().to_vec()))
    }

    #[test]
    fn the_last_object_or_array_on_a_line_of_its_own_counts() {
        let text = b"{\"rows\": 1}\n[broken\n{}x\n 3\n\"text\"\nnull\ndone\n";
        assert_eq!(last(&[text]), document("{\"rows\": 1}\n"));
        assert_eq!(last(&text.chunks(1).collect::<Vec<_>>()), document("{\"rows\": 1}\n"));
        assert_eq!(last(&[b"{}\n", b"  [1", b", 2]\r\n\n"]), document("[1, 2]\r\n"));
        assert_eq!(last(&[b"{}\n{\"a\"", b":2}"]), document("{\"a\":2}"));
        assert_eq!(last(&[b"{\n\"a\": 1\n}\n"]), LastLine::None, "a document on several lines is none");
        assert_eq!(last(&[b"x {}\n[\xff]\n"]), LastLine::None);
        assert_eq!(last(&[]), LastLine::None);
    }

    #[test]
    fn what_is_too_long_is_said_and_not_replaced_by_what_came_before() {
        let of_length = |length: usize| format!("[\"{}\"]", "x".repeat(length - 4)).into_bytes();
        let fits = of_length(LONGEST);
        assert_eq!(
            last(&[&fits, b"\n"]),
            document(&format!("{}\n", String::from_utf8(fits.clone()).unwrap()))
        );
        let long = of_length(LONGEST + 1);
        assert_eq!(last(&[&long]), LastLine::TooLong);
        let long = of_length(3 * LONGEST);
        let mut pieces = vec![&b"{}\n"[..]];
        pieces.extend(long.chunks(64 * 1024));
        assert_eq!(last(&pieces), LastLine::TooLong);
        pieces.push(b"\n[2]\n");
        assert_eq!(last(&pieces), document("[2]\n"));
        assert_eq!(last(&[b"{}\n[", &b"x".repeat(3 * LONGEST), b"\n"]), document("{}\n"), "no document");
    }
}
