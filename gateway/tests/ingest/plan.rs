//! What a tenant over its plan gets: the low lane, or 429 for it alone.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate::clock::Clock;
use tidegate::control::snapshot::{Diversion, Diverted, Plan, Source, Tenant};
use tidegate::event::{Lane, Shard, SourceId, TenantId};
use tidegate::ingest::quota::Quotas;
use tidegate::store::{Home, Store, StoreError};

use crate::stub::{Mode, Stub};
use crate::world::{NOW, PLAN, Raw, SOURCE, Setup, TENANT, World, post, post_to, source};

const OTHER: SourceId = SourceId(0x0190_0000_0000_0000_0000_0000_0000_0002);
const INTERVAL: Duration = Duration::from_millis(100);

/// The source's tenant has this plan; another source's tenant has the same.
fn with(plan: Plan) -> Setup {
    let of = |source: Source, id| Source { tenant: Arc::new(Tenant { id, plan, ..(*source.tenant).clone() }), ..source };
    Setup { source: of(source(), TENANT), others: vec![of(Source { id: OTHER, ..source() }, TenantId(8))], ..Setup::default() }
}

#[tokio::test]
async fn a_tenant_with_too_much_queued_is_refused_alone() {
    let world = World::start(with(Plan { queued_bytes: 1 << 20, ..PLAN })).await;
    world.store.queued.store((1 << 20) - 1, Ordering::Relaxed);
    assert_eq!(world.send(&post("", b"x")).await.status, 202);
    world.store.queued.store(1 << 20, Ordering::Relaxed);
    assert_eq!(world.send(&post("", b"x")).await.status, 202, "nobody knew yet");
    let refused = world.send(&post("", b"x")).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "queued_bytes_exceeded"));
    let detail = refused.json()["detail"].to_string();
    assert!(!detail.contains("  ") && detail.contains("plan.queued_bytes is 1MiB") && detail.contains("raised"), "{detail}");
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=5).contains(&after), "{after}");
    assert_eq!(world.send(&post_to(OTHER, "", b"x")).await.status, 202);
}

#[tokio::test]
async fn a_refused_tenant_is_looked_at_once_a_second() {
    let world = World::start(with(Plan { queued_bytes: 10, ..PLAN })).await;
    world.store.queued.store(10, Ordering::Relaxed);
    assert_eq!(world.send(&post("", b"x")).await.status, 202);
    for _ in 0..5 {
        assert_eq!(world.send(&post("", b"x")).await.status, 429);
    }
    assert_eq!(world.store.looked.load(Ordering::Relaxed), 1);
    world.store.queued.store(9, Ordering::Relaxed);
    assert_eq!(world.send(&post("", b"x")).await.status, 429, "it was looked at a moment ago");
    world.clock.advance(Duration::from_secs(1));
    for _ in 0..3 {
        assert_eq!(world.send(&post("", b"x")).await.status, 202);
    }
    assert_eq!(world.store.looked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_store_that_cannot_say_how_much_is_queued_makes_nobody_full() {
    let world = World::start(with(Plan { queued_bytes: 10, ..PLAN })).await;
    world.store.queued.store(10, Ordering::Relaxed);
    assert_eq!(world.send(&post("", b"x")).await.status, 202);
    world.store.set(Mode::Fail(StoreError::Unavailable("away".into())));
    assert_eq!(world.send(&post("", b"x")).await.code(), "store_unavailable");
    world.store.set(Mode::Keep);
    assert_eq!(world.send(&post("", b"x")).await.status, 202);
    assert_eq!(world.send(&post("", b"x")).await.status, 429);
}

#[tokio::test]
async fn a_tenant_over_its_ceiling_is_refused_alone() {
    let world = World::start(with(Plan { rate: 0.25, burst: 1, ceiling: 0.5, ..PLAN })).await;
    assert_eq!(world.send(&post("", b"x")).await.status, 202);
    let refused = world.send(&post("", b"x")).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "ceiling_exceeded"));
    assert_eq!(refused.header("retry-after"), Some("2"));
    let detail = refused.json()["detail"].to_string();
    assert!(!detail.contains("  ") && detail.contains("plan.ceiling is 0.5 events per second"), "{detail}");
    assert_eq!(world.send(&post_to(OTHER, "", b"x")).await.status, 202);
    world.clock.advance(Duration::from_millis(1500));
    assert_eq!(world.send(&post("", b"x")).await.header("retry-after"), Some("1"), "never at once");
    world.clock.advance(Duration::from_millis(500));
    assert_eq!(world.send(&post("", b"x")).await.status, 202);
    assert_eq!(world.store.lanes(), [Lane::Normal, Lane::Normal, Lane::Low], "it is not the rate");
}

