//! Undoing the escapes of URLs and of JSON, byte by byte as they come.

use zeroize::Zeroizing;

/// A language in which a byte can be written in more than one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Escapes {
    /// `%2F`, in any case, of any byte.
    Percent,
    /// The same, and `+` is a space.
    Form,
    /// `\"`, `\\`, `\/`, `\b`, `\f`, `\n`, `\r`, `\t` and `\u002f` in any case, surrogate pairs too.
    Json,
}

/// One byte of the text that was meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Symbol {
    pub(super) byte: u8,
    /// Where what stands for it begins in the stream.
    pub(super) start: usize,
    /// Where that ends.
    pub(super) end: usize,
}

/// What the pending bytes say.
enum Reading {
    /// These bytes (so many of them), written with so many.
    Meant([u8; 4], usize, usize),
    /// Not yet known.
    More,
}

/// What stands for itself.
const fn literal(byte: u8, written: usize) -> Reading {
    Reading::Meant([byte, 0, 0, 0], 1, written)
}

/// Reads one kind of escapes. What is no escape stands for itself.
pub(super) struct Decoder {
    escapes: Escapes,
    /// The beginning of an escape, 12 bytes at most.
    pending: Zeroizing<Vec<u8>>,
    /// Where it stands in the stream.
    start: usize,
}

impl Decoder {
    pub(super) fn new(escapes: Escapes) -> Self {
        Self { escapes, pending: Zeroizing::new(Vec::with_capacity(12)), start: 0 }
    }

    /// Whether the byte can be the beginning of an escape.
    pub(super) const fn begins_with(&self, byte: u8) -> bool {
        match self.escapes {
            Escapes::Percent => byte == b'%',
            Escapes::Form => byte == b'%' || byte == b'+',
            Escapes::Json => byte == b'\\',
        }
    }

    /// Where the escape begins that is not complete yet.
    pub(super) fn pending(&self) -> Option<usize> {
        (!self.pending.is_empty()).then_some(self.start)
    }

    /// Takes the byte at `position` of the stream; appends what is certain by now.
    pub(super) fn push(&mut self, byte: u8, position: usize, out: &mut Vec<Symbol>) {
        if self.pending.is_empty() {
            self.start = position;
        }
        self.pending.push(byte);
        while !self.pending.is_empty()
            && let Reading::Meant(bytes, count, written) = self.read()
        {
            self.emit(&bytes[..count], written, out);
        }
    }

    /// The stream has ended: what is not complete stands for itself.
    pub(super) fn finish(&mut self, out: &mut Vec<Symbol>) {
        while let Some(first) = self.pending.first().copied() {
            match self.read() {
                Reading::Meant(bytes, count, written) => self.emit(&bytes[..count], written, out),
                Reading::More => self.emit(&[first], 1, out),
            }
        }
    }

    fn emit(&mut self, bytes: &[u8], written: usize, out: &mut Vec<Symbol>) {
        let (start, end) = (self.start, self.start + written);
        out.extend(bytes.iter().map(|byte| Symbol { byte: *byte, start, end }));
        self.pending.drain(..written);
        self.start = end;
    }

    fn read(&self) -> Reading {
        match (self.escapes, self.pending.as_slice()) {
            (Escapes::Percent | Escapes::Form, [b'%', digits @ ..]) => percent(digits),
            (Escapes::Form, [b'+', ..]) => literal(b' ', 1),
            (Escapes::Json, [b'\\', escaped @ ..]) => json(escaped),
            (_, [byte, ..]) => literal(*byte, 1),
            (_, []) => Reading::More,
        }
    }
}

fn percent(digits: &[u8]) -> Reading {
    match hexadecimal(digits, 2) {
        Ok(Some(value)) => literal(u8::try_from(value).unwrap_or_default(), 3),
        Ok(None) => Reading::More,
        Err(NotHexadecimal) => literal(b'%', 1),
    }
}

