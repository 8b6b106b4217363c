//! The example that verifies, answers, filters with a table, signs and judges: each through the sandbox.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ring::hmac;
use tidegate::clock::Timestamp;
use tidegate::event::{ConnectionId, DeliveryId, EventId, Header, PluginId, Request, SharedRequest, TenantId, VersionHash};
use tidegate::plugin::table::{Place, TableAction, TableAnswer, TableOp, TableResult, Tables};
use tidegate::plugin::{Access, Attempted, Call, Interface, Judgement, Limits, Response, Runtime, Secrets, Table, Verification};

use crate::build::Guest;
use crate::run::load;

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const KEY: &[u8] = b"whsec";

/// A table in memory, that answers the same question of the same place the same.
#[derive(Default)]
struct Kept(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    entries: BTreeMap<String, Bytes>,
    answered: BTreeMap<(u128, u32), TableAnswer>,
    asked: usize,
}

#[async_trait]
impl Tables for Kept {
    async fn ask(&self, place: &Place, number: u32, op: &TableOp) -> Result<TableResult, Box<dyn Error + Send + Sync>> {
        let mut inner = self.0.lock().unwrap();
        inner.asked += 1;
        let key = (place.event.0, number);
        if let Some(answer) = inner.answered.get(&key).filter(|_| op.action != TableAction::Get) {
            return Ok(Ok(answer.clone()));
        }
        let known = inner.entries.get(&op.key).cloned();
        let answer = match &op.action {
            TableAction::Get => return Ok(Ok(TableAnswer::Value(known))),
            TableAction::Add { value, ttl: Some(86_400) } => {
                inner.entries.entry(op.key.clone()).or_insert_with(|| value.clone());
                TableAnswer::Changed(known.is_none())
            }
            TableAction::Increment { by, ttl: None } => {
                let number = known.map_or(0, |value| std::str::from_utf8(&value).unwrap().parse().unwrap()) + by;
                inner.entries.insert(op.key.clone(), number.to_string().into());
                TableAnswer::Number(number)
            }
            other => panic!("the example does not ask for {other:?}"),
        };
        inner.answered.insert(key, answer.clone());
        Ok(Ok(answer))
    }
}

struct World {
    runtime: Runtime,
    version: VersionHash,
    tables: Arc<Kept>,
}

pub(crate) async fn speaks(guest: &Guest) {
    let tables = Arc::new(Kept::default());
    let (runtime, version) = load("rust", guest, tables.clone()).await;
    let found = runtime.inspect(guest.component()).await.unwrap();
    let all = [Interface::Filter, Interface::Verify, Interface::Respond, Interface::Sign, Interface::Judge];
    assert_eq!(Vec::from_iter(found.screen.offers), all);
    let world = World { runtime, version, tables };
    world.verifies_and_signs().await;
    world.answers().await;
    world.remembers().await;
    world.judges().await;
}

impl World {
    fn call(&self, event: u128, path: &str, headers: Vec<Header>, body: &str, access: Access) -> Call {
        let mut secrets = Secrets::default();
        secrets.insert("acme".into(), Bytes::from_static(KEY), access);
        let body = Bytes::copy_from_slice(body.as_bytes());
        Call {
            tenant: TenantId(1),
            version: self.version,
            event: EventId(event),
            accepted_at: NOW,
            request: SharedRequest::Made(Arc::new(Request {
                method: "POST".into(),
                path: path.into(),
                query: None,
                headers,
                body,
            })),
            config: "{}".into(),
            secrets: Arc::new(secrets),
            limits: Limits { wall: Duration::from_secs(60), ..Limits::default() },
            table: Table::default(),
            reuse: None,
        }
    }

