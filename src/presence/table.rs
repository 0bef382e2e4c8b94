//! Who is on the other instances. No I/O.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::peer::{Peer, Turned};
use super::telling::PATTERNS_MAX;
use super::word::{Speaker, Spoken, Word};
use crate::hub::{Counted, Question};
use crate::instance::InstanceName;
use crate::topic::Pattern;
use crate::user::UserName;

/// Instances of one cluster; whatever else says that it is one is not heard.
pub const INSTANCES_MAX: usize = 1000;

/// Who is not heard for so long, while this instance hears itself, is gone.
pub const SILENCE_MAX: Duration = Duration::from_secs(5);

/// The same for who could not be reached.
pub const SUSPICION_MAX: Duration = Duration::from_secs(2);

/// When this instance did not hear itself for so long, or its link was away, nobody is taken to be gone for the grace.
const OWN_SILENCE_MAX: Duration = Duration::from_millis(2500);

/// Time for everybody else to find the broker again.
pub const GRACE: Duration = Duration::from_secs(15);

/// Those who said good-bye whose late words are not heard.
const DEPARTED_MAX: usize = 100;

/// The other instances, by name.
pub struct Table {
    own: Speaker,
    peers: BTreeMap<InstanceName, Peer>,
    departed: VecDeque<Speaker>,
    own_heard: Option<Instant>,
    nobody_goes_before: Option<Instant>,
}

/// What follows from what was heard.
#[derive(Default)]
pub struct Effect {
    pub turned: Turned,
    /// By what an instance asks to hear of comings and goings.
    pub watches: Option<(InstanceName, Vec<Pattern>)>,
    /// An instance that wants a snapshot.
    pub asks: Option<InstanceName>,
    /// Its question, with the ticket for the answer.
    pub question: Option<(InstanceName, u64, Question)>,
    /// Its answer, by the ticket.
    pub answer: Option<(InstanceName, u64, Counted)>,
    /// What was known of a run that is over.
    pub over: Vec<(InstanceName, Peer)>,
}

impl Table {
    pub fn new(own: Speaker) -> Table {
        let (peers, departed) = (BTreeMap::new(), VecDeque::new());
        Table { own, peers, departed, own_heard: None, nobody_goes_before: None }
    }

    pub fn peers(&self) -> impl Iterator<Item = (&InstanceName, &Peer)> {
        self.peers.iter()
    }

    pub fn has(&self, name: &InstanceName) -> bool {
        self.peers.contains_key(name)
    }

    /// Whether the user has sessions on another instance, but for one.
    pub fn holds(&self, user: &UserName, except: Option<&InstanceName>) -> bool {
        self.peers.iter().any(|(name, peer)| Some(name) != except && peer.roll.has(user))
    }

    /// Whether no instance before this one, by name, knows who is on all others.
    pub fn is_first_of_those_who_know(&self) -> bool {
        self.peers.range(..self.own.name.clone()).all(|(_, peer)| !peer.knows_all)
    }

    /// This instance has heard itself: so it hears.
    pub fn hear_own(&mut self, now: Instant) {
        let before = self.own_heard.replace(now);
        if before.is_some_and(|before| now - before > OWN_SILENCE_MAX) {
            self.pardon(now);
        }
    }

    /// The link was away: who is not heard may be as well as before.
    pub fn pardon(&mut self, now: Instant) {
        self.nobody_goes_before = Some(now + GRACE);
        self.peers.values_mut().for_each(|peer| peer.suspected = None);
    }

    /// Takes what an instance says.
    pub fn hear(&mut self, spoken: Spoken, now: Instant) -> Effect {
        let Spoken { from, word } = spoken;
        let mut effect = Effect::default();
        if from.name == self.own.name || self.departed.contains(&from) {
            return effect;
        }
        let later = match self.peers.get(&from.name).map(|peer| peer.speaker.began) {
            Some(began) if from.began < began => return effect,
            Some(began) => from.began > began,
            None if self.peers.len() >= INSTANCES_MAX => return effect,
            None => false,
        };
        if later || word == Word::Goodbye {
            effect.over.extend(self.drop_peer(&from.name));
        }
        if word == Word::Goodbye {
            self.depart(from);
            return effect;
        }
        if matches!(word, Word::Hello(_) | Word::Ask) {
            effect.asks = Some(from.name.clone());
        }
        let name = from.name.clone();
        match &word {
            Word::Watch { patterns } => {
                let patterns = patterns.iter().take(PATTERNS_MAX).filter_map(|text| Pattern::parse(text).ok());
                effect.watches = Some((name.clone(), patterns.collect()));
            }
            Word::Count { ticket, question } if question.is_valid() => {
                effect.question = Some((name.clone(), *ticket, question.clone()));
            }
            Word::Counted { ticket, total, names } => {
                let counted = Counted { total: *total, names: names.iter().cloned().collect() };
                effect.answer = Some((name.clone(), *ticket, counted));
            }
            _ => {}
        }
        let peer = self.peers.entry(name).or_insert_with(|| Peer::new(from, now));
        peer.hear(word, now, &mut effect.turned);
        effect
    }

    fn depart(&mut self, speaker: Speaker) {
        self.departed.push_back(speaker);
        if self.departed.len() > DEPARTED_MAX {
            self.departed.pop_front();
        }
    }

    fn drop_peer(&mut self, name: &InstanceName) -> Option<(InstanceName, Peer)> {
        self.peers.remove(name).map(|peer| (name.clone(), peer))
    }

    /// A message to it came back: it is gone, unless it is heard in time.
    pub fn suspect(&mut self, name: &InstanceName, now: Instant) {
        if let Some(peer) = self.peers.get_mut(name) {
            peer.suspected.get_or_insert(now);
        }
    }

    /// Drops those who are gone.
    pub fn drop_silent(&mut self, now: Instant) -> Vec<(InstanceName, Peer)> {
        let (Some(own_heard), false) = (self.own_heard, self.nobody_goes_before.is_some_and(|until| now < until))
        else {
            return Vec::new();
        };
        let is_gone = |peer: &Peer| {
            let is_silent = own_heard.saturating_duration_since(peer.heard) >= SILENCE_MAX;
            // It was reachable for nobody, and heard by nobody who could.
            let is_dead =
                peer.suspected.is_some_and(|since| own_heard.saturating_duration_since(since) >= SUSPICION_MAX);
            is_silent || is_dead
        };
        let gone: Vec<_> = self.peers.iter().filter(|(_, peer)| is_gone(peer)).map(|(name, _)| name.clone()).collect();
        gone.iter().filter_map(|name| self.drop_peer(name)).collect()
    }

    /// Those who are to be asked for a snapshot now.
    pub fn due_to_be_asked(&mut self, now: Instant) -> Vec<InstanceName> {
        let asked = self.peers.iter_mut().filter_map(|(name, peer)| peer.is_to_be_asked(now).then(|| name.clone()));
        asked.collect()
    }
}
