use http::HeaderName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Faults;
use crate::control::snapshot::OrderBy;

/// Bytes of a pointer.
const MAX_POINTER: usize = 1024;

/// What keeps its order on the way to a destination. Deliveries with the same key leave one at a time, in the order in which their events were
/// accepted; one that fails holds up those behind it, of its key alone, until it is delivered or given up. The key is that of the event
/// as it was accepted; an event without one keeps no order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderSpec {
    /// What the key is.
    pub by: OrderName,
    /// The header, by `header`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "x-account")]
    pub name: Option<String>,
    /// A JSON pointer (RFC 6901), by `json_pointer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
}

/// What a key of order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OrderName {
    /// One for all that goes to the destination.
    Destination,
    /// The value of a header, the first if it comes several times.
    Header,
    /// The value at a place in the JSON body; null is none.
    JsonPointer,
}

impl OrderSpec {
    pub(super) fn prepare(&self, field: &str, faults: &mut Faults) -> Option<OrderBy> {
        if self.name.is_some() && self.by != OrderName::Header {
            faults.add(format!("{field}.name"), "is for `\"by\": \"header\"` alone");
        }
        if self.pointer.is_some() && self.by != OrderName::JsonPointer {
            faults.add(format!("{field}.pointer"), "is for `\"by\": \"json_pointer\"` alone");
        }
        match self.by {
            OrderName::Destination => Some(OrderBy::Destination),
            OrderName::Header => match self.name.as_ref().map(|name| HeaderName::from_bytes(name.as_bytes())) {
                Some(Ok(name)) => Some(OrderBy::Header(name)),
                Some(Err(_)) => {
                    faults.add(format!("{field}.name"), "is not a header's name");
                    None
                }
                None => {
                    faults.add(format!("{field}.name"), "is needed: the header that has the key, like \"x-account\"");
                    None
                }
            },
            OrderName::JsonPointer => match &self.pointer {
                Some(pointer) if pointer.starts_with('/') && pointer.len() <= MAX_POINTER => {
                    Some(OrderBy::Pointer(pointer.clone()))
                }
                _ => {
                    faults.add(format!("{field}.pointer"), "must be a JSON pointer like \"/data/id\", at most 1024 bytes");
                    None
                }
            },
        }
    }
}
