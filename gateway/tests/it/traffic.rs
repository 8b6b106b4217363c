//! Steering traffic by the commands of the real program.

use tidegate_test_support::gateway::{Gateway, Launch};
use tidegate_test_support::http::send;

const TIDEGATE: &str = env!("CARGO_BIN_EXE_tidegate");

/// A gateway with a tenant that has a source.
async fn start() -> Gateway {
    let gateway = Launch::new(TIDEGATE).init().await.config("").start().await;
    let bearer = format!("Bearer {}", gateway.operator_key());
    let spec = r#"{"tenants": [{"name": "acme", "sources": [{"name": "github", "auth": {"type": "none"}}]}]}"#;
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let applied = send("POST", &gateway.admin("/v1/apply"), &headers, spec).await;
    assert_eq!(applied.status, 200, "{:?}", applied.body);
    gateway
}

/// Runs `tidegate traffic` with these words; what it said, with runs of blanks as one.
async fn traffic(gateway: &Gateway, words: &[&str]) -> Result<String, String> {
    let url = gateway.admin("");
    let arguments: Vec<&str> = ["traffic"].iter().chain(words).chain(&["--url", url.trim_end_matches('/')]).copied().collect();
    let finished = gateway.run(&arguments).await;
    let lines = finished.output.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    let said = lines.collect::<Vec<_>>().join("\n");
    if finished.status.success() { Ok(said) } else { Err(said) }
}

#[tokio::test]
async fn an_operator_steers_by_commands() {
    let gateway = start().await;
    let run = async |words: &[&str]| traffic(&gateway, words).await.unwrap_or_else(|said| panic!("{words:?}: {said}"));
    let shown = run(&["show"]).await;
    for line in ["WORK SHARE BY SINCE REASON", "lanes.normal 100% - - -", "lanes.held paused - - -", "retries 100% - - -"] {
        assert!(shown.lines().any(|shown| shown == line), "{line} is not in\n{shown}");
    }
    for (words, line) in [
        (&["pause", "lane", "low", "--reason", "a storm"][..], "lanes.low paused operator"),
        (&["pause", "retries"], "retries paused operator"),
        (&["pause", "shard", "2"], "shards.2 paused operator"),
        (&["drain", "lane", "low", "--percent", "20"], "lanes.low 20% operator"),
        (&["resume", "retries"], "retries 100% operator"),
        (&["divert", "acme", "--reason", "a storm"], "acme ten_"),
        (&["divert", "acme/github"], "acme/github src_"),
        (&["return", "acme", "--reason", "it is over"], "acme ten_"),
    ] {
        let said = run(words).await;
        assert!(said.lines().nth(1).is_some_and(|said| said.starts_with(line)), "{words:?}: {said}");
    }
    let shown = run(&["show"]).await;
    for part in
        ["lanes.low 20% operator", "shards.2 paused operator", "acme ten_", " returning operator", " held operator", "it is over"]
    {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    let audit = run(&["audit", "--limit", "3"]).await;
    assert_eq!(audit.lines().count(), 4, "{audit}");
    assert!(audit.lines().nth(1).is_some_and(|line| line.ends_with("operator acme held returning it is over")), "{audit}");
    let json = run(&["show", "--json"]).await;
    assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok_and(|shown| shown["diversions"].as_array().unwrap().len() == 2));
    assert!(gateway.log().contains("traffic changed"), "{}", gateway.log());
}

#[tokio::test]
async fn what_cannot_be_done_is_said_with_what_can() {
    let gateway = start().await;
    for (words, part) in [
        (&["pause", "lane"][..], "normal, low or held"),
        (&["pause", "lane", "fast"], "`normal`, `low` or `held`"),
        (&["pause", "shard", "4"], "from 0 to 3"),
        (&["pause", "retries", "2"], "all shards"),
        (&["drain", "lane", "low", "--percent", "0"], "1..=100"),
        (&["divert", "nobody"], "there is no tenant or source `nobody`"),
        (&["return", "acme/nobody"], "there is no tenant or source `acme/nobody`"),
    ] {
        let said = traffic(&gateway, words).await.expect_err("it can't be done");
        assert!(said.contains(part), "{words:?}: {said}");
    }
}
