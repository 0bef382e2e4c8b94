//! Clients that take more than their share: each is told so or turned away, and nobody else notices.

use warren::config::Config;

use crate::support::bystanders::Bystanders;
use crate::support::http::{head, request};
use crate::support::instance::{Instance, config};
use crate::support::raw::wire;
use crate::support::raw::{Closing, Raw, handshake, handshake_with};
use crate::support::sessions_become;

/// What may be said at once in these tests; hardly more comes in while they last.
const BURST: u32 = 50;

fn limited() -> Config {
    Config { messages_per_second_max: 1, messages_burst_max: BURST, ..config() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_more_than_it_may_is_closed_with_1008_whatever_it_says() {
    let instance = Instance::start(limited()).await;
    let mut bystanders = Bystanders::meet(instance.address).await;
    let inputs = [
        ("texts", wire::text("buy!")),
        ("binary messages", wire::binary(b"buy!")),
        ("empty messages", wire::text("")),
        ("keep-alives", wire::text("ping")),
        ("pings", wire::ping(b"")),
        ("pongs", wire::pong(b"")),
    ];
    let inputs_sent = inputs.len();
    for (what, input) in inputs {
        let mut flooder = Raw::connect(instance.address).await;
        flooder.send(input.repeat(2_000)).await;
        bystanders.talk().await;
        let closing = flooder.closed().await;
        assert_eq!(
            closing,
            Closing { code: Some(1008), reason: "too many messages: more than 1 a second".into() },
            "{what}"
        );
        drop(flooder);
        sessions_become(instance.address, 2).await;
        bystanders.talk().await;
    }
    instance.metrics().show_closed("too_many_messages", inputs_sent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_flood_no_more_is_heard_than_may_be_said() {
    let instance = Instance::start(limited()).await;
    let mut listener = Raw::connect(instance.address).await;
    let mut speaker = Raw::connect(instance.address).await;
    let mut flooder = Raw::connect(instance.address).await;
    flooder.send(wire::text("buy!").repeat(2_000)).await;
    assert_eq!(flooder.closed().await.code, Some(1008));
    speaker.send(wire::text("over")).await;
    let mut heard = 0;
    while listener.frame().await.payload != b"over" {
        heard += 1;
    }
    // One token went to the ping that proved the session open; a second gives one more.
    assert!((BURST - 1..BURST + 10).contains(&heard), "{heard}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_limit_who_says_much_is_heard() {
    let instance = Instance::start(config()).await;
    let mut speaker = Raw::connect(instance.address).await;
    speaker.send(wire::text("much").repeat(5_000)).await;
    for _ in 0..5_000 {
        speaker.receives(&["much"]).await;
    }
}

/// The answer to an upgrade from this address of loopback, and the session if it is one.
async fn upgrade_from(source: [u8; 4], instance: &Instance) -> (u16, Raw) {
    let mut client = Raw::tcp_from(source, instance.address).await;
    client.send(handshake(instance.address)).await;
    let status = client.answer().await.status;
    (status, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_has_as_many_sessions_as_it_may_and_another_has_its_own() {
    const HOG: [u8; 4] = [127, 0, 0, 2];
    let instance = Instance::start(Config { sessions_per_address_max: 3, ..config() }).await;
    let mut bystanders = Bystanders::meet(instance.address).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let (status, client) = upgrade_from(HOG, &instance).await;
        assert_eq!(status, 101);
        held.push(client);
    }
    for _ in 0..20 {
        let mut refused = Raw::tcp_from(HOG, instance.address).await;
        refused.send(handshake(instance.address)).await;
        let answer = refused.answer().await;
        assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")), "{}", answer.body);
        assert!(answer.body.contains("--sessions-per-address-max"), "{}", answer.body);
    }
    instance.metrics().show("warren_handshakes_refused_total{reason=\"address_full\"}", 20.0).await;
    bystanders.talk().await;
    assert_eq!(upgrade_from([127, 0, 0, 3], &instance).await.0, 101);
    sessions_become(instance.address, 5).await;
    held.pop();
    sessions_become(instance.address, 4).await;
    assert_eq!(upgrade_from(HOG, &instance).await.0, 101);
    bystanders.talk().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_trusted_proxy_it_is_the_client_that_counts() {
    let trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
    let instance = Instance::start(Config { sessions_per_address_max: 1, trusted_proxies, ..config() }).await;
    let mut sessions = Vec::new();
    for (client, expected) in [
        ("203.0.113.1", 101),
        ("203.0.113.2", 101),
        ("203.0.113.1", 429),
        ("198.51.100.9, 203.0.113.2", 429),
        ("2001:db8::1", 101),
        ("2001:db8::2", 429),
        ("2001:db8:0:1::1", 101),
    ] {
        let mut session = Raw::tcp(instance.address).await;
        session.send(handshake_with(instance.address, &[("X-Forwarded-For", client)])).await;
        assert_eq!(session.answer().await.status, expected, "{client}");
        sessions.push(session);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_connects_and_says_nothing_makes_room_for_who_does() {
    const HANDSHAKES: usize = 20;
    let limits = Config { handshakes_max: HANDSHAKES, handshake_timeout_ms: 600_000, ..config() };
    let instance = Instance::start(limits).await;
    let mut bystanders = Bystanders::meet(instance.address).await;
    let (mut silent, mut welcome) = (Vec::new(), Vec::new());
    for number in 0..10 * HANDSHAKES {
        silent.push(Raw::tcp(instance.address).await);
        if number % HANDSHAKES == 0 {
            welcome.push(Raw::connect(instance.address).await);
            bystanders.talk().await;
        }
    }
    // Its answer says that all who came before it were accepted.
    assert_eq!(request(instance.address, "GET /healthz", &[]).await.status, 200);
    let newest = silent.split_off(silent.len() - HANDSHAKES / 2);
    for turned_away in silent.iter_mut().take(8 * HANDSHAKES) {
        assert_eq!(turned_away.rest().await, b"", "the oldest are gone");
    }
    for mut stays in newest {
        stays.send(handshake(instance.address)).await;
        assert_eq!(stays.answer().await.status, 101, "the newest are not");
    }
    for session in &mut welcome {
        session.is_open().await;
    }
    bystanders.talk().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_may_have_as_many_bytes_as_the_limit() {
    const LIMIT: usize = 8 * 1024;
    let instance = Instance::start(Config { request_head_bytes_max: LIMIT, ..config() }).await;
    let mut bystanders = Bystanders::meet(instance.address).await;
    for (bytes, expected) in [(LIMIT / 2, 200), (LIMIT - 300, 200), (LIMIT + 1, 431), (4 * LIMIT, 431)] {
        let mut client = Raw::tcp(instance.address).await;
        let padding = "x".repeat(bytes - head(instance.address, "GET /healthz", &[("Cookie", "")]).len());
        // The server may hang up before it has read all.
        let _ = client.try_send(head(instance.address, "GET /healthz", &[("Cookie", &padding)])).await;
        let answer = bystanders.talk_while(client.answer()).await;
        assert_eq!(answer.status, expected, "{bytes} bytes");
    }
}
