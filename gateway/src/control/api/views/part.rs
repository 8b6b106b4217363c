//! What a plugin's run had to do with an attempt.

use serde::Serialize;
use utoipa::ToSchema;

use crate::event::AttemptPart;

/// What a run had to do with an attempt.
#[derive(Debug, Serialize, ToSchema)]
pub struct AttemptPartView {
    /// The attempt's number.
    number: u32,
    /// `sign` or `judge`.
    role: &'static str,
    /// The plugin's name.
    plugin: String,
    /// What a judge decided: `default`, `delivered`, `retry` or `dead_letter`. Without it the gateway judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<String>,
}

impl AttemptPartView {
    pub(super) fn of(part: AttemptPart) -> Self {
        let AttemptPart { role, attempt, plugin, verdict } = part;
        Self { number: attempt, role: role.as_str(), plugin, verdict }
    }
}
