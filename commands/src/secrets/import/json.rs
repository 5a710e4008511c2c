//! JSON files: an object of names and values, or a list of secrets.
//!
//! In an object, `{"payments": {"stripe": "…"}}` is the secret `payments/stripe`. In a list, each item has `name`, `value` or
//! `value_base64`, and perhaps `description`, `tags` and `expires_at`, as the API takes them.

use std::collections::HashSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use zeroize::Zeroizing;

use super::{Entries, Entry, Place};

/// Characters of a key that are shown in a path.
const LONGEST_SHOWN: usize = 60;

/// Reads a file without its byte-order mark.
pub(super) fn entries(text: &str) -> Entries {
    let mut walk = Walk::default();
    match serde_json::from_str(text) {
        Ok(Node::Object(members)) => walk.object("", "", members),
        Ok(Node::List(items)) => walk.list(items),
        Ok(Node::Text(_) | Node::Other) => {
            walk.found.problem(Place::file(), "must be an object of names and values, or a list of secrets");
        }
        // The error's own words may quote the file.
        Err(error) => {
            let message = format!("is not JSON that can be read: see column {}", error.column());
            walk.found.problem(Place::line(error.line() as u64), message);
        }
    }
    walk.found
}

/// A value as it stands there: serde_json's own would keep the last of two members with one name, and texts in ordinary memory.
enum Node {
    Text(Zeroizing<String>),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
    /// A number, true, false or null.
    Other,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyNode)
    }
}

struct AnyNode;

impl<'de> Visitor<'de> for AnyNode {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(Zeroizing::new(text.to_owned())))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = vec![];
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Node, A::Error> {
        let mut object = vec![];
        while let Some(member) = members.next_entry()? {
            object.push(member);
        }
        Ok(Node::Object(object))
    }
}

/// A key as a path shows it: on one line, and not without end.
fn shown(key: &str) -> String {
    let short: String = key.chars().take(LONGEST_SHOWN).collect();
    let dots = if short.len() < key.len() { "…" } else { "" };
    format!("{}{dots}", short.escape_debug())
}

#[derive(Default)]
struct Walk {
    found: Entries,
    /// Places so far.
    order: u64,
}

impl Walk {
    fn place(&mut self, text: &str) -> Place {
        self.order += 1;
        Place { order: self.order, text: text.to_owned() }
    }

    fn problem(&mut self, path: &str, message: &str) {
        let place = self.place(path);
        self.found.problem(place, message);
    }

    /// `folder` is what the names begin with, `parent` the path to the object.
    fn object(&mut self, folder: &str, parent: &str, members: Vec<(String, Node)>) {
        let mut keys = HashSet::new();
        for (key, node) in members {
            let path = format!("{parent}{}", shown(&key));
            let name = format!("{folder}{key}");
            match node {
                _ if !keys.insert(key) => self.problem(&path, "is there twice"),
                Node::Text(text) => {
                    let place = self.place(&path);
                    self.found.entries.push(Entry::plain(place, name, bytes(&text)));
                }
                Node::Object(members) => self.object(&format!("{name}/"), &format!("{path}."), members),
                Node::List(_) | Node::Other => self.problem(&path, "must be a string or an object"),
            }
        }
    }

    fn list(&mut self, items: Vec<Node>) {
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("[{index}]");
            match item {
                Node::Object(members) => self.item(&path, members),
                Node::Text(_) | Node::List(_) | Node::Other => self.problem(&path, "must be an object"),
            }
        }
    }

    fn item(&mut self, path: &str, members: Vec<(String, Node)>) {
        let place = self.place(path);
        let problems = self.found.problems.len();
        let mut fields = Fields::default();
        let mut seen = HashSet::new();
        for (key, node) in members {
            let refused =
                if seen.contains(&key) { Some("is there twice") } else { fields.take(&key, node).err() };
            if let Some(message) = refused {
                self.problem(&format!("{path}.{}", shown(&key)), message);
            }
            seen.insert(key);
        }
        if !seen.contains("name") {
            self.problem(path, "name is missing");
        }
        match (seen.contains("value"), seen.contains("value_base64")) {
            (true, true) => self.problem(path, "has value and value_base64: one of them, please"),
            (false, false) => self.problem(path, "value is missing"),
            (true, false) | (false, true) => {}
        }
        if let (Some(name), Some(value)) = (fields.name, fields.value)
            && problems == self.found.problems.len()
        {
            let Fields { description, tags, expires_at, .. } = fields;
            self.found.entries.push(Entry { place, name, value, description, tags, expires_at });
        }
    }
}

fn bytes(text: &str) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(text.as_bytes().to_vec())
}

/// The fields of an item of a list.
#[derive(Default)]
struct Fields {
    name: Option<String>,
    value: Option<Zeroizing<Vec<u8>>>,
    description: Option<String>,
    tags: Vec<String>,
    expires_at: Option<String>,
}

impl Fields {
    fn take(&mut self, key: &str, node: Node) -> Result<(), &'static str> {
        const NO_STRING: &str = "must be a string";
        match (key, node) {
            ("name", Node::Text(text)) => self.name = Some(text.to_string()),
            ("value", Node::Text(text)) => self.value = Some(bytes(&text)),
            ("value_base64", Node::Text(text)) => {
                let value = BASE64.decode(text.as_bytes()).map_err(|_| "must be base64")?;
                self.value = Some(Zeroizing::new(value));
            }
            ("description", Node::Text(text)) => self.description = Some(text.to_string()),
            ("expires_at", Node::Text(text)) => self.expires_at = Some(text.to_string()),
            ("tags", Node::List(items)) => self.tags = texts(items).ok_or("must be a list of strings")?,
            ("tags", _) => return Err("must be a list of strings"),
            ("name" | "value" | "value_base64" | "description" | "expires_at", _) => return Err(NO_STRING),
            _ => return Err("is not a field of a secret"),
        }
        Ok(())
    }
}

fn texts(items: Vec<Node>) -> Option<Vec<String>> {
    let text = |item| match item {
        Node::Text(text) => Some(text.to_string()),
        Node::List(_) | Node::Object(_) | Node::Other => None,
    };
    items.into_iter().map(text).collect()
}
