//! Users with sessions: who is known to be where while instances and brokers die, how many sessions one may have, who is told
//! of, and where names must not be seen.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use warren::config::Config;
use warren::message::now_unix_ms;
use warren::presence::SILENCE_MAX;

use crate::contract::contract;
use crate::support::broker::{Cluster, PrivateNode};
use crate::support::client::Client;
use crate::support::http::{Answer, request};
use crate::support::identity::{token_of, with_tokens};
use crate::support::instance::{Carrier, Instance};
use crate::support::json::JsonClient;
use crate::support::metrics::Metrics;
use crate::support::process::{Directory, Warren, free_port};
use crate::support::proxy::Proxy;
use crate::support::{DEADLINE, eventually};

contract! {
    a_user_has_no_more_sessions_than_it_may_wherever_they_are
    of_two_that_are_let_in_at_once_the_younger_is_closed
    who_asks_about_a_topic_hears_of_users_who_begin_and_end_it
    the_users_who_hear_a_topic_come_in_pages
}

/// Within how many seconds a killed instance's users are gone; the documentation says about 6.
const GONE_WITHIN: Duration = Duration::from_secs(10);

fn token(user: &str) -> String {
    token_of(user, &json!({"roles": ["send", "presence"]}))
}

async fn session(instance: &Instance, user: &str) -> JsonClient {
    JsonClient::connect_with(instance.address, &[&token(user)]).await
}

/// A handshake of a user, as far as its answer.
async fn handshake(instance: &Instance, user: &str) -> Answer {
    let bearer = format!("Bearer {}", token(user));
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    request(instance.address, "GET /message", &headers).await
}

async fn get(address: std::net::SocketAddr, path: &str) -> Value {
    let bearer = format!("Bearer {}", token("observer"));
    let answer = request(address, &format!("GET {path}"), &[("Authorization", &bearer)]).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    serde_json::from_str(&answer.body).expect("JSON")
}

/// Every user that an instance knows, with how many sessions it has.
async fn users_known_to(instance: &Instance) -> Vec<(String, u64)> {
    let body = get(instance.address, "/api/presence/users?everywhere=true").await;
    let users = body["users"].as_array().expect("a list").iter();
    users.map(|one| (one["user"].as_str().unwrap().to_owned(), one["sessions"].as_u64().unwrap())).collect()
}

fn these(users: &[(&str, u64)]) -> Vec<(String, u64)> {
    users.iter().map(|(user, sessions)| ((*user).to_owned(), *sessions)).collect()
}

async fn are_known_to(instances: &[Instance], users: &[(&str, u64)]) {
    for instance in instances {
        eventually("the users are known", || async { users_known_to(instance).await == these(users) }).await;
    }
}

/// Two instances on which users may have so many sessions.
async fn two(carrier: &Carrier, sessions_per_user_max: u32) -> [Instance; 2] {
    let directory = Directory::new("presence");
    let config = || Config { sessions_per_user_max, ..with_tokens(&directory) };
    let instances = [carrier.instance_with(config()).await, carrier.instance_with(config()).await];
    for instance in &instances {
        instance.ready().await;
        eventually("they know each other", || async {
            get(instance.address, "/api/presence").await["instances"].as_array().is_some_and(|all| all.len() == 2)
        })
        .await;
    }
    instances
}

// --- how many -------------------------------------------------------------------------------------------------------

async fn a_user_has_no_more_sessions_than_it_may_wherever_they_are(carrier: Carrier) {
    let instances = two(&carrier, 2).await;
    let [one, two] = &instances;
    let (first, mut second) = (session(one, "alice").await, session(two, "alice").await);
    are_known_to(&instances, &[("alice", 2)]).await;
    for instance in &instances {
        let answer = handshake(instance, "alice").await;
        assert_eq!(answer.status, 429, "{answer:?}");
        instance.metrics().show("warren_handshakes_refused_total{reason=\"user_full\"}", 1.0).await;
    }
    let _of_another = session(one, "bob").await;
    // One leaves, and there is room on the other instance.
    drop(first);
    are_known_to(&instances, &[("alice", 1), ("bob", 1)]).await;
    let mut third = session(two, "alice").await;
    for client in [&mut second, &mut third] {
        client.client.is_open().await;
    }
    are_known_to(&instances, &[("alice", 2), ("bob", 1)]).await;
}

