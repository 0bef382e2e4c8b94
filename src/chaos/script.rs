//! What is broken, when and for how long: a script of faults, drawn from a seed.
//!
//! Everything random about the faults is decided here, before anything runs, so that the same seed and the same
//! options give the same script. When a fault really strikes may be later than the script says: each waits until the
//! one before is over and messages flow again.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use fastrand::Rng;
use serde::Serialize;

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The broker is killed (SIGKILL) and started again.
    BrokerKill,
    /// The broker is stopped in good order and started again.
    BrokerRestart,
    /// Every connection between one instance and the broker is reset, and new ones are refused for a while.
    WireCut,
    /// What passes between one instance and the broker takes longer.
    WireDelay,
    /// Nothing passes between one instance and the broker, and what was on its way is gone.
    WireBlackhole,
    /// The broker says that it is out of memory, and stops reading from who publishes.
    MemoryAlarm,
    /// One instance is killed (SIGKILL) and started again.
    InstanceKill,
    /// One instance is told to stop (SIGTERM) and started again; each time the next one.
    InstanceDrain,
    /// Some of the sessions that only listen stop reading for a while.
    StallReaders,
}

impl Kind {
    pub const ALL: [Kind; 9] = [
        Kind::BrokerKill,
        Kind::BrokerRestart,
        Kind::WireCut,
        Kind::WireDelay,
        Kind::WireBlackhole,
        Kind::MemoryAlarm,
        Kind::InstanceKill,
        Kind::InstanceDrain,
        Kind::StallReaders,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::BrokerKill => "broker-kill",
            Kind::BrokerRestart => "broker-restart",
            Kind::WireCut => "wire-cut",
            Kind::WireDelay => "wire-delay",
            Kind::WireBlackhole => "wire-blackhole",
            Kind::MemoryAlarm => "memory-alarm",
            Kind::InstanceKill => "instance-kill",
            Kind::InstanceDrain => "instance-drain",
            Kind::StallReaders => "stall-readers",
        }
    }

    /// Whether it takes messages with it that the broker had confirmed already, where they wait in queues of
    /// instances.
    pub fn takes_queues_along(self) -> bool {
        matches!(self, Kind::BrokerKill | Kind::BrokerRestart | Kind::WireCut | Kind::WireBlackhole)
    }

    fn concerns_one_instance(self) -> bool {
        use Kind::{InstanceDrain, InstanceKill, WireBlackhole, WireCut, WireDelay};
        matches!(self, WireCut | WireDelay | WireBlackhole | InstanceKill | InstanceDrain)
    }

    /// How long it stays before it is mended, beside what the mending itself takes.
    fn hold_ms(self) -> RangeInclusive<u64> {
        match self {
            // Starting takes seconds by itself; up to the longest pause between an instance's attempts on top.
            Kind::BrokerKill | Kind::BrokerRestart | Kind::InstanceKill => 0..=2_000,
            Kind::InstanceDrain => 0..=500,
            Kind::WireCut => 0..=3_000,
            Kind::WireDelay | Kind::StallReaders => 2_000..=6_000,
            // The broker's command takes a second each way.
            Kind::MemoryAlarm => 500..=3_000,
            // Up to beyond the time in which a message has to be confirmed.
            Kind::WireBlackhole => 1_000..=7_000,
        }
    }

    /// How hard it strikes; what the number means is the kind's own.
    fn extent(self) -> Option<(RangeInclusive<u32>, &'static str)> {
        match self {
            Kind::WireDelay => Some((20..=200, "ms each way")),
            Kind::StallReaders => Some((10..=50, "% of the readers")),
            _ => None,
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Kind, String> {
        let all = || Kind::ALL.map(Kind::name).join(", ");
        Kind::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| format!("expected all, or of {}", all()))
    }
}

/// Which faults the script is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// These, in an order of chance, as many as fit the run; each once before any of them comes again.
    Among(Vec<Kind>),
    /// Exactly so many of each, in an order of chance, over the length of the run.
    Exactly(Vec<(Kind, u32)>),
}

/// Most faults of one kind that may be asked for.
const COUNT_MAX: u32 = 1_000;

impl FromStr for Choice {
    type Err = String;

    /// `all`, `broker-kill,wire-cut` or `broker-kill:3,wire-cut:2`.
    fn from_str(text: &str) -> Result<Choice, String> {
        if text == "all" {
            return Ok(Choice::Among(Kind::ALL.to_vec()));
        }
        let items: Vec<&str> = text.split(',').map(str::trim).collect();
        if items.iter().any(|item| item.contains(':')) {
            let counted = |item: &&str| {
                let (name, count) = item.split_once(':').ok_or("give each fault a count, or none of them")?;
                let count = count.parse().ok().filter(|count| (1..=COUNT_MAX).contains(count));
                Ok((name.parse()?, count.ok_or_else(|| format!("expected a count from 1 to {COUNT_MAX}"))?))
            };
            return items.iter().map(counted).collect::<Result<_, String>>().map(Choice::Exactly);
        }
        items.iter().map(|item| item.parse()).collect::<Result<_, String>>().map(Choice::Among)
    }
}

/// One fault of the script.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// When, at the earliest, since messages began to flow.
    pub at: Duration,
    pub kind: Kind,
    /// The instance that it strikes, if not all of them.
    pub instance: Option<usize>,
    /// How long it stays before it is mended.
    pub hold: Duration,
    pub extent: Option<u32>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if let Some(instance) = self.instance {
            write!(f, " of instance {}", instance + 1)?;
        }
        if let (Some(extent), Some((_, unit))) = (self.extent, self.kind.extent()) {
            write!(f, ", {extent} {unit}")?;
        }
        write!(f, ", for {:.1} s", self.hold.as_secs_f64())
    }
}

