use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;

use super::*;

const TENANTS: [TenantId; 3] = [TenantId(1), TenantId(2), TenantId(3)];

/// Work without an answer.
struct Does<F>(Option<F>);

impl<F: FnOnce() + Send> Work for Does<F> {
    fn run(&mut self) {
        self.0.take().unwrap()();
    }

    fn tell(self: Box<Self>) {}
}

fn does(work: impl FnOnce() + Send + 'static) -> Box<dyn Work> {
    Box::new(Does(Some(work)))
}

/// Queues whose jobs say who they were when they run.
struct Order {
    queues: Queues,
    ran: Arc<Mutex<Vec<TenantId>>>,
}

impl Order {
    fn new() -> Self {
        Self { queues: Queues::default(), ran: Arc::default() }
    }

    fn push(&mut self, tenant: TenantId, cost_us: u64, count: usize) {
        for _ in 0..count {
            let ran = Arc::clone(&self.ran);
            let work = does(move || lock(&ran).push(tenant));
            self.queues.push(Job { tenant, cost_us, cost: Arc::default(), work, _room: Held::nothing() });
        }
    }

    /// Runs one hand-off; gives who ran, in order.
    fn hand_off(&mut self, threads: usize) -> Vec<TenantId> {
        for mut job in self.queues.hand_off(threads) {
            job.work.run();
        }
        std::mem::take(&mut lock(&self.ran))
    }
}

#[test]
fn a_flood_does_not_delay_a_quiet_tenant_beyond_one_hand_off() {
    let mut order = Order::new();
    order.push(TENANTS[0], 50, 10_000);
    order.hand_off(1);
    order.push(TENANTS[1], 50, 1);
    assert!(order.hand_off(1).contains(&TENANTS[1]));
}

#[test]
fn tenants_get_equal_time_not_equal_calls() {
    let mut order = Order::new();
    order.push(TENANTS[0], 100, 10_000);
    order.push(TENANTS[1], 10, 10_000);
    let mut time = [0, 0];
    for _ in 0..50 {
        for tenant in order.hand_off(1) {
            if tenant == TENANTS[0] { time[0] += 100 } else { time[1] += 10 }
        }
    }
    let (slow, quick): (u64, u64) = (time[0], time[1]);
    assert!(slow.abs_diff(quick) * 10 < slow + quick, "{slow} us of slow calls, {quick} us of quick ones");
}

#[test]
fn a_call_that_costs_more_than_a_round_gives_runs_after_enough_rounds() {
    let mut order = Order::new();
    order.push(TENANTS[0], QUANTUM_US * 7, 1);
    assert_eq!(order.hand_off(1), [TENANTS[0]]);
    assert_eq!((order.queues.waiting, order.queues.waiting_us), (0, 0));
}

#[test]
fn a_thread_takes_its_share_and_no_more() {
    let mut order = Order::new();
    order.push(TENANTS[0], 1, 10);
    assert_eq!(order.hand_off(4).len(), 3);
    assert_eq!(order.hand_off(4).len(), 2);
    order.push(TENANTS[0], 1, 1000);
    assert_eq!(order.hand_off(1).len(), HAND_OFF_CALLS, "never more than a hand-off holds");
    order.push(TENANTS[1], 600, 10);
    order.hand_off(1);
    let mut costly = Order::new();
    costly.push(TENANTS[2], 600, 10);
    assert_eq!(costly.hand_off(1).len(), 2, "nor more than it may cost");
}

#[test]
fn who_leaves_and_comes_back_brings_no_credit() {
    let mut order = Order::new();
    order.push(TENANTS[0], 1, 1);
    order.hand_off(1);
    assert!(order.queues.tenants.is_empty() && order.queues.ring.is_empty());
}

#[test]
fn where_each_call_fills_a_hand_off_a_quiet_tenant_waits_for_one_run() {
    let mut order = Order::new();
    let whole = u64::try_from(HAND_OFF.as_micros()).unwrap();
    order.push(TENANTS[0], whole, 100);
    order.push(TENANTS[1], whole, 1);
    let ran: Vec<_> = (0..2).map(|_| order.hand_off(1)).collect();
    assert_eq!(ran, [[TENANTS[0]], [TENANTS[1]]]);
}

fn size(queue: usize, tenant_queue: usize) -> Size {
    Size { threads: 1, long_threads: 1, queue, tenant_queue, least_us: 0 }
}

