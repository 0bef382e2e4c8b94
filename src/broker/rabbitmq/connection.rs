//! Connecting: endpoints tried in turn, TLS, and the pools that hold the connections.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::{Duration, Instant};

use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::Task;
use async_rs::{Runtime, Tokio};
use deadpool_lapin::{Manager, Object, Pool, PoolError};
use futures_util::io::{AsyncRead, AsyncWrite};
use lapin::tcp::{AsyncTcpStream, OwnedTLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{ConnectionProperties, Error};

use super::Settings;
use super::link::Trouble;

/// Time for one endpoint to let us in: TCP, TLS and the AMQP handshake. Its `connection_timeout` (in ms) replaces it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// One node of the broker.
#[derive(Clone)]
pub struct Endpoint {
    /// The URI as it may be shown: without its password.
    shown: String,
    uri: AMQPUri,
    /// PEM of the authorities to trust beside the system's, for `amqps`.
    ca_pem: Option<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("{shown}: {why}")]
pub struct InvalidEndpoint {
    shown: String,
    why: String,
}

impl Endpoint {
    /// Takes a URI and how it may be shown. `heartbeat_s` counts where the URI names none.
    pub fn new(
        uri: &str,
        shown: String,
        ca_pem: Option<String>,
        heartbeat_s: u16,
    ) -> Result<Endpoint, InvalidEndpoint> {
        let mut uri = AMQPUri::from_str(uri).map_err(|why| InvalidEndpoint { shown: shown.clone(), why })?;
        uri.query.heartbeat.get_or_insert(heartbeat_s);
        Ok(Endpoint { shown, uri, ca_pem })
    }

    fn pool(&self, name: &str) -> Pool {
        let name = name.to_owned();
        let properties = move || ConnectionProperties::default().with_connection_name(name.as_str().into());
        let kit = Kit { tokio: Tokio::current(), tls: self.tls() };
        // TLS, where wanted, is done by the kit beneath lapin: the pool's manager has no way to hand it a CA.
        let plain = AMQPUri { scheme: AMQPScheme::AMQP, ..self.uri.clone() };
        Pool::builder(Manager::new(address(&plain), properties, Runtime::new(kit)))
            .max_size(1)
            .build()
            .expect("a pool without timeouts needs no runtime of its own")
    }

    fn connect_timeout(&self) -> Duration {
        self.uri.query.connection_timeout.map_or(CONNECT_TIMEOUT, Duration::from_millis)
    }

    fn tls(&self) -> Option<Tls> {
        let host = self.uri.authority.host.clone();
        (self.uri.scheme == AMQPScheme::AMQPS).then(|| Tls { host, ca_pem: self.ca_pem.clone() })
    }
}

/// The URI as text, since the pool's manager takes text.
fn address(uri: &AMQPUri) -> String {
    let encode =
        |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20");
    let authority = &uri.authority;
    let host = &authority.host;
    let mut query = vec![];
    query.extend(uri.query.heartbeat.map(|value| format!("heartbeat={value}")));
    query.extend(uri.query.frame_max.map(|value| format!("frame_max={value}")));
    query.extend(uri.query.channel_max.map(|value| format!("channel_max={value}")));
    query.extend(
        uri.query
            .auth_mechanism
            .as_ref()
            .map(|value| format!("auth_mechanism={}", encode(value.name()).to_lowercase())),
    );
    format!(
        "amqp://{}:{}@{host}:{}/{}?{}",
        encode(&authority.userinfo.username),
        encode(&authority.userinfo.password),
        authority.port,
        encode(&uri.vhost),
        query.join("&"),
    )
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// The nodes of the broker, and one pooled connection to one of them.
pub struct Endpoints {
    pools: Vec<(Endpoint, Pool)>,
    /// Which is tried first: the one that served last, or the one behind it that failed last.
    next: usize,
}

impl Endpoints {
    pub fn new(settings: &Settings, role: &str) -> Endpoints {
        let name = format!("warren {} {role}", settings.incarnation.name());
        let pools = settings.endpoints.iter().map(|endpoint| (endpoint.clone(), endpoint.pool(&name))).collect();
        Endpoints { pools, next: 0 }
    }

    /// A connection to the first endpoint that lets us in. If none does, the trouble with each.
    pub async fn connect(&mut self) -> Result<Object, Trouble> {
        let mut troubles = Vec::new();
        for _ in 0..self.pools.len() {
            let (endpoint, pool) = &self.pools[self.next];
            match Self::connect_to(pool, endpoint.connect_timeout()).await {
                Ok(connection) => {
                    log::debug!("connected to {endpoint}");
                    return Ok(connection);
                }
                Err(trouble) => troubles.push(trouble.at(endpoint)),
            }
            self.skip();
        }
        Err(Trouble::all(troubles))
    }

    /// Turns to the next endpoint: this one lets us in but does not serve us.
    pub fn skip(&mut self) {
        self.next = (self.next + 1) % self.pools.len();
    }

    async fn connect_to(pool: &Pool, timeout: Duration) -> Result<Object, Trouble> {
        match tokio::time::timeout(timeout, pool.get()).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(PoolError::Backend(error))) => Err(error.into()),
            Ok(Err(error)) => Err(Trouble::passing(error.to_string())),
            Err(_) => Err(Trouble::passing(format!("no answer within {} ms", timeout.as_millis()))),
        }
    }
}

/// Closes a connection that is of no more use, so that the pool does not hand it out again.
pub async fn discard(connection: Object) {
    let connection = Object::take(connection);
    let closing = connection.close(200, "done".into());
    // A dead connection needs no good-bye, and a blocked one hears none.
    let _: Result<Result<(), Error>, _> = tokio::time::timeout(Duration::from_secs(1), closing).await;
}

#[derive(Clone, Debug)]
struct Tls {
    host: String,
    ca_pem: Option<String>,
}

/// tokio as lapin's runtime, with TLS on the connections it makes where it is wanted.
#[derive(Clone, Debug)]
struct Kit {
    tokio: Tokio,
    tls: Option<Tls>,
}

impl RuntimeKit for Kit {}

impl Executor for Kit {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.tokio.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(&self, future: F) -> Task<Self::Task<T>> {
        self.tokio.spawn(future)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(&self, work: F) -> Task<Self::Task<T>> {
        self.tokio.spawn_blocking(work)
    }
}

impl Reactor for Kit {
    type TcpStream = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;
    type Sleep = <Tokio as Reactor>::Sleep;

    /// lapin registers no sockets of ours; it asks for connections.
    fn register<H: io::Read + io::Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Self::TcpStream, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.tokio.sleep(duration)
    }

    fn interval(&self, period: Duration) -> impl futures_util::Stream<Item = Instant> + Send + 'static {
        self.tokio.interval(period)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let (runtime, tls) = (Runtime::new(self.tokio.clone()), self.tls.clone());
        async move {
            let stream = AsyncTcpStream::connect(&runtime, address).await?;
            match tls {
                None => Ok(stream),
                Some(Tls { host, ca_pem }) => {
                    let config = OwnedTLSConfig { identity: None, cert_chain: ca_pem };
                    stream.into_tls(&host, config.as_ref()).await
                }
            }
        }
    }
}
