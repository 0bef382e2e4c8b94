//! The client's side of RFC 6455, for tests: writes masked frames, right and wrong ones, and reads a server's.
//!
//! It shares no code with the codecs under test and needs the standard library only, so that an integration test can
//! include this file by its path.
#![allow(dead_code)]

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;

/// A frame as a client sends it; each field can be made wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFrame {
    pub fin: bool,
    /// The three reserved bits, as a number from 0 to 7.
    pub rsv: u8,
    pub opcode: u8,
    pub mask: Option<[u8; 4]>,
    pub length: Length,
    pub payload: Vec<u8>,
}

/// How a frame tells its payload's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// As the RFC asks.
    Shortest,
    /// In 16 bits, whatever the payload.
    Bits16(u16),
    /// In 64 bits, whatever the payload.
    Bits64(u64),
}

impl ClientFrame {
    /// A final, masked frame.
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            fin: true,
            rsv: 0,
            opcode,
            mask: Some([0x37, 0xFA, 0x21, 0x3D]),
            length: Length::Shortest,
            payload: payload.into(),
        }
    }

    pub fn not_final(mut self) -> Self {
        self.fin = false;
        self
    }

    pub fn rsv(mut self, rsv: u8) -> Self {
        self.rsv = rsv;
        self
    }

    pub fn mask(mut self, mask: Option<[u8; 4]>) -> Self {
        self.mask = mask;
        self
    }

    pub fn length(mut self, length: Length) -> Self {
        self.length = length;
        self
    }

    /// The frame on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = vec![u8::from(self.fin) << 7 | self.rsv << 4 | self.opcode];
        let masked = u8::from(self.mask.is_some()) << 7;
        let length = match (self.length, self.payload.len()) {
            (Length::Shortest, short @ 0..=125) => {
                out.push(masked | short as u8);
                None
            }
            (Length::Shortest, middle @ 126..=65_535) => Some(Length::Bits16(middle as u16)),
            (Length::Shortest, long) => Some(Length::Bits64(long as u64)),
            (wrong, _) => Some(wrong),
        };
        match length {
            Some(Length::Bits16(length)) => {
                out.push(masked | 126);
                out.extend(length.to_be_bytes());
            }
            Some(Length::Bits64(length)) => {
                out.push(masked | 127);
                out.extend(length.to_be_bytes());
            }
            _ => {}
        }
        match self.mask {
            None => out.extend(&self.payload),
            Some(mask) => {
                out.extend(mask);
                out.extend(self.payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
            }
        }
        out
    }
}

pub fn text(payload: &str) -> Vec<u8> {
    ClientFrame::new(TEXT, payload).bytes()
}

pub fn binary(payload: &[u8]) -> Vec<u8> {
    ClientFrame::new(BINARY, payload).bytes()
}

pub fn ping(payload: &[u8]) -> Vec<u8> {
    ClientFrame::new(PING, payload).bytes()
}

pub fn pong(payload: &[u8]) -> Vec<u8> {
    ClientFrame::new(PONG, payload).bytes()
}

pub fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend(reason);
    ClientFrame::new(CLOSE, payload).bytes()
}

pub fn close_without_code() -> Vec<u8> {
    ClientFrame::new(CLOSE, []).bytes()
}

/// One message in as many frames as there are parts.
pub fn fragments(opcode: u8, parts: &[&[u8]]) -> Vec<ClientFrame> {
    let last = parts.len().saturating_sub(1);
    let frame = |(index, part): (usize, &&[u8])| {
        let opcode = if index == 0 { opcode } else { CONTINUATION };
        let mut frame = ClientFrame::new(opcode, *part);
        frame.fin = index == last;
        frame
    };
    parts.iter().enumerate().map(frame).collect()
}

/// The frames on the wire, one after the other.
pub fn stream<'a>(frames: impl IntoIterator<Item = &'a ClientFrame>) -> Vec<u8> {
    frames.into_iter().flat_map(ClientFrame::bytes).collect()
}

/// A frame as a server sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFrame {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

impl ServerFrame {
    /// Takes the frame at the front of `input`, or nothing if it is not all there.
    ///
    /// # Panics
    ///
    /// If the frame is one that a server without extensions never sends: masked, not final, a reserved bit set, or a
    /// length not in its shortest form.
    pub fn take(input: &mut &[u8]) -> Option<Self> {
        let (rsv, frame) = Self::take_with_rsv(input)?;
        assert_eq!(rsv, 0, "without reserved bits");
        Some(frame)
    }

    /// The same with the three reserved bits, whatever they are, as a number from 0 to 7.
    pub fn take_with_rsv(input: &mut &[u8]) -> Option<(u8, Self)> {
        let (&[first, second], rest) = input.split_first_chunk()?;
        assert_eq!(first & 0x80, 0x80, "final");
        let (length, rest) = match second {
            short @ 0..=125 => (usize::from(short), rest),
            126 => {
                let (length, rest) = rest.split_first_chunk()?;
                let length = u16::from_be_bytes(*length);
                assert!(length > 125, "shortest form");
                (usize::from(length), rest)
            }
            127 => {
                let (length, rest) = rest.split_first_chunk()?;
                let length = u64::from_be_bytes(*length);
                assert!(length > 65_535, "shortest form");
                (usize::try_from(length).ok()?, rest)
            }
            _ => panic!("a server does not mask"),
        };
        let (payload, rest) = rest.split_at_checked(length)?;
        *input = rest;
        Some((first >> 4 & 0x7, Self { opcode: first & 0x0F, payload: payload.to_vec() }))
    }
}
