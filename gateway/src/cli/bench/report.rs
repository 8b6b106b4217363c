//! Figures, as JSON and as a table.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::machine::{Fsync, Machine, is_release};
use super::statistics::Spread;

/// All that a run prints.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) machine: Machine,
    pub(super) figures: Vec<Figure>,
}

/// One figure beside its floor.
#[derive(Debug, Serialize)]
pub(super) struct Figure {
    pub(super) name: String,
    /// The median of the repetitions.
    pub(super) value: f64,
    pub(super) unit: &'static str,
    /// The floor's median in the same run.
    pub(super) floor: Option<f64>,
    /// Value by floor; none in a debug build, where it means nothing.
    pub(super) ratio: Option<f64>,
    pub(super) goal: Option<f64>,
    /// What the goal is a bound of.
    pub(super) goal_is: Option<&'static str>,
    pub(super) met: Option<bool>,
    #[serde(flatten)]
    pub(super) details: Details,
}

/// What stands beside a figure.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Details {
    /// Smallest and largest value of the repetitions.
    pub(super) spread: [f64; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) floor_spread: Option<[f64; 2]>,
    /// What the figure is of.
    pub(super) what: String,
    pub(super) repetitions: usize,
    /// Events of all repetitions.
    pub(super) events: u64,
    /// Events a second while it was measured.
    pub(super) per_second: f64,
    /// CPU for each event by process.
    pub(super) cpu_us: BTreeMap<&'static str, f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fsync_ms: Option<Fsync>,
    /// Time to the 202 under this closed loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) answer_ms: Option<Times>,
    /// From sending to the arrival of the first attempt under this closed loop: of a full queue, for information.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) latency_ms: Option<Times>,
    /// Latencies of all repetitions under an open loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) percentiles_ms: Option<Percentiles>,
    /// What was seen in each phase of the run, medians over the repetitions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) phases: Vec<Phase>,
    /// Requests answered with something else than 202, or not at all.
    pub(super) refused: u64,
    /// Acknowledged and not arrived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) missing: Option<u64>,
    /// Arrived more than once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) duplicates: Option<u64>,
}

/// A phase of `slow-store`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Phase {
    pub(super) name: &'static str,
    /// The normal lane, from due to arrival.
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// One durable write through the same proxy.
    pub(super) write_p50_ms: f64,
    pub(super) write_p99_ms: f64,
    /// Of what the low lane was due in this phase, what arrived in it: more than 1 while it catches up.
    pub(super) low_share: f64,
}

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Times {
    pub(super) p50: f64,
    pub(super) p99: f64,
}

/// Percentiles of many repetitions together, in milliseconds, from a histogram of three digits.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Percentiles {
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

impl Percentiles {
    /// Of microseconds.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn of(micros: &Histogram<u64>) -> Self {
        let at = |share| rounded(micros.value_at_quantile(share) as f64 / 1e3);
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p99_9: at(0.999), max: rounded(micros.max() as f64 / 1e3) }
    }
}

/// What a figure should reach.
#[derive(Clone, Copy, Debug)]
pub(super) enum Goal {
    /// Value by floor.
    RatioAtMost(f64),
    /// The value itself, at least.
    AtLeast(f64),
    /// The value itself, at most.
    AtMost(f64),
}

impl Figure {
    /// Judges the medians.
    pub(super) fn new(
        name: String,
        unit: &'static str,
        value: Spread,
        floor: Option<Spread>,
        goal: Option<Goal>,
        details: Details,
    ) -> Self {
        let ratio = floor.map(|floor| value.median / floor.median);
        let (goal_is, bound, met) = match goal {
            Some(Goal::RatioAtMost(bound)) => (Some("ratio at most"), Some(bound), ratio.map(|ratio| ratio <= bound)),
            Some(Goal::AtLeast(bound)) => (Some("value at least"), Some(bound), Some(value.median >= bound)),
            Some(Goal::AtMost(bound)) => (Some("value at most"), Some(bound), Some(value.median <= bound)),
            None => (None, None, None),
        };
        Self {
            name,
            value: rounded(value.median),
            unit,
            floor: floor.map(|floor| rounded(floor.median)),
            ratio: ratio.filter(|_| is_release()).map(rounded),
            goal: bound,
            goal_is,
            met: met.filter(|_| is_release()),
            details: Details {
                spread: [rounded(value.min), rounded(value.max)],
                floor_spread: floor.map(|floor| [rounded(floor.min), rounded(floor.max)]),
                ..details
            },
        }
    }
}

