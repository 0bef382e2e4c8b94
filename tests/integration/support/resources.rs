//! What a process uses, from /proc.

/// Files that the process has open.
pub fn open_files(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a living process").count()
}

/// Threads of the process.
pub fn threads(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).expect("a living process").count()
}

/// Memory in use, in KiB.
pub fn memory_kib(pid: i32) -> usize {
    status_kib(pid, "VmRSS:")
}

/// The most memory that was ever in use, in KiB.
pub fn peak_memory_kib(pid: i32) -> usize {
    status_kib(pid, "VmHWM:")
}

fn status_kib(pid: i32, field: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a living process");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a line of its memory");
    line.trim_end_matches("kB").trim().parse().expect("a number")
}

/// Processor time used so far, in ticks of 10 ms.
pub fn processor_ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a living process");
    // Behind the name, which may contain anything: state is field 3, utime 14, stime 15 (proc(5)).
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}
