//! The table that the documentation shows: each promise of Warren's speed, measured, against its target.
//!
//! Every number is a ratio to something measured in the same minutes on the same machine where one exists, the floor
//! or the bare lapin pair; what is absolute holds for the machine that the documentation names.

pub mod bare;
mod cluster;
mod leave;
mod local;
mod row;

use serde_json::{Value, json};

use super::interrupt::Interrupt;
use super::load::Pace;
use super::measure::{Run, measure};
use super::options::{Options, Work};
use super::progress::Progress;
use super::server::Kind;
use crate::config::BrokerUri;
use row::Row;

/// Rounds of each comparison, unless --repeat says otherwise.
const ROUNDS: usize = 5;

/// The whole suite; the answer is the Markdown table, the rows as JSON, and whether nothing was lost.
pub fn run(options: &Options, interrupt: &Interrupt) -> anyhow::Result<(String, Value, bool)> {
    let broker = match &options.warren {
        Kind::Warren { broker, .. } => broker.clone(),
        _ => None,
    };
    let rounds = options.repeat.unwrap_or(ROUNDS);
    let progress = Progress::new();
    let mut suite = Suite { options, interrupt, progress, broker, rounds, sound: true, rows: Vec::new() };
    suite.one_write_each()?;
    suite.under_load()?;
    suite.idle_memory()?;
    suite.connects()?;
    suite.latency_through_rabbitmq()?;
    suite.throughput_through_rabbitmq()?;
    suite.worker_threads()?;
    suite.few_and_many_sessions()?;
    suite.larger_payloads()?;
    suite.progress.clear();
    let rows: Vec<Value> = suite.rows.iter().map(Row::json).collect();
    let value = json!({ "warren": env!("CARGO_PKG_VERSION"), "ok": suite.sound, "scale": options.scale, "rows": rows });
    Ok((row::markdown(&suite.rows), value, suite.sound))
}

/// The suite under way.
struct Suite<'a> {
    options: &'a Options,
    interrupt: &'a Interrupt,
    progress: Progress,
    broker: Option<BrokerUri>,
    rounds: usize,
    /// Nothing was lost, doubled or reordered so far.
    sound: bool,
    rows: Vec<Row>,
}

impl Suite<'_> {
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

    /// Measures each of `kinds` in turn, round after round; the runs of each.
    fn side_by_side(&mut self, kinds: &[(&str, Kind)], work: &Work) -> anyhow::Result<Vec<Vec<Run>>> {
        let mut runs = vec![Vec::new(); kinds.len()];
        for _ in 0..self.rounds {
            for ((name, kind), runs) in kinds.iter().zip(&mut runs) {
                runs.push(self.measure(name, kind, work)?);
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
            warmup: work.warmup.mul_f64(scale),
            duration: work.duration.mul_f64(scale),
            ..work.clone()
        }
    }

    /// One instance with the in-process broker.
    fn warren(&self) -> Kind {
        Kind::Warren { broker: None, instances: 1, worker_threads: 0 }
    }
}
