//! What RabbitMQ itself does for mailboxes: their bounds in bytes and in time, groups that cannot be joined, and programs
//! that write to groups without anything of Warren.

use std::time::Duration;

use lapin::{BasicProperties, Confirmation};
use serde_json::{Value, json};
use warren::config::Config;

use crate::support::broker::{Alien, Cluster, PrivateNode};
use crate::support::eventually;
use crate::support::http::{Answer, request};
use crate::support::identity::{token_of, with_tokens};
use crate::support::instance::Instance;
use crate::support::json::JsonClient;
use crate::support::post::{JSON, json as body_of, post, problem};
use crate::support::process::Directory;
use crate::support::raw::{Raw, handshake_with};

fn token(user: &str) -> String {
    token_of(user, &json!({"roles": ["send", "groups"]}))
}

async fn join(cluster: &Cluster, change: impl FnOnce(Config) -> Config) -> Instance {
    let directory = Directory::new("mailbox-bounds");
    Instance::join(change(with_tokens(&directory)), cluster).await
}

async fn write(instance: &Instance, path: &str, text: &str) -> Answer {
    let bearer = format!("Bearer {}", token("alice"));
    post(instance.address, path, &[JSON, ("Authorization", &bearer)], json!({ "text": text }).to_string()).await
}

/// Has somebody belong to the group `class`.
async fn assign(instance: &Instance, user: &str) -> Answer {
    let bearer = format!("Bearer {}", token("teacher"));
    let headers = [("Authorization", &*bearer), ("Content-Length", "0")];
    request(instance.address, &format!("PUT /api/groups/class/members/{user}"), &headers).await
}

