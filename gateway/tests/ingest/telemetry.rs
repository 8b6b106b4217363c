//! Traces and metrics as a receiver gets them, over both protocols.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use prost::Message;
use tidegate::clock::Timestamp;
use tidegate::event::{
    Attempt, BatchId, BatchPart, ConnectionId, DeliveryId, DestinationId, Event, Failure, Lane, Party, PluginRun, Shard,
    TraceContext, VersionHash,
};
use tidegate::telemetry::Telemetry;
use tidegate::telemetry::metrics::{Ingested, LeaseChange, QueueSample, TenantClass, Write};
use tidegate::telemetry::otel::{Batching, Otel, Protocol, Target};
use tidegate::telemetry::trace::{AttemptOf, AttemptSpan, BatchOf, Peer, Planned, Root, Sampler, Settled, Spans};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::world::{DEADLINE, NOW, SOURCE, Setup, TENANT, World, post, source};

const MOST: usize = 16 << 20;

/// Takes OTLP, over HTTP and gRPC.
struct Receiver {
    address: SocketAddr,
    requests: mpsc::Receiver<(String, Bytes)>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = mpsc::channel(100);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let sender = sender.clone();
                let service = service_fn(move |request| answer(sender.clone(), request));
                tokio::spawn(async move {
                    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, requests }
    }

    fn target(&self, protocol: Protocol, path: &str) -> Option<Target> {
        let endpoint = match protocol {
            Protocol::Grpc => format!("http://{}", self.address),
            Protocol::Http => format!("http://{}{path}", self.address),
        };
        Some(Target { endpoint, protocol })
    }

    /// All that came until telemetry was shut down: spans, with their resource's service name, and metric names.
    async fn received(mut self) -> (Vec<Span>, Vec<String>) {
        let (mut spans, mut metrics) = (Vec::new(), Vec::new());
        while let Ok((path, body)) = self.requests.try_recv() {
            if path.contains("trace") {
                let request = ExportTraceServiceRequest::decode(body).expect("spans");
                for resource in request.resource_spans {
                    let attributes = resource.resource.expect("a resource").attributes;
                    assert!(attributes.iter().any(|attribute| attribute.key == "service.name"), "{attributes:?}");
                    spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
                }
            } else {
                let request = ExportMetricsServiceRequest::decode(body).expect("metrics");
                let scopes = request.resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
                metrics.extend(scopes.flat_map(|scope| scope.metrics).map(|metric| metric.name));
            }
        }
        (spans, metrics)
    }
}

type Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

async fn answer(
    requests: mpsc::Sender<(String, Bytes)>,
    request: http::Request<Incoming>,
) -> Result<http::Response<Body>, Infallible> {
    let path = request.uri().path().to_ascii_lowercase();
    let grpc = request.headers().get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    #[allow(clippy::disallowed_methods)] // Limited.
    let mut body = Limited::new(request.into_body(), MOST).collect().await.expect("a body").to_bytes();
    if grpc {
        // One message, not compressed, after its length.
        body.advance(5);
    }
    requests.try_send((path, body)).expect("room");
    if !grpc {
        return Ok(http::Response::new(Full::new(Bytes::new()).boxed()));
    }
    let trailers =
        http::HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static("0"))]);
    let frames = [Ok(Frame::data(Bytes::from_static(&[0; 5]))), Ok(Frame::trailers(trailers))];
    let response = http::Response::builder().header("content-type", "application/grpc");
    Ok(response.body(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)))).expect("a response"))
}

fn otel(receiver: &Receiver, protocol: Protocol, root: Root) -> Otel {
    Otel {
        traces: receiver.target(protocol, "/v1/traces"),
        metrics: receiver.target(protocol, "/v1/metrics"),
        sampler: Sampler { root, parent_based: true },
        ..Otel::default()
    }
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let value = span.attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value?;
    Some(match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}

fn failure(code: &str) -> Failure {
    Failure { party: Party::Destination, code: code.into(), detail: "it refused".into(), retryable: true }
}

fn delivery(event: &Event) -> AttemptOf<'static> {
    AttemptOf {
        id: DeliveryId::derive(event.id, ConnectionId(5), 0),
        event: event.id,
        tenant: event.tenant,
        connection: ConnectionId(5),
        destination: DestinationId(6),
        accepted_at: event.accepted_at,
        method: "POST",
        bytes: 0,
        trace: event.trace,
    }
}

