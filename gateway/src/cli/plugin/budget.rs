//! What each case may take: `fuel.lock`, kept with the plugin's source.
//!
//! Fuel is the same on every machine for the same component and event, so growth is the author's doing, or the compiler's.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::config::read_bytes;

const MAX_FILE: u64 = 4 << 20;
const HEAD: &str = "# What each case takes. `tidegate plugin test` fails when one takes more than `max_growth` over this, and writes it anew with\n\
                    # `--update`. The tolerance is yours to change.\n";

/// The file's contents.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Budget {
    #[serde(default = "usual_growth")]
    max_growth: String,
    #[serde(default)]
    fuel: BTreeMap<String, u64>,
}

fn usual_growth() -> String {
    "5 %".into()
}

/// How a case stands to the budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Within,
    /// The budget does not know the case.
    Unknown,
    /// It takes more than `allowed`, which is the tolerance over what it took.
    Over {
        before: u64,
        allowed: u64,
    },
}

impl Budget {
    /// One of nothing, with the usual tolerance.
    pub(super) fn new() -> Self {
        Self { max_growth: usual_growth(), fuel: BTreeMap::new() }
    }

    /// The file's; none if there is no file.
    pub(super) fn read(file: &Path) -> anyhow::Result<Option<Self>> {
        let at = || file.display().to_string();
        let text = match read_bytes(file, MAX_FILE) {
            Ok(text) => String::from_utf8(text).with_context(at)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(at),
        };
        let budget: Self = toml::from_str(&text).with_context(at)?;
        budget.growth().with_context(at)?;
        Ok(Some(budget))
    }

    /// Writes what each case took, and keeps the tolerance. True if that changes the file.
    pub(super) fn update(&self, file: &Path, fuel: BTreeMap<String, u64>) -> anyhow::Result<bool> {
        let new = Self { max_growth: self.max_growth.clone(), fuel };
        let text = format!("{HEAD}{}", toml::to_string(&new).context("the budget")?);
        let changed = fs::read_to_string(file).ok().as_ref() != Some(&text);
        if changed {
            fs::write(file, text).with_context(|| file.display().to_string())?;
        }
        Ok(changed)
    }

    /// Whether a case may take so much.
    pub(super) fn verdict(&self, case: &str, fuel: u64) -> anyhow::Result<Verdict> {
        let Some(before) = self.fuel.get(case).copied() else { return Ok(Verdict::Unknown) };
        let allowed = before.saturating_add((before as f64 * self.growth()? / 100.0) as u64);
        Ok(if fuel > allowed { Verdict::Over { before, allowed } } else { Verdict::Within })
    }

    /// Cases that are in the budget and nowhere else.
    pub(super) fn gone<'a>(&'a self, known: &'a [&str]) -> impl Iterator<Item = &'a str> {
        self.fuel.keys().map(String::as_str).filter(|name| !known.contains(name))
    }

    /// Percent.
    fn growth(&self) -> anyhow::Result<f64> {
        let number = self.max_growth.trim().strip_suffix('%').map(|number| number.trim().parse::<f64>());
        match number {
            Some(Ok(number)) if (0.0..=1000.0).contains(&number) => Ok(number),
            _ => bail!("`max_growth` is `{}`: write a percentage such as \"5 %\"", self.max_growth),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(max_growth: &str) -> Budget {
        Budget { max_growth: max_growth.into(), fuel: [("a case".to_owned(), 1000)].into() }
    }

    #[test]
    fn growth_within_the_tolerance_passes() {
        let budget = budget("2.5 %");
        assert_eq!(budget.verdict("a case", 1025).unwrap(), Verdict::Within);
        assert_eq!(budget.verdict("a case", 1026).unwrap(), Verdict::Over { before: 1000, allowed: 1025 });
        assert_eq!(budget.verdict("another", 1).unwrap(), Verdict::Unknown);
    }

    #[test]
    fn what_is_written_is_read_with_its_tolerance_kept() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("fuel.lock");
        assert_eq!(Budget::read(&file).unwrap(), None);
        let fuel: BTreeMap<_, _> = [("it \"says\" é".to_owned(), 7)].into();
        assert!(budget("0%").update(&file, fuel.clone()).unwrap());
        let read = Budget::read(&file).unwrap().unwrap();
        assert_eq!(read, Budget { max_growth: "0%".into(), fuel: fuel.clone() });
        assert!(!read.update(&file, fuel).unwrap(), "nothing changed");
    }

    #[test]
    fn a_tolerance_that_is_none_is_named() {
        for wrong in ["5", "-1 %", "much", "NaN %"] {
            let error = budget(wrong).verdict("a case", 1).unwrap_err().to_string();
            assert!(error.contains("max_growth"), "{wrong}: {error}");
        }
    }
}
