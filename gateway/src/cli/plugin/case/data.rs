//! Bytes as a case writes them.

use std::path::Path;

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::MAX_FILE;
use crate::config::read_bytes;

/// The most bytes that repeated data may become.
const MAX_REPEATED: usize = 256 << 20;

/// Bytes.
#[derive(Clone, Debug, Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "expected a text, or an object with `hex`, `base64`, `json`, `file`, or `repeat` and `times`"
)]
pub(in super::super) enum Data {
    Text(String),
    Hex {
        hex: String,
    },
    Base64 {
        base64: String,
    },
    Json {
        json: Value,
    },
    File {
        file: String,
    },
    Repeated {
        repeat: Box<Data>,
        times: usize,
    },
    /// What one of the above has become.
    #[serde(skip)]
    Bytes(Vec<u8>),
}

impl Default for Data {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl Data {
    /// Makes bytes of what can fail to become some: a file is looked for below `directory`.
    pub(super) fn resolve(&mut self, directory: &Path) -> anyhow::Result<()> {
        let bytes = match self {
            Self::Text(_) | Self::Json { .. } | Self::Bytes(_) => return Ok(()),
            Self::Hex { hex } => hex::decode(&*hex).with_context(|| format!("`hex`: {hex}"))?,
            Self::Base64 { base64 } => STANDARD.decode(&*base64).with_context(|| format!("`base64`: {base64}"))?,
            Self::File { file } => {
                let path = directory.join(&*file);
                read_bytes(&path, MAX_FILE).with_context(|| format!("`file`: {}", path.display()))?
            }
            Self::Repeated { repeat, times } => {
                repeat.resolve(directory)?;
                let once = repeat.bytes();
                let size = once.len().saturating_mul(*times);
                ensure!(size <= MAX_REPEATED, "`times`: that makes {size} bytes, {MAX_REPEATED} are allowed");
                once.repeat(*times)
            }
        };
        *self = Self::Bytes(bytes);
        Ok(())
    }

    /// The bytes of resolved data.
    pub(in super::super) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Json { json } => json.to_string().into_bytes(),
            Self::Bytes(bytes) => bytes.clone(),
            Self::Hex { .. } | Self::Base64 { .. } | Self::File { .. } | Self::Repeated { .. } => {
                unreachable!("cases are resolved when they are read")
            }
        }
    }
}

/// Bytes that are expected.
#[derive(Clone, Debug, Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "expected a text, or an object with `json`, `json_like`, `contains`, `hex`, `base64`, `file`, or `repeat` and `times`"
)]
pub(in super::super) enum Wanted {
    /// Any JSON text of the value.
    Json { json: Value },
    /// A JSON text that has the value in it.
    JsonLike { json_like: Value },
    /// A text that has this one in it.
    Contains { contains: String },
    /// Exactly these.
    Exactly(Data),
}

impl Default for Wanted {
    fn default() -> Self {
        Self::Exactly(Data::default())
    }
}

impl Wanted {
    /// As [`Data::resolve`].
    pub(super) fn resolve(&mut self, directory: &Path) -> anyhow::Result<()> {
        match self {
            Self::Exactly(data) => data.resolve(directory),
            Self::Json { .. } | Self::JsonLike { .. } | Self::Contains { .. } => Ok(()),
        }
    }
}
