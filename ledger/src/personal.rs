//! Personal data: sealed under its subject's key on the way in, opened (or found erased) on the way out.
//!
//! In a payload it is an object: `{"personal": text, "subject": id}` in clear, `{"sealed": base64, "subject": id}` in the log,
//! `{"erased": true, "subject": id}` once the subject's key is gone. In metadata it is the fields `ip` and `user_agent`, whose
//! subject is the field `subject`.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use crate::append::Append;
use crate::error::LedgerError;
use crate::event::{Metadata, Recorded};
use crate::payload::Payload;
use crate::seal::{DataKey, NewDataKey, SealError};
use crate::vault::Vault;
use crate::{Ledger, StreamId};

/// What a reader sees of metadata whose subject's key is gone.
const ERASED: &str = "erased";

type Keys = HashMap<String, Arc<DataKey>>;

pub(crate) fn key_name(subject: &str) -> String {
    format!("subject/{subject}")
}

fn key_names(subjects: &HashSet<String>) -> Vec<String> {
    subjects.iter().map(|subject| key_name(subject)).collect()
}

/// What the personal text of an event is sealed for: its place in the log.
fn payload_context(stream: &StreamId, sequence: i64, subject: &str, place: &str) -> String {
    format!("personal {stream}/{sequence} {place} of {subject}")
}

/// Metadata is shared by all events of an append, so it is bound to its request.
fn metadata_context(metadata: &Metadata, subject: &str, field: &str) -> String {
    format!("metadata {} {field} of {subject}", metadata.request_id.as_deref().unwrap_or_default())
}

impl Vault {
    /// Seals all personal data of an append. Gives back the keys of subjects that had none.
    pub(crate) async fn seal_personal(&self, append: &mut Append) -> Result<Vec<NewDataKey>, LedgerError> {
        let mut subjects = HashSet::new();
        for event in &append.events {
            collect_marked(&event.payload, "personal", &mut subjects);
        }
        let metadata = &append.metadata;
        if metadata.ip.is_some() || metadata.user_agent.is_some() {
            subjects.extend(metadata.subject.clone());
        }
        if subjects.is_empty() {
            (append.metadata.ip, append.metadata.user_agent) = (None, None);
            return Ok(vec![]);
        }
        let (keys, made) = self.subject_keys(&subjects).await?;
        for event in &mut append.events {
            let context =
                |subject: &str, place: &str| payload_context(&event.stream, event.sequence, subject, place);
            seal_payload(&mut event.payload, &keys, &context)?;
        }
        seal_metadata(&mut append.metadata, &keys)?;
        Ok(made)
    }

    async fn subject_keys(&self, subjects: &HashSet<String>) -> Result<(Keys, Vec<NewDataKey>), LedgerError> {
        let mut keys = self.fetch(key_names(subjects)).await?;
        let mut made = vec![];
        for subject in subjects {
            if let Entry::Vacant(vacant) = keys.entry(key_name(subject)) {
                let (key, new) = self.make(vacant.key())?;
                vacant.insert(key);
                made.push(new);
            }
        }
        Ok((keys, made))
    }
}

impl Ledger {
    /// The key under which what belongs to `subject` is sealed, if there is one: for what must stay sealed also where views show
    /// the rest opened. It is forgotten with everything else of theirs.
    ///
    /// # Errors
    /// The database is out of reach, or the key cannot be unwrapped with the configured keys.
    pub async fn subject_key(&self, subject: impl ToString) -> Result<Option<Arc<DataKey>>, LedgerError> {
        self.data_key(&key_name(&subject.to_string())).await
    }

    /// Opens the personal data of `events` in place. What a destroyed key sealed becomes `erased`.
    ///
    /// # Errors
    /// The database is out of reach, a key cannot be unwrapped, or something sealed was altered.
    pub async fn open_personal(&self, events: &mut [Recorded]) -> Result<(), LedgerError> {
        let mut subjects = HashSet::new();
        for event in events.iter() {
            collect_marked(&event.payload, "sealed", &mut subjects);
            subjects.extend(event.metadata.subject.clone());
        }
        // No text of PostgreSQL holds it, so no key has such a name.
        subjects.retain(|subject| !subject.contains('\0'));
        if subjects.is_empty() {
            return Ok(());
        }
        let mut keys = Opening { keys: self.vault.fetch(key_names(&subjects)).await?, anew: false };
        for event in events {
            match open_event(event, &keys) {
                // Either it was sealed with a key that was destroyed, or what we remember is that one: look once more.
                Err(SealError::UnknownKey { .. }) if !keys.anew => {
                    keys = Opening { keys: self.vault.read(key_names(&subjects)).await?, anew: true };
                    open_event(event, &keys)?;
                }
                outcome => outcome?,
            }
        }
        Ok(())
    }
}

/// The keys that open what is there.
struct Opening {
    keys: Keys,
    /// They are fresh from the database: whatever was sealed with another was sealed with a destroyed one.
    anew: bool,
}

/// May be called again after it failed: what is open already is left as it is.
fn open_event(event: &mut Recorded, keys: &Opening) -> Result<(), SealError> {
    let (stream, sequence) = (&event.stream, event.sequence);
    let context = |subject: &str, place: &str| payload_context(stream, sequence, subject, place);
    open_payload(&mut event.payload, keys, &context)?;
    open_metadata(&mut event.metadata, keys)
}

