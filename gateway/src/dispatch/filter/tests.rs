use bytes::Bytes;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::event::{Header, Request};

fn request() -> Request {
    let header = |name: &str, value: &str| Header { name: name.to_owned(), value: Bytes::copy_from_slice(value.as_bytes()) };
    let body = json!({
        "ref": "refs/heads/main", "count": 5, "ratio": 0.5, "big": 9_007_199_254_740_993_u64, "forced": false, "nothing": null, "empty": [],
        "repo": {"name": "tidegate", "owner": {"login": "ada"}}, "tags": ["gift", "sport"], "at": "2026-01-31T10:00:00Z",
        "items": [{"sku": "a", "price": 3}, {"sku": "b", "price": 9}], "limits": [0, 10], "nested": [[1, 2], [3]]
    });
    Request {
        method: "POST".to_owned(),
        path: "/orders/7".to_owned(),
        query: Some("env=prod&page=2&tag=x+y&tag=z%26&flag".to_owned()),
        headers: vec![header("x-kind", "push"), header("x-count", "12"), header("accept", "a/b"), header("accept", "c/d")],
        body: Bytes::from(body.to_string()),
    }
}

fn matches(filter: Json) -> bool {
    let request = request();
    Filter::parse(&filter).unwrap().matches(&View::new(&request)).unwrap()
}

fn body(condition: Json) -> bool {
    matches(json!({"body": condition}))
}

#[test]
fn matching() {
    let cases = [
        json!({}),
        json!({"body": {}}),
        json!({"body": {"count": 5}}),
        json!({"body": {"count": 5.0, "forced": false, "nothing": null}}),
        json!({"body": {"repo": {"owner": {"login": "ada"}}}}),
        json!({"body": {"repo": {"$eq": {"name": "tidegate", "owner": {"login": "ada"}}}}}),
        json!({"body": {"tags": "gift"}}),
        json!({"body": {"tags": ["sport", "gift"]}}),
        json!({"body": {"tags": ["gift"]}}),
        json!({"body": {"tags": []}}),
        json!({"body": {"tags": {"$eq": ["gift", "sport"]}}}),
        json!({"body": {"count": {"$gt": 4, "$lt": 6}}}),
        json!({"body": {"count": {"$gte": 5, "$lte": 5.0}}}),
        json!({"body": {"big": 9_007_199_254_740_993_u64}}),
        json!({"body": {"at": {"$gt": "2026-01-01T00:00:00Z", "$lt": "2027"}}}),
        json!({"body": {"count": {"$in": [1, 5]}}}),
        json!({"body": {"tags": {"$in": ["sport", "x"]}}}),
        json!({"body": {"ref": {"$in": "heads"}}}),
        json!({"body": {"tags": {"$in": "gift"}}}),
        json!({"body": {"tags": {"$contains": "gift"}}}),
        json!({"body": {"count": {"$neq": 6}}}),
        json!({"body": {"count": {"$nin": [1, 2]}}}),
        json!({"body": {"tags": {"$nin": ["x"]}}}),
        json!({"body": {"empty": {"$neq": "gift"}}}),
        json!({"body": {"ref": {"$startsWith": "refs/", "$endsWith": "/main"}}}),
        json!({"body": {"ref": {"$regex": "^refs/(heads|tags)/\\w+$"}}}),
        json!({"body": {"missing": {"$exist": false}}}),
        json!({"body": {"nothing": {"$exist": true}}}),
        json!({"body": {"count": {"deep": {"$exist": false}}}}),
        json!({"body": {"missing": {"$or": [{"$exist": false}, 1]}}}),
        json!({"body": {"count": {"$or": [4, {"$gt": 4}]}}}),
        json!({"body": {"count": {"$not": {"$gt": 5}}}}),
        json!({"body": {"missing": {"$not": {"$exist": true}}}}),
        json!({"body": {"items": {"price": 9, "sku": "b"}}}),
        json!({"body": {"items": {"price": {"$gt": 5}}}}),
        json!({"body": {"nested": {"$contains": [1, 2]}}}),
        json!({"body": {"repo": {"name": {"$eq": {"$ref": "body.repo.name"}}}}}),
        json!({"body": {"ref": {"$endsWith": "n"}, "count": {"$lt": {"$ref": "headers.X-Count"}}}}),
        json!({"headers": {"X-Kind": "push"}}),
        json!({"headers": {"accept": "c/d"}}),
        json!({"headers": {"accept": ["a/b", "c/d"]}}),
        json!({"headers": {"x-count": 12}}),
        json!({"headers": {"x-count": {"$gt": 9}}}),
        json!({"query": {"env": "prod", "page": {"$gte": 2}, "tag": "x y"}}),
        json!({"query": {"tag": "z&", "flag": ""}}),
        json!({"path": "/orders/7", "method": "POST"}),
        json!({"path": {"$startsWith": "/orders/"}}),
        json!({"$or": [{"body": {"count": 6}}, {"path": "/orders/7"}]}),
        json!({"$and": [{"body": {"count": 5}}, {"path": "/orders/7"}]}),
        json!({"$not": {"body": {"count": 6}}}),
        json!({"$not": {"body": {"missing": 6}}}),
    ];
    for case in cases {
        assert!(matches(case.clone()), "{case}");
    }
}

