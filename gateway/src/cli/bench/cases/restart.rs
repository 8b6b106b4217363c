//! `restart`: from the kill of a gateway to the first delivery of the next one, with many events queued.
//!
//! Events pile up for a destination that does not answer. Then the gateway is killed, the destination answers again, and a new gateway
//! starts at once on what the old one left. All that was acknowledged must arrive; some of it twice.

use super::super::Traffic;
use super::super::error::BenchError;
use super::super::lab::{self, Lab, accepted, all_arrived, delivered, open_gate};
use super::super::machine::{Fsync, fsync_probe};
use super::super::outcome::compare;
use super::super::receiver::GATE;
use super::super::report::{Details, Figure};
use super::super::statistics::Spread;
use super::backlog::FILL;
use super::{Findings, Site, Store, middle, progress};
use crate::clock;

/// How often arrivals are looked for.
const LOOK: std::time::Duration = std::time::Duration::from_millis(2);
/// The longest that a first delivery is waited for.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// One store's repetitions.
struct Runs {
    store: Store,
    seconds: Vec<f64>,
    queued: u64,
    missing: u64,
    duplicates: u64,
    fsync: Vec<Fsync>,
}

pub(super) async fn run(lab: &Lab, traffic: &Traffic, events: u64) -> Result<Findings, BenchError> {
    let mut faults = Vec::new();
    let new = |&store| Runs { store, seconds: vec![], queued: 0, missing: 0, duplicates: 0, fsync: vec![] };
    let mut all: Vec<Runs> = traffic.store.list().iter().map(new).collect();
    for repetition in 1..=lab.repetitions {
        progress(&format!("repetition {repetition} of {}", lab.repetitions));
        for runs in &mut all {
            runs.once(lab, traffic, events, &mut faults).await?;
        }
    }
    Ok((all.iter().map(Runs::figure).collect(), faults))
}

impl Runs {
    async fn once(&mut self, lab: &Lab, traffic: &Traffic, events: u64, faults: &mut Vec<String>) -> Result<(), BenchError> {
        self.fsync.push(fsync_probe(lab.dir())?);
        let Site { mut gateway, server: _server } = Site::start(lab, traffic, self.store).await?;
        let receiver = lab.receiver().await?;
        let route = gateway.source().await?.to(GATE).connect(receiver.address()?, None).await?;
        let mut fill = lab.load(gateway.ingest(), &[&route.path], traffic.connections).await?;
        let mut queued = 0;
        while queued < events {
            queued += lab::send(&mut fill, FILL.min(lab.time), None).await?.some("the queue")?.accepted;
        }
        progress(&format!("{queued} events are queued"));
        let (started, killed) = (clock::monotonic(), clock::wall_micros());
        gateway.crash_and_start().await?;
        open_gate(&receiver).await?;
        let first = loop {
            // What the dead gateway had sent came before it was killed.
            let since = delivered(&receiver).await?.into_iter().map(|(_, at)| at).filter(|at| *at > killed);
            if let Some(first) = since.min() {
                break first;
            }
            if started.elapsed() > PATIENCE {
                return Err(BenchError::Part {
                    name: "gateway",
                    what: format!("delivered nothing within {PATIENCE:?} of its restart"),
                    log: gateway.log(),
                });
            }
            tokio::time::sleep(LOOK).await;
        };
        #[allow(clippy::cast_precision_loss)]
        self.seconds.push((first - killed) as f64 / 1e6);
        all_arrived(&receiver, queued).await?;
        let acknowledged = accepted(lab, &mut fill).await?;
        let mut outcome = compare(&acknowledged, &[route.connection], &delivered(&receiver).await?, 0);
        if !outcome.missing.is_empty() {
            // Duplicates counted for some that were still on their way.
            all_arrived(&receiver, u64::MAX).await?;
            outcome = compare(&acknowledged, &[route.connection], &delivered(&receiver).await?, 0);
        }
        faults.extend(outcome.fault(u64::MAX).map(|fault| format!("restart, {}: {fault}", self.store.described())));
        self.queued += queued;
        self.missing += outcome.missing.len() as u64;
        self.duplicates += outcome.duplicates;
        fill.stop().await?;
        drop(gateway);
        receiver.stop().await
    }

    fn figure(&self) -> Figure {
        let repetitions = self.seconds.len();
        let what = format!(
            "seconds from kill -9 of the gateway to the first delivery of the next, started at once on the same data; {} events queued \
             each time; {}",
            self.queued / repetitions.max(1) as u64,
            self.store.described()
        );
        let details = Details {
            what,
            repetitions,
            events: self.queued,
            fsync_ms: Some(middle(&self.fsync)),
            missing: Some(self.missing),
            duplicates: Some(self.duplicates),
            ..Details::default()
        };
        let value = Spread::of(self.seconds.iter().copied());
        Figure::new(format!("restart{}", self.store.suffix()), "s", value, None, None, details)
    }
}
