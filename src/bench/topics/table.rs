//! What came of it, for eyes and for programs.

use std::time::Duration;

use serde_json::{Value, json};

use super::Options;
use crate::bench::progress::grouped;
use crate::bench::report::median;

/// The numbers of one run of one case.
#[derive(Clone, Debug)]
pub struct Figures {
    pub sessions: usize,
    pub subscriptions: Option<usize>,
    /// Of all instances, before and after the subscriptions.
    pub memory_kib: Option<(u64, u64)>,
    pub messages: u64,
    pub deliveries: u64,
    pub seconds: f64,
    /// Of all instances.
    pub cpu: Option<Duration>,
}

impl Figures {
    fn bytes_per_subscription(&self) -> Option<f64> {
        let (before_kib, after_kib) = self.memory_kib?;
        Some((after_kib as f64 - before_kib as f64) * 1024.0 / self.subscriptions? as f64)
    }

    fn messages_per_second(&self) -> Option<f64> {
        Some(self.messages as f64 / self.seconds)
    }

    fn deliveries_per_second(&self) -> Option<f64> {
        Some(self.deliveries as f64 / self.seconds)
    }

    fn cpu_us_per_delivery(&self) -> Option<f64> {
        Some(self.cpu?.as_secs_f64() * 1e6 / self.deliveries as f64)
    }

    fn cpu_us_per_message(&self) -> Option<f64> {
        Some(self.cpu?.as_secs_f64() * 1e6 / self.messages as f64)
    }
}

/// One number of a run: as a heading, as a key, where from, and with how many digits.
type Metric = (&'static str, &'static str, fn(&Figures) -> Option<f64>, usize);

const METRICS: [Metric; 5] = [
    ("bytes per subscription", "bytes_per_subscription", Figures::bytes_per_subscription, 0),
    ("messages/s", "messages_per_second", Figures::messages_per_second, 0),
    ("deliveries/s", "deliveries_per_second", Figures::deliveries_per_second, 0),
    ("CPU per message, µs", "server_cpu_us_per_message", Figures::cpu_us_per_message, 1),
    ("CPU per delivery, µs", "server_cpu_us_per_delivery", Figures::cpu_us_per_delivery, 2),
];

/// All that was measured: the runs of each case.
pub struct Table {
    pub rows: Vec<(String, Vec<Figures>)>,
    pub options: Options,
}

impl Table {
    pub fn markdown(&self) -> String {
        let headings: String = METRICS.iter().map(|(heading, ..)| format!(" {heading} |")).collect();
        let mut text = format!("| | sessions |{headings}\n| --- | ---: |{}\n", " ---: |".repeat(METRICS.len()));
        for (name, runs) in &self.rows {
            let sessions = runs.first().map_or(0, |figures| figures.sessions as u64);
            text += &format!("| {name} | {} |", grouped(sessions));
            for (_, _, of, digits) in METRICS {
                let shown = |value: f64| match digits {
                    0 => grouped(value.max(0.0).round() as u64),
                    digits => format!("{value:.digits$}"),
                };
                text += &format!(" {} |", median_of(runs, of).map_or_else(String::new, shown));
            }
            text += "\n";
        }
        text
    }

    pub fn json(&self) -> Value {
        let Options { topics, subscribers, publishers, window, size, own, .. } = &self.options;
        let row = |(name, runs): &(String, Vec<Figures>)| {
            let medians = METRICS.iter().map(|(_, key, of, _)| ((*key).to_owned(), json!(median_of(runs, *of))));
            let sessions = runs.first().map(|figures| figures.sessions);
            json!({ "name": name, "sessions": sessions, "medians": Value::Object(medians.collect()) })
        };
        json!({
            "warren": env!("CARGO_PKG_VERSION"),
            "topics": topics,
            "subscribers": subscribers,
            "publishers": publishers,
            "window": window,
            "payload_bytes": size,
            "instances": own.instances,
            "cases": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

fn median_of(runs: &[Figures], of: fn(&Figures) -> Option<f64>) -> Option<f64> {
    median(&runs.iter().filter_map(of).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_medians_and_leaves_out_what_is_not_known() {
        let figures = |messages, cpu_ms| Figures {
            sessions: 2_000,
            subscriptions: Some(1_000),
            memory_kib: Some((5_000, 5_100)),
            messages,
            deliveries: 10 * messages,
            seconds: 2.0,
            cpu: Some(Duration::from_millis(cpu_ms)),
        };
        let unknown = Figures { subscriptions: None, cpu: None, ..figures(8, 0) };
        let command = super::super::declare(clap::Command::new("topics"));
        let matches = command.try_get_matches_from(["topics"]).expect("the defaults");
        let rows = vec![
            ("topics".to_owned(), vec![figures(2_000, 40), figures(4_000, 80), figures(3_000, 60)]),
            ("broadcast".to_owned(), vec![unknown]),
        ];
        let table = Table { rows, options: super::super::read(&matches).expect("the defaults") };
        let lines: Vec<String> = table.markdown().lines().map(str::to_owned).collect();
        assert_eq!(lines[2], "| topics | 2,000 | 102 | 1,500 | 15,000 | 20.0 | 2.00 |");
        assert_eq!(lines[3], "| broadcast | 2,000 |  | 4 | 40 |  |  |");
        assert_eq!(table.json()["cases"][0]["medians"]["messages_per_second"], 1_500.0);
        assert_eq!(table.json()["cases"][1]["medians"]["server_cpu_us_per_delivery"], Value::Null);
    }
}
