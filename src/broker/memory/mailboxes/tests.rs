use std::sync::Mutex;
use std::time::Duration;

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

fn message(target: Target, payload: &'static str) -> Message {
    Message { id: None, target, kind: PayloadKind::Text, published_ms: 0, terms: None, payload: payload.into() }
}

/// Everything that was asked before is done.
async fn settled(mailboxes: &MemoryMailboxes) {
    mailboxes.take(MailboxName::of_user(user("nobody")), 0, Box::new(|_| false)).await.unwrap();
}

async fn keep(mailboxes: &MemoryMailboxes, target: Target, payload: &'static str) -> Result<(), NotAccepted> {
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
