//! Taking in a request's body: of the type that is expected, no larger than is taken, and in time.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use tokio::time::timeout;
use warp::http::HeaderMap;
use warp::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};

use super::problem::{Kind, Problem};
use crate::message::PayloadKind;

/// How much is taken, and within which time.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    pub bytes_max: usize,
    pub timeout: Duration,
}

/// Reads a body to its end, and nothing behind what is taken.
pub async fn read<B: Buf>(
    headers: &HeaderMap,
    body: impl Stream<Item = Result<B, warp::Error>>,
    limits: BodyLimits,
) -> Result<Bytes, Problem> {
    let too_large = || Problem::new(Kind::TooLarge, format!("The body may have {} bytes.", limits.bytes_max));
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > limits.bytes_max as u64) {
        return Err(too_large());
    }
    let reading = async {
        let mut body = std::pin::pin!(body);
        let mut taken = BytesMut::new();
        while let Some(part) = body.next().await {
            // Nobody is left to hear of it.
            let mut part = part.map_err(|_| Problem::new(Kind::BodyTimeout, "The body broke off."))?;
            if taken.len() + part.remaining() > limits.bytes_max {
                return Err(too_large());
            }
            taken.extend_from_slice(&part.copy_to_bytes(part.remaining()));
        }
        Ok(taken.freeze())
    };
    let late = || Problem::new(Kind::BodyTimeout, format!("The body has {} ms.", limits.timeout.as_millis()));
    timeout(limits.timeout, reading).await.unwrap_or_else(|_| Err(late()))
}

/// That the body says to be JSON.
pub fn expect_json(headers: &HeaderMap) -> Result<(), Problem> {
    match media_type(headers).as_deref() {
        Some("application/json") => Ok(()),
        _ => Err(Problem::new(Kind::UnsupportedMediaType, "Send Content-Type: application/json.")),
    }
}

/// That the body says to be a form.
pub fn expect_form(headers: &HeaderMap) -> Result<(), Problem> {
    match media_type(headers).as_deref() {
        Some("application/x-www-form-urlencoded") => Ok(()),
        _ => Err(Problem::new(Kind::UnsupportedMediaType, "Send Content-Type: application/x-www-form-urlencoded.")),
    }
}

/// What a raw body says to be.
pub fn payload_kind(headers: &HeaderMap) -> Result<PayloadKind, Problem> {
    match media_type(headers).as_deref() {
        Some("text/plain" | "application/json") => Ok(PayloadKind::Text),
        Some("application/octet-stream") => Ok(PayloadKind::Binary),
        _ => Err(Problem::new(
            Kind::UnsupportedMediaType,
            "Send Content-Type: text/plain or application/json for text, application/octet-stream for bytes.",
        )),
    }
}

/// The media type in lower case, if there is one, of nothing that must be decoded first: neither a coding nor a charset
/// other than UTF-8, and no parameter that is not known.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let value = values.next().filter(|_| values.next().is_none())?.to_str().ok()?.to_ascii_lowercase();
    let mut parts = value.split(';').map(str::trim);
    let essence = parts.next()?.to_owned();
    let is_plain = parts.all(|part| matches!(part, "charset=utf-8" | "charset=\"utf-8\""));
    (is_plain && !headers.contains_key(CONTENT_ENCODING)).then_some(essence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_the_exact_type_is_taken() {
        let is_json = |pairs: &[(&'static str, &str)]| expect_json(&headers(pairs)).is_ok();
        for value in ["application/json", "Application/JSON; charset=UTF-8", "application/json;charset=\"utf-8\""] {
            assert!(is_json(&[("content-type", value)]), "{value}");
        }
        for value in
            ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "application/json; charset=latin1"]
        {
            assert!(!is_json(&[("content-type", value)]), "{value}");
        }
        assert!(!is_json(&[]));
        assert!(!is_json(&[("content-type", "application/json"), ("content-type", "text/plain")]));
        assert!(!is_json(&[("content-type", "application/json"), ("content-encoding", "gzip")]));
    }

    #[test]
    fn the_type_of_a_raw_body_says_what_it_is() {
        let kind = |value: &str| payload_kind(&headers(&[("content-type", value)])).ok();
        assert_eq!(kind("text/plain; charset=utf-8"), Some(PayloadKind::Text));
        assert_eq!(kind("application/json"), Some(PayloadKind::Text));
        assert_eq!(kind("application/octet-stream"), Some(PayloadKind::Binary));
        assert_eq!([kind("text/html"), kind("multipart/form-data"), kind("")], [None; 3]);
    }

    async fn taken(parts: &[&'static str], announced: Option<&str>) -> Result<Bytes, u16> {
        let limits = BodyLimits { bytes_max: 5, timeout: Duration::from_secs(1) };
        let parts = parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes())));
        let announced: Vec<_> = announced.map(|length| ("content-length", length)).into_iter().collect();
        let read = read(&headers(&announced), futures_util::stream::iter(parts), limits).await;
        read.map_err(|problem| problem.to_response().status().as_u16())
    }

    #[tokio::test]
    async fn a_body_is_taken_up_to_its_limit() {
        assert_eq!(taken(&["ab", "", "cde"], None).await, Ok(Bytes::from_static(b"abcde")));
        assert_eq!(taken(&["abc", "def"], None).await, Err(413));
        assert_eq!(taken(&[], Some("6")).await, Err(413));
        assert_eq!(taken(&[], Some("99999999999999999999999")).await, Ok(Bytes::new()), "hyper refuses it before");
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_nothing_is_not_waited_for() {
        let limits = BodyLimits { bytes_max: 5, timeout: Duration::from_secs(1) };
        let nothing = futures_util::stream::pending::<Result<Bytes, warp::Error>>();
        let problem = read(&HeaderMap::new(), nothing, limits).await.expect_err("late");
        assert_eq!(problem.to_response().status(), 408);
    }
}
