//! Readers that stall, beside others that do not: what they cost, and what they miss.

use serde_json::json;
use warren::config::Config;
use warren::session::SlowReader;

use crate::support::identity::{token_of, with_tokens};
use crate::support::instance::{Instance, config};
use crate::support::json::JsonClient;
use crate::support::process::{Directory, Warren};
use crate::support::raw::wire;
use crate::support::raw::{Closing, Raw, handshake_with};
use crate::support::resources::memory_kib;
use crate::support::sessions_become;

const KIB: usize = 1024;

/// More than the kernel keeps for a client that does not read (`net.ipv4.tcp_wmem`, some 4 MiB) and an outbox.
const TEXTS: usize = 200;

const STALLED: usize = 40;
const HEALTHY: usize = 5;
const OUTBOX_KIB: usize = 512;

/// The text number `index`, some 60 KB long.
fn long_text(index: usize) -> String {
    format!("{index:08}").repeat(7_500)
}

fn number_of(payload: &[u8]) -> usize {
    let text = std::str::from_utf8(payload).expect("a text");
    let number = text[..8].parse().expect("a number");
    assert!(text == long_text(number), "a text that is not whole");
    number
}

/// Says all texts, each heard by all who read before the next.
async fn say_all(speaker: &mut Raw, healthy: &mut [Raw]) {
    for index in 0..TEXTS {
        let text = long_text(index);
        speaker.send(wire::text(&text)).await;
        speaker.receives(&[&text]).await;
        for reader in healthy.iter_mut() {
            reader.receives(&[&text]).await;
        }
    }
}

/// The numbers of the texts that come until the close frame, or until the last text.
async fn numbers(reader: &mut Raw) -> (Vec<usize>, Option<Closing>) {
    let mut numbers = Vec::new();
    while numbers.last() != Some(&(TEXTS - 1)) {
        let frame = reader.frame().await;
        if let Some(closing) = Closing::of(&frame) {
            return (numbers, Some(closing));
        }
        numbers.push(number_of(&frame.payload));
    }
    (numbers, None)
}

