//! A tenant with several shards: its windows are divided among them, and each comes to the end of a diversion by itself.

use serde_json::{Value, json};
use tidegate::control::snapshot::{Diversion, Diverted, Traffic};
use tidegate::event::{Lane, Shard};
use tidegate_test_support::eventually;
use tidegate_test_support::http::{Answer, Receiver};

use crate::world::{SHARD, SOON, World, fan_out, is_delivered};

const OTHER: Shard = Shard(1);

fn with_plan(mut spec: Value, plan: Value) -> Value {
    spec["plan"] = plan;
    spec
}

#[tokio::test]
async fn each_shard_has_its_part_of_a_window() {
    // Of the tenant's, and of a destination's; an odd one is rounded up.
    for (of_tenant, of_destination, expected) in [(6, 64, 6), (64, 4, 4), (5, 64, 6), (1, 64, 2)] {
        let receiver = Receiver::start().await;
        receiver.answer(Answer::hang());
        let world = World::with_shards(2).await;
        let plan = json!({"shards": 2, "in_flight": of_tenant});
        world.declare("t", with_plan(fan_out(&[("d", receiver.url("/"))], of_destination), plan)).await;
        let (tenant, source) = (world.home("t").tenant, world.source("t", "in"));
        let node = world.dispatch("a");
        for shard in [SHARD, OTHER] {
            for _ in 0..10 {
                world.accept_at(shard, Lane::Normal, tenant, source, "{}").await;
            }
        }
        for shard in [SHARD, OTHER] {
            let parked = 10 - expected as u64 / 2;
            eventually("the rest is parked", SOON, async || {
                (world.store.depth(shard).await.unwrap().parked == parked).then_some(())
            })
            .await;
        }
        receiver.wait_for(expected, SOON).await;
        assert_eq!(receiver.count(), expected, "{of_tenant}, {of_destination}");
        node.stop().await;
    }
}

#[tokio::test]
async fn a_diversion_ends_in_one_shard_while_another_still_returns() {
    let receiver = Receiver::start().await;
    let world = World::with_shards(2).await;
    world.declare("t", with_plan(fan_out(&[("d", receiver.url("/"))], 8), json!({"shards": 2}))).await;
    let (tenant, source) = (world.home("t").tenant, world.source("t", "in"));
    let who = Diverted::Tenant(tenant);
    let traffic = |diversion| Traffic { diverted: [(who, diversion)].into(), ..Traffic::default() };
    world.steer(traffic(Diversion::Held));
    let mut held = Vec::new();
    for shard in [SHARD, OTHER] {
        held.push((shard, world.accept_at(shard, Lane::Held, tenant, source, "held").await));
    }
    let node = world.dispatch("a");
    let said = |shard| world.came_back.lock().unwrap().contains(&(who, shard));
    world.steer(traffic(Diversion::Returning));
    eventually("nothing is left in either shard", SOON, async || (said(SHARD) && said(OTHER)).then_some(())).await;
    receiver.wait_for(held.len(), SOON).await;

    // It is over in one of them: nothing is said of it there any more, and what comes late into its held lane is not forgotten.
    world.steer(Traffic { drained: [(who, SHARD)].into(), ..traffic(Diversion::Returning) });
    let late = world.accept_at(SHARD, Lane::Held, tenant, source, "late").await;
    world.settled("t", late, is_delivered).await;
    world.came_back.lock().unwrap().clear();
    let newcomer = world.accept_at(SHARD, Lane::Normal, tenant, source, "newcomer").await;
    world.settled("t", newcomer, is_delivered).await;
    eventually("the other is said of again", SOON, async || said(OTHER).then_some(())).await;
    assert!(!said(SHARD));
    node.stop().await;
}