fn attempt(number: u32, failure: Option<Failure>) -> Attempt {
    Attempt {
        number,
        started_at: NOW.after(Duration::from_millis(3)),
        took_us: 1500,
        status: Some(if failure.is_some() { 500 } else { 200 }),
        response: Bytes::new(),
        response_cut: false,
        failure,
        batch: None,
    }
}

const PEER: Peer<'static> = Peer { host: "example.test", port: 443, scheme: "https" };

/// What dispatch would tell of an event; gives the `traceparent` of the attempt.
fn dispatch(spans: &Spans, event: &Event, failed: Option<Failure>) -> Option<String> {
    let connection = ConnectionId(5);
    let planned =
        Planned { connection, started_at: NOW.after(Duration::from_millis(1)), took: Duration::from_micros(700), outcome: Ok(1) };
    spans.planned(event, planned);
    let run =
        PluginRun { version: VersionHash([9; 32]), fuel: 1234, memory: 65536, took_us: 400, outcome: Ok(1), logs: Vec::new() };
    spans.plugin_run(event, connection, "reshape", NOW.after(Duration::from_millis(1)), &run);
    let span = AttemptSpan::start(event.trace);
    let due = Timestamp(NOW.0 + 60_000);
    let settled = if failed.is_some() { Settled::Scheduled { due } } else { Settled::Delivered };
    spans.attempt(span, delivery(event), PEER, &attempt(1, failed), settled);
    span.traceparent()
}

#[tokio::test]
async fn one_trace_from_the_request_to_the_attempt() {
    for protocol in [Protocol::Http, Protocol::Grpc] {
        let receiver = Receiver::start().await;
        let telemetry = Telemetry::start(otel(&receiver, protocol, Root::On)).expect("starts");
        let mut setup = Setup { spans: telemetry.spans(), metrics: telemetry.metrics(), source: source(), ..Setup::default() };
        setup.source.trust_trace = true;
        let world = World::start(setup).await;
        let parent = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
        assert_eq!(world.send(&post(parent, b"12345")).await.status, 202);
        let event = &world.store.events()[0];
        let traceparent = dispatch(&telemetry.spans(), event, None).expect("a context goes out");
        telemetry.shutdown(DEADLINE).await;

        let (spans, metrics) = receiver.received().await;
        let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name}: {spans:?}"));
        let (accept, process) = (named("POST /in/{source}"), named("process event"));
        let (plugin, attempt) = (named("plugin reshape"), named("POST"));
        let trace = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes();
        assert!(spans.iter().all(|span| span.trace_id == trace), "{spans:?}");
        assert_eq!(accept.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
        assert_eq!(process.parent_span_id, accept.span_id);
        assert_eq!(plugin.parent_span_id, process.span_id);
        assert_eq!(attempt.parent_span_id, process.span_id);
        assert_eq!(traceparent, format!("00-{}-{}-01", hex::encode(trace), hex::encode(&attempt.span_id)));
        let kinds = [accept.kind, process.kind, plugin.kind, attempt.kind];
        assert_eq!(kinds, [SpanKind::Server, SpanKind::Consumer, SpanKind::Internal, SpanKind::Client].map(|kind| kind as i32));
        for (span, key, value) in [
            (accept, "http.request.method", "POST".to_owned()),
            (accept, "http.route", "/in/{source}".to_owned()),
            (accept, "http.response.status_code", "202".to_owned()),
            (accept, "http.request.body.size", "5".to_owned()),
            (accept, "tidegate.source", SOURCE.to_string()),
            (accept, "tidegate.tenant", TENANT.to_string()),
            (accept, "tidegate.lane", "normal".to_owned()),
            (accept, "messaging.message.id", event.id.to_string()),
            (process, "tidegate.queue.wait", "0.001".to_owned()),
            (plugin, "tidegate.plugin.fuel", "1234".to_owned()),
            (plugin, "tidegate.plugin.memory", "65536".to_owned()),
            (attempt, "http.response.status_code", "200".to_owned()),
            (attempt, "server.address", "example.test".to_owned()),
            (attempt, "tidegate.delivery.latency", "0.003".to_owned()),
        ] {
            assert_eq!(attribute(span, key), Some(value), "{} {key}", span.name);
        }
        assert_eq!(attempt.events[0].name, "delivered");
        assert_eq!(attempt.end_time_unix_nano - attempt.start_time_unix_nano, 1_500_000);
        assert!(metrics.iter().any(|name| name == "tidegate.ingest.requests"), "{metrics:?}");
    }
}

