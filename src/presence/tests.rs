//! Instances that tell each other who is there, over a wire that loses, doubles and overtakes.

mod floods;
mod questions;
mod running;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::own::Own;
use super::roll::{Count, Roll};
use super::table::{GRACE, SILENCE_MAX, SUSPICION_MAX, Table};
use super::word::{Speaker, Spoken, Word};
use crate::instance::InstanceName;
use crate::message::Target;
use crate::user::UserName;

/// Rounds of beats, each with time to ask again, within which all agree: one shows what is missing, the next brings it.
const ROUNDS_MAX: usize = 3;

fn user(name: &str) -> UserName {
    UserName::parse(name).unwrap()
}

fn speaker(instance: usize, began: u64) -> Speaker {
    Speaker { name: InstanceName::parse(&format!("i_{instance}")).unwrap(), began }
}

struct Instance {
    own: Own,
    table: Table,
    /// What is on its way here.
    coming: Vec<Spoken>,
    sessions: BTreeSet<(UserName, u64)>,
    last_number: u64,
}

impl Instance {
    fn start(instance: usize, began: u64) -> Instance {
        let speaker = speaker(instance, began);
        let (own, table) = (Own::new(speaker.clone()), Table::new(speaker));
        Instance { own, table, coming: Vec::new(), sessions: BTreeSet::new(), last_number: 0 }
    }
}

struct Cluster {
    instances: Vec<Instance>,
    now: Instant,
    began: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Arrive(usize, String),
    Leave(usize, prop::sample::Index),
    Announce(usize),
    Beat(usize),
    Ask(usize),
    Piece(usize),
    /// The word at that place comes in: the first, or one that overtakes.
    Deliver(usize, Option<prop::sample::Index>),
    Double(usize, prop::sample::Index),
    Lose(usize, prop::sample::Index),
    Restart(usize),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = 0..3_usize;
    let at = any::<prop::sample::Index>;
    let step = prop_oneof![
        8 => (one.clone(), "[a-e]").prop_map(|(i, name)| Step::Arrive(i, name)),
        5 => (one.clone(), at()).prop_map(|(i, which)| Step::Leave(i, which)),
        6 => one.clone().prop_map(Step::Announce),
        3 => one.clone().prop_map(Step::Beat),
        3 => one.clone().prop_map(Step::Ask),
        4 => one.clone().prop_map(Step::Piece),
        12 => one.clone().prop_map(|i| Step::Deliver(i, None)),
        2 => (one.clone(), at()).prop_map(|(i, which)| Step::Deliver(i, Some(which))),
        1 => (one.clone(), at()).prop_map(|(i, which)| Step::Double(i, which)),
        3 => (one.clone(), at()).prop_map(|(i, which)| Step::Lose(i, which)),
        1 => one.prop_map(Step::Restart),
        3 => (1..3000_u64).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 0..150)
}

