use std::io::IoSlice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;

use super::*;
use crate::message::PayloadKind;
use crate::protocol::frame;

/// Takes `room` bytes and keeps them.
#[derive(Default)]
pub struct Stub {
    inner: Mutex<StubState>,
}

#[derive(Default)]
struct StubState {
    room: usize,
    taken: Vec<u8>,
    writes: usize,
    broken: bool,
}

impl Stub {
    fn with_room(room: usize) -> Stub {
        let stub = Stub::default();
        stub.inner.lock().unwrap().room = room;
        stub
    }

    /// Takes so many bytes from now on.
    pub fn makes_room(&self, bytes: usize) {
        self.inner.lock().unwrap().room = bytes;
    }

    pub fn taken_bytes(&self) -> Vec<u8> {
        self.inner.lock().unwrap().taken.clone()
    }

    fn writes(&self) -> usize {
        self.inner.lock().unwrap().writes
    }

    fn taken(&self) -> String {
        String::from_utf8(self.taken_bytes()).unwrap()
    }
}

impl Socket for Stub {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.try_write_vectored(&[IoSlice::new(bytes)])
    }

    fn try_write_vectored(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut stub = self.inner.lock().unwrap();
        stub.writes += 1;
        if stub.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if stub.room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut written = 0;
        for buffer in buffers {
            let part = buffer.len().min(stub.room);
            stub.taken.extend_from_slice(&buffer[..part]);
            stub.room -= part;
            written += part;
        }
        Ok(written)
    }

    fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.inner.lock().unwrap().room > 0 { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

/// Counts how often it is woken.
#[derive(Default)]
struct Task {
    woken: AtomicUsize,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.woken.fetch_add(1, Ordering::Relaxed);
    }
}

fn flush(outbox: &Outbox, stub: &Stub) -> Phase {
    outbox.poll_flush(&mut Context::from_waker(Waker::noop()), stub).0
}

fn send(outbox: &Outbox, stub: &Stub, text: &'static str) -> Verdict {
    outbox.send(stub, &Bytes::from_static(text.as_bytes()), 8)
}

#[test]
fn what_is_posted_waits_for_the_task_and_goes_out_in_one_write() {
    let (outbox, stub) = (Outbox::default(), Stub::with_room(100));
    let post = |text: &'static str| outbox.post(&Bytes::from_static(text.as_bytes()), 8);
    let task = Arc::new(Task::default());
    outbox.poll_flush(&mut Context::from_waker(&task.clone().into()), &stub);
    // The first is taken whatever its size.
    assert_eq!(post("hello, you"), Verdict::Taken);
    assert_eq!((task.woken.load(Ordering::Relaxed), stub.writes()), (1, 0));
    assert_eq!(post("!"), Verdict::Full);
    flush(&outbox, &stub);
    assert_eq!([post("a"), post("b")], [Verdict::Taken; 2]);
    // Whoever sends meanwhile comes behind.
    assert_eq!(send(&outbox, &stub, "c"), Verdict::Taken);
    assert_eq!(stub.writes(), 1);
    flush(&outbox, &stub);
    assert_eq!((stub.taken().as_str(), stub.writes()), ("hello, youabc", 2));
    outbox.close(&stub, Bytes::from_static(b"bye"), true);
    assert_eq!(post("d"), Verdict::Closed);
}

#[test]
fn an_empty_outbox_writes_straight_through_and_keeps_nothing() {
    let (outbox, stub) = (Outbox::default(), Stub::with_room(100));
    assert_eq!(send(&outbox, &stub, "hello"), Verdict::Taken);
    assert_eq!((stub.taken().as_str(), outbox.waiting_bytes()), ("hello", 0));
}

#[test]
fn what_does_not_fit_waits_and_leaves_in_order() {
    let (outbox, stub) = (Outbox::default(), Stub::with_room(2));
    for text in ["abc", "de", "fg"] {
        assert_eq!(send(&outbox, &stub, text), Verdict::Taken);
    }
    assert_eq!(outbox.waiting_bytes(), 5);
    stub.makes_room(3);
    assert_eq!(flush(&outbox, &stub), Phase::Open);
    assert_eq!(stub.taken(), "abcde");
    stub.makes_room(100);
    flush(&outbox, &stub);
    assert_eq!((stub.taken().as_str(), outbox.waiting_bytes()), ("abcdefg", 0));
}

