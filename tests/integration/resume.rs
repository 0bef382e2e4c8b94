//! Who was away goes on where it was, on whichever instance: nothing is missing, nothing comes twice, and what is gone is
//! told.

use std::time::Duration;

use futures_util::future::join_all;
use lapin::BasicProperties;
use lapin::options::QueueDeleteOptions;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};
use warren::broker::Delivery;
use warren::config::Config;
use warren::cursor::Cursor;
use warren::place::{Partition, Position};

use crate::contract::contract;
use crate::support::broker::{Alien, Cluster, PrivateNode};
use crate::support::client::Client;
use crate::support::events::EventStream;
use crate::support::instance::{Carrier, Instance, config};
use crate::support::json::JsonClient;
use crate::support::raw::{Raw, handshake_at};
use crate::support::unreadable::publish_unreadable;

contract! {
    who_was_away_goes_on_where_it_was
    what_was_acknowledged_is_a_place_to_go_on_from
    whoever_breaks_off_again_and_again_hears_everything_once
    what_is_no_cursor_is_refused
    an_event_stream_goes_on_by_its_last_id
    a_plain_session_goes_on_by_the_cursor_of_another
    a_long_past_comes_as_fast_as_it_is_read_and_holds_nobody_up
}

/// Subscribes to these from behind `cursor`; the answer has the next one.
async fn go_on(client: &mut JsonClient, wish: &Value, cursor: &Value) -> Value {
    let mut request = wish.clone();
    (request["type"], request["since"]) = (json!("subscribe"), cursor.clone());
    client.granted(request).await["cursor"].clone()
}

/// The texts that come next, and the cursor of the last.
async fn hears(client: &mut JsonClient, texts: &[&str]) -> Value {
    let mut cursor = Value::Null;
    for text in texts {
        let message = client.message().await;
        assert_eq!(message["text"], json!(text), "{message}");
        cursor = message["cursor"].clone();
    }
    cursor
}

fn wish() -> Value {
    json!({"topics": ["orders.eu", "prices.*"], "broadcast": true})
}

async fn who_was_away_goes_on_where_it_was(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    let mut speaker = instances[0].converse().await;
    let mut away = instances[0].converse().await;
    // Whoever stays keeps the topics coming to the second instance.
    let mut stays = instances[1].converse().await;
    for client in [&mut away, &mut stays] {
        let mut request = wish();
        request["type"] = json!("subscribe");
        client.granted(request).await;
    }
    speaker.publish("orders.eu", "1").await;
    speaker.publish("prices.gold", "2").await;
    let cursor = {
        // Different topics may come in another order.
        let mut cursor = Value::Null;
        for _ in 0..2 {
            cursor = away.message().await["cursor"].clone();
        }
        cursor
    };
    assert_eq!(cursor.is_string(), carrier.resumes());
    drop(away);
    speaker.publish("orders.eu", "3").await;
    speaker.publish("orders.us", "not for it").await;
    speaker.publish("orders.eu", "4").await;
    speaker.broadcast("5").await;
    let mut back = instances[1].converse().await;
    if !carrier.resumes() {
        let mut request = wish();
        (request["type"], request["since"]) = (json!("subscribe"), json!("AYCAgIAGAA"));
        let explanation = back.refused(request, 108).await;
        return assert!(explanation.contains("--delivery queue"), "{explanation}");
    }
    go_on(&mut back, &wish(), &cursor).await;
    let mut heard = Vec::new();
    let mut at = Value::Null;
    for _ in 0..3 {
        let message = back.message().await;
        heard.push(message["text"].as_str().expect("a text").to_owned());
        at = message["cursor"].clone();
    }
    heard.sort_unstable();
    assert_eq!(heard, ["3", "4", "5"]);
    back.heard_nothing_else().await;
    speaker.publish("orders.eu", "6").await;
    hears(&mut back, &["6"]).await;
    let mut third = instances[0].converse().await;
    go_on(&mut third, &wish(), &at).await;
    hears(&mut third, &["6"]).await;
    third.heard_nothing_else().await;
}

async fn what_was_acknowledged_is_a_place_to_go_on_from(carrier: Carrier) {
    if !carrier.resumes() {
        let ack = carrier.instance().await.converse().await;
        return assert!(ack.welcome.get("cursor").is_none());
    }
    let instances = carrier.instances(2).await;
    let mut speaker = instances[0].converse().await;
    speaker.publish("a", "before").await;
    let mut away = instances[1].converse().await;
    let ack = away.granted(json!({"type": "subscribe", "topics": ["a"]})).await;
    drop(away);
    speaker.publish("a", "1").await;
    speaker.publish("a", "2").await;
    for instance in &instances {
        let mut back = instance.converse().await;
        go_on(&mut back, &json!({"topics": ["a"]}), &ack["cursor"]).await;
        hears(&mut back, &["1", "2"]).await;
        back.heard_nothing_else().await;
    }
}

