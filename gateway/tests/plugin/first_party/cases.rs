//! The cases that stand beside each plugin (`plugins/*/cases`), in the format of `sdk/conformance`, through the sandbox.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tidegate::clock::Timestamp;
use tidegate::event::{Header, Request, SharedRequest, VersionHash};
use tidegate::plugin::{Access, Call, CallError, Limits, Secrets};

use crate::fixture::{Sandbox, call, prebuilt};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    event: Given,
    config: Value,
    #[serde(default)]
    secrets: BTreeMap<String, Secret>,
    expect: Expected,
    max_fuel: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Given {
    method: String,
    path: String,
    query: Option<String>,
    headers: Vec<(String, String)>,
    body: Data,
}

impl Default for Given {
    fn default() -> Self {
        Self { method: "POST".into(), path: "/in".into(), query: None, headers: Vec::new(), body: Data::Text(String::new()) }
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Data {
    Text(String),
    Hex { hex: String },
    File { file: PathBuf },
    Json { json: Value },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Secret {
    value: String,
    #[serde(default)]
    sign_only: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Expected {
    Kept(bool),
    Outputs(Vec<Given>),
    Failure { code: String, retry: String, message: Option<String> },
}

impl Data {
    fn bytes(&self, beside: &Path) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Hex { hex } => hex::decode(hex).unwrap(),
            Self::File { file } => fs::read(beside.join(file)).unwrap_or_else(|error| panic!("{}: {error}", file.display())),
            Self::Json { json } => json.to_string().into_bytes(),
        }
    }
}

#[tokio::test]
async fn every_plugin_passes_the_cases_beside_it() {
    let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins");
    let manifest: toml::Table = fs::read_to_string(plugins.join("prebuilt/manifest.toml")).unwrap().parse().unwrap();
    let sandbox = Sandbox::new();
    let (mut wrong, mut passed) = (Vec::new(), 0);
    for name in manifest.iter().filter(|(_, entry)| entry.is_table()).map(|(name, _)| name) {
        let version = sandbox.add(prebuilt(name));
        let directory = plugins.join(name).join("cases");
        let mut budgets = 0;
        for file in fs::read_dir(&directory).unwrap_or_else(|error| panic!("{name} has no cases: {error}")) {
            let text = fs::read_to_string(file.unwrap().path()).unwrap();
            let cases: Vec<Case> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            for case in cases {
                budgets += usize::from(case.max_fuel.is_some());
                match ask(&sandbox, version, &case, &directory).await {
                    Ok(()) => passed += 1,
                    Err(why) => wrong.push(format!("{name}: {}: {why}", case.name)),
                }
            }
        }
        assert!(budgets > 0, "{name}: no case holds its fuel");
    }
    assert!(wrong.is_empty(), "{passed} passed, {} failed\n{}", wrong.len(), wrong.join("\n"));
    assert!(passed > 30, "{passed} cases");
}

async fn ask(sandbox: &Sandbox, version: VersionHash, case: &Case, beside: &Path) -> Result<(), String> {
    let call = called(version, case, beside);
    let (run, same, answer) = if let Expected::Kept(expected) = case.expect {
        let report = sandbox.runtime.filter(call).await;
        (report.run, report.result.as_ref().is_ok_and(|kept| *kept == expected), format!("{:?}", report.result))
    } else {
        let report = sandbox.runtime.transform(call.clone()).await;
        // A filter's failure is asked of the filter.
        if report.run.outcome.as_ref().is_err_and(|failure| failure.code == "not_offered") {
            let report = sandbox.runtime.filter(call).await;
            let answer = format!("{:?}", report.result);
            (report.run, is_failure(&case.expect, report.result.as_ref().err()), answer)
        } else {
            let same = match (&case.expect, &report.result) {
                (Expected::Outputs(expected), Ok(outputs)) => {
                    expected.len() == outputs.len()
                        && expected.iter().zip(outputs).all(|(expected, output)| is_request(expected, output, beside))
                }
                (expected, result) => is_failure(expected, result.as_ref().err()),
            };
            (report.run, same, format!("{:?}", report.result))
        }
    };
    if !same {
        return Err(format!("expected {:?}\n  got {answer}\n  logged {:?}", case.expect, run.logs));
    }
    match case.max_fuel {
        Some(most) if run.fuel > most => Err(format!("it took {} fuel of {most}", run.fuel)),
        _ => Ok(()),
    }
}

fn is_failure(expected: &Expected, error: Option<&CallError>) -> bool {
    match (expected, error) {
        (Expected::Failure { code, retry, message }, Some(CallError::Failed { code: given, message: said, retryable })) => {
            code == given && (retry == "later") == *retryable && message.as_ref().is_none_or(|message| message == said)
        }
        _ => false,
    }
}

fn is_request(expected: &Given, request: &Request, beside: &Path) -> bool {
    let body = match &expected.body {
        Data::Json { json } => serde_json::from_slice::<Value>(&request.body).is_ok_and(|body| body == *json),
        body => body.bytes(beside) == request.body,
    };
    let Given { method, path, query, headers, .. } = expected;
    body && *method == request.method && *path == request.path && *query == request.query && lines(headers) == request.headers
}

fn lines(headers: &[(String, String)]) -> Vec<Header> {
    headers.iter().map(|(name, value)| crate::fixture::header(name, value.as_bytes())).collect()
}

fn called(version: VersionHash, case: &Case, beside: &Path) -> Call {
    let Given { method, path, query, headers, body } = &case.event;
    let mut secrets = Secrets::default();
    for (name, secret) in &case.secrets {
        let access = if secret.sign_only { Access::Sign } else { Access::Read };
        secrets.insert(name.clone(), secret.value.clone().into(), access);
    }
    Call {
        accepted_at: Timestamp(1_700_000_000_123),
        request: SharedRequest::Made(Arc::new(Request {
            method: method.clone(),
            path: path.clone(),
            query: query.clone(),
            headers: lines(headers),
            body: body.bytes(beside).into(),
        })),
        config: case.config.to_string().into(),
        secrets: Arc::new(secrets),
        // Fuel is the budget here: a busy machine must not fail a case.
        limits: Limits { wall: Duration::from_secs(60), ..Limits::default() },
        ..call(version, "")
    }
}
