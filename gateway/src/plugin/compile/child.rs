//! The compiler's own process: reads a component, writes its artifact, ends.

use std::fs;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::thread;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::Pid;

use super::{DONE, INVALID};
use crate::background::step_back;
use crate::plugin::engine::{self, Filling};

/// A tenth of the share of a thread of the gateway.
const NICE: i32 = 10;

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
    let mut stdin = io::stdin();
    let mut numbers = [[0; 8]; 4];
    for number in &mut numbers {
        stdin.read_exact(number)?;
    }
    let [cpu, memory, artifact_bytes, component_bytes] = numbers.map(u64::from_be_bytes);
    let mut mapped = [0];
    stdin.read_exact(&mut mapped)?;
    let filling = if mapped == [0] { Filling::Copied } else { Filling::Mapped };
    confine(cpu, memory)?;
    let mut component = Vec::new();
    #[allow(clippy::disallowed_methods, reason = "bounded, and the parent has checked the size of what it sends")]
    stdin.lock().take(component_bytes).read_to_end(&mut component)?;
    thread::Builder::new().stack_size(64 << 10).spawn(end_with_the_gateway)?;

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

/// What it does not need, it cannot do.
fn confine(cpu: u64, memory: u64) -> io::Result<()> {
    // The gateway's own threads go first.
    step_back(NICE);
    leave_half_of_the_cores();
    prctl::set_no_new_privs()?;
    // Nobody may look into it or stop it in a debugger, nor does it leave a core.
    prctl::set_dumpable(false)?;
    // Where memory runs out it is this process that the kernel ends. A sandbox around the gateway may forbid to say so.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    // One second more for the hard limit: the soft one says by its signal what happened.
    setrlimit(Resource::RLIMIT_CPU, cpu, cpu.saturating_add(1))?;
    setrlimit(Resource::RLIMIT_DATA, memory, memory)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    setrlimit(Resource::RLIMIT_FSIZE, 0, 0)?;
    // Not even a file can be opened.
    setrlimit(Resource::RLIMIT_NOFILE, 0, 0)?;
    Ok(())
}

/// All compilers run on the second half of the cores: what comes and goes quickly finds the other half without them. Where there is one
/// core, or a sandbox around the gateway forbids it, nothing changes.
fn leave_half_of_the_cores() {
    let own = Pid::from_raw(0);
    let Ok(allowed) = sched_getaffinity(own) else { return };
    let cores: Vec<usize> = (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or(false)).collect();
    let mut half = CpuSet::new();
    let all_fit = cores[cores.len().div_ceil(2)..].iter().all(|core| half.set(*core).is_ok());
    if cores.len() > 1 && all_fit {
        let _ = sched_setaffinity(own, &half);
    }
}

/// A compiler whose gateway was killed has nobody to tell, and nobody who watches it.
fn end_with_the_gateway() {
    let _ = io::stdin().read(&mut [0]);
    std::process::exit(1);
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
