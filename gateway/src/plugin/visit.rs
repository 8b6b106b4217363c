//! Calls beside the plan: a request that is not accepted yet (`verify`, `respond`), and an attempt (`sign`, `judge`).

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use wasmtime::Store;
use wasmtime::component::{Instance, InstancePre};

use super::bindings::types::{AttributeParam, HeaderResult};
use super::bindings::{exchange, judge, respond, sign, verify};
use super::call::{Answer, Call, Ready, Report, failed, headers, request, run, wrong_type};
use super::error::{CallError, Refusal, Stop};
use super::host::{State, one_line};
use super::limits::RESPONSE_BYTES;
use super::output;
use crate::clock::Timestamp;
use crate::event::{DeliveryId, EventId, Header};

/// What a version exports of these.
pub(super) struct Visits {
    verify: Option<verify::GuestIndices>,
    respond: Option<respond::GuestIndices>,
    sign: Option<sign::GuestIndices>,
    judge: Option<judge::GuestIndices>,
}

impl Visits {
    pub(super) fn of(
        pre: &InstancePre<State>,
        offers: impl Fn(&str) -> bool,
        wrong: impl Fn(&str, wasmtime::Error) -> Refusal,
    ) -> Result<Self, Refusal> {
        let verify = offers("verify").then(|| verify::GuestIndices::new(pre)).transpose();
        let respond = offers("respond").then(|| respond::GuestIndices::new(pre)).transpose();
        let sign = offers("sign").then(|| sign::GuestIndices::new(pre)).transpose();
        let judge = offers("judge").then(|| judge::GuestIndices::new(pre)).transpose();
        Ok(Self {
            verify: verify.map_err(|error| wrong("verify", error))?,
            respond: respond.map_err(|error| wrong("respond", error))?,
            sign: sign.map_err(|error| wrong("sign", error))?,
            judge: judge.map_err(|error| wrong("judge", error))?,
        })
    }

    pub(super) fn check(&self, store: &mut Store<State>, instance: &Instance) -> wasmtime::Result<()> {
        if let Some(indices) = &self.verify {
            indices.load(&mut *store, instance).map_err(|error| wrong_type(VERIFY, &error))?;
        }
        if let Some(indices) = &self.respond {
            indices.load(&mut *store, instance).map_err(|error| wrong_type(RESPOND, &error))?;
        }
        if let Some(indices) = &self.sign {
            indices.load(&mut *store, instance).map_err(|error| wrong_type(SIGN, &error))?;
        }
        if let Some(indices) = &self.judge {
            indices.load(&mut *store, instance).map_err(|error| wrong_type(JUDGE, &error))?;
        }
        Ok(())
    }
}

const VERIFY: &str = "tidegate:plugin/verify";
const RESPOND: &str = "tidegate:plugin/respond";
const SIGN: &str = "tidegate:plugin/sign";
const JUDGE: &str = "tidegate:plugin/judge";

const NO_ATTRIBUTES: [AttributeParam<'static>; 0] = [];

/// What a plugin says of a request's sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verification {
    /// The request is theirs.
    Accept,
    /// It is not, for this reason.
    Reject(String),
}

/// A plugin's answer to a request, or a destination's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// 200 to 599.
    pub status: u16,
    /// In order, names in lower case.
    pub headers: Vec<Header>,
    /// The body.
    pub body: Bytes,
}

/// One HTTP request of a delivery, beside what it sends.
#[derive(Clone, Debug)]
pub struct Attempted {
    /// The delivery.
    pub delivery: DeliveryId,
    /// Its event.
    pub event: EventId,
    /// 1 for the first.
    pub number: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// Where it goes, without path and query.
    pub origin: String,
}

/// What a plugin makes of a destination's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// What the gateway would make of it.
    Default,
    /// The delivery is done.
    Delivered,
    /// To be tried again, no sooner than after this time if there is one.
    Retry(Option<Duration>),
    /// To be given up, for this reason.
    DeadLetter(String),
}

/// Asks whether a request is its sender's.
pub(super) fn verify(ready: &Ready, call: &Call) -> Report<Verification> {
    let Some(indices) = &ready.offers.visits.verify else { return failed(call.version, CallError::NotOffered(VERIFY)) };
    let report = arrived(ready, call, |store, instance, arrival| {
        let guest = indices.load(&mut *store, instance).map_err(|error| wrong_type(VERIFY, &error))?;
        guest.call_check(store, arrival)
    });
    let make = |verdict| match verdict {
        verify::Verdict::Accept => Ok(Verification::Accept),
        verify::Verdict::Reject(reason) => Ok(Verification::Reject(one_line(&reason, 256))),
    };
    report.and_then(make, |verdict| usize::from(*verdict == Verification::Accept))
}

/// Asks for an answer to a request that is no event.
pub(super) fn respond(ready: &Ready, call: &Call) -> Report<Option<Response>> {
    let Some(indices) = &ready.offers.visits.respond else { return failed(call.version, CallError::NotOffered(RESPOND)) };
    let report = arrived(ready, call, |store, instance, arrival| {
        let guest = indices.load(&mut *store, instance).map_err(|error| wrong_type(RESPOND, &error))?;
        guest.call_answer(store, arrival)
    });
    report.and_then(|answer| answer.map(response).transpose(), |answer| usize::from(answer.is_some()))
}