async fn of_two_that_are_let_in_at_once_the_younger_is_closed(carrier: Carrier) {
    let instances = two(&carrier, 1).await;
    let [one, two] = &instances;
    let began = Instant::now();
    // Until the second is let in before its instance knows of the first.
    let (mut older, mut younger) = loop {
        assert!(began.elapsed() < DEADLINE, "they never come at once");
        are_known_to(&instances, &[]).await;
        let older = session(one, "alice").await;
        let opened = now_unix_ms();
        // They are told apart by when they began, in milliseconds.
        eventually("the next millisecond", || async { now_unix_ms() > opened }).await;
        if let Some(younger) = Client::try_connect_as(two.address, None, &token("alice")).await {
            break (older, younger);
        }
    };
    younger.is_closed_with(4005).await;
    older.client.is_open().await;
    are_known_to(&instances, &[("alice", 1)]).await;
    two.metrics().show_closed("too_many_sessions", 1).await;
    one.metrics().show_closed("too_many_sessions", 0).await;
}

// --- who comes and goes ---------------------------------------------------------------------------------------------

/// What is joined and left until somebody tells of it.
const WARM_UP: &str = "warm.up";

/// Event, user, topic and instance of the next that an asking session hears, but for those of the beginning.
async fn event(asking: &mut JsonClient) -> [String; 4] {
    loop {
        let message = asking.message().await;
        let told: Value = serde_json::from_str(message["text"].as_str().expect("a text")).expect("JSON");
        let topic = told["topic"].as_str().expect("a topic");
        assert_eq!(message["topic"], json!(format!("warren.presence.topics.{topic}")), "{message}");
        if topic != WARM_UP {
            return ["event", "user", "topic", "instance"]
                .map(|field| told[field].as_str().expect("a text").to_owned());
        }
    }
}

/// The next two, which are about different topics, and so in any order.
async fn two_events(asking: &mut JsonClient) -> [[String; 4]; 2] {
    let mut events = [event(asking).await, event(asking).await];
    events.sort();
    events
}

async fn the_users_who_hear_a_topic_come_in_pages(carrier: Carrier) {
    let [one, two] = two(&carrier, 0).await;
    let mut sessions = Vec::new();
    for (instance, user, topic) in [
        (&one, "alice", "orders.eu"),
        (&two, "alice", "orders.*"),
        (&two, "bob", "orders.*"),
        (&one, "carol", "orders.eu"),
        (&one, "dave", "parcels"),
    ] {
        let mut session = session(instance, user).await;
        session.subscribe(&[topic]).await;
        sessions.push(session);
    }
    for instance in [&one, &two] {
        let page =
            async |after: &str| get(instance.address, &format!("/api/presence/topics/orders.eu?limit=2{after}")).await;
        eventually("all who hear it are counted", async || page("").await["sessions"] == 4).await;
        let first = page("").await;
        let of = |user: &str, sessions: u64| json!({"user": user, "sessions": sessions});
        assert_eq!(
            (&first["users"], &first["next"]),
            (&json!([of("alice", 2), of("bob", 1)]), &json!("bob")),
            "{first}"
        );
        let second = page("&after=bob").await;
        assert_eq!((&second["users"], &second["next"]), (&json!([of("carol", 1)]), &Value::Null), "{second}");
    }
}

