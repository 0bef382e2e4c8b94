//! Server-sent events on the wire (WHATWG HTML §9.2): text in UTF-8, in which an empty line ends an event.
//!
//! Like frames, events are encoded once for all who hear them, one behind the other in one buffer, and can be told apart
//! in it. Only what a server says; a client says nothing.

use bytes::{BufMut, Bytes, BytesMut};

use super::frame::Span;

/// What ends an event.
const END: &[u8] = b"\n\n";

/// Appends a message's event. `data` is what the client is given and has one line, as JSON without indentation does; `id`
/// is what a browser sends back when it connects again.
pub fn encode(id: Option<&str>, data: &[u8], out: &mut BytesMut) {
    debug_assert!(!data.contains(&b'\n') && !data.contains(&b'\r'), "data has one line");
    if let Some(id) = id.filter(|id| stands_in_a_line(id)) {
        put(out, &[b"id: ", id.as_bytes(), b"\n"]);
    }
    put(out, &[b"data: ", data, END]);
}

/// From where to go on, before anything came.
pub fn place(id: &str) -> Bytes {
    format!("id: {id}\n\n").into()
}

/// How long a browser waits before it connects again.
pub fn retry(after_ms: u32) -> Bytes {
    format!("retry: {after_ms}\n\n").into()
}

/// Something to read, so that nobody on the way takes the connection for idle. No event for the client.
pub fn heartbeat() -> Bytes {
    Bytes::from_static(b":\n\n")
}

/// The last of a stream: for a person why it ends, and for a browser how long it waits, if it is to wait otherwise.
pub fn farewell(reason: &str, retry_after_ms: Option<u32>) -> Bytes {
    let retry = retry_after_ms.map(|after_ms| format!("retry: {after_ms}\n")).unwrap_or_default();
    format!("{retry}: {reason}\n\n").into()
}

/// The first event of what this module has made. What holds no message counts as control. Of anything else the answer
/// means nothing, but is never longer than `events`.
pub fn first(events: &[u8]) -> Span {
    let end = events.windows(END.len()).position(|window| window == END);
    let bytes = end.map_or(events.len(), |end| end + END.len());
    Span { is_control: events.starts_with(b":") || events.starts_with(b"retry:") || is_place(&events[..bytes]), bytes }
}

/// An id without data.
fn is_place(event: &[u8]) -> bool {
    event.starts_with(b"id:") && event.iter().filter(|byte| **byte == b'\n').count() == END.len()
}

/// An id may be any text, as whoever published the message gave it; one with a line's end would be taken for more than
/// an id, and browsers pass over one with a null.
fn stands_in_a_line(id: &str) -> bool {
    !id.contains(['\n', '\r', '\0'])
}

fn put(out: &mut BytesMut, parts: &[&[u8]]) {
    out.reserve(parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| out.put_slice(part));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(id: Option<&str>, data: &str) -> String {
        let mut out = BytesMut::new();
        encode(id, data.as_bytes(), &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn an_event_is_lines_and_an_empty_line() {
        assert_eq!(encoded(Some("a-1"), "{}"), "id: a-1\ndata: {}\n\n");
        assert_eq!(encoded(None, "{}"), "data: {}\n\n");
        assert_eq!(retry(1500), "retry: 1500\n\n");
        assert_eq!(farewell("too slow", None), ": too slow\n\n");
        assert_eq!(farewell("stopping", Some(9)), "retry: 9\n: stopping\n\n");
    }

    #[test]
    fn an_id_adds_no_lines() {
        for id in ["1\ndata: forged", "1\r", "\0"] {
            assert_eq!(encoded(Some(id), "{}"), "data: {}\n\n");
        }
    }

    #[test]
    fn events_can_be_told_apart_in_a_buffer() {
        let parts = [encoded(Some("1"), "a"), ":\n\n".into(), encoded(None, "b"), "retry: 5\n\n".into()];
        let buffer = parts.concat();
        let mut rest = buffer.as_bytes();
        for (part, is_control) in parts.iter().zip([false, true, false, true]) {
            let span = first(rest);
            assert_eq!(span, Span { is_control, bytes: part.len() });
            rest = &rest[span.bytes..];
        }
        assert!(rest.is_empty());
        for nonsense in ["", "\n", "data: unfinished\n"] {
            assert_eq!(first(nonsense.as_bytes()).bytes, nonsense.len());
        }
    }
}
