//! Who is here: what instances know of each other's users, as HTTP and topics tell it.
//!
//! Users come from an instance that there is only in words: it speaks as instances do, but holds no sockets. Sessions of
//! users are opened where tokens are not needed for it: at the registry itself.

use std::sync::Arc;

use lapin::BasicProperties;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use warren::broker::memory::{MemoryBroker, MemoryExchange};
use warren::broker::{Arrivals, Broker, DELIVERIES_WAITING_MAX, Delivery, KeyBounds, NotAccepted, Receipt, Settle};
use warren::config::Config;
use warren::hub::Hub;
use warren::identity::{Identity, Rights};
use warren::instance::{Incarnation, InstanceName};
use warren::interest::Interest;
use warren::message::{Message, MessageIds, PayloadKind, Target};
use warren::metrics::{BrokerMetrics, Metrics, PresenceMetrics};
use warren::presence::{Presence, SILENCE_MAX};
use warren::session::{Channel, NotAdmitted, Sessions};
use warren::user::UserName;

use crate::contract::contract;
use crate::support::broker::{Alien, Cluster};
use crate::support::client::get_json;
use crate::support::instance::{Carrier, Instance, config};
use crate::support::json::JsonClient;
use crate::support::of_users::{limits, of_users};
use crate::support::post::{post_json, problem};
use crate::support::{DEADLINE, eventually};

contract! {
    users_of_all_instances_are_known_to_each_until_theirs_is_silent
    sessions_of_a_user_come_in_pages
    who_hears_a_topic_is_counted_on_all_instances
    an_instance_that_stops_is_gone_at_once
    who_asks_hears_of_users
    what_is_no_word_hurts_nobody
    who_starts_later_hears_nothing_of_earlier_runs
}

/// An instance of which there are only words.
struct Stranger {
    name: &'static str,
    began: u64,
    way: Way,
}

enum Way {
    Memory(MemoryBroker),
    RabbitMq(Box<Alien>, String),
}

struct Nobody;

impl Settle for Nobody {
    fn settled(&self, _outcome: Result<(), NotAccepted>) {}
}

impl Stranger {
    async fn on(carrier: &Carrier) -> Stranger {
        let way = match carrier {
            Carrier::Memory(exchange) => {
                let bounds = KeyBounds { window: std::time::Duration::from_secs(1), keys_max: 1 };
                let (deliveries, mut delivered) = mpsc::channel(DELIVERIES_WAITING_MAX);
                // The others would wait for who does not hear. It ends with the exchange.
                tokio::spawn(async move { while delivered.recv().await.is_some() {} });
                let name = InstanceName::parse("stranger_1").expect("a name");
                Way::Memory(exchange.attach(name, deliveries, Arrivals::new(bounds, BrokerMetrics::default())))
            }
            Carrier::RabbitMq(cluster, _) => {
                Way::RabbitMq(Box::new(Alien::connect(&cluster.url).await), cluster.peers())
            }
        };
        Stranger { name: "stranger_1", began: 1, way }
    }

    /// Says a word to all instances.
    async fn says(&self, word: Value) {
        let whole = json!({ "version": 1, "from": format!("{}@{:x}", self.name, self.began), "word": word });
        self.publish(whole.to_string().as_bytes()).await;
    }

    /// The same without end, so that it is not silent.
    async fn goes_on_saying(&self, word: Value) {
        loop {
            self.says(word.clone()).await;
            tokio::time::sleep(SILENCE_MAX / 20).await;
        }
    }

    async fn publish(&self, payload: &[u8]) {
        match &self.way {
            Way::Memory(broker) => {
                let payload = payload.to_vec().into();
                let (target, kind) = (Target::Peers, PayloadKind::Text);
                let message = Message { id: None, target, kind, published_ms: 0, terms: None, payload };
                broker.publish(message, Receipt::to(Arc::new(Nobody))).await;
            }
            Way::RabbitMq(alien, peers) => alien.publish(peers, "", payload, BasicProperties::default()).await,
        }
    }
}

async fn get(instance: &Instance, path: &str) -> Value {
    let (status, body) = get_json(instance.address, path).await;
    assert_eq!(status, 200, "{path}: {body}");
    body
}

/// Instance and number of each session of a user, as an instance tells.
async fn sessions_of(instance: &Instance, user: &str) -> Vec<(String, u64)> {
    let body = get(instance, &format!("/api/presence/users/{user}")).await;
    let sessions = body["sessions"].as_array().expect("a list").iter();
    let sessions = sessions.map(|one| (one["instance"].as_str().unwrap().to_owned(), one["number"].as_u64().unwrap()));
    sessions.collect()
}

