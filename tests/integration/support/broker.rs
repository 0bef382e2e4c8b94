//! RabbitMQ: the shared one that `make test` provides, private nodes that a test may kill, and an AMQP program of
//! somebody else's.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use warren::config::{BrokerChoice, Config};

/// The exchanges of one test, under a prefix of its own so that all tests run side by side. Its drop removes them.
pub struct Cluster {
    pub url: String,
    pub prefix: String,
}

impl Cluster {
    /// In the RabbitMQ that all tests share.
    pub fn shared() -> Cluster {
        Cluster::at(std::env::var("AMQP_URL").expect("AMQP_URL names a RabbitMQ: run `make test`, which gets one"))
    }

    pub fn at(url: String) -> Cluster {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Cluster { url, prefix: format!("test-{}-{count}", std::process::id()) }
    }

    pub fn configure(&self, config: Config) -> Config {
        let uri = self.url.parse().expect("a valid AMQP URL");
        let prefix = self.prefix.parse().expect("a valid prefix");
        Config { broker: BrokerChoice::Amqp(vec![uri]), prefix, ..config }
    }

    pub fn broadcast(&self) -> String {
        format!("{}.broadcast", self.prefix)
    }

    pub fn direct(&self) -> String {
        format!("{}.direct", self.prefix)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let (url, names) = (self.url.clone(), [self.broadcast(), self.direct()]);
        let cleaning = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                // A private node may be gone already.
                let Ok(connection) = Connection::connect(&url, ConnectionProperties::default()).await else { return };
                for name in names {
                    let Ok(channel) = connection.create_channel().await else { return };
                    let _ = channel.exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default()).await;
                }
            });
        });
        let _ = cleaning.join();
    }
}

/// An AMQP program that knows nothing of Warren.
pub struct Alien {
    _connection: Connection,
    pub channel: Channel,
}

impl Alien {
    pub async fn connect(url: &str) -> Alien {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.expect("RabbitMQ lets us in");
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        Alien { _connection: connection, channel }
    }

    pub async fn publish(&self, exchange: &str, key: &str, body: &[u8], properties: BasicProperties) {
        let options = BasicPublishOptions::default();
        let confirm = self.channel.basic_publish(exchange.into(), key.into(), options, body, properties).await;
        confirm.expect("published").await.expect("confirmed");
    }
}

/// A RabbitMQ node of the test's own, which it may stop and kill. Its drop stops it and removes its data.
pub struct PrivateNode {
    directory: PathBuf,
    extra_conf: Option<PathBuf>,
    pub url: String,
}

impl PrivateNode {
    /// Starts a node; `name` is the test's.
    pub async fn start(name: &str) -> PrivateNode {
        Self::start_with(name, None).await
    }

    /// Starts a node whose configuration ends with the file `extra_conf`.
    pub async fn start_with(name: &str, extra_conf: Option<PathBuf>) -> PrivateNode {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory for the node");
        let mut node = PrivateNode { directory, extra_conf, url: String::new() };
        node.url = node.command(&["start"]).await;
        node
    }

    /// Starts it again after [`PrivateNode::stop`] or [`PrivateNode::kill`]: same port, same data.
    pub async fn restart(&self) {
        assert_eq!(self.command(&["start"]).await, self.url);
    }

    pub async fn stop(&self) {
        self.command(&["stop"]).await;
    }

    /// SIGKILL, as a crash would end it.
    pub async fn kill(&self) {
        self.command(&["kill"]).await;
    }

    /// `rabbitmqctl` against this node; its output without headers.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        self.command(&[&["ctl"], arguments].concat()).await
    }

    /// `rabbitmq/node VERB DIRECTORY ARGUMENTS…`
    async fn command(&self, arguments: &[&str]) -> String {
        let (verb, rest) = arguments.split_first().expect("a verb");
        let extra_conf = self.extra_conf.as_ref().map(|file| ("WARREN_RABBITMQ_EXTRA_CONF", file));
        let output = tokio::process::Command::new(script())
            .envs(extra_conf)
            .arg(verb)
            .arg(&self.directory)
            .args(rest)
            .stdin(Stdio::null())
            .output()
            .await
            .expect("rabbitmq/node runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "rabbitmq/node {arguments:?}: {stderr}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }
}

impl Drop for PrivateNode {
    fn drop(&mut self) {
        let _ = std::process::Command::new(script()).arg("kill").arg(&self.directory).stderr(Stdio::null()).status();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("rabbitmq/node")
}
