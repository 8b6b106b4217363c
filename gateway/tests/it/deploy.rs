//! What can be known about `deploy/` without a container engine, a cluster and a Prometheus: that it fits the gateway and itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tidegate::config::{self, Config};

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("deploy").join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(deploy(name)).unwrap_or_else(|error| panic!("deploy/{name}: {error}"))
}

fn yaml(name: &str) -> Value {
    serde_saphyr::from_str(&text(name)).unwrap_or_else(|error| panic!("deploy/{name}: {error}"))
}

fn kubernetes() -> Vec<Value> {
    objects("kubernetes/tidegate.yaml")
}

fn objects(name: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&text(name)).unwrap_or_else(|error| panic!("deploy/{name}: {error}"))
}

fn object<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

fn gateway_config(toml: &str) -> Config {
    Config::parse(toml, Path::new("/etc/tidegate")).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().map(|item| item.as_str().expect("text")).collect()
}

fn seconds(value: &str) -> Duration {
    Duration::from_secs(value.strip_suffix('s').and_then(|number| number.parse().ok()).expect("seconds"))
}

#[test]
fn images_are_pinned() {
    let compose = yaml("compose.yaml");
    let objects = kubernetes();
    let containers = &object(&objects, "Deployment")["spec"]["template"]["spec"]["containers"];
    let services = compose["services"].as_object().expect("services").values();
    let images: Vec<_> =
        services.chain(containers.as_array().expect("containers")).map(|one| one["image"].as_str().expect("an image")).collect();
    assert_eq!(images.len(), 6);
    for image in images {
        let tag = image.rsplit_once(':').map(|(_, tag)| tag);
        assert!(tag.is_some_and(|tag| tag != "latest"), "{image}");
    }
}

#[test]
fn compose_mounts_what_exists() {
    let compose = yaml("compose.yaml");
    let volumes = compose["volumes"].as_object().expect("volumes");
    let mut files = 0;
    for service in compose["services"].as_object().expect("services").values() {
        for mount in strings(&service["volumes"]) {
            let (source, _) = mount.split_once(':').expect("a mount");
            if source.starts_with('.') {
                assert!(deploy(source).is_file(), "{mount}");
                files += 1;
            } else {
                assert!(volumes.contains_key(source), "{mount}");
            }
        }
    }
    assert_eq!(files, 2);
    let build = &compose["services"]["init"]["build"];
    assert!(deploy(build["context"].as_str().expect("a context")).join(build["dockerfile"].as_str().expect("a file")).is_file());
}

#[test]
fn composes_redis_keeps_what_the_gateway_promises() {
    let compose = yaml("compose.yaml");
    let config = gateway_config(&text("tidegate.toml"));
    let config::Store::Redis(store) = config.store else { panic!("compose.yaml brings Redis") };
    assert_eq!(store.durability, config::Durability::Everysec);
    let redis = strings(&compose["services"]["redis"]["command"]).join(" ");
    for setting in ["--appendonly yes", "--appendfsync everysec", "--maxmemory-policy noeviction"] {
        assert!(redis.contains(setting), "{setting} is missing in {redis}");
    }
    assert!(text("tidegate.toml").contains("redis://redis:6379"), "the service is named redis");
    let grace = compose["services"]["gateway"]["stop_grace_period"].as_str().expect("a grace period");
    assert!(seconds(grace) > config.shutdown.deadline);
}

#[test]
fn compose_publishes_the_admin_api_on_loopback_only() {
    let compose = yaml("compose.yaml");
    let config = gateway_config(&text("tidegate.toml"));
    let admin = config.admin.listen.port();
    let ports = strings(&compose["services"]["gateway"]["ports"]);
    assert_eq!(ports, [format!("{0}:{0}", config.ingest.listen.port()), format!("127.0.0.1:{admin}:{admin}")]);
}

#[test]
fn traces_find_their_way_from_the_gateway_to_jaeger() {
    let compose = yaml("compose.yaml");
    let collector = yaml("collector.yaml");
    let environment = &compose["services"]["gateway"]["environment"];
    assert_eq!(environment["OTEL_EXPORTER_OTLP_PROTOCOL"], "grpc");
    assert_eq!(environment["OTEL_EXPORTER_OTLP_ENDPOINT"], "http://collector:4317");
    assert_eq!(collector["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"], "0.0.0.0:4317");
    assert!(strings(&collector["service"]["pipelines"]["traces"]["exporters"]).contains(&"otlp/jaeger"));
    for (name, pipeline) in collector["service"]["pipelines"].as_object().expect("pipelines") {
        for part in ["receivers", "processors", "exporters"] {
            let named = strings(&pipeline[part]);
            assert!(!named.is_empty());
            for component in named {
                assert!(!collector[part][component].is_null(), "{name} names {component}, which is not among the {part}");
            }
        }
    }
    let endpoint = collector["exporters"]["otlp/jaeger"]["endpoint"].as_str().expect("an endpoint");
    let (host, _) = endpoint.split_once(':').expect("host and port");
    assert!(compose["services"][host].is_object());
}

