//! Reads server-sent events (WHATWG HTML §9.2.6), as they come.

use std::time::Duration;

/// The longest line: a message of 16 MiB that JSON writes with six characters each, and what stands around it.
const LINE_BYTES_MAX: usize = 6 * 16 * 1024 * 1024 + 64 * 1024;

/// The stream as far as it was read.
#[derive(Debug, Default)]
pub struct EventReader {
    line: Vec<u8>,
    /// The last byte was a carriage return, which a line feed may follow.
    was_return: bool,
    /// Of the event that is not complete yet, each line with a line feed behind it.
    data: String,
    /// Of the same event: it counts when the event is complete, for one that was cut off must come again.
    id: Option<String>,
    /// What to name when connecting again.
    last_id: Option<String>,
    retry: Option<Duration>,
}

/// A line that never ends.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong;

impl EventReader {
    /// A new stream goes on with what is known of the last.
    pub fn restart(&mut self) {
        self.line.clear();
        self.data.clear();
        self.id = None;
        self.was_return = false;
    }

    /// Takes what came next; the data of each event that it completes is the answer.
    pub fn read(&mut self, part: &[u8]) -> Result<Vec<String>, TooLong> {
        let mut events = Vec::new();
        for byte in part {
            match byte {
                b'\n' if std::mem::take(&mut self.was_return) => {}
                b'\n' | b'\r' => {
                    self.was_return = *byte == b'\r';
                    events.extend(self.end_line());
                }
                byte => {
                    self.was_return = false;
                    if self.line.len() == LINE_BYTES_MAX {
                        return Err(TooLong);
                    }
                    self.line.push(*byte);
                }
            }
        }
        Ok(events)
    }

    /// The id of the last event that had one.
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// How long the server wants clients to wait before they connect again.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    fn end_line(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        if line.is_empty() {
            self.last_id = self.id.take().or(self.last_id.take());
            let mut data = std::mem::take(&mut self.data);
            return data.pop().map(|_| data);
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            "retry" => self.retry = value.parse().ok().map(Duration::from_millis).or(self.retry),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same however it is cut.
    fn read(stream: &str) -> (Vec<String>, EventReader) {
        let mut whole = EventReader::default();
        let events = whole.read(stream.as_bytes()).unwrap();
        let mut cut = EventReader::default();
        let pieces: Vec<_> = stream.bytes().flat_map(|byte| cut.read(&[byte]).unwrap()).collect();
        assert_eq!(events, pieces);
        (events, whole)
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        let (events, reader) =
            read("retry: 1500\n\nid: 1\ndata: one\n\n: comment\n\ndata:two\ndata:  lines\n\nevent: x\n\n");
        assert_eq!(events, ["one", "two\n lines"]);
        assert_eq!((reader.last_id(), reader.retry()), (Some("1"), Some(Duration::from_millis(1500))));
        for end in ["\r\n", "\r", "\n"] {
            let (events, _) = read(&format!("data: a{end}{end}data{end}{end}data: b{end}"));
            assert_eq!(events, ["a", ""], "{end:?}");
        }
    }

    #[test]
    fn what_is_no_time_changes_nothing_and_a_new_stream_begins_anew() {
        let (_, mut reader) = read("retry: 5\n\nretry: soon\n\nid: 7\n\ndata: half");
        assert_eq!(reader.retry(), Some(Duration::from_millis(5)));
        reader.restart();
        assert_eq!(reader.read(b"data: whole\n\n"), Ok(vec!["whole".to_owned()]));
        assert_eq!(reader.last_id(), Some("7"));
    }

    #[test]
    fn what_was_cut_off_comes_again() {
        let (_, mut reader) = read("id: 7\n\nid: 8\ndata: half");
        assert_eq!(reader.last_id(), Some("7"));
        reader.restart();
        assert_eq!(reader.read(b"data: other\n\n"), Ok(vec!["other".to_owned()]));
        assert_eq!(reader.last_id(), Some("7"));
    }

    /// However a stream is cut, it is the same events.
    #[test]
    fn fuzz_event_streams() {
        let piece = proptest::sample::select(vec![
            &b"data: "[..],
            b"data",
            b"id: ",
            b"retry: ",
            b"12",
            b":",
            b"\n",
            b"\r",
            b"\r\n",
            b"\n\n",
            b"x",
            b" ",
            b"\xff",
            b"\0",
        ]);
        let streams = proptest::collection::vec((piece, proptest::bool::ANY), 0..40);
        crate::fuzzing::fuzz("event streams", streams, |pieces| {
            let whole = pieces.iter().flat_map(|(piece, _)| piece.iter().copied()).collect::<Vec<u8>>();
            let mut reader = EventReader::default();
            let events = reader.read(&whole).expect("no line is too long");
            let mut cut = EventReader::default();
            let parts = pieces.chunk_by(|_, (_, is_cut)| !is_cut);
            let parts = parts.map(|parts| parts.iter().map(|(piece, _)| *piece).collect::<Vec<_>>().concat());
            let of_parts: Vec<_> = parts.flat_map(|part| cut.read(&part).expect("no line is too long")).collect();
            assert_eq!(of_parts, events);
            assert_eq!((cut.last_id(), cut.retry()), (reader.last_id(), reader.retry()));
        });
    }

    #[test]
    fn a_line_has_an_end() {
        let mut reader = EventReader::default();
        let part = vec![b'x'; LINE_BYTES_MAX];
        assert_eq!(reader.read(&part), Ok(vec![]));
        assert_eq!(reader.read(b"x"), Err(TooLong));
    }
}
