//! What an author is told when something is missing, or a gateway would not take what there is.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::guest;
use crate::project::{Project, below_target, said, tidegate};

/// `tidegate plugin build` where only the programs in a directory can be started; what it complains of.
fn builds_with(tools: &Path, project: &Project) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["plugin", "build"]).env_clear().env("PATH", tools).current_dir(&project.directory).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    said(&output)
}

/// A directory with programs that print a text each, whatever they are asked.
fn tools(name: &str, programs: &[(&str, &str)]) -> std::path::PathBuf {
    let directory = below_target("tools").join(name);
    fs::create_dir_all(&directory).unwrap();
    for (program, text) in programs {
        let file = directory.join(program);
        fs::write(&file, format!("#!/bin/sh\necho '{text}'\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    directory
}

#[test]
fn a_tool_that_is_missing_is_named_with_the_way_to_get_it() {
    let nothing = tools("nothing", &[]);
    for (language, what, get) in [
        ("rust", "Rust's cargo is missing (there is no `cargo` on PATH)", "https://sh.rustup.rs"),
        ("js", "Node.js 20 or later is missing (there is no `node` on PATH)", "https://nodejs.org"),
        ("python", "Python 3.11 or later is missing (`python3` cannot be started)", "https://www.python.org"),
        ("go", "Go 1.24 or later is missing (there is no `go` on PATH)", "https://go.dev"),
    ] {
        let said = builds_with(&nothing, &Project::new(language, "lacks", &[]));
        assert!(said.contains(what) && said.contains(get), "{said}");
    }
}

#[test]
fn a_tool_that_is_too_old_or_lacks_a_part_is_named_too() {
    let rust = tools("rust", &[("cargo", "cargo 1.95.0"), ("rustc", "/nowhere")]);
    let said = builds_with(&rust, &Project::new("rust", "old", &[]));
    assert!(
        said.contains("the Rust target wasm32-unknown-unknown is missing")
            && said.contains("rustup target add wasm32-unknown-unknown"),
        "{said}"
    );

    let said = builds_with(&tools("node-old", &[("node", "v18.20.1")]), &Project::new("js", "old", &[]));
    assert!(said.contains("Node.js 20 or later is missing (`node` on PATH is v18.20.1)"), "{said}");
    let bare = Project::new("js", "bare", &[]);
    fs::remove_dir_all(bare.file("node_modules")).unwrap();
    let said = builds_with(&tools("node", &[("node", "v24.0.0")]), &bare);
    assert!(said.contains("the package tidegate-plugin is missing") && said.contains("npm install --prefix "), "{said}");

    let python = Project::new("python", "old", &[]);
    let said =
        builds_with(&tools("python-old", &[("python3", r#"{"version": [3, 9], "sdk": true, "componentize": true}"#)]), &python);
    assert!(said.contains("Python 3.11 or later is missing (`python3` is 3.9)"), "{said}");
    let said =
        builds_with(&tools("python-bare", &[("python3", r#"{"version": [3, 13], "sdk": true, "componentize": false}"#)]), &python);
    assert!(
        said.contains("the package componentize-py is missing") && said.contains(".venv/bin/pip install -r requirements.txt"),
        "{said}"
    );

    let said = builds_with(&tools("go-old", &[("go", "go1.22.3")]), &Project::new("go", "old", &[]));
    assert!(said.contains("Go 1.24 or later is missing (`go` on PATH is go1.22.3)"), "{said}");
}

#[test]
fn nothing_that_is_there_is_overwritten() {
    let project = Project::new("go", "there", &[]);
    fs::write(project.file("main.go"), "mine").unwrap();
    let above = project.directory.parent().unwrap();
    let refused = tidegate(above, &["new", "--lang", "rust", "there"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("there is there already"), "{}", said(&refused));
    assert_eq!(fs::read_to_string(project.file("main.go")).unwrap(), "mine");
    assert!(!project.file("Cargo.toml").exists());
    for name in ["../up", "Upper", "", "-x", "a b", "9lives", "ends-"] {
        let refused = tidegate(above, &["new", "--lang", "go", "--", name]);
        assert!(said(&refused).contains("is no name for a plugin"), "{name}: {}", said(&refused));
    }
}

#[test]
fn a_directory_without_a_project_says_what_was_looked_for() {
    let empty = tools("empty", &[]);
    for command in ["build", "check", "push"] {
        let refused = tidegate(&empty, &[command]);
        assert_eq!(refused.status.code(), Some(1));
    }
    let said = said(&tidegate(&empty, &["build"]));
    assert!(
        said.contains("none of Cargo.toml, go.mod, package.json and plugin.py") && said.contains("tidegate plugin new"),
        "{said}"
    );
}

#[test]
fn a_component_that_a_gateway_refuses_fails_the_check_with_the_refusals_name() {
    let directory = below_target("refused");
    let component = guest::wat(r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#);
    fs::write(directory.join("foreign.wasm"), component).unwrap();
    let text = tidegate(&directory, &["check", "foreign.wasm"]);
    assert_eq!(text.status.code(), Some(1));
    assert!(said(&text).contains("foreign.wasm: a gateway refuses it (foreign_import): the component imports"), "{}", said(&text));
    let json = tidegate(&directory, &["check", "foreign.wasm", "--json"]);
    assert_eq!(json.status.code(), Some(1));
    let found: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&found["accepted"], &found["refusal"]["code"]), (&false.into(), &"foreign_import".into()), "{found}");
    let nothing = tidegate(&directory, &["check", "nothing.wasm"]);
    assert!(said(&nothing).contains("nothing.wasm: there is no such file or directory"), "{}", said(&nothing));
}

#[test]
fn a_push_that_cannot_be_says_why() {
    let directory = below_target("refused");
    fs::write(directory.join("filter.wasm"), guest::filter("", "(i32.const 8)")).unwrap();
    let unnamed = tidegate(&directory, &["push", "filter.wasm"]);
    assert!(said(&unnamed).contains("an API key is needed"), "{}", said(&unnamed));
    fs::write(directory.join("key"), "tgk_none").unwrap();
    let push = |more: &[&str]| said(&tidegate(&directory, &[&["push", "filter.wasm", "--key-file", "key"], more].concat()));
    assert!(push(&[]).contains("say the plugin's name with --name"));
    let nobody = push(&["--name", "x", "--url", "http://127.0.0.1:1"]);
    assert!(nobody.contains("the plugin `x` has no new version: no gateway answers at http://127.0.0.1:1"), "{nobody}");
}
