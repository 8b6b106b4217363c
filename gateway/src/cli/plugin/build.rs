//! `tidegate plugin build`: calls the language's own tools, and makes a component of what they give.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use serde_json::Value;
use tokio::process::Command;

use super::scratch::Scratch;
use super::source::Source;
use super::tools::{self, Missing};
use super::{Names, read};
use crate::event::VersionHash;
use crate::plugin::build::componentize;

/// Makes a component.
#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    /// A project's directory (Rust, Go, JavaScript, Python), a module of JavaScript, TypeScript or Python, or a core module (.wasm)
    #[arg(default_value = ".")]
    source: PathBuf,
    /// Where to [default: NAME.component.wasm in the project, or beside the file]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Keep the names of functions, for backtraces and `test --profile`: more bytes, the same fuel
    #[arg(long)]
    names: bool,
}

/// Does it.
pub(super) async fn run(args: BuildArgs) -> anyhow::Result<()> {
    let source = Source::at(&args.source)?;
    let component = component(&source, if args.names { Names::Kept } else { Names::AsBuilt }).await?;
    let output = match args.output {
        Some(output) => output,
        None => source.directory().join(format!("{}.component.wasm", source.name()?)),
    };
    fs::write(&output, &component).with_context(|| output.display().to_string())?;
    println!("made {} ({} bytes, version {})", output.display(), component.len(), VersionHash::of(&component));
    println!("next: tidegate plugin check {}", output.display());
    Ok(())
}

/// The component of a source; one that is a component already is built from nothing and refused.
async fn component(source: &Source, names: Names) -> anyhow::Result<Bytes> {
    let scratch = Scratch::make()?;
    let module = match source {
        Source::Wasm(file) => file.clone(),
        Source::Rust(directory) => compile_rust(directory, names).await?,
        Source::Go(package) => compile_go(package, &scratch, names).await?,
        Source::JavaScript(file) => return make_of_javascript(file, &scratch).await,
        Source::Python(file) => return make_of_python(file, &scratch).await,
    };
    let module = read(&module)?;
    Ok(componentize(&module).with_context(|| source.directory().display().to_string())?.into())
}

/// The component at a path: a component's file as it stands there, anything else built.
pub(super) async fn component_at(path: &Path, names: Names) -> anyhow::Result<Bytes> {
    match Source::at(path)? {
        Source::Wasm(file) => read(&file),
        source => component(&source, names).await,
    }
}

const TARGET: &str = "wasm32-unknown-unknown";

/// A stack of 64 KiB instead of the linker's 1 MiB, so that a small guest's memory is small: the gateway cleans it for each event. One
/// that overflows traps.
const STACK: &str = r#"target.wasm32-unknown-unknown.rustflags=["-Clink-arg=-zstack-size=65536"]"#;

/// Compiles a crate to a core module.
async fn compile_rust(directory: &Path, names: Names) -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    tools::rust(&cargo, TARGET).await?;
    let mut command = Command::new(&cargo);
    let common = ["--release", "--target", TARGET, "--config", STACK, "--message-format=json-render-diagnostics"];
    match names {
        Names::AsBuilt => command.arg("build").args(common),
        // For the crate itself alone: as a setting of the profile it would have every dependency compiled anew.
        Names::Kept => command.arg("rustc").args(common).args(["--lib", "--", "-Cstrip=debuginfo"]),
    };
    let built = output(command.current_dir(directory)).await.context("cargo can't be started")?;
    if !built.status.success() {
        bail!("cargo failed; what it says is above");
    }
    let modules = built.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let mut files = modules.filter(|message| message["reason"] == "compiler-artifact").flat_map(|message| {
        let files = message["filenames"].as_array().cloned().unwrap_or_default();
        files.into_iter().filter_map(|file| file.as_str().map(PathBuf::from))
    });
    let wasm = files.rfind(|file| file.extension().is_some_and(|extension| extension == "wasm"));
    wasm.with_context(|| format!("{} makes no module: it needs `crate-type = [\"cdylib\"]`", directory.display()))
}

/// Compiles a Go package to a core module.
async fn compile_go(package: &Path, scratch: &Scratch, names: Names) -> anyhow::Result<PathBuf> {
    tools::go().await?;
    let module = scratch.file("module.wasm");
    let flags = if names == Names::Kept { "-ldflags=-w" } else { "-ldflags=-s -w" };
    let mut command = Command::new("go");
    command.args(["build", "-buildmode=c-shared", "-trimpath", flags, "-o"]).arg(&module).arg(".");
    command.env("GOOS", "wasip1").env("GOARCH", "wasm").current_dir(package);
    let built = output(&mut command).await.context("go can't be started")?;
    if !built.status.success() {
        bail!("go failed; what it says is above");
    }
    Ok(module)
}

/// Calls the SDK's own builder.
async fn make_of_javascript(file: &Path, scratch: &Scratch) -> anyhow::Result<Bytes> {
    tools::node().await?;
    let file = file.canonicalize().with_context(|| file.display().to_string())?;
    let builder = Path::new("node_modules/tidegate-plugin/bin/tidegate-plugin.js");
    let found = file.ancestors().skip(1).map(|directory| directory.join(builder)).find(|builder| builder.exists());
    let project = file.parent().unwrap_or(Path::new("."));
    let builder = found.ok_or_else(|| Missing {
        what: "the package tidegate-plugin".into(),
        found: format!("it is not in {}", project.join("node_modules").display()),
        get: format!("npm install --prefix {}", project.display()),
    })?;
    made(Command::new("node").arg(builder), &file, scratch, "tidegate-plugin").await
}

/// Calls the SDK's own builder.
async fn make_of_python(file: &Path, scratch: &Scratch) -> anyhow::Result<Bytes> {
    let file = file.canonicalize().with_context(|| file.display().to_string())?;
    let project = file.parent().unwrap_or(Path::new("."));
    let own = project.join(".venv/bin/python");
    let python = if own.exists() { own.into_os_string() } else { OsString::from("python3") };
    let path = with_vendored(project);
    tools::python(&python, &path, project).await?;
    let mut command = Command::new(&python);
    command.args(["-m", "tidegate_plugin"]).env("PYTHONPATH", &path).env("PYTHONDONTWRITEBYTECODE", "1");
    made(&mut command, &file, scratch, "tidegate_plugin").await
}

/// `PYTHONPATH` with the SDK that stands in the project, as `tidegate plugin new` makes one.
fn with_vendored(project: &Path) -> OsString {
    let mut path = project.join("sdk/python").into_os_string();
    if let Some(more) = std::env::var_os("PYTHONPATH").filter(|more| !more.is_empty()) {
        path.push(":");
        path.push(more);
    }
    path
}

/// What an SDK's builder makes of a file.
async fn made(builder: &mut Command, file: &Path, scratch: &Scratch, name: &str) -> anyhow::Result<Bytes> {
    let component = scratch.file("component.wasm");
    let built = output(builder.arg("build").arg(file).arg("-o").arg(&component)).await;
    let built = built.with_context(|| format!("{name} can't be started"))?;
    if !built.status.success() {
        bail!("{name} failed; what it says is above");
    }
    read(&component)
}

/// Runs a tool to its end; what it complains of goes to our own standard error.
async fn output(command: &mut Command) -> io::Result<Output> {
    command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true).output().await
}
