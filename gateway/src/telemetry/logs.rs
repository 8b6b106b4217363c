//! Logs to stderr.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

use super::TelemetryError;
use crate::config::{self, LogFormat};

pub(super) fn init(config: &config::Telemetry) -> Result<(), TelemetryError> {
    let directives = std::env::var("RUST_LOG").ok().filter(|directives| !directives.is_empty());
    let filter = filter(directives.as_deref().unwrap_or(&config.level))?;
    // Fails only if a subscriber is set already: then that one is in charge.
    let _ = subscriber(config.log, filter, std::io::stderr).try_init();
    Ok(())
}

fn filter(directives: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder().parse(directives).map_err(|error| TelemetryError::Filter { filter: directives.to_owned(), error })
}

fn subscriber<W>(format: LogFormat, filter: EnvFilter, writer: W) -> Box<dyn tracing::Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match format {
        LogFormat::Json => Box::new(builder.json().flatten_event(true).with_current_span(false).with_span_list(false).finish()),
        LogFormat::Pretty => Box::new(builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).finish()),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::event::TraceContext;
    use crate::telemetry::trace::TraceId;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn logged(format: LogFormat, directives: &str) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(format, filter(directives).unwrap(), move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            let trace = TraceContext { trace_id: 0xabc, span_id: 1, sampled: false };
            tracing::info!(trace = %TraceId(Some(trace)), events = 3, "batch refused");
            tracing::debug!("not at this level");
        });
        lines.text()
    }

    #[test]
    fn json_lines_carry_fields_and_trace() {
        let line: serde_json::Value = serde_json::from_str(logged(LogFormat::Json, "info").trim()).expect("one object");
        assert_eq!(line["message"], "batch refused");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["events"], 3);
        assert_eq!(line["trace"], "00000000000000000000000000000abc");
        assert!(line["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
    }

    #[test]
    fn pretty_lines_do_too_and_filters_hold() {
        let line = logged(LogFormat::Pretty, "info");
        assert!(line.contains("batch refused") && line.contains("trace=00000000000000000000000000000abc"), "{line}");
        assert_eq!(logged(LogFormat::Pretty, "warn"), "");
        assert_eq!(logged(LogFormat::Pretty, "info,tidegate::telemetry=debug").lines().count(), 2);
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_named() {
        let error = filter("info,tidegate=loud").expect_err("no such level").to_string();
        assert!(error.contains("tidegate=loud"), "{error}");
    }
}
