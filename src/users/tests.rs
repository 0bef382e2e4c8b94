use std::sync::Mutex;

use futures_util::FutureExt;
use tokio::sync::watch;

use super::*;
use crate::broker::memory::MemoryMailboxes;
use crate::broker::tests::Heard;
use crate::broker::{Link, LinkState, MailboxBounds};
use crate::message::PayloadKind;

/// A session: what it was given, and what it was asked to prove.
struct Phone {
    number: u64,
    given: Mutex<Vec<String>>,
    asked: Mutex<Vec<u64>>,
    kind: Kind,
    unacknowledged: Mutex<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Plain,
    Events,
}

impl Recipient for Phone {
    fn number(&self) -> u64 {
        self.number
    }

    fn give(&self, message: &Message) {
        self.given.lock().unwrap().push(message.id.as_ref().unwrap().to_string());
    }

    fn acknowledges(&self) -> bool {
        self.kind != Kind::Events
    }

    fn prove(&self, letter: u64) {
        if self.kind == Kind::Plain {
            self.asked.lock().unwrap().push(letter);
        }
    }

    fn tell_unacknowledged(&self) {
        *self.unacknowledged.lock().unwrap() += 1;
    }
}

fn phone(number: u64, is_plain: bool) -> Arc<Phone> {
    session(number, if is_plain { Kind::Plain } else { Kind::Json })
}

fn session(number: u64, kind: Kind) -> Arc<Phone> {
    let (given, asked, unacknowledged) = (Mutex::default(), Mutex::default(), Mutex::default());
    Arc::new(Phone { number, given, asked, kind, unacknowledged })
}

impl Phone {
    fn given(&self) -> Vec<String> {
        std::mem::take(&mut self.given.lock().unwrap())
    }

    fn asked(&self) -> Vec<u64> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

/// Notes what goes to other instances, and holds the word on it back.
#[derive(Default)]
struct Elsewhere {
    sent: Mutex<Vec<(Message, Receipt)>>,
}

impl Broker for Elsewhere {
    fn publish(&self, message: Message, receipt: Receipt) -> futures_util::future::BoxFuture<'_, ()> {
        self.sent.lock().unwrap().push((message, receipt));
        Box::pin(std::future::ready(()))
    }

    fn link(&self) -> watch::Receiver<Link> {
        let (publishing, consuming) = (LinkState::Up, LinkState::Up);
        watch::Sender::new(Link { kind: "memory", publishing, consuming, attachments: 1 }).subscribe()
    }

    fn finish_publishing(&self) -> futures_util::future::BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn close(&self) -> futures_util::future::BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Where users are, as a test says; and who was told to be gone.
#[derive(Default)]
struct Map {
    others: Mutex<Vec<InstanceName>>,
    gone: Mutex<Vec<InstanceName>>,
}

impl Whereabouts for Map {
    fn others(&self, _user: &UserName) -> Vec<InstanceName> {
        self.others.lock().unwrap().clone()
    }

    fn is_gone(&self, instance: &InstanceName) {
        self.gone.lock().unwrap().push(instance.clone());
    }
}

struct World {
    mailboxes: MemoryMailboxes,
    elsewhere: Arc<Elsewhere>,
    map: Arc<Map>,
    users: Arc<Users>,
}

fn carol() -> UserName {
    UserName::parse("carol").unwrap()
}

fn instance(name: &str) -> InstanceName {
    InstanceName::parse(name).unwrap()
}

fn message(id: &str) -> Message {
    Message {
        id: MessageId::from_publisher(id),
        target: Target::User(carol()),
        kind: PayloadKind::Text,
        published_ms: 0,
        terms: None,
        payload: id.to_owned().into(),
    }
}

impl World {
    fn begin() -> World {
        World::with(Unread::Push)
    }

