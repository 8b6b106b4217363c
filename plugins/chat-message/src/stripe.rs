//! Stripe (<https://docs.stripe.com/api/events/object>). No name and no address of a customer goes into a message.

use std::borrow::Cow;

use plugin_common::chat::{escape, link};
use plugin_common::json::not_json;
use serde::Deserialize;
use serde_json::value::RawValue;
use tidegate_plugin::{Failure, Request};

use crate::{Config, first_line};

pub(crate) fn text(request: &Request, config: &Config) -> Result<Option<String>, Failure> {
    let event: Event = request.json()?;
    let named = config.names(&[&event.kind]);
    if named == Some(false) {
        return Ok(None);
    }
    let text = if KNOWN.contains(&&*event.kind) {
        let object: Object = serde_json::from_str(event.data.object.get()).map_err(|error| not_json(&error.to_string()))?;
        object.text(&event.kind)
    } else if named == Some(true) {
        // Of what is asked for by name, at least the name.
        event.kind.clone().into_owned()
    } else {
        return Ok(None);
    };
    let is_id = event.id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let test = if event.livemode { "" } else { "test/" };
    let url = if is_id { format!("https://dashboard.stripe.com/{test}events/{}", event.id) } else { String::new() };
    let prefix = if event.livemode { "" } else { "test: " };
    Ok(Some(format!("{prefix}{} ({})", escape(&text, config.format), link(&url, "Stripe", config.format))))
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(default)]
    livemode: bool,
    #[serde(borrow)]
    data: Data<'a>,
}

#[derive(Deserialize)]
struct Data<'a> {
    /// Its fields are of other types in other events.
    #[serde(borrow)]
    object: &'a RawValue,
}

const KNOWN: [&str; 14] = [
    "charge.succeeded",
    "charge.failed",
    "charge.refunded",
    "charge.dispute.created",
    "charge.dispute.closed",
    "checkout.session.completed",
    "customer.subscription.created",
    "customer.subscription.deleted",
    "invoice.paid",
    "invoice.payment_failed",
    "payment_intent.succeeded",
    "payment_intent.payment_failed",
    "payout.paid",
    "payout.failed",
];

/// The parts of a charge, dispute, checkout session, subscription, invoice, payment intent or payout that the messages need.
#[derive(Deserialize)]
struct Object<'a> {
    amount: Option<i64>,
    amount_due: Option<i64>,
    amount_paid: Option<i64>,
    amount_refunded: Option<i64>,
    amount_total: Option<i64>,
    #[serde(borrow)]
    currency: Option<Cow<'a, str>>,
    #[serde(borrow)]
    number: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
    #[serde(borrow)]
    status: Option<Cow<'a, str>>,
    #[serde(borrow)]
    failure_message: Option<Cow<'a, str>>,
    #[serde(borrow)]
    last_payment_error: Option<PaymentError<'a>>,
}

#[derive(Deserialize)]
struct PaymentError<'a> {
    #[serde(borrow)]
    message: Option<Cow<'a, str>>,
}

impl Object<'_> {
    fn text(&self, kind: &str) -> String {
        let of = |amount: Option<i64>| match (amount, &self.currency) {
            (Some(amount), Some(currency)) => format!(" of {}", money(amount, currency)),
            _ => String::new(),
        };
        let because = |why: Option<&Cow<str>>| why.map_or_else(String::new, |why| format!(": {}", first_line(why)));
        let number = self.number.as_ref().map_or_else(String::new, |number| format!(" {number}"));
        let error = self.last_payment_error.as_ref().and_then(|error| error.message.as_ref());
        match kind {
            "charge.succeeded" => format!("charge{} succeeded", of(self.amount)),
            "charge.failed" => format!("charge{} failed{}", of(self.amount), because(self.failure_message.as_ref())),
            "charge.refunded" => format!("refund{}", of(self.amount_refunded)),
            "charge.dispute.created" => format!("dispute{} opened{}", of(self.amount), because(self.reason.as_ref())),
            "charge.dispute.closed" => format!("dispute{} closed{}", of(self.amount), because(self.status.as_ref())),
            "checkout.session.completed" => format!("checkout{} completed", of(self.amount_total)),
            "customer.subscription.created" => "subscription started".into(),
            "customer.subscription.deleted" => "subscription ended".into(),
            "invoice.paid" => format!("invoice{number}{} paid", of(self.amount_paid)),
            "invoice.payment_failed" => format!("payment of invoice{number}{} failed", of(self.amount_due)),
            "payment_intent.succeeded" => format!("payment{} succeeded", of(self.amount)),
            "payment_intent.payment_failed" => format!("payment{} failed{}", of(self.amount), because(error)),
            "payout.paid" => format!("payout{} paid", of(self.amount)),
            // The last of the known ones: "payout.failed".
            _ => format!("payout{} failed{}", of(self.amount), because(self.failure_message.as_ref())),
        }
    }
}

/// Amounts are in the currency's smallest unit (<https://docs.stripe.com/currencies>).
pub(crate) fn money(amount: i64, currency: &str) -> String {
    const WITHOUT: [&str; 15] =
        ["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"];
    const THREE: [&str; 5] = ["bhd", "jod", "kwd", "omr", "tnd"];
    let currency = currency.to_ascii_lowercase();
    let digits = match &*currency {
        code if WITHOUT.contains(&code) => 0,
        code if THREE.contains(&code) => 3,
        _ => 2,
    };
    let unit = 10_u64.pow(digits);
    let (sign, size) = (if amount < 0 { "-" } else { "" }, amount.unsigned_abs());
    let cents = if digits == 0 { String::new() } else { format!(".{:0width$}", size % unit, width = digits as usize) };
    format!("{sign}{}{cents} {}", size / unit, currency.to_ascii_uppercase())
}
