//! What must become of it, as a case writes it.

use std::path::Path;

use serde::{Deserialize, Deserializer};

use super::{Data, Wanted};
use crate::plugin::Interface;

/// A request of which everything is said: what is not mentioned has the default.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in super::super) struct Whole {
    pub(in super::super) method: String,
    pub(in super::super) path: String,
    pub(in super::super) query: Option<String>,
    pub(in super::super) headers: Lines,
    pub(in super::super) body: Wanted,
}

/// Header lines.
pub(in super::super) type Lines = Vec<(String, Data)>;
/// Header lines that must be there; none: no line with this name.
pub(in super::super) type LinesLike = Vec<(String, Option<Data>)>;

impl Default for Whole {
    fn default() -> Self {
        Self { method: "POST".into(), path: "/in".into(), query: None, headers: Vec::new(), body: Wanted::default() }
    }
}

/// A request of which only what is mentioned counts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Like {
    pub(in super::super) method: Option<String>,
    pub(in super::super) path: Option<String>,
    /// `Some(None)`: none.
    #[serde(default, deserialize_with = "mentioned")]
    pub(in super::super) query: Option<Option<String>>,
    #[serde(default)]
    pub(in super::super) headers: LinesLike,
    pub(in super::super) body: Option<Wanted>,
}

fn mentioned<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// A response of which everything is said.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in super::super) struct WholeAnswer {
    pub(in super::super) status: u16,
    pub(in super::super) headers: Lines,
    pub(in super::super) body: Wanted,
}

impl Default for WholeAnswer {
    fn default() -> Self {
        Self { status: 200, headers: Vec::new(), body: Wanted::default() }
    }
}

/// A response of which only what is mentioned counts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct AnswerLike {
    pub(in super::super) status: Option<u16>,
    #[serde(default)]
    pub(in super::super) headers: LinesLike,
    pub(in super::super) body: Option<Wanted>,
}

/// What a judge says.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in super::super) enum GivenJudgement {
    Default,
    Delivered,
    Retry,
    RetryAfterMs(u64),
    DeadLetter(String),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in super::super) enum Expected {
    /// A filter's answer.
    Kept(bool),
    /// A transform's answer, whole.
    Outputs(Vec<Whole>),
    /// As many requests, of which only what is mentioned counts.
    OutputsLike(Vec<Like>),
    /// Whether the request is the sender's.
    Accepted(bool),
    /// It is not, for this reason.
    Rejected(String),
    /// An answer, whole; none for an event like any other.
    Answer(Option<WholeAnswer>),
    /// An answer of which only what is mentioned counts.
    AnswerLike(AnswerLike),
    /// A signer's headers, all of them.
    Signed(Lines),
    /// Those that are mentioned.
    SignedLike(LinesLike),
    /// A judge's verdict.
    Judged(GivenJudgement),
    /// The plugin's own failure.
    Failure(GivenFailure),
    /// The gateway stops the plugin, or refuses its answer, with this code.
    Stopped(String),
    /// Any other error, by its code.
    Error(String),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct GivenFailure {
    pub(in super::super) code: String,
    pub(in super::super) message: Option<String>,
    pub(in super::super) retry: Retry,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(in super::super) enum Retry {
    Never,
    Later,
}

impl Expected {
    /// Its name in a case, and what gives such an answer; none if all of them can.
    pub(super) fn kind(&self) -> (&'static str, Option<Interface>) {
        match self {
            Self::Kept(_) => ("kept", Some(Interface::Filter)),
            Self::Outputs(_) => ("outputs", Some(Interface::Transform)),
            Self::OutputsLike(_) => ("outputs_like", Some(Interface::Transform)),
            Self::Accepted(_) => ("accepted", Some(Interface::Verify)),
            Self::Rejected(_) => ("rejected", Some(Interface::Verify)),
            Self::Answer(_) => ("answer", Some(Interface::Respond)),
            Self::AnswerLike(_) => ("answer_like", Some(Interface::Respond)),
            Self::Signed(_) => ("signed", Some(Interface::Sign)),
            Self::SignedLike(_) => ("signed_like", Some(Interface::Sign)),
            Self::Judged(_) => ("judged", Some(Interface::Judge)),
            Self::Failure(_) => ("failure", None),
            Self::Stopped(_) => ("stopped", None),
            Self::Error(_) => ("error", None),
        }
    }

    /// As [`Data::resolve`].
    pub(super) fn resolve(&mut self, directory: &Path) -> anyhow::Result<()> {
        match self {
            Self::Outputs(outputs) => outputs.iter_mut().try_for_each(|output| {
                lines(&mut output.headers, directory)?;
                output.body.resolve(directory)
            }),
            Self::OutputsLike(outputs) => outputs.iter_mut().try_for_each(|output| {
                lines_like(&mut output.headers, directory)?;
                output.body.iter_mut().try_for_each(|body| body.resolve(directory))
            }),
            Self::Answer(Some(answer)) => {
                lines(&mut answer.headers, directory)?;
                answer.body.resolve(directory)
            }
            Self::AnswerLike(answer) => {
                lines_like(&mut answer.headers, directory)?;
                answer.body.iter_mut().try_for_each(|body| body.resolve(directory))
            }
            Self::Signed(headers) => lines(headers, directory),
            Self::SignedLike(headers) => lines_like(headers, directory),
            Self::Kept(_)
            | Self::Accepted(_)
            | Self::Rejected(_)
            | Self::Answer(None)
            | Self::Judged(_)
            | Self::Failure(_)
            | Self::Stopped(_)
            | Self::Error(_) => Ok(()),
        }
    }
}

fn lines(headers: &mut Lines, directory: &Path) -> anyhow::Result<()> {
    headers.iter_mut().try_for_each(|(_, value)| value.resolve(directory))
}

fn lines_like(headers: &mut LinesLike, directory: &Path) -> anyhow::Result<()> {
    headers.iter_mut().filter_map(|(_, value)| value.as_mut()).try_for_each(|value| value.resolve(directory))
}
