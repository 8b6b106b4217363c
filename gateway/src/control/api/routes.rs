//! The one list of routes, each with its description.

use axum::handler::Handler;
use axum::routing::{MethodFilter, MethodRouter, on};

use super::resources::Shown;
use super::{
    Api, aliases, apply, bookmarks, destinations, events, health, plugins, recovery, resources, rotation, signals, tables, tenants,
    traffic,
};
use crate::control::model::{Connections, Destinations, Sources};

/// A request's body.
#[derive(Clone, Copy)]
pub(super) enum Body {
    None,
    /// JSON by this schema.
    Json(&'static str),
    /// A component.
    Wasm,
    /// Any bytes.
    Bytes,
    /// JSON by this schema in each line.
    Lines(&'static str),
}

/// A successful answer.
#[derive(Clone, Copy)]
pub(super) enum Reply {
    Nothing,
    /// JSON by this schema.
    Json(&'static str),
    /// A page of this schema.
    Page(&'static str),
    /// Any JSON.
    AnyJson,
    Text,
    /// Any bytes.
    Bytes,
}

/// A route with its description.
pub(super) struct Route {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) tag: &'static str,
    pub(super) summary: &'static str,
    pub(super) query: &'static [&'static str],
    pub(super) body: Body,
    pub(super) status: u16,
    pub(super) reply: Reply,
    pub(super) open: bool,
    pub(super) handler: MethodRouter<Api>,
}

impl Route {
    fn new<H: Handler<T, Api>, T: 'static>(
        at: (&'static str, &'static str),
        summary: &'static str,
        reply: Reply,
        handler: H,
    ) -> Self {
        let (method, path) = at;
        let (filter, status) = match method {
            "get" => (MethodFilter::GET, 200),
            "put" => (MethodFilter::PUT, 200),
            "patch" => (MethodFilter::PATCH, 200),
            "delete" => (MethodFilter::DELETE, 204),
            _ => (MethodFilter::POST, 200),
        };
        let tag = path.trim_start_matches("/v1/").split('/').next().unwrap_or_default();
        let tag = if path.starts_with("/v1/") { tag } else { "health" };
        let handler = on(filter, handler);
        Self { method, path, tag, summary, query: &[], body: Body::None, status, reply, open: false, handler }
    }

    /// It is for one tenant, and takes these besides.
    fn query(self, query: &'static [&'static str]) -> Self {
        Self { query, ..self }
    }

    fn body(self, body: Body) -> Self {
        Self { body, ..self }
    }

    /// A deletion that has something to say.
    fn answers(self) -> Self {
        Self { status: 200, ..self }
    }

    fn creates(self) -> Self {
        Self { status: 201, ..self }
    }

    /// A change that has nothing to say.
    fn silent(self) -> Self {
        Self { status: 204, ..self }
    }

    fn accepted(self) -> Self {
        Self { status: 202, ..self }
    }

    fn open(self) -> Self {
        Self { open: true, ..self }
    }
}

const TENANT: &[&str] = &["tenant"];
const PAGE: &[&str] = &["limit", "cursor"];
const TENANT_PAGE: &[&str] = &["tenant", "limit", "cursor"];
const LETTERS: &[&str] =
    &["tenant", "limit", "cursor", "source", "destination", "connection", "since", "until", "code", "party", "status"];

/// Every route.
pub(super) fn routes() -> Vec<Route> {
    let mut routes = health_routes();
    routes.extend(tenant_routes());
    routes.extend(resource_routes::<Sources>(["/v1/sources", "/v1/sources/{source}"], ["Source", "SourceSpec", "SourcePatch"]));
    routes.extend(resource_routes::<Destinations>(
        ["/v1/destinations", "/v1/destinations/{destination}"],
        ["Destination", "DestinationSpec", "DestinationPatch"],
    ));
    routes.push(
        Route::new(
            ("post", "/v1/destinations/{destination}/rotate-secret"),
            "Give a destination a new signing secret, shown this once; those that it has sign for a while more",
            Reply::Json("RotatedView"),
            rotation::rotate,
        )
        .query(TENANT)
        .body(Body::Json("RotateSpec"))
        .creates(),
    );
    routes.extend(resource_routes::<Connections>(
        ["/v1/connections", "/v1/connections/{connection}"],
        ["Connection", "ConnectionSpec", "ConnectionPatch"],
    ));
    routes.extend(destination_routes());
    routes.extend(plugin_routes());
    routes.extend(alias_routes());
    routes.extend(table_routes());
    routes.extend(event_routes());
    routes.extend(dead_letter_routes());
    routes.extend(replay_routes());
    routes.extend(bookmark_routes());
    routes.extend(traffic_routes());
    routes
}

