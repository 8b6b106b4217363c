//! `tidegate plugin`: the way of a plugin from a new project to a gateway.

mod budget;
mod build;
pub mod case;
mod check;
mod differences;
mod json;
mod new;
pub mod outcome;
mod profile;
mod push;
mod sandbox;
mod scratch;
mod source;
mod table;
mod test;
mod tools;

use std::path::Path;

use anyhow::Context;
use bytes::Bytes;
use clap::{Args, Subcommand};

use super::builtin;
use super::plugin_versions;
use crate::config::read_bytes;

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
    /// Make a project that builds and tests at once
    New(new::NewArgs),
    /// Make a component with the language's own tools
    Build(build::BuildArgs),
    /// Say whether a gateway would take a component, and how near it comes to the limits
    Check(check::CheckArgs),
    /// Run cases in the gateway's own sandbox, and hold each one's fuel to a budget
    Test(test::TestArgs),
    #[command(flatten)]
    Versions(plugin_versions::Command),
    /// List the plugins that come with the gateway, or show one's documentation
    Builtin(builtin::BuiltinArgs),
    /// Upload a component as a new version of a plugin
    Push(push::PushArgs),
    /// Look at and fill the table that a plugin keeps
    Table(table::TableArgs),
}

/// Does what was asked for.
pub async fn run(args: PluginArgs) -> anyhow::Result<()> {
    match args.command {
        Command::New(args) => new::run(&args),
        Command::Build(args) => build::run(args).await,
        Command::Check(args) => check::run(args).await,
        Command::Test(args) => test::run(args).await,
        Command::Versions(command) => plugin_versions::run(command).await,
        Command::Push(args) => push::run(args).await,
        Command::Table(args) => table::run(args).await,
        Command::Builtin(args) => builtin::run(&args),
    }
}

/// Whether a component keeps the names of its functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// For backtraces and profiles.
    Kept,
    /// As the project's own settings have it.
    AsBuilt,
}

fn read(file: &Path) -> anyhow::Result<Bytes> {
    if let Some(component) = builtin::component(file)? {
        return Ok(component);
    }
    read_bytes(file, MAX_FILE).map(Bytes::from).with_context(|| file.display().to_string())
}
