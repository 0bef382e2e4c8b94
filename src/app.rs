//! The composition root: builds an instance from its configuration, runs it, stops it. Nothing else knows which
//! broker is in use.

mod identification;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, oneshot, watch};

use crate::broker::memory::MemoryExchange;
use crate::broker::rabbitmq::{Endpoint, NameTaken, RabbitMq, Settings, SpoolBounds};
use crate::broker::{Arrivals, Broker, DELIVERIES_WAITING_MAX, Delivery, KeyBounds, Link, MailboxBounds, Mailboxes};
use crate::config::{ApiKeys, BrokerChoice, BrokerUri, Config, MetricsListen};
use crate::http::{
    self, Access, Api, ApiLimits, BindError, HandshakeLimits, Listener, NoReplay, Scrape, Serving, Site, Whereabouts,
};
use crate::hub::{self, Batching, HistoryLimits, Hub, Post, SessionNamed};
use crate::instance::{Incarnation, InstanceName};
use crate::interest::Interest;
use crate::message::MessageIds;
use crate::metrics::{Dropped, Metrics};
use crate::open_files;
use crate::place::Delivered;
use crate::presence::Presence;
use crate::session::{Limits, NoResumption, OfUsers, Rate, Sessions};
use crate::stop::{self, Patience};
use crate::users::{Manner, Users};

/// Files that the process needs beside its sessions: listener, logs, broker connections, requests under way.
const FILES_KEPT_FREE: u64 = 128;

/// Time for publishing requests to be answered once all messages are settled.
const LAST_ANSWERS_TIMEOUT: Duration = Duration::from_secs(1);

/// What JSON has around a message: names of fields, a topic, a key, and the end of base64.
const ENVELOPE_BYTES_MAX: usize = 4 * 1024;

/// Word from the broker should it never let this instance in.
pub(crate) type Refused = Option<oneshot::Receiver<NameTaken>>;

/// What carries messages, and what keeps those for users.
type Carriage = (Arc<dyn Broker>, Arc<dyn Mailboxes>, Refused);

/// One instance, bound to its port.
pub struct App {
    config: Config,
    listener: Listener,
    metrics_listener: Option<Listener>,
    incarnation: Incarnation,
    metrics: Metrics,
    exchange: MemoryExchange,
}

impl App {
    /// Binds the port and settles the instance's name.
    pub fn bind(config: Config) -> anyhow::Result<App> {
        let listener = Listener::bind(config.host, config.port).map_err(|error| {
            let option = match error.source.kind() {
                std::io::ErrorKind::AddrInUse | std::io::ErrorKind::PermissionDenied => {
                    format!("--port {}", config.port)
                }
                _ => format!("--host {}", config.host),
            };
            anyhow::Error::new(error).context(option)
        })?;
        let name = match &config.instance {
            Some(name) => name.clone(),
            None => InstanceName::from_address(own_address(), listener.address().port()),
        };
        let metrics_listener = metrics_listener(config.metrics_listen)?;
        let (incarnation, metrics) = (Incarnation::begin(name.clone()), Metrics::new(&name));
        Ok(App { config, listener, metrics_listener, incarnation, metrics, exchange: MemoryExchange::default() })
    }

    /// Uses `exchange` for the in-process broker, so that several instances of one process hear each other.
    pub fn with_exchange(self, exchange: MemoryExchange) -> App {
        App { exchange, ..self }
    }