/// Asks for the headers that sign an attempt.
pub(super) fn sign(ready: &Ready, call: &Call, attempt: &Attempted) -> Report<Vec<Header>> {
    let Some(indices) = &ready.offers.visits.sign else { return failed(call.version, CallError::NotOffered(SIGN)) };
    let report = attempted(ready, call, attempt, |store, instance, attempt| {
        let guest = indices.load(&mut *store, instance).map_err(|error| wrong_type(SIGN, &error))?;
        guest.call_headers(store, attempt)
    });
    report.and_then(|headers| checked(headers, output::is_signers), Vec::len)
}

/// Asks what an answer means.
pub(super) fn judge(ready: &Ready, call: &Call, attempt: &Attempted, answer: &Response) -> Report<Judgement> {
    let Some(indices) = &ready.offers.visits.judge else { return failed(call.version, CallError::NotOffered(JUDGE)) };
    let lines: Vec<_> = answer
        .headers
        .iter()
        .map(|header| super::bindings::types::HeaderParam { name: &header.name, value: &header.value })
        .collect();
    let report = attempted(ready, call, attempt, |store, instance, attempt| {
        let guest = indices.load(&mut *store, instance).map_err(|error| wrong_type(JUDGE, &error))?;
        let response =
            exchange::ResponseParam { status: answer.status, headers: &lines, body: &answer.body, attributes: &NO_ATTRIBUTES };
        guest.call_judge(store, attempt, response)
    });
    let make = |verdict| {
        Ok(match verdict {
            judge::Verdict::Default => Judgement::Default,
            judge::Verdict::Delivered => Judgement::Delivered,
            judge::Verdict::Retry(after) => Judgement::Retry(after.map(Duration::from_millis)),
            judge::Verdict::DeadLetter(reason) => Judgement::DeadLetter(one_line(&reason, 256)),
        })
    };
    report.and_then(make, |_| 1)
}

fn arrived<T>(
    ready: &Ready,
    call: &Call,
    ask: impl FnOnce(&mut Store<State>, &Instance, exchange::Arrival<'_>) -> Answer<T>,
) -> Report<T> {
    let headers = headers(&call.request);
    let arrival = exchange::Arrival {
        request: request(&call.request, &headers),
        received_at: call.accepted_at.0,
        attributes: &NO_ATTRIBUTES,
    };
    run(ready, call, |_| 0, |store, instance| ask(store, instance, arrival))
}

fn attempted<T>(
    ready: &Ready,
    call: &Call,
    attempt: &Attempted,
    ask: impl FnOnce(&mut Store<State>, &Instance, exchange::Attempt<'_>) -> Answer<T>,
) -> Report<T> {
    let headers = headers(&call.request);
    let (delivery, event) = (attempt.delivery.to_string(), attempt.event.to_string());
    let attempt = exchange::Attempt {
        delivery_id: &delivery,
        event_id: &event,
        number: attempt.number,
        started_at: attempt.started_at.0,
        origin: &attempt.origin,
        request: request(&call.request, &headers),
        attributes: &NO_ATTRIBUTES,
    };
    run(ready, call, |_| 0, |store, instance| ask(store, instance, attempt))
}

fn response(answer: exchange::ResponseResult) -> Result<Response, Stop> {
    let exchange::ResponseResult { status, headers, body, attributes } = answer;
    if !(200..=599).contains(&status) {
        return Err(Stop::BadAnswer(format!("the status {status} is not one of 200 to 599")));
    }
    if !attributes.is_empty() {
        return Err(Stop::BadAnswer("it has attributes, of which this version knows none".into()));
    }
    let headers = checked(headers, |name| !output::is_reserved(name))?;
    let lines: usize = headers.iter().map(|header| header.name.len() + header.value.len()).sum();
    if lines + body.len() > RESPONSE_BYTES {
        return Err(Stop::OutputBytes(RESPONSE_BYTES));
    }
    Ok(Response { status, headers, body: body.into() })
}

/// Headers that may be sent, as far as `may` lets them.
fn checked(headers: Vec<HeaderResult>, may: impl Fn(&str) -> bool) -> Result<Vec<Header>, Stop> {
    let bytes: usize = headers.iter().map(|header| header.name.len() + header.value.len()).sum();
    if bytes > RESPONSE_BYTES {
        return Err(Stop::OutputBytes(RESPONSE_BYTES));
    }
    let check = |HeaderResult { name, value }: HeaderResult| {
        let shown = one_line(&name, 64);
        let name = HeaderName::from_bytes(name.as_bytes());
        let name = name.map_err(|_| Stop::BadAnswer(format!("the header's name `{shown}` is not a token")))?;
        if !may(name.as_str()) {
            return Err(Stop::BadAnswer(format!("it sets the header `{name}`, which belongs to the gateway")));
        }
        let valid = HeaderValue::from_bytes(&value).is_ok();
        let fault = || Stop::BadAnswer(format!("the value of the header `{name}` has characters that HTTP does not allow"));
        valid.then(|| Header { name: name.as_str().to_owned(), value: value.into() }).ok_or_else(fault)
    };
    headers.into_iter().map(check).collect()
}
