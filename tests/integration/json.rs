//! The subprotocol `warren.v1.json`: many topics on one connection, and an answer to everything.

use std::collections::HashMap;

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use warren::config::Config;

use crate::contract::contract;
use crate::support::broker::Cluster;
use crate::support::instance::{Carrier, Instance, config};
use crate::support::json::{JsonClient, PROTOCOL};
use crate::support::proxy::Proxy;
use crate::support::raw::wire::{self, ClientFrame};
use crate::support::raw::{Raw, handshake_at, handshake_with};
use crate::support::sessions_become;

contract! {
    one_instance_carries_plain_and_json_sessions
    two_instances_carry_plain_and_json_sessions
    five_instances_carry_plain_and_json_sessions
    whoever_matches_a_message_several_times_hears_it_once
    the_broadcast_is_heard_by_its_own_word_and_by_no_wildcard
    who_has_the_answer_to_a_subscription_misses_nothing
    nothing_comes_behind_the_answer_to_an_unsubscription
    what_is_published_behind_a_subscription_is_heard
    everything_that_is_published_is_answered_and_heard_in_order
    a_message_is_told_with_all_that_is_known_of_it
}

async fn one_instance_carries_plain_and_json_sessions(carrier: Carrier) {
    everybody_hears_what_they_asked_for(carrier, 1).await;
}

async fn two_instances_carry_plain_and_json_sessions(carrier: Carrier) {
    everybody_hears_what_they_asked_for(carrier, 2).await;
}

async fn five_instances_carry_plain_and_json_sessions(carrier: Carrier) {
    everybody_hears_what_they_asked_for(carrier, 5).await;
}

/// On each instance plain and JSON sessions, for topics and for the broadcast; each kind speaks in turn.
async fn everybody_hears_what_they_asked_for(carrier: Carrier, count: usize) {
    let instances = carrier.instances(count).await;
    let (mut json_topics, mut json_broadcast, mut plain_topic, mut plain_broadcast) = (vec![], vec![], vec![], vec![]);
    for instance in &instances {
        let mut client = instance.converse().await;
        client.subscribe(&["orders.*", "/news"]).await;
        json_topics.push(client);
        let mut client = instance.converse().await;
        client.subscribe_to_broadcast().await;
        json_broadcast.push(client);
        plain_topic.push(instance.subscribe("news").await);
        plain_broadcast.push(instance.connect().await);
    }
    for speaker in 0..count {
        // Each waits for the one before, so that all hear one order.
        let eu = format!("eu {speaker}");
        json_topics[speaker].publish("orders/eu", &eu).await;
        for client in &mut json_topics {
            client.hears(&[(Some("orders.eu"), &eu)]).await;
        }
        let (said, answered) = (format!("json {speaker}"), format!("plain {speaker}"));
        json_broadcast[speaker].publish("news", &said).await;
        for client in &mut plain_topic {
            client.receives(&[&said]).await;
        }
        plain_topic[speaker].send(answered.as_str()).await;
        for client in &mut plain_topic {
            client.receives(&[&answered]).await;
        }
        for client in &mut json_topics {
            client.hears(&[(Some("news"), &said), (Some("news"), &answered)]).await;
        }
        json_topics[speaker].broadcast(&said).await;
        for client in &mut plain_broadcast {
            client.receives(&[&said]).await;
        }
        plain_broadcast[speaker].send(answered.as_str()).await;
        for client in &mut plain_broadcast {
            client.receives(&[&answered]).await;
        }
        for client in &mut json_broadcast {
            client.hears(&[(None, &said), (None, &answered)]).await;
        }
    }
    for client in json_topics.iter_mut().chain(&mut json_broadcast) {
        client.heard_nothing_else().await;
    }
}

async fn whoever_matches_a_message_several_times_hears_it_once(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    let mut listener = instances[1].converse().await;
    listener.subscribe(&["a.*", "a.b", "#", "*.b", "a.b"]).await;
    listener.subscribe(&["a.b", "a.#"]).await;
    let mut speaker = instances[0].converse().await;
    for text in ["first", "second"] {
        speaker.publish("a.b", text).await;
    }
    listener.hears(&[(Some("a.b"), "first"), (Some("a.b"), "second")]).await;
    // One subscription less is none less while another matches.
    listener.unsubscribe(&["a.b", "#", "never.there"]).await;
    speaker.publish("a.b", "third").await;
    listener.hears(&[(Some("a.b"), "third")]).await;
    listener.heard_nothing_else().await;
}

