//! Lists: `{"items": [...], "next": cursor or null}`, bounded and keyset-based.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use projections::Listed;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

use crate::app::App;
use crate::problem::Problem;

/// Items of a page at most.
const LARGEST: u32 = 200;
/// Items of a page when the client does not say.
const USUAL: u32 = 50;
/// Hex digits of the keyed hash that a cursor carries.
const MARK: usize = 16;

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// The items, in the list's order.
    pub items: Vec<T>,
    /// Where the next page begins; null on the last one.
    pub next: Option<String>,
}

/// How many items the client wants.
///
/// # Errors
/// 422 when it is not 1 to 200.
pub fn limit(asked: Option<u32>) -> Result<usize, Problem> {
    match asked.unwrap_or(USUAL) {
        limit @ 1..=LARGEST => Ok(limit as usize),
        _ => Err(Problem::invalid("limit", format!("must be 1 to {LARGEST}"))),
    }
}

/// A list whose cursors are its own: one made for another list, team or filter is refused.
pub struct Cursors<'a> {
    app: &'a App,
    scope: String,
}

impl<'a> Cursors<'a> {
    /// Cursors of the list that `scope` describes: its name, its team and its filters.
    pub fn new(app: &'a App, scope: impl Serialize) -> Self {
        Self { app, scope: serde_json::to_string(&scope).unwrap_or_default() }
    }

    /// The key behind the client's cursor.
    ///
    /// # Errors
    /// 422 when this list never gave it out.
    pub async fn open(&self, cursor: Option<&str>) -> Result<Option<String>, Problem> {
        let Some(cursor) = cursor else { return Ok(None) };
        let strange = || Problem::invalid("cursor", "is not one that this list gave out");
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| strange())?;
        let text = String::from_utf8(bytes).map_err(|_| strange())?;
        let (mark, key) = text.split_at_checked(MARK).ok_or_else(strange)?;
        if self.mark(key).await? == mark { Ok(Some(key.to_owned())) } else { Err(strange()) }
    }

    /// The page of `items`, of which one more than `limit` was read to see whether there is a next page. Where they were cut short there is
    /// one.
    ///
    /// # Errors
    /// 503 when the database is out of reach.
    pub async fn page<T>(
        &self,
        items: impl Into<Listed<T>>,
        limit: usize,
        key: impl Fn(&T) -> String,
    ) -> Result<Page<T>, Problem> {
        let Listed { rows: mut items, is_cut } = items.into();
        let more = is_cut || items.len() > limit;
        items.truncate(limit);
        let next = match items.last().filter(|_| more) {
            Some(last) => Some(self.seal(&key(last)).await?),
            None => None,
        };
        Ok(Page { items, next })
    }

    /// The cursor that [`Cursors::open`] makes `key` of.
    ///
    /// # Errors
    /// 503 when the database is out of reach.
    pub async fn seal(&self, key: &str) -> Result<String, Problem> {
        Ok(URL_SAFE_NO_PAD.encode(format!("{}{key}", self.mark(key).await?)))
    }

    async fn mark(&self, key: &str) -> Result<String, Problem> {
        let mut hash = self.app.ledger.keyed_hash(&["cursor", &self.scope, key]).await?;
        hash.truncate(MARK);
        Ok(hash)
    }
}

/// An item as text.
pub type Picked = Box<RawValue>;

/// Keeps the fields the client picked (`fields=a,b`) of each item.
///
/// # Errors
/// 422 when the items have no such field.
pub fn pick<T: Serialize + ToSchema>(page: Page<T>, fields: Option<&str>) -> Result<Page<Picked>, Problem> {
    let wanted: Option<Vec<&str>> = fields.map(|fields| fields.split(',').map(str::trim).collect());
    if let Some(wanted) = &wanted {
        let known = field_names::<T>();
        if let Some(strange) = wanted.iter().find(|name| !known.iter().any(|known| known == *name)) {
            let shown: String = strange.chars().take(40).collect();
            return Err(Problem::invalid(
                "fields",
                format!("there is no field {shown:?}; there are {}", known.join(", ")),
            ));
        }
    }
    let items = page.items.iter().map(|item| {
        let whole = to_raw_value(item).map_err(Problem::internal)?;
        let Some(wanted) = &wanted else { return Ok(whole) };
        let mut fields: BTreeMap<&str, &RawValue> =
            serde_json::from_str(whole.get()).map_err(Problem::internal)?;
        fields.retain(|name, _| wanted.contains(name));
        to_raw_value(&fields).map_err(Problem::internal)
    });
    Ok(Page { items: items.collect::<Result<_, Problem>>()?, next: page.next })
}

fn field_names<T: ToSchema>() -> Vec<String> {
    match T::schema() {
        RefOr::T(Schema::Object(object)) => object.properties.keys().cloned().collect(),
        _ => vec![],
    }
}
