//! Work that nobody waits for at once: long calls, compilers, what is done with uploads and artifacts.
//!
//! It takes turns with all else, and not at the moment when something short becomes ready: a thread that steps back gives up the core to
//! whatever wakes up, and asks for long turns in return.

use std::thread;
use std::time::Duration;

use nix::libc;
use tokio::sync::oneshot;

/// A third of the share of the other threads, where they want all of the processor.
pub(super) const NICE: i32 = 5;
/// A turn longer than others ask for, who have 0.7 to 2.8 ms: whoever wakes up and asks for a shorter one comes at once, see
/// `Documentation/scheduler/sched-eevdf.rst` of Linux. Not longer than that takes, since threads that have stepped back wait for one another's
/// turns, whatever lock they hold. Up to Linux 6.11 it is ignored.
const TURN: Duration = Duration::from_millis(10);

/// From here on the calling thread gives way to those that become ready, and its share is smaller by `nice`. For good: to take it back
/// needs a privilege.
pub(super) fn step_back(nice: i32) {
    if let Ok(nice) = rustix::process::nice(nice) {
        take_long_turns(nice);
    }
}

/// A sandbox around the gateway may forbid it; what is asked for is no right.
#[allow(unsafe_code)]
fn take_long_turns(nice: i32) {
    let Ok(size) = u32::try_from(size_of::<libc::sched_attr>()) else { return };
    let Ok(policy) = u32::try_from(libc::SCHED_BATCH) else { return };
    let wanted = libc::sched_attr {
        size,
        sched_policy: policy,
        sched_flags: 0,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: u64::try_from(TURN.as_nanos()).unwrap_or(u64::MAX),
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads as many bytes as `size` says, which is the structure's size, and keeps nothing of it; 0 is this thread.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wanted, 0) };
}

/// Does work that takes a while on a thread of its own, which steps back. Without an answer if it panics, or if there is no thread.
pub(super) fn spawn<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
    let (tell, told) = oneshot::channel();
    let work = move || {
        step_back(NICE);
        // Whoever asked may be gone.
        let _ = tell.send(work());
    };
    // Without a thread the channel is closed.
    let _ = thread::Builder::new().name(name.into()).spawn(work);
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(unsafe_code)]
    fn own() -> (i32, u32) {
        let mut own = std::mem::MaybeUninit::<libc::sched_attr>::zeroed();
        let size = u32::try_from(size_of::<libc::sched_attr>()).unwrap();
        // SAFETY: the kernel writes no more than `size` bytes, and all of them may be any number.
        let own = unsafe {
            assert_eq!(libc::syscall(libc::SYS_sched_getattr, 0, own.as_mut_ptr(), size, 0), 0);
            own.assume_init()
        };
        (own.sched_nice, own.sched_policy)
    }

    #[test]
    fn who_steps_back_has_less_and_interrupts_nobody() {
        let before = own();
        let (behind, policy) = thread::spawn(|| {
            step_back(NICE);
            own()
        })
        .join()
        .unwrap();
        assert_eq!((behind, policy), (before.0 + NICE, u32::try_from(libc::SCHED_BATCH).unwrap()));
        assert_eq!(own(), before, "nobody else does");
    }

    #[tokio::test]
    async fn work_is_done_on_a_thread_that_has_stepped_back() {
        assert_eq!(spawn("test", || own().0).await, Ok(own().0 + NICE));
        assert!(spawn("test", || panic!("on purpose")).await.is_err());
    }
}
