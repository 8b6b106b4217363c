//! The way of a plugin's author, as authors go it: a new project in each language, its own tests, built, checked, its cases run, its fuel held.

#![allow(clippy::unwrap_used, reason = "what fails in a test has failed the test")]

mod cases;
// The same hand-written guests as the sandbox's own tests.
#[path = "../plugin/guest.rs"]
#[allow(dead_code, reason = "each of the two uses some of it")]
mod guest;
mod project;
mod push;
mod refusals;
mod vendored;

use project::{KINDS, Project};
use serde_json::Value;

/// From nothing to a component whose cases pass, and a budget that holds.
fn whole_way(project: &Project) {
    project.unit_tests();
    let built = project.passes(&["build"]);
    assert!(built.contains("next: tidegate plugin check"), "{built}");
    let component = format!("{}.component.wasm", project.name);

    let checked: Value = serde_json::from_str(&project.passes(&["check", &component, "--json"])).unwrap();
    assert_eq!((&checked["accepted"], &checked["kind"]), (&true.into(), &"transform".into()), "{checked}");
    let imports = checked["imports"].as_array().unwrap();
    assert!(imports.iter().all(|import| import.as_str().unwrap().starts_with("tidegate:plugin/")), "{checked}");
    let table = imports.iter().any(|import| import.as_str().unwrap().starts_with("tidegate:plugin/kv@"));
    // Rust's `dyn Host` and Python's bindings have all that there is.
    let always = ["rust", "python"].contains(&&project.language[..]);
    assert_eq!(table, always, "else it is imported by who asks it: {checked}");
    let share = |limit: &str| checked["limits"][limit]["percent"].as_f64().unwrap();
    for limit in ["component_bytes", "artifact_bytes", "functions", "memory"] {
        assert!(share(limit) > 0.0 && share(limit) < 75.0, "{limit}: {checked}");
    }
    assert!(checked["compile_ms"].as_f64().unwrap() > checked["load_ms"].as_f64().unwrap(), "{checked}");

    let updated = project.passes(&["test", &component, "--update"]);
    assert!(updated.contains("3 passed, 0 failed") && updated.contains("wrote ./fuel.lock"), "{updated}");
    let tested: Value = serde_json::from_str(&project.passes(&["test", &component, "--json"])).unwrap();
    assert_eq!((&tested["passed"], &tested["version"]), (&3.into(), &checked["hash"]), "{tested}");
    for case in tested["cases"].as_array().unwrap() {
        assert!(case["fuel"].as_u64().unwrap() > 0 && case["memory"].as_u64().unwrap() > 0, "{case}");
    }
}

/// Once it is dearer than the budget allows, the test fails and says by how much; the budget can be renewed.
fn grows(project: &Project, file: &str, cheap: &str, dear: &str) {
    project.change(file, cheap, dear);
    project.passes(&["build", "-o", "dear.wasm"]);
    let failed = project.fails(&["test", "dear.wasm"]);
    assert!(failed.contains("FAILED") && failed.contains("fuel.lock\n      expected  at most "), "{failed}");
    assert!(failed.contains("cases failed"), "{failed}");
    assert!(project.passes(&["test", "dear.wasm", "--update"]).contains("wrote ./fuel.lock"));
    assert!(project.passes(&["test", "dear.wasm"]).contains("3 passed, 0 failed"));
}

#[test]
fn a_new_project_in_rust_goes_the_whole_way() {
    let project = Project::new("rust", "announce", &[]);
    whole_way(&project);
    project.tidy();
    let dear = "let body: Value = event.request.json()?;\n        let body: Value = serde_json::from_str(&body.to_string()).unwrap_or(body);";
    grows(&project, "src/lib.rs", "let body: Value = event.request.json()?;", dear);
    assert!(project.passes(&["test"]).contains("3 passed, 0 failed"), "a directory is built first");
    let profile = project.passes(&["test", "--profile", "--only", "becomes a message"]);
    assert!(profile.contains("SELF") && profile.contains("serde_json::"), "{profile}");
}

#[test]
fn a_new_project_in_js_goes_the_whole_way() {
    let project = Project::new("js", "announce", &[]);
    whole_way(&project);
    let dear = "const { action, issue } = event.request.json();\n  for (let i = 0; i < 1000; i++) event.request.header(`x-${i}`);";
    grows(&project, "plugin.js", "const { action, issue } = event.request.json();", dear);
}

#[test]
fn a_new_project_in_go_goes_the_whole_way() {
    let project = Project::new("go", "announce", &[]);
    whole_way(&project);
    project.tidy();
    let dear = "if err := event.Request.JSON(&body); err != nil {\n\t\treturn nil, err\n\t}\n\tfor range 1000 {\n\t\tevent.Request.Header(\"x-none\")\n\t}\n\tif err := event.Request.JSON(&body); err != nil {";
    grows(&project, "main.go", "if err := event.Request.JSON(&body); err != nil {", dear);
}

#[test]
fn a_new_project_in_python_goes_the_whole_way() {
    whole_way(&Project::new("python", "announce", &[]));
}

#[test]
fn every_kind_of_project_passes_its_tests() {
    for language in ["rust", "js", "python", "go"] {
        for kind in KINDS {
            let project = Project::new(language, &format!("a-{kind}"), &["--kind", kind]);
            project.unit_tests();
            project.tidy();
            let both = project.file("cases/filter.json").exists() && project.file("cases/transform.json").exists();
            assert_eq!(both, kind == "both", "{language}, {kind}");
        }
    }
    let both = Project::new("rust", "does-both", &["--kind", "both"]);
    assert!(both.passes(&["test"]).contains("6 passed, 0 failed"));
}

/// A plugin that verifies, answers, signs, judges and keeps a table passes the same cases in every language.
#[test]
fn a_scheme_of_its_own_passes_its_cases_in_every_language() {
    for language in ["rust", "js", "go", "python"] {
        let project = Project::new(language, "acme", &["--kind", "scheme"]);
        let tested: Value = serde_json::from_str(&project.passes(&["test", "--json"])).unwrap();
        assert_eq!((&tested["passed"], &tested["failed"]), (&14.into(), &0.into()), "{language}: {tested}");
        let order = tested["cases"].as_array().unwrap().iter().find(|case| case["name"] == "a new order goes on").unwrap();
        let asked = ["add order/7 with \"evt_00000000000000000000000007\" for 86400 s: true", "increment orders by 1: 42"];
        assert_eq!(order["table"], serde_json::json!(asked), "{language}");
    }
}
