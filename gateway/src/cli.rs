//! The command line.

pub mod apply;
pub mod bench;
pub mod bookmarks;
mod builtin;
mod client;
mod common;
pub mod dead_letters;
pub mod dev;
pub mod events;
pub mod export;
mod files;
pub mod import;
pub mod init;
pub mod pause;
pub mod plugin;
mod plugin_replay;
mod plugin_versions;
pub mod serve;
mod table;
pub mod traffic;

use clap::{Parser, Subcommand};

/// A webhook gateway that keeps every event it acknowledged and runs tenants' WebAssembly over it.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything on this machine, with a sample to look at
    Dev(dev::DevArgs),
    /// Make the keys and a configuration to start from
    Init(init::InitArgs),
    /// Run a gateway
    Serve(serve::ServeArgs),
    /// Measure the gateway on this machine
    Bench(bench::BenchArgs),
    /// Write all that the store holds to a file: to move it, or as a backup
    Export(export::ExportArgs),
    /// Fill an empty store with what an export wrote
    Import(import::ImportArgs),
    /// Bring tenants to what files declare
    Apply(apply::ApplyArgs),
    /// Look at events, and try them again
    Events(events::EventsArgs),
    /// Keep events under names, and send them again as tests
    Bookmarks(bookmarks::BookmarksArgs),
    /// Look at dead letters, and try them again by the thousand
    DeadLetters(dead_letters::DeadLettersArgs),
    /// Have what goes over a connection, or to a destination, wait in the store
    Pause(pause::PauseArgs),
    /// Have it go on
    Resume(pause::PauseArgs),
    /// Steer the gateway's traffic: pause, drain and divert work
    Traffic(traffic::TrafficArgs),
    /// Check, build and push plugins
    Plugin(plugin::PluginArgs),
}

impl Cli {
    /// Does what was asked for.
    pub async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Dev(args) => dev::run(args).await,
            Command::Init(args) => init::run(&args),
            Command::Serve(args) => serve::run(args).await,
            // It makes runtimes of its own, each as its part needs it.
            Command::Bench(args) => Ok(tokio::task::spawn_blocking(|| bench::run(args)).await??),
            Command::Export(args) => export::run(args).await,
            Command::Import(args) => import::run(args).await,
            Command::Apply(args) => apply::run(args).await,
            Command::Events(args) => events::run(args).await,
            Command::Bookmarks(args) => bookmarks::run(args).await,
            Command::DeadLetters(args) => dead_letters::run(args).await,
            Command::Pause(args) => pause::run(args, true).await,
            Command::Resume(args) => pause::run(args, false).await,
            Command::Traffic(args) => traffic::run(args).await,
            Command::Plugin(args) => plugin::run(args).await,
        }
    }
}
