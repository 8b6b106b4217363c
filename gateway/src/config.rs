//! The server's configuration file: TOML to a validated [`Config`].
//!
//! Every field has a default, so that no file at all runs the embedded store in `./data`. Sizes are text like `"1MiB"`, durations
//! text like `"30s"`. Secrets stand outside the file: `"env:NAME"` or `"file:PATH"`. Paths are relative to the file's directory.
//! All that is wrong is reported at once, each with its field and line.

pub mod document;
pub mod memory;
pub mod secret;
mod sections;
pub mod units;
mod validate;

use std::fmt;
use std::path::{Path, PathBuf};

use document::{Document, Fault};
pub use secret::{SecretError, SecretRef};
pub use sections::{
    Admin, Dispatch, Durability, Egress, Embedded, EmbeddedDurability, History, Ingest, Keys, LogFormat, Notices, Plugins, Proxies,
    Redis, RedisMode, Shutdown, StaticHost, Store, Telemetry, Tls,
};

/// The largest configuration file.
const MAX_FILE: u64 = 1 << 20;

/// The server's configuration, valid as a whole.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where events come in.
    pub ingest: Ingest,
    /// The admin API.
    pub admin: Admin,
    /// Where events are kept.
    pub store: Store,
    /// How work is handed out.
    pub dispatch: Dispatch,
    /// What may be reached.
    pub egress: Egress,
    /// The sandbox.
    pub plugins: Plugins,
    /// How long history is kept.
    pub history: History,
    /// What tenants and the operator are told.
    pub notices: Notices,
    /// Logs and traces.
    pub telemetry: Telemetry,
    /// The graceful stop.
    pub shutdown: Shutdown,
    /// Where the operator's key and the encryption key are.
    pub keys: Keys,
}

/// A configuration that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is wrong.
    #[error("{}", Faults { path, faults })]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All that is wrong with it.
        faults: Vec<Fault>,
    },
}

impl Config {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read_text(path, MAX_FILE).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        // Absolute, so that it does not matter who joins it to what later.
        let absolute = std::path::absolute(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let base = absolute.parent().unwrap_or(Path::new("/"));
        Self::parse(&text, base).map_err(|faults| ConfigError::Invalid { path: path.to_owned(), faults })
    }

    /// Reads `text`; relative paths in it start at `base`.
    pub fn parse(text: &str, base: &Path) -> Result<Self, Vec<Fault>> {
        let document = Document::parse(text)?;
        let (raw, mut faults) = document.read::<sections::Raw>();
        let mut checks = validate::Checks::default();
        let config = raw.map(|raw| validate::validate(raw, base, &mut checks));
        faults.extend(checks.faults.into_iter().map(|(field, message)| {
            let line = document.line_of(&field);
            Fault { field, line, message }
        }));
        faults.sort_by_key(|fault| fault.line);
        match config {
            Some(config) if faults.is_empty() => Ok(config),
            _ => Err(faults),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::parse("", Path::new("")).expect("the defaults are valid; a test holds it")
    }
}

/// Reads a text file of at most `limit` bytes.
pub(crate) fn read_text(path: &Path, limit: u64) -> std::io::Result<String> {
    let bytes = read_bytes(path, limit)?;
    String::from_utf8(bytes).map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, "not UTF-8 text"))
}

/// Reads a file of at most `limit` bytes.
#[allow(clippy::disallowed_methods)]
pub(crate) fn read_bytes(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, format!("larger than {limit} bytes")));
    }
    Ok(bytes)
}

struct Faults<'a> {
    path: &'a Path,
    faults: &'a [Fault],
}

impl fmt::Display for Faults<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}", self.path.display())?;
            if let Some(line) = fault.line {
                write!(f, ":{line}")?;
            }
            write!(f, ": {fault}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
