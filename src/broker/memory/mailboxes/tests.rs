use std::sync::Mutex;

use bytes::Bytes;

use super::*;
use crate::broker::tests::Heard;
use crate::message::PayloadKind;

fn bounds() -> MailboxBounds {
    let day = Duration::from_secs(86_400);
    MailboxBounds { messages_max: 3, bytes_max: 100, age_max: day, idle_max: day }
}

fn user(name: &str) -> UserName {
    UserName::parse(name).unwrap()
}

fn message(target: Target, payload: impl Into<Bytes>) -> Message {
    Message { id: None, target, kind: PayloadKind::Text, published_ms: 0, terms: None, payload: payload.into() }
}

/// Everything that was asked before is done.
async fn settled(mailboxes: &MemoryMailboxes) {
    mailboxes.take(MailboxName::of_user(user("nobody")), 0, Box::new(|_| false)).await.unwrap();
}

async fn keep(mailboxes: &MemoryMailboxes, target: Target, payload: impl Into<Bytes>) -> Result<(), NotAccepted> {
    let heard = Arc::new(Heard::default());
    mailboxes.keep(message(target, payload), Receipt::to(heard.clone()));
    settled(mailboxes).await;
    heard.0.lock().unwrap()[0]
}

#[derive(Default)]
struct Letters(Mutex<Vec<Letter>>);

impl Reader for Letters {
    fn take(&self, letter: Letter) {
        self.0.lock().unwrap().push(letter);
    }
}

impl Letters {
    fn payloads(&self) -> Vec<String> {
        let letters = self.0.lock().unwrap();
        letters.iter().map(|letter| String::from_utf8(letter.message.payload.to_vec()).unwrap()).collect()
    }

    fn acknowledge_first(&self) {
        self.0.lock().unwrap().remove(0).acknowledge();
    }
}

#[tokio::test]
async fn what_is_not_acknowledged_comes_to_the_next_reader_in_order() {
    let mailboxes = MemoryMailboxes::start(bounds());
    for payload in ["1", "2", "3"] {
        assert_eq!(keep(&mailboxes, Target::User(user("carol")), payload).await, Ok(()));
    }
    let (one, two) = (Arc::new(Letters::default()), Arc::new(Letters::default()));
    let first = mailboxes.read(user("carol"), one.clone());
    let second = mailboxes.read(user("carol"), two.clone());
    settled(&mailboxes).await;
    assert_eq!((one.payloads(), two.payloads()), (vec!["1".into(), "2".into(), "3".into()], vec![]));
    one.acknowledge_first();
    drop(first);
    settled(&mailboxes).await;
    assert_eq!(two.payloads(), ["2", "3"]);
    assert_eq!(keep(&mailboxes, Target::User(user("carol")), "4").await, Ok(()));
    assert_eq!(two.payloads(), ["2", "3", "4"]);
    drop(second);
    settled(&mailboxes).await;
    let taken = mailboxes
        .take(MailboxName::of_user(user("carol")), 10, Box::new(|message| message.payload != "3"))
        .await
        .unwrap();
    assert_eq!(taken.iter().map(|message| &message.payload[..]).collect::<Vec<_>>(), [b"2", b"4"]);
    let rest = mailboxes.take(MailboxName::of_user(user("carol")), 10, Box::new(|_| true)).await.unwrap();
    assert_eq!(rest.len(), 1);
}

#[tokio::test]
async fn a_full_mailbox_refuses_and_others_keep() {
    let mailboxes = MemoryMailboxes::start(bounds());
    let group = GroupName::parse("class").unwrap();
    assert_eq!(keep(&mailboxes, Target::Group(group.clone()), "x").await, Err(NotAccepted::NoMembers));
    for member in ["alice", "bob"] {
        mailboxes.join(user(member), group.clone()).await.unwrap();
    }
    for _ in 0..3 {
        assert_eq!(keep(&mailboxes, Target::User(user("bob")), "x").await, Ok(()));
    }
    assert_eq!(keep(&mailboxes, Target::User(user("bob")), "x").await, Err(NotAccepted::MailboxFull));
    assert_eq!(keep(&mailboxes, Target::Group(group.clone()), "y").await, Err(NotAccepted::MailboxFull));
    let of_alice = mailboxes.take(MailboxName::of_user(user("alice")), 10, Box::new(|_| true)).await.unwrap();
    assert_eq!(of_alice.len(), 1, "she has it");
    mailboxes.leave(user("bob"), group.clone()).await.unwrap();
    assert_eq!(keep(&mailboxes, Target::Group(group.clone()), "z").await, Ok(()));
    mailboxes.leave(user("alice"), group.clone()).await.unwrap();
    assert_eq!(keep(&mailboxes, Target::Group(group), "z").await, Err(NotAccepted::NoMembers));
}

