//! Disks that are small or read-only, for one gateway: mounted in a namespace of the test's own, which takes no privileges.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::process::{self, Process};
use crate::{START_DEADLINE, eventually};

/// A mount namespace that lives as long as this, and as long as a process is in it.
pub struct Mounts {
    holder: Process,
    directory: PathBuf,
    _log: TempDir,
}

impl Mounts {
    /// Makes `data` in a gateway's directory and runs a shell script that mounts something there; the directory is its `$1`.
    pub async fn new(directory: &Path, script: &str) -> Self {
        let log = tempfile::tempdir().expect("a temporary directory");
        let hold = format!("set -e; mkdir -p \"$1/data\"; {script}; echo mounted; exec setpriv --pdeathsig KILL sleep infinity");
        let mut command = process::command(Path::new("/usr/bin/unshare"));
        command.args(["-Urm", "/bin/sh", "-c", &hold, "sh"]).arg(directory);
        let mut holder = Process::spawn("mounts", command, &log.path().join("log"));
        eventually("the mounts", START_DEADLINE, async || {
            if holder.exited().is_some() {
                panic!(
                    "no mount namespace (see `kernel.unprivileged_userns_clone`, `user.max_user_namespaces`):\n{}",
                    holder.log()
                );
            }
            holder.log().contains("mounted").then_some(())
        })
        .await;
        Self { holder, directory: directory.to_owned(), _log: log }
    }

    /// For [`Launch::within`](crate::gateway::Launch::within).
    pub fn wrapper(&self) -> Vec<String> {
        // The directory is looked up again: the one that the caller is in has the mounts of outside.
        let enter = "cd \"$0\" && exec setpriv --pdeathsig KILL \"$@\"";
        let mut wrapper = self.nsenter();
        wrapper.extend(["-c".to_owned(), enter.to_owned(), self.directory.display().to_string()]);
        wrapper
    }

    /// Runs a shell script inside; the gateway's directory is its `$1`.
    pub fn run(&self, script: &str) {
        let nsenter = self.nsenter();
        let output = Command::new(&nsenter[0]).args(&nsenter[1..]).args(["-ec", script, "sh"]).arg(&self.directory).output();
        let output = output.expect("nsenter runs");
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A file of the gateway's directory as it is inside.
    pub fn path(&self, below: &str) -> PathBuf {
        let directory = self.directory.strip_prefix("/").expect("an absolute directory");
        PathBuf::from(format!("/proc/{}/root", self.holder.pid())).join(directory).join(below)
    }

    fn nsenter(&self) -> Vec<String> {
        let pid = self.holder.pid().to_string();
        ["/usr/bin/nsenter", "-t", &pid, "-U", "-m", "--preserve-credentials", "/bin/sh"].map(str::to_owned).to_vec()
    }
}

impl fmt::Debug for Mounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mounts").field("directory", &self.directory).finish_non_exhaustive()
    }
}
