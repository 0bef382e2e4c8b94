//! What lies beneath lapin: TCP connections that can be given up, with TLS on them where it is wanted.
//!
//! lapin offers a place for this, its runtime interface. It is needed twice. The pool's manager has no way to hand
//! lapin a certificate authority; and lapin's thread waits for ever for a broker that accepts a connection and then
//! says nothing, with a thread and a file for each attempt (seen), unless the socket beneath it is shut. Each attempt of
//! lapin's that fails costs 10 KiB for ever (measured), so it is made only once TCP has found somebody to talk to.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_rs::Tokio;
use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::Task;
use futures_util::io::{AsyncRead, AsyncWrite};
use lapin::tcp::{AsyncTcpStream, OwnedTLSConfig};
use tokio::net::TcpStream;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

/// The connection that is being made.
#[derive(Clone, Debug, Default)]
pub struct Attempt(Arc<Mutex<Sockets>>);

#[derive(Debug, Default)]
struct Sockets {
    /// Connected, and not taken by lapin so far.
    ready: Option<TcpStream>,
    /// The same as lapin has, to shut it.
    taken: Option<OwnedFd>,
}

impl Attempt {
    /// Makes the TCP connection that lapin will ask for.
    pub async fn begin(&self, host: &str, port: u16) -> io::Result<()> {
        let stream = TcpStream::connect((host, port)).await?;
        // Frames are small and answers awaited: Nagle's algorithm would add 40 ms to each.
        stream.set_nodelay(true)?;
        self.lock().ready = Some(stream);
        Ok(())
    }

    fn take(&self) -> io::Result<TcpStream> {
        let mut sockets = self.lock();
        let stream = sockets.ready.take().ok_or(io::ErrorKind::NotConnected)?;
        sockets.taken = Some(rustix::io::dup(&stream)?);
        Ok(stream)
    }

    /// The connection stands; it ends by its own means.
    pub fn succeeded(&self) {
        *self.lock() = Sockets::default();
    }

    /// Shuts the socket of an attempt that has not succeeded, so that whoever waits for it hears of its end.
    pub fn abandon(&self) {
        if let Some(socket) = std::mem::take(&mut *self.lock()).taken {
            // One that is closed already needs no shutting.
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Sockets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// TLS to a host.
#[derive(Clone, Debug)]
pub struct Tls {
    pub host: String,
    /// PEM of the authorities to trust beside the system's.
    pub ca_pem: Option<String>,
}

/// tokio as lapin's runtime, with connections of our own making.
#[derive(Clone, Debug)]
pub struct Kit {
    tokio: Tokio,
    tls: Option<Tls>,
    attempt: Attempt,
}

impl Kit {
    /// On the current runtime.
    pub fn new(tls: Option<Tls>, attempt: Attempt) -> Kit {
        Kit { tokio: Tokio::current(), tls, attempt }
    }
}

impl RuntimeKit for Kit {}

impl Executor for Kit {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.tokio.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(&self, future: F) -> Task<Self::Task<T>> {
        self.tokio.spawn(future)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(&self, work: F) -> Task<Self::Task<T>> {
        self.tokio.spawn_blocking(work)
    }
}

impl Reactor for Kit {
    type TcpStream = AsyncTcpStream<Compat<TcpStream>>;
    type Sleep = <Tokio as Reactor>::Sleep;

    /// lapin registers no sockets of ours; it asks for connections.
    fn register<H: io::Read + io::Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Self::TcpStream, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.tokio.sleep(duration)
    }

    fn interval(&self, period: Duration) -> impl futures_util::Stream<Item = Instant> + Send + 'static {
        self.tokio.interval(period)
    }

    fn tcp_connect_addr(&self, _: SocketAddr) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let Kit { tls, attempt, .. } = self.clone();
        async move {
            let stream = AsyncTcpStream::Plain(attempt.take()?.compat());
            match tls {
                None => Ok(stream),
                Some(Tls { host, ca_pem }) => {
                    let config = OwnedTLSConfig { identity: None, cert_chain: ca_pem };
                    stream.into_tls(&host, config.as_ref()).await
                }
            }
        }
    }
}
