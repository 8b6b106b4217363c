//! Cases: an event for a plugin, and what must become of it. `sdk/cases.md` describes the files.

mod data;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

pub(super) use data::{Data, Wanted};

use crate::clock::Timestamp;
use crate::config::read_bytes;
use crate::event::{EventId, Header, Request, SharedRequest, TenantId, VersionHash};
use crate::plugin::{Access, Call, Limits, Secrets, Table};

/// The largest file of cases, or that a case names.
const MAX_FILE: u64 = 64 << 20;

/// One event, and what must become of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What holds.
    pub name: String,
    /// What the plugin is asked as; none for the only thing that it offers.
    pub ask: Option<Ask>,
    #[serde(default)]
    event: GivenEvent,
    #[serde(default = "nothing")]
    config: Value,
    #[serde(default)]
    secrets: BTreeMap<String, GivenSecret>,
    #[serde(default)]
    limits: GivenLimits,
    pub(super) expect: Expected,
    pub(super) logs: Option<Vec<String>>,
    #[serde(default)]
    pub(super) logs_like: Vec<String>,
    /// The most fuel that it may take.
    pub max_fuel: Option<u64>,
    /// Languages that cannot do this, and why.
    #[serde(default)]
    pub except: BTreeMap<String, String>,
    /// The file that it stands in.
    #[serde(skip)]
    pub file: PathBuf,
}

fn nothing() -> Value {
    Value::Object(serde_json::Map::new())
}

/// What a plugin is asked as.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Ask {
    /// Whether the event goes on.
    Filter,
    /// For the requests to send.
    Transform,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GivenEvent {
    id: EventId,
    accepted_at: Timestamp,
    method: String,
    path: String,
    query: Option<String>,
    headers: Vec<(String, Data)>,
    body: Data,
}

impl Default for GivenEvent {
    fn default() -> Self {
        let Whole { method, path, query, .. } = Whole::default();
        Self {
            id: EventId(7),
            accepted_at: Timestamp(1_700_000_000_123),
            method,
            path,
            query,
            headers: Vec::new(),
            body: Data::default(),
        }
    }
}

/// A request of which everything is said: what is not mentioned has the default.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Whole {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) headers: Vec<(String, Data)>,
    pub(super) body: Wanted,
}

impl Default for Whole {
    fn default() -> Self {
        Self { method: "POST".into(), path: "/in".into(), query: None, headers: Vec::new(), body: Wanted::default() }
    }
}

/// A request of which only what is mentioned counts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Like {
    pub(super) method: Option<String>,
    pub(super) path: Option<String>,
    /// `Some(None)`: none.
    #[serde(default, deserialize_with = "mentioned")]
    pub(super) query: Option<Option<String>>,
    /// None: no such line.
    #[serde(default)]
    pub(super) headers: Vec<(String, Option<Data>)>,
    pub(super) body: Option<Wanted>,
}