fn health_routes() -> Vec<Route> {
    vec![
        Route::new(("get", "/healthz"), "Whether the process lives", Reply::Json("HealthView"), health::healthz).open(),
        Route::new(("get", "/readyz"), "Whether it can serve, or why not", Reply::Json("HealthView"), health::readyz).open(),
        Route::new(("get", "/metrics"), "Metrics, for Prometheus", Reply::Text, health::metrics).open(),
        Route::new(("get", "/openapi.json"), "This document", Reply::AnyJson, health::openapi).open(),
    ]
}

fn tenant_routes() -> Vec<Route> {
    vec![
        Route::new(("get", "/v1/tenants"), "List the tenants that the key reaches", Reply::Page("TenantView"), tenants::list)
            .query(PAGE),
        Route::new(("post", "/v1/tenants"), "Make a tenant; operators only", Reply::Json("TenantView"), tenants::create)
            .body(Body::Json("TenantSpec"))
            .creates(),
        Route::new(("get", "/v1/tenants/{tenant}"), "Show a tenant", Reply::Json("TenantView"), tenants::show),
        Route::new(("patch", "/v1/tenants/{tenant}"), "Change a tenant; operators only", Reply::Json("TenantView"), tenants::patch)
            .body(Body::Json("TenantPatch")),
        Route::new(
            ("delete", "/v1/tenants/{tenant}"),
            "Delete a tenant with all that it has; operators only. Goes on until the tenant is not there any more",
            Reply::Json("TenantView"),
            tenants::delete,
        )
        .accepted(),
        Route::new(("get", "/v1/keys"), "List API keys", Reply::Page("KeyView"), tenants::list_keys).query(TENANT_PAGE),
        Route::new(
            ("post", "/v1/keys"),
            "Make an API key; its text is shown this once",
            Reply::Json("MintedView"),
            tenants::create_key,
        )
        .body(Body::Json("KeySpec"))
        .creates(),
        Route::new(("get", "/v1/keys/{key}"), "Show an API key, without its text", Reply::Json("KeyView"), tenants::show_key),
        Route::new(("delete", "/v1/keys/{key}"), "Delete an API key", Reply::Nothing, tenants::delete_key),
        Route::new(
            ("post", "/v1/apply"),
            "Bring tenants to a declared state, all or nothing",
            Reply::Json("ApplyReport"),
            apply::apply,
        )
        .query(&["dry_run", "prune"])
        .body(Body::Json("ApplySpec")),
    ]
}

fn resource_routes<K: Shown>(paths: [&'static str; 2], schemas: [&'static str; 3]) -> Vec<Route> {
    let [all, one] = paths;
    let [view, spec, patch] = schemas;
    vec![
        Route::new(("get", all), "List, oldest first", Reply::Page(view), resources::list::<K>).query(TENANT_PAGE),
        Route::new(("post", all), "Make one", Reply::Json(view), resources::create::<K>)
            .query(TENANT)
            .body(Body::Json(spec))
            .creates(),
        Route::new(("get", one), "Show one, by id or name", Reply::Json(view), resources::show::<K>).query(TENANT),
        Route::new(("patch", one), "Change one, by a JSON merge patch", Reply::Json(view), resources::patch::<K>)
            .query(TENANT)
            .body(Body::Json(patch)),
        Route::new(("delete", one), "Delete one that nothing refers to", Reply::Nothing, resources::delete::<K>).query(TENANT),
    ]
}

