//! What was handed to lapin and is not settled: the confirms that are awaited, oldest first, and which of it came back.
//!
//! RabbitMQ returns a mandatory message that no queue takes, and confirms it all the same, later. lapin (4.12) gives what
//! came back to whichever confirm comes next on the channel, which mostly is another message's, for RabbitMQ gathers
//! confirms and does not gather returns. Taken at its word, it would call a message lost that is not, and kept one that
//! nobody has. So whose it is, is known by the message itself ([`Published::is`]).
//!
//! When is it certain that a message did *not* come back? Returns come in the order of publishing, each before its
//! own confirm, and each confirm takes the oldest return that waits in lapin. So once a message and all before it are
//! confirmed, none of theirs waits any more: each was given to some confirm, and that one was told before the last of these.
//! Hence [`Outstanding::poll_settled`]: first which are confirmed without a gap, then a look at all others, whatever they were given,
//! and only then the verdict. The confirms of messages that are waited for no longer are looked at, too. (Those hang in some queue,
//! so they do not come back.)

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use futures_util::FutureExt;
use lapin::message::{BasicReturnMessage, Delivery};
use lapin::types::ShortString;
use lapin::{Confirmation, PublisherConfirm};
use tokio::time::Instant;

/// Confirms that are looked at though nobody waits for them; a queue that takes nothing for hours must not cost ever more.
const GIVEN_UP_MAX: usize = 256;

/// Something that can be known again when it comes back.
pub trait Published {
    /// Whether this is it; the routing key is the same.
    fn is(&self, returned: &Delivery) -> bool;
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Confirmed,
    /// Nobody is bound to receive it.
    Returned,
    Nacked,
}

pub type Settled<T> = (T, Outcome);

/// Messages of one channel whose confirms are awaited.
pub struct Outstanding<T, C = PublisherConfirm> {
    all: VecDeque<One<T, C>>,
    /// What came back with the confirms of others.
    returned: Vec<BasicReturnMessage>,
    /// Confirms that nobody waits for any more, but which may be given what is another's.
    given_up: VecDeque<Progress<C>>,
}

struct One<T, C> {
    progress: Progress<C>,
    /// With its routing key. None for what nobody waits for, and which is not mandatory.
    entry: Option<(T, ShortString)>,
    deadline: Instant,
}

enum Progress<C> {
    Writing(Pin<Box<dyn Future<Output = lapin::Result<C>> + Send>>),
    Confirming(C),
    /// Confirmed before one that is older; whether by an ack.
    Known(bool),
}

/// What is ready when the broker has confirmed a message.
trait Confirm: Future<Output = lapin::Result<Confirmation>> + Unpin + Send + 'static {}

impl<C: Future<Output = lapin::Result<Confirmation>> + Unpin + Send + 'static> Confirm for C {}

impl<C: Confirm> Progress<C> {
    /// lapin queues the frames at the first poll, and its answer comes when they are written. Waiting for that would
    /// cost a write and two thread switches a message: without it, what is ready together is written together.
    fn begin(writing: impl Future<Output = lapin::Result<C>> + Send + 'static) -> Progress<C> {
        let mut writing: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(writing);
        // The oldest outstanding message alone is waited for; the others need not wake anybody.
        match writing.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(confirm)) => Progress::Confirming(confirm),
            Poll::Ready(Err(error)) => Progress::failed(error),
            Poll::Pending => Progress::Writing(writing),
        }
    }

    fn failed(error: lapin::Error) -> Progress<C> {
        Progress::Writing(Box::pin(std::future::ready(Err(error))))
    }

    /// Whether it was confirmed by an ack; what the confirm was given goes to `returned`.
    fn poll(&mut self, cx: &mut Context<'_>, returned: &mut Vec<BasicReturnMessage>) -> Poll<lapin::Result<bool>> {
        loop {
            match self {
                Progress::Writing(writing) => *self = Progress::Confirming(ready!(writing.as_mut().poll(cx))?),
                Progress::Confirming(confirm) => {
                    let (is_ack, given) = match ready!(confirm.poll_unpin(cx))? {
                        Confirmation::Ack(given) => (true, given),
                        Confirmation::Nack(given) => (false, given),
                        Confirmation::NotRequested => (false, None),
                    };
                    returned.extend(given);
                    return Poll::Ready(Ok(is_ack));
                }
                Progress::Known(is_ack) => return Poll::Ready(Ok(*is_ack)),
            }
        }
    }
}

impl<T, C> Default for Outstanding<T, C> {
    fn default() -> Outstanding<T, C> {
        Outstanding { all: VecDeque::new(), returned: Vec::new(), given_up: VecDeque::new() }
    }
}

impl<T, C> Outstanding<T, C> {
    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The messages, without what nobody waits for.
    pub fn entries(&self) -> impl Iterator<Item = &T> {
        self.all.iter().filter_map(|one| one.entry.as_ref().map(|(entry, _)| entry))
    }