fn mentioned<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenSecret {
    value: Data,
    /// The value stays with the gateway.
    #[serde(default)]
    sign_only: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Expected {
    /// A filter's answer.
    Kept(bool),
    /// A transform's answer, whole.
    Outputs(Vec<Whole>),
    /// As many requests, of which only what is mentioned counts.
    OutputsLike(Vec<Like>),
    /// The plugin's own failure.
    Failure(GivenFailure),
    /// The gateway stops the plugin, or refuses its answer, with this code.
    Stopped(String),
    /// Any other error, by its code.
    Error(String),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GivenFailure {
    pub(super) code: String,
    pub(super) message: Option<String>,
    pub(super) retry: Retry,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Retry {
    Never,
    Later,
}

/// Those limits that differ from a gateway's defaults.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GivenLimits {
    fuel: Option<u64>,
    wall_ms: Option<u64>,
    memory: Option<usize>,
    table_elements: Option<usize>,
    outputs: Option<usize>,
    output_bytes: Option<usize>,
    log_lines: Option<usize>,
    log_bytes: Option<usize>,
    log_flood: Option<usize>,
    host_calls: Option<u32>,
    table_ops: Option<u32>,
}

impl GivenLimits {
    fn limits(&self) -> Limits {
        let usual = Limits::default();
        Limits {
            fuel: self.fuel.unwrap_or(usual.fuel),
            wall: self.wall_ms.map_or(usual.wall, Duration::from_millis),
            memory: self.memory.unwrap_or(usual.memory),
            table_elements: self.table_elements.unwrap_or(usual.table_elements),
            outputs: self.outputs.unwrap_or(usual.outputs),
            output_bytes: self.output_bytes.unwrap_or(usual.output_bytes),
            log_lines: self.log_lines.unwrap_or(usual.log_lines),
            log_bytes: self.log_bytes.unwrap_or(usual.log_bytes),
            log_flood: self.log_flood.unwrap_or(usual.log_flood),
            host_calls: self.host_calls.unwrap_or(usual.host_calls),
            table_ops: self.table_ops.unwrap_or(usual.table_ops),
        }
    }
}

impl Case {
    /// All cases of a directory's `*.json`, in the order of the files' names, with what other files they name.
    pub fn read_all(directory: &Path) -> anyhow::Result<Vec<Self>> {
        let entries = fs::read_dir(directory).with_context(|| format!("the cases in {}", directory.display()))?;
        let mut files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
        files.sort();
        let mut cases = Vec::new();
        let mut names = HashSet::new();
        for file in files {
            for case in Self::read_file(&file)? {
                ensure!(names.insert(case.name.clone()), "{}: there is another case `{}`: rename one", file.display(), case.name);
                cases.push(case);
            }
        }
        ensure!(!cases.is_empty(), "{} has no cases: sdk/cases.md says how to write them, as *.json", directory.display());
        Ok(cases)
    }

    fn read_file(file: &Path) -> anyhow::Result<Vec<Self>> {
        let at = || file.display().to_string();
        let text = read_bytes(file, MAX_FILE).with_context(at)?;
        let mut cases =
            if is_object(&text) { vec![parse(&text).with_context(at)?] } else { parse::<Vec<Self>>(&text).with_context(at)? };
        for case in &mut cases {
            case.file = file.to_owned();
            let name = case.name.clone();
            case.resolve(file.parent().unwrap_or(Path::new("."))).with_context(|| format!("{}: case `{name}`", at()))?;
        }
        Ok(cases)
    }

    /// Puts bytes in the place of all data that needs more than the case to be known.
    fn resolve(&mut self, directory: &Path) -> anyhow::Result<()> {
        let GivenEvent { headers, body, .. } = &mut self.event;
        let headers = headers.iter_mut().map(|(_, value)| value);
        let secrets = self.secrets.values_mut().map(|secret| &mut secret.value);
        headers.chain([body]).chain(secrets).try_for_each(|data| data.resolve(directory))?;
        match &mut self.expect {
            Expected::Outputs(outputs) => outputs.iter_mut().try_for_each(|output| {
                output.headers.iter_mut().try_for_each(|(_, value)| value.resolve(directory))?;
                output.body.resolve(directory)
            }),
            Expected::OutputsLike(outputs) => outputs.iter_mut().try_for_each(|output| {
                output.headers.iter_mut().filter_map(|(_, value)| value.as_mut()).try_for_each(|value| value.resolve(directory))?;
                output.body.iter_mut().try_for_each(|body| body.resolve(directory))
            }),
            Expected::Kept(_) | Expected::Failure(_) | Expected::Stopped(_) | Expected::Error(_) => Ok(()),
        }
    }

    /// The call that it asks for.
    pub fn call(&self, version: VersionHash) -> Call {
        let GivenEvent { id, accepted_at, method, path, query, headers, body } = &self.event;
        let mut secrets = Secrets::default();
        for (name, secret) in &self.secrets {
            let access = if secret.sign_only { Access::Sign } else { Access::Read };
            secrets.insert(name.clone(), secret.value.bytes().into(), access);
        }
        let headers = headers.iter().map(|(name, value)| Header { name: name.to_ascii_lowercase(), value: value.bytes().into() });
        Call {
            tenant: TenantId(1),
            version,
            event: *id,
            accepted_at: *accepted_at,
            request: SharedRequest::Made(Arc::new(Request {
                method: method.clone(),
                path: path.clone(),
                query: query.clone(),
                headers: headers.collect(),
                body: body.bytes().into(),
            })),
            // A text is a configuration that is no JSON object; everything else is one.
            config: self.config.as_str().map_or_else(|| self.config.to_string(), str::to_owned).into(),
            secrets: Arc::new(secrets),
            limits: self.limits.limits(),
            table: Table::default(),
        }
    }
}

fn is_object(text: &[u8]) -> bool {
    text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}

fn parse<T: serde::de::DeserializeOwned>(text: &[u8]) -> anyhow::Result<T> {
    let mut json = serde_json::Deserializer::from_slice(text);
    match serde_path_to_error::deserialize(&mut json) {
        Ok(parsed) => {
            json.end()?;
            Ok(parsed)
        }
        Err(error) => match error.path().to_string() {
            path if path == "." => bail!("{}", error.inner()),
            path => bail!("`{path}`: {}", error.inner()),
        },
    }
}