fn json(escaped: &[u8]) -> Reading {
    match escaped {
        [] => Reading::More,
        [byte @ (b'"' | b'\\' | b'/'), ..] => literal(*byte, 2),
        [b'b', ..] => literal(8, 2),
        [b'f', ..] => literal(12, 2),
        [b'n', ..] => literal(b'\n', 2),
        [b'r', ..] => literal(b'\r', 2),
        [b't', ..] => literal(b'\t', 2),
        [b'u', digits @ ..] => match hexadecimal(digits, 4) {
            Ok(Some(unit)) => utf16(unit, &digits[4..]),
            Ok(None) => Reading::More,
            Err(NotHexadecimal) => literal(b'\\', 1),
        },
        _ => literal(b'\\', 1),
    }
}

/// The character whose first code unit is `unit`; its second one may follow in `rest`.
fn utf16(unit: u32, rest: &[u8]) -> Reading {
    if !(0xD800..0xDC00).contains(&unit) {
        return character(char::from_u32(unit), 6);
    }
    let low = match rest {
        [] | [b'\\'] => Ok(None),
        [b'\\', b'u', digits @ ..] => hexadecimal(digits, 4),
        _ => Err(NotHexadecimal),
    };
    match low {
        Ok(None) => Reading::More,
        Ok(Some(low @ 0xDC00..0xE000)) => {
            character(char::from_u32(0x1_0000 + ((unit - 0xD800) << 10) + (low - 0xDC00)), 12)
        }
        Ok(Some(_)) | Err(NotHexadecimal) => character(None, 6),
    }
}

fn character(character: Option<char>, written: usize) -> Reading {
    let mut bytes = [0; 4];
    let count = character.unwrap_or(char::REPLACEMENT_CHARACTER).encode_utf8(&mut bytes).len();
    Reading::Meant(bytes, count, written)
}

struct NotHexadecimal;

/// The number the first `count` digits make; `None` while there are fewer and all are digits.
fn hexadecimal(digits: &[u8], count: usize) -> Result<Option<u32>, NotHexadecimal> {
    let mut value = 0;
    for digit in digits.iter().take(count) {
        value = value * 16 + char::from(*digit).to_digit(16).ok_or(NotHexadecimal)?;
    }
    Ok((digits.len() >= count).then_some(value))
}

#[cfg(test)]
mod tests {
    use super::{Decoder, Escapes};

    fn decode(escapes: Escapes, text: &str) -> String {
        let mut decoder = Decoder::new(escapes);
        let mut symbols = vec![];
        for (position, byte) in text.bytes().enumerate() {
            decoder.push(byte, position, &mut symbols);
        }
        decoder.finish(&mut symbols);
        assert!(symbols.is_sorted_by_key(|symbol| (symbol.start, symbol.end)));
        assert_eq!(symbols.last().map_or(0, |symbol| symbol.end), text.len(), "nothing is lost");
        String::from_utf8_lossy(&symbols.iter().map(|symbol| symbol.byte).collect::<Vec<_>>()).into_owned()
    }

    #[test]
    fn escapes_become_what_they_mean_and_all_else_stays() {
        assert_eq!(decode(Escapes::Percent, "a%2Fb%2fc+%C3%A9%"), "a/b/c+é%");
        assert_eq!(decode(Escapes::Percent, "%%41%4%zz%2"), "%A%4%zz%2");
        assert_eq!(decode(Escapes::Form, "a+b%2B"), "a b+");
        assert_eq!(
            decode(Escapes::Json, r#"\"\\\/\n\u00e9\u00E9\ud83d\uDE00x"#),
            "\"\\/\nééx".replace('x', "\u{1F600}x")
        );
        assert_eq!(decode(Escapes::Json, r"\x\u12\u12g\"), r"\x\u12\u12g\");
        assert_eq!(
            decode(Escapes::Json, r"\ud83d\n\udc00\ud83d\u0041\ud83d"),
            "\u{FFFD}\n\u{FFFD}\u{FFFD}A\\ud83d"
        );
    }
}
