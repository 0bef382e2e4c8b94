//! An instance of Warren within the test's own process.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use warren::app::App;
use warren::broker::Delivery;
use warren::broker::memory::MemoryExchange;
use warren::config::{BrokerChoice, Config, MetricsListen};
use warren::instance::InstanceName;

use super::broker::Cluster;
use super::client::{Client, get_json};
use super::json::JsonClient;
use super::metrics::Metrics;
use super::{eventually, within_deadline};

pub struct Instance {
    pub address: SocketAddr,
    pub name: InstanceName,
    pub metrics_address: Option<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<anyhow::Result<()>>,
}

/// Any free ports of loopback, and else the defaults.
pub fn config() -> Config {
    let metrics_listen = MetricsListen::At(([127, 0, 0, 1], 0).into());
    Config { host: [127, 0, 0, 1].into(), port: 0, metrics_listen, ..Config::default() }
}

impl Instance {
    /// Runs an instance of its own in-process broker.
    pub async fn start(config: Config) -> Instance {
        Self::start_on(config, &MemoryExchange::default()).await
    }

    /// Runs an instance whose in-process broker is `exchange`.
    pub async fn start_on(config: Config, exchange: &MemoryExchange) -> Instance {
        let app = App::bind(config).expect("a free port").with_exchange(exchange.clone());
        let (stop, stopped) = oneshot::channel();
        let (address, metrics_address, name) = (app.address(), app.metrics_address(), app.instance().clone());
        let running = tokio::spawn(app.run(async {
            let _ = stopped.await;
        }));
        Instance { address, name, metrics_address, stop: Some(stop), running }
    }

    /// Runs an instance in a cluster on RabbitMQ, and waits until it is ready.
    pub async fn join(config: Config, cluster: &Cluster) -> Instance {
        let instance = Self::start(cluster.configure(config)).await;
        instance.ready().await;
        instance
    }

    pub async fn ready(&self) {
        self.answers("the instance is ready", |status, _| status == 200).await;
    }

    pub async fn unready(&self) {
        self.answers("the instance is not ready", |status, _| status == 503).await;
    }

    /// Waits until `GET /readyz` answers so.
    pub async fn answers(&self, what: &str, expected: impl Fn(u16, &Value) -> bool) {
        eventually(what, || async {
            let (status, body) = get_json(self.address, "/readyz").await;
            expected(status, &body)
        })
        .await;
    }

    /// Its metrics, which it must serve.
    pub fn metrics(&self) -> Metrics {
        Metrics { address: self.metrics_address.expect("metrics are served") }
    }

    /// A session on `/message`.
    pub async fn connect(&self) -> Client {
        Client::connect(self.address).await
    }

    /// A session on a topic, or on all that a pattern matches, as it stands in a URL's path.
    pub async fn subscribe(&self, topic: &str) -> Client {
        Client::subscribe(self.address, topic).await
    }

    /// A session that speaks `warren.v1.json`.
    pub async fn converse(&self) -> JsonClient {
        JsonClient::connect(self.address).await
    }

    pub async fn connect_many(&self, count: usize) -> Vec<Client> {
        futures_util::future::join_all((0..count).map(|_| self.connect())).await
    }

    /// Stops in good order; the result is that of the run.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.stop.take());
        within_deadline("the instance stops", self.running).await.expect("no panic")
    }

    /// What the run came to when it ends by itself.
    pub async fn ended(self) -> anyhow::Result<()> {
        within_deadline("the instance ends", self.running).await.expect("no panic")
    }
}

/// The in-process broker, or a cluster on RabbitMQ: what the contract's cases run against.
pub enum Carrier {
    Memory(MemoryExchange),
    RabbitMq(Cluster, Delivery),
}

impl Carrier {
    pub async fn instance(&self) -> Instance {
        self.instance_with(config()).await
    }

    pub async fn instance_with(&self, config: Config) -> Instance {
        match self {
            Carrier::Memory(exchange) => {
                Instance::start_on(Config { broker: BrokerChoice::Memory, ..config }, exchange).await
            }
            Carrier::RabbitMq(cluster, delivery) => {
                Instance::join(Config { delivery: *delivery, ..config }, cluster).await
            }
        }
    }

    /// Whether clients can go on where they were.
    pub fn resumes(&self) -> bool {
        !matches!(self, Carrier::RabbitMq(_, Delivery::Queue))
    }

    pub async fn instances(&self, count: usize) -> Vec<Instance> {
        futures_util::future::join_all((0..count).map(|_| self.instance())).await
    }
}
