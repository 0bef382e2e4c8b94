//! RFC 6455 section by section: what it says that a server must do, asked of a real server by raw bytes.
//!
//! The client here writes bytes and reads strictly: a server's frame that is masked, in fragments, with a reserved bit or
//! with a length in a longer form than needed fails the test that receives it (§5.1, §5.2), and so does a frame behind a
//! close frame, or a reset in the place of the connection's end (§5.5.1, §7.1.1). The same rules are asked of the
//! parser alone, at every cut of every input, beside it in `src/protocol/tests`.
//!
//! | section | what it asks | cases |
//! | --- | --- | --- |
//! | §4.2.1 | a request that is no opening handshake is refused | `handshake`; `http::without_an_upgrade_…`, `http::a_key_is_…`, `http::only_get_…`, `http::http_1_0_…` |
//! | §4.2.1 | tokens in any case and in lists | `handshake::what_is_spelled_in_another_way_…`; `http::a_handshake_is_answered_…` |
//! | §4.2.2 | the answer, its accept value; no subprotocol or extension that was not offered | `handshake::every_key_…`, `handshake::no_subprotocol_…`; `compression` |
//! | §4.4 | another version is told which one is spoken | `handshake::the_version_…`; `http::a_version_…` |
//! | §5.1, §5.3 | frames of clients are masked, each with its own mask | `framing::what_is_not_masked_…`, `framing::every_mask_…` |
//! | §5.2 | reserved bits and opcodes, the form of the length, its highest bit | `framing` |
//! | §5.2, §6.2 | every length of payload, whole or in fragments, up to the limit | `framing::every_size_…`; `session::a_message_may_have_…` |
//! | §5.4 | fragments in order, control frames between them | `fragmentation` |
//! | §5.5 | control frames are short and whole | `control::long_or_in_fragments_…` |
//! | §5.5.1, §7.1 | a close frame is answered by one, then by the end; nothing is done with what follows | `closing`; `session::what_follows_a_close_frame_…` |
//! | §5.5.2, §5.5.3 | a ping is answered by a pong of its payload, a pong by nothing | `control`; `session::pings_are_answered_…` |
//! | §5.5.2 | … unless a close frame came | `control::a_ping_behind_a_close_frame_…` |
//! | §7.4 | which codes a close frame may have | `closing::codes_that_may_…`, `closing::codes_that_must_not_…` |
//! | §8.1 | text is UTF-8, wherever it is cut, or the connection fails with 1007 | `text` |
//! | §9.1 | a list of extensions that is none fails the handshake | `compression` |
//! | §10.4 | a message past the limit is refused before it is taken | `framing::one_byte_past_…`; `hostile::what_announces_too_much_…` |

mod closing;
mod control;
mod fragmentation;
mod framing;
mod handshake;
mod text;

use crate::support::bystanders::Bystanders;
use crate::support::instance::{Instance, config};
use crate::support::raw::Raw;
use crate::support::raw::wire::{self, ClientFrame};
use crate::support::sessions_become;

fn frame(opcode: u8, payload: &[u8]) -> ClientFrame {
    ClientFrame::new(opcode, payload)
}

/// Sends each of the inputs in a session of its own, whose client must receive the code; nobody else notices.
async fn each_is_closed_with(code: u16, inputs: impl IntoIterator<Item = (String, Vec<u8>)>) {
    let instance = Instance::start(config()).await;
    let mut bystanders = Bystanders::meet(instance.address).await;
    for (what, input) in inputs {
        let offending = async {
            let mut client = Raw::connect(instance.address).await;
            client.send(&input).await;
            client.send(wire::text("too late")).await;
            let closing = client.closed().await;
            assert_eq!(closing.code, Some(code), "{what}: {}", closing.reason);
            assert!(!closing.reason.is_empty(), "{what}: no reason");
        };
        bystanders.talk_while(offending).await;
    }
    bystanders.hear_nobody_else().await;
    sessions_become(instance.address, 2).await;
}

/// The payload in as many parts as there are cuts and one.
fn parts<'a>(payload: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let starts = std::iter::once(0).chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain(std::iter::once(payload.len()));
    starts.zip(ends).map(|(start, end)| &payload[start..end]).collect()
}
