//! One run: start the server, open the sessions, publish, leave; and the numbers that came of it.
//!
//! CPU is read when nothing is under way: before the first handshake, after the last, and around the measured phase,
//! which ends only when everything has arrived. So its quotient by deliveries leaves nothing out.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::check::Faults;
use super::interrupt::Interrupt;
use super::load::{Ended, Load, Opened, Pace, Published, Tally};
use super::options::Work;
use super::process::{Cpu, Processes, own_cpu};
use super::progress::Progress;
use super::server::{Kind, Server};

/// Between the last handshake and the look at the memory: what handshakes needed has been given back by then.
pub const SETTLE: Duration = Duration::from_millis(700);

/// A generator whose busiest thread works so much of the time measures itself.
pub const GENERATOR_BUSY_MAX: f64 = 0.9;

/// The numbers of one run. `None` is what could not be measured: CPU and memory of processes that are not known or
/// not on this host.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    pub sessions: usize,
    pub connect: Connect,
    pub memory: Option<Memory>,
    pub traffic: Option<Traffic>,
    pub faults: Faults,
    /// Deliveries that came compressed, over all phases.
    pub compressed_deliveries: u64,
    /// Messages of others that were heard.
    pub foreign_messages: u64,
    pub first_error: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Connect {
    pub seconds: f64,
    pub per_second: f64,
    pub handshake_p50_ms: f64,
    pub handshake_p99_ms: f64,
    pub handshake_max_ms: f64,
    pub server_cpu_us: Option<f64>,
    pub generator_cpu_us: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    pub before_kib: u64,
    pub idle_kib: u64,
    pub after_kib: u64,
    pub idle_kib_per_session: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Traffic {
    pub messages: u64,
    pub deliveries: u64,
    pub seconds: f64,
    pub messages_per_second: f64,
    pub deliveries_per_second: f64,
    /// Of WebSocket frames; what TCP and IP put around them is not counted.
    pub wire_bytes_per_delivery: f64,
    /// Over all sessions.
    pub latency: Latency,
    /// Of the sessions of each target, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub latency_by_target: Vec<Latency>,
    /// The latest that a message left behind its time; its latency contains it.
    pub lateness_max_ms: f64,
    pub server_cpu_us_per_delivery: Option<f64>,
    /// Cores that the server kept busy.
    pub server_cores: Option<f64>,
    pub generator_cpu_us_per_delivery: f64,
    /// Share of the time that the generator's busiest thread worked.
    pub generator_busy: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
    pub mean_us: f64,
    /// Quantile and microseconds, for a curve.
    pub curve: Vec<(f64, f64)>,
}

impl Run {
    /// The generator rather than the server set the pace. Where something is lost the server is to blame, whatever the
    /// generator did meanwhile.
    pub fn generator_was_the_limit(&self) -> bool {
        self.traffic.as_ref().is_some_and(|traffic| {
            let server_is_busier = traffic.server_cores.is_some_and(|cores| cores > traffic.generator_busy);
            traffic.generator_busy > GENERATOR_BUSY_MAX && !server_is_busier && self.faults.lost == 0
        })
    }
}

/// Measures one server once.
pub fn measure(
    name: &str,
    kind: &Kind,
    work: &Work,
    progress: &mut Progress,
    interrupt: &Interrupt,
) -> anyhow::Result<Run> {
    let server = Server::start(kind)?;
    let mut conductor = Conductor { name, work, processes: &server.processes, progress, interrupt };
    let before_kib = server.processes.pss_kib();
    let (cpu, own) = (server.processes.cpu(), own_cpu());
    let load = Load::start(work.plan(&server.targets))?;
    let opened = conductor.open(&load)?;
    let connect_cpu = used(server.processes.cpu(), cpu);
    let connect_own = own_cpu().saturating_sub(own);
    std::thread::sleep(work.settle);
    let idle_kib = server.processes.pss_kib();
    let all_open = opened.sessions == work.sessions;
    let traffic = if work.connect_only || !all_open { None } else { Some(conductor.traffic(&load)?) };
    let after_kib = server.processes.pss_kib();
    let mut tally = load.leave();
    if !work.connect_only && traffic.as_ref().is_none_or(|traffic| traffic.messages == 0) {
        tally.faults.untried = 1;
    }
    let memory = before_kib.zip(idle_kib).zip(after_kib).map(|((before_kib, idle_kib), after_kib)| Memory {
        before_kib,
        idle_kib,
        after_kib,
        idle_kib_per_session: (idle_kib as f64 - before_kib as f64) / opened.sessions.max(1) as f64,
    });
    Ok(Run {
        sessions: opened.sessions,
        connect: connect(&tally, opened, connect_cpu, connect_own),
        memory,
        traffic: traffic.map(|traffic| traffic.with_latency(&tally)),
        faults: tally.faults,
        compressed_deliveries: tally.compressed,
        foreign_messages: tally.foreign,
        first_error: tally.first_error,
    })
}

/// Leads a load through its phases.
struct Conductor<'a> {
    name: &'a str,
    work: &'a Work,
    processes: &'a Processes,
    progress: &'a mut Progress,
    interrupt: &'a Interrupt,
}

