//! Lets new issues through, and announces them in a chat. A connection says which of the two it uses.

use serde_json::{Value, json};
use tidegate_plugin::{Event, Failure, Filter, Host, Output, Transform};

struct NewIssues;

/// The title of an issue that was opened.
fn title(event: &Event) -> Result<Option<String>, Failure> {
    let body: Value = event.request.json()?;
    let title = body["issue"]["title"].as_str().filter(|_| body["action"] == "opened");
    Ok(title.map(str::to_owned))
}

impl Filter for NewIssues {
    fn keep(event: Event, _: &dyn Host) -> Result<bool, Failure> {
        Ok(title(&event)?.is_some())
    }
}

impl Transform for NewIssues {
    fn run(event: Event, host: &dyn Host) -> Result<Vec<Output>, Failure> {
        let Some(title) = title(&event)? else {
            host.log_info("not about a new issue");
            return Ok(vec![]);
        };
        let message = json!({ "text": format!("new issue: {title}") });
        Ok(vec![Output::new().clear_headers().json(&message)?])
    }
}

tidegate_plugin::export!(filter: NewIssues, transform: NewIssues);

#[cfg(test)]
mod tests {
    use tidegate_plugin::testing::{FakeHost, event};

    use super::*;

    const OPENED: &str = r#"{"action": "opened", "issue": {"title": "it leaks"}}"#;
    const CLOSED: &str = r#"{"action": "closed", "issue": {"title": "it leaks"}}"#;

    #[test]
    fn new_issues_go_on_and_nothing_else() {
        assert!(NewIssues::keep(event(OPENED), &FakeHost::new()).unwrap());
        assert!(!NewIssues::keep(event(CLOSED), &FakeHost::new()).unwrap());
    }

    #[test]
    fn new_issues_are_announced_and_nothing_else() {
        let outputs = NewIssues::run(event(OPENED), &FakeHost::new()).unwrap();
        assert_eq!(outputs[0].body.as_deref(), Some(&br#"{"text":"new issue: it leaks"}"#[..]));
        assert!(NewIssues::run(event(CLOSED), &FakeHost::new()).unwrap().is_empty());
    }
}
