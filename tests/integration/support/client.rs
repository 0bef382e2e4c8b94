//! A WebSocket client that is not Warren's own code, and plain HTTP requests.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{ClientRequestBuilder, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::within_deadline;

/// One session on `/message`.
pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Client {
        Self::connect_at(address, "/message").await
    }

    /// One that asks for some of the past, such as `20` or `30s`.
    pub async fn connect_with_replay(address: SocketAddr, replay: &str) -> Client {
        Self::connect_at(address, &format!("/message?replay={replay}")).await
    }

    /// One on a topic, or on all that a pattern matches, as it stands in a URL's path.
    pub async fn subscribe(address: SocketAddr, topic: &str) -> Client {
        Self::connect_at(address, &format!("/message/{topic}")).await
    }

    /// One at this path, query included.
    pub async fn connect_at(address: SocketAddr, path: &str) -> Client {
        let connecting = connect_async(format!("ws://{address}{path}"));
        let (socket, _) = within_deadline("the handshake", connecting).await.expect("an upgrade");
        Client { socket }
    }

    /// One at this path, with this token.
    pub async fn connect_as(address: SocketAddr, path: &str, token: &str) -> Client {
        let uri = format!("ws://{address}{path}").parse().expect("a URI");
        let request = ClientRequestBuilder::new(uri).with_header("Authorization", format!("Bearer {token}"));
        let (socket, _) = within_deadline("the handshake", connect_async(request)).await.expect("an upgrade");
        Client { socket }
    }

    /// One on `/message` with this token and subprotocol, if any, where the server may refuse or be gone.
    pub async fn try_connect_as(address: SocketAddr, subprotocol: Option<&str>, token: &str) -> Option<Client> {
        let uri = format!("ws://{address}/message").parse().expect("a URI");
        let request = ClientRequestBuilder::new(uri).with_header("Authorization", format!("Bearer {token}"));
        let request = subprotocol.into_iter().fold(request, ClientRequestBuilder::with_sub_protocol);
        let (socket, _) = within_deadline("an answer", connect_async(request)).await.ok()?;
        Some(Client { socket })
    }

    /// One on `/message` with this subprotocol, which must be agreed to.
    pub async fn connect_speaking(address: SocketAddr, subprotocol: &str) -> Client {
        Self::connect_speaking_with(address, subprotocol, &[]).await
    }

    /// The same with tokens, as a browser brings them.
    pub async fn connect_speaking_with(address: SocketAddr, subprotocol: &str, tokens: &[&str]) -> Client {
        let uri = format!("ws://{address}/message").parse().expect("a URI");
        let offered = ClientRequestBuilder::new(uri).with_sub_protocol(subprotocol);
        let request =
            tokens.iter().fold(offered, |request, token| request.with_sub_protocol(format!("bearer.{token}")));
        let (socket, _) = within_deadline("the handshake", connect_async(request)).await.expect("an upgrade");
        Client { socket }
    }

    pub async fn send(&mut self, message: impl Into<Message>) {
        within_deadline("sending", self.try_send(message)).await.expect("an open session");
    }

    /// As [`Client::send`], where the session may be closed already.
    pub async fn try_send(&mut self, message: impl Into<Message>) -> Result<(), tungstenite::Error> {
        self.socket.send(message.into()).await
    }

    /// The next text or binary message, or how the session ended: with this close frame, or without one. Waits for
    /// ever, and may be dropped at any time. Pings are answered on the way.
    pub async fn next(&mut self) -> Result<Message, Option<CloseFrame>> {
        loop {
            match self.socket.next().await {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => return Ok(message),
                Some(Ok(Message::Close(frame))) => return Err(frame),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    /// The next text or binary message; a close fails the test.
    pub async fn receive(&mut self) -> Message {
        match within_deadline("a message", self.next()).await {
            Ok(message) => message,
            Err(frame) => panic!("expected a message, got a close: {frame:?}"),
        }
    }

    pub async fn receive_text(&mut self) -> String {
        match self.receive().await {
            Message::Text(text) => text.as_str().to_owned(),
            other => panic!("expected a text, got {other:?}"),
        }
    }

    /// The next texts, as many as `expected` has, are these in this order.
    pub async fn receives(&mut self, expected: &[&str]) {
        for text in expected {
            assert_eq!(self.receive_text().await, *text);
        }
    }

    /// The texts before `last`, which must come.
    pub async fn texts_until(&mut self, last: &str) -> Vec<String> {
        let mut texts = Vec::new();
        loop {
            match self.receive_text().await {
                text if text == last => return texts,
                text => texts.push(text),
            }
        }
    }

    /// The given text, behind whatever else comes before it.
    pub async fn receives_after_others(&mut self, text: &str) {
        while self.receive().await != Message::text(text) {}
    }

    /// Proves the session open by a ping. What comes before the pong is passed over.
    pub async fn is_open(&mut self) {
        self.send(Message::Ping("open?".into())).await;
        while within_deadline("a pong", self.socket.next()).await.expect("an open session").expect("an open session")
            != Message::Pong("open?".into())
        {}
    }

    /// The texts that the server had sent when it was asked for a pong, and whether that came: else the session is over.
    pub async fn texts_until_pong(&mut self) -> (Vec<String>, bool) {
        let is_sent = self.try_send(Message::Ping("so far".into())).await.is_ok();
        let (texts, last) = self.texts_to(|message| *message == Message::Pong("so far".into())).await;
        (texts, is_sent && last)
    }

    /// Says good-bye; the texts that come before the server's.
    pub async fn leave(&mut self) -> Vec<String> {
        let _ = self.try_send(Message::Close(None)).await;
        self.texts_to(|message| message.is_close()).await.0
    }

    /// The texts before a message, and whether that came.
    async fn texts_to(&mut self, is_last: impl Fn(&Message) -> bool) -> (Vec<String>, bool) {
        let mut texts = Vec::new();
        loop {
            match within_deadline("a message", self.socket.next()).await {
                Some(Ok(message)) if is_last(&message) => return (texts, true),
                Some(Ok(Message::Text(text))) => texts.push(text.as_str().to_owned()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return (texts, false),
            }
        }
    }

    /// How the session ends: the close frame, or `None` for an end without one. Messages before it are passed over.
    pub async fn closed(&mut self) -> Option<CloseFrame> {
        loop {
            if let Err(frame) = within_deadline("the end of the session", self.next()).await {
                return frame;
            }
        }
    }

    /// The session ends with this close code.
    pub async fn is_closed_with(&mut self, code: u16) {
        let frame = self.closed().await;
        assert_eq!(frame.as_ref().map(|frame| frame.code.into()), Some(code), "{frame:?}");
    }
}

/// Status and JSON body of a GET. Status 0: nobody answers.
pub async fn get_json(address: SocketAddr, path: &str) -> (u16, Value) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let Ok(answer) = exchange(address, request.as_bytes()).await else { return (0, Value::Null) };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, serde_json::from_str(body).unwrap_or_default())
}

/// Sends `request` and reads until the server closes.
pub async fn exchange(address: SocketAddr, request: &[u8]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    within_deadline("the end of the answer", stream.read_to_end(&mut answer)).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
