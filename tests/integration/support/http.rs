//! Plain HTTP requests, and what is answered.

use std::net::SocketAddr;

use super::raw::Raw;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    /// The answer at the front of `input` and its length, or nothing if it is not all there.
    pub fn take(input: &[u8]) -> Option<(Answer, usize)> {
        let (mut answer, head_length) = Answer::take_head(input)?;
        let body_length = answer.header("content-length").map_or(0, |length| length.parse().expect("a length"));
        let body = input[head_length..].get(..body_length)?;
        answer.body = String::from_utf8(body.to_vec()).expect("a body in UTF-8");
        Some((answer, head_length + body_length))
    }

    /// The same without a body, whatever its length may be.
    pub fn take_head(input: &[u8]) -> Option<(Answer, usize)> {
        let head_length = input.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head = std::str::from_utf8(&input[..head_length]).expect("a head in ASCII");
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
        let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        let headers = lines.map(|line| header(line).expect("a header")).collect();
        let answer = Answer { status: status.expect("a status"), headers, body: String::new() };
        Some((answer, head_length))
    }

    /// The only header of this name, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(of, _)| of == name).map(|(_, value)| value.as_str());
        let value = values.next();
        assert!(values.next().is_none(), "more than one {name}");
        value
    }
}

/// The answer to a request without a body, on a connection of its own.
pub async fn request(address: SocketAddr, line: &str, headers: &[(&str, &str)]) -> Answer {
    let mut connection = Raw::tcp(address).await;
    connection.send(head(address, line, headers)).await;
    if line.starts_with("HEAD ") { connection.answer_to_head().await } else { connection.answer().await }
}

/// The head of a request: `GET /` and headers; `Host` is the server's address if they have none.
pub fn head(address: SocketAddr, line: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!("{line} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head += &format!("Host: {address}\r\n");
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head + "\r\n"
}
