//! Why a benchmark could not be run, or does not count.

use std::path::PathBuf;

/// Why a benchmark could not be run, or does not count.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// CPU is told apart by process through `/proc`.
    #[error("benchmarks need Linux: CPU by process is read from /proc")]
    NotLinux,
    /// A process could not be started.
    #[error("cannot start {name} ({}): {source}", program.display())]
    Start {
        /// Which part of the benchmark.
        name: &'static str,
        /// What was started.
        program: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A process ended, or did not answer in time.
    #[error("{name} {what}{}", last_words(log))]
    Part {
        /// Which part of the benchmark.
        name: &'static str,
        /// What it did.
        what: String,
        /// The end of what it logged.
        log: String,
    },
    /// A process said something else than expected.
    #[error("{name} answered {answer:?}")]
    Answer {
        /// Which part of the benchmark.
        name: &'static str,
        /// The beginning of the answer.
        answer: String,
    },
    /// The gateway's API refused to set the benchmark up.
    #[error("{request}: {status}: {answer}")]
    Api {
        /// Method and path.
        request: String,
        /// The status.
        status: u16,
        /// The beginning of the answer.
        answer: String,
    },
    /// A server of the benchmark failed a request.
    #[error("{what}: {source}")]
    Http {
        /// What was asked.
        what: String,
        /// What failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Redis failed a command.
    #[error("redis: {0}")]
    Redis(#[from] redis::RedisError),
    /// A file, a pipe or `/proc`.
    #[error("{what}: {source}")]
    Io {
        /// What was done.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// What is to be measured could not be set up.
    #[error("set-up: {0}")]
    Setup(String),
    /// The plugin of the floor cannot be run.
    #[error("the floor's plugin: {0}")]
    Plugin(String),
    /// The gateway did not take the load, so that there is nothing to divide by.
    #[error("{name} confirmed no event: {detail}")]
    NothingAccepted {
        /// What was measured.
        name: String,
        /// What came instead.
        detail: String,
    },
    /// Events were acknowledged and did not arrive, or arrived as something else. The figures were printed; they don't count.
    #[error("{0}")]
    Lost(String),
    /// The user ended the run.
    #[error("interrupted")]
    Interrupted,
}

impl BenchError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

fn last_words(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!("; the end of its log:\n{log}") }
}
