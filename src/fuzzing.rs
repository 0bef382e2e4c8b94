//! Random input at volume for whatever reads what others write: `make fuzz` runs each target for minutes, every test run
//! for a moment.
//!
//! A target is a test whose name begins with `fuzz_`, beside the code that it strikes; it says how inputs are made and
//! what must hold for each. Inputs begin with examples that mean something (of the RFCs, of our own encoders), which are
//! then damaged: noise alone seldom gets past the first byte. A find is shrunk and told with the seed of its run; it
//! stays in the repository as a plain test of its input.

use std::env;
use std::time::{Duration, Instant};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Seconds for each target.
const SECONDS: &str = "FUZZ_SECONDS";

/// Repeats a run that began with this number: the same inputs in the same order.
const SEED: &str = "FUZZ_SEED";

/// In a test run. Some thousands of inputs.
const MOMENT: Duration = Duration::from_millis(500);

/// Makes `inputs` until the time is over and hands each to `judge`, which panics if it is treated wrongly.
pub(crate) fn fuzz<S: Strategy>(target: &str, inputs: S, judge: impl Fn(S::Value)) {
    let lasts = number_of(SECONDS).map_or(MOMENT, Duration::from_secs);
    let seed = number_of(SEED).unwrap_or_else(|| fastrand::u64(..));
    let config = Config { failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, chance(seed));
    let began = Instant::now();
    let mut cases = 0_u64;
    while cases == 0 || began.elapsed() < lasts {
        let input = inputs.new_tree(&mut runner).expect("no strategy here rejects what it makes");
        let outcome = runner.run_one(input, |input| {
            judge(input);
            Ok(())
        });
        if let Err(found) = outcome {
            panic!("{target}, {SEED}={seed}, input {}: {found}", cases + 1);
        }
        cases += 1;
    }
    println!("fuzz {target}: {cases} inputs in {:.1} s, {SEED}={seed}", began.elapsed().as_secs_f64());
}

fn number_of(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is not a number")))
}

fn chance(seed: u64) -> TestRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::any;

    use super::*;

    #[test]
    #[should_panic(expected = "minimal failing input: 1000")]
    fn what_is_found_is_shrunk_and_told() {
        fuzz("numbers", any::<u32>(), |number| assert!(number < 1000));
    }

    #[test]
    fn every_run_makes_inputs_of_its_own() {
        let firsts: Vec<u64> = (0..2)
            .map(|_| {
                let first = Cell::new(None);
                fuzz("numbers", any::<u64>(), |number| first.set(first.get().or(Some(number))));
                first.get().expect("an input")
            })
            .collect();
        assert!(env::var(SEED).is_ok() || firsts[0] != firsts[1]);
    }
}
