//! Who is connected, and on which instance: every instance knows the sessions of the users of all.
//!
//! Owns the table of users and what instances tell each other about it: who comes and goes, in batches; every second how
//! they stand, by which a receiver sees that it missed something; and snapshots. Instances that are not heard any more are
//! dropped with their users. Knows no session, and nothing of what a user may. Nothing here waits but its own tasks;
//! locks are held while one word is taken, that of who is here
//! before that of who is elsewhere.

mod gathering;
mod news;
mod own;
mod peer;
mod roll;
mod table;
mod tasks;
mod telling;
#[cfg(test)]
mod tests;
mod word;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::mpsc;
use tokio::time::Instant;

use roll::Roll;
pub use roll::{Count, Turn};
pub use table::{GRACE, SILENCE_MAX, SUSPICION_MAX};

use gathering::Gatherings;
pub use gathering::{ANSWER_KEPT_FOR, GATHER_TIMEOUT, TooManyQuestions};
use news::{Asked, News};
use own::Own;
use table::Table;
use word::Speaker;

use crate::hub::Counted;
use crate::instance::InstanceName;
use crate::message::{Message, MessageIds};
use crate::metrics::PresenceMetrics;
use crate::user::UserName;
use crate::users::Whereabouts;

/// Words of other instances that wait to be taken. What comes beyond them is missed, and mended.
const WORDS_WAITING_MAX: usize = 1024;

/// Who is here and elsewhere. A cheap handle.
#[derive(Clone)]
pub struct Presence {
    shared: Arc<Shared>,
}

struct Shared {
    ids: MessageIds,
    metrics: PresenceMetrics,
    own: Mutex<Own>,
    others: RwLock<Table>,
    /// It has said good-bye.
    is_leaving: AtomicBool,
    words: mpsc::Sender<Message>,
    words_out: Mutex<Option<mpsc::Receiver<Message>>>,
    bound: OnceLock<Bound>,
    gatherings: Gatherings,
    news: Mutex<News>,
    /// Who asks for what of it.
    asked: Mutex<Asked>,
    users_asked: AtomicBool,
    /// Whether this instance knows who is on all others, and so what is new.
    knows_all: AtomicBool,
}

/// How many sessions a user may have in the cluster, and what ends one that is here.
struct Bound {
    sessions_max: usize,
    close: Box<dyn Fn(u64) + Send + Sync>,
}

/// A session of a user, anywhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stay {
    /// In milliseconds of Unix time.
    pub since_ms: u64,
    pub instance: InstanceName,
    /// Within its instance's run.
    pub number: u64,
}

/// A text that names no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no session of a user: it is named by when it began, its instance and its number")]
pub struct NotAStay;

impl Presence {
    /// Of the instance that gives these ids.
    pub fn new(ids: MessageIds, metrics: PresenceMetrics) -> Presence {
        let speaker = Speaker::of(ids.incarnation());
        let (words, words_out) = mpsc::channel(WORDS_WAITING_MAX);
        let shared = Shared {
            ids,
            metrics,
            own: Mutex::new(Own::new(speaker.clone())),
            others: RwLock::new(Table::new(speaker)),
            is_leaving: AtomicBool::new(false),
            words,
            words_out: Mutex::new(Some(words_out)),
            bound: OnceLock::new(),
            gatherings: Gatherings::default(),
            news: Mutex::default(),
            asked: Mutex::default(),
            users_asked: AtomicBool::new(false),
            knows_all: AtomicBool::new(false),
        };
        Presence { shared: Arc::new(shared) }
    }

    /// A session of the user is here from now on. Says whether it is the user's first one here.
    pub fn arrive(&self, user: &UserName, number: u64, since_ms: u64) -> Turn {
        let mut own = self.own();
        let turn = own.arrive(user, number, since_ms);
        self.note(&own, user, turn, true);
        turn
    }

    /// It is gone. Says whether it was the user's last one here.
    pub fn leave(&self, user: &UserName, number: u64) -> Turn {
        let mut own = self.own();
        let turn = own.leave(user, number);
        self.note(&own, user, turn, false);
        turn
    }

    /// From now on no user may have more sessions in the cluster. Where two instances let somebody in at once, the youngest
    /// beyond it are closed by the instance that holds them: `close` is told their numbers. Said once.
    pub fn bound_sessions(&self, sessions_max: usize, close: impl Fn(u64) + Send + Sync + 'static) {
        let _ = self.shared.bound.set(Bound { sessions_max, close: Box::new(close) });
    }

    /// Whether the user may have one more, as far as it is known here.
    pub fn has_room_for(&self, user: &UserName) -> bool {
        self.shared.bound.get().is_none_or(|bound| self.sessions_of(user).len() < bound.sessions_max)
    }

