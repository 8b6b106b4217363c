use serde_json::{Value, json};
use tidegate_plugin::testing::{FakeHost, event};

use super::*;

/// GitHub's own examples; `SOURCE.md` beside them says where they come from.
macro_rules! github {
    ($event:literal, $name:literal) => {
        ($event, include_str!(concat!("../../../gateway/tests/fixtures/github/", $name, ".json")))
    };
}

fn run(event: &Event, config: &Value) -> Result<Option<Value>, Failure> {
    let outputs = ChatMessage::run(event.clone(), &FakeHost::new().with_config(config))?;
    assert!(outputs.len() <= 1);
    Ok(outputs.into_iter().next().map(|output| serde_json::from_slice(&output.body.expect("a body")).expect("JSON")))
}

fn text(event: &Event, config: Value) -> Option<String> {
    run(event, &config).unwrap().map(|message| message["text"].as_str().expect("a text").to_owned())
}

fn github(event_name: &str, body: impl ToString) -> Event {
    event(body.to_string()).with_header("x-github-event", event_name)
}

fn stripe(kind: &str, object: Value) -> Event {
    let body = json!({"id": "evt_1Nxy", "object": "event", "type": kind, "livemode": true, "data": {"object": object}});
    event(body.to_string()).with_header("stripe-signature", "t=1,v1=00")
}

fn shopify(topic: &str, body: Value) -> Event {
    event(body.to_string()).with_header("x-shopify-topic", topic).with_header("x-shopify-shop-domain", "tide.myshopify.com")
}

#[test]
fn githubs_examples_become_messages() {
    let plain = json!({"format": "plain"});
    let cases = [
        (
            github!("issues", "issues.opened"),
            Some("Codertocat opened issue #1 Spelling error in the README file in Codertocat/Hello-World"),
        ),
        (
            github!("issue_comment", "issue_comment.created"),
            Some(
                "Codertocat commented on issue #1 Spelling error in the README file in Codertocat/Hello-World: You are totally right! I'll get this fixed right away.",
            ),
        ),
        (
            github!("pull_request", "pull_request.opened"),
            Some("Codertocat opened pull request #2 Update the README with new information. in Codertocat/Hello-World"),
        ),
        (github!("release", "release.published"), Some("Codertocat released 0.0.1 of Codertocat/Hello-World")),
        (github!("star", "star.created"), Some("Codertocat starred Codertocat/Hello-World")),
        (github!("push", "push.deleted"), None),
        (github!("ping", "ping"), None),
    ];
    for ((name, body), expected) in cases {
        assert_eq!(text(&github(name, body), plain.clone()).as_deref(), expected, "{name}");
    }
    let (name, body) = github!("push", "push");
    let push = text(&github(name, body), plain).unwrap();
    assert!(push.starts_with("Codertocat pushed to ") || push.starts_with("Codertocat created branch "), "{push}");
}

#[test]
fn the_verb_tells_what_became_of_a_pull_request() {
    let hook = |action: &str, merged: bool| {
        json!({
            "action": action, "sender": {"login": "ada"}, "repository": {"full_name": "o/r", "html_url": "https://github.com/o/r"},
            "pull_request": {"number": 3, "title": "Fix <it>", "html_url": "https://github.com/o/r/pull/3", "merged": merged},
            "review": {"state": "changes_requested", "html_url": "https://github.com/o/r/pull/3#r1"}
        })
    };
    let pull = "pull request <https://github.com/o/r/pull/3|#3 Fix &lt;it&gt;> in <https://github.com/o/r|o/r>";
    for (action, merged, verb) in [
        ("opened", false, "opened"),
        ("closed", true, "merged"),
        ("closed", false, "closed"),
        ("ready_for_review", false, "asks for review of"),
    ] {
        assert_eq!(text(&github("pull_request", hook(action, merged)), json!({})), Some(format!("ada {verb} {pull}")));
    }
    assert_eq!(text(&github("pull_request", hook("labeled", false)), json!({})), None);
    let review = text(&github("pull_request_review", hook("submitted", false)), json!({"format": "markdown"})).unwrap();
    assert_eq!(
        review,
        "ada asks for changes of pull request [\\#3 Fix \\<it\\>](https://github.com/o/r/pull/3#r1) in [o/r](https://github.com/o/r)"
    );
}

#[test]
fn only_workflows_that_fail_are_told_of() {
    let hook = |conclusion: &str| {
        json!({
            "action": "completed", "sender": {"login": "ada"}, "repository": {"full_name": "o/r", "html_url": "https://github.com/o/r"},
            "workflow_run": {"name": "CI", "html_url": "https://github.com/o/r/actions/runs/1", "conclusion": conclusion, "head_branch": "main"}
        })
    };
    let told = text(&github("workflow_run", hook("failure")), json!({"format": "plain"}));
    assert_eq!(told.as_deref(), Some("CI failed on main of o/r"));
    assert_eq!(text(&github("workflow_run", hook("success")), json!({})), None);
}