    fn with(unread: Unread) -> World {
        let day = Duration::from_secs(86_400);
        let bounds = MailboxBounds { messages_max: 100, bytes_max: 1 << 20, age_max: day, idle_max: day };
        let mailboxes = MemoryMailboxes::start(bounds);
        let (elsewhere, map) = (Arc::new(Elsewhere::default()), Arc::new(Map::default()));
        let users = Users::start(
            instance("a_1"),
            elsewhere.clone(),
            Arc::new(mailboxes.clone()),
            map.clone(),
            Manner { acknowledgement_timeout: Duration::from_secs(60), unread, mailbox_idle: day },
            LetterMetrics::default(),
        );
        World { mailboxes, elsewhere, map, users }
    }

    async fn settle(&self) {
        let nobody = UserName::parse("nobody").unwrap();
        for _ in 0..3 {
            self.mailboxes.take(MailboxName::of_user(nobody.clone()), 0, Box::new(|_| false)).await.unwrap();
            tokio::task::yield_now().await;
        }
    }

    async fn write(&self, ids: &[&str]) {
        for id in ids {
            self.mailboxes.keep(message(id), Receipt::to(Arc::new(Heard::default())));
        }
        self.settle().await;
    }

    async fn kept(&self) -> Vec<String> {
        let taken = self.mailboxes.take(MailboxName::of_user(carol()), 100, Box::new(|_| true)).await.unwrap();
        taken.iter().map(|message| message.id.as_ref().unwrap().to_string()).collect()
    }

