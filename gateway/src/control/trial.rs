//! Tries a version of a plugin on one event. Nothing is delivered and nothing is stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::homes::Homes;
use super::model::{Connections, Faults, LimitsSpec, Plugins, StageSpec};
use super::service::{Control, Error};
use super::snapshot::{Connection, OnFailure, OnPoisoned, Stage, StageKind};
use super::state::Entry;
use crate::clock::Timestamp;
use crate::egress::{MAX_HEADERS, ends_here};
use crate::event::{ConnectionId, EventId, Failure, Header, PluginId, PluginRun, Request, SharedRequest, TenantId};
use crate::plugin::compare::any_json;
use crate::plugin::table::Place;
use crate::plugin::{Call, Frame, Limits, Report, Secrets, Table};
use crate::secret::Secret;
use crate::store::Home;

/// What to try a version on, and with what.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrySpec {
    /// A stored event's id; or else `request`.
    event: Option<String>,
    /// A request; or else `event`.
    request: Option<TryRequest>,
    /// A connection's id or name: with the configuration, secrets and limits that it gives this plugin, and without the headers that it
    /// does not pass on. Or else the fields below.
    connection: Option<String>,
    /// Handed to the plugin as JSON.
    #[schema(schema_with = any_json)]
    config: Option<Value>,
    /// What the plugin may ask for by name.
    #[schema(schema_with = super::schema::secret_map)]
    secrets: BTreeMap<String, Secret>,
    /// Names of secrets that the plugin may only sign with.
    sign_only: Vec<String>,
    /// What the run may use.
    limits: LimitsSpec,
}

/// A request to try a plugin on.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TryRequest {
    /// Default `POST`.
    method: String,
    /// Below the source, with its leading `/`, or empty.
    path: String,
    /// Without `?`.
    query: Option<String>,
    /// In order, repeated ones repeated.
    headers: Vec<TryHeader>,
    /// The body as text; or else `json` or `body_base64`.
    body: Option<String>,
    /// The body as JSON, written without spaces.
    #[schema(schema_with = any_json)]
    json: Option<Value>,
    /// The body in base64.
    body_base64: Option<String>,
}

impl Default for TryRequest {
    fn default() -> Self {
        let (path, headers) = (String::new(), Vec::new());
        Self { method: "POST".into(), path, query: None, headers, body: None, json: None, body_base64: None }
    }
}

/// A header line.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TryHeader {
    name: String,
    /// Its value as text; or else `value_base64`.
    #[serde(default)]
    value: Option<String>,
    /// Its value in base64.
    #[serde(default)]
    value_base64: Option<String>,
}

/// What a version made of an event.
#[derive(Debug)]
pub struct Tried {
    /// The event's id, which seeds the plugin's random numbers.
    pub event: EventId,
    /// What the version does.
    pub kind: StageKind,
    /// The requests as they would be sent, or none if it keeps the event as it is; or why there is no answer.
    pub answer: Result<Option<Vec<Request>>, Failure>,
    /// What it used and logged.
    pub run: PluginRun,
    /// Where it trapped.
    pub backtrace: Vec<Frame>,
}

/// What a plugin is given beside the event.
struct Given {
    config: Arc<str>,
    secrets: Arc<Secrets>,
    limits: Limits,
    withheld: Vec<HeaderName>,
    connection: ConnectionId,
    stage: usize,
}

impl Given {
    fn place(&self, tenant: TenantId, plugin: PluginId, event: EventId) -> Place {
        let stage = u32::try_from(self.stage).unwrap_or(u32::MAX);
        Place { tenant, plugin, event, connection: self.connection, stage, input: 0 }
    }
}

impl Control {
    /// Runs a version (a hash, or an alias) on an event.
    pub async fn try_version(&self, homes: &Homes, plugin: &str, version: &str, spec: &TrySpec) -> Result<Tried, Error> {
        let plugin = self.get::<Plugins>(homes.tenant, plugin)?;
        let missing = || Error::NotFound { kind: "version or alias", reference: version.chars().take(80).collect() };
        let version = plugin.parts.resolve(version).ok_or_else(missing)?;
        let given = self.given(homes, &plugin, spec)?;
        let (event, accepted_at, request) = self.event_to_try(homes, spec).await?;
        let call = Call {
            tenant: homes.tenant,
            version: version.hash,
            event,
            accepted_at,
            request: SharedRequest::Made(Arc::new(request)),
            config: Arc::clone(&given.config),
            secrets: Arc::clone(&given.secrets),
            limits: given.limits.clone(),
            table: Table::trial(given.place(homes.tenant, plugin.id, event)),
            reuse: None,
        };
        let report = self.run_paid(version.kind, call).await;
        Ok(Tried::of(event, version.kind, report, &given))
    }