#[test]
fn waiting_chunks_leave_in_one_vectored_write() {
    let (outbox, stub) = (Outbox::default(), Stub::with_room(0));
    for text in ["a", "b", "c"] {
        send(&outbox, &stub, text);
    }
    let before = stub.inner.lock().unwrap().writes;
    stub.makes_room(100);
    flush(&outbox, &stub);
    assert_eq!(stub.inner.lock().unwrap().writes - before, 1);
}

#[test]
fn small_chunks_and_large_ones_leave_in_order() {
    let (outbox, stub) = (Outbox::default(), Stub::with_room(0));
    let mut expected = String::new();
    for (index, length) in [1, 3, 2000, 2, 1, 3000, 1025, 1024, 1].into_iter().enumerate() {
        let chunk = index.to_string().repeat(length);
        expected += &chunk;
        assert_eq!(outbox.send(&stub, &Bytes::from(chunk), usize::MAX), Verdict::Taken);
    }
    assert_eq!(outbox.waiting_bytes(), expected.len());
    while outbox.waiting_bytes() > 0 {
        stub.makes_room(7);
        flush(&outbox, &stub);
    }
    assert!(stub.taken() == expected);
}

#[test]
fn a_close_without_flush_finishes_small_chunks_that_were_begun() {
    let (outbox, stub) = (Outbox::default(), Stub::with_room(0));
    for text in ["a", "bc", "de"] {
        send(&outbox, &stub, text);
    }
    stub.makes_room(2);
    flush(&outbox, &stub);
    outbox.close(&stub, Bytes::from_static(b"!"), false);
    stub.makes_room(100);
    flush(&outbox, &stub);
    assert_eq!(stub.taken(), "abcde!");
}

#[test]
fn past_the_limit_nothing_is_kept() {
    let (outbox, stub) = (Outbox::default(), Stub::with_room(0));
    assert_eq!(send(&outbox, &stub, "12345678"), Verdict::Taken);
    assert_eq!(send(&outbox, &stub, "9"), Verdict::Full);
    assert_eq!(outbox.waiting_bytes(), 8);
}

#[test]
fn the_first_bytes_wait_whole_even_past_the_limit() {
    let (outbox, stub) = (Outbox::default(), Stub::with_room(1));
    assert_eq!(send(&outbox, &stub, "longer than eight"), Verdict::Taken);
    stub.makes_room(100);
    flush(&outbox, &stub);
    assert_eq!(stub.taken(), "longer than eight");
}

#[test]
fn nothing_follows_a_close_frame() {
    let (outbox, stub) = (Outbox::default(), Stub::with_room(0));
    send(&outbox, &stub, "abc");
    assert!(outbox.close(&stub, Bytes::from_static(b"!"), true));
    assert!(!outbox.close(&stub, Bytes::from_static(b"?"), true));
    assert_eq!(send(&outbox, &stub, "late"), Verdict::Closed);
    assert_eq!(outbox.phase(), Phase::Closing);
    stub.makes_room(100);
    assert_eq!(flush(&outbox, &stub), Phase::Closed);
    assert_eq!(stub.taken(), "abc!");
}

#[test]
fn a_close_without_flush_finishes_only_the_chunk_that_was_begun() {
    let (outbox, stub) = (Outbox::default(), Stub::with_room(1));
    send(&outbox, &stub, "abc");
    send(&outbox, &stub, "def");
    outbox.close(&stub, Bytes::from_static(b"!"), false);
    stub.makes_room(100);
    flush(&outbox, &stub);
    assert_eq!(stub.taken(), "abc!");

    let (outbox, stub) = (Outbox::default(), Stub::with_room(0));
    send(&outbox, &stub, "abc");
    outbox.close(&stub, Bytes::from_static(b"!"), false);
    stub.makes_room(100);
    flush(&outbox, &stub);
    assert_eq!(stub.taken(), "!");
}