fn destination_routes() -> Vec<Route> {
    let schedule = "/v1/destinations/{destination}/schedule";
    vec![
        Route::new(
            ("post", "/v1/destinations/{destination}/enable"),
            "Enable a destination, whoever disabled it, and close its circuit",
            Reply::Json("Destination"),
            destinations::enable,
        )
        .query(TENANT),
        Route::new(
            ("get", schedule),
            "Show when a delivery that always fails is tried: the schedule of a destination's retry policy",
            Reply::Json("ScheduleView"),
            destinations::schedule,
        )
        .query(TENANT),
        Route::new(
            ("post", schedule),
            "Show the schedule that another retry policy would give; nothing changes",
            Reply::Json("ScheduleView"),
            destinations::draft,
        )
        .query(TENANT)
        .body(Body::Json("RetrySpec")),
        Route::new(
            ("get", "/v1/connections/{connection}/schedule"),
            "Show the schedule of the retry policy that holds for a connection",
            Reply::Json("ScheduleView"),
            destinations::connection_schedule,
        )
        .query(TENANT),
    ]
}

fn plugin_routes() -> Vec<Route> {
    let (versions, version) = ("/v1/plugins/{plugin}/versions", "/v1/plugins/{plugin}/versions/{version}");
    vec![
        Route::new(("get", "/v1/plugins"), "List plugins, oldest first", Reply::Page("PluginView"), plugins::list)
            .query(TENANT_PAGE),
        Route::new(("get", "/v1/plugins/{plugin}"), "Show a plugin, by id or name", Reply::Json("PluginView"), plugins::show)
            .query(TENANT),
        Route::new(("delete", "/v1/plugins/{plugin}"), "Delete a plugin that no connection uses", Reply::Nothing, plugins::delete)
            .query(TENANT),
        Route::new(("get", versions), "List a plugin's versions", Reply::Page("VersionView"), plugins::list_versions).query(TENANT),
        Route::new(
            ("post", versions),
            "Upload a component; makes the plugin if need be",
            Reply::Json("VersionView"),
            plugins::upload,
        )
        .query(TENANT)
        .body(Body::Wasm)
        .creates(),
        Route::new(("get", version), "Show a version, by hash or alias", Reply::Json("VersionView"), plugins::show_version)
            .query(TENANT),
        Route::new(("delete", version), "Delete a version that nothing names", Reply::Nothing, plugins::delete_version)
            .query(TENANT),
        Route::new(
            ("post", "/v1/plugins/{plugin}/versions/{version}/try"),
            "Run a version, by hash or alias, on one event; nothing is delivered or stored",
            Reply::Json("TriedView"),
            plugins::try_version,
        )
        .query(TENANT)
        .body(Body::Json("TrySpec")),
        Route::new(
            ("post", "/v1/plugins/{plugin}/replay"),
            "Run two versions over a connection's past events and show what would change; nothing is delivered",
            Reply::Json("ReplayView"),
            plugins::replay,
        )
        .query(TENANT)
        .body(Body::Json("ReplaySpec")),
        Route::new(
            ("post", "/v1/components"),
            "Inspect a component and keep it for an apply",
            Reply::Json("ComponentView"),
            plugins::keep,
        )
        .query(&["dry_run"])
        .body(Body::Wasm),
    ]
}

fn alias_routes() -> Vec<Route> {
    let alias = "/v1/plugins/{plugin}/aliases/{alias}";
    vec![
        Route::new(("get", alias), "Show where an alias points, and what runs beside", Reply::Json("AliasView"), aliases::show)
            .query(TENANT),
        Route::new(
            ("put", alias),
            "Point an alias at a version, with a canary or a shadow beside it, or none",
            Reply::Json("PluginView"),
            aliases::set,
        )
        .query(TENANT)
        .body(Body::Json("AliasSpec")),
        Route::new(("patch", alias), "Change what is named of an alias", Reply::Json("AliasView"), aliases::patch)
            .query(TENANT)
            .body(Body::Json("AliasPatch")),
        Route::new(("delete", alias), "Delete an alias that no connection names", Reply::Nothing, aliases::delete).query(TENANT),
        Route::new(
            ("get", "/v1/plugins/{plugin}/aliases/{alias}/shadow"),
            "Show what an alias' shadow gave, compared with its own version",
            Reply::Json("ShadowView"),
            aliases::shadow,
        )
        .query(TENANT),
        Route::new(
            ("post", "/v1/plugins/{plugin}/aliases/{alias}/promote"),
            "Point an alias at its canary",
            Reply::Json("AliasView"),
            aliases::promote,
        )
        .query(TENANT),
        Route::new(
            ("post", "/v1/plugins/{plugin}/aliases/{alias}/rollback"),
            "End an alias' canary; without one, point it where it pointed before",
            Reply::Json("AliasView"),
            aliases::roll_back,
        )
        .query(TENANT),
    ]
}

