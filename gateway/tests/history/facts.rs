//! What is known beyond doubt: what was sent and acknowledged, what the receiver answered, and what was done to the gateway. The model of the
//! statuses ([`crate::verdict`]) is a function of it.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};
use tidegate::event::{ConnectionId, DeliveryId, EventId};
use tidegate_test_support::http::{Answer, Receiver};

use crate::ops::{BATCHED, CONNECTIONS, DESTINATIONS, HANG, RESET, SOURCES, Script};

/// Attempts of a delivery until it is given up.
pub(crate) const MAX_ATTEMPTS: u32 = 3;
/// How long the gateway waits for an answer.
const TIMEOUT: &str = "1200ms";

/// A moment in the order of what the test does.
pub(crate) type Tick = u64;

/// An event that was sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) script: Script,
    /// The source's id.
    pub(crate) source: String,
    pub(crate) at: Tick,
    /// None as long as no answer came.
    pub(crate) answer: Option<u16>,
}

/// An event that was accepted: acknowledged, or listed though its acknowledgement was lost.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    /// Its number in `sent`.
    pub(crate) number: usize,
    /// Retries of it that were begun, and that were answered.
    pub(crate) retries: (u64, u64),
    pub(crate) seen: Option<Seen>,
}

/// What the API showed last of an event.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) state: String,
    pub(crate) rows: BTreeMap<DeliveryId, SeenRow>,
    /// Retries that were answered when it was asked for.
    pub(crate) retries: u64,
}

/// What it showed of a delivery.
#[derive(Clone, Debug)]
pub(crate) struct SeenRow {
    pub(crate) state: String,
    pub(crate) attempts: Vec<Value>,
}

/// A connection with an id of its own, there or deleted.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) place: usize,
    pub(crate) id: ConnectionId,
    pub(crate) source: String,
    /// When it was certainly there.
    pub(crate) made: Tick,
    /// When its deletion began, and when it was over.
    pub(crate) gone: Option<(Tick, Tick)>,
}

/// What is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) paused: [bool; CONNECTIONS.len()],
    pub(crate) disabled: [bool; DESTINATIONS.len()],
    pub(crate) limited: [bool; DESTINATIONS.len()],
    pub(crate) retries_paused: bool,
    pub(crate) diverted: bool,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) now: Tick,
    pub(crate) sent: Vec<Sent>,
    pub(crate) events: BTreeMap<EventId, Accepted>,
    /// What the receiver answered to each delivery, in order.
    pub(crate) answers: HashMap<DeliveryId, Vec<u16>>,
    pub(crate) links: Vec<Link>,
    /// Sources by their places: none if it is deleted.
    pub(crate) sources: [Option<String>; SOURCES.len()],
    /// Sources whose deletion began.
    pub(crate) gone_sources: Vec<String>,
    pub(crate) settings: Settings,
    /// Odd while a setting is being changed.
    pub(crate) changes: u64,
    /// Gateways that were killed, or stopped with something in hand.
    pub(crate) ended: u64,
    /// Whether a gateway lost a shard that it had without having been ended, as a busy machine makes it.
    pub(crate) unsteady: bool,
}

impl Facts {
    pub(crate) fn tick(&mut self) -> Tick {
        self.now += 1;
        self.now
    }

