//! The standard `OTEL_*` variables.
//!
//! Read here: `OTEL_SDK_DISABLED`, `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_PROTOCOL` and their `_TRACES_` and `_METRICS_`
//! forms, `OTEL_TRACES_EXPORTER` and `OTEL_METRICS_EXPORTER` (`otlp` or `none`), `OTEL_TRACES_SAMPLER`, `OTEL_TRACES_SAMPLER_ARG`,
//! `OTEL_BSP_MAX_QUEUE_SIZE`, `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`, `OTEL_BSP_SCHEDULE_DELAY`, `OTEL_METRIC_EXPORT_INTERVAL`.
//! Read by the libraries: `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, and the `_HEADERS` and `_TIMEOUT` of the exporters.

use std::time::Duration;

use super::TelemetryError;
use super::trace::{Root, Sampler};

/// Where telemetry goes, and how much of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Otel {
    /// Spans, if an endpoint is set.
    pub traces: Option<Target>,
    /// Metrics, if an endpoint is set.
    pub metrics: Option<Target>,
    /// Which traces are kept.
    pub sampler: Sampler,
    /// How spans are batched.
    pub spans: Batching,
    /// How often metrics are sent.
    pub metric_interval: Duration,
}

/// A receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The URL to send to, with its path for HTTP.
    pub endpoint: String,
    /// How.
    pub protocol: Protocol,
}

/// OTLP over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC.
    Grpc,
    /// Protobuf over HTTP.
    Http,
}

/// How spans are batched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Spans that may wait; more are dropped and counted.
    pub queue: usize,
    /// Spans in one request.
    pub batch: usize,
    /// How long a batch is gathered.
    pub delay: Duration,
}

impl Default for Otel {
    /// Nothing is exported.
    fn default() -> Self {
        Self {
            traces: None,
            metrics: None,
            sampler: Sampler::default(),
            spans: Batching::default(),
            metric_interval: Duration::from_secs(60),
        }
    }
}

impl Default for Batching {
    /// The specification's.
    fn default() -> Self {
        Self { queue: 2048, batch: 512, delay: Duration::from_secs(5) }
    }
}

impl Otel {
    /// Reads the variables by `lookup`. `ratio` is the share of traces that is kept where no sampler is named.
    pub fn read(lookup: impl Fn(&str) -> Option<String>, ratio: f64) -> Result<Self, TelemetryError> {
        // An empty variable counts as unset, as the specification asks.
        let variables = Variables(|name: &str| lookup(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty()));
        let defaults = Self::default();
        let (queue, batch) = (defaults.spans.queue, defaults.spans.batch);
        let disabled = variables.text("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let target = |signal, path| if disabled { Ok(None) } else { variables.target(signal, path) };
        Ok(Self {
            traces: target("TRACES", "v1/traces")?,
            metrics: target("METRICS", "v1/metrics")?,
            sampler: variables.sampler(ratio)?,
            spans: Batching {
                queue: variables.number("OTEL_BSP_MAX_QUEUE_SIZE")?.map_or(queue, to_usize).max(1),
                batch: variables.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE")?.map_or(batch, to_usize).max(1),
                delay: variables.number("OTEL_BSP_SCHEDULE_DELAY")?.map_or(defaults.spans.delay, Duration::from_millis),
            },
            metric_interval: variables
                .number("OTEL_METRIC_EXPORT_INTERVAL")?
                .map_or(defaults.metric_interval, |millis| Duration::from_millis(millis.max(1))),
        })
    }
}

struct Variables<F>(F);

impl<F: Fn(&str) -> Option<String>> Variables<F> {
    fn text(&self, name: &str) -> Option<String> {
        (self.0)(name)
    }

    fn number(&self, name: &str) -> Result<Option<u64>, TelemetryError> {
        let Some(value) = self.text(name) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| wrong(name, &value, "it must be a whole number"))
    }

    fn target(&self, signal: &str, path: &str) -> Result<Option<Target>, TelemetryError> {
        let exporter = format!("OTEL_{signal}_EXPORTER");
        match self.text(&exporter).as_deref() {
            None | Some("otlp") => {}
            Some("none") => return Ok(None),
            Some(other) => return Err(wrong(&exporter, other, "it must be `otlp` or `none`")),
        }
        let protocol = self.protocol(signal)?;
        if let Some(endpoint) = self.text(&format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")) {
            return Ok(Some(Target { endpoint, protocol }));
        }
        Ok(self.text("OTEL_EXPORTER_OTLP_ENDPOINT").map(|endpoint| match protocol {
            Protocol::Grpc => Target { endpoint, protocol },
            Protocol::Http => Target { endpoint: format!("{}/{path}", endpoint.trim_end_matches('/')), protocol },
        }))
    }