    async fn verifies_and_signs(&self) {
        let attempt = Attempted {
            delivery: DeliveryId(1),
            event: EventId(1),
            number: 1,
            started_at: NOW,
            origin: "https://acme.example".into(),
        };
        let signed = self.runtime.sign(self.call(1, "/hook", vec![], "hello", Access::Sign), attempt).await.result.unwrap();
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, KEY), b"1700000000.hello");
        let value = format!("t=1700000000,v1={}", hex::encode(tag.as_ref()));
        assert_eq!(signed, [Header { name: "x-acme-signature".into(), value: value.clone().into() }]);
        let check = async |value: &str, body: &str| {
            let header = Header { name: "x-acme-signature".into(), value: Bytes::copy_from_slice(value.as_bytes()) };
            self.runtime.verify(self.call(2, "", vec![header], body, Access::Sign)).await.result.unwrap()
        };
        assert_eq!(check(&value, "hello").await, Verification::Accept);
        assert_eq!(check(&value, "hallo").await, Verification::Reject("the signature is not this body's".into()));
        assert_eq!(check("t=1", "hello").await, Verification::Reject("the signature has no t or no v1".into()));
    }

    async fn answers(&self) {
        let ask = async |path: &str, body: &str| self.runtime.respond(self.call(3, path, vec![], body, Access::Read)).await.result;
        let answer = ask("/handshake", r#"{"challenge": "abc"}"#).await.unwrap().expect("an answer");
        assert_eq!((answer.status, &answer.body[..]), (200, &b"abc"[..]));
        assert_eq!(answer.headers[0].name, "content-type");
        assert!(ask("/orders", "{}").await.unwrap().is_none());
        assert_eq!(ask("/handshake", "nope").await.unwrap_err().to_failure().code, "plugin_failed");
    }

    /// The table is asked once for each operation, however often the guest runs; a plan that is made again changes nothing.
    async fn remembers(&self) {
        let place = |event| Place {
            tenant: TenantId(1),
            plugin: PluginId(1),
            event: EventId(event),
            connection: ConnectionId(1),
            stage: 0,
            input: 0,
        };
        let once = self.runtime.filter(self.call(9, "", vec![], r#"{"order": 7}"#, Access::Read)).await;
        assert!(!once.used_table, "it has none");
        let keep = async |table: Table, event: u128, order: u64| {
            let body = format!(r#"{{"order": {order}}}"#);
            let call = Call { table, ..self.call(event, "", vec![], &body, Access::Read) };
            let report = self.runtime.filter(call).await;
            assert!(report.used_table && report.run.fuel > once.run.fuel, "{} {}", report.run.fuel, once.run.fuel);
            (report.result.unwrap(), report.run.logs)
        };
        let said = |orders: u64| vec![format!("info: {orders} orders so far")];
        assert_eq!(keep(Table::live(place(10)), 10, 7).await, (true, said(1)));
        assert_eq!(self.tables.0.lock().unwrap().asked, 2);
        assert_eq!(keep(Table::live(place(10)), 10, 7).await, (true, said(1)), "the same event once more");
        assert_eq!(keep(Table::live(place(11)), 11, 7).await, (false, said(1)), "another event of the same order");
        assert_eq!(keep(Table::trial(place(12)), 12, 8).await, (true, said(2)), "a trial sees what it wrote");
        assert_eq!(keep(Table::live(place(13)), 13, 9).await, (true, said(2)), "and nobody else does");
        let without = self.runtime.filter(self.call(14, "", vec![], r#"{"order": 1}"#, Access::Read)).await;
        assert_eq!(without.result.unwrap_err().to_string(), "kv-no-table: there is no table here");
    }

    async fn judges(&self) {
        let judge = async |status: u16, body: &str| {
            let attempt = Attempted {
                delivery: DeliveryId(1),
                event: EventId(1),
                number: 2,
                started_at: NOW,
                origin: "https://acme.example".into(),
            };
            let headers = vec![Header { name: "content-type".into(), value: Bytes::from_static(b"application/json") }];
            let answer = Response { status, headers, body: Bytes::copy_from_slice(body.as_bytes()) };
            self.runtime.judge(self.call(1, "/hook", vec![], "{}", Access::Read), attempt, answer).await.result.unwrap()
        };
        assert_eq!(judge(200, "{}").await, Judgement::Delivered);
        assert_eq!(judge(500, "{}").await, Judgement::Default);
        assert_eq!(judge(200, r#"{"result": "busy", "wait_ms": 50}"#).await, Judgement::Retry(Some(Duration::from_millis(50))));
        let refused = judge(200, r#"{"result": "refused", "why": "no\nsuch order"}"#).await;
        assert_eq!(refused, Judgement::DeadLetter("no such order".into()));
    }
}
