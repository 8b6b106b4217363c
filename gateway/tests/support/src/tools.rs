//! The programs that `scripts/setup` put in place.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// `.tools/` at the root of the checkout.
pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3).expect("the crate lies three levels below the root").join(".tools")
}

/// A program below `.tools/`.
pub(crate) fn program(path: &str) -> PathBuf {
    let program = directory().join(path);
    assert!(program.exists(), "{} is missing: run scripts/setup, which puts it there", program.display());
    program
}

/// Runs a module with the packages of `.tools/node` and gives what it prints.
pub(crate) fn run_node(module: &str, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(program("bin/node"));
    command.args(["--input-type=module", "--eval", module, "--"]).args(arguments).current_dir(program("node"));
    run(command, input)
}

/// Runs a short program to its end; panics with what it said when it fails.
pub(crate) fn run(mut command: Command, input: &str) -> String {
    // The input goes by file: a pipe could fill up while the program is not reading.
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), input).expect("the input can be written");
    command.stdin(Stdio::from(file.reopen().expect("the input can be read")));
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints text").trim_end().to_owned()
}