/// The marked object's text and subject, if `value` is one: exactly the mark and the subject.
fn marked<'a>(map: &'a Map<String, Value>, mark: &str) -> Option<(&'a str, &'a str)> {
    if map.len() != 2 {
        return None;
    }
    Some((map.get(mark)?.as_str()?, map.get("subject")?.as_str()?))
}

fn collect(value: &Value, mark: &str, subjects: &mut HashSet<String>) {
    match value {
        Value::Object(map) => match marked(map, mark) {
            Some((_, subject)) => drop(subjects.insert(subject.to_owned())),
            None => map.values().for_each(|inner| collect(inner, mark, subjects)),
        },
        Value::Array(items) => items.iter().for_each(|inner| collect(inner, mark, subjects)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// [`replace`] in a payload, which is read only if it may hold something marked.
fn replace_marked(
    payload: &mut Payload,
    mark: &str,
    change: &impl Fn(&str, &str, &str) -> Result<Value, SealError>,
) -> Result<(), SealError> {
    if payload.mentions(mark) {
        let mut value = payload.value();
        replace(&mut value, mark, "", change)?;
        *payload = value.into();
    }
    Ok(())
}

fn collect_marked(payload: &Payload, mark: &str, subjects: &mut HashSet<String>) {
    if payload.mentions(mark) {
        collect(&payload.value(), mark, subjects);
    }
}

/// Replaces every marked object of `value` by what `change` makes of it. Gives it text, subject and place.
fn replace(
    value: &mut Value,
    mark: &str,
    place: &str,
    change: &impl Fn(&str, &str, &str) -> Result<Value, SealError>,
) -> Result<(), SealError> {
    match value {
        Value::Object(map) => {
            if let Some((text, subject)) = marked(map, mark) {
                *value = change(text, subject, place)?;
                return Ok(());
            }
            map.iter_mut()
                .try_for_each(|(name, inner)| replace(inner, mark, &format!("{place}/{name}"), change))
        }
        Value::Array(items) => items
            .iter_mut()
            .enumerate()
            .try_for_each(|(index, inner)| replace(inner, mark, &format!("{place}/{index}"), change)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

fn seal_payload(
    payload: &mut Payload,
    keys: &Keys,
    context: &impl Fn(&str, &str) -> String,
) -> Result<(), SealError> {
    replace_marked(payload, "personal", &|text, subject, place| {
        let sealed = seal_text(keys, subject, &context(subject, place), text)?;
        Ok(json!({ "sealed": sealed, "subject": subject }))
    })
}

fn open_payload(
    payload: &mut Payload,
    keys: &Opening,
    context: &impl Fn(&str, &str) -> String,
) -> Result<(), SealError> {
    replace_marked(payload, "sealed", &|sealed, subject, place| {
        Ok(match open_text(keys, subject, &context(subject, place), sealed)? {
            Some(text) => json!({ "personal": text, "subject": subject }),
            None => json!({ "erased": true, "subject": subject }),
        })
    })
}

fn seal_metadata(metadata: &mut Metadata, keys: &Keys) -> Result<(), SealError> {
    let Some(subject) = metadata.subject.clone() else {
        (metadata.ip, metadata.user_agent) = (None, None);
        return Ok(());
    };
    let seal = |field: &str, text: &Option<String>| match text {
        Some(text) => seal_text(keys, &subject, &metadata_context(metadata, &subject, field), text).map(Some),
        None => Ok(None),
    };
    let sealed = (seal("ip", &metadata.ip)?, seal("user_agent", &metadata.user_agent)?);
    (metadata.ip, metadata.user_agent) = sealed;
    Ok(())
}

fn open_metadata(metadata: &mut Metadata, keys: &Opening) -> Result<(), SealError> {
    let Some(subject) = metadata.subject.clone() else { return Ok(()) };
    let open = |field: &str, text: &Option<String>| match text {
        Some(text) => {
            let opened = open_text(keys, &subject, &metadata_context(metadata, &subject, field), text)?;
            Ok(Some(opened.unwrap_or_else(|| ERASED.to_owned())))
        }
        None => Ok::<_, SealError>(None),
    };
    let opened = (open("ip", &metadata.ip)?, open("user_agent", &metadata.user_agent)?);
    (metadata.ip, metadata.user_agent) = opened;
    Ok(())
}

fn seal_text(keys: &Keys, subject: &str, context: &str, text: &str) -> Result<String, SealError> {
    let key =
        keys.get(&key_name(subject)).ok_or_else(|| SealError::Destroyed { what: context.to_owned() })?;
    Ok(BASE64.encode(key.seal(context, text.as_bytes())?))
}

/// `None`: the key that sealed it is gone.
fn open_text(
    keys: &Opening,
    subject: &str,
    context: &str,
    sealed: &str,
) -> Result<Option<String>, SealError> {
    let Some(key) = keys.keys.get(&key_name(subject)) else { return Ok(None) };
    let malformed = || SealError::Malformed { what: context.to_owned() };
    let bytes = BASE64.decode(sealed).map_err(|_| malformed())?;
    let plain = match key.open(context, &bytes) {
        Err(SealError::UnknownKey { .. }) if keys.anew => return Ok(None),
        outcome => outcome?,
    };
    String::from_utf8(plain.to_vec()).map(Some).map_err(|_| malformed())
}
