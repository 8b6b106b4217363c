//! Compiling in a process of its own, which can be killed.
//!
//! The compiler is the most complex code that a tenant's bytes reach, and neither its time nor its memory is bounded by its
//! input's size. So the gateway starts its own binary again with one hidden argument; that child has an empty environment, no
//! descriptors but three pipes, no keys, and limits on processor time, memory and wall time. Memory is limited by what is
//! resident, which the parent watches; a limit on address space would hit where nothing is used.
//!
//! On standard input: the processor seconds and artifact bytes allowed (8 bytes each, big endian), one byte for how memories are filled,
//! the component. On standard output: one byte, [`DONE`] and the artifact or [`INVALID`] and the reason.

pub(super) mod child;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tokio::time;

use super::engine::Filling;
use super::error::{LoadError, Refusal};
use super::limits::CompileLimits;

/// The hidden argument.
pub const COMPILER_WORD: &str = "__compile-plugin";

const DONE: u8 = 0;
const INVALID: u8 = 1;
const MAX_REASON: usize = 4096;
/// How often the child's memory is looked at. A compiler faults in about 1 GiB/s.
const WATCH: Duration = Duration::from_millis(20);

/// Starts compilers, a few at a time.
pub(super) struct Compiler {
    program: PathBuf,
    limits: CompileLimits,
    permits: Semaphore,
}

impl Compiler {
    pub(super) fn new(program: PathBuf, limits: CompileLimits, at_once: usize) -> Self {
        Self { program, limits, permits: Semaphore::new(at_once) }
    }

    /// The artifact of a component that was screened.
    pub(super) async fn compile(&self, component: &Bytes, filling: Filling) -> Result<Vec<u8>, LoadError> {
        let _permit = self.permits.acquire().await.map_err(|_| LoadError::Gateway("the compiler is stopping".into()))?;
        let mut child = Command::new(&self.program)
            .arg(COMPILER_WORD)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| LoadError::Gateway(format!("{}: {error}", self.program.display())))?;
        let ended = self.converse(&mut child, component, filling).await;
        // Whatever happened: it is gone before the permit is.
        let _ = child.start_kill();
        let status = child.wait().await.map_err(gateway)?;
        match ended {
            Ended::Stopped(limit, allowed) => Err(Refusal::CompilerStopped { limit, allowed }.into()),
            Ended::Answered(answer) => self.read_answer(answer, status),
            Ended::Broken(reason) => Err(LoadError::Gateway(reason)),
        }
    }

    async fn converse(&self, child: &mut Child, component: &Bytes, filling: Filling) -> Ended {
        let (Some(mut stdin), Some(stdout), Some(id)) = (child.stdin.take(), child.stdout.take(), child.id()) else {
            return Ended::Broken("the compiler has no pipes".into());
        };
        let mut head = Vec::with_capacity(17);
        head.extend_from_slice(&self.limits.cpu.as_secs().to_be_bytes());
        head.extend_from_slice(&(self.limits.artifact_bytes as u64).to_be_bytes());
        head.push(u8::from(filling == Filling::Mapped));
        let write = async {
            // A child that was stopped closes the pipe; how it ended says more than this error.
            if stdin.write_all(&head).await.is_ok() && stdin.write_all(component).await.is_ok() {
                let _ = stdin.shutdown().await;
            }
            drop(stdin);
        };
        let mut answer = Vec::new();
        let mut stdout = stdout.take(self.limits.artifact_bytes as u64 + 2);
        #[allow(clippy::disallowed_methods, reason = "bounded by the line above")]
        let read = stdout.read_to_end(&mut answer);
        let talk = async { tokio::join!(write, read).1 };
        tokio::select! {
            read = talk => match read {
                Ok(_) => Ended::Answered(answer),
                Err(error) => Ended::Broken(error.to_string()),
            },
            () = time::sleep(self.limits.wall) => Ended::Stopped("compile_time", format!("{:?}", self.limits.wall)),
            () = outgrown(id, self.limits.memory) => Ended::Stopped("compile_memory", format!("{} bytes resident", self.limits.memory)),
        }
    }

    fn read_answer(&self, mut answer: Vec<u8>, status: ExitStatus) -> Result<Vec<u8>, LoadError> {
        if answer.len() > self.limits.artifact_bytes + 1 {
            let allowed = format!("{} bytes", self.limits.artifact_bytes);
            return Err(Refusal::CompilerStopped { limit: "artifact_bytes", allowed }.into());
        }
        match answer.first() {
            Some(&DONE) => {
                answer.remove(0);
                Ok(answer)
            }
            Some(&INVALID) => {
                let reason = String::from_utf8_lossy(&answer[1..answer.len().min(MAX_REASON)]);
                Err(Refusal::Invalid(super::host::one_line(&reason, MAX_REASON)).into())
            }
            _ if matches!(status.signal(), Some(signal) if signal == nix::libc::SIGXCPU) => {
                Err(Refusal::CompilerStopped { limit: "compile_cpu", allowed: format!("{:?}", self.limits.cpu) }.into())
            }
            // The soft limit was ignored, or the kernel was out of memory, or the compiler crashed on this very component.
            _ => Err(LoadError::Gateway(format!("the compiler ended without an answer ({status})"))),
        }
    }
}

enum Ended {
    Answered(Vec<u8>),
    Stopped(&'static str, String),
    Broken(String),
}

/// Ends once a process has more than `limit` bytes resident.
async fn outgrown(id: u32, limit: u64) {
    let path = format!("/proc/{id}/statm");
    let mut watch = time::interval(WATCH);
    loop {
        watch.tick().await;
        let resident = fs::read_to_string(&path).ok().and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
        if resident.unwrap_or(0).saturating_mul(PAGE) > limit {
            return;
        }
    }
}

const PAGE: u64 = 4096;

fn gateway(error: std::io::Error) -> LoadError {
    LoadError::Gateway(error.to_string())
}