async fn the_broadcast_is_heard_by_its_own_word_and_by_no_wildcard(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    let mut wildcard = instances[1].converse().await;
    wildcard.subscribe(&["#"]).await;
    let mut both = instances[1].converse().await;
    both.granted(json!({"type": "subscribe", "topics": ["news"], "broadcast": true})).await;
    let mut witness = instances[1].connect().await;
    let mut speaker = instances[0].converse().await;
    speaker.broadcast("to all").await;
    both.hears(&[(None, "to all")]).await;
    speaker.publish("news", "of the day").await;
    wildcard.hears(&[(Some("news"), "of the day")]).await;
    both.hears(&[(Some("news"), "of the day")]).await;
    // Each goes by itself.
    both.granted(json!({"type": "unsubscribe", "broadcast": true})).await;
    speaker.broadcast("unheard").await;
    speaker.publish("news", "of the night").await;
    both.hears(&[(Some("news"), "of the night")]).await;
    // Not before that has come there: with a stream it comes another way than topics.
    witness.receives(&["to all", "unheard"]).await;
    both.subscribe_to_broadcast().await;
    both.unsubscribe(&["news"]).await;
    speaker.publish("news", "unheard").await;
    speaker.broadcast("to all again").await;
    both.hears(&[(None, "to all again")]).await;
    both.heard_nothing_else().await;
    wildcard.hears(&[(Some("news"), "of the night"), (Some("news"), "unheard")]).await;
    wildcard.heard_nothing_else().await;
}

async fn who_has_the_answer_to_a_subscription_misses_nothing(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    let (mut speaker, mut listener) = (instances[0].converse().await, instances[1].converse().await);
    for number in 0..20 {
        let topics = [format!("orders.{number}"), format!("parcels.{number}")];
        listener.subscribe(&topics.each_ref().map(String::as_str)).await;
        for topic in &topics {
            speaker.publish(topic, "now").await;
            listener.hears(&[(Some(topic), "now")]).await;
        }
    }
}

async fn nothing_comes_behind_the_answer_to_an_unsubscription(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    let (mut speaker, mut listener) = (instances[0].converse().await, instances[1].converse().await);
    for _ in 0..10 {
        listener.subscribe(&["a", "last"]).await;
        for _ in 0..20 {
            speaker.publish("a", "maybe").await;
        }
        listener.unsubscribe(&["a"]).await;
        listener.forget();
        speaker.publish("a", "unheard").await;
        speaker.publish("last", "heard").await;
        listener.hears(&[(Some("last"), "heard")]).await;
    }
    listener.heard_nothing_else().await;
}

async fn what_is_published_behind_a_subscription_is_heard(carrier: Carrier) {
    let instance = carrier.instance().await;
    let mut client = instance.converse().await;
    for number in 0..20 {
        let topic = format!("own.{number}");
        let subscribed = client.request(json!({"type": "subscribe", "topics": [topic]})).await;
        let published = client.request(json!({"type": "publish", "topic": topic, "text": "mine"})).await;
        for id in [subscribed, published] {
            assert_eq!(client.notice().await["id"], json!(id));
        }
        client.hears(&[(Some(&topic), "mine")]).await;
    }
}

async fn everything_that_is_published_is_answered_and_heard_in_order(carrier: Carrier) {
    const MESSAGES: usize = 600;
    // Fewer may be pending than are sent at once: it goes on all the same.
    let one = carrier.instance_with(Config { pending_requests_max: 7, ..config() }).await;
    let other = carrier.instance().await;
    let (mut speaker, mut listener) = (one.converse().await, other.converse().await);
    listener.subscribe(&["news"]).await;
    let mut ids = Vec::new();
    for number in 0..MESSAGES {
        ids.push(speaker.request(json!({"type": "publish", "topic": "news", "text": number.to_string()})).await);
    }
    let mut published = HashMap::new();
    for _ in 0..MESSAGES {
        let ack = speaker.notice().await;
        assert_eq!(ack["type"], "ack", "{ack}");
        published.insert(ack["id"].to_string(), ack["message_id"].clone());
    }
    for (number, id) in ids.iter().enumerate() {
        let message = listener.message().await;
        assert_eq!(message["text"], json!(number.to_string()));
        assert_eq!(Some(&message["id"]), published.get(&json!(id).to_string()));
    }
}

