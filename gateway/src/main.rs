//! `tidegate`.

use std::process::ExitCode;

use tidegate::plugin;

fn main() -> ExitCode {
    // Before anything else: the compiler's child process has no business with configuration, telemetry or threads.
    if std::env::args_os().nth(1).is_some_and(|word| word == plugin::COMPILER_WORD) {
        return plugin::compiler_child();
    }
    ExitCode::SUCCESS
}
