//! Connecting: endpoints tried in turn, and the pools that hold the connections.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_rs::Runtime;
use deadpool_lapin::{Manager, Object, Pool, PoolError};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties, Error};

use super::Settings;
use super::link::{Trouble, is_of_one_channel};
use super::transport::{Attempt, Kit, Tls};

/// Time for one endpoint to let us in: TCP, TLS and the AMQP handshake. Its `connection_timeout` (in ms) replaces it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// One node of the broker.
#[derive(Clone)]
pub struct Endpoint {
    /// As it may be shown to anyone, in `readyz` too: without user and password.
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

    fn pool(&self, name: &str, attempt: Attempt) -> Pool {
        let name = name.to_owned();
        let properties = move || ConnectionProperties::default().with_connection_name(name.as_str().into());
        let kit = Kit::new(self.tls(), attempt);
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
    pools: Vec<EndpointPool>,
    /// Which is tried first: the one that served last, or the one behind it that failed last.
    next: usize,
}

struct EndpointPool {
    endpoint: Endpoint,
    pool: Pool,
    attempt: Attempt,
}

impl Endpoints {
    pub fn new(settings: &Settings, role: &str) -> Endpoints {
        let name = format!("warren {} {role}", settings.incarnation.name());
        let pools = settings.endpoints.iter().map(|endpoint| {
            let attempt = Attempt::default();
            EndpointPool { pool: endpoint.pool(&name, attempt.clone()), endpoint: endpoint.clone(), attempt }
        });
        Endpoints { pools: pools.collect(), next: 0 }
    }

    /// A connection to the first endpoint that lets us in. If none does, the trouble with each.
    pub async fn connect(&mut self) -> Result<Object, Trouble> {
        let mut troubles = Vec::new();
        for _ in 0..self.pools.len() {
            let pool = &self.pools[self.next];
            match pool.connect().await {
                Ok(connection) => {
                    log::debug!("connected to {}", pool.endpoint);
                    return Ok(connection);
                }
                Err(trouble) => troubles.push(trouble.at(&pool.endpoint)),
            }
            self.skip();
        }
        Err(Trouble::all(troubles))
    }

    /// Turns to the next endpoint: this one lets us in but does not serve us.
    pub fn skip(&mut self) {
        self.next = (self.next + 1) % self.pools.len();
    }
}

impl EndpointPool {
    async fn connect(&self) -> Result<Object, Trouble> {
        let timeout = self.endpoint.connect_timeout();
        // Also when this future is dropped: lapin's thread would wait for the broker for ever.
        let abandon = Abandon(&self.attempt);
        let authority = &self.endpoint.uri.authority;
        let connecting = async {
            let begun = self.attempt.begin(&authority.host, authority.port).await;
            begun.map_err(|error| Trouble::passing(error.to_string()))?;
            self.pool.get().await.map_err(|error| match error {
                PoolError::Backend(error) => error.into(),
                other => Trouble::passing(other.to_string()),
            })
        };
        match tokio::time::timeout(timeout, connecting).await {
            Ok(connected) => {
                if connected.is_ok() {
                    abandon.not();
                }
                connected
            }
            Err(_) => Err(Trouble::passing(format!("no answer within {} ms", timeout.as_millis()))),
        }
    }
}

/// Gives an attempt up when dropped.
struct Abandon<'a>(&'a Attempt);

impl Abandon<'_> {
    /// The attempt has succeeded.
    fn not(self) {
        self.0.succeeded();
    }
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// Channels that the broker may have closed before a connection is renewed: their numbers are used up (see [`open_channel`]),
/// and of 2,047 (`channel_max`) the rest is for use.
pub const CLOSED_CHANNELS_MAX: usize = 500;

/// A new channel. lapin (4.12.3) keeps the number of a channel that the broker has closed, and when it is that number's turn
/// again answers with the old error: then the next one is tried, for as long as there are any.
pub async fn open_channel(connection: &Connection) -> Result<Channel, Error> {
    loop {
        match connection.create_channel().await {
            Err(error) if is_of_one_channel(&error) => {}
            opened => return opened,
        }
    }
}

/// Closes a connection that is of no more use, and that nobody else holds any more.
pub async fn release(connection: Arc<Object>) {
    if let Some(connection) = Arc::into_inner(connection) {
        discard(connection).await;
    }
}

/// Closes a connection that is of no more use, so that the pool does not hand it out again.
pub async fn discard(connection: Object) {
    let connection = Object::take(connection);
    let closing = connection.close(200, "done".into());
    // A dead connection needs no good-bye, and a blocked one hears none.
    let _: Result<Result<(), Error>, _> = tokio::time::timeout(Duration::from_secs(1), closing).await;
}