/// Three topics of three partitions and the broadcast, each counted by itself.
const LINES: [Option<&str>; 4] = [Some("a"), Some("b.c"), Some("d"), None];
const EACH: usize = 150;

async fn talk(instance: &Instance) {
    let mut speaker = instance.converse().await;
    for number in 0..EACH {
        for topic in LINES {
            match topic {
                Some(topic) => speaker.publish(topic, &number.to_string()).await,
                None => speaker.broadcast(&number.to_string()).await,
            };
        }
    }
}

async fn whoever_breaks_off_again_and_again_hears_everything_once(carrier: Carrier) {
    if !carrier.resumes() {
        return;
    }
    let instances = carrier.instances(2).await;
    let wish = json!({"topics": ["a", "b.*", "#.d"], "broadcast": true});
    let mut client = instances[0].converse().await;
    let mut request = wish.clone();
    request["type"] = json!("subscribe");
    let mut cursor = client.granted(request).await["cursor"].clone();
    let speaking = async { tokio::join!(talk(&instances[0]), talk(&instances[1])) };
    let listening = async {
        let mut heard = LINES.map(|_| Vec::new());
        let mut round = 0;
        while heard.iter().map(Vec::len).sum::<usize>() < 2 * EACH * LINES.len() {
            for _ in 0..1 + round % 7 {
                let message = client.message().await;
                cursor = message["cursor"].clone();
                let line = LINES.iter().position(|topic| *topic == message["topic"].as_str()).expect("one of them");
                heard[line].push(message["text"].as_str().expect("a number").parse::<usize>().expect("a number"));
                if heard.iter().map(Vec::len).sum::<usize>() == 2 * EACH * LINES.len() {
                    break;
                }
            }
            round += 1;
            client = instances[round % 2].converse().await;
            go_on(&mut client, &wish, &cursor).await;
        }
        heard
    };
    let (_, heard) = tokio::join!(speaking, listening);
    for (line, numbers) in LINES.iter().zip(heard) {
        // Two speakers, each in its order: each number comes twice in all.
        let mut sorted = numbers.clone();
        sorted.sort_unstable();
        let expected: Vec<usize> = (0..EACH).flat_map(|number| [number, number]).collect();
        assert_eq!(sorted, expected, "{line:?}");
    }
    client.heard_nothing_else().await;
}

async fn what_is_no_cursor_is_refused(carrier: Carrier) {
    let instance = carrier.instance().await;
    let mut client = instance.converse().await;
    for since in [json!("nonsense!"), json!(""), json!(7)] {
        client.refused(json!({"type": "subscribe", "topics": ["a"], "since": since}), 103).await;
    }
    client.refused(json!({"type": "unsubscribe", "topics": ["a"], "since": "AYCAgIAGAA"}), 103).await;
    client.subscribe(&["a"]).await;
}

/// The next event with data, and the id that a browser would have by then.
async fn next_event(stream: &mut EventStream) -> (Value, String) {
    let event = stream.next().await.expect("an event");
    let id = stream.last_id.clone().expect("an id by now");
    (serde_json::from_str(&event.data).expect("JSON"), id)
}

async fn again(instance: &Instance, query: &str, last_id: &str) -> EventStream {
    let headers = [("Last-Event-ID", last_id)];
    EventStream::open_with(Raw::tcp(instance.address).await, instance.address, query, &headers).await
}

async fn an_event_stream_goes_on_by_its_last_id(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    let mut speaker = instances[0].converse().await;
    let mut stream = EventStream::open(instances[0].address, "topic=a&topic=b.%23").await;
    speaker.publish("a", "1").await;
    let (message, id) = next_event(&mut stream).await;
    assert_eq!(message["text"], "1");
    drop(stream);
    speaker.publish("a", "2").await;
    speaker.publish("b.c", "3").await;
    let mut back = again(&instances[1], "topic=a&topic=b.%23", &id).await;
    if !carrier.resumes() {
        let gap: Value = serde_json::from_str(&back.next().await.expect("an event").data).expect("JSON");
        assert_eq!(gap, json!({"type": "gap", "scope": "everything"}));
        speaker.publish("a", "4").await;
        return back.receives(&["4"]).await;
    }
    let mut heard =
        [next_event(&mut back).await, next_event(&mut back).await].map(|(message, _)| message["text"].clone());
    heard.sort_by_key(Value::to_string);
    assert_eq!(heard, ["2", "3"]);
    speaker.publish("a", "4").await;
    let (message, id) = next_event(&mut back).await;
    assert_eq!(message["text"], "4");
    drop(back);
    // A stream that heard nothing has a place, too.
    let mut quiet = again(&instances[0], "topic=a&topic=b.%23", &id).await;
    speaker.publish("a", "5").await;
    assert_eq!(next_event(&mut quiet).await.0["text"], "5");
}

