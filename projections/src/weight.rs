//! How much memory a row takes, roughly: more rather than less.
//!
//! The length of a row's JSON says little of it: `[1,1,1]` is two bytes a number as text and 32 as a tree.

use std::fmt;

use serde::ser::{
    Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

/// A number, a truth value or nothing, within whatever holds it: the size of a [`serde_json::Value`].
const SCALAR: usize = 32;
/// A text or a list: pointer, length, capacity and what the allocator adds.
const ALLOCATED: usize = 48;
/// The place of an entry of a map, besides its key and value.
const ENTRY: usize = 64;

/// The bytes that `row` takes, roughly.
pub(crate) fn weight(row: &impl Serialize) -> usize {
    let mut scale = Scale(0);
    // What cannot be written as JSON has no weight; it is not stored either.
    let _ = row.serialize(&mut scale);
    scale.0
}

struct Scale(usize);

/// Never made: nothing fails here but what is no JSON.
#[derive(Debug)]
struct Weightless;

impl fmt::Display for Weightless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it has no weight")
    }
}

impl std::error::Error for Weightless {}

impl serde::ser::Error for Weightless {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

type Weighed = Result<(), Weightless>;

impl Scale {
    fn add(&mut self, bytes: usize) -> Weighed {
        self.0 += bytes;
        Ok(())
    }
}

macro_rules! scalars {
    ($($method:ident: $type:ty),* $(,)?) => {
        $(fn $method(self, _: $type) -> Weighed { self.add(SCALAR) })*
    };
}

impl Serializer for &mut Scale {
    type Ok = ();
    type Error = Weightless;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    scalars! {
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_i128: i128, serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64,
        serialize_u128: u128, serialize_f32: f32, serialize_f64: f64, serialize_char: char,
    }

    fn serialize_str(self, text: &str) -> Weighed {
        self.add(ALLOCATED + text.len())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Weighed {
        self.add(ALLOCATED + bytes.len())
    }

    fn serialize_none(self) -> Weighed {
        self.add(SCALAR)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Weighed {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Weighed {
        self.add(SCALAR)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Weighed {
        self.add(SCALAR)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Weighed {
        self.add(SCALAR)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Weighed {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Weighed {
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self, Weightless> {
        self.add(ALLOCATED)?;
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Weightless> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Weightless> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Weightless> {
        Ok(self)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self, Weightless> {
        self.add(ALLOCATED)?;
        Ok(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Weightless> {
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Weightless> {
        Ok(self)
    }
}

macro_rules! sequences {
    ($($trait:ident: $method:ident),* $(,)?) => {
        $(impl $trait for &mut Scale {
            type Ok = ();
            type Error = Weightless;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Weighed {
                value.serialize(&mut **self)
            }

            fn end(self) -> Weighed {
                Ok(())
            }
        })*
    };
}

sequences! {
    SerializeSeq: serialize_element, SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field, SerializeTupleVariant: serialize_field,
}

macro_rules! structs {
    ($($trait:ident),*) => {
        $(impl $trait for &mut Scale {
            type Ok = ();
            type Error = Weightless;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, value: &T) -> Weighed {
                value.serialize(&mut **self)
            }

            fn end(self) -> Weighed {
                Ok(())
            }
        })*
    };
}

structs!(SerializeStruct, SerializeStructVariant);

impl SerializeMap for &mut Scale {
    type Ok = ();
    type Error = Weightless;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Weighed {
        self.add(ENTRY)?;
        key.serialize(&mut **self)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Weighed {
        value.serialize(&mut **self)
    }

    fn end(self) -> Weighed {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::mem::size_of;

    use domain::JsonText;
    use serde_json::{Value, json};

    use super::*;

    /// What a tree takes at least.
    fn least(value: &Value) -> usize {
        size_of::<Value>()
            + match value {
                Value::Null | Value::Bool(_) | Value::Number(_) => 0,
                Value::String(text) => text.len(),
                Value::Array(items) => items.iter().map(least).sum(),
                Value::Object(fields) => {
                    fields.iter().map(|(name, field)| size_of::<String>() + name.len() + least(field)).sum()
                }
            }
    }

    #[test]
    fn a_tree_weighs_no_less_than_it_takes_and_not_many_times_as_much() {
        for value in [
            json!(vec![1; 1_000]),
            json!([null, true, 1.5, "a", ["b"], {}]),
            json!({"a": {"b": {"c": [{}, {"d": "x".repeat(10_000)}]}}}),
            json!((0..500).map(|n| (n.to_string(), json!(n))).collect::<serde_json::Map<_, _>>()),
            json!(vec![""; 1_000]),
        ] {
            let (weight, least) = (weight(&value), least(&value));
            assert!(weight >= least && weight <= 4 * least + 100, "{weight} of {least}");
        }
    }

    #[test]
    fn a_text_weighs_what_it_takes_however_many_numbers_it_holds() {
        let text = JsonText::of(&vec![1; 100_000]).unwrap();
        let weight = weight(&Some(text.clone()));
        assert!(weight >= text.text().len() && weight < text.text().len() + 100, "{weight}");
    }
}
