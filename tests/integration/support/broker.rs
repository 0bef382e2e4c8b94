//! RabbitMQ: the shared one that `make test` provides, private nodes that a test may kill, and an AMQP program of
//! somebody else's.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};
use warren::config::{BrokerChoice, Config};
use warren::place::TOPIC_PARTITIONS;

/// Who there is: their mailboxes are removed with their cluster.
pub const USERS: [&str; 3] = ["alice", "bob", "carol"];

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
        self.configure_through(&[&self.url], config)
    }

    /// As [`Cluster::configure`], but with these URLs to get there.
    pub fn configure_through(&self, urls: &[&str], config: Config) -> Config {
        let uris = urls.iter().map(|url| url.parse().expect("a valid AMQP URL")).collect();
        let prefix = self.prefix.parse().expect("a valid prefix");
        Config { broker: BrokerChoice::Amqp(uris), prefix, ..config }
    }

    pub fn broadcast(&self) -> String {
        format!("{}.broadcast", self.prefix)
    }

    pub fn beacon(&self) -> String {
        format!("{}.beacon", self.prefix)
    }

    pub fn stream(&self) -> String {
        format!("{}.stream", self.prefix)
    }

    pub fn topics(&self) -> String {
        format!("{}.topics", self.prefix)
    }

    pub fn peers(&self) -> String {
        format!("{}.peers", self.prefix)
    }

    pub fn direct(&self) -> String {
        format!("{}.direct", self.prefix)
    }

    pub fn inbound(&self) -> String {
        format!("{}.inbound", self.prefix)
    }

    /// The exchange, and the queue, by which programs write to users.
    pub fn users(&self) -> String {
        format!("{}.users", self.prefix)
    }

    /// The exchange for what is said to groups.
    pub fn groups(&self) -> String {
        format!("{}.groups", self.prefix)
    }

    pub fn mailbox(&self, user: &str) -> String {
        format!("{}.mailbox.{user}", self.prefix)
    }

    /// The queue of the example's group, and where what it gives up is parked.
    pub fn group(&self) -> [String; 2] {
        ["", ".dead"].map(|end| format!("{}.group.example{end}", self.prefix))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let (url, [group, parked]) = (self.url.clone(), self.group());
        let partitions = (0..TOPIC_PARTITIONS).map(|partition| format!("{}.{partition}", self.topics()));
        let mailboxes = USERS.iter().map(|user| self.mailbox(user));
        let own = [self.stream(), group, parked, self.users()];
        let queues: Vec<String> = partitions.chain(own).chain(mailboxes).collect();
        let others = ["partitions", "dead-letters", "peers", "groups", "users", "users.refused"];
        let others = others.map(|name| format!("{}.{name}", self.prefix));
        let own = [self.broadcast(), self.beacon(), self.topics(), self.direct(), self.inbound()];
        let names: Vec<String> = own.into_iter().chain(others).collect();
        let cleaning = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                // A private node may be gone already.
                let Ok(connection) = Connection::connect(&url, ConnectionProperties::default()).await else { return };
                for name in names {
                    let Ok(channel) = connection.create_channel().await else { return };
                    let _ = channel.exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default()).await;
                }
                for queue in queues {
                    let Ok(channel) = connection.create_channel().await else { return };
                    let _ = channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await;
                }
            });
        });
        let _ = cleaning.join();
    }
}

/// An AMQP program that knows nothing of Warren.
pub struct Alien {
    connection: Connection,
    pub channel: Channel,
}

impl Alien {
    pub async fn connect(url: &str) -> Alien {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.expect("RabbitMQ lets us in");
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        Alien { connection, channel }
    }

    pub async fn publish(&self, exchange: &str, key: &str, body: &[u8], properties: BasicProperties) {
        self.try_publish(exchange, key, body, properties).await.expect("confirmed");
    }

