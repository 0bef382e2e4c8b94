//! Servers to measure: those that run already, and those that a run starts for itself as child processes.
//!
//! A child lives no longer than its [`Server`]: the drop ends it, by its own handle and nothing else. Where nothing is
//! dropped any more, as after SIGKILL, the end of its standard input does.

pub mod floor;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::process::Processes;
use super::suite::bare::remove_cluster;
use super::target::Target;
use crate::config::{BrokerUri, STOP_WITH_STDIN};

/// Time for a child to be ready: it may have to reach its broker first.
const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// Time for a child to close its sessions and leave its broker when told to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What is to be measured.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// This program, started afresh for each run.
    Warren(Own),
    /// The floor of this machine, with so many frames in each write.
    Floor { frames: usize },
    /// Servers that run already; their processes, if known.
    Running { targets: Vec<Target>, pids: Vec<u32> },
}

/// Instances of this program, and how they are started.
#[derive(Clone, Debug, PartialEq)]
pub struct Own {
    pub broker: Option<BrokerUri>,
    pub instances: usize,
    /// Instances among them that have sessions; zero means all.
    pub served: usize,
    /// Where sessions are opened.
    pub path: String,
    /// Zero means one per core.
    pub worker_threads: usize,
    pub coalesce_ms: u32,
    /// Further arguments of `warren serve`.
    pub arguments: Vec<String>,
}

impl Default for Own {
    fn default() -> Own {
        Own {
            broker: None,
            instances: 1,
            served: 0,
            path: "/message".to_owned(),
            worker_threads: 0,
            coalesce_ms: 0,
            arguments: Vec::new(),
        }
    }
}

impl Own {
    fn command(&self, prefix: &str) -> anyhow::Result<Command> {
        let mut command = own_program()?;
        command.args(["serve", "--host", "127.0.0.1", "--port", "0", "--log", "warn,lapin=off", "--prefix", prefix]);
        command.arg(format!("--{STOP_WITH_STDIN}"));
        command.args(["--worker-threads", &self.worker_threads.to_string()]);
        command.args(["--coalesce-ms", &self.coalesce_ms.to_string()]);
        // Touches nobody but sessions that ask for compression, and they measure it whatever their messages' size.
        command.args(["--compression=true", "--compression-bytes-min", "1"]);
        command.args(&self.arguments);
        if let Some(uri) = &self.broker {
            // Not as a flag: it may hold a password, and anybody can read a command line.
            command.env("WARREN_BROKER", uri.expose());
        }
        Ok(command)
    }
}

impl Kind {
    /// How reports call it.
    pub fn name(&self) -> String {
        match self {
            Kind::Warren(Own { broker: None, .. }) => "warren".to_owned(),
            Kind::Warren(Own { instances: 1, .. }) => "warren on RabbitMQ".to_owned(),
            Kind::Warren(Own { instances, .. }) => format!("{instances} × warren on RabbitMQ"),
            Kind::Floor { .. } => "floor".to_owned(),
            Kind::Running { targets, .. } => match targets.as_slice() {
                [only] => only.to_string(),
                several => format!("{} servers", several.len()),
            },
        }
    }
}

/// A server ready to be measured.
pub struct Server {
    pub targets: Vec<Target>,
    pub processes: Processes,
    children: Vec<Child>,
    /// What they leave in RabbitMQ: its URI and the prefix of its names.
    traces: Option<(BrokerUri, String)>,
}

impl Server {
    pub fn start(kind: &Kind) -> anyhow::Result<Server> {
        match kind {
            Kind::Running { targets, pids } => {
                let mut server = Server::empty();
                server.targets.clone_from(targets);
                server.processes = Processes(pids.clone());
                if let Some(pid) = server.processes.missing() {
                    bail!("--pid {pid}: there is no such process");
                }
                Ok(server)
            }
            Kind::Floor { frames } => {
                let mut server = Server::empty();
                let child = spawn(own_program()?.args(["bench", floor::COMMAND]).arg(frames.to_string()))?;
                server.add(child, "/")?;
                Ok(server)
            }
            Kind::Warren(own) => {
                let mut server = Server::empty();
                let prefix = format!("bench-{}-{:08x}", std::process::id(), fastrand::u32(..));
                server.traces = own.broker.clone().map(|uri| (uri, prefix.clone()));
                for _ in 0..own.instances {
                    server.add(spawn(&mut own.command(&prefix)?)?, &own.path)?;
                }
                server.wait_until_ready()?;
                if own.served > 0 {
                    server.targets.truncate(own.served);
                }
                Ok(server)
            }
        }
    }

    fn empty() -> Server {
        Server { targets: Vec::new(), processes: Processes::default(), children: Vec::new(), traces: None }
    }

    /// Takes a child in, and reads from its first line where it listens.
    fn add(&mut self, mut child: Child, path: &str) -> anyhow::Result<()> {
        let stdout = child.stdout.take();
        self.processes.0.push(child.id());
        self.children.push(child);
        let mut line = String::new();
        BufReader::new(stdout.context("the server's output")?).read_line(&mut line).context("the server's output")?;
        let port = port_in(&line).with_context(|| format!("the server did not start: {line:?}"))?;
        self.targets.push(Target::local(port, path)?);
        Ok(())
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        for target in self.targets.clone() {
            while !is_ready(&target) {
                if let Some(status) = self.ended() {
                    bail!("the server ended before it was ready ({status})");
                }
                if Instant::now() > deadline {
                    bail!("{target} was not ready within {} s", READY_TIMEOUT.as_secs());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.children.iter_mut().find_map(|child| child.try_wait().ok().flatten())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in &mut self.children {
            let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid.filter(|_| matches!(child.try_wait(), Ok(None))) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        for child in &mut self.children {
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some((broker, prefix)) = &self.traces
            && let Err(error) = remove_cluster(broker, prefix)
        {
            log::warn!("the exchanges of {prefix} are left in {broker}: {error}");
        }
    }
}

/// This program, without its own options in the environment: a run must not depend on them.
pub fn own_program() -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("the path of this program")?);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WARREN_")) {
        command.env_remove(name);
    }
    Ok(command)
}

/// The other end of its standard input stays open in the [`Child`] until that is dropped.
fn spawn(command: &mut Command) -> anyhow::Result<Child> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting a server")
}

/// The port of the first `http://host:port` or `ws://host:port` in a line.
pub fn port_in(line: &str) -> Option<u16> {
    let (_, rest) = line.split_once("://")?;
    let authority = rest.split(['/', ' ', '\n']).next()?;
    authority.rsplit_once(':')?.1.parse().ok()
}

/// Whether `/readyz` beside the target answers 200.
pub fn is_ready(target: &Target) -> bool {
    let ask = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(target.resolve()?)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.take(64).read_to_end(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_read_from_the_first_line() {
        let line = "Warren is at http://127.0.0.1:41234/ (instance a_1). Stop it with Ctrl-C.\n";
        assert_eq!(port_in(line), Some(41234));
        assert_eq!(port_in("floor at ws://127.0.0.1:9\n"), Some(9));
        assert_eq!(port_in(""), None);
        assert_eq!(port_in("error: no"), None);
    }
}