async fn a_plain_session_goes_on_by_the_cursor_of_another(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    let mut speaker = instances[0].converse().await;
    let ack = speaker.granted(json!({"type": "subscribe", "topics": ["a"], "broadcast": true})).await;
    if !carrier.resumes() {
        let mut raw = Raw::tcp(instances[1].address).await;
        raw.send(handshake_at(instances[1].address, "/message/a?since=AYCAgIAGAA", &[])).await;
        let answer = raw.answer().await;
        assert_eq!(answer.status, 400);
        return assert!(answer.body.contains("--delivery queue"), "{}", answer.body);
    }
    let cursor = ack["cursor"].as_str().expect("a cursor");
    speaker.publish("a", "1").await;
    speaker.broadcast("for all").await;
    speaker.publish("a", "2").await;
    let mut of_topic = Client::connect_at(instances[1].address, &format!("/message/a?since={cursor}")).await;
    of_topic.receives(&["1", "2"]).await;
    let mut of_broadcast = Client::connect_at(instances[0].address, &format!("/message?since={cursor}")).await;
    of_broadcast.receives(&["for all"]).await;
    of_topic.send("3").await;
    of_topic.receives(&["3"]).await;
    of_broadcast.send("everybody").await;
    of_broadcast.receives(&["everybody"]).await;
}