fn table_routes() -> Vec<Route> {
    let (table, entry) = ("/v1/plugins/{plugin}/table", "/v1/plugins/{plugin}/table/{key}");
    vec![
        Route::new(("get", table), "List a plugin's table, in order of keys", Reply::Page("TableEntryView"), tables::list)
            .query(&["tenant", "prefix", "limit", "cursor"]),
        Route::new(
            ("post", table),
            "Write many entries of a plugin's table: one in each line, at most 50000, in order",
            Reply::Json("LoadedView"),
            tables::load,
        )
        .query(TENANT)
        .body(Body::Lines("TableLine")),
        Route::new(("get", entry), "Read an entry of a plugin's table", Reply::Bytes, tables::show).query(TENANT),
        Route::new(
            ("put", entry),
            "Write an entry of a plugin's table: the body as it is, at most 64 KiB",
            Reply::Nothing,
            tables::set,
        )
        .query(&["tenant", "ttl"])
        .body(Body::Bytes)
        .silent(),
        Route::new(("delete", entry), "Delete an entry of a plugin's table", Reply::Nothing, tables::delete).query(TENANT),
    ]
}

fn traffic_routes() -> Vec<Route> {
    let (lane, shard, diversion) =
        ("/v1/traffic/lanes/{lane}", "/v1/traffic/shards/{shard}", "/v1/traffic/diversions/{tenant_or_source}");
    vec![
        Route::new(
            ("get", "/v1/traffic"),
            "Show what is set for the gateway's traffic; operators only",
            Reply::Json("TrafficView"),
            traffic::show,
        ),
        Route::new(("put", lane), "Set what a lane may use; operators only", Reply::Json("SettingView"), traffic::set_lane)
            .body(Body::Json("ShareSpec")),
        Route::new(
            ("put", "/v1/traffic/retries"),
            "Set what retries may use; operators only",
            Reply::Json("SettingView"),
            traffic::set_retries,
        )
        .body(Body::Json("ShareSpec")),
        Route::new(("put", shard), "Set what a shard may use; operators only", Reply::Json("SettingView"), traffic::set_shard)
            .body(Body::Json("ShareSpec")),
        Route::new(
            ("put", diversion),
            "Divert a tenant or a source: new events go to the held lane, and nothing is delivered; operators only",
            Reply::Json("DiversionView"),
            traffic::divert,
        )
        .body(Body::Json("DiversionSpec")),
        Route::new(
            ("delete", diversion),
            "Give a tenant or a source back: what is held is delivered, newcomers behind it; operators only",
            Reply::Json("DiversionView"),
            traffic::give_back,
        )
        .query(&["reason"])
        .answers(),
        Route::new(
            ("get", "/v1/traffic/audit"),
            "List the last 256 changes of the gateway's traffic, newest first; operators only",
            Reply::Page("TrafficChangeView"),
            traffic::audit,
        )
        .query(PAGE),
        Route::new(
            ("get", "/v1/signals"),
            "Show how the gateway's queues stand and how fast they drain; operators only",
            Reply::Json("SignalsView"),
            signals::show,
        ),
        Route::new(
            ("get", "/v1/scaling"),
            "Say how many gateways the backlog asks for; operators only",
            Reply::Json("ScalingView"),
            signals::scaling,
        )
        .query(&["target"]),
    ]
}

