//! What mailboxes promise, the same cases against those in process and those in RabbitMQ; and what RabbitMQ's do besides.

use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapin::BasicProperties;
use tokio::sync::{mpsc, oneshot};
use warren::broker::memory::MemoryExchange;
use warren::broker::rabbitmq::{Endpoint, RabbitMq, Settings, SpoolBounds};
use warren::broker::{
    Arrivals, Broker, Delivery, KeyBounds, Letter, MailboxBounds, MailboxName, Mailboxes, NotAccepted, Reader, Reading,
    Receipt, Settle,
};
use warren::instance::{Incarnation, InstanceName};
use warren::interest::Interest;
use warren::message::{Message, MessageIds, PayloadKind, Target};
use warren::metrics::Metrics;
use warren::place::Delivered;
use warren::user::{GroupName, UserName};

use crate::support::broker::{Alien, Cluster};
use crate::support::proxy::Proxy;
use crate::support::{eventually, within_deadline};

const DAY: Duration = Duration::from_secs(86_400);

/// Where mailboxes are: in process, or in a cluster's RabbitMQ.
enum Place {
    Memory(MemoryExchange),
    RabbitMq(Cluster),
}

/// An instance's broker and mailboxes, without sessions.
struct Post {
    broker: Arc<dyn Broker>,
    mailboxes: Arc<dyn Mailboxes>,
    ids: MessageIds,
    _deliveries: mpsc::Receiver<Delivered>,
}

impl Place {
    async fn open(&self) -> Post {
        self.open_with(MailboxBounds { messages_max: 1000, bytes_max: 1 << 20, age_max: DAY, idle_max: DAY }).await
    }

    async fn open_with(&self, mailboxes: MailboxBounds) -> Post {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("mail-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let name = InstanceName::parse(&name).expect("a name");
        let incarnation = Incarnation::begin(name.clone());
        let (deliveries, delivered) = mpsc::channel(100);
        let keys = KeyBounds { window: DAY, keys_max: 100 };
        let ids = MessageIds::new(incarnation.clone());
        let metrics = Metrics::new(&name).broker;
        match self {
            Place::Memory(exchange) => {
                let broker = exchange.attach(name, deliveries, Arrivals::new(keys, metrics));
                let mailboxes = Arc::new(exchange.mailboxes(mailboxes));
                Post { broker: Arc::new(broker), mailboxes, ids, _deliveries: delivered }
            }
            Place::RabbitMq(cluster) => {
                let endpoint = Endpoint::new(&cluster.url, "the test's".to_owned(), None, 60).expect("a URL");
                let spool = SpoolBounds {
                    messages_max: 1000,
                    bytes_max: 1 << 20,
                    age_max: DAY,
                    wait: Duration::from_secs(30),
                    keep: Duration::ZERO,
                };
                let settings = Settings {
                    endpoints: vec![endpoint],
                    prefix: cluster.prefix.clone(),
                    incarnation,
                    message_ids: ids.clone(),
                    delivery: Delivery::Queue,
                    queue_bytes_max: 1 << 20,
                    spool,
                    publish_window: 256,
                    publish_timeout: Duration::from_secs(10),
                    message_bytes_max: 64 * 1024,
                    mailboxes,
                    keys,
                    topic_linger: DAY,
                    metrics,
                };
                let (broker, _refused) = RabbitMq::start(settings, Arc::new(Interest::by_keys()), deliveries);
                let mailboxes = Arc::new(broker.mailboxes());
                let mut link = broker.link();
                let up = within_deadline("the link is up", link.wait_for(|link| link.is_up())).await;
                drop(up.expect("a link"));
                Post { broker: Arc::new(broker), mailboxes, ids, _deliveries: delivered }
            }
        }
    }
}

/// Tells a test what became of a message.
struct Ear(Mutex<Option<oneshot::Sender<Result<(), NotAccepted>>>>);

impl Settle for Ear {
    fn settled(&self, outcome: Result<(), NotAccepted>) {
        let ear = self.0.lock().expect("no panic").take();
        let _ = ear.expect("told once").send(outcome);
    }
}

/// Takes letters, and acknowledges none by itself.
#[derive(Default)]
struct Desk(Mutex<Vec<Letter>>);

impl Reader for Desk {
    fn take(&self, letter: Letter) {
        self.0.lock().expect("no panic").push(letter);
    }
}

impl Desk {
    fn texts(&self) -> Vec<String> {
        self.0.lock().expect("no panic").iter().map(|letter| text(&letter.message)).collect()
    }

