//! A WebSocket client that is not Warren's own code, and plain HTTP requests.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::within_deadline;

/// One session on `/message`.
pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Client {
        let connecting = connect_async(format!("ws://{address}/message"));
        let (socket, _) = within_deadline("the handshake", connecting).await.expect("an upgrade");
        Client { socket }
    }

    pub async fn send(&mut self, message: impl Into<Message>) {
        within_deadline("sending", self.socket.send(message.into())).await.expect("an open session");
    }

    /// The next text or binary message. Pings are answered on the way; a close fails the test.
    pub async fn receive(&mut self) -> Message {
        loop {
            match within_deadline("a message", self.socket.next()).await {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => return message,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("expected a message, got {other:?}"),
            }
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

    /// The given text, behind whatever else comes before it.
    pub async fn receives_after_others(&mut self, text: &str) {
        while self.receive().await != Message::text(text) {}
    }

    /// Proves the session open by a ping. Who has its pong also hears whatever is said from then on; what comes before
    /// it is passed over.
    pub async fn is_open(&mut self) {
        within_deadline("sending", self.socket.send(Message::Ping("open?".into()))).await.expect("an open session");
        while within_deadline("a pong", self.socket.next()).await.expect("an open session").expect("an open session")
            != Message::Pong("open?".into())
        {}
    }

    /// How the session ends: the close frame, or `None` for an end without one. Messages before it are passed over.
    pub async fn closed(&mut self) -> Option<CloseFrame> {
        loop {
            match within_deadline("the end of the session", self.socket.next()).await {
                Some(Ok(Message::Close(frame))) => return frame,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
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
