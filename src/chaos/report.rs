//! The outcome, for eyes and for programs.

use std::time::Duration;

use serde_json::{Value, json};

use super::balance::{Balance, LostMessage, Sums};
use super::options::Options;
use super::strike::Struck;
use crate::bench::progress::grouped;
use crate::bench::report::aligned;
use crate::broker::Delivery;

/// All that a run came to.
pub struct Report {
    pub faults: Vec<Struck>,
    pub balance: Balance,
    pub memory: Vec<Memory>,
    /// What the guarantee forbids.
    pub forbidden: Vec<String>,
}

/// The memory of one instance, in KiB of PSS.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// After two minutes, if the run was so long and the instance is still the same process.
    pub early_kib: Option<u64>,
    pub end_kib: Option<u64>,
}

impl Report {
    pub fn text(&self, options: &Options) -> String {
        let mut text = format!("{options}; seed {}\n", options.seed);
        if !self.faults.is_empty() {
            text += &format!("\n{}", aligned(&self.fault_lines(options)));
        }
        text += &format!("\n{}", aligned(&self.sum_lines(options)));
        for (why, count) in &self.balance.ends {
            text += &format!("\n{} × {why}", grouped(*count));
        }
        for (index, memory) in self.memory.iter().enumerate() {
            text += &format!("\nmemory of instance {}: {memory}", index + 1);
        }
        if self.forbidden.is_empty() {
            return text + "\nThe guarantee was kept.\n";
        }
        // The first of them, for who looks for the cause.
        for lost in &self.balance.lost {
            text += &format!("\n{lost}");
        }
        for sentence in &self.forbidden {
            text += &format!("\nFORBIDDEN: {sentence}");
        }
        text + "\n"
    }

    fn fault_lines(&self, options: &Options) -> Vec<Vec<String>> {
        let headings = ["fault", "at", "outstanding", "in vain before", "mended after", "flow back after"];
        let of_queue: &[&str] = &["messages lost", "told missing"];
        let of_queue = if options.guarantee() == Delivery::Queue { of_queue } else { &[] };
        let mut lines = vec![headings.iter().chain(of_queue).map(|&heading| heading.to_owned()).collect()];
        for struck in &self.faults {
            let after = |time: Duration| seconds(time.saturating_sub(struck.at));
            let outstanding = grouped(struck.outstanding);
            let outstanding = if struck.counts() { outstanding } else { format!("{outstanding} (not counted)") };
            let flowed = struck.flowed.map_or_else(|| "never".to_owned(), after);
            let in_vain = struck.in_vain.to_string();
            let fault = struck.fault.to_string();
            let times = [seconds(struck.at), outstanding, in_vain, after(struck.mended), flowed];
            let counts = [&struck.lost, &struck.told].map(|of_instances| grouped(of_instances.iter().sum()));
            lines.push([fault].into_iter().chain(times).chain(counts.into_iter().take(of_queue.len())).collect());
        }
        lines
    }

    fn sum_lines(&self, options: &Options) -> Vec<Vec<String>> {
        let columns: Vec<&Column> =
            COLUMNS.iter().filter(|column| !column.of_queue || options.guarantee() == Delivery::Queue).collect();
        let headings = std::iter::once(String::new()).chain(columns.iter().map(|column| column.heading.to_owned()));
        let mut lines = vec![headings.collect()];
        let line = |name: String, sums: &Sums| {
            std::iter::once(name).chain(columns.iter().map(|column| grouped((column.of)(sums)))).collect()
        };
        for (index, sums) in self.balance.instances.iter().enumerate() {
            lines.push(line(format!("instance {}", index + 1), sums));
        }
        lines.push(line("all".to_owned(), &self.balance.all()));
        lines
    }

    pub fn json(&self, options: &Options) -> Value {
        let faults: Vec<Value> = self.faults.iter().map(fault_json).collect();
        let memory = |memory: &Memory| json!({ "two_minutes_kib": memory.early_kib, "end_kib": memory.end_kib });
        json!({
            "warren": env!("CARGO_PKG_VERSION"),
            "ok": self.forbidden.is_empty(),
            "forbidden": self.forbidden,
            "seed": options.seed,
            "delivery": options.guarantee().to_string(),
            "instances": options.instances,
            "sessions": options.sessions,
            "publishers": options.publishers,
            "rate_per_second": options.rate,
            "duration_seconds": options.duration.as_secs_f64(),
            "faults": faults,
            "by_instance": self.balance.instances,
            "all": self.balance.all(),
            "ends": self.balance.ends,
            "memory": self.memory.iter().map(memory).collect::<Vec<_>>(),
        })
    }
}

struct Column {
    heading: &'static str,
    of: fn(&Sums) -> u64,
    /// Says nothing where nothing may be lost at all.
    of_queue: bool,
}

const COLUMNS: [Column; 9] = [
    column("accepted", |sums| sums.accepted),
    column("told", |sums| sums.told),
    column("delivered", |sums| sums.delivered),
    column("lost", |sums| sums.lost),
    Column { of_queue: true, ..column("messages lost", |sums| sums.messages_lost) },
    Column { of_queue: true, ..column("told missing", |sums| sums.messages_told_missing) },
    column("duplicated", |sums| sums.duplicated),
    column("reordered", |sums| sums.reordered),
    column("disconnected without cause", |sums| sums.disconnected),
];

