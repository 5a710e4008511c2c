//! What events say: JSON, kept as text.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

/// What an event says, as the text of a JSON document: it takes the bytes of that text in memory. Cheap to clone.
#[derive(Clone)]
pub struct Payload(Arc<RawValue>);

impl Payload {
    /// `document` as JSON.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn of(document: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self(serde_json::value::to_raw_value(document)?.into()))
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        self.0.get()
    }

    /// For reading it into a type of one's own.
    #[must_use]
    pub fn reader(&self) -> &RawValue {
        &self.0
    }

    /// Reads it into a type.
    ///
    /// # Errors
    /// It does not have that type's shape.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.text())
    }

    /// The document as a tree, which takes up to 32 times the bytes of the text; null if it is deeper than a tree can be read, which
    /// nothing is that [`crate::Ledger::append`] took.
    #[must_use]
    pub fn value(&self) -> Value {
        self.read().unwrap_or_default()
    }

    /// Whether it may hold a field of this name; when it does not, there is no need to look into it. `name` is of letters only, which
    /// JSON's writers here never escape.
    pub(crate) fn mentions(&self, name: &str) -> bool {
        self.text().contains(&format!("\"{name}\""))
    }

    /// Whether it has more than `levels` objects and arrays within each other.
    pub(crate) fn is_deeper_than(&self, levels: usize) -> bool {
        is_text_deeper_than(levels, self.text())
    }
}

/// The same as [`crate::is_deeper_than`] for a text that is JSON, without reading it into memory.
#[must_use]
pub fn is_text_deeper_than(levels: usize, text: &str) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                if depth > levels {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

impl Default for Payload {
    /// `null`.
    fn default() -> Self {
        RawValue::NULL.to_owned().into()
    }
}

impl From<Box<RawValue>> for Payload {
    fn from(text: Box<RawValue>) -> Self {
        Self(text.into())
    }
}

impl From<Value> for Payload {
    fn from(value: Value) -> Self {
        // The text of a value is JSON.
        let text = RawValue::from_string(value.to_string()).unwrap_or_else(|_| RawValue::NULL.to_owned());
        text.into()
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text() || self.value() == other.value()
    }
}

impl PartialEq<Value> for Payload {
    fn eq(&self, other: &Value) -> bool {
        self.value() == *other
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::is_deeper_than;

    #[test]
    fn the_text_is_as_deep_as_the_tree() {
        let documents = [
            json!(1),
            json!("[[[["),
            json!({"a": "\\\"[", "b": [{"c": []}]}),
            json!([[[]], {"x\\": {}}]),
            json!({"]": ["}", ["["]]}),
        ];
        for document in documents {
            for levels in 0..6 {
                let text = document.to_string();
                let expected = is_deeper_than(levels, &document);
                assert_eq!(is_text_deeper_than(levels, &text), expected, "{text} {levels}");
            }
        }
    }
}
