//! CPU and memory used by a process, as the kernel accounts them.

use std::time::Duration;

use super::error::BenchError;

/// `USER_HZ`: the unit of times in `/proc`, 100 a second on every Linux ABI that we build for.
const TICKS_PER_SECOND: u64 = 100;

/// User and system time of a process with all its threads, ended ones too; not its children's. Exact to 10 ms.
pub(super) fn used_by(pid: u32) -> Result<Duration, BenchError> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).map_err(BenchError::io(&path))?;
    parse(&text).ok_or_else(|| BenchError::Answer { name: "/proc", answer: text })
}

/// Resident memory, in MiB.
#[allow(clippy::cast_precision_loss)]
pub(super) fn resident_mib(pid: u32) -> Result<f64, BenchError> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).map_err(BenchError::io(&path))?;
    let kib = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map(|kib| kib as f64 / 1024.0).ok_or(BenchError::Answer { name: "/proc", answer: text })
}

/// Resident memory, with all that the process holds in memory files, in MiB: compiled plugins stand in such files, of which only what ran
/// counts as resident.
#[allow(clippy::cast_precision_loss)]
pub(super) fn held_mib(pid: u32) -> Result<f64, BenchError> {
    let path = format!("/proc/{pid}/smaps");
    let text = std::fs::read_to_string(&path).map_err(BenchError::io(&path))?;
    Ok(resident_mib(pid)? + unseen_kib(&text) as f64 / 1024.0)
}

/// What `smaps` shows of mapped memory files beyond what is resident of them.
fn unseen_kib(smaps: &str) -> u64 {
    let kib = |line: &str, name: &str| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse::<u64>().ok();
    let (mut in_file, mut size, mut unseen) = (false, 0, 0);
    for line in smaps.lines() {
        // A mapping's first line has its addresses and what is mapped; the others are `Name: value`.
        if line.split(' ').next().is_some_and(|first| first.contains('-') && !first.ends_with(':')) {
            in_file = line.contains("/memfd:");
        } else if let Some(kib) = kib(line, "Size:") {
            size = kib;
        } else if let (true, Some(resident)) = (in_file, kib(line, "Rss:")) {
            unseen += size.saturating_sub(resident);
        }
    }
    unseen
}

fn parse(stat: &str) -> Option<Duration> {
    // The second field is the program's name in parentheses, and may hold spaces and parentheses itself.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 1000 / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_program_name() {
        let stat = "4242 (a) b (c)) S 1 4242 4242 0 -1 4194560 1200 0 3 0 150 25 7 8 20 0 5 0 12345 1000 200";
        assert_eq!(parse(stat), Some(Duration::from_millis(1750)));
        assert_eq!(parse("4242 (cut) S 1"), None);
    }

    #[test]
    fn only_what_is_not_resident_of_memory_files_is_added() {
        let smaps = "7f00-7f10 r-xp 00000000 00:01 9 /memfd:tidegate-plugin (deleted)\nSize: 64 kB\nKernelPageSize: 4 kB\nRss: 16 kB\n\
                     7f20-7f30 rw-p 00000000 00:00 0 \nSize: 640 kB\nRss: 4 kB\n";
        assert_eq!(unseen_kib(smaps), 48);
        assert!(held_mib(std::process::id()).unwrap() > 0.0);
    }
}
