//! Where a case's fuel goes, by function.
//!
//! Fuel is deterministic: given less of it, the same call stops at the same place every time, and the trap's backtrace names that place. So
//! the case is run again with fuel for the first part of its work, for the first two, and so on: each run is one sample. A function is
//! charged where fuel is looked at, which is when a function begins and when a loop turns. Of a deep stack the innermost
//! [`MAX_FRAMES`](crate::plugin::limits::MAX_FRAMES) functions count.

use std::collections::{BTreeMap, BTreeSet};

use crate::cli::table::table;
use crate::plugin::{CallError, Frame, Inspection, Interface, Limits, Stop};

use super::case::Case;
use super::outcome::Bench;

/// The functions that are shown.
const SHOWN: usize = 20;
/// Where no function of the guest was running: before the first call, and between calls.
const INSTANTIATION: &str = "(an instance is made: its data is copied to its memory)";
const OUTSIDE: &str = "(outside of functions: values are handed over)";
const NAMELESS: &str =
    "the component has no names of functions: build it with `--names` (the interpreters of JavaScript and Python come without)\n";

/// Samples of one case.
#[derive(Debug, Default)]
pub(super) struct Profile {
    samples: u64,
    /// By function: samples in itself, and in itself and all that it calls.
    functions: BTreeMap<String, (u64, u64)>,
    has_names: bool,
}

impl Profile {
    /// Runs the case again, `samples` times at most, with evenly spaced fractions of the `fuel` that it took. `found` is what there is to know
    /// of the component.
    pub(super) async fn take(bench: &Bench, case: &Case, found: &Inspection, ask: Interface, fuel: u64, samples: u64) -> Self {
        let mut profile = Self::default();
        let step = (fuel / samples.max(1)).max(1);
        for sample in 1..=samples {
            let Some(limit) = step.checked_mul(sample).filter(|limit| *limit < fuel) else { break };
            let outcome = bench.run(case, found.version, ask, |limits| Limits { fuel: limit, ..limits }).await;
            if matches!(outcome.result, Err(CallError::Stopped(Stop::Fuel(_)))) {
                profile.add(&outcome.backtrace, if limit <= found.fuel { INSTANTIATION } else { OUTSIDE });
            }
        }
        profile
    }

    /// `outside` is where it was if it was in no function.
    fn add(&mut self, backtrace: &[Frame], outside: &str) {
        self.samples += 1;
        let Some(innermost) = backtrace.first() else {
            let (own, all) = self.functions.entry(outside.into()).or_default();
            *own += 1;
            *all += 1;
            return;
        };
        self.has_names |= backtrace.iter().any(|frame| !frame.function.starts_with("func "));
        self.functions.entry(innermost.function.clone()).or_default().0 += 1;
        // Once for each function, however often it recurs.
        for function in backtrace.iter().map(|frame| &frame.function).collect::<BTreeSet<_>>() {
            self.functions.entry(function.clone()).or_default().1 += 1;
        }
    }

    /// The functions with the largest shares of their own first, then those that call them.
    fn rows(&self) -> Vec<(&str, f64, f64)> {
        let share = |samples: u64| 100.0 * samples as f64 / self.samples.max(1) as f64;
        let mut functions: Vec<_> = self.functions.iter().collect();
        functions.sort_by_key(|(name, (own, all))| (std::cmp::Reverse((*own, *all)), (*name).clone()));
        functions.into_iter().map(|(name, (own, all))| (name.as_str(), share(*own), share(*all))).collect()
    }

    /// For people.
    pub(super) fn to_text(&self) -> String {
        let rows = self.rows();
        let shown = rows
            .iter()
            .take(SHOWN)
            .map(|(name, own, all)| vec![format!("{own:5.1} %"), format!("{all:5.1} %"), (*name).to_owned()]);
        let mut text = table(&["SELF", "TOTAL", "FUNCTION"], &shown.collect::<Vec<_>>());
        if rows.len() > SHOWN {
            text.push_str(&format!("and {} functions more\n", rows.len() - SHOWN));
        }
        if self.samples > 0 && !self.has_names {
            text.push_str(NAMELESS);
        }
        text
    }

    /// For programs.
    pub(super) fn to_json(&self) -> serde_json::Value {
        let functions =
            self.rows().into_iter().map(|(name, own, all)| serde_json::json!({ "function": name, "self": own, "total": all }));
        serde_json::json!({ "samples": self.samples, "functions": functions.collect::<Vec<_>>() })
    }
}
