//! `tidegate bench` in its short form: everything it starts works together, nothing is lost, and what it prints has the promised
//! shape. No speed is asserted.

#![allow(clippy::unwrap_used, reason = "what fails in a test has failed the test")]

use std::process::{Command, Output};

use serde_json::Value;

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate")).arg("bench").args(arguments).output().unwrap()
}

fn report(arguments: &[&str]) -> Value {
    let output = bench(arguments);
    let (printed, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?} ended with {}:\n{printed}\n{errors}", output.status);
    let report: Value = serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}:\n{printed}"));
    let mut names: Vec<&String> = report.as_object().unwrap().keys().collect();
    names.sort();
    assert_eq!(names, ["figures", "machine"]);
    report
}

/// Each figure has the promised fields, came of events that were really taken, and is judged in release builds alone.
fn check_figures(report: &Value, expected: &[&str]) {
    let figures = report["figures"].as_array().unwrap();
    let names: Vec<&str> = figures.iter().map(|figure| figure["name"].as_str().unwrap()).collect();
    assert_eq!(names, expected);
    for figure in figures {
        for field in ["name", "value", "unit", "floor", "ratio", "goal", "met"] {
            assert!(figure.get(field).is_some(), "{field} is missing: {figure}");
        }
        assert!(figure["value"].as_f64().unwrap() > 0.0, "{figure}");
        assert!(figure["events"].as_u64().unwrap() > 0, "{figure}");
        assert_eq!(figure["refused"], 0, "{figure}");
        if cfg!(debug_assertions) {
            assert!(figure["ratio"].is_null() && figure["met"].is_null(), "a debug build judges: {figure}");
        }
    }
}

fn check_nothing_lost(report: &Value) {
    for figure in report["figures"].as_array().unwrap() {
        assert_eq!(figure["missing"], 0, "{figure}");
        assert_eq!(figure["duplicates"], 0, "{figure}");
    }
}

#[test]
fn accept_measures_both_stores() {
    let report = report(&["accept", "--short", "--json"]);
    check_figures(&report, &["accept_cpu", "accept_cpu_embedded"]);
    let machine = &report["machine"];
    assert_eq!(machine["profile"], if cfg!(debug_assertions) { "debug" } else { "release" });
    assert!(machine["redis"]["version"].is_string(), "{machine}");
    assert!(machine["fsync_ms"]["median"].as_f64().unwrap() > 0.0, "{machine}");
}

#[test]
fn deliver_loses_nothing_on_the_embedded_store() {
    let report = report(&["deliver", "--short", "--json", "--store", "embedded"]);
    let expected = ["deliver_cpu_plain_embedded", "deliver_rate_embedded", "deliver_cpu_embedded", "deliver_rate_plugin_embedded"];
    check_figures(&report, &expected);
    check_nothing_lost(&report);
    assert!(report["machine"]["redis"].is_null());
}

#[test]
fn deliver_loses_nothing_on_redis() {
    let report = report(&["deliver", "--short", "--json", "--store", "redis"]);
    check_figures(&report, &["deliver_cpu_plain", "deliver_rate", "store_cpu", "deliver_cpu", "deliver_rate_plugin"]);
    check_nothing_lost(&report);
}

#[test]
fn latency_is_measured_at_half_load_on_both_stores() {
    let report = report(&["latency", "--short", "--json"]);
    check_figures(&report, &["latency_p50", "latency_p99", "latency_p50_embedded", "latency_p99_embedded"]);
    check_nothing_lost(&report);
    for figure in report["figures"].as_array().unwrap() {
        assert!(
            figure["percentiles_ms"]["p99_9"].as_f64().unwrap() >= figure["percentiles_ms"]["p50"].as_f64().unwrap(),
            "{figure}"
        );
    }
}

#[test]
fn noise_loses_nothing_of_quiet_tenants() {
    let report = report(&["noisy", "--short", "--json", "--store", "redis"]);
    check_figures(&report, &["noisy_p99", "fellows_p99"]);
    check_nothing_lost(&report);
}