    fn protocol(&self, signal: &str) -> Result<Protocol, TelemetryError> {
        for name in [format!("OTEL_EXPORTER_OTLP_{signal}_PROTOCOL"), "OTEL_EXPORTER_OTLP_PROTOCOL".to_owned()] {
            match self.text(&name).as_deref() {
                None => {}
                Some("grpc") => return Ok(Protocol::Grpc),
                Some("http/protobuf") => return Ok(Protocol::Http),
                Some(other) => return Err(wrong(&name, other, "it must be `grpc` or `http/protobuf`")),
            }
        }
        Ok(Protocol::Http)
    }

    fn sampler(&self, ratio: f64) -> Result<Sampler, TelemetryError> {
        const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
        const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
        let argument = || {
            let Some(value) = self.text(ARGUMENT) else { return Ok(Root::Ratio(1.0)) };
            let ratio = value.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
            ratio.map(Root::Ratio).ok_or_else(|| wrong(ARGUMENT, &value, "it must be from 0 to 1"))
        };
        let Some(name) = self.text(SAMPLER) else {
            return Ok(Sampler { root: Root::Ratio(ratio), parent_based: true });
        };
        let (root, parent_based) = match name.as_str() {
            "always_on" => (Root::On, false),
            "always_off" => (Root::Off, false),
            "traceidratio" => (argument()?, false),
            "parentbased_always_on" => (Root::On, true),
            "parentbased_always_off" => (Root::Off, true),
            "parentbased_traceidratio" => (argument()?, true),
            _ => {
                return Err(wrong(
                    SAMPLER,
                    &name,
                    "it must be always_on, always_off or traceidratio, or one of these after parentbased_",
                ));
            }
        };
        Ok(Sampler { root, parent_based })
    }
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn wrong(name: &str, value: &str, expected: &'static str) -> TelemetryError {
    TelemetryError::Variable { name: name.to_owned(), value: value.to_owned(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Otel, TelemetryError> {
        let lookup = |name: &str| variables.iter().find(|variable| variable.0 == name).map(|variable| variable.1.to_owned());
        Otel::read(lookup, 0.25)
    }

    #[test]
    fn nothing_is_exported_without_an_endpoint() {
        let otel = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]).unwrap();
        assert_eq!(otel, Otel { sampler: Sampler { root: Root::Ratio(0.25), parent_based: true }, ..Otel::default() });
    }

    #[test]
    fn endpoints_by_the_specification() {
        let target = |endpoint: &str, protocol| Some(Target { endpoint: endpoint.to_owned(), protocol });
        let http = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/base/")]).unwrap();
        assert_eq!(http.traces, target("http://c:4318/base/v1/traces", Protocol::Http));
        assert_eq!(http.metrics, target("http://c:4318/base/v1/metrics", Protocol::Http));
        let mixed = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://m/own/path"),
            ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf"),
        ])
        .unwrap();
        assert_eq!(mixed.traces, target("http://c:4317", Protocol::Grpc));
        assert_eq!(mixed.metrics, target("http://m/own/path", Protocol::Http));
        let off = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"), ("OTEL_SDK_DISABLED", "TRUE")]).unwrap();
        assert_eq!((off.traces, off.metrics), (None, None));
        let none = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"), ("OTEL_METRICS_EXPORTER", "none")]).unwrap();
        assert!(none.traces.is_some() && none.metrics.is_none());
    }

    #[test]
    fn samplers_by_name() {
        let sampler =
            |name, argument| read(&[("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", argument)]).map(|otel| otel.sampler);
        assert_eq!(sampler("always_off", "").unwrap(), Sampler { root: Root::Off, parent_based: false });
        assert_eq!(sampler("parentbased_traceidratio", "0.5").unwrap(), Sampler { root: Root::Ratio(0.5), parent_based: true });
        assert_eq!(sampler("traceidratio", "").unwrap(), Sampler { root: Root::Ratio(1.0), parent_based: false });
        for (name, argument) in [("sometimes", ""), ("traceidratio", "2"), ("traceidratio", "half")] {
            assert!(sampler(name, argument).is_err(), "{name} {argument}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (name, value) in
            [("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"), ("OTEL_BSP_MAX_QUEUE_SIZE", "many"), ("OTEL_TRACES_EXPORTER", "jaeger")]
        {
            let error = read(&[(name, value)]).expect_err(name).to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
    }
}
