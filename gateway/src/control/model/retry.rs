use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Faults;
use crate::config::units;
use crate::dispatch::schedule::{Backoff, RetryPolicy, Rule, Then};

/// Rules of one policy.
const MAX_RULES: usize = 32;
/// Thousandths of a delay that jitter takes away of other delays than exponential ones.
const SMALL_JITTER: u16 = 100;

/// When failed deliveries are tried again: by default after exponential delays with full jitter. Retry-After is obeyed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetrySpec {
    /// Attempts altogether, the first one included. Default 18.
    pub max_attempts: u32,
    /// How delays grow. Default `exponential`.
    #[serde(skip_serializing_if = "is_default")]
    pub backoff: BackoffSpec,
    /// The delays of a `list`, from 1 to 49, each at most 7 days; after the last of them a delivery is given up.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["10s", "1m", "10m"]))]
    pub delays: Vec<DelaySpec>,
    /// The first delay; with `exponential` it doubles with each attempt, with `linear` it is added again. Default 10 s.
    #[serde(with = "units::duration")]
    #[schema(value_type = String, example = "10s")]
    pub base: Duration,
    /// No delay exceeds this, but for those of a list. Default 1 day.
    #[serde(with = "units::duration")]
    #[schema(value_type = String, example = "1day")]
    pub max_delay: Duration,
    /// How much of a delay chance takes away: `none`, up to a half (`equal`), up to all of it (`full`), or up to a share from 0 to 1. Default
    /// `full` for exponential delays, 0.1 for others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<JitterSpec>,
    /// How far away a destination may push the next attempt by Retry-After. Default 1 day.
    #[serde(with = "units::duration")]
    #[schema(value_type = String, example = "1day")]
    pub max_retry_after: Duration,
    /// How long after the event was accepted the last attempt may start. Default 3 days.
    #[serde(with = "units::duration")]
    #[schema(value_type = String, example = "3days")]
    pub max_age: Duration,
    /// What statuses mean, the first that fits, at most 32. Without one every status but 2xx and 410 is tried again, and 410 disables the
    /// destination.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on: Vec<RuleSpec>,
}

/// How delays grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackoffSpec {
    /// Each is twice the one before.
    #[default]
    Exponential,
    /// Each is longer than the one before by `base`.
    Linear,
    /// Those in `delays`.
    List,
}

/// A delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String)]
pub struct DelaySpec(#[serde(with = "units::duration")] pub Duration);

/// How much of a delay chance takes away.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected `none`, `equal`, `full` or a share from 0 to 1")]
pub enum JitterSpec {
    /// By name.
    Named(JitterName),
    /// Up to this share, from 0 to 1.
    Share(f64),
}

/// How much of a delay chance takes away, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JitterName {
    /// Nothing.
    None,
    /// Up to a half.
    Equal,
    /// Up to all of it.
    Full,
}

/// What a status means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleSpec {
    /// A status (`409`), a class (`4xx`), or a range (`500-502`); of those that are not 2xx.
    #[schema(example = "409")]
    pub status: String,
    /// What is done.
    #[serde(rename = "do")]
    pub then: Then,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Default for RetrySpec {
    fn default() -> Self {
        let policy = RetryPolicy::default();
        Self {
            max_attempts: policy.max_attempts,
            backoff: BackoffSpec::default(),
            delays: Vec::new(),
            base: Duration::from_millis(policy.base_ms),
            max_delay: Duration::from_millis(policy.max_delay_ms),
            jitter: None,
            max_retry_after: Duration::from_millis(policy.max_retry_after_ms),
            max_age: Duration::from_millis(policy.max_age_ms),
            on: Vec::new(),
        }
    }
}

impl RetrySpec {
    /// Checks it, as what stands in `field`, and makes it ready for use.
    pub(in crate::control) fn prepare(&self, field: &str, faults: &mut Faults) -> RetryPolicy {
        let policy = RetryPolicy {
            max_attempts: self.max_attempts,
            backoff: self.prepare_backoff(field, faults),
            base_ms: millis(self.base),
            max_delay_ms: millis(self.max_delay),
            jitter: self.prepare_jitter(field, faults),
            max_retry_after_ms: millis(self.max_retry_after),
            max_age_ms: millis(self.max_age),
            rules: self.prepare_rules(field, faults),
        };
        for problem in policy.problems() {
            let (name, show): (&str, fn(u64) -> String) = match problem.field.strip_suffix("_ms") {
                Some(name) => (name, |ms| humantime::format_duration(Duration::from_millis(ms)).to_string()),
                None => (problem.field, |count| count.to_string()),
            };
            let (min, max, value) = (show(problem.min), show(problem.max), show(problem.value));
            faults.add(format!("{field}.{name}"), format!("must be from {min} to {max}, not {value}"));
        }
        policy
    }

