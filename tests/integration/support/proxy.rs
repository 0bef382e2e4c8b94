//! A wire between an instance and RabbitMQ that a test can cut, refuse and stall.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use url::Url;

/// Its drop ends it and every connection through it.
pub struct Proxy {
    /// The AMQP URL that leads through it.
    pub url: String,
    state: watch::Sender<State>,
    accepted: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

#[derive(Clone, Copy, Default)]
struct State {
    refuses: bool,
    stalls: bool,
    deafens: bool,
    /// How often all connections were cut.
    cuts: u64,
}

impl Proxy {
    /// A wire to the RabbitMQ at `url`.
    pub async fn to(url: &str) -> Proxy {
        let mut url = Url::parse(url).expect("a valid AMQP URL");
        let broker = (url.host_str().expect("a host").to_owned(), url.port().unwrap_or(5672));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address: SocketAddr = listener.local_addr().expect("bound");
        url.set_host(Some("127.0.0.1")).and(Ok(url.set_port(Some(address.port())))).expect("a host").expect("a port");
        let state = watch::Sender::new(State::default());
        let accepted = Arc::new(AtomicUsize::new(0));
        let accepting = tokio::spawn(accept(listener, broker, state.subscribe(), accepted.clone()));
        Proxy { url: url.into(), state, accepted, accepting }
    }

    /// Connections so far, those that were refused included.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Acquire)
    }

    /// Ends every connection; new ones are let through.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Ends every connection, and new ones at once.
    pub fn refuse(&self) {
        self.state.send_modify(|state| state.refuses = true);
        self.cut();
    }

    /// Moves no byte in either direction, but keeps every connection and takes new ones.
    pub fn stall(&self) {
        self.state.send_modify(|state| state.stalls = true);
    }

    /// Holds back what RabbitMQ says, and lets through what the instance says.
    pub fn deafen(&self) {
        self.state.send_modify(|state| state.deafens = true);
    }

    /// Lets through what comes, and what was held back.
    pub fn forward(&self) {
        self.state.send_modify(|state| *state = State { cuts: state.cuts, ..State::default() });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    broker: (String, u16),
    state: watch::Receiver<State>,
    accepted: Arc<AtomicUsize>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        accepted.fetch_add(1, Ordering::Release);
        if !state.borrow().refuses {
            tokio::spawn(carry(stream, broker.clone(), state.clone()));
        }
    }
}

async fn carry(near: TcpStream, broker: (String, u16), mut state: watch::Receiver<State>) {
    let cuts = state.borrow().cuts;
    let (there, back) = (state.clone(), state.clone());
    let carrying = async {
        let Ok(far) = TcpStream::connect(broker).await else { return };
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        let stalls = |state: &State| state.stalls;
        let is_deaf = |state: &State| state.stalls || state.deafens;
        tokio::join!(pump(near_in, far_out, there, stalls), pump(far_in, near_out, back, is_deaf));
    };
    tokio::select! {
        () = carrying => {}
        // An error means that the proxy is gone.
        _ = state.wait_for(|state| state.cuts > cuts) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
    holds_back: fn(&State) -> bool,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        if state.wait_for(|state| !holds_back(state)).await.is_err() || read == 0 {
            let _ = to.shutdown().await;
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
