//! The compiler's own process: reads a component, writes its artifact, ends.

use std::fs;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use nix::sys::resource::{Resource, setrlimit};

use super::{DONE, INVALID};
use crate::plugin::engine::{self, Filling};

/// The whole life of a compiler process. `main` calls it, before anything else, when the first argument is
/// [`COMPILER_WORD`](super::COMPILER_WORD).
pub fn compiler_child() -> ExitCode {
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn compile() -> io::Result<()> {
    close_descriptors()?;
    let mut stdin = io::stdin().lock();
    let mut numbers = [[0; 8]; 2];
    for number in &mut numbers {
        stdin.read_exact(number)?;
    }
    let [cpu, artifact_bytes] = numbers.map(u64::from_be_bytes);
    let mut mapped = [0];
    stdin.read_exact(&mut mapped)?;
    let filling = if mapped == [0] { Filling::Copied } else { Filling::Mapped };
    // One second more for the hard limit: the soft one says by its signal what happened.
    setrlimit(Resource::RLIMIT_CPU, cpu, cpu.saturating_add(1))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    setrlimit(Resource::RLIMIT_FSIZE, 0, 0)?;
    let mut component = Vec::new();
    #[allow(clippy::disallowed_methods, reason = "the parent has checked the size of what it sends")]
    stdin.read_to_end(&mut component)?;

    let mut stdout = io::stdout().lock();
    let compiled = engine::compiler(filling).and_then(|engine| engine.precompile_component(&component));
    match compiled {
        Ok(artifact) => {
            stdout.write_all(&[DONE])?;
            let sent = artifact.len().min(usize::try_from(artifact_bytes).unwrap_or(usize::MAX).saturating_add(1));
            stdout.write_all(&artifact[..sent])?;
        }
        Err(error) => {
            stdout.write_all(&[INVALID])?;
            stdout.write_all(format!("{error:#}").as_bytes())?;
        }
    }
    stdout.flush()
}

/// Closes what the parent may have inherited from whoever started it. The gateway's own descriptors close on exec.
fn close_descriptors() -> io::Result<()> {
    let mut open = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        if let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) {
            open.push(number);
        }
    }
    for number in open.into_iter().filter(|number| *number > 2) {
        // The directory's own is among them, and closed already.
        let _ = nix::unistd::close(number);
    }
    Ok(())
}
