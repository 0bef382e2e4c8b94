//! One thread of the generator: its sessions, its event loop, its publishers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Interest, Poll, Token};

use super::books::{Entry, Expected, Tally};
use super::control::{Control, Deliveries};
use super::inflate::Inflater;
use super::pace::{Due, Pace, Schedule};
use super::session::{ACCEPT_KEY, COMPRESSION, Session, Stage, handshake_answer};
use super::timer::Timer;
use super::{Plan, UNSENT_BYTES_MAX};
use crate::bench::marker::{Marker, PROBE};
use crate::bench::process::thread_cpu;
use crate::bench::wire::{self, Template};
use crate::protocol::accept_key;

pub const WAKE: Token = Token(usize::MAX);
const TIMER: Token = Token(usize::MAX - 1);

/// Events taken from the poll at a time.
const EVENTS_MAX: usize = 1024;

/// The shared read buffer: as much as a socket's receive buffer usually has.
const READ_BYTES: usize = 256 * 1024;

/// Messages sent in one turn of an open loop at most: in between, others want to be read.
const SENDS_MAX: usize = 256;

/// Longest wait for an event; flags set meanwhile come with a wake.
const IDLE: Duration = Duration::from_millis(100);

pub struct Worker {
    plan: Arc<Plan>,
    control: Arc<Control>,
    addresses: Vec<SocketAddr>,
    requests: Vec<Vec<u8>>,
    accept: String,
    index: usize,
    poll: Poll,
    timer: Timer,
    sessions: Vec<Session>,
    /// Sessions still to be begun.
    unopened: usize,
    /// Handshakes under way.
    opening: usize,
    tally: Tally,
    schedule: Schedule,
    template: Template,
    inflater: Inflater,
    probes: u32,
    /// Of this turn.
    deliveries: Deliveries,
}

impl Worker {
    pub fn new(
        plan: Arc<Plan>,
        control: Arc<Control>,
        addresses: Vec<SocketAddr>,
        index: usize,
        poll: Poll,
    ) -> io::Result<Worker> {
        let timer = Timer::new(poll.registry(), TIMER)?;
        let offer: Vec<_> = plan.compress.then_some(("Sec-WebSocket-Extensions", COMPRESSION)).into_iter().collect();
        let mine = plan.sessions.saturating_sub(index).div_ceil(plan.threads);
        Ok(Worker {
            requests: plan.targets.iter().map(|target| target.request(ACCEPT_KEY, &offer)).collect(),
            accept: accept_key(ACCEPT_KEY),
            timer,
            sessions: Vec::with_capacity(mine),
            unopened: mine,
            opening: 0,
            tally: Tally::new(mine, plan.publishers, plan.targets.len()),
            schedule: Schedule::new(&plan, index),
            template: Template::new(plan.content, plan.size),
            // One more than is right shows that it is too long.
            inflater: Inflater::new(plan.size + 1),
            probes: 0,
            deliveries: Deliveries::default(),
            plan,
            control,
            addresses,
            index,
            poll,
        })
    }

    /// Works until the conductor says to leave.
    pub fn run(mut self) -> Tally {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut buffer = vec![0; READ_BYTES.max(2 * self.plan.size)];
        while !self.control.is_leaving() {
            if let Err(error) = self.turn(&mut events, &mut buffer) {
                self.control.note_error(format!("a worker failed: {error}"));
                break;
            }
        }
        for session in &mut self.sessions {
            session.leave();
        }
        self.tally
    }

