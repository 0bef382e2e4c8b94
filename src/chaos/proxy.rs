//! A wire between one instance and the broker that can be cut, delayed and turned into a black hole.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Bytes carried at a time, and how many such pieces may be on their way in one direction: a delayed wire holds a
/// megabyte, and then pushes back.
const PIECE_BYTES: usize = 16 * 1024;
const PIECES_MAX: usize = 64;

/// Its drop ends it and every connection through it.
pub struct Proxy {
    /// Where the instance connects to.
    pub address: SocketAddr,
    state: watch::Sender<State>,
    accepting: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// New connections are ended at once.
    refuses: bool,
    /// Nothing is carried.
    swallows: bool,
    delay: Duration,
    /// How often all connections were cut.
    cuts: u64,
}

impl Proxy {
    /// A wire to the broker that listens at `broker`, or will.
    pub async fn to(broker: SocketAddr) -> io::Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = watch::Sender::new(State::default());
        let accepting = tokio::spawn(accept(listener, broker, state.subscribe()));
        Ok(Proxy { address, state, accepting })
    }

    /// Resets every connection, with all that is on its way, and refuses new ones until [`Proxy::mend`].
    pub fn cut(&self) {
        self.state.send_modify(|state| {
            state.refuses = true;
            state.cuts += 1;
        });
    }

    /// Carries nothing any more, in either direction, and takes new connections as a host does that is not there: they
    /// stand, but nothing answers.
    pub fn swallow(&self) {
        self.state.send_modify(|state| state.swallows = true);
    }

    /// From now on each byte takes so much longer, each way.
    pub fn delay(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }

    /// All is well again. What was swallowed stays lost, and its connection with it.
    pub fn mend(&self) {
        self.state.send_modify(|state| {
            let cuts = state.cuts + u64::from(state.swallows);
            *state = State { cuts, ..State::default() };
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, broker: SocketAddr, state: watch::Receiver<State>) {
    loop {
        // No file left for this one; the next may find one.
        let Ok((near, _)) = listener.accept().await else { continue };
        tokio::spawn(carry(near, broker, state.clone()));
    }
}

/// Carries one connection until either end is done with it, or it is cut.
async fn carry(near: TcpStream, broker: SocketAddr, mut state: watch::Receiver<State>) {
    // Whatever ends it, the other end is to see it at once, without what is still on its way.
    let _ = SockRef::from(&near).set_linger(Some(Duration::ZERO));
    let State { refuses, cuts, .. } = *state.borrow();
    if refuses {
        return;
    }
    let (there, back) = (state.clone(), state.clone());
    let carrying = async {
        let far = TcpStream::connect(broker).await?;
        SockRef::from(&far).set_linger(Some(Duration::ZERO))?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        tokio::try_join!(direction(near_in, far_out, there), direction(far_in, near_out, back)).map(|_| ())
    };
    tokio::select! {
        // A broker that is not there, or an end that went away: the other end sees a reset, as from a dead host.
        _ = carrying => {}
        // An error means that the proxy is gone.
        _ = state.wait_for(|state| state.cuts > cuts) => {}
    }
}

/// One direction: reads ahead, and lets each piece go when its time has come.
async fn direction(from: OwnedReadHalf, to: OwnedWriteHalf, state: watch::Receiver<State>) -> io::Result<()> {
    let (pieces, waiting) = mpsc::channel(PIECES_MAX);
    let releasing = release(waiting, to, state.clone());
    tokio::try_join!(take_in(from, pieces, state), releasing).map(|_| ())
}

async fn take_in(
    mut from: OwnedReadHalf,
    pieces: mpsc::Sender<(Instant, Bytes)>,
    state: watch::Receiver<State>,
) -> io::Result<()> {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let read = from.read(&mut buffer).await?;
        let due = Instant::now() + state.borrow().delay;
        let piece = Bytes::copy_from_slice(&buffer[..read]);
        if pieces.send((due, piece)).await.is_err() || read == 0 {
            return Ok(());
        }
    }
}

async fn release(
    mut pieces: mpsc::Receiver<(Instant, Bytes)>,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
) -> io::Result<()> {
    while let Some((due, piece)) = pieces.recv().await {
        tokio::time::sleep_until(due).await;
        // What is swallowed waits here until the connection is cut.
        if state.wait_for(|state| !state.swallows).await.is_err() {
            break;
        }
        if piece.is_empty() {
            return to.shutdown().await;
        }
        to.write_all(&piece).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For what must happen; matters only when something is broken.
    const DEADLINE: Duration = Duration::from_secs(10);

    /// A proxy to a server that sends back what it gets, and the server's listener.
    async fn echo() -> (Proxy, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        (Proxy::to(address).await.expect("a proxy"), address)
    }

    async fn says(stream: &mut TcpStream, text: &str) -> io::Result<String> {
        stream.write_all(text.as_bytes()).await?;
        let mut answer = vec![0; text.len()];
        tokio::time::timeout(DEADLINE, stream.read_exact(&mut answer)).await.expect("an answer in time")?;
        Ok(String::from_utf8(answer).expect("text"))
    }

    async fn ends(stream: &mut TcpStream) -> bool {
        let read = tokio::time::timeout(DEADLINE, stream.read(&mut [0; 64])).await.expect("an end in time");
        matches!(read, Ok(0) | Err(_))
    }

    #[tokio::test]
    async fn what_goes_in_comes_out() {
        let (proxy, _) = echo().await;
        let mut stream = TcpStream::connect(proxy.address).await.expect("connected");
        let long = "x".repeat(3 * PIECE_BYTES);
        for text in ["hello", long.as_str(), "again"] {
            assert_eq!(says(&mut stream, text).await.expect("an echo"), text);
        }
    }

    #[tokio::test]
    async fn a_cut_ends_what_stands_and_refuses_until_it_is_mended() {
        let (proxy, _) = echo().await;
        let mut stream = TcpStream::connect(proxy.address).await.expect("connected");
        says(&mut stream, "before").await.expect("an echo");
        proxy.cut();
        assert!(ends(&mut stream).await);
        let mut refused = TcpStream::connect(proxy.address).await.expect("connected");
        assert!(ends(&mut refused).await);
        proxy.mend();
        let mut mended = TcpStream::connect(proxy.address).await.expect("connected");
        assert_eq!(says(&mut mended, "after").await.expect("an echo"), "after");
    }

    #[tokio::test]
    async fn a_delay_holds_each_way() {
        let (proxy, _) = echo().await;
        let mut stream = TcpStream::connect(proxy.address).await.expect("connected");
        says(&mut stream, "before").await.expect("an echo");
        let delay = Duration::from_millis(40);
        proxy.delay(delay);
        let began = Instant::now();
        says(&mut stream, "late").await.expect("an echo");
        assert!(began.elapsed() >= 2 * delay, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_black_hole_gives_nothing_back() {
        let (proxy, _) = echo().await;
        let mut stream = TcpStream::connect(proxy.address).await.expect("connected");
        says(&mut stream, "before").await.expect("an echo");
        proxy.swallow();
        stream.write_all(b"lost").await.expect("taken");
        proxy.mend();
        assert!(ends(&mut stream).await, "it is mended by a new connection alone");
        let mut mended = TcpStream::connect(proxy.address).await.expect("connected");
        assert_eq!(says(&mut mended, "after").await.expect("an echo"), "after");
    }

    #[tokio::test]
    async fn the_end_of_one_side_reaches_the_other() {
        let (proxy, _) = echo().await;
        let mut stream = TcpStream::connect(proxy.address).await.expect("connected");
        says(&mut stream, "before").await.expect("an echo");
        stream.shutdown().await.expect("shut down");
        assert!(ends(&mut stream).await);
    }

    #[tokio::test]
    async fn a_broker_that_is_not_there_is_a_connection_that_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let nobody = listener.local_addr().expect("its address");
        drop(listener);
        let proxy = Proxy::to(nobody).await.expect("a proxy");
        let mut stream = TcpStream::connect(proxy.address).await.expect("connected");
        assert!(ends(&mut stream).await);
    }
}
