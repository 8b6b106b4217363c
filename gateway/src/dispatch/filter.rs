//! The declarative filter: JSON that says which events a connection takes. Pure; parsed once per connection revision.
//!
//! ```json
//! {"headers": {"x-github-event": "push"},
//!  "body": {"ref": {"$startsWith": "refs/heads/"}, "commits": {"author": {"name": "ada"}}, "forced": {"$neq": true}}}
//! ```
//!
//! # Parts
//! `body` (as JSON; missing when it is empty or not JSON), `headers` (names in any case), `query`, `path`, `method`. All that are named must
//! match. `$or` and `$and` (lists) and `$not` (one) combine whole filters as well as conditions on one value.
//!
//! # Conditions
//! - A plain value is equality. An object descends: every key in it must match. A list wants an array that has a match for each of its
//!   items.
//! - `$eq $neq $gt $gte $lt $lte`; `$in` and `$nin` with a list ("is one of"), or with a single value like `$contains` ("has it
//!   inside": a part of a text, an element of an array); `$startsWith`, `$endsWith`, `$regex` (linear time); `$exist: true|false`. Several
//!   operators on one value must all hold.
//! - An operand may be `{"$ref": "body.some.key"}`: another value of the same event.
//!
//! # What decides the hard cases
//! - **A missing key matches nothing** unless `$exist: false` asks for it: not `null`, not `$neq`, not `$nin`, and not a `$not` on that
//!   value. `$not` negates what it encloses wherever the value that it stands on is there: `{"a": {"$not": 1}}` wants an `a`,
//!   `{"$not": {"body": {"a": 1}}}` does not.
//! - **Arrays**: a condition holds for an array when one element satisfies all of it (`{"$gt": 1, "$lt": 5}` wants one element between).
//!   `$neq` and `$nin` want that no element is equal. Arrays directly inside arrays are not searched.
//! - **Types are not mixed**: `"5"` is not `5`. Headers, query and path are texts, and there a number or boolean in the filter is
//!   compared with what the text says. Texts are ordered by code point, which orders RFC 3339 times.
//! - A repeated header or query parameter behaves like an array.
//!
//! # Limits
//! Depth [`MAX_DEPTH`], [`MAX_NODES`] conditions, texts of [`MAX_TEXT`] bytes, compiled expressions of [`MAX_REGEX`] bytes, and
//! [`MAX_STEPS`] steps to evaluate one event: past them a filter fails by name, and does not match.

mod compile;
mod evaluate;
mod view;

use serde_json::Value as Json;

pub use view::View;

/// How deeply conditions may be nested: each key, operator and list position is a level.
pub const MAX_DEPTH: usize = 32;
/// Conditions in one filter.
pub const MAX_NODES: usize = 512;
/// Bytes in one text of a filter.
pub const MAX_TEXT: usize = 4096;
/// Bytes of memory that one compiled expression may take.
pub const MAX_REGEX: usize = 256 * 1024;
/// Steps of one evaluation: a value looked at, or 64 bytes of a text.
pub const MAX_STEPS: u32 = 1_000_000;

/// A parsed filter.
#[derive(Clone, Debug)]
pub struct Filter {
    root: Root,
    needs_body: bool,
}

/// A filter that cannot be used, and where in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", if path.is_empty() { "filter" } else { path })]
pub struct FilterError {
    /// Where: `body.items.$gt`, `$or[1].headers`.
    pub path: String,
    /// What.
    pub problem: Problem,
}

/// What is wrong with a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A filter and each part's combination is an object.
    #[error("must be an object")]
    NotAnObject,
    /// Not a part of an event.
    #[error("is not a part of an event: use body, headers, query, path, method, $or, $and or $not")]
    UnknownPart,
    /// An operator that does not exist.
    #[error("is not an operator")]
    UnknownOperator,
    /// The operand has the wrong type.
    #[error("needs {0}")]
    Operand(&'static str),
    /// A reference that leads nowhere.
    #[error("is not a reference to a part of the event, like body.key")]
    Reference,
    /// An expression that does not compile, or that is too large.
    #[error("is not a usable expression: {0}")]
    Regex(String),
    /// Nested too deeply.
    #[error("is nested more than {MAX_DEPTH} deep")]
    TooDeep,
    /// Too many conditions.
    #[error("has more than {MAX_NODES} conditions")]
    TooManyNodes,
    /// A text is too long.
    #[error("is longer than {MAX_TEXT} bytes")]
    TextTooLong,
}

/// The filter took more steps on this event than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the filter needs more than {MAX_STEPS} steps for this event")]
pub struct TooCostly;

impl Filter {
    /// Parses a filter.
    pub fn parse(source: &Json) -> Result<Self, FilterError> {
        compile::filter(source)
    }

    /// Whether the event matches.
    pub fn matches(&self, event: &View<'_>) -> Result<bool, TooCostly> {
        evaluate::matches(&self.root, event)
    }

    /// Whether any condition looks into the body, so that it must be parsed.
    pub fn needs_body(&self) -> bool {
        self.needs_body
    }
}

/// A condition on a whole event.
#[derive(Clone, Debug)]
enum Root {
    All(Vec<Root>),
    Any(Vec<Root>),
    Not(Box<Root>),
    Part(Part, Node),
}

/// What of an event a condition stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Method,
    Path,
    Headers,
    Query,
    Body,
}

/// A condition on a value, which may be missing.
#[derive(Clone, Debug)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    /// `asks`: whether the enclosed condition speaks of existence, so that it has an opinion on a missing value.
    Not {
        node: Box<Node>,
        asks: bool,
    },
    Exist(bool),
    /// Every key, in one object.
    Object(Vec<(String, Node)>),
    /// For each, an element that matches.
    Elements(Vec<Node>),
    /// All of them, by the value itself or by one element.
    Tests(Vec<Test>),
    /// A part of a text, or an element of an array.
    Contains(Operand),
    /// There, and not so.
    ButNot(Box<Node>),
}

/// A test of one value.
#[derive(Clone, Debug)]
enum Test {
    Equal(Operand),
    Greater(Operand),
    GreaterOrEqual(Operand),
    Less(Operand),
    LessOrEqual(Operand),
    OneOf(Vec<Json>),
    StartsWith(Operand),
    EndsWith(Operand),
    Regex(regex::Regex),
}

/// What a value is compared with.
#[derive(Clone, Debug)]
enum Operand {
    Literal(Json),
    Reference(Part, Vec<String>),
}

#[cfg(test)]
mod tests;
