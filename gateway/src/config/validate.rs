//! What the types of the sections can't say.

use std::path::Path;
use std::time::Duration;

use super::Config;
use super::secret::{SecretError, SecretRef};
use super::sections::{
    Admin, Dispatch, Durability, Egress, Embedded, EmbeddedDurability, History, Ingest, Notices, Plugins, Raw, RawDurability,
    RawStore, Redis, RedisMode, Store, StoreKind, Telemetry, Tls,
};
use crate::secret::Secret;

/// Collects what is wrong: field and message.
#[derive(Default)]
pub(super) struct Checks {
    pub(super) faults: Vec<(String, String)>,
}

impl Checks {
    fn fault(&mut self, field: &str, message: impl Into<String>) {
        self.faults.push((field.to_owned(), message.into()));
    }

    fn range<T: PartialOrd + std::fmt::Display>(&mut self, field: &str, value: T, min: T, max: T) {
        if value < min || value > max {
            self.fault(field, format!("must be from {min} to {max}, not {value}"));
        }
    }

    fn foreign(&mut self, fields: &[(&str, bool)], home: &str) {
        for (field, _) in fields.iter().filter(|(_, set)| *set) {
            self.fault(field, format!("belongs to {home} alone"));
        }
    }

    fn time(&mut self, field: &str, value: Duration, min: Duration, max: Duration) {
        if value < min || value > max {
            let show = humantime::format_duration;
            self.fault(field, format!("must be from {} to {}, not {}", show(min), show(max), show(value)));
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);
const YEAR: Duration = Duration::from_secs(366 * 24 * 60 * 60);
const KIB: usize = 1 << 10;
const GIB: usize = 1 << 30;

/// Checks `raw` and makes the configuration of it. The result counts only if nothing was found.
pub(super) fn validate(raw: Raw, base: &Path, checks: &mut Checks) -> Config {
    let Raw { mut ingest, admin, store, dispatch, mut egress, mut plugins, history, notices, telemetry, shutdown, mut keys } = raw;
    check_ingest(&ingest, checks);
    check_admin(&admin, checks);
    check_dispatch(&dispatch, checks);
    check_egress(&egress, checks);
    check_plugins(&plugins, checks);
    check_history(&history, checks);
    check_notices(&notices, checks);
    check_telemetry(&telemetry, checks);
    checks.time("shutdown.deadline", shutdown.deadline, Duration::ZERO, HOUR);
    let store = match store.kind {
        StoreKind::Embedded => Store::Embedded(check_embedded(store, base, checks)),
        StoreKind::Redis => Store::Redis(check_redis(store, base, checks)),
    };
    if let Some(tls) = &mut ingest.tls {
        tls.certificate = base.join(&tls.certificate);
        tls.key = base.join(&tls.key);
    }
    for path in &mut egress.extra_ca {
        *path = base.join(&path);
    }
    plugins.cache = base.join(&plugins.cache);
    for reference in [&mut keys.encryption, &mut keys.operator].into_iter().chain(&mut keys.previous_encryption) {
        if let SecretRef::File(path) = reference {
            *path = base.join(&path);
        }
    }
    Config { ingest, admin, store, dispatch, egress, plugins, history, notices, telemetry, shutdown, keys }
}

fn check_ingest(ingest: &Ingest, checks: &mut Checks) {
    checks.range("ingest.max_head", ingest.max_head, 8 * KIB, 1 << 20);
    checks.range("ingest.max_headers", ingest.max_headers, 10, 1_000);
    checks.range("ingest.max_body", ingest.max_body, 1, GIB);
    checks.range("ingest.max_body_bytes", ingest.max_body_bytes, ingest.max_body.min(GIB), 64 * GIB);
    checks.range("ingest.max_connections", ingest.max_connections, 1, 1_000_000);
    checks.range("ingest.max_connections_per_peer", ingest.max_connections_per_peer, 1, 1_000_000);
    checks.range("ingest.max_streams", ingest.max_streams, 1, 10_000);
    for (field, value) in [
        ("ingest.idle_timeout", ingest.idle_timeout),
        ("ingest.head_timeout", ingest.head_timeout),
        ("ingest.body_timeout", ingest.body_timeout),
        ("ingest.answer_timeout", ingest.answer_timeout),
    ] {
        checks.time(field, value, SECOND / 10, HOUR);
    }
    if let Some(url) = &ingest.public_url {
        let parsed = url.parse::<http::Uri>().ok();
        let plain = parsed.as_ref().is_some_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.path().trim_end_matches('/').is_empty()
                && uri.query().is_none()
        });
        if !plain {
            checks.fault("ingest.public_url", "must be an http or https URL without a path, like \"https://hooks.example.com\"");
        }
    }
}