#[tokio::test]
async fn a_strangers_context_is_a_link() {
    for protocol in [Protocol::Http, Protocol::Grpc] {
        let receiver = Receiver::start().await;
        let telemetry = Telemetry::start(otel(&receiver, protocol, Root::On)).expect("starts");
        let world = World::start(Setup { spans: telemetry.spans(), ..Setup::default() }).await;
        let parent = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\n";
        assert_eq!(world.send(&post(parent, b"")).await.status, 202);
        assert_eq!(world.send(&post("traceparent: 00-0af7-b7ad-01\r\n", b"")).await.status, 202);
        telemetry.shutdown(DEADLINE).await;
        let (spans, _) = receiver.received().await;
        assert_eq!(spans.len(), 2, "the sender's flag decides nothing");
        let events = world.store.events();
        for (span, event) in spans.iter().zip(&events) {
            assert!(span.parent_span_id.is_empty());
            assert_eq!(span.trace_id, event.trace.expect("a trace of its own").trace_id.to_be_bytes());
        }
        let link = &spans[0].links[..];
        assert_eq!(link.len(), 1);
        assert_eq!(link[0].trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
        assert_eq!(link[0].span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
        assert_ne!(spans[0].trace_id, link[0].trace_id);
        assert!(spans[1].links.is_empty(), "what is no context is nothing");
    }
}

#[tokio::test]
async fn a_batch_is_one_span_that_is_linked_with_each_of_its_events() {
    let receiver = Receiver::start().await;
    let telemetry = Telemetry::start(otel(&receiver, Protocol::Http, Root::On)).expect("starts");
    let world = World::start(Setup { spans: telemetry.spans(), ..Setup::default() }).await;
    for _ in 0..3 {
        assert_eq!(world.send(&post("", b"{}")).await.status, 202);
    }
    let (spans, events) = (telemetry.spans(), world.store.events());
    let connection = ConnectionId(5);
    for event in &events {
        let (started_at, took) = (NOW.after(Duration::from_millis(1)), Duration::from_micros(700));
        spans.planned(event, Planned { connection, started_at, took, outcome: Ok(1) });
    }
    let part = BatchPart { id: BatchId::of(events.iter().map(|event| delivery(event).id)), size: 3 };
    let span = AttemptSpan::start(events[1].trace);
    let batch = BatchOf { part, tenant: TENANT, destination: DestinationId(6), bytes: 8 };
    let members = events.iter().filter_map(|event| Some((event.trace?, connection)));
    spans.batch(span, batch, PEER, &attempt(1, None), members);
    for (event, failed) in events.iter().zip([None, Some(failure("batch_item")), None]) {
        spans.batched(span, part, delivery(event), &attempt(1, failed), Some(Settled::Delivered));
    }
    telemetry.shutdown(DEADLINE).await;
    let (spans, _) = receiver.received().await;
    let in_trace = |name: &str, event: &Event| {
        let trace = event.trace.expect("a trace").trace_id.to_be_bytes();
        spans.iter().find(|span| span.name == name && span.trace_id == trace).unwrap_or_else(|| panic!("no {name}: {spans:?}"))
    };
    let requests: Vec<_> = spans.iter().filter(|span| span.name == "POST").collect();
    assert_eq!(requests.len(), 1, "one request");
    let request = in_trace("POST", &events[1]);
    assert_eq!(request.parent_span_id, in_trace("process event", &events[1]).span_id);
    let linked: Vec<_> = request.links.iter().map(|link| link.span_id.clone()).collect();
    let others = [&events[0], &events[2]].map(|event| in_trace("process event", event).span_id.clone());
    assert_eq!(linked, others);
    assert_eq!(attribute(request, "messaging.batch.message_count").as_deref(), Some("3"));
    for event in &events {
        let own = in_trace("batch", event);
        assert_eq!(own.parent_span_id, in_trace("process event", event).span_id);
        assert_eq!((own.links.len(), &own.links[0].span_id), (1, &request.span_id));
        assert_eq!(attribute(own, "tidegate.batch"), Some(part.id.to_string()));
    }
    assert_eq!(attribute(in_trace("batch", &events[1]), "error.type").as_deref(), Some("batch_item"));
}

#[tokio::test]
async fn what_failed_or_was_slow_is_kept_in_a_trace_that_is_not_sampled() {
    let receiver = Receiver::start().await;
    let telemetry = Telemetry::start(otel(&receiver, Protocol::Http, Root::Off)).expect("starts");
    let world = World::start(Setup { spans: telemetry.spans(), ..Setup::default() }).await;
    for _ in 0..2 {
        assert_eq!(world.send(&post("", b"")).await.status, 202);
    }
    let events = world.store.events();
    dispatch(&telemetry.spans(), &events[0], None).expect("a context goes out all the same");
    let traceparent = dispatch(&telemetry.spans(), &events[1], Some(failure("status"))).expect("a context");
    assert!(traceparent.ends_with("-00"), "{traceparent}");
    telemetry.shutdown(DEADLINE).await;
    let (spans, _) = receiver.received().await;
    let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["POST /in/{source}", "POST"], "the one that failed, below its accept rebuilt");
    let trace = events[1].trace.expect("a trace").trace_id.to_be_bytes();
    assert!(spans.iter().all(|span| span.trace_id == trace));
    assert_eq!(attribute(&spans[0], "tidegate.rebuilt").as_deref(), Some("true"));
    assert_eq!(attribute(&spans[1], "error.type").as_deref(), Some("status"));
    assert_eq!(spans[1].status.as_ref().expect("a status").code, StatusCode::Error as i32);
    assert_eq!(spans[1].events[0].name, "scheduled");
}

#[tokio::test]
async fn a_full_queue_drops_spans_and_counts_them_and_shutdown_keeps_its_deadline() {
    // Listens and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/v1/traces", silent.local_addr().unwrap());
    let otel = Otel {
        traces: Some(Target { endpoint, protocol: Protocol::Http }),
        spans: Batching { queue: 4, batch: 4, delay: Duration::ZERO },
        ..Otel::default()
    };
    let telemetry = Telemetry::start(otel).expect("starts");
    let (spans, scrape) = (telemetry.spans(), telemetry.scrape());
    let trace = TraceContext { trace_id: 1, span_id: 2, sampled: true };
    for _ in 0..100 {
        spans.dead_lettered(Some(trace), None, DeliveryId(1), NOW, &failure("gone"));
    }
    let text = scrape.text().expect("a text");
    assert_eq!(sample(&text, "tidegate_spans_dropped_total"), "96");
    tokio::time::timeout(DEADLINE, telemetry.shutdown(Duration::from_millis(50))).await.expect("does not wait for the receiver");
}

/// The value of the first series whose line starts so.
fn sample<'a>(text: &'a str, start: &str) -> &'a str {
    let line = text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start} in\n{text}"));
    line.rsplit(' ').next().expect("a value")
}