impl Cluster {
    fn of(count: usize) -> Cluster {
        let instances = (0..count).map(|instance| Instance::start(instance, 1)).collect();
        Cluster { instances, now: Instant::now(), began: 1 }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Arrive(i, name) => self.arrive(i, &user(&name)),
            Step::Leave(i, which) => {
                let instance = &mut self.instances[i];
                if !instance.sessions.is_empty() {
                    let key = instance.sessions.iter().nth(which.index(instance.sessions.len())).unwrap().clone();
                    instance.sessions.remove(&key);
                    instance.own.leave(&key.0, key.1);
                }
            }
            Step::Announce(i) => {
                let words = self.instances[i].own.changes();
                self.send(i, words);
            }
            Step::Beat(i) => self.beat(i),
            Step::Ask(i) => self.ask(i),
            Step::Piece(i) => {
                let words = self.instances[i].own.next_piece();
                self.send(i, words);
            }
            Step::Deliver(i, which) => {
                let coming = self.instances[i].coming.len();
                if coming > 0 {
                    let at = which.map_or(0, |which| which.index(coming));
                    let spoken = self.instances[i].coming.remove(at);
                    self.hear(i, spoken);
                }
            }
            Step::Double(i, which) => {
                let coming = &mut self.instances[i].coming;
                if !coming.is_empty() {
                    coming.push(coming[which.index(coming.len())].clone());
                }
            }
            Step::Lose(i, which) => {
                let coming = &mut self.instances[i].coming;
                if !coming.is_empty() {
                    coming.remove(which.index(coming.len()));
                }
            }
            Step::Restart(i) => {
                self.began += 1;
                self.instances[i] = Instance::start(i, self.began);
                self.hello(i);
            }
            Step::Pass(millis) => self.now += Duration::from_millis(millis),
        }
    }

    fn arrive(&mut self, i: usize, user: &UserName) {
        let instance = &mut self.instances[i];
        instance.last_number += 1;
        instance.sessions.insert((user.clone(), instance.last_number));
        instance.own.arrive(user, instance.last_number, instance.last_number * 10);
    }

    fn beat(&mut self, i: usize) {
        let (mut words, standing) = self.instances[i].own.standing(true, 0);
        words.push((Target::Peers, Word::Beat(standing)));
        self.send(i, words);
    }

    fn hello(&mut self, i: usize) {
        let (mut words, standing) = self.instances[i].own.standing(true, 0);
        words.push((Target::Peers, Word::Hello(standing)));
        self.send(i, words);
    }

    fn ask(&mut self, i: usize) {
        let asked = self.instances[i].table.due_to_be_asked(self.now);
        let words = asked.into_iter().map(|name| (Target::Peer(name), Word::Ask)).collect();
        self.send(i, words);
    }

    fn send(&mut self, from: usize, words: Vec<(Target, Word)>) {
        let speaker = self.instances[from].own.speaker.clone();
        for (target, word) in words {
            let text = word.encode(&speaker);
            for to in self.instances.iter_mut() {
                let is_meant = match &target {
                    Target::Peer(name) => *name == to.own.speaker.name,
                    _ => true,
                };
                if is_meant {
                    to.coming.push(Spoken::parse(&text).unwrap());
                }
            }
        }
    }

    fn hear(&mut self, i: usize, spoken: Spoken) {
        let instance = &mut self.instances[i];
        if spoken.from == instance.own.speaker {
            return instance.table.hear_own(self.now);
        }
        let effect = instance.table.hear(spoken, self.now);
        if let Some(to) = effect.asks {
            instance.own.send_snapshot(to);
        }
    }

    fn deliver_all(&mut self) {
        for i in 0..self.instances.len() {
            for spoken in std::mem::take(&mut self.instances[i].coming) {
                self.hear(i, spoken);
            }
        }
    }

    /// Everybody beats, asks and answers, and nothing is lost.
    fn round(&mut self) {
        let all = 0..self.instances.len();
        all.clone().for_each(|i| self.beat(i));
        self.deliver_all();
        self.now += Duration::from_secs(2);
        all.clone().for_each(|i| self.ask(i));
        self.deliver_all();
        for i in all {
            loop {
                let words = self.instances[i].own.next_piece();
                if words.is_empty() {
                    break;
                }
                self.send(i, words);
            }
        }
        self.deliver_all();
    }

    fn agrees(&self) -> bool {
        self.instances.iter().all(|knows| {
            let others = self.instances.iter().filter(|other| other.own.speaker.name != knows.own.speaker.name);
            others.clone().count() == knows.table.peers().count()
                && others.into_iter().all(|other| {
                    knows.table.peers().any(|(name, peer)| {
                        *name == other.own.speaker.name
                            && peer.is_whole()
                            && all_of(&peer.roll) == all_of(&other.own.roll)
                    })
                })
        })
    }
}

