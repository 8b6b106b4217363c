//! What an answer says of each event of a batch. Pure.
//!
//! These tell outcomes, in the body of a 2xx:
//! - `{"batchItemFailures": [{"itemIdentifier": "..."}]}`, as AWS Lambda's partial batch responses: those that are named failed, the others did not.
//! - `[{"status": 200}, {"status": 422}]`, the same behind `results`, or with an `id` in each: the status of each event, by its place, or of those
//!   that are named.
//!
//! An event is named by its delivery's id, by its own (a CloudEvent's), or by its place in the batch, from 0. Any other answer counts for all by its
//! status. One that tells outcomes, but not in a way that can be understood (it names what was not in the batch, or does not come whole), and
//! a 207 that does not, count as a failure of all: what is not known to have arrived is sent again.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// All ended as the status says.
    ByStatus,
    /// Each ended so.
    Each(Vec<Ended>),
    /// Something that can't be understood.
    Unclear(&'static str),
}

/// How one event ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Well; with its own status, if it has one.
    Taken(Option<u16>),
    /// With its own status, if it has one.
    Failed(Option<u16>),
}

/// How an event of a batch may be named.
#[derive(Clone, Debug)]
pub(super) struct Name<'a> {
    pub(super) delivery: String,
    pub(super) own: Option<&'a str>,
}

const FAILURES: &str = "batchItemFailures";
const IDENTIFIER: &str = "itemIdentifier";
const RESULTS: &str = "results";
const MULTI_STATUS: u16 = 207;

/// Bytes of an answer about so many events that are read.
pub(super) fn longest(events: usize) -> usize {
    (16 << 10) + 256 * events
}

