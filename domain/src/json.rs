//! JSON documents that nobody here looks into: kept as text.

use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// A valid JSON document, kept as its text: it takes the bytes of that text and no more, while a tree of small numbers takes 16 to 32
/// times as many. Cheap to clone.
///
/// Two are equal if they say the same, whatever their white space and the order of their fields.
#[derive(Clone)]
pub struct JsonText(Arc<RawValue>);

impl JsonText {
    /// Takes a text that is JSON.
    ///
    /// # Errors
    /// It is not.
    pub fn parse(text: String) -> Result<Self, serde_json::Error> {
        Ok(Self(RawValue::from_string(text)?.into()))
    }

    /// The document `null`.
    #[must_use]
    pub fn null() -> Self {
        Self(RawValue::NULL.to_owned().into())
    }

    /// Whether it is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.text() == "null"
    }

    /// What `document` is as JSON.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn of(document: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self(serde_json::value::to_raw_value(document)?.into()))
    }

    /// What `reader` reads, in the shortest form: without white space, numbers as they are computed with. `change` is given every text,
    /// names included, and every number as text; a number that it changes becomes a text. No tree of it is ever in memory.
    ///
    /// # Errors
    /// It is not JSON, or has more than 127 levels.
    pub fn rewritten<'de, D: Deserializer<'de>>(
        reader: D,
        change: impl Fn(&str) -> String,
    ) -> Result<Self, D::Error> {
        let mut out = String::new();
        Rewriting { change: &change, out: &mut out }.deserialize(reader)?;
        out.shrink_to_fit();
        Self::parse(out).map_err(D::Error::custom)
    }

    /// Reads a document that PostgreSQL's `jsonb` has written, if there is one: it writes `1e300` with all its digits. For
    /// `#[serde(deserialize_with)]`.
    ///
    /// # Errors
    /// See [`JsonText::rewritten`].
    pub fn from_jsonb<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<Self>, D::Error> {
        struct Shortest(JsonText);
        impl<'de> Deserialize<'de> for Shortest {
            fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
                JsonText::rewritten(reader, str::to_owned).map(Self)
            }
        }
        Ok(Option::<Shortest>::deserialize(reader)?.map(|shortest| shortest.0))
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        self.0.get()
    }

    /// The document as a tree. For readers that look into it.
    #[must_use]
    pub fn value(&self) -> Value {
        // It was checked when it was made; what exceeds the parser's depth is not shown.
        serde_json::from_str(self.text()).unwrap_or_default()
    }
}

/// Writes a document as it is read.
struct Rewriting<'a, F> {
    change: &'a F,
    out: &'a mut String,
}

impl<F: Fn(&str) -> String> Rewriting<'_, F> {
    /// The part that comes next.
    fn part(&mut self) -> Rewriting<'_, F> {
        Rewriting { change: self.change, out: self.out }
    }

    fn string<E: Error>(self, text: &str) -> Result<(), E> {
        self.out.push_str(&serde_json::to_string(text).map_err(E::custom)?);
        Ok(())
    }

    fn number<E: Error>(self, number: impl Into<Value>) -> Result<(), E> {
        let text = number.into().to_string();
        let changed = (self.change)(&text);
        if changed != text {
            return self.string(&changed);
        }
        self.out.push_str(&text);
        Ok(())
    }
}

impl<'de, F: Fn(&str) -> String> DeserializeSeed<'de> for Rewriting<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de, F: Fn(&str) -> String> Visitor<'de> for Rewriting<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON document")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.out.push_str("null");
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.out.push_str(if value { "true" } else { "false" });
        Ok(())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.number(number)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.number(number)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.number(number)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        let changed = (self.change)(text);
        self.string(&changed)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        self.out.push('[');
        while items.next_element_seed(self.part())?.is_some() {
            self.out.push(',');
        }
        close(self.out, ']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut fields: A) -> Result<(), A::Error> {
        self.out.push('{');
        while fields.next_key_seed(self.part())?.is_some() {
            self.out.push(':');
            fields.next_value_seed(self.part())?;
            self.out.push(',');
        }
        close(self.out, '}');
        Ok(())
    }
}

fn close(out: &mut String, bracket: char) {
    if out.ends_with(',') {
        out.pop();
    }
    out.push(bracket);
}

impl PartialEq for JsonText {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text() || self.value() == other.value()
    }
}

impl PartialEq<Value> for JsonText {
    fn eq(&self, other: &Value) -> bool {
        self.value() == *other
    }
}

impl From<Value> for JsonText {
    fn from(value: Value) -> Self {
        // The text of a value is JSON.
        let text = RawValue::from_string(value.to_string()).unwrap_or_else(|_| RawValue::NULL.to_owned());
        Self(text.into())
    }
}

impl fmt::Display for JsonText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl fmt::Debug for JsonText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl Serialize for JsonText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for JsonText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Box::<RawValue>::deserialize(deserializer)?.into()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Held {
        Left { result: Option<JsonText> },
    }

    fn held(text: &str) -> Held {
        Held::Left { result: Some(JsonText::parse(text.to_owned()).unwrap()) }
    }

    #[test]
    fn it_is_written_and_read_as_it_stands() {
        let text = r#"{"Left":{"result":{"b":1.10,"a":[12345678901234567890123,1e3]}}}"#;
        let read: Held = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
    }

    #[test]
    fn it_passes_through_trees() {
        let value = serde_json::to_value(held(r#"{"b": 1, "a": [null]}"#)).unwrap();
        assert_eq!(value, json!({"Left": {"result": {"a": [null], "b": 1}}}));
        assert_eq!(serde_json::from_value::<Held>(value).unwrap(), held(r#"{"a":[null],"b":1}"#));
        let nothing: Held = serde_json::from_value(json!({"Left": {"result": null}})).unwrap();
        assert_eq!(nothing, Held::Left { result: None });
    }

    #[test]
    fn it_is_rewritten_in_its_shortest_form() {
        let rewritten = |text: &str| {
            let mut reader = serde_json::Deserializer::from_str(text);
            JsonText::rewritten(&mut reader, |text| text.replace("secret", "***")).unwrap().text().to_owned()
        };
        let text = r#" [ 1 , 2.50, -3, {"a" : [], "b": {}, "c": [[],[{}]] }, "x,", ",", [","] , null, true, "\u0041\n" ] "#;
        assert_eq!(
            rewritten(text),
            r#"[1,2.5,-3,{"a":[],"b":{},"c":[[],[{}]]},"x,",",",[","],null,true,"A\n"]"#
        );
        assert_eq!(rewritten(r#"{"secret 1": "a secret", "z": 1}"#), r#"{"*** 1":"a ***","z":1}"#);
        let digits = format!("[1{}]", "0".repeat(300));
        assert_eq!(rewritten(&digits), "[1e+300]");
        assert_eq!(
            serde_json::from_str::<Value>(&digits).unwrap().to_string(),
            "[1e+300]",
            "as a tree says it"
        );
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in ["", "{", "[1,]", "1 2", "nul"] {
            assert!(JsonText::parse(text.to_owned()).is_err(), "{text}");
        }
    }
}
