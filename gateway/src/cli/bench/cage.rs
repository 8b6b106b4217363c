//! A control group (v2) of its own for the gateway, with a hard limit on its memory: who is over it is killed by the kernel.
//!
//! Where the system lets us have one: the memory controller must be handed on to the groups beside ours or below it, and we may make one
//! there. Nothing is changed but that the group is made, and removed when this is dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often its removal is tried, and how long it is waited between.
const TRIES: usize = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// The group.
pub(super) struct Cage {
    directory: PathBuf,
}

impl Cage {
    /// A group with that limit in bytes; none where the system gives none.
    pub(super) fn new(limit: u64) -> Option<Self> {
        let root = mount_point(&fs::read_to_string("/proc/self/mountinfo").ok()?)?;
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = root.join(own_group(&groups)?.trim_start_matches('/'));
        let beside = own.parent().filter(|parent| parent.starts_with(&root));
        let parent = beside.into_iter().chain([own.as_path()]).find(|parent| hands_memory_on(parent))?;
        let cage = Self { directory: parent.join(format!("tidegate-bench-{}", std::process::id())) };
        fs::create_dir(&cage.directory).ok()?;
        fs::write(cage.directory.join("memory.max"), limit.to_string()).ok()?;
        // What is swapped out is not in the figure, so that nothing may be. A kernel without swap has no such file.
        let _ = fs::write(cage.directory.join("memory.swap.max"), "0");
        Some(cage)
    }

    /// The file that takes the process's id.
    pub(super) fn procs(&self) -> PathBuf {
        self.directory.join("cgroup.procs")
    }

    /// How many of its processes the kernel has killed.
    pub(super) fn kills(&self) -> u64 {
        let events = fs::read_to_string(self.directory.join("memory.events")).unwrap_or_default();
        events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        // It can't be removed while a process is in it, and one that is killed takes a moment to end.
        let _ = fs::write(self.directory.join("cgroup.kill"), "1");
        for _ in 0..TRIES {
            if fs::remove_dir(&self.directory).is_ok() {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }
}

fn hands_memory_on(group: &Path) -> bool {
    let handed_on = fs::read_to_string(group.join("cgroup.subtree_control")).unwrap_or_default();
    handed_on.split_ascii_whitespace().any(|controller| controller == "memory")
}

/// Where the unified hierarchy is mounted.
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    let line = mountinfo.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

/// The group that this process is in.
fn own_group(cgroup: &str) -> Option<&str> {
    cgroup.lines().find_map(|line| line.strip_prefix("0::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_beside_old_ones() {
        let mounts = "30 24 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      31 24 0:27 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_point("30 24 0:26 / /proc rw - proc proc rw\n"), None);
        assert_eq!(own_group("8:pids:/a\n0::/user.slice/b\n"), Some("/user.slice/b"));
    }
}
