//! Where a trace begins: the sender's context, and the sampling decision.

use crate::event::TraceContext;

/// Whether a sender's context may be the parent of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It is the parent, and its sampling flag is followed by parent-based samplers.
    Parent,
    /// It is a link: strangers decide neither our trace ids nor our sampling.
    Link,
}

/// Decides which traces are kept, by `OTEL_TRACES_SAMPLER`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// For traces that begin here.
    pub root: Root,
    /// Whether a parent's flag is followed.
    pub parent_based: bool,
}

/// How traces that begin here are sampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Root {
    /// All.
    On,
    /// None.
    Off,
    /// This share of them, by trace id.
    Ratio(f64),
}

impl Default for Sampler {
    /// The specification's default: `parentbased_always_on`.
    fn default() -> Self {
        Self { root: Root::On, parent_based: true }
    }
}

impl Sampler {
    fn decide(&self, trace_id: u128, parent: Option<TraceContext>) -> bool {
        if let (true, Some(parent)) = (self.parent_based, parent) {
            return parent.sampled;
        }
        match self.root {
            Root::On => true,
            Root::Off => false,
            // The low 63 bits, as the SDKs do, so that services with the same ratio keep the same traces.
            Root::Ratio(ratio) => (((trace_id as u64) >> 1) as f64) < ratio * (1u64 << 63) as f64,
        }
    }
}

/// The trace of a request that came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Incoming {
    /// What the event carries: the accept span's own context.
    pub context: Option<TraceContext>,
    /// The sender's span, if it is trusted.
    pub parent: Option<u64>,
    /// The sender's context, if it is not.
    pub link: Option<TraceContext>,
}

impl Incoming {
    /// `sampler` is none where no spans are recorded: then a trusted sender's context is passed on as it is.
    pub(super) fn decide(sampler: Option<&Sampler>, traceparent: Option<&[u8]>, trust: Trust) -> Self {
        let sender = traceparent.and_then(parse);
        let parent = sender.filter(|_| trust == Trust::Parent);
        let Some(sampler) = sampler else {
            return Self { context: parent, ..Self::default() };
        };
        let trace_id = parent.map_or_else(trace_id, |parent| parent.trace_id);
        let context = TraceContext { trace_id, span_id: span_id(), sampled: sampler.decide(trace_id, parent) };
        Self { context: Some(context), parent: parent.map(|parent| parent.span_id), link: sender.filter(|_| trust == Trust::Link) }
    }
}

fn trace_id() -> u128 {
    rand::random::<u128>().max(1)
}

/// A new span's id.
pub(super) fn span_id() -> u64 {
    rand::random::<u64>().max(1)
}

/// The header's value, version 00 (<https://www.w3.org/TR/trace-context/#traceparent-header>).
pub(super) fn traceparent(context: TraceContext) -> String {
    format!("00-{:032x}-{:016x}-{:02x}", context.trace_id, context.span_id, u8::from(context.sampled))
}

/// Reads version 00, and what later versions keep of it. Anything else is no context.
fn parse(value: &[u8]) -> Option<TraceContext> {
    let value = std::str::from_utf8(value).ok()?;
    let mut fields = value.split('-');
    let version = hex(fields.next()?, 2)?;
    let trace_id = hex(fields.next()?, 32)?;
    let span_id = u64::try_from(hex(fields.next()?, 16)?).ok()?;
    let flags = hex(fields.next()?, 2)?;
    let more = fields.next().is_some();
    if version == 0xff || (version == 0 && more) || trace_id == 0 || span_id == 0 {
        return None;
    }
    Some(TraceContext { trace_id, span_id, sampled: flags & 1 == 1 })
}

fn hex(text: &str, digits: usize) -> Option<u128> {
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != digits || !text.bytes().all(lower) {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}
