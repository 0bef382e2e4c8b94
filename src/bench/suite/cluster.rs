//! The parts of the suite that go through RabbitMQ, beside the bare lapin pair on the same broker.

use std::time::Duration;

use super::row::{Row, Target};
use super::{NO_BROKER, Suite, bare};
use crate::bench::load::Pace;
use crate::bench::measure::{Latency, Run};
use crate::bench::options::Work;
use crate::bench::report::{median, shown};
use crate::bench::server::{Kind, Own};

/// Warren's own limit of unconfirmed messages (`--publish-window`, by default), which the bare pair is given too.
const CONFIRMS: usize = 256;

const PUBLISHERS: usize = 16;

/// Messages of each publisher on their way: enough that Warren's confirms, and not these, are the limit.
const WINDOW: u32 = 64;

const RATE: f64 = 100.0;

/// Among the targets: the first one's session publishes.
const OTHER_INSTANCE: usize = 1;

impl Suite<'_> {
    /// From a session of one instance to one of the other, at a rate that leaves every part idle in between.
    pub fn latency_through_rabbitmq(&mut self) -> anyhow::Result<()> {
        let names = ["latency p50 between two instances", "latency p99 between two instances"];
        let targets = [Target::AtMost(1.3), Target::AtMost(1.5)];
        let Some(broker) = self.broker.clone() else {
            for (name, target) in names.into_iter().zip(targets) {
                self.add(Row::new(name, "× bare lapin", None, target).note(NO_BROKER));
            }
            return Ok(());
        };
        let work = Work { sessions: 2, publishers: 1, threads: 1, ..self.work(2, Pace::Rate(RATE)) };
        let kind = Kind::Warren(Own { broker: Some(broker.clone()), instances: 2, ..Own::default() });
        let mut rounds = Vec::new();
        for _ in 0..self.rounds {
            let duration = at_least_a_second(work.duration);
            self.progress.begin("bare lapin: latency".to_owned());
            let bare = Latency::of(&bare::latency(&broker, RATE, work.size, duration)?);
            let run = self.measure("2 × warren on RabbitMQ", &kind, &Work { duration, ..work.clone() })?;
            // The publisher's own copy does not cross from instance to instance.
            let heard = run.traffic.and_then(|traffic| traffic.latency_by_target.into_iter().nth(OTHER_INSTANCE));
            rounds.extend(heard.map(|latency| (latency, bare)));
        }
        let of: [fn(&Latency) -> f64; 2] = [|latency| latency.p50_us, |latency| latency.p99_us];
        for ((name, target), of) in names.into_iter().zip(targets).zip(of) {
            let middle = |side: fn(&(Latency, Latency)) -> &Latency| {
                median(&rounds.iter().map(|round| of(side(round))).collect::<Vec<_>>())
            };
            let ratios: Vec<f64> = rounds.iter().map(|(warren, bare)| of(warren) / of(bare)).collect();
            let (warren, bare) = (middle(|round| &round.0), middle(|round| &round.1));
            let note = format!("{RATE} messages/s; {} against {} µs", shown(warren, 0), shown(bare, 0));
            self.add(Row::new(name, "× bare lapin", median(&ratios), target).note(note));
        }
        Ok(())
    }

    /// Sixteen publishers at once, against one bare publisher that waits for nobody's sockets.
    pub fn throughput_through_rabbitmq(&mut self) -> anyhow::Result<()> {
        let (name, target) = ("messages of 16 publishers through RabbitMQ", Target::AtLeast(0.9));
        let Some(broker) = self.broker.clone() else {
            self.add(Row::new(name, "× bare lapin", None, target).note(NO_BROKER));
            return Ok(());
        };
        let base = self.work(PUBLISHERS, Pace::Window(WINDOW));
        let work = Work { sessions: PUBLISHERS, publishers: PUBLISHERS, ..base };
        let kind = Kind::Warren(Own { broker: Some(broker.clone()), ..Own::default() });
        let (mut ratios, mut speeds) = (Vec::new(), (Vec::new(), Vec::new()));
        for _ in 0..self.rounds {
            self.progress.begin("bare lapin: throughput".to_owned());
            let bare = bare::throughput(&broker, CONFIRMS, work.size, at_least_a_second(work.duration))?;
            let run = self.measure("warren on RabbitMQ", &kind, &work)?;
            if let Some(speed) = messages(&run) {
                ratios.push(speed / bare);
                speeds.0.push(speed);
                speeds.1.push(bare);
            }
        }
        let [own, bare] = [&speeds.0, &speeds.1].map(|speeds| shown(median(speeds), 0));
        let note = format!("{CONFIRMS} confirms outstanding; {own} against {bare} messages/s");
        self.add(Row::new(name, "× bare lapin", median(&ratios), target).note(note));
        Ok(())
    }
}

fn messages(run: &Run) -> Option<f64> {
    run.traffic.as_ref().map(|traffic| traffic.messages_per_second)
}

/// Fewer than a hundred messages have no 99th percentile.
fn at_least_a_second(duration: Duration) -> Duration {
    duration.max(Duration::from_secs(1))
}
