//! The embedded store's disk: full but for the reserve, full altogether, read-only.

use std::fs::{self, File};
use std::io::Write;

use tidegate_test_support::eventually;
use tidegate_test_support::http::{Answer, Receiver, send};
use tidegate_test_support::mounts::Mounts;

use super::stores::{is_unavailable, post};
use super::{accepted, set_up, still_delivers};
use crate::api::Api;
use crate::world::{OPERATOR, SMALL, SOON, Servers, World};

const MIB: u64 = 1 << 20;
/// Less than what the store keeps free for acks and retries.
const LEFT: u64 = 8 * MIB;

/// A gateway whose data are on what `script` mounts, with an event that waits for its next attempt.
async fn with_something_to_lose(script: &str, first: Answer) -> (World, Mounts, String) {
    let servers = Servers::start(SMALL).await;
    let launch = servers.launch("shutdown.deadline = \"2s\"");
    let mounts = Mounts::new(launch.directory(), script).await;
    let gateway = launch.within(mounts.wrapper()).start().await;
    let world = World { api: Api::of(&gateway), gateway, servers, receiver: Receiver::start().await };
    set_up(&world).await;
    world.receiver.answer_in_turn([first], Answer::status(200));
    let waiting = accepted(&world, "open", "{}").await;
    world.receiver.wait_for(1, SOON).await;
    eventually("the retry is recorded", SOON, async || {
        (world.api.event(&waiting).await["deliveries"][0]["state"] == "scheduled").then_some(())
    })
    .await;
    (world, mounts, waiting)
}

/// Writes until nothing more goes in.
fn fill(mounts: &Mounts) -> File {
    let mut filler = File::create(mounts.path("data/filler")).unwrap();
    let mut block = vec![0; 1 << 20];
    while !block.is_empty() {
        if filler.write_all(&block).is_err() {
            block.truncate(block.len() / 2);
        }
    }
    filler
}

#[tokio::test]
async fn a_disk_that_is_full_but_for_the_reserve_answers_503_and_still_delivers() {
    let small = "mount -t tmpfs -o size=160m none \"$1/data\"";
    let (world, mounts, waiting) = with_something_to_lose(small, Answer::status(503).header("retry-after", "3")).await;
    let source = world.api.id("sources", "open").await;
    let filler = fill(&mounts);
    filler.set_len(filler.metadata().unwrap().len() - LEFT).unwrap();
    let refused = eventually("the disk is found full", SOON, async || {
        let reply = post(&world, &source).await;
        (reply.status == 503).then_some(reply)
    })
    .await;
    is_unavailable(&refused, "store_full");
    let ready = send("GET", &world.gateway.admin("/readyz"), &[], "").await;
    let reasons = ready.json()["reasons"].to_string();
    assert!(ready.status == 503 && reasons.contains("store is full") && reasons.contains("are kept for acks"), "{reasons}");
    assert_eq!(world.api.settled(&waiting, SOON).await["state"], "delivered", "what is left is for retries and outcomes");
    drop(filler);
    fs::remove_file(mounts.path("data/filler")).unwrap();
    eventually("events are taken again", SOON, async || (post(&world, &source).await.status == 202).then_some(())).await;
    still_delivers(&world).await;
}

#[tokio::test]
async fn a_disk_that_is_full_altogether_ends_the_gateway_with_the_reason_and_loses_nothing() {
    let small = "mount -t tmpfs -o size=160m none \"$1/data\"";
    // What is to be recorded of the next attempt is more than finds room at the end of a page.
    let refusal = || Answer::status(503).header("retry-after", "2").body("x".repeat(16_000));
    let (mut world, mounts, waiting) = with_something_to_lose(small, refusal()).await;
    world.receiver.answer_in_turn([refusal()], Answer::status(200));
    let filler = fill(&mounts);
    let status = world.gateway.exit_within(SOON).await;
    assert_eq!(status.code(), Some(1), "{}", world.gateway.log());
    let log = world.gateway.log();
    assert!(log.contains("nothing more is accepted until a restart") && log.contains("No space left"), "{log}");
    drop(filler);
    fs::remove_file(mounts.path("data/filler")).unwrap();
    world.gateway.restart().await;
    assert_eq!(world.api.settled(&waiting, SOON).await["state"], "delivered");
    still_delivers(&world).await;
}

#[tokio::test]
async fn a_read_only_disk_is_refused_at_start_and_loses_nothing() {
    let bind = "mount --bind \"$1/data\" \"$1/data\"";
    let (mut world, mounts, waiting) = with_something_to_lose(bind, Answer::status(503).header("retry-after", "3")).await;
    world.gateway.kill();
    mounts.run("mount -o remount,bind,ro \"$1/data\"");
    let finished = world.gateway.run(&["serve", "--config", "tidegate.toml"]).await;
    assert_eq!(finished.status.code(), Some(1), "{}", finished.output);
    assert!(finished.output.contains("data") && finished.output.contains("Read-only file system"), "{}", finished.output);
    assert!(!finished.output.contains(OPERATOR) && !finished.output.contains("panicked"), "{}", finished.output);
    mounts.run("mount -o remount,bind,rw \"$1/data\"");
    world.gateway.restart().await;
    assert_eq!(world.api.settled(&waiting, SOON).await["state"], "delivered");
    still_delivers(&world).await;
}