#[test]
fn attacks_lose_nothing_of_quiet_tenants() {
    let report = report(&["hostile", "--short", "--json", "--store", "redis"]);
    check_figures(&report, &["hostile_p99", "bombs_p99", "busy_p99"]);
    check_nothing_lost(&report);
    for figure in report["figures"].as_array().unwrap() {
        assert!(figure["floor"].as_f64().is_some_and(|floor| floor > 0.0), "{figure}");
        let goal = if figure["name"] == "busy_p99" { serde_json::Value::Null } else { 2.0.into() };
        assert_eq!(figure["goal"], goal, "{figure}");
    }
}

#[test]
fn a_backlog_drains_without_loss_on_both_stores() {
    let report = report(&["backlog", "--short", "--json"]);
    let names = ["backlog_memory", "backlog_drain", "backlog_quiet_p99"];
    let expected: Vec<String> = ["", "_embedded"].iter().flat_map(|store| names.map(|name| format!("{name}{store}"))).collect();
    let figures = report["figures"].as_array().unwrap();
    assert_eq!(figures.iter().map(|figure| figure["name"].as_str().unwrap()).collect::<Vec<_>>(), expected);
    for figure in figures {
        assert!(figure["events"].as_u64().unwrap() >= 1_000, "{figure}");
    }
    check_nothing_lost(&report);
}

#[test]
fn a_killed_gateways_events_all_arrive_after_its_restart() {
    let report = report(&["restart", "--short", "--json", "--store", "embedded"]);
    check_figures(&report, &["restart_embedded"]);
    assert_eq!(report["figures"][0]["missing"], 0, "{report}");
}

#[test]
fn a_plugins_call_is_measured_beside_a_bare_one() {
    let report = report(&["plugin", "--short", "--json"]);
    let names =
        ["plugin_call", "plugin_call_small", "plugin_reused", "plugin_fuel", "plugin_memory", "plugin_compile", "plugin_load"];
    check_figures(&report, &names);
    for figure in report["figures"].as_array().unwrap() {
        let has_floor = !["plugin_fuel", "plugin_memory"].contains(&figure["name"].as_str().unwrap());
        assert_eq!(figure["floor"].as_f64().is_some_and(|floor| floor > 0.0), has_floor, "{figure}");
    }
    assert_eq!((&report["figures"][0]["goal"], &report["figures"][1]["goal"]), (&1.2.into(), &20.0.into()));
}