#[tokio::test]
async fn every_metric_is_in_the_prometheus_text() {
    let telemetry = Telemetry::start(Otel::default()).expect("starts");
    let metrics = telemetry.metrics();
    metrics.ingested(Ingested::Accepted, Duration::from_millis(2));
    metrics.ingested(Ingested::TooLarge, Duration::from_millis(2));
    metrics.written(Write::Accept, 64, Duration::from_millis(4), Err(()));
    metrics.delivery_latency(Lane::Low, TenantClass::Noisy, Duration::from_millis(7));
    metrics.attempt(Some(503), Some(Party::Destination), Duration::from_millis(9));
    metrics.attempt(None, Some(Party::Network), Duration::from_millis(9));
    let run = PluginRun {
        version: VersionHash([0; 32]),
        fuel: 500,
        memory: 1,
        took_us: 10,
        outcome: Err(failure("fuel_exhausted")),
        logs: Vec::new(),
    };
    metrics.plugin_run((&run).into());
    metrics.lease(LeaseChange::Lost);
    metrics.probe(Duration::from_millis(4));
    metrics.revision(tidegate::event::Revision(17));
    metrics.yielding(true);
    metrics.reload_failed();
    metrics.connection_refused("per_peer");
    let lanes = |entries, age| vec![(Lane::Low, entries, Duration::from_secs(age))];
    let parked_age = Duration::from_secs(6);
    metrics.queue(Shard(0), QueueSample { lanes: lanes(3, 9), scheduled: 1, parked: 2, parked_age, dead_letters: 4 });
    metrics
        .queue(Shard(1), QueueSample { lanes: lanes(4, 5), scheduled: 1, parked: 2, parked_age: parked_age / 2, dead_letters: 4 });
    metrics.queue(Shard(2), QueueSample { lanes: lanes(100, 500), ..QueueSample::default() });
    metrics.queue_gone(Shard(2));
    let held = (metrics.connection(), metrics.in_flight(10));
    let text = telemetry.scrape().text().expect("a text");
    for (series, value) in [
        ("tidegate_ingest_requests_total{outcome=\"accepted\"}", "1"),
        ("tidegate_ingest_requests_total{outcome=\"too_large\"}", "1"),
        ("tidegate_accept_duration_seconds_count", "1"),
        ("tidegate_store_write_duration_seconds_sum{operation=\"accept\"}", "0.004"),
        ("tidegate_store_batch_size_sum{operation=\"accept\"}", "64"),
        ("tidegate_store_write_failures_total{operation=\"accept\"}", "1"),
        ("tidegate_delivery_latency_seconds_sum{class=\"noisy\",lane=\"low\"}", "0.007"),
        ("tidegate_attempts_total{outcome=\"failed\",party=\"destination\",status_class=\"5xx\"}", "1"),
        ("tidegate_attempts_total{outcome=\"failed\",party=\"network\",status_class=\"none\"}", "1"),
        ("tidegate_attempt_duration_seconds_count{outcome=\"failed\"}", "2"),
        ("tidegate_plugin_runs_total{outcome=\"fuel_exhausted\",track=\"stable\"}", "1"),
        ("tidegate_plugin_fuel_sum", "500"),
        ("tidegate_plugin_duration_seconds_count", "1"),
        ("tidegate_lease_changes_total{change=\"lost\"}", "1"),
        ("tidegate_store_probe_duration_seconds", "0.004"),
        ("tidegate_config_revision", "17"),
        ("tidegate_config_reload_failures_total", "1"),
        ("tidegate_ingest_connections_refused_total{limit=\"per_peer\"}", "1"),
        ("tidegate_queue_depth{lane=\"low\"}", "7"),
        ("tidegate_queue_depth{lane=\"normal\"}", "0"),
        ("tidegate_queue_oldest_age_seconds{lane=\"low\"}", "9"),
        ("tidegate_queue_scheduled", "2"),
        ("tidegate_queue_parked ", "4"),
        ("tidegate_queue_parked_oldest_age_seconds", "6"),
        ("tidegate_dispatch_yielding", "1"),
        ("tidegate_queue_dead_letters", "8"),
        ("tidegate_ingest_connections ", "1"),
        ("tidegate_accept_in_flight ", "1"),
        ("tidegate_accept_in_flight_size_bytes", "10"),
        ("tidegate_spans_dropped_total", "0"),
    ] {
        assert_eq!(sample(&text, series), value, "{series}\n{text}");
    }
    drop(held);
    let text = telemetry.scrape().text().expect("a text");
    assert_eq!(sample(&text, "tidegate_accept_in_flight "), "0");
    telemetry.shutdown(DEADLINE).await;
}