/// Three decimals: more is noise.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// The table.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !is_release() {
            writeln!(f, "profile: debug. THESE FIGURES DO NOT COUNT; build with --release.\n")?;
        }
        writeln!(f, "{}\n", self.machine)?;
        let head = ["figure", "value", "spread", "floor", "ratio", "goal", "met"];
        writeln!(f, "{:24} {:>16} {:>17} {:>10} {:>7} {:>9} {:>4}", head[0], head[1], head[2], head[3], head[4], head[5], head[6])?;
        for figure in &self.figures {
            writeln!(f, "{figure}")?;
        }
        for figure in &self.figures {
            write!(f, "\n{}", Described(figure))?;
        }
        Ok(())
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dash = || "-".to_owned();
        let value = format!("{} {}", short(self.value), self.unit);
        let spread = format!("{}..{}", short(self.details.spread[0]), short(self.details.spread[1]));
        let floor = self.floor.map_or_else(dash, short);
        let ratio = self.ratio.map_or_else(dash, |ratio| format!("{ratio:.2}"));
        let goal = match (self.goal, self.goal_is) {
            (Some(goal), Some("value at least")) => format!(">= {goal}"),
            (Some(goal), _) => format!("<= {goal}"),
            (None, _) => dash(),
        };
        let met = self.met.map_or("-", |met| if met { "yes" } else { "no" });
        write!(f, "{:24} {value:>16} {spread:>17} {floor:>10} {ratio:>7} {goal:>9} {met:>4}", self.name)
    }
}

/// The sentence below the table.
struct Described<'a>(&'a Figure);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let details = &self.0.details;
        write!(f, "{}: {}; {} events, {}/s", self.0.name, details.what, details.events, short(details.per_second))?;
        let mut cpu = String::new();
        for (process, us) in &details.cpu_us {
            write!(cpu, " {process} {us:.1}")?;
        }
        if !cpu.is_empty() {
            write!(f, "; CPU us/event:{cpu}")?;
        }
        if let Some(fsync) = details.fsync_ms {
            write!(f, "; fsync {:.2} ms (max {:.1})", fsync.median, fsync.max)?;
        }
        if let Some(times) = details.answer_ms {
            write!(f, "; answered in p50 {:.2} ms, p99 {:.2} ms", times.p50, times.p99)?;
        }
        if let Some(times) = details.latency_ms {
            write!(f, "; arrived in p50 {:.1} ms, p99 {:.1} ms of a closed loop", times.p50, times.p99)?;
        }
        if let Some(Percentiles { p50, p90, p99, p99_9, max }) = details.percentiles_ms {
            write!(f, "; p50 {p50:.2} ms, p90 {p90:.2}, p99 {p99:.2}, p99.9 {p99_9:.2}, max {max:.2}")?;
        }
        for Phase { name, p50_ms, p99_ms, write_p50_ms, write_p99_ms, low_share } in &details.phases {
            write!(f, "; {name}: normal lane p50 {p50_ms:.2} ms, p99 {p99_ms:.2}, a write {write_p50_ms:.2}, {write_p99_ms:.2}")?;
            write!(f, ", low lane {:.0} %", low_share * 100.0)?;
        }
        if details.refused > 0 {
            write!(f, "; {} refused", details.refused)?;
        }
        if let (Some(missing), Some(duplicates)) = (details.missing, details.duplicates) {
            write!(f, "; {missing} missing, {duplicates} duplicates")?;
        }
        writeln!(f)
    }
}

/// The machine in one line.
impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "tidegate {} ({}) on {} x {}, {} MiB, Linux {}, load {:.1}, {} runtime threads; fsync {:.2} ms (max {:.1})",
            self.tidegate,
            self.profile,
            self.cores,
            self.cpu,
            self.memory_mib,
            self.kernel,
            self.load_average,
            self.runtime_threads,
            self.fsync_ms.median,
            self.fsync_ms.max
        )?;
        if let Some(redis) = &self.redis {
            write!(f, "; Redis {} with {}", redis.version, redis.settings)?;
        }
        write!(f, "; durability: embedded {}, Redis {}; {}", self.durability.embedded, self.durability.redis, self.defaults)
    }
}

fn short(value: f64) -> String {
    if value >= 1000.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(value: f64, floor: Option<f64>, goal: Goal) -> Figure {
        let spread = |value| Spread { median: value, min: value, max: value };
        Figure::new("f".into(), "us", spread(value), floor.map(spread), Some(goal), Details::default())
    }

    #[test]
    fn a_debug_build_judges_nothing() {
        let ratio = figure(15.0, Some(10.0), Goal::RatioAtMost(1.5));
        let rate = figure(20_000.0, None, Goal::AtLeast(20_000.0));
        let judged = (ratio.ratio, ratio.met, rate.met);
        assert_eq!(judged, if is_release() { (Some(1.5), Some(true), Some(true)) } else { (None, None, None) });
        assert_eq!((ratio.value, ratio.floor, ratio.goal), (15.0, Some(10.0), Some(1.5)));
    }

    #[test]
    fn json_has_the_promised_names() {
        let json = serde_json::to_value(figure(15.0, None, Goal::AtLeast(1.0))).unwrap();
        for name in ["name", "value", "unit", "floor", "ratio", "goal", "met"] {
            assert!(json.get(name).is_some(), "{name} is missing: {json}");
        }
    }
}