    async fn leave(&self, phone: &Phone) {
        self.users.leave(&carol(), phone.number);
        self.settle().await;
    }
}

fn id(text: &str) -> MessageId {
    MessageId::from_publisher(text).unwrap()
}

#[tokio::test]
async fn what_was_missed_comes_first_and_is_removed_when_a_pong_shows_it() {
    let world = World::begin();
    world.write(&["1", "2"]).await;
    let plain = phone(1, true);
    world.users.arrive(&carol(), plain.clone());
    world.settle().await;
    world.write(&["3"]).await;
    assert_eq!(plain.given(), ["1", "2", "3"]);
    assert_eq!(plain.asked(), [1, 2, 3]);
    world.users.proved(&carol(), 2);
    world.leave(&plain).await;
    assert!(!world.users.is_here(&carol()));
    assert_eq!(world.kept().await, ["3"]);
}

#[tokio::test]
async fn phone_and_laptop_both_get_it_and_one_acknowledges() {
    let world = World::begin();
    let (one, two, three) = (phone(1, false), phone(2, false), phone(3, false));
    world.users.arrive(&carol(), one.clone());
    world.users.arrive(&carol(), two.clone());
    world.write(&["1", "2"]).await;
    assert_eq!((one.given(), two.given()), (vec!["1".to_owned(), "2".into()], vec!["1".into(), "2".into()]));
    world.users.acknowledge(&carol(), &id("1"));
    // Who comes later is given what nobody has acknowledged.
    world.users.arrive(&carol(), three.clone());
    assert_eq!(three.given(), ["2"]);
    world.leave(&one).await;
    world.leave(&two).await;
    assert!(world.users.is_here(&carol()));
    world.users.acknowledge(&carol(), &id("2"));
    world.leave(&three).await;
    assert_eq!(world.kept().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_letter_is_kept_until_its_copies_are_on_their_way() {
    let world = World::begin();
    let one = phone(1, false);
    *world.map.others.lock().unwrap() = vec![instance("b_1"), instance("c_1")];
    world.users.arrive(&carol(), one.clone());
    world.write(&["1"]).await;
    world.users.acknowledge(&carol(), &id("1"));
    let mut sent = std::mem::take(&mut *world.elsewhere.sent.lock().unwrap());
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|(copy, _)| matches!(&copy.target, Target::UserAt(_, user) if *user == carol())));
    let (copy, receipt) = sent.remove(0);
    receipt.settle(Err(NotAccepted::NoInstance));
    let Target::UserAt(gone, _) = copy.target else { panic!("not a copy") };
    assert_eq!(*world.map.gone.lock().unwrap(), [gone]);
    assert_eq!(world.kept().await, Vec::<String>::new(), "it is held");
    sent.remove(0).1.settle(Ok(()));
    world.leave(&one).await;
    assert_eq!(world.kept().await, Vec::<String>::new());
}

#[tokio::test]
async fn what_was_acknowledged_does_not_come_again_though_a_copy_is_under_way() {
    let world = World::begin();
    let one = phone(1, false);
    *world.map.others.lock().unwrap() = vec![instance("b_1")];
    world.users.arrive(&carol(), one.clone());
    world.write(&["1", "2"]).await;
    world.users.acknowledge(&carol(), &id("1"));
    world.leave(&one).await;
    assert_eq!(world.kept().await, ["2"]);
}

#[tokio::test]
async fn who_moves_sees_what_the_old_session_left_before_what_comes_later() {
    let world = World::begin();
    let (sent, one) = (&world.elsewhere.sent, phone(1, false));
    let copies = || {
        let sent = std::mem::take(&mut *sent.lock().unwrap());
        sent.into_iter().map(|(copy, receipt)| {
            receipt.settle(Ok(()));
            copy.id.unwrap().to_string()
        })
    };
    world.users.arrive(&carol(), one.clone());
    world.write(&["1", "2", "3"]).await;
    world.users.acknowledge(&carol(), &id("2"));
    assert_eq!(copies().count(), 0);
    // The new session stands, and nobody knows that the old one is dead.
    *world.map.others.lock().unwrap() = vec![instance("b_1")];
    world.write(&["4"]).await;
    assert_eq!(copies().collect::<Vec<_>>(), ["1", "3", "4"]);
    // Another one, and nothing comes.
    *world.map.others.lock().unwrap() = vec![instance("b_1"), instance("c_1")];
    let here = world.users.find(&carol()).unwrap();
    here.look_after(Duration::from_secs(60));
    world.settle().await;
    assert_eq!(copies().collect::<Vec<_>>(), ["1", "3", "4"]);
    here.look_after(Duration::from_secs(60));
    world.settle().await;
    assert_eq!(copies().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_acknowledge_is_given_no_more_until_somebody_does() {
    let world = World::begin();
    let one = phone(1, false);
    world.users.arrive(&carol(), one.clone());
    world.write(&["1"]).await;
    assert_eq!(one.given(), ["1"]);
    let here = world.users.find(&carol()).unwrap();
    tokio::time::advance(Duration::from_millis(1)).await;
    here.look_after(Duration::ZERO);
    assert_eq!(*one.unacknowledged.lock().unwrap(), 1);
    world.write(&["2"]).await;
    assert_eq!(one.given(), Vec::<String>::new());
    world.users.acknowledge(&carol(), &id("1"));
    world.settle().await;
    // It was given back, so it comes again.
    assert_eq!(one.given(), ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn who_acknowledges_slowly_is_not_taken_for_who_does_not() {
    let world = World::begin();
    let one = phone(1, true);
    world.users.arrive(&carol(), one.clone());
    world.write(&["1", "2", "3"]).await;
    let here = world.users.find(&carol()).unwrap();
    world.users.proved(&carol(), 1);
    tokio::time::advance(Duration::from_millis(30)).await;
    world.users.proved(&carol(), 2);
    here.look_after(Duration::from_millis(20));
    assert_eq!(*one.unacknowledged.lock().unwrap(), 0, "the third waits for longer, but something was heard since");
    tokio::time::advance(Duration::from_millis(30)).await;
    here.look_after(Duration::from_millis(20));
    assert_eq!(*one.unacknowledged.lock().unwrap(), 1);
}

#[tokio::test]
async fn a_copy_that_did_not_get_through_is_sent_again_and_the_letter_stays_until_then() {
    let world = World::begin();
    let one = phone(1, false);
    *world.map.others.lock().unwrap() = vec![instance("b_1")];
    world.users.arrive(&carol(), one.clone());
    world.write(&["1"]).await;
    world.users.acknowledge(&carol(), &id("1"));
    let sent = || std::mem::take(&mut *world.elsewhere.sent.lock().unwrap());
    let here = world.users.find(&carol()).unwrap();
    for _ in 0..2 {
        let (copy, receipt) = sent().pop().unwrap();
        assert_eq!(copy.id, Some(id("1")));
        receipt.settle(Err(NotAccepted::SpoolFull));
        assert_eq!(here.held(), 1);
        here.look_after(Duration::from_secs(60));
        world.settle().await;
    }
    sent().pop().unwrap().1.settle(Ok(()));
    assert_eq!(here.held(), 0);
    // Nor does the key of who wrote it drop it where it comes again.
    let terms = Terms { idempotency_key: crate::terms::IdempotencyKey::parse("key").ok(), ..Terms::default() };
    let keyed = Message { terms: Some(Arc::new(terms)), ..message("2") };
    world.mailboxes.keep(keyed, Receipt::to(Arc::new(Heard::default())));
    world.settle().await;
    assert_eq!(sent().pop().unwrap().0.terms.unwrap().idempotency_key, None);
}

#[tokio::test]
async fn what_finds_no_room_among_what_is_asked_for_comes_at_once() {
    let world = World::with(Unread::Pull);
    world.write(&["1", "2"]).await;
    let one = phone(1, false);
    world.users.arrive(&carol(), one.clone());
    world.settle().await;
    assert_eq!(one.given(), Vec::<String>::new());
    let mut aside = std::mem::take(&mut *world.elsewhere.sent.lock().unwrap()).into_iter();
    let (first, receipt) = aside.next().unwrap();
    assert_eq!(first.target, Target::Unread(carol()));
    receipt.settle(Ok(()));
    aside.next().unwrap().1.settle(Err(NotAccepted::MailboxFull));
    assert_eq!(one.given(), ["2"]);
    world.users.acknowledge(&carol(), &id("2"));
    world.leave(&one).await;
    assert_eq!(world.kept().await, Vec::<String>::new());
}

#[tokio::test]
async fn an_event_stream_hears_what_others_acknowledge_and_keeps_nothing_from_them() {
    let world = World::begin();
    let (events, laptop) = (session(1, Kind::Events), phone(2, false));
    world.users.arrive(&carol(), events.clone());
    world.write(&["1"]).await;
    assert_eq!(events.given(), Vec::<String>::new(), "nobody could show that it was read");
    world.users.arrive(&carol(), laptop.clone());
    world.settle().await;
    assert_eq!((events.given(), laptop.given()), (vec!["1".to_owned()], vec!["1".to_owned()]));
    world.leave(&laptop).await;
    assert_eq!(world.kept().await, ["1"], "it goes back with the last who could");
    assert!(world.users.is_here(&carol()));
    world.leave(&events).await;
    assert!(!world.users.is_here(&carol()));
}

#[tokio::test]
async fn who_has_no_session_is_not_connected() {
    let world = World::begin();
    let heard = Arc::new(Heard::default());
    world.users.send_if_connected(&carol(), message("1"), Receipt::to(heard.clone()));
    assert_eq!(*heard.0.lock().unwrap(), [Err(NotAccepted::NotConnected)]);
    world.users.arrive(&carol(), phone(1, false));
    *world.map.others.lock().unwrap() = vec![instance("b_1")];
    world.users.send_if_connected(&carol(), message("2"), Receipt::to(heard.clone()));
    world.settle().await;
    let sent = std::mem::take(&mut *world.elsewhere.sent.lock().unwrap());
    let targets: Vec<_> = sent.iter().map(|(copy, _)| copy.target.clone()).collect();
    assert_eq!(targets, ["b_1", "a_1"].map(|name| Target::UserAt(instance(name), carol())));
    let mut receipts = sent.into_iter().map(|(_, receipt)| receipt);
    receipts.next().unwrap().settle(Err(NotAccepted::NoInstance));
    receipts.next().unwrap().settle(Ok(()));
    assert_eq!(heard.0.lock().unwrap().last(), Some(&Ok(())));
    assert!(world.users.join_all(&carol(), &[]).now_or_never().unwrap().is_ok());
}