#[tokio::test]
async fn a_reader_holds_so_many_and_no_more() {
    let many = usize::from(LETTERS_UNACKNOWLEDGED_MAX) + 5;
    let mailboxes = MemoryMailboxes::start(MailboxBounds { messages_max: many, bytes_max: 1 << 20, ..bounds() });
    let letters = Arc::new(Letters::default());
    let _reading = mailboxes.read(user("carol"), letters.clone());
    for _ in 0..many {
        assert_eq!(keep(&mailboxes, Target::User(user("carol")), "x").await, Ok(()));
    }
    assert_eq!(letters.payloads().len(), usize::from(LETTERS_UNACKNOWLEDGED_MAX));
    letters.acknowledge_first();
    settled(&mailboxes).await;
    assert_eq!(letters.payloads().len(), usize::from(LETTERS_UNACKNOWLEDGED_MAX));
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_is_kept_no_more() {
    let mailboxes = MemoryMailboxes::start(bounds());
    assert_eq!(keep(&mailboxes, Target::User(user("carol")), "x").await, Ok(()));
    tokio::time::advance(Duration::from_secs(86_401)).await;
    assert_eq!(mailboxes.take(MailboxName::of_user(user("carol")), 10, Box::new(|_| true)).await.unwrap().len(), 0);
}

/// Lets time pass, until it was looked what is kept no more.
async fn pass(time: Duration) {
    tokio::time::sleep(time + SWEEP_INTERVAL + Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_takes_no_memory_though_nobody_comes() {
    let mailboxes = MemoryMailboxes::start(bounds());
    let payload = Bytes::from(vec![b'x'; 50]);
    for target in [Target::User(user("carol")), Target::Unread(user("carol"))] {
        assert_eq!(keep(&mailboxes, target, payload.clone()).await, Ok(()));
    }
    pass(bounds().age_max - 2 * SWEEP_INTERVAL).await;
    assert!(!payload.is_unique());
    pass(SWEEP_INTERVAL).await;
    assert!(payload.is_unique());
}

#[tokio::test(start_paused = true)]
async fn memberships_end_when_the_user_has_not_been_here_for_long() {
    const HOUR: Duration = Duration::from_secs(3600);
    let idle_max = Duration::from_secs(2 * 86_400);
    let mailboxes = MemoryMailboxes::start(MailboxBounds { idle_max, messages_max: 100, ..bounds() });
    let group = GroupName::parse("class").unwrap();
    let members = async || {
        let outcome = keep(&mailboxes, Target::Group(group.clone()), "x").await;
        assert!(outcome.is_ok() || outcome == Err(NotAccepted::NoMembers), "{outcome:?}");
        outcome.is_ok()
    };
    for member in ["alice", "bob"] {
        mailboxes.join(user(member), group.clone()).await.unwrap();
    }
    // Bob is here all the time; of alice, what is written to her does not count.
    let reading = mailboxes.read(user("bob"), Arc::new(Letters::default()));
    mailboxes.leave(user("bob"), group.clone()).await.unwrap();
    pass(idle_max - HOUR).await;
    assert!(members().await, "alice is in it yet");
    pass(HOUR).await;
    assert!(!members().await);
    // Bob's begin to end when he leaves.
    mailboxes.join(user("bob"), group.clone()).await.unwrap();
    pass(2 * idle_max).await;
    assert!(members().await);
    drop(reading);
    pass(idle_max - HOUR).await;
    assert!(members().await);
    pass(HOUR).await;
    assert!(!members().await);
    // To be assigned, and to ask for what is unread, is to be here.
    mailboxes.join(user("carol"), group.clone()).await.unwrap();
    pass(idle_max - HOUR).await;
    mailboxes.join(user("carol"), group.clone()).await.unwrap();
    pass(idle_max - HOUR).await;
    mailboxes.take(MailboxName::of_user(user("carol")), 10, Box::new(|_| true)).await.unwrap();
    pass(idle_max - HOUR).await;
    assert!(members().await);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_of_mailboxes_that_nobody_needs() {
    let (asked, _orders) = mpsc::unbounded_channel();
    let mut office = Office::new(bounds(), asked.downgrade());
    let group = GroupName::parse("class").unwrap();
    for number in 0..1000 {
        let user = user(&number.to_string());
        office.answer(Asked::Join(user.clone(), group.clone()));
        assert_eq!(office.keep(message(Target::Unread(user), "x")), Ok(()));
    }
    assert_eq!(office.keep(message(Target::User(user("carol")), "x")), Ok(()));
    office.answer(Asked::Read(user("carol"), 1, Arc::new(Letters::default())));
    office.sweep();
    assert_eq!((office.boxes.len(), office.groups.len()), (2001, 1));
    tokio::time::advance(bounds().idle_max + Duration::from_secs(1)).await;
    office.sweep();
    assert_eq!((office.boxes.len(), office.groups.len()), (1, 0), "what somebody reads stays");
    assert!(office.boxes.capacity() < 100, "{}", office.boxes.capacity());
    // Given back, it is too old.
    office.answer(Asked::End(user("carol"), 1));
    assert_eq!(office.boxes.len(), 0);
}
