//! `accept_cpu`: what it costs to take an event and keep it.
//!
//! On Redis the gateway runs the ingest role alone, so that nothing but accepting is in the figure. The embedded store has one
//! process for both roles; its source has no connection, so that each event is accepted, claimed and recorded as unmatched.

use super::super::Traffic;
use super::super::error::BenchError;
use super::super::gateway::{Backend, Gateway};
use super::super::lab::{Lab, Measured, Stage, accepted};
use super::super::machine::{Fsync, fsync_probe};
use super::super::outcome;
use super::super::redis_server::RedisServer;
use super::super::report::{Details, Figure, Goal};
use super::{Findings, Store, cpu_of, details, middle, progress};

/// `accept_cpu` on Redis.
const GOAL: Goal = Goal::RatioAtMost(1.5);

struct Runs {
    store: Store,
    gateway: Vec<Measured>,
    fsync: Vec<Fsync>,
}

pub(super) async fn run(lab: &Lab, traffic: &Traffic) -> Result<Findings, BenchError> {
    let mut faults = Vec::new();
    let mut floors = Vec::new();
    let stores = traffic.store.list();
    let mut runs: Vec<Runs> = stores.iter().map(|&store| Runs { store, gateway: Vec::new(), fsync: Vec::new() }).collect();
    for repetition in 1..=lab.repetitions {
        progress(&format!("repetition {repetition} of {}", lab.repetitions));
        floors.push(floor(lab, traffic).await?);
        for Runs { store, gateway, fsync } in &mut runs {
            fsync.push(fsync_probe(lab.dir())?);
            gateway.push(once(lab, traffic, *store, &mut faults).await?);
        }
    }
    let floor = cpu_of(&floors, "floor");
    let figures = runs.iter().map(|runs| figure(runs, floor)).collect();
    Ok((figures, faults))
}

fn figure(runs: &Runs, floor: super::Spread) -> Figure {
    let store = runs.store;
    let what = match store {
        Store::Redis => "role ingest alone",
        Store::Embedded => "all roles, no connection: claimed and recorded as unmatched too",
    };
    let what = format!("CPU of the gateway for each accepted 1 KB event; {}; {what}", store.described());
    let value = cpu_of(&runs.gateway, "gateway");
    let details = Details { fsync_ms: Some(middle(&runs.fsync)), ..details(what, &runs.gateway) };
    let goal = (store == Store::Redis).then_some(GOAL);
    Figure::new(format!("accept_cpu{}", store.suffix()), "us", value, Some(floor), goal, details)
}

/// A bare server that reads the same body and answers 202.
async fn floor(lab: &Lab, traffic: &Traffic) -> Result<Measured, BenchError> {
    let floor = lab.floor(&[]).await?;
    let mut load = lab.load(floor.address()?, &["/in/floor"], traffic.connections).await?;
    let processes = vec![("floor", floor.pid()), ("load", load.pid())];
    let mut stage = Stage { name: "the floor of accept".into(), load: &mut load, receiver: None, processes };
    let measured = lab.measure(&mut stage).await?;
    load.stop().await?;
    floor.stop().await?;
    Ok(measured)
}

async fn once(lab: &Lab, traffic: &Traffic, store: Store, faults: &mut Vec<String>) -> Result<Measured, BenchError> {
    let room = lab.room()?;
    let server = match store {
        Store::Redis => Some(RedisServer::start(&traffic.redis_server, &room.join("redis")).await?),
        Store::Embedded => None,
    };
    let (backend, role) = server.as_ref().map_or((Backend::Embedded, "all"), |server| (Backend::Redis(server), "ingest"));
    let gateway = Gateway::start(lab, &room, backend, role).await?;
    let route = gateway.source().await?.unconnected();
    let mut load = lab.load(gateway.ingest(), &[&route.path], traffic.connections).await?;
    let mut processes = vec![("gateway", gateway.pid()), ("load", load.pid())];
    processes.extend(server.as_ref().map(|server| ("redis", server.pid())));
    let name = format!("accept, {}", store.described());
    let mut stage = Stage { name: name.clone(), load: &mut load, receiver: None, processes };
    let measured = lab.measure(&mut stage).await?;
    let repeated = outcome::repeated(&accepted(lab, &mut load).await?);
    if repeated > 0 {
        faults.push(format!("{name}: {repeated} events were acknowledged with the id of another"));
    }
    load.stop().await?;
    Ok(measured)
}
