//! Messages to users that lapin cannot parse, in queues that outlive connections: nobody else waits for them for long.

use std::time::Duration;

use lapin::BasicProperties;
use serde_json::json;

use crate::support::broker::{Alien, Cluster};
use crate::support::identity::{token_of, with_tokens};
use crate::support::instance::Instance;
use crate::support::json::JsonClient;
use crate::support::process::Directory;
use crate::support::unreadable::{publish_unreadable, publish_unreadable_into};

/// Three connections and the pauses between them, on a busy machine.
const MENDED_WITHIN: Duration = Duration::from_secs(60);

async fn join(cluster: &Cluster) -> Instance {
    let instance = Instance::join(with_tokens(&Directory::new("unreadable")), cluster).await;
    instance.ready().await;
    instance
}

async fn session(instance: &Instance, user: &str) -> JsonClient {
    JsonClient::connect_with(instance.address, &[&token_of(user, &json!({"roles": ["send"]}))]).await
}

/// The next message to the session's user that is not a repetition, acknowledged.
async fn reads(session: &mut JsonClient, text: &str, seen: &mut Vec<String>) {
    let reading = async {
        loop {
            let message = session.message().await;
            session.client.send(json!({"type": "acknowledge", "message_id": message["id"]}).to_string()).await;
            let said = message["text"].as_str().expect("a text").to_owned();
            if !seen.contains(&said) {
                seen.push(said.clone());
                return said;
            }
        }
    };
    assert_eq!(tokio::time::timeout(MENDED_WITHIN, reading).await.expect("a message in time"), text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_program_says_unreadably_keeps_no_other_from_writing() {
    let cluster = Cluster::shared();
    let instance = join(&cluster).await;
    let mut carol = session(&instance, "carol").await;
    let alien = Alien::connect(&cluster.url).await;
    let mut seen = Vec::new();
    alien.publish(&cluster.users(), "carol", b"before", BasicProperties::default()).await;
    reads(&mut carol, "before", &mut seen).await;
    publish_unreadable(&cluster.url, &cluster.users()).await;
    alien.publish(&cluster.users(), "carol", b"behind", BasicProperties::default()).await;
    reads(&mut carol, "behind", &mut seen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_unreadable_in_one_mailbox_keeps_nobody_s_letters() {
    let cluster = Cluster::shared();
    let instance = join(&cluster).await;
    let mut alice = session(&instance, "alice").await;
    let [mut carol, mut bob] = [session(&instance, "carol").await, session(&instance, "bob").await];
    let [mut of_carol, mut of_bob] = [Vec::new(), Vec::new()];
    for round in ["before", "behind"] {
        for user in ["carol", "bob"] {
            let answer = alice.answer(json!({"type": "send", "user": user, "text": round})).await;
            assert_eq!(answer["type"], "ack", "{answer}");
        }
        reads(&mut carol, round, &mut of_carol).await;
        reads(&mut bob, round, &mut of_bob).await;
        publish_unreadable_into(&cluster.url, &cluster.mailbox("carol")).await;
    }
    // The second one as well.
    let answer = alice.answer(json!({"type": "send", "user": "bob", "text": "at last"})).await;
    assert_eq!(answer["type"], "ack", "{answer}");
    reads(&mut bob, "at last", &mut of_bob).await;
}
