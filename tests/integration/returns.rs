//! What RabbitMQ returns, since nobody is bound to receive it, among what it takes: each sender is told of its own.

use std::collections::HashSet;

use lapin::options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use serde_json::json;

use crate::support::broker::{Alien, Cluster};
use crate::support::instance::{Instance, config};

/// Far fewer than a session may have unanswered.
const AT_ONCE: usize = 100;
const ROUNDS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_backends_and_who_has_none_is_told_apart_however_close_they_come() {
    let cluster = Cluster::shared();
    let instance = Instance::join(config(), &cluster).await;
    let alien = Alien::connect(&cluster.url).await;
    let (queue, inbound) = (format!("{}-heard", cluster.prefix), format!("{}.inbound", cluster.prefix));
    // Kept on disk, so that its confirms take their time.
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    alien.channel.queue_declare(queue.clone().into(), durable, FieldTable::default()).await.expect("a queue");
    let binding = QueueBindOptions::default();
    alien
        .channel
        .queue_bind(queue.clone().into(), inbound.into(), "heard".into(), binding, FieldTable::default())
        .await
        .expect("a binding");

    let mut client = instance.converse().await;
    let mut accepted = HashSet::new();
    for round in 0..ROUNDS {
        let mut unanswered = HashSet::new();
        for number in 0..AT_ONCE {
            // In turn, and now and then two of a kind.
            let destination = if (number + number / 7) % 2 == 0 { "heard" } else { "unheard" };
            let text = format!("{destination} {round} {number}");
            let send = json!({"type": "send", "destination": format!("/app/{destination}"), "text": text});
            unanswered.insert((client.request(send).await, text));
        }
        for _ in 0..AT_ONCE {
            let answer = client.notice().await;
            let own = unanswered.iter().find(|(id, _)| answer["id"] == json!(id)).cloned().expect("an answer");
            unanswered.remove(&own);
            let (_, text) = own;
            if text.starts_with("unheard") {
                assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!(204)), "{text}: {answer}");
            } else {
                assert_eq!(answer["type"], "ack", "{text}: {answer}");
                accepted.insert(text);
            }
        }
    }
    // Exactly that is there.
    for _ in 0..accepted.len() {
        let got = alien.channel.basic_get(queue.clone().into(), BasicGetOptions { no_ack: true }).await;
        let got = got.expect("the queue").expect("one more");
        assert!(accepted.remove(std::str::from_utf8(&got.delivery.data).expect("a text")));
    }
    assert_eq!(accepted, HashSet::new());
    let got = alien.channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await;
    assert!(got.expect("the queue").is_none());
}
