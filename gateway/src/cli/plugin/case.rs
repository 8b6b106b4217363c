//! Cases: what comes in for a plugin, and what must become of it. `sdk/cases.md` describes the files.

mod data;
mod expected;
mod given;
mod table;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

pub(super) use data::{Data, Wanted};
pub(super) use expected::{AnswerLike, Expected, GivenFailure, GivenJudgement, Like, Retry, Whole, WholeAnswer};
use given::{GivenArrival, GivenAttempt, GivenEvent, GivenLimits, GivenResponse, GivenSecret};
use table::GivenEntry;
pub(super) use table::WantedEntry;
pub use table::{CaseTables, TableUse};

use crate::config::read_bytes;
use crate::control::model::PlanSpec;
use crate::event::{ConnectionId, PluginId, TenantId, VersionHash};
use crate::plugin::table::Place;
use crate::plugin::{Access, Attempted, Call, Interface, Response, Secrets, Table};
use crate::store::TableKey;

/// The largest file of cases, or that a case names.
const MAX_FILE: u64 = 64 << 20;
/// Whose plugin it is.
const TENANT: TenantId = TenantId(1);

/// What a plugin is asked, and what must become of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What holds.
    pub name: String,
    /// What the plugin is asked as; none for the only thing that it offers.
    pub ask: Option<Interface>,
    event: Option<GivenEvent>,
    arrival: Option<GivenArrival>,
    attempt: Option<GivenAttempt>,
    response: Option<GivenResponse>,
    #[serde(default = "nothing")]
    config: Value,
    #[serde(default)]
    secrets: BTreeMap<String, GivenSecret>,
    /// The plugin's table before.
    table: Option<BTreeMap<String, GivenEntry>>,
    /// The same afterwards.
    pub(super) table_after: Option<BTreeMap<String, WantedEntry>>,
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
            let here = || format!("{}: case `{name}`", at());
            case.resolve(file.parent().unwrap_or(Path::new("."))).with_context(here)?;
            case.ask.map_or(Ok(()), |ask| case.check(ask)).with_context(here)?;
        }
        Ok(cases)
    }

    /// Puts bytes in the place of all data that needs more than the case to be known.
    fn resolve(&mut self, directory: &Path) -> anyhow::Result<()> {
        self.check_keys()?;
        let event = self.event.iter_mut().flat_map(GivenEvent::data);
        let arrival = self.arrival.iter_mut().flat_map(GivenArrival::data);
        let attempt = self.attempt.iter_mut().flat_map(GivenAttempt::data);
        let response = self.response.iter_mut().flat_map(GivenResponse::data);
        let secrets = self.secrets.values_mut().map(|secret| &mut secret.value);
        let table = self.table.iter_mut().flat_map(BTreeMap::values_mut).map(GivenEntry::data);
        let mut all = event.chain(arrival).chain(attempt).chain(response).chain(secrets).chain(table);
        all.try_for_each(|data| data.resolve(directory))?;
        self.table_after.iter_mut().flat_map(BTreeMap::values_mut).try_for_each(|entry| entry.resolve(directory))?;
        self.expect.resolve(directory)
    }

    fn check_keys(&self) -> anyhow::Result<()> {
        let before = self.table.iter().flat_map(BTreeMap::keys).map(|key| ("table", key));
        let after = self.table_after.iter().flat_map(BTreeMap::keys).map(|key| ("table_after", key));
        for (field, key) in before.chain(after) {
            key.parse::<TableKey>().with_context(|| format!("`{field}`: {key:?}"))?;
        }
        Ok(())
    }

    /// Whether all that it says is about what the plugin is asked as.
    pub(super) fn check(&self, ask: Interface) -> anyhow::Result<()> {
        let name = ask.as_str();
        let about = match ask {
            Interface::Filter | Interface::Transform => &["event"][..],
            Interface::Verify | Interface::Respond => &["arrival"],
            Interface::Sign => &["attempt"],
            Interface::Judge => &["attempt", "response"],
        };
        let given = [
            ("event", self.event.is_some()),
            ("arrival", self.arrival.is_some()),
            ("attempt", self.attempt.is_some()),
            ("response", self.response.is_some()),
        ];
        for (field, given) in given {
            ensure!(!given || about.contains(&field), "`{field}`: {name} is asked about: {}", about.join(", "));
        }
        let has_table = about == ["event"];
        ensure!(has_table || self.table.is_none(), "`table`: {name} has no table; only filter and transform have one");
        ensure!(has_table || self.table_after.is_none(), "`table_after`: {name} has no table; only filter and transform have one");
        let (expected, of) = self.expect.kind();
        match of.filter(|of| *of != ask) {
            Some(of) => bail!("`expect.{expected}`: {name} gives no such answer, {} does", of.as_str()),
            None => Ok(()),
        }
    }

    /// The call that it asks for, without a table.
    pub fn call(&self, version: VersionHash, ask: Interface) -> Call {
        let (event, accepted_at, request) = match ask {
            Interface::Filter | Interface::Transform => self.event.clone().unwrap_or_default().subject(),
            Interface::Verify | Interface::Respond => self.arrival.clone().unwrap_or_default().subject(),
            Interface::Sign | Interface::Judge => self.attempt.clone().unwrap_or_default().subject(),
        };
        let mut secrets = Secrets::default();
        for (name, secret) in &self.secrets {
            let access = if secret.sign_only { Access::Sign } else { Access::Read };
            secrets.insert(name.clone(), secret.value.bytes().into(), access);
        }
        Call {
            tenant: TENANT,
            version,
            event,
            accepted_at,
            request,
            // A text is a configuration that is no JSON object; everything else is one.
            config: self.config.as_str().map_or_else(|| self.config.to_string(), str::to_owned).into(),
            secrets: Arc::new(secrets),
            limits: self.limits.limits(ask),
            table: Table::default(),
            reuse: None,
        }
    }

    /// The attempt that a signer or a judge is asked about.
    pub(super) fn attempted(&self) -> Attempted {
        self.attempt.clone().unwrap_or_default().attempted()
    }

    /// The answer that a judge is asked about.
    pub(super) fn response(&self) -> Response {
        self.response.clone().unwrap_or_default().response()
    }

    /// Gives a call a table of its own, until [`CaseTables::end`].
    pub(super) fn begin(&self, tables: &CaseTables, call: &mut Call) -> PluginId {
        let quota = self.limits.table_bytes.unwrap_or_else(|| PlanSpec::default().table_bytes);
        let plugin = tables.begin(self.table.iter().flatten(), quota, call.accepted_at);
        let connection = ConnectionId(1);
        call.table = Table::live(Place { tenant: TENANT, plugin, event: call.event, connection, stage: 0, input: 0 });
        plugin
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