async fn instances_known_to(instance: &Instance) -> usize {
    get(instance, "/api/presence").await["instances"].as_array().expect("a list").len()
}

async fn know_each_other(instances: &[Instance]) {
    for instance in instances {
        eventually("the instances know each other", || async { instances_known_to(instance).await == instances.len() })
            .await;
    }
}

async fn users_of_all_instances_are_known_to_each_until_theirs_is_silent(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    know_each_other(&instances).await;
    let stranger = Stranger::on(&carrier).await;
    let here = json!([["alice", 7, 1_000], ["alice", 9, 2_000], ["Zoë/1", 8, 3_000]]);
    stranger.says(json!({ "changes": { "sequence": 1, "here": here, "gone": [] } })).await;
    for instance in &instances {
        let expected = [7, 9].map(|number| ("stranger_1".to_owned(), number));
        eventually("alice is known", || async { sessions_of(instance, "alice").await == expected }).await;
        let body = get(instance, "/api/presence/users/Zo%C3%AB%2F1?limit=1").await;
        assert_eq!((&body["user"], &body["count"]), (&json!("Zoë/1"), &json!(1)));
        assert_eq!(body["sessions"][0]["since"], "1970-01-01T00:00:03Z");
        let body = get(instance, "/api/presence").await;
        let of_stranger = body["instances"].as_array().unwrap().iter().find(|one| one["instance"] == "stranger_1");
        assert_eq!(of_stranger, Some(&json!({ "instance": "stranger_1", "sessions": 3, "users": 2 })));
        let body = get(instance, "/api/presence/users").await;
        assert_eq!((&body["users"], &body["next"]), (&json!([]), &Value::Null), "users of others");
        let everywhere = json!([{ "user": "Zoë/1", "sessions": 1 }, { "user": "alice", "sessions": 2 }]);
        let body = get(instance, "/api/presence/users?everywhere=true").await;
        assert_eq!((&body["users"], &body["next"]), (&everywhere, &Value::Null));
        let body = get(instance, "/api/presence/users?everywhere=true&limit=1").await;
        assert_eq!((&body["users"], &body["next"]), (&json!([everywhere[0]]), &json!("Zoë/1")));
        let body = get(instance, "/api/presence/users?everywhere=true&after=Zo%C3%AB%2F1").await;
        assert_eq!((&body["users"], &body["next"]), (&json!([everywhere[1]]), &Value::Null));
    }
    stranger.says(json!({ "changes": { "sequence": 2, "here": [], "gone": [["alice", 7]] } })).await;
    for instance in &instances {
        let expected = [("stranger_1".to_owned(), 9)];
        eventually("one session is gone", || async { sessions_of(instance, "alice").await == expected }).await;
    }
    // It says nothing more.
    for instance in &instances {
        eventually("the silent one is gone", || async {
            sessions_of(instance, "alice").await.is_empty() && instances_known_to(instance).await == 2
        })
        .await;
    }
}

async fn sessions_of_a_user_come_in_pages(carrier: Carrier) {
    let instance = carrier.instance().await;
    instance.ready().await;
    let first = Stranger::on(&carrier).await;
    let second = Stranger { name: "stranger_2", ..Stranger::on(&carrier).await };
    // Some of them began at once.
    let here: Vec<_> = (1..=7).map(|number| json!(["alice", number, 1_000 + number / 3])).collect();
    let word = json!({ "changes": { "sequence": 1, "here": here, "gone": [] } });
    tokio::select! {
        () = first.goes_on_saying(word.clone()) => unreachable!("it goes on"),
        () = second.goes_on_saying(word) => unreachable!("it goes on"),
        () = are_given_in_pages(&instance, 14) => {}
    }
}