/// Lets a crowd stall while others read, and looks at what it costs; the stalled ones are the answer.
async fn stalled_beside_healthy(warren: &Warren) -> Vec<Raw> {
    let mut speaker = Raw::connect(warren.address).await;
    let mut healthy = Vec::new();
    for _ in 0..HEALTHY {
        healthy.push(Raw::connect(warren.address).await);
    }
    say_all(&mut speaker, &mut healthy).await;
    let before_kib = memory_kib(warren.process.pid());
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        stalled.push(Raw::connect_narrow(warren.address).await);
    }
    // Whoever is served behind a stalled one, hears all the same.
    healthy.push(Raw::connect(warren.address).await);
    healthy.push(Raw::connect(warren.address).await);
    say_all(&mut speaker, &mut healthy).await;
    let grown_kib = memory_kib(warren.process.pid()).saturating_sub(before_kib);
    let bound_kib = STALLED * OUTBOX_KIB + 8 * KIB;
    assert!(grown_kib < bound_kib, "{grown_kib} KiB for {STALLED} outboxes of {OUTBOX_KIB}");
    stalled
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_readers_are_closed_within_their_memory_and_the_others_hear_everything() {
    let outbox = format!("{OUTBOX_KIB}KiB");
    let flags = ["--log", "off", "--close-timeout-ms", "60000", "--outbox-bytes-max", &outbox];
    let warren = Warren::serve(&flags, &[]).await;
    for mut reader in stalled_beside_healthy(&warren).await {
        let (numbers, closing) = numbers(&mut reader).await;
        assert!(numbers.iter().copied().eq(0..numbers.len()), "all up to some text: {numbers:?}");
        assert!(numbers.len() < TEXTS, "nothing was held back");
        assert_eq!(closing.and_then(|closing| closing.code), Some(4001));
    }
    sessions_become(warren.address, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_readers_that_may_miss_some_stay_within_their_memory_and_get_the_newest() {
    let outbox = format!("{OUTBOX_KIB}KiB");
    let flags = ["--log", "off", "--slow-reader", "drop-oldest", "--outbox-bytes-max", &outbox];
    let warren = Warren::serve(&flags, &[]).await;
    for mut reader in stalled_beside_healthy(&warren).await {
        let (numbers, closing) = numbers(&mut reader).await;
        assert_eq!(closing, None);
        assert!(numbers.is_sorted_by(|one, next| one < next), "in order, none twice: {numbers:?}");
        assert!(numbers.len() < TEXTS, "nothing was left out");
        reader.is_open().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_miss_messages_misses_no_pong() {
    let limits = Config { slow_reader: SlowReader::DropOldest, outbox_bytes_max: 128 * KIB, ..config() };
    let instance = Instance::start(limits).await;
    let mut reader = Raw::connect_narrow(instance.address).await;
    let mut speaker = Raw::connect(instance.address).await;
    let pings = TEXTS / 10;
    for index in 0..TEXTS {
        if index % 10 == 0 {
            reader.send(wire::ping(format!("{}", index / 10).as_bytes())).await;
        }
        let text = long_text(index);
        speaker.send(wire::text(&text)).await;
        speaker.receives(&[&text]).await;
    }
    let (mut pongs, mut numbers) = (Vec::new(), Vec::new());
    while pongs.len() < pings || numbers.last() != Some(&(TEXTS - 1)) {
        let frame = reader.frame().await;
        match frame.opcode {
            wire::PONG => pongs.push(String::from_utf8(frame.payload).expect("the ping's payload")),
            _ => numbers.push(number_of(&frame.payload)),
        }
    }
    assert!(pongs.iter().cloned().eq((0..pings).map(|number| number.to_string())), "{pongs:?}");
    assert!(numbers.is_sorted_by(|one, next| one < next) && numbers.len() < TEXTS, "{numbers:?}");
    // What it did not get is what was counted; who reads misses nothing.
    instance.metrics().show("warren_missed_messages_total", (TEXTS - numbers.len()) as f64).await;
}

/// Instances that know tokens, with these limits.
async fn with_users(limits: impl FnOnce(Config) -> Config) -> Instance {
    let directory = Directory::new("slow");
    let instance = Instance::start(limits(with_tokens(&directory))).await;
    // It has read its key by then.
    instance.ready().await;
    instance
}

/// A token of somebody who may write to others.
fn token(user: &str) -> String {
    token_of(user, &json!({"roles": ["send"]}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_miss_messages_misses_no_letter_and_proves_only_what_has_come() {
    const LETTERS: usize = 20;
    let outbox = |config| Config { slow_reader: SlowReader::DropOldest, outbox_bytes_max: 128 * KIB, ..config };
    let instance = with_users(outbox).await;
    let [alice, bob] = ["alice", "bob"].map(|user| format!("Bearer {}", token(user)));
    let mut reader = Raw::connect_narrow_with(instance.address, &[("Authorization", &alice)]).await;
    let mut speaker = Raw::connect_with(instance.address, &[("Authorization", &bob)]).await;
    let mut writer = JsonClient::connect_with(instance.address, &[&token("bob")]).await;
    for index in 0..TEXTS {
        if index % (TEXTS / LETTERS) == 5 {
            let letter = format!("letter {}", index / (TEXTS / LETTERS));
            writer.granted(json!({"type": "send", "user": "alice", "text": letter})).await;
        }
        let text = long_text(index);
        speaker.send(wire::text(&text)).await;
        speaker.receives(&[&text]).await;
    }
    let (mut letters, mut proved, mut numbers) = (Vec::new(), 0, Vec::new());
    while proved < LETTERS || numbers.last() != Some(&(TEXTS - 1)) {
        let frame = reader.frame().await;
        match (frame.opcode, frame.payload.strip_prefix(b"letter ")) {
            (wire::PING, _) => {
                reader.send(wire::pong(&frame.payload)).await;
                // Its pong shows that so many have come, from the first on.
                proved = u64::from_be_bytes(frame.payload.try_into().expect("a number")) as usize;
                assert!(letters.len() >= proved, "{letters:?} and a ping behind {proved}");
            }
            (_, Some(letter)) => letters.push(String::from_utf8(letter.to_vec()).expect("a number")),
            (_, None) => numbers.push(number_of(&frame.payload)),
        }
    }
    assert!(letters.iter().cloned().eq((0..LETTERS).map(|number| number.to_string())), "{letters:?}");
    assert!(numbers.is_sorted_by(|one, next| one < next) && numbers.len() < TEXTS, "{numbers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_and_reads_may_have_been_sent_much_more_than_an_outbox_holds() {
    const LETTERS: usize = 40;
    const LETTER_KIB: usize = 400;
    // Just what a message needs; a mailbox gives 32 of them at once.
    let outbox = |config| Config {
        message_bytes_max: 512 * KIB,
        outbox_bytes_max: 512 * KIB + 14,
        unread_bytes_max: (LETTERS + 1) * LETTER_KIB * KIB,
        ..config
    };
    let instance = with_users(outbox).await;
    let mut writer = JsonClient::connect_with(instance.address, &[&token("bob")]).await;
    let text = "x".repeat(LETTER_KIB * KIB);
    for number in 0..LETTERS {
        writer.granted(json!({"type": "send", "user": "carol", "text": format!("{number} {text}")})).await;
    }
    let carol = format!("Bearer {}", token("carol"));
    let mut reader = Raw::narrow(instance.address).await;
    reader.send(handshake_with(instance.address, &[("Authorization", &carol)])).await;
    assert_eq!(reader.answer().await.status, 101);
    let mut letters = Vec::new();
    while letters.len() < LETTERS {
        let frame = reader.frame().await;
        assert_eq!(Closing::of(&frame), None, "behind {letters:?}");
        match frame.opcode {
            wire::PING => reader.send(wire::pong(&frame.payload)).await,
            _ => letters.push(String::from_utf8(frame.payload).expect("a text").split(' ').next().map(str::to_owned)),
        }
    }
    assert!(letters.into_iter().eq((0..LETTERS).map(|number| Some(number.to_string()))));
    reader.is_open().await;
}