fn all_of(roll: &Roll) -> BTreeMap<(UserName, u64), u64> {
    roll.behind(None).map(|(key, since_ms)| (key.clone(), since_ms)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happened_on_the_way_all_agree(steps in steps()) {
        let mut cluster = Cluster::of(3);
        for step in steps {
            cluster.take(step);
        }
        cluster.deliver_all();
        let rounds = (1..=ROUNDS_MAX).find(|_| {
            cluster.round();
            cluster.agrees()
        });
        prop_assert!(rounds.is_some());
        for instance in &cluster.instances {
            let own: BTreeSet<_> = instance.own.roll.behind(None).map(|(key, _)| key.clone()).collect();
            prop_assert_eq!(&own, &instance.sessions);
        }
    }
}

#[test]
fn a_snapshot_of_many_comes_in_pieces_while_others_come_and_go() {
    let mut cluster = Cluster::of(2);
    for number in 0..2000 {
        cluster.arrive(0, &user(&format!("user-{number}")));
    }
    // Nobody heard of them.
    drop(cluster.instances[0].own.changes());
    cluster.beat(0);
    cluster.deliver_all();
    cluster.ask(1);
    cluster.deliver_all();
    let mut pieces = 0;
    loop {
        let words = cluster.instances[0].own.next_piece();
        if words.is_empty() {
            break;
        }
        pieces += 1;
        cluster.send(0, words);
        cluster.deliver_all();
        // One in what was sent, one in what was not.
        cluster.arrive(0, &user("a"));
        cluster.arrive(0, &user("z"));
        let first = cluster.instances[0].sessions.first().unwrap().clone();
        cluster.instances[0].sessions.remove(&first);
        cluster.instances[0].own.leave(&first.0, first.1);
    }
    assert!(pieces > 4, "{pieces}");
    cluster.beat(0);
    cluster.beat(1);
    cluster.deliver_all();
    assert!(cluster.agrees());
}

#[test]
fn who_is_silent_while_we_hear_ourselves_is_dropped() {
    let mut cluster = Cluster::of(3);
    cluster.arrive(1, &user("bob"));
    cluster.round();
    let gone = |cluster: &mut Cluster, passed: Duration| {
        cluster.now += passed;
        cluster.beat(0);
        cluster.beat(2);
        cluster.deliver_all();
        let now = cluster.now;
        cluster.instances[0].table.drop_silent(now)
    };
    // It was last heard before the two seconds of the round.
    let heard = cluster.now - Duration::from_secs(2);
    let mut dropped = gone(&mut cluster, Duration::ZERO);
    while cluster.now < heard + SILENCE_MAX {
        assert!(dropped.is_empty());
        dropped = gone(&mut cluster, Duration::from_secs(1));
    }
    assert_eq!(dropped.len(), 1);
    assert_eq!(dropped[0].0, speaker(1, 1).name);
    assert_eq!(dropped[0].1.roll.count(), Count { users: 1, sessions: 1 });
}

#[test]
fn after_our_own_absence_nobody_is_dropped_for_the_grace() {
    let mut cluster = Cluster::of(2);
    cluster.round();
    // Nobody was heard for a minute, then we hear ourselves alone.
    cluster.now += Duration::from_secs(60);
    for _ in 0..GRACE.as_secs() {
        cluster.beat(0);
        cluster.deliver_all();
        let now = cluster.now;
        assert!(cluster.instances[0].table.drop_silent(now).is_empty());
        cluster.now += Duration::from_secs(1);
    }
    cluster.beat(0);
    cluster.deliver_all();
    let now = cluster.now;
    assert_eq!(cluster.instances[0].table.drop_silent(now).len(), 1);
}

#[test]
fn who_could_not_be_reached_is_dropped_soon_unless_it_is_heard() {
    let mut cluster = Cluster::of(2);
    cluster.round();
    let name = speaker(1, 1).name;
    for is_heard in [true, false] {
        let now = cluster.now;
        cluster.instances[0].table.suspect(&name, now);
        if is_heard {
            cluster.beat(1);
        }
        cluster.beat(0);
        cluster.deliver_all();
        cluster.now += SUSPICION_MAX;
        cluster.beat(0);
        cluster.deliver_all();
        let now = cluster.now;
        let dropped = cluster.instances[0].table.drop_silent(now);
        assert_eq!(dropped.is_empty(), is_heard);
    }
}

#[test]
fn a_new_run_replaces_the_old_one_and_who_said_goodbye_is_not_heard_again() {
    let mut table = Table::new(speaker(0, 1));
    let now = Instant::now();
    let here = |began: u64, name: &str| Spoken {
        from: speaker(1, began),
        word: Word::Changes { sequence: 1, here: vec![(user(name), 1, 1)], gone: vec![] },
    };
    let has = |table: &Table, name: &str| table.peers().any(|(_, peer)| peer.roll.has(&user(name)));
    table.hear(here(2, "alice"), now);
    assert!(has(&table, "alice"));
    table.hear(here(1, "bob"), now);
    assert!(!has(&table, "bob"), "an older run");
    let effect = table.hear(here(3, "carol"), now);
    assert_eq!(effect.over.len(), 1);
    assert!(!has(&table, "alice") && has(&table, "carol"));
    let effect = table.hear(Spoken { from: speaker(1, 3), word: Word::Goodbye }, now);
    assert_eq!(effect.over.len(), 1);
    table.hear(here(3, "dave"), now);
    assert_eq!(table.peers().count(), 0);
    table.hear(here(4, "erin"), now);
    assert!(has(&table, "erin"));
}
