//! What a version of a plugin made of an event.

use serde::Serialize;
use utoipa::ToSchema;

use super::{FailureView, RequestView};
use crate::control::snapshot::StageKind;
use crate::control::trial::Tried;
use crate::plugin::Frame;

/// What a version made of an event. Values of secrets are replaced by their names.
#[derive(Debug, Serialize, ToSchema)]
pub struct TriedView {
    /// The version's hash.
    version: String,
    kind: StageKind,
    /// The event's id, which seeds the plugin's random numbers; of a request, one that was made for it.
    event: String,
    /// `kept`: the event goes on as it is. `dropped`: it ends here. `outputs`: `outputs` is sent instead. `failed`: `failure` says why.
    outcome: &'static str,
    /// The requests as they would be sent, before the destination's own path and the gateway's headers.
    outputs: Vec<RequestView>,
    failure: Option<FailureView>,
    /// Where it was when it trapped, innermost first.
    backtrace: Vec<FrameView>,
    logs: Vec<String>,
    fuel: u64,
    /// Peak, bytes.
    memory: u64,
    /// Microseconds.
    took_us: u64,
}

/// A function that had not returned.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FrameView {
    /// Its name, if the component has one for it; otherwise `func` and its index.
    function: String,
    /// Where in its core module, in bytes.
    offset: u64,
}

impl FrameView {
    fn of(frame: &Frame) -> Self {
        Self { function: frame.function.clone(), offset: frame.offset }
    }
}

impl TriedView {
    pub(in crate::control::api) fn of(tried: &Tried) -> Self {
        let Tried { event, kind, answer, run, backtrace } = tried;
        let outcome = match answer {
            Ok(None) => "kept",
            Ok(Some(outputs)) if outputs.is_empty() => "dropped",
            Ok(Some(_)) => "outputs",
            Err(_) => "failed",
        };
        let outputs = answer.as_ref().ok().and_then(Option::as_ref);
        Self {
            version: run.version.to_string(),
            kind: *kind,
            event: event.to_string(),
            outcome,
            outputs: outputs.into_iter().flatten().map(RequestView::of).collect(),
            failure: answer.as_ref().err().map(FailureView::of),
            backtrace: backtrace.iter().map(FrameView::of).collect(),
            logs: run.logs.clone(),
            fuel: run.fuel,
            memory: run.memory,
            took_us: run.took_us,
        }
    }
}
