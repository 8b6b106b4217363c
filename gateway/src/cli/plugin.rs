//! `tidegate plugin`: check, build and push components.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use async_trait::async_trait;
use bytes::Bytes;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::builtin;
use super::client::{ApiArgs, Client, TenantArgs, part};
use super::plugin_versions;
use crate::config::read_bytes;
use crate::control::inspect::Inspection;
use crate::event::VersionHash;
use crate::plugin::{Components, PluginConfig, Runtime, build};

/// The largest module or component that is read.
const MAX_FILE: u64 = 256 << 20;

/// Works on plugins.
#[derive(Debug, Args)]
pub struct PluginArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say whether a gateway would take a component, and what it would do with it
    Check {
        /// The component
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a component of a core module, a Rust crate, or a Go package
    Build {
        /// A core module (.wasm), or a directory with a Cargo.toml or Go files
        source: PathBuf,
        /// Where to [default: beside the source, as NAME.component.wasm]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    #[command(flatten)]
    Versions(plugin_versions::Command),
    /// List the plugins that come with the gateway, or show one's documentation
    Builtin(builtin::BuiltinArgs),
    /// Upload a component as a new version of a plugin
    Push {
        /// The component, or `builtin:NAME`
        file: PathBuf,
        /// The plugin's name; it is made if there is none
        #[arg(long)]
        name: String,
        /// Aliases that point to this version from now on
        #[arg(long, value_name = "ALIAS")]
        alias: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        tenant: TenantArgs,
        #[command(flatten)]
        api: ApiArgs,
    },
}

/// Does what was asked for.
pub async fn run(args: PluginArgs) -> anyhow::Result<()> {
    match args.command {
        Command::Check { file, json } => check(&file, json).await,
        Command::Versions(command) => plugin_versions::run(command).await,
        Command::Builtin(args) => builtin::run(&args),
        Command::Build { source, output } => make(&source, output).await,
        Command::Push { file, name, alias, json, tenant, api } => {
            let component = read(&file)?;
            let client = Client::new(&api)?;
            let query: Vec<(&str, &str)> = tenant.tenant.as_deref().map(|tenant| ("tenant", tenant)).into_iter().collect();
            let path = format!("/v1/plugins/{}", part(&name));
            let version = client.upload(&format!("{path}/versions"), &query, component).await?;
            for alias in &alias {
                let to = json!({ "version": version["hash"] });
                client.put(&format!("{path}/aliases/{}", part(alias)), &query, &to).await?;
            }
            if json {
                println!("{}", serde_json::to_string_pretty(&version)?);
            } else {
                println!("{name}: version {} ({}, {} bytes)", shown(&version["hash"]), shown(&version["kind"]), version["size"]);
            }
            Ok(())
        }
    }
}

fn shown(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn read(file: &Path) -> anyhow::Result<Bytes> {
    if let Some(component) = builtin::component(file)? {
        return Ok(component);
    }
    read_bytes(file, MAX_FILE).map(Bytes::from).with_context(|| file.display().to_string())
}

/// There is only the one component that is checked.
struct Nowhere;

#[async_trait]
impl Components for Nowhere {
    async fn fetch(&self, _: VersionHash) -> Result<Option<Bytes>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(None)
    }
}

async fn check(file: &Path, json: bool) -> anyhow::Result<()> {
    let component = read(file)?;
    let directory = tempdir()?;
    let runtime = Runtime::start(PluginConfig::new(directory.0.clone())?, Arc::new(Nowhere))?;
    let found = runtime.inspect(component).await.with_context(|| file.display().to_string())?;
    let outside = Inspection::of(&found.screen);
    let answer = json!({
        "hash": found.version, "size": found.bytes, "kind": outside.kind, "exports": outside.exports,
        "imports": found.screen.imports, "artifact_size": found.artifact_bytes,
        "instantiation": {"fuel": found.fuel, "memory": found.memory}
    });
    if json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    println!("{}: a {} that a gateway takes", file.display(), shown(&answer["kind"]));
    println!("  version   {}", found.version);
    println!("  size      {} bytes, {} compiled", found.bytes, found.artifact_bytes);
    println!("  exports   {}", outside.exports.join(", "));
    println!("  imports   {}", found.screen.imports.join(", "));
    println!("  instance  {} fuel, {} bytes of memory", found.fuel, found.memory);
    Ok(())
}

/// A directory that goes when it is dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tempdir() -> anyhow::Result<Scratch> {
    use std::os::unix::fs::DirBuilderExt;
    let mut random = [0; 8];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random)
        .map_err(|_| anyhow::anyhow!("no random numbers"))?;
    let path = std::env::temp_dir().join(format!("tidegate-check-{}", hex::encode(random)));
    std::fs::DirBuilder::new().mode(0o700).create(&path).with_context(|| path.display().to_string())?;
    Ok(Scratch(path))
}

