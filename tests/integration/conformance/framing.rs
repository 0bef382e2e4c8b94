//! §5.1 to §5.3, §6.2, §10.4: masks, reserved bits and opcodes, lengths.

use warren::config::Config;

use super::{each_is_closed_with, frame, parts};
use crate::support::instance::{Instance, config};
use crate::support::raw::wire::{self, BINARY, CLOSE, CONTINUATION, Length, PING, PONG, TEXT};
use crate::support::raw::{Closing, Raw};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_masked_is_refused() {
    let opcodes = [TEXT, BINARY, PING, PONG, CLOSE];
    let alone = opcodes.map(|opcode| (format!("opcode {opcode}"), frame(opcode, b"").mask(None).bytes()));
    let with_payload = [TEXT, BINARY, PING, PONG]
        .map(|opcode| (format!("opcode {opcode} with a payload"), frame(opcode, b"x").mask(None).bytes()));
    let second = [frame(TEXT, b"a").not_final(), frame(CONTINUATION, b"b").mask(None)];
    let rest = [("the second fragment".to_owned(), wire::stream(&second))];
    each_is_closed_with(1002, alone.into_iter().chain(with_payload).chain(rest)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mask_is_taken_off() {
    let instance = Instance::start(config()).await;
    let mut client = Raw::connect(instance.address).await;
    let payload: Vec<u8> = (0..=255).collect();
    for mask in [[0; 4], [0xFF; 4], [1, 2, 4, 8], [0x80, 0, 0, 1]] {
        client.send(frame(BINARY, &payload).mask(Some(mask)).bytes()).await;
        client.receives_frame(BINARY, &payload).await;
    }
    let mut fragments = wire::fragments(BINARY, &parts(&payload, &[1, 7, 200]));
    for (index, fragment) in fragments.iter_mut().enumerate() {
        fragment.mask = Some([index as u8; 4]);
    }
    client.send(wire::stream(&fragments)).await;
    client.receives_frame(BINARY, &payload).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reserved_bits_are_refused() {
    let mut inputs = Vec::new();
    for rsv in 1..8 {
        for opcode in [TEXT, BINARY, PING, PONG, CLOSE] {
            inputs.push((format!("bits {rsv} of opcode {opcode}"), frame(opcode, b"").rsv(rsv).bytes()));
        }
        let fragments = [frame(TEXT, b"a").not_final(), frame(CONTINUATION, b"b").rsv(rsv)];
        inputs.push((format!("bits {rsv} of a continuation"), wire::stream(&fragments)));
    }
    each_is_closed_with(1002, inputs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reserved_opcodes_are_refused() {
    let mut inputs = Vec::new();
    for opcode in (0x3..=0x7).chain(0xB..=0xF) {
        inputs.push((format!("opcode {opcode}"), frame(opcode, b"x").bytes()));
        inputs.push((format!("opcode {opcode}, not final"), frame(opcode, b"").not_final().bytes()));
        let within = [frame(TEXT, b"a").not_final(), frame(opcode, b"b")];
        inputs.push((format!("opcode {opcode} within a message"), wire::stream(&within)));
    }
    each_is_closed_with(1002, inputs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lengths_in_a_longer_form_than_needed_are_refused() {
    let mut inputs = Vec::new();
    for length in [0_u16, 1, 124, 125] {
        let short = frame(BINARY, &vec![0; length.into()]);
        inputs.push((format!("{length} in 16 bits"), short.clone().length(Length::Bits16(length)).bytes()));
        inputs.push((format!("{length} in 64 bits"), short.length(Length::Bits64(length.into())).bytes()));
    }
    for length in [126_u16, 127, 65_534, 65_535] {
        let middle = frame(TEXT, &vec![b'x'; length.into()]);
        inputs.push((format!("{length} in 64 bits"), middle.length(Length::Bits64(length.into())).bytes()));
    }
    let second = [frame(TEXT, b"a").not_final(), frame(CONTINUATION, b"b").length(Length::Bits16(1))];
    inputs.push(("1 in 16 bits, of a continuation".to_owned(), wire::stream(&second)));
    each_is_closed_with(1002, inputs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_has_63_bits() {
    let announced = |length| (format!("{length:#x}"), frame(BINARY, b"").length(Length::Bits64(length)).bytes());
    each_is_closed_with(1002, [1 << 63, (1 << 63) + 1, u64::MAX].map(announced)).await;
    each_is_closed_with(1009, [i64::MAX as u64, 1 << 62, 1 << 32].map(announced)).await;
}

/// Sizes around those at which the length takes another form, up to a limit.
fn sizes(bytes_max: usize) -> impl Iterator<Item = usize> {
    let around = [0, 1, 2, 124, 125, 126, 127, 128, 255, 256, 65_533, 65_534, 65_535, 65_536, 65_537];
    around.into_iter().filter(move |size| *size < bytes_max).chain([bytes_max])
}

/// A payload that shows what is missing or doubled; also as text.
fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|index| b'a' + (index % 23) as u8).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_size_comes_as_it_was_sent_whole_and_in_fragments() {
    for bytes_max in [125, 126, 65_535, 65_536, 70_000] {
        let instance = Instance::start(Config { message_bytes_max: bytes_max, ..config() }).await;
        let mut client = Raw::connect(instance.address).await;
        let mut other = Raw::connect(instance.address).await;
        for size in sizes(bytes_max) {
            let payload = payload(size);
            let middle = size / 2;
            for cuts in [&[][..], &[0], &[size], &[middle], &[size.min(1), size.min(126)], &[0, middle, middle, size]] {
                for opcode in [TEXT, BINARY] {
                    client.send(wire::stream(&wire::fragments(opcode, &parts(&payload, cuts)))).await;
                    client.receives_frame(opcode, &payload).await;
                    other.receives_frame(opcode, &payload).await;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_byte_past_the_limit_is_refused_whole_and_in_fragments() {
    for bytes_max in [1, 125, 126, 65_535, 65_536] {
        let instance = Instance::start(Config { message_bytes_max: bytes_max, ..config() }).await;
        let mut other = Raw::connect(instance.address).await;
        let payload = payload(bytes_max + 1);
        for cuts in [&[][..], &[bytes_max], &[1], &[bytes_max / 2, bytes_max], &[0, bytes_max + 1]] {
            for opcode in [TEXT, BINARY] {
                let mut client = Raw::connect(instance.address).await;
                client.send(wire::stream(&wire::fragments(opcode, &parts(&payload, cuts)))).await;
                let reason = format!("message is larger than {bytes_max} bytes");
                assert_eq!(client.closed().await, Closing { code: Some(1009), reason }, "{cuts:?}");
            }
        }
        other.send(wire::text("e")).await;
        other.receives(&["e"]).await;
    }
}
