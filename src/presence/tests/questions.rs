//! Many who ask at once: the same question is asked once, and others have room beside it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use futures_util::future::join_all;

use super::running::{Running, until};
use super::user;
use crate::broker::memory::MemoryExchange;
use crate::hub::Question;
use crate::presence::gathering::GATHERINGS_MAX;
use crate::presence::{ANSWER_KEPT_FOR, Gathered, TooManyQuestions};

/// Names behind the one of this number.
fn question(after: usize) -> Question {
    Question { topic: None, after: Some(after.to_string()), limit: 9 }
}

impl Running {
    async fn asks(&self, after: usize) -> Result<Arc<Gathered>, TooManyQuestions> {
        self.presence.gather(&self.broker, &self.hub, question(after)).await
    }
}

/// Two that know each other.
async fn two() -> (Running, Running) {
    let exchange = MemoryExchange::default();
    let (one, two) = (Running::start(&exchange, "a_1"), Running::start(&exchange, "b_1"));
    two.presence.arrive(&user("alice"), 1, 0);
    until("they know each other", || !one.presence.holders(&user("alice")).is_empty()).await;
    (one, two)
}

#[tokio::test(start_paused = true)]
async fn the_same_question_is_asked_once_a_second_however_many_ask() {
    let (one, two) = two().await;
    let answers = join_all((0..4 * GATHERINGS_MAX).map(|_| one.asks(0))).await;
    for answer in answers {
        let answer = answer.expect("an answer");
        assert_eq!((answer.answers.len(), answer.silent.len()), (2, 0), "{answer:?}");
    }
    one.asks(0).await.expect("what was answered");
    assert_eq!(two.questions.load(Ordering::Relaxed), 1);
    tokio::time::advance(ANSWER_KEPT_FOR).await;
    one.asks(0).await.expect("an answer");
    one.asks(1).await.expect("an answer to another");
    assert_eq!(two.questions.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn whoever_asked_first_may_go_and_others_hear_the_answer() {
    let (one, two) = two().await;
    {
        let first = one.asks(0);
        tokio::pin!(first);
        assert!(first.as_mut().now_or_never().is_none(), "it takes a while");
    }
    assert_eq!(one.asks(0).await.expect("an answer").answers.len(), 2);
    assert_eq!(two.questions.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn so_many_different_questions_are_under_way_and_no_more() {
    let (one, two) = two().await;
    // It does not answer.
    two.kill();
    let answers = join_all((0..GATHERINGS_MAX + 2).map(|after| one.asks(after))).await;
    let refused: Vec<usize> = (0..answers.len()).filter(|at| answers[*at].is_err()).collect();
    assert_eq!(refused, [GATHERINGS_MAX, GATHERINGS_MAX + 1]);
    let silent = answers.iter().flatten().all(|answer| answer.silent.len() == 1);
    assert!(silent, "{answers:?}");
    // Any number, one after the other; of those that are kept the oldest go.
    let (one, _two) = self::two().await;
    for after in 0..200 {
        assert_eq!(one.asks(after).await.expect("an answer").answers.len(), 2);
    }
}