    fn prepare_backoff(&self, field: &str, faults: &mut Faults) -> Backoff {
        let delays = format!("{field}.delays");
        match self.backoff {
            BackoffSpec::List => {
                if self.delays.is_empty() || self.delays.len() > RetryPolicy::MAX_DELAYS {
                    let most = RetryPolicy::MAX_DELAYS;
                    faults.add(&delays, format!("a list has from 1 to {most} delays, not {}", self.delays.len()));
                }
                for (index, DelaySpec(delay)) in self.delays.iter().enumerate() {
                    faults.time(&format!("{delays}[{index}]"), *delay, Duration::ZERO, RetryPolicy::MAX_DELAY);
                }
                return Backoff::List(self.delays.iter().map(|DelaySpec(delay)| millis(*delay)).collect());
            }
            _ if !self.delays.is_empty() => faults.add(&delays, "are those of `backoff: list`: name it, or leave them out"),
            _ => {}
        }
        if self.backoff == BackoffSpec::Linear { Backoff::Linear } else { Backoff::Exponential }
    }

    fn prepare_jitter(&self, field: &str, faults: &mut Faults) -> u16 {
        match self.jitter {
            None if self.backoff == BackoffSpec::Exponential => 1000,
            None => SMALL_JITTER,
            Some(JitterSpec::Named(JitterName::None)) => 0,
            Some(JitterSpec::Named(JitterName::Equal)) => 500,
            Some(JitterSpec::Named(JitterName::Full)) => 1000,
            Some(JitterSpec::Share(share)) => {
                if !(0.0..=1.0).contains(&share) {
                    faults.add(format!("{field}.jitter"), format!("a share must be from 0 to 1, not {share}"));
                    return 0;
                }
                (share * 1000.0).round() as u16
            }
        }
    }

    fn prepare_rules(&self, field: &str, faults: &mut Faults) -> Vec<Rule> {
        if self.on.len() > MAX_RULES {
            faults.add(format!("{field}.on"), format!("there may be {MAX_RULES}"));
            return Vec::new();
        }
        let mut rules = Vec::new();
        for (index, rule) in self.on.iter().enumerate() {
            match statuses(&rule.status) {
                Some((from, to)) => rules.push(Rule { from, to, then: rule.then }),
                None => faults.add(
                    format!("{field}.on[{index}].status"),
                    "must be a status, a class or a range between 100 and 599 that has none of 2xx: `409`, `4xx` or `500-502`",
                ),
            }
        }
        rules
    }
}

/// The first and the last status that a text means.
fn statuses(text: &str) -> Option<(u16, u16)> {
    let status = |text: &str| text.parse::<u16>().ok().filter(|status| text.len() == 3 && (100..600).contains(status));
    let (from, to) = match (text.strip_suffix("xx"), text.split_once('-')) {
        (Some(class), _) => {
            let first = status(&format!("{class}00"))?;
            (first, first + 99)
        }
        (None, Some((from, to))) => (status(from)?, status(to)?),
        (None, None) => (status(text)?, status(text)?),
    };
    (from <= to && (to < 200 || from >= 300)).then_some((from, to))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_about_a_status_a_class_or_a_range() {
        for (text, expected) in
            [("409", (409, 409)), ("4xx", (400, 499)), ("500-502", (500, 502)), ("1xx", (100, 199)), ("301-599", (301, 599))]
        {
            assert_eq!(statuses(text), Some(expected), "{text}");
        }
        for text in
            ["", "xx", "2xx", "200", "99", "600", "6xx", "502-500", "199-300", "4x", "+409", "0409", "409-", "a-b", "4xx-5xx"]
        {
            assert_eq!(statuses(text), None, "{text}");
        }
    }

    #[test]
    fn what_was_written_before_there_was_a_choice_means_what_it_meant() {
        let old = r#"{"max_attempts": 3, "base": "1s", "max_delay": "1m", "max_retry_after": "1h", "max_age": "1day"}"#;
        let spec: RetrySpec = serde_json::from_str(old).expect("valid then, valid now");
        let mut faults = Faults::default();
        let policy = spec.prepare("retry", &mut faults);
        assert!(faults.0.is_empty());
        assert_eq!((&policy.backoff, policy.jitter, policy.rules.len()), (&Backoff::Exponential, 1000, 0));
        let again = serde_json::to_value(&spec).expect("plain data");
        assert_eq!(again, serde_json::from_str::<serde_json::Value>(old).expect("JSON"), "and a release from then reads it");
    }
}
