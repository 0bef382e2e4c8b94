//! An instance of this very program as a child process, with a wire of its own to the broker.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;

use super::proxy::Proxy;
use super::told::Told;
use crate::bench::process::Processes;
use crate::bench::server::{is_ready, own_program, port_in};
use crate::bench::target::Target;
use crate::config::STOP_WITH_STDIN;

/// Time for an instance to be ready: its broker may be starting, too.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Between two looks at a process.
const LOOK: Duration = Duration::from_millis(20);

/// What its sessions know of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Door {
    /// Port 0 before the first start.
    pub address: SocketAddr,
    /// Whether it listens. It may still refuse sessions, with 503, as long as it does not hear the others.
    pub is_open: bool,
    /// How often it was struck: what ends on connections from before has its cause.
    pub generation: u64,
}

/// Its drop kills it.
pub struct Instance {
    pub number: usize,
    pub proxy: Proxy,
    pub door: watch::Sender<Door>,
    /// The broker's URL through the proxy.
    url: String,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
    /// What it told of missing messages, in each of its runs.
    told: Vec<Arc<Told>>,
}

impl Instance {
    pub fn new(number: usize, proxy: Proxy, url: String, arguments: Vec<String>, log: PathBuf) -> Instance {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let door = watch::Sender::new(Door { address, is_open: false, generation: 0 });
        Instance { number, proxy, door, url, arguments, log, child: None, told: Vec::new() }
    }

    /// Starts it, on the port that it had before if any, and waits until it is ready.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        let name = format!("instance {}", self.number + 1);
        let port = self.door.borrow().address.port();
        let mut command = own_program()?;
        command.args(["serve", "--host", "127.0.0.1", "--port", &port.to_string(), "--log", "info,lapin=off"]);
        command.args(["--metrics-listen", "127.0.0.1:0", &format!("--{STOP_WITH_STDIN}")]);
        // Not as a flag: it holds a password, and anybody can read a command line.
        command.args(&self.arguments).env("WARREN_BROKER", &self.url);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        let told = Arc::new(Told::default());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        self.child = Some(child);
        self.told.push(told.clone());
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot write {}", self.log.display()))?;
        let stderr = stderr.context("its standard error")?;
        std::thread::Builder::new().name("chaos-log".to_owned()).spawn(move || keep_log(stderr, log, &told))?;
        let stdout = stdout.context("its standard output")?;
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).map(|_| line)
        });
        let line = line.await?.with_context(|| format!("the output of {name}"))?;
        let Some(port) = port_in(&line) else { bail!("{name} did not start; see {}", self.log.display()) };
        self.door.send_modify(|door| {
            door.address.set_port(port);
            door.is_open = true;
        });
        self.ready(port).await
    }

    async fn ready(&mut self, port: u16) -> anyhow::Result<()> {
        let target = Target::local(port, "/message")?;
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let asked = target.clone();
            if tokio::task::spawn_blocking(move || is_ready(&asked)).await? {
                return Ok(());
            }
            self.lives()?;
            if Instant::now() > deadline {
                bail!("instance {} was not ready within {} s", self.number + 1, READY_TIMEOUT.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What happens to its sessions from here on has its cause, and none may come.
    pub fn close_door(&self) {
        self.door.send_modify(|door| {
            door.is_open = false;
            door.generation += 1;
        });
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.child.as_ref().and_then(|child| Pid::from_raw(child.id().cast_signed()));
        kill_process(pid.context("the instance does not run")?, signal).context("signalling an instance")
    }

    /// Waits until the process has ended; `None` if it does not within `patience`, and is killed.
    pub async fn ended(&mut self, patience: Duration) -> anyhow::Result<Option<ExitStatus>> {
        let Some(mut child) = self.child.take() else { bail!("the instance does not run") };
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// An error if it has ended by itself.
    pub fn lives(&mut self) -> anyhow::Result<()> {
        match self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
            None => Ok(()),
            Some(status) => {
                bail!("instance {} ended by itself ({status}); see {}", self.number + 1, self.log.display())
            }
        }
    }

    /// Asks it what it knows to be missing: before it is ended, and before [`Instance::told_missing`]. All its metrics are
    /// kept beside its log, for who looks for the cause of something.
    pub async fn ask(&self) -> anyhow::Result<()> {
        let Some(told) = self.told.last().cloned() else { return Ok(()) };
        let Some(page) = tokio::task::spawn_blocking(move || told.ask()).await? else { return Ok(()) };
        let path = self.log.with_extension("metrics");
        std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Messages that it has told to be missing, over all its runs.
    pub fn told_missing(&self) -> u64 {
        self.told.iter().map(|told| told.missing()).sum()
    }

    /// Its memory, and in which of its runs that was.
    pub fn pss_kib(&self) -> (Option<u64>, usize) {
        let pids = self.child.iter().map(Child::id).collect();
        (Processes(pids).pss_kib(), self.told.len())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Keeps what the instance says until it ends, and what it tells of.
fn keep_log(stderr: impl std::io::Read, mut log: File, told: &Told) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        told.read(&line);
        // A full disk is no reason to stop reading, which would stop the instance.
        let _ = writeln!(log, "{line}");
    }
}
