//! What a measurement came to, for eyes and for programs.

pub mod html;
mod metrics;
mod plot;
mod statistics;
mod table;

use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use super::check::Faults;
use super::load::Pace;
use super::measure::Run;
use super::options::{Options, Work};
use html::page;
use metrics::METRICS;

pub use statistics::{median, median_of, ratio_of};
pub use table::{aligned, shown, text};

/// The runs of one server, in the order of the rounds.
#[derive(Clone, Debug)]
pub struct Contender {
    pub name: String,
    /// The floor that others are compared with.
    pub is_floor: bool,
    pub runs: Vec<Run>,
}

/// All that was measured.
#[derive(Clone, Debug)]
pub struct Report {
    pub work: Work,
    pub contenders: Vec<Contender>,
}

impl Report {
    /// Faults over all servers and runs.
    pub fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        for run in self.contenders.iter().flat_map(|contender| &contender.runs) {
            faults.add(&run.faults);
        }
        faults
    }

    fn floor(&self) -> Option<&Contender> {
        self.contenders.iter().find(|contender| contender.is_floor)
    }

    pub fn json(&self) -> Value {
        let contenders: Vec<Value> = self.contenders.iter().map(|contender| self.contender_json(contender)).collect();
        json!({
            "warren": env!("CARGO_PKG_VERSION"),
            "ok": self.faults().is_none(),
            "work": work_json(&self.work),
            "servers": contenders,
        })
    }

    fn contender_json(&self, contender: &Contender) -> Value {
        let medians = METRICS.iter().map(|metric| {
            let values: Vec<f64> = contender.runs.iter().filter_map(metric.of).collect();
            (metric.key.to_owned(), json!(median(&values)))
        });
        let mut value = json!({
            "name": contender.name,
            "is_floor": contender.is_floor,
            "medians": Value::Object(medians.collect()),
            "runs": contender.runs,
        });
        if let Some(floor) = self.floor().filter(|_| !contender.is_floor) {
            let ratios = METRICS
                .iter()
                .filter(|metric| metric.has_ratio)
                .map(|metric| (metric.key.to_owned(), json!(ratio_of(&contender.runs, &floor.runs, metric.of))));
            value["ratios_to_floor"] = Value::Object(ratios.collect());
        }
        value
    }

    /// Writes the files that were asked for.
    pub fn write(&self, options: &Options) -> anyhow::Result<()> {
        if let Some(path) = &options.json {
            write(path, &format!("{:#}\n", self.json()))?;
        }
        if let Some(path) = &options.html {
            write(path, &page(self))?;
        }
        Ok(())
    }
}

/// Opens the files that will be written, so that it is not the end of a long run that finds out.
pub fn check_files(options: &Options) -> anyhow::Result<()> {
    for path in options.json.iter().chain(&options.html) {
        check(path)?;
    }
    Ok(())
}

/// Opens one such file.
pub fn check(path: &Path) -> anyhow::Result<()> {
    let opened = std::fs::OpenOptions::new().create(true).append(true).open(path);
    opened.map(drop).with_context(|| format!("cannot write {}", path.display()))
}

/// Writes a file that was asked for.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn work_json(work: &Work) -> Value {
    let (rate, window) = match work.pace {
        Pace::Rate(rate) => (Some(rate), None),
        Pace::Window(window) => (None, Some(window)),
    };
    json!({
        "sessions": work.sessions,
        "publishers": work.publishers,
        "rate_per_second": rate,
        "window": window,
        "payload": work.content.name(),
        "payload_bytes": work.size,
        "compress": work.compress,
        "warmup_seconds": work.warmup.as_secs_f64(),
        "duration_seconds": work.duration.as_secs_f64(),
        "generator_threads": work.threads,
        "handshakes_at_a_time": work.concurrency,
    })
}

/// The work in one line.
fn work_line(work: &Work) -> String {
    let mut line = format!("{} sessions", work.sessions);
    if !work.connect_only {
        let (publishers, pace, size, content) = (work.publishers, work.pace, work.size, work.content.name());
        let seconds = work.duration.as_secs_f64();
        line += &format!(", {publishers} of them publishing {size} bytes of {content} at {pace} for {seconds} s");
    }
    if work.compress {
        line += ", compressed";
    }
    line
}
