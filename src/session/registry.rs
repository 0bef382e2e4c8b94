//! All sessions of this instance: who may come in, look-up by id, and the registration that undoes itself.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use dashmap::DashMap;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::addresses::{Addresses, ClientAddress};
use super::holder::Holder;
use super::limits::Limits;
use super::resume::Returning;
use super::task::SessionTask;
use super::{Channel, Particulars, Session, SessionId, Start, Stream};
use crate::broker::Broker;
use crate::close::CloseReason;
use crate::cursor::Cursor;
use crate::hub::{Format, Hub, Membership, Seat};
use crate::identity::{Identity, Verifier};
use crate::inbound::SessionName;
use crate::message::{MessageIds, now_unix_ms};
use crate::metrics::SessionMetrics;
use crate::outbox::Outbox;
use crate::presence::Presence;
use crate::topic::Pattern;
use crate::users::Users;

/// All sessions of this instance, and what they share.
pub struct Sessions {
    open: DashMap<SessionId, Arc<Session>>,
    /// Permits given: sessions that are open or about to be.
    admitted: AtomicUsize,
    last_id: AtomicU64,
    addresses: Addresses,
    /// Nobody comes in any more.
    pub(super) draining: AtomicBool,
    /// Everybody leaves.
    pub(super) all_leave: AtomicBool,
    /// Told whenever a permit comes back.
    pub(super) left: Notify,
    /// Messages of clients whose outcome is not known.
    pub(super) unsettled: AtomicUsize,
    /// Messages of clients that the broker did not take since nobody comes in any more.
    pub(super) refused: AtomicUsize,
    limits: Limits,
    clock: Clock,
    hub: Hub,
    broker: Arc<dyn Broker>,
    presence: Presence,
    message_ids: MessageIds,
    metrics: SessionMetrics,
    /// By which sessions that have a holder may go on, where there are tokens.
    verifier: Option<Verifier>,
    /// Where sessions run; connections are accepted elsewhere.
    runtime: Handle,
    users: Arc<Users>,
}

/// What sessions need that are somebody's.
pub struct OfUsers {
    /// By which they may go on, where there are tokens.
    pub verifier: Option<Verifier>,
    pub presence: Presence,
    pub users: Arc<Users>,
}

impl Sessions {
    /// Sessions that run on the current runtime.
    pub fn new(
        limits: Limits,
        hub: Hub,
        broker: Arc<dyn Broker>,
        message_ids: MessageIds,
        metrics: SessionMetrics,
        of_users: OfUsers,
    ) -> Arc<Sessions> {
        let OfUsers { verifier, presence, users } = of_users;
        Arc::new(Sessions {
            open: DashMap::new(),
            admitted: AtomicUsize::new(0),
            last_id: AtomicU64::new(0),
            addresses: Addresses::default(),
            draining: AtomicBool::new(false),
            all_leave: AtomicBool::new(false),
            left: Notify::new(),
            unsettled: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            limits,
            clock: Clock::default(),
            hub,
            broker,
            presence,
            message_ids,
            metrics,
            verifier,
            runtime: Handle::current(),
            users,
        })
    }

    /// The right to open one session for the client at this address.
    pub fn admit(self: &Arc<Self>, client: IpAddr) -> Result<Permit, NotAdmitted> {
        let room = |admitted| (admitted < self.limits.sessions_max).then_some(admitted + 1);
        let counted = self.admitted.fetch_update(Ordering::AcqRel, Ordering::Acquire, room);
        counted.map_err(|_| if self.is_draining() { NotAdmitted::Stopping } else { NotAdmitted::Full })?;
        let mut permit = Permit { sessions: self.clone(), address: None };
        // Looked at after counting, so that a drain either sees the permit or is seen here.
        if self.is_draining() {
            return Err(NotAdmitted::Stopping);
        }
        if self.limits.sessions_per_address_max > 0 {
            let address = self.addresses.enter(client, self.limits.sessions_per_address_max);
            permit.address = Some(address.ok_or(NotAdmitted::TooManyOfOneAddress)?);
        }
        Ok(permit)
    }

