//! Child processes that never outlive the test process.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use crate::eventually;

/// What can be sent to a process, besides [`Process::kill`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Please end (SIGTERM).
    Terminate,
    /// Please end, as Ctrl-C says it (SIGINT).
    Interrupt,
    /// Please read the configuration again (SIGHUP).
    Reload,
    /// Freeze (SIGSTOP).
    Stop,
    /// Thaw (SIGCONT).
    Continue,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Terminate => "TERM",
            Self::Interrupt => "INT",
            Self::Reload => "HUP",
            Self::Stop => "STOP",
            Self::Continue => "CONT",
        }
    }
}

/// A running program with its output in a file. Killed on drop.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// A command for `program` that the kernel kills when this process ends, where `setpriv` exists (on Linux).
pub fn command(program: &Path) -> Command {
    const SETPRIV: &str = "/usr/bin/setpriv";
    if !Path::new(SETPRIV).exists() {
        return Command::new(program);
    }
    let mut command = Command::new(SETPRIV);
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

impl Process {
    /// Starts what [`command`] made, with standard output and error appended to the file `log`, and no input.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Self {
        let output = File::options().create(true).append(true).open(log).expect("the log file opens");
        let errors = output.try_clone().expect("the log file opens twice");
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = spawn_from_lasting_thread(command).unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        // The shell's own `kill`: the system call is unsafe code in Rust, and a safe one costs more dependencies than it is worth.
        let sent = Command::new("/bin/sh").args(["-c", "kill -s \"$0\" \"$1\"", signal.name(), &self.pid().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "{signal:?} to {} (process {})", self.name, self.pid());
    }

    /// `kill -9`, and waits until it is gone. Nothing happens to one that has ended already.
    pub fn kill(&mut self) {
        // Both fail only for a child that was waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The status of a process that has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for the end; panics with the last lines of output when it does not come.
    pub async fn exit_within(&mut self, within: Duration) -> ExitStatus {
        let what = format!("{} (process {}) ends", self.name, self.pid());
        eventually(&what, within, async || self.exited()).await
    }

    /// All that it has written so far.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).expect("the log file can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The last lines of its output, for a message.
    pub fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

type Answer = std::io::Result<Child>;

/// The kernel ends the child when the *thread* that started it ends, so one thread, which lives as long as this process, starts all.
fn spawn_from_lasting_thread(command: Command) -> Answer {
    static SPAWNER: OnceLock<SyncSender<(Command, SyncSender<Answer>)>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = sync_channel::<(Command, SyncSender<Answer>)>(0);
        let serve = move || {
            for (mut command, answer) in requests {
                answer.send(command.spawn()).expect("who asks waits for the answer");
            }
        };
        thread::Builder::new().name("spawner".to_owned()).spawn(serve).expect("a thread starts");
        sender
    });
    let (answer, child) = sync_channel(1);
    spawner.send((command, answer)).expect("the spawner never ends");
    child.recv().expect("the spawner answers")
}