fn event_routes() -> Vec<Route> {
    let delivery = "/v1/events/{event}/deliveries/{delivery}";
    vec![
        Route::new(("get", "/v1/events"), "List events, newest first", Reply::Page("EventView"), events::list).query(TENANT_PAGE),
        Route::new(
            ("get", "/v1/events/{event}"),
            "Show an event with all that became of it",
            Reply::Json("EventView"),
            events::show,
        )
        .query(TENANT),
        Route::new(
            ("post", "/v1/events/{event}/retry"),
            "Retry an event's dead letters",
            Reply::Json("RetriedView"),
            events::retry,
        )
        .query(TENANT),
        Route::new(("get", delivery), "Show a delivery with its attempts", Reply::Json("DeliveryView"), events::delivery)
            .query(TENANT),
        Route::new(("get", "/v1/deliveries"), "List an event's deliveries", Reply::Page("DeliveryView"), events::deliveries)
            .query(&["tenant", "event"]),
    ]
}

fn dead_letter_routes() -> Vec<Route> {
    let (jobs, job) = ("/v1/dead-letters/retry-jobs", "/v1/dead-letters/retry-jobs/{job}");
    vec![
        Route::new(
            ("get", "/v1/dead-letters"),
            "List dead letters, newest first; with a filter a page may be short, and goes on while there is a next one",
            Reply::Page("DeadLetterView"),
            recovery::list,
        )
        .query(LETTERS),
        Route::new(("post", "/v1/dead-letters/retry"), "Retry dead letters", Reply::Json("RetriedView"), recovery::retry)
            .query(TENANT)
            .body(Body::Json("RetryDeadLettersSpec")),
        Route::new(("get", jobs), "List retry jobs, newest first", Reply::Page("RetryJobView"), recovery::jobs).query(TENANT),
        Route::new(
            ("post", jobs),
            "Begin a job that retries the dead letters that there are now, or those that a filter means, at a rate",
            Reply::Json("RetryJobView"),
            recovery::begin,
        )
        .query(TENANT)
        .body(Body::Json("JobSpec"))
        .accepted(),
        Route::new(("get", job), "Show a retry job with its progress", Reply::Json("RetryJobView"), recovery::job).query(TENANT),
        Route::new(
            ("delete", job),
            "Cancel a retry job; what it has put back stays so",
            Reply::Json("RetryJobView"),
            recovery::cancel,
        )
        .query(TENANT)
        .answers(),
    ]
}

fn replay_routes() -> Vec<Route> {
    let (jobs, job) = ("/v1/replay-jobs", "/v1/replay-jobs/{job}");
    vec![
        Route::new(("get", jobs), "List replay jobs, newest first", Reply::Page("ReplayJobView"), recovery::replays).query(TENANT),
        Route::new(
            ("post", jobs),
            "Begin a job that sends past events over a connection once more, as new deliveries, at a rate",
            Reply::Json("ReplayJobView"),
            recovery::begin_replay,
        )
        .query(TENANT)
        .body(Body::Json("ReplayJobSpec"))
        .accepted(),
        Route::new(("get", job), "Show a replay job with its progress", Reply::Json("ReplayJobView"), recovery::replay)
            .query(TENANT),
        Route::new(
            ("delete", job),
            "Cancel a replay job; what it has put on the schedule is delivered",
            Reply::Json("ReplayJobView"),
            recovery::cancel_replay,
        )
        .query(TENANT)
        .answers(),
    ]
}

fn bookmark_routes() -> Vec<Route> {
    let (all, one) = ("/v1/bookmarks", "/v1/bookmarks/{bookmark}");
    vec![
        Route::new(("get", all), "List bookmarks, in order of their names", Reply::Page("BookmarkView"), bookmarks::list)
            .query(TENANT),
        Route::new(
            ("post", all),
            "Keep a copy of an event's request under a name, for longer than history does",
            Reply::Json("BookmarkView"),
            bookmarks::create,
        )
        .query(TENANT)
        .body(Body::Json("BookmarkSpec"))
        .creates(),
        Route::new(("get", one), "Show a bookmark with its request", Reply::Json("BookmarkView"), bookmarks::show).query(TENANT),
        Route::new(("delete", one), "Delete a bookmark", Reply::Nothing, bookmarks::delete).query(TENANT),
        Route::new(
            ("post", "/v1/bookmarks/{bookmark}/send"),
            "Send a bookmark's request as a new event: through its source, or over one connection",
            Reply::Json("SentView"),
            bookmarks::send,
        )
        .query(TENANT)
        .body(Body::Json("SendSpec"))
        .accepted(),
    ]
}
