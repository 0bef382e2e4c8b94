//! The suite's table: as Markdown for the documentation, as JSON for programs, as a page for eyes.

use serde_json::{Value, json};

use super::page;
use super::row::Row;
use crate::bench::options::Options;
use crate::bench::report::write;

/// All rows, in the order of the documentation.
pub struct Table {
    pub rows: Vec<Row>,
    /// Nothing was lost, doubled or reordered.
    pub is_sound: bool,
    pub rounds: usize,
    /// Of sessions and seconds.
    pub scale: f64,
}

impl Table {
    /// Ready for the documentation.
    pub fn markdown(&self) -> String {
        let head = "| what | measured | target | | stands on |\n| --- | ---: | ---: | --- | --- |\n";
        self.rows.iter().fold(head.to_owned(), |table, row| table + &row.markdown())
    }

    pub fn json(&self) -> Value {
        json!({
            "warren": env!("CARGO_PKG_VERSION"),
            "ok": self.is_sound,
            "scale": self.scale,
            "rounds": self.rounds,
            "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
        })
    }

    /// Writes the files that were asked for.
    pub fn write(&self, options: &Options) -> anyhow::Result<()> {
        if let Some(path) = &options.json {
            write(path, &format!("{:#}\n", self.json()))?;
        }
        if let Some(path) = &options.html {
            write(path, &page::page(self))?;
        }
        Ok(())
    }

    /// Targets reached, missed, and not measured.
    pub fn counts(&self) -> [usize; 3] {
        let count = |verdict| self.rows.iter().filter(|row| row.target.is_set() && row.is_reached() == verdict).count();
        [count(Some(true)), count(Some(false)), count(None)]
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::Target;
    use super::*;

    fn table() -> Table {
        let rows = vec![
            Row::new("connects", "/s", Some(21_500.4), Target::AtLeast(20_000.0)).note("10,000 sessions"),
            Row::new("CPU", "× floor", Some(1.234), Target::AtMost(1.1)),
            Row::new("latency", "×", None, Target::AtMost(1.3)).note("no --broker"),
            Row::new("threads", "/s", Some(7.0), Target::Open),
        ];
        Table { rows, is_sound: true, rounds: 5, scale: 1.0 }
    }

    #[test]
    fn rows_become_markdown() {
        let markdown = table().markdown();
        let lines: Vec<&str> = markdown.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "| connects | 21,500 /s | ≥ 20,000 | reached | 10,000 sessions |",
                "| CPU | 1.23 × floor | ≤ 1.1 | **not reached** |  |",
                "| latency | – × | ≤ 1.3 | not measured | no --broker |",
                "| threads | 7.00 /s |  |  |  |",
            ]
        );
    }

    #[test]
    fn targets_are_counted() {
        assert_eq!(table().counts(), [1, 1, 1]);
    }

    #[test]
    fn programs_read_numbers() {
        let json = table().json();
        assert_eq!(json["rows"][0]["at_least"], 20_000.0);
        assert_eq!(json["rows"][1]["at_most"], 1.1);
        assert_eq!(json["rows"][1]["reached"], false);
        assert_eq!(json["rows"][3]["at_most"], Value::Null);
    }
}