/// All sessions of alice, of which the first began in the first second of 1970 on two strangers.
async fn are_given_in_pages(instance: &Instance, count: usize) {
    let path = "/api/presence/users/alice";
    eventually("all are known", || async { get(instance, path).await["count"] == json!(count) }).await;
    let all = get(instance, path).await;
    assert_eq!(all["next"], Value::Null, "{all}");
    let (mut listed, mut after) = (Vec::new(), String::new());
    loop {
        let page = get(instance, &format!("{path}?limit=4{after}")).await;
        assert_eq!((&page["count"], &page["instances"]), (&all["count"], &all["instances"]));
        listed.extend(page["sessions"].as_array().expect("a list").clone());
        let Some(next) = page["next"].as_str() else { break };
        assert!(listed.len() % 4 == 0 && listed.len() < count, "all pages but the last are full");
        after = format!("&after={next}");
    }
    assert_eq!(listed.len(), count);
    assert_eq!(listed, *all["sessions"].as_array().expect("a list"));
    // Behind a session that is gone by now the next one follows, and nothing behind the last.
    let page = get(instance, &format!("{path}?limit=1&after=1000,stranger_1,99")).await;
    assert_eq!(page["sessions"][0], json!({"instance": "stranger_2", "number": 1, "since": "1970-01-01T00:00:01Z"}));
    let page = get(instance, &format!("{path}?after=9999,a,0")).await;
    assert_eq!((&page["sessions"], &page["next"]), (&json!([]), &Value::Null));
    for after in ["", "7", "1,a", "1,a,b", "1,a,2,3", "-1,a,2", "1,,2"] {
        assert_eq!(get_json(instance.address, &format!("{path}?after={after}")).await.0, 400, "{after}");
    }
}

async fn who_hears_a_topic_is_counted_on_all_instances(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    know_each_other(&instances).await;
    let [one, two] = [&instances[0], &instances[1]];
    let (mut first, mut second) = (one.converse().await, two.converse().await);
    first.subscribe(&["a", "b", "c.*"]).await;
    second.subscribe(&["b", "d"]).await;
    for instance in &instances {
        // What was asked before that may be answered for a second.
        let is_new =
            async || get(instance, "/api/presence").await["topics"].as_array().is_some_and(|all| all.len() == 3);
        eventually("the topics are counted", is_new).await;
        let body = get(instance, "/api/presence").await;
        let topics = body["topics"].as_array().unwrap();
        let counts: Vec<_> = topics.iter().map(|topic| (&topic["topic"], &topic["subscriptions"])).collect();
        assert_eq!(counts, [(&json!("a"), &json!(1)), (&json!("b"), &json!(2)), (&json!("d"), &json!(1))]);
        assert_eq!(topics[1]["instances"], json!({ one.name.as_str(): 1, two.name.as_str(): 1 }));
        assert_eq!((&body["silent"], &body["next"]), (&json!([]), &Value::Null));
        let page = get(instance, "/api/presence?limit=2").await;
        assert_eq!((page["topics"].as_array().unwrap().len(), &page["next"]), (2, &json!("b")));
        let page = get(instance, "/api/presence?limit=2&after=b").await;
        assert_eq!((&page["topics"][0]["topic"], &page["next"]), (&json!("d"), &Value::Null));
        let body = get(instance, "/api/presence/topics/c/x").await;
        assert_eq!((&body["sessions"], &body["users"]), (&json!(1), &json!([])), "by a wildcard, of nobody");
    }
    // Who is there in words alone does not answer.
    let stranger = Stranger::on(&carrier).await;
    stranger.says(json!({ "beat": standing(0) })).await;
    eventually("it is known", || async { instances_known_to(one).await == 3 }).await;
    let body = get(one, "/api/presence/topics/b").await;
    assert_eq!((&body["silent"], &body["sessions"]), (&json!(["stranger_1"]), &json!(2)));
    for (path, status) in [
        ("/api/presence?limit=0", 400),
        ("/api/presence?page=1", 400),
        ("/api/presence/topics/a..b", 400),
        ("/api/presence/topics/", 400),
        ("/api/presence/users/", 404),
        ("/api/presence/", 404),
    ] {
        assert_eq!(get_json(one.address, path).await.0, status, "{path}");
    }
}

fn standing(sequence: u64) -> Value {
    json!({ "sequence": sequence, "count": { "users": 0, "sessions": 0 }, "digest": 0, "knows_all": false, "untold_ms": 0 })
}

async fn an_instance_that_stops_is_gone_at_once(carrier: Carrier) {
    let mut instances = carrier.instances(2).await;
    know_each_other(&instances).await;
    let leaving = instances.pop().expect("the second");
    leaving.stop().await.expect("a stop in good order");
    // It has said so: nobody needs to wait until it is silent for long enough.
    let began = std::time::Instant::now();
    eventually("it is gone", || async { instances_known_to(&instances[0]).await == 1 }).await;
    assert!(began.elapsed() < SILENCE_MAX / 2, "{:?}", began.elapsed());
}