fn check_admin(admin: &Admin, checks: &mut Checks) {
    checks.range("admin.max_body", admin.max_body, KIB, 256 << 20);
    checks.range("admin.max_component", admin.max_component, KIB, GIB);
    checks.range("admin.max_connections", admin.max_connections, 1, 100_000);
    checks.time("admin.timeout", admin.timeout, SECOND, HOUR);
    checks.time("admin.upload_timeout", admin.upload_timeout, SECOND, HOUR);
}

fn check_dispatch(dispatch: &Dispatch, checks: &mut Checks) {
    checks.range("dispatch.in_flight", dispatch.in_flight, 1, 1_000_000);
    checks.range("dispatch.bytes", dispatch.bytes, 1 << 20, 64 * GIB);
    checks.range("dispatch.output_bytes", dispatch.output_bytes, 1 << 20, 64 * GIB);
    checks.range("dispatch.shards", dispatch.shards, 1, 1_024);
    checks.time("dispatch.lease_ttl", dispatch.lease_ttl, SECOND, HOUR);
    checks.time("dispatch.max_wait", dispatch.max_wait, SECOND, YEAR);
    checks.time("dispatch.latency_target", dispatch.latency_target, Duration::from_millis(1), SECOND * 3600);
}

fn check_egress(egress: &Egress, checks: &mut Checks) {
    checks.range("egress.max_response", egress.max_response, 0, 1 << 20);
    checks.range("egress.response_bytes", egress.response_bytes, 0, 4 * GIB);
    checks.range("egress.max_connections", egress.max_connections, 1, 1_000_000);
    checks.time("egress.idle_timeout", egress.idle_timeout, SECOND, HOUR);
    checks.time("egress.connect_timeout", egress.connect_timeout, SECOND / 10, HOUR);
    for (index, host) in egress.hosts.iter().enumerate() {
        if host.addresses.is_empty() {
            checks.fault(&format!("egress.hosts[{index}].addresses"), "must name at least one address");
        }
    }
}

fn check_plugins(plugins: &Plugins, checks: &mut Checks) {
    checks.range("plugins.threads", plugins.threads, 0, 1_024);
    checks.range("plugins.loaded_bytes", plugins.loaded_bytes, 1 << 20, 1 << 40);
    checks.range("plugins.idle_instances", plugins.idle_instances, 0, 1_024);
    checks.range("plugins.idle_bytes", plugins.idle_bytes, 1 << 20, 64 * GIB);
    checks.time("plugins.idle_time", plugins.idle_time, Duration::from_secs(1), HOUR);
    checks.range("plugins.max_memory", plugins.max_memory, 1 << 20, 4 * GIB);
    checks.range("plugins.max_fuel", plugins.max_fuel, 1_000_000, u64::MAX);
    checks.range("plugins.max_output", plugins.max_output, KIB, GIB);
    checks.time("plugins.max_time", plugins.max_time, Duration::from_millis(10), HOUR);
    checks.range("plugins.gate_fuel", plugins.gate_fuel, 100_000, u64::MAX);
    checks.time("plugins.gate_time", plugins.gate_time, Duration::from_millis(10), HOUR);
    checks.range("plugins.gate_queue", plugins.gate_queue, 1, 10_000);
    checks.time("plugins.gate_wait", plugins.gate_wait, Duration::from_millis(10), HOUR);
}

fn check_history(history: &History, checks: &mut Checks) {
    checks.time("history.age", history.age, SECOND, 10 * YEAR);
    checks.time("history.dead_letter_age", history.dead_letter_age, SECOND, 10 * YEAR);
}

fn check_notices(notices: &Notices, checks: &mut Checks) {
    checks.time("notices.every", notices.every, SECOND / 20, HOUR);
    checks.time("notices.quiet", notices.quiet, SECOND, 24 * 7 * HOUR);
    checks.time("notices.hold", notices.hold, Duration::ZERO, 24 * HOUR);
    checks.range("notices.dead_letters", notices.dead_letters, 1, 1_000_000_000);
    checks.time("notices.dead_letters_window", notices.dead_letters_window, SECOND, 24 * HOUR);
    checks.range("notices.backlog_percent", notices.backlog_percent, 1, 100);
    if notices.tenant.as_ref().is_some_and(String::is_empty) {
        checks.fault("notices.tenant", "must be a tenant's name, or be left out");
    }
}

fn check_telemetry(telemetry: &Telemetry, checks: &mut Checks) {
    checks.range("telemetry.sample_ratio", telemetry.sample_ratio, 0.0, 1.0);
    if let Err(error) = tracing_subscriber::EnvFilter::try_new(&telemetry.level) {
        checks.fault("telemetry.level", format!("must be a level like \"info\", or filter directives: {error}"));
    }
}

