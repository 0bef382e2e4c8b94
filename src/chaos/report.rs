//! The outcome, for eyes and for programs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::balance::{Balance, LostMessage, Sums};
use super::options::Options;
use super::strike::Struck;
use super::subject::Route;
use super::users::MailSums;
use crate::bench::progress::grouped;
use crate::bench::report::aligned;

/// All that a run came to.
pub struct Report {
    pub faults: Vec<Struck>,
    pub balances: Vec<(Route, Balance)>,
    /// What was written to users, if there were any.
    pub mail: Option<MailSums>,
    /// Messages that each instance itself says are missing.
    pub told_missing: Vec<u64>,
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
        text += &self.mail.iter().map(|sums| format!("\n{}", aligned(&mail_lines(sums)))).collect::<String>();
        for (why, count) in self.ends() {
            text += &format!("\n{} × {why}", grouped(count));
        }
        for (index, memory) in self.memory.iter().enumerate() {
            text += &format!("\nmemory of instance {}: {memory}", index + 1);
        }
        if self.forbidden.is_empty() {
            return text + "\nThe guarantee was kept.\n";
        }
        // The first of them, for who looks for the cause.
        for lost in self.balances.iter().flat_map(|(_, balance)| &balance.lost) {
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
        let of_queue = if options.has_queues() { of_queue } else { &[] };
        let of_users: &[&str] = if self.mail.is_some() { &["unseen by users"] } else { &[] };
        let all = headings.iter().chain(of_users).chain(of_queue);
        let mut lines = vec![all.map(|&heading| heading.to_owned()).collect()];
        for struck in &self.faults {
            let after = |time: Duration| seconds(time.saturating_sub(struck.at));
            let outstanding = grouped(struck.outstanding);
            let outstanding = if struck.counts() { outstanding } else { format!("{outstanding} (not counted)") };
            let flowed = struck.flowed.map_or_else(|| "never".to_owned(), after);
            let in_vain = struck.in_vain.to_string();
            let fault = struck.fault.to_string();
            let times = [seconds(struck.at), outstanding, in_vain, after(struck.mended), flowed];
            let counts = [&struck.lost, &struck.told].map(|of_instances| grouped(of_instances.iter().sum()));
            let letters = self.mail.map(|_| grouped(struck.letters));
            let counts = counts.into_iter().take(of_queue.len());
            lines.push([fault].into_iter().chain(times).chain(letters).chain(counts).collect());
        }
        lines
    }

    /// A line for each instance, for each route where there are two, and for all. What was told missing is known of
    /// instances only.
    fn sum_lines(&self, options: &Options) -> Vec<Vec<String>> {
        let mut headings: Vec<&str> = std::iter::once("").chain(COLUMNS.map(|(heading, _)| heading)).collect();
        let line = |name: String, sums: &Sums| -> Vec<String> {
            std::iter::once(name).chain(COLUMNS.map(|(_, of)| grouped(of(sums)))).collect()
        };
        let instances = self.by_instance();
        let of_instance = |(index, sums)| line(format!("instance {}", index + 1), sums);
        let mut lines: Vec<_> = instances.iter().enumerate().map(of_instance).collect();
        if self.balances.len() > 1 {
            lines.extend(self.balances.iter().map(|(route, balance)| line(route.name().to_owned(), &balance.all())));
        }
        lines.push(line("all".to_owned(), &self.all()));
        if options.has_queues() {
            headings.push("told missing");
            let count = lines.len();
            let told = |place| match self.told_missing.get(place) {
                Some(told) => grouped(*told),
                None if place + 1 == count => grouped(self.told_missing.iter().sum()),
                None => String::new(),
            };
            lines.iter_mut().enumerate().for_each(|(place, line)| line.push(told(place)));
        }
        std::iter::once(headings.into_iter().map(str::to_owned).collect()).chain(lines).collect()
    }

    /// The sums of each instance, over all routes.
    fn by_instance(&self) -> Vec<Sums> {
        let mut instances = vec![Sums::default(); self.told_missing.len()];
        for (_, balance) in &self.balances {
            instances.iter_mut().zip(&balance.instances).for_each(|(all, sums)| *all += *sums);
        }
        instances
    }

    fn all(&self) -> Sums {
        let mut all = Sums::default();
        self.by_instance().into_iter().for_each(|sums| all += sums);
        all
    }

    /// Why connections ended, and how many did.
    fn ends(&self) -> BTreeMap<&str, u64> {
        let mut ends = BTreeMap::new();
        for (why, count) in self.balances.iter().flat_map(|(_, balance)| &balance.ends) {
            *ends.entry(why.as_str()).or_default() += count;
        }
        ends
    }

    pub fn json(&self, options: &Options) -> Value {
        let faults: Vec<Value> = self.faults.iter().map(fault_json).collect();
        let by_route: serde_json::Map<String, Value> =
            self.balances.iter().map(|(route, balance)| (route.name().to_owned(), json!(balance.all()))).collect();
        let memory = |memory: &Memory| json!({ "two_minutes_kib": memory.early_kib, "end_kib": memory.end_kib });
        json!({
            "warren": env!("CARGO_PKG_VERSION"),
            "ok": self.forbidden.is_empty(),
            "forbidden": self.forbidden,
            "seed": options.seed,
            "delivery": options.delivery().to_string(),
            "instances": options.instances,
            "sessions": options.sessions,
            "publishers": options.publishers,
            "topics": options.topics,
            "users": options.users,
            "letters_per_second": options.letters,
            "rate_per_second": options.rate,
            "duration_seconds": options.duration.as_secs_f64(),
            "faults": faults,
            "by_instance": self.by_instance(),
            "by_route": by_route,
            "all": self.all(),
            "to_users": self.mail,
            "messages_told_missing": self.told_missing,
            "ends": self.ends(),
            "memory": self.memory.iter().map(memory).collect::<Vec<_>>(),
        })
    }
}