#[test]
fn not_matching() {
    let cases = [
        json!({"body": {"count": "5"}}),
        json!({"body": {"ref": 5}}),
        json!({"body": {"big": 9_007_199_254_740_992_u64}}),
        json!({"body": {"tags": ["gift", "other"]}}),
        json!({"body": {"ref": ["refs/heads/main"]}}),
        json!({"body": {"tags": {"$neq": "gift"}}}),
        json!({"body": {"tags": {"$nin": ["gift", "x"]}}}),
        json!({"body": {"tags": {"$nin": "gift"}}}),
        json!({"body": {"count": {"$gt": "4"}}}),
        json!({"body": {"count": {"$gt": 4, "$lt": 5}}}),
        // No element lies between, though one is above and one below.
        json!({"body": {"limits": {"$gt": 1, "$lt": 5}}}),
        // One element has the price, another the name.
        json!({"body": {"items": {"price": 9, "sku": "a"}}}),
        json!({"body": {"nested": 1}}),
        json!({"body": {"empty": {"$eq": "x"}}}),
        json!({"body": {"empty": ["x"]}}),
        json!({"body": {"ref": {"$regex": "^heads"}}}),
        json!({"headers": {"x-count": {"$gt": "9"}}}),
        json!({"headers": {"accept": "a"}}),
        json!({"query": {"tag": "x+y"}}),
        json!({"method": "post"}),
        json!({"$not": {"body": {"count": 5}}}),
    ];
    for case in cases {
        assert!(!matches(case.clone()), "{case}");
    }
}

/// A peer took `{a: 1, b: 2}` for a match of `{a: 1}`, because it skipped what was not there.
#[test]
fn a_missing_key_matches_nothing() {
    let conditions = [
        json!(null),
        json!(1),
        json!({}),
        json!([]),
        json!({"deeper": 1}),
        json!({"$eq": null}),
        json!({"$neq": 1}),
        json!({"$nin": [1]}),
        json!({"$nin": "x"}),
        json!({"$in": [null]}),
        json!({"$not": 1}),
        json!({"$not": {"$not": 1}}),
        json!({"$gt": 0}),
        json!({"$exist": true}),
        json!({"$regex": ""}),
        json!({"$startsWith": ""}),
        json!({"$contains": ""}),
        json!({"$eq": {"$ref": "body.also_missing"}}),
        json!({"$or": [1, {"$neq": 2}]}),
    ];
    for condition in conditions {
        assert!(!body(json!({"count": 5, "missing": condition})), "{condition}");
        assert!(!matches(json!({"headers": {"missing": condition}})), "{condition}");
        assert!(!matches(json!({"query": {"missing": condition}})), "{condition}");
    }
}

#[test]
fn a_body_that_is_not_json_is_missing() {
    let request = Request { body: Bytes::from_static(b"\x00\xff"), ..request() };
    let view = View::new(&request);
    let is = |filter: Json| Filter::parse(&filter).unwrap().matches(&view).unwrap();
    assert!(!is(json!({"body": {}})));
    assert!(!is(json!({"body": {"$neq": 1}})));
    assert!(is(json!({"body": {"$exist": false}})));
    assert!(is(json!({"path": "/orders/7"})));
}

#[test]
fn the_body_is_parsed_only_when_it_is_asked_for() {
    let request = request();
    let view = View::new(&request);
    let filter = Filter::parse(&json!({"body": {"count": 5}, "path": "/elsewhere"})).unwrap();
    assert!(filter.needs_body());
    assert_eq!(filter.matches(&view), Ok(false));
    assert!(format!("{view:?}").contains("body: OnceLock(<uninit>)"));
    assert!(!Filter::parse(&json!({"path": "/"})).unwrap().needs_body());
    assert!(Filter::parse(&json!({"path": {"$eq": {"$ref": "body.path"}}})).unwrap().needs_body());
}