/// The texts that wait for somebody, who has them then.
async fn unread(instance: &Instance, user: &str) -> Vec<Value> {
    let bearer = format!("Bearer {}", token(user));
    let answer = post(instance.address, "/api/unread", &[("Authorization", &bearer)], "").await;
    let messages = body_of(&answer)["messages"].as_array().expect("messages").clone();
    messages.iter().map(|message| message["text"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mailbox_holds_so_many_bytes() {
    let instance = join(&Cluster::shared(), |config| Config { unread_bytes_max: 2048, ..config }).await;
    let text = "x".repeat(900);
    for status in [200, 200, 507] {
        let answer = write(&instance, "/api/users/carol/messages", &text).await;
        assert_eq!(answer.status, status, "{}", answer.body);
    }
    assert_eq!(unread(&instance, "carol").await, [json!(text), json!(text)]);
    assert_eq!(write(&instance, "/api/users/carol/messages", &text).await.status, 200, "there is room again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_and_then_mailboxes_go_when_their_time_is_over() {
    let cluster = Cluster::shared();
    let instance = join(&cluster, |config| Config { unread_age_s: 1, mailbox_idle_s: 2, ..config }).await;
    let alien = Alien::connect(&cluster.url).await;
    let mailbox = cluster.mailbox("carol");
    assert_eq!(assign(&instance, "carol").await.status, 200);
    assert_eq!(write(&instance, "/api/users/carol/messages", "old").await.status, 200);
    eventually("what waits is too old", || async { alien.waiting(&mailbox).await != Some(1) }).await;
    // The mailbox goes, and the membership with it. To look for it would be a use of it; to write to it is none.
    eventually("the group has no members", || async {
        let answer = write(&instance, "/api/groups/class/messages", "page 12").await;
        answer.status == 404 && problem(&answer) == "no-members"
    })
    .await;
    assert!(!alien.finds(&mailbox).await);
    // It is made again when it is needed.
    assert_eq!(write(&instance, "/api/users/carol/messages", "new").await.status, 200);
}

/// RabbitMQ counts neither what is written to a queue nor what is in it as use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mailbox_stands_for_as_long_as_its_last_message_is_kept() {
    let bounds = |config| Config { unread_age_s: 14, mailbox_idle_s: 2, ..config };
    let instance = join(&Cluster::shared(), bounds).await;
    assert_eq!(write(&instance, "/api/users/carol/messages", "1").await.status, 200);
    // Time alone can pass here: whoever looked at the queue would use it.
    let made = tokio::time::Instant::now();
    tokio::time::sleep_until(made + Duration::from_secs(10)).await;
    assert_eq!(write(&instance, "/api/users/carol/messages", "2").await.status, 200);
    // What the first one made would be gone by now, and the first one is; the second has some seconds left.
    tokio::time::sleep_until(made + Duration::from_millis(16_500)).await;
    assert_eq!(unread(&instance, "carol").await, [json!("2")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_program_writes_to_groups() {
    let cluster = Cluster::shared();
    let instance = join(&cluster, |config| Config { unread_messages_max: 2, ..config }).await;
    let alien = Alien::connect(&cluster.url).await;
    let say = async |text: &str| alien.publish_mandatory(&cluster.groups(), "class", text.as_bytes()).await;
    assert!(matches!(say("nobody").await, Confirmation::Ack(Some(_))), "it comes back");
    for pupil in ["bob", "carol"] {
        assert_eq!(assign(&instance, pupil).await.status, 200);
    }
    let mut bob = JsonClient::connect_with(instance.address, &[&token("bob")]).await;
    for text in ["1", "2"] {
        assert!(matches!(say(text).await, Confirmation::Ack(None)), "{text}");
        let heard = bob.message().await;
        assert_eq!((&heard["text"], &heard["group"], &heard["user"]), (&json!(text), &json!("class"), &json!("bob")));
        assert!(heard["id"].is_string(), "it was given one");
        bob.client.send(json!({"type": "acknowledge", "message_id": heard["id"]}).to_string()).await;
    }
    // Carol's mailbox is full; bob has it all the same.
    assert!(matches!(say("3").await, Confirmation::Nack(_)));
    assert_eq!(bob.message().await["text"], "3");
    assert_eq!(unread(&instance, "carol").await, [json!("1"), json!("2")]);
    // What it may say beside.
    let properties = BasicProperties::default().with_message_id("m-1".into());
    alien.publish(&cluster.groups(), "class", b"4", properties).await;
    assert_eq!(bob.message().await["id"], "m-1");
}

/// RabbitMQ makes no queue any more: it is full, or its operator says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_kept_is_told_and_the_rest_of_a_token_counts() {
    let node = PrivateNode::start("not-joined").await;
    let instance = join(&Cluster::at(node.url.clone()), |config| config).await;
    let mut alice = JsonClient::connect_with(instance.address, &[&token("alice")]).await;
    node.ctl(&["set_vhost_limits", r#"{"max-queues": 0}"#]).await;
    let answer = assign(&instance, "carol").await;
    assert_eq!((answer.status, &*problem(&answer)), (503, "not-kept"));
    let answer = write(&instance, "/api/users/zoe/messages", "hi").await;
    assert_eq!((answer.status, &*problem(&answer)), (503, "not-kept"), "there is no mailbox for it");
    let letter = json!({"type": "send", "user": "zoe", "text": "hi"});
    assert_eq!(alice.answer(letter).await["code"], 208);
    let of_class = token_of("alice", &json!({"roles": ["presence"], "groups": ["class"]}));
    let bearer = format!("Bearer {of_class}");
    let mut early = Raw::tcp(instance.address).await;
    early.send(handshake_with(instance.address, &[("Authorization", &bearer)])).await;
    assert_eq!(early.answer().await.status, 503, "what is said to the class would not be kept");
    let authenticate = json!({"type": "authenticate", "token": of_class});
    assert_eq!(alice.answer(authenticate.clone()).await["code"], 208);
    let letter = json!({"type": "send", "user": "carol", "text": "hi"});
    assert_eq!(alice.answer(letter).await["code"], 109, "the new token's rights count");

    node.ctl(&["clear_vhost_limits"]).await;
    assert_eq!(alice.answer(authenticate).await["type"], "ack");
    assert_eq!(write(&instance, "/api/groups/class/messages", "page 12").await.status, 200);
    assert_eq!(alice.message().await["text"], "page 12");
}
