//! References to where a secret is kept.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

use super::read_text;
use crate::secret::Secret;

/// The largest secret file.
const MAX_SECRET: u64 = 64 << 10;

/// Where a secret is kept: `env:NAME` or `file:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// An environment variable.
    Env(String),
    /// A file; a line end after its text is left out.
    File(PathBuf),
}

/// A secret that can't be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Not a reference; the text is not shown, since it may be the secret itself.
    #[error("not a reference to a secret: write \"env:NAME\" or \"file:PATH\"")]
    NotAReference,
    /// No such variable.
    #[error("environment variable `{0}` is not set")]
    NotSet(String),
    /// The file can't be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Nothing there.
    #[error("{0} is empty")]
    Empty(String),
}

impl SecretRef {
    /// Fetches it. Files are relative to `base`.
    pub fn resolve(&self, base: &Path) -> Result<Secret, SecretError> {
        let text = match self {
            Self::Env(name) => std::env::var(name).map_err(|_| SecretError::NotSet(name.clone()))?,
            Self::File(path) => {
                let path = base.join(path);
                let text = read_text(&path, MAX_SECRET).map_err(|source| SecretError::Unreadable { path, source })?;
                text.trim_end_matches(['\r', '\n']).to_owned()
            }
        };
        if text.is_empty() { Err(SecretError::Empty(self.to_string())) } else { Ok(Secret::new(text)) }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl FromStr for SecretRef {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err(SecretError::NotAReference),
        }
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