async fn who_asks_hears_of_users(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    know_each_other(&instances).await;
    let mut asking: JsonClient = instances[1].converse().await;
    asking.subscribe(&["warren.presence.users"]).await;
    let stranger = Stranger::on(&carrier).await;
    stranger.says(json!({ "beat": standing(0) })).await;
    let (mut number, began) = (0, std::time::Instant::now());
    // Until somebody knows that it is asked for, users come unnoticed.
    let told = loop {
        assert!(began.elapsed() < DEADLINE, "nobody tells");
        number += 1;
        let here = json!([[format!("user {number}"), number, 0]]);
        stranger.says(json!({ "changes": { "sequence": number, "here": here, "gone": [] } })).await;
        let waited = tokio::time::timeout(std::time::Duration::from_millis(500), asking.message()).await;
        if let Ok(message) = waited {
            break message;
        }
    };
    assert_eq!(told["topic"], "warren.presence.users", "{told}");
    let event = |told: &Value| -> Value { serde_json::from_str(told["text"].as_str().expect("a text")).unwrap() };
    let joined = event(&told);
    assert_eq!((&joined["event"], &joined["instance"]), (&json!("join"), &json!("stranger_1")), "{joined}");
    assert!(joined["time"].as_str().is_some_and(|time| time.ends_with('Z')));
    // It is silent from now on; whoever was there is gone with it.
    let mut gone = 0;
    while gone < number {
        let left = event(&asking.message().await);
        if left["event"] == "leave" {
            gone += 1;
        }
    }
    asking.heard_nothing_else().await;
}

async fn what_is_no_word_hurts_nobody(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    know_each_other(&instances).await;
    let stranger = Stranger::on(&carrier).await;
    for text in [
        "",
        "{",
        "null",
        r#"{"version":2,"from":"a_1@1","word":"ask"}"#,
        r#"{"version":1,"from":"","word":"ask"}"#,
        r#"{"version":1,"from":"a_1@1","word":{"changes":{"sequence":18446744073709551615,"here":[],"gone":[]}}}"#,
        r#"{"version":1,"from":"a_1@ffffffffffffffff","word":{"piece":{"sequence":0,"index":0,"entries":[],"is_last":false}}}"#,
    ] {
        stranger.publish(text.as_bytes()).await;
    }
    stranger.publish(&vec![b'['; 200_000]).await;
    // Behind all of that it is still understood.
    stranger.says(json!({ "changes": { "sequence": 1, "here": [["alice", 1, 1]], "gone": [] } })).await;
    for instance in &instances {
        eventually("alice is known", || async { !sessions_of(instance, "alice").await.is_empty() }).await;
        let mut session = instance.connect().await;
        session.send("still here").await;
        session.receives(&["still here"]).await;
    }
}

