//! CPU and memory used by a process, as the kernel accounts them.

use std::collections::BTreeMap;
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
pub(super) fn resident_mib(pid: u32) -> Result<f64, BenchError> {
    status_mib(pid, "VmRSS:")
}

/// The most memory that was resident since the process began or [`forget_peak`] was called, in MiB.
pub(super) fn peak_mib(pid: u32) -> Result<f64, BenchError> {
    status_mib(pid, "VmHWM:")
}

/// Sets the peak back to what is resident now. Where the kernel doesn't, the peak stays that of the whole life.
pub(super) fn forget_peak(pid: u32) {
    let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

#[allow(clippy::cast_precision_loss)]
fn status_mib(pid: u32, field: &str) -> Result<f64, BenchError> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).map_err(BenchError::io(&path))?;
    let kib = text.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
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

/// What `smaps` shows of mapped memory files beyond what is resident of them. A file counts once, however often it is mapped.
fn unseen_kib(smaps: &str) -> u64 {
    // By inode: up to where it is mapped, and what is resident.
    let mut files: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let mut current = None;
    for line in smaps.lines() {
        // A mapping's first line has its addresses and what is mapped; the others are `Name: value`.
        match line.split_ascii_whitespace().collect::<Vec<_>>()[..] {
            [range, _, offset, _, inode, path, ..] if range.contains('-') => {
                current = path.starts_with("/memfd:").then_some(inode);
                if let Some((file, end)) = current.zip(mapped_to(range, offset)) {
                    let known = files.entry(file).or_default();
                    known.0 = end.max(known.0);
                }
            }
            [range, ..] if range.contains('-') => current = None,
            ["Rss:", kib, "kB"] => {
                if let Some((_, resident)) = current.and_then(|file| files.get_mut(file)) {
                    *resident += kib.parse::<u64>().unwrap_or(0);
                }
            }
            _ => {}
        }
    }
    files.values().map(|(size, resident)| size.saturating_sub(*resident)).sum()
}

/// Where in its file a mapping ends, in KiB.
fn mapped_to(range: &str, offset: &str) -> Option<u64> {
    let number = |text| u64::from_str_radix(text, 16).ok();
    let (start, end) = range.split_once('-')?;
    Some((number(offset)? + number(end)?.checked_sub(number(start)?)?) / 1024)
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
        let smaps = "7f0000-7f8000 r-xp 00000000 00:01 9 /memfd:tidegate-plugin (deleted)\nSize: 32 kB\nRss: 12 kB\n\
                     7f8000-800000 r-xp 00008000 00:01 9 /memfd:tidegate-plugin (deleted)\nSize: 32 kB\nRss: 4 kB\n\
                     900000-902000 r-xp 00008000 00:01 9 /memfd:tidegate-plugin (deleted)\nSize: 8 kB\nRss: 0 kB\n\
                     a00000-af0000 rw-p 00000000 00:00 0 \nSize: 960 kB\nRss: 4 kB\n";
        assert_eq!(unseen_kib(smaps), 48);
        assert!(held_mib(std::process::id()).unwrap() > 0.0);
    }
}