    /// Opens a session that hears what the broker delivers from here on, though its stream is yet to come: a client
    /// that has the answer to its handshake misses nothing that is said after it. `inflates`: that answer says that
    /// messages may come compressed, both ways. `identity`: whose session it is, unless it is anybody's. Refused where that
    /// user has as many as it may have.
    pub fn open(
        self: &Arc<Self>,
        permit: Permit,
        inflates: bool,
        channel: Channel,
        identity: Option<Arc<Identity>>,
    ) -> Result<Opening, NotAdmitted> {
        if identity.as_ref().is_some_and(|identity| !self.presence.has_room_for(&identity.user)) {
            return Err(NotAdmitted::TooManyOfOneUser);
        }
        let id = SessionId(self.last_id.fetch_add(1, Ordering::Relaxed) + 1);
        let session = Arc::new(Session {
            id,
            socket: Stream::default(),
            outbox: Outbox::default(),
            seat: Seat::default(),
            marked_ms: AtomicU32::new(self.clock.now_ms()),
            pinged: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            unsettled: AtomicU32::new(0),
            format: format(&channel, inflates),
            particulars: Particulars::new(topic(&channel), identity.map(Holder::new)),
            sessions: self.clone(),
        });
        self.open.insert(id, session.clone());
        if let Some(identity) = session.identity() {
            self.presence.arrive(&identity.user, id.0, now_unix_ms());
        }
        self.metrics.opened(session.format.is_events());
        let hearing = self.hear(&session, channel);
        session.begin_letters();
        let registration = Registration { session, hearing, permit };
        // Looked at once it can be found, so that a drain either finds it or is seen here.
        if self.all_leave.load(Ordering::Acquire) {
            registration.session.leave();
        }
        if let Some(identity) = registration.session.identity() {
            self.presence.close_excess(&identity.user);
        }
        Ok(Opening(registration))
    }

    /// Has a session hear from here on what it came for, or prepares it to go on where it was.
    fn hear(&self, session: &Arc<Session>, channel: Channel) -> Hearing {
        let mut membership = self.hub.enter(session.clone());
        match channel {
            Channel::Broadcast(None) => membership.join(),
            Channel::Broadcast(Some(asked)) => membership.join_with_replay(asked),
            Channel::Topic(pattern) => membership.subscribe(&pattern),
            Channel::Requests => session.welcome(),
            Channel::Since(pattern, since) => {
                let broadcast = pattern.is_none();
                let patterns = pattern.into_iter().collect();
                return Hearing::Returns(Box::new(Returning::new(membership, broadcast, patterns, *since)));
            }
            Channel::Events { patterns, broadcast, start } => {
                session.greet(&start);
                if let Start::Since(since) = start {
                    return Hearing::Returns(Box::new(Returning::new(membership, broadcast, patterns, *since)));
                }
                patterns.iter().for_each(|pattern| membership.subscribe(pattern));
                if broadcast {
                    membership.join();
                }
            }
        }
        Hearing::Here(membership)
    }

    /// How far everything was heard by now.
    pub async fn place(&self) -> Cursor {
        self.hub.look(Cursor::default()).await.map(|look| look.at).unwrap_or_default()
    }

    /// Sessions that are open or about to be.
    pub fn count(&self) -> usize {
        self.admitted.load(Ordering::Acquire)
    }

    /// The session of this name, if it is still there.
    pub fn named(&self, name: &SessionName) -> Option<Arc<Session>> {
        let number = name.number_within(self.message_ids.incarnation())?;
        self.open.get(&SessionId(number)).map(|entry| entry.value().clone())
    }

    pub fn users(&self) -> &Arc<Users> {
        &self.users
    }

