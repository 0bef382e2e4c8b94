//! What takes a role: hearing and asking who is here, and saying who belongs to a group.

use std::net::SocketAddr;

use serde_json::json;
use warren::config::{Anonymous, Config};

use crate::support::events::EventStream;
use crate::support::http::{Answer, request};
use crate::support::identity::{token, with_tokens};
use crate::support::instance::Instance;
use crate::support::json::JsonClient;
use crate::support::post::problem;
use crate::support::process::Directory;
use crate::support::raw::{Raw, handshake_at};

/// Topics where the server tells who is here, and a pattern that matches them.
const PRESENCE: [&str; 3] = ["warren.presence.users", "warren.presence.topics.a", "warren.#"];

/// The answer to a handshake at a topic.
async fn handshake(address: SocketAddr, topic: &str, headers: &[(&str, &str)]) -> Answer {
    let mut client = Raw::tcp(address).await;
    client.send(handshake_at(address, &format!("/message/{}", topic.replace('#', "%23")), headers)).await;
    client.answer().await
}

fn events(topic: &str) -> String {
    format!("topic={}", topic.replace('#', "%23"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_here_is_heard_with_the_role_alone() {
    let directory = Directory::new("hearing-presence");
    let instance = Instance::start(with_tokens(&directory)).await;
    let address = instance.address;
    let [without, with] = [&[][..], &["presence"]].map(token);
    let [denied, allowed] = [&without, &with].map(|token| format!("Bearer {token}"));
    let [denied, allowed] = [("Authorization", denied.as_str()), ("Authorization", allowed.as_str())];
    let mut stranger = JsonClient::connect_with(address, &[&without]).await;
    let mut client = JsonClient::connect_with(address, &[&with]).await;
    for topic in PRESENCE {
        assert_eq!(handshake(address, topic, &[denied]).await.status, 403, "{topic}");
        assert_eq!(handshake(address, topic, &[allowed]).await.status, 101, "{topic}");
        let answer = request(address, &format!("GET /events?{}", events(topic)), &[denied]).await;
        assert_eq!((answer.status, problem(&answer).as_str()), (403, "forbidden"), "{topic}");
        let stream = EventStream::open_with(Raw::tcp(address).await, address, &events(topic), &[allowed]).await;
        assert_eq!(stream.head.status, 200, "{topic}");
        stranger.refused(json!({"type": "subscribe", "topics": [topic]}), 109).await;
        client.subscribe(&[topic]).await;
    }
    // Everything that a token without `subscribe` may hear does not have it.
    stranger.subscribe(&["#"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_nobody_does_not_hear_who_is_here_where_others_have_tokens() {
    let directory = Directory::new("anonymous-presence");
    let instance = Instance::start(Config { anonymous: Anonymous::Allow, ..with_tokens(&directory) }).await;
    let mut client = instance.converse().await;
    for topic in PRESENCE {
        assert_eq!(handshake(instance.address, topic, &[]).await.status, 403, "{topic}");
        let answer = request(instance.address, &format!("GET /events?{}", events(topic)), &[]).await;
        assert_eq!((answer.status, problem(&answer).as_str()), (403, "forbidden"), "{topic}");
        client.refused(json!({"type": "subscribe", "topics": [topic]}), 109).await;
    }
    assert_eq!(handshake(instance.address, "orders", &[]).await.status, 101);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_here_and_who_belongs_where_is_asked_with_the_role_alone() {
    let directory = Directory::new("asking-presence");
    let instance = Instance::start(with_tokens(&directory)).await;
    for (line, role) in [
        ("GET /api/presence", "presence"),
        ("GET /api/presence/topics/a.b", "presence"),
        ("GET /api/presence/users", "presence"),
        ("GET /api/presence/users/bob", "presence"),
        ("PUT /api/groups/class/members/bob", "groups"),
        ("DELETE /api/groups/class/members/bob", "groups"),
    ] {
        let others: Vec<&str> =
            ["publish", "send", "presence", "groups"].into_iter().filter(|other| *other != role).collect();
        for (roles, status) in [(&[][..], 403), (&others[..], 403), (&[role], 200), (&["admin"], 200)] {
            let value = format!("Bearer {}", token(roles));
            let answer = request(instance.address, line, &[("Authorization", &value)]).await;
            assert_eq!(answer.status, status, "{line} with {roles:?}: {}", answer.body);
            if status == 403 {
                assert_eq!(problem(&answer), "forbidden", "{line}");
            }
        }
        let answer = request(instance.address, line, &[]).await;
        assert_eq!((answer.status, problem(&answer).as_str()), (401, "unauthorized"), "{line}");
    }
}
