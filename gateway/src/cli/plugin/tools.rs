//! What each language's tools must be, and how to get them.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::Stdio;

use serde::Deserialize;
use tokio::process::Command;

/// A tool that building needs and that is not here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is missing ({found}); get it with: {get}")]
pub(super) struct Missing {
    /// The tool, and the version that is needed.
    pub(super) what: String,
    /// What there is instead.
    pub(super) found: String,
    /// The command, or where to look.
    pub(super) get: String,
}

/// What a command prints, if it can be started and succeeds.
async fn asked(program: impl AsRef<OsStr>, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let answer = command.output().await.ok().filter(|answer| answer.status.success())?;
    Some(String::from_utf8_lossy(&answer.stdout).trim().to_owned())
}

/// The first numbers of a version: `v24.19.0` gives 24 and 19.
fn version(text: &str) -> Option<(u32, u32)> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let mut numbers = text[start..].split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next().and_then(Result::ok).unwrap_or(0)))
}

/// A tool of at least this version.
async fn at_least(
    program: &str,
    arguments: &[&str],
    (major, minor): (u32, u32),
    missing: impl FnOnce(String) -> Missing,
) -> Result<(), Missing> {
    let Some(answer) = asked(program, arguments).await else { return Err(missing(format!("there is no `{program}` on PATH"))) };
    match version(&answer) {
        Some(found) if found >= (major, minor) => Ok(()),
        _ => Err(missing(format!("`{program}` on PATH is {answer}"))),
    }
}

/// Cargo, and the standard library for the target.
pub(super) async fn rust(cargo: &OsStr, target: &str) -> Result<(), Missing> {
    if asked(cargo, &["--version"]).await.is_none() {
        return Err(Missing {
            what: "Rust's cargo".into(),
            found: format!("there is no `{}` on PATH", cargo.to_string_lossy()),
            get: "curl --proto '=https' -sSf https://sh.rustup.rs | sh".into(),
        });
    }
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let library = asked(&rustc, &["--print", "target-libdir", "--target", target]).await;
    let has_target = library.is_some_and(|library| has_standard_library(Path::new(&library)).unwrap_or(false));
    has_target.then_some(()).ok_or_else(|| Missing {
        what: format!("the Rust target {target}"),
        found: format!("`{}` has no standard library for it", rustc.to_string_lossy()),
        get: format!("rustup target add {target}"),
    })
}

fn has_standard_library(directory: &Path) -> io::Result<bool> {
    let mut entries = std::fs::read_dir(directory)?;
    Ok(entries.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))))
}

/// Go's own compiler.
pub(super) async fn go() -> Result<(), Missing> {
    let missing = |found| Missing { what: "Go 1.24 or later".into(), found, get: "https://go.dev/dl".into() };
    at_least("go", &["env", "GOVERSION"], (1, 24), missing).await
}

/// Node.
pub(super) async fn node() -> Result<(), Missing> {
    let missing = |found| Missing { what: "Node.js 20 or later".into(), found, get: "https://nodejs.org/en/download".into() };
    at_least("node", &["--version"], (20, 0), missing).await
}

/// What a Python says of itself.
#[derive(Deserialize)]
struct Python {
    version: (u32, u32),
    sdk: bool,
    componentize: bool,
}

const PROBE: &str = "import sys, json; from importlib.util import find_spec; has = lambda name: find_spec(name) is not None; \
                     print(json.dumps({'version': sys.version_info[:2], 'sdk': has('tidegate_plugin'), 'componentize': has('componentize_py')}))";

/// Python, with the SDK and componentize-py among its packages.
pub(super) async fn python(python: &OsStr, path: &OsStr, project: &Path) -> Result<(), Missing> {
    let name = python.to_string_lossy();
    let mut command = Command::new(python);
    command.args(["-c", PROBE]).env("PYTHONPATH", path).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let answer = command.output().await.ok().filter(|answer| answer.status.success());
    let said: Option<Python> = answer.and_then(|answer| serde_json::from_slice(&answer.stdout).ok());
    let needed = |found| Missing { what: "Python 3.11 or later".into(), found, get: "https://www.python.org/downloads".into() };
    let Python { version: (major, minor), sdk, componentize } =
        said.ok_or_else(|| needed(format!("`{name}` cannot be started")))?;
    if (major, minor) < (3, 11) {
        return Err(needed(format!("`{name}` is {major}.{minor}")));
    }
    if !sdk || !componentize {
        let package = if sdk { "componentize-py" } else { "tidegate_plugin" };
        let at = project.display();
        return Err(Missing {
            what: format!("the package {package}"),
            found: format!("`{name}` has it not"),
            get: format!("cd {at} && python3 -m venv .venv && .venv/bin/pip install -r requirements.txt"),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_out_of_what_tools_print() {
        for (text, expected) in [("v24.19.0", (24, 19)), ("go1.27.3", (1, 27)), ("go1.24", (1, 24)), ("3", (3, 0))] {
            assert_eq!(version(text), Some(expected), "{text}");
        }
        assert_eq!(version("devel"), None);
    }
}