impl Conductor<'_> {
    fn open(&mut self, load: &Load) -> Result<Opened, Ended> {
        let sessions = self.work.sessions;
        self.progress.begin(format!("{}: opening {sessions} sessions", self.name));
        load.opened(|open| {
            self.progress.renew(open as f64 / sessions as f64, open);
            go_on(self.interrupt)
        })
    }

    fn traffic(&mut self, load: &Load) -> Result<Traffic, Ended> {
        self.progress.begin(format!("{}: waiting until every session hears", self.name));
        let sessions = self.work.sessions;
        let all_hear = load.heard(|heard| {
            self.progress.renew(heard as f64 / sessions as f64, heard);
            go_on(self.interrupt)
        })?;
        if !all_hear {
            // The measurement goes on: what they do not hear is lost, and is counted.
            log::warn!("{}: some sessions hear nothing", self.name);
        }
        self.phase(load, "warming up", self.work.warmup, false)?;
        let (cpu, own) = (self.processes.cpu(), own_cpu());
        let published = self.phase(load, "measuring", self.work.duration, true)?;
        let cpu = used(self.processes.cpu(), cpu);
        Ok(Traffic::of(published, self.seconds(published), cpu, own_cpu().saturating_sub(own)))
    }

    /// What counts are divided by. In an open loop the schedule lasts as long as it lasts, however early its last
    /// message came; where nothing came, the time that was waited for it counts.
    fn seconds(&self, published: Published) -> f64 {
        let took = if published.deliveries == 0 { published.watched } else { published.took };
        let least = if matches!(self.work.pace, Pace::Rate(_)) { self.work.duration } else { Duration::ZERO };
        took.max(least).as_secs_f64().max(1e-9)
    }

    fn phase(&mut self, load: &Load, doing: &str, duration: Duration, measured: bool) -> Result<Published, Ended> {
        self.progress.begin(format!("{}: {doing} for {} s, {}", self.name, duration.as_secs_f64(), self.work.pace));
        load.publish(duration, measured, |deliveries| {
            self.progress.renew_until(duration, deliveries);
            go_on(self.interrupt)
        })
    }
}

impl Traffic {
    fn of(published: Published, seconds: f64, cpu: Option<Duration>, own: Duration) -> Traffic {
        let watched = published.watched.as_secs_f64().max(1e-9);
        let per_delivery = |cpu: Duration| cpu.as_secs_f64() * 1e6 / published.deliveries.max(1) as f64;
        Traffic {
            messages: published.messages,
            deliveries: published.deliveries,
            seconds,
            messages_per_second: published.messages as f64 / seconds,
            deliveries_per_second: published.deliveries as f64 / seconds,
            wire_bytes_per_delivery: published.bytes as f64 / published.deliveries.max(1) as f64,
            latency: Latency::of(&super::load::latency_histogram()),
            latency_by_target: Vec::new(),
            lateness_max_ms: 0.0,
            server_cpu_us_per_delivery: cpu.map(per_delivery),
            server_cores: cpu.map(|cpu| cpu.as_secs_f64() / watched),
            generator_cpu_us_per_delivery: per_delivery(own),
            generator_busy: published.busiest.as_secs_f64() / watched,
        }
    }

    fn with_latency(self, tally: &Tally) -> Traffic {
        let lateness_max_ms = tally.lateness.max() as f64 / 1e6;
        let several = tally.latencies.iter().filter(|_| tally.latencies.len() > 1);
        let latency_by_target = several.map(Latency::of).collect();
        Traffic { latency: Latency::of(&tally.latency()), latency_by_target, lateness_max_ms, ..self }
    }
}

impl Latency {
    pub fn of(histogram: &Histogram<u64>) -> Latency {
        let us = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        // Evenly spaced where it is interesting: 0, 50 %, 90 %, 99 % … each split in eight.
        let quantiles = (0..=40).map(|step| 1.0 - 10_f64.powf(-f64::from(step) / 8.0));
        Latency {
            p50_us: us(0.5),
            p90_us: us(0.9),
            p99_us: us(0.99),
            p999_us: us(0.999),
            max_us: histogram.max() as f64 / 1e3,
            mean_us: histogram.mean() / 1e3,
            curve: quantiles.map(|quantile| (quantile, us(quantile))).collect(),
        }
    }
}

fn connect(tally: &Tally, opened: Opened, cpu: Option<Duration>, own: Duration) -> Connect {
    let ms = |nanoseconds: u64| nanoseconds as f64 / 1e6;
    let seconds = opened.took.as_secs_f64().max(1e-9);
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / opened.sessions.max(1) as f64;
    Connect {
        seconds,
        per_second: opened.sessions as f64 / seconds,
        handshake_p50_ms: ms(tally.handshakes.value_at_quantile(0.5)),
        handshake_p99_ms: ms(tally.handshakes.value_at_quantile(0.99)),
        handshake_max_ms: ms(tally.handshakes.max()),
        server_cpu_us: cpu.map(each),
        generator_cpu_us: each(own),
    }
}

fn used(after: Option<Cpu>, before: Option<Cpu>) -> Option<Duration> {
    after?.since(before?)
}

fn go_on(interrupt: &Interrupt) -> Result<(), Ended> {
    if interrupt.is_set() { Err(Ended::Interrupted) } else { Ok(()) }
}
