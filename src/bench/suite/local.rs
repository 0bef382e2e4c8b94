//! The parts of the suite about one instance: what a delivery, a session and a connect take.

use super::row::{Row, Target};
use super::{Case, NO_BROKER, Suite, cpu, deliveries, leave, per_session};
use crate::bench::load::Pace;
use crate::bench::measure::Run;
use crate::bench::options::Work;
use crate::bench::report::{median, median_of, ratio_of, shown};
use crate::bench::server::{Kind, Own, Server};

/// Frames in each write of the floor that a loaded server is compared with.
pub const LOADED_FRAMES: usize = 8;

/// Deliveries a second that a loaded Warren must reach in process.
const DELIVERIES: f64 = 1_100_000.0;

/// CPU per delivery of a loaded Warren, by the floor's.
const LOADED_TARGET: Target = Target::AtMost(1.3);

/// Messages on their way where a server that writes about half of them at a time joins as many as the floor.
const LOADED_MORE: Pace = Pace::Window(2 * LOADED_FRAMES as u32);

/// Messages on their way where a server is loaded: as many as the floor joins.
pub const LOADED: Pace = Pace::Window(LOADED_FRAMES as u32);

/// What the rows of [`Suite::loaded`] must reach.
struct LoadedTargets {
    cpu: Target,
    deliveries: Target,
    through_rabbitmq: Target,
}

