//! Accepting connections and serving HTTP/1.1 on them until they are upgraded.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use warp::{Filter, Reply};

use super::Once;
use super::gate::Admitted;
use super::handshakes::Handshakes;
use super::peer::Peer;
use super::upgrade::Successor;
use crate::metrics::{Cut, SessionMetrics};

/// Connections that the kernel completes before they are accepted. tokio's own `bind` takes 1,024: past it, connects
/// of a burst stall for a second. The kernel caps it at `net.core.somaxconn` (4,096 by default since Linux 5.4).
const BACKLOG: i32 = 4096;

/// Header lines of one request; browsers send about 15.
const HEADERS_MAX: usize = 64;

/// A connection that has not become a session ends after this many times the handshake timeout, or clients that send
/// requests and never read the answers would hold their sockets for ever. A request that is under way then is answered.
const HANDSHAKE_TIMEOUTS_PER_CONNECTION: u32 = 6;

/// What those may use up who have not become sessions.
#[derive(Clone, Copy, Debug)]
pub struct HandshakeLimits {
    /// Time for the first byte from the accept on, and then for a request's head, from there or from the previous answer.
    pub timeout: Duration,
    /// Connections at a time.
    pub under_way_max: usize,
    /// Bytes of one request's head. hyper takes no less than 8 KiB.
    pub head_bytes_max: usize,
    /// The longest that an answer takes once its request is there.
    pub answer_timeout: Duration,
}

/// Pause when no file can be opened: the kernel keeps the connections meanwhile, and nothing spins.
const OUT_OF_FILES_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct BindError {
    pub address: SocketAddr,
    pub source: io::Error,
}

/// A bound port.
pub struct Listener {
    inner: std::net::TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds; port 0 takes any free one.
    pub fn bind(host: IpAddr, port: u16) -> Result<Listener, BindError> {
        let address = SocketAddr::new(host, port);
        Self::bind_address(address).map_err(|source| BindError { address, source })
    }

    fn bind_address(address: SocketAddr) -> io::Result<Listener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restart need not wait for the old connections' TIME_WAIT. On Linux two live listeners still exclude
        // each other.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let inner = std::net::TcpListener::from(socket);
        let address = inner.local_addr()?;
        Ok(Listener { inner, address })
    }

    /// The address with the port that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The first of `ports` that nobody has.
    pub fn bind_first(host: IpAddr, ports: RangeInclusive<u16>) -> Result<Listener, BindError> {
        let (first, mut rest) = (*ports.start(), ports.skip(1));
        let mut bound = Listener::bind(host, first);
        while bound.as_ref().is_err_and(|error| error.source.kind() == io::ErrorKind::AddrInUse)
            && let Some(port) = rest.next()
        {
            bound = Listener::bind(host, port);
        }
        bound
    }

    /// Serves `routes` from a thread of its own, until it is told to stop.
    ///
    /// Of its own, so that a handshake waits neither behind a fan-out nor behind ten thousand sessions that leave at
    /// once: on a runtime that they share it stands in one queue with all of them.
    pub fn serve<R: Reply + 'static>(
        self,
        thread_name: &str,
        routes: impl Filter<Extract = (R,), Error = Infallible> + Clone + Send + Sync + 'static,
        limits: HandshakeLimits,
        metrics: SessionMetrics,
    ) -> io::Result<Serving> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (port, port_closes) = oneshot::channel::<()>();
        let (connections, connections_close) = oneshot::channel::<()>();
        let (thread, thread_ends) = oneshot::channel::<()>();
        std::thread::Builder::new().name(thread_name.into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    result = self.accept_all(routes, limits, metrics) => if let Err(error) = result {
                        log::error!("cannot accept connections: {error}");
                    },
                    _ = port_closes => {}
                }
                let _ = connections_close.await;
            });
            drop(runtime);
            drop(thread);
        })?;
        Ok(Serving { port: Some(port), connections, thread_ends })
    }

    async fn accept_all<R: Reply + 'static>(
        self,
        routes: impl Filter<Extract = (R,), Error = Infallible> + Clone + Send + Sync + 'static,
        limits: HandshakeLimits,
        metrics: SessionMetrics,
    ) -> io::Result<()> {
        let listener = TcpListener::from_std(self.inner)?;
        let service = TowerToHyperService::new(warp::service(routes));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(limits.timeout)
            .max_headers(HEADERS_MAX)
            .max_buf_size(limits.head_bytes_max);
        let lifetime = limits.timeout * HANDSHAKE_TIMEOUTS_PER_CONNECTION;
        // For a body that is to come, and its answer.
        let last_request = limits.timeout + limits.answer_timeout;
        let handshakes = Handshakes::new(limits.under_way_max);
        let trouble = Once::default();
        loop {
            let (stream, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    endure(&error, &trouble).await;
                    continue;
                }
            };
            if trouble.ends() {
                log::info!("accepting connections again");
            }
            if let Err(error) = stream.set_nodelay(true) {
                log::debug!("{address}: TCP_NODELAY: {error}");
            }
            let (http, service, metrics) = (http.clone(), service.clone(), metrics.clone());
            let (handshake, turned_away) = handshakes.begin();
            tokio::spawn(async move {
                let _handshake = handshake;
                let serving = async {
                    // hyper's buffers and the routes' futures, 16 KiB in all, are for who has said something. (Asking
                    // for readiness is not enough: tokio takes a stream that is new for ready.)
                    match tokio::time::timeout(limits.timeout, stream.peek(&mut [0])).await {
                        Ok(Ok(_)) => {
                            Box::pin(serve_connection(http, stream, Peer(address.ip()), service, lifetime)).await
                        }
                        Ok(Err(_)) => None,
                        Err(_) => Some(Cut::Silent),
                    }
                };
                let cut = tokio::select! {
                    cut = tokio::time::timeout(lifetime + last_request, serving) => cut.unwrap_or(Some(Cut::TooLong)),
                    _ = turned_away => Some(Cut::TooMany),
                };
                if let Some(reason) = cut {
                    log::debug!("{address}: cut off: {}", reason.name());
                    metrics.cut(reason);
                }
            });
        }
    }
}