/// A heading, and what stands below it.
type Column = (&'static str, fn(&Sums) -> u64);

const COLUMNS: [Column; 9] = [
    ("accepted", |sums| sums.accepted),
    ("told", |sums| sums.told),
    ("delivered", |sums| sums.delivered),
    ("lost", |sums| sums.lost),
    ("messages lost", |sums| sums.messages_lost),
    ("duplicated", |sums| sums.duplicated),
    ("unwanted", |sums| sums.unwanted),
    ("reordered", |sums| sums.reordered),
    ("disconnected without cause", |sums| sums.disconnected),
];

/// What became of messages to users: a line beneath its headings.
fn mail_lines(sums: &MailSums) -> Vec<Vec<String>> {
    let columns = [
        ("accepted", sums.accepted),
        ("told", sums.told),
        ("seen", sums.seen),
        ("lost", sums.lost),
        ("repeated", sums.repeated),
        ("reordered", sums.reordered),
        ("unwanted", sums.unwanted),
        ("disconnected without cause", sums.disconnected),
    ];
    let line = |first: &str, of: &dyn Fn(&(&str, u64)) -> String| {
        std::iter::once(first.to_owned()).chain(columns.iter().map(of)).collect()
    };
    vec![line("", &|(heading, _)| (*heading).to_owned()), line("to users", &|(_, count)| grouped(*count))]
}

fn fault_json(struck: &Struck) -> Value {
    json!({
        "kind": struck.fault.kind,
        "instance": struck.fault.instance.map(|instance| instance + 1),
        "hold_seconds": struck.fault.hold.as_secs_f64(),
        "extent": struck.fault.extent,
        "at_seconds": struck.at.as_secs_f64(),
        "outstanding": struck.outstanding,
        "unseen_by_users": struck.letters,
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
        let LostMessage { at_instance, from_instance, sender, subject, number, sent } = self;
        let (at, from, sent) = (at_instance + 1, from_instance + 1, sent.as_secs_f64());
        write!(
            f,
            "lost at instance {at}: message {number} of sender {sender} on instance {from} to {subject}, sent at \
             {sent:.3} s"
        )
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
    use crate::chaos::subject::Subject;

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
            letters: 12,
            in_vain: 2,
            mended: time(5),
            flowed: None,
            lost: vec![3, 3],
            told: vec![3, 4],
            trouble: None,
        };
        let sums = Sums { accepted: 1_000, lost: 5, messages_lost: 3, ..Sums::default() };
        let lost = LostMessage {
            at_instance: 0,
            from_instance: 1,
            sender: 3,
            subject: Subject::Topic(2),
            number: 17,
            sent: Duration::from_millis(4_500),
        };
        let balance = Balance {
            instances: vec![sums; 2],
            ends: [("lost".to_owned(), 4)].into(),
            lost: vec![lost],
            messages_lost: vec![vec![3, 3]],
        };
        let memory = vec![Memory { early_kib: Some(1_000), end_kib: Some(1_050) }, Memory::default()];
        let topics =
            Balance { instances: vec![Sums { accepted: 10, unwanted: 1, ..Sums::default() }; 2], ..Balance::default() };
        let balances = vec![(Route::Broadcast, balance), (Route::Topics, topics)];
        let mail = Some(MailSums { accepted: 40, seen: 60, repeated: 7, ..MailSums::default() });
        Report { faults: vec![struck], balances, mail, told_missing: vec![3, 4], memory, forbidden }
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
            "lost at instance 1: message 17 of sender 3 on instance 2 to chaos.2, sent at 4.500 s",
            "memory of instance 1: 1,050 KiB at the end, 1,000 KiB after two minutes (+5.0 %)",
            "memory of instance 2: unknown at the end",
            "FORBIDDEN: 5 deliveries were lost",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let fault = text.lines().find(|line| line.contains("not counted")).expect("the fault");
        assert_eq!(fault.split_whitespace().rev().take(4).collect::<Vec<_>>(), ["7", "6", "12", "never"]);
        for (name, sums) in [
            ("broadcast", "2,000 0 0 10 6 0 0 0 0"),
            ("topics", "20 0 0 0 0 0 2 0 0"),
            ("all", "2,020 0 0 10 6 0 2 0 0 7"),
            ("to users", "users 40 0 60 0 7 0 0 0"),
        ] {
            let line = text.lines().find(|line| line.starts_with(name)).expect("the sums");
            assert_eq!(line.split_whitespace().skip(1).collect::<Vec<_>>().join(" "), sums, "{name}");
        }
    }

    #[test]
    fn a_stream_has_no_columns_of_queues() {
        let text = report(Vec::new()).text(&options("--delivery stream --topics 0"));
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
        assert_eq!(value["by_instance"][1]["accepted"], 1_010);
        assert_eq!(value["by_route"]["topics"]["unwanted"], 2);
        assert_eq!((&value["to_users"]["accepted"], &value["faults"][0]["unseen_by_users"]), (&json!(40), &json!(12)));
    }
}
