//! `tidegate plugin test`: a plugin's cases, in the gateway's own sandbox with a gateway's limits.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use serde_json::{Value, json};

use super::budget::{Budget, Verdict};
use super::case::{Case, CaseTables};
use super::outcome::{Bench, Difference, Outcome};
use super::profile::Profile;
use super::scratch::Scratch;
use super::source::Source;
use super::{Names, build, sandbox};
use crate::plugin::{Inspection, Interface};

/// Where the budget stands, beside the directory of the cases.
const BUDGET: &str = "fuel.lock";

/// Runs a plugin's cases.
#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// A project that is built first, or a component
    #[arg(default_value = ".")]
    source: PathBuf,
    /// The directory of the cases [default: `cases` in the project, or beside the component]
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
    /// Only cases whose name has this in it
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Write what each case takes to fuel.lock, beside the cases' directory; from then on a case that takes more fails
    #[arg(long, conflicts_with = "only")]
    update: bool,
    /// Show which functions take the fuel
    #[arg(long)]
    profile: bool,
    /// How often a case is run for its profile
    #[arg(long, value_name = "COUNT", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=100_000), requires = "profile")]
    samples: u64,
}

/// Does it. A case that does not hold is an error.
pub(super) async fn run(args: TestArgs) -> anyhow::Result<()> {
    let directory = match &args.cases {
        Some(directory) => directory.clone(),
        None => Source::at(&args.source)?.directory().join("cases"),
    };
    let mut cases = Case::read_all(&directory)?;
    if let Some(only) = &args.only {
        cases.retain(|case| case.name.contains(only));
        anyhow::ensure!(!cases.is_empty(), "no case in {} has `{only}` in its name", directory.display());
    }
    let lock = directory.parent().unwrap_or(Path::new(".")).join(BUDGET);
    let budget = Budget::read(&lock)?;
    let component = build::component_at(&args.source, if args.profile { Names::Kept } else { Names::AsBuilt }).await?;
    let tester = Tester::set_up(&component).await.with_context(|| args.source.display().to_string())?;

    let mut tested = Vec::new();
    for case in cases {
        let checked_against = budget.as_ref().filter(|_| !args.update);
        let one = tester.run(case, checked_against, args.profile.then_some(args.samples)).await?;
        if !args.json {
            print!("{}", one.to_text());
        }
        tested.push(one);
    }
    let failed = tested.iter().filter(|one| !one.differences.is_empty()).count();
    report(&args, &tester, &tested, failed)?;
    if failed > 0 {
        let kept = if args.update { format!("; {} stays as it was", lock.display()) } else { String::new() };
        bail!("{failed} of {} cases failed{kept}", tested.len());
    }
    if args.update {
        update(&lock, budget.as_ref(), &tested, args.json)?;
    } else if let Some(budget) = budget.filter(|_| args.only.is_none() && !args.json) {
        let names: Vec<_> = tested.iter().map(|one| one.case.name.as_str()).collect();
        for gone in budget.gone(&names) {
            println!("note: there is no case `{gone}` any more; `--update` takes it out of {}", lock.display());
        }
    }
    Ok(())
}

fn report(args: &TestArgs, tester: &Tester, tested: &[Tested], failed: usize) -> anyhow::Result<()> {
    let passed = tested.len() - failed;
    if args.json {
        let cases: Vec<_> = tested.iter().map(Tested::to_json).collect();
        let document = json!({ "version": tester.found.version, "passed": passed, "failed": failed, "cases": cases });
        println!("{}", serde_json::to_string_pretty(&document)?);
    } else {
        println!("{passed} passed, {failed} failed");
    }
    Ok(())
}

fn update(lock: &Path, budget: Option<&Budget>, tested: &[Tested], json: bool) -> anyhow::Result<()> {
    let fuel: BTreeMap<_, _> = tested.iter().map(|one| (one.case.name.clone(), one.outcome.run.fuel)).collect();
    let new = Budget::new();
    let changed = budget.unwrap_or(&new).update(lock, fuel)?;
    if !json {
        println!("{} {}", if changed { "wrote" } else { "nothing new for" }, lock.display());
    }
    Ok(())
}

/// A sandbox with the component in it.
struct Tester {
    bench: Bench,
    found: Inspection,
    _scratch: Option<Scratch>,
}