#[tokio::test]
async fn a_burst_that_the_plan_allows_is_not_over_the_ceiling() {
    let world = World::start(with(Plan { rate: 1.0, burst: 20, ceiling: 2.0, ..PLAN })).await;
    for _ in 0..20 {
        assert_eq!(world.send(&post("", b"x")).await.status, 202);
    }
    assert_eq!(world.send(&post("", b"x")).await.status, 429);
    let world = World::start(with(Plan { rate: 1.0, burst: 1, ceiling: 10.0, ..PLAN })).await;
    for _ in 0..10 {
        assert_eq!(world.send(&post("", b"x")).await.status, 202, "one second's worth");
    }
    assert_eq!(world.send(&post("", b"x")).await.status, 429);
}

#[tokio::test]
async fn a_refusal_comes_before_the_body() {
    let world = World::start(with(Plan { rate: 0.5, ceiling: 0.5, ..PLAN })).await;
    assert_eq!(world.send(&post("", b"x")).await.status, 202);
    let mut connection: Raw = world.connect().await;
    connection.write(format!("POST /in/{SOURCE} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n").as_bytes()).await;
    assert_eq!(connection.response().await.status, 429);
    let expected = format!("POST /in/{SOURCE} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\nexpect: 100-continue\r\n\r\n");
    assert_eq!(world.send(expected.as_bytes()).await.status, 429, "no 100 comes first");
}

#[tokio::test]
async fn who_is_diverted_goes_to_the_held_lane() {
    for (who, lanes) in
        [(Diverted::Tenant(TENANT), [Lane::Held, Lane::Normal]), (Diverted::Source(OTHER), [Lane::Normal, Lane::Held])]
    {
        for diversion in [Diversion::Held, Diversion::Returning] {
            let mut setup = with(PLAN);
            setup.traffic.diverted.insert(who, diversion);
            let world = World::start(setup).await;
            assert_eq!(world.send(&post("", b"x")).await.status, 202);
            assert_eq!(world.send(&post_to(OTHER, "", b"x")).await.status, 202);
            assert_eq!(world.store.lanes(), lanes, "{who:?} {diversion:?}");
        }
    }
}

/// Gateways that share a tenant's plan through one store.
struct Gateways {
    store: Arc<Stub>,
    clock: Clock,
    all: Vec<Quotas>,
    plan: Plan,
}

impl Gateways {
    fn new(count: usize, plan: Plan) -> Self {
        let (store, clock) = (Stub::new(Mode::Keep), Clock::manual(NOW));
        store.buckets.lock().unwrap().0 = Some(clock.clone());
        Self { store, clock, all: (0..count).map(|_| Quotas::default()).collect(), plan }
    }

    /// How many of `events`, spread over one interval, this one lets into the normal lane.
    fn admitted(&self, gateway: usize, events: usize) -> usize {
        let quotas = &self.all[gateway];
        let quota = quotas.of(Home { tenant: TENANT, shard: Shard(0) });
        let steps = INTERVAL.as_millis() as usize;
        let at = |event: usize| self.clock.now().after(Duration::from_millis((event * steps / events) as u64));
        (0..events).filter(|event| quotas.lane(&quota, &self.plan, at(*event)) == Lane::Normal).count()
    }