async fn who_starts_later_hears_nothing_of_earlier_runs(carrier: Carrier) {
    let instances = carrier.instances(2).await;
    know_each_other(&instances).await;
    let [earlier, later] = [Stranger::on(&carrier).await, Stranger { began: 2, ..Stranger::on(&carrier).await }];
    let here = |user: &str| json!({ "changes": { "sequence": 1, "here": [[user, 1, 1]], "gone": [] } });
    earlier.says(here("alice")).await;
    for instance in &instances {
        eventually("alice is known", || async { !sessions_of(instance, "alice").await.is_empty() }).await;
    }
    later.says(here("bob")).await;
    let hearing_of_it = async {
        for instance in &instances {
            let is_over = async || sessions_of(instance, "alice").await.is_empty();
            eventually("her run is over", is_over).await;
        }
        let third = carrier.instance().await;
        third.ready().await;
        let knows = async || !sessions_of(&third, "bob").await.is_empty();
        eventually("the third knows the later run", knows).await;
        // What is still on its way of the earlier one, and what comes behind it.
        earlier.says(here("alice")).await;
        later.says(json!({ "changes": { "sequence": 2, "here": [["carol", 2, 1]], "gone": [] } })).await;
        for instance in instances.iter().chain([&third]) {
            eventually("carol is known", || async {
                assert_eq!(sessions_of(instance, "alice").await, []);
                !sessions_of(instance, "carol").await.is_empty()
            })
            .await;
            assert_eq!(sessions_of(instance, "bob").await, [("stranger_1".to_owned(), 1)]);
        }
    };
    tokio::select! {
        () = later.goes_on_saying(here("bob")) => unreachable!("it goes on"),
        () = hearing_of_it => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_be_reached_is_dropped_before_who_is_silent() {
    let cluster = Cluster::shared();
    let instance = Instance::join(config(), &cluster).await;
    let carrier = Carrier::RabbitMq(cluster, Delivery::Queue);
    let Carrier::RabbitMq(cluster, _) = &carrier else { unreachable!() };
    // Both are in words alone, but one of them has a queue: what is said to the other comes back.
    let [dead, silent] =
        ["stranger_1", "stranger_2"].map(async |name| Stranger { name, ..Stranger::on(&carrier).await });
    let (dead, silent) = (dead.await, silent.await);
    let alien = Alien::connect(&cluster.url).await;
    let _queue = alien.listen_to(&cluster.direct(), silent.name).await;
    for (stranger, user) in [(&silent, "bob"), (&dead, "alice")] {
        stranger.says(json!({ "changes": { "sequence": 1, "here": [[user, 1, 1]], "gone": [] } })).await;
        eventually("the user is known", || async { !sessions_of(&instance, user).await.is_empty() }).await;
    }
    // It was heard later than the other.
    eventually("it is gone", || async { sessions_of(&instance, "alice").await.is_empty() }).await;
    assert_eq!(sessions_of(&instance, "bob").await, [("stranger_2".to_owned(), 1)]);
    eventually("the silent one is gone", || async { sessions_of(&instance, "bob").await.is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_but_warren_speaks_of_presence() {
    let instance = Instance::start(config()).await;
    let mut client = instance.converse().await;
    client.subscribe(&["warren.#"]).await;
    let publish = json!({ "type": "publish", "topic": "/warren/presence/users", "text": "x" });
    assert!(client.refused(publish, 104).await.contains("warren"));
    let body = json!({ "topic": "warren.presence.users", "text": "x" });
    let answer = post_json(instance.address, "/api/publish", &body).await;
    assert_eq!((answer.status, problem(&answer).as_str()), (400, "bad-topic"), "{answer:?}");
    let mut plain = instance.subscribe("warren.presence.users").await;
    plain.send("x").await;
    plain.is_closed_with(1008).await;
    client.heard_nothing_else().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_nobody_are_neither_counted_nor_limited() {
    let exchange = MemoryExchange::default();
    let instance = Instance::start_on(Config { sessions_per_user_max: 1, ..config() }, &exchange).await;
    let _sessions = instance.connect_many(3).await;
    let body = get(&instance, "/api/presence").await;
    assert_eq!(body["instances"][0]["sessions"], 0, "{body}");
}

/// What a registry of sessions is made of, without sockets.
fn registry(presence: &Presence, ids: &MessageIds, broker: Arc<dyn Broker>) -> Arc<Sessions> {
    let metrics = Metrics::new(ids.incarnation().name());
    let hub = Hub::start(1, Arc::new(Interest::in_everything()), metrics.hub.clone());
    let of_users = of_users(ids, broker.clone(), presence.clone());
    Sessions::new(limits(), hub, broker, ids.clone(), metrics.sessions.clone(), of_users)
}

#[tokio::test]
async fn a_session_of_a_user_counts_from_its_opening_until_it_is_dropped() {
    let ids = MessageIds::new(Incarnation::begin(InstanceName::parse("a_1").unwrap()));
    let presence = Presence::new(ids.clone(), PresenceMetrics::default());
    let bounds = KeyBounds { window: std::time::Duration::from_secs(1), keys_max: 1 };
    let (deliveries, _delivered) = mpsc::channel(DELIVERIES_WAITING_MAX);
    let broker = MemoryExchange::default().attach(
        ids.incarnation().name().clone(),
        deliveries,
        Arrivals::new(bounds, BrokerMetrics::default()),
    );
    let sessions = registry(&presence, &ids, Arc::new(broker));
    let closing = sessions.clone();
    presence.bound_sessions(2, move |number| closing.close_too_many(number));
    let alice = UserName::parse("alice").unwrap();
    let identity = Identity { user: alice.clone(), groups: Vec::new(), rights: Rights::default(), expires_s: None };
    let open = |identity: Option<Identity>| {
        let permit = sessions.admit([127, 0, 0, 1].into()).expect("there is room");
        sessions.open(permit, false, Channel::Requests, identity.map(Arc::new))
    };
    let here = || presence.sessions_of(&alice).iter().map(|stay| stay.number).collect::<Vec<_>>();
    let (first, nobody) = (open(Some(identity.clone())).expect("the first"), open(None).expect("nobody's"));
    let second = open(Some(identity.clone())).expect("the second");
    assert_eq!(here(), [1, 3]);
    assert_eq!(open(Some(identity.clone())).err(), Some(NotAdmitted::TooManyOfOneUser));
    assert_eq!(here(), [1, 3]);
    drop((first, nobody));
    assert_eq!(here(), [3]);
    let third = open(Some(identity)).expect("there is room again");
    drop((second, third));
    assert!(here().is_empty());
}
