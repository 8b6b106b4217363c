//! The command line.

pub mod bench;
pub mod dev;
mod files;
pub mod serve;

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
    /// Run a gateway
    Serve(serve::ServeArgs),
    /// Measure the gateway on this machine
    Bench(bench::BenchArgs),
}

impl Cli {
    /// Does what was asked for.
    pub async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Dev(args) => dev::run(args).await,
            Command::Serve(args) => serve::run(args).await,
            // It makes runtimes of its own, each as its part needs it.
            Command::Bench(args) => Ok(tokio::task::spawn_blocking(|| bench::run(args)).await??),
        }
    }
}