/// That a port is served. Dropping an end of a channel is the signal; nothing is ever sent.
pub struct Serving {
    port: Option<oneshot::Sender<()>>,
    connections: oneshot::Sender<()>,
    thread_ends: oneshot::Receiver<()>,
}

impl Serving {
    /// Accepts nothing more. Connections that stand are still answered.
    pub fn close_port(&mut self) {
        self.port = None;
    }

    /// Closes every connection that has not become a session, and the port.
    pub async fn stop(mut self) {
        self.close_port();
        drop(self.connections);
        let _ = self.thread_ends.await;
    }
}

/// An error of `accept` is one connection's, or a lack of files or memory that passes.
async fn endure(error: &io::Error, trouble: &Once) {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    if trouble.begins() {
        log::warn!("cannot accept connections for now: {error}");
    }
    tokio::time::sleep(OUT_OF_FILES_PAUSE).await;
}

/// Serves requests until the connection ends, is to be cut, or becomes a session that one of them opened. Past `lifetime` it
/// ends with the answer that is under way: who publishes must not be left without one.
///
/// That happens here rather than in a task of its own, or the buffers of many handshakes would lie about until each of
/// theirs had its turn (measured: 16 KiB for each that is under way).
async fn serve_connection<S, B>(
    http: http1::Builder,
    stream: TcpStream,
    peer: Peer,
    service: S,
    lifetime: Duration,
) -> Option<Cut>
where
    S: Service<hyper::Request<hyper::body::Incoming>, Response = hyper::Response<B>, Error = std::convert::Infallible>,
    B: hyper::body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let successor = Successor::default();
    let service = service_fn(|mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(successor.clone());
        request.extensions_mut().insert(Admitted::default());
        Box::pin(service.call(request))
    });
    let mut connection = http.serve_connection(TokioIo::new(stream), service);
    let in_time = tokio::time::timeout(lifetime, poll_fn(|cx| connection.poll_without_shutdown(cx))).await;
    let is_late = in_time.is_err();
    let served = match in_time {
        Ok(served) => served,
        Err(_) => {
            Pin::new(&mut connection).graceful_shutdown();
            poll_fn(|cx| connection.poll_without_shutdown(cx)).await
        }
    };
    match served {
        Ok(()) => {
            let parts = connection.into_parts();
            successor.take_over(parts.io.into_inner(), &parts.read_buf);
            is_late.then_some(Cut::TooLong)
        }
        Err(error) => {
            log::debug!("{}: {error}", peer.0);
            match error {
                error if error.is_timeout() => Some(Cut::Silent),
                error if error.is_parse_too_large() => Some(Cut::HeadTooLarge),
                error if error.is_parse() => Some(Cut::Malformed),
                _ => None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn the_first_free_port_of_a_range_is_taken() {
        let holder = Listener::bind(HOST, 0).expect("a free port");
        let taken = holder.address().port();
        assert_eq!(Listener::bind_first(HOST, taken..=taken).map_err(|e| e.address.port()).err(), Some(taken));
        // Upwards, as the kernel gives ports out all over its range; nearly all of them are free.
        let next = Listener::bind_first(HOST, taken..=taken.saturating_add(100)).expect("a free port");
        assert!(next.address().port() > taken);
        drop(holder);
        assert_eq!(Listener::bind_first(HOST, taken..=taken).expect("free again").address().port(), taken);
    }
}
