//! Telling those who ask of who comes and goes: through topics, as everything is told.
//!
//! Whether a user comes to the cluster or only to one more instance is seen under the lock of who is here: so what is seen
//! here of others and what happens here have one order.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};

use super::news::{Event, TOPICS, Told, USERS};
use super::own::Own;
use super::peer::Peer;
use super::roll::Turn;
use super::table::{Effect, Table};
use super::tasks::Voice;
use super::word::{Spoken, Word};
use super::{Presence, roll};
use crate::broker::{NotAccepted, Receipt, Settle};
use crate::instance::InstanceName;
use crate::message::{Message, PayloadKind, Target, now_unix_ms};
use crate::topic::{Pattern, Topic};
use crate::user::UserName;
use crate::watching::{Change, Watching};

/// Patterns that one instance asks by; if it has more it asks for everything.
pub const PATTERNS_MAX: usize = 100;

/// Events of users, and of topics, that are told in one round; and all together of which it is not known yet whether the
/// broker has them. So they never take more than that of the spool, where clients' messages need room.
pub(super) const EVENTS_AT_ONCE: usize = 400;

/// How long a round waits for the broker to take events: whatever there is to tell, the next beat comes in time. What is
/// not taken by then waits for the next round.
const TELLING_MAX: Duration = Duration::from_millis(20);

/// What asks for everything.
const EVERYTHING: &str = "warren.presence.#";

impl Presence {
    /// Notes what happened to a session here.
    pub(super) fn note(&self, own: &Own, user: &UserName, turn: Turn, joins: bool) {
        if turn == Turn::Turned && self.notes() && !self.others().holds(user, None) {
            self.push(user, joins, &own.speaker.name);
        }
    }

    /// Takes a word, and notes what follows.
    pub(super) fn hear(&self, spoken: Spoken, now: Instant) -> Effect {
        let name = spoken.from.name.clone();
        let own = self.notes().then(|| self.own());
        let mut others = self.others_mut();
        let effect = others.hear(spoken, now);
        if let Some(own) = own {
            let came =
                effect.turned.came.iter().filter(|user| !effect.over.iter().any(|(_, peer)| peer.roll.has(user)));
            came.filter(|user| !own.roll.has(user) && !others.holds(user, Some(&name)))
                .for_each(|user| self.push(user, true, &name));
            self.note_gone(&own, &others, effect.turned.went.iter(), &name);
            self.note_over(&own, &others, &effect.over);
        }
        effect
    }

    /// Drops who is silent, and notes what follows.
    pub(super) fn drop_silent(&self, now: Instant) -> Vec<(InstanceName, Peer)> {
        let own = self.notes().then(|| self.own());
        let mut others = self.others_mut();
        let over = others.drop_silent(now);
        if let Some(own) = own {
            self.note_over(&own, &others, &over);
        }
        over
    }

    fn note_gone<'a>(
        &self,
        own: &Own,
        others: &Table,
        gone: impl Iterator<Item = &'a UserName>,
        instance: &InstanceName,
    ) {
        gone.filter(|user| !own.roll.has(user) && !others.holds(user, None))
            .for_each(|user| self.push(user, false, instance));
    }

    fn note_over(&self, own: &Own, others: &Table, over: &[(InstanceName, Peer)]) {
        for (name, peer) in over {
            if peer.knows_all && *name < own.speaker.name {
                self.news().recall(peer.told);
            }
            self.note_gone(own, others, peer.roll.users_behind(None).map(|(user, _)| user), name);
        }
    }

    /// Whether comings and goings of users are noted: somebody asks, and this instance knows what is new.
    fn notes(&self) -> bool {
        self.shared.users_asked.load(Ordering::Relaxed) && self.shared.knows_all.load(Ordering::Relaxed)
    }

    fn push(&self, user: &UserName, joins: bool, instance: &InstanceName) {
        let (user, instance) = (user.clone(), instance.clone());
        self.news().push(Event { user, joins, instance, time_ms: now_unix_ms(), seen: Instant::now() });
    }

    /// For how long the oldest event of users waits that this instance is to tell.
    pub(super) fn untold(&self, now: Instant) -> Option<Duration> {
        self.news().oldest().map(|seen| now.saturating_duration_since(seen))
    }

    fn news(&self) -> std::sync::MutexGuard<'_, super::news::News> {
        self.shared.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes by which patterns an instance asks.
    pub(super) fn set_asked(&self, name: InstanceName, patterns: Vec<Pattern>) {
        self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).set(name, patterns);
    }
}

/// What is told next to what was told before.
pub(super) struct Teller<'a> {
    voice: &'a Voice<'a>,
    watching: &'a Watching,
    changes: mpsc::Receiver<Change>,
    /// Taken out of them, but not by the broker.
    held: Option<Change>,
    under_way: Arc<Semaphore>,
    users: Topic,
    /// By which patterns this instance said that it asks.
    asked: Vec<Pattern>,
}

