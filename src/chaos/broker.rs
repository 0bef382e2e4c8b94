//! A RabbitMQ of the run's own, which it may kill.
//!
//! It is started and stopped by the repository's `rabbitmq/node`, which this program carries with it and unpacks, so
//! that it works without a checkout; RabbitMQ itself has to be installed.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use url::Url;

/// What `rabbitmq/node` consists of, by path in the repository.
const SCRIPTS: [(&str, &str); 5] = [
    (NODE, include_str!("../../rabbitmq/node")),
    ("rabbitmq/epmd.sh", include_str!("../../rabbitmq/epmd.sh")),
    ("rabbitmq/probe", include_str!("../../rabbitmq/probe")),
    ("rabbitmq/rabbitmq.conf", include_str!("../../rabbitmq/rabbitmq.conf")),
    ("scripts/processes.sh", include_str!("../../scripts/processes.sh")),
];
const NODE: &str = "rabbitmq/node";

/// A share of the memory that any broker exceeds, and the share that `rabbitmq/rabbitmq.conf` allows.
const ALARMING_WATERMARK: &str = "0.0000001";
const USUAL_WATERMARK: &str = "0.4";

/// Its drop ends it.
pub struct Broker {
    node: Arc<Node>,
    url: Url,
    pid: Pid,
}

/// The script, and the directory of its node. One command at a time, so that the end of the run does not meet a start
/// that is under way.
struct Node {
    script: PathBuf,
    directory: PathBuf,
    turn: Mutex<()>,
}

/// Where the broker keeps everything.
pub fn data_in(directory: &Path) -> PathBuf {
    directory.join("broker")
}

impl Broker {
    /// Starts a node that keeps everything below `directory`, by `script` or by the one that comes along.
    pub async fn start(directory: &Path, script: Option<&Path>) -> anyhow::Result<Broker> {
        let script = match script {
            Some(script) => script.to_owned(),
            None => unpack(&directory.join("scripts"))?,
        };
        let node = Arc::new(Node { script, directory: data_in(directory), turn: Mutex::default() });
        ensure!(
            node.is_available()?,
            "RabbitMQ is not installed: rabbitmq-server and Erlang's epmd have to be on the PATH or where packages put \
             them (`rabbitmq/install` in a checkout does that)"
        );
        // From here on a drop ends whatever has been started.
        let mut broker = Broker { node, url: Url::parse("amqp://localhost")?, pid: Pid::INIT };
        broker.start_again().await?;
        Ok(broker)
    }

    /// Starts it after [`Broker::kill`] or [`Broker::stop`]: same port, same data.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.url = Url::parse(&self.run(&["start"]).await?).context("the URL of the broker")?;
        let pid = self.run(&["pid"]).await?;
        self.pid = pid.parse().ok().and_then(Pid::from_raw).context("the broker's pid")?;
        Ok(())
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.url.port().unwrap_or(5672)))
    }

    /// Its URL by way of `proxy`.
    pub fn url_through(&self, proxy: SocketAddr) -> anyhow::Result<String> {
        let mut url = self.url.clone();
        url.set_ip_host(proxy.ip()).and_then(|()| url.set_port(Some(proxy.port()))).ok().context("the proxy's URL")?;
        Ok(url.into())
    }

    /// SIGKILL, at once; returns when it is gone, with all that belongs to it.
    pub async fn kill(&self) -> anyhow::Result<()> {
        kill_process(self.pid, Signal::KILL).context("killing the broker")?;
        self.run(&["kill"]).await.map(drop)
    }

    /// Tells it to stop, at once; returns when it has.
    pub async fn stop(&self) -> anyhow::Result<()> {
        kill_process(self.pid, Signal::TERM).context("stopping the broker")?;
        self.run(&["stop"]).await.map(drop)
    }

    /// Raises the alarm by which it stops reading from who publishes.
    pub async fn raise_alarm(&self) -> anyhow::Result<()> {
        self.run(&["ctl", "set_vm_memory_high_watermark", ALARMING_WATERMARK]).await.map(drop)
    }

    pub async fn clear_alarm(&self) -> anyhow::Result<()> {
        self.run(&["ctl", "set_vm_memory_high_watermark", USUAL_WATERMARK]).await.map(drop)
    }

    async fn run(&self, words: &'static [&'static str]) -> anyhow::Result<String> {
        let node = self.node.clone();
        tokio::task::spawn_blocking(move || node.run(words)).await.context("a command of the broker")?
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Err(error) = self.node.run(&["kill"]) {
            log::warn!("the broker in {} may be left: {error:#}", self.node.directory.display());
        }
    }
}

impl Node {
    fn is_available(&self) -> anyhow::Result<bool> {
        let mut command = Command::new(&self.script);
        let status = command.arg("available").stdin(Stdio::null()).status();
        Ok(status.with_context(|| format!("cannot run {}", self.script.display()))?.success())
    }

    /// `rabbitmq/node VERB DIRECTORY ARGUMENT…`; what it prints.
    fn run(&self, words: &[&str]) -> anyhow::Result<String> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut command = Command::new(&self.script);
        command.args(&words[..1]).arg(&self.directory).args(&words[1..]);
        let output = command.stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("cannot run {}", self.script.display()))?;
        if !output.status.success() {
            bail!("rabbitmq/node {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim_end());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }
}

/// Writes the scripts below `directory`; the path of the one to call.
fn unpack(directory: &Path) -> anyhow::Result<PathBuf> {
    for (path, text) in SCRIPTS {
        let path = directory.join(path);
        let write = || {
            std::fs::create_dir_all(path.parent().unwrap_or(directory))?;
            let mut file = std::fs::OpenOptions::new();
            let mut file = file.write(true).create(true).truncate(true).mode(0o755).open(&path)?;
            std::io::Write::write_all(&mut file, text.as_bytes())
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(directory.join(NODE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_come_along_with_all_that_they_read() {
        let directory = std::env::temp_dir().join(format!("warren-scripts-{}", std::process::id()));
        let node = unpack(&directory).expect("unpacked");
        for script in [node.clone(), node.with_file_name("probe")] {
            let output = Command::new(&script).arg("--help").output().expect("it runs");
            assert!(output.status.success() && output.stdout.starts_with(b"usage"), "{script:?}: {output:?}");
        }
        assert!(node.with_file_name("rabbitmq.conf").exists());
        std::fs::remove_dir_all(directory).expect("removed");
    }
}