impl Tester {
    async fn set_up(component: &Bytes) -> anyhow::Result<Self> {
        let tables = CaseTables::default();
        let runtime = |directory: &Path| sandbox::runtime(component, directory, Arc::new(tables.clone()));
        // Where nothing can be kept, it is compiled anew each time.
        let kept = sandbox::cache().and_then(|directory| runtime(&directory).ok());
        let (runtime, scratch) = match kept {
            Some(runtime) => (runtime, None),
            None => {
                let scratch = Scratch::make()?;
                (runtime(scratch.path())?, Some(scratch))
            }
        };
        let found = runtime.inspect(component.clone()).await?;
        Ok(Self { bench: Bench { runtime, tables }, found, _scratch: scratch })
    }

    /// What a case asks as, or the only thing that the component offers.
    fn ask(&self, case: &Case) -> anyhow::Result<Interface> {
        let offers: Vec<_> = self.found.screen.offers.iter().copied().collect();
        let only = if let [only] = offers[..] { Some(only) } else { None };
        let names: Vec<_> = offers.iter().map(|interface| interface.as_str()).collect();
        case.ask.or(only).with_context(|| format!("`ask`: say which, since the plugin offers {}", names.join(", ")))
    }

    async fn run(&self, case: Case, budget: Option<&Budget>, samples: Option<u64>) -> anyhow::Result<Tested> {
        let at = || format!("{}: case `{}`", case.file.display(), case.name);
        let ask = self.ask(&case).with_context(at)?;
        case.check(ask).with_context(at)?;
        let outcome = self.bench.run(&case, self.found.version, ask, |limits| limits).await;
        let mut differences = case.differences(&outcome);
        if let Some(budget) = budget {
            differences.extend(over(budget, &case.name, outcome.run.fuel)?);
        }
        let profile = match samples {
            Some(samples) => Some(Profile::take(&self.bench, &case, &self.found, ask, outcome.run.fuel, samples).await),
            None => None,
        };
        Ok(Tested { case, outcome, differences, profile })
    }
}

/// What the budget has against a case.
fn over(budget: &Budget, case: &str, fuel: u64) -> anyhow::Result<Option<Difference>> {
    let difference = |expected| Difference { place: BUDGET.into(), expected, got: format!("{} fuel", grouped(fuel)) };
    Ok(match budget.verdict(case, fuel)? {
        Verdict::Within => None,
        Verdict::Unknown => Some(difference("a budget for this case: write one with `--update`".into())),
        Verdict::Over { before, allowed } => {
            Some(difference(format!("at most {} ({} before); `--update` takes what it is now", grouped(allowed), grouped(before))))
        }
    })
}

/// A case that was run.
struct Tested {
    case: Case,
    outcome: Outcome,
    differences: Vec<Difference>,
    profile: Option<Profile>,
}

impl Tested {
    fn to_text(&self) -> String {
        let Self { case, outcome, differences, profile } = self;
        let run = &outcome.run;
        let mark = if differences.is_empty() { "ok    " } else { "FAILED" };
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{mark}  {:>12} fuel  {:>7.2} MiB  {:>8.3} ms  {}",
            grouped(run.fuel),
            run.memory as f64 / f64::from(1 << 20),
            run.took_us as f64 / 1e3,
            case.name
        );
        for difference in differences {
            let _ = writeln!(text, "    {}", difference.to_string().replace('\n', "\n    "));
        }
        if !differences.is_empty() {
            for line in &run.logs {
                let _ = writeln!(text, "    log: {line}");
            }
            for op in &outcome.table.ops {
                let _ = writeln!(text, "    table: {op}");
            }
            for frame in &outcome.backtrace {
                let _ = writeln!(text, "    at {} ({:#x})", frame.function, frame.offset);
            }
        }
        if let Some(profile) = profile {
            let _ = writeln!(text, "\n    {}", profile.to_text().trim_end().replace('\n', "\n    "));
            text.push('\n');
        }
        text
    }

    fn to_json(&self) -> Value {
        let Self { case, outcome, differences, profile } = self;
        let run = &outcome.run;
        let differences = differences
            .iter()
            .map(|Difference { place, expected, got }| json!({ "place": place, "expected": expected, "got": got }));
        let frames = outcome.backtrace.iter().map(|frame| json!({ "function": frame.function, "offset": frame.offset }));
        let mut document = json!({
            "name": case.name, "file": case.file, "passed": self.differences.is_empty(), "fuel": run.fuel, "memory": run.memory,
            "took_us": run.took_us, "logs": run.logs, "table": outcome.table.ops, "differences": differences.collect::<Vec<_>>(),
            "backtrace": frames.collect::<Vec<_>>(),
        });
        if let Some(profile) = profile {
            document["profile"] = profile.to_json();
        }
        document
    }
}

/// With a comma before each three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
