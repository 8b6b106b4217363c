//! What a tenant's plugins may take, and how the API shows those that do not run for now.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use tidegate::clock::Timestamp;
use tidegate::control::inspect::{Ailing, InspectError, Inspection, Inspector};
use tidegate::control::seal::generate_key;
use tidegate::event::{Failure, Party, TenantId};
use tidegate::plugin::poison::{Place, Poisoned};

use crate::world::{ByPrefix, World, id, open, options, problem};

/// A component of this many bytes; the inspector of these tests says that its code takes as many.
fn component(number: usize, size: usize) -> Vec<u8> {
    let mut component = format!("filter {number} ").into_bytes();
    component.resize(size, b'.');
    component
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_over_the_plan_is_refused_with_what_could_be_deleted() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let small = json!({"plan": {"plugin_bytes": "64KiB"}});
    assert_eq!(world.ok("PATCH", "/v1/tenants/acme", Some(&small)).await["plan"]["plugin_bytes"], "64KiB");
    let upload = async |plugin: &str, number: usize| {
        world.upload(&acme.key, &format!("/v1/plugins/{plugin}/versions"), &component(number, 30 << 10)).await
    };
    let first = upload("shape", 1).await.json();
    assert_eq!(first["compiled"], 30 << 10);
    upload("shape", 2).await;
    assert_eq!(upload("other", 2).await.status, 201, "the same component counts once");
    let refused = problem(&upload("shape", 3).await, 422);
    assert_eq!(refused["code"], "plugin_bytes_exceeded");
    let detail = refused["detail"].as_str().unwrap();
    let proposed = format!("{} of `shape` (30KiB)", first["hash"].as_str().unwrap());
    for word in ["92174B", "64KiB", "plan.plugin_bytes", &proposed] {
        assert!(detail.contains(word), "{word}: {detail}");
    }
    let latest = world.ok_as(&acme.key, "GET", "/v1/plugins/shape", None).await["aliases"]["latest"].clone();
    assert_ne!(latest, first["hash"], "and nothing has changed");

    let versions = "/v1/plugins/shape/versions";
    world.ok_as(&acme.key, "DELETE", &format!("{versions}/{}", first["hash"].as_str().unwrap()), None).await;
    assert_eq!(upload("shape", 3).await.status, 201, "what was deleted counts no more");
    let other = world.tenant("other").await;
    assert_eq!(world.upload(&other.key, versions, &component(4, 100 << 10)).await.status, 201, "others have their own");
    let wrong = json!({"plan": {"plugin_fuel": 2_000_000_000_000_000_u64}});
    assert_eq!(world.refused(422, "PATCH", "/v1/tenants/acme", Some(&wrong)).await["errors"][0]["field"], "plan.plugin_fuel");
    let wrong = json!({"plugins": [{"plugin": "shape", "poison_after": 0}]});
    let wrong = world.send(&acme.key, "PATCH", "/v1/connections/through", Some(&wrong)).await;
    assert_eq!(problem(&wrong, 422)["errors"][0]["field"], "plugins[0].poison_after");
    for invocations in [0, 1, 10_001] {
        let wrong = json!({"plugins": [{"plugin": "shape", "reuse": {"invocations": invocations}}]});
        let wrong = problem(&world.send(&acme.key, "PATCH", "/v1/connections/through", Some(&wrong)).await, 422);
        let message = format!("must be from 2 to 10000, not {invocations}");
        let expected = json!({"field": "plugins[0].reuse.invocations", "message": message});
        assert_eq!(wrong["errors"], json!([expected]));
    }
    let right = json!({"plugins": [{"plugin": "shape", "reuse": {"invocations": 100}}]});
    let shown = world.ok_as(&acme.key, "PATCH", "/v1/connections/through", Some(&right)).await;
    assert_eq!(shown["plugins"][0]["reuse"], json!({"invocations": 100}));
}

/// Says of a node what a test tells it.
#[derive(Default)]
struct Told {
    poisoned: Mutex<Vec<Poisoned>>,
}

#[async_trait]
impl Inspector for Told {
    async fn inspect(&self, component: Bytes) -> Result<Inspection, InspectError> {
        ByPrefix.inspect(component).await
    }

    fn poisoned(&self, tenant: TenantId) -> Vec<Poisoned> {
        let poisoned = self.poisoned.lock().unwrap();
        poisoned.iter().filter(|poisoned| poisoned.place.tenant == tenant).cloned().collect()
    }

    fn ailing(&self) -> Ailing {
        let poisoned = self.poisoned.lock().unwrap();
        Ailing { poisoned: poisoned.len(), fuel_waits: poisoned.iter().map(|poisoned| poisoned.place.tenant).collect() }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_shows_where_it_is_poisoned_and_signals_how_many_are() {
    let directory = tempfile::tempdir().unwrap();
    let (store, key, told) = (open(directory.path().join("store")).await, generate_key().unwrap(), Arc::new(Told::default()));
    let world = World::with(options(&store, &key, told.clone()), key).await;
    let acme = world.tenant("acme").await;
    let of_plugin =
        async |plugin: &str| world.ok_as(&acme.key, "GET", &format!("/v1/plugins/{plugin}"), None).await["poisoned"].clone();
    assert_eq!(of_plugin("shape").await, Value::Null);
    let place = Place {
        tenant: acme.id.parse().unwrap(),
        connection: acme.connection.parse().unwrap(),
        stage: 0,
        version: acme.version.parse().unwrap(),
    };
    let reason = Failure { party: Party::Plugin, code: "aborted".into(), detail: "it aborted".into(), retryable: false };
    let (since, next_try) = (Timestamp(1_800_000_000_000), Timestamp(1_800_000_005_000));
    told.poisoned.lock().unwrap().push(Poisoned { place, since, stops: 12, reason, next_try });
    let other = world.upload(&acme.key, "/v1/plugins/other/versions", b"filter other").await.json();
    assert_eq!(of_plugin("other").await, Value::Null, "{other}");
    let shown = of_plugin("shape").await;
    let wanted = json!([{
        "connection": acme.connection, "stage": 0, "version": acme.version, "since": since.to_string(), "stops": 12,
        "reason": {"party": "plugin", "code": "aborted", "detail": "it aborted", "retryable": false}, "next_try": next_try.to_string(),
    }]);
    assert_eq!(shown, wanted);
    let signals = world.ok("GET", "/v1/signals", None).await;
    assert_eq!(signals["plugins"], json!({"poisoned": 1, "waiting_for_fuel": 1, "tenants": [acme.id]}));
    let moved = id(&world.ok_as(&acme.key, "GET", "/v1/plugins/other", None).await);
    let stages = json!({"plugins": [{"plugin": moved}]});
    world.ok_as(&acme.key, "PATCH", "/v1/connections/through", Some(&stages)).await;
    assert_eq!(of_plugin("shape").await, Value::Null, "it runs there no more");
}
