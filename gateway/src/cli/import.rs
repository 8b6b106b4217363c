//! `tidegate import`: what an export wrote, into an empty store.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::export::{STANDARD, told};
use super::serve;
use crate::app::moving::{self, Imported};

/// Fills the configured store, which must be empty, with what an export wrote. No gateway may run on it meanwhile.
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// Where from: a file, or `-` for standard input
    #[arg(value_name = "FILE")]
    from: PathBuf,
    /// The gateway's configuration file [default: tidegate.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Imports, and tells what. A file is read whole before anything is written.
pub async fn run(args: ImportArgs) -> anyhow::Result<()> {
    let (config, base) = serve::configuration(args.config)?;
    let imported = if args.from == Path::new(STANDARD) {
        moving::import(&config, &base, io::stdin().lock()).await?
    } else {
        let name = || args.from.display().to_string();
        moving::verify(BufReader::new(File::open(&args.from).with_context(name)?)).with_context(name)?;
        moving::import(&config, &base, BufReader::new(File::open(&args.from).with_context(name)?)).await?
    };
    let Imported { header, counts, left_out } = imported;
    println!("imported {}, as of {}", told(&counts), header.created_at);
    if left_out > 0 {
        println!("left out {left_out} dedup keys whose events are in no history any more: the embedded store keeps them by tenant");
    }
    Ok(())
}
