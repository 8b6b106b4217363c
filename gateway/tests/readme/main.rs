//! Every command in the README is run, and what it shows of other files is what stands there.

#![allow(clippy::unwrap_used, reason = "a fixture that fails has failed its test")]

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tidegate::config::Config;

/// These two are this very run, and a build of what this test has already: what they call is checked instead.
const NOT_RUN_HERE: [&str; 2] = ["scripts/dev", "scripts/test"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn target() -> PathBuf {
    root().join(std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The contents of the README's blocks of a language, in order.
fn blocks(language: &str) -> Vec<String> {
    let readme = read("README.md");
    let fence = format!("```{language}\n");
    let found: Vec<_> = readme.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect();
    assert!(!found.is_empty(), "the README has no {language} block");
    found
}

fn bash(script: &str, directory: &Path, environment: &[(&str, String)]) -> Output {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).current_dir(directory).stdin(Stdio::null()).process_group(0);
    command.envs(environment.iter().map(|(name, value)| (*name, value)));
    command.output().expect("bash runs")
}

fn assert_passed(what: &str, output: &Output) {
    assert!(
        output.status.success(),
        "{what}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_two_commands_call_what_they_say() {
    assert!(read("scripts/dev").contains("cargo run --locked --quiet -- dev \"$@\""));
    assert!(read(".ci/run").contains("scripts/test"), "CI runs the README's command");
    let directory = tempfile::tempdir().unwrap();
    let script = "tidegate dev --once --ingest 127.0.0.1:0 --admin 127.0.0.1:0 --receiver 127.0.0.1:0";
    let output = bash(script, directory.path(), &[path_with_tidegate(directory.path())]);
    assert_passed(script, &output);
    let shown = String::from_utf8_lossy(&output.stdout);
    for part in ["202 {\"id\":\"evt_", "webhook-signature: v1,", "Codertocat/Hello-World", "\"channel\": \"#deploys\""] {
        assert!(shown.contains(part), "{part} is missing in:\n{shown}");
    }
}

/// A PATH on which `tidegate` is the binary under test.
fn path_with_tidegate(directory: &Path) -> (&'static str, String) {
    let bin = directory.join("bin");
    fs::create_dir_all(&bin).unwrap();
    symlink(env!("CARGO_BIN_EXE_tidegate"), bin.join("tidegate")).unwrap();
    ("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()))
}

#[test]
fn the_commands_of_the_readme_work_in_its_order() {
    let root = root();
    let toolchain = Command::new(root.join("scripts/wasm-toolchain.sh")).arg("--debian").output().expect("the script runs");
    assert_passed("scripts/wasm-toolchain.sh", &toolchain);
    let directory = tempfile::tempdir().unwrap();
    for shared in ["examples", "plugins", "sdk"] {
        symlink(root.join(shared), directory.path().join(shared)).unwrap();
    }
    let mut script = String::new();
    for block in blocks("sh") {
        if !NOT_RUN_HERE.contains(&block.trim()) {
            script.push_str(&block.replace(
                "tidegate serve &\n",
                "tidegate serve >serve.log 2>&1 & gateway=$!\ntrap 'kill $gateway || true; wait $gateway || true' EXIT\n\
                 until curl -sf http://127.0.0.1:8082/readyz >/dev/null; do kill -0 $gateway; sleep 0.05; done\n",
            ));
        }
    }
    let environment = [
        path_with_tidegate(directory.path()),
        ("RUSTC", root.join(".tools/wasm/rustc").display().to_string()),
        // The other tests' guests have the same dependencies.
        ("CARGO_TARGET_DIR", target().join("guests/cargo").display().to_string()),
        ("XDG_CACHE_HOME", directory.path().join("cache").display().to_string()),
    ];
    let output = bash(&script, directory.path(), &environment);
    let log = fs::read_to_string(directory.path().join("serve.log")).unwrap_or_default();
    assert_passed(&format!("{script}\n{log}"), &output);
    let shown = String::from_utf8_lossy(&output.stdout);
    for part in [
        "a transform that a gateway takes",
        "3 passed, 0 failed",
        "component_bytes",
        "tidegate_",
        "\"openapi\"",
        "\"status\":\"ok\"",
    ] {
        assert!(shown.contains(part), "{part} is missing in:\n{shown}");
    }
}

#[test]
fn the_plugin_shown_is_the_one_that_is_built() {
    for block in blocks("rust") {
        assert!(read("examples/first-plugin/src/lib.rs").contains(&block), "the README's plugin differs:\n{block}");
    }
}

#[test]
fn the_configurations_shown_are_valid() {
    for block in blocks("toml") {
        let block = block.replace("env:REDIS_URL", "redis://127.0.0.1:6379");
        Config::parse(&block, Path::new("")).unwrap_or_else(|faults| panic!("{faults:?} in\n{block}"));
    }
    Config::load(&root().join("deploy/tidegate.toml")).expect("deploy/tidegate.toml is valid");
}

#[test]
fn the_notice_shown_is_one() {
    for block in blocks("json").iter().filter(|block| block.contains("\"timestamp\"")) {
        let notice: tidegate::notices::Notice = serde_json::from_str(block).expect("a notice");
        let again = serde_json::to_value(&notice).expect("plain data");
        assert_eq!(again, serde_json::from_str::<serde_json::Value>(block).expect("JSON"), "nothing in it is unknown");
    }
}

#[test]
fn the_links_lead_somewhere() {
    let readme = read("README.md");
    let links: Vec<_> = readme.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()).collect();
    assert!(links.len() > 5);
    for link in links.iter().filter(|link| !link.starts_with("https://")) {
        assert!(root().join(link).exists(), "{link} is not there");
    }
}