    /// The bound address, with the port that was taken.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Where the metrics are served, if they are.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_listener.as_ref().map(Listener::address)
    }

    /// The instance's name.
    pub fn instance(&self) -> &InstanceName {
        self.incarnation.name()
    }

    /// Where a browser finds the page.
    pub fn url(&self) -> String {
        let address = self.address();
        if address.ip().is_unspecified() {
            format!("http://localhost:{}/", address.port())
        } else {
            format!("http://{address}/")
        }
    }

    /// Serves until `shutdown` is ready, then closes the sessions in good order and leaves the broker.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let interest = Arc::new(match &self.config.broker {
            BrokerChoice::Memory => Interest::in_everything(),
            BrokerChoice::Amqp(_) => Interest::by_keys(),
        });
        let workers = tokio::runtime::Handle::current().metrics().num_workers();
        let hub = Hub::start(workers, interest.clone(), self.metrics.hub.clone());
        let (deliveries, delivered) = mpsc::channel(DELIVERIES_WAITING_MAX);
        let message_ids = MessageIds::new(self.incarnation.clone());
        let (broker, mailboxes, refused) = self.broker(deliveries, interest.clone(), &message_ids)?;
        let presence = Presence::new(message_ids.clone(), self.metrics.presence.clone());
        let users = Users::start(
            self.instance().clone(),
            broker.clone(),
            mailboxes,
            Arc::new(presence.clone()),
            manner(&self.config),
            self.metrics.letters.clone(),
        );
        let verifier = identification::verifier(&self.config)?;
        let sessions = Sessions::new(
            limits(&self.config),
            hub.clone(),
            broker.clone(),
            message_ids.clone(),
            self.metrics.sessions.clone(),
            OfUsers { verifier: verifier.clone(), presence: presence.clone(), users: users.clone() },
        );
        bound_sessions(self.config.sessions_per_user_max, &presence, &sessions);
        log::info!("instance {} listens on {}; broker: {}", self.instance(), self.address(), self.config.broker);
        let replay = replay(&self.config);
        let identities = Arc::new(identification::identities(&self.config, verifier.clone())?);
        let site = Arc::new(Site {
            incarnation: self.incarnation.clone(),
            sessions: sessions.clone(),
            link: broker.link(),
            api: Api::new(broker.clone(), users.clone(), message_ids, api_limits(&self.config)),
            access: Access::new(api_keys(&self.config)?, identities.clone()).for_development(self.config.dev_sign_in),
            identities,
            sign_in: identification::sign_in(&self.config)?,
            whereabouts: Whereabouts { presence: presence.clone(), broker: broker.clone(), hub: hub.clone() },
            metrics: self.metrics.http.clone(),
            interest,
            allowed_origins: self.config.allowed_origins.clone(),
            trusted_proxies: self.config.trusted_proxies.clone(),
            compression: self.config.compression,
            replay,
        });
        let handshakes = handshake_limits(&self.config);
        let batching = self.batching(replay.ok(), broker.link(), &sessions, &users, &presence);
        let mut patience = Patience {
            delay: Duration::from_millis(self.config.drain_delay_ms),
            timeout: Duration::from_millis(self.config.drain_timeout_ms),
        };
        let present = tokio::spawn(presence.clone().run(broker.clone(), hub.clone()));
        let fan_out = tokio::spawn(hub.run(batching, delivered));
        let sweep = tokio::spawn(sessions.clone().sweep());
        let letters = tokio::spawn(users.sweep());
        let keys = verifier.map(|verifier| tokio::spawn(verifier.keep_fresh()));
        let scrape = Scrape { metrics: self.metrics, sessions: sessions.clone(), link: broker.link() };
        let scraping = serve_metrics(self.metrics_listener, scrape, handshakes)?;
        let serving = self.listener.serve("http", http::routes(site.clone()), handshakes, sessions.metrics().clone());
        let mut serving = serving.context("cannot start the HTTP thread")?;
        let outcome = tokio::select! {
            () = shutdown => Ok(()),
            taken = name_taken(refused) => Err(taken.into()),
        };
        if outcome.is_err() {
            // It never took anybody, so nobody needs to notice.
            patience.delay = Duration::ZERO;
        }
        stop::in_order(&sessions, &presence, &mut serving, &*broker, &patience).await;
        // What became of their messages is known by now: it is a matter of writing it.
        let _ = tokio::time::timeout(LAST_ANSWERS_TIMEOUT, site.api.all_answered()).await;
        serving.stop().await;
        sweep.abort();
        letters.abort();
        if let Some(keys) = keys {
            keys.abort();
        }
        present.abort();
        fan_out.abort();
        // Last, so that the stop can be watched.
        if let Some(scraping) = scraping {
            scraping.stop().await;
        }
        outcome
    }

    fn batching(
        &self,
        history: Option<HistoryLimits>,
        link: watch::Receiver<Link>,
        sessions: &Arc<Sessions>,
        users: &Arc<Users>,
        presence: &Presence,
    ) -> Batching {
        let (users, presence) = (Arc::downgrade(users), presence.clone());
        Batching {
            own: self.incarnation.clone(),
            compression_bytes_min: self.config.compression_bytes_min,
            coalesce: Duration::from_millis(self.config.coalesce_ms),
            history,
            resume_bytes_max: if resumption(&self.config).is_ok() { self.config.resume_bytes_max } else { 0 },
            looks_back: Arc::new(move || link.borrow().attachments == 0),
            session_named: self.session_named(sessions),
            post: Post {
                to_user: Arc::new(move |user, message| {
                    if let Some(users) = users.upgrade() {
                        users.give_copy(user, message);
                    }
                }),
                to_instance: Arc::new(move |message| presence.take(message)),
            },
        }
    }

    /// Finds who is meant, and counts what is said to who is gone.
    fn session_named(&self, sessions: &Arc<Sessions>) -> SessionNamed {
        // The broker ends the hub, and the sessions hold the broker: so the hub must not hold them.
        let (sessions, metrics) = (Arc::downgrade(sessions), self.metrics.broker.clone());
        Arc::new(move |name| {
            let session = sessions.upgrade().and_then(|sessions| sessions.named(name));
            if session.is_none() {
                metrics.dropped(Dropped::NoSession);
            }
            session.map(|session| session as Arc<dyn hub::Listener>)
        })
    }

    /// Which run this is.
    pub(crate) fn incarnation(&self) -> &Incarnation {
        &self.incarnation
    }

    /// The broker that the configuration names.
    pub(crate) fn broker(
        &self,
        deliveries: mpsc::Sender<Delivered>,
        interest: Arc<Interest>,
        message_ids: &MessageIds,
    ) -> anyhow::Result<Carriage> {
        let config = &self.config;
        let bounds = mailbox_bounds(config);
        let keys = KeyBounds {
            window: Duration::from_millis(config.idempotency_window_ms),
            keys_max: config.idempotency_keys_max,
        };
        match &config.broker {
            BrokerChoice::Memory => {
                let arrivals = Arrivals::new(keys, self.metrics.broker.clone());
                let mailboxes = Arc::new(self.exchange.mailboxes(bounds));
                Ok((Arc::new(self.exchange.attach(self.instance().clone(), deliveries, arrivals)), mailboxes, None))
            }
            BrokerChoice::Amqp(uris) => {
                let settings = Settings {
                    endpoints: endpoints(config, uris)?,
                    prefix: config.prefix.to_string(),
                    incarnation: self.incarnation.clone(),
                    message_ids: message_ids.clone(),
                    delivery: config.delivery,
                    spool: SpoolBounds {
                        messages_max: config.spool_messages_max,
                        bytes_max: config.spool_bytes_max,
                        age_max: Duration::from_millis(config.spool_age_max_ms),
                        wait: Duration::from_millis(config.spool_wait_ms),
                        keep: match config.delivery {
                            Delivery::Queue => Duration::from_millis(config.resend_ms),
                            // What is confirmed is in the stream.
                            Delivery::Stream => Duration::ZERO,
                        },
                    },
                    queue_bytes_max: config.broker_queue_bytes_max,
                    publish_window: config.publish_window.into(),
                    publish_timeout: Duration::from_millis(config.publish_timeout_ms),
                    message_bytes_max: config.message_bytes_max,
                    keys,
                    mailboxes: bounds,
                    topic_linger: Duration::from_millis(config.topic_linger_ms),
                    metrics: self.metrics.broker.clone(),
                };
                let (broker, refused) = RabbitMq::start(settings, interest, deliveries);
                let mailboxes = Arc::new(broker.mailboxes());
                Ok((Arc::new(broker), mailboxes, Some(refused)))
            }
        }
    }
}