    async fn has(&self, texts: &[&str]) {
        eventually(&format!("the letters {texts:?} are there"), || async { self.texts() == texts }).await;
    }

    fn acknowledge(&self, count: usize) {
        self.0.lock().expect("no panic").drain(..count).for_each(Letter::acknowledge);
    }
}

fn text(message: &Message) -> String {
    String::from_utf8(message.payload.to_vec()).expect("text")
}

fn user(name: &str) -> UserName {
    UserName::parse(name).expect("a name")
}

fn group(name: &str) -> GroupName {
    GroupName::parse(name).expect("a name")
}

impl Post {
    /// Hands a message over; the answer is what becomes of it.
    async fn hand_over(&self, target: Target, text: &str) -> oneshot::Receiver<Result<(), NotAccepted>> {
        let (ear, outcome) = oneshot::channel();
        let message = Message {
            id: Some(self.ids.next()),
            target,
            kind: PayloadKind::Text,
            published_ms: warren::message::now_unix_ms(),
            terms: None,
            payload: text.to_owned().into(),
        };
        self.broker.publish(message, Receipt::to(Arc::new(Ear(Mutex::new(Some(ear)))))).await;
        outcome
    }

    async fn write(&self, target: Target, text: &str) -> Result<(), NotAccepted> {
        let outcome = self.hand_over(target, text).await;
        within_deadline("it is known what became of a message", outcome).await.expect("an outcome")
    }

    fn read(&self, name: &str) -> (Arc<Desk>, Reading) {
        let desk = Arc::new(Desk::default());
        let reading = self.mailboxes.read(user(name), desk.clone());
        (desk, reading)
    }

    async fn take(&self, name: &str, wanted: impl Fn(&Message) -> bool + Send + Sync + 'static) -> Vec<String> {
        let taken = self.mailboxes.take(MailboxName::of_user(user(name)), 1000, Box::new(wanted)).await.expect("taken");
        taken.iter().map(text).collect()
    }
}

/// One test per case and place.
macro_rules! contract {
    ($($case:ident)*) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case(super::Place::Memory(Default::default())).await;
            })*
        }
        mod rabbitmq {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case(super::Place::RabbitMq(super::Cluster::shared())).await;
            })*
        }
    };
}

contract! {
    what_was_written_to_who_is_away_comes_in_order
    who_reads_hears_at_once
    one_reads_and_the_next_gets_what_was_not_acknowledged
    what_is_acknowledged_is_gone
    who_reads_before_there_is_a_mailbox_hears
    a_full_mailbox_refuses
    members_of_a_group_are_written_to
    what_is_wanted_is_taken_once
    many_hear_in_order_from_two_instances
}

