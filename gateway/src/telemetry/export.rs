//! Sends spans and metrics by OTLP, from tasks of their own.
//!
//! The SDK's processors are not used: spans come finished (see `trace`), and the pumps bound the queue, count what is lost, and
//! flush inside a deadline, on the runtime that the clients need.

use std::sync::{Arc, Weak};
use std::time::Duration;

use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, ManualReader, Pipeline, Temporality};
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::TelemetryError;
use super::metrics::Metrics;
use super::otel::{Batching, Protocol, Target};

/// One request to the receiver, at most; the exporters' own default.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn span_exporter(target: &Target, resource: &Resource) -> Result<SpanExporter, TelemetryError> {
    let endpoint = target.endpoint.clone();
    let built = match target.protocol {
        Protocol::Grpc => SpanExporter::builder().with_tonic().with_endpoint(endpoint).build(),
        Protocol::Http => SpanExporter::builder().with_http().with_http_client(http_client()?).with_endpoint(endpoint).build(),
    };
    let mut exporter = built.map_err(|error| TelemetryError::Exporter { signal: "traces", error: error.to_string() })?;
    exporter.set_resource(resource);
    Ok(exporter)
}

pub(super) fn metric_exporter(target: &Target) -> Result<(SharedReader, MetricExporter), TelemetryError> {
    let endpoint = target.endpoint.clone();
    let built = match target.protocol {
        Protocol::Grpc => MetricExporter::builder().with_tonic().with_endpoint(endpoint).build(),
        Protocol::Http => MetricExporter::builder().with_http().with_http_client(http_client()?).with_endpoint(endpoint).build(),
    };
    let exporter = built.map_err(|error| TelemetryError::Exporter { signal: "metrics", error: error.to_string() })?;
    let reader = ManualReader::builder().with_temporality(exporter.temporality()).build();
    Ok((SharedReader(Arc::new(reader)), exporter))
}

/// Speaks TLS with the system's roots where the endpoint is `https`.
fn http_client() -> Result<HyperClient<Connector>, TelemetryError> {
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
        .map_err(|error| TelemetryError::Exporter { signal: "over HTTP", error: error.to_string() })?
        .https_or_http()
        .enable_http1()
        .build();
    Ok(HyperClient::new(connector, TIMEOUT, None))
}

type Connector = hyper_rustls::HttpsConnector<hyper_util::client::legacy::connect::HttpConnector>;

/// Gathers spans into batches and sends them.
#[derive(Debug)]
pub(super) struct SpanPump {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl SpanPump {
    pub(super) fn start(exporter: SpanExporter, batching: Batching, metrics: Metrics) -> (mpsc::Sender<SpanData>, Self) {
        let (queue, spans) = mpsc::channel(batching.queue);
        let stop = CancellationToken::new();
        let task = tokio::spawn(pump_spans(exporter, spans, batching, metrics, stop.clone()));
        (queue, Self { stop, task })
    }

    /// Sends what is queued, and ends.
    pub(super) async fn flush(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

async fn pump_spans(
    exporter: SpanExporter,
    mut spans: mpsc::Receiver<SpanData>,
    batching: Batching,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let mut batch = Vec::with_capacity(batching.batch);
    loop {
        let more = gather(&mut spans, &mut batch, batching, &stop).await;
        if !batch.is_empty() {
            let count = batch.len() as u64;
            let sent = tokio::time::timeout(TIMEOUT * 2, exporter.export(std::mem::take(&mut batch))).await;
            if let Some(error) = failure(sent) {
                metrics.spans_failed(count);
                tracing::warn!(%error, spans = count, "spans could not be sent");
            }
        }
        if !more {
            return;
        }
    }
}

/// Fills a batch, for no longer than its delay after its first span. False at the end.
async fn gather(
    spans: &mut mpsc::Receiver<SpanData>,
    batch: &mut Vec<SpanData>,
    batching: Batching,
    stop: &CancellationToken,
) -> bool {
    tokio::select! {
        biased;
        count = spans.recv_many(batch, batching.batch) => if count == 0 { return false },
        () = stop.cancelled(), if !spans.is_closed() => spans.close(),
    }
    let delay = tokio::time::sleep(batching.delay);
    tokio::pin!(delay);
    while batch.len() < batching.batch {
        let room = batching.batch - batch.len();
        tokio::select! {
            biased;
            count = spans.recv_many(batch, room) => if count == 0 { return false },
            () = stop.cancelled(), if !spans.is_closed() => spans.close(),
            () = &mut delay => break,
        }
    }
    true
}

/// A reader that the provider and the pump share.
#[derive(Clone, Debug)]
pub(super) struct SharedReader(Arc<ManualReader>);

impl MetricReader for SharedReader {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}

/// Collects metrics now and then and sends them.
#[derive(Debug)]
pub(super) struct MetricPump {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl MetricPump {
    pub(super) fn start(reader: SharedReader, exporter: MetricExporter, interval: Duration) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut ended = false;
            while !ended {
                ended = tokio::time::timeout(interval, stopped.cancelled()).await.is_ok();
                let mut metrics = ResourceMetrics::default();
                let sent = match reader.collect(&mut metrics) {
                    Ok(()) => tokio::time::timeout(TIMEOUT * 2, exporter.export(&metrics)).await,
                    Err(error) => Ok(Err(error)),
                };
                if let Some(error) = failure(sent) {
                    tracing::warn!(%error, "metrics could not be sent");
                }
            }
        });
        Self { stop, task }
    }

    /// Sends the last state, and ends.
    pub(super) async fn flush(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

fn failure(sent: Result<OTelSdkResult, tokio::time::error::Elapsed>) -> Option<String> {
    match sent {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("the receiver did not answer in time".to_owned()),
    }
}
