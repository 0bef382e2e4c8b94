//! The tasks: one says what is new here, one takes what others say, one answers their questions. The only part that speaks to the broker.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::roll::Roll;
use super::table::Effect;
use super::telling::Teller;
use super::word::{Spoken, Word};
use super::{GATHER_TIMEOUT, Gathered, Presence, TooManyQuestions};
use crate::broker::{Broker, Link, NotAccepted, Receipt, Settle};
use crate::hub::{Counted, Hub, Question};
use crate::instance::InstanceName;
use crate::message::{Message, PayloadKind, Target, now_unix_ms};
use crate::watching::Watching;

/// How long what comes and goes waits to be told together.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(50);

/// How often an instance says how it stands.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// Two beats: within that every instance has said that it is there.
const SETTLES_WITHIN: Duration = BEAT_EVERY.saturating_mul(2);

/// Pieces of snapshots between two announcements: 100,000 sessions in less than a second.
const PIECES_AT_ONCE: usize = 32;

/// Questions of other instances that wait for an answer.
const QUESTIONS_WAITING_MAX: usize = 64;

/// Who asks, by which ticket, and what.
type Asking = (InstanceName, u64, Question);

/// How an instance says something.
pub(super) struct Voice<'a> {
    pub broker: &'a dyn Broker,
    pub presence: &'a Presence,
}

/// What was last said when.
#[derive(Default)]
struct Rhythm {
    attachments: u64,
    /// When it first said how it stands, and when it last did.
    began: Option<Instant>,
    beaten: Option<Instant>,
}

impl Rhythm {
    fn is_beat_due(&self, now: Instant) -> bool {
        self.beaten.is_none_or(|beaten| now - beaten >= BEAT_EVERY)
    }
}

impl Presence {
    /// Tells the others, and hears them, for as long as it is polled. For one caller. `hub` knows who subscribes to what.
    pub async fn run(self, broker: Arc<dyn Broker>, hub: Hub) {
        let words = self.shared.words_out.lock().unwrap_or_else(PoisonError::into_inner).take();
        let words = words.expect("presence is run once");
        let voice = Voice { broker: &*broker, presence: &self };
        let (questions, questions_out) = mpsc::channel(QUESTIONS_WAITING_MAX);
        tokio::join!(
            self.hear_all(words, questions),
            voice.speak(broker.link(), hub.watching()),
            voice.answer_all(questions_out, &hub)
        );
    }

    /// Asks all instances, this one too, and waits for [`GATHER_TIMEOUT`] at most. Whoever asks the same within
    /// [`ANSWER_KEPT_FOR`](super::ANSWER_KEPT_FOR) gets the same answer.
    pub async fn gather(
        &self,
        broker: &Arc<dyn Broker>,
        hub: &Hub,
        question: Question,
    ) -> Result<Arc<Gathered>, TooManyQuestions> {
        let mut awaited = self.shared.gatherings.ask(&question, Instant::now(), |answer| {
            let (presence, broker, hub, question) = (self.clone(), broker.clone(), hub.clone(), question.clone());
            // In a task of its own: others may wait for it when whoever asked first does no longer.
            tokio::spawn(async move {
                let gathered = presence.gather_anew(&*broker, &hub, question).await;
                answer.send_replace(Some(Arc::new(gathered)));
            });
        })?;
        let gathered = awaited.wait_for(Option::is_some).await;
        // The task ends early with its runtime alone, and so does whoever waits.
        gathered.ok().and_then(|gathered| gathered.clone()).ok_or(TooManyQuestions)
    }

    async fn gather_anew(&self, broker: &dyn Broker, hub: &Hub, question: Question) -> Gathered {
        let expected = self.others().peers().map(|(name, _)| name.clone()).collect();
        let asked = self.shared.gatherings.open(expected);
        let word = Word::Count { ticket: asked.ticket, question: question.clone() };
        let question = Arc::new(question);
        let own = async {
            // Whoever does not hear this has not answered.
            let voice = Voice { broker, presence: self };
            let _ = tokio::time::timeout(GATHER_TIMEOUT, voice.say(Target::Peers, &word)).await;
            tokio::time::timeout(GATHER_TIMEOUT, hub.count(&question)).await.ok()
        };
        let (own, (mut answers, mut silent)) = tokio::join!(own, asked.gather());
        let name = self.shared.ids.incarnation().name().clone();
        match own {
            Some(counted) => _ = answers.insert(name, counted),
            None => _ = silent.insert(name),
        }
        Gathered { answers, silent }
    }

    /// This instance leaves: its users are gone at once. Nothing is said after this.
    pub async fn say_goodbye(&self, broker: &dyn Broker) {
        self.shared.is_leaving.store(true, Ordering::Release);
        // Who cannot be heard waits for nothing; and whose name is another's must not speak in it.
        if !broker.link().borrow().is_up() {
            return;
        }
        Voice { broker, presence: self }.say(Target::Peers, &Word::Goodbye).await;
    }

    async fn hear_all(&self, mut words: mpsc::Receiver<Message>, questions: mpsc::Sender<Asking>) {
        while let Some(message) = words.recv().await {
            let now = Instant::now();
            if message.id.as_ref().is_some_and(|id| id.given_at(self.shared.ids.incarnation()).is_some()) {
                self.others_mut().hear_own(now);
                continue;
            }
            match Spoken::parse(&message.payload) {
                Ok(spoken) => {
                    let effect = self.hear(spoken, now);
                    self.follow(effect, &questions);
                }
                Err(error) => {
                    self.shared.metrics.misunderstood();
                    log::debug!("a message to instances is not understood: {error}");
                }
            }
        }
    }

