//! The report as text: one column for each server, one line for each number.

use super::metrics::{METRICS, Metric};
use super::statistics::{median_of, ratio_of};
use super::{Contender, Report, work_line};
use crate::bench::measure::Run;
use crate::bench::progress::grouped;

/// Shown for what could not be measured.
const UNKNOWN: &str = "–";

pub fn text(report: &Report) -> String {
    let mut lines = vec![headings(report)];
    lines.extend(METRICS.iter().filter(|metric| is_known(report, metric)).map(|metric| line(report, metric)));
    let runs = report.contenders.iter().map(|contender| contender.runs.len()).max().unwrap_or(0);
    let medians = if runs > 1 { format!(" (medians of {runs} rounds)") } else { String::new() };
    let mut text = format!("{}{medians}\n\n{}", work_line(&report.work), aligned(&lines));
    for note in notes(report) {
        text += &format!("\n{note}");
    }
    text + "\n"
}

/// What should be known of the numbers before they are believed.
pub fn notes(report: &Report) -> Vec<String> {
    let mut notes = Vec::new();
    for Contender { name, runs, .. } in &report.contenders {
        let mut faults = crate::bench::check::Faults::default();
        runs.iter().for_each(|run| faults.add(&run.faults));
        for (what, count) in faults.named() {
            notes.push(format!("FAILED: {name}: {} {what}", grouped(count)));
        }
        if let Some(error) = runs.iter().find_map(|run| run.first_error.as_ref()) {
            notes.push(format!("{name}: first error: {error}"));
        }
        if runs.iter().any(|run| run.generator_was_the_limit()) {
            notes.push(format!(
                "WARNING: {name}: the generator was the limit, not the server; give it more --threads, or more cores"
            ));
        }
        if runs.iter().any(|run| run.memory.is_none() || run.connect.server_cpu_us.is_none()) {
            notes.push(format!(
                "{name}: CPU and memory are not known: that takes Linux, a server on this host and its --pid"
            ));
        }
        let heard = |run: &Run| run.traffic.as_ref().is_some_and(|traffic| traffic.deliveries > 0);
        if report.work.compress && runs.iter().any(|run| heard(run) && run.compressed_deliveries == 0) {
            notes.push(format!("WARNING: {name}: agreed to compression, and then compressed nothing"));
        }
        let foreign: u64 = runs.iter().map(|run| run.foreign_messages).sum();
        if foreign > 0 {
            notes.push(format!("{name}: {} messages of others were heard too", grouped(foreign)));
        }
    }
    notes
}

/// A number as it is shown.
pub fn shown(value: Option<f64>, decimals: usize) -> String {
    match value {
        None => UNKNOWN.to_owned(),
        Some(value) if decimals == 0 && value >= 0.0 => grouped(value.round() as u64),
        Some(value) => format!("{value:.decimals$}"),
    }
}

fn is_known(report: &Report, metric: &Metric) -> bool {
    report.contenders.iter().flat_map(|contender| &contender.runs).any(|run| (metric.of)(run).is_some())
}

fn headings(report: &Report) -> Vec<String> {
    let mut cells = vec![String::new()];
    for contender in &report.contenders {
        cells.push(contender.name.clone());
        if report.floor().is_some() && !contender.is_floor {
            cells.push("/ floor".to_owned());
        }
    }
    cells
}

/// The name, then each server's median, and behind it its ratio to the floor.
fn line(report: &Report, metric: &Metric) -> Vec<String> {
    let mut cells = vec![metric.title.to_owned()];
    for contender in &report.contenders {
        cells.push(shown(median_of(&contender.runs, metric.of), metric.decimals));
        if let Some(floor) = report.floor().filter(|_| !contender.is_floor) {
            let ratio = ratio_of(&contender.runs, &floor.runs, metric.of).filter(|_| metric.has_ratio);
            cells.push(ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default());
        }
    }
    cells
}

/// The first column to the left, the others to the right.
pub fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            text += &if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
        }
        text += "\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_as_people_read_them() {
        assert_eq!(shown(None, 2), "–");
        assert_eq!(shown(Some(1_234_567.8), 0), "1,234,568");
        assert_eq!(shown(Some(0.8765), 2), "0.88");
        assert_eq!(shown(Some(-3.2), 0), "-3");
    }

    #[test]
    fn columns_line_up() {
        let line = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        assert_eq!(aligned(&[line(["", "µs"]), line(["p50", "1,000"])]), "        µs\np50  1,000\n");
    }
}