/// Reads the answer to a batch of what has these names.
pub(super) fn read(status: u16, body: &[u8], is_cut: bool, names: &[Name<'_>]) -> Answer {
    let none =
        || if status == MULTI_STATUS { Answer::Unclear("it is a 207 without outcomes that can be read") } else { Answer::ByStatus };
    let value = if is_cut { None } else { serde_json::from_slice::<Value>(body).ok() };
    match value {
        None if is_cut && may_tell(body) => Answer::Unclear("it does not come whole"),
        None if memchr::memmem::find(body, FAILURES.as_bytes()).is_some() => Answer::Unclear("it is cut, or no JSON"),
        Some(Value::Object(object)) => match (object.get(FAILURES), object.get(RESULTS)) {
            (Some(Value::Null), _) => Answer::Each(vec![Ended::Taken(None); names.len()]),
            (Some(Value::Array(failures)), _) => failed(failures, &Names::new(names)),
            (Some(_), _) => Answer::Unclear("its `batchItemFailures` are no array"),
            (None, Some(Value::Array(results))) => each(results, &Names::new(names)).unwrap_or_else(none),
            (None, _) => none(),
        },
        Some(Value::Array(results)) => each(&results, &Names::new(names)).unwrap_or_else(none),
        _ => none(),
    }
}

/// Whether what is there of a body may be the beginning of outcomes.
fn may_tell(body: &[u8]) -> bool {
    body.iter().find(|byte| !byte.is_ascii_whitespace()).is_none_or(|first| matches!(first, b'{' | b'['))
}

fn failed(failures: &[Value], names: &Names<'_>) -> Answer {
    let mut ended = vec![Ended::Taken(None); names.count];
    for failure in failures {
        let Some(named) = failure.get(IDENTIFIER).map(|name| names.find(name)).filter(|found| !found.is_empty()) else {
            return Answer::Unclear("an `itemIdentifier` names nothing that was in the batch");
        };
        named.iter().for_each(|place| ended[*place] = Ended::Failed(None));
    }
    Answer::Each(ended)
}

/// None if these are no outcomes.
fn each(results: &[Value], names: &Names<'_>) -> Option<Answer> {
    let results: Option<Vec<(&Map<String, Value>, u16)>> = results
        .iter()
        .map(|result| {
            let result = result.as_object()?;
            let status = result.get("status")?.as_u64().filter(|status| (100..600).contains(status))?;
            Some((result, u16::try_from(status).ok()?))
        })
        .collect();
    let results = results?;
    let ended = |status| match status {
        200..300 => Ended::Taken(Some(status)),
        _ => Ended::Failed(Some(status)),
    };
    let with_id = results.iter().filter(|(result, _)| result.contains_key("id")).count();
    if with_id == 0 {
        let all: Vec<Ended> = results.iter().map(|(_, status)| ended(*status)).collect();
        return match all.len() == names.count {
            true => Some(Answer::Each(all)),
            false if all.iter().any(|ended| matches!(ended, Ended::Failed(_))) => {
                Some(Answer::Unclear("it has statuses of failures, and not one for each event"))
            }
            false => None,
        };
    }
    let mut all = vec![Ended::Taken(None); names.count];
    for (result, status) in &results {
        let Some(named) = result.get("id").map(|name| names.find(name)).filter(|found| !found.is_empty()) else {
            return Some(Answer::Unclear("an `id` names nothing that was in the batch"));
        };
        named.iter().for_each(|place| all[*place] = ended(*status));
    }
    Some(Answer::Each(all))
}

/// Places in the batch by their names.
struct Names<'a> {
    count: usize,
    /// Events may have one name: whatever is said of it is said of all of them.
    places: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Names<'a> {
    fn new(names: &'a [Name<'_>]) -> Self {
        let mut places = HashMap::<_, Vec<_>>::new();
        for (place, name) in names.iter().enumerate() {
            places.entry(&*name.delivery).or_default().push(place);
            if let Some(own) = name.own {
                places.entry(own).or_default().push(place);
            }
        }
        Self { count: names.len(), places }
    }

    fn find(&self, name: &Value) -> Vec<usize> {
        let by_place = |place: Option<usize>| place.filter(|place| *place < self.count).into_iter().collect();
        match name {
            Value::String(name) => match self.places.get(&**name) {
                Some(places) => places.clone(),
                None => by_place(name.parse().ok()),
            },
            Value::Number(place) => by_place(place.as_u64().and_then(|place| usize::try_from(place).ok())),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said_with(status: u16, body: &[u8], is_cut: bool) -> Answer {
        let own = ["a", "b", "b"].into_iter().enumerate();
        let names: Vec<_> = own.map(|(n, own)| Name { delivery: format!("dlv_{n}"), own: Some(own) }).collect();
        read(status, body, is_cut, &names)
    }

    fn said(status: u16, body: &Value) -> Answer {
        said_with(status, body.to_string().as_bytes(), false)
    }

    const TAKEN: Ended = Ended::Taken(None);
    const FAILED: Ended = Ended::Failed(None);

    fn each(ended: [Ended; 3]) -> Answer {
        Answer::Each(ended.to_vec())
    }

    #[test]
    fn failures_are_named_by_id_by_own_id_or_by_place() {
        let failures = |names: Value| {
            let items: Vec<_> = names.as_array().unwrap().iter().map(|name| json!({"itemIdentifier": name})).collect();
            said(200, &json!({"batchItemFailures": items, "more": 1}))
        };
        assert_eq!(failures(json!([])), each([TAKEN; 3]));
        assert_eq!(said(207, &json!({"batchItemFailures": null})), each([TAKEN; 3]));
        assert_eq!(failures(json!(["dlv_2", "dlv_2"])), each([TAKEN, TAKEN, FAILED]));
        assert_eq!(failures(json!(["b"])), each([TAKEN, FAILED, FAILED]), "the name of two");
        assert_eq!(failures(json!(["1", 0])), each([FAILED, FAILED, TAKEN]));
    }

    #[test]
    fn what_names_something_else_is_not_understood() {
        for name in [json!("dlv_3"), json!(3), json!("3"), json!(-1), json!(""), json!(null), json!({"a": 1})] {
            let answer = said(200, &json!({"batchItemFailures": [{"itemIdentifier": "dlv_0"}, {"itemIdentifier": name}]}));
            assert!(matches!(answer, Answer::Unclear(_)), "{name}: {answer:?}");
            let answer = said(200, &json!([{"id": name, "status": 200}]));
            assert!(matches!(answer, Answer::Unclear(_)), "{name}: {answer:?}");
        }
        for failures in [json!({}), json!("dlv_1"), json!([1]), json!([{"id": "dlv_1"}])] {
            assert!(matches!(said(200, &json!({ "batchItemFailures": failures })), Answer::Unclear(_)));
        }
    }

    #[test]
    fn statuses_count_by_place_or_by_id() {
        let list = json!([{"status": 201}, {"status": 422, "error": "x"}, {"status": 503}]);
        let expected = each([Ended::Taken(Some(201)), Ended::Failed(Some(422)), Ended::Failed(Some(503))]);
        assert_eq!((said(207, &list), said(200, &json!({ "results": list }))), (expected.clone(), expected));
        let named = json!([{"id": "dlv_1", "status": 500}, {"id": "a", "status": 204}]);
        assert_eq!(
            said(207, &named),
            each([Ended::Taken(Some(204)), Ended::Failed(Some(500)), TAKEN]),
            "what is not named ended as the whole did"
        );
    }

    #[test]
    fn other_answers_count_by_their_status() {
        let others = [
            json!({"ok": true}),
            json!("fine"),
            json!([]),
            json!([{"status": 200}]),
            json!([{"status": "paid"}, {"status": "paid"}, {"status": "paid"}]),
            json!([{"status": 7}, {"status": 200}, {"status": 200}]),
            json!({"results": {"status": 500}}),
        ];
        for other in others {
            assert_eq!(said(200, &other), Answer::ByStatus, "{other}");
            assert!(matches!(said(207, &other), Answer::Unclear(_)), "{other}: a 207 says that they differ");
        }
        for body in [&b""[..], b"<html>", b"[[[", b"\xff"] {
            assert_eq!(said_with(200, body, false), Answer::ByStatus);
        }
    }

    #[test]
    fn what_is_cut_counts_by_its_status_unless_it_was_about_to_tell() {
        for body in [&b""[..], b" ", b"{", b" [{\"status\": 200}, "] {
            assert!(matches!(said_with(200, body, true), Answer::Unclear(_)), "outcomes may have been about to come");
        }
        assert!(matches!(said(200, &json!([{"status": 500}])), Answer::Unclear(_)), "of which event?");
        let telling = br#"{"batchItemFailures": [{"itemIdentifier": "dlv_1"}, {"itemId"#;
        assert_eq!(said_with(200, &b"x".repeat(1000), true), Answer::ByStatus);
        for is_cut in [false, true] {
            assert!(matches!(said_with(200, telling, is_cut), Answer::Unclear(_)));
        }
        assert!(matches!(said_with(207, b"", true), Answer::Unclear(_)));
    }

    #[test]
    fn a_deep_answer_breaks_nothing() {
        assert_eq!(said_with(200, "[".repeat(100_000).as_bytes(), false), Answer::ByStatus);
    }
}