#[test]
fn a_plugin_of_ones_own_is_measured_with_its_own_event() {
    let component = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins/prebuilt/splitter.wasm");
    let directory = tempfile::tempdir().unwrap();
    let body = directory.path().join("body.json");
    std::fs::write(&body, r#"{"items": [1, 2, 3]}"#).unwrap();
    let body = body.to_str().unwrap();
    let config = r#"{"pointer": "/items"}"#;
    let report = report(&["plugin", component, "--config", config, "--body", body, "--short", "--json"]);
    check_figures(&report, &["plugin_call", "plugin_reused", "plugin_fuel", "plugin_memory", "plugin_compile", "plugin_load"]);
    assert!(report["figures"][0]["what"].as_str().unwrap().contains("an event of 20 B"), "{report}");

    let output = bench(&["plugin", component, "--config", r#"{"pointer": "items"}"#, "--short"]);
    assert!(!output.status.success());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("`pointer`"), "{errors}");
}

#[test]
fn the_table_says_when_it_does_not_count() {
    let output = bench(&["accept", "--short", "--store", "embedded"]);
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{table}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(table.contains("accept_cpu_embedded"), "{table}");
    assert_eq!(table.contains("profile: debug. THESE FIGURES DO NOT COUNT"), cfg!(debug_assertions), "{table}");
}

#[test]
fn a_server_that_cannot_be_started_is_named() {
    let output = bench(&["accept", "--short", "--store", "redis", "--redis-server", "/nowhere/redis-server"]);
    assert!(!output.status.success());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("cannot start redis (/nowhere/redis-server)"), "{errors}");
    assert_eq!(errors.matches("No such file").count(), 1, "the cause once: {errors}");
}

#[test]
fn many_tenants_start_and_are_all_heard() {
    let report = report(&["tenants", "--short", "--json"]);
    let names = ["tenants_start", "tenants_memory_ready", "tenants_memory", "tenants_cost_ready", "tenants_cost"];
    let expected: Vec<String> = ["", "_embedded"].iter().flat_map(|store| names.map(|name| format!("{name}{store}"))).collect();
    check_figures(&report, &expected.iter().map(String::as_str).collect::<Vec<_>>());
    check_nothing_lost(&report);
}

#[test]
fn a_slow_store_loses_nothing() {
    let report = report(&["slow-store", "--short", "--json"]);
    let figures = report["figures"].as_array().unwrap();
    let names: Vec<&str> = figures.iter().map(|figure| figure["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["slow_p50", "slow_p99", "slow_low_share", "slow_heal", "slow_oscillation"]);
    let phases = figures[0]["phases"].as_array().unwrap();
    let write = |phase: usize| phases[phase]["write_p50_ms"].as_f64().unwrap();
    assert!(write(1) >= write(0) + 15.0, "the proxy holds nothing back: {report}");
    for figure in figures {
        assert!(figure["events"].as_u64().unwrap() > 0, "{figure}");
    }
    check_nothing_lost(&report);
}

#[test]
fn an_event_is_measured_beside_many_others_and_none_is_lost() {
    let report = report(&["cost", "--short", "--json"]);
    let names = ["cost_queued", "cost_tenants", "cost_destinations", "cost_configured"];
    let expected = names.map(str::to_owned).into_iter().chain(names.map(|name| format!("{name}_store")));
    let expected: Vec<String> = expected.chain(names.map(|name| format!("{name}_embedded"))).collect();
    check_figures(&report, &expected.iter().map(String::as_str).collect::<Vec<_>>());
    check_nothing_lost(&report);
}

#[test]
fn a_days_shapes_of_load_lose_nothing() {
    let report = report(&["memory", "--short", "--json"]);
    let figures = report["figures"].as_array().unwrap();
    let names: Vec<&str> = figures.iter().map(|figure| figure["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["memory_peak", "memory_peak_embedded"]);
    for figure in figures {
        assert!(figure["value"].as_f64().unwrap() > 0.0 && figure["floor"].as_f64().unwrap() > 0.0, "{figure}");
        assert!(figure["events"].as_u64().unwrap() > 0, "{figure}");
    }
    check_nothing_lost(&report);
}

#[test]
fn a_destination_that_hangs_costs_the_others_no_event() {
    let report = report(&["hanging", "--short", "--json", "--store", "redis"]);
    check_figures(&report, &["hanging_p99", "hanging_many_p99"]);
    check_nothing_lost(&report);
    for figure in report["figures"].as_array().unwrap() {
        assert!(figure["floor"].as_f64().is_some_and(|floor| floor > 0.0) && figure["goal"] == 2.0, "{figure}");
    }
}

#[test]
fn what_waits_for_a_destination_that_is_down_arrives_afterwards() {
    let report = report(&["parked", "--short", "--json", "--store", "embedded"]);
    let figures = report["figures"].as_array().unwrap();
    let names: Vec<&str> = figures.iter().map(|figure| figure["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["parked_memory_embedded", "parked_memory_failing_embedded", "parked_memory_hanging_embedded"]);
    assert!(figures.iter().all(|figure| figure["events"].as_u64().unwrap() >= 1_000), "{report}");
    check_nothing_lost(&report);
}

/// That the limits hold is no matter of speed.
#[test]
fn rates_hold_with_one_gateway_and_with_two() {
    let report = report(&["rates", "--short", "--json", "--store", "redis"]);
    check_figures(&report, &["rates_fullest", "rates_used", "rates_fullest_two", "rates_used_two"]);
    check_nothing_lost(&report);
    for figure in report["figures"].as_array().unwrap().iter().filter(|figure| figure["goal_is"] == "value at most") {
        assert!(figure["value"].as_f64().unwrap() <= 100.0, "{figure}");
    }
}
