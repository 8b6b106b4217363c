//! A gateway's processes as the system sees them.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const LOOK: Duration = Duration::from_millis(10);

/// The largest that was seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peak {
    /// Resident bytes of the gateway.
    pub(crate) gateway: u64,
    /// Resident bytes of one compiler.
    pub(crate) compiler: u64,
    /// Compilers at once.
    pub(crate) at_once: usize,
    /// All compilers that there were.
    pub(crate) compilers: BTreeSet<u32>,
}

/// Looks at a gateway and its compilers until it is asked what it saw.
pub(crate) struct Watch {
    peak: Arc<Mutex<Peak>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Watch {
    pub(crate) fn of(gateway: u32) -> Self {
        let (peak, stop) = (Arc::new(Mutex::new(Peak::default())), Arc::new(AtomicBool::new(false)));
        let (seen, stopped) = (Arc::clone(&peak), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let children = compilers(gateway);
                let mut seen = seen.lock().unwrap();
                seen.gateway = seen.gateway.max(resident(gateway));
                seen.at_once = seen.at_once.max(children.len());
                seen.compiler = children.iter().map(|child| resident(*child)).fold(seen.compiler, u64::max);
                seen.compilers.extend(children);
                drop(seen);
                thread::sleep(LOOK);
            }
        });
        Self { peak, stop, thread }
    }

    pub(crate) fn peak(self) -> Peak {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.peak.lock().unwrap().clone()
    }
}

/// The compilers that a gateway has started and not yet seen end.
pub(crate) fn compilers(gateway: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    processes.filter(|process| field(*process, "PPid:") == Some(u64::from(gateway)) && resident(*process) > 0).collect()
}

/// Bytes; none of a process that has ended.
pub(crate) fn resident(process: u32) -> u64 {
    field(process, "VmRSS:").unwrap_or(0) * 1024
}

/// A number of `/proc/PID/status`.
pub(crate) fn field(process: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}