async fn who_asks_about_a_topic_hears_of_users_who_begin_and_end_it(carrier: Carrier) {
    let [one, two] = two(&carrier, 0).await;
    let mut asking = session(&one, "observer").await;
    asking.subscribe(&["warren.presence.topics.#"]).await;
    let mut alice = session(&two, "alice").await;
    // Until that instance knows that somebody asks, nobody is told.
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < DEADLINE, "nobody tells");
        alice.subscribe(&[WARM_UP]).await;
        alice.unsubscribe(&[WARM_UP]).await;
        if tokio::time::timeout(Duration::from_millis(300), asking.message()).await.is_ok() {
            break;
        }
    }
    alice.subscribe(&["orders.eu", "orders.*"]).await;
    let joined = event(&mut asking).await;
    let of = |event: &str, user: &str, topic: &str| [event, user, topic, two.name.as_str()].map(str::to_owned);
    assert_eq!(joined, of("join", "alice", "orders.eu"), "by its name, not by a wildcard");
    alice.unsubscribe(&["orders.eu"]).await;
    assert_eq!(event(&mut asking).await, of("leave", "alice", "orders.eu"));
    // A plain session of a topic joins it with its handshake, and leaves with its end.
    let mut plain = Client::connect_as(two.address, "/message/news", &token("bob")).await;
    assert_eq!(event(&mut asking).await, of("join", "bob", "news"));
    plain.leave().await;
    assert_eq!(event(&mut asking).await, of("leave", "bob", "news"));
    // Who is gone without a word has left all of them.
    alice.subscribe(&["a"]).await;
    alice.subscribe(&["b"]).await;
    assert_eq!(two_events(&mut asking).await, ["a", "b"].map(|topic| of("join", "alice", topic)));
    drop(alice);
    assert_eq!(two_events(&mut asking).await, ["a", "b"].map(|topic| of("leave", "alice", topic)));
}