    /// Runs a version out of its tenant's fuel, though there be none: whoever tries pays with what is delivered later.
    pub(super) async fn run_paid(&self, kind: StageKind, call: Call) -> Report<Option<Vec<Request>>> {
        let tenant = call.tenant;
        let report = self.inspector.ask(kind, call).await;
        if let Some(parts) = self.state().tenant(tenant).map(|tenant| Arc::clone(&tenant.entry.parts)) {
            let home = Home { tenant, shard: parts.shards.home() };
            let per_second = parts.plan.plugin_fuel.div_ceil(parts.shards.count() as u64);
            self.inspector.pay(home, per_second, report.price(), self.clock.now());
        }
        report
    }

    fn given(&self, homes: &Homes, plugin: &Entry<Plugins>, spec: &TrySpec) -> Result<Given, Error> {
        let Some(reference) = &spec.connection else {
            let TrySpec { config, secrets, sign_only, limits, .. } = spec;
            let stage = StageSpec {
                plugin: plugin.name.clone(),
                version: String::new(),
                config: config.clone(),
                secrets: secrets.clone(),
                sign_only: sign_only.clone(),
                limits: limits.clone(),
                on_failure: OnFailure::default(),
                poison_after: None,
                on_poisoned: OnPoisoned::default(),
                reuse: None,
            };
            let mut faults = Faults::default();
            let parts = stage.prepare("", &self.preparer.ceilings, &mut faults);
            faults.0.iter_mut().for_each(|fault| fault.field = fault.field.trim_start_matches('.').to_owned());
            faults.or(()).map_err(Error::Invalid)?;
            let (config, secrets, limits) = (parts.config, parts.secrets, parts.limits);
            return Ok(Given { config, secrets, limits, withheld: Vec::new(), connection: ConnectionId(0), stage: 0 });
        };
        let is_given = spec.config.is_some() || !spec.secrets.is_empty() || !spec.sign_only.is_empty();
        if is_given || spec.limits != LimitsSpec::default() {
            let message = "can't be given together with `config`, `secrets`, `sign_only` or `limits`: the connection has its own";
            return Err(Error::field("connection", message));
        }
        let (connection, stage) = self.stage_of(homes, plugin, reference)?;
        let Stage { config, secrets, limits, .. } = &connection.chain[stage];
        let (config, secrets, limits) = (Arc::clone(config), Arc::clone(secrets), limits.clone());
        Ok(Given { config, secrets, limits, withheld: connection.withheld.clone(), connection: connection.id, stage })
    }

    /// A connection, and where in its chain a plugin stands first.
    pub(super) fn stage_of(
        &self,
        homes: &Homes,
        plugin: &Entry<Plugins>,
        reference: &str,
    ) -> Result<(Arc<Connection>, usize), Error> {
        let id: ConnectionId = self.get::<Connections>(homes.tenant, reference)?.id;
        let snapshots = self.snapshots();
        let connection = snapshots.load().connections.get(&id).cloned();
        let connection = connection.ok_or_else(|| Error::missing::<Connections>(reference))?;
        let wanted: PluginId = plugin.id;
        let stage = connection.chain.iter().position(|stage| stage.plugin == wanted);
        let message = || format!("has no plugin `{}` in its chain", plugin.name);
        stage.map(|stage| (connection, stage)).ok_or_else(|| Error::field("connection", message()))
    }

    async fn event_to_try(&self, homes: &Homes, spec: &TrySpec) -> Result<(EventId, Timestamp, Request), Error> {
        match (&spec.event, &spec.request) {
            (Some(id), None) => {
                let (_, history) = self.event(homes, id).await?;
                let event = history.event.ok_or(Error::State("the event's request is not kept any more: give one as `request`"))?;
                Ok((event.id, event.accepted_at, event.request))
            }
            (None, Some(request)) => {
                let now = self.clock.now();
                let mut faults = Faults::default();
                let request = request.read(&mut faults);
                let request = faults.or(request).map_err(Error::Invalid)?;
                Ok((EventId::new(now, self.random_id()?), now, request))
            }
            _ => Err(Error::field("event", "give either a stored event's id here, or a `request`")),
        }
    }
}

