//! The table that the documentation shows: each promise of Warren's speed, measured, against its target.
//!
//! Every number is a ratio to something measured in the same minutes on the same machine where one exists, the floor
//! or the bare lapin pair; what is absolute holds for the machine that the documentation names.

pub mod bare;
mod cluster;
mod compression;
mod crowd;
mod leave;
mod local;
mod page;
mod row;
mod table;

use std::time::Duration;

use super::check::Faults;
use super::interrupt::Interrupt;
use super::load::Pace;
use super::measure::{Run, measure};
use super::options::{Options, Work};
use super::progress::Progress;
use super::server::{Kind, Own};
use crate::config::BrokerUri;
use row::{Row, Target};

pub use table::Table;

/// Rounds of each comparison, unless --repeat says otherwise.
const ROUNDS: usize = 5;

/// Rounds of what has no target, and of what varies little, at most.
const INFORMATION_ROUNDS: usize = 3;

/// Of the duration, for what has no target.
const INFORMATION_SHARE: f64 = 0.6;

/// Why a part was left out.
const NO_BROKER: &str = "no --broker";

/// The most sessions that any row has.
pub fn sessions_max(scale: f64) -> usize {
    (crowd::MANY as f64 * scale) as usize
}

/// The whole suite.
pub fn run(options: &Options, interrupt: &Interrupt) -> anyhow::Result<Table> {
    let broker = match &options.warren {
        Kind::Warren(own) => own.broker.clone(),
        _ => None,
    };
    let rounds = options.repeat.unwrap_or(ROUNDS);
    let (progress, part) = (Progress::new(), "");
    let (failed, rows) = (None, Vec::new());
    let mut suite = Suite { options, interrupt, progress, broker, rounds, part, sound: true, failed, rows };
    suite.part("One write each", Suite::one_write_each)?;
    suite.part("Under load", Suite::under_load)?;
    suite.part("Under load", Suite::under_more_load)?;
    suite.part("Memory", Suite::idle_memory)?;
    suite.part("Connects", Suite::connects)?;
    suite.part("Connects", Suite::handshakes_while_all_leave)?;
    suite.part("Through RabbitMQ", Suite::latency_through_rabbitmq)?;
    suite.part("Through RabbitMQ", Suite::throughput_through_rabbitmq)?;
    suite.part("Few and many sessions", Suite::few_and_many_at_a_rate)?;
    suite.part("Few and many sessions", Suite::few_and_many_under_load)?;
    suite.part("Larger messages", Suite::larger_payloads)?;
    suite.part("Compression", Suite::compression)?;
    suite.part("Options", Suite::coalescing)?;
    suite.part("Options", Suite::worker_threads)?;
    suite.progress.clear();
    if options.scale != 1.0 {
        // Targets are for the full size: a smaller run would reach or miss them for other reasons.
        suite.rows.iter_mut().for_each(|row| row.target = Target::Open);
    }
    Ok(Table { rows: suite.rows, is_sound: suite.sound, rounds, scale: options.scale })
}

/// The suite under way.
struct Suite<'a> {
    options: &'a Options,
    interrupt: &'a Interrupt,
    progress: Progress,
    broker: Option<BrokerUri>,
    rounds: usize,
    /// What the next rows belong to.
    part: &'static str,
    /// Nothing was lost, doubled or reordered so far.
    sound: bool,
    /// Why a run of the comparison under way is worth nothing.
    failed: Option<String>,
    rows: Vec<Row>,
}

/// One server with its work, to be measured in turn with others.
struct Case {
    name: &'static str,
    kind: Kind,
    work: Work,
}

