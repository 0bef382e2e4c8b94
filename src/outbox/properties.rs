//! Whatever is left out for a slow reader, what arrives are whole frames in order, and nothing is lost uncounted; letters
//! and what proves them are not lost at all.

use proptest::collection::vec;
use proptest::prelude::*;

use super::tests::Stub;
use super::*;
use crate::protocol::{Opcode, encode, frame};

/// What happens to an outbox.
#[derive(Debug, Clone)]
enum Step {
    /// One batch: a message of each of these lengths.
    Messages(Vec<usize>),
    /// The answer to a request, of this length, for the session's task to write.
    Answer(usize),
    /// A pong with a payload of this length.
    Pong(usize),
    /// A letter of this length: a message to the client's user.
    Letter(usize),
    /// A ping whose pong shows that the client has all letters so far.
    Proof,
    /// The socket takes so many bytes.
    Room(usize),
}

/// A frame as it was sent, or arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sent {
    opcode: u8,
    bytes: Vec<u8>,
}

/// A letter's payload begins with its number, from 1, behind this; a proof's is the number of the newest letter.
const LETTER: &[u8] = b"letter ";

impl Sent {
    fn new(bytes: &[u8]) -> Sent {
        Sent { opcode: bytes[0] & 0x0F, bytes: bytes.to_vec() }
    }

    fn payload(&self) -> &[u8] {
        let header = match self.bytes[1] {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        &self.bytes[header..]
    }

    fn is(&self, opcode: Opcode) -> bool {
        self.opcode == opcode as u8
    }

    fn is_letter(&self) -> bool {
        self.payload().starts_with(LETTER)
    }

    /// Whether it may not be left out.
    fn must_arrive(&self) -> bool {
        self.is_letter() || self.is(Opcode::Pong) || self.is(Opcode::Ping)
    }
}

fn step() -> impl Strategy<Value = Step> {
    // Lengths around every border: of the header's forms, of what is copied, of what is copied together.
    let length = prop_oneof![4 => 4..300_usize, 1 => 1000..1100_usize, 1 => 4..40_000_usize, 1 => 65_530..65_540_usize];
    let room = prop_oneof![3 => 1..500_usize, 2 => 1..100_000_usize];
    prop_oneof![
        4 => vec(length.clone(), 1..8).prop_map(Step::Messages),
        1 => (4..300_usize).prop_map(Step::Answer),
        1 => (0..=125_usize).prop_map(Step::Pong),
        1 => length.clone().prop_map(Step::Letter),
        1 => Just(Step::Proof),
        4 => room.prop_map(Step::Room),
    ]
}

/// An outbox, and what it was given.
struct Trial {
    outbox: Outbox,
    stub: Stub,
    bytes_max: usize,
    sent: Vec<Sent>,
    letters: u32,
    missed: u32,
}

impl Trial {
    fn new(bytes_max: usize) -> Trial {
        let (outbox, stub) = (Outbox::default(), Stub::default());
        Trial { outbox, stub, bytes_max, sent: Vec::new(), letters: 0, missed: 0 }
    }

    /// A frame of its own kind and number; the number makes each another one.
    fn frame(&mut self, opcode: Opcode, length: usize) -> Bytes {
        let mut payload = vec![0; length];
        for (byte, number) in payload.iter_mut().zip((self.sent.len() as u32).to_be_bytes()) {
            *byte = number;
        }
        self.frame_of(opcode, &payload)
    }

    fn frame_of(&mut self, opcode: Opcode, payload: &[u8]) -> Bytes {
        let mut out = bytes::BytesMut::new();
        encode(opcode, payload, &mut out);
        self.sent.push(Sent::new(&out));
        out.freeze()
    }

    fn letter(&mut self, length: usize) -> Bytes {
        self.letters += 1;
        let mut payload = [LETTER, &self.letters.to_be_bytes()].concat();
        payload.resize(payload.len().max(length), 0);
        self.frame_of(Opcode::Binary, &payload)
    }

    /// The past that the session begins with: messages of these lengths, in pieces of so many.
    fn replay(&mut self, lengths: &[usize], together: usize) {
        let frames: Vec<Bytes> = lengths.iter().map(|length| self.frame(Opcode::Binary, *length)).collect();
        let pieces: Vec<Bytes> = frames.chunks(together).map(|piece| Bytes::from(piece.concat())).collect();
        self.outbox.replay(&pieces);
    }