async fn a_message_is_told_with_all_that_is_known_of_it(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    let mut listener = instances[1].converse().await;
    listener.granted(json!({"type": "subscribe", "topics": ["#"], "broadcast": true})).await;
    let mut speaker = instances[0].converse().await;
    let mut plain = instances[0].connect().await;
    let before = jiff::Timestamp::now();
    let id = speaker.publish("a/b", "Gr\u{fc}\u{df}e \"\\\n\u{0}\u{1F980}").await;
    let mut text = listener.message().await;
    let cursor = text.as_object_mut().and_then(|text| text.remove("cursor"));
    assert_eq!(cursor.is_some(), carrier.resumes(), "{cursor:?}");
    let time = text["time"].as_str().expect("a time");
    let expected = json!({
        "type": "message", "topic": "a.b", "id": id, "time": time, "text": "Grüße \"\\\n\0🦀",
    });
    assert_eq!(text, expected);
    // AMQP carries whole seconds.
    let published: jiff::Timestamp = time.parse().expect("RFC 3339");
    assert!((before.as_second()..=jiff::Timestamp::now().as_second()).contains(&published.as_second()), "{time}");
    assert_eq!((time.len(), &time[23..]), (24, "Z"));

    speaker.granted(json!({"type": "publish", "topic": "a.b", "base64": "AP+A"})).await;
    assert_eq!(listener.message().await["base64"], "AP+A");
    plain.send(Message::binary(vec![0xFF, 0])).await;
    let binary = listener.message().await;
    assert_eq!((&binary["broadcast"], &binary["base64"]), (&json!(true), &json!("/wA=")));
    plain.receive().await;
    speaker.granted(json!({"type": "publish", "broadcast": true, "base64": "/wA="})).await;
    assert_eq!(plain.receive().await, Message::binary(vec![0xFF, 0]));
}

// --- the handshake ----------------------------------------------------------------------------------------------------

