//! How much a client may say: a token bucket of eight bytes, without a timer.

/// How fast an allowance grows, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens a second, at least one.
    pub per_second: u32,
    /// Tokens that a client has at first and may save up, from 1 to [`BURST_MAX`].
    pub burst: u32,
}

/// The most tokens that a client may save up: what eight bytes a session can count.
pub const BURST_MAX: u32 = u32::MAX / TOKEN;

/// A token in thousandths, which is what a rate per second gives per millisecond.
const TOKEN: u32 = 1000;

/// What one client may still say. Times are those of one clock in milliseconds that may start again at 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowance {
    /// Thousandths of a token.
    saved: u32,
    /// The time up to which tokens were given.
    given_until_ms: u32,
}

impl Allowance {
    /// As much as may be saved up.
    pub fn full(rate: &Rate, now_ms: u32) -> Allowance {
        Allowance { saved: rate.burst * TOKEN, given_until_ms: now_ms }
    }

    /// Takes `wanted` tokens, or as many as there are; the answer is how many.
    pub fn take(&mut self, rate: &Rate, now_ms: u32, wanted: u32) -> u32 {
        let given = u64::from(now_ms.wrapping_sub(self.given_until_ms)) * u64::from(rate.per_second);
        let saved = (u64::from(self.saved) + given).min(u64::from(rate.burst * TOKEN));
        let taken = wanted.min((saved / u64::from(TOKEN)) as u32);
        *self = Allowance { saved: saved as u32 - taken * TOKEN, given_until_ms: now_ms };
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 3 };

    #[test]
    fn what_was_saved_up_may_be_said_at_once_and_no_more() {
        let mut allowance = Allowance::full(&RATE, 0);
        assert_eq!(allowance.take(&RATE, 0, 2), 2);
        assert_eq!(allowance.take(&RATE, 0, 2), 1);
        assert_eq!(allowance.take(&RATE, 99, 1), 0);
        assert_eq!(allowance.take(&RATE, 100, 2), 1);
        assert_eq!(allowance.take(&RATE, 100_000, 9), 3);
    }

    #[test]
    fn the_clock_may_start_again() {
        let mut allowance = Allowance::full(&RATE, u32::MAX - 49);
        assert_eq!(allowance.take(&RATE, u32::MAX - 49, 3), 3);
        assert_eq!(allowance.take(&RATE, 50, 3), 1);
    }

    #[test]
    fn the_largest_numbers_fit() {
        let rate = Rate { per_second: u32::MAX, burst: BURST_MAX };
        let mut allowance = Allowance::full(&rate, 0);
        assert_eq!(allowance.take(&rate, 0, u32::MAX), BURST_MAX);
        assert_eq!(allowance.take(&rate, u32::MAX, u32::MAX), BURST_MAX);
    }

    proptest! {
        /// However the times and wishes fall, in any span no more is granted than the burst and what the span gives.
        #[test]
        fn no_span_gives_more_than_burst_and_rate(
            per_second in 1..5000_u32,
            burst in 1..100_u32,
            turns in proptest::collection::vec((0..200_u32, 0..50_u32), 1..100),
        ) {
            let rate = Rate { per_second, burst };
            let mut allowance = Allowance::full(&rate, 0);
            let (mut now_ms, mut granted, mut wanted) = (0, 0_u64, 0_u64);
            for (pause_ms, wish) in turns {
                now_ms += pause_ms;
                wanted += u64::from(wish);
                granted += u64::from(allowance.take(&rate, now_ms, wish));
                let most = u64::from(burst) + u64::from(now_ms) * u64::from(per_second) / 1000;
                prop_assert!(granted <= most);
                // Nobody who keeps to it is refused.
                prop_assert!(granted == wanted || wanted > u64::from(burst));
            }
        }
    }
}