#[test]
fn kubernetes_runs_the_gateway_with_a_configuration_it_takes() {
    let objects = kubernetes();
    let toml = object(&objects, "ConfigMap")["data"]["tidegate.toml"].as_str().expect("a file");
    let pod = &object(&objects, "Deployment")["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    // Where the pod gets the variable from its secret, this test has a value of its own.
    assert!(container["env"].as_array().expect("variables").iter().any(|variable| variable["name"] == "TIDEGATE_REDIS_URL"));
    let config = gateway_config(&toml.replace("env:TIDEGATE_REDIS_URL", "redis://redis:6379"));

    let port = |name: &str| {
        let ports = container["ports"].as_array().expect("ports");
        ports.iter().find(|port| port["name"] == name).and_then(|port| port["containerPort"].as_u64()).expect("the port")
    };
    assert_eq!(port("ingest"), u64::from(config.ingest.listen.port()));
    assert_eq!(port("admin"), u64::from(config.admin.listen.port()));
    for probe in ["livenessProbe", "readinessProbe"] {
        assert_eq!(container[probe]["httpGet"]["port"], "admin");
    }
    let grace = pod["terminationGracePeriodSeconds"].as_u64().expect("a grace period");
    assert!(Duration::from_secs(grace) > config.shutdown.deadline);

    let mounted: Vec<_> = container["volumeMounts"].as_array().expect("mounts").iter().map(|mount| &mount["name"]).collect();
    let volumes: Vec<_> = pod["volumes"].as_array().expect("volumes").iter().map(|volume| &volume["name"]).collect();
    assert_eq!(mounted, volumes);
    assert!(config.plugins.cache.starts_with("/var/lib/tidegate"), "the root of the file system is read-only");

    let labels = &object(&objects, "Deployment")["spec"]["template"]["metadata"]["labels"];
    for service in objects.iter().filter(|object| object["kind"] == "Service") {
        assert_eq!(&service["spec"]["selector"], labels);
    }
}

#[test]
fn keda_asks_the_gateway_what_it_answers() {
    let (gateway, keda) = (kubernetes(), objects("kubernetes/keda.yaml"));
    let scaled = &object(&keda, "ScaledObject")["spec"];
    let deployment = object(&gateway, "Deployment");
    assert_eq!(scaled["scaleTargetRef"]["name"], deployment["metadata"]["name"]);
    let shards = gateway_config(&text("tidegate.toml")).dispatch.shards;
    assert_eq!(scaled["maxReplicaCount"], u64::from(shards), "more gateways than shards have nothing to do");

    let trigger = scaled["triggers"].as_array().expect("triggers").iter().find(|trigger| trigger["type"] == "metrics-api");
    let metadata = &trigger.expect("the trigger that asks the gateway")["metadata"];
    let url: url::Url = metadata["url"].as_str().expect("a URL").parse().expect("a URL");
    let admin = gateway.iter().find(|object| object["kind"] == "Service" && object["metadata"]["name"] == url.host_str().unwrap());
    assert_eq!(admin.expect("the service")["spec"]["ports"][0]["port"], u64::from(url.port().expect("a port")));
    let document = tidegate::control::api::openapi();
    let operation = &document["paths"][url.path()]["get"];
    for (name, _) in url.query_pairs() {
        assert!(
            operation["parameters"].as_array().expect("parameters").iter().any(|known| known["name"] == name.as_ref()),
            "{name}"
        );
    }
    let answer = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].as_str().expect("a schema");
    let answer = document.pointer(answer.trim_start_matches('#')).expect("the schema is there");
    let value = metadata["valueLocation"].as_str().expect("a field");
    assert_eq!(answer["properties"][value]["type"], "integer", "{answer}");
    let secret = &object(&keda, "TriggerAuthentication")["spec"]["secretTargetRef"][0];
    let volumes = deployment["spec"]["template"]["spec"]["volumes"].as_array().expect("volumes");
    let keys = &volumes.iter().find(|volume| volume["name"] == "keys").expect("the keys")["secret"];
    assert_eq!(secret["name"], keys["secretName"]);
    assert!(keys["items"].as_array().expect("keys").iter().any(|item| item["key"] == secret["key"]));
}

/// Names as Prometheus has them: `tidegate.store.write.duration` in seconds is `tidegate_store_write_duration_seconds`.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("tidegate_")).map(str::to_owned).collect()
}

fn base(metric: &str) -> String {
    let mut name = metric;
    for suffix in ["_bucket", "_sum", "_count", "_total", "_seconds", "_bytes"] {
        name = name.strip_suffix(suffix).unwrap_or(name);
    }
    name.to_owned()
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_exist() {
    let telemetry = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/telemetry");
    let parts = fs::read_dir(telemetry.join("metrics")).expect("the metrics are defined there");
    let files = parts.map(|part| part.expect("a file").path()).chain([telemetry.join("metrics.rs")]);
    let source: String = files.map(|file| fs::read_to_string(file).expect("a file's text")).collect();
    let defined: BTreeSet<_> =
        source.split('"').filter(|word| word.starts_with("tidegate.")).map(|name| name.replace('.', "_")).collect();

    let alerts = yaml("prometheus/alerts.yaml");
    let rules = alerts["groups"][0]["rules"].as_array().expect("rules");
    assert!(rules.len() >= 10);
    for rule in rules {
        let expression = rule["expr"].as_str().expect("an expression");
        let severity = rule["labels"]["severity"].as_str().expect("a severity");
        assert!(["page", "ticket"].contains(&severity), "{}", rule["alert"]);
        assert!(rule["annotations"]["summary"].is_string() && rule["annotations"]["description"].is_string(), "{}", rule["alert"]);
        for metric in metrics_in(expression) {
            assert!(defined.contains(&base(&metric)), "{} asks for {metric}", rule["alert"]);
        }
    }

    let dashboard: Value = serde_json::from_str(&text("grafana/tidegate.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    assert!(panels.len() >= 10);
    for panel in panels {
        for target in panel["targets"].as_array().expect("targets") {
            let metrics = metrics_in(target["expr"].as_str().expect("an expression"));
            assert!(!metrics.is_empty(), "{}", panel["title"]);
            for metric in metrics {
                assert!(defined.contains(&base(&metric)), "{} asks for {metric}", panel["title"]);
            }
        }
    }
}
