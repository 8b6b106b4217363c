//! Compiling in a process of its own, which can be killed.
//!
//! The compiler is the most complex code that a tenant's bytes reach, and neither its time nor its memory is bounded by its
//! input's size. So the gateway starts its own binary again with one hidden argument; that child has an empty environment, no
//! descriptors but three pipes, no keys, a low priority, half of the cores, and limits on processor time, memory and wall time. Memory is limited by what is
//! resident, which the parent watches; the kernel's own limit, on what can be written to, stands [`BESIDE_MEMORY`] above it for the
//! moments when nobody looks. A limit on address space would hit where nothing is used.
//!
//! On standard input: the processor seconds, the memory and the artifact bytes allowed and the component's size (8 bytes each, big endian),
//! one byte for how memories are filled, the component. The pipe then stays open: its end tells the child that the gateway is gone. On
//! standard output: one byte, [`DONE`] and the artifact or [`INVALID`] and the reason.

pub(super) mod child;
mod turns;

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time;

use super::engine::Filling;
use super::error::{LoadError, Refusal};
use super::limits::CompileLimits;
use crate::event::{TenantId, VersionHash};
use turns::{Room, Size, Turn, Turns};

/// The hidden argument.
pub const COMPILER_WORD: &str = "__compile-plugin";

const DONE: u8 = 0;
const INVALID: u8 = 1;
/// The exit code of a Rust program that panicked.
const PANICKED: i32 = 101;
/// Uploads of so many tenants that have as much as one may have are held at once.
const FULL_QUEUES: usize = 2;
const MAX_REASON: usize = 4096;
/// Bytes of an artifact that are kept in a row.
const PIECE: usize = 256 << 10;
/// How often the child's memory is looked at. A compiler faults in about 1 GiB/s.
const WATCH: Duration = Duration::from_millis(20);

/// What the allocator sets aside in large pieces without using it.
const BESIDE_MEMORY: u64 = 2 << 30;

/// Starts compilers, a few at a time, in an order that is fair to tenants.
pub(super) struct Compiler {
    program: PathBuf,
    limits: CompileLimits,
    turns: Turns,
}

impl Compiler {
    pub(super) fn new(program: PathBuf, limits: CompileLimits, at_once: usize) -> Self {
        let size = Size {
            at_once,
            uploads: limits.uploads,
            bytes: limits.upload_bytes,
            total_bytes: limits.upload_bytes.saturating_mul(FULL_QUEUES),
        };
        Self { program, limits, turns: Turns::new(size) }
    }

    /// Makes room for a component that a tenant uploaded.
    pub(super) fn admit(&self, tenant: TenantId, bytes: usize) -> Result<Room<'_>, LoadError> {
        self.turns.admit(tenant, bytes)
    }

    /// Waits until it is this tenant's turn to compile.
    pub(super) async fn turn(&self, tenant: TenantId, version: VersionHash) -> Turn<'_> {
        self.turns.take(tenant, version).await
    }

    /// Says that this tenant too waits for a version: it is compiled at the first turn of any that do.
    pub(super) fn join(&self, tenant: TenantId, version: VersionHash) {
        self.turns.join(tenant, version);
    }

    /// The artifact of a component that was screened, in pieces.
    pub(super) async fn compile(&self, _turn: &Turn<'_>, component: &Bytes, filling: Filling) -> Result<Vec<Bytes>, LoadError> {
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
        // Whatever happened: it is gone before the turn is over.
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
        let CompileLimits { cpu, memory, artifact_bytes, .. } = &self.limits;
        let numbers = [cpu.as_secs(), memory.saturating_add(BESIDE_MEMORY), *artifact_bytes as u64, component.len() as u64];
        let mut head = numbers.map(u64::to_be_bytes).concat();
        head.push(u8::from(filling == Filling::Mapped));
        let write = async {
            // A child that was stopped closes the pipe; how it ended says more than this error.
            if stdin.write_all(&head).await.is_ok() {
                let _ = stdin.write_all(component).await;
            }
        };
        let read = in_pieces(stdout.take(self.limits.artifact_bytes as u64 + 2));
        let talk = async { tokio::join!(write, read).1 };
        tokio::select! {
            read = talk => match read {
                Ok(answer) => Ended::Answered(answer),
                Err(error) => Ended::Broken(error.to_string()),
            },
            () = time::sleep(self.limits.wall) => Ended::Stopped("compile_time", format!("{:?}", self.limits.wall)),
            () = outgrown(id, self.limits.memory) => Ended::Stopped("compile_memory", format!("{} bytes resident", self.limits.memory)),
        }
    }

    fn read_answer(&self, mut answer: Vec<Bytes>, status: ExitStatus) -> Result<Vec<Bytes>, LoadError> {
        if answer.iter().map(Bytes::len).sum::<usize>() > self.limits.artifact_bytes + 1 {
            let allowed = format!("{} bytes", self.limits.artifact_bytes);
            return Err(Refusal::CompilerStopped { limit: "artifact_bytes", allowed }.into());
        }
        let verdict = answer.first_mut().map(|first| first.split_to(1));
        match verdict.as_deref() {
            Some([DONE]) => Ok(answer),
            Some([INVALID]) => {
                let reason = String::from_utf8_lossy(&answer[0][..answer[0].len().min(MAX_REASON)]);
                Err(Refusal::Invalid(super::host::one_line(&reason, MAX_REASON)).into())
            }
            _ => Err(self.no_answer(status)),
        }
    }

    fn no_answer(&self, status: ExitStatus) -> LoadError {
        match (status.signal(), status.code()) {
            (Some(nix::libc::SIGXCPU), _) => {
                Refusal::CompilerStopped { limit: "compile_cpu", allowed: format!("{:?}", self.limits.cpu) }.into()
            }
            // A panic or a crash on this very component, or the kernel's limit on memory. It must not be started again for each event.
            (Some(_), _) | (_, Some(PANICKED)) => Refusal::CompilerDied { how: status.to_string() }.into(),
            _ => LoadError::Gateway(format!("the compiler ended without an answer ({status})")),
        }
    }
}

enum Ended {
    Answered(Vec<Bytes>),
    Stopped(&'static str, String),
    Broken(String),
}

/// Reads to the end. What has come stays where it is: to make room for many megabytes in a row takes milliseconds, again and again.
async fn in_pieces(mut from: impl AsyncRead + Unpin) -> io::Result<Vec<Bytes>> {
    let mut pieces = Vec::new();
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        #[allow(clippy::disallowed_methods, reason = "bounded by the line itself")]
        (&mut from).take(PIECE as u64).read_to_end(&mut piece).await?;
        if piece.is_empty() {
            return Ok(pieces);
        }
        pieces.push(piece.into());
    }
}

/// Ends once a process has more than `limit` bytes resident.
async fn outgrown(id: u32, limit: u64) {
    let path = format!("/proc/{id}/status");
    let mut watch = time::interval(WATCH);
    loop {
        watch.tick().await;
        if fs::read_to_string(&path).is_ok_and(|status| resident(&status) > limit) {
            return;
        }
    }
}

/// Bytes, as `/proc/PID/status` tells them.
fn resident(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|number| number.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

fn gateway(error: std::io::Error) -> LoadError {
    LoadError::Gateway(error.to_string())
}
