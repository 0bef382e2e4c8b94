//! The `warren` command as a process of its own, with the in-process broker.

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::within_deadline;

/// Ends with this value.
pub struct Process {
    pub address: SocketAddr,
    pub pid: u32,
    child: Child,
}

impl Process {
    /// Starts it on any free port of loopback.
    pub async fn start(flags: &[&str]) -> Process {
        Self::run(Command::new(env!("CARGO_BIN_EXE_warren")), flags).await
    }

    /// Starts it with a limit of open files.
    pub async fn start_with_files(files: usize, flags: &[&str]) -> Process {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_warren")]);
        Self::run(shell, flags).await
    }

    async fn run(mut command: Command, flags: &[&str]) -> Process {
        command.args(["--host", "127.0.0.1", "--port", "0", "--log", "off"]).args(flags);
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("warren starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let line = within_deadline("warren tells its address", lines.next_line()).await.expect("UTF-8");
        let line = line.expect("warren lives");
        let address = line.split(['/', ' ']).find_map(|word| word.parse().ok()).expect(&line);
        Process { address, pid: child.id().expect("a living process"), child }
    }

    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid)).expect("a living process").count()
    }

    /// Memory in use, in KiB.
    pub fn memory_kib(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("a living process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line of its memory");
        line.trim_end_matches("kB").trim().parse().expect("a number")
    }

    /// Processor time used so far, in ticks of 10 ms.
    pub fn processor_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).expect("a living process");
        // Behind the name, which may contain anything: state is field 3, utime 14, stime 15 (proc(5)).
        let (_, fields) = stat.rsplit_once(") ").expect("a name");
        fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
    }
}