/// How many sessions a user may have, if that is bounded.
fn bound_sessions(sessions_max: u32, presence: &Presence, sessions: &Arc<Sessions>) {
    if let (Ok(sessions_max @ 1..), sessions) = (usize::try_from(sessions_max), Arc::downgrade(sessions)) {
        presence.bound_sessions(sessions_max, move |number| {
            if let Some(sessions) = sessions.upgrade() {
                sessions.close_too_many(number);
            }
        });
    }
}

/// Nobody's start fails for metrics that it did not ask for.
fn metrics_listener(choice: MetricsListen) -> anyhow::Result<Option<Listener>> {
    match choice {
        MetricsListen::Off => Ok(None),
        MetricsListen::At(address) => Listener::bind(address.ip(), address.port())
            .map(Some)
            .map_err(|error| anyhow::Error::new(error).context(format!("--metrics-listen {address}"))),
        MetricsListen::Auto => {
            let bound = Listener::bind_first(Ipv4Addr::LOCALHOST.into(), MetricsListen::AUTO_PORTS);
            if let Err(BindError { address, source }) = &bound {
                log::warn!("no metrics: cannot listen on {address}: {source} (--metrics-listen)");
            }
            Ok(bound.ok())
        }
    }
}

fn serve_metrics(
    listener: Option<Listener>,
    scrape: Scrape,
    handshakes: HandshakeLimits,
) -> anyhow::Result<Option<Serving>> {
    let Some(listener) = listener else { return Ok(None) };
    log::info!("metrics are at http://{}/metrics", listener.address());
    let counted = scrape.metrics.sessions.clone();
    let serving = listener.serve("metrics", http::scrape_routes(Arc::new(scrape)), handshakes, counted);
    serving.map(Some).context("cannot start the metrics thread")
}