    fn follow(&self, effect: Effect, questions: &mpsc::Sender<Asking>) {
        if let Some(question) = effect.question {
            // Whose question finds no room is told that nobody answered.
            let _ = questions.try_send(question);
        }
        if let Some((name, ticket, counted)) = effect.answer {
            self.shared.gatherings.answer(name, ticket, counted);
        }
        if let Some((name, patterns)) = effect.watches {
            self.set_asked(name, patterns);
        }
        if let Some(to) = effect.asks {
            self.own().send_snapshot(to);
        }
        for user in &effect.turned.grown {
            if self.own().roll.has(user) {
                self.close_excess(user);
            }
        }
        effect.over.iter().for_each(|(name, peer)| tell_over(name, &peer.roll));
    }
}

fn tell_over(name: &InstanceName, roll: &Roll) {
    log::info!("{name} is gone, and with it {} sessions of {} users", roll.count().sessions, roll.count().users);
}

impl Voice<'_> {
    async fn speak(&self, mut link: watch::Receiver<Link>, watching: &Watching) {
        let mut announcements = interval(ANNOUNCE_EVERY);
        announcements.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rhythm = Rhythm::default();
        let mut teller = Teller::new(self, watching);
        loop {
            announcements.tick().await;
            let now = Instant::now();
            let (is_up, attachments) = {
                let link = link.borrow_and_update();
                (link.is_up(), link.attachments)
            };
            let was_away = !is_up || attachments != rhythm.attachments;
            rhythm.attachments = attachments;
            // Before it first speaks it knows nobody.
            if was_away && rhythm.beaten.is_some() {
                self.presence.others_mut().pardon(now);
            }
            if is_up && !self.presence.shared.is_leaving.load(Ordering::Acquire) {
                self.speak_once(&mut rhythm, &mut teller, now).await;
            }
        }
    }

    async fn speak_once(&self, rhythm: &mut Rhythm, teller: &mut Teller<'_>, now: Instant) {
        let presence = self.presence;
        // What is told is told before anything else is said: who was last heard then has told all that was seen before.
        let has_told = teller.tell(now).await;
        let changes = presence.own().changes();
        self.say_all(changes).await;
        for _ in 0..PIECES_AT_ONCE {
            // The broker may take its time for each.
            if rhythm.is_beat_due(Instant::now()) {
                break;
            }
            let pieces = presence.own().next_piece();
            if pieces.is_empty() {
                break;
            }
            self.say_all(pieces).await;
        }
        let beats = rhythm.is_beat_due(Instant::now());
        teller.ask(beats).await;
        if beats || has_told {
            self.beat(rhythm, now).await;
        }
        for (name, peer) in presence.drop_silent(now) {
            presence.shared.metrics.dropped();
            tell_over(&name, &peer.roll);
        }
        let asked = presence.others_mut().due_to_be_asked(now);
        for name in asked {
            presence.shared.metrics.asked();
            self.say(Target::Peer(name), &Word::Ask).await;
        }
    }

    async fn beat(&self, rhythm: &mut Rhythm, now: Instant) {
        let presence = self.presence;
        let began = *rhythm.began.get_or_insert(now);
        // Whoever is there has said so by then.
        let knows_all = now - began >= SETTLES_WITHIN && presence.others().peers().all(|(_, peer)| peer.was_whole);
        presence.shared.knows_all.store(knows_all, Ordering::Relaxed);
        // Others may have seen it by that much earlier than this instance did.
        let untold = presence.untold(Instant::now()).map_or(Duration::ZERO, |untold| untold + BEAT_EVERY);
        let untold_ms = u64::try_from(untold.as_millis()).unwrap_or(u64::MAX);
        let (changes, standing) = presence.own().standing(knows_all, untold_ms);
        self.say_all(changes).await;
        let sessions = presence.counts().iter().map(|(_, count)| count.sessions).sum();
        presence.shared.metrics.stand(standing.count.users, sessions, presence.others().peers().count());
        let word = if rhythm.beaten.is_none() { Word::Hello(standing) } else { Word::Beat(standing) };
        self.say(Target::Peers, &word).await;
        rhythm.beaten = Some(now);
    }

    async fn answer_all(&self, mut questions: mpsc::Receiver<Asking>, hub: &Hub) {
        while let Some((to, ticket, question)) = questions.recv().await {
            let Counted { total, names } = hub.count(&Arc::new(question)).await;
            let names = names.into_iter().collect();
            self.say(Target::Peer(to), &Word::Counted { ticket, total, names }).await;
        }
    }

    async fn say_all(&self, words: Vec<(Target, Word)>) {
        for (target, word) in words {
            self.say(target, &word).await;
        }
    }

    pub async fn say(&self, target: Target, word: &Word) {
        let from = self.presence.own().speaker.clone();
        let receipt = Receipt::to(Arc::new(Said { presence: self.presence.clone(), to: target.clone() }));
        let message = Message {
            id: Some(self.presence.shared.ids.next()),
            target,
            kind: PayloadKind::Text,
            published_ms: now_unix_ms(),
            terms: None,
            payload: word.encode(&from).into(),
        };
        self.broker.publish(message, receipt).await;
    }
}

/// Something that was said: what is lost is mended, but who is dead is noticed.
struct Said {
    presence: Presence,
    to: Target,
}

impl Settle for Said {
    fn settled(&self, outcome: Result<(), NotAccepted>) {
        if let (Err(NotAccepted::NoInstance), Target::Peer(name)) = (outcome, &self.to) {
            self.presence.noticed_dead(name);
        }
    }
}