    /// Closes those of the user's sessions here that are beyond the bound. All instances agree which those are.
    pub fn close_excess(&self, user: &UserName) {
        let Some(bound) = self.shared.bound.get() else { return };
        let name = self.shared.ids.incarnation().name();
        let excess = self.sessions_of(user).into_iter().skip(bound.sessions_max);
        excess.filter(|stay| stay.instance == *name).for_each(|stay| (bound.close)(stay.number));
    }

    /// Takes what another instance says, from whoever delivers it. Never waits.
    pub fn take(&self, message: &Message) {
        // Full: what is missed now shows at the next beat.
        let _ = self.shared.words.try_send(message.clone());
    }

    /// The other instances on which the user has sessions.
    pub fn holders(&self, user: &UserName) -> Vec<InstanceName> {
        let others = self.others();
        others.peers().filter(|(_, peer)| peer.roll.has(user)).map(|(name, _)| name.clone()).collect()
    }

    /// The user's sessions everywhere, the oldest first; of those that began at once, by instance and number.
    pub fn sessions_of(&self, user: &UserName) -> Vec<Stay> {
        let mut stays = Vec::new();
        {
            let own = self.own();
            let name = &own.speaker.name;
            stays.extend(own.roll.of(user).map(|(key, since_ms)| stay(name, key.1, since_ms)));
        }
        for (name, peer) in self.others().peers() {
            stays.extend(peer.roll.of(user).map(|(key, since_ms)| stay(name, key.1, since_ms)));
        }
        stays.sort_unstable();
        stays
    }

    /// How many are on each instance, this one first.
    pub fn counts(&self) -> Vec<(InstanceName, Count)> {
        let own = {
            let own = self.own();
            (own.speaker.name.clone(), own.roll.count())
        };
        let others = self.others();
        std::iter::once(own).chain(others.peers().map(|(name, peer)| (name.clone(), peer.roll.count()))).collect()
    }

    /// The users here behind a name, in the order of names, each with how many sessions it has here; and whether there are
    /// more.
    pub fn users_here(&self, after: Option<&UserName>, limit: usize) -> (Vec<(UserName, usize)>, bool) {
        let own = self.own();
        let mut behind = own.roll.users_behind(after);
        let page = behind.by_ref().take(limit).map(|(user, sessions)| (user.clone(), sessions)).collect();
        (page, behind.next().is_some())
    }

    /// The same of all instances, each user with the sessions of all.
    pub fn users_everywhere(&self, after: Option<&UserName>, limit: usize) -> (Vec<(UserName, usize)>, bool) {
        let mut users = BTreeMap::<UserName, usize>::new();
        // Who is among the first of all is among the first of each instance that it is on.
        let mut add = |roll: &Roll| {
            for (user, sessions) in roll.users_behind(after).take(limit + 1) {
                *users.entry(user.clone()).or_default() += sessions;
            }
        };
        add(&self.own().roll);
        self.others().peers().for_each(|(_, peer)| add(&peer.roll));
        let has_more = users.len() > limit;
        (users.into_iter().take(limit).collect(), has_more)
    }

    /// This instance's name.
    pub fn name(&self) -> &InstanceName {
        self.shared.ids.incarnation().name()
    }

    /// Whether all that the known instances said is known here.
    pub fn is_whole(&self) -> bool {
        self.others().peers().all(|(_, peer)| peer.is_whole())
    }

    /// A message to it came back: it is dropped unless it is heard soon.
    pub fn noticed_dead(&self, instance: &InstanceName) {
        self.others_mut().suspect(instance, Instant::now());
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.shared.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn others(&self) -> RwLockReadGuard<'_, Table> {
        self.shared.others.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn others_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.shared.others.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What all instances answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gathered {
    pub answers: BTreeMap<InstanceName, Counted>,
    /// Who did not answer in time.
    pub silent: BTreeSet<InstanceName>,
}

/// As a list goes on behind it: `1785081964113,10.0.0.5_8080,7`.
impl fmt::Display for Stay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{}", self.since_ms, self.instance, self.number)
    }
}

impl FromStr for Stay {
    type Err = NotAStay;

    fn from_str(text: &str) -> Result<Stay, NotAStay> {
        let mut parts = text.split(',');
        let (Some(since_ms), Some(instance), Some(number), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NotAStay);
        };
        Ok(Stay {
            since_ms: since_ms.parse().map_err(|_| NotAStay)?,
            instance: InstanceName::parse(instance).map_err(|_| NotAStay)?,
            number: number.parse().map_err(|_| NotAStay)?,
        })
    }
}

fn stay(instance: &InstanceName, number: u64, since_ms: u64) -> Stay {
    Stay { since_ms, instance: instance.clone(), number }
}

impl Whereabouts for Presence {
    fn others(&self, user: &UserName) -> Vec<InstanceName> {
        self.holders(user)
    }

    fn is_gone(&self, instance: &InstanceName) {
        self.noticed_dead(instance);
    }
}