async fn what_was_written_to_who_is_away_comes_in_order(place: Place) {
    let post = place.open().await;
    // Together: the first finds no mailbox, and nothing behind it may overtake it.
    let mut outcomes = Vec::new();
    let texts: Vec<String> = (0..30).map(|number| number.to_string()).collect();
    for text in &texts {
        outcomes.push(post.hand_over(Target::User(user("carol")), text).await);
    }
    for outcome in outcomes {
        assert_eq!(within_deadline("an outcome", outcome).await.expect("an outcome"), Ok(()));
    }
    let (desk, _reading) = post.read("carol");
    desk.has(&texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

async fn who_reads_hears_at_once(place: Place) {
    let post = place.open().await;
    assert_eq!(post.write(Target::User(user("carol")), "1").await, Ok(()));
    let (desk, _reading) = post.read("carol");
    desk.has(&["1"]).await;
    assert_eq!(post.write(Target::User(user("carol")), "2").await, Ok(()));
    desk.has(&["1", "2"]).await;
}

async fn one_reads_and_the_next_gets_what_was_not_acknowledged(place: Place) {
    let (one, two) = (place.open().await, place.open().await);
    for text in ["1", "2", "3"] {
        assert_eq!(one.write(Target::User(user("carol")), text).await, Ok(()));
    }
    let (first, reading) = one.read("carol");
    first.has(&["1", "2", "3"]).await;
    let (second, _reading) = two.read("carol");
    assert_eq!(two.write(Target::User(user("carol")), "4").await, Ok(()));
    first.has(&["1", "2", "3", "4"]).await;
    first.acknowledge(1);
    assert!(second.texts().is_empty(), "one at a time");
    drop(reading);
    second.has(&["2", "3", "4"]).await;
}

async fn what_is_acknowledged_is_gone(place: Place) {
    let post = place.open().await;
    assert_eq!(post.write(Target::User(user("carol")), "1").await, Ok(()));
    assert_eq!(post.write(Target::User(user("carol")), "2").await, Ok(()));
    let (desk, reading) = post.read("carol");
    desk.has(&["1", "2"]).await;
    desk.acknowledge(1);
    drop(reading);
    let (desk, _reading) = post.read("carol");
    desk.has(&["2"]).await;
}

async fn who_reads_before_there_is_a_mailbox_hears(place: Place) {
    let (one, two) = (place.open().await, place.open().await);
    let (desk, _reading) = two.read("carol");
    assert_eq!(one.write(Target::User(user("carol")), "1").await, Ok(()));
    desk.has(&["1"]).await;
}

async fn a_full_mailbox_refuses(place: Place) {
    let bounds = MailboxBounds { messages_max: 3, bytes_max: 100, age_max: DAY, idle_max: DAY };
    let post = place.open_with(bounds).await;
    for _ in 0..3 {
        assert_eq!(post.write(Target::User(user("carol")), "x").await, Ok(()));
    }
    assert_eq!(post.write(Target::User(user("carol")), "x").await, Err(NotAccepted::MailboxFull));
    assert_eq!(post.write(Target::User(user("bob")), "x").await, Ok(()), "others are not concerned");
    let (desk, _reading) = post.read("carol");
    desk.has(&["x"; 3]).await;
    assert_eq!(post.write(Target::User(user("carol")), "y").await, Ok(()), "somebody reads");
    desk.has(&["x", "x", "x", "y"]).await;
}

async fn members_of_a_group_are_written_to(place: Place) {
    let (one, two) = (place.open().await, place.open().await);
    assert_eq!(one.write(Target::Group(group("class")), "nobody").await, Err(NotAccepted::NoMembers));
    let (desk, _reading) = two.read("bob");
    for name in ["alice", "bob"] {
        one.mailboxes.join(user(name), group("class")).await.expect("a member");
    }
    assert_eq!(two.write(Target::Group(group("class")), "all").await, Ok(()));
    desk.has(&["all"]).await;
    let terms = desk.0.lock().expect("no panic")[0].message.terms.clone().expect("terms");
    assert_eq!(terms.group, Some(group("class")));
    assert_eq!(one.take("alice", |_| true).await, ["all"]);
    two.mailboxes.leave(user("alice"), group("class")).await.expect("a member no more");
    assert_eq!(two.write(Target::Group(group("class")), "bob").await, Ok(()));
    desk.has(&["all", "bob"]).await;
    assert!(one.take("alice", |_| true).await.is_empty());
}

async fn what_is_wanted_is_taken_once(place: Place) {
    let post = place.open().await;
    assert!(post.take("carol", |_| true).await.is_empty(), "there is no mailbox");
    for text in ["a1", "b1", "a2", "b2"] {
        assert_eq!(post.write(Target::User(user("carol")), text).await, Ok(()));
    }
    let is_a = |message: &Message| message.payload.starts_with(b"a");
    assert_eq!(post.take("carol", is_a).await, ["a1", "a2"]);
    assert!(post.take("carol", is_a).await.is_empty());
    assert_eq!(post.take("carol", |_| true).await, ["b1", "b2"], "what was not wanted is in its place");
}

async fn many_hear_in_order_from_two_instances(place: Place) {
    let (one, two) = (place.open().await, place.open().await);
    let (desk, _reading) = one.read("carol");
    let mut outcomes = Vec::new();
    for number in 0..15 {
        for (post, name) in [(&one, "one"), (&two, "two")] {
            outcomes.push(post.hand_over(Target::User(user("carol")), &format!("{name} {number}")).await);
        }
    }
    for outcome in outcomes {
        assert_eq!(within_deadline("an outcome", outcome).await.expect("an outcome"), Ok(()));
    }
    eventually("all are there", || async { desk.texts().len() == 30 }).await;
    for name in ["one", "two"] {
        let own: Vec<String> = desk.texts().into_iter().filter(|text| text.starts_with(name)).collect();
        assert_eq!(own, (0..15).map(|number| format!("{name} {number}")).collect::<Vec<_>>());
    }
}

// --- RabbitMQ alone -------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_program_writes_to_users() {
    let place = Place::RabbitMq(Cluster::shared());
    let Place::RabbitMq(cluster) = &place else { unreachable!("it is one") };
    let bounds = MailboxBounds { messages_max: 2, bytes_max: 1 << 20, age_max: DAY, idle_max: DAY };
    let post = place.open_with(bounds).await;
    let alien = Alien::connect(&cluster.url).await;
    let mut refused = None;
    eventually("the entrance stands", || async { alien.finds(&cluster.users()).await }).await;
    refused.replace(alien.listen(&format!("{}.refused", cluster.users())).await);
    for text in ["1", "2", "3"] {
        alien.publish(&cluster.users(), "carol", text.as_bytes(), BasicProperties::default()).await;
    }
    let back = within_deadline("the third comes back", async {
        futures_util::StreamExt::next(refused.as_mut().expect("a consumer")).await
    });
    assert_eq!(back.await.expect("a delivery").expect("no error").data, b"3");
    let (desk, _reading) = post.read("carol");
    desk.has(&["1", "2"]).await;
    assert!(desk.0.lock().expect("no panic").iter().all(|letter| letter.message.id.is_some()), "it was given an id");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mailbox_that_is_deleted_beneath_its_reader_is_made_anew() {
    let place = Place::RabbitMq(Cluster::shared());
    let Place::RabbitMq(cluster) = &place else { unreachable!("it is one") };
    let post = place.open().await;
    let (desk, _reading) = post.read("carol");
    assert_eq!(post.write(Target::User(user("carol")), "1").await, Ok(()));
    desk.has(&["1"]).await;
    let alien = Alien::connect(&cluster.url).await;
    alien.delete_queue(&cluster.mailbox("carol")).await;
    assert_eq!(post.write(Target::User(user("carol")), "2").await, Ok(()));
    desk.has(&["1", "2"]).await;
}

/// The consumer of who goes is taken away and what it held is put back at once: nothing newer slips in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_its_way_to_who_goes_comes_first_to_who_is_next() {
    let place = Place::RabbitMq(Cluster::shared());
    let Place::RabbitMq(cluster) = &place else { unreachable!("it is one") };
    let wire = Proxy::to(&cluster.url).await;
    // The other one removes what both have made.
    let behind_wire = Cluster { url: wire.url.clone(), prefix: cluster.prefix.clone() };
    let behind_wire = ManuallyDrop::new(Place::RabbitMq(behind_wire));
    let (one, two) = (behind_wire.open().await, place.open().await);
    assert_eq!(two.write(Target::User(user("carol")), "1").await, Ok(()));
    let (first, reading) = one.read("carol");
    first.has(&["1"]).await;
    let (second, _reading) = two.read("carol");
    let alien = Alien::connect(&cluster.url).await;
    eventually("both consume", || async { alien.consumers_of(&cluster.mailbox("carol")).await == Some(2) }).await;

    wire.deafen();
    for text in ["2", "3"] {
        assert_eq!(two.write(Target::User(user("carol")), text).await, Ok(()));
    }
    drop(reading);
    for text in ["4", "5"] {
        assert_eq!(two.write(Target::User(user("carol")), text).await, Ok(()));
    }
    second.has(&["1", "2", "3", "4", "5"]).await;
    assert_eq!(first.texts(), ["1"]);
    wire.forward();
}

/// RabbitMQ closes a channel each time, and lapin keeps its number: there are 2,047.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_in_vain_any_number_of_times_costs_nobody_a_mailbox() {
    let place = Place::RabbitMq(Cluster::shared());
    let post = place.open().await;
    for _ in 0..2_200 {
        assert_eq!(post.take("alice", |_| true).await, [""; 0]);
    }
    assert_eq!(post.write(Target::User(user("carol")), "1").await, Ok(()));
    assert_eq!(post.take("carol", |_| true).await, ["1"]);
    post.mailboxes.join(user("bob"), group("class")).await.expect("joined");
}
