//! Plugins' tables: values as they are, listings and bulk loads.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::auth::Scope;
use super::extract::{Lines, Paging, Path, Query, Raw, TenantOnly};
use super::views::{TableEntryView, to_json};
use super::{Api, Problem};
use crate::control::model::FieldError;
use crate::control::service::Error;
use crate::control::tables::Load;
use crate::store::table::{MAX_TABLE_TTL, MAX_TABLE_VALUE};
use crate::store::{TableFault, TableKey, TablePage};

type Answer = Result<Response, Problem>;

/// The most entries of one bulk load.
const MAX_LINES: usize = 50_000;

fn key(text: &str) -> Result<TableKey, Error> {
    text.parse().map_err(|error| Error::field("key", format!("{error}")))
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = humantime::parse_duration(text).ok().filter(|ttl| ttl.as_millis() > 0 && *ttl <= MAX_TABLE_TTL);
    ttl.ok_or_else(|| "must be a duration of 1ms to 3650days, like \"1h\"".to_owned())
}

pub(super) async fn show(State(api): State<Api>, scope: Scope, Path([plugin, name]): Path<2>, _: Query<TenantOnly>) -> Answer {
    let value = api.0.control.table_value(scope.homes.tenant, &plugin, &key(&name)?).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], value).into_response())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SetQuery {
    ttl: Option<String>,
    #[serde(rename = "tenant")]
    _tenant: Option<String>,
}

pub(super) async fn set(
    State(api): State<Api>,
    scope: Scope,
    Path([plugin, name]): Path<2>,
    Query(query): Query<SetQuery>,
    Raw(value): Raw<MAX_TABLE_VALUE>,
) -> Answer {
    let ttl = query.ttl.as_deref().map(ttl).transpose().map_err(|message| Error::field("ttl", message))?;
    api.0.control.set_table_value(scope.homes.tenant, &plugin, (key(&name)?, value, ttl)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn delete(State(api): State<Api>, scope: Scope, Path([plugin, name]): Path<2>, _: Query<TenantOnly>) -> Answer {
    api.0.control.delete_table_value(scope.homes.tenant, &plugin, &key(&name)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ListQuery {
    prefix: String,
    limit: Option<usize>,
    cursor: Option<String>,
    #[serde(rename = "tenant")]
    _tenant: Option<String>,
}

pub(super) async fn list(State(api): State<Api>, scope: Scope, Path([plugin]): Path<1>, Query(query): Query<ListQuery>) -> Answer {
    let after = query.cursor.as_deref().map(|cursor| cursor.parse::<TableKey>()).transpose();
    let after = after.map_err(|_| Error::field("cursor", "must be the `next` of the page before"))?;
    let limit = Paging { limit: query.limit, ..Paging::default() }.limit();
    let page = TablePage { prefix: query.prefix, after, limit };
    let page = api.0.control.table_page(scope.homes.tenant, &plugin, &page).await?;
    let items: Vec<Value> = page.items.iter().map(|entry| to_json(&TableEntryView::of(entry))).collect();
    Ok(axum::Json(json!({ "items": items, "next": page.next.as_ref().map(TableKey::as_str) })).into_response())
}

/// A line of a bulk load.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TableLine {
    /// 1 to 256 bytes of UTF-8 without control characters.
    key: String,
    /// What the entry is to hold: a text as it is, anything else as JSON.
    #[serde(default)]
    value: Option<Value>,
    /// The same for bytes that are no text.
    #[serde(default)]
    base64: Option<String>,
    /// How long the entry lives; for good without it.
    #[serde(default)]
    #[schema(example = "1h")]
    ttl: Option<String>,
}

impl TableLine {
    fn load(self) -> Result<Load, FieldError> {
        let fault = |field: &str, message: String| FieldError { field: field.to_owned(), message };
        let key: TableKey = self.key.parse().map_err(|error| fault("key", format!("{error}")))?;
        let value = match (self.value, self.base64) {
            (Some(Value::String(text)), None) => Bytes::from(text),
            (Some(json), None) => Bytes::from(json.to_string()),
            (None, Some(text)) => {
                let bytes = STANDARD.decode(text).map_err(|_| fault("base64", "must be base64 with its padding".to_owned()))?;
                Bytes::from(bytes)
            }
            _ => return Err(fault("value", "is needed, or base64 in its place: one of them".to_owned())),
        };
        if value.len() > MAX_TABLE_VALUE {
            return Err(fault("value", TableFault::TooLarge.to_string()));
        }
        let ttl = self.ttl.as_deref().map(ttl).transpose().map_err(|message| fault("ttl", message))?;
        Ok((key, value, ttl))
    }
}

/// What a bulk load wrote.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LoadedView {
    /// Entries.
    loaded: u64,
}

/// Nothing is written before every line is read and good.
pub(super) async fn load(
    State(api): State<Api>,
    scope: Scope,
    Path([plugin]): Path<1>,
    _: Query<TenantOnly>,
    Lines(lines): Lines<TableLine>,
) -> Answer {
    if lines.len() > MAX_LINES {
        return Err(Error::field("", format!("{} lines: at most {MAX_LINES} are taken at once", lines.len())).into());
    }
    let mut entries = Vec::with_capacity(lines.len());
    for (number, line) in lines {
        let at = |fault: FieldError| Error::field(format!("line {number}: {}", fault.field), fault.message);
        entries.push(line.load().map_err(at)?);
    }
    match api.0.control.load_table(scope.homes.tenant, &plugin, entries).await? {
        (loaded, None) => Ok(axum::Json(LoadedView { loaded }).into_response()),
        (loaded, Some(fault)) => Err(Problem::from(Error::Table(fault)).and(format!("{loaded} entries were written before"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_text_json_or_bytes() {
        let load = |line: Value| serde_json::from_value::<TableLine>(line).unwrap().load();
        let value = |line: Value| load(line).unwrap().1;
        assert_eq!(value(json!({"key": "a", "value": "x\"y"})), "x\"y");
        assert_eq!(value(json!({"key": "a", "value": {"b": [1]}})), r#"{"b":[1]}"#);
        assert_eq!(value(json!({"key": "a", "value": 5})), "5");
        assert_eq!(value(json!({"key": "a", "base64": "AP8="})), [0, 255][..]);
        assert_eq!(load(json!({"key": "a", "value": "", "ttl": "1h"})).unwrap().2, Some(Duration::from_secs(3600)));
        for (line, field) in [
            (json!({"key": "", "value": ""}), "key"),
            (json!({"key": "a"}), "value"),
            (json!({"key": "a", "value": "", "base64": ""}), "value"),
            (json!({"key": "a", "base64": "?"}), "base64"),
            (json!({"key": "a", "value": "x".repeat(MAX_TABLE_VALUE + 1)}), "value"),
            (json!({"key": "a", "value": "", "ttl": "0s"}), "ttl"),
            (json!({"key": "a", "value": "", "ttl": "11years"}), "ttl"),
        ] {
            assert_eq!(load(line.clone()).unwrap_err().field, field, "{line}");
        }
    }
}
