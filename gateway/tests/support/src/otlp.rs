//! A trace server that nobody here wrote: Arize Phoenix. It takes OTLP over HTTP and gRPC, keeps the spans and answers questions.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use tempfile::TempDir;

use crate::process::{self, Process};
use crate::{START_DEADLINE, eventually, http, ports, tools};

const STARTS: usize = 3;

/// A running Phoenix with an empty database of its own. It takes some ten seconds to start.
pub struct Phoenix {
    process: Process,
    http: u16,
    grpc: u16,
    _directory: TempDir,
}

/// A span as the server gives it back.
#[derive(Clone, Debug, Deserialize)]
pub struct Span {
    /// Its name.
    pub name: String,
    /// The ids, in hexadecimal.
    pub context: SpanContext,
    /// The span that it is part of.
    pub parent_id: Option<String>,
    /// Attributes by their dotted names.
    pub attributes: serde_json::Map<String, serde_json::Value>,
    /// `OK`, `ERROR` or `UNSET`.
    pub status_code: String,
    /// The words that go with an error.
    pub status_message: String,
    /// RFC 3339.
    pub start_time: String,
    /// RFC 3339.
    pub end_time: String,
    /// What happened within it.
    pub events: Vec<serde_json::Value>,
}

/// Where a span belongs.
#[derive(Clone, Debug, Deserialize)]
pub struct SpanContext {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
}

#[derive(Deserialize)]
struct Page {
    data: Vec<Span>,
    next_cursor: Option<String>,
}

impl Phoenix {
    /// Starts it and waits until it is healthy.
    pub async fn start() -> Self {
        let mut said = String::new();
        for _ in 0..STARTS {
            let mut phoenix = Self::spawn();
            let health = phoenix.url("/healthz");
            let process = &mut phoenix.process;
            let healthy = eventually("Phoenix is healthy", START_DEADLINE, async || {
                if process.exited().is_some() {
                    return Some(false);
                }
                http::try_send("GET", &health, &[], "").await.ok().filter(|reply| reply.status == 200).map(|_| true)
            })
            .await;
            if healthy {
                return phoenix;
            }
            said = phoenix.process.last_words();
        }
        panic!("Phoenix does not start:\n{said}");
    }

    fn spawn() -> Self {
        let directory = tempfile::Builder::new().prefix("tidegate-phoenix-").tempdir().expect("a temporary directory");
        let (http, grpc) = (ports::free(), ports::free());
        let mut command = process::command(&tools::program("phoenix/bin/python"));
        command
            .args(["-m", "phoenix.server.main", "serve"])
            .env("PHOENIX_WORKING_DIR", directory.path())
            .env("PHOENIX_HOST", "127.0.0.1")
            .env("PHOENIX_PORT", http.to_string())
            .env("PHOENIX_GRPC_PORT", grpc.to_string())
            .env("PHOENIX_TELEMETRY_ENABLED", "false")
            .current_dir(directory.path());
        let process = Process::spawn("phoenix", command, &directory.path().join("phoenix.log"));
        Self { process, http, grpc, _directory: directory }
    }

    /// The base for `OTEL_EXPORTER_OTLP_ENDPOINT` with `http/protobuf`.
    pub fn otlp_http(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    /// The base for `OTEL_EXPORTER_OTLP_ENDPOINT` with `grpc`.
    pub fn otlp_grpc(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc)
    }

    /// The spans of a trace that have arrived so far, by their start.
    pub async fn spans(&self, trace_id: &str) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        let mut cursor = String::new();
        loop {
            let url = self.url(&format!("/v1/projects/default/spans?limit=1000&trace_id={trace_id}{cursor}"));
            let reply = http::send("GET", &url, &[], "").await;
            // Until the first span arrives there is no project.
            if reply.status == 404 {
                return Vec::new();
            }
            let page: Page =
                serde_json::from_slice(&reply.body).unwrap_or_else(|error| panic!("{error} in {} {:?}", reply.status, reply.body));
            spans.extend(page.data);
            let Some(next) = page.next_cursor else { break };
            cursor = format!("&cursor={next}");
        }
        spans.sort_by(|a, b| a.start_time.cmp(&b.start_time));
        spans
    }

    /// Waits until the spans of a trace satisfy `enough`, and gives them; panics with what came when they do not in time.
    pub async fn wait_for_spans(&self, trace_id: &str, within: Duration, enough: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let waiting = eventually("the trace", within, async || {
            let spans = self.spans(trace_id).await;
            enough(&spans).then_some(spans)
        });
        match tokio::time::timeout(within, waiting).await {
            Ok(spans) => spans,
            Err(_) => panic!("trace {trace_id} is not complete within {within:?}: {:#?}", self.spans(trace_id).await),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.otlp_http())
    }
}

impl fmt::Debug for Phoenix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Phoenix").field("http", &self.http).field("grpc", &self.grpc).finish_non_exhaustive()
    }
}
