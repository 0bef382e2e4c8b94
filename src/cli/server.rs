//! One request to a server, on a connection of its own.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderName};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use url::Url;

use super::error::Error;

/// What is read of an answer that ought to be short.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Where a server is.
#[derive(Clone, PartialEq)]
pub struct Server(Url);

/// Why a text says nowhere.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAServer {
    #[error("expected http://HOST[:PORT][/PATH]")]
    NoUrl,
    #[error("only http:// is spoken here; behind a proxy for TLS use curl, or the server's own address")]
    NotHttp,
}

/// What goes with a request.
#[derive(Debug, Default)]
pub struct Ask {
    pub headers: Vec<(HeaderName, String)>,
    /// JSON.
    pub body: Option<String>,
}

/// Problem details (RFC 9457), as far as a person wants them.
#[derive(Deserialize)]
struct Problem {
    title: String,
    detail: String,
}

impl Server {
    pub fn parse(text: &str) -> Result<Server, NotAServer> {
        let url = Url::parse(text).map_err(|_| NotAServer::NoUrl)?;
        match url.scheme() {
            "http" if url.username().is_empty() && url.password().is_none() && url.query().is_none() => Ok(Server(url)),
            "https" => Err(NotAServer::NotHttp),
            _ => Err(NotAServer::NoUrl),
        }
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> String {
        let port = self.0.port_or_known_default().unwrap_or_default();
        format!("{}:{port}", self.0.host_str().unwrap_or_default())
    }

    /// What a request's line has for a path with its query.
    fn target(&self, path: &str) -> String {
        format!("{}{path}", self.0.path().trim_end_matches('/'))
    }

    /// The answer's head, 200, and its body to be read; any other is an error that says why.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        ask: Ask,
        timeout: Duration,
    ) -> Result<Response<Incoming>, Error> {
        let connecting = tokio::time::timeout(timeout, TcpStream::connect(self.address())).await;
        let connected = connecting.map_err(|_| Error::NoConnection { address: self.address(), timeout })?;
        let stream = connected.map_err(|reason| Error::Unreachable { address: self.address(), reason })?;
        let asking = self.ask_on(stream, method, path, ask);
        tokio::time::timeout(timeout, asking).await.map_err(|_| Error::NoAnswer(timeout))?
    }

    async fn ask_on(
        &self,
        stream: TcpStream,
        method: Method,
        path: &str,
        ask: Ask,
    ) -> Result<Response<Incoming>, Error> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the answer, or when nobody wants that any more.
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(self.target(path))
            .header(HOST, &self.0[url::Position::BeforeHost..url::Position::AfterPort])
            .header(CONNECTION, "close");
        if ask.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        for (name, value) in ask.headers {
            request = request.header(name, value);
        }
        let request = request.body(ask.body.unwrap_or_default());
        let request = request.expect("a URL's parts, and what was checked to stand in a header");
        let response = sender.send_request(request).await?;
        if response.status().is_success() { Ok(response) } else { Err(refused(response).await) }
    }
}

/// The header that brings an API key or a token.
pub fn authorization(key: &str) -> (HeaderName, String) {
    (AUTHORIZATION, format!("Bearer {key}"))
}

/// The header that asks for a type.
pub fn accept(content_type: &str) -> (HeaderName, String) {
    (ACCEPT, content_type.to_owned())
}

/// The next part of a body; `None` at its end.
pub async fn next_part(body: &mut Incoming) -> Result<Option<Bytes>, Error> {
    loop {
        match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await.transpose()? {
            None => return Ok(None),
            Some(frame) => {
                if let Ok(part) = frame.into_data() {
                    return Ok(Some(part));
                }
            }
        }
    }
}

/// All of a short body; what is too much is left away.
pub async fn all(body: &mut Incoming) -> Result<Vec<u8>, Error> {
    let mut read = Vec::new();
    while read.len() < ANSWER_BYTES_MAX
        && let Some(part) = next_part(body).await?
    {
        read.extend_from_slice(&part[..part.len().min(ANSWER_BYTES_MAX - read.len())]);
    }
    Ok(read)
}

async fn refused(response: Response<Incoming>) -> Error {
    let (head, mut body) = response.into_parts();
    let text = all(&mut body).await.unwrap_or_default();
    let reason = match serde_json::from_slice::<Problem>(&text) {
        Ok(problem) => format!("{}. {}", problem.title, problem.detail),
        // A proxy's, perhaps; its first line will do.
        Err(_) => String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned(),
    };
    Error::Refused { status: head.status, reason: super::show::printable(&reason) }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_str().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_to_connect_and_what_to_ask_for() {
        for (url, address, target) in [
            ("http://localhost:8080", "localhost:8080", "/events"),
            ("http://localhost", "localhost:80", "/events"),
            ("http://[::1]:8080/", "[::1]:8080", "/events"),
            ("http://example.org/warren/", "example.org:80", "/warren/events"),
        ] {
            let server = Server::parse(url).unwrap();
            assert_eq!((server.address().as_str(), server.target("/events").as_str()), (address, target), "{url}");
        }
        assert_eq!(Server::parse("https://localhost"), Err(NotAServer::NotHttp));
        for wrong in ["", "localhost", "ws://localhost", "http://user:secret@localhost", "http://localhost/?a"] {
            assert_eq!(Server::parse(wrong), Err(NotAServer::NoUrl), "{wrong}");
        }
    }
}