#[test]
fn stripes_events_become_messages() {
    let cases = [
        ("charge.succeeded", json!({"amount": 2000, "currency": "usd"}), "charge of 20.00 USD succeeded"),
        (
            "charge.failed",
            json!({"amount": 500, "currency": "jpy", "failure_message": "Declined."}),
            "charge of 500 JPY failed: Declined.",
        ),
        ("charge.refunded", json!({"amount": 900, "amount_refunded": 5, "currency": "eur"}), "refund of 0.05 EUR"),
        (
            "charge.dispute.created",
            json!({"amount": 1234, "currency": "kwd", "reason": "fraudulent"}),
            "dispute of 1.234 KWD opened: fraudulent",
        ),
        ("checkout.session.completed", json!({"amount_total": null, "currency": null}), "checkout completed"),
        ("customer.subscription.deleted", json!({"status": "canceled"}), "subscription ended"),
        (
            "invoice.payment_failed",
            json!({"number": "A-1", "amount_due": 100, "currency": "eur"}),
            "payment of invoice A-1 of 1.00 EUR failed",
        ),
        (
            "payment_intent.payment_failed",
            json!({"amount": 100, "currency": "eur", "last_payment_error": {"message": "No\nfunds"}}),
            "payment of 1.00 EUR failed: No",
        ),
        ("payout.paid", json!({"amount": -100, "currency": "eur"}), "payout of -1.00 EUR paid"),
    ];
    for (kind, object, expected) in cases {
        let told = text(&stripe(kind, object), json!({"format": "markdown"}));
        assert_eq!(told, Some(format!("{expected} ([Stripe](https://dashboard.stripe.com/events/evt_1Nxy))")), "{kind}");
    }
    let mut test: Value = serde_json::from_slice(&stripe("charge.succeeded", json!({})).request.body).unwrap();
    test["livemode"] = json!(false);
    let told = text(&event(test.to_string()), json!({"from": "stripe"}));
    assert_eq!(told.as_deref(), Some("test: charge succeeded (<https://dashboard.stripe.com/test/events/evt_1Nxy|Stripe>)"));
    assert_eq!(text(&stripe("product.created", json!({})), json!({})), None);
}

#[test]
fn shopifys_topics_become_messages() {
    let order = json!({
        "id": 820982911946154508_u64, "name": "#1001", "total_price": "199.65", "currency": "EUR", "test": false, "cancel_reason": "customer",
        "customer": {"first_name": "Ada"}, "email": "ada@example.com",
        "line_items": [{"title": "Hat <L>", "quantity": 2}, {"title": "Oar", "quantity": 1}, {"title": "Rope", "quantity": 1}]
    });
    let link = "<https://tide.myshopify.com/admin/orders/820982911946154508|#1001>";
    let cases = [
        ("orders/create", format!("new order {link} of 199.65 EUR: 2 × Hat &lt;L&gt;, 1 × Oar, and 1 more")),
        ("orders/paid", format!("order {link} of 199.65 EUR paid")),
        ("orders/cancelled", format!("order {link} of 199.65 EUR cancelled: customer")),
    ];
    for (topic, expected) in cases {
        let told = text(&shopify(topic, order.clone()), json!({"max_items": 2})).unwrap();
        assert_eq!(told, format!("{expected} (tide.myshopify.com)"));
        assert!(!told.contains("Ada") && !told.contains("ada@"), "{told}");
    }
    let refund = text(&shopify("refunds/create", json!({"id": 1, "order_id": 2})), json!({"format": "plain"}));
    assert_eq!(refund.as_deref(), Some("refund on an order (tide.myshopify.com)"));
    let test = shopify("app/uninstalled", json!({"id": 1, "name": "Tide"})).with_header("x-shopify-test", "true");
    assert_eq!(text(&test, json!({})).as_deref(), Some("test: the app was uninstalled (tide.myshopify.com)"));
    let cart = shopify("carts/update", json!({"id": "abc"}));
    assert_eq!((text(&cart, json!({})), text(&cart, json!({"events": ["orders/*"]}))), (None, None));
    assert_eq!(text(&cart, json!({"events": ["carts/*"]})).as_deref(), Some("carts/update (tide.myshopify.com)"));
    let odd = event(order.to_string())
        .with_header("x-shopify-topic", "orders/paid")
        .with_header("x-shopify-shop-domain", "evil/<!here>|");
    assert_eq!(text(&odd, json!({})).as_deref(), Some("order #1001 of 199.65 EUR paid (evil/&lt;!here&gt;|)"));
}

#[test]
fn only_the_events_that_are_named_are_told_of() {
    let (name, body) = github!("issues", "issues.opened");
    for (events, told) in [
        (json!(["issues"]), true),
        (json!(["issues.opened"]), true),
        (json!(["issues.closed", "push"]), false),
        (json!(["issue*"]), true),
        (json!([]), false),
    ] {
        assert_eq!(text(&github(name, body), json!({"events": events})).is_some(), told, "{events}");
    }
    let named = text(&stripe("product.created", json!({})), json!({"events": ["product.*"], "format": "plain"}));
    assert_eq!(named.as_deref(), Some("product.created (Stripe)"));
}

#[test]
fn field_and_channel_are_configured() {
    let (name, body) = github!("star", "star.created");
    let message = run(&github(name, body), &json!({"field": "content", "channel": "#x", "format": "plain"})).unwrap();
    assert_eq!(message, Some(json!({"content": "Codertocat starred Codertocat/Hello-World", "channel": "#x"})));
}

#[test]
fn what_cannot_be_understood_fails_with_its_name() {
    let code = |event: &Event, config: Value| run(event, &config).unwrap_err().code;
    assert_eq!(code(&event("{}"), json!({})), "unknown-sender");
    assert_eq!(code(&event("{}"), json!({"from": "github"})), "unknown-sender");
    assert_eq!(code(&event("{}"), json!({"from": "shopify"})), "unknown-sender");
    assert_eq!(code(&event("{}"), json!({"from": "stripe"})), "not-json");
    assert_eq!(code(&github("issues", "{"), json!({})), "not-json");
    assert_eq!(code(&github("push", "{}"), json!({"form": "x"})), "bad-config");
    let mut form = github("push", "payload=%7B%7D");
    form.request.headers[0].value = b"application/x-www-form-urlencoded".to_vec();
    assert_eq!(code(&form, json!({})), "form-encoded");
}
