//! One batch from its first event to what is told to each: the work of its leader.

use bytes::Bytes;

use super::answer::{self, Ended, Name};
use super::element;
use super::gather::{Lead, Member};
use super::{Batching, End, Own, Told, Try};
use crate::clock::Timestamp;
use crate::control::snapshot::Destination;
use crate::dispatch::admission;
use crate::dispatch::attempt::{self, answer_of, unsent};
use crate::dispatch::schedule::{History, Outcome, Then};
use crate::dispatch::wait::Wait;
use crate::dispatch::work::Worker;
use crate::egress::{OutRequest, Sent};
use crate::event::{BatchId, BatchPart, Failure, Header, Party, Request, TraceContext};
use crate::telemetry::trace::{AttemptSpan, BatchOf, Peer};

/// What is kept of a response with each of several deliveries.
const KEPT: usize = 1024;
/// Statuses that are about what was sent, and so perhaps about one event of it.
const ABOUT_EVENTS: [u16; 3] = [400, TOO_LARGE, 422];
const TOO_LARGE: u16 = 413;
const GONE: u16 = 410;

/// Gathers a batch, sends it, and tells each member what came of it. What is refused together is sent again in halves.
pub(super) async fn lead(worker: &Worker, batching: &Batching, lead: Lead) {
    lead.fill(batching.max_wait).await;
    let destination = lead.connection.destination.clone();
    let _sending = lead.turn(requests(worker, &destination)).await;
    let mut begun = Some(attempt::begin(worker, &lead.connection, None).await);
    let mut parts = vec![wanted(worker, lead.take())];
    while let Some(mut members) = parts.pop() {
        // Somebody else has what nobody waits for any more.
        members.retain(|member| !member.tell.is_closed());
        if members.is_empty() {
            continue;
        }
        let begun = match begun.take() {
            Some(begun) => begun,
            None => attempt::begin(worker, &members[0].connection, None).await,
        };
        match begun {
            Ok((started_at, is_probe)) => match send(worker, batching, members, (started_at, is_probe)).await {
                Some(again) => parts.extend(again),
                None => parts.drain(..).flatten().for_each(|member| member.end(End::Waits(Wait::NoCapacity))),
            },
            Err(wait) => members.into_iter().for_each(|member| member.end(End::Waits(wait))),
        }
    }
    if let Some(Ok((_, is_probe))) = begun {
        worker.admission.unused(&destination, is_probe);
    }
}

/// How many requests may be under way at once.
fn requests(worker: &Worker, destination: &Destination) -> usize {
    let snapshot = worker.shared.snapshots.load();
    snapshot.tenants.get(&destination.tenant).map_or(1, |tenant| destination.requests(tenant))
}

/// What may still go out. The configuration may have changed meanwhile: what it is about goes back to the schedule, and comes to the checks that
/// all work comes to.
fn wanted(worker: &Worker, members: Vec<Member>) -> Vec<Member> {
    let snapshot = worker.shared.snapshots.load();
    let is_wanted = |member: &Member| {
        let connection = snapshot.connections.get(&member.connection.id);
        let tenant = snapshot.tenants.get(&member.connection.tenant);
        connection.is_some_and(|connection| !connection.paused && connection.destination.enabled)
            && tenant.is_some_and(|tenant| tenant.deleting.is_none())
    };
    let (wanted, others): (Vec<_>, Vec<_>) = members.into_iter().partition(is_wanted);
    others.into_iter().for_each(|member| member.end(End::Back));
    wanted
}

/// Makes one request. Gives what is to be sent again, in smaller batches; none if there was no connection.
async fn send(
    worker: &Worker,
    batching: &Batching,
    members: Vec<Member>,
    (started_at, is_probe): (Timestamp, bool),
) -> Option<Vec<Vec<Member>>> {
    let shared = &worker.shared;
    let destination = members[0].connection.destination.clone();
    let part = BatchPart {
        id: BatchId::of(members.iter().map(|member| member.id)),
        size: u32::try_from(members.len()).unwrap_or(u32::MAX),
    };
    let span = AttemptSpan::start(trace_of(&members));
    let body = element::body(batching.format, members.iter().map(|member| &member.element));
    let mut copied = shared.outputs.none();
    copied.add(body.len());
    let bytes = body.len();
    let sent = match prepare(&destination, batching, (body, members.len()), part, &span, started_at) {
        Ok(request) => shared.egress.send(request, &shared.clock).await,
        Err(failure) => unsent(failure),
    };
    drop(copied);
    if sent.found_no_connection() {
        worker.admission.found_no_connection(&destination, is_probe, started_at, shared.clock.now());
        members.into_iter().for_each(|member| member.end(End::Waits(Wait::NoCapacity)));
        return None;
    }
    let now = shared.clock.now();
    let outcomes = Outcomes::of(sent, &members);
    let attempt = attempt::attempt_of(1, started_at, &outcomes.sent);
    let party = attempt.failure.as_ref().map(|failure| failure.party);
    shared.metrics.attempt(attempt.status, party, outcomes.sent.took);
    shared.metrics.batch(members.len());
    let others = members.iter().filter_map(|member| Some((member.trace?, member.connection.id)));
    let target = &destination.target;
    let peer = Peer { host: target.host(), port: target.port(), scheme: target.scheme() };
    let of = BatchOf { part, tenant: destination.tenant, destination: destination.id, bytes };
    shared.spans.batch(span, of, peer, &attempt, others);
    let (again, answer) = outcomes.judge(&members, now);
    if let Some(note) = worker.admission.ended(shared, &destination, answer, is_probe, now) {
        worker.say(destination.id, &note, now).await;
    }
    Some(outcomes.tell(worker, members, &again, |sent, own, is_divided| Try { started_at, sent, own, part, span, is_divided }))
}