    /// The tenant as it is to be: what was deleted is there again.
    pub(crate) fn tenant(&self, receiver: &str, component: &str) -> Value {
        let retry = json!({"base": "5ms", "max_delay": "20ms", "max_attempts": MAX_ATTEMPTS});
        let ruled = json!({
            "base": "5ms", "max_delay": "20ms", "max_attempts": MAX_ATTEMPTS, "on": [{"status": "410", "do": "dead_letter"}],
        });
        let destination = |place: usize| {
            let name = DESTINATIONS[place];
            let breaker = match name {
                "y" => json!({"failures": 6, "percent": 0, "pause": "100ms", "max_pause": "200ms", "probes": 1}),
                _ => json!({"enabled": false}),
            };
            let mut destination = json!({
                "name": name, "url": format!("{receiver}/{name}"), "timeout": TIMEOUT, "in_flight": 4, "circuit_breaker": breaker,
                "retry": if name == "z" { &retry } else { &ruled }, "enabled": !self.settings.disabled[place],
            });
            if name == BATCHED {
                destination["batch"] = json!({"format": "json_array", "envelope": true, "max_events": 8, "max_wait": "10ms"});
            }
            if self.settings.limited[place] {
                destination["rate"] = json!({"limit": 20, "per": "second"});
            }
            destination
        };
        let connection = |place: usize| {
            let (name, source, destination) = CONNECTIONS[place];
            let mut connection = json!({
                "name": name, "source": SOURCES[source], "destination": DESTINATIONS[destination], "paused": self.settings.paused[place],
            });
            match name {
                "even" => connection["filter"] = json!({"body": {"even": true}}),
                "keep" => {
                    let config = json!({"rules": [{"pointer": "/keep", "values": [true]}]});
                    connection["plugins"] = json!([{"plugin": "keep", "config": config}]);
                }
                _ => {}
            }
            connection
        };
        json!({
            // So little that some events go to the low lane, and some are parked for their tenant's sake.
            "plan": {"rate": 30.0, "burst": 20, "in_flight": 4},
            "plugins": [{"name": "keep", "component": component}],
            "sources": SOURCES.map(|name| json!({ "name": name })),
            "destinations": (0..DESTINATIONS.len()).map(destination).collect::<Vec<_>>(),
            "connections": (0..CONNECTIONS.len()).map(connection).collect::<Vec<_>>(),
        })
    }

    /// The connection that a row is of: one of its event's source that was not gone when the event was sent.
    pub(crate) fn link_of(&self, event: EventId, sent: &Sent, row: DeliveryId) -> Option<&Link> {
        let may_be = |link: &&Link| link.source == sent.source && link.gone.is_none_or(|(_, gone)| gone >= sent.at);
        self.links.iter().filter(may_be).find(|link| DeliveryId::derive(event, link.id, 0) == row)
    }

    /// The answers to a delivery.
    pub(crate) fn answers(&self, delivery: DeliveryId) -> &[u16] {
        self.answers.get(&delivery).map_or(&[], Vec::as_slice)
    }
}

/// Has the receiver answer by each event's script, and tell what it answers before it does.
pub(crate) fn answer(receiver: &Receiver, note: impl Fn(&[(DeliveryId, Vec<u16>)]) -> Vec<u16> + Send + Sync + 'static) {
    receiver.answer_with(move |request| {
        let destination = request.target.trim_start_matches('/');
        let id = |text: Option<&str>| text.expect("each delivery has an id").parse().expect("a delivery's id");
        let scripts: Vec<_> = match request.json() {
            Value::Array(items) => {
                assert_eq!(destination, BATCHED, "the others get no batches");
                items.iter().map(|item| (id(item["id"].as_str()), scripted(&item["data"], destination))).collect()
            }
            body => vec![(id(request.webhook_id()), scripted(&body, destination))],
        };
        let answers = note(&scripts);
        match answers[0] {
            HANG => Answer::hang(),
            RESET => Answer::disconnect(),
            status if destination != BATCHED => Answer::status(status),
            _ => {
                let result = |((id, _), status): (&(DeliveryId, Vec<u16>), &u16)| json!({"id": id, "status": status});
                Answer::status(207).body(json!(scripts.iter().zip(&answers).map(result).collect::<Vec<_>>()).to_string())
            }
        }
    });
}

/// What the receiver answers to deliveries that come together, of which these were answered so often: a connection ends for all of them.
pub(crate) fn together(scripts: &[(DeliveryId, Vec<u16>)], before: impl Fn(DeliveryId) -> usize) -> Vec<u16> {
    let own = scripts.iter().map(|(id, answers)| answers[before(*id).min(answers.len() - 1)]);
    let own: Vec<u16> = own.collect();
    match own.iter().find(|answer| [HANG, RESET].contains(answer)) {
        Some(all) => vec![*all; own.len()],
        None => own,
    }
}

fn scripted(body: &Value, destination: &str) -> Vec<u16> {
    let answers = body["answers"][destination].as_array().expect("a list of answers");
    answers.iter().map(|answer| answer.as_u64().expect("a status") as u16).collect()
}

/// An event's body.
pub(crate) fn body(number: usize, script: &Script) -> String {
    let answers: serde_json::Map<String, Value> =
        DESTINATIONS.iter().zip(&script.answers).map(|(name, answers)| ((*name).to_owned(), json!(answers))).collect();
    json!({"number": number, "even": script.even, "keep": script.keep, "answers": answers}).to_string()
}
