//! What became of a case.

use std::fmt;

use super::case::{Case, CaseTables, TableUse};
use super::differences::shown;
use crate::event::{Header, PluginRun, Request, VersionHash};
use crate::plugin::{Call, CallError, Frame, Interface, Judgement, Limits, Report, Response, Runtime, Verification};

/// How a call ended.
#[derive(Debug)]
pub struct Outcome {
    /// The answer.
    pub result: Result<Answer, CallError>,
    /// What it used, and what it logged.
    pub run: PluginRun,
    /// Where it was when it was stopped, innermost first.
    pub backtrace: Vec<Frame>,
    /// What it made of its table.
    pub table: TableUse,
}

/// What a plugin answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A filter.
    Kept(bool),
    /// A transform.
    Outputs(Vec<Request>),
    /// A verifier.
    Verified(Verification),
    /// A responder.
    Answered(Option<Response>),
    /// A signer.
    Signed(Vec<Header>),
    /// A judge.
    Judged(Judgement),
}

/// One thing that is not as it is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What: `outputs[0].body.text`.
    pub place: String,
    /// As the case says.
    pub expected: String,
    /// As it is.
    pub got: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, expected, got } = self;
        write!(f, "{place}\n  expected  {expected}\n  got       {got}")
    }
}

/// Where cases are run: the gateway's own sandbox, over tables in memory.
#[derive(Clone)]
pub struct Bench {
    /// The sandbox, made with [`Bench::tables`].
    pub runtime: Runtime,
    /// The tables that its plugins ask.
    pub tables: CaseTables,
}

impl Bench {
    /// Runs a case, with other limits than its own if `limits` says so.
    pub async fn run(&self, case: &Case, version: VersionHash, ask: Interface, limits: impl FnOnce(Limits) -> Limits) -> Outcome {
        let mut call = case.call(version, ask);
        call.limits = limits(call.limits);
        let runtime = &self.runtime;
        match ask {
            Interface::Filter => {
                self.with_table(case, call, async |call| Outcome::of(runtime.filter(call).await, Answer::Kept)).await
            }
            Interface::Transform => {
                self.with_table(case, call, async |call| Outcome::of(runtime.transform(call).await, Answer::Outputs)).await
            }
            Interface::Verify => Outcome::of(runtime.verify(call).await, Answer::Verified),
            Interface::Respond => Outcome::of(runtime.respond(call).await, Answer::Answered),
            Interface::Sign => Outcome::of(runtime.sign(call, case.attempted()).await, Answer::Signed),
            Interface::Judge => Outcome::of(runtime.judge(call, case.attempted(), case.response()).await, Answer::Judged),
        }
    }

    async fn with_table(&self, case: &Case, mut call: Call, ask: impl AsyncFnOnce(Call) -> Outcome) -> Outcome {
        let plugin = case.begin(&self.tables, &mut call);
        let outcome = ask(call).await;
        Outcome { table: self.tables.end(plugin), ..outcome }
    }
}

impl Outcome {
    fn of<T>(report: Report<T>, answer: impl FnOnce(T) -> Answer) -> Self {
        let Report { result, run, backtrace, .. } = report;
        Self { result: result.map(answer), run, backtrace, table: TableUse::default() }
    }

    /// In a few words.
    pub(super) fn brief(&self) -> String {
        match &self.result {
            Ok(answer) => answer.brief(),
            Err(CallError::Failed { code, message, retryable }) => {
                format!("failure: {code}: {message} (retry {})", if *retryable { "later" } else { "never" })
            }
            Err(error @ CallError::Stopped(_)) => format!("stopped: {}: it {error}", error.code()),
            Err(error) => format!("error: {}: {error}", error.code()),
        }
    }
}

impl Answer {
    /// In a few words.
    pub(super) fn brief(&self) -> String {
        match self {
            Self::Kept(kept) => format!("kept: {kept}"),
            Self::Outputs(outputs) => match &outputs[..] {
                [] => "no outputs".into(),
                [first, ..] => format!("{} outputs, the first with the body {}", outputs.len(), shown(&first.body)),
            },
            Self::Verified(Verification::Accept) => "accepted".into(),
            Self::Verified(Verification::Reject(reason)) => format!("rejected: {reason:?}"),
            Self::Answered(None) => "answer: none".into(),
            Self::Answered(Some(Response { status, body, .. })) => format!("answer: {status} with the body {}", shown(body)),
            Self::Signed(headers) => format!("signed: {} headers", headers.len()),
            Self::Judged(Judgement::Default) => "judged: default".into(),
            Self::Judged(Judgement::Delivered) => "judged: delivered".into(),
            Self::Judged(Judgement::Retry(None)) => "judged: retry".into(),
            Self::Judged(Judgement::Retry(Some(after))) => format!("judged: retry_after_ms {}", after.as_millis()),
            Self::Judged(Judgement::DeadLetter(reason)) => format!("judged: dead_letter {reason:?}"),
        }
    }
}