    /// Gives up waiting for all of them.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        self.returned.clear();
        self.given_up.clear();
        self.all.drain(..).filter_map(|one| one.entry.map(|(entry, _)| entry))
    }

    /// Whether the oldest should have been confirmed by now.
    pub fn is_late(&self) -> bool {
        self.all.front().is_some_and(|front| front.deadline <= Instant::now())
    }

    pub fn postpone(&mut self, deadline: Instant) {
        self.all.iter_mut().for_each(|one| one.deadline = deadline);
    }
}

#[allow(private_bounds, reason = "whoever waits for a confirm of lapin's need not know of it")]
impl<T: Published, C: Confirm> Outstanding<T, C> {
    /// Begins to write, and to wait for the confirm until `deadline`.
    pub fn begin(
        &mut self,
        writing: impl Future<Output = lapin::Result<C>> + Send + 'static,
        entry: Option<(T, ShortString)>,
        deadline: Instant,
    ) {
        self.all.push_back(One { progress: Progress::begin(writing), entry, deadline });
    }

    /// Gives up waiting for the oldest, if it is late. What is confirmed behind it is settled next.
    pub fn give_up_late(&mut self) -> Option<T> {
        if !self.is_late() || matches!(self.all.front()?.progress, Progress::Known(_)) {
            return None;
        }
        // What is confirmed by now is not late.
        self.look_at_the_others();
        let late = self.all.pop_front()?;
        if self.given_up.len() == GIVEN_UP_MAX {
            self.given_up.pop_front();
        }
        self.given_up.push_back(late.progress);
        late.entry.map(|(entry, _)| entry)
    }

    /// Whether some message was confirmed, but not the oldest: then it is not the connection that is silent.
    pub fn is_answered_behind(&mut self) -> bool {
        self.look_at_the_others();
        self.all.iter().skip(1).any(|one| matches!(one.progress, Progress::Known(_)))
    }