#[test]
fn errors_say_where_and_what() {
    let deep = (0..MAX_DEPTH).fold(json!(1), |inner, _| json!({ "a": inner }));
    let many: Vec<Json> = (0..MAX_NODES).map(|number| json!(number)).collect();
    let cases = [
        (json!([]), "filter: must be an object"),
        (json!({"boddy": {}}), "boddy: is not a part of an event"),
        (json!({"body": {"a": {"$gte": true}}}), "body.a.$gte: needs a number, a text or a $ref"),
        (json!({"body": {"a": {"$foo": 1}}}), "body.a.$foo: is not an operator"),
        (json!({"$or": [{"body": {}}, {"headers": {"x": {"$exist": 1}}}]}), "$or[1].headers.x.$exist: needs true or false"),
        (json!({"$or": {}}), "$or: needs a list"),
        (json!({"body": {"a": {"$and": []}}}), "body.a.$and: needs a list with something in it"),
        (json!({"body": {"a": {"$regex": "("}}}), "body.a.$regex: is not a usable expression: unclosed group"),
        (json!({"body": {"a": {"$regex": "(\\w{100}){100}"}}}), "body.a.$regex: is not a usable expression: it is too large"),
        (json!({"body": {"a": {"$eq": {"$ref": "elsewhere.a"}}}}), "body.a.$eq.$ref: is not a reference"),
        (json!({"body": {"a": {"$startsWith": 1}}}), "body.a.$startsWith: needs a text"),
        (json!({"body": deep}), "is nested more than 32 deep"),
        (json!({"body": {"a": {"$in": many}}}), "has more than 512 conditions"),
        (json!({"body": {"a": "x".repeat(MAX_TEXT + 1)}}), "body.a: is longer than 4096 bytes"),
    ];
    for (filter, wanted) in cases {
        let error = Filter::parse(&filter).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn a_costly_evaluation_is_cut_short_by_name() {
    let numbers: Vec<u32> = (0..100_000).collect();
    let request = Request { body: Bytes::from(json!({ "a": numbers }).to_string()), ..Request::default() };
    let alternatives: Vec<Json> = (0..100).map(|number| json!({"a": -1 - number})).collect();
    let filter = Filter::parse(&json!({"body": {"$or": alternatives}})).unwrap();
    assert_eq!(filter.matches(&View::new(&request)), Err(TooCostly));
    // A negation does not turn "too costly" into a match either.
    let filter = Filter::parse(&json!({"$not": {"body": {"$or": alternatives}}})).unwrap();
    assert_eq!(filter.matches(&View::new(&request)), Err(TooCostly));
}

fn any_json() -> impl Strategy<Value = Json> {
    let text = prop_oneof![
        Just("a"),
        Just("b"),
        Just("$or"),
        Just("$not"),
        Just("$eq"),
        Just("$in"),
        Just("$exist"),
        Just("$ref"),
        Just("body")
    ];
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        (-3i64..3).prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        text.clone().prop_map(Json::from)
    ];
    leaf.prop_recursive(4, 32, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            prop::collection::btree_map(text.clone().prop_map(str::to_owned), inner, 0..4)
                .prop_map(|map| Json::Object(map.into_iter().collect()))
        ]
    })
}

/// JSON whose keys are no operators and which has no arrays: as a filter it means itself.
fn plain_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        "[a-z]{0,3}".prop_map(Json::from)
    ];
    leaf.prop_recursive(3, 16, 3, |inner| {
        prop::collection::btree_map("[a-c]", inner, 0..3).prop_map(|map| Json::Object(map.into_iter().collect()))
    })
}

fn on(filter: &Json, body: &Json) -> Option<bool> {
    let request = Request { body: Bytes::from(body.to_string()), ..Request::default() };
    Filter::parse(filter).ok().map(|filter| filter.matches(&View::new(&request)).unwrap())
}

proptest! {
    #[test]
    fn nothing_panics_and_a_negation_at_the_top_is_exact(condition in any_json(), value in any_json()) {
        let plain = on(&json!({"body": condition}), &value);
        let negated = on(&json!({"$not": {"body": condition}}), &value);
        prop_assert_eq!(plain.map(|matched| !matched), negated);
    }

    #[test]
    fn a_value_matches_itself_and_more(value in plain_json(), extra in plain_json()) {
        prop_assert_eq!(on(&json!({"body": value}), &value), Some(true));
        if let Json::Object(map) = &value {
            let mut more = map.clone();
            more.insert("zzz".to_owned(), extra);
            let more = Json::Object(more);
            prop_assert_eq!(on(&json!({"body": value}), &more), Some(true));
            // And not the other way round: the larger filter wants a key that is missing.
            prop_assert_eq!(on(&json!({"body": more}), &value), Some(false));
        }
    }

    #[test]
    fn not_equal_is_there_and_not_equal(wanted in plain_json(), value in any_json()) {
        let equal = on(&json!({"body": {"k": {"$eq": wanted}}}), &json!({ "k": value }));
        let not_equal = on(&json!({"body": {"k": {"$neq": wanted}}}), &json!({ "k": value }));
        prop_assert_eq!(equal.map(|matched| !matched), not_equal);
        prop_assert_eq!(on(&json!({"body": {"k": {"$neq": wanted}}}), &json!({})), Some(false));
    }

    #[test]
    fn numbers_are_ordered_as_numbers(left: i64, right: i64) {
        let value = json!({ "n": left });
        prop_assert_eq!(on(&json!({"body": {"n": {"$lt": right}}}), &value), Some(left < right));
        prop_assert_eq!(on(&json!({"body": {"n": {"$gte": right}}}), &value), Some(left >= right));
        prop_assert_eq!(on(&json!({"body": {"n": right}}), &value), Some(left == right));
    }
}