fn endpoints(config: &Config, uris: &[BrokerUri]) -> anyhow::Result<Vec<Endpoint>> {
    let ca_pem = match &config.broker_ca_file {
        Some(path) => {
            let shown = format!("--broker-ca-file {}", path.display());
            Some(std::fs::read_to_string(path).context(shown)?)
        }
        None => None,
    };
    let endpoint =
        |uri: &BrokerUri| Endpoint::new(uri.expose(), uri.address(), ca_pem.clone(), config.broker_heartbeat_s);
    uris.iter().map(endpoint).collect::<Result<_, _>>().context("--broker")
}

/// Ready only if the broker refuses this instance for good.
async fn name_taken(refused: Refused) -> NameTaken {
    if let Some(refused) = refused
        && let Ok(taken) = refused.await
    {
        return taken;
    }
    std::future::pending().await
}

/// This host's address as others see it; loopback on a host without network.
fn own_address() -> IpAddr {
    local_ip_address::local_ip().unwrap_or_else(|error| {
        log::warn!("this host's address is not known ({error}): the instance is named after 127.0.0.1");
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    })
}

/// How much of the past is kept for those who ask for it. Only where all instances have one past.
fn replay(config: &Config) -> Result<HistoryLimits, NoReplay> {
    let limits = HistoryLimits {
        bytes_max: config.history_bytes_max,
        messages_max: config.history_messages_max,
        age_max: Duration::from_secs(config.history_age_s),
    };
    match &config.broker {
        BrokerChoice::Amqp(_) if config.delivery == Delivery::Queue => Err(NoReplay::Queues),
        _ if limits.keep_nothing() => Err(NoReplay::SwitchedOff),
        BrokerChoice::Amqp(_) | BrokerChoice::Memory => Ok(limits),
    }
}