    fn turn(&mut self, events: &mut Events, buffer: &mut [u8]) -> io::Result<()> {
        self.open_more();
        let wait = self.wait()?;
        match self.poll.poll(events, Some(wait)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        for event in events.iter() {
            if event.token().0 < self.sessions.len() {
                self.event(event, buffer);
            }
        }
        self.control.set_busy(self.index, thread_cpu());
        let deliveries = std::mem::take(&mut self.deliveries);
        if deliveries.count > 0 {
            self.control.delivered(deliveries);
            self.wake_publishers();
        }
        self.publish();
        self.probe();
        Ok(())
    }

    /// How long to wait for events. What is due by then wakes the poll.
    fn wait(&mut self) -> io::Result<Duration> {
        self.schedule.follow(self.control.publishing_from());
        let Some(at_ns) = self.schedule.next_ns() else { return Ok(IDLE) };
        Ok(self.timer.set(at_ns, self.control.now_ns())?.unwrap_or(IDLE).min(IDLE))
    }

    /// In a closed loop deliveries here may let others publish.
    fn wake_publishers(&self) {
        if matches!(self.plan.pace, Pace::Window(_)) {
            let with_publishers = self.plan.threads.min(self.plan.publishers);
            (0..with_publishers).filter(|worker| *worker != self.index).for_each(|worker| self.control.wake(worker));
        }
    }

    fn open_more(&mut self) {
        let at_a_time = self.plan.concurrency.div_ceil(self.plan.threads);
        while self.opening < at_a_time && self.unopened > 0 {
            let number = self.index + self.sessions.len() * self.plan.threads;
            let address = self.addresses[number % self.addresses.len()];
            let token = Token(self.sessions.len());
            let opened = Session::connect(address, self.control.now_ns()).and_then(|mut session| {
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(&mut session.stream, token, interest)?;
                Ok(session)
            });
            match opened {
                Ok(session) => {
                    self.sessions.push(session);
                    self.unopened -= 1;
                    self.opening += 1;
                }
                Err(error) => {
                    // Nothing local will let the next one through either: out of files or of ports.
                    self.control.note_error(format!("connecting to {address}: {error}"));
                    self.control.refused.fetch_add(std::mem::take(&mut self.unopened), AcqRel);
                }
            }
        }
    }

    fn event(&mut self, event: &Event, buffer: &mut [u8]) {
        let index = event.token().0;
        if event.is_writable() && self.sessions[index].stage != Stage::Gone {
            let request = &self.requests[self.number(index) % self.requests.len()];
            if let Err(error) = self.sessions[index].writable(request) {
                return self.gone(index, &error.to_string());
            }
        }
        let has_news = event.is_readable() || event.is_error() || event.is_read_closed();
        if let Some(error) = has_news.then(|| self.read(index, buffer).err()).flatten() {
            self.gone(index, &error);
        }
    }

    /// Reads all there is: readiness is told once for each arrival.
    fn read(&mut self, index: usize, buffer: &mut [u8]) -> Result<(), String> {
        while matches!(self.sessions[index].stage, Stage::Handshaking | Stage::Open) {
            let read = self.sessions[index].read(buffer).map_err(|error| error.to_string())?;
            let Some(filled) = read else { return Ok(()) };
            let now_ns = self.control.now_ns();
            let used = self.consume(index, &buffer[..filled], now_ns)?;
            let rest = &mut self.sessions[index].rest;
            rest.clear();
            rest.extend_from_slice(&buffer[used..filled]);
            if self.schedule.next_ns().is_some_and(|due| due <= now_ns) {
                self.publish();
            }
            // A read that leaves room has taken all.
            if filled < buffer.len() {
                return Ok(());
            }
            if used == 0 {
                return Err("a frame is larger than any that was sent".to_owned());
            }
        }
        Ok(())
    }

    /// Takes whole frames off the front; how many bytes that were.
    fn consume(&mut self, index: usize, bytes: &[u8], now_ns: u64) -> Result<usize, String> {
        let mut used = 0;
        if self.sessions[index].stage == Stage::Handshaking {
            let Some(length) = handshake_answer(bytes, &self.accept, self.plan.compress)? else { return Ok(0) };
            used = length;
            self.opened(index, now_ns);
        }
        let expected = Expected {
            run: self.control.run,
            size: self.plan.size,
            marker_at: self.plan.content.marker_at(),
            target: self.number(index) % self.requests.len(),
            now_ns,
            measured_from_ns: self.control.measuring_from(),
        };
        let compress = self.plan.compress;
        while let Some(frame) = wire::decode(&bytes[used..], compress).map_err(|violation| violation.to_string())? {
            used += frame.length;
            match frame.opcode {
                wire::TEXT | wire::BINARY => self.message(index, &frame, expected),
                wire::PING => {
                    let session = &mut self.sessions[index];
                    wire::encode(wire::PONG, frame.payload, session.out());
                    session.flush().map_err(|error| error.to_string())?;
                }
                wire::CLOSE => return Err(close_reason(frame.payload)),
                _ => {}
            }
        }
        Ok(used)
    }

    fn message(&mut self, index: usize, frame: &wire::Frame<'_>, expected: Expected) {
        let payload = match frame.is_compressed.then(|| self.inflater.inflate(frame.payload)) {
            None => frame.payload,
            Some(Ok(payload)) => payload,
            Some(Err(_)) => return self.tally.corrupt(),
        };
        match self.tally.enter(index, payload, expected) {
            Entry::Delivery => {
                self.tally.compressed += u64::from(frame.is_compressed);
                self.deliveries.count += 1;
                self.deliveries.bytes += frame.length as u64;
                self.deliveries.last_ns = expected.now_ns;
            }
            Entry::Probe => self.hears(index),
            Entry::Other => {}
        }
    }

    fn opened(&mut self, index: usize, now_ns: u64) {
        let session = &mut self.sessions[index];
        session.stage = Stage::Open;
        self.opening -= 1;
        self.tally.handshakes.saturating_record(now_ns - session.started_ns);
        self.control.last_opened_ns.fetch_max(now_ns, AcqRel);
        self.control.open.fetch_add(1, AcqRel);
    }

    fn hears(&mut self, index: usize) {
        if !std::mem::replace(&mut self.sessions[index].heard, true) {
            self.control.heard.fetch_add(1, AcqRel);
        }
    }

    fn gone(&mut self, index: usize, why: &str) {
        let number = self.number(index);
        let session = &mut self.sessions[index];
        match std::mem::replace(&mut session.stage, Stage::Gone) {
            Stage::Gone => return,
            Stage::Open => self.control.closed.fetch_add(1, AcqRel),
            Stage::Connecting | Stage::Handshaking => {
                self.opening -= 1;
                self.control.refused.fetch_add(1, AcqRel)
            }
        };
        let _ = self.poll.registry().deregister(&mut session.stream);
        let _ = session.stream.shutdown(std::net::Shutdown::Both);
        self.control.note_error(format!("session {number}: {why}"));
    }

    /// Sends what is due, while the phase lasts. In a closed loop what one publisher has due leaves in one write.
    fn publish(&mut self) {
        let control = self.control.clone();
        let is_open_loop = matches!(self.plan.pace, Pace::Rate(_));
        let sends_max = if is_open_loop { SENDS_MAX } else { usize::MAX };
        for _ in 0..sends_max {
            self.schedule.follow(control.publishing_from());
            let now_ns = control.now_ns();
            let (published, delivered) = (control.published.load(Acquire), control.delivered.load(Acquire));
            let Some(due) = self.schedule.due(now_ns, published, delivered) else { break };
            if due.at_ns >= control.measuring_from() {
                self.tally.lateness.saturating_record(now_ns - due.at_ns);
            }
            self.send(due);
        }
        if !is_open_loop {
            for publisher in (self.index..self.plan.publishers).step_by(self.plan.threads) {
                self.flush(publisher);
            }
        }
    }

    fn send(&mut self, due: Due) {
        let sequence = self.tally.published[due.publisher];
        self.tally.published[due.publisher] += 1;
        self.control.published.fetch_add(1, AcqRel);
        let marker = Marker { run: self.control.run, publisher: due.publisher as u32, sequence, sent_ns: due.at_ns };
        let Some(session) = self.sessions.get_mut(due.publisher / self.plan.threads) else { return };
        self.template.append(marker, session.out());
        if matches!(self.plan.pace, Pace::Rate(_)) {
            self.flush(due.publisher);
            self.watch_unsent(due.publisher);
        }
    }

    /// What no server takes must not fill the memory.
    fn watch_unsent(&mut self, publisher: usize) {
        let bound = UNSENT_BYTES_MAX.max(2 * self.plan.size);
        let session = self.sessions.get_mut(publisher / self.plan.threads);
        if session.is_some_and(|session| session.out().len() > bound) {
            self.control.too_fast.store(true, Release);
            self.control.stop_publishing();
        }
    }

    fn flush(&mut self, publisher: usize) {
        let index = publisher / self.plan.threads;
        let Some(session) = self.sessions.get_mut(index).filter(|session| session.stage == Stage::Open) else { return };
        if let Err(error) = session.flush() {
            self.gone(index, &error.to_string());
        }
    }

    /// The first session asks who hears, as often as the conductor wants it.
    fn probe(&mut self) {
        let wanted = self.control.probes.load(Acquire);
        if self.index == 0 && self.probes < wanted {
            self.probes = wanted;
            let marker = Marker { run: self.control.run, publisher: PROBE, sequence: wanted, sent_ns: 0 };
            let Some(session) = self.sessions.first_mut() else { return };
            self.template.append(marker, session.out());
            self.flush(0);
        }
    }

    /// The session's number over all workers.
    fn number(&self, index: usize) -> usize {
        self.index + index * self.plan.threads
    }
}

fn close_reason(payload: &[u8]) -> String {
    match payload {
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            format!("closed by the server with {code} {}", String::from_utf8_lossy(reason))
        }
        _ => "closed by the server".to_owned(),
    }
}