#[test]
fn a_broken_socket_ends_it() {
    let (outbox, stub) = (Outbox::default(), Stub::with_room(0));
    send(&outbox, &stub, "abc");
    stub.inner.lock().unwrap().broken = true;
    stub.makes_room(1);
    assert_eq!(flush(&outbox, &stub), Phase::Dead);
    assert_eq!(send(&outbox, &stub, "more"), Verdict::Closed);
    assert_eq!(outbox.waiting_bytes(), 0);
}

/// An outbox in which a text of one byte waits for each of `names`, and a limit of eight bytes for them.
fn behind(stub: &Stub, names: &[&str]) -> Outbox {
    let outbox = Outbox::default();
    for name in names {
        outbox.send_over_oldest(stub, &text(name), 9, frame::first);
    }
    outbox
}

fn text(payload: &str) -> Bytes {
    frame::message(PayloadKind::Text, payload.as_bytes())
}

/// The payloads of the frames that were taken; those of control frames in brackets.
fn payloads(stub: &Stub) -> String {
    let taken = stub.taken_bytes();
    let (mut rest, mut payloads) = (&taken[..], String::new());
    while !rest.is_empty() {
        let span = frame::first(rest);
        let payload = std::str::from_utf8(&rest[2..span.bytes]).unwrap();
        payloads += &if span.is_control { format!("[{payload}]") } else { payload.to_owned() };
        rest = &rest[span.bytes..];
    }
    payloads
}

#[test]
fn the_oldest_messages_make_room() {
    let stub = Stub::with_room(0);
    let outbox = behind(&stub, &["a", "b", "c", "d", "e"]);
    assert_eq!((outbox.missed(), outbox.waiting_bytes()), (2, 9));
    assert_eq!(outbox.send_over_oldest(&stub, &text("long"), 9, frame::first), (Verdict::Taken, 2));
    stub.makes_room(100);
    flush(&outbox, &stub);
    assert_eq!((payloads(&stub).as_str(), outbox.missed()), ("elong", 4));
}

#[test]
fn what_was_begun_is_finished_though_it_is_the_oldest() {
    // Two frames and the first byte of a third are written before there is no room.
    let stub = Stub::with_room(0);
    let outbox = behind(&stub, &["a", "b", "c"]);
    stub.makes_room(7);
    flush(&outbox, &stub);
    for name in ["d", "e", "f"] {
        outbox.send_over_oldest(&stub, &text(name), 9, frame::first);
    }
    assert_eq!(outbox.missed(), 1);
    stub.makes_room(100);
    flush(&outbox, &stub);
    assert_eq!(payloads(&stub), "abcef");
}

#[test]
fn control_frames_stay_while_messages_around_them_go() {
    let stub = Stub::with_room(0);
    let outbox = behind(&stub, &["a"]);
    assert_eq!(outbox.send_over_oldest(&stub, &frame::pong(b"!"), 9, frame::first), (Verdict::Taken, 0));
    for name in ["b", "c", "d"] {
        outbox.send_over_oldest(&stub, &text(name), 9, frame::first);
    }
    stub.makes_room(100);
    flush(&outbox, &stub);
    assert_eq!((payloads(&stub).as_str(), outbox.missed()), ("[!]cd", 2));
}

#[test]
fn control_frames_alone_fill_it_in_the_end() {
    let stub = Stub::with_room(0);
    let outbox = behind(&stub, &["a", "b"]);
    let pong = frame::pong(b"!");
    let verdicts: Vec<_> = (0..4).map(|_| outbox.send_over_oldest(&stub, &pong, 9, frame::first)).collect();
    let taken = |missed| (Verdict::Taken, missed);
    assert_eq!(verdicts, [taken(0), taken(1), taken(1), (Verdict::Full, 0)]);
}