async fn make(source: &Path, output: Option<PathBuf>) -> anyhow::Result<()> {
    let scratch = tempdir()?;
    let module = match source {
        file if !file.is_dir() => file.to_owned(),
        package if is_go(package)? => compile_go(package, &scratch.0).await?,
        directory => compile(directory).await?,
    };
    let component = build::componentize(&read(&module)?).with_context(|| source.display().to_string())?;
    let beside = if module.starts_with(&scratch.0) { source.join(module.file_name().unwrap_or_default()) } else { module };
    let output = output.unwrap_or_else(|| beside.with_extension("component.wasm"));
    std::fs::write(&output, &component).with_context(|| output.display().to_string())?;
    println!("made {} ({} bytes, version {})", output.display(), component.len(), VersionHash::of(&component));
    println!("next: tidegate plugin check {}", output.display());
    Ok(())
}

const TARGET: &str = "wasm32-unknown-unknown";

/// A stack of 64 KiB instead of the linker's 1 MiB, so that a small guest's memory is small: the gateway cleans it for each event. One
/// that overflows traps.
const STACK: &str = r#"target.wasm32-unknown-unknown.rustflags=["-Clink-arg=-zstack-size=65536"]"#;

/// Compiles a crate to a core module.
async fn compile(directory: &Path) -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = tokio::process::Command::new(cargo)
        .args(["build", "--release", "--target", TARGET, "--config", STACK, "--message-format=json-render-diagnostics"])
        .current_dir(directory)
        .stderr(std::process::Stdio::inherit())
        .output()
        .await
        .context("cargo can't be started")?;
    if !built.status.success() {
        bail!("cargo failed; if the target is missing: rustup target add {TARGET}");
    }
    let modules = built.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let mut files = modules.filter(|message| message["reason"] == "compiler-artifact").flat_map(|message| {
        let files = message["filenames"].as_array().cloned().unwrap_or_default();
        files.into_iter().filter_map(|file| file.as_str().map(PathBuf::from))
    });
    let wasm = files.rfind(|file| file.extension().is_some_and(|extension| extension == "wasm"));
    wasm.with_context(|| format!("{} makes no module: it needs `crate-type = [\"cdylib\"]`", directory.display()))
}

fn is_go(directory: &Path) -> anyhow::Result<bool> {
    let files = std::fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let go = files.flatten().any(|file| file.path().extension().is_some_and(|extension| extension == "go"));
    Ok(go && !directory.join("Cargo.toml").exists())
}

/// Compiles a Go package to a core module.
async fn compile_go(package: &Path, scratch: &Path) -> anyhow::Result<PathBuf> {
    let package = package.canonicalize().with_context(|| package.display().to_string())?;
    let module = scratch.join(package.file_name().unwrap_or_default()).with_extension("wasm");
    let built = tokio::process::Command::new("go")
        .args(["build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w", "-o"])
        .arg(&module)
        .arg(".")
        .env("GOOS", "wasip1")
        .env("GOARCH", "wasm")
        .current_dir(&package)
        .status()
        .await
        .context("go can't be started: it must be 1.24 or later, and on PATH")?;
    if !built.success() {
        bail!("go failed");
    }
    Ok(module)
}
