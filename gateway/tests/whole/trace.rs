//! One trace from the sender to the receiver, found whole in a trace server that nobody here wrote.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use tidegate_test_support::github;
use tidegate_test_support::http::{Answer, send};
use tidegate_test_support::otlp::{Phoenix, Span};

use crate::api::text;
use crate::visitors::{ZEROS, sign};
use crate::world::{EMBEDDED, World, prebuilt};

/// The trace server is slow, and so is a busy machine.
const ARRIVAL: Duration = Duration::from_secs(60);
const SENDERS_TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SENDERS_SPAN: &str = "00f067aa0ba902b7";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_chain_is_in_one_trace_over_http_and_grpc() {
    let phoenix = Phoenix::start().await;
    for (protocol, endpoint, trace) in
        [("http/protobuf", phoenix.otlp_http(), SENDERS_TRACE), ("grpc", phoenix.otlp_grpc(), "0af7651916cd43dd8448eb211c80319c")]
    {
        whole_chain(&phoenix, protocol, &endpoint, trace).await;
    }
}

async fn whole_chain(phoenix: &Phoenix, protocol: &str, endpoint: &str, trace: &str) {
    let variables = |launch: tidegate_test_support::gateway::Launch| {
        launch
            .environment("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            .environment("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
            .environment("OTEL_METRICS_EXPORTER", "none")
            .environment("OTEL_BSP_SCHEDULE_DELAY", "100")
    };
    let world = World::with(EMBEDDED, variables, "telemetry.sample_ratio = 1.0").await;
    set_up(&world).await;
    // The first attempt fails, so that a second one has to find its place.
    world.receiver.answer_in_turn([Answer::status(503)], Answer::status(200));
    let event = post(&world, "trusted", trace).await;
    let received = world.receiver.wait_for(2, ARRIVAL).await;

    let spans = phoenix.wait_for_spans(trace, ARRIVAL, |spans| spans.len() >= 10).await;
    assert_eq!(spans.len(), 10, "{spans:#?}");
    let accept = named(&spans, "POST /in/{source}");
    assert_eq!(accept.parent_id.as_deref(), Some(SENDERS_SPAN), "a trusted sender is the parent");
    assert_eq!(accept.attributes["messaging.message.id"], *event);
    assert_eq!(accept.attributes["http.response.status_code"], 202);

    let chat = chain(&world, &spans, accept, "chat").await;
    let plugin = child(&spans, chat, "plugin github-push-to-chat");
    assert!(plugin.attributes["tidegate.plugin.fuel"].as_u64() > Some(1000), "{plugin:#?}");
    assert!(plugin.attributes["tidegate.plugin.memory"].as_u64() >= Some(65_536), "{plugin:#?}");
    assert_eq!(plugin.attributes["tidegate.outputs"], 1);
    let mut attempts: Vec<&Span> = spans.iter().filter(|span| span.name == "POST").collect();
    attempts.sort_by_key(|span| span.attributes["http.response.status_code"] == 200);
    assert_eq!(attempts.len(), 2);
    for (attempt, (status, request)) in attempts.iter().zip([(503, &received[0]), (200, &received[1])]) {
        assert_eq!(attempt.parent_id.as_deref(), Some(&*chat.context.span_id));
        assert_eq!(attempt.attributes["http.response.status_code"], status);
        let expected = format!("00-{trace}-{}-01", attempt.context.span_id);
        assert_eq!(request.header("traceparent"), Some(&*expected), "the receiver is below its own attempt");
    }
    let signed: BTreeSet<_> =
        spans.iter().filter(|span| span.name == "plugin signs").map(|span| span.parent_id.as_deref()).collect();
    assert_eq!(signed, attempts.iter().map(|attempt| Some(&*attempt.context.span_id)).collect(), "{spans:#?}");
    assert_eq!((&*attempts[0].status_code, &*attempts[1].status_code), ("ERROR", "UNSET"));

    let broken = chain(&world, &spans, accept, "broken").await;
    assert_eq!(broken.status_code, "ERROR");
    for name in ["plugin json-field-filter", "dead_letter"] {
        let span = child(&spans, broken, name);
        assert_eq!((&*span.status_code, &span.attributes["error.type"]), ("ERROR", &json!("plugin_failed")), "{span:#?}");
    }
    strangers_context_is_no_parent(&world, phoenix).await;
}

/// From others the trace is the gateway's own.
async fn strangers_context_is_no_parent(world: &World, phoenix: &Phoenix) {
    const STRANGERS_TRACE: &str = "ffffffffffffffffffffffffffff0001";
    let before = world.receiver.count();
    post(world, "stranger", STRANGERS_TRACE).await;
    let request = world.receiver.wait_for(before + 1, ARRIVAL).await.pop().expect("it came");
    let own = request.header("traceparent").and_then(|value| value.split('-').nth(1)).expect("a trace").to_owned();
    assert_ne!(own, STRANGERS_TRACE);
    let spans = phoenix.wait_for_spans(&own, ARRIVAL, |spans| spans.iter().any(|span| span.name == "POST /in/{source}")).await;
    assert_eq!(named(&spans, "POST /in/{source}").parent_id, None);
    assert!(phoenix.spans(STRANGERS_TRACE).await.is_empty());
}

async fn set_up(world: &World) {
    let chat = world.api.keep(prebuilt("github-push-to-chat")).await;
    let fields = world.api.keep(prebuilt("json-field-filter")).await;
    let signs = world.api.keep(sign(ZEROS)).await;
    let to_chat = |name: &str, source: &str| json!({"name": name, "source": source, "destination": "chat", "plugins": [{"plugin": "github-push-to-chat"}]});
    world
        .api
        .apply(json!({
            "plugins": [
                {"name": "github-push-to-chat", "component": chat},
                {"name": "json-field-filter", "component": fields},
                {"name": "signs", "component": signs, "aliases": ["live"]},
            ],
            "sources": [{"name": "trusted", "trust_trace": true}, {"name": "stranger"}],
            "destinations": [{
                "name": "chat", "url": world.receiver.url("/chat"), "retry": {"base": "1ms"},
                "sign": {"plugin": "signs", "version": "live"},
            }],
            "connections": [
                to_chat("chat", "trusted"),
                to_chat("stranger", "stranger"),
                {
                    "name": "broken",
                    "source": "trusted",
                    "destination": "chat",
                    "plugins": [{"plugin": "json-field-filter", "config": {"rules": []}}],
                },
            ],
        }))
        .await;
}

async fn post(world: &World, source: &str, trace: &str) -> String {
    let url = world.gateway.ingest(&format!("/in/{}", world.api.id("sources", source).await));
    let traceparent = format!("00-{trace}-{SENDERS_SPAN}-01");
    let headers = [("content-type", "application/json"), ("x-github-event", "push"), ("traceparent", &*traceparent)];
    let reply = send("POST", &url, &headers, github::PUSH.bytes()).await;
    assert_eq!(reply.status, 202, "{:?}", reply.body);
    text(&reply.json()["id"])
}

/// The span of the event on this connection.
async fn chain<'a>(world: &World, spans: &'a [Span], accept: &Span, connection: &str) -> &'a Span {
    let id = world.api.id("connections", connection).await;
    let found = spans.iter().find(|span| span.name == "process event" && span.attributes["tidegate.connection"] == *id);
    let process = found.unwrap_or_else(|| panic!("no span of {connection} in {spans:#?}"));
    assert_eq!(process.parent_id.as_deref(), Some(&*accept.context.span_id));
    process
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name} in {spans:#?}"))
}

fn child<'a>(spans: &'a [Span], parent: &Span, name: &str) -> &'a Span {
    let span = named(spans, name);
    assert_eq!(span.parent_id.as_deref(), Some(&*parent.context.span_id));
    span
}
