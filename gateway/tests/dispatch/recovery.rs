//! Jobs that try dead letters again.

use std::time::Duration;

use serde_json::json;
use tidegate::clock::Clock;
use tidegate::control::model::Who;
use tidegate::control::recovery::{JobKind, JobSpec, JobState};
use tidegate::control::service::Access;
use tidegate_test_support::eventually;
use tidegate_test_support::http::{Answer, Receiver};

use crate::order::dead;
use crate::world::{SOON, World, fan_out};

const HOUR: Duration = Duration::from_secs(3600);

/// What failed again meanwhile was older than the job, which met it again and again.
#[tokio::test]
async fn each_is_tried_once_if_the_clock_of_who_is_asked_is_ahead() {
    each_once(Clock::manual(Clock::system().now().after(HOUR))).await;
}

/// What there was seemed to be newer than the job, which passed it over.
#[tokio::test]
async fn each_is_tried_once_if_the_clock_of_who_is_asked_is_behind() {
    each_once(Clock::manual(Clock::system().now().before(HOUR))).await;
}

async fn each_once(asked: Clock) {
    let receiver = Receiver::start().await;
    receiver.answer(Answer::status(500));
    let mut world = World::at(asked).await;
    world.clock = Clock::system();
    let mut tenant = fan_out(&[("d", receiver.url("/"))], 8);
    tenant["destinations"][0]["retry"] = json!({"max_attempts": 1});
    tenant["destinations"][0]["circuit_breaker"] = json!({"enabled": false});
    world.declare("t", tenant).await;
    let node = world.dispatch("a");
    for number in 0..3 {
        let event = world.accept("t", "in", &number.to_string()).await;
        world.settled("t", event, |summary| dead(summary).is_some()).await;
    }
    let homes = world.control.homes(Access::Operator, Some("t")).unwrap();
    // All of them at once, and a second later it looks for more.
    let spec = JobSpec { rate: Some(3), ..JobSpec::default() };
    let job = world.control.begin_retry_job(&homes, &spec, &Who::Operator).await.unwrap();
    let done = eventually("the job is over", SOON, async || {
        let job = world.control.job(&homes, JobKind::Retry, &job.order.id.to_string()).await.unwrap();
        job.progress.is_over().then_some(job.progress)
    })
    .await;
    assert_eq!((done.state, done.examined, done.retried), (JobState::Done, 3, 3));
    assert_eq!(receiver.wait_for(6, SOON).await.len(), 6);
    node.stop().await;
}
