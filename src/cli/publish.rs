//! `warren publish`.

use std::io::{self, BufRead, Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use serde::Deserialize;
use serde_json::json;

use super::error::Error;
use super::options::{Publishing, Source};
use super::server::{self, Ask};

/// No server takes a larger message.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a confirmed message is answered.
#[derive(Deserialize)]
struct Published {
    id: String,
}

/// Publishes what there is, and prints the id of each message.
pub async fn run(publishing: &Publishing) -> Result<(), Error> {
    match &publishing.source {
        Source::Argument(message) => publish(publishing, message.as_bytes()).await,
        Source::Input => publish(publishing, &bounded(&mut io::stdin().lock())?).await,
        Source::Lines => publish_lines(publishing).await,
    }
}

/// Each line as it comes, in order; the first that fails is the last.
async fn publish_lines(publishing: &Publishing) -> Result<(), Error> {
    let mut number = 0;
    while let Some(line) = next_line(&mut io::stdin().lock())? {
        number += 1;
        let published = publish(publishing, &line).await;
        published.map_err(|source| match source {
            Error::Output(error) => Error::Output(error),
            source => Error::Line { number, reason: Box::new(source) },
        })?;
    }
    Ok(())
}

async fn publish(publishing: &Publishing, payload: &[u8]) -> Result<(), Error> {
    let mut message = match std::str::from_utf8(payload) {
        Ok(text) => json!({ "text": text }),
        Err(_) => json!({ "base64": STANDARD.encode(payload) }),
    };
    match &publishing.topic {
        Some(topic) => message["topic"] = json!(topic.as_str()),
        None => message["broadcast"] = json!(true),
    }
    let headers = publishing.api_key.iter().map(|key| server::authorization(key)).collect();
    let ask = Ask { headers, body: Some(message.to_string()) };
    let response = publishing.server.ask(Method::POST, "/api/publish", ask, publishing.timeout).await?;
    let answer = tokio::time::timeout(publishing.timeout, server::all(&mut response.into_body())).await;
    let answer = answer.map_err(|_| Error::NoAnswer(publishing.timeout))??;
    let Ok(Published { id }) = serde_json::from_slice(&answer) else {
        return Err(Error::NotWarren(super::show::printable(&String::from_utf8_lossy(&answer))));
    };
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{id}").and_then(|()| stdout.flush()).map_err(Error::Output)
}

/// All of the input, if that is no more than a message can be.
fn bounded(input: &mut impl Read) -> Result<Vec<u8>, Error> {
    let mut message = Vec::new();
    input.take(MESSAGE_BYTES_MAX as u64 + 1).read_to_end(&mut message).map_err(Error::Input)?;
    if message.len() > MESSAGE_BYTES_MAX { Err(Error::TooLarge(MESSAGE_BYTES_MAX)) } else { Ok(message) }
}

/// The next line without its end; `None` behind the last.
fn next_line(input: &mut impl BufRead) -> Result<Option<Vec<u8>>, Error> {
    let mut line = Vec::new();
    input.take(MESSAGE_BYTES_MAX as u64 + 2).read_until(b'\n', &mut line).map_err(Error::Input)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.ends_with(b"\n") {
        line.pop();
        if line.ends_with(b"\r") {
            line.pop();
        }
    }
    if line.len() > MESSAGE_BYTES_MAX { Err(Error::TooLarge(MESSAGE_BYTES_MAX)) } else { Ok(Some(line)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_in_either_way_and_the_last_may_have_no_end() {
        let mut input = &b"one\ntwo\r\n\nthree\rfour\nlast"[..];
        let lines = std::iter::from_fn(|| next_line(&mut input).unwrap());
        let lines: Vec<String> = lines.map(|line| String::from_utf8(line).unwrap()).collect();
        assert_eq!(lines, ["one", "two", "", "three\rfour", "last"]);
    }

    #[test]
    fn what_no_server_takes_is_not_even_read() {
        let endless = || io::repeat(b'x');
        assert!(matches!(bounded(&mut endless()), Err(Error::TooLarge(MESSAGE_BYTES_MAX))));
        assert!(matches!(next_line(&mut io::BufReader::new(endless())), Err(Error::TooLarge(MESSAGE_BYTES_MAX))));
    }
}