    /// Closes a session of a user who has too many, if it is still there.
    pub fn close_too_many(&self, number: u64) {
        let session = self.open.get(&SessionId(number)).map(|entry| entry.value().clone());
        if let Some(session) = session {
            session.close(CloseReason::TooManySessions);
        }
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Bytes that wait for slow clients, over all sessions. Asked of each of them: keeping the sum would cost every
    /// delivery to a client that is behind.
    pub fn outbox_bytes(&self) -> usize {
        self.snapshot(|_| true).iter().map(|session| session.outbox.waiting_bytes()).sum()
    }

    pub fn metrics(&self) -> &SessionMetrics {
        &self.metrics
    }

    pub(super) fn verifier(&self) -> Option<&Verifier> {
        self.verifier.as_ref()
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(super) fn broker(&self) -> &dyn Broker {
        &*self.broker
    }

    pub(super) fn message_ids(&self) -> &MessageIds {
        &self.message_ids
    }

    /// The sessions that `wanted` picks. Nothing is done to them under the map's guards, so that no insertion waits.
    pub(super) fn snapshot(&self, wanted: impl Fn(&Session) -> bool) -> Vec<Arc<Session>> {
        self.open.iter().filter(|entry| wanted(entry.value())).map(|entry| entry.value().clone()).collect()
    }
}

/// Why nobody may come in now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    #[error("there are as many sessions as there may be")]
    Full,
    #[error("the client's address has as many sessions as it may have")]
    TooManyOfOneAddress,
    #[error("the user has as many sessions as one may have")]
    TooManyOfOneUser,
    #[error("the instance is stopping")]
    Stopping,
}

/// The right to one session. Its drop gives it back.
pub struct Permit {
    sessions: Arc<Sessions>,
    /// Where it counts as well, if that is limited.
    address: Option<ClientAddress>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(address) = self.address {
            self.sessions.addresses.leave(address);
        }
        self.sessions.admitted.fetch_sub(1, Ordering::AcqRel);
        self.sessions.left.notify_waiters();
    }
}

/// A session without its stream. Dropped, it never was.
pub struct Opening(Registration);

impl Opening {
    pub fn id(&self) -> SessionId {
        self.0.session.id
    }

    /// The session begins, on the runtime of the sessions; `first` is what the client sent behind its handshake.
    pub fn begin(self, stream: std::net::TcpStream, first: &[u8]) -> io::Result<()> {
        let Opening(registration) = self;
        let session = &registration.session;
        let runtime = session.sessions.runtime.clone();
        let _context = runtime.enter();
        if session.format.is_events() {
            session.bound_silence(&stream);
        }
        session.socket.arrived(TcpStream::from_std(stream)?);
        runtime.spawn(SessionTask::new(registration, first));
        Ok(())
    }
}

fn topic(channel: &Channel) -> Option<Pattern> {
    match channel {
        Channel::Broadcast(_) | Channel::Requests | Channel::Events { .. } => None,
        Channel::Topic(pattern) => Some(pattern.clone()),
        Channel::Since(pattern, _) => pattern.clone(),
    }
}

fn format(channel: &Channel, inflates: bool) -> Format {
    match (channel, inflates) {
        (Channel::Broadcast(_) | Channel::Topic(_) | Channel::Since(..), false) => Format::Plain,
        (Channel::Broadcast(_) | Channel::Topic(_) | Channel::Since(..), true) => Format::PlainDeflated,
        (Channel::Requests, false) => Format::Json,
        (Channel::Requests, true) => Format::JsonDeflated,
        (Channel::Events { .. }, _) => Format::Events,
    }
}

/// That a session stands in the map and in the hub. Its drop undoes both.
pub(super) struct Registration {
    pub session: Arc<Session>,
    hearing: Hearing,
    permit: Permit,
}

/// How a session comes to hear.
pub(super) enum Hearing {
    /// It does for as long as this is kept, or by requests.
    Here(Membership),
    /// By going on where it was.
    Returns(Box<Returning>),
    /// The session's task sees to it.
    Taken,
}

impl Registration {
    /// What the session's task has to see to.
    pub fn take_hearing(&mut self) -> Hearing {
        match self.hearing {
            Hearing::Here(_) if !self.session.format.is_json() => Hearing::Taken,
            Hearing::Here(_) | Hearing::Returns(_) | Hearing::Taken => {
                std::mem::replace(&mut self.hearing, Hearing::Taken)
            }
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let (sessions, session) = (&self.permit.sessions, &self.session);
        session.end_letters();
        sessions.open.remove(&session.id);
        if let Some(identity) = session.identity() {
            sessions.presence.leave(&identity.user, session.id.0);
        }
        sessions.metrics.gone(session.format.is_events());
        if !session.ended.swap(true, Ordering::AcqRel) {
            sessions.metrics.lost();
        }
    }
}

/// Milliseconds since the instance began, in 32 bits to keep sessions small; starts again after 49 days.
#[derive(Debug)]
pub(super) struct Clock(Instant);

impl Default for Clock {
    fn default() -> Clock {
        Clock(Instant::now())
    }
}

impl Clock {
    pub fn now_ms(&self) -> u32 {
        self.0.elapsed().as_millis() as u32
    }
}
