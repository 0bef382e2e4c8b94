//! What is answered is what the broker did, whatever it does.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::*;
use crate::broker::MailboxBounds;
use crate::broker::memory::MemoryMailboxes;
use crate::broker::{Broker, Link, LinkState};
use crate::http::api::ApiLimits;
use crate::instance::{Incarnation, InstanceName};
use crate::message::{MessageIds, PayloadKind, Target};
use crate::metrics::LetterMetrics;
use crate::users::{Alone, Manner, Unread, Users};

/// What the broker does with one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Confirm,
    /// Takes it, and keeps its receipt.
    Keep,
    /// Takes it, and forgets its receipt.
    Forget,
    Refuse(NotAccepted),
    /// Has no room for it, ever.
    Nothing,
}

/// A broker that does with the messages, in turn, what it is told.
#[derive(Default)]
struct Puppet {
    does: Mutex<Vec<Does>>,
    kept: Mutex<Vec<Receipt>>,
    /// Payloads that were taken.
    taken: Mutex<Vec<String>>,
}

impl Puppet {
    fn taken(&self) -> Vec<String> {
        self.taken.lock().unwrap().clone()
    }
}

impl Broker for Puppet {
    fn publish(&self, message: Message, receipt: Receipt) -> BoxFuture<'_, ()> {
        let does = self.does.lock().unwrap().remove(0);
        if !matches!(does, Does::Refuse(_) | Does::Nothing) {
            self.taken.lock().unwrap().push(String::from_utf8(message.payload.to_vec()).unwrap());
        }
        Box::pin(async move {
            match does {
                Does::Confirm => receipt.settle(Ok(())),
                Does::Keep => self.kept.lock().unwrap().push(receipt),
                Does::Forget => drop(receipt),
                Does::Refuse(reason) => receipt.settle(Err(reason)),
                Does::Nothing => {
                    let _withdrawn = receipt;
                    std::future::pending().await
                }
            }
        })
    }

    fn link(&self) -> watch::Receiver<Link> {
        let up = LinkState::Up;
        let link = Link { kind: "puppet", publishing: up.clone(), consuming: up, attachments: 1 };
        watch::Sender::new(link).subscribe()
    }

    fn finish_publishing(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

const LIMITS: ApiLimits = ApiLimits {
    message_bytes_max: 1024,
    json_bytes_max: 8192,
    batch_max: 10,
    requests_max: 1,
    body_timeout: Duration::from_secs(1),
    spool_wait: Duration::from_secs(10),
    answer_wait: Duration::from_secs(5),
};

fn api(does: &[Does]) -> (Api, Arc<Puppet>) {
    let puppet = Arc::new(Puppet { does: Mutex::new(does.to_vec()), ..Puppet::default() });
    let ids = MessageIds::new(Incarnation::begin(InstanceName::parse("x").unwrap()));
    let day = Duration::from_secs(86_400);
    let bounds = MailboxBounds { messages_max: 1, bytes_max: 1, age_max: day, idle_max: day };
    let (own, mailboxes) = (ids.incarnation().name().clone(), Arc::new(MemoryMailboxes::start(bounds)));
    let manner = Manner { acknowledgement_timeout: day, unread: Unread::Push, mailbox_idle: day };
    let users = Users::start(own, puppet.clone(), mailboxes, Arc::new(Alone), manner, LetterMetrics::default());
    (Api::new(puppet.clone(), users, ids, LIMITS), puppet)
}

fn orders(count: usize) -> Vec<Order> {
    let order = |number: usize| Order {
        target: Target::Broadcast,
        kind: PayloadKind::Text,
        payload: number.to_string().into(),
        ttl_ms: None,
        key: None,
        from: None,
        subject: None,
        is_kept: true,
    };
    (0..count).map(order).collect()
}

/// `p`ublished, `n`ot spooled, `s`topping, `u`nknown.
fn letters(outcomes: &[Outcome]) -> String {
    let letter = |outcome: &Outcome| match outcome {
        Outcome::Published(_) => 'p',
        Outcome::NotSpooled(_) => 'n',
        Outcome::Stopping(_) => 's',
        Outcome::Unknown(_) => 'u',
        Outcome::Refused(..) => 'r',
    };
    outcomes.iter().map(letter).collect()
}

#[tokio::test(start_paused = true)]
async fn each_outcome_is_told() {
    use Does::{Confirm, Forget, Keep, Nothing, Refuse};
    for (does, told, waited_s) in [
        (vec![Confirm], "p", 0),
        (vec![Keep], "u", 5),
        (vec![Forget], "u", 0),
        (vec![Refuse(NotAccepted::SpoolFull)], "n", 0),
        (vec![Refuse(NotAccepted::Stopping)], "s", 0),
        (vec![Nothing], "n", 10),
        (vec![Confirm, Confirm, Confirm], "ppp", 0),
        (vec![Confirm, Keep, Confirm], "pup", 5),
        (vec![Keep, Keep, Nothing, Confirm], "uunn", 15),
        (vec![Confirm, Refuse(NotAccepted::Stopping), Confirm], "pss", 0),
        (vec![Forget, Refuse(NotAccepted::SpoolFull), Confirm], "unn", 0),
    ] {
        let (api, puppet) = api(&does);
        let began = Instant::now();
        let outcomes = api.publish(orders(does.len())).await;
        assert_eq!((letters(&outcomes).as_str(), began.elapsed().as_secs()), (told, waited_s), "{does:?}");
        // In order, and none behind one that was not taken.
        let taken = told.bytes().take_while(|letter| b"pu".contains(letter)).count();
        assert_eq!(puppet.taken(), (0..taken).map(|number| number.to_string()).collect::<Vec<_>>(), "{does:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_confirm_that_comes_while_somebody_waits_is_told() {
    let (api, puppet) = api(&[Does::Keep]);
    let mut publishing = std::pin::pin!(api.publish(orders(1)));
    assert!((&mut publishing).now_or_never().is_none());
    let receipt = puppet.kept.lock().unwrap().pop().expect("a receipt");
    receipt.settle(Ok(()));
    assert_eq!(letters(&publishing.await), "p");
}

#[tokio::test(start_paused = true)]
async fn a_confirm_that_comes_too_late_hurts_nobody() {
    let (api, puppet) = api(&[Does::Keep]);
    assert_eq!(letters(&api.publish(orders(1)).await), "u");
    let receipt = puppet.kept.lock().unwrap().pop().expect("a receipt");
    receipt.settle(Ok(()));
}

#[tokio::test]
async fn ids_are_told_apart_but_for_repetitions() {
    let (api, _) = api(&[]);
    let plain = || orders(1).remove(0);
    let keyed = |key: &str| Order { key: Some(crate::terms::IdempotencyKey::parse(key).unwrap()), ..plain() };
    let id = |order| api.message(order).0;
    assert_ne!(id(plain()), id(plain()));
    assert_eq!(id(keyed("1")), id(keyed("1")));
    assert_ne!(id(keyed("1")), id(keyed("2")));
    let (_, message) = api.message(Order { ttl_ms: Some(u64::MAX), ..plain() });
    assert_eq!(message.terms.as_ref().and_then(|terms| terms.expires_ms), Some(u64::MAX));
    assert_eq!(api.message(plain()).1.terms, None);
}
