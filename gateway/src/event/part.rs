//! What a plugin's run had to do with an attempt.
//!
//! Stored as the first line of the run's log: no guest can write such a line, since theirs begin with their level, and releases that know
//! nothing of it show it as it is.

use std::fmt;
use std::str::FromStr;

use super::PluginRun;

const PREFIX: &str = "gateway: ";

/// A run that was made for one attempt of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptPart {
    /// What it was asked for.
    pub role: AttemptRole,
    /// The attempt's number.
    pub attempt: u32,
    /// The plugin's name.
    pub plugin: String,
    /// What a judge decided: `default`, `delivered`, `retry` or `dead_letter`. None of the others, and if it failed.
    pub verdict: Option<String>,
}

/// What a plugin does for an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptRole {
    /// It signs what goes out.
    Sign,
    /// It says what the answer means.
    Judge,
}

impl AttemptRole {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sign => "sign",
            Self::Judge => "judge",
        }
    }
}

impl PluginRun {
    /// Notes which part of an attempt it was.
    pub fn for_attempt(mut self, part: &AttemptPart) -> Self {
        self.logs.insert(0, format!("{PREFIX}{part}"));
        self
    }

    /// Which part of an attempt it was; none if it ran in a connection's chain.
    pub fn attempt_part(&self) -> Option<AttemptPart> {
        self.logs.first()?.strip_prefix(PREFIX)?.parse().ok()
    }

    /// What the guest logged.
    pub fn guest_logs(&self) -> &[String] {
        if self.attempt_part().is_some() { &self.logs[1..] } else { &self.logs }
    }
}

impl fmt::Display for AttemptPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { role, attempt, plugin, verdict } = self;
        write!(f, "{} of attempt {attempt} by {plugin}", role.as_str())?;
        verdict.as_ref().map_or(Ok(()), |verdict| write!(f, ": {verdict}"))
    }
}

impl FromStr for AttemptPart {
    type Err = NotAPart;

    fn from_str(text: &str) -> Result<Self, NotAPart> {
        let (role, rest) = text.split_once(" of attempt ").ok_or(NotAPart)?;
        let role = [AttemptRole::Sign, AttemptRole::Judge].into_iter().find(|known| known.as_str() == role).ok_or(NotAPart)?;
        let (attempt, rest) = rest.split_once(" by ").ok_or(NotAPart)?;
        let attempt = attempt.parse().map_err(|_| NotAPart)?;
        let (plugin, verdict) = rest.split_once(": ").map_or((rest, None), |(plugin, verdict)| (plugin, Some(verdict.to_owned())));
        Ok(Self { role, attempt, plugin: plugin.to_owned(), verdict })
    }
}

/// Text that tells of no part of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no part of an attempt")]
pub struct NotAPart;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::VersionHash;

    #[test]
    fn a_part_comes_back_out_of_the_log() {
        let logs = vec!["info: hello".to_owned()];
        let run = PluginRun { version: VersionHash([1; 32]), fuel: 1, memory: 2, took_us: 3, outcome: Ok(1), logs };
        assert_eq!((run.attempt_part(), run.guest_logs().len()), (None, 1));
        for verdict in [None, Some("retry".to_owned())] {
            let part = AttemptPart { role: AttemptRole::Judge, attempt: 3, plugin: "own-scheme".into(), verdict };
            let run = run.clone().for_attempt(&part);
            assert_eq!((run.attempt_part(), run.guest_logs()), (Some(part), &["info: hello".to_owned()][..]));
        }
    }
}
