//! What a delivery costs among many sessions, against among few.
//!
//! The kernel's own cost rises with the number of sessions, as its sockets no longer fit the caches. So the floor's rise
//! stands beside Warren's, and Warren's rise beyond the floor's in a row of its own. All four are measured in turn, so
//! that each quotient is of runs of the same minute.

use super::local::{LOADED, LOADED_FRAMES};
use super::row::{Row, Target};
use super::{Case, Suite, cpu};
use crate::bench::load::Pace;
use crate::bench::measure::Run;
use crate::bench::options::Work;
use crate::bench::report::{median, median_of, ratio_of, shown};
use crate::bench::server::Kind;

const FEW: usize = 1_000;
pub const MANY: usize = 18_000;

/// Deliveries of one message each, per second and session, while there are few.
const RATE: f64 = 100.0;

impl Suite<'_> {
    /// The same deliveries per second to few sessions and to many.
    pub fn few_and_many_at_a_rate(&mut self) -> anyhow::Result<()> {
        let few = self.work(FEW, Pace::Rate(RATE));
        let many = self.work(MANY, Pace::Rate(RATE * FEW as f64 / MANY as f64));
        self.few_and_many(["", "the same deliveries/s"], [few, many], 1, self.rounds, Target::AtMost(1.15))
    }

    /// As fast as it goes.
    pub fn few_and_many_under_load(&mut self) -> anyhow::Result<()> {
        let works = [FEW, MANY].map(|sessions| self.short_work(sessions, LOADED));
        let names = [", under load", &LOADED.to_string()];
        self.few_and_many(names, works, LOADED_FRAMES, self.few_rounds(), Target::Open)
    }

    fn few_and_many(
        &mut self,
        [pace, stands_on]: [&str; 2],
        [few, many]: [Work; 2],
        frames: usize,
        rounds: usize,
        target: Target,
    ) -> anyhow::Result<()> {
        let rise = format!("at {} sessions to that at {}", many.sessions, few.sessions);
        let floor = |work: &Work| Case { name: "floor", kind: Kind::Floor { frames }, work: work.clone() };
        let warren = |work: &Work| Case { name: "warren", kind: self.warren(), work: work.clone() };
        let cases = [floor(&few), warren(&few), floor(&many), warren(&many)];
        let [floor_few, warren_few, floor_many, warren_many] = self.in_turn(rounds, &cases)?;
        let sides =
            [("warren", [&warren_many, &warren_few], target), ("floor", [&floor_many, &floor_few], Target::Open)];
        for (name, [many, few], target) in sides {
            let [with_many, with_few] = [many, few].map(|runs| shown(median_of(runs, cpu), 2));
            let what = format!("{name}: CPU per delivery {rise}{pace}");
            let note = format!("{stands_on}; {with_many} against {with_few} µs");
            self.add(Row::new(what, "×", ratio_of(many, few, cpu), target).note(note));
        }
        let beside = |warren: &[Run], floor: &[Run]| shown(ratio_of(warren, floor, cpu), 2);
        let (with_many, with_few) = (beside(&warren_many, &floor_many), beside(&warren_few, &floor_few));
        let rises = ratios([&warren_many, &floor_many, &warren_few, &floor_few]);
        let note = format!("{stands_on}; {with_many} × floor against {with_few} × floor");
        self.add(Row::new(format!("warren / floor {rise}{pace}"), "×", median(&rises), Target::Open).note(note));
        Ok(())
    }
}

/// Of each round: the first by the second, against the third by the fourth.
fn ratios([many, floor_many, few, floor_few]: [&[Run]; 4]) -> Vec<f64> {
    let rounds = many.iter().zip(floor_many).zip(few.iter().zip(floor_few));
    rounds
        .filter_map(|((many, floor_many), (few, floor_few))| {
            Some((cpu(many)? / cpu(floor_many)?) / (cpu(few)? / cpu(floor_few)?))
        })
        .filter(|ratio| ratio.is_finite())
        .collect()
}
