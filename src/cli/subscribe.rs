//! `warren subscribe`: listens to an event stream, and to another when that has ended.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use hyper::Method;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName};
use tokio::signal::unix::{SignalKind, signal};
use url::form_urlencoded;

use super::error::Error;
use super::events::EventReader;
use super::options::Subscribing;
use super::server::{self, Ask};
use super::show::{self, Notice};
use crate::cursor::Cursor;

const EVENT_STREAM: &str = "text/event-stream";

/// Sent with what was heard last, by who comes again.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The first pause before another attempt, where the server has not named one. Each that fails doubles it.
const PAUSE_MIN: Duration = Duration::from_millis(500);

/// The longest pause: nobody waits much longer for a server than it takes to come back.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Why a stream is over.
enum End {
    /// Enough was heard.
    Done,
    /// It is to be replaced.
    Lost(String),
}

/// Prints what is heard until there is enough of it.
pub async fn run(subscribing: &Subscribing) -> Result<(), Error> {
    end_on_signals()?;
    let mut listener = Listener::new(subscribing);
    // Who cannot be reached at first is more likely called by a wrong name than away for a moment.
    let mut stream = listener.connect().await?;
    eprintln!("warren: listening at {}", subscribing.server);
    loop {
        match listener.listen(stream).await? {
            End::Done => return Ok(()),
            End::Lost(reason) => eprintln!("warren: {reason}"),
        }
        stream = listener.reconnect().await?;
        eprintln!("warren: listening again{}", listener.what_was_missed());
    }
}

struct Listener<'a> {
    subscribing: &'a Subscribing,
    reader: EventReader,
    heard: u64,
    with_colours: bool,
}

impl<'a> Listener<'a> {
    fn new(subscribing: &'a Subscribing) -> Listener<'a> {
        // See no-color.org: any value counts that is not empty.
        let declines = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let with_colours = io::stdout().is_terminal() && !declines;
        Listener { subscribing, reader: EventReader::default(), heard: 0, with_colours }
    }

    /// A stream whose topics are in force.
    async fn connect(&mut self) -> Result<Incoming, Error> {
        let mut headers = vec![server::accept(EVENT_STREAM)];
        headers.extend(self.subscribing.token.iter().map(|token| server::authorization(token)));
        headers.extend(self.reader.last_id().filter(|id| is_header(id)).map(|id| (LAST_EVENT_ID, id.to_owned())));
        let ask = Ask { headers, body: None };
        let Subscribing { server, timeout, .. } = self.subscribing;
        let response = server.ask(Method::GET, &path(self.subscribing), ask, *timeout).await?;
        match response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) {
            Some(content_type) if content_type.starts_with(EVENT_STREAM) => {}
            _ => return Err(Error::NotWarren(server.to_string())),
        }
        self.reader.restart();
        Ok(response.into_body())
    }

    /// What is to be said of the time before the stream that has begun. Who has named its place is given what was published
    /// since, and told by the server of what it is not given.
    fn what_was_missed(&self) -> &'static str {
        let went_on = self.reader.last_id().is_some_and(|id| Cursor::parse(id).is_ok());
        if went_on { " from there on" } else { "; what was published meanwhile may be missing" }
    }

    /// Tries for as long as it may help.
    async fn reconnect(&mut self) -> Result<Incoming, Error> {
        let mut pause = self.reader.retry().unwrap_or(PAUSE_MIN);
        loop {
            tokio::time::sleep(pause).await;
            match self.connect().await {
                Ok(stream) => return Ok(stream),
                Err(error) if error.may_pass() => eprintln!("warren: {error}"),
                Err(error) => return Err(error),
            }
            let longest = (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
            // Not all who lost the same server at the same time.
            pause = longest.mul_f64(0.5 + fastrand::f64() / 2.0);
        }
    }

    /// Prints the stream's messages until it ends.
    async fn listen(&mut self, mut stream: Incoming) -> Result<End, Error> {
        let idle_timeout = self.subscribing.idle_timeout;
        loop {
            let part = match tokio::time::timeout(idle_timeout, server::next_part(&mut stream)).await {
                Ok(Ok(Some(part))) => part,
                Ok(Ok(None)) => return Ok(End::Lost("the server has ended the stream".to_owned())),
                Ok(Err(error)) => return Ok(End::Lost(error.to_string())),
                Err(_) => return Ok(End::Lost(format!("nothing was heard for {} s", idle_timeout.as_secs_f64()))),
            };
            let events = self.reader.read(&part);
            let events = events.map_err(|_| Error::NotWarren("a line without an end".to_owned()))?;
            for event in events {
                self.show(&event)?;
                if self.subscribing.count == Some(self.heard) {
                    return Ok(End::Done);
                }
            }
        }
    }

    fn show(&mut self, event: &str) -> Result<(), Error> {
        let notice: Notice =
            serde_json::from_str(event).map_err(|_| Error::NotWarren("an event without JSON".to_owned()))?;
        if notice.is_message() {
            self.heard += 1;
        }
        let line = match (self.subscribing.json, notice.is_message()) {
            (true, _) => event.to_owned(),
            (false, true) => notice.line(self.with_colours),
            (false, false) => {
                let told = notice.gap().unwrap_or_else(|| format!("the server says {}", show::printable(event)));
                eprintln!("warren: {told}");
                return Ok(());
            }
        };
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(Error::Output)
    }
}

fn path(subscribing: &Subscribing) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for pattern in &subscribing.patterns {
        query.append_pair("topic", pattern.as_str());
    }
    if subscribing.broadcast {
        query.append_pair("broadcast", "true");
    }
    format!("/events?{}", query.finish())
}

fn is_header(value: &str) -> bool {
    hyper::header::HeaderValue::from_str(value).is_ok()
}

/// Ctrl-C ends the command, whatever it waits for, and is no failure.
fn end_on_signals() -> Result<(), Error> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Runtime)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Runtime)?;
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        std::process::exit(0);
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::options::{declare_subscribe, read_subscribe};

    #[test]
    fn what_is_asked_for_stands_in_the_query() {
        for (words, expected) in [
            (&[][..], "/events?"),
            (&["a.#", "grüße"], "/events?topic=a.%23&topic=gr%C3%BC%C3%9Fe"),
            (&["a", "--broadcast"], "/events?topic=a&broadcast=true"),
        ] {
            let command = declare_subscribe(clap::Command::new("subscribe"));
            let matches = command.try_get_matches_from(["subscribe"].iter().chain(words)).unwrap();
            assert_eq!(path(&read_subscribe(&matches, []).unwrap()), expected);
        }
    }
}