// --- what dies ------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_dies_and_comes_back_takes_no_user_away() {
    let node = PrivateNode::start("presence").await;
    let cluster = Cluster::at(node.url.clone());
    let directory = Directory::new("presence");
    // The second comes by a wire of its own, by which it finds the broker later than the first.
    let wire = Proxy::to(&node.url).await;
    let far = cluster.configure_through(&[&wire.url], with_tokens(&directory));
    let instances = [Instance::join(with_tokens(&directory), &cluster).await, Instance::start(far).await];
    let [one, two] = &instances;
    two.ready().await;
    let mut alice = session(one, "alice").await;
    let _others = [session(two, "alice").await, session(two, "bob").await];
    let everybody = [("alice", 2), ("bob", 1)];
    are_known_to(&instances, &everybody).await;
    let outage = async {
        node.kill().await;
        for instance in &instances {
            instance.unready().await;
        }
        // For longer than silence is borne with at other times.
        let began = Instant::now();
        eventually("as long as that", || async { began.elapsed() > SILENCE_MAX + Duration::from_secs(1) }).await;
        wire.refuse();
        node.restart().await;
        one.ready().await;
        alice.broadcast("the broker is back").await;
        // It hears itself, and of the other nothing, for as long as makes two beats.
        let began = Instant::now();
        eventually("as long as that", || async { began.elapsed() > Duration::from_secs(2) }).await;
        wire.forward();
        two.ready().await;
        // They hear each other again.
        eventually("both answer again", || async {
            let answers = [get(one.address, "/api/presence").await, get(two.address, "/api/presence").await];
            answers.iter().all(|answer| answer["silent"] == json!([]))
        })
        .await;
    };
    let watching = async {
        loop {
            for instance in &instances {
                assert_eq!(users_known_to(instance).await, these(&everybody));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = outage => {}
        () = watching => unreachable!("it goes on"),
    }
    // What changed since is known, and nobody was dropped meanwhile.
    let _late = session(one, "carol").await;
    are_known_to(&instances, &[("alice", 2), ("bob", 1), ("carol", 1)]).await;
    for instance in &instances {
        assert_eq!(instance.metrics().value("warren_presence_instances_dropped_total").await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_users_of_a_killed_instance_are_gone_within_the_stated_time() {
    let cluster = Cluster::shared();
    let directory = Directory::new("presence");
    let config = with_tokens(&directory);
    let key = config.jwt_key_file.clone().expect("a file");
    let survivor = Instance::join(config, &cluster).await;
    let victim = Warren::join(&cluster, &["--jwt-key-file", key.to_str().expect("a path")]).await;
    let [_alice, _her_laptop] =
        [JsonClient::connect_with(victim.address, &[&token("alice")]).await, session(&survivor, "alice").await];
    let _bob = JsonClient::connect_with(victim.address, &[&token("bob")]).await;
    let instances = [survivor];
    are_known_to(&instances, &[("alice", 2), ("bob", 1)]).await;
    let killed = Instant::now();
    victim.process.kill().await;
    are_known_to(&instances, &[("alice", 1)]).await;
    assert!(killed.elapsed() <= GONE_WITHIN, "{:?}", killed.elapsed());
    let [survivor] = &instances;
    let body = get(survivor.address, "/api/presence").await;
    assert_eq!(body["instances"], json!([{"instance": survivor.name.as_str(), "sessions": 1, "users": 1}]));
    let body = get(survivor.address, "/api/presence/users/bob").await;
    assert_eq!((&body["count"], &body["instances"]), (&json!(0), &json!([])));
}

// --- names ----------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_user_is_named_by_the_metrics_nor_in_the_log() {
    let names = ["zebedee", "zuleika", "zwingli"];
    let cluster = Cluster::shared();
    let directory = Directory::new("names");
    let key = with_tokens(&directory).jwt_key_file.expect("a file");
    let metrics: std::net::SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let arguments = ["--jwt-key-file", key.to_str().expect("a path"), "--metrics-listen", &metrics.to_string()];
    let member = ["--prefix", &cluster.prefix, "--sessions-per-user-max", "2"];
    let environment = [("WARREN_BROKER", cluster.url.as_str()), ("WARREN_LOG", "info,warren=debug")];
    let warren = Warren::serve(&[&arguments[..], &member].concat(), &environment).await;
    warren.ready().await;
    let connect = async |user: &str| JsonClient::connect_with(warren.address, &[&token(user)]).await;
    let (mut one, mut two) = (connect(names[0]).await, connect(names[1]).await);
    let _plain = Client::connect_as(warren.address, "/message/orders", &token(names[1])).await;
    two.subscribe(&["orders", "warren.presence.#"]).await;
    // What each asks for, and what each may not.
    for to in names {
        one.answer(json!({"type": "send", "user": to, "text": "hello"})).await;
        get(warren.address, &format!("/api/presence/users/{to}")).await;
    }
    let refused = Client::try_connect_as(warren.address, None, &token(names[1])).await;
    assert!(refused.is_none(), "a third session");
    let bearer = format!("Bearer {}", token(names[0]));
    for line in ["POST /api/unread", "GET /api/whoami", "GET /api/presence/topics/orders"] {
        request(warren.address, line, &[("Authorization", &bearer)]).await;
    }
    // What is broken, and what has run out.
    for claims in [json!({"exp": 1}), json!({"roles": "send"})] {
        let bearer = format!("Bearer {}", token_of(names[2], &claims));
        request(warren.address, "GET /message", &[("Authorization", &bearer)]).await;
    }
    drop((one, two));
    Metrics { address: metrics }.show("warren_presence_users", 1.0).await;
    let scraped = request(metrics, "GET /metrics", &[]).await;
    assert!(scraped.body.contains("warren_letters"), "it was scraped whole: {}", scraped.body);
    warren.process.signal(crate::support::process::Signal::TERM);
    let ended = warren.process.ended().await;
    for mailbox in names.map(|name| cluster.mailbox(name)) {
        crate::support::broker::Alien::connect(&cluster.url).await.delete_queue(&mailbox).await;
    }
    for name in names {
        for (what, text) in [("metrics", &scraped.body), ("stdout", &ended.stdout), ("stderr", &ended.stderr)] {
            let line = text.lines().find(|line| line.contains(name));
            assert_eq!(line, None, "{name} is named by its {what}");
        }
    }
    assert!(ended.stderr.contains("DEBUG") || ended.stdout.contains("DEBUG"), "{ended:?}");
}
