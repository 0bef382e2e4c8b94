//! Processes: how a child notices that its parent is gone, and what each costs, as the kernel counts it: CPU time from
//! `/proc/PID/stat`, memory from `/proc/PID/smaps_rollup`.
//!
//! Only Linux has these files; elsewhere, and for processes of other users, every answer is `None` and the report says
//! so.

use std::time::Duration;
use std::{fs, io};

use rustix::process::{Signal, getpid, kill_process};

/// The processes of one server, counted as one.
#[derive(Clone, Debug, Default)]
pub struct Processes(pub Vec<u32>);

impl Processes {
    /// User and system time since they began, in steps of the kernel's clock tick (10 ms); `None` if it cannot be
    /// told for each.
    pub fn cpu(&self) -> Option<Duration> {
        self.sum(|pid| cpu_in_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).map(ticks)
    }

    /// Proportional set size in KiB: pages that processes share are counted to each in part, so that it adds up.
    pub fn pss_kib(&self) -> Option<u64> {
        self.sum(|pid| pss_in_rollup(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?))
    }

    fn sum(&self, of_one: impl Fn(u32) -> Option<u64>) -> Option<u64> {
        if self.0.is_empty() {
            return None;
        }
        self.0.iter().map(|pid| of_one(*pid)).sum()
    }
}

/// Asks this process to stop, as SIGTERM does, when standard input ends: whoever started it holds the other end, be it
/// only until it is killed.
pub fn stop_with_stdin() {
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        let _ = kill_process(getpid(), Signal::TERM);
    });
}

/// CPU time of this whole process.
pub fn own_cpu() -> Duration {
    clock(rustix::time::ClockId::ProcessCPUTime)
}

/// CPU time of the thread that asks.
pub fn thread_cpu() -> Duration {
    clock(rustix::time::ClockId::ThreadCPUTime)
}

fn clock(id: rustix::time::ClockId) -> Duration {
    Duration::try_from(rustix::time::clock_gettime(id)).unwrap_or_default()
}

fn ticks(count: u64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_micros(count * 1_000_000 / per_second)
}

/// Fields 14 and 15 of proc_pid_stat(5). The second field is the program's name in parentheses, which may hold blanks
/// and parentheses itself.
fn cpu_in_stat(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn pss_in_rollup(rollup: &str) -> Option<u64> {
    rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_found_behind_any_name() {
        let stat = "71 (a ) b (c) S 1 2 3 4 5 6 7 8 9 10 120 45 0 0 20 0 9 0 42";
        assert_eq!(cpu_in_stat(stat), Some(165));
        assert_eq!(cpu_in_stat("71 (short) S 1"), None);
        assert_eq!(cpu_in_stat(""), None);
    }

    #[test]
    fn pss_is_told_from_its_neighbours() {
        let rollup = "5581-7ffe ---p 0000 00:00 0   [rollup]\nRss:   9 kB\nPss:    1234 kB\nPss_Dirty:  7 kB\n";
        assert_eq!(pss_in_rollup(rollup), Some(1234));
        assert_eq!(pss_in_rollup("Rss: 1 kB\n"), None);
    }

    #[test]
    fn this_process_can_be_measured() {
        let own = Processes(vec![std::process::id()]);
        assert!(own.cpu().is_some());
        assert!(own.pss_kib().is_some_and(|kib| kib > 0));
        assert!(own_cpu() >= thread_cpu());
    }

    #[test]
    fn one_that_is_not_there_makes_the_sum_unknown() {
        let own = std::process::id();
        assert_eq!(Processes(vec![own, u32::MAX]).cpu(), None);
        assert_eq!(Processes::default().cpu(), None);
        assert_eq!(Processes::default().pss_kib(), None);
    }
}