fn check_embedded(raw: RawStore, base: &Path, checks: &mut Checks) -> Embedded {
    let RawStore { kind: _, durability, path, cache, reserve, .. } = raw;
    let foreign = [
        ("store.urls", raw.urls.is_some()),
        ("store.mode", raw.mode.is_some()),
        ("store.sentinel_master", raw.sentinel_master.is_some()),
        ("store.ca_file", raw.ca_file.is_some()),
        ("store.cert_file", raw.cert_file.is_some()),
        ("store.key_file", raw.key_file.is_some()),
        ("store.namespace", raw.namespace.is_some()),
        ("store.assume_settings", raw.assume_settings.is_some()),
    ];
    checks.foreign(&foreign, "kind = \"redis\"");
    let durability = match durability {
        None | Some(RawDurability::Fsync) => EmbeddedDurability::Fsync,
        Some(RawDurability::Everysec) => EmbeddedDurability::Everysec,
        Some(_) => {
            checks.fault("store.durability", "must be \"fsync\" or \"everysec\" with the embedded store");
            EmbeddedDurability::Fsync
        }
    };
    let defaults = Embedded::default();
    let reserve = reserve.unwrap_or(defaults.reserve);
    checks.range("store.reserve", reserve, 1 << 20, 1 << 50);
    Embedded { path: base.join(path.unwrap_or(defaults.path)), durability, cache: cache.unwrap_or(defaults.cache), reserve }
}

fn check_redis(raw: RawStore, base: &Path, checks: &mut Checks) -> Redis {
    let RawStore { kind: _, durability, path, cache, reserve, urls, mode, sentinel_master, .. } = raw;
    let foreign = [("store.path", path.is_some()), ("store.cache", cache.is_some()), ("store.reserve", reserve.is_some())];
    checks.foreign(&foreign, "kind = \"embedded\"");
    let durability = match durability {
        None | Some(RawDurability::Everysec) => Durability::Everysec,
        Some(RawDurability::Ephemeral) => Durability::Ephemeral,
        Some(RawDurability::Fsync) => Durability::Fsync,
        Some(RawDurability::Replicated) => Durability::Replicated,
    };
    let (urls, mode) = (urls.unwrap_or_default(), mode.unwrap_or_default());
    let namespace = raw.namespace.unwrap_or_else(|| "tidegate".into());
    let assume_settings = raw.assume_settings.unwrap_or_default();
    let ca_file = raw.ca_file.map(|file| base.join(file));
    let identity = match (raw.cert_file, raw.key_file) {
        (Some(certificate), Some(key)) => Some(Tls { certificate: base.join(certificate), key: base.join(key) }),
        (None, None) => None,
        (Some(_), None) => {
            checks.fault("store.key_file", "is needed with `cert_file`");
            None
        }
        (None, Some(_)) => {
            checks.fault("store.cert_file", "is needed with `key_file`");
            None
        }
    };
    check_servers(&urls, mode, sentinel_master.as_deref(), checks);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if namespace.is_empty() || namespace.len() > 32 || !namespace.chars().all(plain) {
        checks.fault("store.namespace", "must be 1 to 32 letters, digits, `-`, `_` or `.`");
    }
    let urls = urls.iter().enumerate().filter_map(|(index, url)| {
        let field = format!("store.urls[{index}]");
        let url = resolve_url(url, base).map_err(|error| checks.fault(&field, error.to_string())).ok()?;
        if !url.expose().starts_with("redis://") && !url.expose().starts_with("rediss://") {
            checks.fault(&field, "must be a redis:// or rediss:// URL, or `env:NAME` or `file:PATH` where one is");
        }
        Some(url)
    });
    let urls = urls.collect();
    Redis { urls, mode, sentinel_master, ca_file, identity, durability, namespace, assume_settings }
}

fn check_servers(urls: &[String], mode: RedisMode, sentinel_master: Option<&str>, checks: &mut Checks) {
    match (mode, urls.len()) {
        (_, 0) => checks.fault("store.urls", "must name at least one server, like \"redis://127.0.0.1:6379\""),
        (RedisMode::Standalone, 2..) => checks.fault("store.urls", "a standalone server has one URL; for more set `mode`"),
        _ => {}
    }
    match (mode, sentinel_master) {
        (RedisMode::Sentinel, None) => checks.fault("store.sentinel_master", "is needed with mode = \"sentinel\""),
        (RedisMode::Standalone | RedisMode::Cluster, Some(_)) => {
            checks.fault("store.sentinel_master", "belongs to mode = \"sentinel\" alone");
        }
        _ => {}
    }
}

fn resolve_url(text: &str, base: &Path) -> Result<Secret, SecretError> {
    match text.parse::<SecretRef>() {
        Ok(reference) => reference.resolve(base),
        Err(_) => Ok(Secret::new(text)),
    }
}
