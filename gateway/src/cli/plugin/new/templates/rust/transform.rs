//! Announces new issues in a chat.

use serde_json::{Value, json};
use tidegate_plugin::{Event, Failure, Host, Output, Transform};

struct Announce;

impl Transform for Announce {
    fn run(event: Event, host: &dyn Host) -> Result<Vec<Output>, Failure> {
        let body: Value = event.request.json()?;
        let (Some("opened"), Some(title)) = (body["action"].as_str(), body["issue"]["title"].as_str()) else {
            host.log_info("not about a new issue");
            return Ok(vec![]);
        };
        let message = json!({ "text": format!("new issue: {title}") });
        Ok(vec![Output::new().clear_headers().json(&message)?])
    }
}

tidegate_plugin::export!(transform: Announce);

#[cfg(test)]
mod tests {
    use tidegate_plugin::testing::{FakeHost, event};

    use super::*;

    #[test]
    fn new_issues_are_announced_and_nothing_else() {
        let opened = event(r#"{"action": "opened", "issue": {"title": "it leaks"}}"#);
        let outputs = Announce::run(opened, &FakeHost::new()).unwrap();
        assert_eq!(outputs[0].body.as_deref(), Some(&br#"{"text":"new issue: it leaks"}"#[..]));
        let closed = event(r#"{"action": "closed", "issue": {"title": "it leaks"}}"#);
        assert!(Announce::run(closed, &FakeHost::new()).unwrap().is_empty());
    }
}
