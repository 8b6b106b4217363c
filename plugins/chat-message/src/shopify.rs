//! Shopify (<https://shopify.dev/docs/api/webhooks>). No name and no address of a customer goes into a message.

use std::borrow::Cow;

use plugin_common::chat::{escape, link};
use serde::Deserialize;
use tidegate_plugin::{Failure, Request};

use crate::{Config, first_line, header};

pub(crate) fn text(request: &Request, config: &Config) -> Result<Option<String>, Failure> {
    let topic = header(request, "x-shopify-topic")?;
    let named = config.names(&[topic]);
    if named == Some(false) {
        return Ok(None);
    }
    let shop = request.header_str("x-shopify-shop-domain").unwrap_or_default();
    let mut is_test = request.header("x-shopify-test") == Some(b"true");
    let text = if KNOWN.contains(&topic) {
        let object: Object = request.json()?;
        is_test |= object.test == Some(true);
        object.text(topic, shop, config)
    } else if named == Some(true) {
        // Of what is asked for by name, at least the name.
        escape(topic, config.format).into_owned()
    } else {
        return Ok(None);
    };
    let prefix = if is_test { "test: " } else { "" };
    let at = if shop.is_empty() { String::new() } else { format!(" ({})", escape(shop, config.format)) };
    Ok(Some(format!("{prefix}{text}{at}")))
}

const KNOWN: [&str; 8] = [
    "orders/create",
    "orders/paid",
    "orders/fulfilled",
    "orders/cancelled",
    "refunds/create",
    "disputes/create",
    "products/create",
    "app/uninstalled",
];

/// The parts of an order, refund, product or dispute that the messages need.
#[derive(Deserialize)]
struct Object<'a> {
    id: Option<u64>,
    order_id: Option<u64>,
    /// An order's: `#1001`.
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    /// A product's.
    #[serde(borrow)]
    title: Option<Cow<'a, str>>,
    #[serde(borrow)]
    total_price: Option<Cow<'a, str>>,
    #[serde(borrow)]
    amount: Option<Cow<'a, str>>,
    #[serde(borrow)]
    currency: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
    #[serde(borrow)]
    cancel_reason: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    line_items: Vec<Item<'a>>,
    test: Option<bool>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow)]
    title: Cow<'a, str>,
    quantity: u64,
}

impl Object<'_> {
    fn text(&self, topic: &str, shop: &str, config: &Config) -> String {
        let format = config.format;
        let is_host =
            |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
        let admin = |kind: &str, id: Option<u64>, text: &str| {
            let url = id.filter(|_| is_host(shop)).map(|id| format!("https://{shop}/admin/{kind}/{id}"));
            link(&url.unwrap_or_default(), text, format)
        };
        let order = || admin("orders", self.id, self.name.as_deref().unwrap_or("of an unknown number"));
        let of = |amount: &Option<Cow<str>>| match (amount, &self.currency) {
            (Some(amount), Some(currency)) => escape(&format!(" of {amount} {currency}"), format).into_owned(),
            _ => String::new(),
        };
        let because = |why: &Option<Cow<str>>| match why {
            Some(why) => format!(": {}", escape(&first_line(why), format)),
            None => String::new(),
        };
        match topic {
            "orders/create" => format!("new order {}{}{}", order(), of(&self.total_price), self.items(config)),
            "orders/paid" => format!("order {}{} paid", order(), of(&self.total_price)),
            "orders/fulfilled" => format!("order {} fulfilled", order()),
            "orders/cancelled" => format!("order {}{} cancelled{}", order(), of(&self.total_price), because(&self.cancel_reason)),
            "refunds/create" => format!("refund on {}", admin("orders", self.order_id, "an order")),
            "disputes/create" => {
                format!(
                    "dispute{} on {} opened{}",
                    of(&self.amount),
                    admin("orders", self.order_id, "an order"),
                    because(&self.reason)
                )
            }
            "products/create" => {
                format!("new product {}", admin("products", self.id, self.title.as_deref().unwrap_or("without a title")))
            }
            // The last of the known ones: "app/uninstalled".
            _ => "the app was uninstalled".into(),
        }
    }

    fn items(&self, config: &Config) -> String {
        let shown: Vec<String> = self
            .line_items
            .iter()
            .take(config.max_items)
            .map(|item| format!("{} × {}", item.quantity, escape(&first_line(&item.title), config.format)))
            .collect();
        let left = self.line_items.len() - shown.len();
        match (shown.is_empty(), left) {
            (true, _) => String::new(),
            (false, 0) => format!(": {}", shown.join(", ")),
            (false, left) => format!(": {}, and {left} more", shown.join(", ")),
        }
    }
}