/// How a request of several ended.
struct Outcomes {
    sent: Sent,
    /// Where the answer tells of each.
    each: Option<Vec<Ended>>,
}

impl Outcomes {
    fn of(mut sent: Sent, members: &[Member]) -> Self {
        let (None, Some(status)) = (&sent.failure, sent.status) else { return Self { sent, each: None } };
        let name = |member: &Member| member.id.to_string();
        let names: Vec<_> = members.iter().map(|member| Name { delivery: name(member), own: member.element.name() }).collect();
        let each = match answer::read(status, &sent.response, sent.response_cut, &names) {
            answer::Answer::ByStatus => None,
            answer::Answer::Each(each) => Some(each),
            answer::Answer::Unclear(why) => {
                let detail = format!("answered {status}, but what the answer says of each event can't be understood: {why}");
                sent.failure = Some(failure("batch_answer", detail));
                None
            }
        };
        Self { sent, each }
    }

    /// Who is to be sent again in smaller batches, and what the request says about its destination.
    fn judge(&self, members: &[Member], now: Timestamp) -> (Vec<bool>, admission::Answer<'_>) {
        let mut again = vec![false; members.len()];
        let Some(failure) = &self.sent.failure else { return (again, admission::Answer::Taken) };
        if members.len() > 1 {
            for (again, member) in again.iter_mut().zip(members) {
                *again = is_divided(self.sent.status, member);
            }
        }
        let policy = &members[0].connection.retry;
        let outcome = Outcome::Failed { failure, status: self.sent.status, not_before: None };
        let next = policy.next(History { attempts: 1, since: now }, outcome, now, &mut rand::rng());
        let is_known = !again.contains(&true) && !self.sent.token_ended;
        let answer = if is_known { answer_of(&next, failure) } else { admission::Answer::Nothing };
        (again, answer)
    }

    /// Tells each what came of it; gives the others in smaller batches.
    fn tell(
        mut self,
        worker: &Worker,
        members: Vec<Member>,
        again: &[bool],
        made: impl Fn(Sent, Option<Own>, bool) -> Try,
    ) -> Vec<Vec<Member>> {
        let size = members.len();
        let most = worker.shared.egress.max_response();
        let kept = if size > 1 { most.min(KEPT) } else { most };
        if self.sent.response.len() > kept {
            // A copy, so that the rest is not kept along.
            self.sent.response = Bytes::copy_from_slice(&self.sent.response[..kept]);
            self.sent.response_cut = true;
        }
        let mut divided = Vec::new();
        for (place, mut member) in members.into_iter().enumerate() {
            let own = self.each.as_ref().map(|each| own(each[place], &self.sent));
            member.tries.push(made(self.sent.clone(), own, again[place]));
            if again[place] {
                divided.push(member);
            } else {
                member.end(End::Attempted);
            }
        }
        if divided.is_empty() {
            return Vec::new();
        }
        let half = divided.len().min(size / 2).max(1);
        worker.batches.divide(&divided, half);
        let mut halves = Vec::new();
        while divided.len() > half {
            let rest = divided.split_off(divided.len() - half);
            halves.push(rest);
        }
        halves.push(divided);
        halves
    }
}

impl Member {
    fn end(self, end: End) {
        // Whoever does not wait any more has put it back.
        let _ = self.tell.send(Told { tries: self.tries, end });
    }
}

fn own(ended: Ended, sent: &Sent) -> Own {
    let status = sent.status.unwrap_or_default();
    match ended {
        Ended::Taken(own) => Own { status: own, failure: None },
        Ended::Failed(None) => {
            let failure = failure("batch_item", format!("answered {status}, and that this event of the batch failed"));
            Own { status: None, failure: Some(failure) }
        }
        Ended::Failed(Some(own)) => {
            let code = if own == GONE { Failure::GONE } else { "status" };
            let failure = failure(code, format!("answered {status}, and {own} for this event of the batch"));
            Own { status: Some(own), failure: Some(Failure { retryable: own != GONE, ..failure }) }
        }
    }
}

fn failure(code: &str, detail: String) -> Failure {
    Failure { party: Party::Destination, code: code.to_owned(), detail: format!("the destination {detail}"), retryable: true }
}

/// Whether a refusal of several may be about others than this one.
fn is_divided(status: Option<u16>, member: &Member) -> bool {
    let Some(status) = status else { return false };
    match member.connection.retry.ruling(status) {
        Some(Then::Deliver) => false,
        Some(Then::Retry) => status == TOO_LARGE,
        Some(Then::DeadLetter) => (400..500).contains(&status),
        None => ABOUT_EVENTS.contains(&status),
    }
}

/// The trace that the request is in: one that is kept, if there is any.
fn trace_of(members: &[Member]) -> Option<TraceContext> {
    let mut traces = members.iter().filter_map(|member| member.trace);
    traces.clone().find(|trace| trace.sampled).or_else(|| traces.next())
}

fn prepare(
    destination: &Destination,
    batching: &Batching,
    (body, events): (Bytes, usize),
    part: BatchPart,
    span: &AttemptSpan,
    now: Timestamp,
) -> Result<OutRequest, Failure> {
    let kind = Bytes::from_static(batching.format.content_type().as_bytes());
    let headers = vec![Header { name: "content-type".to_owned(), value: kind }];
    let request = Request { method: "POST".to_owned(), headers, body, ..Request::default() };
    let request = OutRequest::new(&destination.target, &request, destination.timeout).map_err(|error| error.failure())?;
    let mut request = attempt::dressed(request, destination, part.id.to_string(), span, now)?;
    request.reads = Some(answer::longest(events));
    Ok(request)
}