impl Suite<'_> {
    /// One message at a time: one write for each session, which nobody can save.
    pub fn one_write_each(&mut self) -> anyhow::Result<()> {
        let work = self.work(5_000, Pace::Rate(20.0));
        self.against_single_frames("CPU per delivery, one write each", work, self.rounds, Target::AtMost(1.1))
    }

    /// As fast as it goes, where messages can be joined.
    pub fn under_load(&mut self) -> anyhow::Result<()> {
        let targets = LoadedTargets {
            cpu: LOADED_TARGET,
            deliveries: Target::AtLeast(DELIVERIES),
            // Four fifths of what is asked of the in-process broker.
            through_rabbitmq: Target::AtLeast(0.8 * DELIVERIES),
        };
        self.loaded("", self.work(1_000, LOADED), self.rounds, &targets)
    }

    /// With twice as many messages on their way: a server that writes some while others come joins about half of them.
    pub fn under_more_load(&mut self) -> anyhow::Result<()> {
        let work = self.work(1_000, LOADED_MORE);
        let floor = Case { name: "floor", kind: Kind::Floor { frames: LOADED_FRAMES }, work: work.clone() };
        let warren = Case { name: "warren", kind: self.warren(), work: work.clone() };
        let [floor, warren] = self.in_turn(self.rounds, &[floor, warren])?;
        let what = format!("CPU per delivery under load, {}", work.pace);
        self.add(loaded_row(what, &work, &warren, &floor, LOADED_TARGET));
        Ok(())
    }

    /// Both of the above for larger messages, fewer of them where they are large.
    pub fn larger_payloads(&mut self) -> anyhow::Result<()> {
        let targets = LoadedTargets { cpu: Target::Open, deliveries: Target::Open, through_rabbitmq: Target::Open };
        for (size, name, rate) in [(1024, "1 KiB", 100.0), (16 * 1024, "16 KiB", 50.0)] {
            let what = format!("CPU per delivery of {name}, one write each");
            let single = Work { size, ..self.short_work(1_000, Pace::Rate(rate)) };
            self.against_single_frames(&what, single, self.few_rounds(), Target::Open)?;
            let loaded = Work { size, ..self.short_work(1_000, LOADED) };
            self.loaded(&format!(" of {name}"), loaded, self.few_rounds(), &targets)?;
        }
        Ok(())
    }

    /// Through RabbitMQ, as messages go in a cluster, beside a floor that writes frame by frame.
    fn against_single_frames(&mut self, what: &str, work: Work, rounds: usize, target: Target) -> anyhow::Result<()> {
        let (kind, name, through) = match self.warren_on_rabbitmq() {
            Some(kind) => (kind, "warren on RabbitMQ", "through RabbitMQ".to_owned()),
            None => (self.warren(), "warren", format!("in process ({NO_BROKER})")),
        };
        let floor = Case { name: "floor", kind: Kind::Floor { frames: 1 }, work: work.clone() };
        let [floor, warren] = self.in_turn(rounds, &[floor, Case { name, kind, work: work.clone() }])?;
        let [own, least] = [&warren, &floor].map(|runs| shown(median_of(runs, cpu), 2));
        let note = format!("{} sessions, {}, {through}; {own} against {least} µs", work.sessions, work.pace);
        self.add(Row::new(what, "× floor", ratio_of(&warren, &floor, cpu), target).note(note));
        Ok(())
    }

    /// In a closed loop: CPU beside the floor, deliveries, and what RabbitMQ leaves of them.
    fn loaded(&mut self, of: &str, work: Work, rounds: usize, targets: &LoadedTargets) -> anyhow::Result<()> {
        let case = |name, kind| Case { name, kind, work: work.clone() };
        let floor = case("floor", Kind::Floor { frames: LOADED_FRAMES });
        let warren = case("warren", self.warren());
        let (floor, warren, rabbit) = match self.warren_on_rabbitmq() {
            Some(kind) => self.in_turn(rounds, &[floor, warren, case("warren on RabbitMQ", kind)])?.into(),
            None => {
                let [floor, warren] = self.in_turn(rounds, &[floor, warren])?;
                (floor, warren, Vec::new())
            }
        };
        let stands_on = format!("{} sessions, {}", work.sessions, work.pace);
        self.add(loaded_row(format!("CPU per delivery{of} under load"), &work, &warren, &floor, targets.cpu));
        let [own, most] = [&warren, &floor].map(|runs| median_of(runs, deliveries));
        let row = Row::new(format!("deliveries{of}, in process"), "/s", own, targets.deliveries);
        self.add(row.note(format!("{stands_on}; floor {}", shown(most, 0))));
        let through = median_of(&rabbit, deliveries);
        let note = match ratio_of(&rabbit, &warren, deliveries) {
            Some(share) => format!("{stands_on}; {share:.2} × in process"),
            None => NO_BROKER.to_owned(),
        };
        let what = format!("deliveries{of} through RabbitMQ");
        self.add(Row::new(what, "/s", through, targets.through_rabbitmq).note(note));
        Ok(())
    }

    pub fn idle_memory(&mut self) -> anyhow::Result<()> {
        let places = [
            (10_000, "in process", Some(self.warren())),
            (10_000, "on RabbitMQ", self.warren_on_rabbitmq()),
            (18_000, "in process", Some(self.warren())),
        ];
        for (sessions, place, kind) in places {
            let work = Work { connect_only: true, ..self.work(sessions, Pace::Window(1)) };
            let what = format!("memory per idle session of {}, {place}", work.sessions);
            let rounds = self.few_rounds();
            let Some(kind) = kind else {
                self.begin();
                self.add(Row::new(what, "KiB", None, Target::AtMost(1.0)).note(NO_BROKER));
                continue;
            };
            let [runs] = self.in_turn(rounds, &[Case { name: "warren", kind, work }])?;
            let note = format!("PSS; {}", rounds_line(rounds));
            self.add(Row::new(what, "KiB", median_of(&runs, per_session), Target::AtMost(1.0)).note(note));
        }
        Ok(())
    }

    pub fn connects(&mut self) -> anyhow::Result<()> {
        let work = Work { connect_only: true, ..self.work(10_000, Pace::Window(1)) };
        let case = Case { name: "warren", kind: self.warren(), work: work.clone() };
        let [runs] = self.in_turn(self.rounds, &[case])?;
        let stands_on = format!("{} sessions, {} at a time", work.sessions, work.concurrency);
        let speed = median_of(&runs, |run| Some(run.connect.per_second));
        self.add(Row::new("connects", "/s", speed, Target::AtLeast(20_000.0)).note(stands_on.clone()));
        let cpu = median_of(&runs, |run| run.connect.server_cpu_us);
        self.add(Row::new("CPU per connect", "µs", cpu, Target::AtMost(30.0)).note(stands_on));
        Ok(())
    }

    pub fn handshakes_while_all_leave(&mut self) -> anyhow::Result<()> {
        let work = self.work(10_000, Pace::Window(1));
        let mut slowest = Vec::new();
        for _ in 0..self.few_rounds() {
            let server = Server::start(&self.warren())?;
            self.progress.begin(format!("warren: {} sessions leave at once", work.sessions));
            let (handshake, faults) = leave::slowest_handshake(work.plan(&server.targets), self.interrupt)?;
            self.judge("warren", &faults, None);
            slowest.push(handshake.as_secs_f64() * 1e3);
        }
        let what = format!("slowest handshake while {} sessions leave", work.sessions);
        let note = format!("one after the other; {}", rounds_line(slowest.len()));
        self.add(Row::new(what, "ms", median(&slowest), Target::AtMost(30.0)).note(note));
        Ok(())
    }

    /// Messages that come a little apart: a short wait joins them to fewer writes, at the price of that wait.
    pub fn coalescing(&mut self) -> anyhow::Result<()> {
        const WAIT_MS: u32 = 2;
        let work = Work { publishers: 8, ..self.short_work(500, Pace::Rate(800.0)) };
        let work = Work { sessions: work.sessions.max(work.publishers), ..work };
        let case = |name, coalesce_ms| {
            let kind = Kind::Warren(Own { coalesce_ms, ..Own::default() });
            Case { name, kind, work: work.clone() }
        };
        let cases = [case("warren", 0), case("warren with --coalesce-ms", WAIT_MS)];
        let [at_once, waiting] = self.in_turn(self.few_rounds(), &cases)?;
        let p50 = |run: &_| latency_p50(run);
        let stands_on = format!("{} sessions, {} of {} publishers", work.sessions, work.pace, work.publishers);
        let [with, without] = [&waiting, &at_once].map(|runs| shown(median_of(runs, cpu), 2));
        let what = format!("CPU per delivery with --coalesce-ms {WAIT_MS}");
        let row = Row::new(what, "× at once", ratio_of(&waiting, &at_once, cpu), Target::Open);
        self.add(row.note(format!("{stands_on}; {with} against {without} µs")));
        let [with, without] = [&waiting, &at_once].map(|runs| shown(median_of(runs, p50), 0));
        let what = format!("latency p50 with --coalesce-ms {WAIT_MS}");
        let row = Row::new(what, "× at once", ratio_of(&waiting, &at_once, p50), Target::Open);
        self.add(row.note(format!("{stands_on}; {with} against {without} µs")));
        Ok(())
    }

    pub fn worker_threads(&mut self) -> anyhow::Result<()> {
        let work = self.short_work(1_000, LOADED);
        let case = |name, worker_threads| {
            let kind = Kind::Warren(Own { worker_threads, ..Own::default() });
            Case { name, kind, work: work.clone() }
        };
        let cases = [case("warren, 1 thread", 1), case("warren, 2 threads", 2)];
        let runs = self.in_turn(self.few_rounds(), &cases)?;
        for (threads, runs) in ["1 worker thread", "2 worker threads"].into_iter().zip(&runs) {
            let note = format!("{} µs CPU per delivery", shown(median_of(runs, cpu), 3));
            let what = format!("deliveries with {threads}");
            self.add(Row::new(what, "/s", median_of(runs, deliveries), Target::Open).note(note));
        }
        Ok(())
    }
}

fn loaded_row(what: String, work: &Work, warren: &[Run], floor: &[Run], target: Target) -> Row {
    let [own, least] = [warren, floor].map(|runs| shown(median_of(runs, cpu), 2));
    let note = format!("{} sessions, {}; {own} against {least} µs", work.sessions, work.pace);
    Row::new(what, "× floor of 8 frames a write", ratio_of(warren, floor, cpu), target).note(note)
}

/// Of how many rounds a row has the median.
pub fn rounds_line(rounds: usize) -> String {
    if rounds == 1 { "one round".to_owned() } else { format!("median of {rounds} rounds") }
}

fn latency_p50(run: &Run) -> Option<f64> {
    run.traffic.as_ref().map(|traffic| traffic.latency.p50_us)
}