#[test]
fn pongs_without_an_end_are_not_looked_through_for_ever() {
    let (outbox, stub) = (Outbox::default(), Stub::with_room(0));
    let (pongs, texts) = (frame::pong(b"").repeat(10_000), text(&"x".repeat(100)).repeat(10_000));
    let bytes_max = pongs.len() + texts.len();
    for frames in [pongs, texts] {
        assert_eq!(outbox.send(&stub, &Bytes::from(frames), bytes_max), Verdict::Taken);
    }
    assert_eq!(outbox.send_over_oldest(&stub, &text("one more"), bytes_max, frame::first), (Verdict::Full, 0));
}

#[test]
fn a_batch_larger_than_the_limit_loses_its_own_beginning() {
    let (outbox, stub) = (Outbox::default(), Stub::with_room(0));
    assert_eq!(outbox.send_over_oldest(&stub, &text("a"), 9, frame::first), (Verdict::Taken, 0));
    let batch = Bytes::from([text("b"), text("c"), text("d"), text("e")].concat());
    assert_eq!(outbox.send_over_oldest(&stub, &batch, 9, frame::first), (Verdict::Taken, 2));
    stub.makes_room(100);
    flush(&outbox, &stub);
    assert_eq!(payloads(&stub), "cde");
}

#[test]
fn an_outbox_that_keeps_nothing_is_empty() {
    let (outbox, stub) = (Outbox::default(), Stub::with_room(0));
    outbox.send_over_oldest(&stub, &text("a"), 9, frame::first);
    assert_eq!(outbox.send_over_oldest(&stub, &text("longer than nine"), 9, frame::first), (Verdict::Taken, 2));
    stub.makes_room(100);
    assert_eq!((flush(&outbox, &stub), outbox.waiting_bytes()), (Phase::Open, 0));
    outbox.send_over_oldest(&stub, &text("b"), 9, frame::first);
    assert_eq!(payloads(&stub), "b");
}

#[test]
fn a_replay_counts_towards_no_limit_and_leaves_before_the_rest() {
    let (outbox, stub) = (Outbox::default(), Stub::with_room(0));
    outbox.replay(&[]);
    assert_eq!(outbox.waiting_bytes(), 0);
    outbox.replay(&[Bytes::from_static(b"past one, "), Bytes::from_static(b"past two, ")]);
    for text in ["live", "more"] {
        assert_eq!(send(&outbox, &stub, text), Verdict::Taken);
    }
    assert_eq!(send(&outbox, &stub, "!"), Verdict::Full);
    stub.makes_room(15);
    flush(&outbox, &stub);
    assert_eq!(send(&outbox, &stub, "!"), Verdict::Full, "what is left of the past counts as little");
    stub.makes_room(7);
    flush(&outbox, &stub);
    assert_eq!(send(&outbox, &stub, "ab"), Verdict::Taken);
    assert_eq!(send(&outbox, &stub, "c"), Verdict::Full, "the limit holds again for all that waits");
    stub.makes_room(100);
    flush(&outbox, &stub);
    assert_eq!((stub.taken().as_str(), outbox.waiting_bytes()), ("past one, past two, livemoreab", 0));
}

#[test]
fn a_replay_is_cut_by_a_close_and_not_begun_after_one() {
    let (outbox, stub) = (Outbox::default(), Stub::with_room(0));
    outbox.replay(&[Bytes::from(vec![b'x'; 2000]), Bytes::from(vec![b'y'; 2000])]);
    stub.makes_room(1);
    flush(&outbox, &stub);
    outbox.close(&stub, Bytes::from_static(b"!"), false);
    outbox.replay(&[Bytes::from_static(b"late")]);
    stub.makes_room(5000);
    assert_eq!(flush(&outbox, &stub), Phase::Closed);
    assert_eq!(stub.taken(), "x".repeat(2000) + "!");
}

