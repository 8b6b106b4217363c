//! `tidegate`: arguments, runtime, exit code.

use std::process::ExitCode;

use clap::Parser;
use tidegate::cli::Cli;
use tidegate::plugin;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything else: the compiler's child process has no business with configuration, telemetry or threads.
    if std::env::args_os().nth(1).is_some_and(|word| word == plugin::COMPILER_WORD) {
        return plugin::compiler_child();
    }
    // A huge page stays resident for the sake of its last small object: with thousands of plugin versions that took half as much again.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_thp_disable(true);
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    match runtime.block_on(cli.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    use std::io::Write;
    let mut told = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Many errors tell their cause themselves.
        if !told.contains(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    let _ = writeln!(std::io::stderr(), "error: {told}");
    ExitCode::FAILURE
}