/// Draws the script.
pub fn draw(seed: u64, choice: &Choice, instances: usize, duration: Duration, every: Duration) -> Vec<Fault> {
    let mut chance = Rng::with_seed(seed);
    let kinds = kinds(&mut chance, choice, duration, every);
    let slot = duration.as_secs_f64() / kinds.len().max(1) as f64;
    let mut drained = chance.usize(..instances);
    let mut fault = |(place, kind): (usize, Kind)| {
        let instance = match kind {
            Kind::InstanceDrain => {
                drained = (drained + 1) % instances;
                Some(drained)
            }
            kind if kind.concerns_one_instance() => Some(chance.usize(..instances)),
            _ => None,
        };
        Fault {
            // Not at the slot's very start, so that something flowed before the first.
            at: Duration::from_millis(((place as f64 + 0.1 + 0.4 * chance.f64()) * slot * 1e3) as u64),
            kind,
            instance,
            hold: Duration::from_millis(chance.u64(kind.hold_ms())),
            extent: kind.extent().map(|(range, _)| chance.u32(range)),
        }
    };
    kinds.into_iter().enumerate().map(&mut fault).collect()
}

fn kinds(chance: &mut Rng, choice: &Choice, duration: Duration, every: Duration) -> Vec<Kind> {
    match choice {
        Choice::Exactly(counts) => {
            let repeated = |&(kind, count): &(Kind, u32)| std::iter::repeat_n(kind, count as usize);
            let mut kinds: Vec<Kind> = counts.iter().flat_map(repeated).collect();
            chance.shuffle(&mut kinds);
            kinds
        }
        Choice::Among(among) => {
            let count = (duration.as_secs_f64() / every.as_secs_f64()).max(1.0) as usize;
            let mut kinds = Vec::with_capacity(count + among.len());
            while kinds.len() < count {
                let mut deck = among.clone();
                chance.shuffle(&mut deck);
                kinds.append(&mut deck);
            }
            kinds.truncate(count);
            kinds
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Duration = Duration::from_secs(90);
    const EVERY: Duration = Duration::from_secs(5);

    fn all() -> Choice {
        "all".parse().expect("a choice")
    }

    fn count(script: &[Fault], kind: Kind) -> usize {
        script.iter().filter(|fault| fault.kind == kind).count()
    }

    #[test]
    fn a_seed_gives_one_script_and_another_seed_another() {
        let script = |seed| draw(seed, &all(), 3, RUN, EVERY);
        assert_eq!(script(7), script(7));
        assert_ne!(script(7), script(8));
    }

    #[test]
    fn the_script_of_a_seed_stays_what_it_is() {
        let script = draw(1, &"broker-kill,wire-delay".parse().expect("a choice"), 2, RUN, Duration::from_secs(45));
        let shown: Vec<String> = script.iter().map(|fault| format!("{} {fault}", fault.at.as_millis())).collect();
        let kept = ["8813 broker-kill, for 1.6 s", "63559 wire-delay of instance 1, 89 ms each way, for 5.1 s"];
        assert_eq!(shown, kept, "a seed in a bug report must mean the same later");
    }

    #[test]
    fn each_kind_comes_before_any_comes_again() {
        let script = draw(3, &all(), 2, RUN, EVERY);
        assert_eq!(script.len(), 18);
        for kind in Kind::ALL {
            assert_eq!(count(&script[..9], kind), 1, "{kind:?}");
            assert_eq!(count(&script, kind), 2, "{kind:?}");
        }
    }

    #[test]
    fn counts_are_kept_exactly() {
        let choice = "broker-kill:3,wire-cut:2,instance-drain:1".parse().expect("a choice");
        for seed in 0..20 {
            let script = draw(seed, &choice, 2, RUN, EVERY);
            let counts = [Kind::BrokerKill, Kind::WireCut, Kind::InstanceDrain].map(|kind| count(&script, kind));
            assert_eq!((counts, script.len()), ([3, 2, 1], 6));
        }
    }

    #[test]
    fn faults_come_in_order_within_the_run_and_strike_instances_that_exist() {
        for seed in 0..50 {
            let script = draw(seed, &all(), 3, RUN, EVERY);
            assert!(script.is_sorted_by_key(|fault| fault.at));
            assert!(script.iter().all(|fault| fault.at > Duration::ZERO && fault.at < RUN));
            for fault in script {
                assert_eq!(fault.instance.is_some(), fault.kind.concerns_one_instance());
                assert!(fault.instance.is_none_or(|instance| instance < 3));
            }
        }
    }

    #[test]
    fn drains_take_the_instances_in_turn() {
        let script = draw(5, &"instance-drain:6".parse().expect("a choice"), 3, RUN, EVERY);
        let mut drained: Vec<_> = script.iter().filter_map(|fault| fault.instance).collect();
        drained.truncate(3);
        drained.sort_unstable();
        assert_eq!(drained, [0, 1, 2]);
    }

    #[test]
    fn what_is_no_fault_is_refused() {
        for text in ["", "broker", "broker-kill:0", "broker-kill:3,wire-cut", "broker-kill:many", "all:2"] {
            assert!(text.parse::<Choice>().is_err(), "{text}");
        }
    }
}