#[tokio::test]
async fn a_full_queue_makes_its_tenant_wait_and_nobody_else() {
    let pool = Arc::new(Pool::start(size(10, 2)).unwrap());
    let (open, gate) = sync_channel::<()>(0);
    let (ran, mut done) = tokio::sync::mpsc::channel(10);
    let first = ran.clone();
    pool.submit(
        TENANTS[0],
        Arc::default(),
        does(move || {
            gate.recv().unwrap();
            first.try_send(0).unwrap();
        }),
    )
    .await;
    pool.submit(TENANTS[0], Arc::default(), does(|| {})).await;
    let third = {
        let (pool, ran) = (Arc::clone(&pool), ran.clone());
        tokio::spawn(async move { pool.submit(TENANTS[0], Arc::default(), does(move || ran.try_send(3).unwrap())).await })
    };
    tokio::task::yield_now().await;
    assert!(!third.is_finished(), "two are its limit");
    let other = ran.clone();
    pool.submit(TENANTS[1], Arc::default(), does(move || other.try_send(1).unwrap())).await;
    // The thread that is to take it may have to be woken first, by this runtime.
    tokio::task::spawn_blocking(move || open.send(()).unwrap()).await.unwrap();
    third.await.unwrap();
    let mut order = [done.recv().await, done.recv().await, done.recv().await];
    order.sort();
    assert_eq!(order, [Some(0), Some(1), Some(3)]);
}

#[tokio::test]
async fn long_calls_do_not_hold_up_short_ones_and_panics_cost_no_thread() {
    let pool = Pool::start(size(10, 10)).unwrap();
    let (open, gate) = sync_channel::<()>(0);
    let long = Arc::new(Cost::default());
    let _running = long.is_taking_long();
    pool.submit(TENANTS[0], long, does(move || gate.recv().unwrap())).await;
    pool.submit(TENANTS[0], Arc::default(), does(|| panic!("a bug of ours"))).await;
    let (ran, done) = tokio::sync::oneshot::channel();
    pool.submit(TENANTS[1], Arc::default(), does(move || ran.send(()).unwrap())).await;
    done.await.unwrap();
    // The thread that is to take it may have to be woken first, by this runtime.
    tokio::task::spawn_blocking(move || open.send(()).unwrap()).await.unwrap();
}

/// Work that runs until somebody says that it may end, and tells of it now and then.
fn endless(end: &Arc<AtomicBool>) -> Box<dyn Work> {
    let end = Arc::clone(end);
    does(move || {
        while !end.load(Ordering::Relaxed) {
            still_running();
            thread::yield_now();
        }
    })
}

#[tokio::test]
async fn a_call_that_turns_out_to_be_long_gives_way_and_so_do_those_of_its_kind() {
    let pool = Pool::start(size(10, 10)).unwrap();
    let (cost, end) = (Arc::new(Cost::default()), Arc::new(AtomicBool::new(false)));
    for _ in 0..3 {
        pool.submit(TENANTS[0], Arc::clone(&cost), endless(&end)).await;
    }
    let (ran, done) = tokio::sync::oneshot::channel();
    pool.submit(TENANTS[1], Arc::default(), does(move || ran.send(()).unwrap())).await;
    done.await.expect("one thread for short calls, and three that never end");
    assert!(cost.is_long());
    assert_eq!(pool.long.guests(), 1, "the others wait for their turn among the long ones");

    end.store(true, Ordering::Relaxed);
    let (ran, done) = tokio::sync::oneshot::channel();
    pool.submit(TENANTS[0], cost, does(move || ran.send(()).unwrap())).await;
    done.await.expect("the place of the one that gave way is free again");
}

#[tokio::test]
async fn many_versions_whose_first_calls_are_long_do_not_hold_up_one_that_is_known() {
    let pool = Pool::start(size(20, 20)).unwrap();
    let known = Arc::new(Cost::default());
    known.took(10);
    let end = Arc::new(AtomicBool::new(false));
    for _ in 0..10 {
        pool.submit(TENANTS[0], Arc::default(), endless(&end)).await;
    }
    while pool.long.guests() < may_give_way(1) {
        tokio::task::yield_now().await;
    }
    for _ in 0..5 {
        let (ran, done) = tokio::sync::oneshot::channel();
        pool.submit(TENANTS[1], Arc::clone(&known), does(move || ran.send(()).unwrap())).await;
        done.await.expect("ten versions of which nothing is known, and none of them ends");
    }
    end.store(true, Ordering::Relaxed);
}
