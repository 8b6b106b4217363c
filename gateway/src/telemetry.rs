//! Logs, traces and metrics.
//!
//! Logs go to stderr, as JSON or for people; a line that is about an event carries its trace as the field `trace`
//! ([`trace::TraceId`]). Traces and metrics go where the standard `OTEL_*` variables say ([`otel::Otel`]), metrics to `/metrics`
//! as well ([`Scrape`]). Without an endpoint nothing is exported.

mod export;
mod logs;
pub mod metrics;
pub mod otel;
pub mod trace;

use std::fmt;
use std::time::Duration;

use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Registry, TextEncoder};

use crate::config;
use export::{MetricPump, SpanPump};
use metrics::Metrics;
use otel::Otel;
use trace::Spans;

/// Attempts and plans that take longer than this are kept in traces that are not sampled.
const SLOW: Duration = Duration::from_secs(5);

/// Why telemetry can't start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter directives can't be read.
    #[error("log level {filter:?} can't be read: {error}")]
    Filter {
        /// The directives.
        filter: String,
        /// Why.
        error: tracing_subscriber::filter::ParseError,
    },
    /// A variable can't be read.
    #[error("{name} is {value:?}: {expected}")]
    Variable {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
    /// An exporter can't be made of what is configured.
    #[error("can't export {signal}: {error}")]
    Exporter {
        /// `traces` or `metrics`.
        signal: &'static str,
        /// Why.
        error: String,
    },
    /// The registry for `/metrics` refused.
    #[error("can't set up metrics: {0}")]
    Registry(String),
}

/// Sets up logs for the whole process. The filter is RUST_LOG's if that is set, else the configuration's. Does nothing if logs are
/// set up already, as in tests.
pub fn init_logs(config: &config::Telemetry) -> Result<(), TelemetryError> {
    logs::init(config)
}

/// Traces and metrics of one gateway. Call [`Telemetry::shutdown`] at the end: what is queued is lost otherwise.
pub struct Telemetry {
    metrics: Metrics,
    spans: Spans,
    scrape: Scrape,
    provider: SdkMeterProvider,
    span_pump: Option<SpanPump>,
    metric_pump: Option<MetricPump>,
}

/// Writes `/metrics`. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Scrape(Registry);

impl Scrape {
    /// The value of `Content-Type`.
    pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

    /// All metrics in Prometheus' text format.
    pub fn text(&self) -> Result<String, TelemetryError> {
        TextEncoder::new().encode_to_string(&self.0.gather()).map_err(|error| TelemetryError::Registry(error.to_string()))
    }
}

impl Telemetry {
    /// Starts the exporters that `otel` names, on the current runtime.
    pub fn start(otel: Otel) -> Result<Self, TelemetryError> {
        let resource = resource();
        let registry = Registry::new();
        let reader = opentelemetry_prometheus::exporter().with_registry(registry.clone()).scope_info_enabled(false).build();
        let reader = reader.map_err(|error| TelemetryError::Registry(error.to_string()))?;
        let mut provider = SdkMeterProvider::builder().with_resource(resource.clone()).with_reader(reader);
        let mut metric_exporter = None;
        if let Some(target) = &otel.metrics {
            let (shared, exporter) = export::metric_exporter(target)?;
            provider = provider.with_reader(shared.clone());
            metric_exporter = Some((shared, exporter));
        }
        let provider = provider.build();
        let metrics = Metrics::new(&provider.meter("tidegate"));
        let metric_pump = metric_exporter.map(|(reader, exporter)| MetricPump::start(reader, exporter, otel.metric_interval));
        let (spans, span_pump) = match &otel.traces {
            None => (Spans::off(), None),
            Some(target) => {
                let exporter = export::span_exporter(target, &resource)?;
                let (queue, pump) = SpanPump::start(exporter, otel.spans, metrics.clone());
                (Spans::new(queue, otel.sampler, SLOW, metrics.clone()), Some(pump))
            }
        };
        Ok(Self { metrics, spans, scrape: Scrape(registry), provider, span_pump, metric_pump })
    }

    /// The metrics to count on.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Where spans go.
    pub fn spans(&self) -> Spans {
        self.spans.clone()
    }

    /// Writes `/metrics`.
    pub fn scrape(&self) -> Scrape {
        self.scrape.clone()
    }

    /// Sends what is queued, for no longer than `deadline`. Spans made after this are dropped.
    pub async fn shutdown(self, deadline: Duration) {
        let flush = async {
            if let Some(pump) = self.span_pump {
                pump.flush().await;
            }
            if let Some(pump) = self.metric_pump {
                pump.flush().await;
            }
        };
        if tokio::time::timeout(deadline, flush).await.is_err() {
            tracing::warn!("telemetry could not be sent in time");
        }
        // Only the readers are left to close; they hold nothing.
        let _ = self.provider.shutdown();
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").field("spans", &self.spans).finish_non_exhaustive()
    }
}

/// What the SDK reads from `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, with our own name where these give none.
fn resource() -> Resource {
    let detected = Resource::builder().build();
    let named = detected.get(&"service.name".into()).is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let builder = if named { Resource::builder() } else { Resource::builder().with_service_name("tidegate") };
    if detected.get(&"service.version".into()).is_some() { builder.build() } else { builder.with_attribute(version).build() }
}
