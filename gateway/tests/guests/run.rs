//! Guests, asked.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use tidegate::clock::Timestamp;
use tidegate::event::{EventId, Header, Request, SharedRequest, TenantId, VersionHash};
use tidegate::plugin::table::{NoTables, Tables};
use tidegate::plugin::{Access, Call, CallError, Components, Limits, PluginConfig, Report, Runtime, Secrets, Table};

use crate::build::{Guest, kept, root};
use crate::cases::{self, Ask, Case, Data, Expected, Given, Retry};

struct Shelf(HashMap<VersionHash, Bytes>);

#[async_trait]
impl Components for Shelf {
    async fn fetch(&self, version: VersionHash) -> Result<Option<Bytes>, Box<dyn Error + Send + Sync>> {
        Ok(self.0.get(&version).cloned())
    }
}

/// A gateway's sandbox with this one component. What it compiles is kept with the guest.
pub(crate) async fn load(language: &str, guest: &Guest, tables: Arc<dyn Tables>) -> (Runtime, VersionHash) {
    let component = guest.component();
    let version = VersionHash::of(&component);
    let mut config = PluginConfig::new(kept(language).join("compiled")).unwrap();
    config.compiler = PathBuf::from(env!("CARGO_BIN_EXE_tidegate"));
    // Processor time is limited as it is by default; how long that takes on a busy machine says nothing of the guest.
    config.compile.wall = Duration::from_secs(600);
    let shelf = Shelf(HashMap::from([(version, component.clone())]));
    let runtime = Runtime::with_tables(config, Arc::new(shelf), tables).unwrap();
    let found = runtime.inspect(component).await.unwrap_or_else(|error| panic!("{language}: {error}"));
    assert!(found.screen.imports.iter().all(|name| name.starts_with("tidegate:plugin/")), "{:?}", found.screen.imports);
    (runtime, version)
}

/// Every case, and all that went wrong at once.
pub(crate) async fn conformance(language: &str, guest: &Guest) {
    let (runtime, version) = load(language, guest, Arc::new(NoTables)).await;
    let mut wrong = Vec::new();
    let mut passed = 0;
    for case in cases::read().into_iter().filter(|case| !case.except.contains_key(language)) {
        match ask(&runtime, version, &case).await {
            Ok(()) => passed += 1,
            Err(why) => wrong.push(format!("{}: {why}", case.name)),
        }
    }
    assert!(wrong.is_empty(), "{language}: {passed} passed, {} failed\n{}", wrong.len(), wrong.join("\n"));
    assert!(passed > 30, "{passed} cases");
}

async fn ask(runtime: &Runtime, version: VersionHash, case: &Case) -> Result<(), String> {
    let call = call(version, case);
    let (logs, answer) = match case.ask {
        Ask::Filter => {
            let Report { result, run, .. } = runtime.filter(call).await;
            (run.logs, result.map(Answer::Kept))
        }
        Ask::Transform => {
            let Report { result, run, .. } = runtime.transform(call).await;
            (run.logs, result.map(Answer::Outputs))
        }
    };
    compare(&case.expect, &answer).map_err(|why| format!("{why}\n  logged: {logs:?}"))?;
    match &case.logs {
        Some(expected) if *expected != logs => Err(format!("expected the log {expected:?}, got {logs:?}")),
        _ => Ok(()),
    }
}

#[derive(Debug)]
enum Answer {
    Kept(bool),
    Outputs(Vec<Request>),
}

fn compare(expected: &Expected, answer: &Result<Answer, CallError>) -> Result<(), String> {
    let same = match (expected, answer) {
        (Expected::Kept(expected), Ok(Answer::Kept(kept))) => expected == kept,
        (Expected::Outputs(expected), Ok(Answer::Outputs(outputs))) => {
            expected.len() == outputs.len() && expected.iter().zip(outputs).all(|(expected, output)| is_request(expected, output))
        }
        (Expected::Failure { code, message, retry }, Err(CallError::Failed { code: given, message: said, retryable })) => {
            code == given && message.as_ref().is_none_or(|message| message == said) && (*retry == Retry::Later) == *retryable
        }
        (Expected::Stopped(code), Err(error @ CallError::Stopped(_))) => *code == error.to_failure().code,
        _ => false,
    };
    let cut = |text: String| text.chars().take(1500).collect::<String>();
    same.then_some(()).ok_or_else(|| format!("expected {}\n  got {}", cut(format!("{expected:?}")), cut(format!("{answer:?}"))))
}

fn is_request(expected: &Given, request: &Request) -> bool {
    let body = match &expected.body {
        Data::Json { json } => serde_json::from_slice::<Value>(&request.body).is_ok_and(|body| body == *json),
        body => body.bytes() == request.body,
    };
    let Given { method, path, query, headers, .. } = expected;
    body && *method == request.method && *path == request.path && *query == request.query && lines(headers) == request.headers
}

fn lines(headers: &[(String, Data)]) -> Vec<Header> {
    headers.iter().map(|(name, value)| Header { name: name.clone(), value: value.bytes().into() }).collect()
}

fn call(version: VersionHash, case: &Case) -> Call {
    let Given { method, path, query, headers, body } = &case.event;
    let mut secrets = Secrets::default();
    for (name, secret) in &case.secrets {
        let access = if secret.sign_only { Access::Sign } else { Access::Read };
        secrets.insert(name.clone(), secret.value.bytes().into(), access);
    }
    // A text is a configuration that is no JSON object; everything else is one.
    let config = case.config.as_str().map_or_else(|| case.config.to_string(), str::to_owned);
    Call {
        tenant: TenantId(1),
        version,
        event: EventId(7),
        accepted_at: Timestamp(1_700_000_000_123),
        request: SharedRequest::Made(Arc::new(Request {
            method: method.clone(),
            path: path.clone(),
            query: query.clone(),
            headers: lines(headers),
            body: body.bytes().into(),
        })),
        config: config.into(),
        secrets: Arc::new(secrets),
        // Fuel is the budget here: a busy machine must not fail a case.
        limits: Limits { wall: Duration::from_secs(60), ..Limits::default() },
        table: Table::default(),
    }
}

/// One of GitHub's own pushes, told to a chat.
pub(crate) async fn example(language: &str, guest: &Guest) {
    let (runtime, version) = load(language, guest, Arc::new(NoTables)).await;
    let push = fs::read_to_string(root().join("gateway/tests/fixtures/github/push.json")).unwrap();
    let case = Case {
        name: String::new(),
        ask: Ask::Transform,
        event: Given {
            query: Some("a=b".into()),
            headers: vec![("x-github-event".into(), Data::Text("push".into()))],
            body: Data::Text(push),
            ..Given::default()
        },
        config: serde_json::json!({"channel": "#deploys"}),
        secrets: [].into(),
        expect: Expected::Kept(true),
        logs: None,
        except: [].into(),
    };
    let outputs = runtime.transform(call(version, &case)).await.result.unwrap();
    let [output] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!((&output.method[..], &output.path[..], &output.query), ("POST", "", &None));
    assert_eq!(output.headers, lines(&[("content-type".into(), Data::Text("application/json".into()))]));
    let message: Value = serde_json::from_slice(&output.body).unwrap();
    assert_eq!(message["channel"], "#deploys");
    let text = message["text"].as_str().unwrap();
    let head = "Codertocat pushed 1 commit to master of <https://github.com/Codertocat/Hello-World|Codertocat/Hello-World>\n";
    assert!(text.starts_with(head) && text.ends_with(" Initial commit (Codertocat)"), "{text}");
}