impl<'a> Teller<'a> {
    pub fn new(voice: &'a Voice<'a>, watching: &'a Watching) -> Teller<'a> {
        // Of a hub that is used twice nothing is told.
        let changes = watching.changes().unwrap_or_else(|| mpsc::channel(1).1);
        let users = Topic::parse(USERS).expect("a topic's name");
        let under_way = Arc::new(Semaphore::new(EVENTS_AT_ONCE));
        Teller { voice, watching, changes, held: None, under_way, users, asked: Vec::new() }
    }

    /// Says by what this instance asks, if that has changed or is to be said again.
    pub async fn ask(&mut self, again: bool) {
        let mut patterns = self.watching.patterns(PATTERNS_MAX + 1);
        if patterns.len() > PATTERNS_MAX {
            patterns = vec![Pattern::parse(EVERYTHING).expect("a pattern")];
        }
        let has_changed = patterns != self.asked;
        if has_changed || (again && !patterns.is_empty()) {
            let word = Word::Watch { patterns: patterns.iter().map(ToString::to_string).collect() };
            self.voice.say(Target::Peers, &word).await;
        }
        let presence = self.voice.presence;
        if has_changed {
            presence.set_asked(presence.name().clone(), patterns.clone());
            self.asked = patterns;
        }
        let (of_users, of_topics) = {
            let others = presence.others();
            let mut asked = presence.shared.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.retain(|name| name == presence.name() || others.has(name));
            (asked.is_about(&self.users), asked.may_be_about_topics())
        };
        presence.shared.users_asked.store(of_users, Ordering::Relaxed);
        self.watching.set_telling(of_topics);
    }

    /// Tells what is new, but not more than a round may, and says whether there was something of users.
    pub async fn tell(&mut self, now: Instant) -> bool {
        let until = now + TELLING_MAX;
        let has_told = self.tell_of_users(now, until).await;
        self.tell_of_topics(until).await;
        has_told
    }

    async fn tell_of_users(&self, now: Instant, until: Instant) -> bool {
        let presence = self.voice.presence;
        if !(presence.notes() && presence.others().is_first_of_those_who_know()) {
            presence.news().remember(now);
            return false;
        }
        let mut has_told = false;
        for _ in 0..EVENTS_AT_ONCE {
            let Some(event) = presence.news().next() else { break };
            let told = Told {
                event: Told::name(event.joins),
                user: event.user.as_str(),
                topic: None,
                instance: event.instance.as_str(),
                time: time(event.time_ms),
            };
            if !self.publish(self.users.clone(), &told, until).await {
                presence.news().put_back(event);
                break;
            }
            has_told = true;
        }
        has_told
    }

    async fn tell_of_topics(&mut self, until: Instant) {
        for _ in 0..EVENTS_AT_ONCE {
            let Some(change) = self.held.take().or_else(|| self.changes.try_recv().ok()) else { return };
            if !self.tell_of_topic(&change, until).await {
                self.held = Some(change);
                return;
            }
        }
    }

    /// Says whether that is done.
    async fn tell_of_topic(&self, change: &Change, until: Instant) -> bool {
        let presence = self.voice.presence;
        let Change { user, topic, joins } = change;
        // A name that is too long for that is not told of.
        let Ok(about) = Topic::parse(&format!("{TOPICS}{topic}")) else { return true };
        if !presence.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).is_about(&about) {
            return true;
        }
        let (event, instance) = (Told::name(*joins), presence.name().as_str());
        let topic = Some(topic.as_str());
        let told = Told { event, user: user.as_str(), topic, instance, time: time(now_unix_ms()) };
        self.publish(about, &told, until).await
    }

    /// Says whether the broker has taken it. Else nobody hears it.
    async fn publish(&self, topic: Topic, told: &Told<'_>, until: Instant) -> bool {
        let Ok(place) = self.under_way.clone().try_acquire_owned() else { return false };
        let message = Message {
            id: Some(self.voice.presence.shared.ids.next()),
            target: Target::Topic(topic),
            kind: PayloadKind::Text,
            published_ms: now_unix_ms(),
            terms: None,
            payload: serde_json::to_vec(told).expect("texts").into(),
        };
        let receipt = Receipt::to(Arc::new(UnderWay { _place: place }));
        timeout_at(until, self.voice.broker.publish(message, receipt)).await.is_ok()
    }
}

fn time(unix_ms: roll::SinceMs) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
    time.unwrap_or(Timestamp::MAX).to_string()
}

/// An event. Nobody waits to be told what becomes of it, but then there is place for another.
struct UnderWay {
    _place: OwnedSemaphorePermit,
}

impl Settle for UnderWay {
    fn settled(&self, _outcome: Result<(), NotAccepted>) {}
}