/// More than any buffer on the way holds.
async fn a_long_past_comes_as_fast_as_it_is_read_and_holds_nobody_up(carrier: Carrier) {
    const MESSAGES: usize = 150;
    if !carrier.resumes() {
        return;
    }
    let instance = carrier.instance().await;
    let mut speaker = instance.converse().await;
    let ack = speaker.granted(json!({"type": "subscribe", "topics": ["none"]})).await;
    let long = "x".repeat(60_000);
    for number in 0..MESSAGES {
        speaker.broadcast(&format!("{number} {long}")).await;
    }
    let mut slow = instance.converse().await;
    let wish = json!({"type": "subscribe", "broadcast": true, "since": ack["cursor"]});
    let id = slow.request(wish).await;
    // It reads nothing yet.
    let mut other = instance.converse().await;
    other.subscribe_to_broadcast().await;
    speaker.broadcast("meanwhile").await;
    hears(&mut other, &["meanwhile"]).await;
    assert_eq!(slow.notice().await["id"], json!(id));
    for number in 0..MESSAGES {
        let text = slow.message().await["text"].as_str().expect("a text").to_owned();
        assert!(text.starts_with(&format!("{number} x")), "{number}: {}", &text[..10]);
    }
    hears(&mut slow, &["meanwhile"]).await;
    slow.heard_nothing_else().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_session_whose_past_is_gone_is_closed() {
    let instances = [Instance::start(forgetful()).await];
    let cursor = cursor_of_an_absence(&instances, &TEN).await;
    let path = format!("/message/a.b?since={}", cursor.as_str().expect("a cursor"));
    Client::connect_at(instances[0].address, &path).await.is_closed_with(4003).await;
}

// --- what is not in memory any more -----------------------------------------------------------------------------------

/// So little that hardly a message stays.
fn forgetful() -> Config {
    Config { resume_bytes_max: 1000, ..config() }
}

fn forgetful_stream() -> Config {
    Config { delivery: Delivery::Stream, ..forgetful() }
}

async fn cursor_of_an_absence(instances: &[Instance], texts: &[&str]) -> Value {
    let mut speaker = instances[0].converse().await;
    let mut away = instances[0].converse().await;
    let ack = away.granted(json!({"type": "subscribe", "topics": ["a.*"], "broadcast": true})).await;
    drop(away);
    for text in texts {
        speaker.publish("a.b", text).await;
    }
    ack["cursor"].clone()
}

const TEN: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_memory_has_no_more_is_told() {
    let instance = Instance::start(forgetful()).await;
    let instances = [instance];
    let cursor = cursor_of_an_absence(&instances, &TEN).await;
    let mut back = instances[0].converse().await;
    let id = back.request(json!({"type": "subscribe", "topics": ["a.*"], "since": cursor})).await;
    assert_eq!(back.notice().await, json!({"type": "gap", "scope": "everything"}));
    assert_eq!(back.notice().await["id"], json!(id));
    // What is left comes all the same.
    let first: usize = back.message().await["text"].as_str().and_then(|text| text.parse().ok()).expect("a number");
    hears(&mut back, &TEN[first + 1..]).await;
    back.heard_nothing_else().await;
    assert!((1..10).contains(&first), "{first}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_memory_has_no_more_is_read_from_the_stream() {
    let cluster = Cluster::shared();
    let [one, two] = [forgetful_stream(), forgetful_stream()];
    let instances = [Instance::join(one, &cluster).await, Instance::join(two, &cluster).await];
    let cursor = cursor_of_an_absence(&instances, &TEN).await;
    // What came by the broadcast's entrance is with the broadcast.
    let alien = Alien::connect(&cluster.url).await;
    for _ in 0..10 {
        alien.publish(&cluster.broadcast(), "a.c", b"by the other entrance", Default::default()).await;
    }
    for instance in &instances {
        let mut back = instance.converse().await;
        go_on(&mut back, &json!({"topics": ["a.*"]}), &cursor).await;
        let mut heard = Vec::new();
        for _ in 0..20 {
            heard.push(back.message().await["text"].as_str().expect("a text").to_owned());
        }
        let (others, own): (Vec<_>, Vec<_>) = heard.into_iter().partition(|text| text.starts_with("by"));
        assert_eq!((own, others.len()), (TEN.map(str::to_owned).to_vec(), 10));
        back.heard_nothing_else().await;
    }
}

/// Everything from a cursor on, each text once, and whether it was told of a gap.
async fn all_from(client: &mut JsonClient, wish: &Value, cursor: &Value) -> (Vec<String>, bool) {
    let mut request = wish.clone();
    (request["type"], request["since"]) = (json!("subscribe"), cursor.clone());
    let id = client.request(request).await;
    let mut answer = client.notice().await;
    let is_told = answer["type"] == "gap";
    while answer["type"] == "gap" {
        answer = client.notice().await;
    }
    assert_eq!((&answer["type"], &answer["id"]), (&json!("ack"), &json!(id)), "{answer}");
    let heard = client.heard_so_far().into_iter();
    (heard.map(|message| message["text"].as_str().expect("a text").to_owned()).collect(), is_told)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_nobody_ever_reached_is_told_once_and_heard_from() {
    let instance = Instance::start(config()).await;
    let mut nowhere = Cursor::default();
    Partition::all().for_each(|partition| nowhere.set(partition, Position { offset: 1_000_000, check: 7 }));
    let mut client = instance.converse().await;
    let wish = json!({"topics": ["a", "#.b"], "broadcast": true});
    // That of the broadcast may be read yet, for all that is known.
    let (heard, is_told) = all_from(&mut client, &wish, &json!(nowhere.to_string())).await;
    assert_eq!((heard.len(), is_told), (0, true));
    client.publish("a", "afterwards").await;
    hears(&mut client, &["afterwards"]).await;
    client.heard_nothing_else().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_stream_that_was_made_anew_one_goes_on_as_ever() {
    let cluster = Cluster::shared();
    let instance = Instance::join(forgetful_stream(), &cluster).await;
    let mut speaker = instance.converse().await;
    for text in TEN {
        speaker.broadcast(text).await;
    }
    let alien = Alien::connect(&cluster.url).await;
    let stream = cluster.stream();
    alien.channel.queue_delete(stream.as_str().into(), QueueDeleteOptions::default()).await.expect("deleted");
    let is_back = |status, body: &Value| status == 200 && body["broker"]["attachments"].as_u64() >= Some(2);
    instance.answers("it is attached again", is_back).await;
    let mut away = instance.converse().await;
    let ack = away.granted(json!({"type": "subscribe", "broadcast": true})).await;
    let mut speaker = instance.converse().await;
    for text in TEN {
        speaker.broadcast(text).await;
    }
    let mut back = instance.converse().await;
    let (heard, _) = all_from(&mut back, &json!({"broadcast": true}), &ack["cursor"]).await;
    assert_eq!(heard, TEN);
}

/// Its publisher is gone, so nobody says whether it will come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_message_that_never_comes_is_read_without_it() {
    let cluster = Cluster::shared();
    let instance = Instance::join(forgetful_stream(), &cluster).await;
    let mut away = instance.converse().await;
    let ack = away.granted(json!({"type": "subscribe", "broadcast": true})).await;
    let alien = Alien::connect(&cluster.url).await;
    for number in [1, 3] {
        let mut headers = FieldTable::default();
        headers.insert("x-warren-sequence".into(), AMQPValue::LongLongInt(number));
        let properties = BasicProperties::default().with_app_id("somebody@1".into()).with_headers(headers);
        alien.publish(&cluster.broadcast(), "", number.to_string().as_bytes(), properties).await;
    }
    let mut speaker = instance.converse().await;
    for text in TEN {
        speaker.broadcast(text).await;
    }
    // It waits here, too, and longer.
    away.notice_of("gap").await;
    let mut back = instance.converse().await;
    let (mut heard, _) = all_from(&mut back, &json!({"broadcast": true}), &ack["cursor"]).await;
    heard.sort_unstable();
    let mut all: Vec<&str> = TEN.into_iter().chain(["1", "3"]).collect();
    all.sort_unstable();
    assert_eq!(heard, all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_again_is_passed_over_and_told() {
    let node = PrivateNode::start("resume-unreadable").await;
    let cluster = Cluster::at(node.url.clone());
    let instance = Instance::join(forgetful_stream(), &cluster).await;
    let mut away = instance.converse().await;
    let ack = away.granted(json!({"type": "subscribe", "broadcast": true})).await;
    let mut speaker = instance.converse().await;
    speaker.broadcast("before").await;
    publish_unreadable(&cluster.url, &cluster.broadcast()).await;
    for text in TEN {
        speaker.broadcast(text).await;
    }
    let expected: Vec<&str> = ["before"].into_iter().chain(TEN).collect();
    for text in &expected {
        assert_eq!(away.message_after_gaps().await["text"], json!(text));
    }
    let mut back = instance.converse().await;
    let (heard, is_told) = all_from(&mut back, &json!({"broadcast": true}), &ack["cursor"]).await;
    assert_eq!((heard, is_told), (expected.into_iter().map(str::to_owned).collect(), true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_come_back_at_once() {
    const CLIENTS: usize = 40;
    let cluster = Cluster::shared();
    let instance = Instance::join(forgetful_stream(), &cluster).await;
    let cursor = cursor_of_an_absence(std::slice::from_ref(&instance), &TEN).await;
    let all = (0..CLIENTS).map(async |_| {
        let mut back = instance.converse().await;
        let (heard, is_told) = all_from(&mut back, &json!({"topics": ["a.*", "#"]}), &cursor).await;
        assert_eq!((heard, is_told), (TEN.map(str::to_owned).to_vec(), false));
    });
    join_all(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_of_another_cluster_is_a_gap() {
    let elsewhere = Carrier::RabbitMq(Cluster::shared(), Delivery::Stream).instance().await;
    let here = Carrier::RabbitMq(Cluster::shared(), Delivery::Stream).instance().await;
    let cursor = cursor_of_an_absence(&[elsewhere], &[]).await;
    let mut back = here.converse().await;
    let id = back.request(json!({"type": "subscribe", "broadcast": true, "since": cursor})).await;
    assert_eq!(back.notice().await["type"], "gap");
    assert_eq!(back.notice().await["id"], json!(id));
    back.broadcast("afterwards").await;
    let last = async {
        loop {
            if back.message().await["text"] == "afterwards" {
                break;
            }
        }
    };
    last.await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_away_while_the_broker_was_killed_misses_nothing() {
    let node = PrivateNode::start("resume").await;
    let cluster = Cluster::at(node.url.clone());
    let carrier = Carrier::RabbitMq(cluster, Delivery::Stream);
    let instances = carrier.instances(2).await;
    // RabbitMQ 3.10.8 needs a moment to remember its first streams.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut speaker = instances[0].converse().await;
    let mut away = instances[0].converse().await;
    let ack = away.granted(json!({"type": "subscribe", "topics": ["a"]})).await;
    speaker.publish("a", "before").await;
    drop(away);
    node.kill().await;
    instances[0].unready().await;
    let pending = speaker.request(json!({"type": "publish", "topic": "a", "text": "while it was away"})).await;
    node.restart().await;
    let mut answer = speaker.notice().await;
    while answer["type"] == "gap" {
        answer = speaker.notice().await;
    }
    assert_eq!((&answer["type"], &answer["id"]), (&json!("ack"), &json!(pending)));
    speaker.publish("a", "after").await;
    instances[1].ready().await;
    let mut back = instances[1].converse().await;
    go_on(&mut back, &json!({"topics": ["a"]}), &ack["cursor"]).await;
    hears(&mut back, &["before", "while it was away", "after"]).await;
    back.heard_nothing_else().await;
}
