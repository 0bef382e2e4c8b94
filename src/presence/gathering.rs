//! Asking all instances something, and waiting for their answers for a moment. Who asks what is being asked, or was asked
//! within the last second, shares the answer: so asking without end costs the workers one count a second.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::Gathered;
use crate::hub::{Counted, Question};
use crate::instance::InstanceName;

/// How long answers are waited for.
pub const GATHER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long what was asked is not asked again.
pub const ANSWER_KEPT_FOR: Duration = Duration::from_secs(1);

/// Different questions under way at a time.
pub(super) const GATHERINGS_MAX: usize = 16;

/// Questions under way, and answers kept. Past them the oldest answer goes.
const ANSWERS_MAX: usize = 64;

/// There are as many questions under way as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many questions are under way")]
pub struct TooManyQuestions;

/// What is being asked, and was lately.
#[derive(Default)]
pub struct Gatherings {
    last: AtomicU64,
    /// Who has not answered yet, by the question's ticket.
    open: Mutex<HashMap<u64, Gathering>>,
    answers: Mutex<HashMap<Question, Answer>>,
}

/// What a question comes to, for all who ask it. Nothing while it is under way.
pub type Awaited = watch::Receiver<Option<Arc<Gathered>>>;

/// When a question was asked, and what it comes to.
struct Answer {
    asked: Instant,
    awaited: Awaited,
}

impl Answer {
    fn is_under_way(&self) -> bool {
        // Whoever gathers may end with its runtime.
        self.awaited.borrow().is_none() && self.awaited.has_changed().is_ok()
    }

    fn is_fresh(&self, now: Instant) -> bool {
        self.awaited.borrow().is_some() && now - self.asked < ANSWER_KEPT_FOR
    }
}

struct Gathering {
    expected: BTreeSet<InstanceName>,
    answers: BTreeMap<InstanceName, Counted>,
    is_complete: Arc<Notify>,
}

/// One question. Its drop ends the waiting.
pub struct Asked<'a> {
    gatherings: &'a Gatherings,
    pub ticket: u64,
    is_complete: Arc<Notify>,
}

impl Gatherings {
    /// What the question comes to. If nobody asks it now, nor has lately, `gather` is begun, which says so in the end.
    pub fn ask(
        &self,
        question: &Question,
        now: Instant,
        gather: impl FnOnce(watch::Sender<Option<Arc<Gathered>>>),
    ) -> Result<Awaited, TooManyQuestions> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.retain(|_, answer| answer.is_under_way() || answer.is_fresh(now));
        if let Some(answer) = answers.get(question) {
            return Ok(answer.awaited.clone());
        }
        if answers.values().filter(|answer| answer.is_under_way()).count() >= GATHERINGS_MAX {
            return Err(TooManyQuestions);
        }
        if answers.len() >= ANSWERS_MAX {
            let kept = answers.iter().filter(|(_, answer)| !answer.is_under_way());
            let oldest = kept.min_by_key(|(_, answer)| answer.asked).map(|(question, _)| question.clone());
            oldest.and_then(|oldest| answers.remove(&oldest));
        }
        let (gathered, awaited) = watch::channel(None);
        answers.insert(question.clone(), Answer { asked: now, awaited: awaited.clone() });
        drop(answers);
        gather(gathered);
        Ok(awaited)
    }

    /// Answers of these are waited for, and of nobody else.
    pub fn open(&self, expected: BTreeSet<InstanceName>) -> Asked<'_> {
        let is_complete = Arc::new(Notify::new());
        if expected.is_empty() {
            is_complete.notify_one();
        }
        let ticket = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let gathering = Gathering { expected, answers: BTreeMap::new(), is_complete: is_complete.clone() };
        self.lock().insert(ticket, gathering);
        Asked { gatherings: self, ticket, is_complete }
    }

    /// Takes an answer, if it is waited for.
    pub fn answer(&self, name: InstanceName, ticket: u64, counted: Counted) {
        let mut open = self.lock();
        let Some(gathering) = open.get_mut(&ticket) else { return };
        if gathering.expected.remove(&name) {
            gathering.answers.insert(name, counted);
        }
        if gathering.expected.is_empty() {
            gathering.is_complete.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Gathering>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asked<'_> {
    /// The answers, and who did not answer in time.
    pub async fn gather(self) -> (BTreeMap<InstanceName, Counted>, BTreeSet<InstanceName>) {
        let _ = tokio::time::timeout(GATHER_TIMEOUT, self.is_complete.notified()).await;
        let gathering = self.gatherings.lock().remove(&self.ticket);
        gathering.map(|gathering| (gathering.answers, gathering.expected)).unwrap_or_default()
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.gatherings.lock().remove(&self.ticket);
    }
}
