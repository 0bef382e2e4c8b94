//! The parts of the suite that need nothing but this machine.

use super::Suite;
use super::leave;
use super::row::{Row, Target};
use crate::bench::load::Pace;
use crate::bench::measure::{Run, Traffic};
use crate::bench::options::Work;
use crate::bench::report::{median_of, ratio_of, shown};
use crate::bench::server::{Kind, Server};

/// Frames in each write of the floor that a loaded server is compared with.
const LOADED_FRAMES: usize = 8;

fn cpu(run: &Run) -> Option<f64> {
    run.traffic.as_ref()?.server_cpu_us_per_delivery
}

pub fn deliveries(run: &Run) -> Option<f64> {
    run.traffic.as_ref().map(|traffic: &Traffic| traffic.deliveries_per_second)
}

fn per_session(run: &Run) -> Option<f64> {
    run.memory.as_ref().map(|memory| memory.idle_kib_per_session)
}

impl Suite<'_> {
    /// One message at a time: one write for each session, which nobody can save.
    pub fn one_write_each(&mut self) -> anyhow::Result<()> {
        let work = self.work(5_000, Pace::Rate(20.0));
        let row = self.against_floor("CPU per delivery, one write each", &work, 1, Target::AtMost(1.1))?;
        self.rows.push(row);
        Ok(())
    }

    /// As fast as it goes, where messages can be joined.
    pub fn under_load(&mut self) -> anyhow::Result<()> {
        let work = self.work(1_000, Pace::Window(LOADED_FRAMES as u32));
        let mut kinds = vec![("floor", Kind::Floor { frames: LOADED_FRAMES }), ("warren", self.warren())];
        if let Some(broker) = self.broker.clone() {
            kinds.push(("warren on RabbitMQ", Kind::Warren { broker: Some(broker), instances: 1, worker_threads: 0 }));
        }
        let runs = self.side_by_side(&kinds, &work)?;
        let stands_on = format!("{} sessions, window {LOADED_FRAMES}", work.sessions);
        let ratio = ratio_of(&runs[1], &runs[0], cpu);
        self.rows.push(
            Row::new("CPU per delivery under load", "× floor of 8 frames a write", ratio, Target::AtMost(1.3))
                .note(stands_on.clone()),
        );
        let speed = median_of(&runs[1], deliveries);
        self.rows.push(
            Row::new("deliveries, in process", "/s", speed, Target::AtLeast(1_100_000.0))
                .note(format!("{stands_on}; floor {}", shown(median_of(&runs[0], deliveries), 0))),
        );
        let share = runs.get(2).and_then(|rabbit| ratio_of(rabbit, &runs[1], deliveries));
        let note = if runs.len() > 2 { stands_on } else { super::cluster::NO_BROKER.to_owned() };
        let row = Row::new("deliveries through RabbitMQ", "× in process", share, Target::AtLeast(0.8));
        self.rows.push(row.note(note));
        Ok(())
    }

    pub fn idle_memory(&mut self) -> anyhow::Result<()> {
        for sessions in [10_000, 18_000] {
            let work = Work { connect_only: true, ..self.work(sessions, Pace::Window(1)) };
            let run = self.measure("warren", &self.warren(), &work)?;
            let what = format!("memory per idle session of {}", work.sessions);
            self.rows.push(Row::new(what, "KiB", per_session(&run), Target::AtMost(1.0)).note("PSS"));
        }
        Ok(())
    }

    pub fn connects(&mut self) -> anyhow::Result<()> {
        let work = Work { connect_only: true, ..self.work(10_000, Pace::Window(1)) };
        let runs = self.side_by_side(&[("warren", self.warren())], &work)?.swap_remove(0);
        let stands_on = format!("{} sessions, {} at a time", work.sessions, work.concurrency);
        let speed = median_of(&runs, |run| Some(run.connect.per_second));
        self.rows.push(Row::new("connects", "/s", speed, Target::AtLeast(20_000.0)).note(stands_on.clone()));
        let cpu = median_of(&runs, |run| run.connect.server_cpu_us);
        self.rows.push(Row::new("CPU per connect", "µs", cpu, Target::AtMost(30.0)).note(stands_on));
        let server = Server::start(&self.warren())?;
        self.progress.begin(format!("warren: {} sessions leave at once", work.sessions));
        let slowest = leave::slowest_handshake(work.plan(&server.targets), self.interrupt)?.as_secs_f64() * 1e3;
        let what = format!("slowest handshake while {} sessions leave", work.sessions);
        self.rows.push(Row::new(what, "ms", Some(slowest), Target::AtMost(30.0)).note("one after the other"));
        Ok(())
    }

    pub fn worker_threads(&mut self) -> anyhow::Result<()> {
        let work = self.work(1_000, Pace::Window(LOADED_FRAMES as u32));
        let threads = |worker_threads| Kind::Warren { broker: None, instances: 1, worker_threads };
        let runs = self.side_by_side(&[("warren, 1 thread", threads(1)), ("warren, 2 threads", threads(2))], &work)?;
        for (threads, runs) in [1, 2].into_iter().zip(&runs) {
            let note = format!("{} µs CPU per delivery", shown(median_of(runs, cpu), 3));
            let what = format!("deliveries with {threads} worker threads");
            self.rows.push(Row::new(what, "/s", median_of(runs, deliveries), Target::Open).note(note));
        }
        Ok(())
    }

    /// The same deliveries per second, to few sessions and to many. The kernel's own cost rises too, as its sockets no
    /// longer fit the caches, so the floor's rise stands beside Warren's.
    pub fn few_and_many_sessions(&mut self) -> anyhow::Result<()> {
        let (few, many) = (self.work(1_000, Pace::Rate(100.0)), self.work(18_000, Pace::Rate(100.0 / 18.0)));
        let kinds = [("floor", Kind::Floor { frames: 1 }), ("warren", self.warren())];
        let (with_few, with_many) = (self.side_by_side(&kinds, &few)?, self.side_by_side(&kinds, &many)?);
        for ((name, _), (few_runs, many_runs)) in kinds.iter().zip(with_few.iter().zip(&with_many)).rev() {
            let what = format!("{name}: CPU per delivery at {} sessions to that at {}", many.sessions, few.sessions);
            let both = [many_runs, few_runs].map(|runs| shown(median_of(runs, cpu), 2));
            let note = format!("the same deliveries/s; {} against {} µs", both[0], both[1]);
            let target = if *name == "floor" { Target::Open } else { Target::AtMost(1.15) };
            self.rows.push(Row::new(what, "×", ratio_of(many_runs, few_runs, cpu), target).note(note));
        }
        Ok(())
    }

    pub fn larger_payloads(&mut self) -> anyhow::Result<()> {
        for (size, name) in [(1024, "1 KiB"), (16 * 1024, "16 KiB")] {
            let work = Work { size, ..self.work(1_000, Pace::Rate(20.0)) };
            let row = self.against_floor(&format!("CPU per delivery of {name}"), &work, 1, Target::Open)?;
            self.rows.push(row);
        }
        Ok(())
    }

    fn against_floor(&mut self, what: &str, work: &Work, frames: usize, target: Target) -> anyhow::Result<Row> {
        let runs = self.side_by_side(&[("floor", Kind::Floor { frames }), ("warren", self.warren())], work)?;
        let both = [&runs[1], &runs[0]].map(|runs| shown(median_of(runs, cpu), 2));
        let note = format!("{} sessions, {}; {} against {} µs", work.sessions, work.pace, both[0], both[1]);
        Ok(Row::new(what, "× floor", ratio_of(&runs[1], &runs[0], cpu), target).note(note))
    }
}
