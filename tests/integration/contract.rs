//! What every broker promises, the same cases against each.

use futures_util::future::join_all;
use tokio_tungstenite::tungstenite::Message;

use crate::support::client::Client;
use crate::support::instance::{Carrier, Instance};

/// One test per case and broker.
macro_rules! contract {
    ($($case:ident)*) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let exchange = warren::broker::memory::MemoryExchange::default();
                super::$case($crate::support::instance::Carrier::Memory(exchange)).await;
            })*
        }
        mod rabbitmq {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let cluster = $crate::support::broker::Cluster::shared();
                let delivery = warren::broker::Delivery::Queue;
                super::$case($crate::support::instance::Carrier::RabbitMq(cluster, delivery)).await;
            })*
        }
        mod rabbitmq_stream {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let cluster = $crate::support::broker::Cluster::shared();
                let delivery = warren::broker::Delivery::Stream;
                super::$case($crate::support::instance::Carrier::RabbitMq(cluster, delivery)).await;
            })*
        }
    };
}
pub(crate) use contract;

contract! {
    one_instance_carries_to_all_its_sessions
    two_instances_carry_to_each_other
    five_instances_carry_to_each_other
    senders_at_the_same_time_each_keep_their_order
    text_and_binary_stay_what_they_are
    every_size_up_to_the_limit_arrives_whole
    keep_alives_reach_nobody
    a_thousand_messages_reach_a_hundred_sessions_elsewhere
    a_later_session_hears_only_what_comes_later
}

/// The largest message by default.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

async fn one_instance_carries_to_all_its_sessions(carrier: Carrier) {
    everyone_hears_everyone_once(carrier, 1).await;
}

async fn two_instances_carry_to_each_other(carrier: Carrier) {
    everyone_hears_everyone_once(carrier, 2).await;
}

async fn five_instances_carry_to_each_other(carrier: Carrier) {
    everyone_hears_everyone_once(carrier, 5).await;
}

/// Three sessions on each instance; one after the other says its name. All hear all names, the speaker too, and
/// nothing else.
async fn everyone_hears_everyone_once(carrier: Carrier, count: usize) {
    let instances = carrier.instances(count).await;
    let mut sessions = sessions_on_each(&instances, 3).await;
    let names: Vec<String> = (0..sessions.len()).map(|number| format!("session {number}")).collect();
    for (speaker, name) in names.iter().enumerate() {
        sessions[speaker].send(name.as_str()).await;
        for listener in &mut sessions {
            listener.receives(&[name]).await;
        }
    }
    nothing_more_comes(&instances[0], &mut sessions).await;
}

async fn senders_at_the_same_time_each_keep_their_order(carrier: Carrier) {
    const SENDERS: usize = 6;
    const EACH: usize = 100;
    let instances = carrier.instances(2).await;
    let mut listeners = sessions_on_each(&instances, 2).await;
    let speak = async |sender: usize| {
        let mut session = instances[sender % 2].connect().await;
        for number in 0..EACH {
            session.send(format!("{sender} {number}")).await;
        }
        session
    };
    let _senders = join_all((0..SENDERS).map(speak)).await;
    for listener in &mut listeners {
        let mut next = [0; SENDERS];
        for _ in 0..SENDERS * EACH {
            let text = listener.receive_text().await;
            let (sender, number) = text.split_once(' ').expect("sender and number");
            let next = &mut next[sender.parse::<usize>().expect("a sender")];
            assert_eq!(number.parse(), Ok(*next), "from sender {sender}");
            *next += 1;
        }
    }
    nothing_more_comes(&instances[1], &mut listeners).await;
}

async fn text_and_binary_stay_what_they_are(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    let mut sender = instances[0].connect().await;
    let mut listeners = sessions_on_each(&instances, 1).await;
    let messages = [
        Message::text("grüße, 世界 \u{0} \u{10ffff}"),
        Message::binary(&b"\x00\xff\xfe\x80"[..]),
        Message::binary(&b"binary although it could be text"[..]),
        Message::text("text again"),
        Message::binary(&b""[..]),
        Message::text(""),
    ];
    for message in &messages {
        sender.send(message.clone()).await;
    }
    for listener in &mut listeners {
        for message in &messages {
            assert_eq!(listener.receive().await, *message);
        }
    }
}

async fn every_size_up_to_the_limit_arrives_whole(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    let mut sender = instances[0].connect().await;
    let mut listeners = sessions_on_each(&instances, 1).await;
    for size in [0, 1, 125, 126, 65_535, MESSAGE_BYTES_MAX] {
        let bytes: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
        for message in [Message::text("x".repeat(size)), Message::binary(bytes)] {
            sender.send(message.clone()).await;
            for listener in &mut listeners {
                assert!(listener.receive().await == message, "{size} bytes");
            }
        }
    }
    sender.send("x".repeat(MESSAGE_BYTES_MAX + 1)).await;
    sender.is_closed_with(1009).await;
    nothing_more_comes(&instances[0], &mut listeners).await;
}

async fn keep_alives_reach_nobody(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    let mut sender = instances[0].connect().await;
    let mut listeners = sessions_on_each(&instances, 1).await;
    sender.send("ping").await;
    sender.send("keep-alive").await;
    let like_them = [
        Message::text(" ping"),
        Message::text("ping\n"),
        Message::text("Ping"),
        Message::text("PING"),
        Message::text("Keep-Alive"),
        Message::text("pong"),
        Message::binary(&b"ping"[..]),
        Message::binary(&b"keep-alive"[..]),
    ];
    for message in &like_them {
        sender.send(message.clone()).await;
        sender.send("ping").await;
        sender.send("keep-alive").await;
    }
    for listener in listeners.iter_mut().chain([&mut sender]) {
        for message in &like_them {
            assert_eq!(listener.receive().await, *message);
        }
    }
    listeners.push(sender);
    nothing_more_comes(&instances[0], &mut listeners).await;
}

async fn a_thousand_messages_reach_a_hundred_sessions_elsewhere(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    let mut listeners = instances[1].connect_many(100).await;
    let mut sender = instances[0].connect().await;
    let texts: Vec<String> = (0..1_000).map(|number| format!("message {number}")).collect();
    for text in &texts {
        sender.send(text.as_str()).await;
    }
    for listener in &mut listeners {
        for text in &texts {
            listener.receives(&[text]).await;
        }
    }
    nothing_more_comes(&instances[1], &mut listeners).await;
}

async fn a_later_session_hears_only_what_comes_later(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    // Enough of them that every share of the fan-out has handed the first message out when all have heard it.
    let mut early = sessions_on_each(&instances, 8).await;
    early[0].send("before").await;
    for session in &mut early {
        session.receives(&["before"]).await;
    }
    let mut late = sessions_on_each(&instances, 8).await;
    early[0].send("after").await;
    for session in early.iter_mut().chain(&mut late) {
        session.receives(&["after"]).await;
    }
}

async fn sessions_on_each(instances: &[Instance], count: usize) -> Vec<Client> {
    join_all(instances.iter().map(|instance| instance.connect_many(count))).await.into_iter().flatten().collect()
}

/// The next thing that `listeners` hear is a message that is sent now.
async fn nothing_more_comes(instance: &Instance, listeners: &mut [Client]) {
    let mut sender = instance.connect().await;
    sender.send("the end").await;
    for listener in listeners {
        listener.receives(&["the end"]).await;
    }
}
