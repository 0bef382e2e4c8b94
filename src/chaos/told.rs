//! What an instance itself tells of messages that it knows to be missing.
//!
//! The one figure of a run that is taken from Warren, because it is the telling that is checked: plain sessions cannot
//! be told of a gap, so the instance's own count is where an operator learns of it. This is the only place that knows
//! where the count is found: in its metrics, and until they are asked for the last time, in its log.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// In a line of the log: where the metrics are, and the total so far, told once a second at most.
const BEFORE_ADDRESS: &str = "metrics are at http://";
const BEFORE_TOTAL: &str = "messages are missing (so far ";

const METRIC: &str = "warren_broker_missing_messages_total";

/// Time for an instance to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What one run of an instance has told.
#[derive(Debug, Default)]
pub struct Told {
    missing: AtomicU64,
    metrics: OnceLock<SocketAddr>,
}

impl Told {
    /// Messages that it knows to be missing.
    pub fn missing(&self) -> u64 {
        self.missing.load(Relaxed)
    }

    /// Takes in a line of its log.
    pub fn read(&self, line: &str) {
        if let Some((_, rest)) = line.split_once(BEFORE_ADDRESS)
            && let Some(address) = rest.split('/').next().and_then(|address| address.parse().ok())
        {
            self.metrics.get_or_init(|| address);
        }
        if let Some((_, rest)) = line.split_once(BEFORE_TOTAL)
            && let Some(total) = rest.split_once(')').and_then(|(total, _)| total.parse().ok())
        {
            self.missing.fetch_max(total, Relaxed);
        }
    }

    /// Asks for its metrics, and gives them to whoever wants to read more of them. What cannot be asked any more has told
    /// what it has.
    pub fn ask(&self) -> Option<String> {
        match scrape(*self.metrics.get()?) {
            Ok(page) => {
                self.missing.fetch_max(missing_in(&page).unwrap_or(0), Relaxed);
                Some(page)
            }
            Err(error) => {
                log::warn!("the metrics of an instance cannot be read: {error}");
                None
            }
        }
    }
}

fn scrape(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

fn missing_in(page: &str) -> Option<u64> {
    let samples = page.lines().filter_map(|line| line.strip_prefix(METRIC));
    // Behind labels, if it has any.
    samples.filter_map(|sample| sample.split_whitespace().next_back()?.parse().ok()).next()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_log_tells_a_total_that_only_grows() {
        let told = Told::default();
        for line in [
            "[2026-11-22T05:00:00Z WARN  warren::broker] messages are missing (so far 42)",
            "messages are missing (so far 7)",
            "messages are missing (so far",
            "broker link (consuming) is up",
        ] {
            told.read(line);
        }
        assert_eq!(told.missing(), 42);
    }

    #[test]
    fn the_metrics_tell_the_rest() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut request = [0; 128];
            let read = stream.read(&mut request).expect("a request");
            let help = format!("# TYPE {METRIC} counter\n");
            let page = format!("HTTP/1.1 200 OK\r\n\r\n{help}{METRIC}{{instance=\"a\"}} 9\n");
            stream.write_all(page.as_bytes()).expect("written");
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let told = Told::default();
        assert_eq!(told.ask(), None, "nobody knows yet where to ask");
        told.read(&format!("[INFO  warren::app] metrics are at http://{address}/metrics"));
        assert!(told.ask().is_some());
        assert_eq!(told.missing(), 9);
        assert!(serving.join().expect("served").starts_with("GET /metrics HTTP/1.1\r\n"));
    }

    #[test]
    fn the_name_is_that_of_the_metric() {
        let metrics = crate::metrics::Metrics::new(&crate::instance::InstanceName::parse("a").expect("a name"));
        metrics.broker.missing(3);
        let up = crate::broker::LinkState::Up;
        let link = crate::broker::Link { kind: "rabbitmq", publishing: up.clone(), consuming: up, attachments: 1 };
        let page = metrics.render(&crate::metrics::Readings { outbox_bytes: 0, link: &link });
        assert_eq!(missing_in(&page), Some(3), "{page}");
    }
}
