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
use tidegate::cli::plugin::case::{Case, CaseTables};
use tidegate::cli::plugin::outcome::Bench;
use tidegate::clock::Timestamp;
use tidegate::event::{EventId, Header, Request, SharedRequest, TenantId, VersionHash};
use tidegate::plugin::table::{NoTables, Tables};
use tidegate::plugin::{Call, Components, Limits, PluginConfig, Runtime, Table};

use crate::build::{Guest, kept, root};

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

/// Fuel is the budget here: a busy machine must not fail a case.
fn patient(limits: Limits) -> Limits {
    Limits { wall: Duration::from_secs(60), ..limits }
}

/// Every case, and all that went wrong at once.
pub(crate) async fn conformance(language: &str, guest: &Guest) {
    let tables = CaseTables::default();
    let (runtime, version) = load(language, guest, Arc::new(tables.clone())).await;
    let bench = Bench { runtime, tables };
    let cases = Case::read_all(&root().join("sdk/conformance/cases")).unwrap();
    let mut wrong = String::new();
    let mut passed = 0;
    for case in cases.into_iter().filter(|case| !case.except.contains_key(language)) {
        let outcome = bench.run(&case, version, case.ask.expect("conformance says what it asks"), patient).await;
        match &case.differences(&outcome)[..] {
            [] => passed += 1,
            differences => {
                let logged = &outcome.run.logs;
                wrong.push_str(&format!("\n{}: logged {logged:?}, asked {:?}", case.name, outcome.table.ops));
                differences.iter().for_each(|difference| wrong.push_str(&format!("\n{difference}")));
            }
        }
    }
    assert!(wrong.is_empty(), "{language}: {passed} passed, others did not{wrong}");
    assert!(passed > 90, "{passed} cases");
}

/// One of GitHub's own pushes, told to a chat.
pub(crate) async fn example(language: &str, guest: &Guest) {
    let (runtime, version) = load(language, guest, Arc::new(NoTables)).await;
    let header = |name: &str, value: &'static str| Header { name: name.into(), value: Bytes::from_static(value.as_bytes()) };
    let call = Call {
        tenant: TenantId(1),
        version,
        event: EventId(7),
        accepted_at: Timestamp(1_700_000_000_123),
        request: SharedRequest::Made(Arc::new(Request {
            method: "POST".into(),
            path: "/in".into(),
            query: Some("a=b".into()),
            headers: vec![header("x-github-event", "push")],
            body: fs::read(root().join("gateway/tests/fixtures/github/push.json")).unwrap().into(),
        })),
        config: r##"{"channel": "#deploys"}"##.into(),
        secrets: Arc::default(),
        limits: patient(Limits::default()),
        table: Table::default(),
        reuse: None,
    };
    let outputs = runtime.transform(call).await.result.unwrap();
    let [output] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!((&output.method[..], &output.path[..], &output.query), ("POST", "", &None));
    assert_eq!(output.headers, [header("content-type", "application/json")]);
    let message: Value = serde_json::from_slice(&output.body).unwrap();
    assert_eq!(message["channel"], "#deploys");
    let text = message["text"].as_str().unwrap();
    let head = "Codertocat pushed 1 commit to master of <https://github.com/Codertocat/Hello-World|Codertocat/Hello-World>\n";
    assert!(text.starts_with(head) && text.ends_with(" Initial commit (Codertocat)"), "{text}");
}
