//! `GET /events`: topics for what cannot speak WebSocket.

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use warren::config::Config;
use warren::session::SlowReader;

use crate::contract::contract;
use crate::support::broker::Cluster;
use crate::support::browser::Browser;
use crate::support::events::EventStream;
use crate::support::http::request;
use crate::support::instance::{Carrier, Instance, config};
use crate::support::post::{notify, post_json, problem, published};
use crate::support::process::{Process, Warren};
use crate::support::raw::Raw;
use crate::support::{eventually, sessions_become};

contract! {
    event_streams_hear_the_topics_that_they_ask_for
    event_streams_hear_the_broadcast_alone_or_beside_topics
    who_has_the_head_of_its_stream_misses_nothing
    any_payload_is_one_event
}

async fn event_streams_hear_the_topics_that_they_ask_for(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    let mut streams = Vec::new();
    for (query, expected) in [
        ("topic=orders.eu", &["orders.eu"][..]),
        ("topic=orders.eu&topic=/orders/us", &["orders.eu", "orders.us"]),
        ("topic=orders.*", &["orders.eu", "orders.us"]),
        ("topic=orders.*&topic=orders.eu&topic=%23", &["orders.eu", "orders.us", "news"]),
    ] {
        for instance in &instances {
            streams.push((EventStream::open(instance.address, query).await, expected));
        }
    }
    // One after the other, so that there is one order for all.
    let mut everything = instances[1].subscribe("%23").await;
    let mut ids = Vec::new();
    for topic in ["orders.eu", "orders.us", "news"] {
        ids.push((topic, notify(instances[0].address, topic, &format!("of {topic}")).await));
        everything.receives(&[&format!("of {topic}")]).await;
    }
    for (stream, expected) in &mut streams {
        for topic in *expected {
            let message = stream.message().await;
            let id = ids.iter().find(|(of, _)| of == topic).map(|(_, id)| id);
            assert_eq!((&message["topic"], &message["text"]), (&json!(topic), &json!(format!("of {topic}"))));
            assert_eq!(message["id"].as_str(), id.map(String::as_str));
            assert!(message["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{message}");
        }
    }
    sessions_become(instances[0].address, streams.len() / 2).await;
}

async fn event_streams_hear_the_broadcast_alone_or_beside_topics(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    let mut alone = EventStream::open(instances[0].address, "").await;
    let mut beside = EventStream::open(instances[1].address, "topic=a&broadcast=true").await;
    let mut without = EventStream::open(instances[1].address, "topic=a").await;
    let mut speaker = instances[1].connect().await;
    speaker.send("to all").await;
    for stream in [&mut alone, &mut beside] {
        let message = stream.message().await;
        assert_eq!((&message["broadcast"], &message["text"]), (&json!(true), &json!("to all")));
    }
    notify(instances[0].address, "a", "to a").await;
    beside.receives(&["to a"]).await;
    without.receives(&["to a"]).await;
    speaker.send("to all again").await;
    alone.receives(&["to all again"]).await;
}

async fn who_has_the_head_of_its_stream_misses_nothing(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    for number in 0..20 {
        let topic = format!("orders.{number}");
        let mut speaker = instances[0].subscribe(&topic).await;
        let mut listener = EventStream::open(instances[1].address, &format!("topic={topic}&topic=other")).await;
        speaker.send(topic.as_str()).await;
        listener.receives(&[&topic]).await;
    }
}

async fn any_payload_is_one_event(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    let mut stream = EventStream::open(instances[1].address, "topic=a").await;
    let mut speaker = instances[0].subscribe("a").await;
    let texts = ["one\ntwo\r\nthree\rfour\n\n", "", "\u{0} \u{2028} \u{feff}", "data: x\n\nid: forged\n\n", " blank "];
    for text in texts {
        speaker.send(text).await;
    }
    speaker.send(Message::binary(&b"\x00\xff\n\n"[..])).await;
    stream.receives(&texts).await;
    let message = stream.message().await;
    assert_eq!((&message["base64"], message.get("text")), (&json!("AP8KCg=="), None));
}

// --- the stream -----------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_begins_with_a_time_to_wait_and_is_kept_alive() {
    let limits = Config { ping_interval_ms: 20, idle_timeout_ms: 40, retry_after_max_ms: 1000, ..config() };
    let instance = Instance::start(limits).await;
    let mut stream = EventStream::open(instance.address, "topic=a").await;
    for (name, value) in [("cache-control", "no-store"), ("x-accel-buffering", "no"), ("connection", "close")] {
        assert_eq!(stream.head.header(name), Some(value));
    }
    assert_eq!(stream.head.header("content-length"), None);
    assert_eq!(stream.head.header("access-control-allow-origin"), None);
    // Nothing is heard of it, and it stays all the same.
    stream.has_comments(10).await;
    let [retry_ms] = stream.retries_ms[..] else { panic!("one time to wait: {:?}", stream.retries_ms) };
    assert!((500..=1000).contains(&retry_ms), "{retry_ms}");
    notify(instance.address, "a", "still there").await;
    stream.receives(&["still there"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_clients_and_those_that_ask_again_on_a_connection_get_their_stream() {
    let instance = Instance::start(config()).await;
    let mut old = Raw::tcp(instance.address).await;
    old.send("GET /events?topic=a HTTP/1.0\r\n\r\n").await;
    assert_eq!(old.answer_to_head().await.status, 200);
    let mut second = Raw::tcp(instance.address).await;
    let line = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", instance.address);
    second.send(line).await;
    assert_eq!(second.answer().await.status, 200);
    // What it sends behind its request is passed over.
    let mut second = EventStream::open_with(second, instance.address, "topic=a", &[]).await.into_connection();
    second.send("GET / HTTP/1.1\r\n\r\n").await;
    notify(instance.address, "a", "hello").await;
    for client in [&mut old, &mut second] {
        while !client.line().await.expect("a line").contains("\"text\":\"hello\"") {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_client_is_noticed_at_once() {
    let instance = Instance::start(config()).await;
    let metrics = instance.metrics();
    let streams = [EventStream::open(instance.address, "").await, EventStream::open(instance.address, "topic=a").await];
    metrics.show("warren_sessions", 2.0).await;
    metrics.show("warren_event_streams", 2.0).await;
    let [left, broken] = streams.map(EventStream::into_connection);
    drop(left);
    metrics.show_closed("by_client", 1).await;
    broken.reset();
    metrics.show_closed("by_client", 2).await;
    metrics.show("warren_event_streams", 0.0).await;
    sessions_become(instance.address, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_opens_nothing() {
    let instance = Instance::start(config()).await;
    let answer = request(instance.address, "HEAD /events?topic=a", &[]).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!(request(instance.address, "HEAD /events?topic=a..b", &[]).await.status, 400);
    assert_eq!(instance.metrics().value("warren_sessions_opened_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_instance_says_when_to_come_back() {
    let instance = Instance::start(Config { retry_after_max_ms: 1000, ..config() }).await;
    let mut stream = EventStream::open(instance.address, "topic=a").await;
    notify(instance.address, "a", "the last").await;
    stream.receives(&["the last"]).await;
    let address = instance.address;
    let stopping = tokio::spawn(instance.stop());
    assert_eq!(stream.next().await, None);
    assert_eq!(stream.comments, ["going_away"]);
    assert!(stream.retries_ms.len() == 2 && stream.retries_ms[1] >= 500, "{:?}", stream.retries_ms);
    drop(stream);
    stopping.await.expect("no panic").expect("a stop in good order");
    assert!(Raw::try_tcp(address).await.is_err());
}

// --- limits ---------------------------------------------------------------------------------------------------------

/// Says so much that it cannot all be on its way, each heard by somebody who reads; the answer is how many.
async fn flood(instance: &Instance) -> usize {
    const TEXTS: usize = 200;
    let mut speaker = instance.subscribe("a").await;
    for number in 0..TEXTS {
        let text = long_text(number);
        speaker.send(text.as_str()).await;
        speaker.receives(&[&text]).await;
    }
    TEXTS
}

/// A text of some 60 KB.
fn long_text(number: usize) -> String {
    format!("{number:08}").repeat(7_500)
}

async fn stalled(instance: &Instance) -> EventStream {
    EventStream::open_with(Raw::narrow(instance.address).await, instance.address, "topic=a", &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_too_slowly_is_closed_and_told_why() {
    let limits = Config { outbox_bytes_max: 512 * 1024, close_timeout_ms: 60_000, ..config() };
    let instance = Instance::start(limits).await;
    let mut stream = stalled(&instance).await;
    let texts = flood(&instance).await;
    instance.metrics().show_closed("too_slow", 1).await;
    let mut heard = 0;
    while let Some(event) = stream.next().await {
        assert!(event.data.contains(&long_text(heard)), "all up to some message");
        heard += 1;
    }
    assert!(heard < texts, "nothing was held back");
    assert_eq!(stream.comments, ["too_slow"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_too_slowly_may_miss_whole_messages() {
    let limits = Config { outbox_bytes_max: 512 * 1024, slow_reader: SlowReader::DropOldest, ..config() };
    let instance = Instance::start(limits).await;
    let mut stream = stalled(&instance).await;
    let texts = flood(&instance).await;
    let mut numbers: Vec<usize> = Vec::new();
    while numbers.last() != Some(&(texts - 1)) {
        let message = stream.message().await;
        let text = message["text"].as_str().expect("a text");
        numbers.push(text[..8].parse().expect("a number"));
        assert!(text == long_text(numbers[numbers.len() - 1]), "a message that is not whole");
    }
    assert!(numbers.is_sorted_by(|one, next| one < next), "in order, none twice: {numbers:?}");
    assert!(numbers.len() < texts, "nothing was left out");
    instance.metrics().show("warren_missed_messages_total", (texts - numbers.len()) as f64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_count_as_sessions() {
    let instance = Instance::start(Config { sessions_per_address_max: 2, sessions_max: 3, ..config() }).await;
    let _first = EventStream::open(instance.address, "").await;
    let _second = instance.connect().await;
    let answer = request(instance.address, "GET /events", &[]).await;
    assert_eq!((answer.status, problem(&answer).as_str()), (429, "too-many-sessions"));
    let elsewhere = Raw::tcp_from([127, 0, 0, 2], instance.address).await;
    let _third = EventStream::open_with(elsewhere, instance.address, "", &[]).await;
    let answer = request(instance.address, "GET /events", &[]).await;
    assert_eq!((answer.status, problem(&answer).as_str()), (503, "no-room"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    for reason in ["address_full", "full"] {
        instance.metrics().show(&format!("warren_handshakes_refused_total{{reason=\"{reason}\"}}"), 1.0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_hear_is_told_to_ask_again() {
    // Nobody listens there.
    let nowhere = Cluster::at("amqp://127.0.0.1:1".to_owned());
    let instance = Instance::start(nowhere.configure(config())).await;
    let answer = request(instance.address, "GET /events?topic=a", &[]).await;
    assert_eq!((answer.status, problem(&answer).as_str()), (503, "not-hearing"));
    assert_eq!(answer.header("retry-after"), Some("1"));
}

// --- who asks, and for what -----------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_there_is_not_is_refused_and_told_why() {
    let instance = Instance::start(Config { topics_per_session_max: 2, ..config() }).await;
    for (query, name, reason) in [
        ("topic=a..b", "bad-topic", "word between two separators"),
        ("topic=", "bad-topic", "must have a name"),
        ("topic=a&topic=b*", "bad-topic", "wildcard must be a word by itself"),
        ("topic=a&topic=b&topic=c", "bad-query", "--topics-per-session-max"),
        ("topics=a", "bad-query", "topics"),
        ("broadcast=yes", "bad-query", "true or false"),
        ("broadcast=false", "bad-query", "nothing to hear"),
        ("topic=%FF", "bad-query", "UTF-8"),
        ("since=x", "bad-query", "since"),
    ] {
        let answer = request(instance.address, &format!("GET /events?{query}"), &[]).await;
        assert_eq!((answer.status, problem(&answer).as_str()), (400, name), "{query}");
        assert!(answer.body.contains(reason), "{query}: {}", answer.body);
    }
    assert_eq!(request(instance.address, "POST /events", &[]).await.status, 405);
    sessions_become(instance.address, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_allowed_origins_may_listen() {
    const FRIEND: &str = "https://app.example";
    let warren = Warren::serve(&["--allowed-origins", FRIEND], &[]).await;
    let own = format!("http://{}", warren.address);
    for origin in [FRIEND, &own] {
        let raw = Raw::tcp(warren.address).await;
        let stream = EventStream::open_with(raw, warren.address, "", &[("Origin", origin)]).await;
        assert_eq!(stream.head.header("access-control-allow-origin"), Some(origin));
        assert_eq!(stream.head.header("vary"), Some("origin"));
    }
    let same_site = [("Sec-Fetch-Site", "same-origin")];
    EventStream::open_with(Raw::tcp(warren.address).await, warren.address, "", &same_site).await;
    for headers in [
        &[("Origin", "http://evil.example")][..],
        &[("Origin", "null")],
        &[("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "no-cors")],
    ] {
        let answer = request(warren.address, "GET /events", headers).await;
        assert_eq!((answer.status, problem(&answer).as_str()), (403, "foreign-origin"), "{headers:?}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
}

// --- what people use ------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_browser_hears_events_and_comes_back_by_itself() {
    let port = crate::support::process::free_port().to_string();
    let flags = ["--port", &port, "--retry-after-max-ms", "200"];
    let warren = Warren::serve(&flags, &[]).await;
    let browser = Browser::start().await;
    let page = browser.open(&warren.url()).await;
    page.value(
        "(window.heard = [], window.opened = 0,
          window.events = new EventSource('/events?topic=a.*&topic=b'),
          window.events.onopen = () => { window.opened += 1; },
          window.events.onmessage = (event) => { window.heard.push([event.lastEventId, JSON.parse(event.data)]); },
          true)",
    )
    .await;
    let opened = async |count: usize| {
        eventually("the stream is open", async || page.value("window.opened").await == count).await;
    };
    opened(1).await;
    let id = notify(warren.address, "a.1", "grüße\nin zwei Zeilen").await;
    let heard = async |count: usize| {
        eventually("it is heard", async || page.value("window.heard.length").await == count).await;
        page.value("window.heard[window.heard.length - 1]").await
    };
    let event = heard(1).await;
    assert_eq!((&event[1]["id"], &event[1]["text"]), (&json!(id), &json!("grüße\nin zwei Zeilen")));
    assert_eq!(event[0], event[1]["cursor"]);
    warren.process.kill().await;
    let warren = Warren::serve(&flags, &[]).await;
    opened(2).await;
    // The browser says where it was, and what was said in the other process is gone.
    assert_eq!(heard(2).await[1]["type"], "gap");
    let bytes = json!({"topic": "b", "base64": "AP8="});
    published(&post_json(warren.address, "/api/publish", &bytes).await);
    assert_eq!(heard(3).await[1]["base64"], "AP8=");
}

#[tokio::test]
async fn curl_hears_events_as_they_come() {
    let warren = Warren::serve(&[], &[]).await;
    let url = format!("{}events?topic=orders.*", warren.url());
    let mut curl = Process::start("curl", &["-sN", &url], &[]);
    curl.says("retry: ").await;
    notify(warren.address, "orders.17", "shipped").await;
    let line = curl.says("\"text\":\"shipped\"").await;
    assert!(line.starts_with("data: {\"type\":\"message\",\"topic\":\"orders.17\""), "{line}");
}
