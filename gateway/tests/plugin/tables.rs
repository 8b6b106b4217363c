//! What calls that use their tables cost, and how many of them there are at once.

use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tidegate::event::{ConnectionId, EventId, PluginId, TenantId};
use tidegate::plugin::limits::{GROWN_BYTE_FUEL, TENANT_TABLE_CALLS};
use tidegate::plugin::table::{MAX_VALUE, Place, TableAction, TableAnswer, TableOp, TableResult, Tables};
use tidegate::plugin::{Call, Limits, Table};
use tokio::sync::{mpsc, oneshot};

use crate::fixture::{Sandbox, call};
use crate::guest::{filter, import};

const KEEP: &str = "(i32.store8 (i32.const 8) (i32.const 0)) (i32.store8 (i32.const 12) (i32.const 1)) (i32.const 8)";

fn getting(body: &str) -> Bytes {
    filter(&import("kv", "get", "(param i32 i32 i32)"), body)
}

fn of(tenant: u128, call: Call) -> Call {
    let place =
        Place { tenant: TenantId(tenant), plugin: PluginId(1), event: EventId(7), connection: ConnectionId(1), stage: 0, input: 0 };
    Call { tenant: TenantId(tenant), table: Table::live(place), ..call }
}

/// Tells who asks, and answers when it is told to.
struct Held(mpsc::Sender<(TenantId, oneshot::Sender<()>)>);

#[async_trait]
impl Tables for Held {
    async fn ask(&self, place: &Place, _: u32, _: &TableOp) -> Result<TableResult, Box<dyn Error + Send + Sync>> {
        let (answer, told) = oneshot::channel();
        self.0.send((place.tenant, answer)).await?;
        told.await?;
        Ok(Ok(TableAnswer::Value(None)))
    }
}

#[tokio::test]
async fn a_tenant_has_so_many_calls_at_its_tables_at_once_and_keeps_nobody_waiting() {
    let (asks, mut asked) = mpsc::channel(100);
    let sandbox = Sandbox::with_tables(|_| {}, Arc::new(Held(asks)));
    let version = sandbox.add(getting(&format!("(call $get (i32.const 64) (i32.const 1) (i32.const 96)) {KEEP}")));
    let run = |tenant| {
        let (runtime, call) = (sandbox.runtime.clone(), of(tenant, call(version, "{}")));
        tokio::spawn(async move { runtime.filter(call).await.result })
    };
    let mut runs: Vec<_> = (0..TENANT_TABLE_CALLS + 5).map(|_| run(1)).collect();
    let mut held = Vec::new();
    for _ in 0..TENANT_TABLE_CALLS {
        let (tenant, answer) = asked.recv().await.unwrap();
        assert_eq!(tenant, TenantId(1));
        held.push(answer);
    }
    runs.push(run(2));
    let (tenant, answer) = asked.recv().await.unwrap();
    assert_eq!(tenant, TenantId(2), "the others of the first tenant wait for its own");
    held.push(answer);
    held.drain(..).for_each(|answer| answer.send(()).unwrap());
    for _ in 0..5 {
        asked.recv().await.unwrap().1.send(()).unwrap();
    }
    for run in runs {
        assert!(run.await.unwrap().unwrap());
    }
}

/// Answers every question with the largest value.
struct Large;

#[async_trait]
impl Tables for Large {
    async fn ask(&self, _: &Place, _: u32, op: &TableOp) -> Result<TableResult, Box<dyn Error + Send + Sync>> {
        assert_eq!(op.action, TableAction::Get);
        Ok(Ok(TableAnswer::Value(Some(vec![0; MAX_VALUE].into()))))
    }
}

#[tokio::test]
async fn what_a_call_moves_to_and_from_its_table_is_bounded() {
    let sandbox = Sandbox::with_tables(|_| {}, Arc::new(Large));
    let get = "(call $get (i32.const 64) (i32.const 1) (i32.const 96))";
    let least = Limits::default().table_traffic / (MAX_VALUE + 1);
    let kept = of(1, call(sandbox.add(getting(&format!("{} {KEEP}", get.repeat(least)))), "{}"));
    assert!(sandbox.runtime.filter(kept).await.result.unwrap());
    let endless = of(1, call(sandbox.add(getting(&format!("(loop {get} (br 0)) (unreachable)"))), "{}"));
    assert_eq!(sandbox.runtime.filter(endless).await.run.outcome.unwrap_err().code, "table_traffic");
}

#[tokio::test]
async fn memory_that_a_run_takes_costs_beside_its_fuel() {
    let sandbox = Sandbox::new();
    let filter = filter("", &format!("(drop (memory.grow (i32.const 16))) {KEEP}"));
    let report = sandbox.runtime.filter(call(sandbox.add(filter), "{}")).await;
    assert_eq!(report.price(), report.run.fuel + 16 * 65_536 * GROWN_BYTE_FUEL);
}
