//! A message that lapin cannot parse, which no well-meaning client library can send either: AMQP 0-9-1 by hand.

use std::net::SocketAddr;

use lapin::uri::AMQPUri;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::within_deadline;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const FRAME_END: u8 = 0xCE;

/// Property flags and list (AMQP 0-9-1 §4.2.6.1) of a message without properties, and of one whose id is not UTF-8.
const NO_PROPERTIES: &[u8] = &[0, 0];
const UNREADABLE_ID: &[u8] = &[0, 0x80, 2, 0xFF, 0xFE];

/// Publishes a message whose routing key is not UTF-8, and waits until RabbitMQ has dealt with it.
pub async fn publish_unreadable(url: &str, exchange: &str) {
    publish(url, exchange, b"\xFF\xFE", NO_PROPERTIES).await;
}

/// The same straight into a queue, of one whose `message_id` is not UTF-8.
pub async fn publish_unreadable_into(url: &str, queue: &str) {
    publish(url, "", queue.as_bytes(), UNREADABLE_ID).await;
}

async fn publish(url: &str, exchange: &str, key: &[u8], properties: &[u8]) {
    let uri: AMQPUri = url.parse().expect("an AMQP URL");
    let address: SocketAddr = format!("{}:{}", uri.authority.host, uri.authority.port).parse().expect("an address");
    let mut amqp = Amqp(TcpStream::connect(address).await.expect("RabbitMQ answers"));
    amqp.0.write_all(b"AMQP\0\0\x09\x01").await.expect("written");
    amqp.expect(10, 10).await;
    let user = &uri.authority.userinfo;
    let response = format!("\0{}\0{}", user.username, user.password);
    let start_ok = [&[0; 4][..], &short(b"PLAIN"), &long(response.as_bytes()), &short(b"en_US")].concat();
    amqp.call(0, 10, 11, &start_ok).await;
    amqp.expect(10, 30).await;
    amqp.call(0, 10, 31, &[&16u16.to_be_bytes()[..], &131_072u32.to_be_bytes(), &0u16.to_be_bytes()].concat()).await;
    amqp.call(0, 10, 40, &[&short(uri.vhost.as_bytes())[..], &short(b""), &[0]].concat()).await;
    amqp.expect(10, 41).await;
    amqp.call(1, 20, 10, &short(b"")).await;
    amqp.expect(20, 11).await;
    let publish = [&[0; 2][..], &short(exchange.as_bytes()), &short(key), &[0]].concat();
    amqp.call(1, 60, 40, &publish).await;
    let body = b"unreadable";
    let header = [&60u16.to_be_bytes()[..], &[0; 2], &(body.len() as u64).to_be_bytes(), properties].concat();
    amqp.frame(HEADER, 1, &header).await;
    amqp.frame(BODY, 1, body).await;
    amqp.call(1, 20, 40, &[&200u16.to_be_bytes()[..], &short(b"done"), &[0; 4]].concat()).await;
    amqp.expect(20, 41).await;
}

struct Amqp(TcpStream);

impl Amqp {
    async fn call(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.frame(METHOD, channel, &payload).await;
    }

    async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a short frame");
        let frame = [&[kind][..], &channel.to_be_bytes(), &length.to_be_bytes(), payload, &[FRAME_END]].concat();
        self.0.write_all(&frame).await.expect("written");
    }

    /// Reads until this method comes.
    async fn expect(&mut self, class: u16, method: u16) {
        within_deadline("RabbitMQ's answer", async {
            loop {
                let mut head = [0; 7];
                self.0.read_exact(&mut head).await.expect("a frame");
                let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
                let mut payload = vec![0; length + 1];
                self.0.read_exact(&mut payload).await.expect("the rest of it");
                let wanted = [class.to_be_bytes(), method.to_be_bytes()].concat();
                if head[0] == METHOD && payload.starts_with(&wanted) {
                    return;
                }
            }
        })
        .await;
    }
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("a short text")][..], text].concat()
}

fn long(text: &[u8]) -> Vec<u8> {
    [&u32::try_from(text.len()).expect("a text").to_be_bytes()[..], text].concat()
}
