//! Lets new issues through, and nothing else.

use serde_json::Value;
use tidegate_plugin::{Event, Failure, Filter, Host};

struct NewIssues;

impl Filter for NewIssues {
    fn keep(event: Event, _: &dyn Host) -> Result<bool, Failure> {
        let body: Value = event.request.json()?;
        Ok(body["action"] == "opened" && body["issue"]["title"].is_string())
    }
}

tidegate_plugin::export!(filter: NewIssues);

#[cfg(test)]
mod tests {
    use tidegate_plugin::testing::{FakeHost, event};

    use super::*;

    #[test]
    fn new_issues_go_on_and_nothing_else() {
        let opened = event(r#"{"action": "opened", "issue": {"title": "it leaks"}}"#);
        assert!(NewIssues::keep(opened, &FakeHost::new()).unwrap());
        let closed = event(r#"{"action": "closed", "issue": {"title": "it leaks"}}"#);
        assert!(!NewIssues::keep(closed, &FakeHost::new()).unwrap());
    }
}