impl Suite<'_> {
    /// Measures a part. What goes wrong in it becomes a row and spares the others, unless the user wants an end.
    fn part(&mut self, title: &'static str, part: fn(&mut Self) -> anyhow::Result<()>) -> anyhow::Result<()> {
        self.part = title;
        self.begin();
        let Err(error) = part(self) else { return Ok(()) };
        if self.interrupt.is_set() {
            return Err(error);
        }
        self.fail(format!("{error:#}"));
        self.add(Row::new(format!("{title}: the rest"), "", None, row::Target::Open));
        Ok(())
    }

    /// Begins a comparison: what failed before does not touch it.
    fn begin(&mut self) {
        self.failed = None;
    }

    /// The rows of this comparison will say so instead of a number.
    fn fail(&mut self, why: String) {
        self.sound = false;
        self.progress.clear();
        eprintln!("FAILED: {why}");
        self.failed.get_or_insert(why);
    }

    fn add(&mut self, row: Row) {
        let row = match &self.failed {
            Some(why) => Row { measured: None, ..row }.note(why.clone()),
            None => row,
        };
        self.rows.push(Row { part: self.part, ..row });
    }

    fn measure(&mut self, name: &str, kind: &Kind, work: &Work) -> anyhow::Result<Run> {
        let run = measure(name, kind, work, &mut self.progress, self.interrupt)?;
        self.judge(name, &run.faults, run.first_error.as_deref());
        Ok(run)
    }

    /// A run with a fault, or with fewer sessions than its row says, is no measurement.
    fn judge(&mut self, name: &str, faults: &Faults, error: Option<&str>) {
        if !faults.is_none() {
            let faults: Vec<String> = faults.named().map(|(what, count)| format!("{count} {what}")).collect();
            self.fail(format!("{name}: {} ({})", faults.join(", "), error.unwrap_or("no error")));
        }
    }

    /// Measures each case in turn, round after round; the runs of each.
    fn in_turn<const N: usize>(&mut self, rounds: usize, cases: &[Case; N]) -> anyhow::Result<[Vec<Run>; N]> {
        self.begin();
        let mut runs = [const { Vec::new() }; N];
        for _ in 0..rounds {
            for (case, runs) in cases.iter().zip(&mut runs) {
                runs.push(self.measure(case.name, &case.kind, &case.work)?);
            }
        }
        Ok(runs)
    }

    /// The options' work with other sessions and pace, scaled.
    fn work(&self, sessions: usize, pace: Pace) -> Work {
        let work = &self.options.work;
        let scale = self.options.scale;
        Work {
            sessions: ((sessions as f64 * scale) as usize).max(work.publishers).max(work.threads),
            pace,
            settle: work.settle.mul_f64(scale.min(1.0)),
            warmup: work.warmup.mul_f64(scale),
            duration: work.duration.mul_f64(scale),
            ..work.clone()
        }
    }

    /// As [`Suite::work`], for what has no target: shorter, so that there is time for what has one.
    fn short_work(&self, sessions: usize, pace: Pace) -> Work {
        let work = self.work(sessions, pace);
        let shorter = |duration: Duration| duration.mul_f64(INFORMATION_SHARE);
        Work { warmup: shorter(work.warmup), duration: shorter(work.duration), ..work }
    }

    /// Rounds of what has no target, and of idle memory and the leaving of all, which vary little.
    fn few_rounds(&self) -> usize {
        self.rounds.min(INFORMATION_ROUNDS)
    }

    /// One instance with the in-process broker.
    fn warren(&self) -> Kind {
        Kind::Warren(Own::default())
    }

    /// One instance on RabbitMQ, if there is one.
    fn warren_on_rabbitmq(&self) -> Option<Kind> {
        self.broker.clone().map(|broker| Kind::Warren(Own { broker: Some(broker), ..Own::default() }))
    }
}

fn cpu(run: &Run) -> Option<f64> {
    run.traffic.as_ref()?.server_cpu_us_per_delivery
}

fn deliveries(run: &Run) -> Option<f64> {
    run.traffic.as_ref().map(|traffic| traffic.deliveries_per_second)
}

fn per_session(run: &Run) -> Option<f64> {
    run.memory.as_ref().map(|memory| memory.idle_kib_per_session)
}
