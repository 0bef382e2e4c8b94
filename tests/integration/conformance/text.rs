//! §8.1: text is UTF-8 as a whole, and may be cut anywhere.

use super::{each_is_closed_with, frame, parts};
use crate::support::instance::{Instance, config};
use crate::support::raw::Raw;
use crate::support::raw::wire::{self, BINARY, PONG, TEXT};

/// Characters of one to four bytes: the first and last of each length, and those around the surrogates.
const SAMPLE: &str = "a\u{0}\u{7F}\u{80}é\u{7FF}\u{800}€\u{D7FF}\u{E000}\u{FFFD}\u{FFFF}\u{10000}🦀\u{10FFFF}z";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_may_be_cut_anywhere_into_fragments() {
    let instance = Instance::start(config()).await;
    let mut client = Raw::connect(instance.address).await;
    let bytes = SAMPLE.as_bytes();
    for first in 0..=bytes.len() {
        for second in first..=bytes.len() {
            let fragments = wire::fragments(TEXT, &parts(bytes, &[first, second]));
            let frames = [&fragments[0].bytes()[..], &wire::ping(b"?"), &fragments[1].bytes(), &fragments[2].bytes()];
            client.send(frames.concat()).await;
            client.receives_frame(PONG, b"?").await;
            client.receives(&[SAMPLE]).await;
        }
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    client.send(wire::stream(&wire::fragments(TEXT, &single))).await;
    client.receives(&[SAMPLE]).await;
}

/// Between the two halves another session has time for a ping and its pong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_may_be_cut_anywhere_into_packets() {
    let instance = Instance::start(config()).await;
    let mut client = Raw::connect(instance.address).await;
    let mut other = Raw::connect(instance.address).await;
    let whole = wire::text(SAMPLE);
    let in_fragments = wire::stream(&wire::fragments(TEXT, &parts(SAMPLE.as_bytes(), &[4, 9])));
    for stream in [whole, in_fragments] {
        for cut in 1..stream.len() {
            client.send(&stream[..cut]).await;
            other.is_open().await;
            client.send(&stream[cut..]).await;
            client.receives(&[SAMPLE]).await;
        }
    }
}

/// Sequences that no character has.
const ILL_FORMED: [&[u8]; 20] = [
    // A byte that only continues, alone.
    b"\x80",
    b"\xBF",
    // Longer than the character needs.
    b"\xC0\x80",
    b"\xC0\xAF",
    b"\xC1\xBF",
    b"\xE0\x80\x80",
    b"\xE0\x9F\xBF",
    b"\xF0\x80\x80\x80",
    b"\xF0\x8F\xBF\xBF",
    // Halves of surrogate pairs, and a pair.
    b"\xED\xA0\x80",
    b"\xED\xBF\xBF",
    b"\xED\xA0\x80\xED\xB0\x80",
    // Past the last character.
    b"\xF4\x90\x80\x80",
    b"\xF5\x80\x80\x80",
    b"\xFE",
    b"\xFF",
    // Broken off by another character.
    b"\xC3a",
    b"\xE2\x82a",
    b"\xF0\x9F\xA6a",
    b"\xE2\xE2\x82\xAC",
];

/// Sequences that lack their end.
const UNFINISHED: [&[u8]; 4] = [b"\xC3", b"\xE2\x82", b"\xF0\x9F", b"\xF0\x9F\xA6"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_utf_8_is_refused_wherever_it_is_cut_into_fragments() {
    let mut inputs = Vec::new();
    for bad in ILL_FORMED.into_iter().chain(UNFINISHED) {
        let is_unfinished = UNFINISHED.contains(&bad);
        let payload = ["é".as_bytes(), bad, if is_unfinished { b"" } else { b"z" }].concat();
        inputs.push((format!("{bad:x?}"), frame(TEXT, &payload).bytes()));
        for cut in 0..=payload.len() {
            let fragments = wire::stream(&wire::fragments(TEXT, &parts(&payload, &[cut])));
            inputs.push((format!("{bad:x?} at {cut}"), fragments));
        }
        if !is_unfinished {
            inputs.push((
                format!("{bad:x?} in a fragment that is not the last"),
                frame(TEXT, &payload).not_final().bytes(),
            ));
        }
    }
    each_is_closed_with(1007, inputs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_utf_8_is_refused_wherever_it_is_cut_into_packets() {
    let instance = Instance::start(config()).await;
    let mut other = Raw::connect(instance.address).await;
    for bad in ILL_FORMED.into_iter().chain(UNFINISHED) {
        let stream = frame(TEXT, &["é".as_bytes(), bad].concat()).bytes();
        for cut in 1..stream.len() {
            let mut client = Raw::connect(instance.address).await;
            client.send(&stream[..cut]).await;
            other.is_open().await;
            // It may have seen enough.
            let _ = client.try_send(&stream[cut..]).await;
            assert_eq!(client.closed().await.code, Some(1007), "{bad:x?} at {cut}");
        }
    }
    other.send(wire::text("end")).await;
    other.receives(&["end"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binary_is_not_judged() {
    let instance = Instance::start(config()).await;
    let mut client = Raw::connect(instance.address).await;
    for bytes in ILL_FORMED.into_iter().chain(UNFINISHED) {
        client.send(wire::binary(bytes)).await;
        client.receives_frame(BINARY, bytes).await;
        client.send(wire::stream(&wire::fragments(BINARY, &parts(bytes, &[1])))).await;
        client.receives_frame(BINARY, bytes).await;
    }
}