    /// One interval with so many events at each; how many they let into the normal lane.
    async fn interval(&self, events: &[usize]) -> usize {
        let admitted = events.iter().enumerate().map(|(gateway, events)| self.admitted(gateway, *events)).sum();
        self.clock.advance(INTERVAL);
        for quotas in &self.all {
            quotas.share(&*self.store, &self.clock).await;
        }
        admitted
    }

    async fn run(&self, intervals: usize, events: &[usize]) -> usize {
        let mut admitted = 0;
        for _ in 0..intervals {
            admitted += self.interval(events).await;
        }
        admitted
    }
}

#[tokio::test]
async fn gateways_together_let_through_what_the_plan_allows() {
    for (burst, gateways) in [(1, 2), (100, 2), (2000, 2), (2000, 5)] {
        let plan = Plan { rate: 1000.0, burst, ..PLAN };
        let gateways = Gateways::new(gateways, plan);
        let count = gateways.all.len();
        // The first interval is all that they admit before they hear of each other.
        let before = gateways.interval(&vec![400; count]).await;
        assert!(before <= count * (burst as usize + 100), "{before} with {burst}");
        let admitted = before + gateways.run(99, &vec![400; count]).await;
        let allowed = 10_000 + burst as usize;
        let overshoot = before - before.min(burst as usize + 100);
        assert!(admitted <= allowed + overshoot + 100 * count, "{admitted} of {allowed} with a burst of {burst} at {count}");
        assert!(admitted >= allowed * 9 / 10, "only {admitted} of {allowed} with a burst of {burst} at {count}");
    }
}

#[tokio::test]
async fn what_one_gateway_does_not_use_another_may() {
    let gateways = Gateways::new(2, Plan { rate: 1000.0, burst: 100, ..PLAN });
    gateways.run(10, &[400, 400]).await;
    let admitted = gateways.run(100, &[400, 10]).await;
    assert!((9_500..=10_300).contains(&admitted), "{admitted}");
    let admitted = gateways.run(100, &[0, 400]).await;
    assert!((9_500..=10_300).contains(&admitted), "{admitted}");
}

#[tokio::test]
async fn a_gateway_that_is_alone_loses_nothing_by_sharing() {
    for burst in [1, 10, 2000] {
        let plan = Plan { rate: 1000.0, burst, ..PLAN };
        let (alone, sharing) = (Quotas::default(), Gateways::new(1, plan));
        for _ in 0..50 {
            let quota = alone.of(Home { tenant: TENANT, shard: Shard(0) });
            let steps = INTERVAL.as_millis() as usize;
            let now = sharing.clock.now();
            let at = |event: usize| now.after(Duration::from_millis((event * steps / 250) as u64));
            let by_itself = (0..250).filter(|event| alone.lane(&quota, &plan, at(*event)) == Lane::Normal).count();
            assert_eq!(sharing.interval(&[250]).await, by_itself, "burst {burst}");
        }
    }
}

#[tokio::test]
async fn a_store_that_is_away_changes_nothing() {
    let gateways = Gateways::new(2, Plan { rate: 1000.0, burst: 100, ..PLAN });
    gateways.store.set(Mode::Fail(StoreError::Unavailable("away".into())));
    assert!(gateways.run(50, &[400, 400]).await >= 2 * 5000, "each by its own bucket");
    gateways.store.set(Mode::Keep);
    let admitted = gateways.run(50, &[400, 400]).await;
    assert!((4_500..=5_500).contains(&admitted), "{admitted}: nobody pays for what was not shared");
}

#[tokio::test]
async fn an_engine_of_one_process_has_nothing_to_share() {
    let gateways = Gateways::new(1, PLAN);
    gateways.store.buckets.lock().unwrap().0 = None;
    let store: &dyn Store = &*gateways.store;
    assert_eq!(gateways.admitted(0, 5), 1);
    gateways.all[0].share(store, &gateways.clock).await;
    assert_eq!(gateways.admitted(0, 5), 0);
}