impl TryRequest {
    fn read(&self, faults: &mut Faults) -> Request {
        if Method::from_bytes(self.method.as_bytes()).is_err() {
            faults.add("request.method", "is not a method");
        }
        if !(self.path.is_empty() || self.path.starts_with('/')) || !self.path.bytes().all(|byte| byte.is_ascii_graphic()) {
            faults.add("request.path", "must be empty, or begin with `/` and be percent-encoded");
        }
        if self.query.as_ref().is_some_and(|query| !query.bytes().all(|byte| byte.is_ascii_graphic())) {
            faults.add("request.query", "must be percent-encoded");
        }
        if self.headers.len() > MAX_HEADERS {
            faults.add("request.headers", format!("there may be {MAX_HEADERS}"));
        }
        let headers = self.headers.iter().take(MAX_HEADERS).enumerate();
        let headers = headers.map(|(index, header)| header.read(&format!("request.headers[{index}]"), faults)).collect();
        let body = match (&self.body, &self.json, &self.body_base64) {
            (None, None, None) => Bytes::new(),
            (Some(text), None, None) => Bytes::copy_from_slice(text.as_bytes()),
            (None, Some(json), None) => Bytes::from(json.to_string()),
            (None, None, Some(text)) => decode(text, "request.body_base64", faults),
            _ => {
                faults.add("request.body", "give one of `body`, `json` and `body_base64`");
                Bytes::new()
            }
        };
        Request { method: self.method.clone(), path: self.path.clone(), query: self.query.clone(), headers, body }
    }
}

impl TryHeader {
    fn read(&self, field: &str, faults: &mut Faults) -> Header {
        let value = match (&self.value, &self.value_base64) {
            (Some(text), None) => Bytes::copy_from_slice(text.as_bytes()),
            (None, Some(text)) => decode(text, &format!("{field}.value_base64"), faults),
            _ => {
                faults.add(format!("{field}.value"), "give either `value` or `value_base64`");
                Bytes::new()
            }
        };
        if HeaderName::from_bytes(self.name.as_bytes()).is_err() {
            faults.add(format!("{field}.name"), "is not a header's name");
        }
        if HeaderValue::from_bytes(&value).is_err() {
            faults.add(format!("{field}.value"), "has characters that HTTP does not allow");
        }
        Header { name: self.name.to_ascii_lowercase(), value }
    }
}

fn decode(text: &str, field: &str, faults: &mut Faults) -> Bytes {
    STANDARD.decode(text).map(Bytes::from).unwrap_or_else(|_| {
        faults.add(field, "is not base64 (RFC 4648, with padding)");
        Bytes::new()
    })
}

impl Tried {
    fn of(event: EventId, kind: StageKind, report: Report<Option<Vec<Request>>>, given: &Given) -> Self {
        let secrets = &given.secrets;
        let Report { result, mut run, backtrace, .. } = report;
        let answer = match result {
            Ok(Some(outputs)) => Ok(Some(outputs.into_iter().map(|output| as_sent(output, &given.withheld, secrets)).collect())),
            Ok(None) => Ok(None),
            Err(error) => {
                let failure = error.to_failure();
                Err(Failure { detail: conceal_text(secrets, failure.detail), ..failure })
            }
        };
        run.logs = run.logs.into_iter().map(|line| conceal_text(secrets, line)).collect();
        Self { event, kind, answer, run, backtrace }
    }
}

/// A plugin's output without what is not passed on, and without secrets.
pub(super) fn as_sent(output: Request, withheld: &[HeaderName], secrets: &Secrets) -> Request {
    let conceal = |bytes: Bytes| secrets.conceal(&bytes).map_or(bytes, Bytes::from);
    let passes = |header: &Header| !ends_here(&header.name) && !withheld.iter().any(|name| name.as_str() == header.name);
    let headers = output.headers.into_iter().filter(passes);
    Request {
        method: conceal_text(secrets, output.method),
        path: conceal_text(secrets, output.path),
        query: output.query.map(|query| conceal_text(secrets, query)),
        headers: headers.map(|Header { name, value }| Header { name, value: conceal(value) }).collect(),
        body: conceal(output.body),
    }
}

fn conceal_text(secrets: &Secrets, text: String) -> String {
    secrets.conceal(text.as_bytes()).map_or(text, |text| String::from_utf8_lossy(&text).into_owned())
}
