//! Notices: the gateway tells tenants, and its operator, what became of their destinations, plugins and queues.
//!
//! A notice is an event like any other, accepted into the tenant's source of the type `notices`, whose connections lead to wherever the
//! tenant wants it: filters, plugins, signatures, retries, history and dead letters are the ordinary ones. Who has no such source is
//! told nothing. The operator's tenant (`notices.tenant`) hears of all tenants.
//!
//! # How it comes about
//! - Every [`Rules::every`] a node looks at the shards that it owns ([`crate::dispatch::standings`]), at what is noted of destinations, and
//!   now and then at what is queued. Nothing is asked of what accepts or delivers events, and nothing waits for a notice.
//! - The owner of a tenant's home shard tells. Owners of the tenant's other shards say what they see in the store ([`seen`]).
//! - An [`alarm`] for each condition of each thing says when something is to be told: at once when it begins, and once it has been over
//!   for [`Rules::hold`]; nothing of one kind about one thing more often than every [`Rules::quiet`]. A measure that has passed its threshold
//!   is over below half of it. What has changed meanwhile is told when that is over, so the last notice is true in the end.
//!
//! # After a crash
//! Alarms are kept in the store, a note each under a topic of their shard. A notice is noted before it is accepted and the note closed
//! after it, so the next owner sends again what may not have been: with the same event id, and so the same `webhook-id`, and with a dedup
//! key, so that within [`Rules::quiet`] even that is dropped. What began and ended while nobody looked is not told.
//!
//! # No loops
//! A notice never makes notices: a destination that notices go to, a plugin on the way there, and dead letters of notices are told of to
//! nobody. They are in the API and the metrics all the same.

mod alarm;
mod notice;
mod post;
mod receivers;
mod seen;
mod so;
mod watch;

use std::time::Duration;

pub use notice::{Measure, Notice, NoticeData, NoticeKind, NoticeReason, NoticeThing, NoticeUnit, PluginThing};
pub use watch::{Parts, run};

/// When something is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How often conditions are looked at.
    pub every: Duration,
    /// The least time between two notices of one kind about one thing.
    pub quiet: Duration,
    /// For how long something must be over before that is told.
    pub hold: Duration,
    /// So many new dead letters of a tenant within the window are told of.
    pub dead_letters: u64,
    /// That window.
    pub dead_letters_window: Duration,
    /// Such a part of `plan.queued_bytes` is told of, percent.
    pub backlog_percent: u8,
    /// The tenant that hears of all tenants, by its name.
    pub tenant: Option<String>,
}
