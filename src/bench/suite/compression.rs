//! What compression costs and saves, with JSON as an application would send it.

use super::local::rounds_line;
use super::row::{Row, Target};
use super::{Case, Suite, cpu, per_session};
use crate::bench::load::Pace;
use crate::bench::measure::Run;
use crate::bench::options::Work;
use crate::bench::payload::Content;
use crate::bench::report::{median_of, ratio_of, shown};

const SIZE: usize = 1024;

impl Suite<'_> {
    /// The same messages plain and compressed; then sessions that agreed to compression and hear nothing.
    pub fn compression(&mut self) -> anyhow::Result<()> {
        let plain = Work { size: SIZE, content: Content::Json, ..self.short_work(5_000, Pace::Rate(20.0)) };
        let compressed = Work { compress: true, ..plain.clone() };
        let stands_on = format!("{} sessions, {}", plain.sessions, plain.pace);
        let kind = self.warren();
        let cases = [
            Case { name: "warren", kind: kind.clone(), work: plain },
            Case { name: "warren, compressed", kind: kind.clone(), work: compressed },
        ];
        let [plain, compressed] = self.in_turn(self.few_rounds(), &cases)?;
        let mut compare = |what: &str, unit, decimals, of: fn(&Run) -> Option<f64>| {
            let [with, without] = [&compressed, &plain].map(|runs| shown(median_of(runs, of), decimals));
            let row = Row::new(what, "× plain", ratio_of(&compressed, &plain, of), Target::Open);
            self.add(row.note(format!("{stands_on}; {with} against {without} {unit}")));
        };
        compare("CPU per delivery of 1 KiB of JSON, compressed", "µs", 2, cpu);
        compare("bytes on the wire per delivery of it", "bytes", 0, wire_bytes);
        let work = self.work(10_000, Pace::Window(1));
        let idle = Work { connect_only: true, compress: true, ..work };
        let what = format!("memory per idle session of {}, with compression", idle.sessions);
        let rounds = self.few_rounds();
        let [runs] = self.in_turn(rounds, &[Case { name: "warren, compressed", kind, work: idle }])?;
        let note = format!("PSS; {}", rounds_line(rounds));
        self.add(Row::new(what, "KiB", median_of(&runs, per_session), Target::AtMost(1.0)).note(note));
        Ok(())
    }
}

fn wire_bytes(run: &Run) -> Option<f64> {
    run.traffic.as_ref().map(|traffic| traffic.wire_bytes_per_delivery)
}