    /// As [`Alien::publish`], where RabbitMQ may refuse.
    pub async fn try_publish(
        &self,
        exchange: &str,
        key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<(), lapin::Error> {
        let options = BasicPublishOptions::default();
        let confirm = self.channel.basic_publish(exchange.into(), key.into(), options, body, properties).await?;
        confirm.await.map(|_| ())
    }

    /// What RabbitMQ says to a message that is to come back if there is no queue for it.
    pub async fn publish_mandatory(&self, exchange: &str, key: &str, body: &[u8]) -> Confirmation {
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let (exchange, key) = (exchange.into(), key.into());
        let confirm = self.channel.basic_publish(exchange, key, options, body, BasicProperties::default()).await;
        confirm.expect("published").await.expect("an answer")
    }

    /// Whether a queue stands.
    pub async fn finds(&self, queue: &str) -> bool {
        self.waiting(queue).await.is_some()
    }

    /// How many messages wait in a queue, if it stands. For RabbitMQ that is a use of it.
    pub async fn waiting(&self, queue: &str) -> Option<u32> {
        self.seen(queue).await.map(|queue| queue.message_count())
    }

    /// How many consume from a queue, if it stands: of a single active consumer's queue, those that wait as well.
    pub async fn consumers_of(&self, queue: &str) -> Option<u32> {
        self.seen(queue).await.map(|queue| queue.consumer_count())
    }

    async fn seen(&self, queue: &str) -> Option<lapin::Queue> {
        let channel = self.connection.create_channel().await.expect("a channel");
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        channel.queue_declare(queue.into(), options, FieldTable::default()).await.ok()
    }

    pub async fn delete_queue(&self, queue: &str) {
        self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.expect("deleted");
    }

    /// Binds a queue of its own to `exchange` and consumes from it.
    pub async fn listen(&self, exchange: &str) -> lapin::Consumer {
        self.listen_to(exchange, "").await
    }

    /// The same with a routing key.
    pub async fn listen_to(&self, exchange: &str, key: &str) -> lapin::Consumer {
        let own = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        let queue = self.channel.queue_declare("".into(), own, FieldTable::default()).await.expect("a queue");
        let queue = queue.name().clone();
        let bind = QueueBindOptions::default();
        let bound = self.channel.queue_bind(queue.clone(), exchange.into(), key.into(), bind, FieldTable::default());
        bound.await.expect("bound");
        let all = BasicConsumeOptions { no_ack: true, ..Default::default() };
        self.channel.basic_consume(queue, "alien".into(), all, FieldTable::default()).await.expect("a consumer")
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

    /// A node that runs already, with everything of it in `directory`.
    pub(super) fn running(directory: PathBuf, url: &str) -> PrivateNode {
        PrivateNode { directory, extra_conf: None, url: url.to_owned() }
    }

    /// Starts it again after [`PrivateNode::stop`] or [`PrivateNode::kill`]: same port, same data.
    pub async fn restart(&self) {
        let port = self.url.rsplit(':').next().and_then(|rest| rest.split('/').next()).expect("a port");
        let port: u16 = port.parse().expect("a number");
        // Some other test may be looking for a port just now.
        super::eventually("its port is free", || async { std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() })
            .await;
        assert_eq!(self.command(&["start"]).await, self.url);
    }

    pub async fn stop(&self) {
        self.command(&["stop"]).await;
    }

    /// SIGSTOP: it answers nothing, and no connection ends.
    pub async fn pause(&self) {
        self.command(&["pause"]).await;
    }

    pub async fn resume(&self) {
        self.command(&["resume"]).await;
    }

    /// SIGKILL, as a crash would end it.
    pub async fn kill(&self) {
        self.command(&["kill"]).await;
    }

    /// `rabbitmqctl` against this node.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        self.command(&[&["ctl"], arguments].concat()).await
    }

    /// The rows of a listing of `rabbitmqctl` such as `list_queues name`, sorted.
    pub async fn list(&self, what: &[&str]) -> Vec<Vec<String>> {
        let listing = self.ctl(&[&["--quiet"], what, &["--no-table-headers"]].concat()).await;
        let mut rows: Vec<Vec<String>> =
            listing.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect();
        rows.sort();
        rows
    }

    async fn command(&self, arguments: &[&str]) -> String {
        let extra_conf = self.extra_conf.as_ref().map(|file| ("WARREN_RABBITMQ_EXTRA_CONF", file));
        run("rabbitmq/node", &self.directory, arguments, extra_conf).await
    }
}

impl Drop for PrivateNode {
    fn drop(&mut self) {
        kill("rabbitmq/node", &self.directory);
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A RabbitMQ cluster of the test's own: three nodes that are joined, each of which it may stop, kill and start again.
/// Its drop ends them and removes their data.
pub struct ThreeNodes {
    pub nodes: [PrivateNode; 3],
    directory: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

/// One cluster at a time: nine nodes on two cores take longer to elect a leader than anybody waits.
static TURN: Mutex<()> = Mutex::const_new(());

impl ThreeNodes {
    /// Starts them side by side and joins them; `name` is the test's.
    pub async fn start(name: &str) -> ThreeNodes {
        let turn = TURN.lock().await;
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let urls = run("rabbitmq/cluster", &directory, &["start", "3"], None).await;
        let urls: Vec<&str> = urls.lines().collect();
        assert_eq!(urls.len(), 3, "{urls:?}");
        let node = |index: usize| PrivateNode::running(directory.join((index + 1).to_string()), urls[index]);
        ThreeNodes { nodes: [0, 1, 2].map(node), directory, _turn: turn }
    }

    /// The URLs of all, that of node `first` first.
    pub fn urls_from(&self, first: usize) -> [&str; 3] {
        [0, 1, 2].map(|step| self.nodes[(first + step) % 3].url.as_str())
    }

    /// The names of the nodes that run, as node `witness` sees it.
    pub async fn running(&self, witness: usize) -> Vec<String> {
        let status = self.nodes[witness].ctl(&["cluster_status", "--formatter", "json"]).await;
        let status: Value = serde_json::from_str(&status).expect("JSON");
        let names = status["running_nodes"].as_array().expect("a list of nodes");
        names.iter().map(|name| name.as_str().expect("a name").to_owned()).collect()
    }
}

impl Drop for ThreeNodes {
    fn drop(&mut self) {
        kill("rabbitmq/cluster", &self.directory);
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// `SCRIPT VERB DIRECTORY ARGUMENTS…`; what it prints.
async fn run(script: &str, directory: &Path, arguments: &[&str], variable: Option<(&str, &PathBuf)>) -> String {
    let (verb, rest) = arguments.split_first().expect("a verb");
    let mut command = tokio::process::Command::new(in_repository(script));
    command.envs(variable).arg(verb).arg(directory).args(rest).stdin(Stdio::null());
    let output = command.output().await.expect("the script runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} {arguments:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// `SCRIPT kill DIRECTORY`, whether something runs there or not.
fn kill(script: &str, directory: &Path) {
    let _ = std::process::Command::new(in_repository(script)).arg("kill").arg(directory).stderr(Stdio::null()).status();
}

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
