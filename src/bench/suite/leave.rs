//! What a newcomer feels while a crowd leaves: handshakes one after the other, from the moment at which every session
//! closes until some time after.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::bench::check::Faults;
use crate::bench::interrupt::Interrupt;
use crate::bench::load::{ACCEPT_KEY, Ended, Load, Plan, handshake_answer};
use crate::protocol::accept_key;

/// The server still undoes registrations after the last session is gone.
const AFTERWARDS: Duration = Duration::from_millis(500);

/// Longest wait for one handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The slowest handshake while all of the plan's sessions leave at once, and what went wrong with these.
pub fn slowest_handshake(plan: Plan, interrupt: &Interrupt) -> anyhow::Result<(Duration, Faults)> {
    let target = plan.targets.first().cloned().ok_or_else(|| anyhow::anyhow!("no target"))?;
    let (address, request) = (target.resolve()?, target.request(ACCEPT_KEY, &[]));
    let load = Load::start(plan)?;
    load.opened(|_| if interrupt.is_set() { Err(Ended::Interrupted) } else { Ok(()) })?;
    std::thread::scope(|scope| {
        let leaving = scope.spawn(|| load.leave());
        let mut slowest = Duration::ZERO;
        let mut end = None;
        while end.is_none_or(|end| Instant::now() < end) {
            if end.is_none() && leaving.is_finished() {
                end = Some(Instant::now() + AFTERWARDS);
            }
            anyhow::ensure!(!interrupt.is_set(), Ended::Interrupted);
            slowest = slowest.max(handshake(address, &request)?);
        }
        let tally = leaving.join().map_err(|_| anyhow::anyhow!("the generator failed"))?;
        Ok((slowest, tally.faults))
    })
}

fn handshake(address: SocketAddr, request: &[u8]) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut stream = TcpStream::connect_timeout(&address, HANDSHAKE_TIMEOUT)?;
    stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
    stream.set_nodelay(true)?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    let accept = accept_key(ACCEPT_KEY);
    while handshake_answer(&answer, &accept, false).map_err(anyhow::Error::msg)?.is_none() {
        let read = stream.read(&mut buffer)?;
        anyhow::ensure!(read > 0, "closed during the handshake");
        answer.extend_from_slice(&buffer[..read]);
    }
    Ok(began.elapsed())
}