    /// The oldest whose outcome is known; pending if there is none. The broker mostly confirms in order; one confirmed
    /// early waits for those before it.
    pub fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<lapin::Result<Vec<Settled<T>>>> {
        let Outstanding { all, returned, .. } = self;
        let mut confirmed = Vec::new();
        let mut any = false;
        while let Some(front) = all.front_mut() {
            let Poll::Ready(word) = front.progress.poll(cx, returned) else { break };
            match word {
                Ok(is_ack) => {
                    let entry = all.pop_front().and_then(|front| front.entry);
                    confirmed.extend(entry.map(|(entry, key)| (entry, key, is_ack)));
                    any = true;
                }
                Err(error) if any => {
                    // Told the next time: what is settled by now comes first.
                    front.progress = Progress::failed(error);
                    break;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if !any {
            return Poll::Pending;
        }
        self.look_at_the_others();
        let settled = confirmed.into_iter().map(|(entry, key, is_ack)| {
            let outcome = self.outcome_of(&entry, &key, is_ack);
            (entry, outcome)
        });
        let settled = settled.collect();
        if self.all.is_empty() {
            // Of messages that were given up.
            self.returned.clear();
        }
        Poll::Ready(Ok(settled))
    }

    /// Takes down what was confirmed out of turn: it may have been given what an older one's is.
    fn look_at_the_others(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        // The first has just been waited for, and is to wake who waits.
        for one in self.all.iter_mut().skip(1) {
            if matches!(one.progress, Progress::Known(_)) {
                continue;
            }
            match one.progress.poll(&mut cx, &mut self.returned) {
                Poll::Ready(Ok(is_ack)) => one.progress = Progress::Known(is_ack),
                Poll::Ready(Err(error)) => one.progress = Progress::failed(error),
                Poll::Pending => {}
            }
        }
        let returned = &mut self.returned;
        self.given_up.retain_mut(|progress| progress.poll(&mut cx, returned).is_pending());
    }

    fn outcome_of(&mut self, entry: &T, key: &ShortString, is_ack: bool) -> Outcome {
        let is_it = |returned: &BasicReturnMessage| returned.routing_key == *key && entry.is(returned);
        if let Some(place) = self.returned.iter().position(is_it) {
            self.returned.swap_remove(place);
            return Outcome::Returned;
        }
        if is_ack { Outcome::Confirmed } else { Outcome::Nacked }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;

    use super::*;

    /// Known by its number, which is its body.
    #[derive(Debug, PartialEq, Eq, Clone, Copy)]
    struct Numbered(u8);

    impl Published for Numbered {
        fn is(&self, returned: &Delivery) -> bool {
            returned.data == [self.0]
        }
    }

    type Word = Arc<Mutex<Option<Confirmation>>>;

    /// One of lapin's confirms, as far as it is told.
    struct Told(Word);

    impl Future for Told {
        type Output = lapin::Result<Confirmation>;

        fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Self::Output> {
            self.0.lock().unwrap().take().map_or(Poll::Pending, |word| Poll::Ready(Ok(word)))
        }
    }

    /// What lapin does with what RabbitMQ says: each confirm takes the oldest return that waits.
    #[derive(Default)]
    struct Lapin {
        pending: Vec<(u8, Word)>,
        waiting: VecDeque<BasicReturnMessage>,
    }

    impl Lapin {
        fn publish(&mut self, number: u8) -> Told {
            let word = Word::default();
            self.pending.push((number, word.clone()));
            Told(word)
        }

        fn hear_return(&mut self, number: u8) {
            let delivery = Delivery::mock(0, "".into(), key(), false, vec![number]);
            self.waiting.push_back(BasicReturnMessage { delivery, reply_code: 312, reply_text: "NO_ROUTE".into() });
        }

        fn hear_confirm(&mut self, number: u8, is_ack: bool) {
            let place = self.pending.iter().position(|(pending, _)| *pending == number).expect("pending");
            let (_, word) = self.pending.remove(place);
            let given = self.waiting.pop_front();
            *word.lock().unwrap() = Some(if is_ack { Confirmation::Ack(given) } else { Confirmation::Nack(given) });
        }
    }

    fn key() -> ShortString {
        "key".into()
    }

    fn poll(outstanding: &mut Outstanding<Numbered, Told>) -> Vec<Settled<Numbered>> {
        match outstanding.poll_settled(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(settled) => settled.expect("no error"),
            Poll::Pending => Vec::new(),
        }
    }

    proptest! {
        /// Whatever RabbitMQ gathers, in whichever order lapin goes through a confirm of several, whenever it is looked, and
        /// whatever is waited for no longer.
        #[test]
        fn each_is_told_its_own(
            fates in prop::collection::vec(0u8..3, 1..40),
            moves in prop::collection::vec((any::<u8>(), any::<bool>()), 400),
        ) {
            let mut lapin = Lapin::default();
            let mut outstanding = Outstanding::<Numbered, Told>::default();
            for (number, _) in fates.iter().enumerate() {
                let told = lapin.publish(number as u8);
                let writing = std::future::ready(Ok(told));
                outstanding.begin(writing, Some((Numbered(number as u8), key())), Instant::now());
            }
            // Returns come in order, each before its own confirm; confirms in any order behind that.
            let (mut looked_at, mut unconfirmed, mut settled) = (0, Vec::new(), Vec::new());
            let mut given_up = Vec::new();
            for (choice, looks) in moves.into_iter().chain(std::iter::repeat_n((0, true), 200)) {
                if looked_at < fates.len() && (choice.is_multiple_of(2) || unconfirmed.is_empty()) {
                    if fates[looked_at] == 1 {
                        lapin.hear_return(looked_at as u8);
                    }
                    unconfirmed.push(looked_at);
                    looked_at += 1;
                } else if !unconfirmed.is_empty() {
                    let number = unconfirmed.remove(usize::from(choice / 2) % unconfirmed.len());
                    lapin.hear_confirm(number as u8, fates[number] != 2);
                }
                let oldest = outstanding.entries().next().map(|Numbered(number)| *number);
                if choice % 5 == 1 && oldest.is_some_and(|number| fates[usize::from(number)] != 1) {
                    given_up.extend(outstanding.give_up_late());
                }
                if looks {
                    settled.extend(poll(&mut outstanding));
                }
            }
            let outcomes = [Outcome::Confirmed, Outcome::Returned, Outcome::Nacked];
            let expected = fates.iter().enumerate().map(|(number, fate)| {
                (Numbered(number as u8), outcomes[usize::from(*fate)])
            });
            let expected: Vec<_> = expected.filter(|(number, _)| !given_up.contains(number)).collect();
            prop_assert_eq!(settled, expected);
            prop_assert!(outstanding.is_empty() && outstanding.returned.is_empty());
        }
    }

    #[test]
    fn what_another_s_confirm_was_given_is_known_by_itself() {
        let (mut lapin, mut outstanding) = (Lapin::default(), Outstanding::<Numbered, Told>::default());
        for number in 0..2 {
            let told = lapin.publish(number);
            outstanding.begin(std::future::ready(Ok(told)), Some((Numbered(number), key())), Instant::now());
        }
        // As RabbitMQ says it when it has the first one's confirm still in hand.
        lapin.hear_return(1);
        lapin.hear_confirm(0, true);
        assert_eq!(poll(&mut outstanding), [(Numbered(0), Outcome::Confirmed)]);
        lapin.hear_confirm(1, true);
        assert_eq!(poll(&mut outstanding), [(Numbered(1), Outcome::Returned)]);
    }
}
