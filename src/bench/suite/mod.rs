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

use super::interrupt::Interrupt;
use super::load::Pace;
use super::measure::{Run, measure};
use super::options::{Options, Work};
use super::progress::Progress;
use super::server::{Kind, Own};
use crate::config::BrokerUri;
use row::Row;

pub use table::Table;

/// Rounds of each comparison, unless --repeat says otherwise.
const ROUNDS: usize = 5;

/// Rounds of what has no target, at most.
const INFORMATION_ROUNDS: usize = 3;

/// Of the duration, for what has no target.
const INFORMATION_SHARE: f64 = 0.6;

/// Why a part was left out.
const NO_BROKER: &str = "no --broker";

/// The whole suite.
pub fn run(options: &Options, interrupt: &Interrupt) -> anyhow::Result<Table> {
    let broker = match &options.warren {
        Kind::Warren(own) => own.broker.clone(),
        _ => None,
    };
    let rounds = options.repeat.unwrap_or(ROUNDS);
    let (progress, part) = (Progress::new(), "");
    let mut suite = Suite { options, interrupt, progress, broker, rounds, part, sound: true, rows: Vec::new() };
    suite.part("One write each").one_write_each()?;
    suite.part("Under load").under_load()?;
    suite.part("Memory").idle_memory()?;
    suite.part("Connects").connects()?;
    suite.part("Through RabbitMQ").latency_through_rabbitmq()?;
    suite.throughput_through_rabbitmq()?;
    suite.part("Few and many sessions").few_and_many_at_a_rate()?;
    suite.few_and_many_under_load()?;
    suite.part("Larger messages").larger_payloads()?;
    suite.part("Compression").compression()?;
    suite.part("Options").coalescing()?;
    suite.worker_threads()?;
    suite.progress.clear();
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
    rows: Vec<Row>,
}

/// One server with its work, to be measured in turn with others.
struct Case {
    name: &'static str,
    kind: Kind,
    work: Work,
}

impl Suite<'_> {
    fn part(&mut self, title: &'static str) -> &mut Self {
        self.part = title;
        self
    }

    fn add(&mut self, row: Row) {
        self.rows.push(Row { part: self.part, ..row });
    }

    fn measure(&mut self, name: &str, kind: &Kind, work: &Work) -> anyhow::Result<Run> {
        let run = measure(name, kind, work, &mut self.progress, self.interrupt)?;
        if !run.faults.is_none() {
            self.sound = false;
            self.progress.clear();
            let faults: Vec<String> = run.faults.named().map(|(what, count)| format!("{count} {what}")).collect();
            eprintln!("FAILED: {name}: {} ({})", faults.join(", "), run.first_error.as_deref().unwrap_or("no error"));
        }
        Ok(run)
    }

    /// Measures each case in turn, round after round; the runs of each.
    fn in_turn<const N: usize>(&mut self, rounds: usize, cases: &[Case; N]) -> anyhow::Result<[Vec<Run>; N]> {
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

    /// Rounds of what has no target.
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
