//! Waking a worker at a moment: polls know whole milliseconds only, which would be added to every latency.

use std::io;

use mio::{Registry, Token};

#[cfg(target_os = "linux")]
pub use precise::Timer;

#[cfg(not(target_os = "linux"))]
pub use coarse::Timer;

#[cfg(target_os = "linux")]
mod precise {
    use std::os::fd::{AsRawFd, OwnedFd};

    use mio::Interest;
    use mio::unix::SourceFd;
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
    };

    use super::*;

    /// A timer that makes the poll ready.
    pub struct Timer {
        file: OwnedFd,
        set_for: Option<u64>,
    }

    impl Timer {
        pub fn new(registry: &Registry, token: Token) -> io::Result<Timer> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let file = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            registry.register(&mut SourceFd(&file.as_raw_fd()), token, Interest::READABLE)?;
            Ok(Timer { file, set_for: None })
        }

        /// Wakes at `at_ns`, when it is now `now_ns`; the same moment again costs nothing. The answer is the longest
        /// that the poll itself should wait, if this cannot wake it.
        pub fn set(&mut self, at_ns: u64, now_ns: u64) -> io::Result<Option<std::time::Duration>> {
            if self.set_for != Some(at_ns) {
                // Zero would switch it off.
                let wait = at_ns.saturating_sub(now_ns).max(1);
                let it_value = Timespec { tv_sec: (wait / 1_000_000_000) as _, tv_nsec: (wait % 1_000_000_000) as _ };
                let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
                // Setting it also takes back that it was ready, so it need not be read.
                timerfd_settime(&self.file, TimerfdTimerFlags::empty(), &Itimerspec { it_interval, it_value })?;
                self.set_for = Some(at_ns);
            }
            Ok(None)
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod coarse {
    use std::time::Duration;

    use super::*;

    /// Lets the poll wait to the millisecond before, and then not at all.
    pub struct Timer;

    impl Timer {
        pub fn new(_: &Registry, _: Token) -> io::Result<Timer> {
            Ok(Timer)
        }

        pub fn set(&mut self, at_ns: u64, now_ns: u64) -> io::Result<Option<Duration>> {
            Ok(Some(Duration::from_millis(at_ns.saturating_sub(now_ns) / 1_000_000)))
        }
    }
}