    /// False once the session would be given up.
    fn take(&mut self, step: &Step) -> bool {
        let frames = match step {
            Step::Room(bytes) => {
                self.stub.makes_room(*bytes);
                self.flush();
                return true;
            }
            Step::Answer(length) => {
                let frame = self.frame(Opcode::Text, *length);
                if self.outbox.post(&frame, self.bytes_max) == Verdict::Taken {
                    return true;
                }
                frame
            }
            Step::Pong(length) => self.frame(Opcode::Pong, *length),
            Step::Letter(length) => {
                let letter = self.letter(*length);
                return self.outbox.send_letter(letter, usize::MAX, 0) == Verdict::Taken;
            }
            Step::Proof => self.frame_of(Opcode::Ping, &self.letters.to_be_bytes()),
            Step::Messages(lengths) => {
                let frames: Vec<Bytes> = lengths.iter().map(|length| self.frame(Opcode::Binary, *length)).collect();
                Bytes::from(frames.concat())
            }
        };
        self.send(&frames)
    }

    fn send(&mut self, frames: &Bytes) -> bool {
        let before = self.outbox.waiting_bytes();
        let (verdict, missed) = self.outbox.send_over_oldest(&self.stub, frames, self.bytes_max, frame::first);
        self.missed += missed;
        assert!(verdict == Verdict::Full || before == 0 || self.counted_bytes() <= self.bytes_max);
        verdict == Verdict::Taken
    }

    /// What waits and counts.
    fn counted_bytes(&self) -> usize {
        let state = self.outbox.lock();
        let Some(backlog) = &state.backlog else { return 0 };
        assert!(backlog.is_counted_right(), "{backlog:?}");
        backlog.counted_bytes()
    }

    fn flush(&self) {
        self.outbox.poll_flush(&mut Context::from_waker(Waker::noop()), &self.stub);
    }

    fn received(&self) -> Vec<Sent> {
        self.flush();
        let taken = self.stub.taken_bytes();
        let (mut rest, mut received) = (&taken[..], Vec::new());
        while !rest.is_empty() {
            let span = frame::first(rest);
            received.push(Sent::new(&rest[..span.bytes]));
            rest = &rest[span.bytes..];
        }
        received
    }
}

proptest! {
    #[test]
    fn what_arrives_is_whole_and_in_order_and_what_does_not_is_counted(
        past in vec(4..3000_usize, 0..20),
        together in 1..8_usize,
        steps in vec(step(), 1..120),
        bytes_max in prop_oneof![66_000..70_000_usize, 66_000..400_000_usize],
    ) {
        let mut trial = Trial::new(bytes_max);
        trial.replay(&past, together);
        let is_open = steps.iter().all(|step| trial.take(step));
        trial.stub.makes_room(usize::MAX);
        let received = trial.received();
        prop_assert_eq!(trial.outbox.missed(), trial.missed);
        prop_assert_eq!(received.len() + trial.missed as usize, trial.sent.len());
        prop_assert!(received.starts_with(&trial.sent[..past.len()]), "some of the past was left out");
        let mut sent = trial.sent.iter();
        for frame in &received {
            let skipped: Vec<&Sent> = sent.by_ref().take_while(|sent| *sent != frame).collect();
            prop_assert!(!skipped.iter().any(|skipped| skipped.must_arrive()), "what must arrive was left out");
        }
        prop_assert!(!sent.any(Sent::must_arrive), "what must arrive was left out at the end");
        // Some ten pongs of at most 127 bytes are no reason to give a session up.
        prop_assert!(is_open);
    }

    #[test]
    fn a_proof_comes_behind_all_that_it_proves(
        steps in vec(step(), 1..120),
        bytes_max in 66_000..70_000_usize,
    ) {
        let mut trial = Trial::new(bytes_max);
        steps.iter().all(|step| trial.take(step));
        trial.stub.makes_room(usize::MAX);
        let mut letters = 0_u32;
        for frame in trial.received() {
            letters += u32::from(frame.is_letter());
            if frame.is(Opcode::Ping) {
                prop_assert_eq!(frame.payload(), letters.to_be_bytes(), "it tells of another number of letters");
            }
        }
        prop_assert_eq!(letters, trial.letters);
    }
}