#[test]
fn a_replay_stays_whole_while_what_came_after_it_makes_room() {
    let (outbox, stub) = (Outbox::default(), Stub::with_room(0));
    outbox.replay(&[Bytes::from([text("1"), text("2")].concat()), text("3")]);
    // Into the second frame.
    stub.makes_room(4);
    flush(&outbox, &stub);
    let missed: u32 =
        ["a", "b", "c", "d"].map(|name| outbox.send_over_oldest(&stub, &text(name), 9, frame::first).1).iter().sum();
    assert_eq!((missed, outbox.waiting_bytes()), (1, 5 + 9));
    stub.makes_room(100);
    flush(&outbox, &stub);
    assert_eq!(payloads(&stub), "123bcd");
}

#[test]
fn letters_behind_other_messages_stay_while_they_make_room() {
    let stub = Stub::with_room(0);
    let outbox = behind(&stub, &["a", "b"]);
    send_letter(&outbox, "letter");
    outbox.send_over_oldest(&stub, &frame::ping(b"!"), 9, frame::first);
    for name in ["c", "d", "e"] {
        outbox.send_over_oldest(&stub, &text(name), 9, frame::first);
    }
    outbox.replay(&[text("past")]);
    outbox.send_over_oldest(&stub, &text("f"), 9, frame::first);
    assert_eq!((outbox.missed(), outbox.waiting_bytes()), (4, 9 + 8 + 6));
    stub.makes_room(100);
    flush(&outbox, &stub);
    assert_eq!(payloads(&stub), "letter[!]epastf");
}

#[test]
fn proofs_stay_behind_their_letters() {
    let stub = Stub::with_room(0);
    let outbox = behind(&stub, &["a"]);
    for number in ["1", "2"] {
        send_letter(&outbox, number);
        outbox.send_over_oldest(&stub, &frame::ping(number.as_bytes()), 100, frame::first);
        outbox.send_over_oldest(&stub, &text("b"), 100, frame::first);
    }
    assert_eq!(outbox.send_over_oldest(&stub, &text("last"), 6 + 3 + 3, frame::first), (Verdict::Taken, 3));
    stub.makes_room(1000);
    flush(&outbox, &stub);
    assert_eq!(payloads(&stub), "1[1]2[2]last");
}

/// A letter, of which two may wait whatever their size and else 8 KiB.
fn send_letter(outbox: &Outbox, payload: &str) -> Verdict {
    outbox.send_letter(text(payload), 2, 8 * 1024)
}

#[test]
fn some_letters_wait_whatever_their_size_and_more_within_the_limit() {
    let (outbox, stub) = (Outbox::default(), Stub::with_room(0));
    let large = "x".repeat(10_000);
    assert_eq!(
        [&large, &large, "small"].map(|letter| send_letter(&outbox, letter)),
        [Verdict::Taken, Verdict::Taken, Verdict::Full]
    );
    // Others have their own limit.
    assert_eq!(send(&outbox, &stub, "12345678"), Verdict::Taken);
    // Only what is wholly written makes room for another one.
    stub.makes_room(10_000);
    flush(&outbox, &stub);
    assert_eq!(send_letter(&outbox, "small"), Verdict::Full);
    stub.makes_room(100);
    flush(&outbox, &stub);
    assert_eq!([&large, "small"].map(|letter| send_letter(&outbox, letter)), [Verdict::Taken, Verdict::Full]);
    stub.makes_room(100_000);
    flush(&outbox, &stub);
    assert_eq!(outbox.waiting_bytes(), 0);
    // Each counts as a KiB at least, for that is what it costs.
    assert_eq!((0..9).filter(|_| send_letter(&outbox, "tiny") == Verdict::Taken).count(), 8);
}

#[test]
fn a_letter_that_was_begun_is_finished_before_a_close_and_the_others_are_not_begun() {
    let (outbox, stub) = (Outbox::default(), Stub::with_room(0));
    send_letter(&outbox, "begun");
    send_letter(&outbox, "not");
    stub.makes_room(1);
    flush(&outbox, &stub);
    outbox.close(&stub, text("bye"), false);
    assert_eq!(send_letter(&outbox, "late"), Verdict::Closed);
    stub.makes_room(100);
    assert_eq!(flush(&outbox, &stub), Phase::Closed);
    assert_eq!(payloads(&stub), "begunbye");
}
