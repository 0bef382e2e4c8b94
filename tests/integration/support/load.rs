//! Clients that talk and listen by themselves while a test does something else.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::client::Client;
use super::{eventually, within_deadline};

/// Messages per second of one [`Talker`].
const TALK_INTERVAL: Duration = Duration::from_millis(2);

/// How far ahead of what it hears of itself a talker is that waits.
const AHEAD_MAX: u64 = 200;

/// A silent session; keeps all texts that it hears.
pub struct Recorder {
    heard: Arc<Mutex<Vec<String>>>,
    listening: JoinHandle<()>,
}

impl Recorder {
    pub fn start(mut client: Client) -> Recorder {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let record = heard.clone();
        let listening = tokio::spawn(async move {
            while let Ok(message) = client.next().await {
                let text = message.into_text().expect("only texts are sent here");
                record.lock().expect("no panic under the lock").push(text.as_str().to_owned());
            }
        });
        Recorder { heard, listening }
    }

    pub fn is_connected(&self) -> bool {
        !self.listening.is_finished()
    }

    pub fn count(&self) -> usize {
        self.heard.lock().expect("no panic under the lock").len()
    }

    pub async fn hears(&self, text: &str) {
        eventually(&format!("a silent session hears {text:?}"), || async {
            self.heard.lock().expect("no panic under the lock").iter().any(|heard| heard == text)
        })
        .await;
    }

    pub async fn hears_more(&self) {
        let before = self.count();
        eventually("a silent session hears more", || async { self.count() >= before + 50 }).await;
    }

    pub async fn has_heard(&self, count: usize) {
        eventually("a silent session has heard enough", || async { self.count() >= count }).await;
    }

    /// Every number of the talker `name` up to `last` was heard, once and in order.
    pub fn has_all_of(&self, name: &str, last: u64) {
        let heard = self.numbers_of(name);
        let wrong = heard.iter().zip(1..=last).find(|(heard, expected)| *heard != expected);
        assert_eq!((wrong, heard.len() as u64), (None, last), "{name}: (heard, expected), and how many");
    }

    /// The numbers heard from the talker `name`, as they came.
    pub fn numbers_of(&self, name: &str) -> Vec<u64> {
        let heard = self.heard.lock().expect("no panic under the lock");
        heard.iter().filter_map(|text| number_of(name, text)).collect()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// A session that says `name 1`, `name 2`, … until it is told to be quiet or is closed.
pub struct Talker {
    name: String,
    leave: oneshot::Sender<()>,
    talking: JoinHandle<Said>,
}

/// What a [`Talker`] has said.
#[derive(Debug)]
pub struct Said {
    /// Numbers from 1 up to this.
    pub last: u64,
    /// The server ended the session, with this code.
    pub refused: Option<u16>,
}

impl Talker {
    pub fn start(client: Client, name: &str) -> Talker {
        Talker::with(client, name, u64::MAX)
    }

    /// Waits while it has not heard its last words, so that a busy machine is not left behind by more and more. Only for where
    /// nothing of it is lost: else it waits for ever.
    pub fn waiting(client: Client, name: &str) -> Talker {
        Talker::with(client, name, AHEAD_MAX)
    }

    fn with(client: Client, name: &str, ahead_max: u64) -> Talker {
        let (leave, leaving) = oneshot::channel();
        let talking = tokio::spawn(talk(client, name.to_owned(), ahead_max, leaving));
        Talker { name: name.to_owned(), leave, talking }
    }

    /// Stops talking and leaves. The server acts on what one session sends in its order, so all that was said is on
    /// its way to the broker by then.
    pub async fn leave(self) -> (String, Said) {
        // Gone already if the session was closed.
        let _ = self.leave.send(());
        let said = within_deadline("the talker leaves", self.talking).await.expect("no panic");
        (self.name, said)
    }
}

async fn talk(mut client: Client, name: String, ahead_max: u64, mut leaving: oneshot::Receiver<()>) -> Said {
    let (mut last, mut heard) = (0, 0);
    let mut talks = true;
    let mut ticks = tokio::time::interval(TALK_INTERVAL);
    loop {
        tokio::select! {
            _ = ticks.tick(), if talks && last - heard < ahead_max => {
                last += 1;
                // A failure shows in what the session ends with.
                let _ = client.try_send(Message::text(format!("{name} {last}"))).await;
            }
            message = client.next() => match message {
                Ok(message) => {
                    let text = message.into_text().expect("only texts are sent here");
                    heard = number_of(&name, &text).map_or(heard, |number| heard.max(number));
                }
                Err(frame) => {
                    // Our own good-bye is echoed without a code.
                    let refused = frame.map(|frame| frame.code).filter(|code| *code != CloseCode::Status);
                    return Said { last, refused: refused.map(u16::from) };
                }
            },
            _ = &mut leaving, if talks => {
                talks = false;
                let _ = client.try_send(Message::Close(None)).await;
            }
        }
    }
}

/// Of a text of this talker.
fn number_of(name: &str, text: &str) -> Option<u64> {
    text.strip_prefix(name)?.strip_prefix(' ')?.parse().ok()
}
