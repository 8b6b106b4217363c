//! `tidegate export`: all that a store holds, into a file.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::serve;
use crate::app::moving;
use crate::store::transfer::Counts;

/// Stands for standard output, or input.
pub(super) const STANDARD: &str = "-";

/// Writes all that the configured store holds: to move it, or as a backup. No gateway may run on it meanwhile.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// Where to: a new file, or `-` for standard output
    #[arg(value_name = "FILE")]
    to: PathBuf,
    /// The gateway's configuration file [default: tidegate.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Exports, and tells what.
pub async fn run(args: ExportArgs) -> anyhow::Result<()> {
    let (config, _) = serve::configuration(args.config)?;
    let counts = if args.to == Path::new(STANDARD) {
        moving::export(&config, BufWriter::new(io::stdout())).await?.1
    } else {
        let file = new_file(&args.to).with_context(|| args.to.display().to_string())?;
        let (mut written, counts) = moving::export(&config, BufWriter::new(file)).await.inspect_err(|_| {
            // What was not ended is no export.
            let _ = std::fs::remove_file(&args.to);
        })?;
        written.flush()?;
        written.get_ref().sync_all().with_context(|| args.to.display().to_string())?;
        counts
    };
    // Standard output may be the file.
    writeln!(io::stderr(), "exported {}", told(&counts))?;
    Ok(())
}

/// Only its owner may read it: bodies and keys' hashes are in it as they are.
fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// `12 settings, 3 queued events`.
pub(super) fn told(counts: &Counts) -> String {
    let kinds: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} {}", kind.replace('_', " "))).collect();
    if kinds.is_empty() { "nothing: the store is empty".to_owned() } else { kinds.join(", ") }
}