/// Status and subprotocol of the answer to a handshake with these offers.
async fn offered(instance: &Instance, path: &str, lines: &[&str]) -> (u16, Option<String>) {
    let headers: Vec<_> = lines.iter().map(|line| ("Sec-WebSocket-Protocol", *line)).collect();
    let mut client = Raw::tcp(instance.address).await;
    client.send(handshake_at(instance.address, path, &headers)).await;
    let answer = client.answer().await;
    (answer.status, answer.header("sec-websocket-protocol").map(str::to_owned))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_best_subprotocol_that_is_offered_is_spoken() {
    let instance = Instance::start(config()).await;
    for (path, lines, status, chosen) in [
        ("/message", &[][..], 101, None),
        ("/message", &["warren.v1.json"], 101, Some("warren.v1.json")),
        ("/message", &["mqtt, warren.v1.plain, warren.v1.json"], 101, Some("warren.v1.json")),
        ("/message", &["mqtt", "warren.v1.plain"], 101, Some("warren.v1.plain")),
        ("/message", &["mqtt"], 101, None),
        ("/message/news", &["mqtt"], 101, None),
        ("/message/news", &["warren.v1.plain"], 101, Some("warren.v1.plain")),
        ("/message?replay=1", &["warren.v1.plain"], 101, Some("warren.v1.plain")),
        ("/message", &["not a token"], 400, None),
        ("/message/news", &["warren.v1.json"], 400, None),
        ("/message?topic=news", &["warren.v1.json", "warren.v1.plain"], 400, None),
        ("/message?replay=1", &["warren.v1.json"], 400, None),
    ] {
        assert_eq!(offered(&instance, path, lines).await, (status, chosen.map(str::to_owned)), "{path} {lines:?}");
    }
    // Whatever it is called, a plain session is one.
    let mut plain = crate::support::client::Client::connect_speaking(instance.address, "warren.v1.plain").await;
    plain.send("{\"type\":\"ping\"}").await;
    plain.receives(&["{\"type\":\"ping\"}"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_welcomed_with_what_it_should_know() {
    let limits = Config { topics_per_session_max: 7, pending_requests_max: 9, message_bytes_max: 2000, ..config() };
    let instance = Instance::start(limits).await;
    let (one, other) = (instance.converse().await, instance.converse().await);
    let session = one.welcome["session"].as_str().expect("an id");
    assert_ne!(other.welcome["session"], json!(session));
    let expected = json!({
        "type": "welcome",
        "protocol": PROTOCOL,
        "session": session,
        "instance": instance.name.as_str(),
        "limits": {
            "message_bytes_max": 2000,
            "topics_per_session_max": 7,
            "topics_per_request_max": 1000,
            "pending_requests_max": 9,
        },
    });
    assert_eq!(one.welcome, expected);
}

// --- what is refused --------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_answered_and_the_session_goes_on() {
    let instance = Instance::start(config()).await;
    let mut client = instance.converse().await;
    client.subscribe(&["a"]).await;
    let too_many: Vec<String> = (0..1001).map(|number| number.to_string()).collect();
    for (input, code) in [
        (Message::binary("{\"type\":\"ping\"}"), 100),
        (Message::text("hello"), 101),
        (Message::text(""), 101),
        (Message::text("[1]"), 101),
        (Message::text("[".repeat(60_000)), 101),
        (Message::text("{\"type\":\"shout\"}"), 102),
        (Message::text("{\"type\":\"publish\",\"topic\":\"a\",\"text\":\"b\",\"colour\":1}"), 103),
        (Message::text(json!({"type": "subscribe", "topics": too_many}).to_string()), 103),
        (Message::text("{\"type\":\"subscribe\",\"topics\":[\"b\",\"a..b\"]}"), 104),
        (Message::text("{\"type\":\"publish\",\"topic\":\"#\",\"text\":\"b\"}"), 104),
    ] {
        client.client.send(input.clone()).await;
        let error = client.notice().await;
        assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!(code)), "{input:.80?}: {error}");
        assert_eq!(error.get("id"), None);
    }
    let explanation = client.refused(json!({"type": "subscribe", "topics": ["a b"]}), 104).await;
    assert!(explanation.contains("' '"), "{explanation}");
    // Nothing of a request that is refused is done.
    client.publish("b", "unheard").await;
    client.publish("a", "heard").await;
    client.hears(&[(Some("a"), "heard")]).await;
    client.heard_nothing_else().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_no_id_is_told_only_of_errors() {
    let instance = Instance::start(config()).await;
    let mut client = instance.converse().await;
    for request in [
        "{\"type\":\"subscribe\",\"topics\":[\"a\"]}",
        "{\"type\":\"publish\",\"topic\":\"a\",\"text\":\"1\"}",
        "{\"type\":\"unsubscribe\",\"topics\":[\"b\"]}",
        "{\"type\":\"subscribe\"}",
        "{\"type\":\"ping\"}",
        // Keep-alives are no requests.
        "ping",
        "keep-alive",
        "{\"type\":\"ping\",\"id\":\"last\"}",
    ] {
        client.client.send(request).await;
    }
    assert_eq!(client.notice().await["code"], 103);
    assert_eq!(client.notice().await, json!({"type": "pong"}));
    assert_eq!(client.notice().await, json!({"type": "pong", "id": "last"}));
    client.hears(&[(Some("a"), "1")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_has_so_many_topics_and_no_more() {
    let instance = Instance::start(Config { topics_per_session_max: 2, ..config() }).await;
    let mut client = instance.converse().await;
    client.refused(json!({"type": "subscribe", "topics": ["a", "b", "c"]}), 105).await;
    client.subscribe(&["a", "b", "a"]).await;
    client.subscribe(&["b"]).await;
    client.subscribe_to_broadcast().await;
    client.refused(json!({"type": "subscribe", "topics": ["b", "c"]}), 105).await;
    client.unsubscribe(&["a", "x"]).await;
    client.subscribe(&["c"]).await;
    for topic in ["a", "b", "c"] {
        client.publish(topic, topic).await;
    }
    // Topics that come together come in any order.
    let mut heard = [client.message().await, client.message().await].map(|message| message["text"].to_string());
    heard.sort();
    assert_eq!(heard, ["\"b\"", "\"c\""]);
    client.heard_nothing_else().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_breaks_the_websocket_protocol_closes() {
    let instance = Instance::start(Config { message_bytes_max: 1000, ..config() }).await;
    for (bytes, code) in [
        (ClientFrame::new(wire::TEXT, b"\xFF").bytes(), 1007),
        (ClientFrame::new(3, b"").bytes(), 1002),
        (wire::text(&"x".repeat(1001)), 1009),
    ] {
        let mut client = Raw::tcp(instance.address).await;
        client.send(handshake_with(instance.address, &[("Sec-WebSocket-Protocol", PROTOCOL)])).await;
        assert_eq!(client.answer().await.status, 101);
        client.send(bytes).await;
        assert_eq!(client.closed().await.code, Some(code));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_no_answers_is_closed() {
    let instance = Instance::start(Config { outbox_bytes_max: 70_000, ..config() }).await;
    let mut client = Raw::tcp(instance.address).await;
    client.send(handshake_with(instance.address, &[("Sec-WebSocket-Protocol", PROTOCOL)])).await;
    assert_eq!(client.answer().await.status, 101);
    let pings = wire::text("{\"type\":\"ping\"}").repeat(10_000);
    while client.try_send(&pings).await.is_ok() && instance.metrics().value(TOO_SLOW).await < 1.0 {}
    instance.metrics().show(TOO_SLOW, 1.0).await;
}

const TOO_SLOW: &str = "warren_sessions_closed_total{reason=\"too_slow\"}";

// --- compression ------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_messages_are_compressed_for_who_inflates() {
    let instance = Instance::start(config()).await;
    let mut compressed = Raw::connect_compressed_speaking(instance.address, PROTOCOL).await;
    let mut uncompressed = instance.converse().await;
    compressed.send(wire::text("{\"type\":\"subscribe\",\"topics\":[\"a\"],\"id\":\"1\"}")).await;
    let ack: serde_json::Value = serde_json::from_slice(&compressed.frame().await.payload).expect("JSON");
    assert_eq!((&ack["type"], &ack["id"]), (&json!("ack"), &json!("1")));
    uncompressed.subscribe(&["a"]).await;
    let before = compressed.received_bytes();
    let long = "long ".repeat(1000);
    uncompressed.publish("a", &long).await;
    let told: serde_json::Value =
        serde_json::from_slice(&compressed.frame().await.payload).expect("JSON, inflated by now");
    assert_eq!(told, uncompressed.message().await);
    assert_eq!(told["text"], json!(long));
    let bytes = compressed.received_bytes() - before;
    assert!(bytes < long.len() / 5, "{bytes} of {}", long.len());
}

// --- when the broker is away ------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_does_not_take_is_told_and_the_session_stays() {
    let cluster = Cluster::shared();
    let wire = Proxy::to(&cluster.url).await;
    let small = Config { spool_messages_max: 3, spool_wait_ms: 200, topic_linger_ms: 0, ..config() };
    let instance = Instance::start(cluster.configure_through(&[&wire.url], small)).await;
    instance.ready().await;
    let mut client = instance.converse().await;
    client.subscribe(&["a"]).await;
    wire.refuse();
    instance.unready().await;

    let explanation = client.refused(json!({"type": "subscribe", "topics": ["a", "b"]}), 200).await;
    assert!(explanation.contains("nothing was subscribed"), "{explanation}");
    let mut pending = Vec::new();
    for text in ["1", "2", "3"] {
        pending.push(client.request(json!({"type": "publish", "topic": "a", "text": text})).await);
    }
    client.refused(json!({"type": "publish", "topic": "a", "text": "4"}), 201).await;

    wire.forward();
    let gap = json!({"type": "gap", "scope": "everything"});
    assert_eq!(client.notice().await, gap, "what others said meanwhile");
    for _ in 0..pending.len() {
        let ack = client.notice().await;
        assert_eq!(ack["type"], "ack", "{ack}");
        pending.retain(|id| ack["id"] != json!(id));
    }
    assert_eq!(pending, [""; 0]);
    // The new topic was taken back, the old one was not.
    client.publish("b", "unheard").await;
    client.publish("a", "5").await;
    client.hears(&["1", "2", "3", "5"].map(|text| (Some("a"), text))).await;
    client.subscribe(&["b"]).await;
    client.publish("b", "heard").await;
    client.hears(&[(Some("b"), "heard")]).await;
    client.heard_nothing_else().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_subscription_when_the_instance_stops_is_told_before_the_good_bye() {
    let cluster = Cluster::shared();
    let wire = Proxy::to(&cluster.url).await;
    // Less than what a subscription waits for the broker.
    // The delay is for the request to be read before the sessions leave.
    let brief = Config { drain_delay_ms: 1000, drain_timeout_ms: 3000, ..config() };
    let instance = Instance::start(cluster.configure_through(&[&wire.url], brief)).await;
    instance.ready().await;
    let mut client = instance.converse().await;
    wire.refuse();
    instance.unready().await;
    let id = client.request(json!({"type": "subscribe", "topics": ["a"]})).await;
    let stopping = tokio::spawn(instance.stop());
    let error = client.notice().await;
    assert_eq!((&error["id"], &error["code"]), (&json!(id), &json!(200)), "{error}");
    client.client.is_closed_with(1001).await;
    stopping.await.expect("no panic").expect("a good end");
}

/// While its messages wait for the broker a session is not read, so that its pongs cannot be heard either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whose_messages_wait_for_the_broker_is_not_taken_for_idle() {
    let cluster = Cluster::shared();
    let wire = Proxy::to(&cluster.url).await;
    let impatient = Config { pending_requests_max: 1, ping_interval_ms: 300, idle_timeout_ms: 1500, ..config() };
    let instance = Instance::start(cluster.configure_through(&[&wire.url], impatient)).await;
    instance.ready().await;
    let mut client = instance.converse().await;
    wire.refuse();
    instance.unready().await;
    let mut ids = Vec::new();
    for text in ["one", "two", "three"] {
        ids.push(client.request(json!({"type": "publish", "topic": "a", "text": text})).await);
    }
    // Each of these lasts for as long as an idle session may.
    for _ in 0..2 {
        let silent = Raw::connect(instance.address).await;
        instance.metrics().show("warren_sessions", 2.0).await;
        instance.metrics().show("warren_sessions", 1.0).await;
        drop(silent);
    }
    wire.forward();
    for id in ids {
        let answer = client.notice().await;
        assert_eq!((&answer["type"], &answer["id"]), (&json!("ack"), &json!(id)), "{answer}");
    }
}

// --- the end ----------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_is_answered_before_the_good_bye() {
    let instance = Instance::start(config()).await;
    let mut client = instance.converse().await;
    let mut ids = Vec::new();
    for number in 0..100 {
        ids.push(client.request(json!({"type": "publish", "topic": "a", "text": number.to_string()})).await);
    }
    client.client.send(Message::Close(None)).await;
    for id in ids {
        assert_eq!(client.notice().await["id"], json!(id));
    }
    assert_eq!(client.client.closed().await, None);

    let mut client: JsonClient = instance.converse().await;
    client.subscribe(&["a"]).await;
    let stopping = tokio::spawn(instance.stop());
    client.client.is_closed_with(1001).await;
    stopping.await.expect("no panic").expect("a good end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_gone_leaves_nothing_behind() {
    let instance = Instance::start(config()).await;
    for _ in 0..3 {
        let mut client = instance.converse().await;
        client.granted(json!({"type": "subscribe", "topics": ["a", "b.*"], "broadcast": true})).await;
        drop(client);
    }
    sessions_become(instance.address, 0).await;
    let mut client = instance.converse().await;
    client.publish("a", "to nobody").await;
    client.broadcast("to nobody").await;
    client.subscribe(&["a"]).await;
    client.publish("a", "to one").await;
    client.hears(&[(Some("a"), "to one")]).await;
    instance.metrics().show("warren_deliveries_total", 1.0).await;
}
