//! Processes: how a child notices that its parent is gone, and what each costs, as the kernel counts it: CPU time from
//! `/proc/PID/task/*/schedstat` and `/proc/PID/stat`, memory from `/proc/PID/smaps_rollup`.
//!
//! Only Linux has these files; elsewhere, and for processes of other users, every answer is `None` and the report says
//! so.

use std::time::Duration;
use std::{fs, io};

use rustix::process::{Signal, getpid, kill_process, test_kill_process};

/// Where only ticks are known, fewer are no measurement: one more or less would be a tenth of it.
const TICKS_MIN: u64 = 20;

/// The processes of one server, counted as one.
#[derive(Clone, Debug, Default)]
pub struct Processes(pub Vec<u32>);

impl Processes {
    /// User and system time since they began; `None` if it cannot be told for each.
    pub fn cpu(&self) -> Option<Cpu> {
        Some(Cpu {
            ticks: self.sum(|pid| cpu_in_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?))?,
            threads_ns: self.sum(threads_ns),
            processes: self.0.len() as u64,
        })
    }

    /// The first that does not exist.
    pub fn missing(&self) -> Option<u32> {
        let exists = |pid: u32| {
            let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
            pid.is_some_and(|pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
        };
        self.0.iter().copied().find(|pid| !exists(*pid))
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

/// CPU time at one moment, counted in two ways.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    /// Of the whole processes, threads that ended too, but in coarse steps of the kernel's clock (10 ms).
    ticks: u64,
    /// Of the threads that live, to the nanosecond.
    threads_ns: Option<u64>,
    processes: u64,
}

impl Cpu {
    /// What was used since `before`; `None` if that was too little to be told from nothing.
    pub fn since(self, before: Cpu) -> Option<Duration> {
        let count = self.ticks.saturating_sub(before.ticks);
        let fine = self.threads_ns.zip(before.threads_ns);
        let fine = fine.map(|(after, before)| Duration::from_nanos(after.saturating_sub(before)));
        // User and system time are rounded each, so ticks pass what was used by less than two for each process. If they
        // pass it by more, threads ended in between and took their own count with them.
        match fine {
            Some(fine) if ticks(count.saturating_sub(2 * self.processes)) <= fine => {
                Some(fine).filter(|used| !used.is_zero())
            }
            _ => (count >= TICKS_MIN).then(|| ticks(count)),
        }
    }
}

/// The sum over the living threads of a process.
fn threads_ns(pid: u32) -> Option<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        // One that ends at this moment is missing in the sum, which the ticks reveal.
        let Ok(schedstat) = fs::read_to_string(thread.ok()?.path().join("schedstat")) else { continue };
        sum += schedstat.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    // A kernel that does not count shows zeros.
    (sum > 0).then_some(sum)
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
    fn work_of_a_moment_is_measured_and_none_is_not() {
        let own = Processes(vec![std::process::id()]);
        let before = own.cpu().expect("this process");
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let used = std::iter::repeat_with(|| own.cpu().and_then(|now| now.since(before)))
            .take_while(|_| std::time::Instant::now() < deadline)
            .find_map(|used| used);
        assert!(used.is_some_and(|used| used > Duration::ZERO), "{used:?}");
        assert_eq!(before.since(before), None);
    }

    #[test]
    fn ticks_count_where_threads_ended_and_are_enough_of_them() {
        let at = |ticks, threads_ns| Cpu { ticks, threads_ns, processes: 1 };
        assert_eq!(at(2, Some(7)).since(at(0, Some(2))), Some(Duration::from_nanos(5)));
        assert_eq!(at(40, Some(7)).since(at(0, Some(2))), Some(ticks(40)));
        assert_eq!(at(40, Some(1)).since(at(0, Some(2))), Some(ticks(40)));
        assert_eq!(at(40, None).since(at(0, None)), Some(ticks(40)));
        assert_eq!(at(19, None).since(at(0, None)), None);
    }

    #[test]
    fn a_process_that_does_not_exist_is_missing() {
        let own = std::process::id();
        assert_eq!(Processes(vec![own]).missing(), None);
        assert_eq!(Processes(vec![own, u32::MAX, 0]).missing(), Some(u32::MAX));
    }

    #[test]
    fn one_that_is_not_there_makes_the_sum_unknown() {
        let own = std::process::id();
        assert!(Processes(vec![own, u32::MAX]).cpu().is_none());
        assert!(Processes::default().cpu().is_none());
        assert_eq!(Processes::default().pss_kib(), None);
    }
}
