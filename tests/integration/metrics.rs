//! `GET /metrics`: every family moves where the state does, and nobody but who runs the server sees it.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use warren::broker::memory::MemoryExchange;
use warren::broker::{Broker, Link, LinkState, NotAccepted, Receipt};
use warren::config::{Config, MetricsListen};
use warren::hub::Hub;
use warren::instance::{Incarnation, InstanceName};
use warren::interest::Interest;
use warren::message::{Message, MessageIds};
use warren::metrics::{self, Metrics, Readings};
use warren::presence::Presence;
use warren::session::{Channel, Sessions};

use crate::support::broker::{Alien, Cluster};
use crate::support::http::{head, request};
use crate::support::instance::{Instance, config};
use crate::support::of_users::{limits, of_users};
use crate::support::proxy::Proxy;
use crate::support::raw::wire::{self, ClientFrame};
use crate::support::raw::{KEY, Raw, handshake};
use crate::support::{eventually, within_deadline};

// --- the listener ---------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_have_a_listener_of_their_own_that_answers_get_alone() {
    let instance = Instance::start(config()).await;
    assert_eq!(request(instance.address, "GET /metrics", &[]).await.status, 404, "not on the public port");

    let address = instance.metrics().address;
    let answer = request(address, "GET /metrics", &[]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some(metrics::CONTENT_TYPE));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(answer.body.contains(&format!("name=\"{}\"", instance.name)), "{}", answer.body);
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = request(address, &format!("{method} /metrics"), &[]).await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET")), "{method}");
    }
    let mut connection = Raw::tcp(address).await;
    connection.send(head(address, "HEAD /metrics", &[("Connection", "close")])).await;
    let answer = String::from_utf8(connection.rest().await).expect("UTF-8");
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    for path in ["/", "/message", "/healthz", "/readyz", "/metrics/x"] {
        assert_eq!(request(address, &format!("GET {path}"), &[]).await.status, 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_can_be_switched_off() {
    let instance = Instance::start(Config { metrics_listen: MetricsListen::Off, ..config() }).await;
    assert_eq!(instance.metrics_address, None);
}

// --- sessions -------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_counted_when_it_comes_and_once_when_it_goes() {
    let instance = Instance::start(Config { message_bytes_max: 100, ..config() }).await;
    let shown = instance.metrics();
    let bad_text = ClientFrame::new(wire::TEXT, [0xFF]).bytes();
    let unknown_opcode = ClientFrame::new(3, "x").bytes();
    let endings: [(&str, &[u8]); 4] = [
        ("by_client", &wire::close(1000, b"")),
        ("invalid_data", &bad_text),
        ("protocol_error", &unknown_opcode),
        ("too_large", &wire::text(&"x".repeat(101))),
    ];
    for (index, (reason, bytes)) in endings.into_iter().enumerate() {
        let mut client = Raw::connect(instance.address).await;
        shown.show("warren_sessions_opened_total", index as f64 + 1.0).await;
        shown.show("warren_sessions", 1.0).await;
        client.send(bytes).await;
        client.closed().await;
        drop(client);
        shown.show("warren_sessions", 0.0).await;
        shown.show_closed(reason, 1).await;
    }
    let leave_by: [&dyn Fn(Raw); 3] = [&|client| drop(client), &|client| client.end_writing(), &Raw::reset];
    for (index, leave) in leave_by.into_iter().enumerate() {
        leave(Raw::connect(instance.address).await);
        shown.show_closed("lost", index + 1).await;
        shown.show("warren_sessions", 0.0).await;
    }
    for (reason, _) in endings {
        shown.show_closed(reason, 1).await;
    }
    assert_eq!(shown.value("warren_sessions_opened_total").await, 7.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_and_a_stop_are_reasons_to_close() {
    let limits = Config { ping_interval_ms: 100, idle_timeout_ms: 300, close_timeout_ms: 15_000, ..config() };
    let instance = Instance::start(Config { drain_timeout_ms: 15_000, ..limits }).await;
    let (shown, address) = (instance.metrics(), instance.address);
    let silent = Raw::connect(address).await;
    shown.show_closed("idle", 1).await;
    drop(silent);
    shown.show("warren_sessions", 0.0).await;

    let mut standing = Raw::tcp(address).await;
    standing.send(head(address, "GET /readyz", &[])).await;
    standing.answer().await;
    let reluctant = Raw::connect(address).await;
    let watching = async {
        shown.show_closed("going_away", 1).await;
        standing.send(handshake(address)).await;
        assert_eq!(standing.answer().await.status, 503);
        shown.show("warren_handshakes_refused_total{reason=\"stopping\"}", 1.0).await;
        drop(reluctant);
    };
    let (outcome, ()) = tokio::join!(instance.stop(), watching);
    outcome.expect("stopped in good order");
    eventually("the listener ends with the instance", || async { Raw::try_tcp(shown.address).await.is_err() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_slow_reader_shows_until_it_is_read_or_given_up() {
    let instance = Instance::start(Config { outbox_bytes_max: 32 * 1024 * 1024, ..config() }).await;
    let shown = instance.metrics();
    let (text, waiting) = ("x".repeat(60_000), "warren_outbox_waiting_bytes");
    let mut slow = Raw::connect_narrow(instance.address).await;
    let mut speaker = Raw::connect(instance.address).await;
    let mut said = 0;
    while shown.value(waiting).await == 0.0 {
        speaker.send(wire::text(&text)).await;
        speaker.receives(&[&text]).await;
        said += 1;
    }
    for _ in 0..said {
        slow.receives(&[&text]).await;
    }
    shown.show(waiting, 0.0).await;

    let series = "warren_sessions_closed_total{reason=\"too_slow\"}";
    assert_eq!(shown.value(series).await, 0.0);
    while shown.value(series).await == 0.0 {
        for _ in 0..20 {
            speaker.send(wire::text(&text)).await;
            speaker.receives(&[&text]).await;
        }
    }
    assert_eq!(shown.value(series).await, 1.0);
    drop(slow);
    shown.show(waiting, 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refused_handshake_has_its_reason() {
    let instance = Instance::start(Config { sessions_max: 1, ..config() }).await;
    let shown = instance.metrics();
    let _only = Raw::connect(instance.address).await;
    let complete = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", KEY),
    ];
    let cases = [
        ("not_an_upgrade", ("Upgrade", "h2c")),
        ("unknown_version", ("Sec-WebSocket-Version", "8")),
        ("bad_key", ("Sec-WebSocket-Key", "short")),
        ("bad_extensions", ("Sec-WebSocket-Extensions", ";")),
        ("foreign_origin", ("Origin", "https://evil.example")),
        ("full", ("X-Nothing", "wrong")),
    ];
    for (reason, changed) in cases {
        let series = format!("warren_handshakes_refused_total{{reason=\"{reason}\"}}");
        assert_eq!(shown.value(&series).await, 0.0, "{reason}");
        let kept = complete.iter().filter(|(name, _)| *name != changed.0);
        let headers: Vec<_> = kept.copied().chain([changed]).collect();
        assert!(request(instance.address, "GET /message", &headers).await.status >= 400, "{reason}");
        assert_eq!(shown.value(&series).await, 1.0, "{reason}");
    }
    assert_eq!(shown.value("warren_sessions_opened_total").await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_connection_that_is_cut_off_has_its_reason() {
    let instance = Instance::start(Config { handshake_timeout_ms: 300, ..config() }).await;
    let shown = instance.metrics();
    let says_nothing = String::new();
    let begins = "GET /message HTT".to_owned();
    let too_large = head(instance.address, "GET /healthz", &[("Cookie", &"x".repeat(100_000))]);
    let no_request = "\x16\x03\x01 is no request\r\n\r\n".to_owned();
    let cases = [
        ("silent", 1.0, says_nothing),
        ("silent", 2.0, begins),
        ("head_too_large", 1.0, too_large),
        ("malformed", 1.0, no_request),
    ];
    for (reason, count, bytes) in cases {
        let mut client = Raw::tcp(instance.address).await;
        // The server may hang up before it has read all.
        let _ = client.try_send(bytes).await;
        shown.show(&format!("warren_connections_cut_total{{reason=\"{reason}\"}}"), count).await;
    }
    // Who asks again and again is in time each time, but not for ever.
    let mut busy = Raw::tcp(instance.address).await;
    let too_long = "warren_connections_cut_total{reason=\"too_long\"}";
    within_deadline("the connection ends", async {
        while busy.try_send(head(instance.address, "GET /healthz", &[])).await.is_ok()
            && shown.value(too_long).await == 0.0
        {}
    })
    .await;
    shown.show(too_long, 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_too_many_connections_that_say_nothing_the_oldest_is_counted_as_cut_off() {
    let instance = Instance::start(Config { handshakes_max: 2, handshake_timeout_ms: 600_000, ..config() }).await;
    let shown = instance.metrics();
    let mut silent = Vec::new();
    for _ in 0..5 {
        silent.push(Raw::tcp(instance.address).await);
    }
    shown.show("warren_connections_cut_total{reason=\"too_many\"}", 3.0).await;
}

/// A broker that takes nothing.
struct Refusing(watch::Sender<Link>);

impl Broker for Refusing {
    fn publish(&self, _: Message, receipt: Receipt) -> BoxFuture<'_, ()> {
        receipt.settle(Err(NotAccepted::SpoolFull));
        std::future::ready(()).boxed()
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.0.subscribe()
    }

    fn finish_publishing(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_the_broker_refuses_is_a_reason_to_close() {
    let name = InstanceName::parse("a_1").expect("a name");
    let up = Link { kind: "refusing", publishing: LinkState::Up, consuming: LinkState::Up, attachments: 1 };
    let (metrics, link) = (Metrics::new(&name), watch::Sender::new(up.clone()));
    let (hub, ids) = (
        Hub::start(1, Arc::new(Interest::in_everything()), metrics.hub.clone()),
        MessageIds::new(Incarnation::begin(name)),
    );
    let broker = Arc::new(Refusing(link));
    let presence = Presence::new(ids.clone(), metrics.presence.clone());
    let of_users = of_users(&ids, broker.clone(), presence);
    let sessions = Sessions::new(limits(), hub, broker, ids, metrics.sessions.clone(), of_users);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound port");
    let (_client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let stream = accepted.expect("a connection").0.into_std().expect("a socket");

    let opening =
        sessions.open(sessions.admit(address.ip()).expect("there is room"), false, Channel::Broadcast(None), None);
    let opening = opening.expect("there is room");
    opening.begin(stream, &wire::text("hello")).expect("a session");
    let closed = "warren_sessions_closed_total{reason=\"not_accepted\"} 1\n";
    eventually("it is closed for that", || async {
        metrics.render(&Readings { outbox_bytes: 0, link: &up }).contains(closed)
    })
    .await;
}

// --- messages -------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_counted_as_they_come_in_and_as_they_go_out() {
    let instance = Instance::start(config()).await;
    let shown = instance.metrics();
    let mut sessions = [Raw::connect(instance.address).await, Raw::connect(instance.address).await];
    sessions[0].send([wire::text("ping"), wire::text("hello"), wire::binary(b"you")].concat()).await;
    for session in &mut sessions {
        session.receives(&["hello"]).await;
        session.receives_frame(wire::BINARY, b"you").await;
    }
    shown.show("warren_received_messages_total", 2.0).await;
    shown.show("warren_received_bytes_total", 8.0).await;
    shown.show("warren_broadcast_messages_total", 2.0).await;
    shown.show("warren_broadcast_bytes_total", 8.0).await;
    // To each of the two, with 2 bytes of header (RFC 6455 §5.2).
    shown.show("warren_deliveries_total", 4.0).await;
    shown.show("warren_delivered_bytes_total", 2.0 * 12.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_deliveries_count_by_what_is_sent() {
    let instance = Instance::start(config()).await;
    let mut plain = Raw::connect(instance.address).await;
    let mut inflating = Raw::connect_compressed(instance.address).await;
    let (before_plain, before_inflating) = (plain.received_bytes(), inflating.received_bytes());
    let text = "long ".repeat(1000);
    plain.send(wire::text(&text)).await;
    plain.receives(&[&text]).await;
    inflating.receives(&[&text]).await;
    let sent = plain.received_bytes() - before_plain + inflating.received_bytes() - before_inflating;
    assert!(sent < 2 * text.len());
    instance.metrics().show("warren_delivered_bytes_total", sent as f64).await;
    instance.metrics().show("warren_broadcast_bytes_total", text.len() as f64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latencies_are_observed_and_end_to_end_only_on_own_messages() {
    let exchange = MemoryExchange::default();
    let instance = Instance::start_on(config(), &exchange).await;
    let other = Instance::start_on(config(), &exchange).await;
    let (mut here, mut there) = (instance.connect().await, other.connect().await);
    here.is_open().await;
    there.is_open().await;
    here.send("hello").await;
    here.receives(&["hello"]).await;
    there.receives(&["hello"]).await;
    for instance in [&instance, &other] {
        instance.metrics().show("warren_fan_out_seconds_count", 1.0).await;
    }
    let shown = instance.metrics();
    shown.show("warren_end_to_end_seconds_count", 1.0).await;
    assert_eq!(other.metrics().value("warren_end_to_end_seconds_count").await, 0.0);
    let (fan_out, whole) = ("warren_fan_out_seconds_sum", "warren_end_to_end_seconds_sum");
    assert!(shown.value(whole).await > shown.value(fan_out).await, "the fan-out is a part of the way");
}

// --- the broker -----------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_in_process_link_is_up() {
    let instance = Instance::start(config()).await;
    instance.metrics().show_link("up").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_link_shows_as_it_is_and_own_messages_are_timed_through_rabbitmq() {
    let cluster = Cluster::shared();
    let wire = Proxy::to(&cluster.url).await;
    let instance = Instance::start(cluster.configure_through(&[&wire.url], config())).await;
    let shown = instance.metrics();
    shown.show_link("up").await;
    let mut session = instance.connect().await;
    session.send("hello").await;
    session.receives(&["hello"]).await;
    shown.show("warren_end_to_end_seconds_count", 1.0).await;

    wire.refuse();
    shown.show_link("down").await;
    wire.forward();
    shown.show_link("up").await;
    within_deadline("the session is still open", session.is_open()).await;
}

// --- the broker -----------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_shows_in_the_spool_and_the_link_and_its_end_in_what_was_confirmed() {
    let cluster = Cluster::shared();
    let wire = Proxy::to(&cluster.url).await;
    let instance = Instance::start(cluster.configure_through(&[&wire.url], config())).await;
    instance.ready().await;
    let shown = instance.metrics();
    let mut speaker = instance.connect().await;
    speaker.send("before").await;
    speaker.receives(&["before"]).await;
    shown.show("warren_broker_confirmed_total", 1.0).await;
    shown.show("warren_broker_spool_messages", 0.0).await;

    wire.refuse();
    instance.unready().await;
    speaker.send("one").await;
    speaker.send("two").await;
    shown.show("warren_broker_spool_messages", 2.0).await;
    shown.show("warren_broker_spool_bytes", 2.0 * (512.0 + 3.0)).await;
    eventually("the oldest grows older", async || shown.value("warren_broker_spool_oldest_age_seconds").await > 0.5)
        .await;

    wire.forward();
    speaker.receives(&["one", "two"]).await;
    shown.show("warren_broker_spool_messages", 0.0).await;
    shown.show("warren_broker_spool_oldest_age_seconds", 0.0).await;
    shown.show("warren_broker_unconfirmed_messages", 0.0).await;
    for direction in ["publishing", "consuming"] {
        shown.show(&format!("warren_broker_reconnects_total{{direction=\"{direction}\"}}"), 1.0).await;
    }
    // The one that was confirmed shortly before went out once more, and was known as a double.
    shown.show("warren_broker_republished_total", 1.0).await;
    shown.show("warren_broker_duplicates_dropped_total", 1.0).await;
    shown.show("warren_broker_published_total", 4.0).await;
    shown.show("warren_broker_confirmed_total", 4.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_numbers_leave_out_counts_as_missing_and_what_is_too_large_as_dropped() {
    let cluster = Cluster::shared();
    let instance = Instance::join(config(), &cluster).await;
    let shown = instance.metrics();
    let mut session = instance.connect().await;
    let alien = Alien::connect(&cluster.url).await;
    for number in [1, 4] {
        let mut headers = FieldTable::default();
        headers.insert("x-warren-sequence".into(), AMQPValue::LongLongInt(number));
        let properties = BasicProperties::default().with_app_id("other@1".into()).with_headers(headers);
        alien.publish(&cluster.broadcast(), "", b"numbered", properties).await;
        session.receives(&["numbered"]).await;
    }
    shown.show("warren_broker_missing_messages_total", 2.0).await;
    alien.publish(&cluster.broadcast(), "", &[b'x'; 70_000], BasicProperties::default()).await;
    shown.show("warren_broker_dropped_total{reason=\"oversized\"}", 1.0).await;
}