/// Whether sessions can go on where they were: only where all instances have one past.
fn resumption(config: &Config) -> Result<(), NoResumption> {
    match &config.broker {
        BrokerChoice::Amqp(_) if config.delivery == Delivery::Queue => Err(NoResumption::Queues),
        _ if config.resume_bytes_max == 0 => Err(NoResumption::SwitchedOff),
        BrokerChoice::Amqp(_) | BrokerChoice::Memory => Ok(()),
    }
}

fn manner(config: &Config) -> Manner {
    Manner {
        acknowledgement_timeout: Duration::from_millis(config.letter_ack_timeout_ms),
        unread: config.unread,
        mailbox_idle: Duration::from_secs(config.mailbox_idle_s),
    }
}

fn mailbox_bounds(config: &Config) -> MailboxBounds {
    MailboxBounds {
        messages_max: config.unread_messages_max,
        bytes_max: config.unread_bytes_max,
        age_max: Duration::from_secs(config.unread_age_s),
        idle_max: Duration::from_secs(config.mailbox_idle_s),
    }
}

fn api_keys(config: &Config) -> anyhow::Result<Option<ApiKeys>> {
    let read = |path: &PathBuf| ApiKeys::read(path).with_context(|| format!("--api-keys-file {}", path.display()));
    config.api_keys_file.as_ref().map(read).transpose()
}

fn api_limits(config: &Config) -> ApiLimits {
    ApiLimits {
        message_bytes_max: config.message_bytes_max,
        json_bytes_max: config.publish_body_bytes_max.max(config.message_bytes_max / 3 * 4 + ENVELOPE_BYTES_MAX),
        batch_max: config.publish_batch_max,
        requests_max: config.publish_requests_max,
        body_timeout: Duration::from_millis(config.handshake_timeout_ms),
        spool_wait: Duration::from_millis(config.spool_wait_ms),
        answer_wait: Duration::from_millis(config.publish_answer_ms),
    }
}

fn handshake_limits(config: &Config) -> HandshakeLimits {
    HandshakeLimits {
        timeout: Duration::from_millis(config.handshake_timeout_ms),
        under_way_max: config.handshakes_max,
        head_bytes_max: config.request_head_bytes_max,
        answer_timeout: Duration::from_millis(config.spool_wait_ms + config.publish_answer_ms),
    }
}

fn limits(config: &Config) -> Limits {
    let millis = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    Limits {
        message_bytes_max: config.message_bytes_max,
        rate: (config.messages_per_second_max > 0)
            .then_some(Rate { per_second: config.messages_per_second_max, burst: config.messages_burst_max }),
        outbox_bytes_max: config.outbox_bytes_max,
        slow_reader: config.slow_reader,
        sessions_max: sessions_max(config.sessions_max),
        sessions_per_address_max: config.sessions_per_address_max,
        ping_interval_ms: millis(config.ping_interval_ms),
        idle_timeout_ms: millis(config.idle_timeout_ms),
        topics_per_session_max: config.topics_per_session_max,
        pending_requests_max: config.pending_requests_max,
        close_timeout_ms: millis(config.close_timeout_ms),
        retry_after_max_ms: millis(config.retry_after_max_ms),
        resumption: resumption(config),
        answer_keep_alive: config.answer_keep_alive,
    }
}

/// What is asked for, as far as the limit of open files allows (0 asks for that): past it connections could not even
/// be refused. The soft limit is raised to the hard one first.
fn sessions_max(asked: usize) -> usize {
    let files = open_files::raise();
    let allowed = usize::try_from(files.saturating_sub(FILES_KEPT_FREE).max(1)).unwrap_or(usize::MAX);
    if asked > allowed {
        log::warn!("--sessions-max {asked}: the limit of open files ({files}) allows {allowed}");
    }
    if asked == 0 { allowed } else { asked.min(allowed) }
}
