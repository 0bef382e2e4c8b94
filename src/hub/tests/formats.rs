//! One encoding for each format that somebody wants, and whole runs of messages in each.

use super::*;
use crate::cursor::Cursor;
use crate::hub::format::Wanted;

const PLAIN: Wanted = Wanted { plain: true, plain_deflated: false, json: false, json_deflated: false, events: false };
const DEFLATED: Wanted = Wanted { plain_deflated: true, ..PLAIN };
const JSON: Wanted = Wanted { plain: false, json: true, ..PLAIN };
const JSON_DEFLATED: Wanted = Wanted { json_deflated: true, ..JSON };

fn long() -> &'static str {
    Box::leak("long ".repeat(100).into_boxed_str())
}

fn of(texts: &[(&'static str, Wanted)]) -> Frames {
    in_batch(Batch::unplaced(), texts)
}

fn placed(texts: &[(&'static str, Wanted)]) -> Frames {
    in_batch(Batch::placed(), texts)
}

fn in_batch(mut batch: Batch, texts: &[(&'static str, Wanted)]) -> Frames {
    let mut encoder = Encoder::new(own(), 100);
    for (text, wanted) in texts {
        batch.add(&mut encoder, &message(Target::Broadcast, text), &Cursor::default(), *wanted);
    }
    batch.take()
}

/// The texts of frames of JSON.
fn said(frames: &[u8]) -> Vec<String> {
    let mut rest = frames;
    std::iter::from_fn(|| {
        (!rest.is_empty()).then(|| {
            let span = crate::protocol::frame::first(rest);
            let (frame, behind) = rest.split_at(span.bytes);
            rest = behind;
            let begin = frame.windows(2).position(|bytes| bytes == b"{\"").unwrap();
            let value: serde_json::Value = serde_json::from_slice(&frame[begin..]).unwrap();
            value["text"].as_str().unwrap().to_owned()
        })
    })
    .collect()
}

#[test]
fn a_batch_is_kept_once_until_something_in_it_is_compressed() {
    use Format::{Plain, PlainDeflated};
    let frames = of(&[("short", DEFLATED), (long(), PLAIN)]);
    assert_eq!(frames.of(Plain).as_ptr(), frames.of(PlainDeflated).as_ptr());

    let mixed = of(&[("a", DEFLATED), (long(), DEFLATED), ("b", DEFLATED)]);
    let (plain, deflated) = (mixed.of(Plain), mixed.of(PlainDeflated));
    assert!(deflated.len() < plain.len() / 5, "{} of {}", deflated.len(), plain.len());
    assert_eq!((&deflated[..3], &deflated[deflated.len() - 3..]), (&b"\x81\x01a"[..], &b"\x81\x01b"[..]));
    assert_eq!(deflated[3], 0xC1, "compressed text");

    let joined = Frames::join(&[frames.clone(), mixed.clone(), frames.clone()]);
    assert_eq!(joined.of(Plain), &[&frames.of(Plain)[..], plain, frames.of(Plain)].concat());
    assert_eq!(joined.of(PlainDeflated), &[&frames.of(Plain)[..], deflated, frames.of(Plain)].concat());
    let same = Frames::join(&[frames.clone(), frames]);
    assert_eq!(same.of(Plain).as_ptr(), same.of(PlainDeflated).as_ptr());
}

#[test]
fn json_is_compressed_like_the_rest() {
    let frames = placed(&[(long(), JSON_DEFLATED)]);
    let (json, deflated) = (frames.of(Format::Json), frames.of(Format::JsonDeflated));
    assert!(deflated.len() < json.len() / 3, "{} of {}", deflated.len(), json.len());
    assert_eq!((deflated[0], said(json)), (0xC1, vec![long().to_owned()]));
    assert!(frames.of(Format::Plain).is_empty());
}

#[test]
fn events_are_encoded_once_beside_the_rest() {
    let events = Wanted { plain: false, events: true, ..PLAIN };
    let frames = placed(&[("unheard", JSON), ("a", events), ("b\nc", Wanted { events: true, ..JSON_DEFLATED })]);
    let mut rest = &frames.of(Format::Events)[..];
    let mut texts = Vec::new();
    while !rest.is_empty() {
        let (event, behind) = rest.split_at(crate::protocol::events::first(rest).bytes);
        rest = behind;
        let data = event.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"data: ")).expect("data");
        let message: serde_json::Value = serde_json::from_slice(data).unwrap();
        texts.push(message["text"].as_str().unwrap().to_owned());
    }
    assert_eq!(texts, ["a", "b\nc"], "from the first that somebody wanted so");
    assert!(placed(&[("a", JSON)]).of(Format::Events).is_empty());
}

/// Somebody who came after a message was encoded hears all that came after it, or nothing, but never a run with a hole.
#[test]
fn a_run_of_messages_has_no_hole() {
    let both = Wanted { plain: true, ..JSON };
    for (texts, whole, late) in [
        (&[("a", both), ("b", both)][..], &["a", "b"][..], false),
        (&[("a", PLAIN), ("b", both)], &["b"], true),
        (&[("a", both), ("b", PLAIN), ("c", both)], &["c"], true),
        (&[("a", both), ("b", PLAIN)], &[], true),
        (&[("a", PLAIN)], &[], true),
    ] {
        let (frames, plain) = (placed(texts), of(texts));
        assert_eq!(said(frames.of(Format::Json)), whole, "{texts:?}");
        assert_eq!(plain.of(Format::Plain).len(), 3 * texts.len());
        let around = [("y", both), ("z", both)];
        let joined = Frames::join(&[placed(&around), frames, placed(&around)]);
        let front: &[&str] = if late { &[] } else { &["y", "z"] };
        assert_eq!(said(joined.of(Format::Json)), [front, whole, &["y", "z"]].concat(), "{texts:?}");
        let joined = Frames::join(&[of(&around), plain, of(&around)]);
        assert_eq!(joined.of(Format::Plain).len(), 3 * texts.len() + 12);
    }
}

#[tokio::test]
async fn messages_are_encoded_as_somebody_wants_them() {
    use Format::{Json, Plain, PlainDeflated};
    let (hub, deliveries) = start();
    let ears = [Plain, PlainDeflated, Json].map(|format| Arc::new(Ear { format, ..Ear::default() }));
    let memberships = ears.each_ref().map(|ear| joined(&hub, ear.clone()));
    deliveries.send(vec![message(Target::Broadcast, long())].into()).await.unwrap();
    for ear in &ears {
        ear.hears_something().await;
    }
    let [plain, inflating, json] = ears.each_ref().map(|ear| ear.bytes());
    assert!(inflating < plain / 5 && json > plain, "{inflating} {plain} {json}");
    let wanted = hub.shared.demand.now();
    assert_eq!(wanted, Wanted { plain: true, plain_deflated: true, json: true, json_deflated: false, events: false });
    drop(memberships);
    assert_eq!(hub.shared.demand.now(), Wanted::default());
}

#[tokio::test(start_paused = true)]
async fn who_joins_within_a_batch_hears_what_comes_then() {
    let (hub, deliveries) = start_with(Duration::from_millis(50));
    let plain: Arc<Ear> = Arc::default();
    let _membership = joined(&hub, plain.clone());
    deliveries.send(vec![message(Target::Broadcast, "a")].into()).await.unwrap();
    // The feed has it once there is room for all that it takes at a time.
    while deliveries.capacity() < deliveries.max_capacity() {
        tokio::task::yield_now().await;
    }
    let json = Arc::new(Ear { format: Format::Json, ..Ear::default() });
    let mut membership = joined(&hub, json.clone());
    membership.caught_up().await;
    deliveries.send(vec![message(Target::Broadcast, "b"), message(Target::Broadcast, "c")].into()).await.unwrap();
    json.hears_something().await;
    assert_eq!(said(&json.heard.lock().unwrap()), ["b", "c"]);
    plain.hears("abc").await;

    membership.leave();
    membership.caught_up().await;
    deliveries.send(vec![message(Target::Broadcast, "d")].into()).await.unwrap();
    plain.hears("abcd").await;
    assert_eq!(said(&json.heard.lock().unwrap()), ["b", "c"]);
}
