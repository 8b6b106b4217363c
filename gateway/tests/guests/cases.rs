//! What a case says. `sdk/conformance/README.md` describes the files.

use std::collections::BTreeMap;
use std::fs;

use serde::Deserialize;
use serde_json::Value;

use crate::build::root;

/// One event, and what must become of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) ask: Ask,
    #[serde(default)]
    pub(crate) event: Given,
    pub(crate) config: Value,
    #[serde(default)]
    pub(crate) secrets: BTreeMap<String, Secret>,
    pub(crate) expect: Expected,
    /// Every line of the log.
    pub(crate) logs: Option<Vec<String>>,
    /// Languages that cannot do this, and why.
    #[serde(default)]
    pub(crate) except: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ask {
    Filter,
    Transform,
}

/// The event's request, or one that is expected.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Given {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: Vec<(String, Data)>,
    pub(crate) body: Data,
}

impl Default for Given {
    fn default() -> Self {
        Self { method: "POST".into(), path: "/in".into(), query: None, headers: Vec::new(), body: Data::Text(String::new()) }
    }
}

/// Bytes: text in UTF-8, hexadecimal digits, or bytes repeated.
#[derive(Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub(crate) enum Data {
    Text(String),
    Hex {
        hex: String,
    },
    Repeated {
        repeat: Box<Data>,
        times: usize,
    },
    /// Expected alone: a JSON text of this value.
    Json {
        json: Value,
    },
}

impl Data {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Hex { hex } => hex::decode(hex).unwrap(),
            Self::Repeated { repeat, times } => repeat.bytes().repeat(*times),
            Self::Json { json } => json.to_string().into_bytes(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Secret {
    pub(crate) value: Data,
    /// The value stays with the gateway.
    #[serde(default)]
    pub(crate) sign_only: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Expected {
    /// A filter's answer.
    Kept(bool),
    /// A transform's answer, as requests.
    Outputs(Vec<Given>),
    /// The plugin's own failure.
    Failure {
        code: String,
        /// All of the message, where it does not depend on the language.
        message: Option<String>,
        retry: Retry,
    },
    /// The gateway stops the plugin, or refuses its answer, with this code.
    Stopped(String),
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Retry {
    Never,
    Later,
}

/// All cases, in the order of the files' names.
pub(crate) fn read() -> Vec<Case> {
    let mut files: Vec<_> =
        fs::read_dir(root().join("sdk/conformance/cases")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
        .iter()
        .flat_map(|path| {
            let text = fs::read_to_string(path).unwrap();
            let cases: Vec<Case> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            cases
        })
        .collect()
}