#[tokio::test]
async fn a_request_moves_the_metrics() {
    let telemetry = Telemetry::start(Otel::default()).expect("starts");
    let world = World::start(Setup { metrics: telemetry.metrics(), ..Setup::default() }).await;
    assert_eq!(world.send(&post("", b"x")).await.status, 202);
    assert_eq!(world.send(b"POST /nowhere HTTP/1.1\r\nhost: x\r\n\r\n").await.status, 404);
    let text = telemetry.scrape().text().expect("a text");
    assert_eq!(sample(&text, "tidegate_ingest_requests_total{outcome=\"accepted\"}"), "1");
    assert_eq!(sample(&text, "tidegate_ingest_requests_total{outcome=\"unknown_source\"}"), "1");
    assert_eq!(sample(&text, "tidegate_store_batch_size_count{operation=\"accept\"}"), "1");
    telemetry.shutdown(DEADLINE).await;
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_used_is_an_error_at_the_start() {
    for protocol in [Protocol::Http, Protocol::Grpc] {
        let otel = Otel { traces: Some(Target { endpoint: "not a url".into(), protocol }), ..Otel::default() };
        let error = Telemetry::start(otel).expect_err("no such endpoint").to_string();
        assert!(error.contains("traces"), "{error}");
    }
}

#[test]
fn ids_of_events_are_in_no_metric_label() {
    // A guard against label explosions: nothing in the API of `Metrics` takes a tenant, a source, an event or a path.
    let api = include_str!("../../src/telemetry/metrics.rs");
    for id in ["TenantId", "SourceId", "EventId", "ConnectionId", "DestinationId", "PluginId"] {
        assert!(!api.contains(id), "{id} in metrics.rs");
    }
}