const fn column(heading: &'static str, of: fn(&Sums) -> u64) -> Column {
    Column { heading, of, of_queue: false }
}

fn fault_json(struck: &Struck) -> Value {
    json!({
        "kind": struck.fault.kind,
        "instance": struck.fault.instance.map(|instance| instance + 1),
        "hold_seconds": struck.fault.hold.as_secs_f64(),
        "extent": struck.fault.extent,
        "at_seconds": struck.at.as_secs_f64(),
        "outstanding": struck.outstanding,
        "counts": struck.counts(),
        "in_vain_before": struck.in_vain,
        "mended_after_seconds": struck.mended.saturating_sub(struck.at).as_secs_f64(),
        "flow_back_after_seconds": struck.flowed.map(|flowed| flowed.saturating_sub(struck.at).as_secs_f64()),
        "messages_lost": struck.lost,
        "messages_told_missing": struck.told,
        "trouble": struck.trouble,
    })
}

impl std::fmt::Display for LostMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let LostMessage { at_instance, from_instance, sender, number, sent } = self;
        let (at, from, sent) = (at_instance + 1, from_instance + 1, sent.as_secs_f64());
        write!(f, "lost at instance {at}: message {number} of sender {sender} on instance {from}, sent at {sent:.3} s")
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |kib: Option<u64>| kib.map_or_else(|| "unknown".to_owned(), |kib| format!("{} KiB", grouped(kib)));
        write!(f, "{} at the end", shown(self.end_kib))?;
        if let (Some(early), Some(end)) = (self.early_kib, self.end_kib) {
            let change = (end as f64 / early.max(1) as f64 - 1.0) * 100.0;
            write!(f, ", {} after two minutes ({change:+.1} %)", shown(self.early_kib))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::script::{Fault, Kind};

    fn options(line: &str) -> Options {
        let command = crate::chaos::declare(clap::Command::new("chaos"));
        let words = ["chaos", "--seed", "7"].into_iter().chain(line.split_whitespace());
        crate::chaos::read(&command.try_get_matches_from(words).expect("arguments")).expect("options")
    }

    fn report(forbidden: Vec<String>) -> Report {
        let time = Duration::from_secs;
        let fault = Fault { at: time(3), kind: Kind::BrokerKill, instance: None, hold: time(1), extent: None };
        let struck = Struck {
            fault,
            at: time(3),
            outstanding: 0,
            in_vain: 2,
            mended: time(5),
            flowed: None,
            lost: vec![3, 3],
            told: vec![3, 4],
            trouble: None,
        };
        let sums = Sums { accepted: 1_000, lost: 5, messages_lost: 3, ..Sums::default() };
        let lost =
            LostMessage { at_instance: 0, from_instance: 1, sender: 3, number: 17, sent: Duration::from_millis(4_500) };
        let balance = Balance {
            instances: vec![sums; 2],
            ends: [("lost".to_owned(), 4)].into(),
            lost: vec![lost],
            messages_lost: vec![vec![3, 3]],
        };
        let memory = vec![Memory { early_kib: Some(1_000), end_kib: Some(1_050) }, Memory::default()];
        Report { faults: vec![struck], balance, memory, forbidden }
    }

    #[test]
    fn the_text_tells_all() {
        let text = report(vec!["5 deliveries were lost".to_owned()]).text(&options(""));
        for part in [
            "seed 7",
            "broker-kill, for 1.0 s",
            "0 (not counted)",
            "never",
            "told missing",
            "4 × lost",
            "lost at instance 1: message 17 of sender 3 on instance 2, sent at 4.500 s",
            "memory of instance 1: 1,050 KiB at the end, 1,000 KiB after two minutes (+5.0 %)",
            "memory of instance 2: unknown at the end",
            "FORBIDDEN: 5 deliveries were lost",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let fault = text.lines().find(|line| line.contains("not counted")).expect("the fault");
        assert_eq!(fault.split_whitespace().rev().take(3).collect::<Vec<_>>(), ["7", "6", "never"]);
        let all = text.lines().find(|line| line.starts_with("all")).expect("the sums");
        assert_eq!(
            all.split_whitespace().collect::<Vec<_>>(),
            ["all", "2,000", "0", "0", "10", "6", "0", "0", "0", "0"]
        );
    }

    #[test]
    fn a_stream_has_no_columns_of_queues() {
        let text = report(Vec::new()).text(&options("--delivery stream"));
        assert!(!text.contains("told missing") && text.contains("The guarantee was kept."), "{text}");
    }

    #[test]
    fn programs_get_the_same() {
        let value = report(Vec::new()).json(&options(""));
        assert_eq!((&value["ok"], &value["seed"]), (&json!(true), &json!(7)));
        assert_eq!(value["faults"][0]["kind"], "broker-kill");
        assert_eq!(value["faults"][0]["flow_back_after_seconds"], Value::Null);
        assert_eq!(value["faults"][0]["messages_told_missing"], json!([3, 4]));
        assert_eq!(value["all"]["lost"], 10);
        assert_eq!(value["by_instance"][1]["accepted"], 1_000);
    }
}
